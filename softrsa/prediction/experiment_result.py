"""What an experiment found: errors of every method on every split, and what they say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import stats

from softrsa._files import locked
from softrsa.errors import DataError, FileFormatError, ShapeError, unknown_name
from softrsa.io import atomic_path
from softrsa.prediction.step_heads import HEADS, LINEAR_HEADS, NEIGHBOR_HEADS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TEXT = ("task", "method", "head", "similarity", "settings", "softrsa")  # columns of names


def read_rows(path: str | Path | None, columns: Sequence[str], kind: str) -> pd.DataFrame:
    """Read the rows known so far, none where there is no file; ``kind`` is of what for errors."""
    if path is None or not Path(path).exists():
        return pd.DataFrame(columns=list(columns))
    try:
        # names such as "None" or "2024" are names
        rows = pd.read_csv(path, dtype=dict.fromkeys(TEXT, str), keep_default_na=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise FileFormatError(f"{path} is no table of {kind}: {error}") from error
    if list(rows.columns) != list(columns):
        raise FileFormatError(
            f"{path} is no table of {kind}: expected the columns {', '.join(columns)}, "
            f"found {', '.join(map(str, rows.columns))}. Name another file."
        )
    return rows


def add_row(
    rows: pd.DataFrame, row: Sequence[object], path: str | Path | None, key: Sequence[str] = ()
) -> pd.DataFrame:
    """Add a row to those of the file, where there is one, and write it: whole, or not at all.

    Rows that other runs write meanwhile are kept, and one with the same ``key`` counts once.
    """
    if path is None:
        return _with_row(rows, row)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with locked(Path(path)):
        rows = read_rows(path, list(rows.columns), "this run")
        given = dict(zip(rows.columns, row, strict=True))
        known = zip(*(rows[name] for name in key), strict=True)
        if key and tuple(given[name] for name in key) in {*known}:
            return rows
        rows = _with_row(rows, row)
        with atomic_path(path) as temporary:
            rows.to_csv(temporary, index=False)
    return rows


def _with_row(rows: pd.DataFrame, row: Sequence[object]) -> pd.DataFrame:
    added = pd.DataFrame([row], columns=rows.columns)
    return pd.concat([rows, added], ignore_index=True) if len(rows) else added


@dataclass(frozen=True)
class RankTest:
    """What `friedman_nemenyi` found.

    Attributes
    ----------
    statistic, p : float
        Friedman's chi-square and its p value: whether any method differs.
    mean_ranks : Series, shape (n_methods,)
        Mean rank of each method over blocks; 1 is best.
    pairwise : DataFrame, shape (n_methods, n_methods)
        Nemenyi's p value of every pair, corrected for all pairs.
    critical_distance : float
        Difference of mean ranks beyond which two methods differ at ``alpha``.
    alpha : float
        Level of the critical distance.
    n_blocks : int
        Number of data sets or splits.
    """

    statistic: float
    p: float
    mean_ranks: pd.Series
    pairwise: pd.DataFrame
    critical_distance: float
    alpha: float
    n_blocks: int

    def plot(self, *, ax: Axes | None = None) -> Axes:
        """Draw the critical-distance diagram: methods joined by a bar do not differ."""
        from softrsa.reports.prediction_figures import plot_critical_distance

        return plot_critical_distance(self.mean_ranks, self.critical_distance, ax=ax)


def friedman_nemenyi(
    table: pd.DataFrame, *, alpha: float = 0.05, better: str = "lower"
) -> RankTest:
    """Compare methods that were scored on the same blocks.

    Parameters
    ----------
    table : DataFrame, shape (n_blocks, n_methods)
        One score per data set or split (rows) and method (columns).
    alpha : float
        Level of the critical distance.
    better : {"lower", "higher"}
        Whether low scores are good, as of errors.

    Returns
    -------
    RankTest
        Friedman's test of all methods together, and Nemenyi's of each pair.

    Raises
    ------
    ShapeError
        If there are fewer than 3 methods or 2 blocks.
    DataError
        If a score is missing or not finite; the message names its block and method.
    UnknownNameError
        If ``better`` is neither of the two.

    Notes
    -----
    Splits of one data set share data, so a test over splits says that the result is reproducible
    for these data, not that it holds for others.

    References
    ----------
    Demšar (2006), Statistical comparisons of classifiers over multiple data sets, JMLR 7, 1-30.

    Examples
    --------
    >>> table = pd.DataFrame({"a": [1.0, 2, 1, 2], "b": [2.0, 3, 2, 3], "c": [3.0, 4, 3, 4]})
    >>> test = friedman_nemenyi(table)
    >>> test.mean_ranks.to_dict()
    {'a': 1.0, 'b': 2.0, 'c': 3.0}
    >>> round(test.p, 4)
    0.0183
    """
    if better not in ("lower", "higher"):
        raise unknown_name("direction", better, ("lower", "higher"))
    if not 0 < alpha < 1:
        raise DataError(f"`alpha` must lie between 0 and 1, got {alpha}.")
    n, k = table.shape
    if k < 3 or n < 2:
        raise ShapeError(
            f"Friedman's test needs at least 3 methods (columns) and 2 blocks (rows), got {k} and "
            f"{n}."
        )
    values = table.to_numpy(dtype=np.float64)
    if not np.isfinite(values).all():
        row, column = np.argwhere(~np.isfinite(values))[0]
        raise DataError(
            f"Every method must have a score on every block; {table.columns[column]!r} has "
            f"{values[row, column]} on {table.index[row]!r}. Leave the block or the method out."
        )
    ranks = stats.rankdata(values if better == "lower" else -values, axis=1)
    mean_ranks = pd.Series(ranks.mean(0), index=table.columns, name="mean rank")
    statistic, p = stats.friedmanchisquare(*values.T)
    # Nemenyi's statistic is studentized range over root 2, with infinite degrees of freedom
    error = np.sqrt(k * (k + 1) / (6 * n))
    gaps = np.abs(mean_ranks.to_numpy()[:, None] - mean_ranks.to_numpy()) / error
    pairwise = stats.studentized_range.sf(gaps * np.sqrt(2), k, np.inf)
    limit = stats.studentized_range.isf(alpha, k, np.inf) / np.sqrt(2) * error
    return RankTest(
        float(statistic),
        float(p),
        mean_ranks,
        pd.DataFrame(pairwise.clip(0.0, 1.0), index=table.columns, columns=table.columns),
        float(limit),
        alpha,
        n,
    )


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
