"""Labelled arrays to files: netCDF, and on request NumPy's archives and tables."""

from __future__ import annotations

from pathlib import Path

import xarray as xr

from softrsa._files import OutputError, atomic_path
from softrsa.errors import SoftRSAError
from softrsa.io.looking import FORMATS
from softrsa.io.netcdf import write_netcdf
from softrsa.io.schema import check_labelled, check_storable, without_levels


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
    array = without_levels(array)
    check_storable(array)
    writers = {row.suffix: row.write for row in FORMATS.values() if row.write is not None}
    write = writers.get(Path(path).suffix.lower(), write_netcdf)
    with atomic_path(path) as temporary:
        try:
            write(array, temporary)
        except SoftRSAError:
            raise
        except (OSError, RuntimeError) as error:
            raise OutputError(f"Cannot write {path}: {error}.") from error
