"""Average ranks and linear-interpolation quantiles along the last dimension, in batches.

Rounding is not information: values are tied that are equal, and also those of a run of neighbors
that all lie within rounding: 8 units in the last place of the largest value in float32 (1e-6), 1024
in float64 (2e-13). Where values lie so densely that runs grow longer, only equal ones are tied.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from softrsa._checks import broadcast_shape

# In another order of their terms sums of products differ by some 4 units in the last place; those
# of 20 000 in float64 by 40, and there is room.
ROUNDING_ULPS = {torch.float32: 8, torch.float64: 1024}


def average_ranks(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Rank from 1, ties sharing their mean rank, as `scipy.stats.rankdata`; no gradient.

    In the type of ``x`` by default, which also says what rounding is. NaN where any value is NaN.
    """
    m, dtype = x.shape[-1], dtype or x.dtype
    values, order = ascending(x.detach())
    first = true_places(run_starts(values))
    if len(first) == x.numel():
        mean = torch.arange(1, m + 1, device=x.device).to(dtype).expand(values.shape)
    else:
        length = first.diff(append=first.new_tensor([x.numel()]))
        middle = (2 * first.remainder(m) + length + 1).to(dtype) / 2
        mean = middle.repeat_interleave(length, output_size=x.numel()).view(x.shape)
    ranks = torch.empty_like(values, dtype=dtype).scatter_(-1, order, mean)
    return ranks.masked_fill_(values[..., -1:].isnan(), torch.nan)  # NaN sorts last


def tied(x: Tensor, dtype: torch.dtype | None = None, size: Tensor | None = None) -> Tensor:
    """Copy in which values (..., m) that are tied are equal: each the least of its run.

    ``dtype`` is the number type they come from, and ``size`` (..., 1) how large the terms are that
    they are sums of, if that is more than the largest of them. The gradient passes through.
    """
    values, order = ascending(x.detach())
    starts = run_starts(values, dtype, size)
    if x.device.type == "cpu":
        least = true_places(starts)
        if len(least) == x.numel():
            return x
        length = least.diff(append=least.new_tensor([x.numel()]))
        least = values.reshape(-1)[least].repeat_interleave(length, output_size=x.numel())
    else:  # what follows is not waited for
        least = values.gather(-1, _ends_of_runs(starts)[0])
    least = torch.empty_like(values).scatter_(-1, order, least.view(x.shape))
    return least + (x - x.detach()) if x.requires_grad else least


def run_starts(
    ascending: Tensor, dtype: torch.dtype | None = None, size: Tensor | None = None
) -> Tensor:
    """Tell where, among ascending values, a run of tied ones begins."""
    starts = torch.ones_like(ascending, dtype=torch.bool)
    before, after = ascending[..., :-1], ascending[..., 1:]
    differ = torch.ne(before, after, out=starts[..., 1:])
    if not ascending.is_floating_point() or not ascending.numel():
        return starts
    on_host = ascending.device.type == "cpu"
    rounding = rounding_of(ascending[..., :1], ascending[..., -1:], dtype)
    if not on_host or not bool(rounding.isfinite().all()):
        finite = ascending.masked_fill(~ascending.isfinite(), 0.0)
        rounding = rounding_of(*torch.aminmax(finite, dim=-1, keepdim=True), dtype)
    if size is not None:
        rounding = torch.maximum(rounding, rounding_of(size, size, dtype))
    close = (after <= before + rounding) & differ
    if on_host and not bool(close.any()):
        return starts
    exact = starts.clone()
    differ.masked_fill_(close, False)
    if not on_host:
        first, last = _ends_of_runs(starts)
        width = ascending.gather(-1, last) - ascending.gather(-1, first)
        return starts | (exact & (width > rounding))
    first = true_places(starts)
    ends = torch.cat([first[1:], first.new_tensor([starts.numel()])])
    flat = ascending.reshape(-1)
    width = flat[ends - 1] - flat[first]
    wide = width > rounding.expand_as(ascending).reshape(-1)[first]
    return starts | (exact & wide.repeat_interleave(ends - first).view(exact.shape))


def rounding_of(low: Tensor, high: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Difference that says nothing about values from ``low`` to ``high``."""
    largest = torch.maximum(low.detach().abs(), high.detach().abs())
    dtype = dtype or low.dtype
    return ROUNDING_ULPS.get(dtype, 8) * torch.finfo(dtype).eps * largest


def is_rounding(low: Tensor, high: Tensor, rounding: Tensor) -> Tensor:
    """Whether there is nothing but rounding between two ends."""
    width = (high - low).detach()
    return (width <= rounding) & width.isfinite()


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
    starts = torch.ones_like(values, dtype=torch.bool)
    starts[..., 1:] = values[..., 1:] != values[..., :-1]
    return _ends_of_runs(starts)


def _ends_of_runs(starts: Tensor) -> tuple[Tensor, Tensor]:
    """First and last place, from 0, of the run that each entry is in, by where runs start."""
    m = starts.shape[-1]
    position = torch.arange(m, device=starts.device).expand_as(starts)
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
