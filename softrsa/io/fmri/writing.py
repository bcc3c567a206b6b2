"""Maps over voxels written as NIfTI images."""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from softrsa._files import atomic_path
from softrsa.errors import DataError
from softrsa.io.fmri.grid import Grid, grid_of, open_image
from softrsa.io.fmri.libraries import library


def to_nifti(
    values: xr.DataArray,
    path: str | os.PathLike[str] | None = None,
    *,
    like: Any = None,
    fill: float = np.nan,
) -> Any:
    """Write a map over voxels, such as scores of a searchlight, as an image on their grid.

    Parameters
    ----------
    values : DataArray, dims (..., unit)
        Numbers of voxels, with the coordinates `i`, `j`, `k` on `unit`; other dimensions become
        volumes, one after the other in the order they have.
    path : path, optional
        Where to write it: ``.nii`` or ``.nii.gz``.
    like : path or image, optional
        An image whose grid and header to take. By default ``values.attrs``, as `from_nifti` sets
        them.
    fill : float
        Of voxels that are not in the map.

    Returns
    -------
    nibabel.Nifti1Image
        float32, (x, y, z) or (x, y, z, volume).

    Raises
    ------
    DataError
        If the grid is not known, voxels lie beyond it, a voxel is there twice, or units have no
        indices.
    OutputError
        If the file cannot be written.

    Examples
    --------
    >>> scores = xr.DataArray(
    ...     [0.5, 0.2], dims="unit",
    ...     coords={axis: ("unit", [0, 1]) for axis in "ijk"},
    ...     attrs={"grid": [2, 2, 2], "affine": np.eye(4).ravel().tolist()},
    ... )
    >>> image = to_nifti(scores, fill=0.0)
    >>> image.shape, round(float(image.dataobj[1, 1, 1]), 6)
    ((2, 2, 2), 0.2)
    """
    nibabel = library("nibabel", "Writing NIfTI")
    if "unit" not in values.dims or not {"i", "j", "k"} <= {*values.coords}:
        raise DataError(
            "A map needs the dimension `unit` with the voxels' indices `i`, `j`, `k`, as "
            f"`from_nifti` gives them; got the dimensions {values.dims}."
        )
    grid, header, codes = _target(values, like)
    indices = np.stack([values[axis].values for axis in "ijk"]).astype(np.int64)
    if (indices < 0).any() or (indices.max(1) >= grid.shape).any():
        raise DataError(
            f"Voxels run to {indices.max(1).tolist()}, beyond the grid of {list(grid.shape)}."
        )
    numbers = np.asarray(np.ravel_multi_index(tuple(indices), grid.shape))
    if len(np.unique(numbers)) < len(numbers):
        raise DataError(
            f"{len(numbers) - len(np.unique(numbers))} voxels are in the map more than once, as "
            "voxels of several regions or subjects are. Write one region or subject at a time."
        )
    rows = values.transpose(..., "unit").values.reshape(-1, values.sizes["unit"])
    volume = np.full((*grid.shape, len(rows)), fill, dtype=np.float32)
    volume[tuple(indices)] = rows.T
    if values.ndim == 1:
        volume = volume[..., 0]
    image = nibabel.Nifti1Image(volume, grid.affine, header)
    image.set_data_dtype(np.float32)
    image.header["descrip"] = b"softrsa"
    if codes:
        image.set_sform(grid.affine, codes.get("sform_code", 1))
        image.set_qform(grid.affine, codes.get("qform_code", 1))
    image.header.set_xyzt_units("mm", "sec")
    if path is not None:
        _write(image, Path(path))
    return image


def _write(image: Any, path: Path) -> None:
    """Write an image whole or not at all."""
    if not path.name.endswith((".nii", ".nii.gz")):
        raise DataError(f"A NIfTI image ends in .nii or .nii.gz, not as {path.name}.")
    content = image.to_bytes()
    with atomic_path(path) as temporary:
        temporary.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def _target(values: xr.DataArray, like: Any) -> tuple[Grid, Any, dict[str, int]]:
    """Find the grid, header and codes of spaces that a map is written with."""
    if like is not None:
        image, _ = open_image(like, "image `like`")
        return grid_of(image), image.header.copy(), {}
    attrs = values.attrs
    if not {"grid", "affine"} <= {*attrs}:
        raise DataError(
            "The map has lost its grid (`attrs` without `grid` and `affine`): give an image on it "
            "with `like=`."
        )
    shape = tuple(int(n) for n in np.atleast_1d(attrs["grid"]))
    affine = np.asarray(attrs["affine"], dtype=float).reshape(4, 4)
    codes = {key: int(attrs[key]) for key in ("sform_code", "qform_code") if key in attrs}
    return Grid(shape, affine), None, codes
