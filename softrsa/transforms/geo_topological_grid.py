"""Geo-topological transforms of RDMs at many pairs of thresholds, each RDM ranked once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from softrsa._ranks import in_order, sorted_quantile
from softrsa.errors import DataError, ShapeError
from softrsa.transforms.geo_topological import Preset, comparable

PART = 2**21  # entries of transformed RDMs that are held at once


def geo_topological_grid(
    rdm: Tensor,
    lower: Tensor | Sequence[float],
    upper: Tensor | Sequence[float],
    *,
    preset: Preset = "trsa",
) -> Iterator[Tensor]:
    """Transform RDMs at one pair of thresholds after another, some at a time.

    What `geo_topological` gives for ``lower[0], upper[0]``, then for ``lower[1], upper[1]`` and so
    on; but RDMs are ranked and sorted once, not for every pair, and a grid of any size fits into
    memory.

    Parameters
    ----------
    rdm : Tensor, shape (..., n_stimuli, n_stimuli) or (..., n_pairs)
        Dissimilarities, square or condensed; see `geo_topological`.
    lower, upper : Tensor or sequence of float, shape (n_thresholds,)
        Pairs of thresholds, each ``lower <= upper``.
    preset : {"trsa", "quantile", "value"}
        What the thresholds refer to; see `geo_topological`.

    Yields
    ------
    Tensor, shape (k, ..., n_pairs)
        Condensed RDMs in [0, 1] at the next ``k`` pairs of thresholds, as many as about 2 million
        entries allow and at least one.

    Raises
    ------
    UnknownNameError, DTypeError, DataError
        As `geo_topological`.
    ShapeError
        If ``lower`` and ``upper`` are not vectors of the same length.

    Notes
    -----
    No gradient.

    References
    ----------
    Lin & Kriegeskorte (2024), PNAS 121(42), doi:10.1073/pnas.2317881121.

    Examples
    --------
    >>> rdm = torch.tensor([0.1, 0.9, 0.4])
    >>> torch.cat([*geo_topological_grid(rdm, [0.0, 0.5], [1.0, 0.5])])
    tensor([[0.0000, 1.0000, 0.5000],
            [0.0000, 1.0000, 0.0000]])
    """
    low, high = (torch.as_tensor(x, dtype=torch.float64).detach() for x in (lower, upper))
    if low.ndim != 1 or low.shape != high.shape:
        raise ShapeError(
            "`lower` and `upper` must be vectors of the same length, one pair of thresholds at "
            f"each place, got shapes {tuple(low.shape)} and {tuple(high.shape)}."
        )
    if not bool((low <= high).all()):
        worst = int((low > high).int().argmax())
        raise DataError(
            f"`lower` must not exceed `upper`, got {low[worst]:g} and {high[worst]:g} at {worst}."
        )
    if preset != "value" and len(low) and not (low.min() >= 0 and high.max() <= 1):
        raise DataError(
            f"With preset {preset!r} the thresholds are quantiles in [0, 1], got {low.min():g} to "
            f"{high.max():g}. For thresholds in the unit of the RDM use preset='value'."
        )
    values, _ = comparable(rdm.detach(), low, high, preset)
    return _parts(values, low, high, preset)


def _parts(values: Tensor, low: Tensor, high: Tensor, preset: Preset) -> Iterator[Tensor]:
    each = (-1, *[1] * (values.ndim - 1))
    low, high = (x.to(values).view(each) for x in (low, high))
    if preset != "value":
        ordered = in_order(values)
        low, high = sorted_quantile(ordered, low), sorted_quantile(ordered, high)
    # over next to nothing, whatever is above equal thresholds becomes 1 and they themselves 0
    width = (high - low).clamp_min(torch.finfo(values.dtype).tiny)
    size = max(1, PART // max(values.numel(), 1))
    for at, wide in zip(low.split(size), width.split(size), strict=True):
        yield (values - at[..., None]).div_(wide[..., None]).clamp_(0.0, 1.0)
