"""Average ranks and linear-interpolation quantiles along the last dimension, in batches."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from softrsa._checks import broadcast_shape


def average_ranks(x: Tensor) -> Tensor:
    """Rank from 1, ties sharing their mean rank, as `scipy.stats.rankdata`; no gradient.

    NaN where any value is NaN, as there.
    """
    m = x.shape[-1]
    values, order = ascending(x.detach())
    starts = torch.ones_like(values, dtype=torch.bool)
    torch.ne(values[..., 1:], values[..., :-1], out=starts[..., 1:])
    first = true_places(starts)  # of each run of equal values
    if len(first) == x.numel():
        mean = torch.arange(1, m + 1).to(values).expand(values.shape)
    else:
        length = first.diff(append=first.new_tensor([x.numel()]))
        middle = (2 * first.remainder(m) + length + 1).to(x.dtype) / 2
        mean = middle.repeat_interleave(length, output_size=x.numel()).view(x.shape)
    ranks = torch.empty_like(values).scatter_(-1, order, mean)
    return ranks.masked_fill_(values[..., -1:].isnan(), torch.nan)  # NaN sorts last


def ascending(x: Tensor) -> tuple[Tensor, Tensor]:
    """Sort along the last dimension, NaN last: values and their places, equal ones in any order."""
    if not _by_numpy(x):
        return x.sort(dim=-1)
    order = np.argsort(x.numpy(), axis=-1)
    return torch.from_numpy(np.take_along_axis(x.numpy(), order, -1)), torch.from_numpy(order)


def in_order(x: Tensor) -> Tensor:
    """Sort along the last dimension, NaN last: values only."""
    return torch.from_numpy(np.sort(x.numpy(), axis=-1)) if _by_numpy(x) else x.sort(dim=-1).values


def _by_numpy(x: Tensor) -> bool:
    """Tell whether NumPy can sort, which it does several times as fast as torch."""
    plain = x.device.type == "cpu" and x.dtype in (torch.int32, torch.int64, *_REAL)
    return plain and not x.requires_grad


_REAL = (torch.float32, torch.float64)


def runs_of_equals(values: Tensor) -> tuple[Tensor, Tensor]:
    """First and last place of each run of equal ascending values, of values laid out flat."""
    repeats = torch.zeros_like(values, dtype=torch.bool)
    torch.eq(values[..., 1:], values[..., :-1], out=repeats[..., 1:])
    repeated = true_places(repeats)  # each equals the entry before
    if not len(repeated):
        return repeated, repeated
    apart = repeated.diff() > 1
    edge = apart.new_ones(1)
    return repeated[torch.cat([edge, apart])] - 1, repeated[torch.cat([apart, edge])]


def true_places(mask: Tensor) -> Tensor:
    """Places of what is true, of the mask laid out flat."""
    if mask.device.type == "cpu":  # NumPy finds them several times as fast as torch
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.flatten().nonzero().squeeze(1)


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
    shape = broadcast_shape(values.shape[:-1], index.shape[:-1])
    values = values.expand(*shape, last + 1)
    index = index.expand(*shape, 1)
    low = values.gather(-1, index).squeeze(-1)
    high = values.gather(-1, (index + 1).clamp_max(last)).squeeze(-1)
    found = torch.lerp(low, high, (position - below).expand(shape))
    return found.masked_fill(values[..., -1].isnan(), torch.nan)  # NaN sorts last
