"""Similarities block by block, so that a result needs little memory besides itself."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from softrsa.rsm._plans import ALL, MakePlan, Plan

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


def _row_step(plan: Plan, shape: torch.Size, itemsize: int, n_sums: int) -> int:
    per_entry = 24 if plan.wide or n_sums > 1 else itemsize  # float64 and temporaries, or neither
    return max(1, BLOCK_BYTES // (shape[:-2].numel() * shape[-1] * per_entry))


def _prepared(plan: Plan) -> Plan:
    """Prepare all rows once, where all units fit."""
    left = plan.left(ALL, ALL)
    right = left if plan.right is plan.left else plan.right(ALL, ALL)
    return plan._replace(
        left=lambda rows, _units: left[..., rows, :], right=lambda rows, _units: right[..., rows, :]
    )


def _sum(plan: Plan, rows: slice, columns: slice, units: list[slice]) -> Tensor:
    shared = plan.left is plan.right and rows == columns

    def part(u: slice) -> Tensor:
        left = plan.left(rows, u)
        return plan.pairwise(left, left if shared else plan.right(columns, u))

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


def whole(x: Tensor, y: Tensor | None, make: MakePlan) -> Tensor:
    """Compute all similarities in one piece, as autograd needs it."""
    other = x if y is None else y
    rows, columns = slice(0, x.shape[-2]), slice(0, other.shape[-2])
    plan = make(x, other, [ALL])
    result = plan.finish(_sum(plan, rows, columns, [ALL]), rows, columns).to(x.dtype)
    return mirror(result, plan.self_similarity) if y is None else result


def fill(
    out: Tensor, x: Tensor, y: Tensor | None, make: MakePlan, write: Write, *, wide: bool
) -> None:
    """Compute similarities without gradient and hand them to ``write`` block by block.

    ``write(out, start, block, self_similarity)`` gets the rows from ``start`` on; without ``y``
    the block begins at column ``start`` too. ``wide`` is that of the plan. ``x`` and ``y`` have
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
    plan = make(x, other, units)
    step = _row_step(plan, torch.Size((*lead, n, m)), x.itemsize, len(units))
    if len(units) == 1:
        plan = _prepared(plan)
    for start in range(0, n, step):
        rows = slice(start, min(start + step, n))
        columns = slice(start if y is None else 0, m)
        block = plan.finish(_sum(plan, rows, columns, units), rows, columns)
        write(out, start, block, plan.self_similarity)


def write_rows(out: Tensor, start: int, block: Tensor, _self_similarity: float | None) -> None:
    """Place a block of a rectangular matrix."""
    out[..., start : start + block.shape[-2], :] = block


def write_mirrored(out: Tensor, start: int, block: Tensor, self_similarity: float | None) -> None:
    """Place a block of the upper triangle of a symmetric matrix and its mirror image.

    The block is used up; `mirror` would need three more of its size.
    """
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
