"""Figures of labelled results; each is drawn from tables or arrays alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import xarray as xr

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito's palette: told apart with any color vision, and in gray by lightness
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
TITLES = {
    "identity": "identity (plain RSM)",
    "centered": "double-centered",
    "geo_topological": "geo-topological (grid)",
    "global": "SoftStep, global",
    "instance": "SoftStep, instance-wise",
    "selected": "selected",
}


def plot_alignment(table: pd.DataFrame, *, measure: str) -> Figure:
    """Draw held-out scores of layers, a line per region and a panel per transform.

    Parameters
    ----------
    table : DataFrame
        `AlignmentResult.table`.
    measure : str
        Name of the measure, for the axis.

    Returns
    -------
    Figure
        Error bars are standard errors over folds; bands are the noise ceilings of each region
        under the same transform and measure, from lower to upper.
    """
    from matplotlib.figure import Figure

    transforms = list(dict.fromkeys(table["transform"]))
    layers, regions = (list(dict.fromkeys(table[name])) for name in ("layer", "region"))
    columns = min(3, len(transforms))
    rows = -(-len(transforms) // columns)
    width = max(3.2, 0.32 * len(layers) + 1.6)
    figure = Figure(figsize=(width * columns + 1.6, 2.9 * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for ax, transform in zip(axes, transforms, strict=False):
        for color, region in zip(_colors(len(regions)), regions, strict=True):
            part = table[(table["transform"] == transform) & (table["region"] == region)]
            _draw_profile(ax, part.set_index("layer").loc[layers], region, color)
        ax.axhline(0, color="0.6", linewidth=0.8, zorder=0)
        ax.set_title(TITLES[transform], fontsize=10)
        ax.set_xticks(range(len(layers)), layers, rotation=90 if len(layers) > 5 else 0, fontsize=8)
    for ax in axes[len(transforms) :]:
        ax.remove()
    for ax in axes[::columns]:
        ax.set_ylabel(f"held-out {measure.replace('_', ' ')}", fontsize=9)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, title="region (band: noise ceiling)", loc="outside right upper", fontsize=8
    )
    return figure


def _draw_profile(ax: Axes, part: pd.DataFrame, region: str, color: str) -> None:
    """Draw one region's scores over layers, with its ceiling."""
    place = np.arange(len(part))
    ax.errorbar(
        place, part["score"], part["score_se"], color=color, marker="o", markersize=3.5,
        linewidth=1.3, capsize=2, label=region,
    )  # fmt: skip
    low, high = part["ceiling_lower"].mean(), part["ceiling_upper"].mean()
    if np.isfinite(low):
        ax.axhspan(low, high, color=color, alpha=0.13, linewidth=0)


def plot_transforms(curve: xr.DataArray) -> Figure:
    """Draw learned steps over the identity: median anchor, and the middle 80 % of anchors.

    Parameters
    ----------
    curve : DataArray
        Dims (layer, region, transform, fold, side, anchor_quantile, similarity): the variable
        `curve` of `AlignmentResult.data`.

    Returns
    -------
    Figure
        A row per region and transform learned for its best layers, a panel per side; folds are
        averaged. Without learned transforms, the identity alone, with a note.
    """
    from matplotlib.figure import Figure

    learned = curve.sel(transform=[t for t in curve["transform"].values if t in LEARNED])
    regions = list(curve["region"].values)
    transforms = list(learned["transform"].values)
    rows = [(region, transform) for region in regions for transform in transforms]
    figure = Figure(figsize=(6.4, 2.4 * max(len(rows), 1) + 0.7), layout="constrained")
    if not rows:
        ax = figure.subplots()
        _draw_identity(ax)
        ax.set_title("no learned transform in this result", fontsize=10)
        return figure
    axes = figure.subplots(len(rows), 2, sharex=True, sharey=True, squeeze=False)
    mean = learned.mean("fold")
    layers = list(curve["layer"].values)
    for pair, (region, transform) in zip(axes, rows, strict=True):
        for ax, side in zip(pair, ("model", "brain"), strict=True):
            _draw_identity(ax)
            for color, layer in zip(_colors(len(layers)), layers, strict=True):
                part = mean.sel(region=region, transform=transform, side=side, layer=layer)
                _draw_curve(ax, part, layer, color, shaded=len(layers) <= MAX_SHADED)
            ax.set_title(f"{region}, {TITLES[transform]}: {side} side", fontsize=8)
    for ax in axes[-1]:
        ax.set_xlabel("scaled similarity", fontsize=9)
    for ax in axes[:, 0]:
        ax.set_ylabel("after the step", fontsize=9)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=7, title="layer")
    return figure


LEARNED = ("global", "instance")
MAX_SHADED = 5  # more bands than this hide each other


def _draw_identity(ax: Axes) -> None:
    ax.plot([0, 1], [0, 1], color="0.5", linestyle="--", linewidth=1, label="identity")
    ax.set_xlim(0, 1)
    ax.set_ylim(-0.02, 1.02)


def _draw_curve(ax: Axes, part: xr.DataArray, layer: str, color: str, *, shaded: bool) -> None:
    """Draw the median curve over anchors, and the middle 80 % as a band."""
    x = part["similarity"].values
    low, middle, high = part.transpose("anchor_quantile", "similarity").values
    ax.plot(x, middle, color=color, linewidth=1.3, label=layer)
    if shaded:
        ax.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)


def _colors(count: int) -> list[str]:
    """Take colors from the palette while it lasts, then from an even scale."""
    if count <= len(COLORS):
        return list(COLORS[:count])
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(color) for color in colormaps["viridis"](np.linspace(0, 0.95, count))]
