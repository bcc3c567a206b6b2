"""Figures of data optimized to a score; each draws into one panel and returns it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from softrsa.reports.figures import COLORS, MARKERS, check_drawn, name_axes, panel, scale

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_CURVES = 8  # components drawn one by one


def plot_scores(data: xr.Dataset, *, ax: Axes | None = None, color: str = COLORS[0]) -> Axes:
    """Draw scores over steps, a line per restart, and the target.

    Parameters
    ----------
    data : Dataset
        `SynthesisResult.data`.
    ax : Axes, optional
        Where to draw; a new figure by default.
    color : str
        Of the lines.

    Returns
    -------
    Axes
        With the measure's name as label of the first line.
    """
    names = ("scores", "steps_taken")
    check_drawn(data, names, "SynthesisResult.data", form=xr.Dataset)
    ax = panel(ax)
    scores, taken = data["scores"].values, data["steps_taken"].values
    for i, last in enumerate(taken):
        label = _words(data.attrs["measure"]) if i == 0 else None
        ax.plot(np.arange(last + 1), scores[: last + 1, i], color=color, linewidth=1.2, label=label)
        ax.plot(last, scores[last, i], color=color, marker="o", markersize=3.5)
    ax.axhline(data.attrs["target"], color="0.5", linestyle="--", linewidth=0.9)
    return name_axes(ax, "step", "score")


def plot_component_curves(components: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """Draw how much of each principal component is captured, against the score on the way.

    Parameters
    ----------
    components : Dataset
        From `softrsa.synthesis.captured_components`; the mean over restarts is drawn.
    ax : Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    Axes
        A line per component, dark for large variance; of many, some between first and last.
    """
    names = ("restart", "component", "explained", "score", "captured")
    check_drawn(components, names, "captured_components(...)", form=xr.Dataset)
    ax = panel(ax)
    mean = components.mean("restart")
    count = components.sizes["component"]
    chosen = np.unique(np.linspace(0, count - 1, min(count, MAX_CURVES)).round().astype(int))
    for i, color in zip(chosen, scale(len(chosen)), strict=True):
        part = mean.isel(component=i)
        label = f"{int(part['component'])} ({100 * float(part['explained']):.2g} %)"
        ax.plot(part["score"], part["captured"], color=color, linewidth=1.2, label=label)
    ax.set_ylim(-0.02, 1.02)
    ax.legend(
        title="component (variance)", fontsize=7, title_fontsize=7, frameon=False,
        loc="center left", bbox_to_anchor=(1, 0.5),
    )  # fmt: skip
    return name_axes(ax, f"{_words(components.attrs['measure'])} on the way", "component captured")


def plot_capture(
    components: xr.Dataset, *, ax: Axes | None = None, color: str = COLORS[0], marker: str = "o"
) -> Axes:
    """Draw the score at which each principal component is captured, against its variance.

    Parameters
    ----------
    components : Dataset
        From `softrsa.synthesis.captured_components`; the mean over restarts that captured it.
    ax : Axes, optional
        Where to draw; a new figure by default. Several measures can share one.
    color, marker : str
        Of the points.

    Returns
    -------
    Axes
        With the measure's name as label; components never captured are drawn open, on the upper
        edge.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    names = ("restart", "explained", "score_at_capture")
    check_drawn(components, names, "captured_components(...)", form=xr.Dataset)
    ax = panel(ax)
    at_capture = components["score_at_capture"]
    found = at_capture.notnull().any("restart").values
    values = at_capture.mean("restart").values
    explained = components["explained"].values
    ax.plot(
        explained[found], values[found], color=color, marker=marker, markersize=3.5, linewidth=0.8,
        label=_words(components.attrs["measure"]),
    )  # fmt: skip
    ax.plot(
        explained[~found], np.ones((~found).sum()), color=color, marker=marker, markersize=3.5,
        linewidth=0, markerfacecolor="white", clip_on=False, transform=ax.get_xaxis_transform(),
    )  # fmt: skip
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))  # where there is less than a decade
    ax.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    return name_axes(ax, "share of variance of the component", "score at capture")


def plot_feasible_region(region: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """Draw the pairs of scores that were reached, and what CKA allows NBS.

    Parameters
    ----------
    region : Dataset
        From `softrsa.synthesis.feasible_region`.
    ax : Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    Axes
        The region as the polygon through the points reached from the first seed, all points, thin
        lines to the targets, and for linear CKA and NBS the bounds, whatever the dimension of
        the synthetic features, as dashed lines.
    """
    names = ("seed", "score_a", "score_b", "target_a", "target_b")
    check_drawn(region, names, "feasible_region(...)", form=xr.Dataset)
    ax = panel(ax, height=3.4)
    for i in range(region.sizes["seed"]):
        part = region.isel(seed=i)
        a, b = part["score_a"].values, part["score_b"].values
        if i == 0:
            ax.fill(a, b, color=COLORS[0], alpha=0.2, linewidth=0)
        for line in zip(a, region["target_a"].values, b, region["target_b"].values, strict=True):
            ax.plot(line[:2], line[2:], color="0.8", linewidth=0.6, zorder=0)
        ax.plot(a, b, color=COLORS[0], marker="o", markersize=3, linewidth=0)
    if "lower" in region:
        _draw_bounds(ax, region)
    ax.set_xlim(-0.03, 1.03)
    ax.set_ylim(-0.03, 1.03)
    ax.set_aspect("equal")
    return name_axes(ax, _words(region.attrs["measure_a"]), _words(region.attrs["measure_b"]))


def _draw_bounds(ax: Axes, region: xr.Dataset) -> None:
    """Draw the widest bounds: one dimension above, as many as the smaller rank below."""
    rank, r_x = region.attrs["rank"], region.attrs["participation_x"]
    cka = np.linspace(0, 1, 200)
    lower = np.sqrt(cka / np.sqrt(r_x * rank))
    upper = np.minimum(np.sqrt(rank * cka / np.sqrt(r_x)), 1)
    for i, nbs in enumerate((lower, upper)):
        line = (cka, nbs) if region.attrs["measure_a"] == "linear_cka" else (nbs, cka)
        label = "bounds" if i == 0 else None
        ax.plot(*line, color=COLORS[1], linestyle="--", linewidth=1, label=label)
    ax.legend(fontsize=8, frameon=False, loc="lower right")


def plot_decoding(
    decoding: xr.Dataset,
    *,
    ax: Axes | None = None,
    color: str = COLORS[0],
    marker: str = MARKERS[0],
) -> Axes:
    """Draw how well labels are decoded, relative to ``x``, against the score on the way.

    Parameters
    ----------
    decoding : Dataset
        From `softrsa.synthesis.decode_along`.
    ax : Axes, optional
        Where to draw; a new figure by default. Several measures can share one.
    color, marker : str
        Of the lines, one per restart.

    Returns
    -------
    Axes
        Dashed at 1, the accuracy from ``x``; dotted at chance.
    """
    names = ("restart", "score", "relative", "chance", "reference")
    check_drawn(decoding, names, "decode_along(...)", form=xr.Dataset)
    ax = panel(ax)
    for i in range(decoding.sizes["restart"]):
        part = decoding.isel(restart=i)
        ax.plot(
            part["score"], part["relative"], color=color, marker=marker, markersize=3,
            linewidth=1.1, label=_words(decoding.attrs["measure"]) if i == 0 else None,
        )  # fmt: skip
    ax.axhline(1, color="0.5", linestyle="--", linewidth=0.9)
    chance = float(decoding["chance"] / decoding["reference"])
    ax.axhline(chance, color="0.5", linestyle=":", linewidth=0.9)
    return name_axes(ax, "score on the way", "accuracy relative to the data")


def _words(name: str) -> str:
    """Write a measure's name as words, its abbreviation in capitals."""
    words = [
        w.upper() if w in ("cka", "nbs", "cca", "svcca", "rbf") else w for w in name.split("_")
    ]
    return " ".join(words)
