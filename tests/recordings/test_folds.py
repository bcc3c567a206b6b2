"""Folds of repeats: against folds assigned by hand, and as the remedy that errors name."""

import numpy as np
import pytest
import torch
import xarray as xr

from softrsa.errors import DataError, DTypeError, ShapeError, StimulusError, UnknownNameError
from softrsa.recordings import to_folds
from softrsa.rsm import build_rdms, crossnobis


def make(ids, seed=0):
    values = np.random.default_rng(seed).normal(size=(len(ids), 4))
    return xr.DataArray(values, dims=("trial", "unit"), coords={"stimulus": ("trial", ids)})


def test_repeats_in_order_of_recording():
    trials = make(["a", "a", "b", "a", "b", "a", "a", "b", "c", "c", "c", "c"])
    halves = to_folds(trials, 2)["fold"].values
    # a: repeats 0 to 4 at 0, 1, 3, 5, 6; b: 2, 4, 7; c: 8 to 11
    assert halves.tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 1, 1]
    thirds = to_folds(trials, 3)["fold"].values
    assert thirds.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 0, 0, 1, 2]
    assert "fold" not in trials.coords


def test_shuffled_repeats_are_spread_evenly():
    trials = make(list("abc") * 7)
    found = [to_folds(trials, 3, seed=seed, name="part")["part"].values for seed in (0, 0, 1)]
    np.testing.assert_array_equal(found[0], found[1])
    assert (found[0] != found[2]).any()
    assert (found[0] != to_folds(trials, 3)["fold"].values).any()
    for stimulus in range(3):
        assert sorted(np.bincount(found[0][stimulus::3])) == [2, 2, 3]


def test_shuffling_leaves_no_fold_with_the_first_repeats():
    trials = make([0, 1] * 200)
    late = to_folds(trials, 2, seed=3)["fold"].values[200:].mean()
    assert 0.3 < late < 0.7  # 1 in order of recording


def test_what_cannot_be_folded():
    trials = make(["a", "b", "a", "c", "a", "b"])
    message = r"at least 2 trials, .*; 'c' has 1 trial\. Leave these stimuli out"
    with pytest.raises(StimulusError, match=message):
        to_folds(trials, 2)
    left = trials.sel(trial=~trials["stimulus"].isin(["c"]))  # as the error says
    assert to_folds(left, 2)["fold"].values.tolist() == [0, 0, 0, 1, 1]
    message = r"at least 3 trials, .*; 'b' has 2 trials\. Make 2 folds, or leave"
    with pytest.raises(StimulusError, match=message):
        to_folds(left, 3)
    for n in (1, 2.0, "2"):
        with pytest.raises(ShapeError, match=f"`n` must be an integer of 2 or more, got {n!r}"):
            to_folds(left, n)
    with pytest.raises(DataError, match="have a coordinate `fold` already"):
        to_folds(to_folds(left, 2), 2)
    with pytest.raises(ShapeError, match=r"the dimension `trial`, got \('row', 'unit'\)"):
        to_folds(trials.rename(trial="row"), 2)
    with pytest.raises(DTypeError, match="got ndarray"):
        to_folds(trials.values, 2)


@pytest.mark.parametrize("method", ["crossnobis", "poisson_cv"])
def test_the_errors_that_ask_for_folds_name_a_remedy_that_works(method):
    ids = [1, 2, 3] * 4
    trials = abs(make(ids))
    remedy = r"`softrsa\.recordings\.to_folds\(trials, 2\)` with `fold=\"fold\"`"
    with pytest.raises(UnknownNameError, match=rf"coordinate 'run'\. Known: stimulus.*{remedy}"):
        build_rdms(trials, method=method)
    with pytest.raises(ShapeError, match=remedy):
        build_rdms(trials.assign_coords(run=("trial", [1] * 12)), method=method)
    apart = trials.assign_coords(run=("trial", np.repeat([1, 2, 3, 4], 3)))[[0, 4, 8, 3, 7, 11]]
    with pytest.raises(DataError, match=remedy):
        build_rdms(apart, method=method)
    followed = build_rdms(to_folds(trials, 2), method=method, fold="fold", noise=None)
    if method == "crossnobis":
        x = trials.values.reshape(2, 2, 3, 4).mean(1)  # fold, repeat, stimulus, unit
        first, second = x[:, :, None] - x[:, None, :]
        expected = (first * second).mean(-1)
        np.testing.assert_allclose(followed, expected, rtol=0, atol=1e-12)
    assert np.isfinite(followed).all()


def test_stimuli_in_one_run_each_can_be_folded():
    trials = make([1, 1, 2, 2, 3, 3]).assign_coords(run=("trial", [1, 1, 2, 2, 3, 3]))
    with pytest.raises(DataError, match=r"in one `run` only .*softrsa\.recordings\.to_folds"):
        build_rdms(trials, over="all", noise=None)
    found = build_rdms(to_folds(trials, 2), fold="fold", noise=None)
    x = torch.from_numpy(trials.values.reshape(3, 2, 4)).movedim(1, 0)
    np.testing.assert_allclose(found, crossnobis(x), rtol=0, atol=1e-12)
