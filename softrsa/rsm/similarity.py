"""Representational similarity matrices: similarities between stimuli across units."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from softrsa.errors import ShapeError
from softrsa.pairs import condense
from softrsa.rsm._arguments import Bandwidth, check_arguments
from softrsa.rsm._blocks import fill, whole, write_condensed, write_mirrored, write_rows
from softrsa.rsm._plans import PLANS, WIDE, plan_maker
from softrsa.rsm._rbf import rbf_from_distances

SIMILARITIES = tuple(PLANS)


def similarity_matrix(
    x: Tensor,
    y: Tensor | None = None,
    *,
    similarity: str = "correlation",
    bandwidth: Bandwidth = None,
    precision: Tensor | None = None,
) -> Tensor:
    r"""Similarity of every stimulus of ``x`` to every stimulus of ``y`` (of ``x`` by default).

    With rows :math:`x, y` of :math:`p` units, larger is always more similar:

    ==============  ======================================================================
    `correlation`   Pearson correlation across units
    `cosine`        :math:`\langle x, y\rangle / \lVert x\rVert\lVert y\rVert`
    `dot`           :math:`\langle x, y\rangle / p`
    `l2`, `l1`      :math:`-\lVert x - y\rVert_2`, :math:`-\lVert x - y\rVert_1`
    `sqeuclidean`   :math:`-\lVert x - y\rVert_2^2 / p`: minus rsatoolbox's "euclidean"
    `rbf`           :math:`\exp(-\lVert x - y\rVert_2^2 / 2\sigma^2)`
    `mahalanobis`   :math:`-(x - y)^\top P (x - y) / p`
    ==============  ======================================================================

    Parameters
    ----------
    x : Tensor, shape (..., n, n_units)
        Responses, float32 or float64, in any unit.
    y : Tensor, shape (..., m, n_units), optional
        Responses of other stimuli in the same units; leading dimensions broadcast with ``x``'s.
    similarity : str
        A name of the table above.
    bandwidth : float or "median", optional
        :math:`\sigma` of `rbf`, in units of the Euclidean distance. None means "median": of the
        distances between different rows (all rows of ``x`` to all of ``y``), per matrix.
    precision : Tensor, shape (..., n_units, n_units), optional
        :math:`P` of `mahalanobis`, which needs it; leading dimensions broadcast with ``x``'s.

    Returns
    -------
    Tensor, shape (..., n, m)
        Without ``y`` exactly symmetric, with an exact 1 (`correlation`, `cosine`, `rbf`) or
        0 (distances) on the diagonal. NaN in the row and column of a stimulus whose response is
        constant (`correlation`) or zero (`cosine`), where the similarity is undefined.

    Raises
    ------
    DTypeError
        If a tensor is neither float32 nor float64, or they differ.
    UnknownNameError
        If ``similarity`` is not in the table.
    ShapeError
        If the shapes do not fit each other.
    DataError
        If ``precision`` or ``bandwidth`` does not suit the similarity.

    Notes
    -----
    Distances are summed in float64 and pairs of nearly equal rows are taken one by one, so no
    digits are lost. `correlation`, `cosine` and `dot` multiply in the type of the input and add up
    stretches of units in float64. Under `torch.autocast` these three multiply float32 responses in
    its type (and entries are rounded to it; in float16, `dot` must stay below 65504 times the
    number of units); everything else, and the result, has the type of the input. Without gradient,
    memory beside the result stays below 200 MB; with gradient, a graph of the whole computation is
    held. Where two rows coincide, the gradient of `l2` and `l1` is 0; that of `rbf` flows through
    the median bandwidth too.

    References
    ----------
    Kriegeskorte, Mur & Bandettini (2008), doi:10.3389/neuro.06.004.2008.

    Examples
    --------
    >>> x = torch.tensor([[1.0, 2.0, 3.0], [2.0, 4.0, 6.0], [3.0, 1.0, 2.0]])
    >>> similarity_matrix(x)
    tensor([[ 1.0000,  1.0000, -0.5000],
            [ 1.0000,  1.0000, -0.5000],
            [-0.5000, -0.5000,  1.0000]])
    >>> similarity_matrix(x[:1], x[1:], similarity="sqeuclidean")
    tensor([[-4.6667, -2.0000]])
    """
    check_arguments(x, y, similarity, bandwidth, precision)
    if precision is not None and precision.ndim > 2:
        return _each_precision(similarity_matrix, x, y, precision)
    if y is not None:
        lead = torch.broadcast_shapes(x.shape[:-2], y.shape[:-2])
        x, y = x.expand(*lead, -1, -1), y.expand(*lead, -1, -1)
    make = plan_maker(similarity, precision)
    if _needs_grad(x, y, precision):
        result = whole(x, y, make)
    else:
        result = x.new_empty(*x.shape[:-1], (x if y is None else y).shape[-2])
        write = write_mirrored if y is None else write_rows
        fill(result, x, y, make, write, wide=similarity in WIDE)
    if similarity == "rbf":
        return rbf_from_distances(
            result, bandwidth, dims=2, n_self=0 if y is not None else x.shape[-2]
        )
    return result


def condensed_similarity(
    x: Tensor,
    *,
    similarity: str = "correlation",
    bandwidth: Bandwidth = None,
    precision: Tensor | None = None,
) -> Tensor:
    """Upper triangle of `similarity_matrix`, without ever holding the square.

    Parameters
    ----------
    x : Tensor, shape (..., n_stimuli, n_units)
        Responses, float32 or float64; at least two stimuli.
    similarity, bandwidth, precision
        As in `similarity_matrix`.

    Returns
    -------
    Tensor, shape (..., n_pairs)
        Similarities in the order of `softrsa.pairs.condense`.

    Raises
    ------
    ShapeError
        If there are fewer than two stimuli; otherwise the errors of `similarity_matrix`.

    Notes
    -----
    Half the multiplications and half the memory of the square. With gradient, the square is made.

    Examples
    --------
    >>> condensed_similarity(torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]]), similarity="l2")
    tensor([-5.0000, -1.0000, -4.2426])
    """
    check_arguments(x, None, similarity, bandwidth, precision)
    n = x.shape[-2]
    if n < 2:
        raise ShapeError(f"`x` needs at least 2 stimuli to make a pair, got {n}.")
    if precision is not None and precision.ndim > 2:
        return _each_precision(condensed_similarity, x, None, precision)
    make = plan_maker(similarity, precision)
    if _needs_grad(x, precision):
        result = condense(whole(x, None, make))
    else:
        result = x.new_empty(*x.shape[:-2], n * (n - 1) // 2)
        fill(result, x, None, make, write_condensed, wide=similarity in WIDE)
    return rbf_from_distances(result, bandwidth, dims=1) if similarity == "rbf" else result


def _each_precision(
    compute: Callable[..., Tensor], x: Tensor, y: Tensor | None, precision: Tensor
) -> Tensor:
    """Compute Mahalanobis similarities one precision after the other."""
    given = [x, precision] if y is None else [x, precision, y]
    lead = torch.broadcast_shapes(*(tensor.shape[:-2] for tensor in given))
    flat = [tensor.expand(*lead, -1, -1).flatten(0, -3) for tensor in given]
    results = [
        compute(one, *other, similarity="mahalanobis", precision=matrix)
        for one, matrix, *other in zip(*flat, strict=True)
    ]
    return torch.stack(results).unflatten(0, lead)


def _needs_grad(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
