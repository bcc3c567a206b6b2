"""How well the units of one set of features are predicted from those of another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Literal, get_args

import torch
from torch import Tensor

from softrsa._gradients import within
from softrsa.errors import DataError, ShapeError, unknown_name
from softrsa.measures._features import (
    centered,
    check_features,
    check_held_out,
    first_order,
    undefined,
)
from softrsa.measures.shape import singular_rounding

EPS = torch.finfo(torch.float64).eps


Predict = Callable[
    [Tensor], Tensor
]  # of features (..., m, p), centered like the fit's: (..., m, q)


def least_squares(x: Tensor, y: Tensor, raw: Tensor, eps: float) -> Predict:
    """Fit centered ``y`` (..., n, q) on ``x`` (..., n, p), with coefficients of minimum norm.

    Directions of ``x`` that are rounding at a precision of ``eps`` of ``raw`` predict nothing.
    First derivatives only: those of a pseudo-inverse of constant rank (Golub & Pereyra 1973,
    doi:10.1137/0710036), which need no difference between singular values. With more units than
    stimuli the p x q coefficients are never formed.
    """
    fixed = x.detach()
    left, singular, right = torch.linalg.svd(fixed, full_matrices=False)
    kept = singular > singular_rounding(left, singular, raw, eps)
    inverse = torch.where(kept, singular.reciprocal(), 0.0)
    pinv = (right.mT * inverse[..., None, :]) @ left.mT
    if x.shape[-2] < x.shape[-1]:
        return _through_stimuli(x, y, pinv)
    coefficients = pinv @ y
    if x.requires_grad:
        change = x - fixed  # zero, but it carries the gradient
        base = coefficients.detach()
        residual = y.detach() - fixed @ base
        outside = change.mT @ (pinv.mT @ base)
        coefficients = (
            coefficients
            - pinv @ (change @ base)
            + pinv @ (pinv.mT @ (change.mT @ residual))
            + outside
            - pinv @ (fixed @ outside)
        )
    return lambda z: z @ coefficients


def _through_stimuli(x: Tensor, y: Tensor, pinv: Tensor) -> Predict:
    """Predict with products of stimuli by stimuli: the same terms, put together the other way."""
    if not x.requires_grad:
        return lambda z: (z @ pinv) @ y
    fixed, base = x.detach(), y.detach()
    change = x - fixed
    square = pinv.mT @ pinv
    residual = base - (fixed @ pinv) @ base
    inner = (
        y
        - (change @ pinv) @ base
        + (pinv.mT @ change.mT) @ residual
        - (fixed @ change.mT) @ (square @ base)
    )
    return lambda z: (z @ pinv) @ inner + (z @ change.mT) @ (square @ base)


def ridge(x: Tensor, y: Tensor, strengths: Tensor) -> Predict:
    """Fit centered ``y`` on ``x`` by ridge, each target with its best of ``strengths`` (..., k).

    One eigendecomposition of the smaller Gram matrix serves all strengths and targets. It is
    detached: a Newton step from its solution, which changes no digit but rounding, carries the
    gradient, so that eigenvectors are never differentiated.
    """
    dual = x.shape[-2] < x.shape[-1]
    gram = x @ x.mT if dual else x.mT @ x
    squares, vectors = _decomposed(gram)
    if strengths.shape[-1] > 1:
        scores = _scores(x.detach(), squares, vectors)
        best = _leave_one_out(scores, squares, y.detach(), strengths.detach()).argmin(0)
        strengths = strengths.expand(*best.shape[:-1], -1).gather(-1, best)
    strength = strengths[..., None, :]  # (..., 1, q) or (..., 1, 1)
    damped = squares[..., None] + strength.detach()

    def solve(right_side: Tensor) -> Tensor:
        return vectors @ ((vectors.mT @ right_side) / damped)

    right_side = y if dual else x.mT @ y
    solution = _differentiable(right_side, lambda s: gram @ s + strength * s, solve)
    return lambda z: ((z @ x.mT) if dual else z) @ solution


def least_leave_one_out(x: Tensor, y: Tensor, strengths: Tensor) -> Tensor:
    """Least leave-one-out error (..., q) of a ridge fit of centered ``y`` over strengths."""
    x, y, strengths = x.detach(), y.detach(), strengths.detach()
    squares, vectors = _decomposed(x @ x.mT if x.shape[-2] < x.shape[-1] else x.mT @ x)
    return _leave_one_out(_scores(x, squares, vectors), squares, y, strengths).amin(0)


def _decomposed(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Squared singular values and vectors of the features that a Gram matrix is of."""
    squares, vectors = torch.linalg.eigh(gram.detach())
    return squares.clamp(min=0), vectors


def _scores(x: Tensor, squares: Tensor, vectors: Tensor) -> Tensor:
    """Principal scores of features, given what `_decomposed` makes of the smaller Gram matrix."""
    dual = x.shape[-2] < x.shape[-1]
    return vectors * squares.sqrt()[..., None, :] if dual else x @ vectors


def _differentiable(
    right_side: Tensor, operator: Callable[[Tensor], Tensor], solve: Callable[[Tensor], Tensor]
) -> Tensor:
    """Solve ``operator(solution) = right_side`` with the gradient of the implicit function."""
    solution = solve(right_side.detach())
    return solution + solve(right_side - operator(solution))


def _leave_one_out(scores: Tensor, squares: Tensor, y: Tensor, strengths: Tensor) -> Tensor:
    """Mean squared leave-one-out error of strengths (..., k), per target: (k, ..., q)."""
    n = y.shape[-2]
    projected = scores.mT @ y
    errors = []
    for strength in strengths.unbind(-1):
        shrunk = 1 / (squares + strength[..., None])[..., None]
        residual = y - scores @ (shrunk * projected)
        # 1 - leverage; the intercept, fitted again without the stimulus, takes 1 / n of it
        left = 1 - 1 / n - scores.square() @ shrunk
        error = (residual / left).square().mean(-2)
        # a stimulus that fixes its own prediction leaves 0 / 0 in rounding
        rounding = (left <= 8 * n * EPS).any(-2).expand_as(error)
        errors.append(error.masked_fill(rounding, torch.inf))
    return torch.stack(errors)


Score = Literal["r2", "pearson"]
Average = Literal["uniform", "variance"]
Kind = Literal["linear", "ridge"]
Strengths = float | Sequence[float] | None
Folds = int | Tensor | Sequence[int]
# of the mean squared singular value: from all but least squares to all but the mean
RELATIVE_STRENGTHS = torch.logspace(-6, 4, 21, dtype=torch.float64)


def linear_predictivity(
    x: Tensor,
    y: Tensor,
    *,
    score: Score = "r2",
    folds: Folds | None = None,
    average: Average | None = "uniform",
    seed: int = 0,
) -> Tensor:
    r"""How well a linear regression with intercept predicts ``y`` from ``x``.

    .. math:: R^2_j = 1 - \frac{\lVert y_j - \hat y_j\rVert^2}{\lVert y_j - \bar y_j\rVert^2}

    Parameters
    ----------
    x : Tensor, shape (..., n_stimuli, p)
        Features to predict from.
    y : Tensor, shape (..., n_stimuli, q)
        Features to predict, of the same stimuli; leading dimensions broadcast.
    score : {"r2", "pearson"}
        Per target: the share of variance explained, or the correlation of prediction and target.
    folds : int, or sequence or Tensor of integers, shape (n_stimuli,), optional
        Score each fold of stimuli under a fit on the others and average over folds: a number of
        folds of shuffled stimuli, or each stimulus's fold. None fits and scores on all stimuli.
    average : {"uniform", "variance"} or None
        Over targets: each counts the same, or by its variance over the stimuli scored; None
        returns every target.
    seed : int
        Of the shuffle, when ``folds`` is a number.

    Returns
    -------
    Tensor, shape (...) or (..., q)
        At most 1; at least 0 without folds. NaN for a target that is constant over the stimuli
        scored, and under "pearson" where its prediction is; "uniform" hands the NaN on, "variance"
        gives a constant target no weight.

    Raises
    ------
    DTypeError
        If the features are not of one type, float32 or float64.
    ShapeError
        If they are not of the same stimuli, or ``folds`` has another length.
    UnknownNameError
        If ``score`` or ``average`` is something else.
    DataError
        If a fold would have fewer than 2 stimuli, or nothing to fit on.

    Notes
    -----
    Least squares of minimum norm, so more units than stimuli, or units that repeat each other,
    are no error; without folds ``n <= p`` predicts everything. Computed in float64; directions of
    ``x`` that are rounding in the type of the input predict nothing. The gradient is that at
    constant rank of ``x``; it is of first order only.

    References
    ----------
    Cloos et al. (2024), arXiv:2407.07059: "linreg" of X and Y predicts X: it is
    ``linear_predictivity(y, x, average="variance")``.

    Examples
    --------
    >>> x = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    >>> y = torch.tensor([[1.0], [3.0], [2.0], [5.0]])
    >>> linear_predictivity(x, y)
    tensor(0.6914)
    >>> linear_predictivity(x, y, folds=torch.tensor([0, 0, 1, 1]), average=None)
    tensor([-10.6944])
    """
    check_features(x, y)
    return Rule(least_squares, score, average).over_folds(x, y, folds, seed)


def ridge_predictivity(
    x: Tensor,
    y: Tensor,
    *,
    score: Score = "r2",
    folds: Folds | None = None,
    strengths: Strengths = None,
    average: Average | None = "uniform",
    seed: int = 0,
) -> Tensor:
    r"""How well a ridge regression with intercept predicts ``y`` from ``x``.

    Each target takes the strength :math:`\lambda` with the least leave-one-out error on the
    stimuli fitted on, in closed form, and minimizes
    :math:`\lVert y_j - X b_j\rVert^2 + \lambda_j \lVert b_j\rVert^2` over centered features.

    Parameters
    ----------
    x : Tensor, shape (..., n_stimuli, p)
        Features to predict from.
    y : Tensor, shape (..., n_stimuli, q)
        Features to predict, of the same stimuli; leading dimensions broadcast.
    score, folds, average, seed
        As for `linear_predictivity`.
    strengths : float or sequence of float, optional
        Choices of :math:`\lambda`, as scikit-learn's ``alphas``. None means half decades from
        1e-6 to 1e4 times the mean squared singular value of the centered ``x`` fitted on, so
        that the scale of ``x`` does not matter.

    Returns
    -------
    Tensor, shape (...) or (..., q)
        At most 1; at least 0 without folds. NaN as for `linear_predictivity`.

    Raises
    ------
    DTypeError, ShapeError, UnknownNameError
        As `linear_predictivity`.
    DataError
        As `linear_predictivity`, or if a strength is not positive and finite.

    Notes
    -----
    Equal to scikit-learn's ``RidgeCV(strengths, alpha_per_target=True)``. The smaller of the
    n x n and p x p Gram matrices is decomposed once, in float64. The choice of a strength is
    a step function and passes no gradient; the fit, and the scale of the default strengths, do.

    References
    ----------
    Golub, Heath & Wahba (1979), doi:10.1080/00401706.1979.10489751.

    Examples
    --------
    >>> x = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    >>> y = torch.tensor([[1.0], [3.0], [2.0], [5.0]])
    >>> ridge_predictivity(x, y, strengths=5.0)
    tensor(0.5186)
    """
    check_features(x, y)
    rule = Rule(ridge_with(strengths), score, average)
    return rule.over_folds(x, y, folds, seed)


def held_out_predictivity(
    x_train: Tensor,
    y_train: Tensor,
    x_test: Tensor,
    y_test: Tensor,
    *,
    kind: Kind = "linear",
    score: Score = "r2",
    strengths: Strengths = None,
    average: Average | None = "uniform",
) -> Tensor:
    """Predictivity on held-out stimuli of a fit on training stimuli, of shape (...) or (..., q).

    Features are (..., n_train, p) and (..., n_train, q), those of other stimuli in the same units;
    options and undefined cases are those of `ridge_predictivity`.
    """
    if kind not in get_args(Kind):
        raise unknown_name("kind of predictivity", kind, get_args(Kind))
    rule = Rule(least_squares if kind == "linear" else ridge_with(strengths), score, average)
    return rule.score_held_out(x_train, y_train, x_test, y_test)


# of centered features, given the raw ones that are fitted on and their precision
Fit = Callable[[Tensor, Tensor, Tensor, float], Predict]


def precision_of(x: Tensor) -> float:
    """Precision of the number type features are given in."""
    return torch.finfo(x.dtype).eps


@dataclass(frozen=True)
class Rule:
    """How to fit, score one target and average over targets."""

    fit: Fit
    score: str
    average: str | None

    def __post_init__(self):
        if self.score not in get_args(Score):
            raise unknown_name("score", self.score, get_args(Score))
        if self.average is not None and self.average not in get_args(Average):
            raise unknown_name("average", self.average, [*get_args(Average), None])

    def over_folds(self, x: Tensor, y: Tensor, folds: Folds | None, seed: int) -> Tensor:
        """Score in sample, or as the mean over folds."""
        dtype, eps, x, y = x.dtype, precision_of(x), x.double(), y.double()
        if folds is None:
            score = within(self.held_out((x, y), (x, y), eps), 0.0)
            return first_order(score.to(dtype))
        scores = []
        for fold in fold_masks(x.shape[-2], folds, seed):
            # places instead of masks, whose number of stimuli a device would be waited for
            places = (part.nonzero().squeeze(-1).to(x.device) for part in (~fold, fold))
            train, held_out = ((x.index_select(-2, at), y.index_select(-2, at)) for at in places)
            scores.append(self.held_out(train, held_out, eps))
        return first_order(torch.stack(scores).mean(0).to(dtype))

    def score_held_out(
        self, x_train: Tensor, y_train: Tensor, x_test: Tensor, y_test: Tensor
    ) -> Tensor:
        """Check features, and score those of held-out stimuli, (...) or (..., q)."""
        check_held_out(x_train, y_train, x_test, y_test)
        train, test = (x_train.double(), y_train.double()), (x_test.double(), y_test.double())
        return self.held_out(train, test, precision_of(x_train)).to(x_train.dtype)

    def held_out(
        self, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], eps: float
    ) -> Tensor:
        """Fit on training stimuli, given to a precision of ``eps``, and score on test stimuli."""
        (x_train, y_train), (x_test, y_test) = train, test
        fitted = centered(x_train.masked_fill(undefined(x_train), 0.0))  # `shifted` stays NaN
        predict = self.fit(fitted, centered(y_train), x_train, eps)
        shifted = x_test - x_train.mean(-2, keepdim=True)
        predicted = y_train.mean(-2, keepdim=True) + predict(shifted)
        target = centered(y_test)
        variance = target.square().sum(-2)
        constant = variance == 0
        if self.score == "r2":
            error = (predicted - y_test).square().sum(-2)
            scores = 1 - error / variance.masked_fill(constant, 1.0)  # else its NaN would spread
        else:
            scores = within((_unit(centered(predicted)) * _unit(target)).sum(-2))
        constant, variance = constant.expand_as(scores), variance.expand_as(scores)
        if self.average == "variance":
            weighted = variance * scores.masked_fill(constant, 0.0)
            return weighted.sum(-1) / variance.sum(-1)
        scores = scores.masked_fill(constant, torch.nan)
        return scores if self.average is None else scores.mean(-1)


def _unit(x: Tensor) -> Tensor:
    size = x.norm(dim=-2, keepdim=True)
    constant = size == 0  # filled in, because the gradient of 0 / 0 would spread
    return (x / size.masked_fill(constant, 1.0)).masked_fill(constant, torch.nan)


def ridge_with(strengths: Strengths) -> Fit:
    """Ridge with given strengths, or with the default ones of the data at hand."""
    given = check_strengths(strengths)

    def fit(
        x: Tensor, y: Tensor, _raw: Tensor, _eps: float
    ) -> Predict:  # no strength amplifies rounding
        return ridge(x, y, default_strengths(x) if given is None else given.to(x.device))

    return fit


def default_strengths(x: Tensor) -> Tensor:
    """Strengths (..., k) to choose among for centered ``x`` (..., n, p)."""
    n, p = x.shape[-2:]
    scale = x.square().sum((-2, -1)) / min(n - 1, p)
    scale = scale.masked_fill(scale == 0, 1.0)  # constant features: any strength gives the mean
    return scale[..., None] * RELATIVE_STRENGTHS.to(x.device)


def ridge_coefficients(x: Tensor, y: Tensor) -> Tensor:
    """Coefficients (p, q) of a ridge regression of centered ``y`` (n, q) on centered ``x`` (n, p).

    Every column of ``y`` has its own strength, by closed-form leave-one-out.
    """
    return ridge(x, y, default_strengths(x))(torch.eye(x.shape[-1]).to(x))


def fold_masks(n: int, folds: Folds, seed: int) -> list[Tensor]:
    """Which stimuli are held out, fold by fold."""
    if not isinstance(folds, Integral):
        folds = torch.as_tensor(folds).cpu()
        if folds.shape != (n,):
            raise ShapeError(
                f"`folds` must hold one fold for each of {n} stimuli, got {tuple(folds.shape)}."
            )
        masks = [folds == fold for fold in folds.unique()]
    else:
        if folds < 2:
            raise DataError(f"`folds` must be at least 2, got {folds}.")
        order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
        masks = [torch.isin(torch.arange(n), part) for part in order.tensor_split(folds)]
    smallest = min(int(mask.sum()) for mask in masks)
    if smallest < 2 or n - max(int(mask.sum()) for mask in masks) < 2:
        raise DataError(
            f"{len(masks)} folds of {n} stimuli would score on {smallest} at a time; a score, and "
            f"a fit, need at least 2 stimuli. Use 2 to {max(n // 2, 2)} folds."
        )
    return masks


def check_strengths(strengths: Strengths) -> Tensor | None:
    """Turn strengths into a row, refusing those that are none."""
    if strengths is None:
        return None
    row = torch.as_tensor(strengths, dtype=torch.float64).reshape(-1)
    if not len(row) or not (row.isfinite() & (row > 0)).all():
        raise DataError(
            f"`strengths` must be positive and finite, got {row.tolist()}. Without any, use "
            "`linear_predictivity`."
        )
    return row
