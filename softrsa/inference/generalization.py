"""Time by time: whether the geometry at one time is there at others."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor
from tqdm import tqdm

from softrsa._files import StoredResult
from softrsa._wording import counted
from softrsa.errors import DataError, unknown_name
from softrsa.inference.clusters import ALTERNATIVES, METHODS, Alternative, Method
from softrsa.inference.movies import (
    Labelled,
    MeasureLike,
    Movie,
    Reading,
    read_movies,
    times_at_once,
    without_missing,
)
from softrsa.inference.result import SCHEMA, versions
from softrsa.inference.time_course_result import Flips
from softrsa.measures import Measure
from softrsa.rsm.similarity import SimilarityLike
from softrsa.transforms.on_rsms import TransformLike, as_chain

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class TimeGeneralization(StoredResult):
    """Scores of RSMs at each time with those at each other time: `time_generalization`.

    Attributes
    ----------
    data : Dataset
        `score` (subject, time, other_time); and of the test over subjects `t`, `p`, `p_corrected`
        and `cluster`, numbered from 1, 0 outside (time, other_time). `attrs` hold the settings.
    """

    data: xr.Dataset
    _kind = "time_generalization"
    _what = "result of `time_generalization`"

    @property
    def table(self) -> pd.DataFrame:
        """One row per pair of times.

        Returns
        -------
        DataFrame
            `time`, `other_time`, `score` (mean over subjects), `t`, `p`, `p_corrected`, `cluster`.
        """
        mean = self.data.assign(score=self.data["score"].mean("subject", skipna=False))
        frame = mean.drop_vars("subject").to_dataframe(dim_order=["time", "other_time"])
        return frame.reset_index()

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw mean scores by color, with outlines where they are significant."""
        from softrsa.reports.time_figures import plot_time_generalization

        return plot_time_generalization(self.data, ax=ax)


def time_generalization(
    movie: Labelled,
    measure: MeasureLike,
    *,
    reference: Labelled | None = None,
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
) -> TimeGeneralization:
    """Score each subject's RSM at every time with those at all other times, or of a reference.

    Parameters
    ----------
    movie : DataArray or list of DataArray
        RDMs or RSMs ([subject,] time, anchor, neighbor), or recordings (stimulus, unit, time), of
        one region; a list has one per subject.
    measure : str, Measure or callable
        Of RSMs: a name of `softrsa.measures.available`, its entry, or its function.
    reference : DataArray, optional
        A movie without subjects, with times of its own: of a recurrent model, another region's or
        other people's mean. By default each subject's own movie.
    subject : str
        Name of the dimension or coordinate that holds subjects.
    transform, similarity, join, chance
        As in `time_courses`.
    alternative, method, threshold, n_flips, seed
        Of the test over pairs of times; see `cluster_test`.
    progress : bool
        Show a progress bar where it takes longer than two seconds.

    Returns
    -------
    TimeGeneralization
        With `table`, `plot()`, `to_netcdf(path)`. Without a reference scores are symmetric where
        the measure is, and NaN for a time with itself. p is NaN with one subject.

    Raises
    ------
    DTypeError, ShapeError, StimulusError, DataError, UnknownNameError
        As `time_courses`; DataError also where the reference has several subjects.

    Notes
    -----
    A subject's RSMs at times close to each other share noise, so that scores near the diagonal are
    above chance without any geometry that lasts. Far from it, or with a reference of other data,
    they are not.

    References
    ----------
    King & Dehaene (2014), doi:10.1016/j.tics.2014.01.002; Cichy, Pantazis & Oliva (2014),
    doi:10.1038/nn.3635.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> early, late = rng.normal(size=(2, 40, 6))
    >>> signal = np.stack([early, early, late, late], axis=-1)
    >>> subjects = [
    ...     xr.DataArray(
    ...         signal + rng.normal(size=signal.shape),
    ...         dims=("stimulus", "unit", "time"),
    ...         coords={"stimulus": np.arange(40), "time": [0.1, 0.2, 0.3, 0.4]},
    ...     )
    ...     for _ in range(8)
    ... ]
    >>> result = time_generalization(subjects, "centered_pearson", method="max")
    >>> (result.data["p_corrected"] < 0.05).values.astype(int)
    array([[0, 1, 0, 0],
           [1, 0, 0, 0],
           [0, 0, 0, 1],
           [0, 0, 1, 0]])
    """
    if method not in METHODS:
        raise unknown_name("method", method, METHODS)
    if alternative not in ALTERNATIVES:
        raise unknown_name("alternative", alternative, ALTERNATIVES)
    how = Reading(
        subject=subject, similarity=similarity, join=join, transform=transform
    )  # fmt: skip
    given = [movie] if reference is None else [movie, reference]
    entry, read = read_movies(given, measure, how)
    own, other = read[0], read[-1]
    if reference is not None and len(other.subjects) > 1:
        raise DataError(
            f"The reference must be one movie, got {counted(len(other.subjects), 'subject')}: "
            f'average over them or select one, e.g. `reference.mean("{subject}")`.'
        )
    scores = _scores(entry, own, None if reference is None else other, progress=progress)
    flips = Flips(method, threshold, n_flips, seed)
    tested = flips.test(scores - chance, alternative, progress=progress)
    pairs = ("time", "other_time")
    data = xr.Dataset(
        {
            "score": (("subject", *pairs), scores),
            **{name: (pairs, values) for name, values in tested.items()},
        },
        {
            "subject": np.array(own.subjects, dtype=object),
            "time": own.times, "other_time": other.times,
        },
    )  # fmt: skip
    return TimeGeneralization(
        data.assign_attrs(
            softrsa_schema=SCHEMA, measure=entry.name, n_stimuli=own.rsms.shape[-1],
            transform=as_chain(transform).name, chance=float(chance), alternative=alternative,
            other_name="time" if reference is None else "time of the reference",
            **flips.attributes(), versions=json.dumps(versions()),
        )
    )  # fmt: skip


def _scores(entry: Measure, own: Movie, reference: Movie | None, *, progress: bool) -> np.ndarray:
    """Scores (n_subjects, n_times, n_other_times)."""
    fixed = own.rsms[:1, :1] if reference is None else reference.rsms
    able, fixed, rsms, _ = without_missing(entry, fixed, own.rsms, "the movie")
    others = None if reference is None else _prepared(able, fixed)[0]
    found = []
    for one in tqdm(rsms, desc="time by time", delay=2, disable=not progress):
        movie = _prepared(able, one[None])[0]
        found.append(_all_pairs(able, movie, movie if others is None else others))
    scores = torch.stack(found)
    if reference is None:
        scores.diagonal(dim1=1, dim2=2).fill_(torch.nan)
    return scores.numpy()


def _prepared(entry: Measure, movie: Tensor) -> Tensor:
    """RSMs (s, t, n, n) as vectors (s, t, p) whose products are scores, if there are such."""
    if entry.embed is None:
        return movie
    parts = [entry.embed.unit(entry.pairs_of(movie[:, some])) for some in times_at_once(movie)]
    return torch.cat(parts, 1)


def _all_pairs(entry: Measure, movie: Tensor, others: Tensor) -> Tensor:
    """Scores (t, u) of what `_prepared` gives."""
    if entry.embed is not None:
        return (movie @ others.T).clamp_(*entry.range)
    return torch.stack([entry.between(one, others) for one in movie])
