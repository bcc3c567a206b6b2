"""Rows of RSMs compared, against SciPy one row at a time."""

import numpy as np
import pytest
import torch
from scipy import stats

from softrsa.errors import ShapeError
from softrsa.measures import (
    centered_pearson,
    first_rank_identification,
    per_anchor_pearson,
    stimulus_identification,
)
from softrsa.transforms import double_center


def rsms(rng, *lead, n=9, symmetric=False):
    x = torch.rand(*lead, n, n, dtype=torch.float64, generator=rng)
    return x + x.mT if symmetric else x


def row_correlations(x, y):
    """Row i of one with row j of the other, without both entries: n x n calls of SciPy."""
    left, right = double_center(x).numpy(), double_center(y).numpy()
    n = len(left)
    found = np.empty((n, n))
    for i in range(n):
        for j in range(n):
            kept = [k for k in range(n) if k not in (i, j)]
            found[i, j] = stats.pearsonr(left[i, kept], right[j, kept]).statistic
    return found


@pytest.mark.parametrize("symmetric", [True, False])
def test_per_anchor_is_the_mean_of_scipys_correlations(symmetric, rng):
    x, y = rsms(rng, 2, symmetric=symmetric)
    expected = row_correlations(x, y).diagonal().mean()
    assert per_anchor_pearson(x, y).item() == pytest.approx(expected, abs=1e-13)


@pytest.mark.parametrize("symmetric", [True, False])
def test_identification_counts_rows_that_match_less_well(symmetric, rng):
    x, noise = rsms(rng, 2, symmetric=symmetric)
    y = x + noise
    shares, first = [], []
    for one, other in ((x, y), (y, x)):
        found = row_correlations(one, other)
        own = found.diagonal()
        wrong = [[found[i, j] for j in range(9) if j != i] for i in range(9)]
        shares.append(np.mean([np.mean(np.array(w) < o) for w, o in zip(wrong, own, strict=True)]))
        first.append(np.mean([max(w) < o for w, o in zip(wrong, own, strict=True)]))
    assert 0.5 < np.mean(first) < np.mean(shares) < 1  # not all is told apart, so that order counts
    assert stimulus_identification(x, y).item() == pytest.approx(np.mean(shares), abs=1e-15)
    assert first_rank_identification(x, y).item() == pytest.approx(np.mean(first), abs=1e-15)


def test_identification_is_half_by_chance(rng):
    x, y = rsms(rng, 2, 200, n=20)
    assert stimulus_identification(x, y).mean() == pytest.approx(0.5, abs=0.02)
    assert first_rank_identification(x, y).mean() == pytest.approx(1 / 20, abs=0.02)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_tie_counts_half(dtype, rng):
    """Two stimuli with the same similarities to all others cannot be told apart by them."""
    x = rsms(rng, n=8, symmetric=True)
    x[1], x[:, 1] = x[0].clone(), x[:, 0].clone()
    x = x.to(dtype)
    y = 3 * x + 0.1  # rounded otherwise
    # 2 stimuli of 8 have one tie among their 7 wrong ones
    assert stimulus_identification(x, y).item() == pytest.approx(1 - 2 / 8 * 0.5 / 7, abs=1e-6)
    assert first_rank_identification(x, y).item() == pytest.approx(7 / 8, abs=1e-6)


def test_a_factor_per_row_is_not_seen_by_the_anchor(rng):
    """The loud anchor rules centered Pearson, and has one vote here."""
    x, y = rsms(rng, 2, 20, n=30)
    y[:, 0] = x[:, 0]
    factors = torch.ones(30, dtype=torch.float64)
    factors[0] = 4
    loud = [factors[:, None] * double_center(s) for s in (x, y)]
    assert (centered_pearson(*loud) - centered_pearson(x, y)).min() > 0.2
    assert (per_anchor_pearson(*loud) - per_anchor_pearson(x, y)).abs().max() < 0.1


def constant_row(rng):
    """RSMs of which the row of stimulus 2 is constant once they are centered, and its column."""
    x = double_center(rsms(rng, n=8, symmetric=True))
    others = torch.tensor([i for i in range(8) if i != 2])
    rest = torch.zeros_like(x)
    rest[others[:, None], others] = double_center(x[others][:, others])
    return rest + torch.arange(8.0)


def test_undefined_where_a_row_is_constant(rng):
    x, y = torch.stack([constant_row(rng), rsms(rng, n=8)]), rsms(rng, 2, n=8).requires_grad_()
    score = per_anchor_pearson(x, y)
    assert score.isnan().tolist() == [True, False]
    score.nansum().backward()
    assert y.grad.isfinite().all()
    for function in (stimulus_identification, first_rank_identification):
        assert function(x, y).isnan().tolist() == [True, False]
        assert function(y, x).isnan().tolist() == [True, False]


@pytest.mark.parametrize("symmetric", [True, False])
def test_gradients(symmetric, rng):
    x, y = (s.requires_grad_() for s in rsms(rng, 2, n=5, symmetric=symmetric))
    assert torch.autograd.gradcheck(per_anchor_pearson, (x, y))
    assert torch.autograd.gradgradcheck(per_anchor_pearson, (x, y))


def test_broadcast_gradient_is_the_sum(rng):
    x, y = rsms(rng, 1).requires_grad_(), rsms(rng, 3)
    (found,) = torch.autograd.grad(per_anchor_pearson(x, y).sum(), x)
    parts = [torch.autograd.grad(per_anchor_pearson(x[0], one), x)[0] for one in y]
    torch.testing.assert_close(found, sum(parts), rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("function", "least"),
    [(per_anchor_pearson, 4), (stimulus_identification, 5), (first_rank_identification, 5)],
)
def test_errors_name_what_was_found(function, least, rng):
    x = rsms(rng, n=least - 1)
    with pytest.raises(ShapeError, match=rf"at least {least}: `x` has {least - 1}, `y` has"):
        function(x, x)
    with pytest.raises(ShapeError, match=r"`x` must be square.*\(9, 8\)"):
        function(rsms(rng)[:, :8], rsms(rng))


def test_shares_have_no_gradient(rng):
    x, y = rsms(rng, 2).requires_grad_()
    assert not stimulus_identification(x, y).requires_grad
    assert not first_rank_identification(x, y).requires_grad
