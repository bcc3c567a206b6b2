"""Epochs and averages that MNE-Python makes and writes."""

import warnings

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import softrsa
from softrsa.errors import DataError, DTypeError, ShapeError, StimulusError, UnknownNameError
from softrsa.io import from_epochs, to_mne
from softrsa.recordings import average_trials, noise_precision, whiten_noise

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import mne

NAMES = {"face": 1, "house": 2, "tool": 7}
EVENTS = [1, 2, 7, 2, 1, 7, 7, 1]


def make(kinds=("eeg",) * 5, metadata=None):
    numbers = np.random.default_rng(0)
    info = mne.create_info([f"ch{i}" for i in range(len(kinds))], 100.0, [*kinds])
    events = np.column_stack([np.arange(8) * 100, np.zeros(8, int), EVENTS])
    return mne.EpochsArray(
        numbers.normal(size=(8, len(kinds), 20)) * 1e-6, info, events, -0.05, NAMES,
        metadata=metadata, verbose="error",
    )  # fmt: skip


def test_epochs_and_their_file_are_labelled_trials(tmp_path):
    epochs = make()
    epochs.info["bads"] = ["ch3"]
    found = from_epochs(epochs, subject="s1")
    assert found.dims == ("trial", "unit", "time")
    np.testing.assert_array_equal(found, epochs.get_data(copy=True)[:, [0, 1, 2, 4]])
    assert found["stimulus"].values.tolist()[:3] == ["face", "house", "tool"]
    assert found["unit"].values.tolist() == ["ch0", "ch1", "ch2", "ch4"]
    assert set(found["kind"].values) == {"eeg"}
    assert set(found["subject"].values) == {"s1"}
    np.testing.assert_allclose(found["time"], epochs.times)
    means = average_trials(found)
    np.testing.assert_allclose(
        means.sel(stimulus="house"), epochs["house"].average().get_data()[[0, 1, 2, 4]]
    )
    path = tmp_path / "sub-01-epo.fif"
    epochs.save(path, fmt="double", verbose="error")
    assert softrsa.io.recognize(path) == "epochs or averages of MNE-Python"
    again = softrsa.load(path)
    np.testing.assert_allclose(again, found, atol=1e-15)
    assert again["stimulus"].values.tolist() == found["stimulus"].values.tolist()


def test_averages_and_their_file_are_stimuli(tmp_path):
    epochs = make()
    averages = [epochs[name].average() for name in NAMES]
    for name, one in zip(NAMES, averages, strict=True):
        one.comment = name
    found = from_epochs(averages)
    assert found.dims == ("stimulus", "unit", "time")
    assert found["stimulus"].values.tolist() == [*NAMES]
    np.testing.assert_allclose(found.sel(stimulus="tool"), averages[2].get_data())
    mapped = from_epochs(dict(zip("abc", averages, strict=True)))
    assert mapped["stimulus"].values.tolist() == ["a", "b", "c"]
    path = tmp_path / "sub-01-ave.fif"
    mne.write_evokeds(path, averages, verbose="error")
    np.testing.assert_allclose(softrsa.load(path), found, rtol=1e-5)


def test_ids_from_metadata():
    import pandas as pd

    table = pd.DataFrame({"stimulus": [f"img{i % 4}" for i in range(8)], "run": [1, 2] * 4})
    epochs = make(metadata=table)
    assert from_epochs(epochs)["stimulus"].values.tolist() == table["stimulus"].tolist()
    assert from_epochs(epochs, stimulus="run")["stimulus"].values.tolist() == [1, 2] * 4
    assert from_epochs(epochs, stimulus="event")["stimulus"].values[2] == "tool"
    with pytest.raises(UnknownNameError, match="Unknown column of metadata 'rnu'"):
        from_epochs(epochs, stimulus="rnu")
    table.loc[3, "stimulus"] = None
    with pytest.raises(StimulusError, match="has no id for 1 of 8 trials"):
        from_epochs(make(metadata=table))


def test_the_baseline_whitens():
    epochs = make()
    samples = from_epochs(epochs, time=(-0.05, 0.0)).drop_vars("stimulus")
    samples = samples.stack(sample=("trial", "time"), create_index=False)
    precision = noise_precision(samples, method="full")
    baseline = epochs.copy().crop(None, 0.0).get_data(copy=True)
    covariance = np.cov(np.moveaxis(baseline, 1, 0).reshape(5, -1))
    np.testing.assert_allclose(precision, np.linalg.inv(covariance), rtol=1e-6)
    white = whiten_noise(samples, precision)
    np.testing.assert_allclose(np.cov(white), np.eye(5), atol=1e-9)


def test_what_is_refused(tmp_path):
    mixed = make(("mag", "mag", "grad"))
    with pytest.raises(DataError, match=r"2 mag, 1 grad\. Take one, .*picks='mag'"):
        from_epochs(mixed)
    assert from_epochs(mixed, picks="grad").sizes["unit"] == 1
    with pytest.raises(DataError, match=r"`picks='ecog'` finds no good channel; .* 'grad', 'mag'"):
        from_epochs(mixed, picks="ecog")
    with pytest.raises(DTypeError, match=r"must be epochs of MNE-Python, .* got ndarray"):
        from_epochs(np.zeros((3, 4, 5)))
    same = [make()["face"].average()] * 2
    with pytest.raises(StimulusError, match="Each average needs a name of its own"):
        from_epochs(same)
    shorter = {"a": same[0], "b": same[0].copy().crop(0.0, 0.1)}
    with pytest.raises(DataError, match="'b' has 5 channels and 11 times, the first 5 and 20"):
        from_epochs(shorter)


def test_times_and_ids_as_given():
    epochs = make()
    found = from_epochs(epochs, stimulus=range(8), time=(0.0, 0.05))
    assert found["stimulus"].values.tolist() == [*range(8)]
    kept = epochs.copy().crop(0.0, 0.05)
    np.testing.assert_array_equal(found, kept.get_data(copy=True))
    np.testing.assert_allclose(found["time"], kept.times)
    with pytest.raises(DataError, match=r"No time is from 1 to 2 s; there are -0\.05 to 0\.14 s"):
        from_epochs(epochs, time=(1, 2))
    with pytest.raises(DataError, match=r"first and the last time in s, got \(0\.1, 0\)"):
        from_epochs(epochs, time=(0.1, 0))
    with pytest.raises(ShapeError, match=r"one id for each of 8 trials, got the shape \(2,\)"):
        from_epochs(epochs, stimulus=["a", "b"])
    with pytest.raises(DataError, match="`labels` has no meaning for sensors"):
        from_epochs(epochs, labels=[])
    with pytest.raises(DataError, match="`stimulus` has no meaning for averages: their ids are"):
        from_epochs({"a": epochs.average()}, stimulus="run")


VERTICES = [np.array([1, 4, 7]), np.array([0, 4])]


def estimates(n=6):
    values = np.random.default_rng(2).normal(size=(n, 5, 4))
    return values, [mne.SourceEstimate(one, VERTICES, -0.1, 0.1, subject="s1") for one in values]


def label(vertices, name, hemi="lh"):
    return mne.Label(vertices, hemi=hemi, name=f"{name}-{hemi}", subject="s1")


def test_source_estimates_are_trials_or_stimuli():
    values, given = estimates()
    found = from_epochs(given, stimulus=["a", "b", "c"] * 2, subject="s1")
    assert found.dims == ("trial", "unit", "time")
    np.testing.assert_array_equal(found, values)
    assert found["unit"].values.tolist() == ["lh:1", "lh:4", "lh:7", "rh:0", "rh:4"]
    assert found["space"].values.tolist() == ["lh"] * 3 + ["rh"] * 2
    np.testing.assert_allclose(found["time"], [-0.1, 0.0, 0.1, 0.2])
    means = average_trials(found)
    np.testing.assert_allclose(means, (values[:3] + values[3:]) / 2)
    mapped = from_epochs(dict(zip("abcdef", given, strict=True)), time=(0, 0.1))
    assert mapped.dims == ("stimulus", "unit", "time")
    np.testing.assert_array_equal(mapped, values[:, :, 1:3])
    assert mapped["stimulus"].values.tolist() == [*"abcdef"]
    volume = mne.VolSourceEstimate(values[0], [np.array([2, 3, 5, 8, 9])], 0.0, 0.1)
    assert from_epochs({"a": volume})["unit"].values[-1] == "0:9"


def test_labels_are_regions():
    values, given = estimates()
    labels = [label([1, 7, 8], "V1"), label([4], "IT", "rh")]
    found = from_epochs(given, stimulus=range(6), labels=labels)
    assert found["region"].values.tolist() == ["V1-lh", "V1-lh", "IT-rh"]
    np.testing.assert_array_equal(found, values[:, [0, 2, 4]])
    for one in given:  # their own way to take the vertices of a label
        np.testing.assert_array_equal(one.in_label(labels[0]).data, one.data[[0, 2]])
    with pytest.raises(DataError, match=r"1 vertex of label 'V2-lh', also in 'V1-lh': a"):
        from_epochs(given, stimulus=range(6), labels=[*labels, label([1, 4], "V2")])
    with pytest.raises(DataError, match=r"1 label of 3 have none of the vertices \('MT-lh'\)"):
        from_epochs(given, stimulus=range(6), labels=[*labels, label([2, 3], "MT")])


def test_source_estimates_that_do_not_fit():
    values, given = estimates()
    with pytest.raises(StimulusError, match="6 source estimates have no stimulus ids"):
        from_epochs(given)
    with pytest.raises(ShapeError, match=r"each of 6 source estimates, got the shape \(2,\)"):
        from_epochs(given, stimulus=[1, 2])
    with pytest.raises(DataError, match="`picks` has no meaning for source estimates"):
        from_epochs(given, stimulus=range(6), picks="mag")
    other = mne.SourceEstimate(values[0], [VERTICES[0], np.array([0, 5])], -0.1, 0.1)
    with pytest.raises(DataError, match=r"same vertices and times .* that of 'b' has others"):
        from_epochs({"a": given[0], "b": other})
    with pytest.raises(DataError, match=r"'b' has the shape \(5, 3\), the first \(5, 4\)"):
        from_epochs({"a": given[0], "b": given[0].copy().crop(0.0, 0.2)})
    vector = mne.VectorSourceEstimate(np.zeros((5, 3, 4)), VERTICES, -0.1, 0.1)
    with pytest.raises(DataError, match=r"of the shape \(5, 3, 4\).*`stc\.magnitude\(\)`"):
        from_epochs({"a": vector})


def test_scores_of_sensors_are_maps():
    montage = mne.channels.make_standard_montage("biosemi16")
    info = mne.create_info(montage.ch_names, 1000.0, "eeg").set_montage(montage)
    names = [montage.ch_names[i] for i in (5, 0, 9)]
    values = np.random.default_rng(0).normal(size=(3, 7))
    times = np.arange(7) * 0.02 - 0.04
    scores = xr.DataArray(values.T, dims=("time", "unit"), coords={"unit": names, "time": times})
    found = to_mne(scores, info, comment="fc")
    assert isinstance(found, mne.EvokedArray)
    assert (found.ch_names, found.comment, found.info["sfreq"]) == (names, "fc", 50.0)
    np.testing.assert_array_equal(found.data, values)
    np.testing.assert_allclose(found.times, times)
    places = info.get_montage().get_positions()["ch_pos"]
    for name, place in found.get_montage().get_positions()["ch_pos"].items():
        np.testing.assert_allclose(place, places[name])
    one = to_mne(scores.sel(time=times[3]), found)
    np.testing.assert_array_equal(one.data[:, 0], values[:, 3])
    np.testing.assert_allclose(one.times, times[3:4])
    assert info["sfreq"] == 1000.0
    assert from_epochs({"a": found})["unit"].values.tolist() == names


def test_scores_of_vertices_and_regions_are_source_estimates():
    values, given = estimates(1)
    array = from_epochs({"a": given[0]}).sel(stimulus="a")
    found = to_mne(array[[4, 0, 2]], given[0])
    assert isinstance(found, mne.SourceEstimate)
    np.testing.assert_array_equal(found.data, values[0][[0, 2, 4]])
    assert [part.tolist() for part in found.vertices] == [[1, 7], [4]]
    np.testing.assert_allclose(found.times, given[0].times, atol=1e-12)
    labels = [label([1, 7], "V1"), label([4], "IT", "rh")]
    regions = xr.DataArray([0.5, 0.25], dims="region", coords={"region": ["IT-rh", "V1-lh"]})
    spread = to_mne(regions, given[0], labels=labels)
    assert spread.data[:, 0].tolist() == [0.25, 0.25, 0.5]
    assert [part.tolist() for part in spread.vertices] == [[1, 7], [4]]
    with pytest.raises(DataError, match="Regions are put on vertices by `labels=`"):
        to_mne(regions, given[0])
    with pytest.raises(UnknownNameError, match=r"Unknown label 'IT-rh'.*V1-lh"):
        to_mne(regions, given[0], labels=labels[:1])
    with pytest.raises(UnknownNameError, match=r"Unknown vertex 'lh:2'"):
        to_mne(array.assign_coords(unit=["lh:2", "lh:4", "lh:7", "rh:0", "rh:4"]), given[0])


def test_maps_that_cannot_be_made():
    info = mne.create_info(["a", "b"], 100.0, "eeg")
    scores = xr.DataArray([0.1, 0.2], dims="unit", coords={"unit": ["a", "b"]})
    np.testing.assert_array_equal(to_mne(scores, info).data, [[0.1], [0.2]])
    with pytest.raises(UnknownNameError, match=r"Unknown channel 'c'.*Known: a, b"):
        to_mne(scores.assign_coords(unit=["a", "c"]), info)
    with pytest.raises(DataError, match="Each unit needs a name of its own"):
        to_mne(scores.assign_coords(unit=["a", "a"]), info)
    with pytest.raises(DTypeError, match=r"`like` must be an Info of MNE-Python.* got list"):
        to_mne(scores, ["a", "b"])
    with pytest.raises(ShapeError, match=r"\(unit\) or \(unit, time\), got \('layer', 'unit'\)"):
        to_mne(scores.expand_dims("layer"), info)
    uneven = scores.expand_dims(time=[0.0, 0.1, 0.3])
    with pytest.raises(DataError, match=r"their steps are from 0\.1 to 0\.2 s"):
        to_mne(uneven, info)


@pytest.mark.filterwarnings("ignore:The inplace keyword")  # of MNE's reading, under pandas 3.1
def test_load_takes_a_kind_of_channels_and_a_column(tmp_path):
    metadata = pd.DataFrame({"image": [f"image {i % 3}" for i in range(8)]})
    epochs = make(("eeg", "eeg", "mag", "mag", "mag"), metadata)
    path = tmp_path / "s-epo.fif"
    epochs.save(path, fmt="double", verbose="error")
    with pytest.raises(DataError, match=r"2 eeg, 3 mag\. Take one.*`--variable recordings:eeg`"):
        softrsa.load(path)
    found = softrsa.load(path, variable="mag")
    np.testing.assert_array_equal(found, epochs.get_data(picks="mag"))
    named = softrsa.load(path, variable="eeg/image")
    assert named["stimulus"].values.tolist() == metadata["image"].tolist()
    np.testing.assert_array_equal(named, epochs.get_data(picks="eeg"))
