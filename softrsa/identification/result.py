"""What `identify_regions` found: accuracies with intervals, confusions, what was chosen."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
import xarray as xr

from softrsa._files import StoredResult
from softrsa.errors import unknown_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INTERVAL = (2.5, 97.5)  # percentiles
ROUNDING = 1e-9  # of accuracies


@dataclass(frozen=True)
class IdentificationResult(StoredResult):
    """Region identification by several transforms on the same subjects and stimuli.

    Attributes
    ----------
    data : Dataset
        `predicted` (transform, fold, item), names of regions, "" where undefined; `resampled`
        (transform, resample, subject), accuracies on resampled stimuli; `chosen` (transform, fold,
        subject), what the training data chose; `grid_accuracy` (lower, upper), training accuracy of
        geo-topological statistics. Attributes hold the settings.
    """

    data: xr.Dataset = field(repr=False)
    schema: ClassVar[str] = "identification/1"
    _attribute: ClassVar = "softrsa_schema"
    _kind: ClassVar = schema
    _what: ClassVar = "result of `identify_regions` with `published=False`"

    @property
    def settings(self) -> dict[str, Any]:
        """Options, seed, number of stimuli and version of softrsa."""
        return json.loads(self.data.attrs["settings"])

    @property
    def chance(self) -> float:
        """One over the number of regions."""
        return 1 / len(np.unique(self.data["item_region"]))

    @property
    def by_subject(self) -> pd.DataFrame:
        """Accuracy of every subject (rows) and transform (columns), mean over items and folds."""
        right = self.data["predicted"] == self.data["item_region"]
        grouped = right.mean("fold").groupby("item_subject").mean()
        frame = grouped.transpose("item_subject", "transform").to_pandas()
        return (
            pd.DataFrame(frame).loc[list(self.data["subject"].values)].rename_axis(index="subject")
        )

    @property
    def table(self) -> pd.DataFrame:
        """Accuracy of every transform against chance.

        Returns
        -------
        DataFrame
            Per transform the mean over subjects, 95 % intervals by bootstrap over subjects
            (percentiles) and over stimuli (1.96 standard deviations: a resample has fewer different
            stimuli and so a lower accuracy, but is as variable), chance, and the p-value of a
            one-sided permutation of the regions of each subject's RDMs, of as many permutations as
            there are resamples.
        """
        accuracy = self.by_subject
        by_chance = self._permuted()
        rows = []
        for name in accuracy.columns:
            mean = accuracy[name].mean()
            low, high = np.percentile(self._subject_means(accuracy[name].to_numpy()), INTERVAL)
            resampled = self.data["resampled"].sel(transform=name).mean("subject")
            below, above = np.clip(_around(mean, resampled.values), 0, 1)
            reached = by_chance[name] >= mean - ROUNDING
            p = (1 + reached.sum()) / (1 + len(reached))
            rows.append((name, mean, low, high, below, above, self.chance, p))
        return pd.DataFrame(
            rows,
            columns=[
                "transform", "accuracy", "subjects_low", "subjects_high", "stimuli_low",
                "stimuli_high", "chance", "p",
            ],
        )  # fmt: skip

    def compare(self, transform: str, other: str) -> pd.Series:
        """Compare two transforms, subject by subject and resample by resample.

        Parameters
        ----------
        transform, other : str
            Two of those that were run.

        Returns
        -------
        Series
            `difference` of accuracies, and its 95 % intervals by bootstrap over subjects
            (`subjects_low`, `subjects_high`) and over stimuli (`stimuli_low`, `stimuli_high`).

        Raises
        ------
        UnknownNameError
            If one was not run.
        """
        self._check(transform, other)
        accuracy = self.by_subject
        difference = (accuracy[transform] - accuracy[other]).to_numpy()
        low, high = np.percentile(self._subject_means(difference), INTERVAL)
        resampled = self.data["resampled"].mean("subject")
        stimuli = resampled.sel(transform=transform) - resampled.sel(transform=other)
        below, above = _around(difference.mean(), stimuli.values)
        return pd.Series(
            {
                "difference": difference.mean(), "subjects_low": low, "subjects_high": high,
                "stimuli_low": below, "stimuli_high": above,
            }
        )  # fmt: skip

    def confusion(self, transform: str) -> pd.DataFrame:
        """Share of the items of a region (rows) that were taken for each region (columns)."""
        self._check(transform)
        predicted = self.data["predicted"].sel(transform=transform)
        true = np.broadcast_to(self.data["item_region"].values, predicted.shape).ravel()
        table = pd.crosstab(
            pd.Series(true, name="region"),
            pd.Series(predicted.values.ravel(), name="predicted"),
            normalize="index",
        )
        names = list(dict.fromkeys(self.data["item_region"].values.tolist()))
        return table.reindex(index=names, columns=names, fill_value=0.0)

    def plot(self, *, ax: Axes | None = None) -> Axes:
        """Draw accuracies with both intervals, and chance."""
        from softrsa.reports.identification_figures import plot_identification

        return plot_identification(self.table, ax=ax)

    def plot_grid(self, *, ax: Axes | None = None) -> Axes:
        """Draw the accuracy of each pair of thresholds (l, u), the five types outlined.

        Raises
        ------
        UnknownNameError
            If "geo_topological" was not run.
        """
        from softrsa.reports.identification_figures import plot_geo_topological_grid

        if "grid_accuracy" not in self.data:
            raise unknown_name("transform", "geo_topological", self._transforms)
        grid = self.data["grid_accuracy"]
        return plot_geo_topological_grid(grid, label="regions identified", ax=ax)

    @property
    def _transforms(self) -> list[str]:
        return [str(name) for name in self.data["transform"].values]

    def _check(self, *names: str) -> None:
        for name in names:
            if name not in self._transforms:
                raise unknown_name("transform", name, self._transforms)

    def _permuted(self) -> dict[str, np.ndarray]:
        """Mean accuracy over subjects (n_resamples,) by transform, regions permuted within each."""
        data = self.data
        rng = np.random.default_rng((self.settings["seed"], 1))
        names = self._transforms
        total = dict.fromkeys(names, np.zeros(data.sizes["resample"]))
        for subject in data["subject"].values:
            own = np.flatnonzero(data["item_subject"].values == subject)
            true = data["item_region"].values[own]
            order = rng.random((data.sizes["resample"], len(own))).argsort(1)
            for name in names:
                predicted = data["predicted"].sel(transform=name).values[:, None, own]
                total[name] = total[name] + (predicted == true[order]).mean((0, 2))
        return {name: value / data.sizes["subject"] for name, value in total.items()}

    def _subject_means(self, values: np.ndarray) -> np.ndarray:
        """Mean over subjects of as many resamples of them as there are of stimuli."""
        rng = np.random.default_rng(self.settings["seed"])
        n = len(values)
        drawn = rng.integers(0, n, (self.data.sizes["resample"], n))
        return values[drawn].mean(-1)


def _around(mean: float, resampled: np.ndarray) -> tuple[float, float]:
    """Take 1.96 standard deviations of the resamples to either side."""
    half = 1.96 * float(np.std(resampled))
    return mean - half, mean + half
