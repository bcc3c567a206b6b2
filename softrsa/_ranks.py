"""Average ranks and linear-interpolation quantiles along the last dimension, in batches."""

from __future__ import annotations

import torch
from torch import Tensor


def average_ranks(x: Tensor) -> Tensor:
    """Rank from 1, ties sharing their mean rank, as `scipy.stats.rankdata`; no gradient.

    NaN where any value is NaN, as there.
    """
    values, order = x.detach().sort(dim=-1)
    first, last = tied_places(values)
    mean = (first + last).to(x.dtype) / 2 + 1
    ranks = torch.empty_like(mean).scatter_(-1, order, mean)
    return ranks.masked_fill(values[..., -1:].isnan(), torch.nan)  # NaN sorts last


def tied_places(values: Tensor) -> tuple[Tensor, Tensor]:
    """First and last place, from 0, of the run of equal values that each ascending value is in."""
    m = values.shape[-1]
    position = torch.arange(m, device=values.device).expand_as(values)
    starts = torch.ones_like(values, dtype=torch.bool)
    starts[..., 1:] = values[..., 1:] != values[..., :-1]
    ends = starts.roll(-1, dims=-1)  # the entry before a start ends its run; the last one ends too
    first = torch.where(starts, position, 0).cummax(-1).values
    last = torch.where(ends, position, m - 1).flip(-1).cummin(-1).values.flip(-1)
    return first, last


def sorted_quantile(values: Tensor, q: Tensor) -> Tensor:
    """Quantiles ``q`` (...) of ascending ``values`` (..., m), interpolated as `numpy.quantile`."""
    last = values.shape[-1] - 1
    position = q.to(values) * last
    below = position.floor().clamp(0, max(last - 1, 0))
    index = below.long().unsqueeze(-1)
    shape = torch.broadcast_shapes(values.shape[:-1], index.shape[:-1])
    values = values.expand(*shape, last + 1)
    index = index.expand(*shape, 1)
    low = values.gather(-1, index).squeeze(-1)
    high = values.gather(-1, (index + 1).clamp_max(last)).squeeze(-1)
    found = torch.lerp(low, high, (position - below).expand(shape))
    return found.masked_fill(values[..., -1].isnan(), torch.nan)  # NaN sorts last
