"""Partial whitening and rotation, fitted here and scored there: the formula by hand, netrep's."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import fractional_matrix_power, orthogonal_procrustes

from softrsa.errors import DataError, ShapeError
from softrsa.measures import (
    cca,
    cca_predictivity,
    get,
    nbs,
    procrustes_predictivity,
    shape_similarity,
)
from softrsa.measures.shape_alignment import held_out_shape

ALPHAS = [0.0, 0.3, 1.0]


def related(rng, n=40, p=4, q=4, noise=0.5):
    x = torch.randn(n, p, generator=rng, dtype=torch.float64)
    y = x @ torch.randn(p, q, generator=rng, dtype=torch.float64)
    return x + 2.0, y + noise * torch.randn(n, q, generator=rng, dtype=torch.float64)


def by_hand(x, y, x_test, y_test, alpha):
    """netrep's LinearMetric(alpha).fit(x, y), and the cosine whose arccos is its score."""
    (x, y, x_test, y_test), whole = map(np.asarray, (x, y, x_test, y_test)), []
    for train, test in ((x, x_test), (y, y_test)):
        mean = train.mean(0)
        centered = train - mean
        root = fractional_matrix_power(centered.T @ centered, -0.5).real
        whitening = alpha * np.eye(train.shape[1]) + (1 - alpha) * root
        whole.append((centered @ whitening, (test - mean) @ whitening))
    width = max(x.shape[1], y.shape[1])
    (a, a_test), (b, b_test) = (
        [np.pad(part, ((0, 0), (0, width - part.shape[1]))) for part in side] for side in whole
    )
    rotation, _ = orthogonal_procrustes(a, b)
    return (a_test @ rotation * b_test).sum() / np.linalg.norm(a_test) / np.linalg.norm(b_test)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize(("p", "q"), [(4, 4), (5, 2), (2, 5)])
def test_by_hand(alpha, p, q, rng):
    x, y = related(rng, p=p, q=q)
    train, test = slice(0, 30), slice(30, 40)
    parts = x[train], y[train], x[test], y[test]
    expected = by_hand(*parts, alpha)
    assert float(held_out_shape(*parts, alpha=alpha)) == pytest.approx(expected, abs=1e-12)
    in_sample = by_hand(x, y, x, y, alpha)
    assert float(shape_similarity(x, y, alpha=alpha)) == pytest.approx(in_sample, abs=1e-12)
    folds = torch.arange(40) % 2
    both = [
        by_hand(x[folds != f], y[folds != f], x[folds == f], y[folds == f], alpha) for f in (0, 1)
    ]
    found = shape_similarity(x, y, alpha=alpha, folds=folds)
    assert float(found) == pytest.approx(np.mean(both), abs=1e-12)


def test_the_ends_are_procrustes_and_cca(rng):
    x, y = related(rng, p=3, q=5)
    torch.testing.assert_close(procrustes_predictivity(x, y), nbs(x, y))
    torch.testing.assert_close(cca_predictivity(x, y), cca(x, y) * 3 / 15**0.5)
    for name, alpha in (("procrustes_predictivity", 1.0), ("cca_predictivity", 0.0)):
        parts = x[:30], y[:30], x[30:], y[30:]
        expected = held_out_shape(*parts, alpha=alpha)
        assert torch.equal(get(name).held_out(*parts), expected)


@given(st.sampled_from(ALPHAS), st.integers(0, 2**31))
def test_held_out_invariances(alpha, seed):
    """Rotations and shifts at every alpha, any linear map at 0, a factor at both ends."""
    rng = torch.Generator().manual_seed(seed)
    x, y = related(rng)
    change = torch.randn(4, 4, generator=rng, dtype=torch.float64) + 2 * torch.eye(4).double()
    if alpha > 0:
        change = torch.linalg.qr(change).Q * (3.0 if alpha == 1 else 1.0)
    moved = x @ change + 5.0
    before = held_out_shape(x[:30], y[:30], x[30:], y[30:], alpha=alpha)
    after = held_out_shape(moved[:30], y[:30], moved[30:], y[30:], alpha=alpha)
    torch.testing.assert_close(after, before, rtol=0, atol=1e-9)
    swapped = held_out_shape(y[:30], x[:30], y[30:], x[30:], alpha=alpha)
    torch.testing.assert_close(swapped, before, rtol=0, atol=1e-9)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_unrelated_features_score_nothing_where_held_out(alpha, rng):
    x, y = torch.randn(2, 100, 30, 8, generator=rng, dtype=torch.float64)
    inside = shape_similarity(x, y, alpha=alpha).mean()
    outside = shape_similarity(x, y, alpha=alpha, folds=3).mean()
    assert inside > 0.4
    assert abs(float(outside)) < 0.03


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("p", [3, 12])
def test_gradients_of_held_out_scores(alpha, p, rng):
    """Also of more units than stimuli fitted on, and of all."""
    for n in (20, 8):
        x = torch.randn(n, p, generator=rng, dtype=torch.float64).requires_grad_()
        y = torch.randn(n, 4, generator=rng, dtype=torch.float64).requires_grad_()

        def score(x, y):
            return shape_similarity(x, y, alpha=alpha, folds=torch.arange(len(x)) % 2)

        assert torch.autograd.gradcheck(score, (x, y))


def test_more_units_than_stimuli_are_the_same_in_coordinates(rng):
    x, y = torch.randn(2, 12, 50, generator=rng, dtype=torch.float64)
    parts = x[:8], y[:8], x[8:], y[8:]
    basis = torch.linalg.qr(torch.cat([x, x]).mT).Q[:, :12]
    fewer = x @ basis
    for alpha in ALPHAS:
        found = held_out_shape(*parts, alpha=alpha)
        expected = held_out_shape(fewer[:8], y[:8], fewer[8:], y[8:], alpha=alpha)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_nothing_to_align_is_undefined(rng):
    x, y = related(rng)
    constant = x.clone()
    constant[:30] = 0.1
    for alpha in ALPHAS:
        assert held_out_shape(constant[:30], y[:30], x[30:], y[30:], alpha=alpha).isnan()


def test_refusals(rng):
    x, y = related(rng)
    with pytest.raises(DataError, match=r"`alpha` must be from 0 \(CCA\) to 1 .* got 1\.5"):
        shape_similarity(x, y, alpha=1.5)
    with pytest.raises(DataError, match=r"folds of 40 stimuli"):
        cca_predictivity(x, y, folds=30)
    with pytest.raises(ShapeError, match=r"`x_train` and `x_test` .* got 4 and 3"):
        held_out_shape(x[:30], y[:30], x[30:, :3], y[30:], alpha=1.0)
