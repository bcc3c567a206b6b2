"""Which region an RDM matches best: everything from the products of all pairs of RDMs."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Rule = Literal["best_match", "centroid"]


PART = 2**22  # weights of pairs at a time


def products(vectors: Tensor, rule: Rule) -> Tensor:
    """Inner products (..., n_items, n_items) of condensed RDMs (..., n_items, n_pairs).

    For "best_match", of RDMs less their mean, so that correlations follow from them.
    """
    x = vectors - vectors.mean(-1, keepdim=True) if rule == "best_match" else vectors
    return x @ x.mT


def resampled_products(vectors: Tensor, rule: Rule, counts: Tensor) -> Tensor:
    """`products` (n_resamples, n_items, n_items) where stimuli occur ``counts`` times.

    ``counts`` is (n_resamples, n_stimuli). A pair of different stimuli counts as often as it
    occurs; a stimulus is not paired with itself.
    """
    n_stimuli = counts.shape[-1]
    first, second = torch.triu_indices(n_stimuli, n_stimuli, 1).unbind()
    found = []
    for part in counts.to(vectors).split(max(1, PART // len(first))):
        weights = part[:, first] * part[:, second]
        gram = torch.stack([(weights * item) @ vectors.mT for item in vectors], -2)
        if rule == "best_match":
            sums = weights @ vectors.mT
            total = weights.sum(-1)[:, None, None]
            gram = gram - sums.unsqueeze(-1) * sums.unsqueeze(-2) / total
        found.append(gram)
    return torch.cat(found)


def match_scores(gram: Tensor, references: Tensor, rule: Rule, items: Tensor) -> Tensor:
    """Score some items with every region's mean over reference items; larger is nearer.

    Parameters
    ----------
    gram : Tensor, shape (..., n_items, n_items)
        From `products` with the same rule.
    references : Tensor, shape (n_items, n_regions, n_items)
        1 for the items that make the mean of a region for an item, else 0.
    rule : {"best_match", "centroid"}
        Correlation with the mean, or minus the squared Euclidean distance from it.
    items : Tensor of int, shape (m,)
        Numbers of the items to score.

    Returns
    -------
    Tensor, shape (..., m, n_regions)
        NaN where a region has no reference, or an RDM is constant.
    """
    references = references.to(gram).index_select(0, items)
    absent = references.sum(-1) == 0
    count = references.sum(-1).clamp_min(1)
    to_mean = torch.einsum("...ij,irj->...ir", gram.index_select(-2, items), references) / count
    half = torch.einsum("irj,...jk->...irk", references, gram)
    of_mean = torch.einsum("...irk,irk->...ir", half, references) / count.square()
    own = gram.diagonal(dim1=-2, dim2=-1).index_select(-1, items).unsqueeze(-1)
    if rule == "centroid":
        scores = 2 * to_mean - own - of_mean
    else:  # without a division by 0, whose gradient would not be a number
        scores = to_mean / (own * of_mean.masked_fill(absent, 1.0)).sqrt()
    return scores.masked_fill(absent, torch.nan)


def best_region(scores: Tensor) -> Tensor:
    """Region (..., n_items) of the best score; -1 where a score is not a number."""
    best = scores.nan_to_num(-torch.inf).argmax(-1)
    return torch.where(scores.isnan().any(-1), -1, best)
