"""Inner products of linear kernels, in the cheaper of two forms, with their gradients.

With X (n, p) and Y (n, q), the inner product of the kernels XX' and YY' is the squared norm of X'Y.
Whichever is smaller, n x n or p x q, is formed, and nothing larger. The gradients are written out:
they take half the products that differentiating ``x @ x.mT`` would.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from softrsa._precision import product, short_type, without_autocast
from softrsa.measures._features import first_order


class KernelProducts(NamedTuple):
    """Inner products of the linear kernels of x and y, shape (...)."""

    xy: Tensor
    xx: Tensor
    yy: Tensor


def kernel_products(x: Tensor, y: Tensor) -> KernelProducts:
    """<XX', YY'>, <XX', XX'> and <YY', YY'> of features (..., n, p) and (..., n, q).

    Under autocast matrices are multiplied in its type, forward and backward; sums are not.
    """
    short = short_type(x)
    with without_autocast(x):
        return KernelProducts(*map(first_order, _products(x, y, short)))


def _products(x: Tensor, y: Tensor, short: torch.dtype | None) -> tuple[Tensor, Tensor, Tensor]:
    n, p, q = x.shape[-2], x.shape[-1], y.shape[-1]
    if n * n <= p * q:
        a, b = _Kernel.apply(x, short), _Kernel.apply(y, short)
        return _inner(a, b), _inner(a, a), _inner(b, b)
    lead = torch.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    cross = _CrossProduct.apply(x.expand(*lead, n, p), y.expand(*lead, n, q), short)
    return cross, _self_product(x, p * q, short), _self_product(y, p * q, short)


def _inner(a: Tensor, b: Tensor) -> Tensor:
    return torch.linalg.vecdot(a.flatten(-2), b.flatten(-2))


class _Kernel(torch.autograd.Function):
    """XX', for functions of it whose gradient is symmetric."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, short: torch.dtype | None) -> Tensor:
        ctx.save_for_backward(x)
        ctx.short = short
        return product(x, x.mT, short)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        return product(2 * grad, x, ctx.short), None


class _CrossProduct(torch.autograd.Function):
    """Squared norm of X'Y."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, short: torch.dtype | None) -> Tensor:
        cross = product(x.mT, y, short)
        ctx.save_for_backward(x, y, cross)
        ctx.short = short
        return _inner(cross, cross)

    @staticmethod
    def backward(  # type: ignore[override]
        ctx: Any, grad: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None]:
        x, y, cross = ctx.saved_tensors
        scaled = cross * (2 * grad[..., None, None])
        to_x, to_y, _ = ctx.needs_input_grad
        return (
            product(y, scaled.mT, ctx.short) if to_x else None,
            product(x, scaled, ctx.short) if to_y else None,
            None,
        )


def _self_product(x: Tensor, limit: int, short: torch.dtype | None) -> Tensor:
    """Squared norm of X'X (or XX', if that is smaller), at most ``limit`` entries at a time."""
    return _SelfProduct.apply(x.mT if x.shape[-1] <= x.shape[-2] else x, limit, short)


class _SelfProduct(torch.autograd.Function):
    """Squared norm of ZZ', in stretches of rows; kept for the gradient if it is one stretch."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, limit: int, short: torch.dtype | None) -> Tensor:
        ctx.limit, ctx.short = limit, short
        total, whole = z.new_zeros(z.shape[:-2]), None
        for rows in _stretches(z.shape[-2], limit):
            part = product(z[..., rows, :], z.mT, short)
            total += _inner(part, part)
            whole = part if part.shape[-2] == z.shape[-2] else None
        ctx.save_for_backward(z, whole)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        z, whole = ctx.saved_tensors
        factor = 4 * grad[..., None, None]
        if whole is not None:
            return product(whole * factor, z, ctx.short), None, None
        result = torch.empty_like(z)
        for rows in _stretches(z.shape[-2], ctx.limit):
            part = product(z[..., rows, :], z.mT, ctx.short).mul_(factor)
            result[..., rows, :] = product(part, z, ctx.short)
        return result, None, None


def _stretches(n: int, limit: int) -> Iterator[slice]:
    step = max(1, limit // n)
    return (slice(start, start + step) for start in range(0, n, step))
