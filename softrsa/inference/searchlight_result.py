"""What `searchlight_maps` found: maps of scores, their peaks, figures, images."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from softrsa._files import StoredResult
from softrsa._wording import counted
from softrsa.errors import DataError
from softrsa.io import to_gifti, to_nifti

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TESTED = ("t", "p", "p_corrected")
PLACES = ("x", "y", "z", "vertex", "hemisphere", "region")
LEVEL = 0.05


@dataclass(frozen=True)
class SearchlightResult(StoredResult):
    """Scores of models around every voxel or vertex, with tests.

    Attributes
    ----------
    data : Dataset
        `score` (subject, model, unit), NaN where it is undefined; `t`, `p` (by itself) and
        `p_corrected` over the map (model, unit), NaN where nothing was tested. Coordinates of units
        are those of the recordings. `attrs` hold measure, settings and seed to repeat it.

    Examples
    --------
    >>> from softrsa.inference import searchlight_maps
    >>> rng = np.random.default_rng(0)
    >>> coords = {"stimulus": np.arange(8), **{a: ("unit", np.arange(9.0)) for a in "xyz"}}
    >>> brain = xr.DataArray(rng.normal(size=(8, 9)), coords, ("stimulus", "unit"))
    >>> found = searchlight_maps({"model": brain}, brain, radius=4, smallest=3, progress=False)
    >>> found.data["score"].dims, len(found.table)
    (('subject', 'model', 'unit'), 1)
    """

    data: xr.Dataset
    _kind = "searchlight"
    _what = "result of `searchlight_maps`"

    def __repr__(self) -> str:
        sizes, attrs = self.data.sizes, self.data.attrs
        return (
            f"SearchlightResult({counted(sizes['model'], attrs['model_dim'])} × "
            f"{counted(sizes['unit'], 'center')}, {counted(sizes['subject'], 'subject')}, "
            f"{attrs['measure']}); see .table, .plot(), .to_nifti(folder)"
        )

    @property
    def warnings(self) -> list[str]:
        """What a reader of the maps must know before believing them."""
        return json.loads(self.data.attrs["warnings"])

    @property
    def mean(self) -> xr.DataArray:
        """Mean over subjects (model, unit), NaN where one has no score."""
        return self.data["score"].mean("subject", skipna=False).assign_attrs(self._grid)

    @property
    def _grid(self) -> dict[str, Any]:
        names = ("grid", "affine", "sform_code", "qform_code", "vertices_left", "vertices_right")
        return {name: self.data.attrs[name] for name in names if name in self.data.attrs}

    @property
    def table(self) -> pd.DataFrame:
        """Peaks: one row per model.

        Returns
        -------
        DataFrame
            The model under the name of its dimension, such as `layer`; `score`, the largest mean
            over subjects; where it is (`unit`, and `x`, `y`, `z` in mm, or `vertex` and
            `hemisphere`); `t`, `p` and `p_corrected` there; `n_significant`, centers with a
            corrected p below .05; `n_centers` with a score, `n_subjects`, `n_stimuli`.
        """
        rows = [self._peak(i) for i in range(self.data.sizes["model"])]
        return pd.DataFrame(rows)

    def _peak(self, model: int) -> dict[str, object]:
        mean = self.mean[model]
        known = mean.notnull()
        name = str(self.data["model"].values[model])
        row: dict[str, object] = {self.data.attrs["model_dim"]: name}
        at = int(np.nanargmax(mean.values)) if bool(known.any()) else 0
        row["score"] = float(mean[at])
        places = [n for n in ("unit", *PLACES) if n in mean.coords]
        row |= {n: mean[n].values[at] for n in places}
        row |= {n: float(self.data[n].values[model, at]) for n in TESTED}
        below = self.data["p_corrected"].values[model] < LEVEL
        sizes = self.data.sizes
        return row | {
            "n_significant": int(below.sum()), "n_centers": int(known.sum()),
            "n_subjects": sizes["subject"], "n_stimuli": int(self.data.attrs["n_stimuli"]),
        }  # fmt: skip

    def plot(self, mesh: Any = None) -> Figure:
        """Draw the maps, a row per model.

        Parameters
        ----------
        mesh : Mesh, or mapping from hemispheres to meshes, optional
            The surface, where units are vertices.

        Returns
        -------
        Figure
            Of voxels the largest mean score along each axis, so that nothing lies hidden; of
            vertices the mean score seen from outside and inside. Where maps were tested, black
            dots are centers with a corrected p below .05.

        Raises
        ------
        DataError
            If units are vertices and no mesh is given, or have no places.
        """
        from softrsa.reports.map_figures import plot_maps

        return plot_maps(self.mean, self.data["p_corrected"], mesh=mesh)

    def report(self, path: str | Path, *, mesh: Any = None) -> None:
        """Write one HTML page: where each model matches best, maps, cautions, methods.

        Parameters
        ----------
        path : str or Path
            The file.
        mesh : Mesh, or mapping from hemispheres to meshes, optional
            The surface, where units are vertices.

        Raises
        ------
        DataError
            As `plot`.
        OutputError
            If the file cannot be written.
        """
        from softrsa.reports.short_page import map_page, write_short_page

        write_short_page(path, map_page(self, mesh=mesh))

    def to_nifti(self, folder: str | Path) -> list[Path]:
        """Write maps of voxels, on the grid of the images.

        Parameters
        ----------
        folder : str or Path
            Where to: for each model ``<model>_score.nii.gz``, the mean over subjects, and where it
            was tested ``<model>_1-p.nii.gz``, 1 minus the corrected p.

        Returns
        -------
        list of Path
            The files.

        Raises
        ------
        DataError
            If the grid is not known: units come from no image.
        OutputError
            If a file cannot be written.
        """
        written = []
        for name, part in self._maps():
            path = Path(folder) / f"{name}.nii.gz"
            to_nifti(part, path)
            written.append(path)
        return written

    def to_gifti(self, folder: str | Path) -> list[Path]:
        """Write maps of vertices: as `to_nifti`, a ``.func.gii`` for each hemisphere.

        Parameters
        ----------
        folder : str or Path
            Where to.

        Returns
        -------
        list of Path
            The files.

        Raises
        ------
        DataError
            If units are no vertices.
        OutputError
            If a file cannot be written.
        """
        return [
            path
            for name, part in self._maps()
            for path in to_gifti(part, Path(folder) / f"{name}.func.gii")
        ]

    def _maps(self) -> Iterator[tuple[str, xr.DataArray]]:
        """Each map with the name of its file."""
        names = [re.sub(r"[^A-Za-z0-9-]+", "-", str(one)) for one in self.data["model"].values]
        if len({*names}) < len(names):
            raise DataError(
                f"Names of models must differ in letters and digits to name files: {names}."
            )
        for i, name in enumerate(names):
            yield f"{name}_score", self.mean[i]
            p = self.data["p_corrected"][i]
            if bool(p.notnull().any()):
                yield f"{name}_1-p", (1 - p).assign_attrs(self._grid)
