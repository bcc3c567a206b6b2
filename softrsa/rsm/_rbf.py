"""The radial basis function of distances, and its median bandwidth."""

from __future__ import annotations

import torch
from torch import Tensor

from softrsa.errors import DataError

PART_BYTES = 2**25


def rbf_from_distances(
    negative: Tensor, bandwidth: float | str | None, *, dims: int, n_self: int = 0
) -> Tensor:
    """Turn minus distances into ``exp(-d^2 / 2 sigma^2)``, in place where no gradient is needed.

    The last ``dims`` dimensions are one RSM; ``n_self`` of its entries are zeros of the diagonal.
    """
    if isinstance(bandwidth, (int, float)):
        sigma: float | Tensor = float(bandwidth)
    else:
        sigma = median_distance(negative.detach(), dims, n_self)
        if bool((sigma == 0).any()):
            raise DataError(
                "The median distance between stimuli is 0, so it cannot be the `bandwidth` of "
                "'rbf': most responses are equal. Give `bandwidth` as a number."
            )
    if negative.requires_grad:
        return (-0.5 * (negative / sigma).square()).exp()
    return negative.div_(sigma).square_().mul_(-0.5).exp_()


def median_distance(negative: Tensor, dims: int, n_self: int) -> Tensor:
    """Median of the distances of each RSM, shape (..., 1[, 1]), found by bisection.

    Bisection needs no copy of the distances; the median of an even number is the mean of the
    middle two. A symmetric matrix holds every pair twice, which leaves the median as it is.
    """
    axes = tuple(range(-dims, 0))
    n = negative.shape[-dims:].numel() - n_self
    middle = {n_self + (n + 1) // 2, n_self + n // 2 + 1}
    values = [_kth_distance(negative, k, axes) for k in middle]
    return torch.stack(values).mean(0)


def _kth_distance(negative: Tensor, k: int, axes: tuple[int, ...]) -> Tensor:
    """Bisect for the k-th smallest distance, down to neighboring floating-point numbers."""
    width = max(1, PART_BYTES * negative.shape[-1] // max(1, negative.numel()))
    parts = negative.split(width, -1)

    def enough(distance: Tensor) -> Tensor:
        return (
            torch.stack([(part >= -distance).sum(axes, keepdim=True) for part in parts]).sum(0) >= k
        )

    low = torch.zeros_like(negative.amin(axes, keepdim=True))
    high = (-negative.amin(axes, keepdim=True)).masked_fill(enough(low), 0.0)
    for _ in range(200):  # 60 do for float64 unless distances span more than 40 decades
        center = low + (high - low) / 2
        if bool(((center == low) | (center == high)).all()):
            break
        reached = enough(center)
        high, low = torch.where(reached, center, high), torch.where(reached, low, center)
    return high
