"""A measure as a function of the synthetic features alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from softrsa._checks import FLOATS, check_floating
from softrsa.errors import DataError, ShapeError, unknown_name
from softrsa.io import check_recording
from softrsa.io.schema import plain_labels
from softrsa.measures import (
    Measure,
    available,
    get,
    linear_predictivity,
    pls_predictivity,
    ridge_predictivity,
)
from softrsa.rsm import SIMILARITIES, similarity_matrix

Features = xr.DataArray | Tensor | np.ndarray


def labelled_features(x: Features) -> xr.DataArray:
    """Check features (n_stimuli, n_units); those without labels are numbered."""
    if isinstance(x, np.ndarray):
        x = _plain(x)
    if isinstance(x, Tensor):
        check_floating(FLOATS, x=x)
        if x.ndim != 2:
            raise ShapeError(f"`x` must have shape (n_stimuli, n_units), got {tuple(x.shape)}.")
        x = xr.DataArray(x.detach().cpu().numpy(), dims=("stimulus", "unit"))
        x = x.assign_coords(stimulus=np.arange(x.sizes["stimulus"]))
    x = check_recording(x, name="features `x`")
    kept = {
        str(name): (coord.dims, plain_labels(coord.values))
        for name, coord in x.coords.items()
        if coord.ndim == 1 and plain_labels(coord.values).dtype.kind in "biufU"
    }
    return xr.DataArray(x.values, dims=x.dims, coords=kept)


def _plain(array: np.ndarray) -> Tensor:
    """Copy to a tensor, which has no room for views that run backwards or foreign byte orders."""
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C"))


def as_tensor(x: xr.DataArray, device: torch.device) -> Tensor:
    """Copy values to a device."""
    return torch.tensor(x.values, device=device)


def starting_features(
    init: Tensor | np.ndarray | None, x: Tensor, *, n_restarts: int, n_units: int | None, seed: int
) -> Tensor:
    """Take the given start, or draw one of standard normal numbers per restart: (R, n, q)."""
    if n_restarts < 1 or seed < 0:
        raise DataError(
            f"`n_restarts` must be at least 1 and `seed` at least 0, got {n_restarts} and {seed}."
        )
    if init is None:
        width = x.shape[1] if n_units is None else n_units
        if width < 1:
            raise DataError(f"`n_units` must be at least 1, got {n_units}.")
        draws = [
            torch.randn(len(x), width, generator=_generator(seed, i), dtype=torch.float64)
            for i in range(n_restarts)
        ]
        return torch.stack(draws).to(x)
    init = _plain(init) if isinstance(init, np.ndarray) else torch.as_tensor(init)
    if init.ndim < 2 or init.shape[-2] != len(x) or n_units not in (None, init.shape[-1]):
        wanted = "q" if n_units is None else n_units
        raise ShapeError(
            f"`init` must have shape (..., {len(x)}, {wanted}) for {len(x)} stimuli, "
            f"got {tuple(init.shape)}."
        )
    start = init.detach().reshape(-1, *init.shape[-2:]).to(x).clone()
    if n_restarts not in (1, len(start)):
        raise DataError(
            f"`init` holds {len(start)} starts, `n_restarts` asks for {n_restarts}; leave it out."
        )
    return start


def _generator(seed: int, restart: int) -> torch.Generator:
    """Seed a stream of its own: simulated ``x`` drawn with the same seed must not be the start."""
    state = np.random.SeedSequence(seed, spawn_key=(restart,)).generate_state(1, np.uint32)
    return torch.Generator().manual_seed(int(state[0]))


MeasureLike = str | Measure | Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Objective:
    """Scores (R,) of synthetic features (R, n, q), with the ends of their range where known."""

    name: str
    scores: Callable[[Tensor], Tensor]
    worst: float | None = None
    best: float | None = None
    larger_is_more_similar: bool = True


def make_objective(
    measure: MeasureLike, x: Tensor, *, similarity: str, average: str = "variance"
) -> Objective:
    """Fix the real features in a measure; where order matters, the synthetic ones predict them.

    ``average`` is that of predictivity over real units.
    """
    if similarity not in SIMILARITIES:
        raise unknown_name("similarity", similarity, SIMILARITIES)
    if isinstance(measure, (str, Measure)):
        measure = check_differentiable(measure)
    else:
        return Objective(name_of(measure), _checked(measure, x))
    low, high = measure.range
    worst, best = (low, high) if measure.larger_is_more_similar else (high, low)
    return Objective(
        measure.name, _of_entry(measure, x, similarity, average), worst, best,
        measure.larger_is_more_similar,
    )  # fmt: skip


def check_differentiable(measure: str | Measure) -> Measure:
    """Look a measure up, refusing one without a gradient."""
    entry = get(measure) if isinstance(measure, str) else measure
    if not entry.differentiable:
        known = [name for name, entry in available().items() if entry.differentiable]
        raise DataError(
            f"{entry.name!r} passes no gradient, so no data can be optimized to it. "
            f"Differentiable: {', '.join(known)}."
        )
    return entry


def name_of(measure: MeasureLike) -> str:
    """Name a measure, also one that is a callable object or a partial function."""
    if isinstance(measure, (str, Measure)):
        return measure if isinstance(measure, str) else measure.name
    inner = getattr(measure, "func", measure)
    return str(getattr(inner, "__name__", type(inner).__name__))


def averages(measure: MeasureLike) -> bool:
    """Whether a measure is an average over units, so that it can be one of several kinds."""
    if not isinstance(measure, (str, Measure)):
        return False
    return get(measure).function in (
        linear_predictivity,
        ridge_predictivity,
        pls_predictivity,
    )


def _of_entry(
    entry: Measure, x: Tensor, similarity: str, average: str
) -> Callable[[Tensor], Tensor]:
    if averages(entry):
        return lambda y: entry.function(y, x, average=average)
    if entry.takes == "features":
        return lambda y: entry.function(x, y) if entry.symmetric else entry.function(y, x)
    target = entry.pairs_of(similarity_matrix(x, similarity=similarity))

    def scores(y: Tensor) -> Tensor:
        return entry.function(target, entry.pairs_of(similarity_matrix(y, similarity=similarity)))

    return scores


def _checked(measure: Callable[[Tensor, Tensor], Tensor], x: Tensor) -> Callable[[Tensor], Tensor]:
    """Check what a function of the user's returns; one restart is given to it unbatched."""

    def scores(y: Tensor) -> Tensor:
        alone = len(y) == 1
        found = measure(x, y[0] if alone else y)
        wanted = () if alone else (len(y),)
        if not isinstance(found, Tensor) or found.shape != wanted:
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ShapeError(
                f"`measure` must give a tensor of shape {wanted} for features {tuple(x.shape)} and "
                f"{(*y.shape[1:],) if alone else tuple(y.shape)}, got {shape}."
            )
        if torch.is_grad_enabled() and not found.requires_grad:
            raise DataError(
                f"`measure` {name_of(measure)!r} passes no gradient to its second input, so no "
                "data can be optimized to it; it must be made of differentiable torch functions."
            )
        return found[None] if alone else found

    return scores


def principal_components(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Singular triplets of centered features beyond rounding: (n, r), (r,), (p, r), float64."""
    centered = (x.double() - x.double().mean(0)).cpu()
    left, singular, right = torch.linalg.svd(centered, full_matrices=False)
    kept = singular > max(centered.shape) * torch.finfo(x.dtype).eps * singular[0]
    if not kept.any():
        raise DataError("`x` is constant over stimuli, so it has no principal components.")
    return left[:, kept], singular[kept], right.mT[:, kept]
