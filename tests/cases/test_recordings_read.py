"""Recordings: axes, number types, trials, units without values, windows of time."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import xarray as xr

from softrsa import io
from softrsa.errors import DataError, DTypeError, ShapeError, StimulusError
from softrsa.recordings import average_trials, time_windows

RNG = np.random.default_rng(0)
IDS = ["a", "b", "c", "d"]


def write(path, values):
    """Write one array."""
    if path.suffix == ".npy":
        np.save(path, values)
    elif path.suffix == ".npz":
        np.savez(path, x=values)
    else:
        with h5py.File(path, "w") as file:
            file["x"] = values
    return path


ARRAYS = pytest.mark.parametrize("suffix", [".npy", ".npz", ".h5"])


@ARRAYS
def test_images_by_voxels_by_runs(tmp_path, suffix):
    values = RNG.normal(size=(4, 5, 3))
    path = write(tmp_path / f"a{suffix}", values)
    with pytest.raises(
        ShapeError, match=r"4 x 5 x 3.*`dims=\('stimulus', 'unit', 'trial'\)`.*--dims"
    ):
        io.load(path, stimuli=IDS)
    found = io.load(path, stimuli=IDS, dims=("image", "voxel", "run"))
    assert found.dims == ("trial", "unit")
    assert found["stimulus"].values.tolist() == np.repeat(IDS, 3).tolist()
    assert found["repetition"].values.tolist() == [1, 2, 3] * 4
    np.testing.assert_array_equal(found.isel(trial=7), values[2, :, 1])
    mean = io.load(path, stimuli=IDS, dims=("image", "voxel", "run"), trials="mean")
    np.testing.assert_allclose(mean, values.mean(2), rtol=1e-12)
    assert mean.dims == ("stimulus", "unit")


@ARRAYS
def test_trials_by_neurons_by_time(tmp_path, suffix):
    values = RNG.normal(size=(5, 3, 7))
    trials = ["a", "b", "a", "b", "c"]
    path = write(tmp_path / f"a{suffix}", values)
    found = io.load(path, stimuli=trials, dims=("trial", "neuron", "time"))
    assert found.dims == ("trial", "unit", "time")
    np.testing.assert_array_equal(found, values)
    mean = io.load(path, stimuli=trials, dims=("trial", "neuron", "time"), trials="mean")
    np.testing.assert_allclose(mean.sel(stimulus="a"), values[[0, 2]].mean(0), rtol=1e-15)
    io.save(found, tmp_path / "b.nc")
    xr.testing.assert_equal(io.load(tmp_path / "b.nc"), found)


@ARRAYS
def test_betas_of_a_volume_with_repeated_stimuli(tmp_path, suffix):
    betas = RNG.normal(size=(2, 3, 2, 6)).astype(np.float32)
    betas[0, 1, 0] = np.nan
    betas[1, 2, 1, 4] = np.nan
    stimuli = ["a", "b", "c", "c", "b", "a"]
    options = {"stimuli": stimuli, "dims": ("x", "y", "z", "trial")}
    path = write(tmp_path / f"betas{suffix}", betas)
    with pytest.raises(DataError, match=r"7 values.*`drop_missing_units=True`.*--drop-missing"):
        io.load(path, **options)
    with pytest.warns(
        io.ReadingWarning, match=r"2 of 12 units .* have NaN \(1 of them throughout\)"
    ):
        found = io.load(path, **options, drop_missing_units=True)
    assert found.dims == ("trial", "unit")
    unit = found.sel(unit=(found["x"] == 1) & (found["y"] == 0) & (found["z"] == 1))
    np.testing.assert_array_equal(unit.values.ravel(), betas[1, 0, 1])
    with pytest.warns(io.ReadingWarning, match="left out"):
        mean = io.load(path, **options, drop_missing_units=True, trials="mean")
    assert mean["stimulus"].values.tolist() == ["a", "b", "c"]
    np.testing.assert_allclose(mean.sel(stimulus="b", unit=0), betas[0, 0, 0, [1, 4]].mean(), 1e-6)


def test_leading_axes_of_recordings_label_units(tmp_path):
    values = RNG.normal(size=(2, 4, 3))
    np.save(tmp_path / "a.npy", values)
    found = io.load(tmp_path / "a.npy", stimuli=IDS, dims=("subject", "stimulus", "unit"))
    np.testing.assert_array_equal(found.sel(unit=found["subject"] == 2), values[1])


@pytest.mark.parametrize(
    "dtype", ["int8", "uint8", "int64", "bool", ">i4", ">f8", "<f4", "float16"]
)
@pytest.mark.parametrize("suffix", [".npy", ".npz", ".h5", ".nc"])
def test_one_rule_for_number_types(tmp_path, suffix, dtype):
    values = np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0], [0, 0, 1]]).astype(dtype)
    if suffix == ".nc" and np.dtype(dtype) == np.float16:
        pytest.skip("netCDF has no float16")
    if suffix == ".nc":
        array = xr.DataArray(values, dims=("stimulus", "unit"), coords={"stimulus": IDS})
        array.to_dataset(name="data").to_netcdf(tmp_path / "a.nc")
        found = io.load(tmp_path / "a.nc")
    else:
        found = io.load(write(tmp_path / f"a{suffix}", values), stimuli=IDS)
    np.testing.assert_array_equal(found, values.astype(float))
    small = np.dtype(dtype).kind == "f" and np.dtype(dtype).itemsize < 8
    assert found.dtype == (np.float32 if small else np.float64)
    changed = np.dtype(dtype).newbyteorder("=") not in (np.float32, np.float64)
    if changed and not (suffix == ".nc" and np.dtype(dtype) == bool):  # xarray decodes these itself
        assert "become float" in found.attrs["read_as"]


@pytest.mark.parametrize(
    "dims", [("stimulus_path", "neuroid"), ("image", "voxel"), ("condition", "channel")]
)
def test_dimensions_of_other_names(tmp_path, dims):
    values = RNG.normal(size=(4, 3))
    coords = {dims[0]: IDS, "layer": (dims[1], ["x", "y", "y"])}
    array = xr.DataArray(values, dims=dims, coords=coords, name="data")
    array.to_dataset().to_netcdf(tmp_path / "a.nc")
    found = io.load(tmp_path / "a.nc")
    assert found.dims == ("stimulus", "unit")
    assert found["stimulus"].values.tolist() == IDS
    assert found["layer"].values.tolist() == ["x", "y", "y"]


def test_labels_of_trials_and_stimuli_are_kept():
    trials = xr.DataArray(
        np.arange(8.0).reshape(4, 2),
        dims=("trial", "unit"),
        coords={
            "stimulus": ("trial", ["a", "b", "a", "b"]),
            "category": ("trial", ["face", "house", "face", "house"]),
            "run": ("trial", [1, 1, 2, 2]),
        },
        attrs={"study": "x"},
    )
    mean = average_trials(trials)
    assert mean["category"].values.tolist() == ["face", "house"]
    assert "run" not in mean.coords
    assert mean.attrs == {"study": "x"}


@pytest.mark.parametrize("rate", [100, 250, 500, 1000])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("start", [-0.2, 0.0, 0.1])
def test_windows_have_the_same_number_of_samples(rate, kind, start):
    times = (start + np.arange(rate) / rate).astype(kind)
    array = xr.DataArray(np.ones((1, len(times))), dims=("unit", "time"), coords={"time": times})
    counts = time_windows(array, width=0.05, reduce="sum")
    np.testing.assert_array_equal(counts, rate // 20)
    assert counts.sizes["time"] == 20


def test_sums_of_small_integers_do_not_overflow():
    array = xr.DataArray(np.full((1, 10), 50, np.uint8), dims=("unit", "time"))
    found = time_windows(array, width=10, reduce="sum")
    assert (found.dtype, found.item()) == (np.float64, 500)


@pytest.mark.parametrize("header", ["a,b", "face,house"])
def test_first_columns_of_whole_numbers_are_no_ids_unasked(tmp_path, header):
    path = tmp_path / "a.csv"
    path.write_text(f"{header}\n1,2\n3,4\n5,7\n")
    with pytest.raises(StimulusError, match=r"ids, or values\? Call it `stimulus`.*--stimuli"):
        io.load(path)
    found = io.load(path, stimuli=["x", "y", "z"])
    assert found.values.tolist() == [[1, 2], [3, 4], [5, 7]]
    path.write_text("stimulus,b\n1,2\n3,4\n5,7\n")
    assert io.load(path)["stimulus"].values.tolist() == [1, 3, 5]


def test_columns_that_label_rows_are_no_units(tmp_path):
    (tmp_path / "a.csv").write_text("stimulus,session,v1,v2\na,1,.5,1\nb,2,1.5,2\n")
    found = io.load(tmp_path / "a.csv")
    assert found["unit"].values.tolist() == ["v1", "v2"]
    assert found["session"].dims == ("stimulus",)
    np.savez(tmp_path / "a.npz", data=np.eye(4)[:, :3], stimulus=IDS, session=[1, 1, 2, 2])
    assert io.load(tmp_path / "a.npz")["session"].values.tolist() == [1, 1, 2, 2]


def test_quotes_among_blanks(tmp_path):
    (tmp_path / "a.txt").write_text('"v 1" "v2"\n"a face" 1 2\n"b" 3 4\n')  # R's write.table
    found = io.load(tmp_path / "a.txt")
    assert found["stimulus"].values.tolist() == ["a face", "b"]
    assert found["unit"].values.tolist() == ["v 1", "v2"]


def test_times_of_recordings_keep_their_labels(tmp_path):
    times = [100, 200, 300]
    np.savez(tmp_path / "a.npz", rates=RNG.normal(size=(4, 5, 3)), time=times, stimulus=IDS)
    found = io.load(tmp_path / "a.npz", dims=("stimulus", "unit", "time"), variable="rates")
    assert found["time"].values.tolist() == times


def test_netcdf_takes_ids_and_dims(tmp_path):
    values = RNG.normal(size=(2, 3, 4))
    xr.DataArray(values, dims=("x", "y", "trial"), name="data").to_dataset().to_netcdf(
        tmp_path / "a.nc"
    )
    found = io.load(tmp_path / "a.nc", stimuli=["a", "b", "a", "b"], dims=("x", "y", "trial"))
    np.testing.assert_array_equal(found, values.reshape(6, 4).T)
    flat = xr.DataArray(values[0], dims=("unit", "stimulus"), name="data")
    flat.to_dataset().to_netcdf(tmp_path / "b.nc")
    found = io.load(tmp_path / "b.nc", stimuli=IDS)
    np.testing.assert_array_equal(found.sel(stimulus="b"), values[0][:, 1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variable": "x"}, "`variable` has no meaning"),
        ({"halves": "lower"}, "has no `halves`"),
    ],
)
def test_options_are_never_ignored(tmp_path, options, message):
    (tmp_path / "a.csv").write_text("stimulus,b\na,2\nb,4\n")
    with pytest.raises(DataError, match=message):
        io.load(tmp_path / "a.csv", **options)


def test_tables_without_ids_can_be_numbered_and_digits_are_those_of_numbers(tmp_path):
    (tmp_path / "a.csv").write_text("u1,u2\n.5,1\n1.5,2\n2.5,3\n")
    found = io.load(tmp_path / "a.csv", stimuli="numbered")
    assert found.values.tolist() == [[0.5, 1], [1.5, 2], [2.5, 3]]
    (tmp_path / "b.csv").write_text("stimulus,u1\na,1_000\nb,2\n")
    with pytest.raises(DTypeError, match="'1_000', which is no number"):
        io.load(tmp_path / "b.csv")
