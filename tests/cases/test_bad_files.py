"""Files that would end the process, hang it or take all memory are refused with what to do."""

import os
import time

import h5py
import numpy as np
import pytest

from softrsa.errors import DTypeError, FileFormatError, MemoryLimitError, ReadingWarning
from softrsa.io import load

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
    with pytest.raises((MemoryLimitError, FileFormatError), match=r"rdm\.npy"):
        load(path)


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
