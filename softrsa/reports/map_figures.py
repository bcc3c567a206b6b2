"""Figures of maps over voxels and vertices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from softrsa._wording import counted
from softrsa.errors import DataError
from softrsa.reports.figures import WIDTH, color_bar, name_axes, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEVEL = 0.05
MAX_ROWS = 12
VIEWS = ((0, 1), (0, 2), (1, 2))  # axes across and up: from above, from behind, from the side
MAP = "viridis"


def plot_maps(scores: xr.DataArray, p: xr.DataArray, *, mesh: Any = None) -> Figure:
    """Draw maps of scores, a row per model.

    Parameters
    ----------
    scores : DataArray, dims (model, unit)
        Scores of voxels with `x`, `y`, `z` in mm, or of vertices with ``mesh``.
    p : DataArray, dims (model, unit)
        Corrected p, of which those below .05 are marked; NaN where nothing was tested.
    mesh : Mesh, or mapping from hemispheres to meshes, optional
        The surface of vertices.

    Returns
    -------
    Figure
        Of voxels the largest score along each axis of mm; of vertices two views of each hemisphere.

    Examples
    --------
    >>> coords = {axis: ("unit", [0.0, 3.0]) for axis in "xyz"}
    >>> maps = xr.DataArray([[0.1, 0.4]], coords | {"model": ["fc"]}, ("model", "unit"))
    >>> len(plot_maps(maps, maps * np.nan).axes)
    4
    """
    names = [*map(str, scores["model"].values)]
    if len(names) > MAX_ROWS:
        raise DataError(
            f"A figure holds {MAX_ROWS} maps, got {len(names)}: take some, e.g. those of the table "
            "with the largest scores."
        )
    views = _surface(scores, mesh) if "vertex" in scores.coords else _volume(scores)
    finite = scores.values[np.isfinite(scores.values)]
    if not len(finite):
        raise DataError("No center has a score: there is nothing to draw.")
    limits = float(finite.min()), float(finite.max())
    width = min(2.4 * len(views) + 1.4, WIDTH)
    figure = new_figure(min(1.9 * len(names) + 0.5, 20.0), width=width)
    axes = figure.subplots(len(names), len(views), squeeze=False)
    drawn: Any = None
    for row, name in enumerate(names):
        below = p.values[row] < LEVEL
        for ax, (title, project) in zip(axes[row], views.items(), strict=True):
            drawn = _draw(ax, project, scores.values[row], below, limits)
            if row == 0:
                ax.set_title(title, fontsize=9)
        axes[row][0].set_ylabel(f"{name}\n{axes[row][0].get_ylabel()}", fontsize=9)
    color_bar([*axes.ravel()], drawn, "score")
    return figure


class _Projection:
    """Places of units on paper, those with the same place drawn as one, the largest on top."""

    def __init__(
        self, places: np.ndarray, labels: tuple[str, str], *, steps: Any = None, front: Any = None
    ):
        self.places, self.labels, self.steps = places, labels, steps
        self.front = np.ones(len(places), dtype=bool) if front is None else front


def _volume(scores: xr.DataArray) -> dict[str, _Projection]:
    """See voxels along each axis that has more than one place."""
    lost = [axis for axis in "xyz" if axis not in scores.coords]
    if lost:
        raise DataError("Maps are drawn where voxels lie: `x`, `y`, `z` on `unit` are missing.")
    places = np.stack([scores[axis].values for axis in "xyz"], axis=1)
    extent = np.ptp(places, axis=0)
    found = {}
    titles = ("from above", "from behind", "from the side")
    for title, (across, up) in zip(titles, VIEWS, strict=True):
        if not extent[across] or not extent[up]:
            continue
        labels = tuple(f"{'xyz'[axis]} (mm)" for axis in (across, up))
        own = places[:, [across, up]]
        found[title] = _Projection(own, labels, steps=_steps(own))  # type: ignore[arg-type]
    if not found:
        raise DataError(
            f"{counted(len(places), 'voxel')} on a line cannot be drawn as a map: see "
            "`SearchlightResult.table`."
        )
    return found


def _steps(places: np.ndarray) -> np.ndarray | None:
    """Distances between neighboring places along both axes, if all lie on such a grid."""
    gaps = [np.diff(np.unique(np.round(row, 3))) for row in places.T]
    steps = np.array([gap.min() for gap in gaps])
    cells = (places - places.min(0)) / steps
    aligned = np.abs(cells - np.rint(cells)).max() < 0.01
    return steps if aligned and (steps > steps.max() / 20).all() else None


def _surface(scores: xr.DataArray, mesh: Any) -> dict[str, _Projection]:
    """Each hemisphere from outside and from inside."""
    if mesh is None:
        raise DataError(
            "Maps of vertices are drawn on a surface: give the mesh, `plot(mesh=...)`, as "
            "`softrsa.io.read_mesh` reads it."
        )
    sides = scores["hemisphere"].values.astype(str) if "hemisphere" in scores.coords else None
    names = [""] if sides is None else [*dict.fromkeys(sides)]
    found = {}
    for name in names:
        own = np.ones(scores.sizes["unit"], bool) if sides is None else sides == name
        part = mesh[name] if isinstance(mesh, Mapping) else mesh
        points = np.asarray(part[0], float)
        normals = _normals(points, np.asarray(part[1]))
        places = np.full((scores.sizes["unit"], 3), np.nan)
        facing = np.zeros(scores.sizes["unit"])
        vertices = scores["vertex"].values[own]
        places[own], facing[own] = points[vertices], normals[vertices, 0]
        outward = 1.0 if name == "right" else -1.0  # x grows to the right
        for title, sign in (("outside", outward), ("inside", -outward)):
            view = places[:, [1, 2]] * [-sign if name != "right" else sign, 1]
            label = f"{name} {title}".strip()
            found[label] = _Projection(view, ("", ""), front=own & (facing * sign > 0))
    return found


def _normals(points: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Directions (n_vertices, 3) in which vertices face, outward of a closed surface."""
    corners = points[faces]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    found = np.zeros_like(points)
    for corner in range(3):
        np.add.at(found, faces[:, corner], normal)
    outward = ((points - points.mean(0)) * found).sum() >= 0
    return found if outward else -found


def _draw(
    ax: Axes, view: _Projection, scores: np.ndarray, below: np.ndarray, limits: tuple[float, float]
) -> Any:
    """Draw one view: each place in the color of its largest score."""
    shown = np.flatnonzero(view.front & np.isfinite(scores))
    order = shown[np.argsort(scores[shown], kind="stable")]  # the largest comes last, on top
    how = {"cmap": MAP, "vmin": limits[0], "vmax": limits[1]}
    if view.steps is not None:
        drawn = _lattice(ax, view, scores, order, how)
    else:
        x, y = view.places[order].T
        drawn = ax.scatter(x, y, c=scores[order], s=4, marker=".", linewidths=0, **how)
    marked = np.flatnonzero(view.front & below)
    ax.scatter(*view.places[marked].T, s=2, c="black", linewidths=0)
    ax.set_aspect("equal")
    name_axes(ax, *view.labels)
    if not view.labels[0]:
        ax.set_xticks([])
        ax.set_yticks([])
    return drawn


def _lattice(ax: Axes, view: _Projection, scores: np.ndarray, order: np.ndarray, how: Any) -> Any:
    """Draw places on a grid without gaps between them."""
    low, steps = view.places.min(0), np.asarray(view.steps)
    cells = np.rint((view.places - low) / steps).astype(int)
    across, up = cells.max(0) + 1
    picture = np.full((up, across), np.nan)
    picture[cells[order, 1], cells[order, 0]] = scores[order]
    left, bottom = low - steps / 2
    extent = (left, left + across * steps[0], bottom, bottom + up * steps[1])
    return ax.imshow(picture, origin="lower", extent=extent, interpolation="nearest", **how)
