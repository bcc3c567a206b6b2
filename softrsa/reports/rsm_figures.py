"""Figures of RSMs: one as a picture, and which of many lie together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
import xarray as xr

from softrsa._wording import listed
from softrsa.errors import DataError, DTypeError, ShapeError, unknown_name
from softrsa.io import check_rdms
from softrsa.measures import get
from softrsa.reports.figures import COLORS, MARKERS, color_bar, new_figure, panel
from softrsa.rsm import to_rsm

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Order = Literal["category", "cluster"]
MAX_IMAGES = 24  # along a margin: more would be specks
CLUSTERED = 1000  # stimuli beyond which the best order of leaves takes minutes


def plot_rsm(
    matrix: xr.DataArray | np.ndarray,
    *,
    order: Order | None = None,
    categories: Mapping | Sequence | None = None,
    images: Mapping | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw one RSM or RDM; self-similarities are left white and do not set the colors.

    Parameters
    ----------
    matrix : DataArray, dims (anchor, neighbor), or array, shape (n_stimuli, n_stimuli)
        Similarities or dissimilarities.
    order : {"category", "cluster"}, optional
        Put stimuli of one category together, or those that average linkage joins, in the order of
        leaves in which neighbors are most alike. As given by default.
    categories : mapping from stimulus id, or sequence of n_stimuli, optional
        Category of each stimulus, written in the margin where stimuli of one lie together.
    images : mapping from stimulus id to array, shape (height, width[, 3]), optional
        Pictures of the stimuli, drawn in both margins; every so many where there are many.
    ax : Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    Axes
        With a color bar that says whether similarity or dissimilarity is shown.

    Raises
    ------
    ShapeError, DataError, StimulusError, DTypeError
        If ``matrix`` is not one square matrix, or a stimulus has no category.
    UnknownNameError
        If there is no such order.

    Examples
    --------
    >>> rdm = np.array([[0, 1, 4], [1, 0, 2], [4, 2, 0]]) / 4
    >>> ax = plot_rsm(rdm, categories=["face", "face", "house"])
    >>> [text.get_text() for text in ax.get_yticklabels()]
    ['face', 'house']
    """
    values, ids, kind = _one_matrix(matrix)
    names = None if categories is None else _names_of(categories, ids)
    if order not in (None, "category", "cluster"):
        raise unknown_name("order", order, ("category", "cluster"))
    if order == "category":
        if names is None:
            raise DataError('order="category" needs `categories`: the category of each stimulus.')
        places = np.argsort([list(dict.fromkeys(names)).index(n) for n in names], kind="stable")
    else:
        places = cluster_order(values) if order == "cluster" else np.arange(len(ids))
    if ax is None:  # a square and its color bar, and room for names
        ax = new_figure(3.0, width=3.7 if names is None else 4.4).subplots()
    shown = np.where(np.eye(len(ids), dtype=bool), np.nan, values)[np.ix_(places, places)]
    image = ax.imshow(shown, cmap="viridis", interpolation="nearest")
    word = {"rdm": "dissimilarity", "rsm": "similarity", "": "value"}[kind]
    color_bar(ax, image, word, shrink=0.9)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_anchor("W")  # else the layout forgets the names left of a square in a wide box
    if names is not None:
        _mark_categories(ax, [names[i] for i in places])
    elif images is None:
        ax.set_xlabel(f"{len(ids)} stimuli", fontsize=9)
    if images is not None:
        _draw_images(ax, [images.get(ids[i]) for i in places], left=names is None)
    return ax


def cluster_order(values: np.ndarray) -> np.ndarray:
    """Order stimuli (n,) so that alike ones lie together, whichever of RSM and RDM is given.

    Average linkage of Euclidean distances between rows, leaves turned so that neighbors are most
    alike (not turned above 1000 stimuli).
    """
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import pdist

    if len(values) < 3 or not np.isfinite(values).all():
        return np.arange(len(values))
    profiles = (values + values.T) / 2
    tree = linkage(pdist(profiles), "average", optimal_ordering=len(values) <= CLUSTERED)
    return leaves_list(tree)


def _one_matrix(matrix: xr.DataArray | np.ndarray) -> tuple[np.ndarray, list, str]:
    """Values, stimulus ids and kind of a labelled or plain matrix."""
    if isinstance(matrix, xr.DataArray):
        extra = {str(d): matrix.sizes[d] for d in matrix.dims if d not in ("anchor", "neighbor")}
        if any(size > 1 for size in extra.values()):
            raise ShapeError(
                f"One matrix is drawn, got a stack by {listed(sorted(extra))}: take one with "
                "`.sel(...)`, or the mean over them."
            )
        checked = check_rdms(matrix.squeeze([*extra], drop=True), name="matrix")
        return checked.values, checked["anchor"].values.tolist(), checked.attrs["kind"]
    values = np.asarray(matrix)
    if values.dtype.kind not in "fiub":
        raise DTypeError(
            f"`matrix` must be an array of numbers or a DataArray, got {type(matrix).__name__}."
        )
    if values.ndim != 2 or values.shape[0] != values.shape[1] or not values.size:
        raise ShapeError(f"`matrix` must be square and not empty, got shape {values.shape}.")
    diagonal = np.diagonal(values)
    kind = "rdm" if (diagonal == 0).all() else "rsm" if np.allclose(diagonal, 1) else ""
    return values, list(range(len(values))), kind


def _names_of(categories: Mapping | Sequence, ids: Sequence) -> list[str]:
    """Category of each stimulus, as text."""
    if isinstance(categories, Mapping):
        missing = [i for i in ids if i not in categories]
        if missing:
            raise DataError(f"`categories` has none for the stimuli {listed(missing)}.")
        return [str(categories[i]) for i in ids]
    if len(categories) != len(ids):
        raise ShapeError(
            f"`categories` must have one entry per stimulus: {len(ids)}, got {len(categories)}."
        )
    return [str(name) for name in categories]


def _mark_categories(ax: Axes, names: Sequence[str]) -> None:
    """Write the name of every run of one category beside it, with lines between runs."""
    starts = [i for i, name in enumerate(names) if not i or name != names[i - 1]]
    ends = [*starts[1:], len(names)]
    for start in starts[1:]:
        ax.axhline(start - 0.5, color="white", linewidth=0.8)
        ax.axvline(start - 0.5, color="white", linewidth=0.8)
    middles = [(a + b - 1) / 2 for a, b in zip(starts, ends, strict=True)]
    ax.set_yticks(middles, [names[i] for i in starts], fontsize=8)
    ax.tick_params(length=0)


def _draw_images(ax: Axes, images: Sequence[np.ndarray | None], *, left: bool) -> None:
    """Draw pictures below the matrix, and left of it where no names are."""
    n = len(images)
    step = -(-n // MAX_IMAGES)
    size = step / n  # of the axes
    for place in range(0, n, step):
        picture = images[place]
        if picture is None:
            continue
        at = place / n
        boxes = [(at, -1.15 * size, size, size)]
        boxes += [(-1.15 * size, 1 - at - size, size, size)] if left else []
        for box in boxes:
            inset = ax.inset_axes(box)
            inset.imshow(np.asarray(picture), cmap="gray", aspect="auto")
            inset.set_axis_off()


def plot_mds(
    rsms: Mapping[str, xr.DataArray],
    *,
    measure: str = "pearson",
    labels: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Draw RSMs as points, near each other where the measure finds them alike.

    Parameters
    ----------
    rsms : mapping from name to DataArray, dims (..., anchor, neighbor)
        RSMs or RDMs of the same stimuli. Each entry has a color and marker of its own and gives a
        point per label of its leading dimensions, joined by a line in their order where they are
        layers.
    measure : str
        A name of `softrsa.measures.available` of RSMs; distances are 1 minus it.
    labels : bool
        Write the name of every point beside it; where there are many they hide each other.
    ax : Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    Axes
        Classical scaling to two dimensions; the title says how much of the sum of squared
        distances these show.

    Raises
    ------
    DataError
        If there are fewer than three RSMs, or some cannot be compared.
    StimulusError, ShapeError, DTypeError, UnknownNameError
        If stimuli differ, or an entry is no stack of RSMs.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> ids = {"anchor": list("abcdef"), "neighbor": list("abcdef"), "layer": ["1", "2", "3"]}
    >>> x = rng.normal(size=(3, 6, 6))
    >>> layers = xr.DataArray(np.eye(6) + (x + x.mT) * (1 - np.eye(6)),
    ...     dims=("layer", "anchor", "neighbor"), coords=ids, attrs={"kind": "rsm"})
    >>> [text.get_text() for text in plot_mds({"model": layers}).texts]
    ['1', '2', '3']
    """
    if not isinstance(rsms, Mapping):
        raise DTypeError(
            f"`rsms` must be a mapping from names to RSMs, got {type(rsms).__name__}; use "
            "{'model': rsms}."
        )
    groups, names, stack = _points(rsms)
    entry = get(measure)
    values = torch.from_numpy(np.stack(stack)).double()
    alike = entry.between(values[:, None], values[None]).numpy()
    if not np.isfinite(alike).all():
        bad = [names[i] for i in np.flatnonzero(~np.isfinite(alike).all(1))]
        raise DataError(f"{measure!r} is undefined for {listed(bad)}: an RSM is constant.")
    distances = 1 - alike if entry.larger_is_more_similar else alike
    at, share = _classical_scaling(distances)
    ax = panel(ax, height=3.2)
    for i, group in enumerate(dict.fromkeys(groups)):
        members = [k for k, name in enumerate(groups) if name == group]
        joined = "layer" in rsms[group].dims
        ax.plot(
            *at[members].T, color=COLORS[i % len(COLORS)], marker=MARKERS[i % len(MARKERS)],
            markersize=5, linestyle="none", label=group,
        )  # fmt: skip
        if joined:
            ax.plot(*at[members].T, color=COLORS[i % len(COLORS)], linewidth=0.8, alpha=0.4)
    for name, place in zip(names, at, strict=True) if labels else ():
        ax.annotate(name, place, xytext=(4, 3), textcoords="offset points", fontsize=7)
    ax.set_aspect("equal", adjustable="datalim")
    ax.margins(0.15)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_title(f"1 − {measure.replace('_', ' ')}: {share:.0%} shown", fontsize=9)
    if len(rsms) > 1:
        ax.legend(fontsize=7, frameon=False)
    return ax


def _points(rsms: Mapping[str, xr.DataArray]) -> tuple[list[str], list[str], list[np.ndarray]]:
    """Group, name and values of every RSM, in the stimulus order of the first."""
    groups, names, values = [], [], []
    first = None
    for group, array in rsms.items():
        stack = to_rsm(array)
        first = stack if first is None else first
        ids = first["anchor"].values
        if not stack.indexes["anchor"].sort_values().equals(first.indexes["anchor"].sort_values()):
            raise DataError(
                f"All RSMs must be of the same stimuli; {group!r} has "
                f"{stack.sizes['anchor']}, the first {len(ids)} (or others of that number)."
            )
        stack = stack.sel(anchor=ids, neighbor=ids)
        leading = [str(dim) for dim in stack.dims[:-2]]
        for place in np.ndindex(*stack.shape[:-2]):
            one = stack.values[place]
            if np.isnan(one).all():
                continue  # not recorded
            labels = [
                str(stack[dim].values[i]) if dim in stack.coords else f"{dim} {i}"
                for dim, i in zip(leading, place, strict=True)
            ]
            groups.append(group)
            names.append(", ".join(labels) or group)
            values.append(one)
    if len(values) < 3:
        raise DataError(f"A map needs at least 3 RSMs, got {len(values)}.")
    return groups, names, values


def _classical_scaling(distances: np.ndarray) -> tuple[np.ndarray, float]:
    """Points (n, 2) whose distances are nearest, and the share of squared distances they show."""
    n = len(distances)
    centering = np.eye(n) - 1 / n
    squares = np.square((distances + distances.T) / 2 * (1 - np.eye(n)))
    values, vectors = np.linalg.eigh(-centering @ squares @ centering / 2)
    kept = values[::-1][:2].clip(min=0)
    share = kept.sum() / values.clip(min=0).sum()
    return vectors[:, ::-1][:, :2] * np.sqrt(kept), float(share)
