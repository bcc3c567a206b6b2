"""Shape measures from Procrustes to CCA, aligned on some stimuli and scored on others."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from softrsa._gradients import within
from softrsa.errors import DataError
from softrsa.measures._features import (
    centered,
    check_features,
    check_held_out,
    first_order,
    undefined,
)
from softrsa.measures.predictivity import Folds, fold_masks
from softrsa.measures.shape import nuclear_norm, singular_rounding


def shape_similarity(
    x: Tensor, y: Tensor, *, alpha: float = 1.0, folds: Folds | None = None, seed: int = 0
) -> Tensor:
    r"""Cosine between two sets of features after partial whitening and the best rotation.

    With columns centered, each side is whitened in part and the two are rotated onto each other:

    .. math:: X_\alpha = X \big(\alpha I + (1 - \alpha) (X^\top X)^{-1/2}\big), \qquad
              \max_Q \frac{\langle X_\alpha Q, Y_\alpha\rangle}
              {\lVert X_\alpha\rVert_F\,\lVert Y_\alpha\rVert_F}

    Parameters
    ----------
    x : Tensor, shape (..., n_stimuli, p)
        Responses, float32 or float64, in any unit.
    y : Tensor, shape (..., n_stimuli, q)
        Responses to the same stimuli; leading dimensions broadcast. Fewer units than on the other
        side count as if filled up with zeros.
    alpha : float
        From 1 (Procrustes: rotations only) to 0 (CCA: any linear map of either side).
    folds : int, or sequence or Tensor of integers, shape (n_stimuli,), optional
        Score each fold of stimuli under means, whitening and rotation fitted on the others, and
        average over folds: a number of folds of shuffled stimuli, or each stimulus' fold. None
        fits and scores on all stimuli.
    seed : int
        Of the shuffle, when ``folds`` is a number.

    Returns
    -------
    Tensor, shape (...)
        Score in [0, 1], with folds in [-1, 1] and about 0 for unrelated features. NaN where no unit
        of ``x`` or of ``y`` varies over the stimuli fitted on, or nothing is left of those scored.

    Raises
    ------
    DTypeError
        If a tensor is neither float32 nor float64, or they differ.
    ShapeError
        If the two do not have the same stimuli, or fewer than 2, or ``folds`` has another length.
    DataError
        If ``alpha`` is not from 0 to 1, or a fold would have fewer than 2 stimuli.

    Notes
    -----
    Its arccos is the angular distance of netrep's ``LinearMetric(alpha)``, with ``fit`` on training
    stimuli and ``score`` on others where there are folds. Directions without variance beyond
    rounding are not whitened, where netrep takes an eigenvalue of 1e-7. Without folds ``alpha=1``
    is `nbs`. For ``alpha`` between 0 and 1 the unit of the responses matters.
    Computed in float64. First derivatives only, at constant rank.

    References
    ----------
    Williams, Kunz, Kornblith & Linderman (2021), arXiv:2110.14739.

    Examples
    --------
    >>> x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    >>> y = x @ torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    >>> shape_similarity(x, y), shape_similarity(x, y, alpha=0.0)
    (tensor(0.8788), tensor(0.8165))
    >>> shape_similarity(x, y, alpha=0.0, folds=4)
    tensor(0.8030)
    """
    check_features(x, y)
    if not 0 <= alpha <= 1:
        raise DataError(
            f"`alpha` must be from 0 (CCA) to 1 (Procrustes), got {alpha}: a share of the features "
            "as they are."
        )
    dtype, eps, x, y = x.dtype, torch.finfo(x.dtype).eps, x.double(), y.double()
    if folds is None:
        return first_order(_in_sample(x, y, alpha, eps).to(dtype))
    scores = []
    for fold in fold_masks(x.shape[-2], folds, seed):
        train, test = (part.nonzero().squeeze(-1).to(x.device) for part in (~fold, fold))
        parts = [side.index_select(-2, places) for places in (train, test) for side in (x, y)]
        scores.append(_held_out(*parts, alpha=alpha, eps=eps))
    return first_order(torch.stack(scores).mean(0).to(dtype))


def procrustes_predictivity(
    x: Tensor, y: Tensor, *, folds: Folds | None = None, seed: int = 0
) -> Tensor:
    """Cosine between two sets of features after the best rotation: `shape_similarity`, alpha 1.

    Parameters
    ----------
    x, y : Tensor, shape (..., n_stimuli, p) and (..., n_stimuli, q)
        As for `shape_similarity`.
    folds, seed
        As for `shape_similarity`: stimuli held out of the fit of means and rotation.

    Returns
    -------
    Tensor, shape (...)
        Score in [0, 1], with folds in [-1, 1]. NaN as for `shape_similarity`.

    Raises
    ------
    DTypeError, ShapeError, DataError
        As `shape_similarity`.

    Notes
    -----
    Without folds it is `nbs`. `softrsa.align` rotates on training stimuli.

    References
    ----------
    Williams, Kunz, Kornblith & Linderman (2021), arXiv:2110.14739.

    Examples
    --------
    >>> x, noise = torch.randn(2, 40, 3, generator=torch.Generator().manual_seed(0))
    >>> procrustes_predictivity(x, x.flip(-1) + noise, folds=4)
    tensor(0.7482)
    >>> procrustes_predictivity(x, noise), procrustes_predictivity(x, noise, folds=4)
    (tensor(0.1676), tensor(-0.0615))
    """
    return shape_similarity(x, y, alpha=1.0, folds=folds, seed=seed)


def cca_predictivity(x: Tensor, y: Tensor, *, folds: Folds | None = None, seed: int = 0) -> Tensor:
    r"""Cosine between two sets of features after whitening and the best rotation.

    It is `shape_similarity` with alpha 0. Without folds, with canonical correlations
    :math:`\rho_i` and ranks :math:`r_X, r_Y`, it is :math:`\sum_i \rho_i / \sqrt{r_X r_Y}`.

    Parameters
    ----------
    x, y : Tensor, shape (..., n_stimuli, p) and (..., n_stimuli, q)
        As for `shape_similarity`.
    folds, seed
        As for `shape_similarity`: stimuli held out of the fit of means, whitening and rotation.

    Returns
    -------
    Tensor, shape (...)
        Score in [0, 1], with folds in [-1, 1]. NaN as for `shape_similarity`.

    Raises
    ------
    DTypeError, ShapeError, DataError
        As `shape_similarity`.

    Notes
    -----
    Every canonical direction counts alike, so that with few stimuli the many small ones, which are
    noise, lower the held-out score. `softrsa.align` fits on training stimuli.

    References
    ----------
    Williams, Kunz, Kornblith & Linderman (2021), arXiv:2110.14739.

    Examples
    --------
    >>> x, noise = torch.randn(2, 40, 3, generator=torch.Generator().manual_seed(0))
    >>> y = x @ torch.tensor([[1.0, 1.0], [0.0, 3.0], [0.0, 0.0]])
    >>> cca_predictivity(x, y), cca_predictivity(x, y, folds=4)
    (tensor(0.8165), tensor(0.7771))
    >>> cca_predictivity(x, noise), cca_predictivity(x, noise, folds=4)
    (tensor(0.1641), tensor(-0.0871))
    """
    return shape_similarity(x, y, alpha=0.0, folds=folds, seed=seed)


def held_out_shape(
    x_train: Tensor, y_train: Tensor, x_test: Tensor, y_test: Tensor, *, alpha: float
) -> Tensor:
    """`shape_similarity` (...) of held-out stimuli under a fit on training stimuli.

    Features are (..., n_train, p) and (..., n_train, q), those of other stimuli in the same units.
    """
    check_held_out(x_train, y_train, x_test, y_test)
    eps = torch.finfo(x_train.dtype).eps
    parts = (z.double() for z in (x_train, y_train, x_test, y_test))
    return first_order(_held_out(*parts, alpha=alpha, eps=eps).to(x_train.dtype))


def _in_sample(x: Tensor, y: Tensor, alpha: float, eps: float) -> Tensor:
    """Score (...) of what is fitted to itself, of float64 features of a precision of ``eps``."""
    sides = []
    for raw in (x, y):
        z = _fewest_units(raw)[0]
        rest = centered(z)
        sides.append(alpha * rest + (1 - alpha) * polar_factor(rest, z, eps) if alpha < 1 else rest)
    total = nuclear_norm(sides[0].mT @ sides[1])
    return within(total / (_norm(sides[0]) * _norm(sides[1])), 0.0)


def _held_out(
    x: Tensor, y: Tensor, x_test: Tensor, y_test: Tensor, *, alpha: float, eps: float
) -> Tensor:
    """Score (...) of test stimuli, of float64 features of a precision of ``eps``."""
    sides = []
    for train, test in ((x, x_test), (y, y_test)):
        z, others = _fewest_units(train, test)
        rest, shifted = centered(z), others - z.mean(-2, keepdim=True)
        if alpha < 1:
            whitening = (1 - alpha) * inverse_root(rest, z, eps)
            rest, shifted = (alpha * part + part @ whitening for part in (rest, shifted))
        lost = (rest == 0).all(-1, keepdim=True).all(-2, keepdim=True)
        sides.append((rest, shifted.masked_fill(lost, torch.nan)))
    (left, left_test), (right, right_test) = sides
    cross = left.mT @ right
    rotation = polar_factor(cross, cross, torch.finfo(cross.dtype).eps)
    total = ((left_test @ rotation) * right_test).sum((-2, -1))
    return within(total / (_norm(left_test) * _norm(right_test)))


def _norm(x: Tensor) -> Tensor:
    """Frobenius norm (...); NaN of zeros, with a gradient of 0."""
    square = x.square().sum((-2, -1))
    nothing = square == 0
    return square.masked_fill(nothing, 1.0).sqrt().masked_fill(nothing, torch.nan)


def _fewest_units(*parts: Tensor) -> list[Tensor]:
    """Turn features with more units than all stimuli into coordinates with the same products.

    The basis is held fixed: scores change in first order by what stays in it.
    """
    lead = torch.broadcast_shapes(*(part.shape[:-2] for part in parts))
    stacked = torch.cat([part.detach().expand(*lead, -1, -1) for part in parts], -2)
    if stacked.shape[-1] <= stacked.shape[-2]:
        return [*parts]
    bad = undefined(stacked)
    basis = torch.linalg.qr(stacked.masked_fill(bad, 0.0).mT).Q
    return [part @ basis for part in parts]


def polar_factor(matrix: Tensor, raw: Tensor, eps: float) -> Tensor:
    """U V' of U S V' (..., n, p), without directions that rounding of ``raw`` could make."""
    factor: Tensor = _PolarFactor.apply(matrix, raw, eps)  # type: ignore[assignment]
    return factor


class _PolarFactor(torch.autograd.Function):
    """Its derivative has sums of singular values in the denominators, no differences."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, raw: Tensor, eps: float) -> Tensor:
        left, values, right, kept, bad = _singular(matrix, raw, eps)
        ctx.save_for_backward(left, values, right, kept)
        return ((left * kept.unsqueeze(-2)) @ right).masked_fill(bad, torch.nan)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        left, values, right, kept = ctx.saved_tensors
        left, right = left * kept.unsqueeze(-2), right * kept.unsqueeze(-1)
        grad = grad_outputs[0]
        inside = left.mT @ grad @ right.mT
        inverse = kept / values.where(kept, 1.0)
        sums = (values.unsqueeze(-1) + values.unsqueeze(-2)).where(
            kept.unsqueeze(-1) & kept.unsqueeze(-2), 1.0
        )
        turned = left @ ((inside - inside.mT) / sums) @ right
        columns = grad @ right.mT
        outside = (columns - left @ inside) * inverse.unsqueeze(-2) @ right
        rows = left.mT @ grad
        beyond = left * inverse.unsqueeze(-2) @ (rows - inside @ right)
        return turned + outside + beyond, None, None


def inverse_root(matrix: Tensor, raw: Tensor, eps: float) -> Tensor:
    """Compute (X'X)^(-1/2) (..., p, p), 0 in directions that rounding of ``raw`` could make."""
    root: Tensor = _InverseRoot.apply(matrix, raw, eps)  # type: ignore[assignment]
    return root


class _InverseRoot(torch.autograd.Function):
    """Its derivative at constant rank has sums of singular values in the denominators."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, raw: Tensor, eps: float) -> Tensor:
        _, values, right, kept, bad = _singular(matrix, raw, eps)
        ctx.save_for_backward(matrix, values, right, kept)
        inverse = kept / values.where(kept, 1.0)
        return ((right.mT * inverse.unsqueeze(-2)) @ right).masked_fill(bad, torch.nan)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        matrix, values, right, kept = ctx.saved_tensors
        right = right * kept.unsqueeze(-1)
        grad = (grad_outputs[0] + grad_outputs[0].mT) / 2
        inverse = kept / values.where(kept, 1.0)
        across = right @ grad
        inside = across @ right.mT
        sums = (values.unsqueeze(-1) + values.unsqueeze(-2)).where(
            kept.unsqueeze(-1) & kept.unsqueeze(-2), 1.0
        )
        weights = inverse.unsqueeze(-1) * inverse.unsqueeze(-2) / sums
        changed = right.mT @ (inside * weights) @ right
        # between a direction that is there and one that is not
        beyond = right.mT @ ((across - inside @ right) * inverse.pow(3).unsqueeze(-1))
        return 2 * matrix @ (beyond + beyond.mT - changed), None, None


def _singular(
    matrix: Tensor, raw: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Singular vectors and values, which of them are kept, and where entries are not finite."""
    bad = undefined(matrix)
    left, values, right = torch.linalg.svd(matrix.masked_fill(bad, 0.0), full_matrices=False)
    kept = values > singular_rounding(left, values, raw.masked_fill(bad, 0.0), eps)
    return left, values, right, kept, bad
