"""Partial least squares against scikit-learn's, ridge with bands against himalaya's."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.cross_decomposition import PLSRegression
from sklearn.metrics import r2_score

from softrsa.errors import DataError, ShapeError
from softrsa.measures import (
    banded_ridge_predictivity,
    get,
    linear_predictivity,
    pls_predictivity,
    ridge_predictivity,
)

SCRIPT = Path(__file__).parents[1] / "reference" / "banded_ridge.py"
SPEC = importlib.util.spec_from_file_location("banded_ridge_reference", SCRIPT)
reference = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(reference)


def features(rng, n=30, p=8, q=3, noise=1.0):
    x = torch.randn(n, p, generator=rng, dtype=torch.float64)
    y = x @ torch.randn(p, q, generator=rng, dtype=torch.float64)
    return x - 1, y + noise * torch.randn(n, q, generator=rng, dtype=torch.float64) + 4


class TestPls:
    @pytest.mark.parametrize("n_components", [1, 3, 6])
    @pytest.mark.parametrize(("n", "p", "q"), [(30, 8, 3), (30, 8, 1), (20, 40, 5), (30, 6, 12)])
    def test_it_is_scikit_learns(self, n_components, n, p, q, rng):
        x, y = features(rng, n, p, q)
        train, test = np.arange(n) < n - 6, np.arange(n) >= n - 6
        model = PLSRegression(n_components, scale=False, tol=1e-16, max_iter=20_000)
        predicted = model.fit(x[train].numpy(), y[train].numpy()).predict(x[test].numpy())
        expected = r2_score(y[test].numpy(), predicted.reshape(6, q), multioutput="raw_values")
        # all others are fold 0, which is fitted on the test stimuli
        parts = (x[train], y[train], x[test], y[test])
        found = _held_out(*parts, n_components=n_components)
        np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-6)

    def test_all_components_are_least_squares(self, rng):
        x, y = features(rng)
        found = pls_predictivity(x, y, n_components=8, folds=5)
        torch.testing.assert_close(found, linear_predictivity(x, y, folds=5))
        wide = torch.randn(10, 30, generator=rng, dtype=torch.float64)
        torch.testing.assert_close(pls_predictivity(wide, y[:10]), torch.tensor(1.0).double())

    def test_25_components_in_the_table(self, rng):
        x, y = features(rng, n=60, p=50)
        parts = x[:40], y[:40], x[40:], y[40:]
        expected = _held_out(*parts, n_components=25).mean()
        torch.testing.assert_close(get("pls_predictivity").held_out(*parts), expected)

    @given(st.integers(1, 5), st.integers(0, 2**31))
    def test_rotations_of_what_it_predicts_from_do_not_count(self, n_components, seed):
        rng = torch.Generator().manual_seed(seed)
        x, y = features(rng)
        turn = torch.linalg.qr(torch.randn(8, 8, generator=rng, dtype=torch.float64)).Q
        found = pls_predictivity(3 * x @ turn + 1, y, n_components=n_components, folds=3)
        expected = pls_predictivity(x, y, n_components=n_components, folds=3)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-8)

    @pytest.mark.parametrize(("p", "q"), [(6, 3), (3, 6), (4, 1), (14, 3)])
    def test_gradients_through_few_components(self, p, q, rng):
        x, y = (z.requires_grad_() for z in features(rng, 12, p, q))

        def score(x, y):
            return pls_predictivity(x, y, n_components=2, folds=torch.arange(12) % 2)

        assert torch.autograd.gradcheck(score, (x, y))

    def test_refusals(self, rng):
        with pytest.raises(DataError, match="`n_components` must be at least 1, got 0"):
            pls_predictivity(*features(rng), n_components=0)


def _held_out(x, y, x_test, y_test, *, n_components):
    """Score the second fold of two, of which the first would be fitted on the second."""
    from softrsa.measures.predictivity import Rule
    from softrsa.measures.regressions import _pls

    return Rule(_pls(n_components), "r2", None).score_held_out(x, y, x_test, y_test)


class TestBandedRidge:
    @pytest.mark.parametrize("case", range(len(reference.SHAPES)))
    def test_it_is_himalayas(self, case):
        expected = json.loads(reference.FILE.read_text())[case]["r2"]
        x, z, y = map(torch.from_numpy, reference.data(*reference.SHAPES[case]))
        bands = [0] * x.shape[1] + [1] * z.shape[1]
        found = banded_ridge_predictivity(
            torch.cat([x, z], 1), y, bands=bands, weights=torch.tensor(reference.WEIGHTS),
            strengths=reference.STRENGTHS, average=None,
        )  # fmt: skip
        np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-6)

    def test_one_band_is_ridge(self, rng):
        x, y = features(rng)
        found = banded_ridge_predictivity(x, y, bands=[7] * 8, weights=3, folds=4)
        torch.testing.assert_close(found, ridge_predictivity(x, y, folds=4))

    def test_a_band_of_noise_costs_little(self, rng):
        near, y = features(rng, n=60, p=3)
        x = torch.cat([near, torch.randn(60, 50, generator=rng, dtype=torch.float64)], 1)
        bands = torch.tensor([1] * 3 + [0] * 50)
        found = banded_ridge_predictivity(x, y, bands=bands, folds=5)
        assert found > ridge_predictivity(x, y, folds=5) + 0.1
        assert abs(found - ridge_predictivity(near, y, folds=5)) < 0.05
        again = banded_ridge_predictivity(x, y, bands=bands, folds=5)
        assert torch.equal(again, found)

    def test_gradients_and_batches(self, rng):
        x, y = (z.requires_grad_() for z in features(rng, 14, 6, 2))
        bands = torch.tensor([0, 1] * 3)

        def score(x, y):
            return banded_ridge_predictivity(x, y, bands=bands, weights=4, folds=2)

        assert torch.autograd.gradcheck(score, (x, y))
        both = torch.stack([x, x.flip(0)]).detach()
        found = score(both, y.detach())
        for one, alone in zip(found, both, strict=True):
            torch.testing.assert_close(one, score(alone, y.detach()))

    def test_refusals(self, rng):
        x, y = features(rng)
        with pytest.raises(ShapeError, match=r"each of 8 units of `x`, got \(2,\)"):
            banded_ridge_predictivity(x, y, bands=[0, 1])
        bands = [0, 1] * 4
        with pytest.raises(ShapeError, match=r"shape \(n_weights, 2\), .* got \(1, 3\)"):
            banded_ridge_predictivity(x, y, bands=bands, weights=torch.ones(1, 3))
        with pytest.raises(DataError, match=r"`weights` must be at least 0, .* got -1 to 1"):
            banded_ridge_predictivity(x, y, bands=bands, weights=torch.tensor([[1.0, -1.0]]))
