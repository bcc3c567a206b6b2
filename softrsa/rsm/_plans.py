"""How each similarity is put together from sums over units: the table of similarities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

ALL = slice(None)
CLOSE = 1e-3  # squared distances below this share of the squared norms have lost digits
PAIR_BYTES = 2**24

Prepare = Callable[[slice, slice], Tensor]  # (rows, units) -> what enters the sum over units


class Plan(NamedTuple):
    """One similarity between the rows of two recordings, as a sum over units and what follows."""

    left: Prepare
    right: Prepare
    pairwise: Callable[[Tensor, Tensor], Tensor]
    finish: Callable[[Tensor, slice, slice], Tensor]
    self_similarity: float | None  # of any row with itself; None where it depends on the row
    wide: bool  # computed in float64 whatever the input, with a few temporaries


def _gram(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.mT).to(x.dtype)  # autocast gives a shorter type


def _city_block(x: Tensor, y: Tensor) -> Tensor:
    return torch.cdist(x, y, p=1.0)


def _moments(x: Tensor, units: Sequence[slice], center: bool) -> tuple[Tensor, Tensor]:
    """Mean and length of each row, shape (..., n, 1); length 0 for a row with nothing to scale."""
    mean = torch.zeros_like(x[..., :1])
    if center:
        sums = (x[..., u].sum(-1, keepdim=True) for u in units)
        mean = reduce(torch.add, sums) / x.shape[-1]
    squares = ((x[..., u] - mean).square().sum(-1, keepdim=True).double() for u in units)
    length = reduce(torch.add, squares).sqrt().to(x.dtype)
    if center:
        low, high = torch.aminmax(x.detach(), dim=-1, keepdim=True)
        length = length.masked_fill(low == high, 0.0)  # the mean of equal values is rounded
    return mean, length


def _normalized(x: Tensor, y: Tensor, units: Sequence[slice], *, center: bool) -> Plan:
    def prepare(z: Tensor) -> Prepare:
        mean, length = _moments(z, units, center)
        return lambda rows, u: (z[..., rows, u] - mean[..., rows, :]) / length[..., rows, :]

    left = prepare(x)
    right = left if y is x else prepare(y)
    return Plan(left, right, _gram, lambda total, _rows, _columns: total, 1.0, False)


def correlation(x: Tensor, y: Tensor, units: Sequence[slice], precision: Tensor | None) -> Plan:
    """Pearson correlation across units."""
    return _normalized(x, y, units, center=True)


def cosine(x: Tensor, y: Tensor, units: Sequence[slice], precision: Tensor | None) -> Plan:
    """Cosine of the angle between rows."""
    return _normalized(x, y, units, center=False)


def dot(x: Tensor, y: Tensor, _units: Sequence[slice], precision: Tensor | None) -> Plan:
    """Inner product per unit."""
    n_units = x.shape[-1]
    return Plan(
        lambda rows, u: x[..., rows, u],
        lambda rows, u: y[..., rows, u],
        _gram,
        lambda total, _rows, _columns: total / n_units,
        None,
        False,
    )


def l1(x: Tensor, y: Tensor, _units: Sequence[slice], precision: Tensor | None) -> Plan:
    """City-block distance, negative; summed in float64."""
    return Plan(
        lambda rows, u: x[..., rows, u].double(),
        lambda rows, u: y[..., rows, u].double(),
        _city_block,
        lambda total, _rows, _columns: -total,
        0.0,
        True,
    )


def _quadratic(
    x: Tensor,
    y: Tensor,
    units: Sequence[slice],
    precision: Tensor | None,
    to_similarity: Callable[[Tensor], Tensor],
) -> Plan:
    """Similarities made from (x - y)' P (x - y), summed in float64; P is 1 by default."""
    middle = x.mean(-2, keepdim=True)  # leaves distances as they are, spares their digits
    weights = None if precision is None else (precision + precision.mT).double() / 2

    def centered(z: Tensor) -> Prepare:
        return lambda rows, u: z[..., rows, u].double() - middle[..., u]

    def weighted(z: Tensor) -> Prepare:
        plain, matrix = centered(z), weights
        return plain if matrix is None else lambda rows, u: plain(rows, ALL) @ matrix[:, u]

    def squared_norms(z: Tensor) -> Tensor:
        right, left, n = centered(z), weighted(z), z.shape[-2]
        step = n if weights is None or len(units) == 1 else max(1, PAIR_BYTES // (8 * z.shape[-1]))
        norms = torch.zeros(z.shape[:-1], dtype=torch.float64, device=z.device)
        for rows in (slice(start, start + step) for start in range(0, n, step)):
            for u in units:
                norms[..., rows] += (left(rows, u) * right(rows, u)).sum(-1)
        return norms

    x_norms = squared_norms(x)
    y_norms = x_norms if y is x else squared_norms(y)

    def finish(total: Tensor, rows: slice, columns: slice) -> Tensor:
        scales = x_norms[..., rows, None], y_norms[..., None, columns]
        squares = torch.sub(scales[0] + scales[1], total, alpha=2)
        close = squares <= (CLOSE * scales[0].abs() + CLOSE * scales[1].abs())
        pairs = close.nonzero()
        # of a symmetric block only what is above the diagonal counts, and on it distances are 0
        used = pairs[:, -1] > pairs[:, -2] if y is x else torch.ones_like(pairs[:, -1]).bool()
        direct = _direct(x[..., rows, :], y[..., columns, :], pairs[used], weights)
        values = squares.new_zeros(len(pairs)).masked_scatter(used, direct)
        return to_similarity(squares.index_put_(tuple(pairs.mT), values))

    left, right = weighted(x), centered(y)
    if y is x and weights is None:
        left = right
    return Plan(left, right, _gram, finish, 0.0, True)


def _direct(x: Tensor, y: Tensor, pairs: Tensor, weights: Tensor | None) -> Tensor:
    """Quadratic forms of the differences of a few pairs of rows, taken one pair at a time."""
    shape = torch.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    x, y = x.expand(*shape, -1, -1), y.expand(*shape, -1, -1)
    result = torch.empty(len(pairs), dtype=torch.float64, device=x.device)
    step = max(1, PAIR_BYTES // (8 * x.shape[-1]))
    # written in place: small results kept between large temporaries would fragment the memory
    for start in range(0, len(pairs), step):
        *batch, row, column = pairs[start : start + step].mT
        difference = x[(*batch, row)].double() - y[(*batch, column)].double()
        other = difference if weights is None else difference @ weights
        result[start : start + step] = (difference * other).sum(-1)
    return result


def _negative_root(squares: Tensor) -> Tensor:
    """Minus the square root, with gradient 0 at 0, as the distance of coinciding rows needs."""
    if not squares.requires_grad:
        return squares.sqrt_().neg_()
    zero = squares == 0
    return -squares.masked_fill(zero, 1.0).sqrt().masked_fill(zero, 0.0)


def l2(x: Tensor, y: Tensor, units: Sequence[slice], precision: Tensor | None) -> Plan:
    """Euclidean distance, negative."""
    return _quadratic(x, y, units, None, _negative_root)


def sqeuclidean(x: Tensor, y: Tensor, units: Sequence[slice], precision: Tensor | None) -> Plan:
    """Squared Euclidean distance per unit, negative."""
    return _quadratic(x, y, units, None, lambda squares: squares.div_(-x.shape[-1]))


def mahalanobis(x: Tensor, y: Tensor, units: Sequence[slice], precision: Tensor | None) -> Plan:
    """Squared Mahalanobis distance per unit, negative."""
    return _quadratic(x, y, units, precision, lambda squares: squares.div_(-x.shape[-1]))


MakePlan = Callable[[Tensor, Tensor, Sequence[slice]], Plan]
PLANS: dict[str, Callable[[Tensor, Tensor, Sequence[slice], Tensor | None], Plan]] = {
    "correlation": correlation,
    "cosine": cosine,
    "dot": dot,
    "l2": l2,
    "l1": l1,
    "sqeuclidean": sqeuclidean,
    "rbf": l2,  # a function of the distance: see `_rbf.py`
    "mahalanobis": mahalanobis,
}


WIDE = frozenset(PLANS) - {"correlation", "cosine", "dot"}  # computed in float64


def plan_maker(similarity: str, precision: Tensor | None) -> MakePlan:
    """Fix the options, so that only the recordings and stretches of units are left to give."""
    return lambda x, y, units: PLANS[similarity](x, y, units, precision)
