"""One descent: it never ends worse than it began, and one problem cannot spoil another."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from softrsa._descent import TIE, Ascent, first_best


def points(places):
    module = nn.Module()
    module.at = nn.Parameter(torch.tensor(places, dtype=torch.float64)[:, None])
    return module


def hills(module, tops, *, heights=1.0):
    tops = torch.tensor(tops, dtype=torch.float64)
    return lambda: -heights * (module.at[:, 0] - tops).square()


def test_first_steps_are_those_of_adam():
    ours, theirs = points([0.0, 5.0]), points([0.0, 5.0])
    ascent = Ascent([ours], 0.1)
    adam = torch.optim.Adam(theirs.parameters(), lr=0.1, eps=1e-7)
    # gradients smaller than 1, so that none is bounded; a rate that has hardly decayed
    for k in range(5):
        for group in adam.param_groups:
            group["lr"] = 0.1 / (1 + k / 160)
        ascent.step(hills(ours, [1.0, 4.0], heights=0.1))
        adam.zero_grad()
        (-hills(theirs, [1.0, 4.0], heights=0.1)().sum()).backward()
        adam.step()
    torch.testing.assert_close(ours.at, theirs.at, rtol=1e-12, atol=1e-12)


@given(
    st.lists(st.floats(-3, 3), min_size=1, max_size=4),
    st.floats(1e-3, 30),
    st.integers(0, 2**16),
)
def test_whatever_the_landscape_nothing_ends_below_its_start(starts, rate, seed):
    waves = np.random.default_rng(seed).normal(size=(3, 2))
    module = points(starts)

    def objective():
        x = module.at[:, 0]
        return sum(a * torch.sin(b * 5 * x) for a, b in waves.tolist())

    first = objective().detach()
    ascent = Ascent([module], rate)
    best = first
    for _ in range(15):
        ascent.step(objective)
        best = torch.maximum(best, objective().detach())
    ascent.settle(objective)
    last = objective().detach()
    assert (last >= first - TIE).all()
    torch.testing.assert_close(last, best, rtol=0, atol=1e-12)  # the best place that it has seen


def test_rounding_is_no_loss():
    module = points([0.0])
    noise = iter(torch.linspace(-1, 1, 40, dtype=torch.float64)[torch.randperm(40)].tolist())

    def flat_but_for_rounding():
        return module.at[:, 0] * 1e-13 + 1e-13 * next(noise)

    ascent = Ascent([module], 0.1)
    for _ in range(40):
        ascent.step(flat_but_for_rounding)
    assert ascent.share.item() == 1.0


def test_a_loss_is_taken_back_and_rates_grow_again():
    module = points([0.0])
    ascent = Ascent([module], 1.0)

    def cliff():
        return torch.where(module.at[:, 0] > 1.5, -100.0, module.at[:, 0])

    shares = []
    for _ in range(12):
        ascent.step(cliff)
        shares.append(float(ascent.share))
    ratios = [after / before for before, after in pairwise(shares)]
    assert min(ratios) == 0.5
    assert max(ratios) == pytest.approx(1.2)
    ascent.settle(cliff)
    assert 1.0 <= module.at.item() <= 1.5


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_one_bad_problem_spoils_no_other(bad):
    alone, together = points([0.0]), points([0.0, 0.0])
    of_alone, of_both = Ascent([alone], 0.3), Ascent([together], 0.3)
    for _ in range(60):
        of_alone.step(hills(alone, [2.0]))
        of_both.step(
            lambda: hills(together, [2.0, 2.0])() * torch.tensor([1.0, bad], dtype=torch.float64)
        )
    torch.testing.assert_close(together.at[0], alone.at[0], rtol=0, atol=0)
    assert together.at.isfinite().all()


def test_those_that_go_on_go_on_as_if_nothing_had_happened():
    all_of_them, one = points([0.0, 1.0, -2.0]), points([-2.0])
    tops = [3.0, 2.0, 1.0]
    together, alone = Ascent([all_of_them], 0.2), Ascent([one], 0.2)
    for _ in range(10):
        together.step(hills(all_of_them, tops))
        alone.step(hills(one, tops[2:]))
    rest = points([float(all_of_them.at[2].detach())])
    together = together.keep(torch.tensor([2]), [rest])
    for _ in range(10):
        together.step(hills(rest, tops[2:]))
        alone.step(hills(one, tops[2:]))
    torch.testing.assert_close(rest.at, one.at, rtol=0, atol=1e-15)


def test_a_noisy_objective_is_judged_where_it_settles():
    module = points([0.0])
    signs = iter([1.0, -1.0] * 10)
    ascent = Ascent([module], 0.5, noisy=True)
    ascent.settle(hills(module, [0.0]))  # it begins at the top
    for _ in range(10):
        ascent.step(lambda: next(signs) * module.at[:, 0] * 10)
    assert ascent.share.item() == 1.0
    ascent.settle(hills(module, [0.0]))
    assert module.at.item() == 0.0


def test_parameters_that_do_not_matter_stay():
    module = points([1.0])
    module.idle = nn.Parameter(torch.full((1, 3), 7.0, dtype=torch.float64))
    ascent = Ascent([module], 0.1)
    for _ in range(3):
        ascent.step(hills(module, [2.0]))
    assert module.idle.tolist() == [[7.0] * 3]


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=8), st.integers(0, 7))
def test_ties_go_to_the_first(scores, place):
    exact = torch.tensor(scores, dtype=torch.float64)
    tied = exact.clone()
    tied[place % len(scores)] = exact.max() + TIE / 3  # as rounding elsewhere would have it
    expected = min(int(exact.argmax()), place % len(scores))
    found = first_best(tied)
    assert found <= max(expected, place % len(scores))
    assert tied[found] >= tied.max() - TIE
    assert all(tied[:found] < tied.max() - TIE)


def test_missing_scores_are_never_the_best():
    assert first_best(torch.tensor([torch.nan, -1.0, torch.nan])) == 1


def test_a_problem_without_a_score_at_first_goes_on_once_it_has_one():
    module = points([0.0, 0.0])
    known = iter([torch.tensor([torch.nan, 1.0], dtype=torch.float64)] * 2)
    ascent = Ascent([module], 0.3)
    for _ in range(60):
        ascent.step(lambda: hills(module, [2.0, 2.0])() * next(known, torch.ones(2)))
    assert (module.at.detach() - 2).abs().max() < 0.2
