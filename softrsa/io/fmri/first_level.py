"""Betas of time series: a linear model of each voxel, fitted by nilearn."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from softrsa._wording import counted, listed
from softrsa.errors import DataError, StimulusError, unknown_name
from softrsa.io.fmri.grid import read_table
from softrsa.io.fmri.libraries import library

Each = Literal["stimulus", "trial"]
EVENTS = ("onset", "duration")
DERIVATIVE = "n/a in their first rows, as derivatives have"


@dataclass(frozen=True, kw_only=True)
class Model:
    """How a response is modeled.

    Attributes
    ----------
    each : {"stimulus", "trial"}
        Whether each stimulus of a run has a beta, or each of its trials.
    stimulus : str
        The column of events that holds the ids.
    hrf : str
        Hemodynamic response, by nilearn's name.
    high_pass : float
        Cut-off of the cosine drifts, in Hz.
    noise : {"ar1", "ols"}
        Autocorrelated noise, or white noise.
    slice_time : float
        When in the repetition time a volume was taken, from 0 to 1.
    """

    each: Each = "stimulus"
    stimulus: str = "trial_type"
    hrf: str = "glover"
    high_pass: float = 0.01
    noise: Literal["ar1", "ols"] = "ar1"
    slice_time: float = 0.0


@dataclass(frozen=True)
class Fitted:
    """Betas of a run, and what is left of it.

    Attributes
    ----------
    betas : array, shape (n_trials, n_voxels)
        Responses, in the unit of the images.
    stimuli : list of str
        The stimulus of each.
    residuals : array, shape (n_volumes, n_voxels)
        What the model leaves, whitened in time under "ar1".
    dof : int
        Degrees of freedom of the residuals.
    """

    betas: np.ndarray
    stimuli: list[str]
    residuals: np.ndarray
    dof: int


def check_events(given: Any, column: str, seconds: float, name: str) -> pd.DataFrame:
    """Read the events of a run, and check them against its length."""
    table = read_table(given, "events")
    columns = [*map(str, table.columns)]
    missing = [one for one in EVENTS if one not in columns]
    if missing:
        raise DataError(
            f"The events of {name} need the columns `onset` and `duration` in s; they have "
            f"{listed(columns)}."
        )
    if column not in columns:
        raise unknown_name("column of events", column, [c for c in columns if c not in EVENTS])
    table = table[[*EVENTS, column]]
    if table.isna().any().any():
        bad = [one for one in table.columns if table[one].isna().any()]
        raise DataError(
            f"The events of {name} have missing values in {listed(bad)}; drop these rows, or fill "
            "them in."
        )
    late = table[(table["onset"] >= seconds) | (table["onset"] + table["duration"] < 0)]
    if len(late):
        raise DataError(
            f"The events of {name} begin at {table['onset'].min():g} to {table['onset'].max():g} "
            f"s, and the run lasts {seconds:g} s. Onsets are in seconds from the first volume; "
            "give the repetition time with `t_r=` (`--t-r`) if the header has a wrong one, and "
            "check that events and images are in the same order."
        )
    return table.assign(**{column: table[column].astype(str)})


def check_confounds(
    given: Any, columns: Sequence[str] | None, n_volumes: int, name: str
) -> pd.DataFrame:
    """Read the confounds of a run and choose columns."""
    table = read_table(given, "confounds")
    if columns is None and "desc-confounds" in str(given):
        raise DataError(
            f"{given} is fMRIPrep's table of {counted(len(table.columns), 'column')}, which no "
            "model takes all together: choose with `confound_columns=` (`--confound-columns`), "
            'e.g. ["trans_?", "rot_?", "csf", "white_matter"].'
        )
    if columns is not None:
        chosen: list[str] = []
        for pattern in columns:
            found = fnmatch.filter(map(str, table.columns), pattern)
            if not found:
                raise unknown_name("column of confounds", pattern, [*map(str, table.columns)])
            chosen += [one for one in found if one not in chosen]
        table = table[chosen]
    if len(table) != n_volumes:
        raise DataError(
            f"The confounds of {name} have {counted(len(table), 'row')}, and the run has "
            f"{counted(n_volumes, 'volume')}; there must be one for each."
        )
    texts = [one for one in table.columns if table[one].dtype.kind not in "biuf"]
    if texts:
        raise DataError(f"The confounds {listed(texts)} of {name} are no numbers; leave them out.")
    missing = [one for one in table.columns if not np.isfinite(table[one].to_numpy(float)).all()]
    if missing:
        raise DataError(
            f"The confounds {listed(missing)} of {name} have missing values ({DERIVATIVE}). Leave "
            "them out with `confound_columns`, or give a table in which they are filled, e.g. "
            '`pandas.read_csv(path, sep="\\t").bfill()`.'
        )
    return table


class Design(NamedTuple):
    """What a run's model is made of: events, confounds, repetition time in s, and its name."""

    events: pd.DataFrame
    confounds: pd.DataFrame | None
    t_r: float
    name: str


def fit(series: np.ndarray, given: Design, model: Model) -> Fitted:
    """Fit the voxels (volume, voxel) of one run."""
    events, confounds, t_r, name = given
    ids, rows = _conditions(events, model)
    design = _design(len(series), rows, confounds, t_r, model)
    rank = int(np.linalg.matrix_rank(_scaled(design)))
    if rank < design.shape[1]:
        raise DataError(
            f"The model of {name} cannot tell its {counted(design.shape[1], 'column')} apart (rank "
            f"{rank}): {len(ids)} responses, {0 if confounds is None else confounds.shape[1]} "
            "confounds and drifts. Leave out confounds, or events that always come together"
            f"{'' if model.each == 'stimulus' else ', or take each=' + repr('stimulus')}."
        )
    dof = len(series) - rank
    if dof < 1:
        raise DataError(
            f"{name} has {counted(len(series), 'volume')}, and its model "
            f"{counted(design.shape[1], 'column')}: nothing is left for noise. Take fewer "
            "confounds, or a beta for each stimulus, not for each trial."
        )
    run_glm = library("nilearn.glm.first_level", "A first-level model").run_glm
    labels, results = run_glm(series, design.to_numpy(), noise_model=model.noise)
    betas = np.empty((len(ids), series.shape[1]))
    residuals = np.empty(series.shape)
    for label, result in results.items():
        own = labels == label
        betas[:, own] = result.theta[: len(ids)]
        residuals[:, own] = result.whitened_residuals
    return Fitted(betas, ids, residuals, dof)


def _conditions(events: pd.DataFrame, model: Model) -> tuple[list[str], pd.DataFrame]:
    """Give each regressor a name that nilearn keeps as it is, in order of appearance."""
    ids = events[model.stimulus]
    if model.each == "trial":
        events = events.sort_values("onset", kind="stable")
        ids = events[model.stimulus]
        codes, names = np.arange(len(events)), ids.tolist()
    else:
        codes, found = pd.factorize(ids)
        names = [*map(str, found)]
    if not names:
        raise StimulusError("There are no events.")
    rows = events[[*EVENTS]].assign(trial_type=[f"c{code:06}" for code in codes])
    return names, rows


def _design(
    n: int, rows: pd.DataFrame, confounds: pd.DataFrame | None, t_r: float, model: Model
) -> pd.DataFrame:
    """Design matrix (volume, column), responses first."""
    level = library("nilearn.glm.first_level", "A first-level model")
    design = level.make_first_level_design_matrix(
        t_r * (np.arange(n) + model.slice_time), rows, hrf_model=model.hrf, drift_model="cosine",
        high_pass=model.high_pass,
        add_regs=None if confounds is None else confounds.to_numpy(float),
        add_reg_names=None if confounds is None else [f"confound {c}" for c in confounds.columns],
    )  # fmt: skip
    names = sorted({*rows["trial_type"]})
    return design[[*names, *(one for one in design.columns if one not in names)]]


def _scaled(design: pd.DataFrame) -> np.ndarray:
    values = design.to_numpy()
    size = np.linalg.norm(values, axis=0)
    return values / np.where(size > 0, size, 1)
