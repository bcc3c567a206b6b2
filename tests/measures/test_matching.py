"""Units matched with units: POT's optimal transport, all permutations, and the dual program."""

import importlib.util
import json
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from softrsa.errors import DataError
from softrsa.measures import matching, permutation_matching, soft_matching, soft_matching_distance

SCRIPT = Path(__file__).parents[1] / "reference" / "soft_matching.py"
SPEC = importlib.util.spec_from_file_location("soft_matching_reference", SCRIPT)
reference = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(reference)
MEASURES = [soft_matching, permutation_matching, soft_matching_distance]


def features(rng, p, q, n=10):
    x = torch.randn(n, p, generator=rng, dtype=torch.float64)
    y = torch.randn(n, q, generator=rng, dtype=torch.float64)
    return x, y + x.mean(-1, keepdim=True)


def correlations(x, y):
    return np.corrcoef(x.numpy().T, y.numpy().T)[: x.shape[-1], x.shape[-1] :]


@pytest.mark.parametrize("case", range(len(reference.SHAPES)))
def test_optimal_transport_is_pots(case):
    expected = json.loads(reference.FILE.read_text())[case]
    x, y = map(torch.from_numpy, reference.data(*reference.SHAPES[case]))
    for measure in (soft_matching, soft_matching_distance):
        found = float(measure(x, y))
        assert found == pytest.approx(expected[measure.__name__], abs=1e-9)


@pytest.mark.parametrize(("p", "q"), [(5, 5), (3, 6), (6, 4)])
def test_one_to_one_is_the_best_of_all_permutations(p, q, rng):
    x, y = features(rng, p, q)
    r = correlations(x, y)
    r = r if p <= q else r.T
    best = max(r[range(len(r)), order].mean() for order in permutations(range(r.shape[1]), len(r)))
    assert float(permutation_matching(x, y)) == pytest.approx(best, abs=1e-12)
    if p == q:
        assert float(soft_matching(x, y)) == pytest.approx(best, abs=1e-12)


def test_copies_and_the_linear_program_agree(rng, monkeypatch):
    x, y = features(rng, 6, 10)
    expected = [measure(x, y) for measure in MEASURES]
    monkeypatch.setattr(matching, "COPIES", 1)
    for measure, same in zip(MEASURES, expected, strict=True):
        torch.testing.assert_close(measure(x, y), same, rtol=0, atol=1e-9)


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**31))
def test_no_plan_is_better(p, q, seed):
    """Any plan bounds from below: mixtures of the uniform one with ones moved about."""
    rng = torch.Generator().manual_seed(seed)
    x, y = features(rng, p, q)
    score, r = float(soft_matching(x, y)), torch.from_numpy(correlations(x, y))
    plan = torch.full((p, q), 1 / (p * q), dtype=torch.float64)
    for _ in range(20):
        i, j = (torch.randint(k, (2,), generator=rng) for k in (p, q))
        step = torch.zeros(p, q, dtype=torch.float64)
        step.index_put_((i, j), torch.ones(2).double(), accumulate=True)
        step.index_put_((i, j.flip(0)), -torch.ones(2).double(), accumulate=True)
        if ((plan + step / (4 * p * q)) >= 0).all():
            plan = plan + step / (4 * p * q)
        assert float((plan * r).sum()) <= score + 1e-12
    # and the order of units says nothing
    shuffled = x[:, torch.randperm(p, generator=rng)], y[:, torch.randperm(q, generator=rng)]
    for measure in MEASURES:
        torch.testing.assert_close(measure(*shuffled), measure(x, y), rtol=0, atol=1e-9)


@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5), st.integers(0, 2**31))
def test_the_distance_is_a_metric_between_any_numbers_of_units(p, q, r, seed):
    rng = torch.Generator().manual_seed(seed)
    x, y, z = (torch.randn(6, k, generator=rng, dtype=torch.float64) for k in (p, q, r))
    direct = soft_matching_distance(x, z)
    assert direct <= soft_matching_distance(x, y) + soft_matching_distance(y, z) + 1e-9
    assert float(soft_matching_distance(x, x.flip(-1).repeat(1, 2))) < 1e-7  # units twice: the same


def test_the_distance_of_curves_of_norm_one(rng):
    x, y = features(rng, 4, 6)
    x, y = ((z - z.mean(0)) / (z - z.mean(0)).norm(dim=0) for z in (x, y))
    expected = (2 - 2 * soft_matching(x, y)).sqrt()
    torch.testing.assert_close(soft_matching_distance(x, y), expected)


def test_a_unit_that_does_not_vary(rng):
    x, y = features(rng, 4, 6)
    x[:, 1] = 0.1
    assert soft_matching(x, y).isnan()
    assert permutation_matching(x, y).isnan()
    assert soft_matching_distance(x, y).isfinite()


def test_too_many_units_are_refused(rng):
    x = torch.randn(5, 1000, generator=rng)
    with pytest.raises(DataError, match=r"multiply to 300000 at most, got 1000 and 999"):
        soft_matching(x, x[:, :999])
    assert permutation_matching(x, x[:, :999]) > 0.99
