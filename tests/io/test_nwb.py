"""Spikes in NWB files that pynwb writes, and in pynapple's objects, counted by hand and NumPy."""

import datetime
import importlib.util
import warnings

import numpy as np
import pandas as pd
import pytest

import softrsa
from softrsa.errors import (
    DataError,
    DTypeError,
    FileFormatError,
    FileMissingError,
    ShapeError,
    StimulusError,
    UnknownNameError,
)
from softrsa.io import ReadingWarning, from_nwb

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import pynwb
    from pynwb.epoch import TimeIntervals

STARTS = np.arange(12) * 1.5
IDS = ["face", "house", "tool"] * 4
RNG = np.random.default_rng(5)
TRAINS = [np.sort(RNG.uniform(-1, 20, 400)) for _ in range(4)]


def made(*, trains=TRAINS, observed=None, trials=True, places=("V1", "V1", "V4", "IT")):
    """An NWB file in memory: units with electrodes and quality, and trials."""
    nwb = pynwb.NWBFile("made up", "1", datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC))
    nwb.subject = pynwb.file.Subject(subject_id="mouse 7", species="Mus musculus")
    group = nwb.create_electrode_group(
        "shank", "of a probe", location="brain", device=nwb.create_device("probe")
    )
    for place in places:
        nwb.add_electrode(group=group, location=place)
    nwb.add_unit_column("quality", "by eye")
    nwb.add_unit_column("snr", "signal to noise")
    for i, train in enumerate(trains):
        more = {} if observed is None else {"obs_intervals": observed[i]}
        quality = "good" if i != 2 else "mua"
        nwb.add_unit(
            spike_times=train, electrodes=[i], quality=quality, snr=i + 0.5, id=10 + i, **more
        )
    if trials:
        nwb.add_trial_column("image", "what is shown")
        nwb.add_trial_column("block", "of trials")
        for i, start in enumerate(STARTS):
            nwb.add_trial(start_time=start, stop_time=start + 1, image=IDS[i], block=i // 3)
    return nwb


def add_presentations(nwb, name, starts, duration=0.25, **columns):
    table = TimeIntervals(name=name, description="shown")
    for key in columns:
        table.add_column(key, "of each")
    for i, start in enumerate(starts):
        values = {key: column[i] for key, column in columns.items()}
        table.add_interval(start_time=start, stop_time=start + duration, tags=["x"], **values)
    nwb.add_time_intervals(table)


def saved(nwb, folder):
    path = folder / "session.nwb"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pynwb.NWBHDF5IO(path, "w") as io:
            io.write(nwb)
    return path


def by_histogram(edges):
    return np.stack(
        [[np.histogram(train, start + edges)[0] for train in TRAINS] for start in STARTS]
    ).astype(float)


def test_counts_of_a_file_are_those_of_histograms(tmp_path):
    path = saved(made(), tmp_path)
    counts = from_nwb(path, window=(-0.1, 0.4), bin_width=0.05)
    assert counts.dims == ("trial", "unit", "time")
    assert counts.dtype == np.float64
    edges = np.linspace(-0.1, 0.4, 11)
    np.testing.assert_array_equal(counts, by_histogram(edges))
    np.testing.assert_allclose(counts["time"], (edges[:-1] + edges[1:]) / 2)
    one = from_nwb(path, window=(-0.1, 0.4))
    assert one.dims == ("trial", "unit")
    np.testing.assert_array_equal(one, by_histogram(edges[[0, -1]])[:, :, 0])
    np.testing.assert_array_equal(one, counts.sum("time"))


def test_labels_of_units_and_trials(tmp_path):
    found = from_nwb(saved(made(), tmp_path), window=(0, 0.5))
    assert found["stimulus"].values.tolist() == IDS
    assert found["block"].values.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    np.testing.assert_array_equal(found["start_time"], STARTS)
    assert found["unit"].values.tolist() == [10, 11, 12, 13]
    assert found["region"].values.tolist() == ["V1", "V1", "V4", "IT"]
    assert found["quality"].values.tolist() == ["good", "good", "mua", "good"]
    assert found["snr"].values.tolist() == [0.5, 1.5, 2.5, 3.5]
    assert found["subject"].values.tolist() == ["mouse 7"] * 4
    assert found.attrs == {"window": [0.0, 0.5], "trials_from": "trials"}
    path = tmp_path / "counts.nc"
    softrsa.io.save(found, path)
    again = softrsa.load(path)
    np.testing.assert_array_equal(again, found)
    assert again["quality"].values.tolist() == ["good", "good", "mua", "good"]


def test_spikes_at_edges_are_counted_once_in_what_begins_there():
    times = np.array([0.1, 0.2, 0.3, 0.4, 0.5])  # 0.1 + 0.2 is above 0.3 in float64
    nwb = made(trains=[times], trials=False)
    table = pd.DataFrame({"start_time": [0.1, 0.2], "stimulus": ["a", "b"]})
    counts = from_nwb(nwb, trials=table, window=(0, 0.3), bin_width=0.1)
    assert counts[0, 0].values.tolist() == [1, 1, 1]  # from 0.1 up to 0.4, without it
    assert counts[1, 0].values.tolist() == [1, 1, 1]  # overlaps the first
    assert from_nwb(nwb, trials=table, window=(0.1, 0.3)).values.tolist() == [[2], [2]]
    unsorted = made(trains=[times[::-1].copy()], trials=False)
    np.testing.assert_array_equal(
        from_nwb(unsorted, trials=table, window=(0, 0.3), bin_width=0.1), counts
    )


def test_some_units_in_the_order_asked_for(tmp_path):
    path = saved(made(), tmp_path)
    found = from_nwb(path, window=(0, 0.5), units=[13, 10], subject="m7")
    everything = from_nwb(path, window=(0, 0.5))
    np.testing.assert_array_equal(found, everything[:, [3, 0]])
    assert found["region"].values.tolist() == ["IT", "V1"]
    assert found["subject"].values.tolist() == ["m7", "m7"]
    with pytest.raises(UnknownNameError, match=r"Unknown unit 14.*Known: 10, 11, 12, 13"):
        from_nwb(path, window=(0, 0.5), units=[14])
    with pytest.raises(DTypeError, match="a row of unit ids, got 'good'"):
        from_nwb(path, window=(0, 0.5), units="good")


def test_regions_where_files_have_them():
    nwb = made(trials=False)
    table = pd.DataFrame({"start_time": [0.0, 1.0], "stimulus": ["a", "b"]})
    nwb.add_unit_column("brain_area", "by histology", data=["a", "b", "c", "d"])
    found = from_nwb(nwb, trials=table, window=(0, 1))
    assert found["region"].values.tolist() == ["a", "b", "c", "d"]
    found = from_nwb(nwb, trials=table, window=(0, 1), region="location")
    assert found["region"].values.tolist() == ["V1", "V1", "V4", "IT"]
    nwb.add_unit_column("structure", "by hand", data=["e", "f", "g", "h"])
    with pytest.raises(DataError, match=r"'brain_area', 'structure' .*region='brain_area'"):
        from_nwb(nwb, trials=table, window=(0, 1))
    found = from_nwb(nwb, trials=table, window=(0, 1), region="structure")
    assert found["region"].values.tolist() == ["e", "f", "g", "h"]
    with pytest.raises(
        UnknownNameError, match=r"Unknown column of regions .*'hemisphere'.*quality"
    ):
        from_nwb(nwb, trials=table, window=(0, 1), region="hemisphere")


def test_a_unit_on_electrodes_in_two_places_has_both():
    nwb = pynwb.NWBFile("made up", "1", datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC))
    group = nwb.create_electrode_group("s", "of", location="b", device=nwb.create_device("p"))
    for place in ("V1", "V1", "V2"):
        nwb.add_electrode(group=group, location=place)
    nwb.add_unit(spike_times=[0.1], electrodes=[0, 1])
    nwb.add_unit(spike_times=[0.1], electrodes=[1, 2])
    table = pd.DataFrame({"start_time": [0.0, 1.0], "stimulus": ["a", "b"]})
    found = from_nwb(nwb, trials=table, window=(0, 1))
    assert found["region"].values.tolist() == ["V1", "V1+V2"]


def test_regions_by_peak_channel_and_by_group():
    table = pd.DataFrame({"start_time": [0.0, 1.0], "stimulus": ["a", "b"]})
    nwb = pynwb.NWBFile("made up", "1", datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC))
    group = nwb.create_electrode_group("s", "of", location="CA1", device=nwb.create_device("p"))
    for i, place in enumerate(("VISp", "LGd")):
        nwb.add_electrode(group=group, location=place, id=850 + i)
    nwb.add_unit_column("peak_channel_id", "as the Allen Institute has it")
    for channel in (851, 850):
        nwb.add_unit(spike_times=[0.1], peak_channel_id=channel)
    assert from_nwb(nwb, trials=table, window=(0, 1))["region"].values.tolist() == ["LGd", "VISp"]
    nwb = pynwb.NWBFile("made up", "1", datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC))
    group = nwb.create_electrode_group("s", "of", location="CA1", device=nwb.create_device("p"))
    nwb.add_unit(spike_times=[0.1], electrode_group=group)
    assert from_nwb(nwb, trials=table, window=(0, 1))["region"].values.tolist() == ["CA1"]


def test_presentations_of_the_allen_institute(tmp_path):
    nwb = made(trials=False)
    frames = [0.0, 3.0, 0.0, 3.0, -1.0, -1.0]
    add_presentations(
        nwb, "natural_scenes_presentations", STARTS[:6],
        stimulus_name=["natural_scenes"] * 6, frame=frames, stimulus_block=[2.0] * 6,
    )  # fmt: skip
    add_presentations(nwb, "gabors_presentations", STARTS[6:], orientation=[0.0, 22.5] * 3)
    path = saved(nwb, tmp_path)
    both = r"'gabors_presentations' \(6 rows\), 'natural_scenes_presentations' \(6 rows\)"
    with pytest.raises(DataError, match=f"{both}.*trials='gabors_presentations'"):
        from_nwb(path)
    name = "natural_scenes_presentations"
    with pytest.raises(StimulusError, match=r"'frame' \(3 values\).*stimulus='stimulus_name'"):
        from_nwb(path, trials=name)
    found = from_nwb(path, trials=name, stimulus="frame")
    assert found["stimulus"].values.tolist() == [0, 3, 0, 3, -1, -1]
    assert found["stimulus"].dtype == np.int64
    assert found.attrs["window"] == [0.0, 0.25]
    expected = by_histogram(np.array([0, 0.25]))[:6, :, 0]
    np.testing.assert_array_equal(found, expected)
    with pytest.warns(ReadingWarning, match=r"from 0 to 0\.25 s of each row of 'natural_scenes"):
        read = softrsa.load(path, variable=f"{name}/frame")
    np.testing.assert_array_equal(read, expected)
    gabors = from_nwb(path, trials="gabors_presentations", stimulus="orientation")
    assert gabors["stimulus"].values.tolist() == ["0.0", "22.5"] * 3


def test_load_reads_whole_trials_of_the_only_table(tmp_path):
    path = saved(made(), tmp_path)
    assert softrsa.io.recognize(path) == "spikes of NWB"
    with pytest.warns(ReadingWarning, match="from 0 to 1 s of each row of 'trials'"):
        found = softrsa.load(path)
    np.testing.assert_array_equal(found, by_histogram(np.array([0, 1.0]))[:, :, 0])
    assert found.attrs["source_format"] == "spikes of NWB"
    with pytest.warns(ReadingWarning):
        assert set(softrsa.load(path, variable="block")["stimulus"].values) == {0, 1, 2, 3}
    with pytest.warns(ReadingWarning):
        means = softrsa.load(path, trials="mean")
    np.testing.assert_allclose(
        means.sel(stimulus="house"), by_histogram(np.array([0, 1.0]))[1::3, :, 0].mean(0)
    )


def test_what_was_not_recorded():
    whole, late = [[-1.0, 30.0]], [[-1.0, 3.2], [3.2, 10.0]]  # intervals that touch are one
    nwb = made(observed=[whole, whole, late, [[2.0, 30.0]]])
    options = {"window": (0.0, 0.5)}
    # trial 7 begins at 10.5 s, after unit 12; trials 0 and 1, at 0 and 1.5 s, before unit 13
    with pytest.raises(DataError, match=r"2 of 4 units \(12, 13\) .* 7 of 12 trials \(rows 0, 1,"):
        from_nwb(nwb, **options)
    counts = by_histogram(np.array([0, 0.5]))[:, :, 0]
    trials = from_nwb(nwb, gaps="trials", **options)
    np.testing.assert_array_equal(trials, counts[2:7])
    assert trials["stimulus"].values.tolist() == IDS[2:7]
    units = from_nwb(nwb, gaps="units", **options)
    np.testing.assert_array_equal(units, counts[:, :2])
    assert units["unit"].values.tolist() == [10, 11]
    holes = from_nwb(nwb, gaps="nan", **options)
    counts[7:, 2] = counts[:2, 3] = np.nan
    np.testing.assert_array_equal(holes, counts)
    with pytest.raises(UnknownNameError, match=r"`gaps`.*'mean'.*nan, units, trials"):
        from_nwb(nwb, gaps="mean", **options)


def test_invalid_times_are_no_trials(tmp_path):
    nwb = made()
    nwb.add_invalid_time_interval(start_time=3.4, stop_time=4.5)  # the end of trial 2, up to 3
    path = saved(nwb, tmp_path)
    with pytest.raises(DataError, match=r"throughout the windows of 1 of 12 trials \(rows 2\)"):
        from_nwb(path, window=(0, 0.5))
    kept = from_nwb(path, window=(0, 0.5), gaps="trials")
    expected = np.delete(by_histogram(np.array([0, 0.5]))[:, :, 0], 2, axis=0)
    np.testing.assert_array_equal(kept, expected)
    assert from_nwb(path, window=(0, 0.4)).sizes["trial"] == 12
    with pytest.raises(DataError, match=r'`gaps="units"` leaves nothing.*4 windows of 48'):
        from_nwb(path, window=(0, 0.5), gaps="units")


def test_onsets_in_another_column_and_missing_times():
    nwb = made()
    table = nwb.trials.to_dataframe()
    table["go"] = table["start_time"] + 0.25
    found = from_nwb(nwb, trials=table, onset="go", window=(0, 0.5))
    np.testing.assert_array_equal(found, by_histogram(np.array([0.25, 0.75]))[:, :, 0])
    with pytest.raises(DataError, match=r"Give `window=\(start, stop\)`"):
        from_nwb(nwb, trials=table, onset="go")
    table.loc[[3, 8], "go"] = np.nan
    with pytest.raises(DataError, match=r"2 of 12 trials have no 'go' \(rows 3, 8\)"):
        from_nwb(nwb, trials=table, onset="go", window=(0, 0.5))
    left = table[table["go"].notna()]  # as the error says
    assert from_nwb(nwb, trials=left, onset="go", window=(0, 0.5)).sizes["trial"] == 10
    with pytest.raises(UnknownNameError, match=r"Unknown column of times .*'goo'.*'go'"):
        from_nwb(nwb, trials=table, onset="goo", window=(0, 0.5))
    with pytest.raises(DataError, match="`onset='image'` must be a column of times"):
        from_nwb(nwb, trials=table, onset="image", window=(0, 0.5))


def test_windows_that_make_no_sense():
    nwb = made()
    with pytest.raises(DataError, match=r"no whole number of bins of 0\.2 s: 2\.5\. .*\(0, 0\.4\)"):
        from_nwb(nwb, window=(0, 0.5), bin_width=0.2)
    with pytest.raises(DataError, match=r"two numbers, .* got \(0\.5, 0\.1\)"):
        from_nwb(nwb, window=(0.5, 0.1))
    with pytest.raises(DataError, match=r"`window` must be finite, got \(0, inf\)"):
        from_nwb(nwb, window=(0, np.inf))
    with pytest.raises(DataError, match=r"`bin_width` must be a positive number of s, got -1"):
        from_nwb(nwb, window=(0, 0.5), bin_width=-1)
    nwb.add_trial(start_time=30.0, stop_time=30.6, image="face", block=4)
    with pytest.raises(DataError, match=r"last 0\.6 to 1 s, .*window=\(0, 0\.6\)"):
        from_nwb(nwb)


def test_ids_that_are_missing_or_in_doubt():
    nwb = made()
    assert from_nwb(nwb, stimulus=range(12))["stimulus"].values.tolist() == [*range(12)]
    with pytest.raises(ShapeError, match=r"one id for each of 12 trials, got the shape \(3,\)"):
        from_nwb(nwb, stimulus=["a", "b", "c"])
    with pytest.raises(UnknownNameError, match=r"Unknown column of stimulus ids .*'imag'.*'image'"):
        from_nwb(nwb, stimulus="imag")
    table = nwb.trials.to_dataframe()
    table["condition"] = table["block"]
    with pytest.raises(StimulusError, match=r"Several .*'image' \(3 .*'condition' \(4 values\)"):
        from_nwb(nwb, trials=table)
    table["tags"] = [["x"]] * 12  # a list for each trial is no label
    table["answer"] = ["left", None] * 6
    found = from_nwb(nwb, trials=table, stimulus="image", window=(0, 0.5))
    assert found["answer"].values.tolist() == ["left", ""] * 6
    assert "tags" not in found.coords
    with pytest.raises(StimulusError, match=r"'answer' has no id for 6 of 12 .*\(rows 1, 3, 5"):
        from_nwb(nwb, trials=table, stimulus="answer")
    table.loc[[1, 2], "image"] = ""
    with pytest.raises(StimulusError, match=r"'image' has no id for 2 of 12 trials \(rows 1, 2\)"):
        from_nwb(nwb, trials=table, stimulus="image")


def test_files_without_what_is_needed(tmp_path, monkeypatch):
    with pytest.raises(FileMissingError, match="There is no file"):
        from_nwb(tmp_path / "nothing.nwb")
    (tmp_path / "text.nwb").write_text("no")
    with pytest.raises(FileFormatError, match=r"text\.nwb is not a file of NWB 2"):
        from_nwb(tmp_path / "text.nwb")
    with pytest.raises(DTypeError, match=r"must be the path of an NWB file, .* got ndarray"):
        from_nwb(np.zeros(3))
    with pytest.raises(DTypeError, match=r"`trials` must be the name of a table.* got int"):
        from_nwb(made(), trials=3)
    with pytest.raises(DataError, match="has no table of trials"):
        from_nwb(made(trials=False))
    empty = pynwb.NWBFile("made up", "1", datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC))
    with pytest.raises(DataError, match="has no units with spike times"):
        from_nwb(empty)
    path = saved(made(), tmp_path)
    monkeypatch.setattr("softrsa.io.nwb.find_spec", lambda name: None)
    with pytest.raises(FileMissingError, match=r'pip install "softrsa\[ephys\]"'):
        softrsa.load(path)
    assert importlib.util.find_spec("pynwb") is not None


def test_pynapple_has_the_same_counts():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pynapple = pytest.importorskip("pynapple")  # it brings numba, 200 MB: not in `dev`
    support = pynapple.IntervalSet(-1.0, 30.0)
    trains = {10 + i: pynapple.Ts(train) for i, train in enumerate(TRAINS)}
    group = pynapple.TsGroup(
        trains, time_support=support, metadata={"region": ["V1", "V1", "V4", "IT"]}
    )
    trials = pynapple.IntervalSet(STARTS, STARTS + 1, metadata={"image": IDS})
    found = from_nwb(group, trials=trials, window=(-0.1, 0.4), bin_width=0.1)
    np.testing.assert_array_equal(found, by_histogram(np.linspace(-0.1, 0.4, 6)))
    assert found["stimulus"].values.tolist() == IDS
    assert found["region"].values.tolist() == ["V1", "V1", "V4", "IT"]
    theirs = np.array(
        [[len(group[unit].restrict(trials[i])) for unit in trains] for i in range(12)]
    )
    np.testing.assert_array_equal(from_nwb(group, trials=trials), theirs)
    plain = from_nwb(group, trials=pynapple.IntervalSet(STARTS, STARTS + 1), stimulus=IDS)
    np.testing.assert_array_equal(plain, theirs)
    short = group.restrict(pynapple.IntervalSet(0.0, 5.0))
    with pytest.raises(DataError, match=r"windows of 9 of 12 trials \(rows 3, 4, 5"):
        from_nwb(short, trials=trials)
    with pytest.raises(DTypeError, match="pynapple need `trials`"):
        from_nwb(group)
