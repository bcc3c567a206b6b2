"""Cross-validated squared distances: unbiased by noise, because its two factors do not share it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Literal

import torch
from torch import Tensor

from softrsa._checks import check_broadcast, check_definite, check_floating
from softrsa.errors import DataError, ShapeError, unknown_name


def check_folds(x_folds: Tensor) -> None:
    """Check that there are at least two folds, and something in them."""
    check_floating(x_folds=x_folds)
    if x_folds.ndim < 3 or 0 in x_folds.shape[-2:]:
        raise ShapeError(
            "`x_folds` must have shape (..., n_folds, n_stimuli, n_units) with at least one of "
            f"each, got {tuple(x_folds.shape)}."
        )
    if x_folds.shape[-3] < 2:
        raise ShapeError(
            f"Cross-validation needs at least 2 folds, got {x_folds.shape[-3]}. Of labelled "
            "trials, `softrsa.recordings.to_folds` makes some, for `softrsa.rsm.build_rdms`."
        )


def recorded_rows(x_folds: Tensor) -> Tensor:
    """Tell which stimuli each fold has, shape (..., n_folds, n_stimuli): the others are NaN."""
    absent = x_folds.detach().isnan()
    partly = absent.any(-1) & ~absent.all(-1)
    if bool(partly.any()):
        *_, fold, stimulus = partly.nonzero()[0].tolist()
        raise DataError(
            f"Stimulus {stimulus} of fold {fold} is NaN in some units and not in others "
            f"({int(partly.sum())} such in all). A stimulus that a fold lacks is NaN throughout; "
            "leave out units with gaps."
        )
    return ~absent[..., 0]


def across_folds(left: Tensor, right: Tensor) -> Tensor:
    """Sum products (..., n, m) of pairs of different folds: all, without those in a fold."""
    if right.shape[-2] <= right.shape[-1]:  # products need no more memory than the folds
        own = (left @ right.mT).sum(-3)
    else:
        own = left.transpose(-3, -2).flatten(-2) @ right.transpose(-3, -2).flatten(-2).mT
    return left.sum(-3) @ right.sum(-3).mT - own


def distances(products: Tensor) -> Tensor:
    """Squared distances of products (..., n, n) that need not be symmetric; exact 0 to itself."""
    twice = products + products.mT
    own = twice.diagonal(dim1=-2, dim2=-1)
    return (own.unsqueeze(-1) + own.unsqueeze(-2)) / 2 - twice


def shared_distances(left: Tensor, right: Tensor, recorded: Tensor) -> Tensor:
    """Average squared distances over the pairs of folds that have both stimuli; else NaN."""
    n_folds, n = recorded.shape[-2:]
    both = recorded.unsqueeze(-1) & recorded.unsqueeze(-2)  # of each fold
    total = torch.zeros((), dtype=left.dtype, device=left.device)
    count = torch.eye(n, dtype=torch.long, device=left.device)  # no distance to itself is NaN
    for fold in range(n_folds):
        others = [other for other in range(n_folds) if other != fold]
        used = both[..., fold : fold + 1, :, :] & both[..., others, :, :]
        each = distances(left[..., fold : fold + 1, :, :] @ right[..., others, :, :].mT)
        total = total + (used * each).sum(-3)
        count = count + used.sum(-3)
    return total / count


def pooled_distances(left: Tensor, right: Tensor, counts: Tensor) -> Tensor:
    """Squared distances of inner products, each averaged over its own pairs of trials."""
    weights = counts.unsqueeze(-1)
    products = across_folds(weights * left, weights * right) / across_folds(weights, weights)
    itself = torch.eye(products.shape[-1], dtype=torch.bool, device=products.device)
    return distances(products).masked_fill(itself, 0.0)


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
    check_definite(precision=precision)


OVER = ("shared", "all")


def crossnobis_unbalanced(
    x_folds: Tensor,
    precision: Tensor | None = None,
    *,
    over: Literal["shared", "all"] = "shared",
    counts: Tensor | None = None,
) -> Tensor:
    r"""Cross-validated squared Mahalanobis distances from folds that lack some of the stimuli.

    ``over="shared"`` averages, for each pair of stimuli, the differences
    :math:`(x^f_i - x^f_j)^\top P\, (x^g_i - x^g_j) / p` over the pairs of folds :math:`f \ne g`
    that both have both stimuli. Whatever is added to all responses of a fold cancels.

    ``over="all"`` is :math:`(K_{ii} + K_{jj} - 2 K_{ij}) / p`, where each inner product
    :math:`K_{ij}` is averaged on its own over all pairs of a trial of :math:`i` and one of
    :math:`j` from different folds. It uses more of the data, but the three averages are of
    different folds: an offset of a fold, even one of all folds, does not cancel and biases it.

    Parameters
    ----------
    x_folds : Tensor, shape (..., n_folds, n_stimuli, n_units)
        Responses, float32 or float64, in any unit; each fold a mean of trials of its own. A
        stimulus that a fold lacks is NaN in all units. At least two folds.
    precision : Tensor, shape (n_units, n_units) or (..., 1, n_units, n_units), optional
        :math:`P`, the inverse of the noise covariance between units; symmetric. The identity by
        default.
    over : {"shared", "all"}
        What is averaged: see above.
    counts : Tensor, shape (..., n_folds, n_stimuli), optional
        For ``over="all"``, how many trials each mean is of, at least 1 where there is one; 1 by
        default. Of any number type.

    Returns
    -------
    Tensor, shape (..., n_stimuli, n_stimuli)
        An RDM: exactly symmetric, 0 on the diagonal. NaN for stimuli that no two folds compare:
        both must be in two folds (``"shared"``), or each in two folds (``"all"``).

    Raises
    ------
    DTypeError
        If a tensor is neither float32 nor float64.
    UnknownNameError
        If ``over`` is something else.
    ShapeError
        If there are fewer than two folds or the shapes do not fit each other.
    DataError
        If a stimulus is NaN in part of the units of a fold, a precision per fold is given, or
        ``counts`` come with ``"shared"``.

    Notes
    -----
    Differentiable; summed in float64. With all stimuli in all folds, and as many trials of each,
    both are `crossnobis`. ``"all"`` needs the time of `crossnobis`; ``"shared"`` one product of
    ``n_folds * n_stimuli`` rows with each other.

    References
    ----------
    ``over="all"`` equals ``rsatoolbox.rdm.calc_rdm_unbalanced(method="crossnobis")``; Schütt et
    al. (2023), doi:10.7554/eLife.82566.

    Examples
    --------
    >>> x = torch.tensor([[[0.0], [2.0]], [[1.0], [4.0]], [[5.0], [torch.nan]]])
    >>> crossnobis_unbalanced(x)
    tensor([[0., 6.],
            [6., 0.]])
    >>> crossnobis_unbalanced(x, over="all")[0, 1]
    tensor(-6.3333)
    """
    check_folds(x_folds)
    if over not in OVER:
        raise unknown_name("average (`over`)", over, OVER)
    check_precision(x_folds, precision)
    if precision is not None and precision.ndim > 2 and precision.shape[-3] != 1:
        raise DataError(
            "Unbalanced folds take one `precision` for all folds, of shape (n_units, n_units) or "
            f"(..., 1, n_units, n_units), got {tuple(precision.shape)}."
        )
    recorded = recorded_rows(x_folds)
    weights = _weights(recorded, counts, over)
    x = x_folds.double().masked_fill(~recorded.unsqueeze(-1), 0.0)
    if over == "shared":  # offsets cancel; without them fewer digits are lost
        means = x.sum(-2, keepdim=True) / recorded.sum(-1)[..., None, None].clamp(min=1)
        x = (x - means).masked_fill(~recorded.unsqueeze(-1), 0.0)
    left = x if precision is None else x @ precision.double()
    shared = over == "shared"
    found = shared_distances(left, x, recorded) if shared else pooled_distances(left, x, weights)
    return (found / x.shape[-1]).to(x_folds.dtype)


def _weights(recorded: Tensor, counts: Tensor | None, over: str) -> Tensor:
    """Give the number of trials of each mean, 0 where there is none."""
    if counts is None:
        return recorded.double()
    if over == "shared":
        raise DataError('`over="shared"` weights folds alike and takes no `counts`.')
    if counts.ndim < 2 or counts.shape[-2:] != recorded.shape[-2:]:
        raise ShapeError(
            f"`counts` must have shape (..., n_folds, n_stimuli), here "
            f"{tuple(recorded.shape[-2:])}, got {tuple(counts.shape)}."
        )
    check_broadcast(2, x_folds=recorded, counts=counts)
    return torch.where(recorded, counts.double(), 0.0)
