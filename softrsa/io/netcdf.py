"""Labelled arrays to and from netCDF files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
from xarray.indexes import PandasMultiIndex

from softrsa.errors import DataError, FileFormatError, FileMissingError, ShapeError
from softrsa.io.brainio import convert_assembly, is_assembly
from softrsa.io.files import OutputError, atomic_path
from softrsa.io.schema import check_recording, check_trials, plain_labels
from softrsa.io.stacks import check_rdms
from softrsa.io.wording import listed

__all__ = ["check_labelled", "load", "open_array", "save"]

SCHEMA = "1"
VARIABLE = "data"


def save(array: xr.DataArray, path: str | Path) -> None:
    """Write a labelled array to a compressed netCDF file, whole or not at all.

    Parameters
    ----------
    array : DataArray
        Recordings or activations (stimulus, unit), single trials (trial, unit) or RDMs / RSMs
        (..., anchor, neighbor), as `softrsa.io.check_recording` and `check_rdms` describe them.
    path : str or Path
        The file to write; its folder is made where it does not exist.

    Raises
    ------
    ShapeError, DTypeError, StimulusError, DataError
        If the array is not as described, or a coordinate or attribute cannot be held by netCDF.
    OutputError
        If the file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> array = xr.DataArray(
    ...     np.eye(2), dims=("stimulus", "unit"), coords={"stimulus": ["face", "house"]}
    ... )
    >>> path = Path(tempfile.mkdtemp()) / "recording.nc"
    >>> save(array, path)
    >>> load(path).sel(stimulus="house").values
    array([0., 1.])
    """
    array = check_labelled(array, name="array").drop_encoding()
    multi = {i.dim for i in array.xindexes.values() if isinstance(i, PandasMultiIndex)}
    array = array.reset_index(list(multi)) if multi else array
    array = array.assign_attrs(softrsa_schema=SCHEMA)
    _check_storable(array)
    dataset = array.to_dataset(name=VARIABLE)
    encoding = {VARIABLE: {"zlib": True, "complevel": 4}}
    with atomic_path(path) as temporary:
        try:
            dataset.to_netcdf(temporary, engine="netcdf4", encoding=encoding)
        except (OSError, RuntimeError) as error:
            raise OutputError(f"Cannot write {path}: {error}.") from error


def load(path: str | Path) -> xr.DataArray:
    """Read a netCDF file into a checked labelled array.

    Parameters
    ----------
    path : str or Path
        A file of softrsa's own schema, a BrainIO / Brain-Score assembly file, or any netCDF file
        with one data variable whose dimensions are those below.

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
        If there is no such file.
    FileFormatError
        If it is not a readable netCDF file with one labelled array.
    ShapeError, DTypeError, StimulusError, DataError
        If the array is not as `softrsa.io.check_recording` or `check_rdms` want it.

    Examples
    --------
    >>> load("nowhere.nc")
    Traceback (most recent call last):
    softrsa.errors.FileMissingError: There is no file nowhere.nc.
    """
    path = Path(path)
    with open_array(path) as lazy:
        try:
            array = lazy.load()
        except (OSError, RuntimeError, ValueError) as error:
            raise _unreadable(path, error) from error
    name = f"array in {path}"
    if is_assembly(array):
        return convert_assembly(array, name)
    return check_labelled(array, name=name)


def open_array(path: Path) -> xr.DataArray:
    """Open the one labelled array of a file without reading its values; close it after use."""
    if not path.exists():
        raise FileMissingError(f"There is no file {path}.")
    if path.is_dir():
        raise FileFormatError(f"{path} is a folder, not a netCDF file.")
    try:
        dataset = xr.open_dataset(
            path, engine="netcdf4", decode_times=False, decode_timedelta=False
        )
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise _unreadable(path, error) from error
    try:
        array = _pick_variable(dataset, path)
        labels = {
            name: (coord.dims, plain_labels(coord.values)) for name, coord in array.coords.items()
        }
    except FileFormatError:
        dataset.close()
        raise
    except (OSError, RuntimeError, ValueError) as error:
        dataset.close()
        raise _unreadable(path, error) from error
    array = array.assign_coords(labels).rename(None)
    array.attrs.pop("softrsa_schema", None)
    array.set_close(dataset.close)
    return array


def check_labelled(array: xr.DataArray, *, name: str) -> xr.DataArray:
    """Check an array by the schema its dimensions ask for."""
    dims = set(array.dims)
    if {"anchor", "neighbor"} <= dims:
        return check_rdms(array, name=name)
    if "unit" in dims and "trial" in dims:
        return check_trials(array, name=name)
    if "unit" in dims and "stimulus" in dims:
        return check_recording(array, name=name)
    raise ShapeError(
        f"The {name} must have the dimensions (stimulus, unit), (trial, unit) or "
        f"(..., anchor, neighbor), got {array.dims}."
    )


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


def _check_storable(array: xr.DataArray) -> None:
    """Refuse coordinates and attributes that netCDF would change, lose or choke on."""
    for name, coord in array.coords.items():
        if plain_labels(coord.values).dtype.kind not in "biufU":
            raise DataError(
                f"The coordinate `{name}` holds {coord.dtype} values, which netCDF cannot keep; "
                "convert it to strings or numbers."
            )
    for holder in (array, *array.coords.values()):
        for key, value in holder.attrs.items():
            kept = isinstance(value, (str, int, float, np.integer, np.floating))
            numbers = isinstance(value, (list, tuple, np.ndarray)) and len(value) > 0
            kept = kept or (numbers and pd.Series(list(value)).map(_is_plain).all())
            if isinstance(value, bool) or not kept:
                raise DataError(
                    f"The attribute {key!r} is a {type(value).__name__}, which netCDF cannot keep; "
                    "give it as a string, a number or a list of those, or drop it with "
                    f"`del array.attrs[{key!r}]`."
                )


def _is_plain(value: object) -> bool:
    """Tell strings and numbers from the rest."""
    return isinstance(value, (str, int, float, np.number)) and not isinstance(value, bool)


def _unreadable(path: Path, error: Exception) -> FileFormatError:
    """Word the netCDF library's refusal to read."""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return FileFormatError(
        f"{path} cannot be read as netCDF ({reason}). It is another format, or was cut short when "
        "it was copied or downloaded."
    )
