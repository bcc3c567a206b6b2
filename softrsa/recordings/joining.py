"""Two sources brought to the same stimuli, by id."""

from __future__ import annotations

from pathlib import PureWindowsPath
from typing import Literal

import pandas as pd
import xarray as xr

from softrsa._wording import ON_COMMAND_LINE, counted, listed
from softrsa.errors import StimulusError, unknown_name
from softrsa.io.schema import check_distinct


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
    >>> import numpy as np
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
    shared = ids_a[ids_a.isin(ids_b)]
    differ = f"{_only('first', only_a)} {_only('second', only_b)}{_hint(a, b)}"
    if how == "exact" and (len(only_a) or len(only_b)):
        keep = (
            f" To keep the {len(shared)} that both have, ask for the intersection (`how` of "
            "join_stimuli, `join` of align, --join of the command)."
        )
        raise StimulusError(
            f"The stimuli differ: {len(shared) or 'none'} of {len(ids_a)} and {len(ids_b)} "
            f"{'is' if len(shared) == 1 else 'are'} shared. {differ}"
            f"{keep if len(shared) > 1 else ''}"
        )
    if len(shared) < 2:
        raise StimulusError(
            f"The two arrays share {counted(len(shared), 'stimulus', 'stimuli')}, at least 2 are "
            f"needed. {differ}"
        )
    return _take(a, ids_a, shared, only_a), _take(b, ids_b, shared, only_b)


def _stimuli(array: xr.DataArray, name: str) -> pd.Index:
    """Read the distinct stimulus ids of a recording or a stack."""
    dim = "anchor" if "anchor" in array.dims else "stimulus"
    if dim not in array.dims and "trial" in array.dims:
        raise StimulusError(
            f"The {name} holds single trials, one row per stimulus is needed: average them with "
            "`softrsa.recordings.average_trials`."
        )
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


def _only(side: str, ids: pd.Index) -> str:
    """Say which ids only one side has."""
    return f"Only in the {side}: {listed(ids) or 'none'}."


def _hint(a: xr.DataArray, b: xr.DataArray) -> str:
    """Point out ids that differ in kind only, or by folders and file extensions only."""
    ids = {"first": a.indexes[_row(a)], "second": b.indexes[_row(b)]}
    whole = [pd.api.types.is_integer_dtype(each.dtype) for each in ids.values()]
    if whole[0] != whole[1]:
        return " One side has integers and the other strings."
    if not all(isinstance(name, str) for each in ids.values() for name in each):
        return ""
    bare = {
        side: pd.Index([PureWindowsPath(name).stem for name in each]) for side, each in ids.items()
    }
    shared = bare["first"].intersection(bare["second"])
    more = len(shared) > len(ids["first"].intersection(ids["second"]))
    if not more or bare["first"].has_duplicates or bare["second"].has_duplicates:
        return ""
    pair = [each[bare[side].get_loc(shared[0])] for side, each in ids.items()]
    to_do = [
        f"the {side} with {_renaming(array)}"
        for side, array in (("first", a), ("second", b))
        if not ids[side].equals(bare[side])
    ]
    return (
        f" Without folders and file extensions {len(shared)} are shared, such as {pair[0]!r} and "
        f"{pair[1]!r}: rename {' and '.join(to_do)}, after `from pathlib import PureWindowsPath`. "
        f"{ON_COMMAND_LINE}"
    )


def _row(array: xr.DataArray) -> str:
    return "anchor" if "anchor" in array.dims else "stimulus"


def _renaming(array: xr.DataArray) -> str:
    """Word how to rename the stimuli of an array."""
    dims = ("anchor", "neighbor") if _row(array) == "anchor" else ("stimulus",)
    bare = "[PureWindowsPath(i).stem for i in array.{0}.values]"
    return f"`array.assign_coords({', '.join(f'{dim}={bare.format(dim)}' for dim in dims)})`"
