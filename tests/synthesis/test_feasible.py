"""The region of attainable pairs of scores."""

import numpy as np
import pytest
import torch

from softrsa.errors import DataError, FitError
from softrsa.measures import linear_cka, nbs
from softrsa.synthesis import feasible_region
from softrsa.synthesis.feasible import cka_nbs_bounds, participation_ratio, square


@pytest.fixture
def x(rng):
    return torch.randn(12, 4, dtype=torch.float64, generator=rng)


def test_square_goes_around_once():
    points = square(3).tolist()
    assert points == [[0, 0], [0.5, 0], [1, 0], [1, 0.5], [1, 1], [0.5, 1], [0, 1], [0, 0.5]]


def test_corners_that_can_be_reached_are(x):
    region = feasible_region(x, "linear_cka", "nbs", resolution=2, seeds=2, lr=0.03, max_steps=500)
    assert region["score_a"].dims == ("target", "seed")
    assert region["loss"].sel(target=0).max() < 0.06  # (0, 0)
    assert region["loss"].sel(target=2).max() < 0.01  # (1, 1)
    assert region["loss"].sel(target=1).min() > 0.3  # CKA 1 with NBS 0 cannot be
    np.testing.assert_allclose(
        region["loss"],
        abs(region["score_a"] - region["target_a"]) + abs(region["score_b"] - region["target_b"]),
        atol=1e-12,
    )
    assert region["within_bounds"].all()
    assert (region["lower"] <= region["score_b"] + 1e-6).all()


def test_order_of_measures_and_seeds(x):
    a = feasible_region(x, "nbs", "linear_cka", resolution=2, seeds=[7], max_steps=20)
    b = feasible_region(x, "linear_cka", "nbs", resolution=2, seeds=[3, 7], max_steps=20)
    mirrored = [0, 3, 2, 1]
    np.testing.assert_allclose(
        a["score_a"].sel(seed=7), b["score_b"].sel(seed=7)[mirrored], atol=1e-10
    )
    np.testing.assert_allclose(a["upper"].sel(seed=7), b["upper"].sel(seed=7)[mirrored], atol=1e-10)
    assert a["within_bounds"].all()


def test_other_pairs_have_no_bounds(x):
    region = feasible_region(x, "angular_cka", lambda x, y: nbs(x, y) ** 2, max_steps=3)
    assert "lower" not in region
    assert region.attrs["measure_b"] == "<lambda>"
    assert region.sizes["target"] == 16


def test_bounds_hold_for_random_pairs(rng):
    """CKA and NBS of 100 random pairs of all shapes and spectra."""
    for _ in range(100):
        n, p, q = (int(torch.randint(3, 12, (), generator=rng)) for _ in range(3))
        x, y = (
            torch.randn(n, k, dtype=torch.float64, generator=rng)
            * torch.rand(k, dtype=torch.float64, generator=rng) ** 4
            for k in (p, q)
        )
        r = participation_ratio(x) * participation_ratio(y)
        bounds = cka_nbs_bounds(linear_cka(x, y).numpy(), float(r), min(p, q, n - 1))
        assert bounds[0] - 1e-9 <= nbs(x, y).item() <= bounds[1] + 1e-9


def test_participation_ratio(rng):
    x = torch.randn(500, 3, dtype=torch.float64, generator=rng)
    basis = torch.linalg.qr(x - x.mean(0)).Q
    values = basis * torch.tensor([2.0, 1.0, 1.0])
    assert participation_ratio(values).item() == pytest.approx((4 + 1 + 1) ** 2 / 18)


def test_messages(x):
    with pytest.raises(DataError, match="`resolution` must be at least 2, got 1"):
        feasible_region(x, "linear_cka", "nbs", resolution=1)
    with pytest.raises(DataError, match=r"`max_steps` must be at least 0 .*got -1 and 0\.01"):
        feasible_region(x, "linear_cka", "nbs", max_steps=-1)
    with pytest.raises(DataError, match="at least one seed, got 0"):
        feasible_region(x, "linear_cka", "nbs", seeds=0)
    with pytest.raises(FitError, match=r"at step 0 .*target \(0\.0, 0\.0\) from seed 4"):
        feasible_region(torch.ones(5, 2), "linear_cka", "nbs", seeds=[4])
