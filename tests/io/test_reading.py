import netCDF4
import numpy as np
import pytest
import xarray as xr

from softrsa import io
from softrsa.errors import (
    DataError,
    DTypeError,
    FileFormatError,
    FileMissingError,
    ShapeError,
    StimulusError,
)


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
    array.rename(unit="voxel").to_dataset(name="data").to_netcdf(tmp_path / "a.nc")
    with pytest.raises(
        ShapeError, match=r"array in .*a.nc must have .* got \('stimulus', 'voxel'\)"
    ):
        io.load(tmp_path / "a.nc")


def test_integers_name_the_file(tmp_path, array):
    array.astype("int32").to_dataset(name="data").to_netcdf(tmp_path / "a.nc")
    with pytest.raises(DTypeError, match=r"array in .*a.nc must be float32 or float64, got int32"):
        io.load(tmp_path / "a.nc")


def test_opened_array_is_not_read(tmp_path, array):
    io.save(array, tmp_path / "a.nc")
    with io.open_array(tmp_path / "a.nc") as lazy:
        assert not lazy.variable._in_memory
        np.testing.assert_array_equal(lazy[2].values, array[2])
