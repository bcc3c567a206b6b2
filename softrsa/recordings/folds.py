"""Folds made of repeats, where trials were not recorded in runs."""

from __future__ import annotations

import operator

import numpy as np
import pandas as pd
import xarray as xr

from softrsa._wording import counted
from softrsa.errors import DataError, ShapeError, StimulusError
from softrsa.io.schema import check_is_array, stimulus_ids

SHOWN = 5  # stimuli that an error names


def to_folds(
    trials: xr.DataArray, n: int, *, seed: int | None = None, name: str = "fold"
) -> xr.DataArray:
    r"""Label trials with folds that each have repeats of every stimulus.

    The first repeats of each stimulus are fold 0, the last ones fold ``n - 1``: repeat
    :math:`k = 0, 1, \ldots` of :math:`r` is in fold :math:`\lfloor k n / r \rfloor`. So
    folds lie apart in time as far as the design allows, and noise that neighboring trials share
    stays within them. Runs or sessions are folds already; take these where there are any.

    Parameters
    ----------
    trials : DataArray, with the dimension trial
        Such as (trial, unit) or (trial, unit, time), in order of recording, with a coordinate
        `stimulus` on `trial`. Values do not matter.
    n : int
        Number of folds, 2 or more.
    seed : int, optional
        Shuffle the repeats of each stimulus before. Only where noise is independent between trials,
        or their order is not known: else folds share it, and distances are biased upward.
    name : str
        Of the new coordinate.

    Returns
    -------
    DataArray
        ``trials`` with the integer coordinate ``name`` on `trial`, from 0 to ``n - 1``. Each
        stimulus has as many trials in each fold, or one more in some.

    Raises
    ------
    DTypeError, ShapeError
        If ``trials`` is no labelled array of trials, or ``n`` is not an integer of 2 or more.
    StimulusError
        If stimuli have fewer than ``n`` trials, which the message names, or have no ids.
    DataError
        If there is a coordinate ``name`` already.

    Examples
    --------
    >>> trials = xr.DataArray(
    ...     np.eye(5),
    ...     dims=("trial", "unit"),
    ...     coords={"stimulus": ("trial", ["face", "house", "face", "house", "face"])},
    ... )
    >>> to_folds(trials, 2)["fold"].values
    array([0, 0, 0, 1, 1])
    """
    ids = _ids(trials, n, name)
    order = np.arange(len(ids))
    if seed is not None:
        order = np.random.default_rng(seed).permutation(order)
    codes, labels = pd.factorize(ids)
    counts = np.bincount(codes)
    few = np.flatnonzero(counts < n)
    if len(few):
        raise _too_few(labels[few], counts[few], n, counts)
    order = order[np.argsort(codes[order], kind="stable")]  # stimulus by stimulus
    repeat = np.arange(len(ids)) - np.repeat(np.cumsum(counts) - counts, counts)
    folds = np.empty(len(ids), dtype=np.int64)
    folds[order] = repeat * n // np.repeat(counts, counts)
    return trials.assign_coords({name: ("trial", folds)})


def _ids(trials: xr.DataArray, n: int, name: str) -> np.ndarray:
    """Check what is given; the stimulus of each trial."""
    check_is_array(trials, "trials")
    if "trial" not in trials.dims:
        raise ShapeError(f"The trials must have the dimension `trial`, got {trials.dims}.")
    try:
        enough = operator.index(n) >= 2
    except TypeError:
        enough = False
    if not enough:
        raise ShapeError(f"`n` must be an integer of 2 or more, got {n!r}.")
    if name in trials.coords or name in trials.dims:
        raise DataError(
            f"The trials have a coordinate `{name}` already: use it as it is, drop it with "
            f'`trials.drop_vars("{name}")`, or call the folds otherwise, `name=...`.'
        )
    return stimulus_ids(trials, "trial", "trials", coordinate="stimulus")


def _too_few(ids: np.ndarray, counts: np.ndarray, n: int, all_counts: np.ndarray) -> StimulusError:
    """Name the stimuli that cannot be in every fold, and what to do."""
    pairs = zip(np.asarray(ids).tolist(), counts.tolist(), strict=True)
    each = [f"{label!r} has {counted(number, 'trial')}" for label, number in pairs]
    shown = ", ".join(each[:SHOWN]) + (f", ... ({len(each)} in all)" if len(each) > SHOWN else "")
    least = int(all_counts.min())
    fewer = f"Make {counted(least, 'fold')}, or leave" if least >= 2 else "Leave"
    return StimulusError(
        f"Each stimulus needs at least {n} trials, one for each fold; {shown}. {fewer} these "
        'stimuli out: `trials.sel(trial=~trials["stimulus"].isin([...]))`.'
    )
