"""Predictivity by other regressions: partial least squares, and ridge with bands of features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from softrsa._checks import check_count
from softrsa.errors import DataError, ShapeError
from softrsa.measures._features import check_features
from softrsa.measures.predictivity import (
    EPS,
    Average,
    Fit,
    Folds,
    Predict,
    Rule,
    Score,
    Strengths,
    check_strengths,
    default_strengths,
    least_leave_one_out,
    ridge,
)

COMPONENTS = 25  # of Brain-Score
WEIGHTS = 100  # of himalaya
CONCENTRATIONS = (0.1, 1.0)  # of himalaya: bands nearly alone, and mixed


def pls_predictivity(
    x: Tensor,
    y: Tensor,
    *,
    n_components: int = COMPONENTS,
    score: Score = "r2",
    folds: Folds | None = None,
    average: Average | None = "uniform",
    seed: int = 0,
) -> Tensor:
    r"""How well a partial least squares regression predicts ``y`` from ``x``.

    Component by component, the direction :math:`w` of ``x`` that has most covariance with ``y``,
    the leading left singular vector of :math:`X^\top Y`, gives :math:`t = X w`, and both sides are
    regressed on it and go on with the rest.

    Parameters
    ----------
    x : Tensor, shape (..., n_stimuli, p)
        Features to predict from.
    y : Tensor, shape (..., n_stimuli, q)
        Features to predict, of the same stimuli; leading dimensions broadcast.
    n_components : int
        Components, fewer where ``x`` has fewer dimensions. As many as it has are least squares.
    score, folds, average, seed
        As for `linear_predictivity`.

    Returns
    -------
    Tensor, shape (...) or (..., q)
        At most 1; at least 0 without folds. NaN as for `linear_predictivity`.

    Raises
    ------
    DTypeError, ShapeError, UnknownNameError
        As `linear_predictivity`.
    DataError
        As `linear_predictivity`, or if ``n_components`` is not a whole number from 1.

    Notes
    -----
    Equal to scikit-learn's ``PLSRegression(n_components, scale=False)``, which Brain-Score takes
    with 25 components, but for its tolerance. Computed in float64. Where two directions have equal
    covariance, either is taken and their exchange passes no gradient. First derivatives only.

    References
    ----------
    Wold, Sjöström & Eriksson (2001), doi:10.1016/S0169-7439(01)00155-1; Schrimpf et al. (2018),
    doi:10.1101/407007.

    Examples
    --------
    >>> x = torch.tensor([[1.0, 0.0], [2.0, 1.0], [3.0, -1.0], [4.0, 0.5]])
    >>> y = torch.tensor([[1.0], [3.0], [2.0], [5.0]])
    >>> pls_predictivity(x, y, n_components=1), pls_predictivity(x, y)
    (tensor(0.8895), tensor(0.9941))
    """
    check_features(x, y)
    check_count("n_components", n_components, 1)
    return Rule(_pls(n_components), score, average).over_folds(x, y, folds, seed)


def held_out_pls(x_train: Tensor, y_train: Tensor, x_test: Tensor, y_test: Tensor) -> Tensor:
    """`pls_predictivity` (...) on held-out stimuli of a fit on training stimuli."""
    rule = Rule(_pls(COMPONENTS), "r2", "uniform")
    return rule.score_held_out(x_train, y_train, x_test, y_test)


def _pls(n_components: int) -> Fit:
    def fit(x: Tensor, y: Tensor, raw: Tensor, eps: float) -> Predict:
        rounding = 4 * eps * torch.linalg.matrix_norm(raw.detach(), keepdim=True)
        sizes = [torch.linalg.matrix_norm(z.detach(), keepdim=True) for z in (x, y)]
        least = 8 * x.shape[-2] * EPS * sizes[0] * sizes[1]
        directions = []
        for _ in range(min(n_components, x.shape[-2] - 1, x.shape[-1])):
            cross = x.mT @ y
            predicted = torch.linalg.matrix_norm(cross.detach(), keepdim=True) <= least
            w: Tensor = _Leading.apply(cross)  # type: ignore[assignment]
            w = w.detach().where(predicted, w)  # of rounding: it predicts nothing
            t = x @ w
            square = t.square().sum(-2, keepdim=True)
            lost = (square <= rounding.square()) | predicted
            share = t.masked_fill(lost, 0.0) / square.masked_fill(lost, 1.0)
            of_x, of_y = share.mT @ x, share.mT @ y
            x, y = x - t @ of_x, y - t @ of_y
            directions.append((w, of_x, of_y))

        def predict(z: Tensor) -> Tensor:
            total = z.new_zeros(())
            for w, of_x, of_y in directions:
                t = z @ w
                z, total = z - t @ of_x, total + t @ of_y
            return total

        return predict

    return fit


class _Leading(torch.autograd.Function):
    """Leading left singular vector (..., p, 1); of equal singular values any."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor) -> Tensor:
        wide = matrix.shape[-2] > matrix.shape[-1]
        values, vectors = torch.linalg.eigh(matrix.mT @ matrix if wide else matrix @ matrix.mT)
        values = values.clamp_min(0.0)
        ctx.save_for_backward(matrix, values, vectors)
        leading = vectors[..., -1:]
        if not wide:
            return leading
        left = matrix @ leading
        size = torch.linalg.vector_norm(left, dim=-2, keepdim=True)
        return left / size.masked_fill(size == 0, 1.0)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        matrix, values, vectors = ctx.saved_tensors
        grad, first = grad_outputs[0], values[..., -1:]
        rounding = 8 * vectors.shape[-1] * torch.finfo(values.dtype).eps * first
        gaps = first - values
        apart = gaps > rounding
        weights = (apart / gaps.where(apart, 1.0)).unsqueeze(-1)
        if matrix.shape[-2] <= matrix.shape[-1]:
            w = vectors[..., -1:]
            turned = vectors @ (weights * (vectors.mT @ grad))
        else:  # the other left singular vectors are M v / s, and 0 has the rest
            present = (values > rounding).unsqueeze(-1)
            scale = present / values.unsqueeze(-1).where(present, 1.0).sqrt()
            left = (matrix @ vectors) * scale.mT
            w = left[..., -1:]
            along = left.mT @ grad
            there = first.unsqueeze(-1) > 0
            rest = (grad - left @ along) * there / first.unsqueeze(-1).where(there, 1.0)
            turned = left @ (weights * along) + rest
        return turned @ (w.mT @ matrix) + w @ (turned.mT @ matrix)


def banded_ridge_predictivity(
    x: Tensor,
    y: Tensor,
    *,
    bands: Tensor | Sequence[int],
    weights: int | Tensor = WEIGHTS,
    score: Score = "r2",
    folds: Folds | None = None,
    strengths: Strengths = None,
    average: Average | None = "uniform",
    seed: int = 0,
) -> Tensor:
    r"""How well ridge regression predicts ``y`` from bands of ``x``, each with its own strength.

    With :math:`X_b` the units of band b, each target takes of the choices of weights
    :math:`\gamma`, which sum to 1, and strengths :math:`\lambda` those with the least leave-one-out
    error on the stimuli fitted on, and minimizes

    .. math:: \Big\lVert y_j - \sum_b X_b \beta_b\Big\rVert^2
              + \lambda \sum_b \lVert \beta_b\rVert^2 / \gamma_b

    Parameters
    ----------
    x : Tensor, shape (..., n_stimuli, p)
        Features to predict from.
    y : Tensor, shape (..., n_stimuli, q)
        Features to predict, of the same stimuli; leading dimensions broadcast.
    bands : sequence or Tensor of integers, shape (p,)
        The band of each unit, such as its layer.
    weights : int or Tensor, shape (n_weights, n_bands)
        How many weights to try: equal ones, and others from Dirichlet distributions; or the
        weights, in the order of the bands' numbers.
    score, folds, average
        As for `linear_predictivity`.
    strengths : float or sequence of float, optional
        As for `ridge_predictivity`, of features times the roots of their weights.
    seed : int
        Of the weights, and of the shuffle where ``folds`` is a number.

    Returns
    -------
    Tensor, shape (...) or (..., q)
        At most 1; at least 0 without folds. NaN as for `linear_predictivity`.

    Raises
    ------
    DTypeError, ShapeError, UnknownNameError, DataError
        As `ridge_predictivity`; ShapeError also if ``bands`` or ``weights`` have another length,
        DataError if a weight is negative or none is positive.

    Notes
    -----
    himalaya's random search with leave-one-out in closed form in the place of folds: the same fit
    for the same weights and strengths. With one band it is `ridge_predictivity`. One
    eigendecomposition for each choice of weights, in float64. Choices are steps and pass no
    gradient; the fit does. First derivatives only.

    References
    ----------
    Dupré la Tour, Eickenberg, Nunez-Elizalde & Gallant (2022),
    doi:10.1016/j.neuroimage.2022.119728.

    Examples
    --------
    >>> rng = torch.Generator().manual_seed(0)
    >>> near, noise = torch.randn(60, 3, generator=rng), torch.randn(60, 40, generator=rng)
    >>> x = torch.cat([near, noise], 1)
    >>> y = near @ torch.randn(3, 4, generator=rng) + torch.randn(60, 4, generator=rng)
    >>> from softrsa.measures import ridge_predictivity
    >>> ridge_predictivity(x, y, folds=5)
    tensor(0.0669)
    >>> banded_ridge_predictivity(x, y, bands=[0] * 3 + [1] * 40, folds=5)
    tensor(0.4125)
    """
    check_features(x, y)
    places = _bands(bands, x)
    choices = _weights(weights, int(places.max()) + 1, seed).to(x.device)
    fit = _banded(choices[:, places].sqrt(), check_strengths(strengths))
    return Rule(fit, score, average).over_folds(x, y, folds, seed)


def _bands(bands: Tensor | Sequence[int], x: Tensor) -> Tensor:
    """Places (p,) of units among the bands, in the order of their numbers."""
    given = torch.as_tensor(bands)
    if given.shape != x.shape[-1:]:
        raise ShapeError(
            f"`bands` must hold one band for each of {x.shape[-1]} units of `x`, got "
            f"{tuple(given.shape)}."
        )
    return given.unique(return_inverse=True)[1].to(x.device)


def _weights(weights: int | Tensor, n_bands: int, seed: int) -> Tensor:
    """Choices of weights (k, n_bands), float64, 1 in sum."""
    if isinstance(weights, int):
        check_count("weights", weights, 1)
        rng = np.random.default_rng(seed)
        drawn = [rng.dirichlet([CONCENTRATIONS[i % 2]] * n_bands) for i in range(weights - 1)]
        return torch.as_tensor(np.array([[1 / n_bands] * n_bands, *drawn]))
    given = torch.as_tensor(weights).double()
    if given.ndim != 2 or given.shape[1] != n_bands:
        raise ShapeError(
            f"`weights` must have shape (n_weights, {n_bands}), one for each band, got "
            f"{tuple(given.shape)}."
        )
    if not ((given >= 0) & given.isfinite()).all() or not (given.sum(1) > 0).all():
        raise DataError(
            "`weights` must be at least 0, and one of each choice above 0, got "
            f"{given.min().item():g} to {given.max().item():g}."
        )
    return given


def _banded(factors: Tensor, given: Tensor | None) -> Fit:
    """Ridge on units times one of several choices of factors (k, p), the best for each target."""

    def fit(x: Tensor, y: Tensor, _raw: Tensor, _eps: float) -> Predict:
        def strengths_of(scaled: Tensor) -> Tensor:
            return default_strengths(scaled) if given is None else given.to(x.device)

        least = []
        for factor in factors:
            scaled = x.detach() * factor
            least.append(least_leave_one_out(scaled, y, strengths_of(scaled)))
        best = torch.stack(least).argmin(0)
        fits = [
            (ridge(x * factor, y, strengths_of(x * factor)), factor, (best == i).unsqueeze(-2))
            for i, factor in enumerate(factors)
            if bool((best == i).any())
        ]

        def predict(z: Tensor) -> Tensor:
            parts = (one(z * factor).masked_fill(~here, 0.0) for one, factor, here in fits)
            return torch.stack([*parts]).sum(0)

        return predict

    return fit
