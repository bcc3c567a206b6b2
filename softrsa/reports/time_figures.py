"""Figures over time: curves with bands and bars of significance, and time by time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import xarray as xr

from softrsa.errors import DataError
from softrsa.reports.figures import (
    COLORS,
    MAX_NAMED,
    WIDTH,
    check_drawn,
    color_bar,
    name_axes,
    new_figure,
    panel,
    scale,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEVEL = 0.05
CEILING = "noise ceiling"
COLUMNS = ("region", "time", "score", "ci_low", "ci_high", "ceiling_lower", "ceiling_upper",
           "p_corrected")  # fmt: skip


def plot_time_courses(table: pd.DataFrame, *, by: str = "layer") -> Figure:
    """Draw scores over time, a line per model and a panel per region.

    Parameters
    ----------
    table : DataFrame
        `TimeCourseResult.table`.
    by : str
        The column that names models.

    Returns
    -------
    Figure
        Shaded are 95 % intervals, of up to seven models, and in gray the noise ceiling. Bars below
        the curves are times with a corrected p below .05, in the order of the models. More than
        seven models have colors from dark to light, and every so many a name.

    Examples
    --------
    >>> table = pd.DataFrame({
    ...     "layer": "conv1", "region": "IT", "time": [0.0, 0.1], "score": [0.0, 0.3],
    ...     "ci_low": [-0.1, 0.2], "ci_high": [0.1, 0.4], "ceiling_lower": 0.5,
    ...     "ceiling_upper": 0.6, "p_corrected": [1.0, 0.01]})
    >>> len(plot_time_courses(table).axes)
    1
    """
    check_drawn(table, (by, *COLUMNS), "TimeCourseResult.table")
    models, regions = (list(dict.fromkeys(table[name])) for name in (by, "region"))
    columns = min(3, len(regions))
    rows = -(-len(regions) // columns)
    figure = new_figure(2.2 * rows + 0.6, width=WIDTH if columns > 1 else 4.8)
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for ax, region in zip(axes, regions, strict=False):
        _draw_region(ax, table[table["region"] == region].set_index(by), models)
        ax.set_title(str(region), fontsize=9)
        ax.tick_params(labelsize=8)
    low, high = axes[0].get_ylim()  # of all panels
    for ax, region in zip(axes, regions, strict=False):
        _draw_bars(ax, table[table["region"] == region].set_index(by), models, (low, high))
    for ax in axes[len(regions) :]:
        ax.remove()
    for i, ax in enumerate(axes[: len(regions)]):
        ax.tick_params(axis="x", labelbottom=i + columns >= len(regions))
    measure = str(table.attrs.get("measure", "score")).replace("_", " ").capitalize()
    figure.supylabel(measure, fontsize=9)
    figure.supxlabel("time", fontsize=9)
    _name_models(figure, axes[0], by)
    return figure


def _draw_region(ax: Axes, part: pd.DataFrame, models: list[str]) -> None:
    """Draw all models of one region."""
    few = len(models) <= len(COLORS)
    bounds = part.loc[[models[0]]]
    if bounds["ceiling_lower"].notna().any():
        ax.fill_between(
            bounds["time"], bounds["ceiling_lower"], bounds["ceiling_upper"], color="0.85",
            linewidth=0, zorder=0, label=CEILING,
        )  # fmt: skip
    ax.axhline(0, color="0.6", linewidth=0.8, zorder=1)
    for model, color in zip(models, _colors(models), strict=False):
        curve = part.loc[[model]]
        if few:
            ax.fill_between(
                curve["time"], curve["ci_low"], curve["ci_high"], color=color, alpha=0.2,
                linewidth=0, zorder=2,
            )  # fmt: skip
        ax.plot(curve["time"], curve["score"], color=color, linewidth=1.2, label=model, zorder=3)


def _colors(models: list[str]) -> Sequence[str]:
    return COLORS if len(models) <= len(COLORS) else scale(len(models))


def _draw_bars(
    ax: Axes, part: pd.DataFrame, models: list[str], limits: tuple[float, float]
) -> None:
    """Draw below all curves when each is significant, one row of bars per model."""
    low, high = limits
    step = min(0.04, 0.3 / len(models)) * (high - low)
    for i, (model, color) in enumerate(zip(models, _colors(models), strict=False)):
        curve = part.loc[[model]]
        times = curve["time"].to_numpy(dtype=float)
        half = np.gradient(times) / 2 if len(times) > 1 else np.full(1, 0.5)
        there = curve["p_corrected"].to_numpy() < LEVEL
        spans = list(zip(times[there] - half[there], 2 * half[there], strict=True))
        ax.broken_barh(spans, (low - (i + 1) * step, 0.6 * step), color=color, linewidth=0)
    ax.set_ylim(low - (len(models) + 0.5) * step, high)


def _name_models(figure: Figure, ax: Axes, by: str) -> None:
    """Put the names of models beside the panels; of many every so many."""
    named = list(zip(*ax.get_legend_handles_labels(), strict=True))
    ceiling = [one for one in named if one[1] == CEILING]
    models = [one for one in named if one[1] != CEILING]
    every = -(-len(models) // MAX_NAMED)
    handles, labels = zip(*models[::every], *ceiling, strict=True)
    figure.legend(
        handles, labels, loc="outside right upper", fontsize=8, frameon=False,
        title=by if every == 1 else f"{by}\n(1 of {every} named)", title_fontsize=8,
    )  # fmt: skip


def plot_time_generalization(data: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """Draw mean scores of all pairs of times, with outlines where they are significant.

    Parameters
    ----------
    data : Dataset
        `TimeGeneralization.data`.
    ax : Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    Axes
        Rows are times of the movie, columns those of the reference; outlined is a corrected p
        below .05.
    """
    names = ("score", "p_corrected", "time", "other_time")
    check_drawn(data, names, "TimeGeneralization.data", form=xr.Dataset)
    mean = data["score"].mean("subject").transpose("time", "other_time")
    known = np.abs(mean.values[np.isfinite(mean.values)])
    if not known.size:
        raise DataError("There is nothing to draw: all scores are NaN.")
    ax = panel(ax, height=3.0)
    limit = float(known.max()) or 1.0
    one, other = (data[name].values.astype(float) for name in ("time", "other_time"))
    image = ax.pcolormesh(
        other, one, mean.values, cmap="RdBu_r", vmin=-limit, vmax=limit, shading="nearest",
        rasterized=True,
    )  # fmt: skip
    below = (data["p_corrected"].transpose("time", "other_time") < LEVEL).values
    if below.any() and not below.all() and min(below.shape) > 1:
        ax.contour(other, one, below.astype(float), [0.5], colors="black", linewidths=0.8)
    ax.set_aspect("equal" if np.array_equal(one, other) else "auto")
    color_bar(ax, image, str(data.attrs["measure"]).replace("_", " "))
    return name_axes(ax, str(data.attrs["other_name"]), "time")
