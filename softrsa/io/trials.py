"""Means over the trials of each stimulus."""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr


def mean_by_stimulus(trials: xr.DataArray) -> xr.DataArray:
    """Average checked (trial, unit, ...) rows that share a stimulus, in order of appearance."""
    codes, ids = pd.factorize(trials["stimulus"].values)
    order = np.argsort(codes, kind="stable")
    counts = np.bincount(codes)
    starts = np.cumsum(counts) - counts
    sums = np.add.reduceat(trials.values[order], starts, axis=0, dtype=np.float64)
    coords = {name: coord for name, coord in trials.coords.items() if "trial" not in coord.dims}
    return xr.DataArray(
        (sums / counts.reshape(-1, *[1] * (trials.ndim - 1))).astype(trials.dtype),
        dims=("stimulus", *trials.dims[1:]),
        coords={**coords, "stimulus": ids},
        attrs=trials.attrs,
        name=trials.name,
    )
