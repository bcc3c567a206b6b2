"""Soft ranks: ranks with a gradient, by projection on the permutahedron."""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib import import_module
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from softrsa._checks import check_floating
from softrsa.errors import DataError, DeviceError, ShapeError, unknown_name

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


Backend = Literal["auto", "torchsort", "scipy", "torch"]
SAME = 1e-9  # in ranks: blocks closer than this are one, as in torchsort
# rows are taken in parts; on the CPU so small that they stay in its cache and torch does not share
# them among threads, whose waiting for each other costs more than it gains where cores are busy
PART = {"cpu": 2**15}
LARGE_PART = 2**25


def soft_rank(x: Tensor, *, strength: float, backend: Backend = "auto") -> Tensor:
    r"""Rank values from 1, ascending, by a piecewise-linear function that has a gradient.

    Each row is standardized to the mean and spread of the ranks :math:`1, \dots, n` and projected
    on the permutahedron, the convex hull of their orders:

    .. math:: \operatorname{argmin}_{r \in \mathcal{P}(1, \dots, n)}
              \lVert r - z / \epsilon\rVert_2,
              \quad z_i = \frac{x_i - \bar x}{\sigma_x} \sqrt{\frac{n^2 - 1}{12}}

    Parameters
    ----------
    x : Tensor, shape (..., n)
        Values in any unit; each row of the last dimension is ranked by itself.
    strength : float
        :math:`\epsilon > 0`, in the unit of a row's own spread, so that it means the same for any
        scale and any ``n``. Towards 0: ranks, ties sharing their mean rank, with gradient only
        within ties. Large: :math:`z / \epsilon` about the mean rank, linear in ``x``.
    backend : {"auto", "torchsort", "scipy", "torch"}
        Who solves the isotonic regression: torchsort where it is installed for the device, else
        SciPy on the CPU, else torch, which works anywhere. Values and gradients are the same.

    Returns
    -------
    Tensor, shape (..., n)
        Soft ranks in [1, n], of which each row has the mean (n + 1) / 2. A constant row has that
        mean everywhere and no gradient. NaN in a row with a value that is not finite.

    Raises
    ------
    DTypeError
        If ``x`` is not float32 or float64.
    ShapeError
        If ``x`` is a scalar.
    DataError
        If ``strength`` is not positive and finite, or ``"scipy"`` is asked for on another device.
    UnknownNameError
        If there is no such backend.
    DeviceError
        If ``"torchsort"`` is asked for and is not installed for the device.

    Notes
    -----
    Equal to ``torchsort.soft_rank`` of the standardized rows, computed in float64 whatever the
    input. The gradient goes through the standardization too. Second derivatives are right where
    they exist.

    References
    ----------
    Blondel, Teboul, Berthet & Djolonga (2020), arXiv:2002.08871.

    Examples
    --------
    >>> x = torch.tensor([0.3, 9.0, 0.1, 0.2])
    >>> soft_rank(x, strength=1e-3)
    tensor([3., 4., 1., 2.])
    >>> soft_rank(x, strength=1.0)
    tensor([2.0293, 4.0000, 1.9707, 2.0000])
    """
    check_floating(x=x)
    if x.ndim == 0:
        raise ShapeError("`x` must have shape (..., n), got a scalar.")
    if not 0 < strength < math.inf:
        raise DataError(f"`strength` must be positive and finite, got {strength!r}.")
    solve = choose(backend, x.device)
    if x.numel() == 0:
        return x.clone()
    n = x.shape[-1]
    step = max(1, PART.get(x.device.type, LARGE_PART) // n)
    parts = x.reshape(-1, n).split(step)
    ranks = [_rank_rows(rows, strength, solve).to(x.dtype) for rows in parts]
    return torch.cat(ranks).view(x.shape)


def _rank_rows(x: Tensor, strength: float, solve: Solver) -> Tensor:
    order = _argsort(x.detach())
    low = x.detach().gather(-1, order[:, :1]).double()
    high = x.detach().gather(-1, order[:, -1:]).double()  # NaN is sorted last
    undefined = ~(low.isfinite() & high.isfinite())
    z = _standardized(x.double(), low, high, undefined | (low == high))
    ranks = _Projection.apply(z / strength, order, solve)
    return ranks.masked_fill(undefined, torch.nan) if bool(undefined.any()) else ranks


def _argsort(x: Tensor) -> Tensor:
    """Sort rows; on the CPU with NumPy, whose sort is several times as fast as torch's."""
    if x.device.type == "cpu":
        return torch.from_numpy(np.argsort(x.numpy(), axis=-1))
    return x.argsort(dim=-1)


def _standardized(x: Tensor, low: Tensor, high: Tensor, flat: Tensor) -> Tensor:
    """Give rows mean 0 and the spread of the ranks 1, ..., n; zeros where ``flat``."""
    n = x.shape[-1]
    some_flat = bool(flat.any())
    if some_flat:
        x = x.masked_fill(flat, 0.0)
        low, high = low.masked_fill(flat, 0.0), high.masked_fill(flat, 1.0)
    x = (x - low) / (high - low)  # constants to the gradient: scale and shift do not matter
    x = x - x.mean(-1, keepdim=True)
    variance = x.square().mean(-1, keepdim=True)
    if some_flat:
        variance = variance.masked_fill(flat, 1.0)
    return x * ((n * n - 1) / 12 / variance).sqrt()


class _Projection(torch.autograd.Function):
    """The point of the permutahedron nearest to each row, whose sorting order is given."""

    @staticmethod
    def forward(ctx, x: Tensor, order: Tensor, solve: Solver) -> Tensor:
        n = x.shape[-1]
        ascending = x.gather(-1, order)
        targets = torch.arange(1, n + 1, dtype=x.dtype, device=x.device) - (n + 1) / 2
        excess = ascending - targets
        starts = torch.ones_like(excess, dtype=torch.bool)
        starts[:, 1:] = solve(excess).diff(dim=-1) > SAME
        block = starts.flatten().cumsum(0).sub_(1).view_as(order)
        size = block.flatten().bincount()
        ctx.save_for_backward(order, block, size)
        # excess summed anew: a solver's own sums may be rounded more
        ranks = (ascending - _block_means(excess, block, size)).add_((n + 1) / 2)
        return torch.empty_like(x).scatter_(-1, order, ranks)

    @staticmethod
    def backward(ctx, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        return _Residual.apply(grad_outputs[0], *ctx.saved_tensors), None, None


class _Residual(torch.autograd.Function):
    """What is left of each entry without its block's mean: the projection's Jacobian."""

    @staticmethod
    def forward(ctx, x: Tensor, order: Tensor, block: Tensor, size: Tensor) -> Tensor:
        ctx.save_for_backward(order, block, size)
        ascending = x.gather(-1, order)
        rest = ascending - _block_means(ascending, block, size)
        return torch.empty_like(x).scatter_(-1, order, rest)

    @staticmethod
    def backward(ctx, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None]:
        return _Residual.apply(grad_outputs[0], *ctx.saved_tensors), None, None, None


def _block_means(values: Tensor, block: Tensor, size: Tensor) -> Tensor:
    sums = values.new_zeros(len(size)).index_add_(0, block.flatten(), values.flatten())
    return (sums / size).index_select(0, block.flatten()).view_as(values)
