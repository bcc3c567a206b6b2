"""Figures of regressions of RSMs: coefficients, and variance that is unique or shared."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import xarray as xr

from softrsa.errors import DataError
from softrsa.reports.figures import (
    COLORS,
    MAX_WIDE,
    check_drawn,
    name_axes,
    name_places,
    panel,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INTERVAL = ("ci_low", "ci_high")
KIND_COLORS = {
    "unique": COLORS[0], "shared": COLORS[1], "shapley": COLORS[2], "total": "0.5",
}  # fmt: skip
VENN_RADIUS = 1.0
# centers of the circles, and where the number of each overlap stands, by which sets it is of
CENTERS = {2: ((-0.6, 0.0), (0.6, 0.0)), 3: ((-0.6, 0.35), (0.6, 0.35), (0.0, -0.69))}
NAME_PLACES = {2: ((-0.8, 1.15), (0.8, 1.15)), 3: ((-0.95, 1.5), (0.95, 1.5), (0.0, -1.9))}
NUMBER_PLACES = {
    2: {(0,): (-1.0, 0.0), (1,): (1.0, 0.0), (0, 1): (0.0, 0.0)},
    3: {
        (0,): (-1.0, 0.6), (1,): (1.0, 0.6), (2,): (0.0, -1.15), (0, 1): (0.0, 0.75),
        (0, 2): (-0.62, -0.35), (1, 2): (0.62, -0.35), (0, 1, 2): (0.0, 0.0),
    },
}  # fmt: skip


def plot_coefficients(data: xr.Dataset, table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw coefficients of predictors as bars with 95 % intervals.

    Parameters
    ----------
    data : Dataset
        `RegressionResult.data`.
    table : DataFrame
        `RegressionResult.table`.
    ax : Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    Axes
        Points are subjects, where there are several.
    """
    columns = ("predictor", "coefficient", *INTERVAL)
    check_drawn(table, columns, "RegressionResult.table")
    check_drawn(
        data, ("coefficient", "predictor", "subject"), "RegressionResult.data", form=xr.Dataset
    )
    ax = panel(ax, height=2.9)
    place = np.arange(len(table))
    _bars(ax, place, table, "coefficient", [COLORS[0]] * len(table))
    each = data["coefficient"].transpose("predictor", "subject").values
    if each.shape[1] > 1:
        apart = place[:, None] + np.linspace(-0.2, 0.2, each.shape[1])
        ax.scatter(apart, each, s=6, color="0.4", linewidths=0, zorder=2)
    _name(ax, place, [*table["predictor"]])
    unit = " (standardized)" if data.attrs.get("standardize", 1) else ""
    return name_axes(ax, "", f"coefficient{unit},\n95 % interval")


def plot_partition(table: pd.DataFrame, *, held_out: bool = True, ax: Axes | None = None) -> Axes:
    """Draw unique, shared and total variance as bars with 95 % intervals.

    Parameters
    ----------
    table : DataFrame
        `PartitionResult.table`.
    held_out : bool
        Whether the variance is of held-out stimuli, for the axis.
    ax : Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    Axes
        A bar per row of the table, its color the kind of part.

    Examples
    --------
    >>> table = pd.DataFrame({
    ...     "part": ["a", "b", "a & b", "all"], "kind": ["unique", "unique", "shared", "total"],
    ...     "variance": [0.1, 0.2, 0.05, 0.35], "ci_low": 0.0, "ci_high": 0.4})
    >>> [text.get_text() for text in plot_partition(table).get_legend().get_texts()]
    ['unique', 'shared', 'total']
    """
    from matplotlib.patches import Patch

    check_drawn(table, ("part", "kind", "variance", *INTERVAL), "PartitionResult.table")
    ax = panel(ax, height=3.6)
    place = np.arange(len(table))
    _bars(ax, place, table, "variance", [KIND_COLORS[kind] for kind in table["kind"]])
    _name(ax, place, [*table["part"]])
    kinds = list(dict.fromkeys(table["kind"]))
    ax.legend(
        [Patch(color=KIND_COLORS[kind], alpha=0.7) for kind in kinds], kinds, fontsize=7,
        frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0.1,
        handletextpad=0.4, columnspacing=1.0, handlelength=1.2,
    )  # fmt: skip
    where = "held-out" if held_out else "fitted"
    return name_axes(ax, "", f"variance explained\n({where}, 95 % interval)")


def _bars(ax: Axes, place: np.ndarray, table: pd.DataFrame, column: str, colors: list[str]) -> None:
    """Draw bars with intervals around a line at 0."""
    value = table[column].to_numpy()
    reach = np.abs(table[list(INTERVAL)].to_numpy().T - value)
    ax.bar(place, value, color=colors, alpha=0.7, width=0.7, zorder=1)
    shown = np.isfinite(reach).all(0)
    ax.errorbar(
        place[shown], value[shown], reach[:, shown], fmt="none", ecolor="black", elinewidth=1,
        capsize=2, zorder=3,
    )  # fmt: skip
    ax.axhline(0, color="0.6", linewidth=0.8)


def _name(ax: Axes, place: np.ndarray, names: list[str]) -> None:
    slanted = len(names) > MAX_WIDE or max(map(len, names)) * len(names) > 30
    name_places(ax, place, names, slanted=slanted)


def plot_venn(table: pd.DataFrame, names: list[str], *, ax: Axes | None = None) -> Axes:
    """Draw the parts of two or three sets as overlapping circles, with numbers in percent.

    Parameters
    ----------
    table : DataFrame
        `PartitionResult.table`.
    names : list of str
        The sets.
    ax : Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    Axes
        Circles are of one size, as areas of three cannot show seven numbers, some below 0.

    Raises
    ------
    DataError
        If there are not two or three sets.

    Examples
    --------
    >>> table = pd.DataFrame({
    ...     "part": ["a", "b", "a & b", "all"], "kind": ["unique", "unique", "shared", "total"],
    ...     "variance": [0.1, 0.2, 0.05, 0.35]})
    >>> [text.get_text() for text in plot_venn(table, ["a", "b"]).texts]
    ['a', 'b', '10.0', '20.0', '5.0']
    """
    from matplotlib.patches import Circle

    check_drawn(table, ("part", "kind", "variance"), "PartitionResult.table")
    if len(names) not in CENTERS:
        raise DataError(
            f"Circles are drawn of 2 or 3 sets, got {len(names)}; `plot_partition` draws bars of "
            "any number."
        )
    ax = panel(ax, height=2.9)
    share = table.set_index("part")["variance"]
    for center, color in zip(CENTERS[len(names)], COLORS, strict=False):
        ax.add_patch(Circle(center, VENN_RADIUS, facecolor=color, alpha=0.3, edgecolor=color))
    for name, place, color in zip(names, NAME_PLACES[len(names)], COLORS, strict=False):
        ax.text(
            place[0],
            place[1],
            name,
            ha="center",
            va="center",
            fontsize=9,
            color=color,
            fontweight="bold",
        )
    for which, place in NUMBER_PLACES[len(names)].items():
        value = round(100 * float(share[" & ".join(names[i] for i in which)]), 1) + 0.0
        ax.text(place[0], place[1], f"{value:.1f}", ha="center", va="center", fontsize=8)
    total = 100 * float(share["all"])
    ax.set_title(f"variance explained, %: {total:.1f} in all", fontsize=9)
    ax.set_xlim(-1.9, 1.9)
    ax.set_ylim(-2.1 if len(names) == 3 else -1.3, 1.7 if len(names) == 3 else 1.4)
    ax.set_aspect("equal")
    ax.set_axis_off()
    return ax
