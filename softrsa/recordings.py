"""Recordings on their way to tensors: trials averaged, units split, stimuli joined by id."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, TypeVar

import numpy as np
import pandas as pd
import xarray as xr

from softrsa.errors import DataError, StimulusError, unknown_name
from softrsa.io.labels import check_distinct
from softrsa.io.schema import check_trials
from softrsa.io.trials import mean_by_stimulus
from softrsa.io.wording import counted, listed

__all__ = ["average_trials", "join_stimuli", "select", "split_units"]

T = TypeVar("T")


def average_trials(trials: xr.DataArray) -> xr.DataArray:
    """Average the trials of each stimulus.

    Parameters
    ----------
    trials : DataArray, dims (trial, unit)
        Responses in any unit, with a coordinate `stimulus` on `trial`.

    Returns
    -------
    DataArray, dims (stimulus, unit)
        Means, computed in float64 and returned in the number type of the trials; stimuli in order
        of first appearance, unit coordinates and attributes kept.

    Raises
    ------
    DTypeError, ShapeError, StimulusError, DataError
        If the trials are not as `softrsa.io.check_trials` wants them.

    Examples
    --------
    >>> trials = xr.DataArray(
    ...     [[1.0], [4.0], [3.0]],
    ...     dims=("trial", "unit"),
    ...     coords={"stimulus": ("trial", ["face", "house", "face"])},
    ... )
    >>> average_trials(trials).to_series().to_dict()
    {('face', 0): 2.0, ('house', 0): 4.0}
    """
    return mean_by_stimulus(check_trials(trials, name="trials"))


def join_stimuli(
    a: xr.DataArray, b: xr.DataArray, *, how: Literal["exact", "intersection"] = "exact"
) -> tuple[xr.DataArray, xr.DataArray]:
    """Bring two arrays to the same stimuli in the same order, by stimulus id.

    Parameters
    ----------
    a, b : DataArray
        Recordings or activations (stimulus, unit) or stacks (..., anchor, neighbor), in any mix.
    how : {"exact", "intersection"}
        ``"exact"`` wants the same ids on both sides; ``"intersection"`` keeps the shared ones.

    Returns
    -------
    tuple of DataArray
        ``a`` and ``b``, both in the order of ``a``. Where an intersection left stimuli out, their
        ids are in ``attrs["stimuli_left_out"]`` of the array that had them.

    Raises
    ------
    ValueError
        If ``how`` is something else.
    StimulusError
        If ids repeat, or differ under ``"exact"``, or fewer than 2 are shared.

    Examples
    --------
    >>> a = xr.DataArray(np.eye(2), dims=("stimulus", "unit"), coords={"stimulus": ["x", "y"]})
    >>> b = xr.DataArray(np.eye(2), dims=("stimulus", "unit"), coords={"stimulus": ["y", "x"]})
    >>> join_stimuli(a, b)[1].values
    array([[0., 1.],
           [1., 0.]])
    """
    if how not in ("exact", "intersection"):
        raise unknown_name("way to join (`how`)", how, ("exact", "intersection"))
    ids_a, ids_b = _stimuli(a, "first array"), _stimuli(b, "second array")
    only_a, only_b = ids_a[~ids_a.isin(ids_b)], ids_b[~ids_b.isin(ids_a)]
    if how == "exact" and (len(only_a) or len(only_b)):
        raise StimulusError(
            f"The stimuli differ. {_only('first', only_a)} {_only('second', only_b)}"
            f"{_hint(ids_a, ids_b)} To keep those that both have, ask for the intersection "
            "(`how` of join_stimuli, `join` of align, --join of the command)."
        )
    shared = ids_a[ids_a.isin(ids_b)]
    if len(shared) < 2:
        raise StimulusError(
            f"The two arrays share {counted(len(shared), 'stimulus', 'stimuli')}, at least 2 are "
            f"needed. {_only('first', only_a)} {_only('second', only_b)}{_hint(ids_a, ids_b)}"
        )
    return _take(a, ids_a, shared, only_a), _take(b, ids_b, shared, only_b)


def split_units(array: xr.DataArray, by: str) -> dict[str, xr.DataArray]:
    """Split recordings or activations by a coordinate of their units.

    Parameters
    ----------
    array : DataArray, dims (stimulus, unit)
        Recordings or activations; those not yet read from disk are not read.
    by : str
        A coordinate on `unit`, such as ``"region"``, ``"layer"`` or ``"subject"``.

    Returns
    -------
    dict of str to DataArray
        One array (stimulus, unit) per label, in order of first appearance.

    Raises
    ------
    UnknownNameError
        If the units have no such coordinate.
    DataError
        If units have no label, or all values of a label are NaN.

    Examples
    --------
    >>> array = xr.DataArray(
    ...     np.eye(3),
    ...     dims=("stimulus", "unit"),
    ...     coords={"stimulus": [1, 2, 3], "region": ("unit", ["V4", "IT", "V4"])},
    ... )
    >>> {region: part.sizes["unit"] for region, part in split_units(array, "region").items()}
    {'V4': 2, 'IT': 1}
    """
    present = [str(name) for name, coord in array.coords.items() if coord.dims == ("unit",)]
    if by not in present:
        raise unknown_name("unit coordinate", by, present)
    labels = array[by].values
    absent = pd.isna(labels) | (labels.astype(str) == "")
    if absent.any():
        raise DataError(
            f"{counted(int(absent.sum()), 'unit')} of {len(labels)} have no {by}. Label them or "
            f'leave them out: `array.sel(unit=array["{by}"] != "")`.'
        )
    codes, names = pd.factorize(labels)
    parts = {str(name): _units(array, np.flatnonzero(codes == i)) for i, name in enumerate(names)}
    for name, part in parts.items():
        if bool(part[:1].isnull().all()) and bool(part.isnull().all()):
            raise DataError(f"The {by} {name!r} is empty: all its values are NaN. Leave it out.")
    return parts


def select(parts: Mapping[str, T], names: Iterable[str] | None, *, kind: str) -> dict[str, T]:
    """Take the named parts, in the order named; all of them for ``None``.

    Parameters
    ----------
    parts : mapping of str
        What there is, e.g. the result of `split_units`.
    names : iterable of str, or None
        What is wanted.
    kind : str
        What the names are, for the message: ``"layer"``, ``"region"``, ...

    Returns
    -------
    dict of str
        The parts wanted.

    Raises
    ------
    UnknownNameError
        If a name is not among the parts; the message offers the nearest ones.

    Examples
    --------
    >>> select({"V1": 1, "V4": 2, "IT": 3}, ["IT", "V1"], kind="region")
    {'IT': 3, 'V1': 1}
    """
    wanted = list(parts) if names is None else list(names)
    for name in wanted:
        if name not in parts:
            raise unknown_name(kind, name, parts)
    return {name: parts[name] for name in wanted}


def _stimuli(array: xr.DataArray, name: str) -> pd.Index:
    """Read the distinct stimulus ids of a recording or a stack."""
    dim = "anchor" if "anchor" in array.dims else "stimulus"
    if dim not in array.indexes:
        raise StimulusError(f"The {name} has no stimulus ids along `{dim}`.")
    ids = array.indexes[dim]
    check_distinct(ids, name)
    return ids


def _take(array: xr.DataArray, ids: pd.Index, wanted: pd.Index, left_out: pd.Index) -> xr.DataArray:
    """Reorder an array to the wanted ids and note what that leaves out."""
    dims = ("anchor", "neighbor") if "anchor" in array.dims else ("stimulus",)
    if not ids.equals(wanted):
        array = array.sel(dict.fromkeys(dims, wanted.to_numpy()))
    if len(left_out):
        array = array.assign_attrs(stimuli_left_out=left_out.tolist())
    return array


def _units(array: xr.DataArray, positions: np.ndarray) -> xr.DataArray:
    """Take units, as a slice where they are contiguous (no copy, and fast from disk)."""
    first, last = int(positions[0]), int(positions[-1])
    contiguous = last - first + 1 == len(positions)
    return array.isel(unit=slice(first, last + 1) if contiguous else positions)


def _only(side: str, ids: pd.Index) -> str:
    """Say which ids only one side has."""
    return f"Only in the {side}: {listed(ids) or 'none'}."


def _hint(a: pd.Index, b: pd.Index) -> str:
    """Point out numbers on one side and strings on the other."""
    kinds = {pd.api.types.is_integer_dtype(ids.dtype) for ids in (a, b)}
    return " One side has integers and the other strings." if len(kinds) == 2 else ""
