"""Damaged netCDF files, one of which HDF5 would read for ever."""

import subprocess
import sys
import time

import netCDF4
import numpy as np
import pytest
import xarray as xr

from softrsa import io
from softrsa.errors import FileFormatError
from softrsa.io.netcdf import heap_damaged


@pytest.fixture
def path(tmp_path):
    array = xr.DataArray(
        np.arange(60.0).reshape(20, 3),
        dims=("stimulus", "unit"),
        coords={"stimulus": [f"img{i:03d}" for i in range(20)]},
    )
    io.save(array, tmp_path / "a.nc")
    return tmp_path / "a.nc"


def damage(path, offset, value):
    """Change a byte of the first heap of texts."""
    content = bytearray(path.read_bytes())
    content[content.index(b"GCOL\x01") + offset] = value
    path.write_bytes(content)


def load_elsewhere(path):
    """Load in another process, which is ended if it takes too long."""
    code = f"from softrsa import io; io.load({str(path)!r})"
    return subprocess.run(  # noqa: S603
        [sys.executable, "-c", code], timeout=60, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(("offset", "value"), [(16 + 8, 120), (24, 200), (16 + 8 + 7, 1)])
def test_a_heap_whose_objects_do_not_fill_it_is_refused_at_once(path, offset, value):
    damage(path, offset, value)
    assert heap_damaged(path)
    found = load_elsewhere(path)
    assert "FileFormatError" in found.stderr
    start = time.perf_counter()
    with pytest.raises(FileFormatError, match=r"a heap of texts is damaged"):
        io.load(path)
    assert time.perf_counter() - start < 5


def test_sound_heaps_that_were_written_to_again(path, tmp_path):
    assert not heap_damaged(path)
    rng = np.random.default_rng(0)
    with netCDF4.Dataset(tmp_path / "b.nc", "w") as file:
        file.createDimension("n", 500)
        names = file.createVariable("names", str, ("n",))
        names[:] = np.array(["n" * k for k in rng.integers(0, 60, 500)], dtype=object)
        file.setncattr_string("few", ["a", "bb"] * 300)
    with netCDF4.Dataset(tmp_path / "b.nc", "a") as file:
        file["names"][:250] = np.array(["m" * k for k in rng.integers(0, 300, 250)], dtype=object)
        file.setncattr_string("few", ["ccc"] * 700)
    assert not heap_damaged(tmp_path / "b.nc")


def test_bytes_that_only_look_like_a_heap(tmp_path):
    (tmp_path / "a").write_bytes(b"GCOL\x01\0\0\0" + (10**9).to_bytes(8, "little"))
    (tmp_path / "empty").touch()
    assert not heap_damaged(tmp_path / "a")
    assert not heap_damaged(tmp_path / "empty")
