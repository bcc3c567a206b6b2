"""Files that would end the process, hang it or take all memory are refused with what to do."""

import os

import h5py
import numpy as np
import pytest

from softrsa.errors import DTypeError, FileFormatError, MemoryLimitError
from softrsa.io import load


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
