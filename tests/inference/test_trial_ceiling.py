"""Ceilings of one subject from trials: simulated truth, and hand calculation."""

import numpy as np
import pytest
import torch
import xarray as xr

from softrsa.alignment import NoCeilingWarning, align
from softrsa.errors import DataError, StimulusError
from softrsa.inference import trial_ceiling
from softrsa.measures import get
from softrsa.recordings import average_trials, half_means
from softrsa.rsm import similarity_matrix
from softrsa.transforms import double_center


def labelled(values, ids):
    return xr.DataArray(
        np.asarray(values), dims=("trial", "unit"), coords={"stimulus": ("trial", ids)}
    )


def simulated(seed, n=60, p=100, trials=4, snr=0.5):
    rng = np.random.default_rng(seed)
    signal = rng.normal(size=(n, 12)) @ rng.normal(size=(12, p)) * (snr / 12) ** 0.5
    ids = np.repeat(np.arange(n), trials)
    order = rng.permutation(len(ids))
    values = signal[ids] + rng.normal(size=(len(ids), p))
    return torch.from_numpy(signal), labelled(values[order], ids[order])


@pytest.mark.parametrize(
    ("measure", "similarity", "near"),
    [
        ("centered_pearson", "correlation", 0.02),
        ("pearson", "cosine", 0.02),
        ("cosine", "dot", 0.03),
        ("spearman", "correlation", 0.05),
        ("balanced_pearson", "correlation", 0.05),
    ],
)
def test_what_the_true_rsm_scores(measure, similarity, near):
    entry, errors = get(measure), []
    for seed in range(6):
        signal, trials = simulated(seed)
        truth = similarity_matrix(signal, similarity=similarity)
        mean = average_trials(trials).sortby("stimulus")
        data = similarity_matrix(torch.from_numpy(mean.values), similarity=similarity)
        found = trial_ceiling(trials, measure, similarity=similarity, n_splits=20)
        errors.append(found.upper - float(entry.between(truth, data)))
        assert found.lower == pytest.approx(found.upper**2)
    assert abs(np.mean(errors)) < near


def test_by_hand_with_two_trials():
    """With one trial on either side there is one split, and which half is first does not matter."""
    signal, trials = simulated(3, n=12, p=9, trials=2)
    first, second = half_means(trials, n_splits=1)[0]
    whole = (first + second) / 2
    a, b, c = (x - x.mean(1, keepdim=True) for x in (first, second, whole))
    own = [x.norm(dim=1, keepdim=True) for x in (a, b, c)]
    usual = ((own[0] ** 2 + own[1] ** 2) / 2).sqrt() / own[2]
    a, b, c = a / own[0] * usual, b / own[1] * usual, c / own[2]
    left, right, full = (double_center(x @ x.mT) for x in (a, b, c))
    expected = (left * right).sum() / full.square().sum()
    found = trial_ceiling(trials, n_splits=1)
    assert found.lower == pytest.approx(float(expected.clamp_min(0)), abs=1e-12)
    assert signal.shape == (12, 9)


def test_the_gain_of_single_trials_costs_no_correlation():
    """Patterns much alike, every trial of a stimulus as strong as it happens to be."""
    rng = np.random.default_rng(4)
    ids = np.repeat(np.arange(40), 4)
    signal = 3 + rng.normal(size=(1, 60)) + 0.5 * rng.normal(size=(40, 60))
    gain = rng.uniform(0.5, 1.5, size=(160, 1))
    trials = labelled(gain * signal[ids] + 0.2 * rng.normal(size=(160, 60)), ids)
    truth = similarity_matrix(torch.from_numpy(signal))
    data = similarity_matrix(torch.from_numpy(average_trials(trials).values))
    reached = float(get("pearson").between(truth, data))
    assert trial_ceiling(trials, "pearson").upper == pytest.approx(reached, abs=0.03)


def test_noise_alone_has_next_to_no_ceiling():
    rng = np.random.default_rng(0)
    trials = labelled(rng.normal(size=(240, 50)), np.repeat(np.arange(60), 4))
    assert trial_ceiling(trials).upper < 0.25


def test_aligned_trials_of_one_subject_have_a_ceiling():
    signal, trials = simulated(1, n=60, p=80, trials=3, snr=1.0)
    ids = np.arange(60)
    layer = xr.DataArray(
        signal.numpy()[::-1], dims=("stimulus", "unit"), coords={"stimulus": ids[::-1]}
    )
    result = align(
        {"true": layer}, {"V4": trials}, transforms=["identity", "geo_topological"],
        n_resamples=0,
    )  # fmt: skip
    table = result.table.set_index("transform")
    plain = table.loc["identity"]
    assert plain["score"] == pytest.approx(plain["ceiling_upper"], abs=0.03)
    assert plain["ceiling_lower"] < plain["ceiling_upper"]
    assert table["ceiling_upper"].notna().all()
    averaged = align(
        {"true": layer}, {"V4": average_trials(trials)}, transforms=["identity"], n_resamples=0
    )  # fmt: skip
    assert averaged.table["score"][0] == pytest.approx(plain["score"], abs=1e-12)
    assert averaged.table["ceiling_upper"].isna().all()


def test_a_stimulus_with_one_trial_costs_the_ceiling_and_says_so():
    signal, trials = simulated(1, n=40, p=20, trials=2)
    first = int(trials["stimulus"].values[0])
    trials = trials.isel(trial=slice(1, None))
    with pytest.raises(StimulusError, match=rf"1 stimulus has one trial only \({first}\)"):
        trial_ceiling(trials)
    layer = xr.DataArray(
        signal.numpy(), dims=("stimulus", "unit"), coords={"stimulus": np.arange(40)}
    )
    with pytest.warns(NoCeilingWarning, match=r"'V4' has no noise ceiling: 1 stimulus has one"):
        result = align({"a": layer}, {"V4": trials}, transforms=["identity"], n_resamples=0)
    assert result.table["ceiling_upper"].isna().all()


@pytest.mark.parametrize(
    ("measure", "similarity"),
    [
        ("stimulus_identification", "correlation"),
        ("kernel_cka", "dot"),
        ("pearson", "l2"),
        ("cknna", "correlation"),
    ],
)
def test_what_has_no_ceiling_is_refused(measure, similarity):
    _, trials = simulated(0, n=8, p=5, trials=2)
    with pytest.raises(
        DataError, match=rf"correlation of RSMs .* got '{measure}' and '{similarity}'"
    ):
        trial_ceiling(trials, measure, similarity=similarity)


def test_trials_whose_ids_are_spelled_otherwise_have_their_own_ceiling():
    signal, trials = simulated(1, n=40, p=60, trials=3, snr=1.0)
    names = np.array([f"Image_{i}.png" for i in range(40)])
    layer = xr.DataArray(signal.numpy(), dims=("stimulus", "unit"), coords={"stimulus": names})
    spelled = trials.assign_coords(
        stimulus=("trial", [f"image_{i}" for i in trials["stimulus"].values])
    )
    options = {"transforms": ["identity"], "n_resamples": 0}
    found = align({"a": layer}, {"V4": spelled}, ids="normalize", **options).table
    same = trials.assign_coords(stimulus=("trial", names[trials["stimulus"].values]))
    expected = align({"a": layer}, {"V4": same}, **options).table
    columns = ["score", "ceiling_lower", "ceiling_upper"]
    np.testing.assert_allclose(found[columns], expected[columns], atol=1e-9)


def test_layers_without_ids_are_not_matched_to_trials_by_place():
    signal, trials = simulated(1, n=20, p=10, trials=2)
    with pytest.raises(
        StimulusError, match=r"'V4' has single trials, .* the layers 'a' have no ids"
    ):
        align({"a": signal}, {"V4": trials}, transforms=["identity"], n_resamples=0)
