"""Files that would end the process, hang it or take all memory are refused with what to do."""

import json
import os
import time
import zipfile

import h5py
import numpy as np
import pytest
import scipy.io
import torch
import xarray as xr

from softrsa.cli import main
from softrsa.errors import DataError, DTypeError, FileFormatError, MemoryLimitError
from softrsa.io import ReadingWarning, load, save

ROWS = (("a", "1.5"), ("b", "NA"), ("c", "2"))  # of wide tables


def test_a_pipe_is_not_waited_for(tmp_path):
    path = tmp_path / "rdm.csv"
    os.mkfifo(path)
    with pytest.raises(FileFormatError, match=r"rdm\.csv is a pipe or a device, not a file"):
        load(path)
    with pytest.raises(FileFormatError, match="/dev/zero is a pipe or a device"):
        load("/dev/zero")


def test_float16_of_hdf5_never_reaches_netcdf(tmp_path):
    """netCDF-C ends the process of them, with signal 11."""
    path = tmp_path / "rates.nc"
    with h5py.File(path, "w") as file:
        stimulus = file.create_dataset("stimulus", data=[b"a", b"b", b"c"])
        stimulus.make_scale("stimulus")
        values = file.create_dataset("data", data=np.ones((3, 2), np.float16))
        values.dims[0].attach_scale(stimulus)
    with pytest.raises(DTypeError, match=r"float16 numbers \('data'\).*astype\('float32'\)"):
        load(path)


def test_a_header_that_promises_more_than_there_is(tmp_path):
    path = tmp_path / "rdm.npy"
    header = {"descr": "<f8", "fortran_order": False, "shape": (2_800_000, 2_800_000)}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.write(bytes(64))
    message = r"rdm\.npy, of shape .* takes 62720\.0 GB of memory.*`limit=`.*header is damaged"
    with pytest.raises(MemoryLimitError, match=message):
        load(path)
    with zipfile.ZipFile(tmp_path / "rdm.npz", "w") as archive:
        archive.write(path, "rdm.npy")
    with pytest.raises(MemoryLimitError, match=r"array 'rdm' in .*rdm\.npz, of shape .*62720"):
        load(tmp_path / "rdm.npz")


def test_a_bomb_that_nobody_reads_costs_nothing(tmp_path):
    path = tmp_path / "rates.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for key, array in (("data", np.ones((3, 2))), ("stimulus", np.array(["a", "b", "c"]))):
            with archive.open(f"{key}.npy", "w") as file:
                np.save(file, array)
        with archive.open("bomb.npy", "w") as file:
            header = {"descr": "<f8", "fortran_order": False, "shape": (10**6, 10**6)}
            np.lib.format.write_array_header_1_0(file, header)
            file.write(bytes(10**7))
    assert load(path, limit=10**4).stimulus.values.tolist() == ["a", "b", "c"]
    with pytest.raises(MemoryLimitError, match=r"array 'bomb' in .* takes 8000\.0 GB"):
        load(path, variable="bomb")


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".nc", ".csv", ".pt", ".h5", ".mat"])
def test_a_limit_holds_in_every_format(tmp_path, suffix, capsys):
    rates = np.random.default_rng(0).normal(size=(30, 20))
    path, options = tmp_path / f"rates{suffix}", {"stimuli": range(30)}
    if suffix == ".npy":
        np.save(path, rates)
    elif suffix == ".pt":
        torch.save(torch.from_numpy(rates), path)
    elif suffix == ".mat":
        scipy.io.savemat(path, {"rates": rates}, do_compression=True)
    elif suffix == ".h5":
        with h5py.File(path, "w") as file:
            file["data"] = rates
    else:
        labels = {"stimulus": np.arange(30), "unit": np.arange(20)}
        save(xr.DataArray(rates, labels, ("stimulus", "unit")), path)
        options = {}
    with pytest.raises(MemoryLimitError, match=r"rates.* of memory, and the limit is 0\.00 GB"):
        load(path, **options, limit=1000)
    assert load(path, **options, limit=10**6).size == 600
    with pytest.raises(DataError, match="number of bytes above 0, got -1"):
        load(path, **options, limit=-1)
    if suffix == ".nc":
        assert main(["optimize", str(path), "--limit", "1e-6", "--out", str(tmp_path / "o")]) == 2
        assert "`--limit` in GB" in capsys.readouterr().err


def test_chunks_that_are_not_there_are_not_made_up(tmp_path):
    path = tmp_path / "rates.mat"
    with h5py.File(path, "w", userblock_size=512) as file:
        shape = (40_000, 40_000)
        file.create_dataset("rates", shape, "f8", chunks=(100, 100), compression="gzip")
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM")
    with pytest.raises(
        MemoryLimitError, match=r"/rates, of shape .*only 0\.00 GB of it are on disk"
    ):
        load(path, stimuli="numbered")
    pytest.importorskip("zarr")
    folder = tmp_path / "rates.zarr"
    small = xr.DataArray(np.ones((4, 3)), dims=("stimulus", "unit"))
    small.to_dataset(name="data").to_zarr(folder, zarr_format=2, consolidated=True)
    about = folder / ".zmetadata"
    content = json.loads(about.read_text())
    content["metadata"]["data/.zarray"]["shape"] = shape
    about.write_text(json.dumps(content))
    with pytest.raises(MemoryLimitError, match=r"rates\.zarr: 'data', of shape .* are on disk"):
        load(folder)


def test_a_wide_table_is_read_in_seconds(tmp_path):
    n_units = 100_000
    path = tmp_path / "wide.csv"
    header = ",".join(["stimulus", *(f"u{i}" for i in range(n_units))])
    rows = [f"{name}," + ",".join(["0.5"] * (n_units - 1) + [end]) for name, end in ROWS]
    path.write_text("\n".join([header, *rows]))
    start = time.monotonic()
    with pytest.warns(ReadingWarning, match="1 of 100000 units"):
        assert load(path, drop_missing_units=True).shape == (3, n_units - 1)
    path.write_text("\n".join([header.replace("u7,", "u8,"), *rows]))
    with pytest.raises(FileFormatError, match="has the columns 'u8' more than once"):
        load(path)
    assert time.monotonic() - start < 20  # 2 s; a minute where each name is counted
