"""Isotonic regression (non-decreasing, least squares) of many rows, by one of three solvers."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

import numpy as np
import torch
from torch import Tensor

from softrsa.errors import DataError, DeviceError, unknown_name

Solver = Callable[[Tensor], Tensor]  # (n_rows, n) float64 -> its isotonic regression
BACKENDS = ("auto", "torchsort", "scipy", "torch")


def choose(backend: str, device: torch.device) -> Solver:
    """Find the solver of that name, or the best one there is for the device."""
    if backend not in BACKENDS:
        raise unknown_name("backend", backend, BACKENDS)
    if backend in ("auto", "torchsort"):
        kernel = _torchsort_kernel(device)
        if kernel is not None:
            return lambda y: -kernel(-y)  # torchsort's solution is non-increasing
        if backend == "torchsort":
            raise DeviceError(
                f"`backend='torchsort'` was asked for, but torchsort is not installed for "
                f"{device.type!r}. Install softrsa[torchsort], or use backend='auto'."
            )
    if backend == "scipy" and device.type != "cpu":
        raise DataError(
            f"`backend='scipy'` works on the CPU only, got a tensor on {str(device)!r}; "
            "use backend='auto'."
        )
    return by_scipy if device.type == "cpu" and backend != "torch" else by_torch


def _torchsort_kernel(device: torch.device) -> Solver | None:
    """Load torchsort's compiled solver for the device, if there is one."""
    try:
        return import_module(f"torchsort.isotonic_{device.type}").isotonic_l2
    except ImportError:
        return None


def by_scipy(y: Tensor) -> Tensor:
    """Solve row by row with SciPy."""
    from scipy.optimize import isotonic_regression

    fitted = np.empty(y.shape)
    for row, out in zip(y.numpy(), fitted, strict=True):
        out[:] = isotonic_regression(row).x
    return torch.from_numpy(fitted)


def by_torch(y: Tensor) -> Tensor:
    """Solve all rows at once: slopes of the lower convex hull of each row's cumulative sums.

    Pooling adjacent violators is dropping vertices that are not convex. One pair of blocks at a
    time, or even all violating pairs at once, that takes hundreds of rounds; here every round also
    drops the vertices of a convex stretch that lie above a chord into the next or previous
    stretch. None of these can be on the hull. A few rounds are enough (at most 10 were seen).

    Vertices are picked by `index_select` only: on the CPU, indexing by brackets shares even small
    tensors among threads, and takes a hundred times as long where another process has a core.
    """
    n_rows, n = y.shape
    x = torch.arange(n + 1, dtype=y.dtype, device=y.device).repeat(n_rows)
    sums = torch.nn.functional.pad(y.cumsum(-1), (1, 0)).flatten()
    end = (x == 0) | (x == n)
    first = True
    while True:
        width = x.diff()  # -n from one row to the next
        slope = sums.diff() / width
        turns = end.clone()
        turns[1:-1] |= slope[:-1] >= slope[1:]
        if torch.equal(turns, end):
            break
        keep = ~turns | end if first else _may_be_on_hull(x, sums, end, slope, turns)
        kept = keep.nonzero().squeeze(-1)
        x, sums, end = (values.index_select(0, kept) for values in (x, sums, end))
        first = False  # the plain step halves the work of the others, where much is to be dropped
    begin = (width > 0).nonzero().squeeze(-1)
    row = (x == 0).cumsum(0) - 1
    position = (row * n + x.long()).index_select(0, begin)
    block = torch.zeros(n_rows * n, dtype=torch.long, device=y.device)
    block = block.index_fill_(0, position, 1).cumsum(0) - 1
    return slope.index_select(0, begin).index_select(0, block).view(n_rows, n)


def _may_be_on_hull(x: Tensor, sums: Tensor, end: Tensor, slope: Tensor, turns: Tensor) -> Tensor:
    """Which vertices are below the chords into the convex stretches before and after theirs."""
    at = turns.nonzero().squeeze(-1)  # a stretch is from one of these to the next
    beyond = (~end.index_select(0, at)).long()
    number = turns.cumsum(0)
    before, after = number[1:-1] - 1, (number - turns.long())[1:-1]

    def chord(vertex: Tensor, stretch: Tensor) -> tuple[Tensor, Tensor]:
        """Run and rise from each inner vertex to the given one of its stretch."""
        to = (values.index_select(0, vertex).index_select(0, stretch) for values in (x, sums))
        run, rise = (there - here[1:-1] for there, here in zip(to, (x, sums), strict=True))
        return run, rise

    run, rise = chord(at + beyond, after)
    keep = end.clone()
    below = slope[:-1] * run < rise
    run, rise = chord(at - beyond, before)
    keep[1:-1] |= below & (rise > slope[1:] * run)
    return keep
