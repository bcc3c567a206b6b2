"""Soft ranks: ranks with a gradient, by projection on the permutahedron."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from softrsa._checks import check_floating
from softrsa.errors import DataError, ShapeError
from softrsa.transforms._isotonic import Solver, choose

Backend = Literal["auto", "torchsort", "scipy", "torch"]
SAME = 1e-9  # in ranks: blocks closer than this are one, as in torchsort
# rows are taken in parts; on the CPU so small that they stay in its cache and torch does not share
# them among threads, whose waiting for each other costs more than it gains where cores are busy
PART = {"cpu": 2**15}
LARGE_PART = 2**25


def soft_rank(x: Tensor, *, strength: float, backend: Backend = "auto") -> Tensor:
    r"""Rank values from 1, ascending, by a piecewise-linear function that has a gradient.

    Each row is standardized to the mean and spread of the ranks :math:`1, \dots, n` and projected
    on the permutahedron, the convex hull of their orders:

    .. math:: \operatorname{argmin}_{r \in \mathcal{P}(1, \dots, n)}
              \lVert r - z / \epsilon\rVert_2,
              \quad z_i = \frac{x_i - \bar x}{\sigma_x} \sqrt{\frac{n^2 - 1}{12}}

    Parameters
    ----------
    x : Tensor, shape (..., n)
        Values in any unit; each row of the last dimension is ranked by itself.
    strength : float
        :math:`\epsilon > 0`, in the unit of a row's own spread, so that it means the same for any
        scale and any ``n``. Towards 0: ranks, ties sharing their mean rank, with gradient only
        within ties. Large: :math:`z / \epsilon` about the mean rank, linear in ``x``.
    backend : {"auto", "torchsort", "scipy", "torch"}
        Who solves the isotonic regression: torchsort where it is installed for the device, else
        SciPy on the CPU, else torch, which works anywhere. Values and gradients are the same.

    Returns
    -------
    Tensor, shape (..., n)
        Soft ranks in [1, n], of which each row has the mean (n + 1) / 2. A constant row has that
        mean everywhere and no gradient. NaN in a row with a value that is not finite.

    Raises
    ------
    DTypeError
        If ``x`` is not float32 or float64.
    ShapeError
        If ``x`` is a scalar.
    DataError
        If ``strength`` is not positive and finite, or ``"scipy"`` is asked for on another device.
    UnknownNameError
        If there is no such backend.
    DeviceError
        If ``"torchsort"`` is asked for and is not installed for the device.

    Notes
    -----
    Equal to ``torchsort.soft_rank`` of the standardized rows, computed in float64 whatever the
    input. The gradient goes through the standardization too. Second derivatives are right where
    they exist.

    References
    ----------
    Blondel, Teboul, Berthet & Djolonga (2020), arXiv:2002.08871.

    Examples
    --------
    >>> x = torch.tensor([0.3, 9.0, 0.1, 0.2])
    >>> soft_rank(x, strength=1e-3)
    tensor([3., 4., 1., 2.])
    >>> soft_rank(x, strength=1.0)
    tensor([2.0293, 4.0000, 1.9707, 2.0000])
    """
    check_floating(x=x)
    if x.ndim == 0:
        raise ShapeError("`x` must have shape (..., n), got a scalar.")
    if not 0 < strength < math.inf:
        raise DataError(f"`strength` must be positive and finite, got {strength!r}.")
    solve = choose(backend, x.device)
    if x.numel() == 0:
        return x.clone()
    n = x.shape[-1]
    step = max(1, PART.get(x.device.type, LARGE_PART) // n)
    parts = x.reshape(-1, n).split(step)
    ranks = [_rank_rows(rows, strength, solve).to(x.dtype) for rows in parts]
    return torch.cat(ranks).view(x.shape)


def _rank_rows(x: Tensor, strength: float, solve: Solver) -> Tensor:
    order = _argsort(x.detach())
    low = x.detach().gather(-1, order[:, :1]).double()
    high = x.detach().gather(-1, order[:, -1:]).double()  # NaN is sorted last
    undefined = ~(low.isfinite() & high.isfinite())
    z = _standardized(x.double(), low, high, undefined | (low == high))
    ranks = _Projection.apply(z / strength, order, solve)
    return ranks.masked_fill(undefined, torch.nan) if bool(undefined.any()) else ranks


def _argsort(x: Tensor) -> Tensor:
    """Sort rows; on the CPU with NumPy, whose sort is several times as fast as torch's."""
    if x.device.type == "cpu":
        return torch.from_numpy(np.argsort(x.numpy(), axis=-1))
    return x.argsort(dim=-1)


def _standardized(x: Tensor, low: Tensor, high: Tensor, flat: Tensor) -> Tensor:
    """Give rows mean 0 and the spread of the ranks 1, ..., n; zeros where ``flat``."""
    n = x.shape[-1]
    some_flat = bool(flat.any())
    if some_flat:
        x = x.masked_fill(flat, 0.0)
        low, high = low.masked_fill(flat, 0.0), high.masked_fill(flat, 1.0)
    x = (x - low) / (high - low)  # constants to the gradient: scale and shift do not matter
    x = x - x.mean(-1, keepdim=True)
    variance = x.square().mean(-1, keepdim=True)
    if some_flat:
        variance = variance.masked_fill(flat, 1.0)
    return x * ((n * n - 1) / 12 / variance).sqrt()


class _Projection(torch.autograd.Function):
    """The point of the permutahedron nearest to each row, whose sorting order is given."""

    @staticmethod
    def forward(ctx, x: Tensor, order: Tensor, solve: Solver) -> Tensor:
        n = x.shape[-1]
        ascending = x.gather(-1, order)
        targets = torch.arange(1, n + 1, dtype=x.dtype, device=x.device) - (n + 1) / 2
        excess = ascending - targets
        starts = torch.ones_like(excess, dtype=torch.bool)
        starts[:, 1:] = solve(excess).diff(dim=-1) > SAME
        block = starts.flatten().cumsum(0).sub_(1).view_as(order)
        size = block.flatten().bincount()
        ctx.save_for_backward(order, block, size)
        # excess summed anew: a solver's own sums may be rounded more
        ranks = (ascending - _block_means(excess, block, size)).add_((n + 1) / 2)
        return torch.empty_like(x).scatter_(-1, order, ranks)

    @staticmethod
    def backward(ctx, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        return _Residual.apply(grad_outputs[0], *ctx.saved_tensors), None, None


class _Residual(torch.autograd.Function):
    """What is left of each entry without its block's mean: the projection's Jacobian."""

    @staticmethod
    def forward(ctx, x: Tensor, order: Tensor, block: Tensor, size: Tensor) -> Tensor:
        ctx.save_for_backward(order, block, size)
        ascending = x.gather(-1, order)
        rest = ascending - _block_means(ascending, block, size)
        return torch.empty_like(x).scatter_(-1, order, rest)

    @staticmethod
    def backward(ctx, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None]:
        return _Residual.apply(grad_outputs[0], *ctx.saved_tensors), None, None, None


def _block_means(values: Tensor, block: Tensor, size: Tensor) -> Tensor:
    sums = values.new_zeros(len(size)).index_add_(0, block.flatten(), values.flatten())
    return (sums / size).index_select(0, block.flatten()).view_as(values)
