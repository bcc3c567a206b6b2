"""Weights of NCA with the first SoftStep family as one operation, in half the time of its parts.

Most of the time of arithmetic on a matrix goes into fetching and storing it. Rows are independent,
so some are taken at a time, with the same memory for all, and the gradient computes anew what lies
between similarities and weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, cast

import torch
from torch import Tensor

from softrsa.prediction._plans import Plan
from softrsa.prediction._rows import Excluded
from softrsa.transforms import StepParameters

PART = {"cpu": 2**18}  # entries at a time
LARGE_PART = 2**26


def step_weights(
    s: Tensor,
    scale: Tensor,
    parameters: StepParameters,
    plan: Plan,
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


def _distances(part: Tensor, bounds: Tensor, u: Tensor, v: Tensor) -> None:
    """Write distances to the bounds, clamped as in `soft_step`."""
    tiny = torch.finfo(part.dtype).tiny
    torch.sub(part, bounds[:, :1], out=u).clamp_min_(tiny)
    torch.sub(bounds[:, 1:2], part, out=v).clamp_min_(tiny)


class _StepWeights(torch.autograd.Function):
    """Matrices are written with ``out``: fetching new memory takes longer than arithmetic does."""

    @staticmethod
    def forward(ctx, *inputs: object) -> Tensor:
        s, scale, parameters, plan, excluded = cast(
            tuple[Tensor, Tensor, Tensor, Plan, Excluded | None], inputs
        )
        kind = torch.finfo(s.dtype)
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
            _distances(part, bounds, share, part)
            share.div_(part).log_().div_(bounds[:, 2:]).sigmoid_()
            torch.threshold_(share, kind.tiny / kind.eps**2.1, 0.0).mul_(kernel)
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
    _distances(part, bounds, u, v)
    torch.div(u, v, out=logit).log_().div_(bounds[:, 2:])
    torch.neg(logit, out=inner).sigmoid_().mul_(by_logit).div_(bounds[:, 2:])
    # beyond a bound the step is constant; there a distance was clamped, and 1 / distance is huge
    inner.mul_(torch.minimum(u, v).gt_(torch.finfo(part.dtype).tiny))
    by_bounds[:, 2] = -logit.mul_(inner).sum(-1)
    by_lower, by_upper = torch.div(inner, u, out=u), torch.div(inner, v, out=v)
    by_bounds[:, 0], by_bounds[:, 1] = -by_lower.sum(-1), -by_upper.sum(-1)
    return by_lower.add_(by_upper)
