"""Epochs and averages that MNE-Python makes and writes."""

import warnings

import numpy as np
import pytest

import softrsa
from softrsa.errors import DataError, DTypeError, StimulusError, UnknownNameError
from softrsa.io import from_epochs
from softrsa.recordings import average_trials

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
