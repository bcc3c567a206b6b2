"""Figures of labelled results, 7.2 inches wide: two columns of a journal, type of 7 to 9 points."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from softrsa._wording import listed
from softrsa.errors import DataError, DTypeError, ShapeError, unknown_name
from softrsa.transforms import TRANSFORMS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

WIDTH = 7.2  # inches
# Okabe & Ito's palette and as many markers: told apart with any color vision, and in gray
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "os^DvPX"
SIDES = ("model", "brain")
MAX_WIDE = 8  # layers that fit into a third of the width
MAX_NAMED = 20  # layers whose names fit below a panel or into a legend


class _Titles(dict[str, str]):
    """Titles by name; a name that is not there is its own."""

    def __missing__(self, name: str) -> str:
        return name


def titles(attrs: Mapping[Any, Any]) -> Mapping[str, str]:
    """Titles of transforms: of the table, and those that a result has kept in its attributes."""
    known = {row.name: row.title for row in TRANSFORMS.values()}
    return _Titles(known | json.loads(attrs.get("titles", "{}")))


def check_drawn(
    given: object,
    names: Sequence[str],
    source: str,
    *,
    form: type[pd.DataFrame | xr.Dataset | xr.DataArray] = pd.DataFrame,
) -> None:
    """Check that what is to be drawn is a table with these columns, or labelled data with these.

    Variables of a Dataset, dimensions of a DataArray; and that it is not empty. ``source`` is where
    one gets it.
    """
    if not isinstance(given, form):
        raise DTypeError(
            f"A {form.__name__} is drawn here: `{source}`; got {type(given).__name__}."
        )
    there = given.columns if isinstance(given, pd.DataFrame) else [*given.dims]
    there = [*given.variables, *there] if isinstance(given, xr.Dataset) else [*there]
    missing = [name for name in names if name not in there]
    if missing:
        raise DataError(
            f"What is drawn must have {listed(names, 9)}, as `{source}` has; "
            f"{listed(missing, 9)} is missing, there is {listed(there) or 'nothing'}."
        )
    sizes = {"row": len(given)} if isinstance(given, pd.DataFrame) else dict(given.sizes)
    empty = [str(name) for name, size in sizes.items() if not size]
    if empty:
        raise DataError(f"There is nothing to draw: `{source}` has no {listed(empty)}.")


PROFILE = ("transform", "layer", "region", "score", "score_se", "ceiling_lower", "ceiling_upper")


def plot_alignment(table: pd.DataFrame, *, measure: str) -> Figure:
    """Draw held-out scores of layers, a line per region and a panel per transform.

    Parameters
    ----------
    table : DataFrame
        `AlignmentResult.table`.
    measure : str
        Name of the measure, for the axis; "partial spearman" given a control.

    Returns
    -------
    Figure
        Error bars are 95 % intervals where scores were resampled, else standard errors. Shaded is
        each region's noise ceiling under the same transform and measure, from lower to upper, as
        the mean over layers: a band for one region, a bar each at the right edge for several, where
        bands would hide each other.
    """
    check_drawn(table, PROFILE, "AlignmentResult.table")
    transforms, layers, regions = (
        list(dict.fromkeys(table[name])) for name in ("transform", "layer", "region")
    )
    columns = min(3 if len(layers) <= MAX_WIDE else 2, len(transforms))
    rows = -(-len(transforms) // columns)
    figure = new_figure(2.0 * rows + 0.9, width=WIDTH if columns > 1 else 4.5)
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for ax, transform in zip(axes, transforms, strict=False):
        _draw_profiles(ax, table, transform, layers, regions)
    for ax in axes[len(transforms) :]:
        ax.remove()
    for i, ax in enumerate(axes[: len(transforms)]):
        _name_layers(ax, layers, columns)
        ax.tick_params(axis="y", labelsize=8)
        # a panel removed below leaves this one without names
        ax.tick_params(axis="x", labelbottom=i + columns >= len(transforms))
    low, high = axes[0].get_ylim()
    if low < 0 < high:
        for ax in axes[: len(transforms)]:
            ax.axhline(0, color="0.6", linewidth=0.8, zorder=0)
    name = measure.replace("_", " ").title()
    figure.supylabel(f"{name}, {_scored(table)} stimuli\n({_bars(table)})", fontsize=9)
    figure.supxlabel("layer", fontsize=9)
    _legend(figure, axes[0], ceiling=bool(np.isfinite(table["ceiling_lower"]).any()))
    return figure


def plot_profile(
    table: pd.DataFrame, *, transform: str | None = None, ax: Axes | None = None
) -> Axes:
    """Draw held-out scores of layers under one transform, a line per region with its ceiling.

    Parameters
    ----------
    table : DataFrame
        `AlignmentResult.table`.
    transform : str, optional
        One of those in the table; the last by default.
    ax : Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    Axes
        Error bars and ceilings as in `plot_alignment`.

    Raises
    ------
    UnknownNameError
        If the table has no such transform.

    Examples
    --------
    >>> table = pd.DataFrame({
    ...     "layer": ["conv1", "conv2"], "region": "V4", "transform": "centered",
    ...     "score": [0.1, 0.3], "score_se": 0.02, "ceiling_lower": 0.5, "ceiling_upper": 0.6})
    >>> plot_profile(table).get_title()
    'double-centered'
    """
    check_drawn(table, PROFILE, "AlignmentResult.table")
    known = list(dict.fromkeys(table["transform"]))
    transform = str(known[-1] if transform is None else transform)
    if transform not in known:
        raise unknown_name("transform in the table:", transform, known)
    ax = panel(ax, height=2.8)
    part = table[table["transform"] == transform]
    layers, regions = (list(dict.fromkeys(part[name])) for name in ("layer", "region"))
    _draw_profiles(ax, table, transform, layers, regions)
    name_axes(ax, "layer", f"score of {_scored(table)} stimuli ({_bars(table)})")
    _name_layers(ax, layers, 2)
    ax.legend(fontsize=7, frameon=False)
    return ax


def _draw_profiles(
    ax: Axes, table: pd.DataFrame, transform: str, layers: list[str], regions: list[str]
) -> None:
    """Draw the scores of all regions over layers under a transform."""
    part = table[table["transform"] == transform].set_index("region")
    for i, region in enumerate(regions):
        of_region = part.loc[[region]].set_index("layer").loc[layers]
        _draw_profile(ax, of_region, region, i, len(regions))
    ax.set_title(titles(table.attrs)[transform], fontsize=9)


def _draw_profile(ax: Axes, part: pd.DataFrame, region: str, i: int, count: int) -> None:
    """Draw the scores of region ``i`` of ``count`` over layers, with its ceiling."""
    color = (COLORS if count <= len(COLORS) else scale(count))[i]
    marker = MARKERS[i % len(MARKERS)]
    dodge = 0.3 * ((i + 0.5) / count - 0.5)  # keeps error bars apart
    ax.errorbar(
        np.arange(len(part)) + dodge, part["score"], _reach(part), color=color, marker=marker,
        markersize=3.5, linewidth=1.1, elinewidth=0.8, capsize=1.5, label=region,
    )  # fmt: skip
    low, high = part["ceiling_lower"].mean(), part["ceiling_upper"].mean()
    if not np.isfinite(low):
        return
    if count == 1:
        ax.axhspan(low, high, color=color, alpha=0.2, linewidth=0)
        return
    room = 0.05 * len(part) + 0.12  # width of a bar, in layers
    left = len(part) - 0.5 + i * room
    ax.fill_between([left, left + 0.8 * room], low, high, color=color, alpha=0.45, linewidth=0)


def has_intervals(table: pd.DataFrame) -> bool:
    """Tell whether scores were resampled."""
    return "score_low" in table and bool(table["score_low"].notna().any())


def _scored(table: pd.DataFrame) -> str:
    """Say which stimuli scores are of: without folds none is held out."""
    return "all" if table.attrs.get("all_stimuli_scored") else "held-out"


def _bars(table: pd.DataFrame) -> str:
    return "95 % intervals" if has_intervals(table) else "± standard error"


def _reach(part: pd.DataFrame) -> np.ndarray:
    """Lengths of error bars below and above scores (2, n): intervals, else standard errors."""
    errors = np.stack([part["score_se"], part["score_se"]])
    if "score_low" not in part:
        return errors
    found = np.stack([part["score"] - part["score_low"], part["score_high"] - part["score"]])
    return np.where(np.isfinite(found), found, errors)


def _name_layers(ax: Axes, layers: list[str], columns: int) -> None:
    """Write the layers' names below the panels: upright, slanted or every so many, as they fit."""
    shown = range(0, len(layers), -(-len(layers) // MAX_NAMED))
    names = [layers[i] for i in shown]
    slanted = max(map(len, names)) * len(layers) * columns > 80
    name_places(ax, shown, names, slanted=slanted, size=8 if len(names) <= MAX_WIDE else 7)


def _legend(figure: Figure, ax: Axes, *, ceiling: bool) -> None:
    """Put the regions above the panels."""
    from matplotlib.patches import Patch

    handles, labels = ax.get_legend_handles_labels()
    every = -(-len(labels) // MAX_NAMED)  # of many regions, such as times, every so many is named
    handles, labels = handles[::every], labels[::every]
    if ceiling:
        handles, labels = [*handles, Patch(color="0.6")], [*labels, "noise ceiling"]
    columns = max(1, min(len(labels), 90 // (max(map(len, labels)) + 6)))
    figure.legend(
        handles, labels, loc="outside upper center", ncols=columns, fontsize=8, frameon=False
    )


def plot_transforms(curve: xr.DataArray, score: xr.DataArray | None = None) -> Figure:
    """Draw learned steps over the identity: the median anchor of every layer.

    Parameters
    ----------
    curve : DataArray
        Dims (layer, region, transform, fold, side, anchor_quantile, similarity): the variable
        `curve` of `AlignmentResult.data`.
    score : DataArray, optional
        Dims (layer, region, transform, fold): for each region and transform the layer with the best
        mean is drawn thick, with the middle 80 % of its anchors shaded.

    Returns
    -------
    Figure
        A row per region, a column per learned transform and side; folds are averaged. Without
        learned transforms, the identity alone, with a note.
    """
    dims = ("layer", "region", "transform", "fold", "side", "anchor_quantile", "similarity")
    check_drawn(curve, dims, "AlignmentResult.data['curve']", form=xr.DataArray)
    # a name that is not in the table is of the user's own, and drawn where it has a curve
    learned = {row.name: row.is_learned for row in TRANSFORMS.values()}
    there = curve.notnull().any([dim for dim in curve.dims if dim != "transform"]).values
    pairs = zip(curve["transform"].values, there, strict=True)
    transforms = [name for name, known in pairs if learned.get(name, known)]
    regions, layers = curve["region"].values, curve["layer"].values
    if not transforms:
        figure = new_figure(3.0, width=3.5)
        ax = figure.subplots()
        _draw_identity(ax)
        ax.set_title("no learned transform in this result", fontsize=9)
        return figure
    columns = [(transform, side) for transform in transforms for side in SIDES]
    height = max(1.35 * len(regions), 0.15 * min(len(layers), MAX_NAMED)) + 0.9
    figure = new_figure(height, width=WIDTH * (len(columns) + 1) / 5)
    axes = figure.subplots(len(regions), len(columns), sharex=True, sharey=True, squeeze=False)
    colors = dict(zip(layers, scale(len(layers)), strict=True))
    mean = curve.mean("fold")
    for row, region in zip(axes, regions, strict=True):
        for ax, (transform, side) in zip(row, columns, strict=True):
            _draw_identity(ax)
            at = {"region": region, "transform": transform}
            best = None if score is None else _best(score.sel(at))
            for layer, color in colors.items():
                part = mean.sel({**at, "side": side, "layer": layer})
                _draw_curve(ax, part, layer, color, best=layer == best)
        row[0].set_ylabel(region, fontsize=9, fontweight="bold")
    for ax, (transform, side) in zip(axes[0], columns, strict=True):
        ax.set_title(
            f"{titles(curve.attrs)[transform].removeprefix('SoftStep, ')},\n{side} side", fontsize=9
        )
    figure.supxlabel("scaled similarity", fontsize=9)
    figure.supylabel("similarity after the step", fontsize=9)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    kept = [0, *range(1, len(labels), -(-len(layers) // MAX_NAMED))]
    note = "" if score is None else "\n(best: thick,\n80 % of anchors)"
    legend = figure.legend(
        [handles[i] for i in kept], [labels[i] for i in kept], loc="outside right upper",
        fontsize=8 if len(kept) <= MAX_WIDE else 7, frameon=False, title=f"layer{note}",
        title_fontsize=8,
    )  # fmt: skip
    for handle in legend.get_lines():
        handle.set_linewidth(1.5)
    return figure


def plot_curve(curve: xr.DataArray, *, ax: Axes | None = None) -> Axes:
    """Draw the learned step of one layer with one region over the identity, a line per side.

    Parameters
    ----------
    curve : DataArray, dims (anchor_quantile, similarity[, side][, fold])
        A part of the variable `curve` of `AlignmentResult.data`, such as
        ``result.data["curve"].sel(layer="conv5", region="IT", transform="instance")``; the mean
        over folds is drawn.
    ax : Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    Axes
        Lines are of the median anchor, the middle 80 % of anchors are shaded.

    Raises
    ------
    ShapeError
        If there are other dimensions: one layer, region and transform is drawn.

    Examples
    --------
    >>> grid = np.linspace(0, 1, 5)
    >>> curve = xr.DataArray(np.stack([grid**3, grid**2, grid]),
    ...     dims=("anchor_quantile", "similarity"), coords={"similarity": grid})
    >>> [line.get_label() for line in plot_curve(curve).lines]
    ['identity', 'learned']
    """
    dims = ("anchor_quantile", "similarity")
    check_drawn(curve, dims, "AlignmentResult.data['curve'].sel(...)", form=xr.DataArray)
    mean = curve.mean("fold") if "fold" in curve.dims else curve
    sides = mean["side"].values if "side" in mean.dims else [None]
    others = {*mean.dims} - {"anchor_quantile", "similarity", "side"}
    if others:
        raise ShapeError(
            f"One layer, region and transform is drawn; choose of {sorted(map(str, others))} with "
            "`.sel(...)`."
        )
    ax = panel(ax)
    _draw_identity(ax)
    for side, color in zip(sides, COLORS, strict=False):
        part = mean if side is None else mean.sel(side=side)
        _draw_curve(ax, part, "learned" if side is None else f"{side} side", color, best=True)
    ax.legend(fontsize=7, frameon=False)
    return name_axes(ax, "scaled similarity", "similarity after the step")


def _best(score: xr.DataArray) -> str | None:
    """Name the layer with the best mean over folds."""
    mean = score.mean("fold")
    return None if mean.isnull().all() else str(mean["layer"].values[int(mean.argmax("layer"))])


def _draw_identity(ax: Axes) -> None:
    ax.plot([0, 1], [0, 1], color="0.5", linestyle="--", linewidth=0.9, label="identity")
    ax.set_xlim(0, 1)
    ax.set_ylim(-0.02, 1.02)
    ax.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    ax.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
    ax.tick_params(labelsize=8)


def _draw_curve(ax: Axes, part: xr.DataArray, layer: str, color: str, *, best: bool) -> None:
    """Draw the median curve over anchors, and of the best layer the middle 80 % as a band."""
    x = part["similarity"].values
    low, middle, high = part.transpose("anchor_quantile", "similarity").values
    width, order = (2.0, 3) if best else (0.9, 2)
    ax.plot(x, middle, color=color, linewidth=width, zorder=order, label=layer)
    if best:
        ax.fill_between(x, low, high, color=color, alpha=0.25, linewidth=0, zorder=1)


def new_figure(height: float, *, width: float = WIDTH) -> Figure:
    """Give an empty figure, in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def panels(count: int, *, height: float = 2.6) -> tuple[Figure, list[Axes]]:
    """Give a figure with so many panels side by side."""
    figure = new_figure(height, width=min(1.4 * height * count, WIDTH))
    return figure, list(figure.subplots(1, count, squeeze=False)[0])


def panel(ax: Axes | None, *, height: float = 2.6) -> Axes:
    """Give the axes to draw into, or the panel of a new figure."""
    return panels(1, height=height)[1][0] if ax is None else ax


def name_axes(ax: Axes, x: str, y: str) -> Axes:
    """Label both axes."""
    ax.set_xlabel(x, fontsize=9)
    ax.set_ylabel(y, fontsize=9)
    ax.tick_params(labelsize=8)
    return ax


def name_places(
    ax: Axes, places: Sequence[int] | np.ndarray, names: Sequence[str], *, slanted: bool, size=8
) -> None:
    """Write names below places on the x axis, slanted where they would not fit side by side."""
    ax.set_xticks(
        places, names, fontsize=size, rotation=60 if slanted else 0,
        ha="right" if slanted else "center", rotation_mode="anchor" if slanted else "default",
    )  # fmt: skip


def color_bar(
    axes: Axes | list[Axes], image: ScalarMappable, label: str, *, shrink: float = 1.0
) -> None:
    """Draw a color bar beside axes."""
    figure: Any = (axes[0] if isinstance(axes, list) else axes).figure
    bar = figure.colorbar(image, ax=axes, shrink=shrink)
    bar.set_label(label, fontsize=9)
    bar.ax.tick_params(labelsize=8)


def scale(count: int) -> list[str]:
    """Take colors from dark to light, for things with an order."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(color) for color in colormaps["viridis"](np.linspace(0, 0.9, count))]


SHOWN = {
    "layer": "layer",
    "region": "region",
    "transform": "transform",
    "score": "score",
    "score_se": "± SE",
    "per_anchor_score": "per anchor",
    "balanced_score": "balanced",
    "identification": "identified",
    "rsa_score": "Pearson RSA",
    "baseline_score": "best fixed",
    "gain": "gain",
    "row_offset_share": "row offset",
    "ceiling_lower": "ceiling",
    "ceiling_upper": "to",
    "all_stimuli_score": "all stimuli",
    "chosen": "chosen",
}


def format_table(table: pd.DataFrame) -> str:
    """Lay out the main columns of an alignment's table, three decimals, for a terminal.

    Parameters
    ----------
    table : DataFrame
        `AlignmentResult.table`.

    Returns
    -------
    str
        One line per row, with a header.
    """
    named = SHOWN | ({"n_pairs": "pairs"} if table.attrs.get("pairs_missing") else {})
    if "sides" in table and table["sides"].isin(["model", "brain"]).any():
        named = named | {"sides": "steps of"}
    columns = [name for name in named if name in table.columns]
    shown = table[columns].dropna(axis="columns", how="all").rename(columns=named)
    return shown.to_string(index=False, float_format=lambda x: f"{x:.3f}", na_rep="-")


def format_best(table: pd.DataFrame) -> str:
    """Name the best layer of every region: of "selected" if it was asked for, else of all.

    Parameters
    ----------
    table : DataFrame
        `AlignmentResult.table`.

    Returns
    -------
    str
        One line per region, which says where no layer is above chance (`p_corrected` above .05);
        given a control, a line that says so before.
    """
    check_drawn(table, PROFILE, "AlignmentResult.table")
    chosen = table["transform"] == "selected"
    part = table[chosen] if chosen.any() else table
    held = json.loads(table.attrs.get("control", "[]"))
    lines = [f"Scores are partial correlations given {', '.join(held)}."] if held else []
    for region in dict.fromkeys(part["region"]):
        rows = part[part["region"] == region]
        if rows["score"].isna().all():
            lines.append(f"{region}: no layer has a score")
            continue
        lines.append(f"{region}: {_best_of(rows.loc[rows['score'].idxmax()])}")
    return "\n".join(lines)


def _best_of(best: pd.Series) -> str:
    """Say what the best row of a region is, and whether it is above chance."""
    said = [f"{best['transform']} {best['score']:.3f}"]
    fixed = best.get("baseline_score", np.nan)
    if pd.notna(fixed) and abs(fixed - best["score"]) > 5e-4:  # else it looks the same
        said.append(f"best fixed {fixed:.3f}")
    low, high = best["ceiling_lower"], best["ceiling_upper"]
    said.append(f"noise ceiling {low:.3f} to {high:.3f}" if pd.notna(low) else "no noise ceiling")
    p = best.get("p_corrected", np.nan)
    if pd.notna(p):
        said.append(f"corrected p {p:.2g}")
    is_above = not p > 0.05
    start = "best layer" if is_above else "no layer above chance; best"
    return f"{start} {best['layer']} ({', '.join(said)})"
