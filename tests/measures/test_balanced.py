"""Balanced Pearson against loops, and against what it must not see."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from softrsa.errors import DTypeError, ShapeError
from softrsa.measures import balanced, balanced_pearson, centered_pearson
from softrsa.measures.balanced import log_factors
from softrsa.transforms import double_center


def rsms(rng, *lead, n=12, symmetric=True):
    x = torch.randn(*lead, n, n, dtype=torch.float64, generator=rng)
    return x + x.mT if symmetric else x


def balanced_by_hand(x):
    """Double-center by least squares, then halve the excess of each stimulus, round after round."""
    n = len(x)
    pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
    design = np.zeros((len(pairs), 2 * n))
    for row, (i, j) in enumerate(pairs):
        design[row, i] = design[row, n + j] = 1
    entries = np.array([x[i, j] for i, j in pairs])
    left = entries - design @ np.linalg.lstsq(design, entries, rcond=None)[0]
    found = np.zeros((n, n))
    for (i, j), value in zip(pairs, left, strict=True):
        found[i, j] = value
    for _ in range(300):
        sums = [(np.sum(found[i] ** 2) + np.sum(found[:, i] ** 2)) / 2 for i in range(n)]
        for i, j in pairs:
            found[i, j] /= (sums[i] * sums[j]) ** 0.25
    return found


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("n", [4, 5, 12])
def test_is_the_correlation_of_what_is_balanced_by_hand(n, symmetric, rng):
    x, y = rsms(rng, 2, n=n, symmetric=symmetric)
    left, right = balanced_by_hand(x.numpy()), balanced_by_hand(y.numpy())
    np.testing.assert_allclose((left**2 + left.T**2).sum(0), np.full(n, 2.0), atol=1e-12)
    apart = ~np.eye(n, dtype=bool)
    expected = stats.pearsonr(left[apart], right[apart]).statistic
    assert balanced_pearson(x, y).item() == pytest.approx(expected, abs=1e-12)


@given(st.lists(st.floats(-3, 3), min_size=9, max_size=9), st.booleans())
def test_factors_leave_the_balanced_rsm_as_it_is(logs, symmetric):
    """Of a centered RSM: the factors themselves would be hidden by centering once more."""
    generator = torch.Generator().manual_seed(1)
    rest = double_center(rsms(generator, n=9, symmetric=symmetric))
    factors = torch.tensor(logs, dtype=torch.float64).exp()

    def balance(matrix):
        squares = (matrix.square() + matrix.square().mT) / 2
        root = (log_factors(squares) / 2).exp()
        return root[:, None] * matrix * root

    moved = balance(factors[:, None] * rest * factors)
    torch.testing.assert_close(moved, balance(rest), rtol=1e-9, atol=1e-12)
    sums = (moved.square() + moved.square().mT).sum(0) / 2
    torch.testing.assert_close(sums, torch.ones(9).double(), rtol=0, atol=1e-12)


def test_a_planted_factor_is_not_similarity(rng):
    """Both sides agree on few stimuli and make these loud: only centered Pearson falls for it."""
    x, y = rsms(rng, 2, 20, n=40)
    y[:, :8, :8] = x[:, :8, :8]
    factors = torch.where(torch.arange(40) < 8, 4.0, 1.0).double()
    loud = [factors[:, None] * double_center(s) * factors for s in (x, y)]
    raised = centered_pearson(*loud) - centered_pearson(x, y)
    assert raised.min() > 0.3
    assert (balanced_pearson(*loud) - balanced_pearson(x, y)).abs().max() < 0.1


def test_undefined_where_a_stimulus_says_nothing(rng):
    x, y = rsms(rng, 2, 3)
    rest = double_center(x[0])
    rest[4], rest[:, 4] = 0, 0
    others = torch.tensor([i for i in range(12) if i != 4])
    inner = double_center(rest[others][:, others])
    rest[others[:, None], others] = inner
    x[0] = rest + torch.arange(12)
    y.requires_grad_()
    score = balanced_pearson(x, y)
    assert score.isnan().tolist() == [True, False, False]
    score.nansum().backward()
    assert y.grad.isfinite().all()
    assert not y.grad[0].any()


def test_undefined_where_no_factors_exist():
    """Of a star, whose leaves know the center only, the center would need all their weight."""
    star = torch.zeros(2, 5, 5, dtype=torch.float64)
    star[:, 0, 1:] = star[:, 1:, 0] = 1
    star[1] += 0.1 * (1 - torch.eye(5))
    logs = log_factors(star)
    assert logs[0].isnan().all()
    s = logs[1].exp()
    torch.testing.assert_close(s * (star[1] @ s), torch.ones(5).double(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("leaf", [1e-3, 1e-6])
def test_factors_far_apart_are_found(leaf):
    """Nearly a star: simple iterations go to and fro, and Newton steps end it."""
    nearly = torch.full((5, 5), leaf, dtype=torch.float64)
    nearly[0], nearly[:, 0] = 1, 1
    nearly[1, 2] = nearly[2, 1] = 1
    nearly.fill_diagonal_(0)
    s = log_factors(nearly).exp()
    torch.testing.assert_close(s * (nearly @ s), torch.ones(5).double(), rtol=0, atol=1e-8)


@pytest.mark.parametrize("symmetric", [True, False])
def test_gradients(symmetric, rng):
    x, y = (s.requires_grad_() for s in rsms(rng, 2, n=5, symmetric=symmetric))
    assert torch.autograd.gradcheck(balanced_pearson, (x, y))
    assert torch.autograd.gradgradcheck(balanced_pearson, (x, y))


def test_gradient_where_only_one_direction_is_left(rng):
    """The gradient of a centered RSM of rank one, which is as low as it goes off the diagonal."""
    v = torch.randn(7, dtype=torch.float64, generator=rng)
    x = torch.outer(v, v).requires_grad_()
    y = rsms(rng, n=7).requires_grad_()
    assert torch.autograd.gradcheck(balanced_pearson, (x, y))


def test_broadcast_gradient_is_the_sum(rng):
    x, y = rsms(rng, 1, n=8).requires_grad_(), rsms(rng, 3, n=8)
    (found,) = torch.autograd.grad(balanced_pearson(x, y).sum(), x)
    parts = [torch.autograd.grad(balanced_pearson(x[0], one), x)[0] for one in y]
    torch.testing.assert_close(found, sum(parts), rtol=0, atol=1e-13)


@pytest.mark.parametrize("n", [balanced.DENSE, balanced.DENSE + 1, balanced.TOGETHER + 1])
def test_gradients_of_a_batch_are_as_exact_as_alone(n, rng):
    """However much less one weighs; with few, more and many stimuli."""
    x, y = (s.requires_grad_() for s in rsms(rng, 2, 2, n=n))
    weights = torch.tensor([1.0, 1e-12], dtype=torch.float64)
    found = torch.autograd.grad(balanced_pearson(x, y) @ weights, x)[0] / weights[:, None, None]
    for one, a, b in zip(found, x, y, strict=True):
        (expected,) = torch.autograd.grad(balanced_pearson(a, b), a)
        torch.testing.assert_close(one, expected, rtol=1e-9, atol=1e-13)
    direction = torch.randn(n, n, dtype=torch.float64, generator=rng)
    step = 1e-5 * direction
    numeric = (balanced_pearson(x[0] + step, y[0]) - balanced_pearson(x[0] - step, y[0])) / 2e-5
    torch.testing.assert_close((found[0] * direction).sum(), numeric, rtol=1e-6, atol=1e-9)


def test_autocast_rounds_nothing(rng):
    x, y = (s.float() for s in rsms(rng, 2, n=40).unbind(0))
    x.requires_grad_()
    (expected,) = torch.autograd.grad(balanced_pearson(x, y), x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (found,) = torch.autograd.grad(balanced_pearson(x, y), x)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-8)


def test_single_precision_gradient(rng):
    x, y = rsms(rng, 2, n=60).unbind(0)
    gradients = []
    for dtype in (torch.float64, torch.float32):
        a = x.to(dtype).clone().requires_grad_()
        balanced_pearson(a, y.to(dtype)).backward()
        gradients.append(a.grad.double())
    assert (gradients[0] - gradients[1]).norm() < 1e-5 * gradients[0].norm()


def test_not_looked_at_gives_the_same(rng, monkeypatch):
    """On a device nothing is waited for: so many steps are made, whatever they have reached."""
    x, y = rsms(rng, 2, 4, n=30).requires_grad_()
    expected = balanced_pearson(x, y)
    (slope,) = torch.autograd.grad(expected.sum(), x)
    monkeypatch.setattr(balanced, "_seen", lambda matrix: False)
    found = balanced_pearson(x, y)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(torch.autograd.grad(found.sum(), x)[0], slope, rtol=1e-8, atol=1e-12)


def test_errors_name_what_was_found(rng):
    x = rsms(rng)
    with pytest.raises(ShapeError, match=r"at least 4: `x` has 3, `y` has 3"):
        balanced_pearson(x[:3, :3], x[:3, :3])
    with pytest.raises(ShapeError, match=r"`x` has 12, `y` has 11"):
        balanced_pearson(x, x[:11, :11])
    with pytest.raises(DTypeError, match=r"got torch\.int64"):
        balanced_pearson(x.long(), x)
