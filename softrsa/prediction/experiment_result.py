"""What an experiment found: errors of every method on every split, and what they say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from softrsa.prediction.network import HEADS, LINEAR_HEADS, NEIGHBOR_HEADS
from softrsa.prediction.ranking import RankTest, friedman_nemenyi

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KNN_ON = {"knn-linear": "linear", "knn-nca": "nca"}  # whose embeddings they search
LINEAR = (*LINEAR_HEADS, "ridge")
STEPS = tuple(name for name in HEADS if name.startswith(("softstep", "diffknn")))
METHODS = (*LINEAR, *NEIGHBOR_HEADS, *KNN_ON)
ORDER = (*METHODS, "knn-raw")  # of tables
SCALE = 1000  # tables are of mean squared errors times this


@dataclass(frozen=True)
class ExperimentResult:
    """Errors of every method on every split.

    Attributes
    ----------
    rows : DataFrame
        One row per task, split and method: `mse` on the test samples (labels from 0 to 1), and
        what it took.
    """

    rows: pd.DataFrame

    @property
    def table(self) -> pd.DataFrame:
        """Mean and standard deviation over splits of the mean squared error, times 1000.

        Returns
        -------
        DataFrame
            One row per task and method, in the order of the methods, with the number of splits.
            `over_linear` is the mean error over that of the linear head as torch starts it, the
            papers' baseline; `over_best_linear` over the least of the linear methods. Both are of
            the splits that the two methods share, NaN if there are none.
        """
        wide = self.rows.pivot_table(index=["task", "split"], columns="method", values="mse")
        frames = []
        for task, part in wide.groupby("task", sort=False):
            methods = [name for name in ORDER if name in part and part[name].notna().any()]
            errors = part[methods]
            frame = pd.DataFrame({"mean": errors.mean() * SCALE, "sd": errors.std() * SCALE})
            ratios = pd.DataFrame({n: _ratios(errors, n) for n in methods if n in LINEAR})
            if "linear" in ratios:
                frame["over_linear"] = ratios["linear"]
            if len(ratios.columns):
                frame["over_best_linear"] = ratios.max(axis=1, skipna=False)
            frame["n_splits"] = errors.count()
            frames.append(frame.rename_axis("method").reset_index().assign(task=task))
        table = pd.concat(frames, ignore_index=True)
        return table[["task", *table.columns.drop("task")]]

    def compare(self, *, alpha: float = 0.05) -> RankTest:
        """Compare methods with Friedman's and Nemenyi's tests.

        Blocks are tasks, of which errors are averaged over splits; with one task they are its
        splits, which share samples, so that p is too small.

        Parameters
        ----------
        alpha : float
            Level of the critical distance.

        Returns
        -------
        RankTest
            From the splits that every method has been run on.
        """
        return friedman_nemenyi(self.comparable, alpha=alpha)

    @property
    def comparable(self) -> pd.DataFrame:
        """Errors by block (row), a task or a split of the only one, and method."""
        wide = self.rows.pivot_table(index=["task", "split"], columns="method", values="mse")
        wide = wide[[name for name in ORDER if name in wide]].dropna()
        one_task = len(wide.index.unique("task")) < 2
        return wide if one_task else wide.groupby("task", sort=False).mean()

    @property
    def best_steps(self) -> pd.DataFrame:
        """Of each task the SoftStep or DiffKNN head with the least mean error: its table row.

        The choice is by test error, so its ratio is a little too good.
        """
        table = self.table[self.table["method"].isin(STEPS)]
        return table.loc[table.groupby("task", sort=False)["mean"].idxmin()].reset_index(drop=True)

    def plot(self) -> Figure:
        """Draw mean errors of every method, a panel per task."""
        from softrsa.reports.prediction_figures import plot_errors

        return plot_errors(self.table)


def _ratios(errors: pd.DataFrame, reference: str) -> pd.Series:
    """Mean error of each method over that of the reference, on the splits they share."""
    found = {}
    for name in errors:
        shared = errors[list({name, reference})].dropna()
        found[name] = shared[name].mean() / shared[reference].mean() if len(shared) else np.nan
    return pd.Series(found)
