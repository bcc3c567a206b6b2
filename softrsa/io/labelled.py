"""The schema a labelled array's dimensions ask for, and what netCDF can hold of it."""

from __future__ import annotations

import numpy as np
import xarray as xr

from softrsa.errors import DataError, ShapeError
from softrsa.io.labels import plain_labels
from softrsa.io.schema import check_recording, check_trials
from softrsa.io.stacks import check_rdms

VARIABLE = "data"  # as in BrainIO files


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


def check_storable(array: xr.DataArray) -> None:
    """Refuse coordinates and attributes that netCDF would change, lose or choke on."""
    for name, coord in array.coords.items():
        if plain_labels(coord.values).dtype.kind not in "biufU":
            raise DataError(
                f"The coordinate `{name}` holds {coord.dtype} values, which netCDF cannot keep; "
                "convert it to strings or numbers."
            )
    for holder in (array, *array.coords.values()):
        for key, value in holder.attrs.items():
            row = isinstance(value, (list, tuple)) or getattr(value, "ndim", 0) == 1
            if not (len(value) and all(map(_is_plain, value)) if row else _is_plain(value)):
                raise DataError(
                    f"The attribute {key!r} is a {type(value).__name__}, which netCDF cannot keep; "
                    "give it as a string, a number or a list of those, or drop it with "
                    f"`del array.attrs[{key!r}]`."
                )


def _is_plain(value: object) -> bool:
    """Tell strings and numbers from the rest."""
    plain = isinstance(value, (str, int, float, np.integer, np.floating))
    return plain and not isinstance(value, bool)
