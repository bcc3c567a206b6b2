"""What `load` takes files for, by what is in them and not by their names."""

import numpy as np
import pytest
import torch
import xarray as xr

from softrsa import io
from softrsa.errors import (
    DataError,
    FileFormatError,
    FileMissingError,
    StimulusError,
)
from softrsa.io.formats import FORMATS

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
    with pytest.raises(FileFormatError, match=rf"a {found}, not a file of rsatoolbox") as info:
        io.load(tmp_path / "a")
    assert all(format_.title in str(info.value) for format_ in FORMATS)
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
        (["a", "a"], r"repeats the ids 'a'"),
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


def test_names_of_formats_are_distinct():
    assert len({format_.name for format_ in FORMATS}) == len(FORMATS)
