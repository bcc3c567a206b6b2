"""Measures of neighborhoods: which stimuli each RSM holds to be nearest to each stimulus."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from softrsa._checks import check_count
from softrsa._gradients import within
from softrsa._ranks import average_ranks, rounding_of
from softrsa.errors import DataError
from softrsa.measures.correlation import check_same_stimuli

MOST = 10  # neighbors by default, of many stimuli
SHARE = 4  # of few: one in so many of the others
TIE_BREAK = 1000  # beyond the number of subjects whose neighborhoods are pooled


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
    half, and of what both RSMs share between ties the product counts: what random orders of the
    ties have in common in the mean. So an RSM of ties alone scores as an unrelated one does. Not
    differentiable.

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
    shared = (left * right).sum(-1) / n_neighbors
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

    Notes
    -----
    Ties share the last places as in `mutual_knn`. Not differentiable.

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
    left, right, n_neighbors = _pair(x, y, k)
    shared = (left * right).sum(-1)
    return _finished((shared / (2 * n_neighbors - shared)).mean(-1), x, y)


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
        Score in [-1, 1]; with the default ``k`` never below -0.29, since neighbors are more similar
        than others. NaN where the neighbors of one RSM are all as similar as others.

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
    once = left.new_ones(x.shape[-1])
    rests = _less_row_means(x, once), _less_row_means(y, once)
    return _finished(_aligned((left * right, left, right), rests, once), x, y)


def resampled_mutual_knn(x: Tensor, y: Tensor, counts: Tensor) -> Tensor:
    """`mutual_knn` where stimuli occur so often (n,), each with as many places as it has copies.

    A stimulus' own copies are no neighbors of it; those of another come in the same order in both.
    """
    drawn = _drawn_pair(x, y, counts)
    shared = drawn.shared @ drawn.weights / drawn.n_neighbors
    return _finished(shared @ drawn.weights / drawn.weights.sum(), x, y)


def resampled_jaccard(x: Tensor, y: Tensor, counts: Tensor) -> Tensor:
    """`neighbor_jaccard` where stimuli occur so often (n,); see `resampled_mutual_knn`."""
    drawn = _drawn_pair(x, y, counts)
    shared = drawn.shared @ drawn.weights
    share = shared / (2 * drawn.n_neighbors - shared)
    return _finished(share @ drawn.weights / drawn.weights.sum(), x, y)


def resampled_cknna(x: Tensor, y: Tensor, counts: Tensor) -> Tensor:
    """`cknna` where stimuli occur so often (n,); see `resampled_mutual_knn`."""
    drawn = _drawn_pair(x, y, counts)
    one, other = (_less_row_means(_of_drawn(rsms, counts), drawn.weights) for rsms in (x, y))
    return _finished(_aligned(drawn[:3], (one, other), drawn.weights), x, y)


def neighbor_graph(x: Tensor) -> Tensor:
    """Bring RSMs (..., n, n) to what noise ceilings pool: 1 of a neighbor, 0 of others, float64.

    Shares for ties. Less than a thousandth of it is the rank within the row: of stimuli that are
    neighbors in equally many subjects, the one that is nearer in the mean comes first.
    """
    n = x.shape[-1]
    own = torch.eye(n, dtype=torch.bool, device=x.device)
    rows = x.detach().double()
    ranks = average_ranks(rows.masked_fill(own, -torch.inf))
    found = _memberships(x, _n_neighbors(n, None)) + ranks / (TIE_BREAK * n)
    return found.masked_fill(own, 0.0)


def mean_neighbors(x: Tensor) -> Tensor:
    """Bring RSMs (..., n, n) to what noise ceilings under `cknna` pool, float64.

    Similarities to neighbors less the row's mean, of norm 1; others are equal, so that rows sum
    to 0 and nothing is taken off the mean over subjects.
    """
    n = x.shape[-1]
    own = torch.eye(n, dtype=torch.bool, device=x.device)
    rows = x.detach().double()
    places = _memberships(x, _n_neighbors(n, None))
    near = places * _less_row_means(rows, rows.new_ones(n))
    far = (1 - places).masked_fill(own, 0.0)
    normal = near - far * (near.sum(-1, keepdim=True) / far.sum(-1, keepdim=True))
    norm = torch.linalg.vector_norm(near, dim=(-2, -1), keepdim=True)
    return normal / norm.masked_fill(norm == 0, torch.nan)


def _pair(x: Tensor, y: Tensor, k: int | None) -> tuple[Tensor, Tensor, int]:
    """Check two RSMs and find the neighbors in either."""
    check_same_stimuli(x, y, at_least=3)
    n_neighbors = _n_neighbors(x.shape[-1], k)
    left, right = (_memberships(one, n_neighbors) for one in (x, y))
    return left, right, n_neighbors


class _Drawn(NamedTuple):
    """Neighbors among stimuli that occur so often: see `_drawn_pair`."""

    shared: Tensor
    left: Tensor
    right: Tensor
    weights: Tensor
    n_neighbors: Tensor


def _drawn_pair(x: Tensor, y: Tensor, counts: Tensor) -> _Drawn:
    """Find the share of copies (..., m, m) among the neighbors in both RSMs, and in either.

    Also how often the m stimuli that are there occur (m,), and how many neighbors each has (m,):
    fewer than others where nearly all that is drawn are its own copies.
    """
    weights = counts[counts.nonzero().squeeze(1)].double()
    total = int(weights.sum())
    n_neighbors = (total - weights).clamp_max(_n_neighbors(total, None))
    places = [
        _drawn_memberships(_of_drawn(z, counts), n_neighbors, weights, z.dtype) for z in (x, y)
    ]
    (left, one), (right, other) = places
    # different stimuli that are tied come in any order, copies of one in the same order in both
    shared = torch.where(one & other, torch.minimum(left, right), left * right)
    return _Drawn(shared, left, right, weights, n_neighbors)


def _of_drawn(rsms: Tensor, counts: Tensor) -> Tensor:
    there = counts.nonzero().squeeze(1)
    return rsms.detach().double().index_select(-2, there).index_select(-1, there)


def _n_neighbors(n: int, k: int | None) -> int:
    others = n - 1
    if k is None:
        return max(1, min(MOST, others // SHARE))
    check_count("k", k, 1)
    if k > others:
        raise DataError(f"`k` must be at most {others}, the number of other stimuli, got {k}.")
    return k


def _memberships(rsms: Tensor, k: int) -> Tensor:
    """How far every stimulus is among the k nearest of each row, 0 to 1, k in sum; NaN stays."""
    own = torch.eye(rsms.shape[-1], dtype=torch.bool, device=rsms.device)
    rows = rsms.detach().double().masked_fill(own, -torch.inf)
    last = rows.topk(k, dim=-1).values[..., -1:]
    tied = _is_tied(rows, last, rsms.dtype)
    return _places(rows, last, tied, k, rows.new_ones(rows.shape[-1]))


def _drawn_memberships(
    rsms: Tensor, k: Tensor, weights: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """`_memberships` of k (m,) neighbors in rows where stimuli occur so often (m,).

    And whether copies of a single stimulus (..., m, 1) share the last places.
    """
    own = torch.eye(rsms.shape[-1], dtype=torch.bool, device=rsms.device)
    rows = rsms.masked_fill(own, -torch.inf)
    ordered, order = rows.sort(dim=-1, descending=True)
    filled = weights[order].cumsum(-1) < k.unsqueeze(-1)
    last = ordered.gather(-1, filled.sum(-1, keepdim=True).clamp_max(len(weights) - 2))
    tied = _is_tied(rows, last, dtype)
    alone = tied.sum(-1, keepdim=True) == 1
    return _places(rows, last, tied, k.unsqueeze(-1), weights), alone


def _places(rows: Tensor, last: Tensor, tied: Tensor, k: int | Tensor, weights: Tensor) -> Tensor:
    """Share of a place (..., n, n) of stimuli that occur so often, given the value of the last."""
    nearer = (rows > last) & ~tied
    weights = weights.unsqueeze(-1)
    left = k - nearer.double() @ weights
    share = left / (tied.double() @ weights).clamp_min(1)
    found = nearer.double() + tied * share
    return found.masked_fill(rows.isnan().any(-1, keepdim=True), torch.nan)


def _is_tied(rows: Tensor, last: Tensor, dtype: torch.dtype) -> Tensor:
    """Whether stimuli are as near as the last neighbor, but for rounding of a number type.

    Never a stimulus itself.
    """
    largest = rows.masked_fill(rows == -torch.inf, 0.0).abs().amax(-1, keepdim=True)
    return (rows - last).abs() <= rounding_of(largest, largest, dtype)


def _less_row_means(x: Tensor, weights: Tensor) -> Tensor:
    """Subtract from rows the mean over the other stimuli; 0 on the diagonal, float64."""
    own = torch.eye(len(weights), dtype=torch.bool, device=x.device)
    rows = x.detach().double().masked_fill(own, 0.0)
    means = rows @ weights / (weights.sum() - weights)
    return (rows - means.unsqueeze(-1)).masked_fill(own, 0.0)


def _aligned(
    places: tuple[Tensor, Tensor, Tensor], rests: tuple[Tensor, Tensor], weights: Tensor
) -> Tensor:
    """Cosine over mutual neighbors, given shares of places and rows less their means."""
    (shared, left, right), (a, b) = places, rests

    def total(entries: Tensor) -> Tensor:
        return entries @ weights @ weights

    size = (total(left * a.square()) * total(right * b.square())).sqrt()
    return within(total(shared * a * b) / size.masked_fill(size == 0, torch.nan))


def _finished(score: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return score.to(torch.promote_types(x.dtype, y.dtype))
