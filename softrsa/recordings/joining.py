"""Two sources brought to the same stimuli, by id."""

from __future__ import annotations

import re
import unicodedata
from typing import Literal

import numpy as np
import pandas as pd
import xarray as xr

from softrsa._wording import counted, listed
from softrsa.errors import StimulusError, unknown_name
from softrsa.io.schema import check_distinct


def join_stimuli(
    a: xr.DataArray,
    b: xr.DataArray,
    *,
    how: Literal["exact", "intersection"] = "exact",
    ids: Literal["exact", "normalize"] = "exact",
) -> tuple[xr.DataArray, xr.DataArray]:
    """Bring two arrays to the same stimuli in the same order, by stimulus id.

    Parameters
    ----------
    a, b : DataArray
        Recordings or activations (stimulus, unit) or stacks (..., anchor, neighbor), in any mix.
    how : {"exact", "intersection"}
        ``"exact"`` wants the same ids on both sides; ``"intersection"`` keeps the shared ones.

    ids : {"exact", "normalize"}
        Whether ids must be the same letter by letter, or may differ by Unicode normal form, case,
        white space, zero padding, file extension, folder, and whether they are numbers.

    Returns
    -------
    tuple of DataArray
        ``a`` and ``b``, both in the order and with the ids of ``a``. Where an intersection left
        stimuli out, their ids are in ``attrs["stimuli_left_out"]`` of the array that had them.

    Raises
    ------
    ValueError
        If ``how`` is something else.
    StimulusError
        If ids repeat, also once normalized, or differ under ``"exact"``, or fewer than 2 are
        shared.

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
    if ids not in ("exact", "normalize"):
        raise unknown_name("way to compare ids (`ids`)", ids, ("exact", "normalize"))
    ids_a, ids_b = _stimuli(a, "first array"), _stimuli(b, "second array")
    if ids == "normalize":
        b = with_ids_of(a, b)
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
    """Say how many ids would be shared if what rarely matters in them were not looked at."""
    whole = [pd.api.types.is_integer_dtype(_ids(each).dtype) for each in (a, b)]
    types = " One side has integers and the other strings." if whole[0] != whole[1] else ""
    first, second = _normal(_ids(a)), _normal(_ids(b))
    if first.has_duplicates or second.has_duplicates:
        return types
    shared = first.intersection(second)
    if len(shared) <= len(_ids(a).intersection(_ids(b))):
        return types
    pair = [
        ids.tolist()[found.tolist().index(shared[0])]
        for ids, found in ((_ids(a), first), (_ids(b), second))
    ]
    return (
        f"{types} Without Unicode form, case, white space, zero padding, file extension and folder "
        f"{len(shared)} would be shared, such as {pair[0]!r} and {pair[1]!r}: join with "
        '`ids="normalize"` (`--ids normalize`).'
    )


def _ids(array: xr.DataArray) -> pd.Index:
    return array.indexes["anchor" if "anchor" in array.dims else "stimulus"]


def _normal(ids: pd.Index) -> pd.Index:
    """Strip ids of what differs between copies of a file name."""
    return pd.Index([_normal_id(str(name)) for name in ids], dtype=object)


def _normal_id(name: str) -> str:
    name = unicodedata.normalize("NFC", name).replace("\\", "/").rstrip("/").split("/")[-1]
    name = re.sub(r"\.[A-Za-z]\w{0,4}$", "", name)  # not the decimals of a number
    name = " ".join(name.split()).casefold()
    return re.sub(r"0+(?=\d)", "", name) if not re.search(r"\d\.\d", name) else name


def with_ids_of(a: xr.DataArray, b: xr.DataArray) -> xr.DataArray:
    """Give ``b`` the ids of ``a`` where they are the same but for spelling."""
    known: dict[str, object] = {}
    for side, array in (("first", a), ("second", b)):
        found = _normal(_ids(array))
        if found.has_duplicates:
            twice = _ids(array)[found.duplicated(keep=False)]
            raise StimulusError(
                f'`ids="normalize"` cannot tell some stimuli of the {side} array apart: '
                f"{listed(twice)}. Rename them, or join without it."
            )
        if side == "first":
            known = dict(zip(found, _ids(array), strict=True))
    new = np.array([known.get(spelled, own) for own, spelled in zip(_ids(b), found, strict=True)])
    dims = ("anchor", "neighbor") if "anchor" in b.dims else ("stimulus",)
    if dims[0] == "anchor":
        b = b.sel(neighbor=b["anchor"].values)
    return b.assign_coords(dict.fromkeys(dims, new))
