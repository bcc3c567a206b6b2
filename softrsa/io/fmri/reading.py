"""Reading images on one grid: chosen voxels of one run after the other, labelled."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import xarray as xr
from tqdm import tqdm

from softrsa._wording import counted, listed
from softrsa.errors import DataError, ShapeError, StimulusError, unknown_name
from softrsa.io.fmri.bids import entities
from softrsa.io.fmri.grid import (
    Grid,
    Selection,
    Where,
    grid_of,
    open_image,
    read_table,
    select_voxels,
    values_of,
    what_was_dropped,
)

Volumes = Literal["betas", "bold"]


@dataclass(frozen=True)
class Run:
    """One image: its values (volume, voxel), and what is known of its volumes."""

    name: str
    label: str | None
    values: np.ndarray
    t_r: float | None
    is_series: bool  # has a fourth axis


class Reader:
    """Reads images on one grid, of chosen voxels."""

    def __init__(
        self, images: list[Any], where: Where, runs: Any, subject: str | None,
        hemisphere: str | None = None,
    ):  # fmt: skip
        opened = [open_image(one, f"image {i + 1}") for i, one in enumerate(images)]
        self.images = [image for image, _ in opened]
        self.names = [name for _, name in opened]
        self.grid = grid_of(self.images[0])
        self.hemisphere = hemisphere
        self._check_kind()
        for image, name in opened[1:]:
            if not grid_of(image).same(self.grid):
                raise ShapeError(
                    f"All images must lie on one grid: {name} has {grid_of(image)}; "
                    f"{self.names[0]} has {self.grid}. Read each by itself, or resample them "
                    "before."
                )
        self.sizes = [image.shape[3] if len(image.shape) > 3 else 1 for image in self.images]
        self.runs_of = self._runs(runs)
        self.subject = subject if subject is not None else self._subject()
        self.selection: Selection = select_voxels(self.grid, where)
        self.unmasked = where.mask is None and where.atlas is None
        self.missing = np.zeros(len(self.selection.indices), dtype=bool)
        self.constant = np.zeros_like(self.missing)

    def _check_kind(self) -> None:
        """Refuse surfaces where volumes are read, and the reverse."""
        if self.grid.is_surface and self.hemisphere is None:
            raise DataError(
                f"{self.names[0]} holds numbers of {self.grid}: read it with "
                "`softrsa.io.from_gifti`."
            )
        if self.hemisphere is not None and not self.grid.is_surface:
            raise DataError(
                f"{self.names[0]} is a volume, {self.grid}: read it with `softrsa.io.from_nifti`."
            )

    def _runs(self, runs: Any) -> list[Any] | None:
        """Give each volume its run."""
        total = sum(self.sizes)
        if runs is None:
            named = [entities(name).get("run") for name in self.names]
            several = len(self.images) > 1 and max(self.sizes) > 1
            if None in named or (several and len({*named}) < len(named)):
                if not several:
                    return None
                named = [*range(1, len(self.images) + 1)]
            runs = named
        given = [*runs]
        if len(given) == total:
            return given
        if len(given) != len(self.images):
            raise DataError(
                f"`runs` must have a label for each of {counted(len(self.images), 'image')} or of "
                f"{counted(total, 'volume')}, got {len(given)}."
            )
        return [label for label, n in zip(given, self.sizes, strict=True) for _ in range(n)]

    def _subject(self) -> str | None:
        found = {entities(name).get("subject") for name in self.names} - {None}
        if len(found) > 1:
            raise DataError(
                f"The names of the images say that they are of several subjects "
                f"({listed(sorted(map(str, found)))}): read each by itself, or give `subject=`."
            )
        return found.pop() if found else None

    def are_series(self, tables: list[Any], volumes: Volumes | None) -> bool:
        """Tell time series from betas by their events."""
        if volumes not in (None, "betas", "bold"):
            raise unknown_name("`volumes`", volumes, ["betas", "bold"])
        if volumes is not None:
            return volumes == "bold"
        read = [read_table(one, "events") for one in tables]
        rows = [len(table) for table in read]
        timed = all("onset" in table.columns for table in read)
        if rows not in (self.sizes, [sum(self.sizes)]):
            if timed and min(self.sizes) > 1:
                return True
            raise DataError(
                f"`events` have {listed(rows)} rows, and the images {listed(self.sizes)} volumes. "
                "Betas need a row for each volume, and time series the columns `onset`, "
                "`duration`."
            )
        if timed and min(self.sizes) > 1:
            raise DataError(
                f"There are as many events as volumes ({listed(rows)}), with onsets: these may be "
                'betas or time series. Say which with `volumes="betas"` or `volumes="bold"` '
                "(`--volumes`)."
            )
        return False

    def runs(self, *, progress: bool) -> Iterator[Run]:
        """Read one image after the other."""
        labels = iter(self.runs_of or [None] * sum(self.sizes))
        bar = tqdm(self.images, desc="images", unit="image", delay=2, disable=not progress)
        for image, name, n in zip(bar, self.names, self.sizes, strict=True):
            values = values_of(image, name)
            own = values[self.selection.places]
            rows = own[None] if own.ndim == 1 else np.ascontiguousarray(own.T)
            own_labels = [next(labels) for _ in range(n)]
            yield Run(name, own_labels[0], rows, _t_r(image), values.ndim > 3)

    def check(self, values: np.ndarray, *, one_run: bool) -> np.ndarray:
        """Count voxels that are NaN, or do not change in a run."""
        self.missing |= ~np.isfinite(values).all(0)
        if one_run:
            self.constant |= (values == values[:1]).all(0)
        return ~(self.missing | self.constant)

    def betas(self, ids: list[Any] | None, *, progress: bool) -> xr.DataArray:
        """Read volumes as responses."""
        n = sum(self.sizes)
        ids = self._ids(ids, n)
        values = np.concatenate([run.values for run in self.runs(progress=progress)])
        kept = self.check(values, one_run=n > 1)
        return self.labelled(values, kept, ids, self.runs_of)

    def _ids(self, ids: list[Any] | None, n: int) -> list[Any]:
        if ids is None:
            raise StimulusError(
                f"{self.names[0]} has {counted(n, 'volume')}, and an image holds no stimulus ids: "
                "give `stimuli` (`--stimuli`), an id for each volume, or `events` (`--events`)."
            )
        if len(ids) == n:
            return ids
        if len(self.sizes) > 1 and {*self.sizes} == {len(ids)}:
            return ids * len(self.sizes)
        raise StimulusError(
            f"There must be an id for each of {counted(n, 'volume')} "
            f"({listed(self.sizes)} in {counted(len(self.sizes), 'image')}), got {len(ids)}."
        )

    def labelled(
        self, values: np.ndarray, kept: np.ndarray, ids: list[Any], runs: list[Any] | None
    ) -> xr.DataArray:
        """Label rows by stimuli and runs, and voxels by their places."""
        if not kept.any():
            raise DataError(
                f"No voxel is left of {len(kept)}: "
                f"{what_was_dropped(int(self.missing.sum()), int(self.constant.sum()))}. Check "
                "that the mask lies where the images have values."
            )
        self._check_regions(kept)
        indices = self.selection.indices[kept]
        trial: dict[str, Any] = {"stimulus": ("trial", np.array(ids))}
        if runs is not None:
            trial["run"] = ("trial", np.array(runs))
        where = what_was_dropped(
            int(self.missing.sum()), int((self.constant & ~self.missing).sum())
        )
        told = [f"all {kept.sum()} voxels that vary, as no mask was given"] if self.unmasked else []
        told += [where] if where else []
        return xr.DataArray(
            values if kept.all() else np.ascontiguousarray(values[:, kept]),
            dims=("trial", "unit"),
            coords={**trial, **self._units(indices, kept)},
            attrs={
                **({"read_as": "; ".join(told)} if told else {}),
                "voxels_left_out": int((~kept).sum()),
                **grid_attributes(self.grid, self.images[0], self.hemisphere),
            },
        )

    def _check_regions(self, kept: np.ndarray) -> None:
        """Refuse that a region loses all its voxels."""
        if self.selection.regions is None:
            return
        lost = sorted({*self.selection.regions} - {*self.selection.regions[kept]})
        if lost:
            raise DataError(
                f"No voxel is left in {listed(lost)}: they are NaN or never change. Leave these "
                "regions out, or check that they lie where the images have values."
            )

    def _units(self, indices: np.ndarray, kept: np.ndarray) -> dict[str, Any]:
        numbers = np.asarray(np.ravel_multi_index(tuple(indices.T), self.grid.shape))
        if self.hemisphere is not None:
            units = self._vertices(numbers)
        else:
            units = self._voxels(indices, numbers)
        if self.selection.regions is not None:
            units["region"] = ("unit", self.selection.regions[kept])
        if self.subject is not None:
            units["subject"] = ("unit", [self.subject] * len(indices))
        return units

    def _vertices(self, numbers: np.ndarray) -> dict[str, Any]:
        side = str(self.hemisphere)
        return {
            "unit": np.array([f"{side[0].upper()}{number}" for number in numbers]),
            "vertex": ("unit", numbers),
            "hemisphere": ("unit", [side] * len(numbers)),
        }

    def _voxels(self, indices: np.ndarray, numbers: np.ndarray) -> dict[str, Any]:
        places = self.grid.positions(indices)
        units: dict[str, Any] = {"unit": numbers}
        units |= {axis: ("unit", indices[:, i]) for i, axis in enumerate("ijk")}
        mm = {"units": "mm"}
        return units | {axis: ("unit", places[:, i], mm) for i, axis in enumerate("xyz")}


def _t_r(image: Any) -> float | None:
    """Seconds from one volume to the next by the header, if it says so."""
    if len(image.shape) < 4 or not hasattr(image.header, "get_zooms"):
        return None
    zooms = image.header.get_zooms()
    unit = getattr(image.header, "get_xyzt_units", lambda: ("", "unknown"))()[1]
    scale = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6}.get(unit)
    if scale is None or len(zooms) < 4 or not zooms[3] > 0:
        return None
    return round(float(zooms[3]) * scale, 9)


def grid_attributes(grid: Grid, image: Any, hemisphere: str | None) -> dict[str, Any]:
    """Say in attributes where voxels or vertices lie, as `to_nifti` and `to_gifti` need it."""
    if hemisphere is not None:
        return {f"vertices_{hemisphere}": grid.shape[0]}
    codes = {}
    for code in ("sform_code", "qform_code"):
        if code in getattr(image.header, "keys", list)():
            codes[code] = int(image.header[code])
    return {"grid": [*grid.shape], "affine": [float(v) for v in grid.affine.ravel()], **codes}
