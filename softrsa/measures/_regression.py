"""Centered regressions in float64: least squares of minimum norm, and ridge."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

EPS = torch.finfo(torch.float64).eps


Predict = Callable[
    [Tensor], Tensor
]  # of features (..., m, p), centered like the fit's: (..., m, q)


def least_squares(x: Tensor, y: Tensor, eps: float) -> Predict:
    """Fit centered ``y`` (..., n, q) on ``x`` (..., n, p), with coefficients of minimum norm.

    Directions of ``x`` that are rounding at a precision of ``eps`` predict nothing.
    First derivatives only: those of a pseudo-inverse of constant rank (Golub & Pereyra 1973,
    doi:10.1137/0710036), which need no difference between singular values. With more units than
    stimuli the p x q coefficients are never formed.
    """
    fixed = x.detach()
    left, singular, right = torch.linalg.svd(fixed, full_matrices=False)
    kept = singular > max(x.shape[-2:]) * eps * singular[..., :1]
    inverse = torch.where(kept, singular.reciprocal(), 0.0)
    pinv = (right.mT * inverse[..., None, :]) @ left.mT
    if x.shape[-2] < x.shape[-1]:
        return _through_stimuli(x, y, pinv)
    coefficients = pinv @ y
    if x.requires_grad:
        change = x - fixed  # zero, but it carries the gradient
        base = coefficients.detach()
        residual = y.detach() - fixed @ base
        outside = change.mT @ (pinv.mT @ base)
        coefficients = (
            coefficients
            - pinv @ (change @ base)
            + pinv @ (pinv.mT @ (change.mT @ residual))
            + outside
            - pinv @ (fixed @ outside)
        )
    return lambda z: z @ coefficients


def _through_stimuli(x: Tensor, y: Tensor, pinv: Tensor) -> Predict:
    """Predict with products of stimuli by stimuli: the same terms, put together the other way."""
    if not x.requires_grad:
        return lambda z: (z @ pinv) @ y
    fixed, base = x.detach(), y.detach()
    change = x - fixed
    square = pinv.mT @ pinv
    residual = base - (fixed @ pinv) @ base
    inner = (
        y
        - (change @ pinv) @ base
        + (pinv.mT @ change.mT) @ residual
        - (fixed @ change.mT) @ (square @ base)
    )
    return lambda z: (z @ pinv) @ inner + (z @ change.mT) @ (square @ base)


def ridge(x: Tensor, y: Tensor, strengths: Tensor) -> Predict:
    """Fit centered ``y`` on ``x`` by ridge, each target with its best of ``strengths`` (..., k).

    One eigendecomposition of the smaller Gram matrix serves all strengths and targets. It is
    detached: a Newton step from its solution, which changes no digit but rounding, carries the
    gradient, so that eigenvectors are never differentiated.
    """
    dual = x.shape[-2] < x.shape[-1]
    fixed = x.detach()
    gram = x @ x.mT if dual else x.mT @ x
    squares, vectors = torch.linalg.eigh(gram.detach())
    squares = squares.clamp(min=0)
    if strengths.shape[-1] > 1:
        scores = vectors * squares.sqrt()[..., None, :] if dual else fixed @ vectors
        best = _leave_one_out(scores, squares, y.detach(), strengths.detach())
        strengths = strengths.expand(*best.shape[:-1], -1).gather(-1, best)
    strength = strengths[..., None, :]  # (..., 1, q) or (..., 1, 1)
    damped = squares[..., None] + strength.detach()

    def solve(right_side: Tensor) -> Tensor:
        return vectors @ ((vectors.mT @ right_side) / damped)

    right_side = y if dual else x.mT @ y
    solution = _differentiable(right_side, lambda s: gram @ s + strength * s, solve)
    return lambda z: ((z @ x.mT) if dual else z) @ solution


def _differentiable(
    right_side: Tensor, operator: Callable[[Tensor], Tensor], solve: Callable[[Tensor], Tensor]
) -> Tensor:
    """Solve ``operator(solution) = right_side`` with the gradient of the implicit function."""
    solution = solve(right_side.detach())
    return solution + solve(right_side - operator(solution))


def _leave_one_out(scores: Tensor, squares: Tensor, y: Tensor, strengths: Tensor) -> Tensor:
    """Index of the strength with the least leave-one-out error, per target: (..., q)."""
    n = y.shape[-2]
    projected = scores.mT @ y
    errors = []
    for strength in strengths.unbind(-1):
        shrunk = 1 / (squares + strength[..., None])[..., None]
        residual = y - scores @ (shrunk * projected)
        # 1 - leverage; the intercept, fitted again without the stimulus, takes 1 / n of it
        left = 1 - 1 / n - scores.square() @ shrunk
        error = (residual / left).square().mean(-2)
        # a stimulus that fixes its own prediction leaves 0 / 0 in rounding
        rounding = (left <= 8 * n * EPS).any(-2).expand_as(error)
        errors.append(error.masked_fill(rounding, torch.inf))
    return torch.stack(errors).argmin(0)
