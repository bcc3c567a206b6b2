"""BrainIO's assemblies: in memory with MultiIndexes, on disk with these reset."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from softrsa import io
from softrsa.errors import DTypeError, FileMissingError, ShapeError, StimulusError, UnknownNameError

VALUES = np.array([[1.0, 2, 3], [4, 5, 6], [3, 4, 7], [0, 1, 0]])


def assembly(stimulus="stimulus_id", bins=None):
    """Make what `NeuroidAssembly` holds: labels as levels of a MultiIndex per dimension."""
    presentation = pd.MultiIndex.from_arrays(
        [["im2", "im1", "im2", "im3"], [0, 0, 1, 0], ["car", "face", "car", "face"]],
        names=[stimulus, "repetition", "object_name"],
    )
    neuroid = pd.MultiIndex.from_arrays(
        [["n0", "n1", "n2"], ["V4", "IT", "IT"], ["m", "m", "n"], [1, 2, 3]],
        names=["neuroid_id", "region", "animal", "x"],
    )
    coords = xr.Coordinates.from_pandas_multiindex(presentation, "presentation")
    coords |= xr.Coordinates.from_pandas_multiindex(neuroid, "neuroid")
    dims, values = ["presentation", "neuroid"], VALUES
    if bins:
        times = pd.MultiIndex.from_tuples(bins, names=["time_bin_start", "time_bin_end"])
        coords |= xr.Coordinates.from_pandas_multiindex(times, "time_bin")
        dims, values = [*dims, "time_bin"], VALUES[..., None] + np.arange(len(bins))
    return xr.DataArray(values, dims=dims, coords=coords, attrs={"identifier": "toy"})


def write(array, path):
    """Write as `brainio.packaging.write_netcdf` does."""
    array = array.reset_index(list(array.indexes))
    array.to_dataset(name="data").to_netcdf(path, encoding={"data": {"zlib": True, "complevel": 9}})
    return path


@pytest.mark.parametrize("stimulus", ["stimulus_id", "image_id"])
@pytest.mark.parametrize("on_disk", [False, True])
def test_layouts_in_memory_and_on_disk(tmp_path, stimulus, on_disk):
    given = assembly(stimulus)
    found = io.from_brainio(write(given, tmp_path / "a.nc") if on_disk else given)
    assert found.dims == ("stimulus", "unit")
    assert found["stimulus"].values.tolist() == ["im2", "im1", "im3"]
    assert found.values.tolist() == [[2, 3, 5], [4, 5, 6], [0, 1, 0]]
    assert found["region"].values.tolist() == ["V4", "IT", "IT"]
    assert found["subject"].values.tolist() == ["m", "m", "n"]
    assert found.attrs == {"identifier": "toy"}
    assert "im2" in given.indexes["presentation"].get_level_values(stimulus)  # as it was


def test_load_says_what_it_was(tmp_path):
    path = write(assembly(), tmp_path / "a.nc")
    assert io.recognize(path) == "a BrainIO assembly (netCDF)"
    found = io.load(path)
    assert found.attrs["source_format"] == "a BrainIO assembly (netCDF)"
    xr.testing.assert_equal(found, io.from_brainio(path))


def test_repetitions_are_kept_on_request():
    found = io.from_brainio(assembly(), average_repetitions=False)
    assert found.dims == ("trial", "unit")
    assert found["stimulus"].values.tolist() == ["im2", "im1", "im2", "im3"]
    assert found["repetition"].values.tolist() == [0, 0, 1, 0]
    assert found["object_name"].values.tolist() == ["car", "face", "car", "face"]
    np.testing.assert_array_equal(found.values, VALUES)


def test_region_is_picked_or_the_known_ones_are_named():
    found = io.from_brainio(assembly(), region="IT")
    assert found["neuroid_id"].values.tolist() == ["n1", "n2"]
    with pytest.raises(UnknownNameError, match=r"region in the assembly: 'V1'.*V4, IT"):
        io.from_brainio(assembly(), region="V1")
    with pytest.raises(UnknownNameError, match=r"label of neuroids in the assembly: 'layer'"):
        io.from_brainio(assembly(), layer="conv1")


def test_time_bin_is_picked_by_place_or_edges(tmp_path):
    path = write(assembly(bins=[(70, 170), (170, 270)]), tmp_path / "a.nc")
    with pytest.raises(ShapeError, match=r"has 2 time bins \(\(70, 170\), \(170, 270\)\)"):
        io.load(path)
    by_place = io.from_brainio(path, time_bin=1)
    by_edges = io.from_brainio(path, time_bin=(170, 270))
    xr.testing.assert_identical(by_place, by_edges)
    assert by_place.values.tolist() == [[3, 4, 6], [5, 6, 7], [1, 2, 1]]
    with pytest.raises(UnknownNameError, match=r"time bin .*\(0, 70\).*Known: \(70, 170\)"):
        io.from_brainio(path, time_bin=(0, 70))
    with pytest.raises(UnknownNameError, match=r"time bin .* 2\..*Known: 0, 1"):
        io.from_brainio(path, time_bin=2)


def test_other_assemblies_are_refused_in_words(tmp_path):
    choices = xr.DataArray(
        np.eye(2), dims=("presentation", "choice"),
        coords={"stimulus_id": ("presentation", ["a", "b"])},
    )  # fmt: skip
    with pytest.raises(ShapeError, match="a behavioral assembly: it has choices, not units"):
        io.from_brainio(choices)
    choices.to_dataset(name="data").to_netcdf(tmp_path / "b.nc")
    with pytest.raises(ShapeError, match="a behavioral assembly"):
        io.load(tmp_path / "b.nc")
    with pytest.raises(ShapeError, match="a spike-times assembly: count spikes"):
        io.from_brainio(xr.DataArray(np.ones(3), dims="event"))
    with pytest.raises(ShapeError, match=r"also has 'depth'"):
        io.from_brainio(assembly().expand_dims("depth"))
    with pytest.raises(StimulusError, match=r"no coordinate `stimulus_id`"):
        io.from_brainio(xr.DataArray(np.eye(2), dims=("presentation", "neuroid")))
    with pytest.raises(DTypeError, match=r"netCDF file, got ndarray"):
        io.from_brainio(np.eye(2))
    with pytest.raises(FileMissingError, match=r"no file nowhere\.nc"):
        io.from_brainio("nowhere.nc")


@pytest.fixture
def recording():
    return xr.DataArray(
        VALUES,
        dims=("stimulus", "unit"),
        coords={
            "stimulus": ["a", "b", "c", "d"],
            "region": ("unit", ["V4", "IT", "IT"]),
            "subject": ("unit", ["m", "m", "n"]),
            "neuroid_id": ("unit", ["n0", "n1", "n2"]),
        },
        attrs={"identifier": "toy"},
    )


def test_there_and_back_in_memory_and_on_disk(tmp_path, recording):
    found = io.to_brainio(recording, tmp_path / "a.nc")
    assert found.dims == ("presentation", "neuroid")
    assert {*found.coords} == {"stimulus_id", "repetition", "neuroid_id", "region", "subject"}
    xr.testing.assert_identical(io.from_brainio(found), recording)
    xr.testing.assert_identical(io.from_brainio(tmp_path / "a.nc"), recording)
    with xr.open_dataarray(tmp_path / "a.nc") as plain:  # as BrainIO opens it
        assert plain.name == "data"
        # what BrainIO's class does next: labels of a dimension become one index
        plain.set_index(presentation=["stimulus_id", "repetition"])


def test_units_without_names_are_numbered(recording):
    found = io.to_brainio(recording.drop_vars("neuroid_id"))
    assert found["neuroid_id"].values.tolist() == ["0", "1", "2"]


def test_trials_count_repetitions_and_come_back(recording):
    trials = recording.rename(stimulus="trial").drop_vars("trial")
    trials = trials.assign_coords(
        stimulus=("trial", ["b", "a", "b", "b"]), day=("trial", [1, 1, 2, 2])
    )
    found = io.to_brainio(trials)
    assert found["repetition"].values.tolist() == [0, 0, 1, 2]
    back = io.from_brainio(found, average_repetitions=False)
    xr.testing.assert_identical(back.drop_vars("repetition"), trials)


def test_rdms_are_no_assembly():
    ids = {"anchor": [1, 2], "neighbor": [1, 2]}
    rdm = xr.DataArray(1 - np.eye(2), dims=tuple(ids), coords=ids)
    with pytest.raises(ShapeError, match="not RDMs or RSMs"):
        io.to_brainio(rdm)


@given(
    st.lists(st.text(min_size=1, max_size=4), min_size=2, max_size=5, unique=True),
    st.sampled_from(["float32", "float64"]),
)
def test_any_ids_survive(ids, dtype):
    array = xr.DataArray(
        np.arange(2.0 * len(ids), dtype=dtype).reshape(-1, 2),
        dims=("stimulus", "unit"),
        coords={"stimulus": ids, "neuroid_id": ("unit", ["x", "y"])},
    )
    xr.testing.assert_identical(io.from_brainio(io.to_brainio(array)), array)
