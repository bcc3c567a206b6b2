"""Shape of representations: normalized Bures similarity and Procrustes, from the nuclear norm."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from softrsa._checks import check_count, checked
from softrsa._gradients import within
from softrsa._precision import product, short_type
from softrsa.errors import DataError
from softrsa.measures._features import centered, check_features, first_order, undefined

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
    features: Tensor, *, n_components: int | None = None, variance: float | None = None
) -> tuple[Tensor, Tensor]:
    """Orthonormal basis of the leading principal components of features (..., n, p), centered.

    Returns the basis (..., n, r), r = min(n, p), in float64, with zero columns for components
    left out, and the number kept (...). Left out are those with no variance beyond rounding, those
    after the first ``n_components``, and those not needed for the share ``variance``. Its
    derivative is that of the *subspace*; rotations within it are held still.
    """
    wide = centered(features.double())
    with torch.no_grad():
        bad = undefined(wide)
        u, s, _ = torch.linalg.svd(wide.masked_fill(bad, 0.0), full_matrices=False)
        kept = s > singular_rounding(u, s, features, torch.finfo(features.dtype).eps)
        eigenvalues = s.square()
        if n_components is not None:
            kept &= torch.arange(s.shape[-1], device=s.device) < n_components
        if variance is not None:
            before = eigenvalues.cumsum(-1) - eigenvalues
            kept &= before < variance * eigenvalues.sum(-1, keepdim=True)
        basis = u * kept[..., None, :]
        basis = basis.masked_fill(bad, torch.nan)
    if wide.requires_grad and torch.is_grad_enabled():
        change = _subspace_change(wide, u, eigenvalues, kept)
        basis = basis + (change - change.detach())
    return basis, kept.sum(-1)


def singular_rounding(left: Tensor, values: Tensor, raw: Tensor, eps: float) -> Tensor:
    """Singular values (..., r) of centered features that the rounding of the raw ones could make.

    Each stimulus is rounded in proportion to its own size, and takes part in a direction as much as
    the left singular vector says. The decomposition itself rounds in proportion to the largest.
    """
    n, p = raw.shape[-2:]
    sizes = raw.detach().double().square().sum(-1, keepdim=True)
    taking_part = (left.square() * sizes).sum(-2).sqrt()
    own = 4 * max(1.0, (n / p) ** 0.5) * eps * taking_part
    return torch.maximum(own, max(n, p) * torch.finfo(values.dtype).eps * values[..., :1])


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


def nbs(x: Tensor, y: Tensor) -> Tensor:
    r"""Measure the normalized Bures similarity of two sets of features.

    With columns centered and :math:`\lVert\cdot\rVert_*` the sum of singular values,

    .. math:: \mathrm{NBS}(X, Y) = \frac{\lVert X^\top Y\rVert_*}
              {\sqrt{\operatorname{tr} XX^\top \,\operatorname{tr} YY^\top}}

    Parameters
    ----------
    x : Tensor, shape (..., n_stimuli, p)
        Responses, float32 or float64, in any unit.
    y : Tensor, shape (..., n_stimuli, q)
        Responses to the same stimuli; leading dimensions broadcast.

    Returns
    -------
    Tensor, shape (...)
        Score in [0, 1]: the cosine of the angle between X and Y after the best rotation. NaN where
        no unit of ``x`` or of ``y`` varies over stimuli.

    Raises
    ------
    DTypeError
        If a tensor is neither float32 nor float64, or they differ.
    ShapeError
        If the two do not have the same stimuli, or fewer than 2.

    Notes
    -----
    Computed in float64 whatever the input, by one symmetric eigendecomposition no larger than the
    smallest of n, p and q; the gradient is the polar factor of X'Y, finite also for repeated or
    zero singular values. Under `torch.autocast` X'Y alone is formed in its type, for float32.

    References
    ----------
    Harvey, Larsen & Williams (2024), arXiv:2311.11436; Cloos et al. (2024), arXiv:2407.07059.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
    >>> nbs(x, x @ torch.tensor([[0.0, 2.0], [-2.0, 0.0]]))
    tensor(1.)
    >>> nbs(x, x[:, :1])
    tensor(0.7906)
    """
    check_features(x, y)
    return _nbs(x, y)


def _nbs(x: Tensor, y: Tensor) -> Tensor:
    dtype, short = x.dtype, short_type(x)
    scaled = short is not None  # whose range may be short, too
    x, y = centered(x.double(), scaled=scaled), centered(y.double(), scaled=scaled)
    sizes = x.norm(dim=(-2, -1)) * y.norm(dim=(-2, -1))
    return within(cross_nuclear_norm(x, y, short) / sizes, 0.0).to(dtype)


def angular_procrustes(x: Tensor, y: Tensor) -> Tensor:
    r"""Angle between features after the best rotation, from 0 (right angle) to 1 (none).

    .. math:: 1 - \frac{\arccos \mathrm{NBS}(X, Y)}{\pi / 2}

    It is the angular form of `nbs` and of the Procrustes similarity alike.

    Parameters
    ----------
    x, y : Tensor, shape (..., n_stimuli, p) and (..., n_stimuli, q)
        As for `nbs`.

    Returns
    -------
    Tensor, shape (...)
        Score in [0, 1]; 1 minus it is a metric. NaN where `nbs` is.

    Raises
    ------
    DTypeError, ShapeError
        As `nbs`.

    Notes
    -----
    At a score of 1, where the angle has a kink, the gradient is 0.

    References
    ----------
    Williams, Kunz, Kornblith & Linderman (2021), arXiv:2110.14739.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
    >>> angular_procrustes(x, x[:, :1])
    tensor(0.5804)
    """
    check_features(x, y)
    return angular_score(_nbs(x, y))


def procrustes_distance(x: Tensor, y: Tensor, *, scaling: bool = False) -> Tensor:
    r"""Euclidean distance between two sets of features after the best rotation.

    .. math:: \min_Q \lVert XQ - Y\rVert_F
              = \sqrt{\lVert X\rVert_F^2 + \lVert Y\rVert_F^2 - 2\lVert X^\top Y\rVert_*}

    with columns centered; features of fewer units are filled up with zeros.

    Parameters
    ----------
    x, y : Tensor, shape (..., n_stimuli, p) and (..., n_stimuli, q)
        As for `nbs`.
    scaling : bool
        Bring both to a Frobenius norm of 1 first, so that only the shape counts.

    Returns
    -------
    Tensor, shape (...)
        Distance from 0, in the unit of the responses; a metric. With ``scaling`` at most
        :math:`\sqrt 2`, and NaN where no unit varies over stimuli.

    Raises
    ------
    DTypeError, ShapeError
        As `nbs`.

    Notes
    -----
    It is the root of a difference, so below about 1e-8 of the norms it is rounding. At a distance
    of 0, where it has a kink, the gradient is 0.

    References
    ----------
    Williams, Kunz, Kornblith & Linderman (2021), arXiv:2110.14739.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
    >>> procrustes_distance(x, 2 * x)
    tensor(2.)
    >>> procrustes_distance(x, x[:, :1], scaling=True)
    tensor(0.6472)
    """
    check_features(x, y)
    dtype = x.dtype
    # in float64: the difference below loses half of the digits
    x, y = centered(x.double()), centered(y.double())
    if scaling:
        x, y = (z / z.norm(dim=(-2, -1), keepdim=True) for z in (x, y))
    squares = x.square().sum((-2, -1)) + y.square().sum((-2, -1))
    square = squares - 2 * cross_nuclear_norm(x, y)
    apart = square > 0
    distance = square.where(apart | square.isnan(), 1.0).sqrt()
    return distance.where(apart | square.isnan(), 0.0).to(dtype)


def cca(x: Tensor, y: Tensor) -> Tensor:
    r"""Mean canonical correlation of two sets of features.

    With :math:`Q_X, Q_Y` orthonormal bases of the centered columns and :math:`k` the smaller of
    their ranks,

    .. math:: \mathrm{CCA}(X, Y) = \lVert Q_X^\top Q_Y\rVert_* / k

    Parameters
    ----------
    x : Tensor, shape (..., n_stimuli, p)
        Responses, float32 or float64, in any unit.
    y : Tensor, shape (..., n_stimuli, q)
        Responses to the same stimuli; leading dimensions broadcast.

    Returns
    -------
    Tensor, shape (...)
        Score in [0, 1]. It is 1 whenever one side has as many independent units as stimuli less
        one, whatever they are. NaN where no unit of ``x`` or of ``y`` varies over stimuli.

    Raises
    ------
    DTypeError
        If a tensor is neither float32 nor float64, or they differ.
    ShapeError
        If the two do not have the same stimuli, or fewer than 2.

    Notes
    -----
    Computed in float64. Differentiable where the rank does not change; directions without variance
    (beyond rounding in the type of the input) do not count towards the rank. First derivatives
    only.

    References
    ----------
    Hotelling (1936), doi:10.1093/biomet/28.3-4.321; Raghu, Gilmer, Yosinski & Sohl-Dickstein
    (2017), arXiv:1706.05806.

    Examples
    --------
    >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0], [2.0, 0.5]])
    >>> cca(x, x @ torch.tensor([[1.0, 2.0], [0.0, 3.0]]))
    tensor(1.)
    >>> cca(x[:, :1], x[:, 1:])
    tensor(0.5292)
    """
    check_features(x, y)
    return _mean_correlation(principal_basis(x), principal_basis(y), x.dtype)


@checked
def svcca(
    x: Tensor,
    y: Tensor,
    *,
    n_components: int | None = None,
    variance: float | None = None,
) -> Tensor:
    """Mean canonical correlation of the leading principal components of each side.

    Parameters
    ----------
    x, y : Tensor, shape (..., n_stimuli, p) and (..., n_stimuli, q)
        As for `cca`.
    n_components : int, optional
        How many principal components to keep on each side, fewer where there are not as many.
    variance : float, optional
        Keep as few components as have this share of the variance, in (0, 1]. Without either, .99.

    Returns
    -------
    Tensor, shape (...)
        Score in [0, 1]. NaN where no unit of ``x`` or of ``y`` varies over stimuli.

    Raises
    ------
    DTypeError, ShapeError
        As `cca`.
    DataError
        If both options are given, or one is out of range.

    Notes
    -----
    Computed in float64. The gradient is that of the leading subspaces, finite also where singular
    values repeat within one; it does not exist where the last component kept and the first left
    out have equal variance, and those two are then held still. First derivatives only.

    References
    ----------
    Raghu, Gilmer, Yosinski & Sohl-Dickstein (2017), arXiv:1706.05806.

    Examples
    --------
    >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0], [2.0, 0.5]])
    >>> svcca(x, x[:, 1:], n_components=1)
    tensor(0.7061)
    """
    check_features(x, y)
    if n_components is not None and variance is not None:
        raise DataError(
            f"Give `n_components` or `variance`, not both; got {n_components} and {variance}."
        )
    if n_components is not None:
        check_count("n_components", n_components, 1)
    if variance is not None and not 0 < variance <= 1:
        raise DataError(f"`variance` must be a share above 0 and up to 1, got {variance}.")
    if n_components is None and variance is None:
        variance = 0.99
    left, right = (principal_basis(z, n_components=n_components, variance=variance) for z in (x, y))
    return _mean_correlation(left, right, x.dtype)


def _mean_correlation(
    x: tuple[Tensor, Tensor], y: tuple[Tensor, Tensor], dtype: torch.dtype
) -> Tensor:
    total = nuclear_norm(x[0].mT @ y[0])
    rank = torch.minimum(x[1], y[1])
    undefined = (x[1] == 0) | (y[1] == 0)
    score = (total / rank).masked_fill(undefined, torch.nan)
    return first_order(within(score, 0.0).to(dtype))
