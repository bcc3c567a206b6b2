"""Labelled arrays to files: netCDF, and on request NumPy's archives and tables."""

from __future__ import annotations

from pathlib import Path

import xarray as xr
from xarray.indexes import PandasMultiIndex

from softrsa._files import OutputError, atomic_path
from softrsa.errors import SoftRSAError
from softrsa.io.archives import write_npz
from softrsa.io.schema import VARIABLE, check_labelled, check_storable
from softrsa.io.tables import write_csv

SCHEMA = "1"


def save(array: xr.DataArray, path: str | Path) -> None:
    """Write a labelled array to a compressed file, whole or not at all.

    A path that ends in .npz becomes an archive of NumPy with all labels, one that ends in .csv a
    long table, a row per number (float64, without attributes); any other is netCDF.

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
        If the array is not as described, or a coordinate or attribute cannot be held by netCDF or
        a table.
    OutputError
        If the file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from softrsa.io import load
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
    check_storable(array)
    write = WRITERS.get(Path(path).suffix.lower(), _write_netcdf)
    with atomic_path(path) as temporary:
        try:
            write(array, temporary)
        except SoftRSAError:
            raise
        except (OSError, RuntimeError) as error:
            raise OutputError(f"Cannot write {path}: {error}.") from error


def _write_netcdf(array: xr.DataArray, path: Path) -> None:
    """Write the variable `data`, with the version of the schema."""
    dataset = array.assign_attrs(softrsa_schema=SCHEMA).to_dataset(name=VARIABLE)
    encoding = {VARIABLE: {"zlib": True, "complevel": 4}}
    dataset.to_netcdf(path, engine="netcdf4", encoding=encoding)


WRITERS = {".npz": write_npz, ".csv": write_csv}
