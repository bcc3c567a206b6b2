"""Prediction from many neighbors, block by block, exact and in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from softrsa.prediction._plans import ALL, Plan
from softrsa.prediction._rows import Excluded, row_bounds

if TYPE_CHECKING:
    from softrsa.prediction.heads import NCAHead

MIN_ROWS = 32  # so many queries share the reading of the neighbors


class Source:
    """Blocks of similarities of some queries, with what they must not see at -inf."""

    def __init__(self, plan: Plan, rows: slice, excluded: Excluded | None):
        self.plan, self.rows = plan, rows
        self.excluded = None if excluded is None else excluded.of_rows(rows, len(plan.queries))

    def block(self, columns: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Similarities, and their least and largest in each row."""
        s = self.plan.block(self.rows, columns)
        excluded = self.excluded and self.excluded.of_columns(columns, len(self.plan.neighbors))
        low, high = row_bounds(s, excluded)
        return (s if excluded is None else excluded.fill(s, -torch.inf)), low, high


def predict_in_chunks(
    head: NCAHead,
    queries: Tensor,
    neighbors: Tensor,
    labels: Tensor,
    *,
    excluded: Excluded | None,
    n_candidates: int | None,
    block_bytes: int,
) -> Tensor:
    """Predict queries a few at a time, from neighbors as many at a time as a block may hold."""
    m, n = len(queries), len(neighbors)
    plan = head.plan(queries, neighbors)
    targets = labels if labels.ndim == 2 else labels.unsqueeze(-1)
    targets = torch.cat([targets, torch.ones_like(targets[:, :1])], -1)  # sums of weights come last
    entries = max(1, block_bytes // queries.itemsize)
    if n_candidates is not None and n_candidates >= n:
        n_candidates = None
    whole = head.ranks and n_candidates is None
    spans = [ALL] if whole else list(_even_spans(n, max(MIN_ROWS, entries // MIN_ROWS)))
    step = max(1, entries // -(-n // len(spans)))
    result = labels.new_empty(m, targets.shape[1] - 1)
    for start in range(0, m, step):
        rows = slice(start, min(start + step, m))
        source = Source(plan, rows, excluded)
        if n_candidates is not None:
            total = _from_candidates(
                head, queries[rows], source, spans, targets, n_candidates=n_candidates
            )
        elif head.has_step and len(spans) > 1:
            total = _in_two_passes(head, queries[rows], source, spans, targets)
        else:
            total = _in_one_pass(head, queries[rows], source, spans, targets)
        result[rows] = total[:, :-1] / total[:, -1:]
    return result if labels.ndim == 2 else result.squeeze(-1)


def _even_spans(n: int, step: int) -> Iterator[slice]:
    """Cut into stretches of nearly the same length, at most ``step``."""
    count = -(-n // step)
    ends = [n * i // count for i in range(count + 1)]
    return (slice(*pair) for pair in pairwise(ends))


def _in_one_pass(
    head: NCAHead, queries: Tensor, source: Source, spans: list[slice], targets: Tensor
) -> Tensor:
    """Weighted sums of targets; what was summed is scaled down when a larger similarity comes."""
    total = targets.new_zeros(len(queries), targets.shape[1])
    top: Tensor | None = None
    for span in spans:
        s, low, high = source.block(span)
        if top is not None:
            high = torch.maximum(top, high)
            total.mul_(head.kernel(top, high))
        top = high
        total.addmm_(head.block_weights(s, low, high, queries, source), targets[span])
    return total


def _in_two_passes(
    head: NCAHead, queries: Tensor, source: Source, spans: list[slice], targets: Tensor
) -> Tensor:
    """Weighted sums of targets, where a weight depends on the bounds of the whole row."""
    bounds = [source.block(span)[1:] for span in spans]
    low = torch.cat([pair[0] for pair in bounds], -1).amin(-1, keepdim=True)
    high = torch.cat([pair[1] for pair in bounds], -1).amax(-1, keepdim=True)
    total = targets.new_zeros(len(queries), targets.shape[1])
    for span in spans:
        s = source.block(span)[0]
        total.addmm_(head.block_weights(s, low, high, queries, source), targets[span])
    return total


def _from_candidates(
    head: NCAHead,
    queries: Tensor,
    source: Source,
    spans: list[slice],
    targets: Tensor,
    *,
    n_candidates: int,
) -> Tensor:
    """Weighted sums of the targets of the most similar neighbors only."""
    s = targets.new_empty(len(queries), 0)
    at = torch.empty_like(s, dtype=torch.long)
    lowest = []
    for span in spans:
        block, low, _ = source.block(span)
        lowest.append(low)
        best = block.topk(min(n_candidates, block.shape[-1]), dim=-1)
        start = span.indices(len(targets))[0]
        s, at = torch.cat([s, best.values], -1), torch.cat([at, best.indices + start], -1)
        if s.shape[-1] > n_candidates:
            kept = s.topk(n_candidates, dim=-1)
            s, at = kept.values, at.gather(-1, kept.indices)
    low = torch.cat(lowest, -1).amin(-1, keepdim=True)
    high = s.amax(-1, keepdim=True)
    weights = head.block_weights(s, low, high, queries, source)
    return (weights.unsqueeze(1) @ targets[at]).squeeze(1)
