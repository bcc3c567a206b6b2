"""What inference found: scores, their uncertainty, ceilings and tests, as one labelled data set."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor

from softrsa._files import StoredResult
from softrsa._groups import groups_in, unit_of_generalization
from softrsa.errors import DataError, unknown_name
from softrsa.inference.controlled import stack_given
from softrsa.inference.inner_products import score_once
from softrsa.inference.pair_table import Labels, Stack, with_groups
from softrsa.measures import Measure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SCHEMA = "1"


@dataclass(frozen=True)
class InferenceResult(StoredResult):
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
        the measure, settings, seed and versions to repeat it, and the labels of groups as JSON
        (`stimulus_groups`, `subject_groups`).

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
    _kind = "inference_result"
    _what = "result of inference"

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
        """Of t-based intervals and tests: the fewest things resampled or averaged, less one.

        Where stimuli or subjects are in groups, these are the things.
        """
        sizes = n_drawn(self.data)
        over = self.data.attrs.get("over", "subjects")
        return min(sizes.values() if over == "both" else [sizes[over]]) - 1

    @property
    def unit(self) -> str:
        """What intervals and t tests hold for beyond these data, in words."""
        over = self.data.attrs.get("over", "subjects")
        if over == "subjects" and self.data.sizes["subject"] < 2:
            over = "none"
        return unit_of_generalization(over, self.data.attrs)

    def standard_errors(self) -> np.ndarray:
        """Give the standard error of each model's mean score.

        Returns
        -------
        ndarray, shape (n_models,)
            From the bootstrap where there was one, else over subjects, or the means of groups of
            subjects (NaN for a single one).
        """
        if "variance" in self.data:
            return np.sqrt(self.data["variance"].values)
        each = over_groups(self.data, "score")
        n = each.shape[1]
        if n < 2:
            return np.full(len(self.names), np.nan)
        return each.std(1, ddof=1) / n**0.5

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
        mean = over_groups(self.data, "score").mean(1)
        return np.stack([mean - reach, mean + reach], 1)

    @property
    def table(self) -> pd.DataFrame:
        """One row per model.

        Returns
        -------
        DataFrame
            `score` (mean over subjects; where they are in groups, over the means of groups, so that
            groups count alike), `score_se`, the 95 % interval `ci_low`, `ci_high` (t), of
            a bootstrap also `percentile_low`, `percentile_high`; `ceiling_lower`, `ceiling_upper`;
            what tests were made: `p_permutation`, `p_permutation_fwer`, `p_zero`, `p_ceiling`; and
            counts, also of groups where stimuli or subjects are in some.
        """
        data = self.data
        low, high = self.intervals().T
        columns = {
            data.attrs["model_dim"]: self.names,
            "score": over_groups(data, "score").mean(1),
            "score_se": self.standard_errors(), "ci_low": low, "ci_high": high,
        }  # fmt: skip
        if "resampled_score" in data:
            columns["percentile_low"], columns["percentile_high"] = self.intervals(
                kind="percentile"
            ).T
        bounds = over_groups(data, "ceiling").mean(1)
        columns["ceiling_lower"], columns["ceiling_upper"] = bounds
        tests = ("p_permutation", "p_permutation_fwer", "p_zero", "p_ceiling")
        columns |= {name: data[name].values for name in tests if name in data}
        columns["n_subjects"] = data.sizes["subject"]
        columns["n_stimuli"] = data.attrs["n_stimuli"]
        for name, kind in zip(KINDS, ("stimuli", "subjects"), strict=True):
            if f"{name}_groups" in data.attrs:
                columns[f"n_{name}_groups"] = n_drawn(data)[kind]
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


KINDS = ("stimulus", "subject")


def n_drawn(data: xr.Dataset) -> dict[str, int]:
    """Count what is drawn or averaged: subjects and stimuli, or their groups."""
    n = {"subjects": data.sizes["subject"], "stimuli": int(data.attrs["n_stimuli"])}
    subjects = groups_in(data.attrs, "subject_groups", n["subjects"])
    stimuli = groups_in(data.attrs, "stimulus_groups", n["stimuli"])
    return {"subjects": len(subjects), "stimuli": len(stimuli)}


def over_groups(data: xr.Dataset, name: str) -> np.ndarray:
    """Values (..., n) of a variable by subject, or their means within groups of subjects."""
    values = data[name].transpose(..., "subject").values
    return groups_in(data.attrs, "subject_groups", values.shape[-1]).means(values)


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


def evaluate(
    models: Tensor | xr.DataArray,
    subjects_rsms: Tensor | xr.DataArray,
    measure: str | Measure | Callable[[Tensor, Tensor], Tensor],
    *,
    names: Sequence[str] | None = None,
    control: Tensor | xr.DataArray | None = None,
    subject_groups: Labels = None,
) -> InferenceResult:
    """Score fixed models against each subject, with noise ceilings, without resampling.

    Parameters
    ----------
    models : Tensor, shape (n_models, n_stimuli, n_stimuli) or (n_models, n_pairs), or DataArray
        RSMs or RDMs, square or condensed, or a labelled stack with one dimension, such as `layer`,
        before `anchor` and `neighbor`.
    subjects_rsms : Tensor or DataArray
        Of each subject, likewise, of the same stimuli; labelled stacks are joined by stimulus id.
    measure : str, Measure or callable
        Of RSMs: a name of `softrsa.measures.available`, its entry, or its function.
    names : sequence of str, optional
        What to call the models; by default their labels, or "model 1" and so on.
    control : Tensor, shape (n_stimuli, n_stimuli), (k, ...) or (n_pairs,), or DataArray, optional
        RSMs that are held constant, of the same stimuli and form as the models: scores, and noise
        ceilings, are then partial correlations (`softrsa.measures.partial_correlation`), and the
        attribute `control` names them. For pearson, spearman, cosine and centered_pearson.
    subject_groups : sequence or str, optional
        The group of each subject, such as a family, site or scanner, or the name of a coordinate of
        the subjects' stack that holds them. Subjects of a group are averaged first, groups count
        alike, and standard errors, intervals and tests are over groups; the lower ceiling compares
        a subject with the mean of other groups.

    Returns
    -------
    InferenceResult
        Standard errors are over subjects, or their groups. NaN, with a warning in the result, for a
        constant RSM.

    Raises
    ------
    DTypeError
        If RSMs are not float32 or float64.
    ShapeError
        If they are not of the shapes above, differ in their stimuli, or have fewer than 4; or if
        there is not a label of a group for each subject.
    StimulusError
        If labelled stacks differ in their stimuli, or only one side is labelled.
    DataError
        If values are infinite, names repeat, or fewer than 3 pairs are there in all RSMs; given a
        control, also if the measure has no partial form; if a group is missing (None, NaN), or
        there is but one.
    UnknownNameError
        If there is no such measure or coordinate.

    Notes
    -----
    A pair of stimuli that is NaN in any RSM is left out of all of them, and of ceilings.

    Examples
    --------
    >>> subjects = torch.rand(4, 45, generator=torch.Generator().manual_seed(0))
    >>> result = evaluate(subjects.mean(0)[None], subjects, "pearson", names=["mean"])
    >>> result.table[["score", "ceiling_lower"]].round(2)
       score  ceiling_lower
    0   0.56           0.14
    """
    stack, given = stack_given(models, subjects_rsms, measure, names, control)
    stack = with_groups(stack, models, subjects_rsms, subjects=subject_groups)
    return InferenceResult(describe(stack, **given))


def describe(stack: Stack, **settings: object) -> xr.Dataset:
    """Scores and ceilings on all stimuli, with the settings of what will be added."""
    scored = score_once(stack)
    scores = scored.scores[0]
    ceilings = torch.cat(scored.subject_ceilings(stack.values.new_ones(1, stack.n_subjects)))
    data = xr.Dataset(
        {
            "score": (("model", "subject"), scores.cpu().numpy()),
            "ceiling": (("bound", "subject"), ceilings.cpu().numpy()),
        },
        coords={
            "model": np.array(stack.models, dtype=object),
            "subject": np.array(stack.subjects, dtype=object),
            "bound": np.array(["lower", "upper"], dtype=object),
        },
    )
    data.attrs = {
        "softrsa_schema": SCHEMA, "measure": stack.entry.name,
        "model_dim": stack.model_dim, "n_stimuli": stack.n_stimuli,
        "n_missing_pairs": stack.n_missing, "warnings": json.dumps(cautions(stack, scores)),
        "versions": json.dumps(versions()), **settings,
        **stack.stimulus_groups.attributes("stimulus_groups"),
        **stack.subject_groups.attributes("subject_groups"),
    }  # fmt: skip
    return data


@cache
def versions() -> dict[str, str]:
    """Look up what made a result; reading it from disk takes longer than a small bootstrap."""
    found = {name: version(name) for name in ("softrsa", "torch")}
    return found | {"python": platform.python_version()}


def cautions(stack: Stack, scores: Tensor) -> list[str]:
    """Say what to know about these data: undefined scores, a single subject, missing pairs."""
    found = []
    lost = scores.isnan()
    models, subjects = lost.all(1), lost.all(0)
    if bool(models.all()) and stack.n_subjects > 1:  # no subject is the reason by itself
        subjects = torch.zeros_like(subjects)
    names = [*stack.models, *stack.subjects]
    undefined = [*models.tolist(), *subjects.tolist()]
    if any(undefined):
        which = ", ".join(name for name, lost in zip(names, undefined, strict=True) if lost)
        found.append(
            f"Scores are undefined (NaN) for {which}: there is no variance above rounding, or none "
            "is left after centering."
        )
    if stack.n_subjects == 1:
        found.append(
            "One subject: no noise ceiling and nothing about other subjects can be inferred; "
            "intervals over stimuli and permutation tests hold for this subject."
        )
    if stack.n_missing:
        found.append(f"{stack.n_missing} pairs missing in some RSM were left out of all.")
    return found
