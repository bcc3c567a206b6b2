"""Grids of thresholds: the published procedure at each, whatever the parts and the ties."""

import importlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import rankdata

from softrsa.alignment import threshold_correlations
from softrsa.errors import DataError, ShapeError, UnknownNameError
from softrsa.pairs import expand
from softrsa.transforms import geo_topological, geo_topological_grid

tied = arrays(np.float64, (3, 15), elements=st.integers(0, 6).map(lambda i: i / 8))
levels = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted), min_size=1, max_size=5)


def published(d, lower, upper):
    """One condensed RDM, as in the code that goes with Lin & Kriegeskorte (2024)."""
    x = rankdata(d)
    x = (x - x.min()) / (x.max() - x.min())
    low, high = np.quantile(x, lower), np.quantile(x, upper)
    with np.errstate(divide="ignore", invalid="ignore"):
        y = (x - low) / (high - low)
    y[x < low], y[x > high] = 0, 1
    return y


@pytest.mark.parametrize("ties", [False, True])
def test_correlations_of_the_published_procedure(ties):
    rng = np.random.default_rng(0)
    rdms = rng.integers(0, 25, (6, 66)) / 25 if ties else rng.random((6, 66))
    models = rng.random((2, 66))
    low = np.array([0.0, 0.05, 0.3, 0.5, 0.2, 0.0])
    high = np.array([1.0, 0.4, 0.9, 0.50001, 0.20001, 0.00001])  # callers add 1e-5 to u
    x = [np.array([published(d, a, b) for d in rdms]) for a, b in zip(low, high, strict=True)]
    # a step between equal quantiles divides 0 by 0 in theirs
    defined = [i for i, one in enumerate(x) if np.isfinite(one).all()]
    assert len(defined) >= 3
    each = threshold_correlations(torch.from_numpy(rdms), low.tolist(), high.tolist())
    found = threshold_correlations(
        torch.from_numpy(rdms), torch.from_numpy(low), torch.from_numpy(high),
        torch.from_numpy(models),
    )  # fmt: skip
    assert each.shape == (6, 6, 6)
    assert found.shape == (6, 6, 2)
    for i in defined:
        # dividing by 1e-5 makes 1e-16 an error of 1e-11
        tolerance = 1e-12 if high[i] - low[i] > 1e-3 else 1e-9
        np.testing.assert_allclose(each[i], np.corrcoef(x[i]), rtol=0, atol=tolerance)
        expected = np.corrcoef(x[i], models)[:6, 6:]
        np.testing.assert_allclose(found[i], expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("preset", ["trsa", "quantile", "value"])
@given(d=tied, pairs=levels)
def test_a_grid_is_geo_topological_at_each_of_its_pairs(preset, d, pairs):
    d[:, :2] = 0.0, 1.0  # the ranks of a constant have no range
    rdms = torch.from_numpy(d)
    low, high = zip(*pairs, strict=True)
    found = torch.cat([*geo_topological_grid(rdms, low, high, preset=preset)])
    squares = torch.cat([*geo_topological_grid(expand(rdms), low, high, preset=preset)])
    expected = torch.stack([geo_topological(rdms, *pair, preset=preset) for pair in pairs])
    assert torch.equal(found, squares)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-15)


def test_parts_are_bounded_and_in_order(monkeypatch, rng):
    rdms = torch.rand(4, 28, dtype=torch.float64, generator=rng)
    low = [i / 20 for i in range(10)]
    high = [0.5 + i / 20 for i in range(10)]
    whole = torch.cat([*geo_topological_grid(rdms, low, high)])
    module = importlib.import_module("softrsa.transforms.geo_topological")
    monkeypatch.setattr(module, "PART", 300)
    parts = [*geo_topological_grid(rdms, low, high)]
    assert [len(part) for part in parts] == [2] * 5
    assert torch.equal(torch.cat(parts), whole)


def test_rdms_are_not_changed_and_constants_are_undefined():
    rdms = torch.tensor([[0.1, 0.9, 0.4], [0.5, 0.5, 0.5]])
    before = rdms.clone()
    found = threshold_correlations(rdms, [0.0], [1.0], torch.tensor([[0.0, 1.0, 0.5]]))
    assert torch.equal(rdms, before)
    assert found[0, 0].item() == pytest.approx(1)
    assert found[0, 1].isnan()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.1, 1 / 3])
def test_constants_that_leave_rounding_are_undefined(dtype, value):
    rdms = torch.rand(1, 45, dtype=dtype, generator=torch.Generator().manual_seed(0))
    rdms = torch.cat([rdms, torch.full_like(rdms, value)])
    found = threshold_correlations(rdms, [0.0, 0.2], [1.0, 0.5], rdms, preset="value")
    assert found[:, :, 1].isnan().all()
    assert found[:, 1].isnan().all()
    assert found[:, 0, 0].isfinite().all()


def test_mistakes_name_the_values():
    rdms = torch.rand(2, 6)
    with pytest.raises(ShapeError, match=r"got shapes \(2,\) and \(1,\)"):
        geo_topological_grid(rdms, [0.1, 0.2], [0.5])
    with pytest.raises(DataError, match=r"must not exceed `upper`, got 0.6 and 0.5 at 1"):
        geo_topological_grid(rdms, [0.1, 0.6], [0.5, 0.5])
    with pytest.raises(DataError, match=r"quantiles in \[0, 1\], got 0.1 to 1.5"):
        geo_topological_grid(rdms, [0.1], [1.5])
    with pytest.raises(UnknownNameError, match="Did you mean 'value'"):
        geo_topological_grid(rdms, [0.1], [0.5], preset="values")
    with pytest.raises(ShapeError, match=r"\(n_rdms, n_pairs\), got shape \(6,\)"):
        threshold_correlations(rdms[0], [0.1], [0.5])
    with pytest.raises(ShapeError, match=r"\(n_references, 6\).* got shape \(1, 10\)"):
        threshold_correlations(rdms, [0.1], [0.5], torch.rand(1, 10))
