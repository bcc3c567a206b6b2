"""Similarities block by block, so that a result needs little memory besides itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from softrsa._checks import broadcast_shape
from softrsa._gradients import within

ALL = slice(None)
CLOSE = 1e-3  # squared distances below this share of the squared norms have lost digits
PAIR_BYTES = 2**24


def stretch(x: Tensor, units: slice, rows: slice = slice(None)) -> Tensor:
    """Take some rows and units, laid out row by row: the order of sums is that of the memory."""
    part = x[..., rows, units]
    return part if part.stride(-1) == 1 else part.contiguous()


Prepare = Callable[[slice, slice], Tensor]  # (rows, units) -> what enters the sum over units


class SimilarityRule(NamedTuple):
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


class _Rows(NamedTuple):
    """What takes rows to mean 0 and length 1, (..., n, 1) each; a factor of inf if nothing can.

    The mean is in two parts, of which the second is what the first is rounded by.
    """

    mean: Tensor
    rest: Tensor
    factor: Tensor

    @classmethod
    def of(cls, x: Tensor, units: Sequence[slice], center: bool) -> _Rows:
        """Center and scale before squaring, so that no digits and no large numbers are lost."""
        low, high = torch.aminmax(x.detach(), dim=-1, keepdim=True)
        mean = rest = torch.zeros_like(low)
        if center:
            sums = (stretch(x, u).sum(-1, keepdim=True) for u in units)
            mean = reduce(torch.add, sums) / x.shape[-1]
            sums = ((stretch(x, u) - mean).sum(-1, keepdim=True) for u in units)
            rest = reduce(torch.add, sums) / x.shape[-1]
        size = torch.maximum((low - mean).abs(), (high - mean).abs()).detach()
        scale = torch.ldexp(torch.ones_like(size), -size.frexp().exponent)  # a power of 2
        plain = cls(mean, rest, scale)
        squares = (plain(stretch(x, u)).square().sum(-1, keepdim=True).double() for u in units)
        length = reduce(torch.add, squares).sqrt().to(x.dtype)
        if center:
            length = length.masked_fill(low == high, 0.0)  # the mean of equal values is rounded
        return cls(mean, rest, scale / length)

    def __call__(self, x: Tensor, rows: slice = ALL) -> Tensor:
        """Bring some units of some rows there."""
        mean, rest, factor = (each[..., rows, :] for each in self)
        return (x - mean - rest) * factor


def _normalized(x: Tensor, y: Tensor, units: Sequence[slice], *, center: bool) -> SimilarityRule:
    def prepare(z: Tensor) -> Prepare:
        bring = _Rows.of(z, units, center)
        return lambda rows, u: bring(stretch(z, u, rows), rows)

    left = prepare(x)
    right = left if y is x else prepare(y)
    return SimilarityRule(left, right, _gram, _in_range, 1.0, False)


def _in_range(total: Tensor, _rows: slice, _columns: slice) -> Tensor:
    """Put correlations that rounding has put beyond -1 or 1 back there."""
    return within(total) if total.requires_grad else total.clamp_(-1.0, 1.0)


def correlation(
    x: Tensor, y: Tensor, units: Sequence[slice], precision: Tensor | None
) -> SimilarityRule:
    """Pearson correlation across units."""
    return _normalized(x, y, units, center=True)


def cosine(
    x: Tensor, y: Tensor, units: Sequence[slice], precision: Tensor | None
) -> SimilarityRule:
    """Cosine of the angle between rows."""
    return _normalized(x, y, units, center=False)


def dot(x: Tensor, y: Tensor, _units: Sequence[slice], precision: Tensor | None) -> SimilarityRule:
    """Inner product per unit."""
    n_units = x.shape[-1]
    return SimilarityRule(
        lambda rows, u: stretch(x, u, rows),
        lambda rows, u: stretch(y, u, rows),
        _gram,
        lambda total, _rows, _columns: total / n_units,
        None,
        False,
    )


def l1(x: Tensor, y: Tensor, _units: Sequence[slice], precision: Tensor | None) -> SimilarityRule:
    """City-block distance, negative; summed in float64."""
    return SimilarityRule(
        lambda rows, u: stretch(x, u, rows).double(),
        lambda rows, u: stretch(y, u, rows).double(),
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
) -> SimilarityRule:
    """Similarities made from (x - y)' P (x - y), summed in float64; P is 1 by default."""
    # taken off, it leaves distances as they are and spares their digits
    middle = torch.cat([stretch(x, u).mean(-2, keepdim=True) for u in units], -1)
    weights = None if precision is None else (precision + precision.mT).double() / 2

    def centered(z: Tensor) -> Prepare:
        return lambda rows, u: stretch(z, u, rows).double() - middle[..., u]

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
    return SimilarityRule(left, right, _gram, finish, 0.0, True)


def _direct(x: Tensor, y: Tensor, pairs: Tensor, weights: Tensor | None) -> Tensor:
    """Quadratic forms of the differences of a few pairs of rows, taken one pair at a time."""
    shape = broadcast_shape(x.shape[:-2], y.shape[:-2])
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


def l2(x: Tensor, y: Tensor, units: Sequence[slice], precision: Tensor | None) -> SimilarityRule:
    """Euclidean distance, negative."""
    return _quadratic(x, y, units, None, _negative_root)


def sqeuclidean(
    x: Tensor, y: Tensor, units: Sequence[slice], precision: Tensor | None
) -> SimilarityRule:
    """Squared Euclidean distance per unit, negative."""
    return _quadratic(x, y, units, None, lambda squares: squares.div_(-x.shape[-1]))


def mahalanobis(
    x: Tensor, y: Tensor, units: Sequence[slice], precision: Tensor | None
) -> SimilarityRule:
    """Squared Mahalanobis distance per unit, negative."""
    return _quadratic(x, y, units, precision, lambda squares: squares.div_(-x.shape[-1]))


MakeRule = Callable[[Tensor, Tensor, Sequence[slice]], SimilarityRule]
RULES: dict[str, Callable[[Tensor, Tensor, Sequence[slice], Tensor | None], SimilarityRule]] = {
    "correlation": correlation,
    "cosine": cosine,
    "dot": dot,
    "l2": l2,
    "l1": l1,
    "sqeuclidean": sqeuclidean,
    "rbf": l2,  # a function of the distance: see `rbf_from_distances`
    "mahalanobis": mahalanobis,
}


WIDE = frozenset(RULES) - {"correlation", "cosine", "dot"}  # computed in float64


def rule_maker(similarity: str, precision: Tensor | None) -> MakeRule:
    """Fix the options, so that only the recordings and stretches of units are left to give."""
    return lambda x, y, units: RULES[similarity](x, y, units, precision)


# With these, everything held beside the result stays below 200 MB (`benchmarks/rsm_speed.py`).
UNITS_BYTES = 44 * 2**20  # of one recording, for a stretch of units in float64
BLOCK_BYTES = 40 * 2**20  # of the similarities of a stretch of rows

Write = Callable[[Tensor, int, Tensor, float | None], None]


def _unit_slices(x: Tensor, y: Tensor, wide: bool) -> list[slice]:
    """Take all units where they fit in memory as they are multiplied, else stretches of a third.

    What is not multiplied in float64 needs fewer temporaries, so half as much again may be held.
    """
    rows = x.shape[:-1].numel() + (0 if y is x else y.shape[:-1].numel())
    fits = UNITS_BYTES // 8 if wide else 3 * UNITS_BYTES // (2 * x.itemsize)  # numbers
    step = fits // rows
    step = max(1, step if step >= x.shape[-1] else step // 3)
    return [slice(start, start + step) for start in range(0, x.shape[-1], step)]


def _row_step(rule: SimilarityRule, shape: torch.Size, itemsize: int, n_sums: int) -> int:
    per_entry = 24 if rule.wide or n_sums > 1 else itemsize  # float64 and temporaries, or neither
    return max(1, BLOCK_BYTES // (shape[:-2].numel() * shape[-1] * per_entry))


def _prepared(rule: SimilarityRule) -> SimilarityRule:
    """Prepare all rows once, where all units fit."""
    left = rule.left(ALL, ALL)
    right = left if rule.right is rule.left else rule.right(ALL, ALL)
    return rule._replace(
        left=lambda rows, _units: left[..., rows, :], right=lambda rows, _units: right[..., rows, :]
    )


def _sum(rule: SimilarityRule, rows: slice, columns: slice, units: list[slice]) -> Tensor:
    shared = rule.left is rule.right and rows == columns

    def part(u: slice) -> Tensor:
        left = rule.left(rows, u)
        return rule.pairwise(left, left if shared else rule.right(columns, u))

    parts = (part(u) for u in units)
    total = next(parts)
    if len(units) > 1:
        total = total.double()
    for more in parts:
        total += more
    return total


def mirror(square: Tensor, self_similarity: float | None) -> Tensor:
    """Copy the upper triangle to the lower one and put the exact value on the diagonal."""
    above = square.triu(1)
    return above + above.mT + torch.diag_embed(_diagonal(square, self_similarity))


def _diagonal(square: Tensor, self_similarity: float | None) -> Tensor:
    diagonal = square.diagonal(dim1=-2, dim2=-1)
    if self_similarity is None:
        return diagonal
    return self_similarity + 0 * diagonal.detach()  # NaN stays NaN


def whole(x: Tensor, y: Tensor | None, make: MakeRule) -> Tensor:
    """Compute all similarities in one piece, as autograd needs it."""
    other = x if y is None else y
    rows, columns = slice(0, x.shape[-2]), slice(0, other.shape[-2])
    rule = make(x, other, [ALL])
    result = rule.finish(_sum(rule, rows, columns, [ALL]), rows, columns).to(x.dtype)
    return mirror(result, rule.self_similarity) if y is None else result


def fill(
    out: Tensor, x: Tensor, y: Tensor | None, make: MakeRule, write: Write, *, wide: bool
) -> None:
    """Compute similarities without gradient and hand them to ``write`` block by block.

    ``write(out, start, block, self_similarity)`` gets the rows from ``start`` on; without ``y``
    the block begins at column ``start`` too. ``wide`` is that of the rule. ``x`` and ``y`` have
    the leading dimensions of ``out``; more of them than fit at once are taken in groups.
    """
    other = x if y is None else y
    lead, n, (m, p) = x.shape[:-2], x.shape[-2], other.shape[-2:]
    cost = 8 * lead.numel() * (n * m + (n + m) * p)
    if lead and cost > BLOCK_BYTES:
        step = max(1, lead[0] * BLOCK_BYTES // cost)
        for start in range(0, lead[0], step):
            group = slice(start, start + step) if step > 1 else start
            fill(out[group], x[group], None if y is None else y[group], make, write, wide=wide)
        return
    units = _unit_slices(x, other, wide)
    rule = make(x, other, units)
    step = _row_step(rule, torch.Size((*lead, n, m)), x.itemsize, len(units))
    if len(units) == 1:
        rule = _prepared(rule)
    for start in range(0, n, step):
        rows = slice(start, min(start + step, n))
        columns = slice(start if y is None else 0, m)
        block = rule.finish(_sum(rule, rows, columns, units), rows, columns)
        write(out, start, block, rule.self_similarity)


def write_rows(out: Tensor, start: int, block: Tensor, _self_similarity: float | None) -> None:
    """Place a block of a rectangular matrix."""
    out[..., start : start + block.shape[-2], :] = block


def write_mirrored(out: Tensor, start: int, block: Tensor, self_similarity: float | None) -> None:
    """Place a block of the upper triangle, which is used up, and its mirror image."""
    height = block.shape[-2]
    stop = start + height
    tile, rest = block[..., :height], block[..., height:]
    diagonal = _diagonal(tile, self_similarity).clone()
    square = out[..., start:stop, start:stop]
    square.copy_(tile.triu_(1)).add_(tile.mT)
    square.diagonal(dim1=-2, dim2=-1).copy_(diagonal)
    out[..., start:stop, stop:] = rest
    out[..., stop:, start:stop] = out[..., start:stop, stop:].mT


def write_condensed(out: Tensor, start: int, block: Tensor, _self_similarity: float | None) -> None:
    """Place a block of the upper triangle into the condensed vector."""
    height, width = block.shape[-2:]
    n = start + width
    first = start * (2 * n - start - 1) // 2  # pairs of the rows before
    lengths = [
        (row + 1, width - row - 1) for row in range(height)
    ]  # at or below, above the diagonal
    pieces = (
        block.to(out.dtype)
        .flatten(-2)
        .split([length for pair in lengths for length in pair], -1)[1::2]
    )
    target = out[..., first : first + sum(length for _, length in lengths)]
    if target.is_contiguous():
        torch.cat(pieces, -1, out=target)
    else:
        target.copy_(torch.cat(pieces, -1))
