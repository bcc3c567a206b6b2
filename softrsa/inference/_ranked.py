"""Rank correlations over many resamples at once, without sorting again for each.

A resample changes how often a value occurs, not the order of values: with the pairs of an RSM
sorted once, the rank of a pair is read off the cumulative counts of pairs before and up to it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from softrsa._ranks import tied_places
from softrsa.inference._stack import Stack

MEASURES = ("spearman", "rho_a")
EXACT_IN_FLOAT32 = 2**22  # up to here all half-integers, hence all average ranks, are exact


def ranked_scores(stack: Stack, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scores (r, models, subjects) of resamples in which stimuli occur so often (r, n_stimuli).

    Also twice the subjects' ranks less their mean (r, subjects, n_pairs), float64, and how often
    each pair occurs (r, n_pairs).
    """
    dtype = torch.float32 if stack.n_stimuli**2 < 2 * EXACT_IN_FLOAT32 else torch.float64
    weights = stack.counts_of_pairs(counts.to(dtype))
    total = weights.sum(1, keepdim=True)
    ranks = counts.new_empty(len(weights), *stack.values.shape)
    order, low, high = stack.places
    for k in range(len(stack.values)):
        before = _cumulated(weights.index_select(1, order[k]))
        # twice the rank less its mean, of ranks (before + up to + 1) / 2
        twice = before.index_select(1, low[k]).add_(before.index_select(1, high[k]))
        ranks[:, k] = twice.sub_(total)
    weights = weights.double()
    subjects = ranks[:, stack.n_models :].clone()
    ranks *= weights.sqrt()[:, None]
    models, others = ranks[:, : stack.n_models], ranks[:, stack.n_models :]
    return _correlation(models, others, weights, stack), subjects, weights


def _cumulated(weights: Tensor) -> Tensor:
    """Sum of the weights before each place, and of all at the end."""
    before = weights.new_zeros(*weights.shape[:-1], weights.shape[-1] + 1)
    torch.cumsum(weights, dim=-1, out=before[..., 1:])
    return before


def _correlation(left: Tensor, right: Tensor, weights: Tensor, stack: Stack) -> Tensor:
    """Correlate (r, a, p) and (r, b, p), twice the ranks times the root of the weights (r, p)."""
    cross = left @ right.mT
    if stack.entry.name == "rho_a":
        n = weights.sum(1)
        return cross * (3 / (n**3 - n))[:, None, None]
    # ranks of a constant deviate by exactly 0: the result is NaN there
    return cross / left.norm(dim=-1)[:, :, None] / right.norm(dim=-1)[:, None]


def ranked_ceilings(
    stack: Stack, deviations: Tensor, weights: Tensor, subject_counts: Tensor
) -> tuple[Tensor, Tensor]:
    """Lower and upper ceilings (r, n_subjects) where subjects occur so often (r, n_subjects)."""
    lower, upper = [], []
    n = len(subject_counts)
    resamples = deviations.expand(n, -1, -1), weights.expand(n, -1), subject_counts
    for ranks, pairs, occurring in zip(*resamples, strict=True):
        present = pairs.nonzero().squeeze(1)
        own, times = ranks[:, present], pairs[present]
        everyone = occurring @ own
        others = everyone - occurring[:, None] * own
        pooled = _weighted_ranks(torch.cat([others, everyone[None]]), times)
        root = times.sqrt()
        found = _correlation((pooled * root)[None], (own * root)[None], times[None], stack)[0]
        lower.append(found[:-1].diagonal())
        upper.append(found[-1])
    return torch.stack(lower), torch.stack(upper)


def _weighted_ranks(means: Tensor, weights: Tensor) -> Tensor:
    """Rank sums (k, p) of doubled ranks anew where pairs occur so often (p,): doubled, centered."""
    n_pairs = means.shape[1]
    # these sums are whole numbers; the place in their last digits tells the order once sorted
    keys = _ascending(means.long() * n_pairs + torch.arange(n_pairs, device=means.device))
    order = keys.remainder(n_pairs)
    before = _cumulated(weights[order])
    first, last = tied_places(keys.div(n_pairs, rounding_mode="floor"))
    ranks = before.gather(1, first) + before.gather(1, last + 1) - weights.sum()
    return torch.empty_like(ranks).scatter_(1, order, ranks)


def _ascending(keys: Tensor) -> Tensor:
    if keys.device.type == "cpu":  # NumPy sorts integers several times as fast as torch
        return torch.from_numpy(np.sort(keys.numpy(), axis=-1))
    return keys.sort(dim=-1).values
