"""netCDF and zarr files to labelled arrays."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import xarray as xr

from softrsa.errors import DataError, FileFormatError, FileMissingError
from softrsa.io.brainio import convert_assembly, is_assembly
from softrsa.io.labelled import VARIABLE, check_labelled
from softrsa.io.labels import plain_labels
from softrsa.io.schema import check_labels
from softrsa.io.wording import listed

__all__ = ["load", "open_array"]

Chunks = Mapping[str, int] | int | Literal["auto"]
ZARR_FILES = ("zarr.json", ".zgroup")  # of format 3, of format 2
UNREADABLE = (OSError, RuntimeError, ValueError, TypeError, LookupError)  # what the readers raise


def load(path: str | Path, *, chunks: Chunks | None = None) -> xr.DataArray:
    """Read a netCDF file or a zarr store into a checked labelled array.

    Parameters
    ----------
    path : str or Path
        A file of softrsa's own schema, a BrainIO / Brain-Score assembly file, or any netCDF file or
        zarr store with one data variable whose dimensions are those below.
    chunks : mapping, int or "auto", optional
        For recordings or activations larger than memory: leave them on disk, to be read by dask in
        chunks of such sizes by dimension, e.g. ``{"unit": 10000}``; ``{}`` takes the chunks of the
        file. `softrsa.rsm.build_rsms` and `softrsa.align` then read stretches of units. Their
        values are checked when they are used. By default, everything is read into memory.

    Returns
    -------
    DataArray
        Recordings or activations (stimulus, unit), single trials (trial, unit), or RDMs / RSMs
        (..., anchor, neighbor) with ``attrs["kind"]``. Assemblies come out as (stimulus, unit):
        presentations of one stimulus are averaged, and of the neuroids' coordinates region, layer,
        subject (or animal, as subject), neuroid_id and hemisphere are kept.

    Raises
    ------
    FileMissingError
        If there is no such file, or dask or zarr is needed and not installed.
    FileFormatError
        If it is not a readable netCDF file or zarr store with one labelled array.
    ShapeError, DTypeError, StimulusError, DataError
        If the array is not as `softrsa.io.check_recording` or `check_rdms` want it.

    Examples
    --------
    >>> load("nowhere.nc")
    Traceback (most recent call last):
    softrsa.errors.FileMissingError: There is no file nowhere.nc.
    """
    path = Path(path)
    if chunks is not None:
        return _open_in_chunks(path, chunks)
    with open_array(path) as lazy:
        try:
            array = lazy.load()
        except UNREADABLE as error:
            raise _unreadable(path, error) from error
    name = f"array in {path}"
    if is_assembly(array):
        return convert_assembly(array, name)
    return check_labelled(array, name=name)


def _open_in_chunks(path: Path, chunks: Chunks) -> xr.DataArray:
    """Open a file for dask to read, and check all but the values."""
    _check_installed("dask", "Reading in chunks")
    array, name = open_array(path, chunks=chunks), f"array in {path}"
    if is_assembly(array):
        raise DataError(
            f"{path} is a BrainIO assembly, whose presentations must be averaged: load it without "
            "`chunks`, save it with `softrsa.io.save`, and load that in chunks."
        )
    if {"stimulus", "unit"} == {*array.dims}:
        return check_labels(array, name=name)
    return check_labelled(array, name=name)


def _check_installed(package: str, task: str) -> None:
    if find_spec(package) is None:
        raise FileMissingError(
            f"{task} needs {package}, which is not installed; install it with "
            "`pip install softrsa[distributed]`."
        )


def open_array(path: Path, *, chunks: Chunks | None = None) -> xr.DataArray:
    """Open the one labelled array of a file without reading its values; close it after use."""
    if not path.exists():
        raise FileMissingError(f"There is no file {path}.")
    engine = _engine(path)
    try:
        dataset = xr.open_dataset(
            path, engine=engine, chunks=chunks, decode_times=False, decode_timedelta=False
        )
    except UNREADABLE as error:
        raise _unreadable(path, error) from error
    try:
        array = _pick_variable(dataset, path)
        labels = {
            name: (coord.dims, plain_labels(coord.values)) for name, coord in array.coords.items()
        }
    except FileFormatError:
        dataset.close()
        raise
    except UNREADABLE as error:
        dataset.close()
        raise _unreadable(path, error) from error
    array = array.assign_coords(labels).rename(None)
    array.attrs.pop("softrsa_schema", None)
    array.set_close(dataset.close)
    return array


def _engine(path: Path) -> Literal["scipy", "netcdf4", "zarr"]:
    """Choose the reader: netCDF-C fills a classic file that was cut short with zeros, SciPy not."""
    if path.is_dir():
        if not any((path / name).is_file() for name in ZARR_FILES):
            raise FileFormatError(f"{path} is a folder, neither a netCDF file nor a zarr store.")
        _check_installed("zarr", f"Reading {path}")
        return "zarr"
    with path.open("rb") as file:
        return "scipy" if file.read(4) in (b"CDF\x01", b"CDF\x02") else "netcdf4"


def _pick_variable(dataset: xr.Dataset, path: Path) -> xr.DataArray:
    """Find the data variable, with every label that belongs to its dimensions."""
    if dataset.attrs.get("softrsa_kind") == "alignment_result":
        raise FileFormatError(
            f"{path} is the result of an alignment; open it with "
            f"`softrsa.alignment.AlignmentResult.from_netcdf({str(path)!r})`."
        )
    names = sorted(map(str, dataset.data_vars))
    if VARIABLE in names:
        dims = set(dataset[VARIABLE].dims)
        labels = [n for n in names if dataset[n].ndim == 1 and set(dataset[n].dims) <= dims]
        return dataset.set_coords([n for n in labels if n != VARIABLE])[VARIABLE]
    if len(names) == 1:
        return dataset[names[0]]
    if not names:
        raise FileFormatError(f"{path} holds no netCDF data variable.")
    raise FileFormatError(
        f"{path} holds {len(names)} variables ({listed(names, 10)}) and none is called "
        f"{VARIABLE!r}: rename the one to read to {VARIABLE!r}, or save it to a file of its own."
    )


def _unreadable(path: Path, error: Exception) -> FileFormatError:
    """Word the refusal of a library to read."""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return FileFormatError(
        f"{path} cannot be read as netCDF ({reason}). It is another format, or was cut short when "
        "it was copied or downloaded."
    )
