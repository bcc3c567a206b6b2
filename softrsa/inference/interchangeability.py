"""Whether a model is as near to brains as brains are to each other."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
import xarray as xr
from scipy import stats
from torch import Tensor

from softrsa._checks import check_count
from softrsa._files import StoredResult
from softrsa.errors import DataError, ShapeError, unknown_name
from softrsa.inference.bootstrap import KINDS, draw_counts, resampling_variances
from softrsa.inference.inner_products import FEWEST_DIFFERENT, chunks, score, score_once
from softrsa.inference.pair_table import Stack, stack_rsms
from softrsa.inference.result import SCHEMA, cautions, versions
from softrsa.measures import Measure

FEWEST_SUBJECTS = 3


@dataclass(frozen=True)
class InterchangeabilityResult(StoredResult):
    """Scores of models with subjects beside those of subjects with each other.

    Attributes
    ----------
    data : Dataset
        `score` (model, subject); `between` (subject), the mean score of a subject with the others;
        `difference`, `variance` (model); `resampled_difference` (kind, resample, model). `attrs`
        hold measure, seed, numbers and versions.

    Examples
    --------
    >>> rng = torch.Generator().manual_seed(0)
    >>> subjects = torch.rand(45, generator=rng) + torch.rand(6, 45, generator=rng)
    >>> result = interchangeability(subjects[:1], subjects[1:], "pearson", n_resamples=50)
    >>> result.table[["model", "n_subjects"]].values.tolist()
    [['model 1', 5]]
    """

    data: xr.Dataset
    _kind = "interchangeability_result"
    _what = "result of `interchangeability`"

    @property
    def warnings(self) -> list[str]:
        """What a reader of the numbers must know before believing them."""
        return json.loads(self.data.attrs["warnings"])

    @property
    def table(self) -> pd.DataFrame:
        """One row per model.

        Returns
        -------
        DataFrame
            `model`; `model_score`, its mean score over subjects; `subject_score`, the mean score of
            two different subjects; `difference` of the two, its 95 % interval `ci_low`, `ci_high`,
            and `p_below`, one-sided: how often a model that is as near to brains as these are to
            each other would come out as far below or further.
        """
        data = self.data
        difference, error = data["difference"].values, np.sqrt(data["variance"].values)
        half = stats.t.ppf(0.975, data.attrs["degrees_of_freedom"]) * error
        with np.errstate(divide="ignore", invalid="ignore"):
            p = stats.t.cdf(difference / error, data.attrs["degrees_of_freedom"])
        return pd.DataFrame(
            {
                "model": data["model"].values,
                "model_score": data["score"].mean("subject", skipna=False).values,
                "subject_score": float(data["between"].mean(skipna=False)),
                "difference": difference, "ci_low": difference - half, "ci_high": difference + half,
                "p_below": p, "n_subjects": data.sizes["subject"],
            }
        )  # fmt: skip


def interchangeability(
    models: Tensor | xr.DataArray,
    subjects_rsms: Tensor | xr.DataArray,
    measure: str | Measure | Callable[[Tensor, Tensor], Tensor] = "centered_pearson",
    *,
    reliability: Sequence[float] | Tensor | None = None,
    over: Literal["stimuli", "subjects", "both"] = "both",
    n_resamples: int = 1000,
    seed: int = 0,
    names: Sequence[str] | None = None,
) -> InterchangeabilityResult:
    r"""Compare how well models match subjects with how well subjects match each other.

    A model could stand in for a brain if it is no further from brains than these are from each
    other. With :math:`s` the score and :math:`b_1 \ldots b_n` the subjects,

    .. math:: \frac1n \sum_j s(\text{model}, b_j) \;-\; \frac1{n (n - 1)} \sum_{i \ne j} s(b_i, b_j)

    Parameters
    ----------
    models : Tensor, shape (n_models, n_stimuli, n_stimuli) or (n_models, n_pairs), or DataArray
        RSMs or RDMs; see `evaluate`.
    subjects_rsms : Tensor or DataArray
        Of each subject, of the same stimuli; see `evaluate`. At least 3 subjects.
    measure : str, Measure or callable
        Of RSMs, larger is more similar.
    reliability : sequence of float, shape (n_subjects,), optional
        Expected score of each subject's RSM with that subject's true one, in (0, 1], such as
        ``trial_ceiling(trials).upper``. Scores are divided by it, those of two subjects by both.
        For measures that are correlations. Without it, the noise of *two* subjects lowers the score
        of brains, that of *one* the score of a model, which helps models.
    over : {"stimuli", "subjects", "both"}
        What the interval generalizes to; see `bootstrap`.
    n_resamples : int
        At least 2.
    seed : int
        Of the draws; held in the result.
    names : sequence of str, optional
        What to call the models.

    Returns
    -------
    InterchangeabilityResult
        With `table`, `to_netcdf(path)`.

    Raises
    ------
    DTypeError, ShapeError, StimulusError, DataError, UnknownNameError
        As `bootstrap`; DataError also for fewer than 3 subjects, a measure that is a distance, or
        reliabilities that are not in (0, 1] or not of a correlation.

    Notes
    -----
    A large `p_below` is no proof that a model is as near as brains are: `ci_low` says how much
    further it may be. Pairs of a subject with itself, which a resample of subjects may hold, are
    left out. Learned transforms must have been fitted on other stimuli and subjects.

    References
    ----------
    Feather, Khosla, Murty & Nayebi (2025), arXiv:2502.16238.

    Examples
    --------
    >>> rng = torch.Generator().manual_seed(0)
    >>> common = torch.rand(190, generator=rng)
    >>> subjects = common + 0.5 * torch.rand(8, 190, generator=rng)
    >>> models = torch.stack([common, torch.rand(190, generator=rng)])
    >>> result = interchangeability(models, subjects, "pearson", names=["alike", "unlike"])
    >>> result.table[["model", "model_score", "subject_score", "p_below"]].round(2)
        model  model_score  subject_score  p_below
    0   alike         0.89           0.79      1.0
    1  unlike        -0.02           0.79      0.0
    """
    if over not in KINDS:
        raise unknown_name("way to resample", over, KINDS)
    check_count("n_resamples", n_resamples, 2)
    stack = stack_rsms(models, subjects_rsms, measure, names)
    noise = _checked(stack, reliability)
    rng = torch.Generator().manual_seed(seed)
    stimulus_counts = draw_counts(n_resamples, stack.n_stimuli, rng).to(stack.values)
    subject_counts = draw_counts(n_resamples, stack.n_subjects, rng).to(stack.values)
    together = _with_subjects(stack)
    resampled = _resampled(together, noise, stimulus_counts, subject_counts, over)
    settings = {"seed": seed, "over": over, "n_resamples": n_resamples}
    return InterchangeabilityResult(_labelled(together, noise, resampled, settings))


def _checked(stack: Stack, reliability: Sequence[float] | Tensor | None) -> Tensor:
    """Refuse what cannot be compared; give what scores with each subject are divided by."""
    entry, n = stack.entry, stack.n_subjects
    if n < FEWEST_SUBJECTS:
        raise DataError(
            f"How alike brains are needs at least {FEWEST_SUBJECTS} subjects, got {n}. "
            "`trial_ceiling` gives a ceiling of a single subject."
        )
    if not entry.larger_is_more_similar:
        raise DataError(f"{entry.name!r} is a distance; take a measure that is a similarity.")
    if reliability is None:
        return stack.values.new_ones(n)
    if entry.range != (-1.0, 1.0):
        raise DataError(
            f"`reliability` is for correlations, whose range is -1 to 1; that of {entry.name!r} is "
            f"{entry.range[0]:g} to {entry.range[1]:g}. Leave `reliability` out."
        )
    noise = torch.as_tensor(reliability, dtype=torch.float64).to(stack.values.device)
    if noise.shape != (n,):
        raise ShapeError(
            f"`reliability` must hold one number for each of {n} subjects, got shape "
            f"{tuple(noise.shape)}."
        )
    low, high = float(noise.min()), float(noise.max())
    if not 0 < low <= high <= 1:
        raise DataError(
            f"`reliability` must be above 0 and at most 1, got {low:g} to {high:g}; leave out "
            "subjects whose data have none."
        )
    return noise


def _with_subjects(stack: Stack) -> Stack:
    """Let subjects be models too, after the models."""
    whole = stack.whole
    return replace(
        stack,
        values=torch.cat([stack.values, stack.of_subjects]),
        n_models=stack.n_models + stack.n_subjects,
        models=stack.models + tuple(f"{name} as a model" for name in stack.subjects),
        whole=None if whole is None else torch.cat([whole, whole[stack.n_models :]]),
    )


def _differences(scores: Tensor, noise: Tensor, counts: Tensor) -> Tensor:
    """Mean score of each model less that of two brains, by how often subjects are drawn (r, n).

    Of scores (r, n_models + n, n); (r, n_models), NaN where all draws are of one subject.
    """
    n = len(noise)
    freed = scores / noise
    models, between = freed[:, :-n], freed[:, -n:] / noise[:, None]
    own = torch.eye(n, dtype=torch.bool, device=noise.device)
    total = counts.sum(-1)
    pairs = total.square() - counts.square().sum(-1)
    together = ((between.masked_fill(own, 0.0) @ counts[..., None]).squeeze(-1) * counts).sum(-1)
    brains = together / pairs.masked_fill(pairs == 0, torch.nan)
    return (models @ counts[..., None]).squeeze(-1) / total[:, None] - brains[:, None]


def _resampled(
    stack: Stack, noise: Tensor, stimulus_counts: Tensor, subject_counts: Tensor, over: str
) -> np.ndarray:
    """Differences on resamples (kinds, r, n_models), kinds as in `KINDS`."""
    everyone = torch.ones_like(subject_counts)
    whole = score_once(stack).scores
    found = {kind: [] for kind in KINDS[over]}
    for part in chunks(stack, len(stimulus_counts)):
        drawn = whole if over == "subjects" else score(stack, stimulus_counts[part]).scores
        for kind, parts in found.items():
            scores = whole if kind == "subjects" else drawn
            counts = everyone if kind == "stimuli" else subject_counts
            parts.append(_differences(scores, noise, counts[part]))
    differences = torch.stack([torch.cat(parts) for parts in found.values()])
    if over != "subjects":
        few = (stimulus_counts > 0).sum(1) < max(FEWEST_DIFFERENT, stack.entry.smallest_n)
        differences[:, few] = torch.nan
    return differences.cpu().numpy()


def _labelled(
    stack: Stack, noise: Tensor, resampled: np.ndarray, settings: dict[str, Any]
) -> xr.Dataset:
    """Scores, differences and their variances, with the settings of how they came about."""
    n_models, n = stack.n_models - stack.n_subjects, stack.n_subjects
    scores = score_once(stack).scores
    difference = _differences(scores, noise, noise.new_ones(1, n))[0]
    freed = (scores[0] / noise).cpu().numpy()
    between = freed[n_models:] / noise.cpu().numpy()[:, None]
    np.fill_diagonal(between, 0.0)
    usable = _usable(resampled, difference.isfinite().cpu().numpy())
    over = settings["over"]
    sizes = {"subjects": n, "stimuli": stack.n_stimuli}
    variances = resampling_variances(
        resampled[:, usable], np.full((len(resampled), int(usable.sum()), 2), np.nan),
        n_subjects=n if over != "stimuli" else None,
        n_stimuli=stack.n_stimuli if over != "subjects" else None,
    )  # fmt: skip
    notes = cautions(replace(stack, n_models=n_models, models=stack.models[:n_models]), scores[0])
    return xr.Dataset(
        {
            "score": (("model", "subject"), freed[:n_models]),
            "between": ("subject", between.sum(0) / (n - 1)),
            "difference": ("model", difference.cpu().numpy()),
            "variance": ("model", variances.models),
            "resampled_difference": (("kind", "resample", "model"), resampled),
        },
        {
            "model": np.array(stack.models[:n_models], dtype=object),
            "subject": np.array(stack.subjects, dtype=object),
            "kind": np.array(KINDS[over], dtype=object),
        },
        {
            "softrsa_schema": SCHEMA, "measure": stack.entry.name, "n_stimuli": stack.n_stimuli,
            "n_missing_pairs": stack.n_missing, "warnings": json.dumps(notes),
            "degrees_of_freedom": min(sizes.values() if over == "both" else [sizes[over]]) - 1,
            "versions": json.dumps(versions()), **settings,
        },
    )  # fmt: skip


def _usable(resampled: np.ndarray, defined: np.ndarray) -> np.ndarray:
    """Tell which resamples are of use: those on which all that is defined can be scored."""
    usable = np.asarray(np.isfinite(resampled[..., defined]).all((0, 2)))
    if usable.sum() < max(2, len(usable) // 2):
        raise DataError(
            f"Only {int(usable.sum())} of {len(usable)} resamples can be scored: in the others too "
            "few different stimuli or subjects are left. Use more of them."
        )
    return usable
