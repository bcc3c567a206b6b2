"""Cross-validated distances where not every fold has every stimulus."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from softrsa._checks import check_broadcast
from softrsa.errors import DataError, ShapeError, unknown_name
from softrsa.rsm._folds import check_folds, pooled_distances, recorded_rows, shared_distances
from softrsa.rsm.crossnobis import check_precision

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
