"""Rank correlations over many resamples at once, without sorting again for each.

A resample changes how often a value occurs, not the order of values: with the pairs of an RSM
sorted once, the rank of a pair is read off the cumulative counts of pairs before and up to it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from softrsa._ranks import in_order, runs_of_equals, true_places
from softrsa.inference._stack import Stack

RANKED_MEASURES = ("spearman", "rho_a")
PART = 2**18  # entries of subjects' RSMs at a time: so many stay in the processor's cache
EXACT_IN_FLOAT32 = 2**22  # up to here all half-integers, hence all average ranks, are exact


def ranked_scores(stack: Stack, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scores (r, models, subjects) of resamples in which stimuli occur so often (r, n_stimuli).

    Also twice the subjects' ranks less their mean (r, subjects, q), float64, over the q pairs that
    occur, and how often each does (r, q).
    """
    exact = stack.n_stimuli**2 < 2 * EXACT_IN_FLOAT32 and bool((counts == counts.round()).all())
    dtype = torch.float32 if exact else torch.float64
    weights = stack.counts_of_pairs(counts.to(dtype))
    at, times = _occurring(weights)
    ranks = weights.new_empty(len(stack.values), *at.shape)
    for k, (order, ends, group) in enumerate(stack.places):
        upto = weights.index_select(1, order).cumsum(-1)
        upto = upto if ends is None else upto.index_select(1, ends)
        twice = upto.clone()  # twice the rank less 1/2: before + up to
        twice[:, 1:] += upto[:, :-1]
        index = group.index_select(0, at.flatten()).view(at.shape)
        torch.gather(twice, 1, index, out=ranks[k])
    ranks = ranks.sub_(weights.sum(-1, keepdim=True)).double().transpose(0, 1)
    times = times.double()
    models, subjects = ranks[:, : stack.n_models], ranks[:, stack.n_models :]
    return _correlation(models, subjects, times, stack), subjects, times


def _occurring(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Places (r, q) of the pairs with a weight (r, p), filled up to as many, and their weights."""
    there = weights > 0
    count = there.sum(1)
    longest = int(count.max())
    held = torch.arange(longest, device=weights.device) < count[:, None]
    places = torch.zeros(held.shape, dtype=torch.long, device=weights.device)
    places.view(-1)[true_places(held)] = true_places(there).remainder_(weights.shape[1])
    return places, weights.gather(1, places) * held


def _correlation(left: Tensor, right: Tensor, weights: Tensor, stack: Stack) -> Tensor:
    """Correlate (r, a, p) and (r, b, p), twice the centered ranks, of pairs with weights (r, p)."""
    weighted = right * weights[:, None]
    cross = left @ weighted.mT
    if stack.entry.name == "rho_a":
        n = weights.sum(1)
        return cross * (3 / (n**3 - n))[:, None, None]
    # ranks of a constant deviate by exactly 0: the result is NaN there
    own = (left.square() @ weights[..., None]).sqrt()
    return cross / own / weighted.mul_(right).sum(-1).sqrt()[:, None]


def ranked_ceilings(
    stack: Stack, deviations: Tensor, weights: Tensor, subject_counts: Tensor
) -> tuple[Tensor, Tensor]:
    """Lower and upper ceilings (r, n_subjects) where subjects occur so often (r, n_subjects)."""
    lower, upper = torch.empty_like(subject_counts), torch.empty_like(subject_counts)
    size = max(1, PART // deviations[0].numel())
    for start in range(0, len(subject_counts), size):
        part = slice(start, start + size)
        same = slice(1) if len(weights) == 1 else part  # one resample of stimuli serves for all
        own, times = deviations[same], weights[same]
        # who is in each mean: the others of every subject, and last everyone
        everyone = subject_counts[part, None]
        members = torch.cat([everyone - torch.diag_embed(everyone[:, 0]), everyone], 1)
        pooled = _weighted_ranks(members @ own, times, everyone.sum(-1).max())
        found = _correlation(pooled, own, times, stack)
        lower[part] = found[:, :-1].diagonal(dim1=1, dim2=2)
        upper[part] = found[:, -1]
    return lower, upper


def _weighted_ranks(sums: Tensor, weights: Tensor, most: Tensor) -> Tensor:
    """Rank sums (r, k, p), of at most ``most`` doubled ranks each, anew: doubled, centered.

    Pairs occur so often (r or 1, p).
    """
    n_pairs = sums.shape[-1]
    # these sums are whole numbers; the place in their last digits tells the order once sorted
    bits = n_pairs.bit_length()
    fits = float(most * weights.sum(-1).max()) < 2 ** (31 - bits)
    keys = sums.to(torch.int32 if fits else torch.int64)
    keys = keys.bitwise_left_shift_(bits).bitwise_or_(
        torch.arange(n_pairs, dtype=keys.dtype, device=keys.device)
    )
    keys = in_order(keys)
    order = (keys & (2**bits - 1)).long()
    weights = weights[:, None].expand_as(sums).gather(-1, order)
    ranks = _middles(keys.bitwise_right_shift_(bits), weights)
    return torch.empty_like(ranks).scatter_(-1, order, ranks)


def _middles(ascending: Tensor, weights: Tensor) -> Tensor:
    """Weight below each value plus weight up to it, less all: equal values have it in common."""
    upto = weights.cumsum(-1)
    middles = (2 * upto).sub_(weights)
    first, last = runs_of_equals(ascending)
    if len(first):
        flat, sums, own = middles.view(-1), upto.view(-1), weights.reshape(-1)
        shared = sums[first] - own[first] + sums[last]
        flat[first] = shared
        length = last - first
        places = torch.arange(int(length.sum()), device=first.device)
        places += (first + 1 + length - length.cumsum(0)).repeat_interleave(length)
        flat[places] = shared.repeat_interleave(length)
    return middles.sub_(upto[..., -1:])
