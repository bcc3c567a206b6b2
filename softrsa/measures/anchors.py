"""Measures that compare RSMs one stimulus at a time: each row of one with rows of the other."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from softrsa._gradients import again, within
from softrsa._ranks import rounding_of
from softrsa.measures.correlation import check_same_stimuli
from softrsa.transforms import double_center
from softrsa.transforms.center import center_counted, residual, without_offsets


def per_anchor_pearson(x: Tensor, y: Tensor) -> Tensor:
    r"""Mean over stimuli of the Pearson correlation of their rows in two square RSMs.

    Both RSMs are double-centered (`softrsa.transforms.double_center`) to :math:`C` and :math:`D`;
    row i of one is compared with row i of the other, without the entry of the stimulus itself:

    .. math:: \frac1n \sum_i r\big(C_{ij}, D_{ij} : j \ne i\big)

    Parameters
    ----------
    x, y : Tensor, shape (..., n_stimuli, n_stimuli)
        Square RSMs, symmetric or not, of the same stimuli; leading dimensions broadcast. At least
        4 stimuli. The diagonal is not read.

    Returns
    -------
    Tensor, shape (...)
        Mean correlation in [-1, 1]. NaN where the row of a stimulus is constant after centering,
        because its correlation is then undefined.

    Raises
    ------
    DTypeError
        If either tensor is not float32 or float64.
    ShapeError
        If the two are not square, differ in their number of stimuli, or have fewer than 4.

    Notes
    -----
    Every stimulus counts alike, however much its row varies: a factor per row, such as a gate can
    make, changes nothing. Rows are anchors; of asymmetric RSMs columns are not looked at by
    themselves. Differentiable wherever it is defined.

    Examples
    --------
    >>> x = torch.tensor([[0.0, 1, 2, 3], [1, 0, 5, 4], [2, 5, 0, 6], [3, 4, 6, 0]])
    >>> per_anchor_pearson(x, 2 * x + torch.tensor([5.0, 0, 9, 2]))
    tensor(1.0000)
    """
    check_same_stimuli(x, y, at_least=4)
    return within(_RowCosines.apply(x, y))


def _unit_rows(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Centered rows of norm 1, and their norms (..., n, 1), infinite where they are constant."""
    rest, size, scale = residual(matrix)
    norms = torch.linalg.vector_norm(rest, dim=-1, keepdim=True)
    least = rounding_of(size, size) / matrix.shape[-1] ** 0.5
    norms = norms.masked_fill(norms <= least, torch.inf)
    return rest.div_(norms), norms / scale


class _RowCosines(torch.autograd.Function):
    """`_per_anchor_pearson` with its gradient in closed form."""

    @staticmethod
    def forward(ctx, x: Tensor, y: Tensor) -> Tensor:
        (x_unit, x_norms), (y_unit, y_norms) = _unit_rows(x), _unit_rows(y)
        scores = (x_unit * y_unit).sum(-1, keepdim=True)
        ctx.save_for_backward(x, y, x_unit, y_unit, x_norms, y_norms, scores)
        undefined = (x_norms.isinf() | y_norms.isinf()).any(-2, keepdim=True)
        mean = scores.double().mean(-2, keepdim=True).to(scores.dtype)
        return mean.masked_fill(undefined, torch.nan)[..., 0, 0]

    @staticmethod
    def backward(ctx, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        x, y, x_unit, y_unit, x_norms, y_norms, scores = ctx.saved_tensors
        needed = ctx.needs_input_grad
        if torch.is_grad_enabled():  # somebody will differentiate once more
            return again(_per_anchor_pearson, (x, y), grad_outputs[0], needed)
        grad = grad_outputs[0][..., None, None] / x.shape[-1]

        def gradient(own: Tensor, other: Tensor, norms: Tensor) -> Tensor:
            to_rows = torch.sub(other, scores * own).mul_(grad / norms).sum_to_size(own.shape)
            return without_offsets(to_rows)

        return (
            gradient(x_unit, y_unit, x_norms) if needed[0] else None,
            gradient(y_unit, x_unit, y_norms) if needed[1] else None,
        )


def _per_anchor_pearson(x: Tensor, y: Tensor) -> Tensor:
    """`per_anchor_pearson` in plain arithmetic."""
    left, right = double_center(x), double_center(y)
    norms = left.norm(dim=-1) * right.norm(dim=-1)
    return ((left * right).sum(-1) / norms).mean(-1)


def resampled_per_anchor_pearson(x: Tensor, y: Tensor, counts: Tensor) -> Tensor:
    """`per_anchor_pearson` where stimuli occur so often (n,); copies of one make no pair."""
    (left, weights), (right, _) = center_counted(x, counts), center_counted(y, counts)
    squares = (left.square() @ weights) * (right.square() @ weights)
    rows = ((left * right) @ weights) / squares.sqrt()
    return within((rows @ weights) / weights.sum())


def stimulus_identification(x: Tensor, y: Tensor) -> Tensor:
    r"""Share of wrong stimuli whose row matches that of a stimulus less well than its own does.

    Both RSMs are double-centered (`softrsa.transforms.double_center`) to :math:`C` and :math:`D`.
    With :math:`r_{ij}` the Pearson correlation of row i of C with row j of D, without the entries
    of stimuli i and j,

    .. math:: \frac{1}{n (n - 1)} \sum_{i \ne j} [r_{ij} < r_{ii}] + \tfrac12 [r_{ij} = r_{ii}]

    and the score is the mean of this and the same with the two RSMs exchanged.

    Parameters
    ----------
    x, y : Tensor, shape (..., n_stimuli, n_stimuli)
        Square RSMs, symmetric or not, of the same stimuli; leading dimensions broadcast. At least
        5 stimuli: of 4, two entries are left to compare. The diagonal is not read.

    Returns
    -------
    Tensor, shape (...)
        Share in [0, 1]: 1 if every stimulus is told apart from all others, .5 by chance. NaN where
        a row is constant after centering, or what is left of it without one more entry.

    Raises
    ------
    DTypeError
        If either tensor is not float32 or float64.
    ShapeError
        If the two are not square, differ in their number of stimuli, or have fewer than 5.

    Notes
    -----
    Correlations are equal if they are within rounding, as in `spearman`. Computed in float64, by
    products of n x n matrices. A share has no gradient.

    See Also
    --------
    first_rank_identification : how often the right stimulus is the best match of all.

    References
    ----------
    Kay, Naselaris, Prenger & Gallant (2008), doi:10.1038/nature06713, who identify stimuli by the
    best match.

    Examples
    --------
    >>> x, noise = torch.rand(2, 30, 30, generator=torch.Generator().manual_seed(0))
    >>> stimulus_identification(x, 2 * x + 1)
    tensor(1.)
    >>> stimulus_identification(x, noise)
    tensor(0.3971)
    """
    found = _row_correlations(x, y)
    return _both_ways(_shares_below, *found).to(torch.promote_types(x.dtype, y.dtype))


def first_rank_identification(x: Tensor, y: Tensor) -> Tensor:
    """Share of stimuli whose own row matches better than the rows of all others.

    Rows are compared as in `stimulus_identification`; a tie with k others counts 1 / (k + 1).

    Parameters
    ----------
    x, y : Tensor, shape (..., n_stimuli, n_stimuli)
        As for `stimulus_identification`.

    Returns
    -------
    Tensor, shape (...)
        Mean of both directions, in [0, 1]; 1 / n_stimuli by chance. NaN where
        `stimulus_identification` is.

    Raises
    ------
    DTypeError, ShapeError
        As `stimulus_identification`.

    Examples
    --------
    >>> x, noise = torch.rand(2, 30, 30, generator=torch.Generator().manual_seed(0))
    >>> first_rank_identification(x, x + noise / 2)
    tensor(1.)
    """
    found = _row_correlations(x, y)
    return _both_ways(_shares_first, *found).to(torch.promote_types(x.dtype, y.dtype))


def resampled_identification(x: Tensor, y: Tensor, counts: Tensor) -> Tensor:
    """`stimulus_identification` where stimuli occur so often (n,); copies are not told apart."""
    (left, weights), (right, _) = center_counted(x, counts), center_counted(y, counts)
    dtype = torch.promote_types(x.dtype, y.dtype)
    return _both_ways(_shares_below, _correlate(left, right, weights), weights, dtype)


def _row_correlations(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, torch.dtype]:
    """Check and correlate; also how often each stimulus occurs, and the coarser number type."""
    check_same_stimuli(x, y, at_least=5)
    left, right = (double_center(rsms.detach().double()) for rsms in (x, y))
    weights = left.new_ones(x.shape[-1])
    coarse = torch.float32 if torch.float32 in (x.dtype, y.dtype) else torch.float64
    return _correlate(left, right, weights), weights, coarse


def _correlate(left: Tensor, right: Tensor, weights: Tensor) -> Tensor:
    """Correlations of rows i of the left with rows j of the right, without entries i and j.

    Of double-centered RSMs (..., n, n): self entries are 0 and rows sum to 0 already.
    """
    product = (left * weights) @ right.mT
    apart = 1 - torch.eye(len(weights), dtype=weights.dtype, device=weights.device)
    number = weights.sum() - weights.unsqueeze(-1) - weights * apart
    sums, other_sums = -weights * left, -(weights * right).mT
    squares = _squares_left(left, weights) - sums.square() / number
    other_squares = _squares_left(right, weights).mT - other_sums.square() / number
    whole = (left.square() @ weights).unsqueeze(-1)
    other_whole = (right.square() @ weights).unsqueeze(-2)
    constant = (squares <= rounding_of(whole, whole)) | (
        other_squares <= rounding_of(other_whole, other_whole)
    )
    found = (product - sums * other_sums / number) / (squares * other_squares).sqrt()
    return found.masked_fill(constant, torch.nan)


def _squares_left(matrix: Tensor, weights: Tensor) -> Tensor:
    """Sum up squares of rows i without entry j, (..., i, j)."""
    squares = matrix.square() * weights
    return squares.sum(-1, keepdim=True) - squares


Shares = Callable[[Tensor, Tensor, Tensor], Tensor]


def _both_ways(shares: Shares, found: Tensor, weights: Tensor, dtype: torch.dtype) -> Tensor:
    """Mean over stimuli, and over both RSMs as the one whose rows are looked for."""
    undefined = found.isnan().any(-1).any(-1)
    one = found.new_ones(())
    rounding, total = rounding_of(one, one, dtype), 0.0
    for way in (found, found.mT):
        less = way.diagonal(dim1=-2, dim2=-1).unsqueeze(-1) - way
        total = total + shares(less > rounding, less.abs() <= rounding, weights) @ weights
    return (total / (2 * weights.sum())).masked_fill(undefined, torch.nan)


def _shares_below(below: Tensor, tied: Tensor, weights: Tensor) -> Tensor:
    """Share of other stimuli (..., n) that match less well, ties half; the own is a tie."""
    number = below.to(weights) @ weights + (tied.to(weights) @ weights - weights) / 2
    return number / (weights.sum() - weights)


def _shares_first(below: Tensor, tied: Tensor, weights: Tensor) -> Tensor:
    """One (..., n) where none matches better, shared with those that match as well."""
    first = (below | tied).all(-1)
    return first.to(weights) / tied.sum(-1)
