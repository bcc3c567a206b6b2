"""A small brain that warps a model's similarities, one stimulus unlike the next."""

import numpy as np
import pytest
import torch
import xarray as xr

from softrsa.alignment import FitSettings


@pytest.fixture(scope="session")
def quick():
    """Few steps and folds: enough for every path through the code."""
    return FitSettings(
        steps=(3, 6),
        inner_folds=2,
        n_quantiles=3,
        n_components=2,
        penalties=(1e-3, 1e-1),
        learning_rate=0.1,
        grid=4,
    )


@pytest.fixture(scope="session")
def data():
    """Return a model (24, 8) and three subjects (24, 6..8) of the same stimuli, float64."""
    rng = torch.Generator().manual_seed(20260314)
    model = torch.randn(24, 8, dtype=torch.float64, generator=rng)
    subjects = [
        (model + 0.7 * torch.randn(24, 8, dtype=torch.float64, generator=rng))[:, : 8 - i]
        for i in range(3)
    ]
    return model, subjects


def labelled(units, ids=None, **coords):
    """Put stimulus ids, and labels on the units, to an array."""
    values = np.asarray(units)
    ids = [f"s{i:02}" for i in range(len(values))] if ids is None else ids
    return xr.DataArray(
        values,
        dims=("stimulus", "unit"),
        coords={"stimulus": ids} | {k: ("unit", list(v)) for k, v in coords.items()},
    )


@pytest.fixture
def label():
    return labelled
