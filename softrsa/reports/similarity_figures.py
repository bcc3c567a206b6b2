"""Figures of learned similarity: what was learned, and by which measures it gains."""

from __future__ import annotations

from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from softrsa.errors import DataError, unknown_name
from softrsa.reports.figures import (
    COLORS,
    WIDTH,
    check_drawn,
    name_axes,
    name_places,
    new_figure,
    panels,
    titles,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from softrsa.alignment import AlignmentResult

BESIDE = {  # scores of each row, and what a reader calls them
    "score": "measure in use",
    "per_anchor_score": "per anchor",
    "balanced_score": "balanced",
    "identification": "stimuli identified",
}
FIXED = "identity,centered,geo_topological"  # of results of older versions
FEW_UNITS = 24  # whose names can be written
MEASURE = "measure"


def gains_beside(given: AlignmentResult | pd.DataFrame | xr.Dataset) -> pd.DataFrame:
    """Table of what each transform gains over the best fixed one, by four scores.

    Parameters
    ----------
    given : AlignmentResult, DataFrame or Dataset
        A result, its `table` with at least one fixed transform in it, or its `data`.

    Returns
    -------
    DataFrame
        A row per layer, region and transform, with the differences `score`, `per_anchor_score`,
        `balanced_score` and `identification`. All are from the same fixed transform: the one that
        is best under the measure in use.

    Raises
    ------
    DTypeError
        If it is neither.
    DataError
        If it is of an older version, without these scores, or has no fixed transform.
    """
    labels = ["layer", "region", "transform"]
    if isinstance(given, pd.DataFrame):
        check_drawn(given, [*labels, *BESIDE], "AlignmentResult.table")
        attrs, shown = given.attrs, list(dict.fromkeys(given["transform"]))
        means = given.set_index(labels)[[*BESIDE]]
    else:
        data: Any = given if isinstance(given, xr.Dataset) else getattr(given, "data", given)
        check_drawn(data, [*labels, *BESIDE], "AlignmentResult.data", form=xr.Dataset)
        attrs, shown = data.attrs, data.attrs["transforms"].split(",")
        means = data[[*BESIDE]].mean("fold").to_dataframe(dim_order=labels)[[*BESIDE]]
    fixed = attrs.get("baselines", FIXED).split(",")
    there = means[means.index.get_level_values("transform").isin(fixed)]
    if there.empty:
        raise DataError(
            f"The table has none of the fixed transforms {', '.join(fixed)} that gains are over. "
            "Give the result itself, which has them, or align with one of them."
        )
    pairs = there["score"].dropna().groupby(level=labels[:2], sort=False)  # pandas refuses all NaN
    best = there.loc[pairs.idxmax()].reset_index("transform", drop=True)
    of_pairs = means.reset_index("transform", drop=True).index
    gains = means - best.reindex(of_pairs).values
    gains = gains.loc[gains.index.get_level_values("transform").isin(shown)]
    found = gains.reset_index()
    found.attrs.update({k: v for k, v in attrs.items() if k in ("titles", "baselines", MEASURE)})
    return found


def plot_beside(given: AlignmentResult | pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw what each transform gains over the best fixed one, by four scores side by side.

    Parameters
    ----------
    given : AlignmentResult or DataFrame
        A result, or its `table` with at least one fixed transform in it.
    ax : Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    Axes
        For each transform that is not fixed four bars: the gain under the measure in use, by anchor
        and in the balanced score, and the change of identification. Bars are means over pairs of
        layer and region, dots the pairs. Geometry that is more alike raises all of them; a shortcut
        raises the first bar only, or lowers the last.

    Examples
    --------
    >>> table = pd.DataFrame({
    ...     "layer": "conv", "region": "V4", "transform": ["identity", "metric"],
    ...     "score": [0.2, 0.4], "per_anchor_score": [0.2, 0.35],
    ...     "balanced_score": [0.2, 0.3], "identification": [0.9, 0.9]})
    >>> [round(float(bar.get_height()), 2) for bar in plot_beside(table).patches]
    [0.2, 0.15, 0.1, 0.0]
    """
    gains = gains_beside(given)
    fixed = gains.attrs.get("baselines", FIXED).split(",")
    learned = gains[~gains["transform"].isin(fixed)]
    gains = gains if learned.empty else learned
    names = list(dict.fromkeys(gains["transform"]))
    if ax is None:
        width = min(WIDTH, 2.4 + 1.2 * len(names))
        ax = new_figure(3.0, width=width).subplots()
    measure = gains.attrs.get(MEASURE, BESIDE["score"]).replace("_", " ")
    words = BESIDE | {"score": measure}
    for i, (column, color) in enumerate(zip(BESIDE, COLORS, strict=False)):
        at = np.arange(len(names)) + 0.2 * (i - 1.5)
        by_name = [gains.loc[gains["transform"] == name, column] for name in names]
        means = [values.mean() for values in by_name]
        ax.bar(at, means, 0.18, color=color, label=words[column], zorder=2)
        if len(gains) > len(names):
            for place, values in zip(at, by_name, strict=True):
                ax.plot([place] * len(values), values, ".", color="0.25", markersize=3, zorder=3)
    ax.axhline(0, color="0.4", linewidth=0.8)
    letters = max(8, 72 // len(names))
    called = [fill(titles(gains.attrs)[name], letters) for name in names]
    name_axes(ax, "", "gain over the best\nfixed transform")
    name_places(ax, np.arange(len(names)), called, slanted=False, size=8 if len(names) < 6 else 7)
    ax.set_xlim(-0.5, len(names) - 0.5)
    ax.legend(fontsize=7, frameon=False, ncols=2, loc="lower left", bbox_to_anchor=(0, 1))
    return ax


def plot_learned_similarity(
    result: AlignmentResult, layer: str, region: str, transform: str = "metric"
) -> Figure:
    """Draw what a learned similarity of a layer weighs: principal components, and units.

    Parameters
    ----------
    result : AlignmentResult
        An alignment with a learned similarity.
    layer, region : str
        Which pair.
    transform : str
        "reweighted", "metric", "encoding", or a chain that begins with one of these.

    Returns
    -------
    Figure
        To the left the weight of each component, the one with most variance first, as the mean over
        folds, a thin line for each fold. To the right the weights of units: named bars for up to 24
        units, else all weights from largest to smallest. A weight of 1 is the average. The title
        has the effective dimension of the features and their distance from the identity: 0 where
        every component counts as before, 1 at most.

    Raises
    ------
    UnknownNameError
        If there is no such layer, region or learned similarity.
    DataError
        If no similarity was learned in this result.

    Examples
    --------
    >>> import torch, softrsa
    >>> generator = torch.Generator().manual_seed(0)
    >>> x, noise = torch.randn(2, 60, 4, generator=generator)
    >>> brain = x * torch.tensor([5.0, 5.0, 0.1, 0.1]) + noise
    >>> result = softrsa.align({"a": x}, {"b": brain}, transforms=["metric"], n_resamples=0)
    >>> [ax.get_xlabel() for ax in plot_learned_similarity(result, "a", "b").axes]
    ['principal component', 'unit']
    """
    data = result.data
    check_drawn(data, ("layer", "region", "transform"), "AlignmentResult", form=xr.Dataset)
    mapped = [name for name in data.attrs.get("mapped", "").split(",") if name]
    if "component_weight" not in data or not mapped:
        raise DataError(
            "No similarity was learned in this result. Align with transforms=['metric'], for "
            "example."
        )
    known = {"layer": data["layer"].values, "region": data["region"].values}
    for kind, name, names in (
        ("layer", layer, known["layer"]),
        ("region", region, known["region"]),
        ("learned similarity", transform, mapped),
    ):
        if name not in names:
            raise unknown_name(kind, name, [*map(str, names)])
    one = data.sel(layer=layer, region=region, transform=transform)
    figure, (left, right) = panels(2, height=3.0)
    figure.suptitle(_summary(one, titles(data.attrs)[transform]), fontsize=9)
    _draw_components(left, one["component_weight"].transpose("fold", "component").values)
    _draw_units(right, result, layer, region, transform)
    return figure


def _summary(one: xr.Dataset, title: str) -> str:
    """Say in two lines what was learned, as means over folds."""
    named = f"{one['layer'].item()} with {one['region'].item()}: {title}"
    learned = int(one["component_weight"].notnull().any("component").sum())
    if not learned:
        return f"{named}\nno fold learned anything: the plain RSM does as well"
    dimension = float(one["effective_dimension"].mean())
    distance = float(one["distance_from_identity"].mean())
    n_folds = one.sizes["fold"]
    some = "" if learned == n_folds else f", learned in {learned} of {n_folds} folds"
    said = f"effective dimension {dimension:.1f}, distance from the identity {distance:.2f}"
    return f"{named}\n{said}{some}"


def _draw_components(ax: Axes, weights: np.ndarray) -> None:
    """Draw weights (fold, component), the component with most variance first."""
    there = np.isfinite(weights).any(0)
    weights = weights[:, there]
    at = np.arange(1, weights.shape[1] + 1)
    for of_fold in weights:
        ax.plot(at, of_fold, color=COLORS[0], alpha=0.3, linewidth=0.7)
    if len(at):
        mean = np.nanmean(weights, 0)
        ax.plot(at, mean, "o-", color=COLORS[0], markersize=3, linewidth=1.2, label="mean of folds")
    ax.axhline(1, color="0.5", linestyle="--", linewidth=0.9, zorder=0)
    ax.set_ylim(bottom=0)
    name_axes(ax, "principal component", "weight (mean 1)")
    ax.locator_params(axis="x", integer=True)
    ax.set_title("by component, most variance first", fontsize=8)


def _draw_units(ax: Axes, result: AlignmentResult, layer: str, region: str, transform: str) -> None:
    """Draw weights of units, named where they are few."""
    data = result.data
    if "unit_weight" not in data or layer not in data["unit_layer"].values:
        why = "not kept:\ngiven as RDMs, or fitted on a cluster or for a store"
        ax.text(0.5, 0.5, why, ha="center", va="center", fontsize=8, transform=ax.transAxes)
        ax.set_xticks([])
        ax.set_yticks([])
        name_axes(ax, "unit", "")
        return
    weights = result.unit_weights(layer, region, transform=transform)
    order = np.argsort(-weights.values, kind="stable")
    values, names = weights.values[order], weights["name"].values[order].astype(str)
    at = np.arange(1, len(values) + 1)
    if len(values) <= FEW_UNITS:
        ax.bar(at, values, color=COLORS[1])
        slanted = max(map(len, names)) * len(names) > 32
        name_places(ax, at, [*names], slanted=slanted, size=7)
    else:
        ax.plot(at, values, color=COLORS[1], linewidth=1.4)
        ax.fill_between(at, 0, values, color=COLORS[1], alpha=0.2, linewidth=0)
    ax.axhline(1, color="0.5", linestyle="--", linewidth=0.9, zorder=0)
    ax.set_ylim(bottom=0)
    few = len(values) <= FEW_UNITS
    name_axes(ax, "unit" if few else "unit, largest weight first", "")
    if few:
        ax.tick_params(axis="x", labelsize=7)
    ax.set_title("by unit", fontsize=8)
