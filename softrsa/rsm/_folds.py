"""Sums over pairs of folds that no fold enters twice, and the distances made of them."""

from __future__ import annotations

import torch
from torch import Tensor

from softrsa._checks import check_floating
from softrsa.errors import DataError, ShapeError


def check_folds(x_folds: Tensor) -> None:
    """Check that there are at least two folds, and something in them."""
    check_floating(x_folds=x_folds)
    if x_folds.ndim < 3 or 0 in x_folds.shape[-2:]:
        raise ShapeError(
            "`x_folds` must have shape (..., n_folds, n_stimuli, n_units) with at least one of "
            f"each, got {tuple(x_folds.shape)}."
        )
    if x_folds.shape[-3] < 2:
        raise ShapeError(f"Cross-validation needs at least 2 folds, got {x_folds.shape[-3]}.")


def recorded_rows(x_folds: Tensor) -> Tensor:
    """Tell which stimuli each fold has, shape (..., n_folds, n_stimuli): the others are NaN."""
    absent = x_folds.detach().isnan()
    partly = absent.any(-1) & ~absent.all(-1)
    if bool(partly.any()):
        *_, fold, stimulus = partly.nonzero()[0].tolist()
        raise DataError(
            f"Stimulus {stimulus} of fold {fold} is NaN in some units and not in others "
            f"({int(partly.sum())} such in all). A stimulus that a fold lacks is NaN throughout; "
            "leave out units with gaps."
        )
    return ~absent[..., 0]


def across_folds(left: Tensor, right: Tensor) -> Tensor:
    """Sum the products of all pairs of different folds: all pairs without those of a fold with it.

    Shapes (..., n_folds, n, p) and (..., n_folds, m, p) give (..., n, m).
    """
    if right.shape[-2] <= right.shape[-1]:  # products need no more memory than the folds
        own = (left @ right.mT).sum(-3)
    else:
        own = left.transpose(-3, -2).flatten(-2) @ right.transpose(-3, -2).flatten(-2).mT
    return left.sum(-3) @ right.sum(-3).mT - own


def distances(products: Tensor) -> Tensor:
    """Squared distances of products (..., n, n) that need not be symmetric; exact 0 to itself."""
    twice = products + products.mT
    own = twice.diagonal(dim1=-2, dim2=-1)
    return (own.unsqueeze(-1) + own.unsqueeze(-2)) / 2 - twice


def shared_distances(left: Tensor, right: Tensor, recorded: Tensor) -> Tensor:
    """Average squared distances over the pairs of folds that have both stimuli; else NaN."""
    n_folds, n = recorded.shape[-2:]
    both = recorded.unsqueeze(-1) & recorded.unsqueeze(-2)  # of each fold
    total = torch.zeros((), dtype=left.dtype, device=left.device)
    count = torch.eye(n, dtype=torch.long, device=left.device)  # no distance to itself is NaN
    for fold in range(n_folds):
        others = [other for other in range(n_folds) if other != fold]
        used = both[..., fold : fold + 1, :, :] & both[..., others, :, :]
        each = distances(left[..., fold : fold + 1, :, :] @ right[..., others, :, :].mT)
        total = total + (used * each).sum(-3)
        count = count + used.sum(-3)
    return total / count


def pooled_distances(left: Tensor, right: Tensor, counts: Tensor) -> Tensor:
    """Squared distances of inner products, each averaged over its own pairs of trials."""
    weights = counts.unsqueeze(-1)
    products = across_folds(weights * left, weights * right) / across_folds(weights, weights)
    itself = torch.eye(products.shape[-1], dtype=torch.bool, device=products.device)
    return distances(products).masked_fill(itself, 0.0)
