"""Figures of region identification: accuracies against chance, and the grid of thresholds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from softrsa.reports.figures import COLORS, check_drawn, color_bar, name_axes, panel, panels

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KINDS = {
    "local": [(0, 0), (0, 0.4), (0.2, 0.2)],
    "global": [(1, 1), (0.6, 1), (0.8, 0.8)],
    "geometry": [(0, 1), (0, 0.8), (0.2, 1)],
    "topology": [(0.4, 0.4), (0.4, 0.6), (0.6, 0.6)],
}  # corners in (l, u); what is left is intermediate
LABELS = {
    "local": (0.02, 0.16),
    "global": (0.8, 1.03),
    "geometry": (0.0, 1.03),
    "topology": (0.63, 0.5),
    "intermediate": (0.24, 0.72),
}  # where the names begin, or for "global" are centered
INTERVALS = {
    "subjects": (-0.06, COLORS[0], "95 % over subjects"),
    "stimuli": (0.06, COLORS[1], "95 % over stimuli"),
    "rows": (0.0, COLORS[0], "± sd over resampled rows"),
}  # place, color, label


def plot_identification(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw accuracies, with intervals over subjects and over stimuli, and chance as a line."""
    check_drawn(table, ("transform", "accuracy", "chance"), "IdentificationResult.table")
    ax = panel(ax)
    at = np.arange(len(table))
    shown = {name: how for name, how in INTERVALS.items() if f"{name}_low" in table}
    for name, (aside, color, label) in shown.items():
        low, high = table[f"{name}_low"], table[f"{name}_high"]
        ax.vlines(at + aside, low, high, color=color, linewidth=2, label=label)
    ax.plot(at, table["accuracy"], "D", color="black", markersize=4)
    ax.axhline(table["chance"].iloc[0], color="0.6", linestyle="--", linewidth=0.9)
    ax.set_xticks(at, table["transform"].str.replace("_", "\n"), fontsize=8)
    ax.set_xlim(-0.5, len(table) - 0.5)
    ax.set_ylim(0, 1)
    ax.legend(fontsize=7, frameon=False, loc="upper right")
    return name_axes(ax, "", "regions identified")


def plot_geo_topological_grid(
    scores: xr.DataArray, *, label: str = "score", ax: Axes | None = None
) -> Axes:
    """Draw the score of each geo-topological statistic, kinds of statistic outlined.

    Parameters
    ----------
    scores : DataArray, dims (lower, upper)
        Such as ``PublishedIdentification.data["grid_accuracy"]``; NaN where there is no such
        statistic.
    label : str
        What the scores are, for the color bar.
    ax : Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    Axes
        Lower quantile to the right, upper quantile upwards, with a color bar.
    """
    import xarray as xr
    from matplotlib.patheffects import withStroke

    source = "IdentificationResult.data['grid_accuracy']"
    check_drawn(scores, ("lower", "upper"), source, form=xr.DataArray)
    ax = panel(ax)
    mesh = ax.pcolormesh(
        scores["lower"], scores["upper"], scores.transpose("upper", "lower"),
        cmap="viridis", shading="nearest",
    )  # fmt: skip
    color_bar(ax, mesh, label)
    for corners in KINDS.values():
        x, y = np.array([*corners, corners[0]]).T
        ax.plot(x, y, color="white", linewidth=1.5)
        ax.plot(x, y, color="black", linewidth=0.7)
    halo = [withStroke(linewidth=2, foreground="white")]
    for name, place in LABELS.items():
        side = "center" if name == "global" else "left"
        ax.annotate(name, place, fontsize=7, ha=side, va="bottom", path_effects=halo)
    ax.set_ylim(top=1.13)
    return name_axes(ax, "lower quantile l", "upper quantile u")


def plot_curves(curves: pd.DataFrame, *, chance: float) -> Figure:
    """Draw accuracy of each transform against noise and against the number of stimuli.

    A panel for each of the two that varies, at the least noise and the most stimuli otherwise, with
    standard errors over subjects and a dashed line at chance.
    """
    columns = ("noise", "n_stimuli", "transform", "subject", "accuracy")
    check_drawn(curves, columns, "identification_curves(...)")
    titles = {"noise": "noise added (sd of dissimilarities)", "n_stimuli": "number of stimuli"}
    varied = [name for name in titles if curves[name].nunique() > 1] or ["n_stimuli"]
    best = {"noise": curves["noise"].min(), "n_stimuli": curves["n_stimuli"].max()}
    figure, axes = panels(len(varied))
    for ax, name in zip(axes, varied, strict=True):
        other = next(key for key in titles if key != name)
        shown = curves[curves[other] == best[other]]
        for place, transform in enumerate(shown["transform"].unique()):
            one = shown[shown["transform"] == transform]
            by_subject = one.groupby([name, "subject"])["accuracy"].mean().unstack("subject")
            ax.errorbar(
                by_subject.index, by_subject.mean(axis=1), by_subject.sem(axis=1), marker="o",
                markersize=3.5, linewidth=1.2, capsize=2, color=COLORS[place % len(COLORS)],
                label=transform.replace("_", "-"),
            )  # fmt: skip
        ax.axhline(chance, color="0.6", linestyle="--", linewidth=0.9)
        name_axes(ax, titles[name], "regions identified" if ax is axes[0] else "")
        ax.set_ylim(0, 1)
    axes[-1].legend(fontsize=7, frameon=False)
    return figure
