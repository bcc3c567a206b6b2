"""Nuclear norms, principal subspaces and angles with gradients that exist wherever the value does.

Derivatives of singular vectors are infinite where singular values repeat; none are taken here. All
decompositions are made in float64: taken in float32, small singular directions would be noise, and
the polar factor weighs them like large ones.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from softrsa._precision import product
from softrsa.measures._features import first_order, undefined

SMALL = 64  # rows of matrices whose SVD costs next to nothing


def cross_nuclear_norm(x: Tensor, y: Tensor, short: torch.dtype | None = None) -> Tensor:
    """Sum of the singular values of X'Y, (..., n, p) and (..., n, q) -> (...).

    Features with more units than stimuli are turned into n coordinates first, so that nothing
    larger than the smaller of n x n and p x q is decomposed. X'Y is formed in the type ``short``.
    """
    return nuclear_norm(product(coordinates(x).mT, coordinates(y), short)).to(x.dtype)


def nuclear_norm(matrix: Tensor) -> Tensor:
    """Sum of singular values (..., p, q) -> (...); NaN where an entry is not finite.

    The gradient is the polar factor U V', without the directions whose singular value cannot be
    told from 0: there the norm has a kink, and this is its smallest subgradient.
    """
    wide = matrix if matrix.shape[-2] <= matrix.shape[-1] else matrix.mT
    norm: Tensor = _NuclearNorm.apply(wide.double())  # type: ignore[assignment]
    return first_order(norm.to(matrix.dtype))


class _NuclearNorm(torch.autograd.Function):
    """Of wide matrices, from their rotation to orthogonal rows: M = U R with R = S V'."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor) -> Tensor:
        bad = undefined(matrix)
        left, rotated = _rotation(matrix.masked_fill(bad, 0.0))
        values = rotated.norm(dim=-1)
        ctx.save_for_backward(left, rotated, values)
        return values.sum(-1).masked_fill(bad[..., 0, 0], torch.nan)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        left, rotated, values = ctx.saved_tensors
        eps = torch.finfo(values.dtype).eps
        resolution = max(rotated.shape[-2:]) * eps if rotated.shape[-2] <= SMALL else eps**0.5
        present = values > resolution * values.amax(-1, keepdim=True)
        weights = present / values.where(present, 1.0)
        return (left * (grad[..., None] * weights)[..., None, :]) @ rotated


def _rotation(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Left singular vectors U and U'M.

    An eigendecomposition of MM' takes less than half the time of an SVD. It cannot tell directions
    below 1e-8 of the largest from each other, which moves the norm by about that much at worst,
    because the rows of U'M are measured. Small matrices, where an SVD costs little, get all digits.
    """
    if matrix.shape[-2] <= SMALL:
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
        return left, values[..., None] * right
    left = torch.linalg.eigh(matrix @ matrix.mT).eigenvectors
    return left, left.mT @ matrix


def coordinates(x: Tensor) -> Tensor:
    """Turn features with more units than stimuli into n coordinates with the same products.

    The basis is held fixed: X'Y has the same singular values in it, and what leaves it changes
    them in second order only.
    """
    n, p = x.shape[-2:]
    x = x.double()
    return x if p <= n else x @ torch.linalg.qr(x.detach().mT).Q


def principal_basis(
    x: Tensor, *, n_components: int | None = None, variance: float | None = None
) -> tuple[Tensor, Tensor]:
    """Orthonormal basis of the leading principal components of centered features (..., n, p).

    Returns the basis (..., n, r), r = min(n, p), in float64, with zero columns for components
    left out, and the number kept (...). Left out are those with no variance beyond rounding, those
    after the first ``n_components``, and those not needed for the share ``variance``. Its
    derivative is that of the *subspace*; rotations within it are held still.
    """
    wide = x.double()
    with torch.no_grad():
        bad = undefined(wide)
        u, s, _ = torch.linalg.svd(wide.masked_fill(bad, 0.0), full_matrices=False)
        tolerance = max(x.shape[-2:]) * torch.finfo(x.dtype).eps
        kept = s > tolerance * s[..., :1]
        eigenvalues = s.square()
        if n_components is not None:
            kept &= torch.arange(s.shape[-1], device=s.device) < n_components
        if variance is not None:
            before = eigenvalues.cumsum(-1) - eigenvalues
            kept &= before < variance * eigenvalues.sum(-1, keepdim=True)
        basis = u * kept[..., None, :]
        basis = basis.masked_fill(bad, torch.nan)
    if x.requires_grad and torch.is_grad_enabled():
        change = _subspace_change(wide, u, eigenvalues, kept)
        basis = basis + (change - change.detach())
    return basis, kept.sum(-1)


def _subspace_change(x: Tensor, u: Tensor, eigenvalues: Tensor, kept: Tensor) -> Tensor:
    """First-order change of the kept eigenvectors of XX' out of their span, as a function of x."""
    moved = x @ (x.mT @ u)
    inside = u.mT @ moved
    outside = moved - u @ inside
    gaps = eigenvalues[..., None, :] - eigenvalues[..., :, None]  # (left out, kept)
    crossing = kept[..., None, :] & ~kept[..., :, None] & (gaps > 0)
    inside = inside * (crossing / gaps.where(crossing, 1.0))
    own = kept / eigenvalues.where(kept, 1.0)
    return u @ inside + outside * own[..., None, :]


def angular_score(score: Tensor) -> Tensor:
    """1 - arccos(score) / (pi / 2), with gradient 0 at a score of 1 (within rounding) or -1."""
    inside = score.abs() < 1
    angle = score.where(inside, 0.0).arccos()
    ends = torch.where(score > 0, 0.0, math.pi).to(angle)
    angle = torch.where(inside | score.isnan(), angle, ends)
    angle = angle.masked_fill(score.isnan(), torch.nan)
    return 1 - angle / (math.pi / 2)
