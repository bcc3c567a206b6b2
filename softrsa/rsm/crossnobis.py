"""Cross-validated squared distances: unbiased by noise, because its two factors do not share it."""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor

from softrsa._checks import check_floating
from softrsa.errors import DataError, ShapeError


def crossnobis(x_folds: Tensor, precision: Tensor | None = None) -> Tensor:
    r"""Cross-validated squared Mahalanobis distances between stimuli, per unit.

    With responses :math:`x^f_i` to stimulus :math:`i` in fold :math:`f`, and :math:`p` units,

    .. math:: d_{ij} = \frac{1}{p} \operatorname{mean}_{f \ne g}
              (x^f_i - x^f_j)^\top P_{fg}\, (x^g_i - x^g_j)

    Parameters
    ----------
    x_folds : Tensor, shape (..., n_folds, n_stimuli, n_units)
        Responses, float32 or float64, in any unit; each fold a mean of trials of its own. At least
        two folds.
    precision : Tensor, shape (n_units, n_units) or (..., n_folds, n_units, n_units), optional
        :math:`P`, the inverse of the noise covariance between units; symmetric. One per fold
        makes :math:`P_{fg}` the inverse of the mean of the two folds' covariances. The identity by
        default.

    Returns
    -------
    Tensor, shape (..., n_stimuli, n_stimuli)
        An RDM: exactly symmetric, 0 on the diagonal; elsewhere 0 on average for stimuli that do
        not differ, so also negative.

    Raises
    ------
    DTypeError
        If a tensor is neither float32 nor float64.
    ShapeError
        If there are fewer than two folds or the shapes do not fit each other.
    DataError
        If a precision of a fold cannot be inverted.

    Notes
    -----
    Differentiable; summed in float64. Without a precision per fold the folds are multiplied with
    the sum of the others, so the time grows with their number, not with that of their pairs.

    References
    ----------
    Walther et al. (2016), doi:10.1016/j.neuroimage.2015.12.012. Equal to
    ``rsatoolbox.rdm.calc_rdm(method="crossnobis")``.

    Examples
    --------
    >>> x = torch.tensor([[[0.0, 0.0], [2.0, 1.0]], [[1.0, 0.0], [4.0, -1.0]]])
    >>> crossnobis(x)
    tensor([[0.0000, 2.5000],
            [2.5000, 0.0000]])
    """
    _check(x_folds, precision)
    n_folds, _, n_units = x_folds.shape[-3:]
    # distances do not see the mean over stimuli; without it fewer digits are lost
    folds = [fold.double() - fold.double().mean(-2, keepdim=True) for fold in x_folds.unbind(-3)]
    if precision is None or precision.ndim == 2:
        products = _one_precision(folds, precision)
        n_pairs = n_folds * (n_folds - 1)
    else:
        products = _precision_per_fold(folds, precision.double())
        n_pairs = n_folds * (n_folds - 1) // 2
    twice = products + products.mT
    own = twice.diagonal(dim1=-2, dim2=-1)
    squares = (own.unsqueeze(-1) + own.unsqueeze(-2)) / 2 - twice
    return (squares / (n_pairs * n_units)).to(x_folds.dtype)


def _one_precision(folds: list[Tensor], precision: Tensor | None) -> Tensor:
    """Inner products of each fold with the sum of the others."""
    total = torch.stack(folds).sum(0)
    products = torch.zeros((), dtype=total.dtype, device=total.device)
    for fold in folds:
        weighted = fold if precision is None else fold @ precision.double()
        products = products + weighted @ (total - fold).mT
    return products


def _precision_per_fold(folds: list[Tensor], precision: Tensor) -> Tensor:
    """Inner products of each pair of folds, under the inverse of their mean covariance."""
    covariance, failed = torch.linalg.inv_ex(precision)
    if bool(failed.any()):
        index = tuple(failed.nonzero()[0].tolist())
        raise DataError(f"`precision` of fold {index[-1]} cannot be inverted: it is singular.")
    covariances = covariance.unbind(-3)
    products = torch.zeros((), dtype=precision.dtype, device=precision.device)
    for f, g in combinations(range(len(folds)), 2):
        mean = (covariances[f] + covariances[g]) / 2
        products = products + folds[f] @ torch.linalg.solve(mean, folds[g].mT)
    return products


def _check(x_folds: Tensor, precision: Tensor | None) -> None:
    check_floating(x_folds=x_folds)
    if x_folds.ndim < 3 or 0 in x_folds.shape[-2:]:
        raise ShapeError(
            "`x_folds` must have shape (..., n_folds, n_stimuli, n_units) with at least one of "
            f"each, got {tuple(x_folds.shape)}."
        )
    n_folds, _, n_units = x_folds.shape[-3:]
    if n_folds < 2:
        raise ShapeError(f"Cross-validation needs at least 2 folds, got {n_folds}.")
    if precision is None:
        return
    check_floating(precision=precision)
    square = precision.shape[-2:] == (n_units, n_units)
    if not square or (precision.ndim > 2 and precision.shape[-3] != n_folds):
        raise ShapeError(
            f"`precision` must have shape {(n_units, n_units)}, or {(n_folds, n_units, n_units)} "
            f"for one per fold, got {tuple(precision.shape)}."
        )
