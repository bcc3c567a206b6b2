"""None"""

from __future__ import annotations

import netCDF4
import numpy as np
import pytest
import torch
import xarray as xr

from softrsa import io
from softrsa.errors import (
    DataError,
    FileFormatError,
    FileMissingError,
    ShapeError,
    StimulusError,
)
from softrsa.io import FORMATS


@pytest.fixture
def array():
    values = np.arange(60, dtype=np.float32).reshape(5, 12)
    return xr.DataArray(values, dims=("stimulus", "unit"), coords={"stimulus": list("edcba")})


def assembly_file(path, *, stimulus="stimulus_id", time_bins=None, animal=None, values=None):
    """Write a file as BrainIO's `write_netcdf` does, here with the netCDF4 library itself."""
    with netCDF4.Dataset(path, "w") as file:
        file.createDimension("presentation", 4)
        file.createDimension("neuroid", 3)
        dims = ("presentation", "neuroid")
        if time_bins:
            file.createDimension("time_bin", time_bins)
            dims = (*dims, "time_bin")
        labels = {
            stimulus: ("presentation", ["im2", "im1", "im2", "im3"]),
            "repetition": ("presentation", [0, 0, 1, 0]),
            "neuroid_id": ("neuroid", ["n0", "n1", "n2"]),
            "region": ("neuroid", ["V4", "IT", "IT"]),
            "x": ("neuroid", [1, 2, 3]),
        }
        if animal:
            labels["animal"] = ("neuroid", animal)
        for name, (dim, content) in labels.items():
            kind = str if isinstance(content[0], str) else "i8"
            file.createVariable(name, kind, (dim,))[:] = np.array(
                content, dtype=object if kind is str else kind
            )
        data = file.createVariable("data", "f8", dims, zlib=True)
        data.coordinates = " ".join(labels)
        if values is None:
            values = np.array([[1.0, 2, 3], [4, 5, 6], [3, 4, 7], [0, 1, 0]])
        data[:] = values if not time_bins else values[..., None] + np.arange(time_bins)
        file.identifier = "made.by.hand"
    return path


@pytest.mark.parametrize("stimulus", ["stimulus_id", "image_id"])
@pytest.mark.parametrize("time_bins", [None, 1])
def test_assembly_becomes_stimuli_by_units(tmp_path, stimulus, time_bins):
    """Means by hand: im2 was shown twice."""
    path = assembly_file(
        tmp_path / "a.nc", stimulus=stimulus, time_bins=time_bins, animal=["m", "m", "n"]
    )
    recording = io.load(path)
    assert recording.dims == ("stimulus", "unit")
    assert recording["stimulus"].values.tolist() == ["im2", "im1", "im3"]
    assert recording.values.tolist() == [[2, 3, 5], [4, 5, 6], [0, 1, 0]]
    coords = {
        name: recording[name].values.tolist() for name in recording.coords if name != "stimulus"
    }
    assert coords == {
        "region": ["V4", "IT", "IT"],
        "subject": ["m", "m", "n"],
        "neuroid_id": ["n0", "n1", "n2"],
    }


def test_assembly_with_several_time_bins_asks_which(tmp_path):
    path = assembly_file(tmp_path / "a.nc", time_bins=3)
    with pytest.raises(ShapeError, match=r"has 3 time bins.*isel\(time_bin=0\)"):
        io.load(path)


def test_assembly_without_stimulus_ids_lists_its_coordinates(tmp_path):
    path = assembly_file(tmp_path / "a.nc", stimulus="picture")
    with pytest.raises(StimulusError, match=r"no coordinate `stimulus_id`.*'picture', 'region'"):
        io.load(path)


def test_assembly_with_a_missing_value_names_the_stimulus(tmp_path):
    values = np.ones((4, 3))
    values[1, 2] = np.nan
    path = assembly_file(tmp_path / "a.nc", values=values)
    with pytest.raises(DataError, match=r"1 value .* at 1 stimulus \('im1'\), region 'IT'"):
        io.load(path)


def test_assembly_whose_labels_are_plain_variables(tmp_path):
    """Files that lost the `coordinates` attribute still hold their labels beside the data."""
    path = assembly_file(tmp_path / "a.nc")
    with netCDF4.Dataset(path, "a") as file:
        file["data"].delncattr("coordinates")
    assert io.load(path)["region"].values.tolist() == ["V4", "IT", "IT"]


def test_file_without_schema_and_with_another_name(tmp_path, array):
    array.to_dataset(name="activity").to_netcdf(tmp_path / "a.nc")
    xr.testing.assert_identical(io.load(tmp_path / "a.nc"), array)


def test_classic_file(tmp_path, array):
    array.to_dataset(name="data").to_netcdf(tmp_path / "a.nc", format="NETCDF3_CLASSIC")
    xr.testing.assert_identical(io.load(tmp_path / "a.nc"), array)


def test_units_attribute_is_not_taken_for_time(tmp_path, array):
    array.assign_attrs(units="days since 2000-01-01").to_netcdf(tmp_path / "a.nc")
    assert io.load(tmp_path / "a.nc").dtype == np.float32


def test_several_variables_are_listed(tmp_path, array):
    xr.Dataset({"rates": array, "sem": array}).to_netcdf(tmp_path / "a.nc")
    with pytest.raises(
        FileFormatError, match=r"a.nc holds 2 variables \('rates', 'sem'\) and none"
    ):
        io.load(tmp_path / "a.nc")


def test_no_variable_at_all(tmp_path):
    xr.Dataset(attrs={"title": "empty"}).to_netcdf(tmp_path / "a.nc")
    with pytest.raises(FileFormatError, match=r"a.nc holds no netCDF data variable"):
        io.load(tmp_path / "a.nc")


def test_alignment_result_is_recognised(tmp_path, array):
    dataset = array.to_dataset(name="data").assign_attrs(softrsa_kind="alignment_result")
    dataset.to_netcdf(tmp_path / "a.nc")
    with pytest.raises(FileFormatError, match=r"AlignmentResult.from_netcdf\('.*a.nc'\)"):
        io.load(tmp_path / "a.nc")


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(FileMissingError, match=f"There is no file {tmp_path}/none.nc"):
        io.load(tmp_path / "none.nc")
    with pytest.raises(FileFormatError, match=f"{tmp_path} is a folder"):
        io.load(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"layer,score\nconv1,0.3\n", b"\x89HDF\r\n\x1a\n" + bytes(90)]
)
def test_what_is_not_netcdf(tmp_path, content):
    (tmp_path / "a.nc").write_bytes(content)
    with pytest.raises(
        FileFormatError, match=r"^.*a.nc cannot be read as netCDF \(.*cut short"
    ) as info:
        io.load(tmp_path / "a.nc")
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("format_", ["NETCDF4", "NETCDF3_CLASSIC", "NETCDF3_64BIT"])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.99])
def test_truncated_file(tmp_path, array, format_, share):
    """netCDF-C reads the lost part of a classic file as zeros; that must not pass."""
    path = tmp_path / "a.nc"
    array.to_dataset(name="data").to_netcdf(path, format=format_)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(FileFormatError, match=r"a.nc cannot be read as netCDF"):
        io.load(path)


def test_damaged_inside(tmp_path, rng):
    import torch

    values = torch.randn(20, 500, generator=rng).numpy()
    path = tmp_path / "a.nc"
    io.save(xr.DataArray(values, dims=("stimulus", "unit"), coords={"stimulus": range(20)}), path)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 500] = bytes(500)
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match=r"a.nc cannot be read as netCDF"):
        io.load(path)


def test_wrong_dimensions_name_the_file(tmp_path, array):
    array.rename(unit="row").to_dataset(name="data").to_netcdf(tmp_path / "a.nc")
    with pytest.raises(ShapeError, match=r"array in .*a.nc must have .* got \('stimulus', 'row'\)"):
        io.load(tmp_path / "a.nc")
    xr.testing.assert_equal(io.load(tmp_path / "a.nc", dims=("stimulus", "unit")), array)


def test_integers_become_float64_and_that_is_said(tmp_path, array):
    array.astype("int32").to_dataset(name="data").to_netcdf(tmp_path / "a.nc")
    found = io.load(tmp_path / "a.nc")
    np.testing.assert_array_equal(found, np.trunc(array))
    assert found.dtype == np.float64


def test_opened_array_is_not_read(tmp_path, array):
    io.save(array, tmp_path / "a.nc")
    with io.open_array(tmp_path / "a.nc") as lazy:
        assert not lazy.variable._in_memory
        np.testing.assert_array_equal(lazy[2].values, array[2])


ARRAY = xr.DataArray(np.eye(2), dims=("stimulus", "unit"), coords={"stimulus": ["a", "b"]})


@pytest.mark.parametrize(
    ("suffix", "title"),
    [
        (".nc", "netCDF or zarr"),
        (".npz", "an archive of NumPy (.npz)"),
        (".csv", "a table of text (CSV)"),
    ],
)
@pytest.mark.parametrize("renamed", ["same", "data.bin", "no_suffix", "file.mat"])
def test_name_does_not_matter(tmp_path, suffix, title, renamed):
    io.save(ARRAY, tmp_path / f"a{suffix}")
    path = tmp_path / (f"a{suffix}" if renamed == "same" else renamed)
    (tmp_path / f"a{suffix}").rename(path)
    assert io.recognize(path) == title
    xr.testing.assert_equal(io.load(path), ARRAY)


def test_tensors_and_arrays_under_other_names(tmp_path):
    torch.save(torch.eye(2), tmp_path / "a.npz")
    assert io.recognize(tmp_path / "a.npz") == "tensors of torch (.pt)"
    with (tmp_path / "b.nc").open("wb") as file:
        np.save(file, np.eye(2))
    assert io.recognize(tmp_path / "b.nc") == "an array of NumPy (.npy)"


def test_own_files_come_back_as_they_were(tmp_path):
    io.save(ARRAY, tmp_path / "a.nc")
    assert io.load(tmp_path / "a.nc").attrs == {}


@pytest.mark.parametrize(
    ("content", "found"), [(b"", "is empty"), (bytes(range(256)), "is of unknown content")]
)
def test_unknown_files_list_what_was_tried(tmp_path, content, found):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(FileFormatError, match=rf"a {found}, not a BrainIO assembly") as info:
        io.load(tmp_path / "a")
    assert all(format_.title in str(info.value) for format_ in FORMATS.values())
    assert "\n" not in str(info.value)


def test_unknown_folders_say_what_they_hold(tmp_path):
    with pytest.raises(FileFormatError, match=r"is a folder, .*: it holds nothing"):
        io.load(tmp_path)
    (tmp_path / "readme.md").touch()
    with pytest.raises(FileFormatError, match=r"it holds 'readme.md'"):
        io.recognize(tmp_path)
    with pytest.raises(FileMissingError, match=r"no file .*nothing"):
        io.recognize(tmp_path / "nothing")


def test_options_that_mean_nothing_are_refused(tmp_path):
    io.save(ARRAY, tmp_path / "a.nc")
    with pytest.raises(StimulusError, match=r"a\.nc is netCDF or zarr, which holds its own"):
        io.load(tmp_path / "a.nc", stimuli=["x", "y"])
    np.save(tmp_path / "a.npy", np.eye(2))
    with pytest.raises(DataError, match=r"for which `variable` has no meaning"):
        io.load(tmp_path / "a.npy", stimuli=[1, 2], variable="x")
    with pytest.raises(DataError, match=r"cannot be read in chunks: .*save it"):
        io.load(tmp_path / "a.npy", stimuli=[1, 2], chunks={})


@pytest.mark.parametrize(
    ("stimuli", "message"),
    [
        (b"ab", r"the one string b'ab'"),
        ([1.5, 2.5], r"got float64 of shape \(2,\)"),
        ([["a"], ["b"]], r"of shape \(2, 1\)"),
        ([1, "a", None], r"got object"),
    ],
)
def test_stimuli_are_checked_before_the_file_is(stimuli, message):
    with pytest.raises(StimulusError, match=message):
        io.load("nowhere", stimuli=stimuli)


def test_variable_is_a_name():
    with pytest.raises(DataError, match=r"`variable` must be a name in the file, got 3"):
        io.load("nowhere", variable=3)


def test_netcdf_variable_and_kind(tmp_path):
    xr.Dataset({"rates": ARRAY, "sem": 2 * ARRAY}).to_netcdf(tmp_path / "a.nc")
    xr.testing.assert_identical(io.load(tmp_path / "a.nc", variable="sem"), 2 * ARRAY)
    ids = {"anchor": [1, 2], "neighbor": [1, 2]}
    odd = xr.DataArray(np.full((2, 2), 3.0), dims=tuple(ids), coords=ids)
    odd.to_dataset(name="data").to_netcdf(tmp_path / "b.nc")
    assert io.load(tmp_path / "b.nc", kind="rdm").attrs["kind"] == "rdm"


def test_a_format_of_your_own_is_read_before_general_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(FORMATS, "_rows", dict(FORMATS.items()))
    (tmp_path / "a.rates").write_text("face 1 2\nhouse 3 4\n")
    assert io.recognize(tmp_path / "a.rates") == "a table of text (CSV)"
    FORMATS.add(
        io.Format(
            name="rates", title="rates by line",
            recognizes=lambda seen: seen.path.suffix == ".rates", read=lambda path, options: ARRAY,
        )
    )  # fmt: skip
    assert io.load(tmp_path / "a.rates").attrs["source_format"] == "rates by line"
    with pytest.raises(DataError, match=r"rates by line, for which `kind` has no meaning"):
        io.load(tmp_path / "a.rates", kind="rdm")


def test_incomplete_formats_are_refused():
    parts = {"recognizes": lambda seen: False, "read": lambda path, options: ARRAY}
    with pytest.raises(DataError, match=r"needs a `name` and a `title`"):
        io.Format(name="rates", title="", **parts)
    with pytest.raises(DataError, match=r"'rates' takes \['units'\]"):
        io.Format(name="rates", title="rates", takes=frozenset({"units"}), **parts)
