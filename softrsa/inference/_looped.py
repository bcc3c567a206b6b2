"""Any other measure over resamples, one resample after another."""

from __future__ import annotations

import torch
from torch import Tensor

from softrsa.inference._stack import Stack


def looped_scores(stack: Stack, counts: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Scores (r, models, subjects), and of each resample the subjects' pairs (subjects, p)."""
    scores, resampled = [], []
    for times in stack.counts_of_pairs(counts).long():
        values = stack.values.repeat_interleave(times, dim=1)
        models, subjects = values[: stack.n_models], values[stack.n_models :]
        scores.append(stack.entry.function(models[:, None], subjects))
        resampled.append(subjects)
    return torch.stack(scores), resampled


def looped_ceilings(
    stack: Stack, resampled: list[Tensor], subject_counts: Tensor
) -> tuple[Tensor, Tensor]:
    """Lower and upper ceilings (r, n_subjects) where subjects occur so often (r, n_subjects)."""
    normalize = stack.entry.normalize or torch.clone
    lower, upper = [], []
    given = resampled * len(subject_counts) if len(resampled) == 1 else resampled
    for subjects, occurring in zip(given, subject_counts, strict=True):
        normal = normalize(subjects)
        everyone = occurring @ normal
        n_others = (occurring.sum() - occurring).clamp_min(1)[:, None]
        others = (everyone - occurring[:, None] * normal) / n_others
        lower.append(stack.entry.function(subjects, others))
        upper.append(stack.entry.function(subjects, everyone / occurring.sum()))
    return torch.stack(lower), torch.stack(upper)
