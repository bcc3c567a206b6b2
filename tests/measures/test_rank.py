"""Kendall's taus, rho-a and soft Spearman against SciPy, rsatoolbox and counting by hand."""

import itertools

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from rsatoolbox.rdm import RDMs, compare

from softrsa.errors import DataError, DTypeError, ShapeError
from softrsa.measures import (
    kendall_tau_a,
    kendall_tau_b,
    pearson,
    rho_a,
    soft_spearman,
    spearman,
)
from softrsa.measures.rank import net_concordance

EXACT = (kendall_tau_a, kendall_tau_b, rho_a)
METHODS = [
    (kendall_tau_a, "tau-a"),
    (kendall_tau_b, "tau-b"),
    (kendall_tau_b, "kendall"),
    (rho_a, "rho-a"),
]


def kinds(rng, *shape):
    x = torch.randn(*shape, dtype=torch.float64, generator=rng)
    few = x.clone()
    few[..., ::7] = few[..., 3::7][..., : few[..., ::7].shape[-1]].mean(-1, keepdim=True)
    pairwise = x.clone()
    pairwise[..., 4] = pairwise[..., 11]
    return {
        "no ties": x,
        "one tie": pairwise,
        "a run of ties": few,
        "few values": (2 * x).round(),
        "half of one value": x.relu(),
        "two values": (x > 1).double(),
    }


@pytest.mark.parametrize(("function", "method"), METHODS)
@pytest.mark.parametrize("n_stimuli", [6, 12])
def test_rsatoolbox(function, method, n_stimuli, rng):
    """All kinds of ties against all others, broadcast."""
    n_pairs = n_stimuli * (n_stimuli - 1) // 2
    x = torch.cat(list(kinds(rng, 2, n_pairs).values()))
    y = torch.cat(list(kinds(rng, 1, n_pairs).values()))
    expected = compare(RDMs(x.numpy().copy()), RDMs(y.numpy().copy()), method)
    np.testing.assert_allclose(function(x[:, None], y), expected, rtol=0, atol=1e-13)


@given(
    arrays(np.float64, st.tuples(st.just(2), st.integers(2, 60)), elements=st.integers(-4, 4)),
    st.booleans(),
)
def test_tau_b_is_scipys(values, distinct):
    if distinct:
        values = values + np.linspace(0, 0.5, values.shape[1]) ** 2
    expected = scipy.stats.kendalltau(*values).statistic
    found = kendall_tau_b(*torch.from_numpy(values)).item()
    assert found == pytest.approx(expected, abs=1e-14, nan_ok=True)


@given(
    arrays(np.float64, array_shapes(min_dims=1, max_dims=3, max_side=20), elements=st.floats(0, 4))
)
def test_net_concordance_is_the_sum_of_signs(values):
    x = torch.from_numpy(values)
    y = x.flip(-1).round()
    signs = [(v[..., None] - v[..., None, :]).sign() for v in (x, y)]
    assert torch.equal(net_concordance(x, y), (signs[0] * signs[1]).sum((-2, -1)) / 2)


@pytest.mark.parametrize("n", [1, 2, 63, 64, 65, 300, 70_000])
def test_net_concordance_at_the_sizes_of_blocks(n, rng):
    """Against SciPy's tau-b times its own denominator; 70 000 is beyond bytes for blocks."""
    for kind, values in kinds(rng, max(n, 12)).items():
        if n == 70_000 and kind not in {"no ties", "a run of ties"}:
            continue
        x, y = values[:n], torch.randn(n, dtype=torch.float64, generator=rng)
        y[n // 2 :] += x[n // 2 :]
        found = net_concordance(x, y).item()
        total = n * (n - 1) / 2
        tied = (x.unique(return_counts=True)[1] * (x.unique(return_counts=True)[1] - 1) / 2).sum()
        tau = scipy.stats.kendalltau(x, y).statistic if tied < total else 0.0
        assert found == pytest.approx(tau * (total * (total - float(tied))) ** 0.5, abs=1e-6)


def test_parts_and_tensors_change_nothing(rng, monkeypatch):
    """Devices other than the CPU are counted on by torch: the same steps, here on the CPU."""
    x = torch.cat([v[None] for v in kinds(rng, 40).values()])
    expected = net_concordance(x[:, None], x)
    monkeypatch.setitem(net_concordance.__globals__["PART"], "cpu", 100)
    assert torch.equal(net_concordance(x[:, None], x), expected)
    monkeypatch.setitem(net_concordance.__globals__, "is_cpu", lambda _: False)
    assert torch.equal(net_concordance(x[:, None], x), expected)


def test_rho_a_is_the_mean_over_all_ways_to_break_ties():
    x, y = [1.0, 2.0, 2.0, 5.0], [3.0, 4.0, 1.0, 4.0]

    def ways(values):
        for way in itertools.permutations(range(4)):
            ranks = np.empty(4)
            ranks[sorted(range(4), key=lambda i: (values[i], way[i]))] = range(4)
            yield ranks

    expected = np.mean([np.corrcoef(a, b)[0, 1] for a in ways(x) for b in ways(y)])
    found = rho_a(*torch.tensor([x, y], dtype=torch.float64)).item()
    assert found == pytest.approx(expected, abs=1e-14)


def test_without_ties_rho_a_is_spearman_and_the_taus_are_one(rng):
    x, y = torch.randn(2, 8, 45, dtype=torch.float64, generator=rng)
    torch.testing.assert_close(rho_a(x, y), spearman(x, y))
    assert torch.equal(kendall_tau_a(x, x), torch.ones(8).double())
    torch.testing.assert_close(kendall_tau_a(x, y), kendall_tau_b(x, y), rtol=0, atol=1e-15)


@pytest.mark.parametrize("function", [*EXACT, soft_spearman])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_constant_and_missing(function, dtype, rng):
    y = torch.randn(3, 45, dtype=dtype, generator=rng)
    x = torch.full((45,), 0.1, dtype=dtype)
    found = function(x, y)
    assert found.dtype == dtype
    assert (found == 0).all() if function in {kendall_tau_a, rho_a} else found.isnan().all()
    y[1, 7] = torch.nan
    assert function(y, y[:1]).isnan().tolist() == [False, True, False]
    assert function(y[:1], y).isnan().tolist() == [False, True, False]
    assert function(torch.ones(1), torch.ones(1)).isnan()


@pytest.mark.parametrize("function", EXACT)
def test_no_gradient_and_mixed_types(function, rng):
    x, y = torch.randn(2, 10, generator=rng)
    assert not function(x.requires_grad_(), y).requires_grad
    assert function(x, y.double()).dtype == torch.float64


def test_soft_spearman_lies_between_spearman_and_pearson(rng):
    x, noise = torch.randn(2, 20, 276, dtype=torch.float64, generator=rng)
    y = (x + noise).exp()
    hard, linear = spearman(x, y), pearson(x, y)
    torch.testing.assert_close(soft_spearman(x, y, strength=1e-8), hard, rtol=0, atol=1e-9)
    torch.testing.assert_close(soft_spearman(x, y, strength=1e4), linear, rtol=0, atol=1e-9)
    gaps = [(soft_spearman(x, y, strength=s) - hard).abs().mean() for s in (0.01, 0.1, 1.0, 10.0)]
    assert gaps == sorted(gaps)
    # what the docstring says of the default
    z = x + noise
    assert (soft_spearman(x, z) - spearman(x, z)).abs().max() < 1e-3
    x, z = (2 * x).tanh(), (2 * z).tanh()
    assert (soft_spearman(x, z) - spearman(x, z)).abs().max() < 0.02


def test_soft_spearman_gradient(rng):
    x = torch.randn(2, 1, 10, dtype=torch.float64, generator=rng).requires_grad_()
    y = torch.randn(3, 10, dtype=torch.float64, generator=rng).requires_grad_()
    assert torch.autograd.gradcheck(soft_spearman, (x, y))
    assert torch.autograd.gradgradcheck(soft_spearman, (x, y))


@pytest.mark.parametrize("function", [*EXACT, soft_spearman])
def test_wrong_arguments_are_named(function):
    with pytest.raises(ShapeError, match=r"`x` has 6 pairs \(4 stimuli\), `y` has 10 pairs \(5 st"):
        function(torch.ones(6), torch.ones(10))
    with pytest.raises(DTypeError, match=r"`y` must be float32 or float64, got torch\.int64"):
        function(torch.ones(6), torch.ones(6).long())


def test_wrong_strength_is_named():
    with pytest.raises(DataError, match="`strength` must be positive and finite, got 0"):
        soft_spearman(torch.rand(6), torch.rand(6), strength=0)
