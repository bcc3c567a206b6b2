"""Canonical correlation of features, of all or of the leading principal components."""

from __future__ import annotations

import torch
from torch import Tensor

from softrsa.errors import DataError
from softrsa.measures._features import centered, check_features, first_order
from softrsa.measures._spectral import nuclear_norm, principal_basis


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
    return _mean_correlation(principal_basis(centered(x)), principal_basis(centered(y)), x.dtype)


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
    if n_components is not None and n_components < 1:
        raise DataError(f"`n_components` must be at least 1, got {n_components}.")
    if variance is not None and not 0 < variance <= 1:
        raise DataError(f"`variance` must be a share above 0 and up to 1, got {variance}.")
    if n_components is None and variance is None:
        variance = 0.99
    left, right = (
        principal_basis(centered(z), n_components=n_components, variance=variance) for z in (x, y)
    )
    return _mean_correlation(left, right, x.dtype)


def _mean_correlation(
    x: tuple[Tensor, Tensor], y: tuple[Tensor, Tensor], dtype: torch.dtype
) -> Tensor:
    total = nuclear_norm(x[0].mT @ y[0])
    rank = torch.minimum(x[1], y[1])
    undefined = (x[1] == 0) | (y[1] == 0)
    return first_order((total / rank).masked_fill(undefined, torch.nan).to(dtype))
