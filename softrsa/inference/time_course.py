"""Time courses: models against regions at all times, with noise ceilings and tests."""

from __future__ import annotations

import json
from typing import Literal

import numpy as np
import pandas as pd
import xarray as xr
from tqdm import tqdm

from softrsa._wording import counted, listed
from softrsa.errors import DataError, unknown_name
from softrsa.inference.clusters import ALTERNATIVES, METHODS, Alternative, Method
from softrsa.inference.movies import (
    Labelled,
    MeasureLike,
    Models,
    Movie,
    Reading,
    over_time,
    read_sides,
    without_missing,
)
from softrsa.inference.result import SCHEMA, versions
from softrsa.inference.time_course_result import TESTED, Flips, TimeCourseResult
from softrsa.measures import Measure
from softrsa.rsm.similarity import SimilarityLike
from softrsa.transforms.on_rsms import TransformLike, as_chain


def time_courses(
    models: Labelled,
    regions: Labelled,
    measure: MeasureLike,
    *,
    by: str = "layer",
    region: str = "region",
    subject: str = "subject",
    transform: TransformLike = "identity",
    similarity: SimilarityLike = "correlation",
    join: Literal["exact", "intersection"] = "exact",
    chance: float = 0.0,
    alternative: Alternative = "greater",
    method: Method = "mass",
    threshold: float | None = None,
    n_flips: int = 1000,
    seed: int = 0,
    progress: bool = False,
) -> TimeCourseResult:
    """Score models against regions at every time, with noise ceilings and tests over subjects.

    Parameters
    ----------
    models : DataArray or mapping of str to DataArray
        RDMs or RSMs (layer, anchor, neighbor), activations (stimulus, unit) with layers on `unit`,
        or a mapping from names to either. They do not change over time.
    regions : DataArray, mapping of str to data, or list of DataArray
        RDM or RSM movies (..., time, anchor, neighbor) with dimensions `region` and `subject` where
        there are several; recordings (stimulus, unit, time) with such labels on `unit`; a mapping
        from regions to either; or a list, one per subject. Joined to models by stimulus id.
    measure : str, Measure or callable
        Of RSMs: a name of `softrsa.measures.available`, its entry, or its function.
    by, region, subject : str
        Names of the dimensions or coordinates that hold models, regions and subjects.
    transform : str, Transform or Module
        Of RSMs of both sides, without a fit: "identity", "centered" or a module of your own.
    similarity : str, Similarity or callable
        Of recordings and activations; see `softrsa.rsm.similarity_matrix`.
    join : {"exact", "intersection"}
        Whether both sides must have the same stimuli.
    chance : float
        Score without any relation, which curves are tested against: 0 of correlations, .5 of
        `stimulus_identification`.
    alternative : {"greater", "less", "two-sided"}
        How scores differ from chance.
    method, threshold, n_flips, seed
        Of the test over times, with flips of signs over subjects; see `cluster_test`.
    progress : bool
        Show a progress bar over curves where it takes longer than two seconds.

    Returns
    -------
    TimeCourseResult
        With `table`, `latencies()`, `differences()`, `plot()`, `to_netcdf(path)`. At each time the
        scores and ceilings are those of `evaluate`. p is NaN with one subject, and at times at
        which an RSM is constant in a subject.

    Raises
    ------
    DTypeError, ShapeError, StimulusError
        If data are not labelled, lack a dimension or have one too many, or stimuli do not match.
    DataError
        If times differ between subjects or regions or do not increase, a transform has to be
        fitted, or pairs are missing and the measure needs them.
    UnknownNameError
        If there is no such measure, method or alternative.

    Notes
    -----
    A pair that is NaN in one RSM of a region, at one time, or in a model is left out of all of the
    region's scores and ceilings, so that curves are of the same pairs throughout.

    References
    ----------
    Cichy, Pantazis & Oliva (2014), doi:10.1038/nn.3635; Maris & Oostenveld (2007),
    doi:10.1016/j.jneumeth.2007.03.024.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> signal = rng.normal(size=(20, 8))
    >>> strength = np.array([0, 0, 0, 1, 2, 2, 1, 0])
    >>> subjects = [
    ...     signal[..., None] * strength + 3 * rng.normal(size=(20, 8, 8)) for _ in range(8)
    ... ]
    >>> meg = xr.DataArray(
    ...     np.concatenate(subjects, axis=1),
    ...     dims=("stimulus", "unit", "time"),
    ...     coords={
    ...         "stimulus": np.arange(20),
    ...         "subject": ("unit", np.repeat(list("abcdefgh"), 8)),
    ...         "time": np.arange(8) * 0.1,
    ...     },
    ... )
    >>> layer = xr.DataArray(signal, dims=("stimulus", "unit"), coords={"stimulus": np.arange(20)})
    >>> result = time_courses({"layer 1": layer}, meg, "centered_pearson")
    >>> [round(float(time), 1) for time in result.table.query("p_corrected < 0.05")["time"]]
    [0.3, 0.4, 0.5, 0.6]
    """
    if method not in METHODS:
        raise unknown_name("method", method, METHODS)
    if alternative not in ALTERNATIVES:
        raise unknown_name("alternative", alternative, ALTERNATIVES)
    how = Reading(by, region, subject, similarity, join, transform)
    entry, read, movies = read_sides(models, regions, measure, how)
    if read.times is not None:
        raise DataError(
            f"The models have {counted(len(read.times), 'time')} of their own: take one, "
            "`models.sel(time=...)`, or score all against all with "
            "`softrsa.inference.time_generalization(movie, measure, reference=model)`."
        )
    times = _common_times(movies)
    flips = Flips(method, threshold, n_flips, seed)
    subjects = [*dict.fromkeys(name for movie in movies.values() for name in movie.subjects)]
    parts, notes, n_missing = [], [], 0
    bar = tqdm(
        total=len(movies) * len(read.names), desc="time courses", delay=2, disable=not progress
    )
    with bar:
        for name, movie in movies.items():
            part, missing = _region_scores(entry, read, movie, name)
            notes += _notes(part, missing, name, movie)
            n_missing = max(n_missing, missing)
            tested = []
            for scores in part["score"].values:
                tested.append(flips.test(scores - chance, alternative))
                bar.update()
            found = {
                key: (("model", "time"), np.stack([one[key] for one in tested])) for key in TESTED
            }
            parts.append(part.assign(found).reindex(subject=subjects))
    data = xr.concat(parts, pd.Index([*movies], name="region", dtype=object), join="exact")
    data = data.assign_coords(time=times).transpose("model", "bound", "region", "subject", "time")
    return TimeCourseResult(
        data.assign_attrs(
            softrsa_schema=SCHEMA, measure=entry.name, model_dim=read.dim,
            n_stimuli=read.rsms.shape[-1], n_missing_pairs=n_missing,
            transform=as_chain(transform).name, chance=float(chance), alternative=alternative,
            **flips.attributes(), warnings=json.dumps(notes), versions=json.dumps(versions()),
        )
    )  # fmt: skip


def _common_times(movies: dict[str, Movie]) -> np.ndarray:
    (first, one), *others = movies.items()
    for name, movie in others:
        if not np.array_equal(movie.times, one.times):
            raise DataError(
                f"All regions need the same times: {first!r} has {len(one.times)} from "
                f"{one.times[0]:g} to {one.times[-1]:g}, {name!r} {len(movie.times)} from "
                f"{movie.times[0]:g} to {movie.times[-1]:g}. Select common ones, or run each "
                "region by itself."
            )
    return one.times


def _region_scores(entry: Measure, read: Models, movie: Movie, name: str) -> tuple[xr.Dataset, int]:
    """Scores and ceilings of one region, and how many pairs were left out."""
    able, models, rsms, n_missing = without_missing(entry, read.rsms, movie.rsms, name)
    scores, ceilings = over_time(able, entry, models, rsms)
    data = xr.Dataset(
        {
            "score": (("model", "subject", "time"), scores.numpy()),
            "ceiling": (("bound", "subject", "time"), ceilings.numpy()),
        },
        {
            "model": np.array(read.names, dtype=object),
            "subject": np.array(movie.subjects, dtype=object),
            "bound": np.array(["lower", "upper"], dtype=object),
        },
    )
    return data, n_missing


def _notes(data: xr.Dataset, n_missing: int, name: str, movie: Movie) -> list[str]:
    """Say what to know about one region: one subject, undefined scores, missing pairs."""
    found = []
    if len(movie.subjects) == 1:
        found.append(
            f"Region {name!r} has one subject: no noise ceiling, and nothing about other subjects "
            "can be tested; p is NaN."
        )
    lost = data["score"].isnull().any(("model", "subject")).values
    if lost.any():
        found.append(
            f"Scores of region {name!r} are undefined (NaN) at {counted(int(lost.sum()), 'time')} "
            f"({listed(movie.times[lost], 3)}): an RSM has no variance above rounding there."
        )
    if n_missing:
        found.append(
            f"{counted(n_missing, 'pair')} missing in some RSM of region {name!r} or a model were "
            "left out of all times."
        )
    return found
