"""From whatever features come as to a labelled array and a tensor."""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from softrsa._checks import FLOATS, check_floating
from softrsa.errors import DataError, ShapeError
from softrsa.io import check_recording
from softrsa.io.labels import plain_labels

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
