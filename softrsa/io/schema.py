"""What a recording (or a table of activations) must look like."""

from __future__ import annotations

from collections.abc import Hashable, Iterator

import numpy as np
import pandas as pd
import xarray as xr

from softrsa.errors import DataError, DTypeError, ShapeError
from softrsa.io.labels import check_distinct, check_dtype, stimulus_ids
from softrsa.io.lazy import chunk_slices, is_lazy, read_values
from softrsa.io.wording import counted, listed

__all__ = ["check_recording", "check_trials"]

BLOCK_BYTES = 64 * 2**20  # largest part of an array looked at in one go
PARTS = ("layer", "region", "subject")  # unit coordinates an error message quotes


def check_recording(recording: xr.DataArray, *, name: str = "recording") -> xr.DataArray:
    """Check a recording or activations, one row per stimulus, and put its dimensions in order.

    Parameters
    ----------
    recording : DataArray, dims (stimulus, unit) in any order
        Responses in any unit, float32 or float64. The coordinate `stimulus` holds a distinct id
        (string or integer) per stimulus; coordinates on `unit` may be `region`, `layer`, `subject`.
    name : str
        What to call the array in messages.

    Returns
    -------
    DataArray, dims (stimulus, unit)
        The same values; not loaded into memory if they were not yet.

    Raises
    ------
    DTypeError
        If the numbers are not float32 or float64.
    ShapeError
        If the dimensions differ or there is but one stimulus.
    StimulusError
        If stimulus ids are absent, repeated or neither strings nor integers.
    DataError
        If there are no stimuli, no units, or values that are NaN or infinite.

    Examples
    --------
    >>> array = xr.DataArray(np.eye(2), dims=("unit", "stimulus"), coords={"stimulus": [5, 3]})
    >>> check_recording(array).dims
    ('stimulus', 'unit')
    """
    recording = check_labels(recording, name=name)
    _check_finite(recording, recording["stimulus"].values, name)
    return recording


def check_labels(recording: xr.DataArray, *, name: str) -> xr.DataArray:
    """Check all that `check_recording` checks but the values."""
    if set(getattr(recording, "dims", ())) == {"trial", "unit"}:
        raise ShapeError(
            f"The {name} holds single trials, one row per stimulus is needed: average them with "
            "`softrsa.recordings.average_trials`."
        )
    recording = _in_order(recording, ("stimulus", "unit"), name)
    recording = recording.assign_coords(stimulus=stimulus_ids(recording, "stimulus", name))
    check_distinct(recording.indexes["stimulus"], name)
    if recording.sizes["stimulus"] == 1:
        raise ShapeError(f"The {name} has 1 stimulus; similarities need at least 2.")
    return recording


def check_trials(trials: xr.DataArray, *, name: str = "recording") -> xr.DataArray:
    """Check a recording of single trials and put its dimensions in order.

    Parameters
    ----------
    trials : DataArray, dims (trial, unit) in any order
        Responses in any unit, float32 or float64; the coordinate `stimulus` on `trial` holds ids.
    name : str
        What to call the array in messages.

    Returns
    -------
    DataArray, dims (trial, unit)
        The same values.

    Raises
    ------
    DTypeError, ShapeError, StimulusError, DataError
        As `check_recording`, but stimuli may repeat.

    Examples
    --------
    >>> array = xr.DataArray(
    ...     np.ones((1, 3)), dims=("unit", "trial"), coords={"stimulus": ("trial", [7, 7, 9])}
    ... )
    >>> check_trials(array).dims
    ('trial', 'unit')
    """
    trials = _in_order(trials, ("trial", "unit"), name)
    ids = stimulus_ids(trials, "trial", name, coordinate="stimulus")
    trials = trials.assign_coords(stimulus=("trial", ids))
    _check_finite(trials, ids, name)
    return trials


def blocks(array: xr.DataArray) -> Iterator[tuple[slice, slice, np.ndarray]]:
    """Walk through rows and columns in blocks, by chunks where dask reads them."""
    if is_lazy(array):
        for rows, columns in chunk_slices(array):
            yield rows, columns, read_values(array[rows, columns])
        return
    row_bytes = max(1, array.nbytes // max(1, array.shape[0]))
    step = max(1, BLOCK_BYTES // row_bytes)
    for start in range(0, array.shape[0], step):
        rows = slice(start, min(start + step, array.shape[0]))
        yield rows, slice(0, array.shape[1]), array[rows].values


def _in_order(array: xr.DataArray, dims: tuple[Hashable, ...], name: str) -> xr.DataArray:
    """Check dimensions, number type and that there is something at all."""
    if not isinstance(array, xr.DataArray):
        raise DTypeError(f"The {name} must be an xarray.DataArray, got {type(array).__name__}.")
    if set(array.dims) != set(dims):
        raise ShapeError(f"The {name} must have the dimensions {dims}, got {array.dims}.")
    array = check_dtype(array, name).transpose(*dims)
    for dim in dims:
        if not array.sizes[dim]:
            raise DataError(f"The {name} is empty: it has 0 entries along `{dim}`.")
    return array


def _check_finite(array: xr.DataArray, ids: np.ndarray, name: str) -> None:
    """Refuse NaN and infinity, naming the stimuli and the layers or regions they are in."""
    bad_rows = np.zeros(array.shape[0], dtype=bool)
    bad_columns = np.zeros(array.shape[1], dtype=np.int64)
    for rows, columns, block in blocks(array):
        bad = ~np.isfinite(block)
        if bad.any():
            bad_rows[rows] |= bad.any(axis=1)
            bad_columns[columns] += bad.sum(axis=0)
    if not bad_rows.any():
        return
    stimuli = pd.unique(ids[bad_rows])
    raise DataError(
        f"The {name} has {counted(int(bad_columns.sum()), 'value')} that are NaN or infinite, "
        f"at {counted(len(stimuli), 'stimulus', 'stimuli')} "
        f"({listed(stimuli)}){_where(array, bad_columns > 0)}."
        f"{_which_units(array, bad_columns)} "
        "Leave out these stimuli or units, or fill the values in, first."
    )


def _which_units(array: xr.DataArray, bad_columns: np.ndarray) -> str:
    """Say how many units are bad, and which, where these are few."""
    bad = np.flatnonzero(bad_columns)
    shown = array["unit"].values[bad] if "unit" in array.coords else bad
    which = f" ({listed(shown)})" if len(bad) < len(bad_columns) else ""
    return f" They are in {len(bad)} of its {counted(len(bad_columns), 'unit')}{which}."


def _where(array: xr.DataArray, bad_columns: np.ndarray) -> str:
    """Say which layers, regions and subjects the bad units belong to."""
    found = [part for part in PARTS if part in array.coords and array[part].dims == ("unit",)]
    labels = (f"{part} {listed(pd.unique(array[part].values[bad_columns]))}" for part in found)
    return "".join(f", {text}" for text in labels)
