"""RSMs of recordings that lie on disk: the same as in memory, and never held whole."""

import subprocess
import sys

import numpy as np
import pytest
import torch
import xarray as xr

import softrsa
from softrsa.alignment import align
from softrsa.errors import DataError, FileFormatError, FileMissingError, UnknownNameError
from softrsa.io import check_recording, save, schema
from softrsa.rsm import build, build_rsms

SIMILARITIES = ("correlation", "cosine", "dot", "l2", "l1", "sqeuclidean", "rbf")


def recording(dtype="float64", n=30, n_units=200):
    """Far from zero, so that sums of squares would lose digits; two stimuli the same."""
    values = np.random.default_rng(5).normal(0, 1, (n, n_units)) + 1000
    values[3] = values[7]
    values[11] = values[12] + 1e-3 * np.arange(n_units)
    return xr.DataArray(
        values.astype(dtype),
        dims=("stimulus", "unit"),
        coords={
            "stimulus": [f"s{i:02}" for i in range(n)],
            "region": ("unit", ["V4"] * 90 + ["IT"] * (n_units - 90)),
            "subject": ("unit", list("ab") * (n_units // 2)),
        },
    )


@pytest.fixture(params=["netcdf", "zarr"])
def path(request, tmp_path):
    """Give a file of the recording in float64, in chunks of 8 stimuli and 64 units."""
    if request.param == "netcdf":
        save(recording(), tmp_path / "recording.nc")
        return tmp_path / "recording.nc"
    encoding = {"data": {"chunks": (8, 64)}}
    dataset = recording().to_dataset(name="data")
    dataset.to_zarr(tmp_path / "recording.zarr", encoding=encoding, zarr_format=2)
    return tmp_path / "recording.zarr"


@pytest.fixture
def small_stretches(monkeypatch):
    """Read few units and hold few rows at a time, so that a small array takes many of each."""
    monkeypatch.setattr(build, "READ_BYTES", 30 * 50 * 8)
    monkeypatch.setattr(build, "PART_BYTES", 30 * 17 * 8)
    monkeypatch.setattr(build, "SUMS_BYTES", 30 * 11 * 8)


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("chunks", [(8, 64), (30, 13), (7, 200), (30, 200)])
@pytest.mark.usefixtures("small_stretches")
def test_as_in_memory_whatever_the_chunks(similarity, chunks):
    array = recording()
    found = build_rsms(array.chunk(stimulus=chunks[0], unit=chunks[1]), similarity=similarity)
    expected = build_rsms(array, similarity=similarity)
    xr.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)
    assert found.attrs == expected.attrs
    assert (found.values == found.values.T).all()
    if similarity in ("l2", "l1", "sqeuclidean"):
        assert found.values[3, 7] == 0
        assert (found.values.diagonal() == 0).all()


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.usefixtures("small_stretches")
def test_float32_is_as_close_to_float64_as_its_digits(similarity):
    array = recording("float32")
    found = build_rsms(array.chunk(unit=64), similarity=similarity)
    assert found.dtype == np.float32
    exact = build_rsms(array.astype("float64"), similarity=similarity)
    scale = float(abs(exact).max())
    np.testing.assert_allclose(found, exact, rtol=1e-6, atol=1e-6 * scale)


def test_correlations_of_numpy_far_from_zero():
    """Without shifted sums nothing would be left of these in float64."""
    values = np.random.default_rng(1).normal(0, 1e-3, (5, 400)) + 1e6
    array = xr.DataArray(values, dims=("stimulus", "unit"), coords={"stimulus": range(5)})
    found = build_rsms(array.chunk(unit=30))
    np.testing.assert_allclose(found, np.corrcoef(values), rtol=0, atol=1e-9)


def test_files_are_opened_in_chunks(path):
    found = softrsa.load(path, chunks={})
    assert schema.is_lazy(found)
    assert found["region"].dtype.kind == "U"
    if path.is_dir():
        assert found.chunks == ((8, 8, 8, 6), (64, 64, 64, 8))
    for by in (None, "region", ("region", "subject")):
        xr.testing.assert_allclose(
            build_rsms(found, by=by), build_rsms(recording(), by=by), rtol=1e-10, atol=1e-10
        )
    xr.testing.assert_identical(softrsa.load(path), recording())


def test_values_are_checked_chunk_by_chunk(monkeypatch):
    array = recording()
    array[5, 150] = np.nan
    array[9, 20] = np.inf
    message = r"2 values that are NaN or infinite, at 2 stimuli \('s05', 's09'\), region 'V4', 'IT'"
    with pytest.raises(DataError, match=message):
        build_rsms(array)
    read, plain = [], schema.read_values
    monkeypatch.setattr(
        "softrsa.io.schema.read_values", lambda one: read.append(one.shape) or plain(one)
    )
    in_chunks = array.chunk(stimulus=10, unit=50)
    with pytest.raises(DataError, match=message):
        build_rsms(in_chunks)
    assert read == [(10, 50)] * 12
    assert schema.is_lazy(check_recording(in_chunks.fillna(0).where(in_chunks < 2000, 0)))


def test_undefined_similarities_are_named_as_in_memory():
    array = recording()
    array[4, 90:] = 2.5
    for one in (array, array.chunk(unit=64)):
        message = r"1 stimulus \('s04'\) are constant, region 'IT', so `correlation`"
        with pytest.raises(DataError, match=message):
            build_rsms(one, by="region")
        zero = one.where(one["stimulus"] != "s02", 0)
        with pytest.raises(DataError, match=r"\('s02'\) are zero in all units, so `cosine`"):
            build_rsms(zero, similarity="cosine")
        with pytest.raises(DataError, match="needs at least 2 units, got 1"):
            build_rsms(one[:, :1])
        with pytest.raises(UnknownNameError, match="Did you mean 'correlation'"):
            build_rsms(one, similarity="corelation")
        with pytest.raises(DataError, match="needs a `precision`"):
            build_rsms(one, similarity="mahalanobis")


def test_recordings_of_several_times():
    array = xr.concat([recording(), recording() + np.arange(30)[:, None]], "time")
    array = array.assign_coords(time=[0.1, 0.2])
    expected = build_rsms(array, by="region", similarity="l2")
    found = build_rsms(array.chunk(unit=50), by="region", similarity="l2")
    xr.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)


def test_align_keeps_no_units_where_rsms_are_enough(monkeypatch):
    """Nothing but single chunks of 50 units is ever read of 200."""
    rng = np.random.default_rng(2)
    array = recording() + rng.normal(0, 1, (30, 200))
    options = {"transforms": ["centered"], "folds": 3, "n_resamples": 0}
    layer = array[:, ::2].drop_vars(["region", "subject"])
    expected = align(layer, array, **options)
    widest, plain = [], build.read_values
    monkeypatch.setattr(
        "softrsa.rsm.build.read_values", lambda one: widest.append(one.shape[1]) or plain(one)
    )
    monkeypatch.setattr(build, "READ_BYTES", 30 * 50 * 8)
    in_chunks, layer = array.chunk(unit=50), layer.chunk(unit=50)
    monkeypatch.setattr(xr.DataArray, "values", property(only_small))
    found = align(layer, in_chunks, **options)
    assert max(widest) == 50
    xr.testing.assert_allclose(found.data, expected.data, rtol=0, atol=1e-10)


def only_small(array):
    """Give the values of an array, but of no recording as a whole."""
    if "unit" in array.dims and "stimulus" in array.dims and array.shape[1] > 50:
        raise MemoryError(f"{array.shape} were to be read at once")
    return array.variable.values


def test_what_cannot_be_opened_in_chunks(tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileFormatError, match="is a folder, but none that softrsa knows"):
        softrsa.load(tmp_path / "folder", chunks={})
    assembly = xr.DataArray(
        np.ones((4, 3)), dims=("presentation", "neuroid"), name="data",
        coords={"stimulus_id": ("presentation", list("aabb"))},
    )  # fmt: skip
    assembly.to_netcdf(tmp_path / "assembly.nc")
    with pytest.raises(DataError, match="BrainIO assembly, whose presentations must be averaged"):
        softrsa.load(tmp_path / "assembly.nc", chunks={})
    monkeypatch.setattr("softrsa.io.netcdf.find_spec", lambda name: None)
    with pytest.raises(FileMissingError, match=r"pip install softrsa\[distributed\]"):
        softrsa.load(tmp_path / "assembly.nc", chunks={})


MEASURE = """
import resource, sys
import dask.array, numpy as np, xarray as xr
import softrsa
from softrsa.rsm import build_rsms
softrsa.load(sys.argv[2], chunks={}); build_rsms(softrsa.load(sys.argv[2], chunks={}))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
build_rsms(softrsa.load(sys.argv[1], chunks={}), similarity=sys.argv[3])
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("chunks", "similarity"), [((300, 10000), "correlation"), ((60, 50000), "l2")]
)
def test_memory_stays_bounded_whatever_the_size(tmp_path, chunks, similarity):
    """600 MB on disk, chunks of 12 MB: less than 300 MB more than a small array has taken."""
    import dask.array

    rng = dask.array.random.default_rng(3)
    for name, shape in (("large", (300, 500000)), ("small", (50, 100))):
        values = rng.random(shape, dtype="float32", chunks=tuple(map(min, shape, chunks)))
        array = xr.DataArray(
            values, dims=("stimulus", "unit"), name="data", coords={"stimulus": range(shape[0])}
        )
        plain = {"data": {"compressors": None}}
        array.to_zarr(tmp_path / name, zarr_format=2, encoding=plain)
    command = [sys.executable, "-c", MEASURE, tmp_path / "large", tmp_path / "small", similarity]
    found = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    assert float(found.stdout) < 300


def test_neither_dask_nor_zarr_is_imported_until_used():
    code = "import sys, softrsa; print(sorted({'dask', 'distributed', 'zarr'} & {*sys.modules}))"
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    assert found.stdout == "[]\n"


def test_stretches_follow_chunks():
    cuts = [(c.start, c.stop) for c in build._cut([10, 10, 5, 40, 3], 20)]
    assert cuts == [(0, 20), (20, 25), (25, 45), (45, 65), (65, 68)]
    array = recording().chunk(unit=7)
    read = [part[0] for part in build._stretches(array, torch.device("cpu"))]
    assert torch.cat(read).equal(torch.from_numpy(recording().values[0]))
