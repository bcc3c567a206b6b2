"""Images on grids: reading them, comparing grids, masks and atlases, and writing maps back."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from softrsa._wording import counted, listed
from softrsa.errors import DataError, DTypeError, FileFormatError, FileMissingError, ShapeError
from softrsa.io.fmri.libraries import library
from softrsa.io.fmri.surface import SurfaceImage, open_surface
from softrsa.io.looking import look

CLOSE = 1e-3  # mm that two grids may lie apart and be the same
Image = Any  # a path, or an image of nibabel


@dataclass(frozen=True)
class Grid:
    """Where the voxels of an image lie.

    Attributes
    ----------
    shape : tuple of int
        Voxels along each of the three axes.
    affine : array, shape (4, 4)
        From indices to mm.
    is_surface : bool
        Whether these are vertices, along the first axis.
    """

    shape: tuple[int, ...]
    affine: np.ndarray
    is_surface: bool = False

    def __str__(self) -> str:
        if self.is_surface:
            return f"{self.shape[0]} vertices"
        sizes = np.sqrt((self.affine[:3, :3] ** 2).sum(0))
        lengths = " × ".join(f"{size:.4g}" for size in sizes)
        corner = ", ".join(f"{place:.4g}" for place in self.affine[:3, 3])
        voxels = " × ".join(map(str, self.shape))
        return f"{voxels} voxels of {lengths} mm, the first at ({corner}) mm"

    def same(self, other: Grid) -> bool:
        """Tell whether two grids have the same voxels."""
        if self.is_surface or other.is_surface:
            return self.shape == other.shape
        return self.shape == other.shape and np.allclose(self.affine, other.affine, atol=CLOSE)

    def positions(self, indices: np.ndarray) -> np.ndarray:
        """Centers (n, 3) in mm of voxels (n, 3)."""
        return indices @ self.affine[:3, :3].T + self.affine[:3, 3]


def open_image(given: Image, name: str) -> tuple[Any, str]:
    """Open a path with nibabel, or take an image as it is; and say what to call it."""
    if not isinstance(given, (str, os.PathLike)):
        if hasattr(given, "dataobj") and hasattr(given, "affine"):
            path = getattr(given, "get_filename", lambda: None)()
            return given, str(path or name)
        raise DTypeError(
            f"The {name} must be a path or an image of nibabel, got {type(given).__name__}."
        )
    path = Path(given)
    look(path)  # missing files and pipes
    nibabel = library("nibabel", f"Reading {path}")
    try:
        image = nibabel.load(path)
    except (nibabel.filebasedimages.ImageFileError, OSError, EOFError, ValueError) as error:
        raise FileFormatError(
            f"{path} cannot be read as an image ({error}). It is damaged, or of a format that "
            "nibabel does not know."
        ) from error
    if path.name.endswith((".gii", ".gii.gz")):
        return open_surface(path, image), str(path)
    if not hasattr(image, "affine") or not hasattr(image, "dataobj"):
        raise FileFormatError(f"{path} is {type(image).__name__}, not an image on a grid.")
    return image, str(path)


def grid_of(image: Any) -> Grid:
    """Grid of an image, in mm whatever length its header counts in."""
    affine = np.asarray(image.affine, dtype=np.float64)
    units = getattr(image.header, "get_xyzt_units", lambda: ("mm", ""))()[0]
    scale = {"meter": 1000.0, "micron": 0.001}.get(units, 1.0)
    affine = np.concatenate([affine[:3] * scale, affine[3:]])
    shape = tuple(int(n) for n in image.shape[:3])
    if isinstance(image, SurfaceImage) or (shape[0] > 1 and shape[1:] == (1, 1)):
        return Grid((shape[0], 1, 1), np.eye(4), is_surface=True)
    return Grid(shape, affine)


def values_of(image: Any, path: str) -> np.ndarray:
    """Values (x, y, z[, volume]) of an image, float64 where float32 would round them."""
    stored = np.dtype(image.get_data_dtype())
    exact = stored.itemsize > (4 if stored.kind == "f" else 2)
    try:
        values = np.asarray(
            image.get_fdata(dtype=np.float64 if exact else np.float32, caching="unchanged")
        )
    except (OSError, EOFError, ValueError) as error:
        raise FileFormatError(
            f"The values of {path} cannot be read ({error}): it is damaged, or was cut short."
        ) from error
    if values.ndim not in (3, 4):
        raise ShapeError(
            f"{path} must have 3 axes, or 4 with volumes last, got shape {values.shape}."
        )
    return values


def on_grid(given: Image, grid: Grid, name: str, *, resample: bool) -> np.ndarray:
    """Values (x, y, z) of a mask or atlas on the grid of the data; resampled only if asked."""
    image, path = open_image(given, name)
    while len(image.shape) == 4 and image.shape[3] == 1:
        image = image.slicer[..., 0]
    own = grid_of(image)
    if len(image.shape) != 3:
        raise ShapeError(f"The {name} {path} must have 3 axes, got shape {tuple(image.shape)}.")
    if own.same(grid):
        return values_of(image, path)
    if not resample:
        raise ShapeError(
            f"The {name} {path} has {own}; the images have {grid}. Take a {name} on their grid, or "
            "let it be resampled to it, nearest neighbor, with `resample=True` (`--resample`)."
        )
    nilearn = library("nilearn.image", f"Resampling {path}")
    target = library("nibabel", "Resampling").Nifti1Image(
        np.zeros(grid.shape, dtype=np.uint8), grid.affine
    )
    found = nilearn.resample_to_img(
        image, target, interpolation="nearest", force_resample=True, copy_header=True
    )
    return np.asarray(found.dataobj)


def mask_values(values: np.ndarray, name: str) -> np.ndarray:
    """Turn the values of a mask into bool: 0 or NaN is outside, and one other value inside."""
    inside = np.nan_to_num(values) != 0
    found = np.unique(values[inside])
    if not len(found):
        raise DataError(
            f"The {name} is empty: on the grid of the images it has no voxel that is not 0."
        )
    if len(found) > 1:
        raise DataError(
            f"The {name} must hold 0 and one other value, got {listed(found)}. Numbers of regions "
            "are an `atlas` (`--atlas`); probabilities want a threshold, such as "
            "`nilearn.image.math_img('p > 0.5', p=...)`."
        )
    return inside


def region_names(labels: Any, numbers: np.ndarray, atlas: str) -> list[str]:
    """Names of the regions of an atlas by number, from a table of labels."""
    if labels is None:
        return [str(number) for number in numbers]
    table = _labels(labels)
    missing = [number for number in numbers.tolist() if number not in table]
    if missing:
        raise DataError(
            f"`labels` has no name for the numbers {listed(missing)} of the atlas {atlas}; it "
            f"names {listed(sorted(table))}. Add them, or set these voxels of the atlas to 0."
        )
    return [table[number] for number in numbers.tolist()]


def _labels(given: Any) -> dict[int, str]:
    """Read a mapping, or a table with columns `index` and `name`, as BIDS has them."""
    if isinstance(given, Mapping):
        return {int(number): str(name) for number, name in given.items()}
    table = given if isinstance(given, pd.DataFrame) else read_table(given, "labels")
    columns = {str(column).lower(): column for column in table.columns}
    if not {"index", "name"} <= {*columns}:
        raise DataError(
            "`labels` must be a mapping from numbers to names, or a table with the columns `index` "
            f"and `name`, as the dseg.tsv of BIDS; got the columns {listed(table.columns)}."
        )
    numbers, names = table[columns["index"]], table[columns["name"]]
    repeated = numbers[numbers.duplicated()]
    if len(repeated):
        raise DataError(f"`labels` names the numbers {listed(repeated)} more than once.")
    return {int(number): str(name) for number, name in zip(numbers, names, strict=True)}


def read_table(given: Any, name: str) -> pd.DataFrame:
    """Take a table, or read one from a .tsv or .csv file."""
    if isinstance(given, pd.DataFrame):
        return given
    if not isinstance(given, (str, os.PathLike)):
        raise DTypeError(
            f"`{name}` must be a path or a pandas.DataFrame, got {type(given).__name__}."
        )
    path = Path(given)
    if not path.is_file():
        raise FileMissingError(f"There is no file {path} (`{name}`).")
    comma = path.name.removesuffix(".gz").endswith(".csv")
    try:
        return pd.read_csv(path, sep="," if comma else "\t", na_values=["n/a"])
    except (ValueError, OSError) as error:
        raise FileFormatError(f"{path} (`{name}`) cannot be read as a table: {error}.") from error


@dataclass(frozen=True)
class Selection:
    """Which voxels are read, in which regions.

    Attributes
    ----------
    indices : array, shape (n_units, 3)
        Voxels, of one region after the other.
    regions : list of str, optional
        The region of each.
    """

    indices: np.ndarray
    regions: np.ndarray | None

    @property
    def places(self) -> tuple[np.ndarray, ...]:
        """Index arrays for an image."""
        return tuple(self.indices.T)


class Where(NamedTuple):
    """Which voxels to read: a mask, masks of regions by name, an atlas with names, or both."""

    mask: Any = None
    atlas: Any = None
    labels: Any = None
    resample: bool = False


def select_voxels(grid: Grid, where: Where) -> Selection:
    """Choose voxels by a mask, masks of regions, an atlas, or a mask and an atlas."""
    mask, atlas, labels, resample = where
    if isinstance(mask, Mapping):
        if atlas is not None:
            raise DataError("Give regions as masks by name, or an `atlas`, not both.")
        return _by_masks(grid, mask, resample=resample)
    inside = np.ones(grid.shape, dtype=bool)
    if mask is not None:
        inside = mask_values(on_grid(mask, grid, "mask", resample=resample), "mask")
    if atlas is None:
        if labels is not None:
            raise DataError("`labels` name the regions of an `atlas`, and none is given.")
        return Selection(np.argwhere(inside), None)
    atlas, labels = getattr(atlas, "maps", atlas), labels if labels is not None else _lut(atlas)
    values = np.nan_to_num(on_grid(atlas, grid, "atlas", resample=resample))
    if (values != np.rint(values)).any() or (values < 0).any():
        raise DataError("An atlas must hold whole numbers, 0 outside of its regions.")
    numbers = np.unique(values[inside & (values != 0)]).astype(np.int64)
    if not len(numbers):
        raise DataError(f"The atlas has no region inside the mask, or is empty: {grid}.")
    names = np.array(region_names(labels, numbers, str(atlas)))
    indices = np.argwhere(inside & (values != 0))
    own = np.searchsorted(numbers, values[tuple(indices.T)].astype(np.int64))
    order = np.argsort(own, kind="stable")
    return Selection(indices[order], names[own[order]])


def _lut(atlas: Any) -> Any:
    """Table of labels that an atlas of nilearn or a GIFTI file brings along."""
    if isinstance(atlas, (str, os.PathLike)) and os.fspath(atlas).endswith(".gii"):
        return open_image(atlas, "atlas")[0].names
    return getattr(atlas, "lut", None)


def _by_masks(grid: Grid, masks: Mapping[Any, Any], *, resample: bool) -> Selection:
    indices, regions = [], []
    for name, mask in masks.items():
        what = f"mask of {name!r}"
        inside = mask_values(on_grid(mask, grid, what, resample=resample), what)
        indices.append(np.argwhere(inside))
        regions += [str(name)] * len(indices[-1])
    if not indices:
        raise DataError("`mask` is an empty mapping; give a mask for each region.")
    return Selection(np.concatenate(indices), np.array(regions))


def what_was_dropped(n_missing: int, n_constant: int) -> str:
    """Count voxels that are left out, in words."""
    parts = [
        f"{counted(number, 'voxel')} {why}"
        for number, why in ((n_missing, "with NaN"), (n_constant, "that never change"))
        if number
    ]
    return f"{' and '.join(parts)} left out" if parts else ""
