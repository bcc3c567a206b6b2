"""What inference found: scores, their uncertainty, ceilings and tests, as one labelled data set."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
import xarray as xr

from softrsa.errors import DataError, FileFormatError, FileMissingError, unknown_name
from softrsa.io import OutputError, atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KIND = "inference_result"
SCHEMA = "1"


@dataclass(frozen=True)
class InferenceResult:
    """Scores of models, their uncertainty, noise ceilings and tests.

    Attributes
    ----------
    data : Dataset
        Always `score` (model, subject), on all stimuli or, of fitted models, on held-out ones, and
        `ceiling` (bound, subject). From `bootstrap` also `resampled_score` (kind, resample, model),
        `resampled_ceiling` (kind, resample, bound) and the corrected `variance` (model),
        `variance_difference` (model, other), `variance_to_ceiling` (model, bound); from
        `permutation_test` `permuted_score` (permutation, model), `p_permutation` and
        `p_permutation_fwer` (model); from `compare_models` `difference`, `p_difference`,
        `p_corrected`, `effect_size` (model, other), `p_zero` and `p_ceiling` (model). `attrs` hold
        the measure, settings, seed and versions to repeat it.

    Examples
    --------
    >>> import torch
    >>> from softrsa.inference import bootstrap
    >>> rng = torch.Generator().manual_seed(0)
    >>> subjects = torch.rand(5, 45, generator=rng)
    >>> result = bootstrap(subjects[:2], subjects, "pearson", over="stimuli", n_resamples=50)
    >>> result.table[["model", "score", "n_stimuli"]].round(3)
         model  score  n_stimuli
    0  model 1  0.209         10
    1  model 2  0.255         10
    """

    data: xr.Dataset

    @property
    def names(self) -> list[str]:
        """Names of the models."""
        return [str(name) for name in self.data["model"].values]

    @property
    def warnings(self) -> list[str]:
        """What a reader of the numbers must know before believing them."""
        return json.loads(self.data.attrs["warnings"])

    @property
    def degrees_of_freedom(self) -> int:
        """Of t-based intervals and tests: the fewest things resampled or averaged, less one."""
        sizes = {"subjects": self.data.sizes["subject"], "stimuli": self.data.attrs["n_stimuli"]}
        over = self.data.attrs.get("over", "subjects")
        return min(sizes.values() if over == "both" else [sizes[over]]) - 1

    def standard_errors(self) -> np.ndarray:
        """Give the standard error of each model's mean score.

        Returns
        -------
        ndarray, shape (n_models,)
            From the bootstrap where there was one, else over subjects (NaN for a single one).
        """
        if "variance" in self.data:
            return np.sqrt(self.data["variance"].values)
        n = self.data.sizes["subject"]
        if n < 2:
            return np.full(len(self.names), np.nan)
        return self.data["score"].transpose("model", "subject").values.std(1, ddof=1) / n**0.5

    def intervals(
        self, level: float = 0.95, *, kind: Literal["t", "percentile"] = "t"
    ) -> np.ndarray:
        """Confidence intervals of the models' mean scores.

        Parameters
        ----------
        level : float
            Coverage wanted, in (0, 1).
        kind : {"t", "percentile"}
            The score and its standard error with Student's t; or quantiles of the bootstrapped
            scores, of both subjects and stimuli where both were resampled.

        Returns
        -------
        ndarray, shape (n_models, 2)
            Lower and upper end; NaN where nothing is known, as of a model whose score is undefined.
            Percentiles are of the resamples that also variances and tests are from.

        Raises
        ------
        DataError
            If ``level`` is not in (0, 1), or percentiles are asked for without a bootstrap.
        UnknownNameError
            If there is no such kind.
        """
        if not 0 < level < 1:
            raise DataError(f"`level` must be between 0 and 1, got {level!r}, e.g. 0.95.")
        tails = (1 - level) / 2, (1 + level) / 2
        if kind == "percentile":
            if "resampled_score" not in self.data:
                raise DataError("Percentile intervals need a bootstrap; use kind='t'.")
            samples = self.data["resampled_score"].isel(kind=0).transpose("resample", "model")
            known = samples.values[usable_resamples(self.data)]
            if not len(known):
                return np.full((len(self.names), 2), np.nan)
            return np.quantile(known, tails, axis=0).T
        if kind != "t":
            raise unknown_name("kind of interval", kind, ("t", "percentile"))
        from scipy.stats import t

        reach = t.ppf(tails[1], max(self.degrees_of_freedom, 1)) * self.standard_errors()
        mean = self.data["score"].mean("subject", skipna=False).values
        return np.stack([mean - reach, mean + reach], 1)

    @property
    def table(self) -> pd.DataFrame:
        """One row per model.

        Returns
        -------
        DataFrame
            `score` (mean over subjects), `score_se`, the 95 % interval `ci_low`, `ci_high` (t), of
            a bootstrap also `percentile_low`, `percentile_high`; `ceiling_lower`, `ceiling_upper`;
            what tests were made: `p_permutation`, `p_permutation_fwer`, `p_zero`, `p_ceiling`; and
            counts.
        """
        data = self.data
        low, high = self.intervals().T
        columns = {
            data.attrs["model_dim"]: self.names,
            "score": data["score"].mean("subject", skipna=False).values,
            "score_se": self.standard_errors(), "ci_low": low, "ci_high": high,
        }  # fmt: skip
        if "resampled_score" in data:
            columns["percentile_low"], columns["percentile_high"] = self.intervals(
                kind="percentile"
            ).T
        bounds = data["ceiling"].mean("subject", skipna=False)
        columns["ceiling_lower"], columns["ceiling_upper"] = bounds.values
        tests = ("p_permutation", "p_permutation_fwer", "p_zero", "p_ceiling")
        columns |= {name: data[name].values for name in tests if name in data}
        columns["n_subjects"] = data.sizes["subject"]
        columns["n_stimuli"] = data.attrs["n_stimuli"]
        return pd.DataFrame(columns)

    @property
    def comparisons(self) -> pd.DataFrame:
        """One row per pair of models, after `compare_models`.

        Returns
        -------
        DataFrame
            `model`, `other`, `difference` of their mean scores, `effect_size` (Cohen's dz over
            subjects), `p` without correction and `p_corrected` (equal to it where none was asked).

        Raises
        ------
        DataError
            If models were not compared.
        """
        if "p_difference" not in self.data:
            raise DataError("No comparisons here; make them with `compare_models(result)`.")
        rows, columns = np.triu_indices(len(self.names), 1)
        table = {"model": np.array(self.names)[rows], "other": np.array(self.names)[columns]}
        for column, variable in (
            ("difference", "difference"), ("effect_size", "effect_size"), ("p", "p_difference"),
            ("p_corrected", "p_corrected"),
        ):  # fmt: skip
            table[column] = self.data[variable].values[rows, columns]
        return pd.DataFrame(table)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw scores as bars with intervals, the noise ceiling as a band, and significance."""
        from softrsa.reports.inference_figures import plot_inference

        return plot_inference(self.data, self.table, ax=ax)

    def plot_comparisons(self, ax: Axes | None = None) -> Axes:
        """Draw the matrix of differences between models, after `compare_models`."""
        from softrsa.reports.inference_figures import plot_comparisons

        return plot_comparisons(self.names, self.comparisons, ax=ax)

    def to_netcdf(self, path: str | Path) -> None:
        """Write everything to one netCDF file, whole or not at all.

        Parameters
        ----------
        path : str or Path
            The file to write; its folder is made where it does not exist.

        Raises
        ------
        OutputError
            If the file cannot be written.
        """
        stamped = self.data.assign_attrs(softrsa_kind=KIND, softrsa_schema=SCHEMA)
        with atomic_path(path) as temporary:
            try:
                stamped.to_netcdf(temporary, engine="netcdf4")
            except (OSError, RuntimeError) as error:
                raise OutputError(f"Cannot write {path}: {error}.") from error

    @classmethod
    def from_netcdf(cls, path: str | Path) -> InferenceResult:
        """Read a result written by `to_netcdf`.

        Parameters
        ----------
        path : str or Path
            The file.

        Returns
        -------
        InferenceResult
            Equal to the one written.

        Raises
        ------
        FileMissingError
            If there is no such file.
        FileFormatError
            If the file is not a result of inference.
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
                f"{path} holds no result of inference. Recordings, activations and RDMs are read "
                "with `softrsa.load`."
            )
        return cls(loaded)


def usable_resamples(data: xr.Dataset) -> np.ndarray:
    """Tell which resamples variances, percentile intervals and tests are from: (resample,).

    Those on which every model that is defined on all the data has a score, and, where ceilings were
    resampled, these are known: the same resamples for all models.
    """
    defined = data["score"].notnull().all("subject")
    scores = data["resampled_score"].isel(model=defined.values)
    known = np.isfinite(data["resampled_ceiling"].values)
    usable = np.isfinite(scores.values).all((0, 2)) & (known.all((0, 2)) | (not known.any()))
    return np.asarray(usable)
