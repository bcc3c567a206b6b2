"""Figures of inference: models' scores with their uncertainty, and which models differ."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import xarray as xr

from softrsa._groups import unit_of_generalization
from softrsa.errors import unknown_name
from softrsa.measures.registry import measure_title
from softrsa.reports.figures import (
    COLORS,
    MAX_WIDE,
    check_drawn,
    color_bar,
    name_axes,
    name_places,
    panel,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEVEL = 0.05


def plot_inference(data: xr.Dataset, table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw mean scores as bars with 95 % intervals, and the noise ceiling as a band.

    Points are subjects, where there are several. A star above an interval: above 0 at .05
    (corrected over models where a permutation test did so); a triangle: different from the lower
    noise ceiling at .05.
    """
    columns = ("score", "ci_low", "ci_high", "ceiling_lower", "ceiling_upper")
    check_drawn(table, columns, "InferenceResult.table")
    check_drawn(data, ("score", "model", "subject"), "InferenceResult.data", form=xr.Dataset)
    ax = panel(ax, height=2.9)
    place = np.arange(len(table))
    scores = table["score"].to_numpy()
    reach = np.abs(table[["ci_low", "ci_high"]].to_numpy().T - scores)
    bounds = table[["ceiling_lower", "ceiling_upper"]].iloc[0]
    if bounds.notna().all():
        ax.axhspan(*bounds, color="0.85", linewidth=0, zorder=0, label="noise ceiling")
    ax.bar(place, scores, color=COLORS[0], alpha=0.7, width=0.7, zorder=1)
    each = data["score"].transpose("model", "subject").values
    if each.shape[1] > 1:
        spread = place[:, None] + np.linspace(-0.2, 0.2, each.shape[1])
        ax.scatter(spread, each, s=6, color="0.4", linewidths=0, zorder=2)
    shown = np.isfinite(reach).all(0)
    ax.errorbar(
        place[shown], scores[shown], reach[:, shown], fmt="none", ecolor="black", elinewidth=1,
        capsize=2, zorder=3,
    )  # fmt: skip
    top = np.fmax.reduce([*each.T, scores + np.where(shown, reach[1], 0.0)])
    _mark(ax, table, place, top)
    long = len(table) > MAX_WIDE or max(map(len, table.iloc[:, 0])) > 10
    over = f"\n(95 % interval: {_unit(data)})" if shown.any() else ""
    name_axes(ax, "", measure_title(data.attrs).capitalize() + over)
    name_places(ax, place, list(table.iloc[:, 0]), slanted=long)
    ax.axhline(0, color="0.6", linewidth=0.8)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(
            fontsize=7, frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=3,
            borderaxespad=0.1, handletextpad=0.4, columnspacing=1.0, handlelength=1.2,
        )  # fmt: skip
    return ax


def _unit(data: xr.Dataset) -> str:
    """Say what intervals hold for beyond the data."""
    return unit_of_generalization(data.attrs.get("over", "subjects"), data.attrs)


def _mark(ax: Axes, table: pd.DataFrame, place: np.ndarray, top: np.ndarray) -> None:
    """Put marks of significance above the intervals that end at ``top``."""
    tests = [c for c in ("p_permutation_fwer", "p_permutation", "p_zero") if c in table]
    low, high = ax.get_ylim()
    step = 0.05 * (high - low)
    marks = (
        (tests[:1], "*", "black", "> 0, p < .05"),
        (["p_ceiling"] if "p_ceiling" in table else [], "v", "none", "≠ ceiling, p < .05"),
    )
    height = top + step
    for column, marker, face, label in marks:
        if not column:
            continue
        found = table[column[0]].to_numpy() < LEVEL
        ax.scatter(
            place[found], height[found], s=18, marker=marker, facecolors=face, edgecolors="black",
            linewidths=0.6, zorder=4, label=label if found.any() else None,
        )  # fmt: skip
        height = np.where(found, height + step, height)
    if np.isfinite(height).any():
        ax.set_ylim(low, max(high, float(np.nanmax(height))))


def plot_comparisons(
    names: list[str], comparisons: pd.DataFrame, *, ax: Axes | None = None
) -> Axes:
    """Draw the differences between models as a matrix, starred where they are significant.

    Parameters
    ----------
    names : list of str
        The models in their order.
    comparisons : DataFrame
        `InferenceResult.comparisons`.
    ax : Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    Axes
        Color: score of the row less that of the column. Stars: corrected p below .05, .01, .001.
    """
    columns = ("model", "other", "difference", "p_corrected")
    check_drawn(comparisons, columns, "InferenceResult.comparisons")
    for name in {*comparisons["model"], *comparisons["other"]} - {*names}:
        raise unknown_name("model in the comparisons:", name, names)
    ax = panel(ax, height=3.2)
    place = {name: i for i, name in enumerate(names)}
    difference = np.full((len(names), len(names)), np.nan)
    for row in comparisons.itertuples():
        i, j = place[str(row.model)], place[str(row.other)]
        difference[i, j], difference[j, i] = row.difference, -float(str(row.difference))
    known = np.abs(difference[np.isfinite(difference)])
    limit = float(known.max()) if known.size and known.max() > 0 else 1.0
    image = ax.imshow(difference, cmap="RdBu_r", vmin=-limit, vmax=limit)
    for row in comparisons.itertuples():
        i, j = place[str(row.model)], place[str(row.other)]
        stars = "*" * sum(float(str(row.p_corrected)) < level for level in (0.05, 0.01, 0.001))
        color = "white" if abs(difference[i, j]) > 0.6 * limit else "black"  # on what is dark
        for x, y in ((i, j), (j, i)):
            ax.text(
                x, y + 0.08, stars, ha="center", va="center", fontsize=min(9.0, 70 / len(names)),
                color=color,
            )  # fmt: skip
    ax.set_title("* p < .05   ** p < .01   *** p < .001", fontsize=7)
    color_bar(ax, image, "score of row − column")
    name_places(ax, range(len(names)), names, slanted=max(map(len, names)) > 4)
    ax.set_yticks(range(len(names)), names, fontsize=8)
    return ax
