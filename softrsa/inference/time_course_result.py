"""What `time_courses` found: curves, latencies, differences between models."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import torch
import xarray as xr

from softrsa._files import StoredResult
from softrsa._wording import counted
from softrsa.errors import DataError, unknown_name
from softrsa.inference.clusters import LEVEL, Alternative, Method, cluster_test
from softrsa.inference.latency import latency_intervals

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TESTED = ("t", "p", "p_corrected", "cluster")


class Flips(NamedTuple):
    """How curves are tested; see `cluster_test`."""

    method: Method = "mass"
    threshold: float | None = None
    n_flips: int = 1000
    seed: int = 0

    def test(
        self, values: np.ndarray, alternative: Alternative, *, progress: bool = False
    ) -> dict[str, np.ndarray]:
        """Test values (subjects, ...positions); NaN where one subject's is, or all but one's are.

        Gives `TESTED`, each of the shape of the positions.
        """
        shape = values.shape[1:]
        values = np.where(np.isnan(values).any(0), np.nan, values)
        if len(values) < 2 or np.isnan(values).all():
            unknown = np.full(shape, np.nan)
            return dict(zip(TESTED, (unknown, unknown, unknown, np.zeros(shape, int)), strict=True))
        found = cluster_test(
            torch.from_numpy(values), method=self.method, threshold=self.threshold,
            alternative=alternative, n_flips=self.n_flips, seed=self.seed, progress=progress,
        )  # fmt: skip
        parts = (found.t, found.p_uncorrected, found.p, found.labels)
        return {name: part.numpy() for name, part in zip(TESTED, parts, strict=True)}

    def attributes(self) -> dict[str, object]:
        """Say the same in attributes of a file."""
        threshold = np.nan if self.threshold is None else self.threshold
        return {**self._asdict(), "threshold": threshold}


@dataclass(frozen=True)
class TimeCourseResult(StoredResult):
    """Scores of models with regions over time, with noise ceilings and tests.

    Attributes
    ----------
    data : Dataset
        `score` (model, region, subject, time), NaN where a region lacks a subject; `ceiling`
        (bound, region, subject, time), lower and upper; and of the test over subjects `t`, `p`,
        `p_corrected` and `cluster`, numbered from 1, 0 outside (model, region, time). `attrs` hold
        the measure, settings, seed and versions to repeat it.

    Examples
    --------
    >>> from softrsa.inference import time_courses
    >>> rng = np.random.default_rng(0)
    >>> values = rng.normal(size=(12, 10, 6))
    >>> ids = {"stimulus": np.arange(12), "subject": ("unit", np.repeat(["a", "b"], 5))}
    >>> meg = xr.DataArray(values, dims=("stimulus", "unit", "time"), coords=ids)
    >>> time_courses({"layer": meg.mean("time")}, meg, "pearson").table.shape
    (6, 15)
    """

    data: xr.Dataset
    _kind = "time_courses"
    _what = "result of `time_courses`"

    def __repr__(self) -> str:
        sizes, attrs = self.data.sizes, self.data.attrs
        return (
            f"TimeCourseResult({counted(sizes['model'], attrs['model_dim'])} × "
            f"{counted(sizes['region'], 'region')}, {counted(sizes['time'], 'time')}, "
            f"{counted(sizes['subject'], 'subject')}, {attrs['measure']}); see .table, "
            ".latencies(), .differences(), .plot()"
        )

    @property
    def warnings(self) -> list[str]:
        """What a reader of the numbers must know before believing them."""
        return json.loads(self.data.attrs["warnings"])

    @property
    def table(self) -> pd.DataFrame:
        """One row per model, region and time.

        Returns
        -------
        DataFrame
            The model under the name of its dimension, such as `layer`; `region`, `time`; `score`,
            the mean over subjects, its standard error `score_se` and 95 % interval `ci_low`,
            `ci_high` (Student's t); `ceiling_lower`, `ceiling_upper`; `t`; `p` of each time by
            itself; `p_corrected` over the times of a curve, not over models and regions; `cluster`,
            its number in the curve, 0 outside of clusters; `n_subjects` and `n_stimuli`.
        """
        from scipy.stats import t

        data = self.data
        score = data["score"]
        n = score.notnull().any(("model", "time")).sum("subject")
        n = n.broadcast_like(score.isel(subject=0, drop=True))
        complete = score.count("subject") == n  # a mean over some subjects would break the curve
        mean = score.mean("subject").where(complete)
        se = (score.std("subject", ddof=1) / n**0.5).where(complete & (n > 1))
        reach = se * t.ppf(0.975, np.maximum(n.values - 1, 1))
        bounds = data["ceiling"].mean("subject")
        columns = {
            "score": mean, "score_se": se, "ci_low": mean - reach, "ci_high": mean + reach,
            "ceiling_lower": bounds.sel(bound="lower", drop=True).broadcast_like(mean),
            "ceiling_upper": bounds.sel(bound="upper", drop=True).broadcast_like(mean),
            **{name: data[name] for name in TESTED}, "n_subjects": n,
        }  # fmt: skip
        frame = xr.Dataset(columns).to_dataframe(dim_order=["model", "region", "time"])
        frame = frame.reset_index().rename(columns={"model": data.attrs["model_dim"]})
        frame["n_stimuli"] = data.attrs["n_stimuli"]
        frame.attrs["measure"] = data.attrs["measure"]
        return frame

    def latencies(
        self,
        *,
        fraction: float = 0.5,
        window: tuple[float, float] | None = None,
        level: float = 0.95,
        n_resamples: int = 1000,
        seed: int = 0,
    ) -> pd.DataFrame:
        """Onset and peak of each curve, with intervals from a bootstrap over subjects.

        Parameters
        ----------
        fraction : float
            The onset is when the mean curve last rises through this share of its peak, between
            times by a straight line; in (0, 1).
        window : tuple of float, optional
            First and last time among which the peak is sought, in the unit of the times.
        level : float
            Coverage wanted, in (0, 1).
        n_resamples : int
            Of subjects, with replacement.
        seed : int
            Of the resamples.

        Returns
        -------
        DataFrame
            A row per model and region: `onset` and `peak` with `onset_low`, `onset_high`,
            `peak_low`, `peak_high`, in the unit of the times; `peak_score`; and
            `first_significant`, the first time with a corrected p below .05. NaN where the curve is
            nowhere above chance, where nothing is significant, and intervals of one subject.

        Raises
        ------
        DataError
            If fraction or level are not in (0, 1), or no time is in the window.

        Notes
        -----
        The first significant time is no estimate of an onset: a cluster may begin earlier by
        chance, and with more subjects it does. The onset at a share of the peak depends on neither
        a threshold nor the number of subjects, so that it can be compared. Intervals are
        percentiles of the resampled mean curves, expanded for few subjects. By simulation with 12
        subjects those of 95 % hold the onset in 93 to 94 % and the peak in 98 % of studies.

        References
        ----------
        Sassenhagen & Draschkow (2019), doi:10.1111/psyp.13335; Hesterberg (2015),
        doi:10.1080/00031305.2015.1089789; Luck (2014), An Introduction to the
        Event-Related Potential Technique, on fractional peak latency.
        """
        rows = []
        times = self.data["time"].values
        chance = self.data.attrs["chance"]
        for model, region, scores in self._curves():
            found = latency_intervals(
                scores - chance, times, fraction=fraction, window=window, level=level,
                n_resamples=n_resamples, seed=seed,
            )  # fmt: skip
            found["peak_score"] += chance
            p = self.data["p_corrected"].sel(model=model, region=region).values
            below = times[p < LEVEL]
            first = float(below[0]) if below.size else np.nan
            labels = {self.data.attrs["model_dim"]: model, "region": region}
            rows.append({**labels, **found, "first_significant": first})
        return pd.DataFrame(rows)

    def differences(self, reference: str | None = None) -> pd.DataFrame:
        """Test differences between models over time, each pair in each region.

        Parameters
        ----------
        reference : str, optional
            The model all others are compared with; all pairs by default.

        Returns
        -------
        DataFrame
            A row per pair, region and time: `model`, `other`, `region`, `time`, `difference` of the
            mean scores, `difference_se` over subjects, `t`, `p`, `p_corrected` over the times of
            a pair, and `cluster`. Two-sided, with the method, threshold and flips of the result.

        Raises
        ------
        UnknownNameError
            If there is no such model.
        DataError
            If there is one model, or one subject.
        """
        names = [str(name) for name in self.data["model"].values]
        if reference is not None and reference not in names:
            raise unknown_name("model", reference, names)
        if len(names) < 2 or self.data.sizes["subject"] < 2:
            raise DataError(
                "Differences need at least 2 models and 2 subjects, got "
                f"{counted(len(names), 'model')} and "
                f"{counted(self.data.sizes['subject'], 'subject')}."
            )
        curves = {(model, region): scores for model, region, scores in self._curves()}
        others = [(name, reference) for name in names if name != reference]
        pairs = [*combinations(names, 2)] if reference is None else others
        parts = [
            self._difference(curves, str(one), str(other), str(region))
            for one, other in pairs
            for region in self.data["region"].values
        ]
        return pd.concat(parts, ignore_index=True)

    def _difference(
        self, curves: dict[tuple[str, str], np.ndarray], one: str, other: str, region: str
    ) -> pd.DataFrame:
        gaps = curves[one, region] - curves[other, region]
        n = len(gaps)
        se = gaps.std(0, ddof=1) / n**0.5 if n > 1 else np.full(gaps.shape[1], np.nan)
        return pd.DataFrame(
            {
                "model": one, "other": other, "region": region, "time": self.data["time"].values,
                "difference": gaps.mean(0), "difference_se": se,
                **self._flips.test(gaps, "two-sided"),
            }
        )  # fmt: skip

    @property
    def _flips(self) -> Flips:
        attrs = self.data.attrs
        threshold = float(attrs["threshold"])
        return Flips(
            attrs["method"], None if np.isnan(threshold) else threshold, int(attrs["n_flips"]),
            int(attrs["seed"]),
        )  # fmt: skip

    def _curves(self) -> Iterator[tuple[str, str, np.ndarray]]:
        """Give scores (subjects, times) of each model and region, of the subjects it has."""
        score = self.data["score"].transpose("model", "region", "subject", "time")
        there = score.notnull().any(("model", "time"))
        for model in score["model"].values:
            for region in score["region"].values:
                values = score.sel(model=model, region=region).values
                yield str(model), str(region), values[there.sel(region=region).values]

    def plot(self) -> Figure:
        """Draw the curves, a panel per region.

        Returns
        -------
        Figure
            Shaded are 95 % intervals over subjects, and in gray the noise ceiling; bars below the
            curves say when a curve differs from chance at a corrected p below .05.
        """
        from softrsa.reports.time_figures import plot_time_courses

        return plot_time_courses(self.table, by=self.data.attrs["model_dim"])

    def report(self, path: str | Path) -> None:
        """Write one HTML page: when each model matches, curves, cautions, methods.

        Parameters
        ----------
        path : str or Path
            The file.

        Raises
        ------
        OutputError
            If the file cannot be written.
        """
        from softrsa.reports.short_page import time_page, write_short_page

        write_short_page(path, time_page(self))
