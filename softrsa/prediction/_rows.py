"""What is done to each query's row of similarities: leaving out, scaling, ranking."""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor

from softrsa.prediction._plans import ALL, Plan
from softrsa.transforms import soft_rank


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


def scaled_rows(s: Tensor, plan: Plan, excluded: Excluded | None) -> Tensor:
    """Scale each row to [0, 1] between its bounds; all 1 where they differ by rounding only.

    What stands in place of the excluded entry has no meaning, and must get no gradient.
    """
    return _RowScaling.apply(s, plan, excluded)


class _RowScaling(torch.autograd.Function):
    """(s - low) / (high - low), whose bounds are entries of the row and get their gradient."""

    @staticmethod
    def forward(ctx, *inputs: object) -> Tensor:
        s, plan, excluded = cast("tuple[Tensor, Plan, Excluded | None]", inputs)
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
