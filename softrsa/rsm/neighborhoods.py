"""Which units lie around each unit: spheres in mm, disks on surfaces, and what touches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import xarray as xr

from softrsa._wording import counted, listed
from softrsa.errors import DataError, ShapeError

PLACES = ("x", "y", "z")
ROW_BYTES = 64 * 2**20  # of distances to all vertices that are held at a time


def spheres(units: xr.DataArray, radius: float) -> list[np.ndarray]:
    """Units within a distance of each unit, itself among them.

    Parameters
    ----------
    units : DataArray with a dimension `unit`
        Units with their places `x`, `y`, `z`, as `softrsa.io.from_nifti` gives them in mm.
    radius : float
        In the same unit; a unit at this distance is inside.

    Returns
    -------
    list of array of int
        Positions of the neighbors of each unit, in increasing order, for
        `softrsa.rsm.searchlight`.

    Raises
    ------
    DataError
        If units have no places, or the radius is not positive.

    Examples
    --------
    >>> line = xr.DataArray(
    ...     np.zeros((2, 3)), dims=("stimulus", "unit"),
    ...     coords={"x": ("unit", [0.0, 2.0, 4.0]), "y": ("unit", [0.0] * 3),
    ...             "z": ("unit", [0.0] * 3)},
    ... )
    >>> [own.tolist() for own in spheres(line, 2.0)]
    [[0, 1], [0, 1, 2], [1, 2]]
    """
    from scipy.spatial import cKDTree

    if not radius > 0:
        raise DataError(f"`radius` must be a positive number, got {radius!r}.")
    lost = [axis for axis in PLACES if axis not in units.coords]
    if lost:
        raise DataError(
            f"Spheres need the places of units: the coordinates {listed(lost)} on `unit` are "
            "missing. `softrsa.io.from_nifti` gives them in mm; on a surface use `disks`."
        )
    places = np.stack([np.asarray(units[axis].values, float) for axis in PLACES], axis=1)
    tree: Any = cKDTree(places)
    reach = radius * (1 + 1e-9)  # rounding of places leaves nobody out
    found = tree.query_ball_point(places, reach, return_sorted=True)
    return [np.asarray(own, dtype=np.int64) for own in found]


def disks(
    units: xr.DataArray,
    mesh: Any,
    *,
    radius: float | None = None,
    rings: int | None = None,
) -> list[np.ndarray]:
    """Vertices within a distance along the surface of each vertex, or so many edges away.

    Parameters
    ----------
    units : DataArray with a dimension `unit`
        Units with `vertex`, and `hemisphere` where there are two, as `softrsa.io.from_gifti` gives
        them.
    mesh : Mesh, or mapping from hemispheres to meshes
        `coordinates` (n_vertices, 3) and `faces` (n_faces, 3): see `softrsa.io.read_mesh`.
    radius : float, optional
        In mm along edges, a little longer than along the surface itself.
    rings : int, optional
        Edges, in place of a radius.

    Returns
    -------
    list of array of int
        Positions of the neighbors of each unit among the units, in increasing order. Paths may lead
        through vertices that are no units.

    Raises
    ------
    DataError
        If units have no vertices, not one of radius and rings is given, or a mesh has not the
        vertices of the units.

    Examples
    --------
    >>> units = xr.DataArray(np.zeros((2, 3)), dims=("stimulus", "unit"),
    ...                      coords={"vertex": ("unit", [0, 1, 3])})
    >>> square = ([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], [[0, 1, 2], [0, 2, 3]])
    >>> [own.tolist() for own in disks(units, square, rings=1)]
    [[0, 1, 2], [0, 1], [0, 2]]
    """
    if (radius is None) == (rings is None):
        raise DataError(f"Give `radius` or `rings`, one of them, got {radius=}, {rings=}.")
    size: Any = rings if radius is None else radius
    if not size > 0:
        raise DataError(f"`radius` and `rings` must be positive, got {size!r}.")
    found: list[np.ndarray] = [np.empty(0, np.int64)] * units.sizes["unit"]
    for own, vertices, graph in _graphs(units, mesh):
        place = np.full(graph.shape[0], -1)
        place[vertices] = own
        for center, near in zip(own, _within(graph, vertices, radius, rings), strict=True):
            known = place[near]
            found[center] = np.sort(known[known >= 0])
    return found


def touching(units: xr.DataArray, mesh: Any = None) -> Any:
    """Tell which units touch: voxels that share a face, or vertices that share an edge.

    Parameters
    ----------
    units : DataArray with a dimension `unit`
        Voxels with `i`, `j`, `k`; or vertices, with ``mesh``.
    mesh : Mesh, or mapping from hemispheres to meshes, optional
        As in `disks`.

    Returns
    -------
    scipy.sparse.coo_array, shape (n_units, n_units)
        Symmetric, for the ``adjacency`` of `softrsa.inference.cluster_test`.

    Raises
    ------
    DataError
        If units have neither indices nor vertices with a mesh.

    Examples
    --------
    >>> units = xr.DataArray([0.0, 0.0], dims="unit",
    ...                      coords={axis: ("unit", [0, int(axis == "i")]) for axis in "ijk"})
    >>> touching(units).toarray().astype(int)
    array([[0, 1],
           [1, 0]])
    """
    from scipy.sparse import coo_array

    n = units.sizes["unit"]
    rows: list[np.ndarray] = []
    columns: list[np.ndarray] = []
    if mesh is not None:
        for own, vertices, graph in _graphs(units, mesh):
            part = graph[vertices][:, vertices].tocoo()
            rows.append(own[part.row])
            columns.append(own[part.col])
    else:
        first, second = _faces_shared(units)
        rows, columns = [first, second], [second, first]
    at = np.concatenate(rows), np.concatenate(columns)
    whole: Any = coo_array
    return whole((np.ones(len(at[0]), dtype=bool), at), shape=(n, n))


def _faces_shared(units: xr.DataArray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of voxels one step apart along one axis."""
    from scipy.spatial import cKDTree

    lost = [axis for axis in "ijk" if axis not in units.coords]
    if lost:
        raise DataError(
            f"Which units touch is not known: they have no {listed(lost)}, the indices of voxels. "
            "Of vertices, give the mesh."
        )
    indices = np.stack([units[axis].values for axis in "ijk"], axis=1).astype(float)
    tree: Any = cKDTree(indices)
    pairs = tree.query_pairs(1.01, output_type="ndarray")
    return pairs[:, 0], pairs[:, 1]


def _graphs(units: xr.DataArray, mesh: Any) -> Iterator[tuple[np.ndarray, np.ndarray, Any]]:
    """Of each hemisphere: positions of its units, their vertices, and the graph of edges in mm."""
    if "vertex" not in units.coords:
        raise DataError(
            "A surface needs the coordinate `vertex` on `unit`, as `softrsa.io.from_gifti` gives "
            "it."
        )
    sides = units["hemisphere"].values if "hemisphere" in units.coords else None
    names = [] if sides is None else [*dict.fromkeys(map(str, sides))]
    if not isinstance(mesh, Mapping):
        if len(names) > 1:
            raise DataError(
                f"Units are of {listed(names)}: give a mesh for each, as a mapping from "
                "hemispheres."
            )
        mesh = {names[0] if names else "": mesh}
    lost = [name for name in names or [""] if name not in mesh]
    if lost:
        raise DataError(f"There is no mesh for {listed(lost)}; there are {listed(mesh)}.")
    for name in names or [""]:
        own = np.arange(units.sizes["unit"]) if sides is None else np.flatnonzero(sides == name)
        vertices = units["vertex"].values[own].astype(np.int64)
        graph = _edges(mesh[name])
        if vertices.max() >= graph.shape[0]:
            raise DataError(
                f"Vertices run to {vertices.max()}, and the mesh {name!r} has "
                f"{counted(graph.shape[0], 'vertex', 'vertices')}. Give the mesh that the data lie "
                "on."
            )
        if len(np.unique(vertices)) < len(vertices):
            raise DataError("Vertices are there more than once: take one region at a time.")
        yield own, vertices, graph


def _edges(mesh: Any) -> Any:
    """Lengths of the edges of a mesh, a sparse symmetric matrix."""
    from scipy.sparse import csr_array

    coordinates, faces = np.asarray(mesh[0], float), np.asarray(mesh[1])
    if coordinates.ndim != 2 or faces.ndim != 2 or coordinates.shape[1] != 3 or faces.shape[1] != 3:
        raise ShapeError(
            "A mesh must have coordinates (n_vertices, 3) and faces (n_faces, 3), got "
            f"{coordinates.shape} and {faces.shape}."
        )
    ends = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    ends = np.unique(np.sort(ends, axis=1), axis=0)
    lengths = np.linalg.norm(coordinates[ends[:, 0]] - coordinates[ends[:, 1]], axis=1)
    lengths = np.maximum(lengths, np.finfo(float).tiny)  # an edge of no length is an edge
    both = np.concatenate([ends, ends[:, ::-1]]).T
    n = len(coordinates)
    whole: Any = csr_array
    return whole((np.tile(lengths, 2), (both[0], both[1])), shape=(n, n))


def _within(
    graph: Any, vertices: np.ndarray, radius: float | None, rings: int | None
) -> Iterator[np.ndarray]:
    """Vertices near each of some, by distance along edges or by their number."""
    from scipy.sparse.csgraph import dijkstra

    limit: Any = rings if radius is None else radius * (1 + 1e-9)
    step = max(1, ROW_BYTES // (8 * graph.shape[0]))
    for start in range(0, len(vertices), step):
        distances = dijkstra(
            graph, indices=vertices[start : start + step], limit=limit, unweighted=radius is None
        )
        for row in distances:
            yield np.flatnonzero(np.isfinite(row))
