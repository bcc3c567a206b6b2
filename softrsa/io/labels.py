"""Checks of number types and stimulus ids that every labelled array passes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr

from softrsa.errors import DTypeError, StimulusError
from softrsa.io.wording import listed


def check_dtype(array: xr.DataArray, name: str) -> xr.DataArray:
    """Allow float32 and float64 only, in the machine's byte order."""
    dtype = array.dtype.newbyteorder("=")
    if dtype not in (np.float32, np.float64):
        remedy = (
            "take its real part or modulus, e.g. `array.real` or `abs(array)`"
            if dtype.kind == "c"
            else 'convert it with `array.astype("float64")`'
        )
        raise DTypeError(f"The {name} must be float32 or float64, got {array.dtype}; {remedy}.")
    return array if dtype == array.dtype else array.astype(dtype)


def stimulus_ids(
    array: xr.DataArray, dim: str, name: str, *, coordinate: str | None = None
) -> np.ndarray:
    """Read the stimulus ids along a dimension as integers or strings."""
    coordinate = coordinate or dim
    if coordinate not in array.coords or array.coords[coordinate].dims != (dim,):
        raise StimulusError(
            f"The {name} has no stimulus ids: give it a coordinate `{coordinate}` along `{dim}`, "
            f"e.g. `array.assign_coords({coordinate}=({dim!r}, ids))`."
        )
    if isinstance(array.indexes.get(coordinate), pd.MultiIndex):
        raise StimulusError(
            f"`{coordinate}` of the {name} is a MultiIndex of "
            f"{listed(array.indexes[coordinate].names)}; it must hold one id per stimulus."
        )
    ids = plain_labels(array.coords[coordinate].values)
    if ids.dtype.kind not in "iuU":
        raise StimulusError(
            f"The stimulus ids of the {name} must be all strings or all integers, got {ids.dtype} "
            f"({listed(ids, 3)}); convert them, e.g. with `ids.astype(str)`."
        )
    return ids


def plain_labels(values: np.ndarray) -> np.ndarray:
    """Turn strings stored as objects or bytes (as netCDF gives them) into fixed-width strings."""
    if values.dtype.kind == "S":
        return np.char.decode(values, "utf-8")
    if values.dtype.kind in "OT" and all(isinstance(value, str) for value in values.flat):
        return values.astype(np.str_)
    return values


def check_distinct(ids: pd.Index, name: str) -> None:
    """Refuse repeated stimulus ids."""
    if ids.has_duplicates:
        repeated = ids[ids.duplicated()].unique()
        raise StimulusError(
            f"The {name} repeats the stimuli {listed(repeated)}. Average the trials first: "
            "`softrsa.recordings.average_trials`."
        )
