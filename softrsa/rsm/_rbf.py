"""The radial basis function of distances, and its median bandwidth."""

from __future__ import annotations

import torch
from torch import Tensor

from softrsa.errors import DataError

PART_BYTES = 2**24


def rbf_from_distances(
    negative: Tensor, bandwidth: float | str | None, *, dims: int, n_self: int = 0
) -> Tensor:
    """Turn minus distances into ``exp(-d^2 / 2 sigma^2)``, in place where no gradient is needed.

    The last ``dims`` dimensions are one RSM; ``n_self`` of its entries are zeros of the diagonal.
    """
    if isinstance(bandwidth, (int, float)):
        sigma: float | Tensor = float(bandwidth)
    else:
        sigma = median_distance(negative, dims, n_self)
        if bool((sigma == 0).any()):
            raise DataError(
                "The median distance between stimuli is 0, so it cannot be the `bandwidth` of "
                "'rbf': most responses are equal. Give `bandwidth` as a number."
            )
    if negative.requires_grad:
        return (-0.5 * (negative / sigma).square()).exp()
    return negative.div_(sigma).square_().mul_(-0.5).exp_()


def median_distance(negative: Tensor, dims: int, n_self: int) -> Tensor:
    """Median of the distances of each RSM, shape (..., 1[, 1]).

    The median of an even number is the mean of the middle two. A symmetric matrix holds every
    pair twice, which leaves the median as it is.
    """
    flat = negative.flatten(-dims)
    n = flat.shape[-1] - n_self
    low, high = n_self + (n - 1) // 2, n_self + n // 2  # places of the middle two
    if flat.requires_grad or flat.numel() * flat.itemsize <= PART_BYTES:
        ordered = flat.sort(-1, descending=True).values
        middle = -(ordered[..., low] + ordered[..., high]) / 2
    else:
        rows = flat.reshape(-1, flat.shape[-1])
        middle = torch.stack([_middle(row, low + 1, high + 1) for row in rows])
    return middle.reshape(*negative.shape[:-dims], *[1] * dims)


def _middle(negative: Tensor, low: int, high: int) -> Tensor:
    """Mean of the low-th and high-th smallest of many distances, without a copy of them.

    The first is found by bisection of the bits of positive numbers, which are in their order: so
    many rounds as there are bits, and the device is never waited for.
    """
    parts = negative.split(max(1, PART_BYTES // (2 * negative.itemsize)))

    def reached(distance: Tensor, place: int) -> Tensor:
        counts = [torch.count_nonzero(part >= -distance) for part in parts]
        return torch.stack(counts).sum() >= place

    largest = negative.amin().abs()
    above = largest.view(torch.int32 if negative.itemsize == 4 else torch.int64)
    below = torch.full_like(above, -1)  # the bits of a NaN, which no distance reaches
    for _ in range(8 * negative.itemsize - 1):
        center = below + (above - below) // 2
        enough = reached(center.view(negative.dtype), low)
        above, below = torch.where(enough, center, above), torch.where(enough, below, center)
    found = above.view(negative.dtype)
    following = torch.stack([part.where(part < -found, -torch.inf).amax() for part in parts])
    middle = torch.where(reached(found, high), found, (found - following.amax()) / 2)
    return middle.masked_fill(largest.isnan(), torch.nan)
