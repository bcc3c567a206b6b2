"""Which pairs of scores two measures can have at all, for given data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from tqdm import tqdm

from softrsa._checks import resolve_device
from softrsa.errors import DataError, FitError
from softrsa.synthesis.loop import Moving, adam, check_steps, start
from softrsa.synthesis.objective import (
    Features,
    MeasureLike,
    as_tensor,
    labelled_features,
    make_objective,
    principal_components,
    starting_features,
)

BOUNDED = {"linear_cka", "nbs"}
TOLERANCE = 1e-6  # of the bounds, for features of either float type


@torch.enable_grad()
def feasible_region(
    x: Features,
    measure_a: MeasureLike,
    measure_b: MeasureLike,
    *,
    resolution: int = 5,
    seeds: int | Sequence[int] = 1,
    n_units: int | None = None,
    similarity: str = "correlation",
    lr: float = 0.01,
    max_steps: int = 1000,
    device: str | torch.device = "auto",
    progress: bool = False,
) -> xr.Dataset:
    r"""How near two scores against ``x`` come to every edge of the unit square, together.

    Random features move down :math:`|s_a - t_a| + |s_b - t_b|` by Adam, to targets all around the
    square; all targets and seeds move as one batch.

    Parameters
    ----------
    x : DataArray (stimulus, unit), or Tensor or ndarray, shape (n, p)
        Features, float32 or float64.
    measure_a, measure_b : str, Measure or callable
        As for `optimize_to_score`.
    resolution : int
        Targets along an edge, corners included, at least 2; 4 (resolution - 1) in all.
    seeds : int or sequence of int
        Seeds of the starts, each shared by all targets; a number means so many from 0.
    n_units : int, optional
        Width of the features optimized; that of ``x`` by default.
    similarity : str
        Of RSMs, for measures on those.
    lr, max_steps : float, int
        Learning rate and steps of Adam.
    device : str or device
        Where to compute. Memory is some ten times that of all features: targets x seeds x n x q.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    Dataset
        By `target` (around the square, from (0, 0) along the lower edge) and `seed`: `target_a`,
        `target_b`; `score_a`, `score_b` and `loss` at the step nearest to the target, and that
        `step`. For `linear_cka` and `nbs` also `participation` :math:`r_Y` of the features found,
        and the bounds of NBS at their CKA,

        .. math:: \sqrt{\frac{\mathrm{CKA}}{\sqrt{r_X r_Y}}} \le \mathrm{NBS}
                  \le \sqrt{\frac{k\,\mathrm{CKA}}{\sqrt{r_X r_Y}}}

        as `lower`, `upper` and `within_bounds` (to 1e-6), with :math:`k` the smaller rank;
        :math:`r_X` and the rank of ``x`` are in `attrs`.

    Raises
    ------
    DTypeError, ShapeError, StimulusError, DataError, UnknownNameError
        As `optimize_to_score`, or if ``resolution`` or ``seeds`` is too small.
    FitError
        If a score is not finite; the message names the target, the seed and the step.

    References
    ----------
    Cloos et al. (2024), arXiv:2407.07059.

    Examples
    --------
    >>> x = torch.randn(20, 5, generator=torch.Generator().manual_seed(0))
    >>> region = feasible_region(x, "linear_cka", "nbs", resolution=2, max_steps=300)
    >>> bool(region["within_bounds"].all()), bool(region["loss"].min() < 0.01)
    (True, True)
    """
    if resolution < 2:
        raise DataError(f"`resolution` must be at least 2, got {resolution}.")
    check_steps(max_steps, lr)
    chosen = list(range(int(seeds))) if isinstance(seeds, (int, np.integer)) else [*map(int, seeds)]
    if not chosen:
        raise DataError(f"`seeds` must name at least one seed, got {seeds}.")
    labelled = labelled_features(x)
    tensor = as_tensor(labelled, resolve_device(device))
    pair = [make_objective(m, tensor, similarity=similarity) for m in (measure_a, measure_b)]
    targets = square(resolution).to(tensor)
    starts = [
        starting_features(None, tensor, n_restarts=1, n_units=n_units, seed=seed) for seed in chosen
    ]
    y = torch.cat(starts).repeat(len(targets), 1, 1)
    wanted = targets.repeat_interleave(len(chosen), dim=0)  # (targets * seeds, 2)

    def scores_of(y: Tensor) -> Tensor:
        return torch.stack([objective.scores(y) for objective in pair], -1)

    def describe(i: int) -> str:
        return f"target {tuple(wanted[i].tolist())} from seed {chosen[i % len(chosen)]}"

    steps = tqdm(range(max_steps + 1), unit="step", disable=not progress)
    best = _approach(scores_of, start(y), wanted, lr=lr, steps=steps, describe=describe)
    shape = (len(targets), len(chosen))
    dims = ("target", "seed")
    names = [objective.name for objective in pair]
    data = xr.Dataset(
        {
            "target_a": ("target", targets[:, 0].cpu().numpy()),
            "target_b": ("target", targets[:, 1].cpu().numpy()),
            "score_a": (dims, best.scores[:, 0].reshape(shape).cpu().numpy()),
            "score_b": (dims, best.scores[:, 1].reshape(shape).cpu().numpy()),
            "loss": (dims, best.loss.reshape(shape).cpu().numpy()),
            "step": (dims, best.step.reshape(shape).cpu().numpy()),
        },
        coords={"seed": chosen},
        attrs={"measure_a": names[0], "measure_b": names[1], "max_steps": max_steps, "lr": lr},
    )
    return _with_bounds(data, tensor, best.y) if {*names} == BOUNDED else data


def square(resolution: int) -> Tensor:
    """Points around the unit square, counter-clockwise from (0, 0): (4 (resolution - 1), 2)."""
    edge = torch.linspace(0, 1, resolution, dtype=torch.float64)[:-1]
    low, high = torch.zeros_like(edge), torch.ones_like(edge)
    sides = [(edge, low), (high, edge), (1 - edge, high), (low, 1 - edge)]
    return torch.cat([torch.stack(side, -1) for side in sides])


class Nearest(NamedTuple):
    """Of each item, the features that came nearest to its target."""

    y: Tensor
    scores: Tensor
    loss: Tensor
    step: Tensor


def _approach(
    scores_of: Callable[[Tensor], Tensor],
    now: Moving,
    wanted: Tensor,
    *,
    lr: float,
    steps: Iterable[int],
    describe: Callable[[int], str],
) -> Nearest:
    """Take Adam's steps down the distance to the targets; the last one is only looked at."""
    nearest = Nearest(now.y, wanted, *torch.full((2, len(wanted)), torch.inf).to(wanted))
    for step in steps:
        y = now.y.detach().requires_grad_()
        scores = scores_of(y)
        loss = (scores - wanted).abs().sum(-1)
        bad = ~loss.detach().isfinite()
        if bad.any():
            raise FitError(
                f"A score became {scores[bad][0].tolist()} at step {step} on the way to "
                f"{describe(int(bad.int().argmax()))}. Lower `lr`, or check that `x` varies over "
                "stimuli."
            )
        here = Nearest(
            y.detach(), scores.detach(), loss.detach(), torch.full_like(loss, step).detach()
        )
        nearest = _nearer(nearest, here)
        (grad,) = torch.autograd.grad(loss.sum(), y)
        now = adam(now, grad, step, lr)
    return nearest


def _nearer(old: Nearest, new: Nearest) -> Nearest:
    """Take of each item the nearer features."""
    closer = new.loss < old.loss
    return Nearest(
        *(
            torch.where(closer.reshape(-1, *[1] * (b.ndim - 1)), b, a)
            for a, b in zip(old, new, strict=True)
        )
    )


def _with_bounds(data: xr.Dataset, x: Tensor, y: Tensor) -> xr.Dataset:
    """Add what linear CKA implies for NBS, and whether it holds."""
    cka, nbs = (
        data[f"score_{side}"] for side in ("ab" if data.attrs["measure_a"] != "nbs" else "ba")
    )
    rank = min(len(principal_components(x)[1]), y.shape[-1])
    r_x = float(participation_ratio(x))
    r_y = participation_ratio(y).reshape(cka.shape).cpu().numpy()
    lower, upper = cka_nbs_bounds(cka.values, r_x * r_y, rank)
    within = (nbs.values >= lower - TOLERANCE) & (nbs.values <= upper + TOLERANCE)
    values = {"participation": r_y, "lower": lower, "upper": upper, "within_bounds": within}
    data = data.assign({name: (cka.dims, value) for name, value in values.items()})
    return data.assign_attrs(participation_x=r_x, rank=rank)


def cka_nbs_bounds(
    cka: np.ndarray, participation: np.ndarray | float, rank: int
) -> tuple[np.ndarray, np.ndarray]:
    """Bound NBS below and above, given CKA, the product r_X r_Y and the smaller rank."""
    lower = np.sqrt(cka / np.sqrt(participation))
    return lower, np.minimum(lower * np.sqrt(rank), 1.0)


def participation_ratio(y: Tensor) -> Tensor:
    r"""Effective number of dimensions (...) of features (..., n, q), from 1 to their rank.

    With K = YY' centered, it is (tr K)^2 / |K|_F^2.
    """
    wide = y.double() - y.double().mean(-2, keepdim=True)
    squares = torch.linalg.svdvals(wide).square()
    return squares.sum(-1).square() / squares.square().sum(-1)
