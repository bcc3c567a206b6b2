"""Folds and splits of stimuli."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from softrsa.alignment import grouped_folds, random_splits, stimulus_folds
from softrsa.alignment.settings import ordered
from softrsa.errors import DataError
from softrsa.transforms.on_rsms import Centered, Identity, as_chain


@given(st.integers(8, 200), st.integers(2, 10), st.integers(0, 10**6))
def test_every_stimulus_is_tested_once(n, folds, seed):
    folds = min(folds, n // 4)
    found = stimulus_folds(n, folds, seed=seed)
    assert len(found) == folds
    assert torch.cat([fold.test for fold in found]).sort().values.tolist() == list(range(n))
    sizes = [len(fold.test) for fold in found]
    assert max(sizes) - min(sizes) <= 1
    for train, test in found:
        assert torch.cat([train, test]).sort().values.tolist() == list(range(n))
        assert train.tolist() == sorted(train.tolist())
        assert test.tolist() == sorted(test.tolist())


@given(st.integers(8, 60), st.integers(0, 1000))
def test_random_splits_divide_all_stimuli(n, seed):
    for train, test in random_splits(n, n // 2, 3, seed=seed):
        assert len(train) == n // 2
        assert torch.cat([train, test]).sort().values.tolist() == list(range(n))


def test_seeds_decide():
    def tests(seed):
        return [fold.test.tolist() for fold in stimulus_folds(40, 5, seed=seed)]

    assert tests(3) == tests(3) != tests(4)
    first, second = random_splits(40, 30, 2, seed=3)
    again, _ = random_splits(40, 30, 2, seed=3)
    assert first.test.tolist() == again.test.tolist() != second.test.tolist()


def test_numbers_are_in_the_messages():
    with pytest.raises(DataError, match=r"`folds` must be at least 2, got 1"):
        stimulus_folds(40, 1, seed=0)
    with pytest.raises(DataError, match=r"5 folds of 12 .* test on 2 at a time.* at most 3 folds"):
        stimulus_folds(12, 5, seed=0)
    with pytest.raises(DataError, match=r"9 folds of 5 stimuli"):
        stimulus_folds(5, 9, seed=0)
    with pytest.raises(DataError, match=r"at least 4 stimuli, got 39 and 1 of 40"):
        random_splits(40, 39, 1, seed=0)


def test_a_module_given_twice_is_one_transform():
    module = Centered()
    assert len(ordered([as_chain(module), as_chain(module)])) == 1
    with pytest.raises(DataError, match="Two different transforms are named 'Centered'"):
        ordered([as_chain(module), as_chain(Centered())])
    assert [one.name for one in ordered([as_chain(module), as_chain(Identity())])] == [
        "Centered", "Identity",
    ]  # fmt: skip


@given(
    st.lists(st.integers(4, 9), min_size=3, max_size=8), st.integers(2, 3), st.integers(0, 2**31)
)
def test_groups_are_kept_whole(sizes, folds, seed):
    groups = np.repeat([f"group {i}" for i in range(len(sizes))], sizes)
    order = np.random.default_rng(seed).permutation(len(groups))
    groups = groups[order]
    found = grouped_folds(groups.tolist(), folds, seed=seed)
    tested = torch.cat([split.test for split in found])
    assert sorted(tested.tolist()) == [*range(len(groups))]
    for split in found:
        assert not {*groups[split.train.numpy()]} & {*groups[split.test.numpy()]}
        assert len(split.train) + len(split.test) == len(groups)


def test_too_few_groups_or_stimuli():
    with pytest.raises(DataError, match=r"between 2 and the number of groups, 2, got 3"):
        grouped_folds(["a"] * 5 + ["b"] * 5, 3, seed=0)
    with pytest.raises(DataError, match=r"at least 4 stimuli; split 0 has 2 training and 5 test"):
        grouped_folds(["a"] * 5 + ["b"] * 2, 2, seed=0)
    with pytest.raises(DataError, match=r"missing .* at the places 4, 5\."):
        grouped_folds(["a"] * 4 + [None, float("nan")] + ["b"] * 4, 2, seed=0)
