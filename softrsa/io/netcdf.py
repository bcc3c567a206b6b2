"""netCDF files and zarr stores to labelled arrays."""

from __future__ import annotations

import math
import mmap
import zlib
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError
from tokenize import TokenError
from typing import Literal
from zipfile import BadZipFile

import xarray as xr

from softrsa._memory import check_room
from softrsa._wording import ON_COMMAND_LINE, first_line, listed
from softrsa.errors import (
    DataError,
    DTypeError,
    FileFormatError,
    FileMissingError,
    ShapeError,
    SoftRSAError,
    StimulusError,
    unknown_name,
)  # fmt: skip
from softrsa.io.axes import axis_meaning, checked, label_array, to_float
from softrsa.io.labelling import Options, ids_of, meaning
from softrsa.io.looking import FORMATS, NAMED, ZARR_FILES, Format, Look
from softrsa.io.matrices import settle_halves
from softrsa.io.schema import LEADING, VARIABLE, check_labelled, check_labels, plain_labels

START = b"GCOL\x01\0\0\0"  # of a collection, version 1
SCHEMA = "1"
HEADER = 16  # bytes of a collection's and of an object's header
LIMIT = 256 * 2**20  # bytes; larger files are not looked through


def heap_damaged(path: Path) -> bool:
    """Tell whether a global heap of an HDF5 file has objects that do not fill it in order."""
    if not 0 < path.stat().st_size <= LIMIT:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        at = content.find(START)
        while at >= 0:
            size = _number(content, at + 8)
            if size <= len(content) - at and not _filled(content[at : at + size]):
                return True
            at = content.find(START, at + 1)
    return False


def _filled(heap: bytes) -> bool:
    """Walk through a collection; what is free, object 0, is its rest."""
    at = HEADER
    while len(heap) - at >= HEADER:
        index, size = _number(heap, at, 2), _number(heap, at + 8)
        if index == 0:
            return size == len(heap) - at
        at += HEADER + -(-size // 8) * 8
    return at <= len(heap)


def _number(content: bytes | mmap.mmap, at: int, n_bytes: int = 8) -> int:
    return int.from_bytes(content[at : at + n_bytes], "little")


Chunks = Mapping[str, int] | int | Literal["auto"]
UNREADABLE = (  # what the readers raise
    OSError, RuntimeError, ValueError, TypeError, LookupError, EOFError, NotImplementedError,
    BadZipFile, UnpicklingError, zlib.error, SyntaxError, TokenError,
)  # fmt: skip


def read_netcdf(path: Path, options: Options) -> xr.DataArray:
    """Read a netCDF file or zarr store."""
    with open_array(path, variable=options.variable) as lazy:
        try:
            array = lazy.load()
        except UNREADABLE as error:
            raise _unreadable(path, error) from error
    name = f"array in {path}"
    array = array.copy(data=to_float(array.values, name, options))
    array = _with_dims(array, options, name)
    if options.dims is not None and not _of_schema(array):
        beside = {str(k): c.values for k, c in array.coords.items() if c.ndim == 1}
        own = replace(options, beside={k: row for k, row in beside.items() if k not in array.dims})
        return label_array(array.values, own, name)
    array = _with_ids(array, options, name)
    if options.kind is not None:
        matrices = "anchor" in array.dims
        if matrices == (options.kind == "recording"):
            raise DataError(
                f"The {name} has the dimensions {array.dims}, which `kind={options.kind!r}` cannot "
                "be: leave out `kind`, or say with `dims` what its axes are."
            )
        array = array.assign_attrs(kind=options.kind) if matrices else array
    if "anchor" in array.dims and options.halves is not None:
        values, _, facts = settle_halves(array.values, name, options.halves)
        options.facts.extend(facts)
        array = array.copy(data=values)
    return checked(array, options, name)


def _of_schema(array: xr.DataArray) -> bool:
    """Tell dimensions that are those of softrsa, so that none is laid beside another."""
    dims = {*array.dims}
    square = {"anchor", "neighbor"} <= dims <= {"anchor", "neighbor", *LEADING}
    return square or dims - {"time"} in ({"stimulus", "unit"}, {"trial", "unit"})


def _with_ids(array: xr.DataArray, options: Options, name: str) -> xr.DataArray:
    """Give stimuli the caller's ids, where the file has none."""
    if options.stimuli is None and options.ids_in is None:
        return array
    row = next((dim for dim in ("anchor", "stimulus", "trial") if dim in array.dims), None)
    coordinate = "stimulus" if row == "trial" else row
    if row is None or coordinate in array.coords:
        raise StimulusError(
            f"{name.removeprefix('array in ')} is netCDF or zarr, which holds its own stimulus "
            "ids: leave out `stimuli`, and rename ids with `array.assign_coords` where needed."
        )
    beside = {str(k): c.values for k, c in array.coords.items() if c.dims == (row,)}
    ids = ids_of(replace(options, beside=beside), array.sizes[row], name)
    if row == "anchor":
        return array.assign_coords(anchor=ids, neighbor=ids)
    return array.assign_coords(stimulus=(row, ids))


def _with_dims(array: xr.DataArray, options: Options, name: str) -> xr.DataArray:
    """Give dimensions the names that the caller says, or those that theirs are other words for."""
    if options.dims is not None and len(options.dims) != array.ndim:
        raise ShapeError(
            f"`dims` must name each of the {array.ndim} axes of the {name}, whose dimensions are "
            f"{array.dims}; got {options.dims!r}."
        )
    named = map(str, array.dims if options.dims is None else options.dims)
    wanted = {dim: axis_meaning(new) for dim, new in zip(array.dims, named, strict=True)}
    renamed = {dim: new for dim, new in wanted.items() if dim != new}
    if not renamed or len({*wanted.values()}) < len(wanted):
        return array
    for dim, new in renamed.items():
        there = {str(key): c.dims for key, c in array.coords.items()}
        if there.get(new) == (dim,):
            array = array.swap_dims({dim: new})
        else:
            array = array.drop_vars([new] if new in there else []).rename({dim: new})
        ids = [k for k, dims in there.items() if dims == (dim,) and meaning(k) == "stimulus"]
        if new == "stimulus" and new not in array.coords and ids:
            array = array.assign_coords(stimulus=(new, array[ids[0]].values))
    shown = ", ".join(f"{dim} as {new}" for dim, new in renamed.items())
    options.facts.append(f"dimensions of the {name} are read so: {shown}")
    return array


def holds_netcdf(seen: Look) -> bool:
    """Tell whether a file is netCDF, by its first bytes or by what its name claims."""
    if seen.container == "folder":
        return bool({*ZARR_FILES} & seen.names)
    if seen.is_plain_hdf5:
        return False
    claimed = seen.path.suffix in (".nc", ".nc4", ".cdf")
    nameless = seen.container in ("empty", "unknown", "text")
    return seen.container in ("hdf5", "netcdf3") or (claimed and nameless)


def open_in_chunks(path: Path, chunks: Chunks) -> xr.DataArray:
    """Open a file for dask to read, and check all but the values."""
    _check_installed("dask", "Reading in chunks")
    array, name = open_array(path, chunks=chunks), f"array in {path}"
    if "presentation" in array.dims:
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


def open_array(
    path: Path, *, variable: str | None = None, chunks: Chunks | None = None
) -> xr.DataArray:
    """Open the one labelled array of a file without reading its values; close it after use."""
    if not path.exists():
        raise FileMissingError(f"There is no file {path}.")
    engine = _engine(path)
    if engine == "netcdf4" and heap_damaged(path):
        raise _unreadable(path, OSError("HDF5: a heap of texts is damaged"))
    if engine == "netcdf4":
        _check_no_halves(path)
    try:
        dataset = xr.open_dataset(
            path, engine=engine, chunks=chunks, decode_times=False, decode_timedelta=False
        )
    except UNREADABLE as error:
        raise _unreadable(path, error) from error
    try:
        array = _pick_variable(dataset, path, variable)
        if chunks is None:
            _check_size(array, path)
        labels = {
            name: (coord.dims, plain_labels(coord.values)) for name, coord in array.coords.items()
        }
    except SoftRSAError:
        dataset.close()
        raise
    except UNREADABLE as error:
        dataset.close()
        raise _unreadable(path, error) from error
    array = array.assign_coords(labels).rename(None)
    array.attrs.pop("softrsa_schema", None)
    array.set_close(dataset.close)
    return array


def _check_size(array: xr.DataArray, path: Path) -> None:
    """Refuse what would not fit into memory, labels and single chunks included."""
    files = path.rglob("*") if path.is_dir() else [path]
    on_disk = sum(file.stat().st_size for file in files)
    for one in (array, *array.coords.values()):
        chunk = one.encoding.get("chunks") or one.encoding.get("chunksizes") or ()
        bytes_ = max(one.nbytes, math.prod(chunk) * one.dtype.itemsize)
        check_room(f"{path}: {one.name!r}, of shape {one.shape},", bytes_, on_disk)


def _check_no_halves(path: Path) -> None:
    """Refuse numbers of 16 bits, of which netCDF-C ends the process."""
    import h5py

    if not h5py.is_hdf5(path):
        return
    halves: list[str] = []

    def note(name: str, node: object) -> None:
        if isinstance(node, h5py.Dataset) and node.dtype.kind == "f" and node.dtype.itemsize < 4:
            halves.append(name)

    try:
        with h5py.File(path) as file:
            file.visititems(note)
    except UNREADABLE as error:
        raise _unreadable(path, error) from error
    if halves:
        raise DTypeError(
            f"{path} holds float16 numbers ({listed(halves)}), which netCDF does not have. Read "
            f"them with `h5py.File({str(path)!r})[{halves[0]!r}][...]`, convert them with "
            "`.astype('float32')`, and save them anew."
        )


def _engine(path: Path) -> Literal["scipy", "netcdf4", "zarr"]:
    """Choose the reader: netCDF-C fills a classic file that was cut short with zeros, SciPy not."""
    if path.is_dir():
        if not any((path / name).is_file() for name in ZARR_FILES):
            raise FileFormatError(f"{path} is a folder, neither a netCDF file nor a zarr store.")
        _check_installed("zarr", f"Reading {path}")
        return "zarr"
    with path.open("rb") as file:
        return "scipy" if file.read(4) in (b"CDF\x01", b"CDF\x02") else "netcdf4"


def _pick_variable(dataset: xr.Dataset, path: Path, variable: str | None) -> xr.DataArray:
    """Find the data variable, with every label that belongs to its dimensions."""
    if dataset.attrs.get("softrsa_kind") == "alignment_result":
        raise FileFormatError(
            f"{path} is the result of an alignment; open it with "
            f"`softrsa.alignment.AlignmentResult.from_netcdf({str(path)!r})`."
        )
    names = sorted(map(str, dataset.data_vars))
    if variable is not None and variable not in names:
        raise unknown_name(f"variable in {path}:", variable, names)
    wanted = variable or VARIABLE
    if wanted in names:
        dims = set(dataset[wanted].dims)
        labels = [n for n in names if dataset[n].ndim == 1 and set(dataset[n].dims) <= dims]
        return dataset.set_coords([n for n in labels if n != wanted])[wanted]
    if len(names) == 1:
        return dataset[names[0]]
    if not names:
        raise FileFormatError(f"{path} holds no netCDF data variable.")
    raise FileFormatError(
        f"{path} holds {len(names)} variables ({listed(names, 10)}) and none is called "
        f"{VARIABLE!r}: say which to read with `variable={names[0]!r}`, or rename it to "
        f"{VARIABLE!r}. {ON_COMMAND_LINE}"
    )


def _unreadable(path: Path, error: Exception) -> FileFormatError:
    """Word the refusal of a library to read."""
    return FileFormatError(
        f"{path} cannot be read as netCDF ({first_line(error)}). It is another format, or was cut "
        "short when it was copied or downloaded."
    )


def write_netcdf(array: xr.DataArray, path: Path) -> None:
    """Write the variable `data`, compressed, with the version of the schema."""
    write_compressed(array.assign_attrs(softrsa_schema=SCHEMA), path)


def write_compressed(array: xr.DataArray, path: Path) -> None:
    """Write an array as the variable `data`."""
    encoding = {VARIABLE: {"zlib": True, "complevel": 4}}
    array.to_dataset(name=VARIABLE).to_netcdf(path, engine="netcdf4", encoding=encoding)


FORMATS.add(
    Format(
        name="netcdf", title="netCDF or zarr", general=True, read=read_netcdf, suffix=".nc",
        write=write_netcdf, takes=NAMED,
        recognizes=holds_netcdf,
    )
)  # fmt: skip
