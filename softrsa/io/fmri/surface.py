"""Surfaces: meshes, responses of vertices, and maps over vertices, in GIFTI and of FreeSurfer."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from softrsa._files import atomic_path
from softrsa._wording import listed
from softrsa.errors import DataError, DTypeError, FileFormatError, ShapeError
from softrsa.io.fmri.libraries import library
from softrsa.io.looking import look

HEMISPHERES = ("left", "right")
IN_NAMES = (
    ("left", re.compile(r"(^|[._])(hemi-L|lh|L)(?=[._])")),
    ("right", re.compile(r"(^|[._])(hemi-R|rh|R)(?=[._])")),
)
STRUCTURES = {"left": "CortexLeft", "right": "CortexRight"}


class Mesh(NamedTuple):
    """A surface of one hemisphere.

    Attributes
    ----------
    coordinates : array, shape (n_vertices, 3)
        In mm.
    faces : array of int, shape (n_faces, 3)
        The vertices of each triangle.
    """

    coordinates: np.ndarray
    faces: np.ndarray


def read_mesh(path: str | os.PathLike[str]) -> Mesh:
    """Read a surface: GIFTI (``.surf.gii``) or FreeSurfer's (``lh.white``, ``rh.pial``, ...).

    Parameters
    ----------
    path : path
        The file.

    Returns
    -------
    Mesh
        `coordinates` in mm and `faces`.

    Raises
    ------
    FileMissingError, FileFormatError
        If there is no such file, nibabel is not installed, or it holds no mesh.

    Examples
    --------
    >>> mesh = read_mesh("fsaverage/lh.white")  # doctest: +SKIP
    """
    path = Path(path)
    look(path)
    nibabel = library("nibabel", f"Reading {path}")
    try:
        if path.name.endswith((".gii", ".gii.gz")):
            image = nibabel.load(path)
            points = image.get_arrays_from_intent("NIFTI_INTENT_POINTSET")
            triangles = image.get_arrays_from_intent("NIFTI_INTENT_TRIANGLE")
            if len(points) != 1 or len(triangles) != 1:
                raise FileFormatError(
                    f"{path} holds no mesh, but numbers of vertices: give the surface, a .surf.gii."
                )
            coordinates, faces = points[0].data, triangles[0].data
        else:
            coordinates, faces = nibabel.freesurfer.read_geometry(path)
    except FileFormatError:
        raise
    except Exception as error:  # whatever nibabel raises of a file that is no mesh
        raise FileFormatError(
            f"{path} cannot be read as a mesh ({error}). Known are GIFTI (.surf.gii) and "
            "FreeSurfer's surfaces, such as lh.white."
        ) from error
    return Mesh(np.asarray(coordinates, float), np.asarray(faces, np.int64))


class Header:
    """What a surface says beside its values: nothing. Programs write its time in s or in ms."""


class SurfaceImage:
    """Numbers of vertices, with the attributes of an image: shape (n_vertices, 1, 1[, volume])."""

    def __init__(self, values: np.ndarray, path: str, names: Any = None):
        self.dataobj = values
        self.shape = values.shape
        self.affine = np.eye(4)
        self.path, self.names = path, names
        self.header = Header()

    def get_filename(self) -> str:
        """Say where it lies."""
        return self.path

    def get_data_dtype(self) -> np.dtype[Any]:
        """Give the number type of the values."""
        return self.dataobj.dtype

    def get_fdata(self, dtype: Any, caching: str) -> np.ndarray:
        """Give values as floating-point numbers."""
        return self.dataobj.astype(dtype)


def open_surface(path: Path, image: Any) -> SurfaceImage:
    """Take what nibabel read of a GIFTI file as an image of vertices."""
    arrays = [one.data for one in image.darrays]
    sizes = {array.shape[:1] for array in arrays}
    flat = all(array.ndim == 1 for array in arrays)
    if not arrays or len(sizes) > 1 or not (flat or len(arrays) == 1):
        raise ShapeError(
            f"{path} must hold a row of numbers for each volume, as many as vertices; it holds "
            f"arrays of the shapes {listed([array.shape for array in arrays])}. A mesh goes to "
            "`read_mesh`."
        )
    values = np.stack(arrays, axis=-1) if flat else arrays[0]
    values = values[:, None, None, :] if values.shape[1] > 1 else values[:, None, None, 0]
    table = getattr(image.labeltable, "labels", [])
    names = {int(one.key): str(one.label) for one in table} or None
    return SurfaceImage(np.ascontiguousarray(values), str(path), names)


def hemisphere_of(name: str) -> str | None:
    """Read the hemisphere from a file name, as BIDS and FreeSurfer have it.

    Examples
    --------
    >>> hemisphere_of("sub-01_hemi-L_bold.func.gii"), hemisphere_of("rh.betas.mgz")
    ('left', 'right')
    """
    found = [side for side, pattern in IN_NAMES if pattern.search(Path(name).name)]
    return found[0] if len(found) == 1 else None


def to_gifti(values: xr.DataArray, path: str | os.PathLike[str]) -> list[Path]:
    """Write a map over vertices as GIFTI, one file per hemisphere.

    Parameters
    ----------
    values : DataArray, dims (..., unit)
        Numbers of vertices, with the coordinates `vertex` and `hemisphere` on `unit`, and the
        numbers of vertices in ``attrs``, as `from_gifti` gives them. Other dimensions become arrays
        of the file, one after the other.
    path : path
        Where to write: ``map.func.gii`` becomes ``map_hemi-L.func.gii`` and ``map_hemi-R.func.gii``
        where there are two hemispheres.

    Returns
    -------
    list of Path
        The files.

    Raises
    ------
    DataError
        If units are no vertices, or how many there are is not known.
    OutputError
        If a file cannot be written.

    Notes
    -----
    Vertices that are not in the map are NaN.

    Examples
    --------
    >>> import tempfile
    >>> scores = xr.DataArray(
    ...     [0.5, 0.2], dims="unit",
    ...     coords={"vertex": ("unit", [0, 2]), "hemisphere": ("unit", ["left", "left"])},
    ...     attrs={"vertices_left": 4},
    ... )
    >>> [one.name for one in to_gifti(scores, Path(tempfile.mkdtemp()) / "map.func.gii")]
    ['map.func.gii']
    """
    path = Path(path)
    if not path.name.endswith(".gii"):
        raise DataError(f"A GIFTI file ends in .gii, not as {path.name}.")
    if not {"vertex", "hemisphere"} <= {*values.coords} or "unit" not in values.dims:
        raise DataError(
            "A map over a surface needs `vertex` and `hemisphere` on `unit`, as `from_gifti` gives "
            f"them; it has {listed(map(str, values.coords))}."
        )
    sides = [*dict.fromkeys(map(str, values["hemisphere"].values))]
    lost = [side for side in sides if f"vertices_{side}" not in values.attrs]
    if lost:
        raise DataError(
            f"The map has lost how many vertices there are (`attrs['vertices_{lost[0]}']`): set it "
            "before it is written."
        )
    written = []
    for side in sides:
        ending = re.sub(r"^[^.]*", "", path.name)
        name = f"{path.name.removesuffix(ending)}_hemi-{side[0].upper()}{ending}"
        target = path if len(sides) == 1 else path.with_name(name)
        _write(values[..., (values["hemisphere"] == side).values], side, target)
        written.append(target)
    return written


def _write(values: xr.DataArray, side: str, path: Path) -> None:
    """Write the map of one hemisphere."""
    nibabel = library("nibabel", "Writing GIFTI")
    vertices = values["vertex"].values
    if len(np.unique(vertices)) < len(vertices):
        raise DataError("Vertices are in the map more than once: write one region at a time.")
    rows = values.transpose(..., "unit").values.reshape(-1, len(vertices))
    full = np.full((len(rows), int(values.attrs[f"vertices_{side}"])), np.nan, dtype=np.float32)
    full[:, vertices] = rows
    gifti = nibabel.gifti
    image = gifti.GiftiImage(
        darrays=[
            gifti.GiftiDataArray(
                row, intent="NIFTI_INTENT_NONE", datatype="NIFTI_TYPE_FLOAT32"
            )
            for row in full
        ]
    )  # fmt: skip
    image.meta["AnatomicalStructurePrimary"] = STRUCTURES[side]
    with atomic_path(path) as temporary:
        temporary.write_bytes(image.to_bytes())


def by_hemisphere(images: Any, hemisphere: str | None) -> dict[str, Any]:
    """Name what is given by hemispheres."""
    if hemisphere is not None:
        if hemisphere not in HEMISPHERES:
            raise DataError(f"`hemisphere` is 'left' or 'right', got {hemisphere!r}.")
        return {hemisphere: images}
    if isinstance(images, Mapping):
        unknown = [side for side in images if side not in HEMISPHERES]
        if unknown or not images:
            raise DataError(
                "Images of a surface are named by hemisphere, 'left' and 'right', got "
                f"{listed(images)}."
            )
        return dict(images)
    given = [images] if isinstance(images, (str, os.PathLike)) else [*images]
    if not all(isinstance(one, (str, os.PathLike)) for one in given):
        raise DTypeError("Images of a surface must be paths to GIFTI or FreeSurfer's .mgz files.")
    sides = [hemisphere_of(os.fspath(one)) for one in given]
    if None in sides:
        raise DataError(
            f"Which hemisphere {given[sides.index(None)]} is of is not in its name (hemi-L, lh.): "
            "say it with `hemisphere=`, or give a mapping with the keys 'left' and 'right'."
        )
    return {
        side: [one for one, own in zip(given, sides, strict=True) if own == side]
        for side in dict.fromkeys(map(str, sides))
    }
