"""What `align` found: scores per layer, region, transform and fold, as one labelled data set."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import xarray as xr

from softrsa.errors import FileFormatError, FileMissingError
from softrsa.io import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KIND = "alignment_result"
FIXED_BASELINES = ["identity", "centered", "geo_topological"]


@dataclass(frozen=True)
class AlignmentResult:
    """Scores and learned transforms of an alignment.

    Attributes
    ----------
    data : Dataset
        Everything, by `layer`, `region`, `transform` and `fold`: `score`, `train_score`,
        `row_offset_share`, `ceiling_lower`, `ceiling_upper`, `chosen`, `gate`, `penalty`,
        `n_steps`, `degenerate`; by `side` and `parameter` the mean and standard deviation over
        anchors of lower, upper and transition (`step_mean`, `step_sd`) and, over a grid of
        `similarity`, the learned `curve` at `anchor_quantile` .1, .5 and .9 of the anchors; plain
        RSA in `rsa_score` and the score over all stimuli without folds in `all_stimuli_score`.
        `attrs` hold the settings to repeat it.

    Examples
    --------
    >>> import torch, softrsa
    >>> x = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    >>> result = softrsa.align({"layer": x}, {"region": x + 1}, transforms=["identity"], folds=4)
    >>> float(result.table["score"].round(3)[0])
    1.0
    """

    data: xr.Dataset

    @property
    def table(self) -> pd.DataFrame:
        """One row per layer, region and transform; all scores held out unless named otherwise.

        Returns
        -------
        DataFrame
            `score` and its standard error over folds, `train_score`, `rsa_score` (plain RSA:
            Pearson of the untransformed RSMs) and `baseline_score` (the best fixed transform under
            the measure in use) on the same folds, `gain` over that baseline, `row_offset_share`,
            noise ceilings, the transform most folds selected, step summaries, and counts.
        """
        data = self.data
        shown = data.attrs["transforms"].split(",")
        fixed = [name for name in FIXED_BASELINES if name in data["transform"].values]
        baseline = data["score"].sel(transform=fixed).mean("fold").max("transform")
        summary = data[["score", "train_score", "row_offset_share", *_CEILING]].mean("fold")
        summary["score_se"] = data["score"].std("fold", ddof=1) / data.sizes["fold"] ** 0.5
        summary["rsa_score"] = data["rsa_score"].mean("fold").broadcast_like(summary["score"])
        summary["baseline_score"] = baseline.broadcast_like(summary["score"])
        summary["gain"] = summary["score"] - baseline
        summary["all_stimuli_score"] = data["all_stimuli_score"]
        summary["folds_degenerate"] = data["degenerate"].sum("fold")
        summary["n_steps"] = data["n_steps"].median("fold")
        for name in ("chosen", "gate"):
            summary[name] = _most_common(data[name])
        means = data["step_mean"].mean("fold")
        for side in means["side"].values:
            for parameter in means["parameter"].values:
                one = means.sel(side=side, parameter=parameter, drop=True)
                summary[f"{parameter}_{side}"] = one
        summary = summary.assign(
            {name: data.attrs[name] for name in ("n_stimuli", "n_folds")}
            | {"n_subjects": data["n_subjects"]}
        )
        frame = summary.sel(transform=shown).to_dataframe(
            dim_order=["layer", "region", "transform"]
        )
        frame = frame.drop(columns=["side", "parameter"], errors="ignore").reset_index()
        return frame[[*_COLUMNS, *[c for c in frame.columns if c not in _COLUMNS]]]

    @property
    def warnings(self) -> list[str]:
        """What a reader of the scores must know before believing them."""
        return json.loads(self.data.attrs["warnings"])

    def plot(self) -> Figure:
        """Draw layers against scores, a panel per transform, noise ceilings shaded."""
        from softrsa.reports.figures import plot_alignment

        return plot_alignment(self.table, measure=self.data.attrs["measure"])

    def plot_transforms(self) -> Figure:
        """Draw the learned curves of both sides over the identity."""
        from softrsa.reports.figures import plot_transforms

        return plot_transforms(self.data["curve"], self.data["score"])

    def to_netcdf(self, path: str | Path) -> None:
        """Write everything to one netCDF file, whole or not at all.

        Parameters
        ----------
        path : str or Path
            The file; an existing one is replaced.
        """
        with atomic_path(path) as temporary:
            self.data.to_netcdf(temporary, engine="netcdf4")

    @classmethod
    def from_netcdf(cls, path: str | Path) -> AlignmentResult:
        """Read a result written by `to_netcdf`.

        Parameters
        ----------
        path : str or Path
            The file.

        Returns
        -------
        AlignmentResult
            Equal to the one written.

        Raises
        ------
        FileMissingError
            If there is no such file.
        FileFormatError
            If the file is not an alignment result.
        """
        path = Path(path)
        if not path.is_file():
            raise FileMissingError(f"There is no file {path.resolve()}.")
        try:
            with xr.open_dataset(path, engine="netcdf4") as data:
                loaded = data.load()
        except (OSError, ValueError) as error:
            raise FileFormatError(f"{path} is not a readable netCDF file: {error}.") from error
        if loaded.attrs.get("softrsa_kind") != KIND:
            raise FileFormatError(
                f"{path} holds no alignment result. Recordings, activations and RDMs are read with "
                "`softrsa.load`."
            )
        return cls(loaded)


_CEILING = ["ceiling_lower", "ceiling_upper"]
_COLUMNS = [
    "layer", "region", "transform", "score", "score_se", "train_score", "rsa_score",
    "baseline_score", "gain", "row_offset_share", *_CEILING, "chosen", "n_stimuli",
]  # fmt: skip


def _most_common(names: xr.DataArray) -> xr.DataArray:
    """Take the value most folds have."""

    def mode(values: np.ndarray) -> np.ndarray:
        flat = values.reshape(-1, values.shape[-1])
        modes = [pd.Series(row).mode()[0] for row in flat]
        return np.array(modes, dtype=object).reshape(values.shape[:-1])

    return xr.apply_ufunc(mode, names.astype(object), input_core_dims=[["fold"]])
