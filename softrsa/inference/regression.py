"""Regression of brain RSMs on several model RSMs: what each model adds to the others."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor

from softrsa._files import StoredResult
from softrsa.errors import unknown_name
from softrsa.inference.least_squares import (
    METHODS,
    choose_penalty,
    coefficients,
    explained,
    fit_held_out,
    held_out_shares,
    moments,
    resampled_means,
    spread,
    standardized,
    variance_inflation,
    with_intervals,
)
from softrsa.inference.pair_table import Stack, stack_rsms
from softrsa.inference.result import SCHEMA, versions

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HIGH_VIF = 10.0


class CollinearityWarning(UserWarning):
    """Predictors explain each other, so that their coefficients say little one by one."""


@dataclass(frozen=True)
class RegressionResult(StoredResult):
    """Coefficients of model RSMs in a regression of brain RSMs.

    Attributes
    ----------
    data : Dataset
        `coefficient` (predictor, subject), `r2` (subject) on the stimuli that were fitted,
        `r2_held_out` (subject) on stimuli and of subjects that were not (NaN without folds), `vif`
        (predictor), `coefficient_se` (predictor) and `resampled_coefficient` (kind, resample,
        predictor). `attrs` hold method, penalty, settings, seed and versions.

    Examples
    --------
    >>> rng = torch.Generator().manual_seed(0)
    >>> models = torch.rand(2, 435, generator=rng)
    >>> brains = 2 * models[0] + torch.rand(5, 435, generator=rng)
    >>> regress_rdms(models, brains, names=["shape", "color"]).table["predictor"].tolist()
    ['shape', 'color']
    """

    data: xr.Dataset
    _kind = "regression_result"
    _what = "result of `regress_rdms`"

    @property
    def warnings(self) -> list[str]:
        """What a reader of the coefficients must know before believing them."""
        return json.loads(self.data.attrs["warnings"])

    @property
    def table(self) -> pd.DataFrame:
        """One row per predictor.

        Returns
        -------
        DataFrame
            `predictor`, `vif` (variance inflation factor: by how much the others widen the variance
            of the coefficient, 1 if they are unrelated), `coefficient` (mean over subjects), its
            bootstrapped standard error `se` and 95 % interval `ci_low`, `ci_high`, and counts.
        """
        data = self.data
        value = data["coefficient"].mean("subject", skipna=False).values
        columns = {
            "predictor": data["predictor"].values, "vif": data["vif"].values, "coefficient": value,
            **with_intervals(value, data["coefficient_se"].values, int(data.attrs["df"])),
            "n_subjects": data.sizes["subject"], "n_stimuli": data.attrs["n_stimuli"],
        }  # fmt: skip
        return pd.DataFrame(columns)

    @property
    def by_subject(self) -> pd.DataFrame:
        """One row per subject: `r2`, `r2_held_out` and the coefficient of each predictor.

        Returns
        -------
        DataFrame
            `r2_held_out` is at most 1, and below 0 where the mean predicts better.
        """
        data = self.data
        columns = {name: data[name].values for name in ("r2", "r2_held_out")}
        columns |= {
            str(p): data["coefficient"].sel(predictor=p).values for p in data["predictor"].values
        }
        return pd.DataFrame({"subject": data["subject"].values, **columns})

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw coefficients as bars with their intervals, each subject as a point."""
        from softrsa.reports.regression_figures import plot_coefficients

        return plot_coefficients(self.data, self.table, ax=ax)


def regress_rdms(
    models: Tensor | xr.DataArray,
    subjects_rsms: Tensor | xr.DataArray,
    *,
    method: Literal["ols", "nnls", "ridge"] = "ols",
    standardize: bool = True,
    over: Literal["stimuli", "subjects", "both"] | None = None,
    n_resamples: int = 1000,
    folds: int | None = 5,
    seed: int = 0,
    names: Sequence[str] | None = None,
) -> RegressionResult:
    r"""Regress each subject's RSM on several model RSMs, with a constant.

    .. math:: y_{ij} = \beta_0 + \sum_m \beta_m x^{(m)}_{ij} + e_{ij}, \qquad i < j

    Parameters
    ----------
    models : Tensor, shape (n_models, n_stimuli, n_stimuli) or (n_models, n_pairs), or DataArray
        The predictors; see `softrsa.inference.evaluate`.
    subjects_rsms : Tensor or DataArray
        Of each subject, of the same stimuli; labelled stacks are joined by stimulus id.
    method : {"ols", "nnls", "ridge"}
        Least squares; least squares with coefficients of at least 0; or with a penalty on their
        squares, chosen on held-out stimuli among powers of 10 from 1e-4 to 100 (in the unit of the
        predictors' variance) and then held fixed, also over resamples.
    standardize : bool
        Whether RSMs are brought to variance 1 over their pairs first, anew in every resample:
        coefficients are then in standard deviations, in [-1, 1] for unrelated predictors. Otherwise
        in the unit of the subjects' RSMs per that of the model's.
    over : {"stimuli", "subjects", "both"}, optional
        What intervals should hold for beyond these data; see `softrsa.inference.bootstrap`. By
        default both, and stimuli where there is one subject.
    n_resamples : int
        At least 2.
    folds : int or None
        Parts of the stimuli, of at least 4 each, for `r2_held_out`: pairs within a part are
        predicted with the mean coefficients of the other subjects, fitted to pairs among all other
        stimuli. None for no such number.
    seed : int
        Of the draws and parts; held in the result.
    names : sequence of str, optional
        What to call the models; by default their labels, or "model 1" and so on.

    Returns
    -------
    RegressionResult
        With `table`, `by_subject`, `plot()`, `to_netcdf(path)`.

    Raises
    ------
    DTypeError, StimulusError, UnknownNameError
        As `softrsa.inference.evaluate`; UnknownNameError also for a method that is not known.
    ShapeError
        As there, and if there are not two pairs more than predictors.
    DataError
        As there, and if an RSM is constant, predictors are equal or collinear (the message says
        which), there is one subject for a bootstrap over subjects, or too few stimuli for the
        folds.

    Warns
    -----
    CollinearityWarning
        If a variance inflation factor is above 10.

    Notes
    -----
    Pairs that are NaN in any RSM are left out of all. A stimulus drawn twice makes no pair with
    itself. Resamples that cannot be fitted are left out, of all predictors alike. In simulations of
    30 and 60 stimuli, 95 % intervals of standardized coefficients covered 92 to 93 %: their errors
    grow with the coefficient, so that they end too low more often than too high. `r2_held_out`
    takes each subject's RSM less its mean in the part and divided by its standard deviation over
    all pairs; where there is one subject, its own coefficients predict.

    References
    ----------
    Schütt et al. (2023), doi:10.7554/eLife.82566; Jozwik et al. (2016),
    doi:10.1016/j.neuropsychologia.2015.10.023, for non-negative ones.

    Examples
    --------
    >>> rng = torch.Generator().manual_seed(0)
    >>> models = torch.rand(2, 435, generator=rng)
    >>> brains = models[0] + 0.5 * models[1] + 0.3 * torch.rand(5, 435, generator=rng)
    >>> result = regress_rdms(models, brains, n_resamples=200)
    >>> result.table[["predictor", "coefficient"]].round(1).values.tolist()
    [['model 1', 0.8], ['model 2', 0.4]]
    """
    if method not in METHODS:
        raise unknown_name("method of regression", method, METHODS)
    stack = stack_rsms(models, subjects_rsms, "pearson", names)
    over = over or ("both" if stack.n_subjects > 1 else "stimuli")
    values = standardized(stack, [*stack.models, *stack.subjects])
    vif = variance_inflation(values[: stack.n_models], stack.models)
    notes = said_collinear(vif, stack.models)
    every = tuple(range(stack.n_models))
    everything = torch.arange(stack.n_stimuli)
    penalty = 0.0
    if method == "ridge":
        penalty = choose_penalty(stack, values, every, everything, seed)
    units = _units(stack) if not standardize else None

    def of_stimuli(counts: Tensor) -> Tensor:
        given = moments(values, stack.n_models, stack.counts_of_pairs(counts))
        if units is None:
            return coefficients(given.correlations(), method, penalty)
        return coefficients(given, method, penalty) * units

    ones = stack.values.new_ones(1, stack.n_stimuli)
    found = of_stimuli(ones)[0]
    fit = moments(values, stack.n_models, stack.counts_of_pairs(ones))
    held_out = torch.full_like(found[0], torch.nan)
    if folds is not None:
        parts = fit_held_out(stack, values, [every], folds=folds, method=method, seed=seed)
        held_out = held_out_shares(stack, values, parts, ones)[every][0]
    resampled = resampled_means(of_stimuli, stack, over, n_resamples, seed)
    error, usable, df = spread(
        resampled, over, n_subjects=stack.n_subjects, n_stimuli=stack.n_stimuli
    )
    notes += said_unusable(usable)
    in_fit_units = found if units is None else found / units
    data = xr.Dataset(
        {
            "coefficient": (("predictor", "subject"), found.cpu().numpy()),
            "r2": ("subject", explained(in_fit_units[None], fit)[0].cpu().numpy()),
            "r2_held_out": ("subject", held_out.cpu().numpy()),
            "vif": ("predictor", vif.cpu().numpy()),
            "coefficient_se": ("predictor", error),
            "resampled_coefficient": (("kind", "resample", "predictor"), resampled),
        },
        {"predictor": as_labels(stack.models), "subject": as_labels(stack.subjects)},
    )
    settings = {
        "method": method, "standardize": int(standardize), "penalty": penalty, "df": df,
        "folds": folds or 0, "procedure": "regress_rdms",
    }  # fmt: skip
    return RegressionResult(data.assign_attrs(settings | describe_fit(stack, over, seed, notes)))


def _units(stack: Stack) -> Tensor:
    """Divide standard deviations of subjects by those of predictors (m, s)."""
    sd = stack.values.std(1, correction=0)
    return sd[stack.n_models :] / sd[: stack.n_models, None]


def as_labels(names: Sequence[str]) -> np.ndarray:
    """Names as netCDF keeps them."""
    return np.array(names, dtype=object)


def describe_fit(stack: Stack, over: str, seed: int, notes: list[str]) -> dict[str, object]:
    """Attributes of every result of least squares."""
    if stack.n_missing:
        notes = [*notes, f"{stack.n_missing} pairs missing in some RSM were left out of all."]
    if stack.n_subjects == 1:
        notes = [*notes, "One subject: intervals and held-out numbers hold for this subject."]
    return {
        "softrsa_schema": SCHEMA, "over": over, "seed": seed, "n_stimuli": stack.n_stimuli,
        "n_missing_pairs": stack.n_missing, "warnings": json.dumps(notes),
        "versions": json.dumps(versions()),
    }  # fmt: skip


def said_collinear(vif: Tensor, names: Sequence[str]) -> list[str]:
    """Warn of predictors that the others explain for the most part, and give the warning."""
    high = [
        f"{name} {value:.1f}"
        for name, value in zip(names, vif.tolist(), strict=True)
        if value > HIGH_VIF
    ]
    if not high:
        return []
    message = (
        f"Variance inflation factors above {HIGH_VIF:g}: {', '.join(high)}. These predictors "
        "explain each other, so that their coefficients are uncertain one by one, and may have the "
        "wrong sign. Leave some out, put them into one set of `partition_variance`, or use "
        "method='ridge'."
    )
    warnings.warn(message, CollinearityWarning, stacklevel=3)
    return [message]


def said_unusable(usable: np.ndarray) -> list[str]:
    """Say how many resamples were left out."""
    lost = int((~usable).sum())
    if not lost:
        return []
    return [f"{lost} of {len(usable)} resamples could not be fitted and were left out."]
