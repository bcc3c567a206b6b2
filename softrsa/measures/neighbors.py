"""Measures of neighborhoods: which stimuli each RSM holds to be nearest to each stimulus."""

from __future__ import annotations

import torch
from torch import Tensor

from softrsa._checks import check_count
from softrsa._gradients import within
from softrsa.errors import DataError
from softrsa.measures.correlation import check_same_stimuli

MOST = 10  # neighbors by default, of many stimuli
SHARE = 4  # of few: one in so many of the others


def mutual_knn(x: Tensor, y: Tensor, *, k: int | None = None) -> Tensor:
    r"""Share of each stimulus' k nearest neighbors that two RSMs have in common, on average.

    .. math:: \frac1n \sum_i \frac{|N_x(i) \cap N_y(i)|}{k}

    Parameters
    ----------
    x, y : Tensor, shape (..., n_stimuli, n_stimuli)
        RSMs of the same stimuli, larger is more similar; neighbors are sought in the rows, the
        diagonal is not read. Leading dimensions broadcast. At least 3 stimuli.
    k : int, optional
        Neighbors of each stimulus, fewer than stimuli. By default 10, or one in four of the other
        stimuli where these are fewer than 40 (1 at least).

    Returns
    -------
    Tensor, shape (...)
        Score in [0, 1]; of unrelated RSMs about k / (n_stimuli - 1). NaN where a similarity is.

    Raises
    ------
    DTypeError
        If either tensor is not float32 or float64.
    ShapeError
        If the two are not square, differ in their number of stimuli, or have fewer than 3.
    DataError
        If ``k`` is not between 1 and the number of other stimuli.

    Notes
    -----
    Stimuli that are equally similar share the last places: of two for one place, either counts
    half. Not differentiable.

    References
    ----------
    Huh, Cheung, Wang & Isola (2024), arXiv:2405.07987.

    Examples
    --------
    >>> x = torch.tensor([[1.0, 0.9, 0.1], [0.9, 1.0, 0.2], [0.1, 0.2, 1.0]])
    >>> y = torch.tensor([[1.0, 0.9, 0.1], [0.9, 1.0, 0.2], [0.3, 0.2, 1.0]])
    >>> mutual_knn(x, y, k=1)
    tensor(0.6667)
    """
    left, right, n_neighbors = _pair(x, y, k)
    shared = torch.minimum(left, right).sum(-1) / n_neighbors
    return _finished(shared.mean(-1), x, y)


def neighbor_jaccard(x: Tensor, y: Tensor, *, k: int | None = None) -> Tensor:
    r"""Jaccard similarity of each stimulus' k nearest neighbors in two RSMs, on average.

    .. math:: \frac1n \sum_i \frac{|N_x(i) \cap N_y(i)|}{|N_x(i) \cup N_y(i)|}

    Parameters
    ----------
    x, y : Tensor, shape (..., n_stimuli, n_stimuli)
        As for `mutual_knn`.
    k : int, optional
        As for `mutual_knn`.

    Returns
    -------
    Tensor, shape (...)
        Score in [0, 1]. NaN where a similarity is.

    Raises
    ------
    DTypeError, ShapeError, DataError
        As `mutual_knn`.

    References
    ----------
    Klabunde et al. (2025), Similarity of neural network models, doi:10.1145/3728458.

    Examples
    --------
    >>> x = torch.tensor([[1.0, 0.9, 0.1], [0.9, 1.0, 0.2], [0.1, 0.2, 1.0]])
    >>> y = torch.tensor([[1.0, 0.9, 0.1], [0.9, 1.0, 0.2], [0.3, 0.2, 1.0]])
    >>> neighbor_jaccard(x, y, k=1)
    tensor(0.6667)
    """
    left, right, _ = _pair(x, y, k)
    shared = torch.minimum(left, right).sum(-1) / torch.maximum(left, right).sum(-1)
    return _finished(shared.mean(-1), x, y)


def cknna(x: Tensor, y: Tensor, *, k: int | None = None) -> Tensor:
    r"""Alignment of two RSMs over mutual nearest neighbors only.

    With rows less their means, :math:`\tilde x_{ij} = x_{ij} - \bar x_i`, and sums over the pairs
    of a stimulus and its k nearest neighbors in x, in y, or in both,

    .. math:: \frac{\sum_{N_x \cap N_y} \tilde x_{ij} \tilde y_{ij}}
              {\sqrt{\sum_{N_x} \tilde x_{ij}^2 \; \sum_{N_y} \tilde y_{ij}^2}}

    Parameters
    ----------
    x, y : Tensor, shape (..., n_stimuli, n_stimuli)
        As for `mutual_knn`.
    k : int, optional
        As for `mutual_knn`; with all others as neighbors the rows' means are all that sets it apart
        from a cosine.

    Returns
    -------
    Tensor, shape (...)
        Score in [-1, 1], hardly ever below 0, since neighbors are more similar than others. NaN
        where the neighbors of one RSM are all as similar as others.

    Raises
    ------
    DTypeError, ShapeError, DataError
        As `mutual_knn`.

    Notes
    -----
    The formula of the paper, with means over the other stimuli; the authors' program takes a
    debiased independence criterion of the masked kernels instead, which is not bounded. Not
    differentiable.

    References
    ----------
    Huh, Cheung, Wang & Isola (2024), arXiv:2405.07987, equations 10 and 11.

    Examples
    --------
    >>> x = torch.tensor([[1.0, 0.9, 0.1], [0.9, 1.0, 0.2], [0.1, 0.2, 1.0]])
    >>> y = torch.tensor([[1.0, 0.9, 0.1], [0.9, 1.0, 0.2], [0.3, 0.2, 1.0]])
    >>> cknna(x, y, k=1)
    tensor(0.9912)
    """
    left, right, _ = _pair(x, y, k)
    a, b = _less_row_means(x), _less_row_means(y)
    shared = (torch.minimum(left, right) * a * b).sum(-1).sum(-1)
    sizes = [(mask * rest.square()).sum(-1).sum(-1) for mask, rest in ((left, a), (right, b))]
    size = (sizes[0] * sizes[1]).sqrt()
    return _finished(within(shared / size.masked_fill(size == 0, torch.nan)), x, y)


def _pair(x: Tensor, y: Tensor, k: int | None) -> tuple[Tensor, Tensor, int]:
    """Check two RSMs and find the neighbors in either."""
    check_same_stimuli(x, y, at_least=3)
    n_neighbors = _n_neighbors(x, k)
    left, right = (_memberships(one.detach().double(), n_neighbors) for one in (x, y))
    return left, right, n_neighbors


def _n_neighbors(x: Tensor, k: int | None) -> int:
    others = x.shape[-1] - 1
    if k is None:
        return max(1, min(MOST, others // SHARE))
    check_count("k", k, 1)
    if k > others:
        raise DataError(f"`k` must be at most {others}, the number of other stimuli, got {k}.")
    return k


def _memberships(rsms: Tensor, k: int) -> Tensor:
    """How far every stimulus is among the k nearest of each row, 0 to 1, k in sum; NaN stays."""
    n = rsms.shape[-1]
    own = torch.eye(n, dtype=torch.bool, device=rsms.device)
    unknown = (rsms.isnan() & ~own).any(-1, keepdim=True)
    rows = rsms.masked_fill(own, -torch.inf)
    last = rows.topk(k, dim=-1).values[..., -1:]
    nearer = rows > last
    tied = (rows == last) & ~own
    left = k - nearer.sum(-1, keepdim=True)
    share = left / tied.sum(-1, keepdim=True).clamp_min(1)
    found = nearer.double() + tied * share
    return found.masked_fill(unknown, torch.nan)


def _less_row_means(x: Tensor) -> Tensor:
    """Subtract from rows the mean over the other stimuli; 0 on the diagonal, float64."""
    n = x.shape[-1]
    own = torch.eye(n, dtype=torch.bool, device=x.device)
    rows = x.detach().double().masked_fill(own, 0.0)
    return (rows - rows.sum(-1, keepdim=True) / (n - 1)).masked_fill(own, 0.0)


def _finished(score: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return score.to(torch.promote_types(x.dtype, y.dtype))
