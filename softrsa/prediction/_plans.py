"""Similarities of queries to neighbors, block by block, for training and for long inference.

`softrsa.rsm.similarity_matrix` adds up in float64 and takes pairs of nearly equal rows one by one.
A softmax over neighbors does not need these digits, and training needs the time: here a similarity
is one matrix product in the type of the input, and what follows is done in place where it may be.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

ALL = slice(None)


class Plan(NamedTuple):
    """A similarity as a product of prepared rows and what is made of it."""

    queries: Tensor  # (m, width)
    neighbors: Tensor  # (n, width)
    pairwise: Callable[[Tensor, Tensor], Tensor]
    finish: Callable[[Tensor], Tensor]  # may write into the product
    is_flat: Callable[[Tensor, Tensor, slice], Tensor]  # (low, high, rows): differ by rounding only

    def block(self, rows: slice = ALL, columns: slice = ALL) -> Tensor:
        """Similarities of some queries to some neighbors, larger for nearer ones."""
        return self.finish(self.pairwise(self.queries[rows], self.neighbors[columns]))


class _NegativeRoot(torch.autograd.Function):
    """Minus the root of squares that rounding may have made negative; gradient 0 at 0."""

    @staticmethod
    def forward(ctx, squares: Tensor) -> Tensor:
        result = squares.clamp_min(0.0).sqrt_().neg_()
        ctx.save_for_backward(result)
        return result

    @staticmethod
    def backward(ctx, *grad_outputs: Tensor) -> Tensor:
        (result,) = ctx.saved_tensors
        divisor = torch.threshold_(-result, 0.0, torch.inf)  # of a distance of 0: no gradient
        return torch.div(grad_outputs[0], divisor).mul_(-0.5)


def _inner(x: Tensor, y: Tensor) -> Tensor:
    return x @ y.mT


def _itself(product: Tensor) -> Tensor:
    return product


def _squares(queries: Tensor, neighbors: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """Rows whose product is ``scale`` times the squared distance, and the error of a row's."""
    middle = neighbors.detach().mean(0)  # leaves distances as they are, spares their digits
    x, y = queries - middle, neighbors - middle
    x_norm, y_norm = (z.square().sum(-1, keepdim=True) for z in (x, y))
    left = torch.cat([(-2 * scale) * x, scale * x_norm, torch.full_like(x_norm, scale)], -1)
    right = torch.cat([y, torch.ones_like(y_norm), y_norm], -1)
    rounding = torch.finfo(x.dtype).eps * 4 * (x_norm.detach() + y_norm.detach().amax())
    return left, right, rounding


def l2(queries: Tensor, neighbors: Tensor, bandwidth: float | None) -> Plan:
    """Euclidean distance, negative."""
    left, right, rounding = _squares(queries, neighbors, 1.0)

    def finish(product: Tensor) -> Tensor:
        if product.requires_grad:
            return _NegativeRoot.apply(product)
        return product.clamp_min_(0.0).sqrt_().neg_()

    return Plan(
        left,
        right,
        _inner,
        finish,
        lambda low, high, rows: low.square() - high.square() <= rounding[rows],
    )


def rbf(queries: Tensor, neighbors: Tensor, bandwidth: float | None) -> Plan:
    """Gaussian of the Euclidean distance; the bandwidth is the root of the width by default."""
    variance = float(queries.shape[-1]) if bandwidth is None else bandwidth**2
    left, right, rounding = _squares(queries, neighbors, -0.5 / variance)
    rounding = rounding / (2 * variance)

    def finish(product: Tensor) -> Tensor:
        if product.requires_grad:
            return product.clamp_max(0.0).exp()
        return product.clamp_max_(0.0).exp_()

    return Plan(left, right, _inner, finish, _within(rounding))


def l1(queries: Tensor, neighbors: Tensor, bandwidth: float | None) -> Plan:
    """City-block distance, negative."""
    return Plan(
        queries,
        neighbors,
        lambda x, y: torch.cdist(x, y, p=1.0),
        torch.neg,
        lambda low, high, rows: low == high,
    )


def cosine(queries: Tensor, neighbors: Tensor, bandwidth: float | None) -> Plan:
    """Cosine of the angle; 0 to and from a row of zeros."""
    unit = [_unit_length(rows) for rows in (queries, neighbors)]
    rounding = torch.full_like(queries[:, :1].detach(), 4 * torch.finfo(queries.dtype).eps)
    return Plan(unit[0], unit[1], _inner, _itself, _within(rounding))


def dot(queries: Tensor, neighbors: Tensor, bandwidth: float | None) -> Plan:
    """Inner product per unit."""
    scaled = queries / queries.shape[-1]
    longest = neighbors.detach().norm(dim=-1).amax()
    eps = torch.finfo(queries.dtype).eps
    rounding = 4 * eps * longest * scaled.detach().norm(dim=-1, keepdim=True)
    return Plan(scaled, neighbors, _inner, _itself, _within(rounding))


def _unit_length(rows: Tensor) -> Tensor:
    length = rows.norm(dim=-1, keepdim=True)
    return rows / length.masked_fill(length == 0, 1.0)


def _within(rounding: Tensor) -> Callable[[Tensor, Tensor, slice], Tensor]:
    return lambda low, high, rows: high - low <= rounding[rows]


PLANS: dict[str, Callable[[Tensor, Tensor, float | None], Plan]] = {
    "l2": l2,
    "l1": l1,
    "cosine": cosine,
    "dot": dot,
    "rbf": rbf,
}
