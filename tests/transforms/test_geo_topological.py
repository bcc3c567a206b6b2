"""Geo-topological transforms against a NumPy / SciPy transcription of the published procedure."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import squareform
from scipy.stats import rankdata

from softrsa.errors import DataError, DTypeError, ShapeError, UnknownNameError
from softrsa.transforms import GeoTopological, geo_topological

PRESETS = ("trsa", "quantile", "value")
level = st.floats(0, 1)
tied = arrays(np.float64, 15, elements=st.integers(0, 6).map(lambda i: i / 8))


def published(d, lower, upper, preset):
    """One condensed RDM, step by step as in the code that goes with Lin & Kriegeskorte (2024)."""
    x = np.array(d, dtype=np.float64)
    if preset == "trsa":
        ranks = rankdata(x)
        x = (ranks - ranks.min()) / (ranks.max() - ranks.min())
    low, high = (lower, upper) if preset == "value" else (np.quantile(x, q) for q in (lower, upper))
    y = np.empty_like(x)
    between = (x >= low) & (x <= high)
    with np.errstate(invalid="ignore", divide="ignore"):
        y[between] = ((x - low) / (high - low))[between]
    y[x < low], y[x > high] = 0, 1
    return y


@pytest.mark.parametrize("preset", PRESETS)
class TestEveryPreset:
    @given(d=tied, one=level, other=level)
    def test_published_procedure(self, preset, d, one, other):
        if preset == "trsa":
            d[:2] = 0.0, 1.0  # the ranks of a constant have no range
        lower, upper = sorted((one, other))
        expected = published(d, lower, upper, preset)
        found = geo_topological(torch.from_numpy(d), lower, upper, preset=preset).numpy()
        defined = np.isfinite(expected)  # theirs divides by zero on the threshold itself
        assert np.isfinite(found).all()
        # NumPy and torch interpolate a quantile that falls between ties to within rounding, and a
        # value that close to a threshold may fall on either side of a step
        x = d if preset != "trsa" else (rankdata(d) - rankdata(d).min()) / np.ptp(rankdata(d))
        cuts = [lower, upper] if preset == "value" else np.quantile(x, [lower, upper])
        width = cuts[1] - cuts[0]
        clear = defined & (np.abs(x[:, None] - cuts) > 1e-12).all(1) if width < 1e-6 else defined
        tolerance = 1e-14 if width < 1e-6 else 1e-15 + 4e-16 / width
        np.testing.assert_allclose(found[clear], expected[clear], rtol=0, atol=tolerance)
        assert ((found >= 0) & (found <= 1)).all()

    def test_equal_thresholds_are_a_hard_step_also_on_the_threshold(self, preset):
        d = torch.tensor([0.0, 0.25, 0.5, 0.5, 0.75, 1.0], dtype=torch.float64)
        found = geo_topological(d, 0.5, 0.5, preset=preset)
        assert found.tolist() == [0, 0, 0, 0, 1, 1]

    def test_per_rdm_never_over_the_stack_and_input_left_alone(self, preset, rng):
        stack = torch.rand(2, 3, 15, dtype=torch.float64, generator=rng)
        stack[1] *= 0.3  # quantiles pooled over the stack would differ
        before = stack.clone()
        found = geo_topological(stack, 0.2, 0.6, preset=preset)
        assert torch.equal(stack, before)
        for i in range(2):
            for j in range(3):
                expected = published(stack[i, j].numpy(), 0.2, 0.6, preset)
                np.testing.assert_allclose(found[i, j], expected, rtol=0, atol=1e-14)

    def test_batched_thresholds_equal_a_loop(self, preset, rng):
        stack = torch.rand(3, 15, dtype=torch.float64, generator=rng)
        lower = torch.tensor([[0.0], [0.3], [0.5]], dtype=torch.float64)
        upper = torch.tensor([[0.4], [0.3], [1.0]], dtype=torch.float64)
        found = geo_topological(stack, lower, upper, preset=preset)
        assert found.shape == (3, 3, 15)
        for row, low, high in zip(found, lower.flatten(), upper.flatten(), strict=True):
            one = geo_topological(stack, low.item(), high.item(), preset=preset)
            torch.testing.assert_close(row, one, rtol=0, atol=1e-15)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_square_and_condensed_agree(self, preset, dtype, rng):
        d = torch.rand(2, 15, dtype=dtype, generator=rng)
        square = torch.stack([torch.from_numpy(squareform(one.numpy())) for one in d])
        found = geo_topological(square, 0.1, 0.7, preset=preset)
        flat = geo_topological(d, 0.1, 0.7, preset=preset)
        assert found.dtype == flat.dtype == dtype
        for one, vector in zip(found, flat, strict=True):
            np.testing.assert_array_equal(squareform(one.numpy(), checks=False), vector.numpy())
            assert (one.diagonal() == 0).all()
            assert torch.equal(one, one.T)

    def test_missing_rdm_stays_missing(self, preset, rng):
        d = torch.rand(2, 10, generator=rng)
        d[0] = torch.nan
        found = geo_topological(d, 0.1, 0.7, preset=preset)
        assert found[0].isnan().all()
        assert found[1].isfinite().all()

    def test_module_is_the_function(self, preset, rng):
        d = torch.rand(2, 10, generator=rng)
        module = GeoTopological(0.1, 0.7, preset)
        assert torch.equal(module(d), geo_topological(d, 0.1, 0.7, preset=preset))
        assert repr(module) == f"GeoTopological(lower=0.1, upper=0.7, preset={preset!r})"
        with pytest.raises(DataError, match=r"lower=0\.7, upper=0\.1"):
            GeoTopological(0.7, 0.1, preset)


@given(tied)
def test_zero_to_one_is_the_rank_minmax_rdm(d):
    d[:2] = 0.0, 1.0
    ranks = rankdata(d)
    expected = (ranks - ranks.min()) / np.ptp(ranks)
    found = geo_topological(torch.from_numpy(d), 0.0, 1.0)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-15)


def test_constant_rdm_is_undefined_under_ranks_only():
    d = torch.full((10,), 0.1)
    assert geo_topological(d, 0.2, 0.8).isnan().all()
    assert (geo_topological(d, 0.2, 0.8, preset="quantile") == 0).all()


def test_value_preset_passes_gradient_between_the_thresholds(rng):
    d = torch.tensor([0.1, 0.3, 0.45, 0.9, 0.5, 1.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda d: geo_topological(d, 0.2, 0.6, preset="value"), (d,))
    geo_topological(d, 0.2, 0.6, preset="value").sum().backward()
    np.testing.assert_allclose(d.grad, [0, 2.5, 2.5, 0, 2.5, 0])
    assert not geo_topological(d, 0.2, 0.6).requires_grad


def test_wrong_arguments_are_named():
    d = torch.rand(10)
    with pytest.raises(UnknownNameError, match=r"preset 'quantiles'\. Did you mean 'quantile'"):
        geo_topological(d, 0.2, 0.8, preset="quantiles")
    with pytest.raises(UnknownNameError, match=r"preset 'values'\. Did you mean 'value'"):
        GeoTopological(0.2, 0.8, "values")
    with pytest.raises(DataError, match=r"lower=0\.8, upper=0\.2"):
        geo_topological(d, 0.8, 0.2)
    with pytest.raises(DataError, match=r"lower=nan"):
        geo_topological(d, float("nan"), 0.2, preset="value")
    with pytest.raises(DataError, match=r"quantiles in \[0, 1\], got lower=0\.2, upper=1\.5"):
        geo_topological(d, 0.2, 1.5, preset="quantile")
    with pytest.raises(DTypeError, match=r"`rdm` must be .* got torch\.float16"):
        geo_topological(d.half(), 0.2, 0.8)
    with pytest.raises(ShapeError, match=r"`lower` \(3,\).*leading dimensions \(2,\)"):
        geo_topological(torch.rand(2, 10), torch.zeros(3), torch.ones(3))
