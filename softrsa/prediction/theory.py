"""What the loss of a neighbor head asks of the weights: its pairs, its triplets, its optimum."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from softrsa._checks import check_floating
from softrsa.errors import DataError, DTypeError, ShapeError


class LossTerms(NamedTuple):
    """Parts of each anchor's squared error, shape (m,); their sum is the error."""

    pairs: Tensor
    triplets: Tensor


def pair_and_triplet_terms(
    weights: Tensor, labels: Tensor, neighbor_labels: Tensor | None = None
) -> LossTerms:
    r"""Split each anchor's squared error into what pairs and what triplets contribute.

    With weights :math:`p_{ij}` that sum to 1 over the neighbors and
    :math:`\Delta_{ij} = y_i - y_j`, the error is a weighted sum of differences, so that

    .. math:: \Big(y_i - \sum_j p_{ij} y_j\Big)^2 = \Big(\sum_j p_{ij} \Delta_{ij}\Big)^2
              = \underbrace{\sum_j p_{ij}^2 \Delta_{ij}^2}_\text{pairs}
              + \underbrace{\sum_{j \ne k} p_{ij} p_{ik} \Delta_{ij} \Delta_{ik}}_\text{triplets}

    A pair costs the more, the more the labels differ: it pushes the anchor's neighbors apart by
    label. A triplet is negative where the anchor's label lies between the other two, whose errors
    then cancel, and positive where it is on one side of both.

    Parameters
    ----------
    weights : Tensor, shape (m, n)
        Neighbor weights of each anchor; rows sum to 1.
    labels : Tensor, shape (m,)
        Labels of the anchors.
    neighbor_labels : Tensor, shape (n,), optional
        Labels of the neighbors; those of the anchors by default.

    Returns
    -------
    LossTerms
        ``pairs`` (m,), never negative, and ``triplets`` (m,), in squared units of the labels.

    Raises
    ------
    DTypeError
        If a tensor is not float32 or float64, or their types differ.
    ShapeError
        If the shapes do not fit.

    Notes
    -----
    The triplets are the rest of the square, so the terms take the time of one product.

    Examples
    --------
    >>> weights = torch.tensor([[0.0, 0.5, 0.5]])
    >>> pair_and_triplet_terms(weights, torch.tensor([1.0]), torch.tensor([1.0, 0.0, 2.0]))
    LossTerms(pairs=tensor([0.5000]), triplets=tensor([-0.5000]))
    """
    columns = labels if neighbor_labels is None else neighbor_labels
    tensors = {"weights": weights, "labels": labels, "neighbor_labels": columns}
    check_floating(**tensors)
    dtypes = [x.dtype for x in tensors.values()]
    if len(set(dtypes)) > 1:
        raise DTypeError(f"`{'`, `'.join(tensors)}` must have one number type, got {dtypes}.")
    if weights.ndim != 2 or weights.shape != (*labels.shape, *columns.shape):
        raise ShapeError(
            f"`weights` must have shape (m, n) for m labels and n neighbor labels, got "
            f"{tuple(weights.shape)}, {tuple(labels.shape)} and {tuple(columns.shape)}."
        )
    shares = weights * (labels.unsqueeze(-1) - columns)
    pairs = shares.square().sum(-1)
    return LossTerms(pairs, shares.sum(-1).square() - pairs)


def triplet_optimum(label: Tensor, neighbor_labels: Tensor) -> Tensor:
    r"""Weights of two neighbors for which an anchor's squared error is least.

    Where :math:`y_i` lies between :math:`y_j` and :math:`y_k`, the error vanishes at

    .. math:: \frac{p_{ij}}{p_{ik}} = \frac{y_k - y_i}{y_i - y_j};

    where it is extreme, all weight goes to the nearer label.

    Parameters
    ----------
    label : Tensor, shape (...)
        Labels of anchors.
    neighbor_labels : Tensor, shape (..., 2)
        Labels of the two neighbors of each.

    Returns
    -------
    Tensor, shape (..., 2)
        Weights in [0, 1] with the sum 1. One half each where the two labels are equal: every
        weight is then optimal.

    Raises
    ------
    DTypeError
        If a tensor is not float32 or float64.
    ShapeError
        If there are not two neighbors.
    DataError
        If a label is not finite.

    Examples
    --------
    >>> triplet_optimum(torch.tensor([0.25, 2.0]), torch.tensor([0.0, 1.0]))
    tensor([[0.7500, 0.2500],
            [0.0000, 1.0000]])
    """
    check_floating(label=label, neighbor_labels=neighbor_labels)
    if neighbor_labels.ndim == 0 or neighbor_labels.shape[-1] != 2:
        raise ShapeError(
            f"`neighbor_labels` must have shape (..., 2), got {tuple(neighbor_labels.shape)}."
        )
    if not (label.isfinite().all() and neighbor_labels.isfinite().all()):
        raise DataError("Labels must be finite numbers.")
    first, second = neighbor_labels.unbind(-1)
    equal = first == second
    share = (second - label) / torch.where(equal, 1.0, second - first)
    share = torch.where(equal, 0.5, share.clamp(0.0, 1.0))
    return torch.stack([share, 1 - share], -1)
