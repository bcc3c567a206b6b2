"""Against rsatoolbox itself: its objects, its HDF5 files, its tables."""

import builtins
import sys

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from rsatoolbox.data import Dataset, TemporalDataset
from rsatoolbox.rdm import RDMs, calc_rdm
from rsatoolbox.rdm.rdms import load_rdm

from softrsa import io
from softrsa.errors import (
    DataError,
    DTypeError,
    FileFormatError,
    FileMissingError,
    StimulusError,
    UnknownNameError,
)

PATTERNS = {"conds": ["face", "house", "chair", "dog"], "animate": [1, 0, 0, 1]}


@pytest.fixture
def rdms(rng):
    values = np.arange(24.0).reshape(4, 6)
    return RDMs(
        values,
        dissimilarity_measure="correlation",
        descriptors={"study": "x", "n_voxels": 3},
        rdm_descriptors={
            "subj": ["s1", "s1", "s2", "s2"],
            "roi": ["V1", "IT", "V1", "IT"],
            "voxels": [10, 20, 30, 40],
            "scanner": ["3T"] * 4,
        },
        pattern_descriptors=PATTERNS,
    )


def test_rdms_become_a_grid_with_all_their_descriptors(rdms):
    array = io.from_rsatoolbox(rdms)
    assert array.dims == ("region", "subject", "anchor", "neighbor")
    assert array["region"].values.tolist() == ["V1", "IT"]
    assert array["anchor"].values.tolist() == PATTERNS["conds"]
    for i, (subject, region) in enumerate([("s1", "V1"), ("s1", "IT"), ("s2", "V1"), ("s2", "IT")]):
        picked = array.sel(subject=subject, region=region)
        np.testing.assert_array_equal(picked.values, rdms.get_matrices()[i])
        assert picked["voxels"].item() == 10 * (i + 1)
    assert array["animate"].dims == ("anchor",)
    assert array["scanner"].item() == "3T"
    assert array.attrs == {
        "kind": "rdm", "study": "x", "n_voxels": 3, "dissimilarity_measure": "correlation",
        "stimulus_descriptor": "conds",
    }  # fmt: skip


def test_rdms_there_and_back_keep_everything(rdms):
    back = io.to_rsatoolbox(io.from_rsatoolbox(rdms))
    assert isinstance(back, RDMs)
    assert back.dissimilarity_measure == "correlation"
    assert back.descriptors == rdms.descriptors
    assert {k: list(v) for k, v in back.pattern_descriptors.items()} == {
        k: list(v) for k, v in rdms.pattern_descriptors.items()
    }
    # rows in the order of the grid, every one with its own labels and numbers
    by_label = {
        (s, r, v, c): row.tolist()
        for s, r, v, c, row in zip(
            *(back.rdm_descriptors[k] for k in ("subject", "region", "voxels", "scanner")),
            back.dissimilarities,
            strict=True,
        )
    }
    assert by_label == {
        (s, r, v, c): row.tolist()
        for s, r, v, c, row in zip(
            *(rdms.rdm_descriptors[k] for k in ("subj", "roi", "voxels", "scanner")),
            rdms.dissimilarities,
            strict=True,
        )
    }
    xr.testing.assert_identical(io.from_rsatoolbox(back), io.from_rsatoolbox(rdms))


def test_rows_that_are_not_there_are_nan_and_left_out_on_the_way_back(rdms):
    three = rdms.subset("voxels", [10, 20, 30])
    array = io.from_rsatoolbox(three)
    assert np.isnan(array.sel(subject="s2", region="IT")).all()
    assert np.isnan(array["voxels"].sel(subject="s2", region="IT"))
    back = io.to_rsatoolbox(array)
    assert sorted(map(tuple, back.dissimilarities)) == sorted(map(tuple, three.dissimilarities))


def test_one_rdm_has_no_leading_dimension_and_untold_ones_are_numbered():
    one = RDMs(np.array([[1.0, 2, 3]]), rdm_descriptors={"subj": ["s1"]})
    array = io.from_rsatoolbox(one)
    assert array.dims == ("anchor", "neighbor")
    assert (array["subject"].item(), array["anchor"].values.tolist()) == ("s1", [0, 1, 2])
    two = io.from_rsatoolbox(RDMs(np.ones((2, 3))))
    assert two["subject"].values.tolist() == [1, 2]


def test_rdms_of_the_same_labels_are_refused():
    labels = {"subj": ["s1", "s1", "s2"]}
    with pytest.raises(DataError, match=r"holds 2 RDMs of subject 's1'\. Average them"):
        io.from_rsatoolbox(RDMs(np.ones((3, 3)), rdm_descriptors=labels))
    with pytest.raises(DataError, match=r"holds 2 RDMs, all of subject 's1'"):
        io.from_rsatoolbox(RDMs(np.ones((2, 3)), rdm_descriptors={"subj": ["s1", "s1"]}))


def test_nan_pairs_are_missing_pairs():
    values = np.array([[1.0, np.nan, 2.0]])
    rdms = RDMs(values, pattern_descriptors={"conds": ["face", "house", "dog"]})
    found = io.from_rsatoolbox(rdms)
    np.testing.assert_array_equal(found, [[0, 1, np.nan], [1, 0, 2], [np.nan, 2, 0]])


@pytest.mark.parametrize("scalars", [False, True])
def test_hdf5_files_are_read_without_rsatoolbox(tmp_path, rdms, scalars, monkeypatch):
    if scalars:  # lists of unlike things, None, and non-ASCII
        rdms.descriptors |= {"missing": None, "runs": [1, 2, 3]}
    rdms.save(str(tmp_path / "rdms.h5"))
    expected = io.from_rsatoolbox(load_rdm(str(tmp_path / "rdms.h5")))
    monkeypatch.setitem(sys.modules, "rsatoolbox", None)
    array = io.load(tmp_path / "rdms.h5")
    assert array.attrs.pop("source_format") == "a file of rsatoolbox (HDF5)"
    assert array.dims == ("region", "subject", "anchor", "neighbor")
    assert array["subject"].values.tolist() == ["s1", "s2"]
    np.testing.assert_array_equal(array.values, expected.values)
    assert [*array.attrs.get("runs", [])] == ([1, 2, 3] if scalars else [])
    io.save(array, tmp_path / "rdms.nc")
    xr.testing.assert_identical(io.load(tmp_path / "rdms.nc"), array)


def test_what_was_converted_is_read_by_rsatoolbox(tmp_path, rdms):
    array = io.from_rsatoolbox(rdms)
    io.to_rsatoolbox(array).save(str(tmp_path / "back.h5"))
    assert isinstance(load_rdm(str(tmp_path / "back.h5")), RDMs)
    again = io.load(tmp_path / "back.h5")
    xr.testing.assert_equal(again, array)
    assert {**again.attrs, "source_format": None} == {**array.attrs, "source_format": None}


@pytest.fixture
def dataset():
    return Dataset(
        np.arange(12.0).reshape(4, 3),
        descriptors={"subject": "s1", "session": 2, "task": "rest"},
        obs_descriptors={"conds": ["a", "b", "c", "d"], "run": [1, 1, 2, 2]},
        channel_descriptors={"roi": ["V1", "V1", "IT"], "depth": [1, 2, 3]},
    )


def test_dataset_becomes_a_recording(dataset):
    array = io.from_rsatoolbox(dataset)
    assert array.dims == ("stimulus", "unit")
    np.testing.assert_array_equal(array.values, dataset.measurements)
    assert array["stimulus"].values.tolist() == ["a", "b", "c", "d"]
    assert array["region"].values.tolist() == ["V1", "V1", "IT"]
    assert array["subject"].values.tolist() == ["s1"] * 3
    assert array["session"].values.tolist() == [2] * 3
    assert array["run"].dims == ("stimulus",)
    assert array.attrs == {"task": "rest", "stimulus_descriptor": "conds"}


def test_dataset_there_and_back(dataset):
    array = io.from_rsatoolbox(dataset)
    back = io.to_rsatoolbox(array)
    assert isinstance(back, Dataset)
    assert back.descriptors == dataset.descriptors
    assert [*back.obs_descriptors["conds"]] == ["a", "b", "c", "d"]
    assert [*back.channel_descriptors["depth"]] == [1, 2, 3]
    xr.testing.assert_identical(io.from_rsatoolbox(back), array)
    # and rsatoolbox computes with it
    expected = calc_rdm(dataset, method="correlation", descriptor="conds").dissimilarities
    found = calc_rdm(back, method="correlation", descriptor="conds")
    np.testing.assert_array_equal(found.dissimilarities, expected)
    assert found.rdm_descriptors["subject"] == ["s1"]


def test_dataset_file_is_read(tmp_path, dataset):
    dataset.save(str(tmp_path / "data.h5"))
    array = io.load(tmp_path / "data.h5")
    xr.testing.assert_equal(array, io.from_rsatoolbox(dataset))


def test_labels_that_are_python_objects_describe_the_whole_too():
    array = xr.DataArray(
        np.eye(2), dims=("stimulus", "unit"), coords={"stimulus": ["face", "house"]}
    ).assign_coords(region=("unit", np.array(["V4", "V4"], dtype=object)))
    assert io.to_rsatoolbox(array).descriptors["region"] == "V4"


def test_repeated_stimuli_become_trials_and_come_back():
    data = Dataset(np.eye(3), obs_descriptors={"stim": ["a", "b", "a"]})
    array = io.from_rsatoolbox(data)
    assert array.dims == ("trial", "unit")
    back = io.to_rsatoolbox(array)
    assert [*back.obs_descriptors["stim"]] == ["a", "b", "a"]


def test_time_is_picked_or_asked_for():
    data = TemporalDataset(
        np.arange(24.0).reshape(4, 3, 2),
        obs_descriptors={"conds": list("abcd")},
        time_descriptors={"time": [50, 100]},
    )
    with pytest.raises(DataError, match=r"has 2 times \(50, 100\).*\(\.\.\., time=50\)`"):
        io.from_rsatoolbox(data)
    with pytest.raises(UnknownNameError, match=r"time 75\..*Known: 50, 100"):
        io.from_rsatoolbox(data, time=75)
    found = io.from_rsatoolbox(data, time=100)
    np.testing.assert_array_equal(found.values, data.measurements[:, :, 1])


def test_time_is_picked_from_a_file(tmp_path):
    data = TemporalDataset(
        np.arange(24.0).reshape(4, 3, 2),
        obs_descriptors={"conds": list("abcd")},
        time_descriptors={"time": [50, 100]},
    )
    data.save(str(tmp_path / "a.h5"))
    with pytest.raises(DataError, match=r"has 2 times \(50, 100\)"):
        io.load(tmp_path / "a.h5")
    found = io.from_rsatoolbox(tmp_path / "a.h5", time=100)
    np.testing.assert_array_equal(found.values, data.measurements[:, :, 1])
    with pytest.raises(FileMissingError, match=r"no file nowhere\.h5"):
        io.from_rsatoolbox("nowhere.h5")
    (tmp_path / "b.h5").write_bytes(b"text")
    with pytest.raises(FileFormatError, match=r"b\.h5 is no HDF5 file of rsatoolbox"):
        io.from_rsatoolbox(tmp_path / "b.h5")


def test_stimulus_descriptor_is_chosen_or_asked_for():
    data = Dataset(np.eye(2), obs_descriptors={"shape": ["o", "x"], "color": [1, 2]})
    with pytest.raises(StimulusError, match=r"`stimulus=`, one of 'shape', 'color'"):
        io.from_rsatoolbox(data)
    assert io.from_rsatoolbox(data, stimulus="color")["stimulus"].values.tolist() == [1, 2]
    with pytest.raises(UnknownNameError, match=r"'colour'\. Did you mean 'color'"):
        io.from_rsatoolbox(data, stimulus="colour")
    with pytest.raises(StimulusError, match="none"):
        io.from_rsatoolbox(Dataset(np.eye(2)))


def test_names_on_two_sides_are_refused():
    data = Dataset(
        np.eye(2),
        obs_descriptors={"conds": ["a", "b"], "name": [1, 2]},
        channel_descriptors={"name": ["x", "y"]},
    )
    with pytest.raises(DataError, match=r"on two sides: 'name'; rename"):
        io.from_rsatoolbox(data)


def test_other_objects_are_refused():
    with pytest.raises(DTypeError, match="RDMs of rsatoolbox, got ndarray"):
        io.from_rsatoolbox(np.eye(2))


def test_similarities_are_refused():
    rsm = xr.DataArray(
        np.eye(2), dims=("anchor", "neighbor"), coords={"anchor": [1, 2], "neighbor": [1, 2]}
    )
    with pytest.raises(DataError, match=r"holds dissimilarities.*1 - array"):
        io.to_rsatoolbox(rsm)


def test_missing_rsatoolbox_names_the_extra(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("rsatoolbox"):
            raise ImportError("No module named 'rsatoolbox'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    array = xr.DataArray(np.eye(2), dims=("stimulus", "unit"), coords={"stimulus": [1, 2]})
    with pytest.raises(FileMissingError, match=r"pip install softrsa\[rsatoolbox\]"):
        io.to_rsatoolbox(array)


def test_damaged_file_of_rsatoolbox(tmp_path):
    import h5py

    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.attrs["rsatoolbox_version"] = "0.3.2"
        file["other"] = np.eye(2)
    with pytest.raises(FileFormatError, match="neither dissimilarities nor measurements"):
        io.load(tmp_path / "a.h5")


labels = st.lists(st.text(min_size=1, max_size=5), min_size=2, max_size=4, unique=True)


@given(labels, labels, st.booleans())
def test_any_labels_survive_there_and_back(stimuli, subjects, integers):
    ids = list(range(len(stimuli))) if integers else stimuli
    n = len(ids)
    square = np.abs(np.subtract.outer(np.arange(n), np.arange(n))).astype(float)
    array = xr.DataArray(
        np.stack([square * (i + 1) for i in range(len(subjects))]),
        dims=("subject", "anchor", "neighbor"),
        coords={"subject": subjects, "anchor": ids, "neighbor": ids},
        attrs={"kind": "rdm"},
    )
    xr.testing.assert_identical(io.from_rsatoolbox(io.to_rsatoolbox(array)), array)
