"""Fixtures every test may use: seeded randomness, and the real data where it lies."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

settings.register_profile("fixed", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("fixed")


@pytest.fixture
def rng() -> torch.Generator:
    """Give a seeded generator, the same for every test."""
    return torch.Generator().manual_seed(20260314)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Find the real data: SOFTRSA_DATA, or shared/data beside the checkout."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("SOFTRSA_DATA", beside))
    if not (folder / "kriegeskorte92").is_dir():
        pytest.fail(f"No real data in {folder}; set SOFTRSA_DATA to where it lies.")
    return folder
