"""Components captured along the way, and the sensitivity of scores to each."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from softrsa.errors import DataError
from softrsa.synthesis import (
    TrivialCaptureWarning,
    captured_components,
    component_sensitivity,
    optimize_to_score,
)
from softrsa.synthesis.components import captured_share, first_crossing

ANALYTIC = ["linear_cka", "angular_cka", "nbs", "angular_procrustes"]


def decaying(rng, n, p, lowest=-3):
    """Features whose variances fall by as many powers of ten."""
    draws = torch.randn(n, p, dtype=torch.float64, generator=rng)
    basis = torch.linalg.qr(draws - draws.mean(0)).Q
    rotation = torch.linalg.qr(torch.randn(p, p, dtype=torch.float64, generator=rng)).Q
    return basis * torch.logspace(0, lowest / 2, p, dtype=torch.float64) @ rotation + 2


def test_shares_as_by_regression(rng):
    """R^2 of every principal component on the synthetic features, with an intercept."""
    x = decaying(rng, 30, 5)
    result = optimize_to_score(x, "nbs", target=0.9, n_restarts=2, n_units=4)
    found = captured_components(result)
    centered = x - x.mean(0)
    values, axes = np.linalg.eigh(np.cov(x.T))
    np.testing.assert_allclose(found["variance"], values[::-1], rtol=1e-9)
    np.testing.assert_allclose(found["explained"], values[::-1] / values.sum(), rtol=1e-9)
    components = (centered @ torch.from_numpy(axes)).flip(1).numpy()
    for step in (0, -1):
        for restart in range(2):
            y = result.recorded[step, restart].numpy()
            design = np.column_stack([np.ones(30), y])
            residual = components - design @ np.linalg.lstsq(design, components)[0]
            expected = 1 - (residual**2).sum(0) / (components**2).sum(0)
            shares = found["captured"].values[step, restart]
            np.testing.assert_allclose(shares, expected, rtol=0, atol=1e-9)
    assert found.attrs["measure"] == "nbs"
    assert found["component"].values.tolist() == [1, 2, 3, 4, 5]


def test_first_crossing_by_hand():
    """Half-way of .2 and 1 is .6: first crossed between .4 and .8, not at the second rise."""
    captured = torch.tensor([[0.2, 0.4, 0.8, 0.5, 1.0], [0.0, 0.1, 0.2, 0.3, 0.4], [1.0] * 5])
    scores = torch.tensor([0.0, 0.5, 0.7, 0.8, 0.9])
    found = first_crossing(captured.double().T[:, None, :], scores.double()[:, None])
    assert found[0, 0].item() == pytest.approx(0.6)
    assert found[0, 1:].isnan().all()
    once = first_crossing(captured.T[:1, None, :], scores[:1, None])
    assert once.isnan().all()


def test_low_rank_and_as_many_units_as_stimuli(rng):
    x = decaying(rng, 12, 4)
    y = x[:, :2] @ torch.ones(2, 6, dtype=torch.float64)  # rank 1
    directions = torch.linalg.svd(x - x.mean(0), full_matrices=False).U
    share = captured_share(y[None], directions)[0]
    assert share.sum().item() == pytest.approx(1, abs=1e-12)
    wide = torch.randn(1, 12, 20, dtype=torch.float64, generator=rng)
    torch.testing.assert_close(captured_share(wide, directions)[0], torch.ones(4).double())


def test_nothing_to_see_where_units_are_as_many_as_stimuli(rng):
    result = optimize_to_score(decaying(rng, 9, 8), "nbs", target=0.8, n_units=12)
    with pytest.warns(TrivialCaptureWarning, match="12 synthetic units for 9 stimuli"):
        found = captured_components(result)
    assert found.sizes["component"] == 8
    assert (found["captured"] == 1).all()
    assert found["score_at_capture"].isnull().all()


def test_constant_features(rng):
    with pytest.raises(DataError, match="`x` is constant over stimuli"):
        component_sensitivity(torch.ones(5, 3), "nbs")


def test_cka_is_high_before_small_components_are_captured(rng):
    """The finding of Cloos et al. on 120 x 12 data whose variances fall by three powers of ten."""
    x = decaying(rng, 120, 12)
    half, at_capture = {}, {}
    for name in ("linear_cka", "nbs", "angular_procrustes"):
        result = optimize_to_score(x, name, target=0.995, n_restarts=2, lr=0.05)
        found = captured_components(result).mean("restart")
        at_nine = int(np.argmax(found["score"].values >= 0.9))
        half[name] = int((found["captured"][at_nine] >= 0.5).sum())
        at_capture[name] = found["score_at_capture"].fillna(1).values
    assert half["linear_cka"] < half["nbs"]
    small = slice(3, 9)
    assert (at_capture["nbs"][small] < at_capture["linear_cka"][small]).all()
    assert (at_capture["angular_procrustes"][small] < at_capture["linear_cka"][small]).all()


class TestSensitivity:
    @pytest.mark.parametrize("name", ANALYTIC)
    @settings(max_examples=15)
    @given(
        seed=st.integers(0, 10**6), amplitude=st.floats(0.05, 0.95), p=st.integers(2, 9),
        n=st.integers(3, 12),
    )  # fmt: skip
    def test_numeric_is_analytic(self, name, seed, amplitude, p, n):
        x = torch.randn(n, p, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        found = component_sensitivity(x, name, amplitude=amplitude)
        # angular forms divide by the square root of 1 - score^2
        np.testing.assert_allclose(found["numeric"], found["analytic"], rtol=1e-5, atol=1e-8)
        assert found.sizes["component"] == min(n - 1, p)

    def test_by_finite_differences(self, rng):
        x = decaying(rng, 20, 4)
        for name in ("linear_cka", "nbs", "rbf_cka"):
            near = [component_sensitivity(x, name, amplitude=0.5 + d) for d in (-1e-5, 0, 1e-5)]
            slope = (near[2]["score"] - near[0]["score"]) / 2e-5
            np.testing.assert_allclose(near[1]["numeric"], slope, rtol=1e-4, atol=1e-9)

    def test_quadratic_and_linear_in_the_variance_of_small_components(self, rng):
        x = decaying(rng, 200, 20, lowest=-4)
        for name, power in [("linear_cka", 2), ("nbs", 1)]:
            found = component_sensitivity(x, name, amplitude=0.5)
            logs = np.log(found["variance"][8:]), np.log(found["numeric"][8:])
            assert np.polyfit(*logs, 1)[0] == pytest.approx(power, abs=0.01)

    def test_nothing_is_missing_at_1(self, rng):
        for name in ("linear_cka", "nbs"):
            found = component_sensitivity(decaying(rng, 20, 4), name, amplitude=1.0)
            assert float(abs(found["numeric"]).max()) < 1e-12

    def test_score_of_a_missing_component_by_hand(self, rng):
        """Variances 1 and 1 / 4, the second at one half: NBS = 1.125 / sqrt(1.25 * 1.0625)."""
        basis = torch.linalg.qr(torch.tensor([[1.0, 1], [-1, 1], [0, -2]]).double()).Q
        found = component_sensitivity(basis @ torch.diag(torch.tensor([1.0, 0.5]).double()), "nbs")
        assert found["score"][1].item() == pytest.approx(1.125 / math.sqrt(1.25 * 1.0625))

    def test_others_have_no_formula(self, rng):
        found = component_sensitivity(decaying(rng, 12, 4), "pearson", similarity="l2")
        assert found["analytic"].isnull().all()
        assert found["numeric"].notnull().all()
        for amplitude in (0, -1.0, math.inf):
            with pytest.raises(DataError, match=f"above 0 and finite, got {amplitude}"):
                component_sensitivity(torch.eye(3), "nbs", amplitude=amplitude)
