"""Which methods differ over several data sets or splits: Friedman's test and Nemenyi's after it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import stats

from softrsa.errors import DataError, ShapeError, unknown_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes


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

        return plot_critical_distance(self, ax=ax)


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
