"""Recordings or RDMs of several subjects, an array each, brought together."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Literal

import numpy as np
import pandas as pd
import xarray as xr

from softrsa._wording import listed
from softrsa.errors import DataError
from softrsa.io.schema import ReadingWarning, check_rdms, check_recording
from softrsa.recordings.joining import join_stimuli

PARTS = ("region", "layer")  # labels that all must have, or none


def join_subjects(
    arrays: Mapping[str, xr.DataArray],
    *,
    how: Literal["exact", "intersection"] = "exact",
    ids: Literal["exact", "normalize"] = "exact",
    subject: str = "subject",
) -> xr.DataArray:
    """Bring the arrays of several subjects together, by stimulus id.

    Parameters
    ----------
    arrays : mapping of str to DataArray
        By subject, recordings (stimulus, unit), also with time after them, or RDMs / RSMs
        (..., anchor, neighbor). One that has labels of subjects itself keeps these.
    how, ids : str
        As in `join_stimuli`: whether all must have the same stimuli, and what makes ids the same.
    subject : str
        The coordinate or dimension that holds, or will hold, the subjects.

    Returns
    -------
    DataArray
        Recordings with all subjects' units side by side and a coordinate of subjects on `unit`, or
        RDMs with a dimension of subjects first; in the order of the first one's stimuli. Of other
        labels of units those are kept that all have.

    Raises
    ------
    DataError
        If there are none, some are recordings and others RDMs, or RDMs and others RSMs, they differ
        in regions, layers or times, or a subject is there twice.
    StimulusError
        If their stimuli differ, as in `join_stimuli`, or rows are single trials.

    Examples
    --------
    >>> one = xr.DataArray(np.eye(2), dims=("stimulus", "unit"), coords={"stimulus": ["x", "y"]})
    >>> both = join_subjects({"ann": one, "bob": one[::-1]})
    >>> both["subject"].values.tolist(), both.sel(stimulus="x").values.tolist()
    (['ann', 'ann', 'bob', 'bob'], [1.0, 0.0, 1.0, 0.0])
    """
    if not arrays:
        raise DataError("No subject given: the mapping is empty.")
    stacks = [name for name, array in arrays.items() if "anchor" in array.dims]
    if len(stacks) not in (0, len(arrays)):
        others = [name for name in arrays if name not in stacks]
        raise DataError(
            f"Of {listed(stacks)} there are RDMs or RSMs, of {listed(others)} recordings: make "
            "RDMs of these with `softrsa.rsm.build_rdms`, or leave some out."
        )
    check = check_rdms if stacks else check_recording
    checked = {n: a if "time" in a.dims else check(a, name=n) for n, a in arrays.items()}
    joined = _same_stimuli(checked, how=how, ids=ids)
    labelled = _with_subjects(joined, subject, "" if stacks else "unit")
    _check_alike(labelled, subject)
    if stacks:
        return xr.concat([*labelled.values()], subject, join="exact", coords="minimal",
                         compat="override", combine_attrs="override")  # fmt: skip
    shared = set.intersection(*({*map(str, array.coords)} for array in labelled.values()))
    parts = [array.drop_vars({*map(str, array.coords)} - shared) for array in labelled.values()]
    return xr.concat(parts, "unit", join="exact", coords="minimal", compat="override",
                     combine_attrs="override")  # fmt: skip


def _same_stimuli(
    arrays: Mapping[str, xr.DataArray],
    *,
    how: Literal["exact", "intersection"],
    ids: Literal["exact", "normalize"],
) -> dict[str, xr.DataArray]:
    """Bring all arrays to the stimuli of the first, or to those that all share."""
    shared = next(iter(arrays.values()))
    for array in [*arrays.values()][1:]:
        shared, _ = join_stimuli(shared, array, how=how, ids=ids)
    return {n: join_stimuli(shared, array, how=how, ids=ids)[1] for n, array in arrays.items()}


def _with_subjects(
    arrays: Mapping[str, xr.DataArray], subject: str, dim: str
) -> dict[str, xr.DataArray]:
    """Label each array with its subjects: its own labels, or its name."""
    own = {
        name: list(dict.fromkeys(array[subject].values.tolist()))
        for name, array in arrays.items()
        if subject in array.coords and array[subject].dims == (dim or subject,)
    }
    every = [label for labels in own.values() for label in labels]
    every += [name for name in arrays if name not in own]
    twice = [label for label, n in pd.Series(every, dtype=object).value_counts().items() if n > 1]
    if twice and not all(len(labels) == 1 for labels in own.values()):
        raise DataError(
            f"Several arrays have the subjects {listed(twice)}: give each subject a label of its "
            "own, or leave some out."
        )
    if twice:
        warnings.warn(
            f"Several arrays have the subject {listed(twice)}; subjects are named "
            f"{listed(arrays)} instead.",
            ReadingWarning,
            stacklevel=3,
        )
        own = {}
        arrays = {n: _without(a, subject) for n, a in arrays.items()}
    return {n: a if n in own else _named(a, n, subject, dim) for n, a in arrays.items()}


def _without(array: xr.DataArray, subject: str) -> xr.DataArray:
    """Forget the one label of subjects."""
    if subject in array.dims:
        return array.squeeze(subject, drop=True)
    return array.drop_vars(subject, errors="ignore")


def _named(array: xr.DataArray, name: str, subject: str, dim: str) -> xr.DataArray:
    """Give an array of one subject its name."""
    if dim:
        return array.assign_coords({subject: (dim, np.full(array.sizes[dim], name))})
    return array.expand_dims({subject: [name]})


def _check_alike(arrays: Mapping[str, xr.DataArray], subject: str) -> None:
    """Refuse arrays that differ in what is not brought together."""
    first_name, first = next(iter(arrays.items()))
    for name, array in arrays.items():
        dims = [{*map(str, one.dims)} - {subject} for one in (first, array)]
        labels = [{part for part in PARTS if part in one.coords} for one in (first, array)]
        if dims[0] != dims[1] or labels[0] != labels[1]:
            only = sorted((dims[0] | labels[0]) ^ (dims[1] | labels[1]))
            raise DataError(
                f"{first_name!r} and {name!r} differ in what they have: only one has "
                f"{listed(only)}. Label both alike."
            )
        if array.attrs.get("kind") != first.attrs.get("kind"):
            raise DataError(
                f"{first_name!r} holds an {first.attrs.get('kind')}, {name!r} an "
                f"{array.attrs.get('kind')}; say what each is with `kind`."
            )
        for dim in sorted(dims[0] - {"stimulus", "unit", "anchor", "neighbor"}):
            same = array.sizes[dim] == first.sizes[dim]
            if not same or (array[dim].values != first[dim].values).any():
                raise DataError(
                    f"{first_name!r} and {name!r} have different labels along `{dim}`: "
                    f"{listed(first[dim].values)} and {listed(array[dim].values)}."
                )
