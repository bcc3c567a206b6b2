"""Noise covariance between units from residuals, shrunk or not, and its inverse."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from softrsa._checks import check_floating
from softrsa._wording import counted
from softrsa.errors import DataError, ShapeError, unknown_name

CovarianceMethod = Literal["shrinkage_diagonal", "shrinkage_identity", "diagonal", "full"]
METHODS = ("shrinkage_diagonal", "shrinkage_identity", "diagonal", "full")


def residual_covariance(
    residuals: Tensor, *, method: CovarianceMethod = "shrinkage_diagonal", dof: int | None = None
) -> Tensor:
    r"""Covariance between units of residuals.

    ======================  ====================================================================
    `full`                  :math:`S = R^\top R / \mathrm{dof}`, of centered residuals R
    `diagonal`              the variances alone
    `shrinkage_diagonal`    :math:`\lambda \operatorname{diag} S + (1 - \lambda) S` [1]_
    `shrinkage_identity`    :math:`\lambda \bar s I + (1 - \lambda) S`, mean variance s [2]_
    ======================  ====================================================================

    with the :math:`\lambda` in [0, 1] that is estimated to err least.

    Parameters
    ----------
    residuals : Tensor, shape (..., n_residuals, n_units)
        Deviations from what is explained, float32 or float64, in any unit; their mean is removed.
    method : str
        A name of the table above.
    dof : int, optional
        Degrees of freedom of the residuals: ``n_residuals`` less the parameters that were fitted,
        such as one mean per stimulus. ``n_residuals - 1`` by default.

    Returns
    -------
    Tensor, shape (..., n_units, n_units)
        Symmetric, in the squared unit of the residuals. NaN throughout where `shrinkage_diagonal`
        meets a unit without variance.

    Raises
    ------
    DTypeError
        If ``residuals`` are neither float32 nor float64.
    UnknownNameError
        If ``method`` is not in the table.
    ShapeError
        If there is nothing in ``residuals``.
    DataError
        If ``dof`` is not positive.

    Notes
    -----
    Differentiable; summed in float64. `shrinkage_diagonal` costs two products of the residuals
    with themselves, the others one.

    References
    ----------
    .. [1] Schäfer & Strimmer (2005), doi:10.2202/1544-6115.1175.
    .. [2] Ledoit & Wolf (2004), doi:10.1016/S0047-259X(03)00096-4.

    Equal to ``rsatoolbox.data.noise.cov_from_residuals``.

    Examples
    --------
    >>> residuals = torch.tensor([[1.0, 2.0], [-1.0, 0.0], [3.0, 1.0], [-3.0, -3.0]])
    >>> residual_covariance(residuals, method="full")
    tensor([[6.6667, 4.6667],
            [4.6667, 4.6667]])
    >>> residual_covariance(residuals)
    tensor([[6.6667, 3.7566],
            [3.7566, 4.6667]])
    """
    check_floating(residuals=residuals)
    if method not in METHODS:
        raise unknown_name("covariance (`method`)", method, METHODS)
    if residuals.ndim < 2 or 0 in residuals.shape[-2:]:
        raise ShapeError(
            "`residuals` must have shape (..., n_residuals, n_units) with at least one of each, "
            f"got {tuple(residuals.shape)}."
        )
    dof = residuals.shape[-2] - 1 if dof is None else dof
    if dof < 1:
        raise DataError(
            f"{counted(residuals.shape[-2], 'residual')} leave {dof} degrees of freedom, at least "
            "1 is needed: a covariance takes several trials of a stimulus."
        )
    r = residuals.double() - residuals.mean(-2, keepdim=True, dtype=torch.float64)
    if method == "diagonal":
        covariance = torch.diag_embed(r.square().sum(-2) / dof)
    elif method == "full":
        covariance = r.mT @ r / dof
    elif method == "shrinkage_diagonal":
        covariance = _to_diagonal(r, dof)
    else:
        covariance = _to_identity(r, dof)
    return covariance.to(residuals.dtype)


def _to_diagonal(r: Tensor, dof: int) -> Tensor:
    """Shrink correlations: the sum of their variances over the sum of their squares."""
    n = r.shape[-2]
    scaled = r / (r.square().sum(-2, keepdim=True) / dof).sqrt()
    products = scaled.mT @ scaled
    itself = torch.eye(r.shape[-1], dtype=torch.bool, device=r.device)
    correlations = (products / (n - 1)).masked_fill(itself, 0.0)
    squares = (scaled.square().mT @ scaled.square() / (n - 1)).masked_fill(itself, 0.0)
    variances = n / dof**2 * (squares - correlations.square())
    shrinkage = _share(variances.sum((-2, -1)), correlations.square().sum((-2, -1)))
    covariance = r.mT @ r / dof
    return covariance * torch.where(itself, 1.0, 1 - shrinkage)


def _to_identity(r: Tensor, dof: int) -> Tensor:
    """Shrink eigenvalues to their mean: the variance of entries over their distance to it."""
    n, n_units = r.shape[-2:]
    covariance = r.mT @ r / n
    mean = covariance.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    target = mean * torch.eye(n_units, dtype=r.dtype, device=r.device)
    fourth = r.square().sum(-1).square().sum(-1) / n
    variance = (fourth - covariance.square().sum((-2, -1))) / n
    shrinkage = _share(variance, (covariance - target).square().sum((-2, -1)))
    return (shrinkage * target + (1 - shrinkage) * covariance) * (n / dof)


def _share(part: Tensor, whole: Tensor) -> Tensor:
    """Divide, at most 1 and at least 0; 1 where there is nothing to shrink. Shape (..., 1, 1)."""
    nothing = whole == 0
    share = part / whole.masked_fill(nothing, 1.0)
    return share.masked_fill(nothing, 1.0).clamp(0.0, 1.0)[..., None, None]


def precision_of(covariance: Tensor) -> Tensor:
    """Invert covariances between units.

    Parameters
    ----------
    covariance : Tensor, shape (..., n_units, n_units)
        Symmetric, float32 or float64.

    Returns
    -------
    Tensor, shape (..., n_units, n_units)
        The inverse, exactly symmetric, computed in float64.

    Raises
    ------
    DTypeError
        If ``covariance`` is neither float32 nor float64.
    DataError
        If units have no variance, which the message counts, or the covariance has not full rank.

    Notes
    -----
    Differentiable. Rank is judged on the correlations, so that units may have any scale.

    Examples
    --------
    >>> precision_of(torch.tensor([[2.0, 1.0], [1.0, 1.0]]))
    tensor([[ 1., -1.],
            [-1.,  2.]])
    """
    check_floating(covariance=covariance)
    wide = covariance.double()
    variances = wide.diagonal(dim1=-2, dim2=-1)
    flat = ~(variances > 0)
    if bool(flat.any()):
        rows = flat.reshape(-1, flat.shape[-1])
        worst = rows[rows.any(-1)][0]
        raise DataError(
            f"{counted(int(worst.sum()), 'unit')} of {worst.numel()} (first: unit "
            f"{int(worst.nonzero()[0])}) have no noise variance, so it has no inverse. Leave out "
            "units that are constant."
        )
    scale = variances.sqrt()
    correlations = wide / scale.unsqueeze(-1) / scale.unsqueeze(-2)
    root, failed = torch.linalg.cholesky_ex(correlations)
    pivots = root.detach().diagonal(dim1=-2, dim2=-1).square().amin(-1)
    rounding = torch.finfo(covariance.dtype).eps * wide.shape[-1]
    singular = (failed > 0) | ~(pivots > rounding)
    if bool(singular.any()):
        worst = correlations[singular][0]
        rank = int(torch.linalg.matrix_rank(worst, rtol=rounding, hermitian=True))
        raise DataError(
            f"The noise covariance of {counted(wide.shape[-1], 'unit')} has rank {rank}, so it has "
            'no inverse. Shrink it (method="shrinkage_diagonal"), take "diagonal", fewer units or '
            "more trials."
        )
    inverse = torch.cholesky_inverse(root) / scale.unsqueeze(-1) / scale.unsqueeze(-2)
    return ((inverse + inverse.mT) / 2).to(covariance.dtype)


def symmetric_root(precision: Tensor) -> Tensor:
    """Take the symmetric square root of positive definite matrices, in float64."""
    values, vectors = torch.linalg.eigh(precision.double())
    if not bool((values > 0).all()):
        raise DataError(
            f"A precision must be positive definite, got an eigenvalue of {values.min():.3g}. "
            "Take it from `noise_precision`."
        )
    return (vectors * values.sqrt().unsqueeze(-2)) @ vectors.mT
