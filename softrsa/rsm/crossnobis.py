"""Cross-validated squared distances: unbiased by noise, because its two factors do not share it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

from softrsa._checks import check_broadcast, check_floating
from softrsa.errors import DataError, ShapeError
from softrsa.rsm._folds import across_folds, check_folds, distances


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
    precision : Tensor, shape (n_units, n_units) or (..., n_folds or 1, n_units, n_units), optional
        :math:`P`, the inverse of the noise covariance between units; symmetric. One per fold
        makes :math:`P_{fg}` the inverse of the mean of the two folds' covariances; leading
        dimensions, of regions or time bins, say, broadcast. The identity by default.

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
        If a response is not finite, which the message names, or a precision of a fold cannot be
        inverted.

    Notes
    -----
    Differentiable; summed in float64, but for the product with a float32 precision of float32
    responses, which are centered in float64 before. Without a precision per fold the sum over
    pairs of folds is closed: each fold is weighted once, and the products of folds with themselves
    are taken from those of their sum. For stimuli that some folds lack see `crossnobis_unbalanced`.

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
    check_folds(x_folds)
    check_precision(x_folds, precision)
    n_folds, _, n_units = x_folds.shape[-3:]
    # distances do not see the mean over stimuli; without it fewer digits are lost
    x = x_folds - x_folds.mean(-2, keepdim=True, dtype=torch.float64)
    if precision is not None and precision.ndim > 2 and precision.shape[-3] == n_folds:
        products = _precision_per_fold(x.unbind(-3), precision.double())
        n_pairs = n_folds * (n_folds - 1) // 2
    else:
        products = across_folds(x if precision is None else _weighted(x, x_folds, precision), x)
        n_pairs = n_folds * (n_folds - 1)
    found = (distances(products) / (n_pairs * n_units)).to(x_folds.dtype)
    if not bool(torch.isfinite(found).all()):
        _check_finite(x_folds)
    return found


def _check_finite(x_folds: Tensor) -> None:
    """Name the first response that is not finite."""
    bad = ~torch.isfinite(x_folds)
    if bool(bad.any()):
        *_, fold, stimulus, unit = bad.nonzero()[0].tolist()
        raise DataError(
            f"The responses of fold {fold} to stimulus {stimulus} are not finite in unit {unit} "
            f"({int(bad.any(-1).sum())} such rows in all). For stimuli that a fold lacks, NaN in "
            "all units, use `crossnobis_unbalanced`; leave out units with gaps."
        )


def _weighted(x: Tensor, x_folds: Tensor, precision: Tensor) -> Tensor:
    """Multiply centered responses in the type they were given in, the costly step."""
    kind = torch.promote_types(x_folds.dtype, precision.dtype)
    return (x.to(kind) @ precision.to(kind)).double()


def _precision_per_fold(folds: Sequence[Tensor], precision: Tensor) -> Tensor:
    """Inner products of each pair of folds, under the inverse of their mean covariance."""
    covariance, failed = torch.linalg.inv_ex(precision)
    if bool(failed.any()):
        index = tuple(failed.nonzero()[0].tolist())
        raise DataError(f"`precision` of fold {index[-1]} cannot be inverted: it is singular.")
    covariances = covariance.unbind(-3)
    products = torch.zeros((), dtype=precision.dtype, device=precision.device)
    pairs = [*combinations(range(len(folds)), 2)]
    singular = []
    for f, g in pairs:
        mean = (covariances[f] + covariances[g]) / 2
        solved, failed = torch.linalg.solve_ex(mean, folds[g].mT)  # which does not wait
        products = products + folds[f] @ solved
        singular.append(failed.any())
    if bool(torch.stack(singular).any()):
        first, second = pairs[int(torch.stack(singular).int().argmax())]
        raise DataError(
            f"The covariances of folds {first} and {second} have a singular mean; `precision` "
            "must be positive definite."
        )
    return products


def check_precision(x_folds: Tensor, precision: Tensor | None) -> None:
    """Check that a precision is of these units, and one for all folds or one for each."""
    if precision is None:
        return
    check_floating(precision=precision)
    n_folds, _, n_units = x_folds.shape[-3:]
    square = precision.shape[-2:] == (n_units, n_units)
    if not square or (precision.ndim > 2 and precision.shape[-3] not in (1, n_folds)):
        raise ShapeError(
            f"`precision` must have shape {(n_units, n_units)}, or {(n_folds, n_units, n_units)} "
            f"for one per fold, got {tuple(precision.shape)}. Where leading dimensions have one "
            f"for all folds each, give it the shape (..., 1, {n_units}, {n_units})."
        )
    if precision.ndim > 2:
        check_broadcast(3, x_folds=x_folds, precision=precision)
