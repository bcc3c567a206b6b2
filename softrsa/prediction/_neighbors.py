"""Similarities of queries to neighbors, and their weights in training.

`softrsa.rsm.similarity_matrix` adds up in float64 and takes pairs of nearly equal rows one by one.
A softmax over neighbors does not need these digits, and training needs the time: here a similarity
is one matrix product in the type of the input, and what follows is done in place where it may be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, cast

import torch
from torch import Tensor

from softrsa.transforms import StepParameters, soft_rank
from softrsa.transforms.soft_step import bound_distances_, exact_zeros_

ALL = slice(None)


class NeighborSimilarity(NamedTuple):
    """A similarity as a product of prepared rows and what is made of it."""

    queries: Tensor  # (m, width)
    neighbors: Tensor  # (n, width)
    pairwise: Callable[[Tensor, Tensor], Tensor]
    finish: Callable[[Tensor], Tensor]  # may write into the product
    is_flat: Callable[[Tensor, Tensor, slice], Tensor]  # (low, high, rows): differ by rounding only

    def block(self, rows: slice = ALL, columns: slice = ALL) -> Tensor:
        """Similarities of some queries to some neighbors, larger for nearer ones."""
        return self.finish(self.pairwise(self.queries[rows], self.neighbors[columns]))


class _NegativeRoot(torch.autograd.Function):
    """Minus the root of squares that rounding may have made negative; gradient 0 at 0."""

    @staticmethod
    def forward(ctx, squares: Tensor) -> Tensor:
        result = squares.clamp_min(0.0).sqrt_().neg_()
        ctx.save_for_backward(result)
        return result

    @staticmethod
    def backward(ctx, *grad_outputs: Tensor) -> Tensor:
        (result,) = ctx.saved_tensors
        divisor = torch.threshold_(-result, 0.0, torch.inf)  # of a distance of 0: no gradient
        return torch.div(grad_outputs[0], divisor).mul_(-0.5)


def _inner(x: Tensor, y: Tensor) -> Tensor:
    return x @ y.mT


def _itself(product: Tensor) -> Tensor:
    return product


def _squares(queries: Tensor, neighbors: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """Rows whose product is ``scale`` times the squared distance, and the error of a row's."""
    middle = neighbors.detach().mean(0)  # leaves distances as they are, spares their digits
    x, y = queries - middle, neighbors - middle
    x_norm, y_norm = (z.square().sum(-1, keepdim=True) for z in (x, y))
    left = torch.cat([(-2 * scale) * x, scale * x_norm, torch.full_like(x_norm, scale)], -1)
    right = torch.cat([y, torch.ones_like(y_norm), y_norm], -1)
    rounding = torch.finfo(x.dtype).eps * 4 * (x_norm.detach() + y_norm.detach().amax())
    return left, right, rounding


def l2(queries: Tensor, neighbors: Tensor, bandwidth: float | None) -> NeighborSimilarity:
    """Euclidean distance, negative."""
    left, right, rounding = _squares(queries, neighbors, 1.0)
    most = torch.finfo(queries.dtype).max  # of a query so far off that all neighbors are as far

    def finish(product: Tensor) -> Tensor:
        if product.requires_grad:
            return _NegativeRoot.apply(product.clamp_max(most))
        return product.clamp_(0.0, most).sqrt_().neg_()

    return NeighborSimilarity(
        left,
        right,
        _inner,
        finish,
        lambda low, high, rows: low.square() - high.square() <= rounding[rows],
    )


def rbf(queries: Tensor, neighbors: Tensor, bandwidth: float | None) -> NeighborSimilarity:
    """Gaussian of the Euclidean distance; the bandwidth is the root of the width by default."""
    variance = float(queries.shape[-1]) if bandwidth is None else bandwidth**2
    left, right, rounding = _squares(queries, neighbors, -0.5 / variance)
    rounding = rounding / (2 * variance)

    def finish(product: Tensor) -> Tensor:
        if product.requires_grad:
            return product.clamp_max(0.0).exp()
        return product.clamp_max_(0.0).exp_()

    return NeighborSimilarity(left, right, _inner, finish, _within(rounding))


def l1(queries: Tensor, neighbors: Tensor, bandwidth: float | None) -> NeighborSimilarity:
    """City-block distance, negative."""
    return NeighborSimilarity(
        queries,
        neighbors,
        lambda x, y: torch.cdist(x, y, p=1.0),
        torch.neg,
        lambda low, high, rows: low == high,
    )


def cosine(queries: Tensor, neighbors: Tensor, bandwidth: float | None) -> NeighborSimilarity:
    """Cosine of the angle; 0 to and from a row of zeros."""
    unit = [_unit_length(rows) for rows in (queries, neighbors)]
    rounding = torch.full_like(queries[:, :1].detach(), 4 * torch.finfo(queries.dtype).eps)
    return NeighborSimilarity(unit[0], unit[1], _inner, _itself, _within(rounding))


def dot(queries: Tensor, neighbors: Tensor, bandwidth: float | None) -> NeighborSimilarity:
    """Inner product per unit."""
    scaled = queries / queries.shape[-1]
    longest = neighbors.detach().norm(dim=-1).amax()
    eps = torch.finfo(queries.dtype).eps
    rounding = 4 * eps * longest * scaled.detach().norm(dim=-1, keepdim=True)
    return NeighborSimilarity(scaled, neighbors, _inner, _itself, _within(rounding))


def _unit_length(rows: Tensor) -> Tensor:
    length = rows.norm(dim=-1, keepdim=True)
    return rows / length.masked_fill(length == 0, 1.0)


def _within(rounding: Tensor) -> Callable[[Tensor, Tensor, slice], Tensor]:
    return lambda low, high, rows: high - low <= rounding[rows]


NEIGHBOR_SIMILARITIES: dict[str, Callable[[Tensor, Tensor, float | None], NeighborSimilarity]] = {
    "l2": l2,
    "l1": l1,
    "cosine": cosine,
    "dot": dot,
    "rbf": rbf,
}


class Excluded(NamedTuple):
    """The entries that are left out, at most one in a row."""

    rows: Tensor  # (n_excluded,)
    columns: Tensor

    def fill(self, matrix: Tensor, value: float) -> Tensor:
        """Copy a matrix with ``value`` in place of the entries."""
        return matrix.index_put((self.rows, self.columns), matrix.new_tensor(value))

    def of_rows(self, rows: slice, n: int) -> Excluded:
        """Keep those in a stretch of ``n`` rows, counted from its first."""
        start, stop, _ = rows.indices(n)
        inside = (self.rows >= start) & (self.rows < stop)
        return Excluded(self.rows[inside] - start, self.columns[inside])

    def of_columns(self, columns: slice, n: int) -> Excluded:
        """Keep those in a stretch of ``n`` columns, counted from its first."""
        start, stop, _ = columns.indices(n)
        inside = (self.columns >= start) & (self.columns < stop)
        return Excluded(self.rows[inside], self.columns[inside] - start)


def row_bounds(s: Tensor, excluded: Excluded | None) -> tuple[Tensor, Tensor]:
    """Least and largest similarity of each row (m, 1), without the excluded entry."""
    if excluded is not None:
        s = covered(s, excluded)
    low, high = s.amin(-1, keepdim=True), s.amax(-1, keepdim=True)
    return low, high


def scaled_rows(s: Tensor, plan: NeighborSimilarity, excluded: Excluded | None) -> Tensor:
    """Scale each row to [0, 1] between its bounds; all 1 where they differ by rounding only.

    What stands in place of the excluded entry has no meaning, and must get no gradient.
    """
    return _RowScaling.apply(s, plan, excluded)


class _RowScaling(torch.autograd.Function):
    """(s - low) / (high - low), whose bounds are entries of the row and get their gradient."""

    @staticmethod
    def forward(ctx, *inputs: object) -> Tensor:
        s, plan, excluded = cast("tuple[Tensor, NeighborSimilarity, Excluded | None]", inputs)
        s = s.clone() if excluded is None else covered(s, excluded)
        low, high = s.amin(-1, keepdim=True), s.amax(-1, keepdim=True)
        flat = plan.is_flat(low, high, ALL)
        width = torch.where(flat, torch.inf, high - low)  # an infinite one lets no gradient pass
        s = s.sub_(low).div_(width)
        if bool(flat.any()):
            s = s.masked_fill_(flat, 1.0)
        ctx.save_for_backward(s, width)
        ctx.excluded = excluded
        return s

    @staticmethod
    def backward(ctx, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        s, width = ctx.saved_tensors
        grad = grad_outputs[0] / width
        by_high = (grad * s).sum(-1, keepdim=True)
        by_low = grad.sum(-1, keepdim=True) - by_high
        at = s.argmax(-1, keepdim=True), s.argmin(-1, keepdim=True)
        for index, share in zip(at, (by_high, by_low), strict=True):
            grad.scatter_add_(-1, source_of(index, ctx.excluded, s.shape[-1]), -share)
        return grad, None, None


def covered(s: Tensor, excluded: Excluded) -> Tensor:
    """Copy, with the neighbor to the right (or the first) in place of each excluded entry."""
    rows, columns = excluded
    return s.index_put((rows, columns), s[rows, (columns + 1) % s.shape[-1]])


def source_of(at: Tensor, excluded: Excluded | None, n: int) -> Tensor:
    """Say which entry stands at these places (m, 1) of covered rows."""
    if excluded is None:
        return at
    column = torch.full_like(at, -1).index_put((excluded.rows,), excluded.columns.unsqueeze(-1))
    return torch.where(at == column, (at + 1) % n, at)


def neighbor_ranks(s: Tensor, strength: float, excluded: Excluded | None) -> Tensor:
    """Soft ranks from 0 for the most similar neighbor upwards; ``n`` for an excluded one.

    An excluded entry is taken out of its row before the ranking: an infinite one would make every
    soft rank of the row NaN.
    """
    if excluded is None or not len(excluded.rows):
        return soft_rank(-s, strength=strength) - 1
    m, n = s.shape
    rows, columns = excluded
    places = torch.arange(n - 1, device=s.device)
    places = places + (places >= columns.unsqueeze(-1))  # the columns that are left
    left = soft_rank(-s[rows].gather(-1, places), strength=strength) - 1
    ranks = s.new_full((len(rows), n), float(n)).scatter(-1, places, left)
    if len(rows) == m:
        return ranks  # rows are in order
    whole = torch.ones(m, dtype=torch.bool, device=s.device).index_fill(0, rows, False)
    others = whole.nonzero().squeeze(-1)
    both = torch.cat([ranks, soft_rank(-s[others], strength=strength) - 1])
    return both.index_select(0, torch.cat([rows, others]).argsort())


PART = {"cpu": 2**18}  # entries at a time
LARGE_PART = 2**26


def step_weights(
    s: Tensor,
    scale: Tensor,
    parameters: StepParameters,
    plan: NeighborSimilarity,
    excluded: Excluded | None,
) -> Tensor:
    """Softmax of ``scale * s`` times `soft_step` of its scaled rows, normalized to the sum 1.

    ``scale`` is one number; the parameters are of shape (m or 1,).
    """
    columns = [p.unsqueeze(-1).expand(len(s), 1) for p in parameters]
    return _StepWeights.apply(s, scale, torch.cat(columns, -1), plan, excluded)


class _Hidden(NamedTuple):
    """The excluded entries, branch-free: a row without one covers an entry with itself."""

    at: Tensor  # (m, 1): the entry that is covered
    by: Tensor  # (m, 1): the entry it is covered by
    kept: Tensor  # (m, 1): 0 where the covered entry is excluded, else 1

    @classmethod
    def of(cls, s: Tensor, excluded: Excluded) -> _Hidden:
        """Spread the excluded entries over all rows of ``s``."""
        at = torch.zeros(len(s), 1, dtype=torch.long, device=s.device)
        rows, columns = excluded.rows, excluded.columns.unsqueeze(-1)
        by = at.index_copy(0, rows, (columns + 1) % s.shape[-1])
        kept = s.new_ones(len(s), 1).index_fill(0, rows, 0.0)
        return cls(at.index_copy(0, rows, columns), by, kept)

    def cover(self, s: Tensor, rows: slice) -> None:
        """Put another entry in place of the excluded one of some rows."""
        s.scatter_(-1, self.at[rows], s.gather(-1, self.by[rows]))

    def drop(self, weights: Tensor, rows: slice) -> None:
        """Set the weight of the excluded entry to 0, in place."""
        at = self.at[rows]
        weights.scatter_(-1, at, weights.gather(-1, at) * self.kept[rows])


def _parts(s: Tensor, n_buffers: int) -> Iterator[tuple[slice, list[Tensor]]]:
    """Give a few rows at a time, and matrices of their size to write to, each time the same."""
    step = max(1, PART.get(s.device.type, LARGE_PART) // s.shape[-1])
    buffers = [s.new_empty(min(step, len(s)), s.shape[-1]) for _ in range(n_buffers)]
    for start in range(0, len(s), step):
        rows = slice(start, min(start + step, len(s)))
        yield rows, [buffer[: rows.stop - start] for buffer in buffers]


def _scale(part: Tensor, high: Tensor, width: Tensor) -> None:
    """Scale covered rows in place: exactly 1 at ``high``, and everywhere if ``width`` is 0."""
    part.sub_(high).div_(width.masked_fill(width == 0, torch.inf)).add_(1.0)


class _StepWeights(torch.autograd.Function):
    """Matrices are written with ``out``: fetching new memory takes longer than arithmetic does."""

    @staticmethod
    def forward(ctx, *inputs: object) -> Tensor:
        s, scale, parameters, plan, excluded = cast(
            tuple[Tensor, Tensor, Tensor, NeighborSimilarity, Excluded | None], inputs
        )
        hidden = None if excluded is None else _Hidden.of(s, excluded)
        weights = torch.empty_like(s)
        ends = []
        for rows, (part, kernel) in _parts(s, 2):
            share, bounds = weights[rows], parameters[rows]
            part.copy_(s[rows])
            if hidden is not None:
                hidden.cover(part, rows)
            low, high = part.amin(-1, keepdim=True), part.amax(-1, keepdim=True)
            width = (high - low).masked_fill_(plan.is_flat(low, high, rows), 0.0)
            ends.append((high, width))
            torch.sub(part, high, out=kernel).mul_(scale).exp_()
            _scale(part, high, width)
            u, v = bound_distances_(part, bounds[:, :1], bounds[:, 1:2], out=(part, share))
            torch.div(u, v, out=share).log_().div_(bounds[:, 2:]).sigmoid_()
            exact_zeros_(share).mul_(kernel)
            if hidden is not None:
                hidden.drop(share, rows)
            # the most similar neighbor had the weight 1 before, so the sum is at least 1
            share.div_(share.sum(-1, keepdim=True))
        high, width = (torch.cat(found) for found in zip(*ends, strict=True))
        ctx.save_for_backward(s, scale, parameters, weights, high, width)
        ctx.hidden = hidden
        return weights

    @staticmethod
    def backward(ctx, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        s, scale, parameters, weights, high, width = ctx.saved_tensors
        hidden = ctx.hidden
        by_s, by_scale = torch.empty_like(s), torch.zeros_like(scale)
        by_parameters = torch.empty_like(parameters)
        for rows, (part, scratch, *others) in _parts(s, 5):
            part.copy_(s[rows])
            if hidden is not None:
                hidden.cover(part, rows)
            _scale(part, high[rows], width[rows])
            by_logit = torch.mul(grad_outputs[0][rows], weights[rows], out=by_s[rows])
            by_logit.addcmul_(weights[rows], by_logit.sum(-1, keepdim=True), value=-1)
            torch.mul(by_logit, part, out=scratch)
            by_scale += (scratch.sum(-1, keepdim=True) * width[rows]).sum()
            by_part = _through_step(
                part, by_logit, parameters[rows], by_parameters[rows], [scratch, *others]
            )
            by_part.div_(width[rows].masked_fill(width[rows] == 0, torch.inf))
            by_high = torch.mul(by_part, part, out=scratch).sum(-1, keepdim=True)
            by_low = by_part.sum(-1, keepdim=True) - by_high
            for end, share in ((1.0, by_high), (0.0, by_low)):
                there = torch.eq(part, end, out=scratch)  # they share the gradient of their bound
                by_part.addcmul_(there, share / there.sum(-1, keepdim=True).clamp_min(1), value=-1)
            by_logit.mul_(scale).add_(by_part)
        if hidden is not None:  # what a bound gave to a covering entry belongs to the covered one
            moved = by_s.gather(-1, hidden.at) * (1 - hidden.kept)
            by_s.scatter_add_(-1, hidden.by, moved).scatter_add_(-1, hidden.at, -moved)
        return by_s, by_scale, by_parameters, None, None


def _through_step(
    part: Tensor, by_logit: Tensor, bounds: Tensor, by_bounds: Tensor, buffers: list[Tensor]
) -> Tensor:
    """Gradient by scaled rows, from that by the logarithm of the weights; fills ``by_bounds``."""
    logit, inner, u, v = buffers
    bound_distances_(part, bounds[:, :1], bounds[:, 1:2], out=(u, v))
    torch.div(u, v, out=logit).log_().div_(bounds[:, 2:])
    torch.neg(logit, out=inner).sigmoid_().mul_(by_logit).div_(bounds[:, 2:])
    # beyond a bound the step is constant; there a distance was clamped, and 1 / distance is huge
    inner.mul_(torch.minimum(u, v).gt_(torch.finfo(part.dtype).tiny))
    by_bounds[:, 2] = -logit.mul_(inner).sum(-1)
    by_lower, by_upper = torch.div(inner, u, out=u), torch.div(inner, v, out=v)
    by_bounds[:, 0], by_bounds[:, 1] = -by_lower.sum(-1), -by_upper.sum(-1)
    return by_lower.add_(by_upper)
