"""Feature-reweighted RSA against the procedure written out pair by pair, and what must hold."""

import re
from itertools import combinations

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import spearmanr
from sklearn.linear_model import Ridge

from softrsa.alignment import Split, feature_reweighted_rsa, random_splits, stimulus_folds
from softrsa.errors import (
    DataError,
    DTypeError,
    MemoryLimitError,
    ShapeError,
    StimulusError,
    UnknownNameError,
)

N = 30


def make(n_units, n=N, seed=0):
    """Units, and an RDM of the same units weighted, with noise."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, n_units))
    read = x * rng.gamma(0.5, size=n_units) + 0.3 * rng.normal(size=x.shape)
    return x, 1 - np.corrcoef(read)


def rows_of(x, stimuli):
    """A row of products for each pair of these stimuli, as published."""
    z = (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)
    return np.array([z[i] * z[j] for i, j in combinations(stimuli, 2)]) / x.shape[1]


def entries(matrix, stimuli):
    return np.array([matrix[i, j] for i, j in combinations(stimuli, 2)])


def fractional_ridge(rows, y, fraction):
    """The ridge whose weights are a fraction as long as those of least squares."""
    mean = rows.mean(0)
    u, s, vt = np.linalg.svd(rows - mean, full_matrices=False)
    u, s, vt = u[:, s > 1e-8 * s[0]], s[s > 1e-8 * s[0]], vt[s > 1e-8 * s[0]]
    projected = u.T @ (y - y.mean())

    def weights(log_alpha):
        return vt.T @ (projected * s / (s**2 + np.exp(log_alpha)))

    longest = np.linalg.norm(projected / s)

    def gap(log_alpha):
        return np.linalg.norm(weights(log_alpha)) - fraction * longest

    w = vt.T @ (projected / s) if fraction == 1 else weights(brentq(gap, -80, 40, xtol=1e-13))
    return w, y.mean() - mean @ w


def scikit_ridge(rows, y, penalty, **options):
    fitted = Ridge(penalty, **options).fit(rows, y)
    return fitted.coef_, fitted.intercept_


def by_hand(x, rsm, folds, inner_folds, strengths, fit, score):
    """Nested folds over stimuli, as published."""
    found = []
    for split, inner in zip(folds, inner_folds, strict=True):
        each = np.zeros((len(inner), len(strengths)))
        for row, part in zip(each, inner, strict=True):
            train, test = part.train.tolist(), part.test.tolist()
            for k, strength in enumerate(strengths):
                w, b = fit(rows_of(x, train), entries(rsm, train), strength)
                row[k] = score(rows_of(x, test) @ w + b, entries(rsm, test))
        strength = strengths[int(each.mean(0).argmax())]
        train, test = split.train.tolist(), split.test.tolist()
        w, b = fit(rows_of(x, train), entries(rsm, train), strength)
        predicted, true = rows_of(x, test) @ w + b, entries(rsm, test)
        found.append((score(predicted, true), score(rows_of(x, test).sum(1), true), strength, w, b))
    return [np.array(column) for column in zip(*found, strict=True)]


def nested(n=N, folds=3, inner=2):
    outer = stimulus_folds(n, folds, seed=3)
    within = []
    for split in outer:
        parts = stimulus_folds(len(split.train), inner, seed=4)
        within.append([Split(split.train[part.train], split.train[part.test]) for part in parts])
    return outer, within


def pearson(a, b):
    return np.corrcoef(a, b)[0, 1]


def check(found, expected, kind):
    score, unweighted, strength, w, b = expected
    np.testing.assert_allclose(found.table["score"], score, atol=1e-6)
    np.testing.assert_allclose(found.table["unweighted"], unweighted, atol=1e-9)
    np.testing.assert_allclose(found.table[kind], strength)
    np.testing.assert_allclose(found.weights, w, atol=1e-6 * np.abs(w).max())
    np.testing.assert_allclose(found.intercepts, b, atol=1e-6)


@pytest.mark.parametrize("n_units", [12, 700])  # fewer and more than there are pairs
@pytest.mark.parametrize(
    ("measure", "score"), [("pearson", pearson), ("spearman", lambda a, b: spearmanr(a, b)[0])]
)
def test_fractions_as_published(n_units, measure, score):
    x, rdm = make(n_units)
    folds, inner = nested()
    fractions = [0.1, 0.3, 0.6, 0.9, 1.0]
    found = feature_reweighted_rsa(
        torch.from_numpy(x), torch.from_numpy(rdm), folds=folds, inner_folds=inner,
        fractions=fractions, measure=measure,
    )  # fmt: skip
    check(found, by_hand(x, 1 - rdm, folds, inner, fractions, fractional_ridge, score), "fraction")
    assert found.score > found.unweighted
    assert found.score == pytest.approx(found.table["score"].mean())


@pytest.mark.parametrize("n_units", [12, 700])
def test_penalties_are_scikit_learns(n_units):
    x, rdm = make(n_units)
    folds, inner = nested()
    penalties = [1.0, 1e-2, 1e-4]
    found = feature_reweighted_rsa(
        torch.from_numpy(x), torch.from_numpy(1 - rdm), folds=folds, inner_folds=inner,
        penalties=penalties,
    )  # fmt: skip
    check(found, by_hand(x, 1 - rdm, folds, inner, penalties, scikit_ridge, pearson), "penalty")
    assert found.table["fraction"].isna().all()


def test_weights_may_not_be_negative():
    x, rdm = make(12)
    folds, inner = nested()
    found = feature_reweighted_rsa(
        torch.from_numpy(x), torch.from_numpy(rdm), folds=folds, inner_folds=inner,
        penalties=[1e-3], nonnegative=True,
    )  # fmt: skip

    def positive(rows, y, penalty):
        return scikit_ridge(rows, y, penalty, positive=True, tol=1e-14, max_iter=100_000)

    score, unweighted, _, w, _ = by_hand(x, 1 - rdm, folds, inner, [1e-3], positive, pearson)
    np.testing.assert_allclose(found.table["score"], score, atol=1e-4)  # L-BFGS stops early
    np.testing.assert_allclose(found.table["unweighted"], unweighted)
    np.testing.assert_allclose(found.weights, w, atol=2e-3 * w.max())
    assert (found.weights >= 0).all()
    assert (found.weights == 0).any()
    by_itself = feature_reweighted_rsa(torch.from_numpy(x), torch.from_numpy(rdm), nonnegative=True)
    assert by_itself.score > 0.3


def test_labels_are_kept_and_joined():
    x, rdm = make(12)
    ids = [f"image{i:02d}" for i in range(N)]
    units = xr.DataArray(
        x, dims=("stimulus", "unit"),
        coords={"stimulus": ids, "unit": range(100, 112), "layer": ("unit", ["conv"] * 12)},
    )  # fmt: skip
    target = xr.DataArray(
        rdm, dims=("anchor", "neighbor"), coords={"anchor": ids, "neighbor": ids}
    ).isel(anchor=np.arange(N)[::-1], neighbor=np.arange(N)[::-1])
    found = feature_reweighted_rsa(units, target, folds=3, seed=1)
    bare = feature_reweighted_rsa(torch.from_numpy(x), torch.from_numpy(rdm), folds=3, seed=1)
    mixed = feature_reweighted_rsa(torch.from_numpy(x[::-1].copy()), target, folds=3, seed=1)
    assert found.table.equals(bare.table)
    assert found.weights["unit"].values.tolist() == list(range(100, 112))
    assert set(found.weights["layer"].values) == {"conv"}
    assert found.predicted["anchor"].values.tolist() == ids
    assert mixed.predicted["anchor"].values.tolist() == ids[::-1]
    test = stimulus_folds(N, 3, seed=1)[0].test.numpy()
    seen = found.predicted.values[np.ix_(test, test)]
    assert np.isnan(np.diag(seen)).all()
    assert np.isfinite(seen[~np.eye(len(test), dtype=bool)]).all()
    assert np.isnan(found.predicted.values).sum() > N  # pairs that no fold tested
    with pytest.raises(StimulusError, match="image00"):
        feature_reweighted_rsa(units[1:], target)


def test_known_weights_are_found():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 10))
    z = (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)
    true = np.array([3.0, 0.0, 1.0, 2.0, 0.5, 0.0, 0.0, 1.5, 1.0, 4.0])
    rsm = (z * true) @ z.T / 10
    np.fill_diagonal(rsm, 1.0)
    found = feature_reweighted_rsa(torch.from_numpy(x), torch.from_numpy(rsm))
    assert found.score == pytest.approx(1.0)
    np.testing.assert_allclose(found.weights, np.tile(true, (5, 1)), atol=1e-9)
    assert (found.table["fraction"] == 1).all()


@given(
    scale=st.floats(0.1, 100.0),
    shift=st.floats(-10.0, 10.0),
    factor=st.floats(0.1, 10.0),
    seed=st.integers(0, 20),
)
@settings(max_examples=15)
def test_scale_and_order_do_not_matter(scale, shift, factor, seed):
    """Responses are z-scored, targets regressed with an intercept, units have no order."""
    x, rdm = make(8, n=20, seed=seed)
    splits = random_splits(20, 15, 1, seed=seed)
    options = {"folds": splits, "inner_folds": 2, "fractions": [0.2, 0.7]}
    plain = feature_reweighted_rsa(torch.from_numpy(x), torch.from_numpy(rdm), **options)
    order = np.random.default_rng(seed).permutation(8)
    other = feature_reweighted_rsa(
        torch.from_numpy(scale * x[:, order] + shift), torch.from_numpy(factor * rdm), **options
    )
    assert other.score == pytest.approx(plain.score, abs=1e-8)
    assert other.unweighted == pytest.approx(plain.unweighted, abs=1e-8)
    np.testing.assert_allclose(
        other.weights, factor * plain.weights[:, order], rtol=1e-6, atol=1e-7
    )
    assert -1 <= other.score <= 1


def test_an_undefined_fold_is_nan():
    x, rdm = make(8)
    folds, _ = nested()
    rdm[np.ix_(folds[0].test, folds[0].test)] = 1.0
    np.fill_diagonal(rdm, 0.0)
    found = feature_reweighted_rsa(torch.from_numpy(x), torch.from_numpy(rdm), folds=folds)
    assert found.table["score"].isna().tolist() == [True, False, False]
    assert np.isnan(found.score)


def give(x=None, rdm=None, **options):
    first, second = make(12)
    return feature_reweighted_rsa(
        torch.from_numpy(first) if x is None else x,
        torch.from_numpy(second) if rdm is None else rdm,
        **options,
    )


FOLDS = stimulus_folds(N, 3, seed=0)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: give(x=np.ones((N, 3))), DTypeError, "`units` must be a torch.Tensor"),
        (lambda: give(x=torch.ones(2, N, 3)), ShapeError, "got (2, 30, 3)"),
        (lambda: give(x=torch.rand(N - 1, 3)), ShapeError,
         "`units` has 29, `target` has shape (30, 30)"),
        (lambda: give(x=torch.rand(N, 3).index_fill(0, torch.tensor([4]), 2.0)), DataError,
         "the stimuli 4 are the same in all units"),
        (lambda: give(rdm=torch.full((N, N), torch.nan)), DataError, "nothing but NaN"),
        (lambda: give(fractions=[0.5], penalties=[1.0]), DataError, "not both"),
        (lambda: give(fractions=[0.0]), DataError, "above 0 and at most 1, and one at least, got"),
        (lambda: give(penalties=[-1.0]), DataError, "at least 0 and finite, and one at least"),
        (lambda: give(penalties=[]), DataError, "got []"),
        (lambda: give(fractions=[0.5], nonnegative=True), DataError, "give `penalties`"),
        (lambda: give(measure="nearness"), UnknownNameError, "nearness"),
        (lambda: give(measure="linear_cka"), DataError, "compares features, not RSMs"),
        (lambda: give(folds=9), DataError, "Use at most 7 folds"),
        (lambda: give(folds=FOLDS, inner_folds=6), DataError,
         "leave 4 stimuli to each, got 6 of 20 training stimuli"),
        (lambda: give(folds=FOLDS, inner_folds=[FOLDS]), DataError, "each of 3 folds, got 1"),
        (lambda: give(folds=FOLDS, inner_folds=[FOLDS] * 3), DataError,
         "which are not among its training stimuli"),
        (lambda: give(x=torch.rand(N, 1001), nonnegative=True), MemoryLimitError,
         "1000 units at most; there are 1001 units"),
        (lambda: give(x=torch.rand(110, 5001), rdm=1 - torch.eye(110)), MemoryLimitError,
         "5000 units or 5000 pairs at most; there are 5001 units and 5995 pairs"),
        (lambda: give(rdm=1 - torch.eye(N)), DataError, "No inner fold has a defined score"),
        (lambda: give(seed=-1), DataError, "`seed` must be from 0"),
    ],
)  # fmt: skip
def test_bad_input(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call()


def test_one_target_at_a_time():
    stack = xr.DataArray(
        np.stack([make(4)[1]] * 2), dims=("subject", "anchor", "neighbor"),
        coords={"anchor": range(N), "neighbor": range(N)},
    )  # fmt: skip
    with pytest.raises(ShapeError, match=r"must be one RSM or RDM .* Select one"):
        give(rdm=stack)
