"""Figures of prediction: which methods differ."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from softrsa.errors import ShapeError
from softrsa.reports.figures import COLORS, WIDTH, check_drawn, color_bar, name_axes, panel, panels

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure


def plot_critical_distance(
    mean_ranks: pd.Series, distance: float, *, ax: Axes | None = None
) -> Axes:
    """Draw mean ranks on a line, best to the left, and bars over methods that do not differ.

    Names are on both sides, the better half left; the critical distance is drawn above.
    """
    ranks = mean_ranks.sort_values()
    k = len(ranks)
    if ax is None:
        figure, (ax,) = panels(1)
        figure.set_size_inches(WIDTH, 1.4 + 0.15 * k)  # names stand on both sides of the axis
    ax.set_xlim(1 - 0.02 * k, k + 0.02 * k)
    half = -(-k // 2)
    groups = _groups(ranks.to_numpy(), distance)
    bottom = 1.2 + 0.35 * len(groups)
    for i, (name, rank) in enumerate(ranks.items()):
        left = i < half
        depth = bottom + (i if left else k - 1 - i)
        edge = 1 - 0.02 * k if left else k + 0.02 * k
        ax.plot([rank, rank, edge], [0, depth, depth], color="0.4", linewidth=0.9, clip_on=False)
        ax.text(
            edge, depth, f"{name} {rank:.2f} " if left else f" {rank:.2f} {name}", fontsize=8,
            ha="right" if left else "left", va="center",
        )  # fmt: skip
    for i, (first, last) in enumerate(groups):
        at = 0.6 + 0.35 * i
        ax.plot([first - 0.03, last + 0.03], [at, at], color="black", linewidth=3)
    ax.plot([1, 1 + distance], [-0.9, -0.9], color=COLORS[1], linewidth=2)
    ax.text(1, -1.1, f"critical distance {distance:.2f}", fontsize=8, va="bottom")
    ax.set_ylim(bottom + half + 0.3, -1.9)
    ax.spines[["left", "right", "bottom"]].set_visible(False)
    ax.spines["top"].set_position(("data", 0))
    ax.xaxis.set_ticks_position("top")
    ax.set_xticks(range(1, k + 1))
    ax.set_yticks([])
    ax.tick_params(labelsize=8)
    return ax


def _groups(ranks: np.ndarray, distance: float) -> list[tuple[float, float]]:
    """First and last rank of each largest run of ascending ranks within the distance."""
    found: list[tuple[float, float]] = []
    reached = -1
    for i, first in enumerate(ranks):
        last = int(np.flatnonzero(ranks - first <= distance)[-1])
        if last > i and last > reached:
            found.append((float(first), float(ranks[last])))
            reached = last
    return found


def plot_embedding(embedding: np.ndarray, labels: np.ndarray, *, ax: Axes | None = None) -> Axes:
    """Draw two principal components of an embedding (n, d), colored by labels (n,)."""
    ax = panel(ax)
    centered = embedding - embedding.mean(0)
    left, values, _ = np.linalg.svd(centered, full_matrices=False)
    scores, share = np.zeros((len(centered), 2)), np.zeros(2)
    scores[:, : values[:2].size] = (left * values)[:, :2]
    share[: values[:2].size] = values[:2] ** 2 / (values**2).sum()
    points = ax.scatter(*scores.T, c=labels, s=8, cmap="viridis", linewidths=0)
    color_bar(ax, points, "label")
    x, y = (f"component ({part:.0%} of variance)" for part in share)
    return name_axes(ax, f"first {x}", f"second {y}")


def plot_neighbors(
    weights: np.ndarray,
    labels: np.ndarray,
    *,
    names: Sequence[str] | None = None,
    images: Sequence[np.ndarray] | None = None,
    truth: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw which neighbors made a prediction: their labels, and how much each of them counts.

    Parameters
    ----------
    weights : ndarray, shape (n_neighbors,)
        Weights of the neighbors of one sample, by falling weight, as
        `softrsa.prediction.NeighborRegressor.neighbors` gives them (``weights[0]``).
    labels : ndarray, shape (n_neighbors,)
        Their labels (``y_train[indices[0]]``).
    names : sequence of str, optional
        What to call them, beside the bars.
    images : sequence of ndarray, shape (height, width[, 3]), optional
        Their pictures, drawn left of the bars.
    truth : float, optional
        The sample's own label, a dotted line.
    ax : Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    Axes
        A row per neighbor, the one that counts most on top: a dot at its label, whose area is its
        weight, and the weight in numbers. A dashed line is the weighted mean of the labels shown.

    Raises
    ------
    ShapeError
        If there are not as many labels, names and images as weights.

    Examples
    --------
    >>> ax = plot_neighbors(np.array([0.7, 0.2]), np.array([3.0, 5.0]))
    >>> [text.get_text() for text in ax.texts]
    ['70 %', '20 %']
    """
    weights, labels = np.asarray(weights, float), np.asarray(labels, float)
    for what, given in (("labels", labels), ("names", names), ("images", images)):
        if given is not None and (len(given) != len(weights) or weights.ndim != 1):
            raise ShapeError(
                f"`{what}` must have one entry per weight of one sample; got {len(given)} and "
                f"weights of shape {weights.shape}."
            )
    ax = panel(ax)
    rows = np.arange(len(weights))
    ax.hlines(rows, *_reach_of(labels), color="0.9", linewidth=0.8, zorder=0)
    ax.scatter(labels, rows, s=20 + 250 * weights, color=COLORS[0], linewidths=0)
    for row, weight in zip(rows, weights, strict=True):
        ax.annotate(
            f"{weight:.0%}".replace("%", " %"), (1.02, row), xycoords=("axes fraction", "data"),
            fontsize=8, va="center",
        )  # fmt: skip
    mean = float(weights @ labels / weights.sum())
    ax.axvline(mean, color=COLORS[1], linestyle="--", linewidth=1.2, label="weighted mean")
    if truth is not None:
        ax.axvline(truth, color="black", linestyle=":", linewidth=1.2, label="truth")
    ax.set_ylim(len(weights) - 0.5, -0.5)
    ax.set_yticks(rows if names is not None else [], names if names is not None else [], fontsize=8)
    for row, image in zip(rows, images if images is not None else (), strict=False):
        size = 0.9 / len(weights)
        inset = ax.inset_axes((-0.05 - size, 1 - (row + 0.95) / len(weights), size, size))
        inset.imshow(np.asarray(image), cmap="gray")
        inset.set_anchor("E")
        inset.set_axis_off()
    name_axes(ax, "label of the neighbor", "")
    ax.legend(
        fontsize=7, frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2,
        borderaxespad=0.1,
    )  # fmt: skip
    return ax


def _reach_of(labels: np.ndarray) -> tuple[float, float]:
    """From below the least label to above the largest."""
    room = 0.08 * (np.ptp(labels) or 1.0)
    return float(labels.min() - room), float(labels.max() + room)


def plot_errors(table: pd.DataFrame) -> Figure:
    """Draw mean errors with their standard deviations over splits, a panel per task.

    Methods are in the order of `ExperimentResult.table`, top to bottom; a line is at the linear
    head's error.
    """
    check_drawn(table, ("task", "method", "mean", "sd"), "ExperimentResult.table")
    tasks = list(dict.fromkeys(table["task"]))
    figure, axes = panels(len(tasks))
    for ax, task in zip(axes, tasks, strict=True):
        part = table[table["task"] == task].set_index("method")
        places = np.arange(len(part))[::-1]
        ax.errorbar(
            part["mean"], places, xerr=part["sd"].fillna(0.0), fmt="o", color=COLORS[0],
            markersize=4, linewidth=1.2,
        )  # fmt: skip
        if "linear" in part.index:
            ax.axvline(part["mean"]["linear"], color="0.6", linestyle="--", linewidth=0.9)
        ax.set_yticks(places, part.index if ax is axes[0] else [""] * len(part), fontsize=8)
        ax.set_title(task, fontsize=9)
        ax.tick_params(axis="x", labelsize=8)
        ax.set_xlim(left=0)
    figure.supxlabel("mean squared error × 1000", fontsize=8)
    return figure


def plot_search(table: pd.DataFrame) -> Figure:
    """Draw validation errors of a search as heat maps of embedding and batch size.

    A panel per similarity, on one scale of colors, with the errors in numbers; the best
    combination, first in `SearchResult.table`, is framed.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    columns = ("similarity", "embedding", "batch_size", "validation")
    check_drawn(table, columns, "SearchResult.table")
    similarities = sorted(table["similarity"].unique())
    colors = Normalize(table["validation"].min(), table["validation"].max())
    figure, axes = panels(len(similarities))
    for ax, similarity in zip(axes, similarities, strict=True):
        _draw_errors(ax, table, similarity, colors)
        ax.tick_params(labelsize=8, labelleft=ax is axes[0])
    color_bar(axes, ScalarMappable(colors, "viridis"), "validation error × 1000")
    figure.supxlabel("batch size", fontsize=9)
    figure.supylabel("embedding", fontsize=9)
    return figure


def _draw_errors(ax: Axes, table: pd.DataFrame, similarity: str, colors: Normalize) -> None:
    """Draw one heat map, with a frame around the best combination if it is in it."""
    from matplotlib.patches import Rectangle

    embeddings, batches = (np.unique(table[name]) for name in ("embedding", "batch_size"))
    part = table[table["similarity"] == similarity]
    errors = part.pivot_table(index="embedding", columns="batch_size", values="validation")
    errors = errors.reindex(index=embeddings, columns=batches).to_numpy()
    ax.imshow(errors, norm=colors, cmap="viridis", aspect="auto")
    for (i, j), error in np.ndenumerate(errors):
        shade = "white" if colors(error) < 0.5 else "black"
        ax.text(j, i, f"{error:.3g}", fontsize=7, ha="center", va="center", color=shade)
    ax.set_xticks(range(len(batches)), [str(size) for size in batches])
    ax.set_yticks(range(len(embeddings)), [str(size) for size in embeddings])
    ax.set_title(similarity, fontsize=9)
    best = table.iloc[0]
    if best["similarity"] == similarity:
        x = np.flatnonzero(batches == best["batch_size"])[0] - 0.5
        y = np.flatnonzero(embeddings == best["embedding"])[0] - 0.5
        frame = Rectangle((x, y), 1, 1, fill=False, edgecolor=COLORS[1], linewidth=2.5)
        ax.add_patch(frame).set_clip_on(False)
