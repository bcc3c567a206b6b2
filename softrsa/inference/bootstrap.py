"""Bootstrap of model scores over stimuli, subjects, or both."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from softrsa._checks import check_count
from softrsa._groups import Groups
from softrsa.errors import DataError, ShapeError, unknown_name
from softrsa.inference.inner_products import FEWEST_DIFFERENT, chunks, score, score_once
from softrsa.inference.pair_table import Labels, Stack, stack_rsms, with_groups
from softrsa.inference.result import InferenceResult, describe, n_drawn, usable_resamples
from softrsa.measures import Measure


@dataclass(frozen=True)
class Variances:
    """Variances of mean scores.

    Attributes
    ----------
    models : ndarray, shape (n_models,)
        Of each model's score.
    differences : ndarray, shape (n_models, n_models)
        Of the difference of two models' scores; 0 on the diagonal.
    to_ceilings : ndarray, shape (n_models, 2)
        Of the difference from the lower and the upper noise ceiling.
    """

    models: np.ndarray
    differences: np.ndarray
    to_ceilings: np.ndarray


def resampling_variances(
    scores: np.ndarray, ceilings: np.ndarray, *, n_subjects: int | None, n_stimuli: int | None
) -> Variances:
    r"""Variances from bootstrapped scores, corrected for the number of subjects and stimuli.

    A bootstrap over :math:`n` things underestimates the variance by :math:`(n - 1) / n`. Resampling
    both at once counts part of it twice; from the variances over both, over subjects :math:`s` and
    over stimuli :math:`p`,

    .. math:: \frac{n_s}{n_s - 1} v_s + \frac{n_p}{n_p - 1} v_p
              - \frac{n_s n_p}{(n_s - 1)(n_p - 1)} (v_{both} - v_s - v_p),

    kept between the larger of the first two terms and :math:`v_{both}`.

    Parameters
    ----------
    scores : ndarray, shape (n_kinds, n_resamples, n_models)
        One kind of resampling, or three in the order both, subjects, stimuli.
    ceilings : ndarray, shape (n_kinds, n_resamples, 2)
        Noise ceilings of the same resamples, NaN where there are none.
    n_subjects, n_stimuli : int or None
        How many there are of what was resampled, groups where these were; None for what was not.

    Returns
    -------
    Variances
        NaN for a model whose score is undefined in any of the resamples.

    Raises
    ------
    ShapeError
        If there are neither one nor three kinds, or fewer than two resamples.

    References
    ----------
    Schütt et al. (2023), doi:10.7554/eLife.82566; ``rsatoolbox.util.inference_util``,
    ``extract_variances``.

    Examples
    --------
    >>> scores = np.array([[[0.1], [0.2], [0.3]]])
    >>> found = resampling_variances(
    ...     scores, np.full((1, 3, 2), np.nan), n_subjects=5, n_stimuli=None
    ... )
    >>> found.models.round(4)
    array([0.0125])
    """
    if len(scores) not in (1, 3) or scores.shape[1] < 2:
        raise ShapeError(
            "Variances need scores of one kind of resampling or of three, and two resamples, got "
            f"shape {scores.shape}."
        )
    together = np.concatenate([scores, ceilings], axis=-1)
    together = together - together.mean(axis=1, keepdims=True)
    covariance = np.einsum("krm,krl->kml", together, together) / (together.shape[1] - 1)
    own = np.einsum("kmm->km", covariance)
    between = own[:, :, None] + own[:, None] - 2 * covariance
    n_models = scores.shape[-1]
    return Variances(
        _corrected(own[:, :n_models], n_subjects, n_stimuli),
        _corrected(between[:, :n_models, :n_models], n_subjects, n_stimuli),
        _corrected(between[:, :n_models, n_models:], n_subjects, n_stimuli),
    )


def _corrected(variances: np.ndarray, n_subjects: int | None, n_stimuli: int | None) -> np.ndarray:
    """Correct variances (kinds, ...) for how many subjects and stimuli there are."""
    by_subjects, by_stimuli = (n / (n - 1) if n else 1.0 for n in (n_subjects, n_stimuli))
    if len(variances) == 1:
        return variances[0] * max(by_subjects, by_stimuli)
    both, subjects, stimuli = variances
    largest = np.maximum(by_subjects * subjects, by_stimuli * stimuli)
    total = (
        by_subjects * subjects
        + by_stimuli * stimuli
        - by_subjects * by_stimuli * (both - subjects - stimuli)
    )
    return np.minimum(np.maximum(total, largest), both)


KINDS = {"stimuli": ["stimuli"], "subjects": ["subjects"], "both": ["both", "subjects", "stimuli"]}


def bootstrap(
    models: Tensor | xr.DataArray,
    subjects_rsms: Tensor | xr.DataArray,
    measure: str | Measure | Callable[[Tensor, Tensor], Tensor],
    *,
    over: Literal["stimuli", "subjects", "both"] = "stimuli",
    n_resamples: int = 1000,
    seed: int = 0,
    ceilings: bool = True,
    names: Sequence[str] | None = None,
    stimulus_groups: Labels = None,
    subject_groups: Labels = None,
) -> InferenceResult:
    """Resample stimuli, subjects or both, and score fixed models on every resample.

    Parameters
    ----------
    models : Tensor, shape (n_models, n_stimuli, n_stimuli) or (n_models, n_pairs), or DataArray
        RSMs or RDMs; see `evaluate`.
    subjects_rsms : Tensor or DataArray
        Of each subject, of the same stimuli; see `evaluate`.
    measure : str, Measure or callable
        Of RSMs: a name of `softrsa.measures.available`, its entry, or its function.
    over : {"stimuli", "subjects", "both"}
        What results should hold for beyond these data: other stimuli, other subjects, or both (the
        dual bootstrap: the same draws together and each alone, and their variances combined; see
        `resampling_variances`).
    n_resamples : int
        At least 2.
    seed : int
        Of the draws; held in the result.
    ceilings : bool
        Whether noise ceilings are computed for every resample too. Without, the ceiling counts as
        known where models are compared with it.
    names : sequence of str, optional
        What to call the models.
    stimulus_groups : sequence or str, optional
        The group of each stimulus in the order of the models, such as its category, video or
        session; or the name of a coordinate that holds them. Whole groups are drawn then, all their
        stimuli with them: results hold for other groups. Groups of one are stimuli as usual.
    subject_groups : sequence or str, optional
        The group of each subject, such as a family or site, likewise; see `evaluate`.

    Returns
    -------
    InferenceResult
        Raw scores on the data and on every resample, variances, intervals, ceilings.

    Raises
    ------
    DTypeError, ShapeError, StimulusError, DataError, UnknownNameError
        As `evaluate`; DataError also for a single subject where subjects are to be drawn, where
        resamples are not a whole number from 2, where a measure of your own cannot score the
        pairs that are left of a resample of stimuli, or where stimuli have groups and none are
        drawn, or fewer than 3 groups.

    Notes
    -----
    A stimulus drawn twice makes no pair with itself. Resamples with fewer than 3 different stimuli
    (4 for centered Pearson), or a single group, are NaN. Variances, percentile intervals and tests
    leave them out, and also those on which a model that is defined on all the data is not, for
    instance because its RSM is constant there: of all models alike, so that these are compared on
    the same resamples. Pairs within a group that is drawn k times count k squared times.

    Pearson, cosine, their whitened forms and centered Pearson are matrix products over all
    resamples, Spearman and rho-a cumulative counts over values sorted once, in chunks of bounded
    memory; others, such as Kendall's tau or balanced Pearson, one resample after another. All in
    float64. Values are those of rsatoolbox's ``eval_bootstrap_pattern``, ``eval_bootstrap_rdm`` and
    ``eval_dual_bootstrap`` for the same draws, also with its ``pattern_descriptor`` and
    ``rdm_descriptor`` (groups of subjects of one size), except that the score reported is that of
    the data, not the mean over resamples, and that over subjects the ceiling's variance is not
    dropped.

    References
    ----------
    Schütt et al. (2023), doi:10.7554/eLife.82566.

    Examples
    --------
    >>> rng = torch.Generator().manual_seed(0)
    >>> model = torch.rand(45, generator=rng)
    >>> subjects = model + torch.rand(6, 45, generator=rng)
    >>> result = bootstrap(model[None], subjects, "pearson", over="both", n_resamples=200)
    >>> result.table[["score", "ci_low", "ci_high"]].round(2)
       score  ci_low  ci_high
    0   0.73    0.57      0.9
    """
    if over not in KINDS:
        raise unknown_name("way to resample", over, KINDS)
    check_count("n_resamples", n_resamples, 2)
    stack = stack_rsms(models, subjects_rsms, measure, names)
    stack = with_groups(
        stack, models, subjects_rsms, stimuli=stimulus_groups, subjects=subject_groups
    )
    if over == "subjects" and stimulus_groups is not None:
        raise DataError(
            "`stimulus_groups` say which stimuli are drawn together, and over='subjects' draws "
            "none: leave them out, or resample over='both'."
        )
    if over != "subjects" and len(stack.stimulus_groups) < FEWEST_DIFFERENT:
        raise DataError(
            f"A bootstrap over groups of stimuli needs at least {FEWEST_DIFFERENT} groups, got "
            f"{len(stack.stimulus_groups)}: too many resamples would hold one group again and "
            "again. Use smaller groups, or say what holds for other subjects, over='subjects'."
        )
    if over != "stimuli" and stack.n_subjects < 2:
        raise DataError(
            f"A bootstrap over {over} needs at least 2 subjects, got 1. With one subject, "
            "over='stimuli' and `permutation_test` still tell what holds for that subject."
        )
    rng = torch.Generator().manual_seed(seed)
    stimulus_counts = draw_groups(n_resamples, stack.stimulus_groups, rng).to(stack.values)
    subject_counts = draw_groups(n_resamples, stack.subject_groups, rng).to(stack.values)
    scores, bounds = resampled(stack, stimulus_counts, subject_counts, over, ceilings=ceilings)
    settings = {"seed": seed, "over": over, "n_resamples": n_resamples, "procedure": "bootstrap"}
    return InferenceResult(add_resamples(describe(stack, **settings), scores, bounds, over))


def draw_counts(n_resamples: int, n: int, rng: torch.Generator) -> Tensor:
    """How often each of n things occurs (n_resamples, n) among n draws with replacement."""
    drawn = torch.randint(n, (n_resamples, n), generator=rng)
    return torch.zeros(n_resamples, n).scatter_add_(1, drawn, torch.ones(n_resamples, n))


def draw_groups(n_resamples: int, groups: Groups, rng: torch.Generator) -> Tensor:
    """How often each thing occurs (n_resamples, n) where whole groups are drawn."""
    return draw_counts(n_resamples, len(groups), rng)[:, groups.codes]


def resampled(
    stack: Stack, stimulus_counts: Tensor, subject_counts: Tensor, over: str, *, ceilings: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Score resamples: (kinds, r, models) and ceilings (kinds, r, 2), kinds as in `KINDS`."""
    kinds, n = KINDS[over], len(stimulus_counts)
    scores = stimulus_counts.new_full((len(kinds), n, stack.n_models), torch.nan)
    bounds = stimulus_counts.new_full((len(kinds), n, 2), torch.nan)
    everyone = torch.ones_like(subject_counts)
    weights = {"stimuli": everyone, "both": subject_counts, "subjects": subject_counts}
    shares = stack.subject_groups.shares.to(stack.values)
    whole = score_once(stack)
    for part in chunks(stack, n):
        drawn = whole if over == "subjects" else score(stack, stimulus_counts[part])
        for k, kind in enumerate(kinds):
            on, counts = whole if kind == "subjects" else drawn, weights[kind][part]
            mean = (on.scores @ (counts * shares)[..., None]).squeeze(-1) / stack.n_subjects
            scores[k, part] = mean
            if ceilings:
                bounds[k, part] = on.ceilings(counts)
    if over != "subjects":
        fewest = max(FEWEST_DIFFERENT, stack.entry.smallest_n)
        few = ((stimulus_counts > 0).sum(1) < fewest) | of_one_group(stack, stimulus_counts)
        scores[:, few] = torch.nan
        bounds[:, few] = torch.nan
    return scores.cpu().numpy(), bounds.cpu().numpy()


def of_one_group(stack: Stack, counts: Tensor) -> Tensor:
    """Tell which resamples (r,) hold a single group of stimuli, whose counts (r, n) are given."""
    first = counts.argmax(1)  # of the most frequent ones; all others may be of its group
    groups = stack.stimulus_groups.codes.to(counts.device)
    apart = groups != groups[first][:, None]
    return ~(apart & (counts > 0)).any(1)


def add_resamples(
    data: xr.Dataset, scores: np.ndarray, bounds: np.ndarray, over: str
) -> xr.Dataset:
    """Add resampled scores and ceilings to a result, and the variances they give."""
    added = data.assign(
        resampled_score=(("kind", "resample", "model"), scores),
        resampled_ceiling=(("kind", "resample", "bound"), bounds),
    ).assign_coords(kind=np.array(KINDS[over], dtype=object), other=("other", data["model"].values))
    usable = usable_resamples(added)
    n_usable = int(usable.sum())
    if n_usable < max(2, len(usable) // 2):
        raise DataError(
            f"Only {n_usable} of {len(usable)} resamples can be scored: in the others a model or "
            "subject is constant or too few different stimuli, or a single group, are left. Use "
            "more stimuli and groups, or drop models with few different values."
        )
    n = n_drawn(data)
    variances = resampling_variances(
        scores[:, usable], bounds[:, usable],
        n_subjects=n["subjects"] if over != "stimuli" else None,
        n_stimuli=n["stimuli"] if over != "subjects" else None,
    )  # fmt: skip
    to_ceilings = variances.to_ceilings
    if not np.isfinite(bounds).any():  # the ceiling counts as known
        to_ceilings = np.repeat(variances.models[:, None], 2, axis=1)
    added = added.assign(
        variance=("model", variances.models),
        variance_difference=(("model", "other"), variances.differences),
        variance_to_ceiling=(("model", "bound"), to_ceilings),
    )
    if n_usable < len(usable):
        notes = [
            *json.loads(data.attrs["warnings"]),
            f"{len(usable) - n_usable} of {len(usable)} resamples could not be scored and were "
            "left out of variances, percentile intervals and tests, of all models alike.",
        ]
        added.attrs["warnings"] = json.dumps(notes)
    return added
