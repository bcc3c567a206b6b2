"""Scores and ceilings of resamples, by the fastest exact way that the measure has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from softrsa.inference._forms import (
    PRODUCT_MEASURES,
    WHITENED,
    cosines,
    form_ceilings,
    measured_forms,
)
from softrsa.inference._looped import looped_ceilings, looped_scores
from softrsa.inference._ranked import RANKED_MEASURES, ranked_ceilings, ranked_scores
from softrsa.inference._stack import Stack

CHUNK_BYTES = 128e6


@dataclass(frozen=True)
class Scored:
    """Scores (r, models, subjects) of resamples of stimuli, and how to get their ceilings."""

    scores: Tensor
    n_subjects: int
    of_subjects: Callable[[Tensor], tuple[Tensor, Tensor]]

    def ceilings(self, subject_counts: Tensor) -> Tensor:
        """Mean lower and upper ceilings (r, 2) over the different subjects that occur.

        NaN of a single subject; where but one is drawn, again and again, its lower ceiling is its
        upper one, as in rsatoolbox. One resample of stimuli serves for all r of subjects.
        """
        lower, upper = self.subject_ceilings(subject_counts)
        there = subject_counts > 0
        n_there = there.sum(1, keepdim=True)
        lower = torch.where(n_there > 1, lower, upper)
        return torch.stack([lower, upper], 1).where(there[:, None], 0.0).sum(-1) / n_there

    def subject_ceilings(self, subject_counts: Tensor) -> tuple[Tensor, Tensor]:
        """Lower and upper ceilings (r, n_subjects) where subjects occur so often."""
        if self.n_subjects < 2:
            undefined = torch.full_like(subject_counts, torch.nan)
            return undefined, undefined
        return self.of_subjects(subject_counts)


def score(stack: Stack, counts: Tensor) -> Scored:
    """Score models on resamples in which stimuli occur so often (r, n_stimuli), float64."""
    name = stack.entry.name
    if name in PRODUCT_MEASURES:
        forms = measured_forms(stack, counts)
        scores, ceilings = cosines(forms[0]), partial(form_ceilings, *forms)
    elif name in RANKED_MEASURES:
        scores, *ranked = ranked_scores(stack, counts)
        ceilings = partial(ranked_ceilings, stack, *ranked)
    else:
        scores, drawn = looped_scores(stack, counts)
        ceilings = partial(looped_ceilings, stack, drawn)
    return Scored(scores, stack.n_subjects, ceilings)


def score_once(stack: Stack) -> Scored:
    """Score models on the stimuli as they are."""
    return score(stack, stack.values.new_ones(1, stack.n_stimuli))


def chunks(stack: Stack, n_resamples: int) -> Iterator[slice]:
    """Split resamples into runs whose intermediate numbers fit into bounded memory."""
    n_rows, n_pairs = stack.values.shape
    # ranks are gone through many times, best in the processor's cache
    budget = CHUNK_BYTES / 16 if stack.entry.name in RANKED_MEASURES else CHUNK_BYTES
    each = {
        **dict.fromkeys(PRODUCT_MEASURES, 2 * n_pairs + n_rows**2),
        **dict.fromkeys(WHITENED, 2 * n_pairs + 4 * n_rows**2 + 4 * n_rows * stack.n_stimuli),
        **dict.fromkeys(RANKED_MEASURES, n_rows * n_pairs),
    }.get(stack.entry.name, 2 * n_rows * n_pairs)
    size = max(1, int(budget / (8 * each)))
    for start in range(0, n_resamples, size):
        yield slice(start, min(start + size, n_resamples))
