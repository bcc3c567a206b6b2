"""NIfTI images of fMRI: responses and time series to labelled arrays, and maps back to images."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr

from softrsa._wording import counted, listed
from softrsa.errors import DataError, StimulusError, unknown_name
from softrsa.io.fmri.bids import check_together
from softrsa.io.fmri.first_level import Design, Fitted, Model, check_confounds, check_events, fit
from softrsa.io.fmri.grid import Where, read_table
from softrsa.io.fmri.reading import Reader, Run, Volumes
from softrsa.io.fmri.surface import by_hemisphere
from softrsa.io.labelling import Options
from softrsa.io.looking import FORMATS, Format, Look

IMAGES = (".nii", ".nii.gz", ".img", ".mgz", ".mgh")


class Betas(NamedTuple):
    """Betas of first-level models, and the noise that they leave.

    Attributes
    ----------
    trials : DataArray, dims (trial, unit)
        A beta for each stimulus (or trial) of each run.
    residuals : DataArray, dims (volume, unit)
        What the models leave, with `run` on `volume`.
    dof : int
        Degrees of freedom of the residuals, as `softrsa.recordings.noise_precision` takes them.
    """

    trials: xr.DataArray
    residuals: xr.DataArray
    dof: int


def from_nifti(
    images: Any,
    *,
    mask: Any = None,
    atlas: Any = None,
    labels: Any = None,
    stimuli: Sequence[Any] | None = None,
    events: Any = None,
    stimulus: str = "trial_type",
    volumes: Volumes | None = None,
    confounds: Any = None,
    confound_columns: Sequence[str] | None = None,
    runs: Sequence[Any] | None = None,
    subject: str | None = None,
    t_r: float | None = None,
    resample: bool = False,
    progress: bool = True,
) -> xr.DataArray:
    """Make a labelled array of fMRI images: betas as they are, or betas of time series.

    Parameters
    ----------
    images : path, image of nibabel, sequence of these, or mapping
        Images with volumes along the fourth axis, one per run; or one image per stimulus, then
        as a mapping from ids to images or with ``stimuli``.
    mask : path or image, or mapping from names to these, optional
        Which voxels to read (not 0); or a mask for each region. By default all that vary.
    atlas : path or image, optional
        A number for each voxel, 0 outside of its regions. Together with one mask: inside it.
    labels : mapping, DataFrame or path, optional
        Names of the atlas' regions by number; or a table with the columns `index` and `name`. By
        default the numbers.
    stimuli : sequence of str or of int, optional
        The id of each volume, of all images one after the other; or of each image's volumes, if
        these are as many and the same in all.
    events : path or DataFrame, or sequence of one per image, optional
        Tables of events of BIDS. With a row per volume they name betas; otherwise the images are
        time series, and a first-level model gives a beta for each stimulus of each run.
    stimulus : str
        The column of events that holds the ids.
    volumes : {"betas", "bold"}, optional
        What the volumes are, where events have onsets and are as many as volumes.
    confounds : path or DataFrame, or sequence of one per image, optional
        Columns of a time series' model beside the events, such as head movement.
    confound_columns : sequence of str, optional
        Which of these, by name or pattern, such as ``"trans_?"``; needed of fMRIPrep's tables.
    runs : sequence, optional
        The run of each image, or of each volume. By default ``run-`` in the file names, or 1, 2, …
        of several images with volumes.
    subject : str, optional
        Whose they are; by default ``sub-`` in the file names, where there is one.
    t_r : float, optional
        Repetition time in s of a time series; by default that of the header.
    resample : bool
        Resample masks and atlas to the grid of the images, nearest neighbor. By default other grids
        are refused.
    progress : bool
        Show a bar over runs where it takes longer than two seconds.

    Returns
    -------
    DataArray, dims (trial, unit)
        In the unit of the images, float32 or float64 (betas of a model are float64). `trial` has
        `stimulus` and, where known, `run`; `unit` has the voxel's number in the image, its indices
        `i`, `j`, `k`, its place `x`, `y`, `z` in mm, and where known `region` and `subject`.
        ``attrs`` hold the grid, for `to_nifti`, and how many voxels were left out.

    Raises
    ------
    FileMissingError, FileFormatError
        If a file is missing or damaged, or nibabel or nilearn is not installed.
    ShapeError
        If images, masks or atlas lie on different grids, or an image has not 3 or 4 axes.
    StimulusError
        If ids are missing, or not as many as volumes.
    DataError
        If what events are is unclear, do not fit the run, confounds are missing, or no voxel is
        left.
    UnknownNameError
        If events have no column ``stimulus``, or confounds not the columns asked for.

    Notes
    -----
    Voxels with NaN in any volume, or without change over all volumes (of a time series: over any
    run), are left out and counted. Time series are not filtered, smoothed, scaled or moved:
    preprocess them before. `first_level` has more to say about their models.

    Examples
    --------
    >>> import nibabel
    >>> betas = np.random.default_rng(0).normal(size=(4, 4, 4, 6)).astype("float32")
    >>> image = nibabel.Nifti1Image(betas, np.diag([2.0, 2.0, 2.0, 1.0]))
    >>> trials = from_nifti(image, stimuli=["face", "house", "tool"] * 2, runs=[1, 1, 1, 2, 2, 2])
    >>> trials.sizes["trial"], trials.sizes["unit"], trials["x"].values[:2].tolist()
    (6, 64, [0.0, 0.0])
    """
    given, ids = named_images(images, stimuli)
    reader = Reader(given, Where(mask, atlas, labels, resample), runs, subject)
    beside = Beside(events, stimulus, volumes, confounds, confound_columns, t_r)
    return read_responses(reader, ids, beside, progress=progress)


class Beside(NamedTuple):
    """What is given beside images, as `from_nifti` takes it."""

    events: Any
    stimulus: str
    volumes: Volumes | None
    confounds: Any
    confound_columns: Sequence[str] | None
    t_r: float | None


def read_responses(
    reader: Reader, ids: list[Any] | None, beside: Beside, *, progress: bool
) -> xr.DataArray:
    """Take volumes as betas, or fit a model of time series, as events say."""
    names = reader.names
    tables = _one_each(beside.events, names, "events", total=sum(reader.sizes))
    if tables is None or not reader.are_series(tables, beside.volumes):
        if beside.confounds is not None:
            raise DataError(
                "`confounds` belong to a model of time series, and these volumes are taken for "
                'betas. Give `events` with onsets, and `volumes="bold"` where that is unclear.'
            )
        if tables is not None:
            ids = _ids_of_events(tables, beside.stimulus, ids)
        return reader.betas(ids, progress=progress)
    own = _Tables(tables, beside.confounds, beside.confound_columns, beside.t_r, names)
    return _fit_runs(reader, own, Model(stimulus=beside.stimulus), progress=progress).trials


def first_level(
    images: Any,
    events: Any,
    *,
    mask: Any = None,
    atlas: Any = None,
    labels: Any = None,
    stimulus: str = "trial_type",
    each: Literal["stimulus", "trial"] = "stimulus",
    confounds: Any = None,
    confound_columns: Sequence[str] | None = None,
    runs: Sequence[Any] | None = None,
    subject: str | None = None,
    t_r: float | None = None,
    hrf: str = "glover",
    high_pass: float = 0.01,
    noise: Literal["ar1", "ols"] = "ar1",
    slice_time: float = 0.0,
    resample: bool = False,
    progress: bool = True,
) -> Betas:
    """Fit a linear model to each run's time series with nilearn: betas and residuals.

    Parameters
    ----------
    images, events
        Time series (x, y, z, volume) and tables of events, one of each per run: columns `onset` and
        `duration` in s, and ``stimulus``.
    mask, atlas, labels, stimulus, confounds, confound_columns, runs, subject, t_r, resample
        As in `from_nifti`.
    each : {"stimulus", "trial"}
        Whether each stimulus has a beta in a run, or each of its trials.
    hrf : str
        The hemodynamic response, by nilearn's name: ``"glover"``, ``"spm"``, ...
    high_pass : float
        Cut-off of the cosine drifts, in Hz.
    noise : {"ar1", "ols"}
        Noise with autocorrelation of order 1, or white noise.
    slice_time : float
        When in the repetition time volumes were taken, 0 to 1: .5 after fMRIPrep's slice timing.
    resample, progress
        As in `from_nifti`.

    Returns
    -------
    Betas
        `trials` (trial, unit), `residuals` (volume, unit) and their `dof`.

    Raises
    ------
    DataError
        If events or confounds do not fit a run, the repetition time is not known, or a model cannot
        tell its columns apart. Otherwise the errors of `from_nifti`.

    Examples
    --------
    >>> found = first_level(runs, events, mask=mask)  # doctest: +SKIP
    >>> precision = noise_precision(found.residuals, dof=found.dof)  # doctest: +SKIP
    """
    if each not in ("stimulus", "trial"):
        raise unknown_name("`each`", each, ["stimulus", "trial"])
    if noise not in ("ar1", "ols"):
        raise unknown_name("`noise`", noise, ["ar1", "ols"])
    if not 0 <= slice_time <= 1:
        raise DataError(f"`slice_time` is a share of the repetition time, 0 to 1: {slice_time}.")
    model = Model(
        each=each, stimulus=stimulus, hrf=hrf, high_pass=high_pass, noise=noise,
        slice_time=slice_time,
    )  # fmt: skip
    given, _ = named_images(images, None)
    reader = Reader(given, Where(mask, atlas, labels, resample), runs, subject)
    tables = _Tables(events, confounds, confound_columns, t_r, reader.names)
    return _fit_runs(reader, tables, model, progress=progress)


class _Tables:
    """What belongs to each run of time series."""

    def __init__(
        self,
        events: Any,
        confounds: Any,
        columns: Sequence[str] | None,
        t_r: float | None,
        names: list[str],
    ):
        found = _one_each(events, names, "events")
        if found is None:
            raise DataError("A first-level model needs `events`.")
        self.events = found
        self.confounds = _one_each(confounds, names, "confounds")
        self.columns, self.t_r = columns, t_r

    def fit(self, i: int, run: Run, kept: np.ndarray, model: Model) -> Fitted:
        """Fit the model of the i-th run to the voxels that are kept."""
        seconds = self.t_r if self.t_r is not None else run.t_r
        if seconds is None or not seconds > 0:
            raise DataError(
                f"The header of {run.name} has no repetition time in s; give it with `t_r=` "
                "(`--t-r`)."
            )
        n = len(run.values)
        events = check_events(self.events[i], model.stimulus, seconds * n, run.name)
        confounds = None
        if self.confounds is not None:
            confounds = check_confounds(self.confounds[i], self.columns, n, run.name)
        series = run.values[:, kept].astype(np.float64)
        named = Design(events, confounds, float(seconds), run.name)
        return fit(series, named, model)


def _fit_runs(reader: Reader, tables: _Tables, model: Model, *, progress: bool) -> Betas:
    """Fit one run after the other; a voxel must vary in all."""
    kept = np.ones(len(reader.selection.indices), dtype=bool)
    betas, residuals, ids, labels, volumes, dof = [], [], [], [], [], 0
    for i, run in enumerate(reader.runs(progress=progress)):
        own = reader.check(run.values, one_run=True)
        found = tables.fit(i, run, own, model)
        kept &= own
        betas.append(_scattered(found.betas, own))
        residuals.append(_scattered(found.residuals.astype(run.values.dtype), own))
        ids += found.stimuli
        labels += [run.label] * len(found.stimuli)
        volumes += [run.label] * len(found.residuals)
        dof += found.dof
    known = None not in labels
    trials = reader.labelled(np.concatenate(betas), kept, ids, labels if known else None)
    units = {name: c.variable for name, c in trials.coords.items() if c.dims == ("unit",)}
    where = {"run": ("volume", np.array(volumes))} if known else {}
    left = np.concatenate(residuals)[:, kept]
    return Betas(trials, xr.DataArray(left, {**units, **where}, ("volume", "unit")), dof)


def _scattered(values: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Put columns where they were, with NaN between."""
    if own.all():
        return values
    full = np.full((len(values), len(own)), np.nan, dtype=values.dtype)
    full[:, own] = values
    return full


def named_images(images: Any, stimuli: Any) -> tuple[list[Any], list[Any] | None]:
    """List images, and the ids that a mapping or ``stimuli`` give."""
    if isinstance(images, Mapping):
        if stimuli is not None:
            raise StimulusError("A mapping names its images itself: leave out `stimuli`.")
        return [*images.values()], [*images]
    one = isinstance(images, (str, os.PathLike)) or hasattr(images, "dataobj")
    several: Any = [images] if one else images
    given = [*several]
    if not given:
        raise DataError("There are no images.")
    if isinstance(stimuli, str):
        raise StimulusError(f"`stimuli` must be a row of ids, got the one string {stimuli!r}.")
    return given, None if stimuli is None else [*stimuli]


def _one_each(given: Any, images: list[str], name: str, *, total: int = -1) -> list[Any] | None:
    """Give each image its table; or one table to all, if it has ``total`` rows."""
    n = len(images)
    if given is None:
        return None
    one = isinstance(given, (str, os.PathLike, pd.DataFrame))
    found: list[Any] = [given] if one else list(given)
    if one and total >= 0 and len(read_table(given, name)) == total:
        return found
    if len(found) != n:
        raise DataError(
            f"`{name}` must be one table for each of {counted(n, 'image')}, got {len(found)}."
        )
    lost = [i + 1 for i, table in enumerate(found) if table is None or table is pd.NA]
    if lost:
        raise DataError(f"`{name}` has no table for the images {listed(lost)} (counted from 1).")
    for image, table in zip(images, found, strict=True):
        check_together(image, table, name)
    return found


def _ids_of_events(tables: list[Any], column: str, ids: list[Any] | None) -> list[Any]:
    """Read the ids of betas from tables with a row for each."""
    if ids is not None:
        raise StimulusError("Give `stimuli` or `events`, not both.")
    found: list[Any] = []
    for one in tables:
        table = read_table(one, "events")
        if column not in table.columns:
            raise unknown_name("column of events", column, [*map(str, table.columns)])
        if table[column].isna().any():
            raise StimulusError(f"The column {column!r} of events has missing ids.")
        found += table[column].tolist()
    return found


def from_gifti(
    images: Any,
    *,
    hemisphere: Literal["left", "right"] | None = None,
    mask: Any = None,
    atlas: Any = None,
    labels: Any = None,
    stimuli: Sequence[Any] | None = None,
    events: Any = None,
    stimulus: str = "trial_type",
    volumes: Volumes | None = None,
    confounds: Any = None,
    confound_columns: Sequence[str] | None = None,
    runs: Sequence[Any] | None = None,
    subject: str | None = None,
    t_r: float | None = None,
    progress: bool = True,
) -> xr.DataArray:
    """Make a labelled array of responses or time series of surfaces, in GIFTI or .mgz.

    Parameters
    ----------
    images : path, sequence of paths, or mapping
        Files with a number per vertex and volume, one per run; with a mapping, of hemispheres
        ``"left"`` and ``"right"``. Without one, the hemisphere is read from names (``hemi-L``,
        ``lh.``).
    hemisphere : {"left", "right"}, optional
        Of all images.
    mask, atlas : path, or mapping from hemispheres to these, optional
        As in `from_nifti`, in numbers of vertices; an atlas in GIFTI (``.label.gii``) brings the
        names of its regions.
    labels, stimuli, events, stimulus, volumes, confounds, confound_columns, runs, subject, t_r
        As in `from_nifti`; the same for both hemispheres.
    progress : bool
        Show a bar where it takes longer than two seconds.

    Returns
    -------
    DataArray, dims (trial, unit)
        As `from_nifti` gives it; `unit` has `vertex` and `hemisphere` in place of positions.

    Raises
    ------
    DataError
        If the hemisphere is not known. Otherwise the errors of `from_nifti`.

    Examples
    --------
    >>> from_gifti({"left": "lh.betas.func.gii"}, stimuli=ids)  # doctest: +SKIP
    """
    parts = []
    for side, own in by_hemisphere(images, hemisphere).items():
        given, ids = named_images(own, stimuli)
        masks = [one.get(side) if isinstance(one, Mapping) else one for one in (mask, atlas)]
        reader = Reader(given, Where(masks[0], masks[1], labels), runs, subject, side)
        beside = Beside(events, stimulus, volumes, confounds, confound_columns, t_r)
        parts.append(read_responses(reader, ids, beside, progress=progress))
    first = parts[0]
    for part in parts[1:]:
        if part["stimulus"].values.tolist() != first["stimulus"].values.tolist():
            raise StimulusError("Both hemispheres must have the same trials in the same order.")
    found = parts[0] if len(parts) == 1 else xr.concat(parts, "unit", combine_attrs="override")
    attrs: dict[str, Any] = {key: value for part in parts for key, value in part.attrs.items()}
    attrs["voxels_left_out"] = sum(part.attrs["voxels_left_out"] for part in parts)
    return found.assign_attrs(attrs)


def _is_nifti(seen: Look) -> bool:
    name = seen.path.name.lower()
    return seen.path.is_file() and seen.container == "unknown" and name.endswith(IMAGES)


def _is_gifti(seen: Look) -> bool:
    return seen.path.is_file() and seen.path.name.endswith((".gii", ".gii.gz"))


def _read_surface(path: Path, options: Options) -> xr.DataArray:
    """Read the vertices of one hemisphere, whose volumes are responses."""
    found = from_gifti(path, stimuli=None if options.stimuli is None else [*options.stimuli])
    if "read_as" in found.attrs:
        options.facts.append(found.attrs.pop("read_as"))
    return found


def _read(path: Path, options: Options) -> xr.DataArray:
    """Read an image whose volumes are responses."""
    found = from_nifti(path, stimuli=None if options.stimuli is None else [*options.stimuli])
    if "read_as" in found.attrs:
        options.facts.append(found.attrs.pop("read_as"))
    return found


FORMATS.add(
    Format(
        name="nifti", title="an image of fMRI (NIfTI)", recognizes=_is_nifti, read=_read,
        takes=frozenset({"stimuli"}),
    )
)  # fmt: skip
FORMATS.add(
    Format(
        name="gifti", title="numbers of a surface (GIFTI)", recognizes=_is_gifti,
        read=_read_surface, takes=frozenset({"stimuli"}),
    )
)  # fmt: skip
