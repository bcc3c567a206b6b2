"""Correlations between RSMs, and what they are the cosine of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from math import isqrt
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from softrsa._checks import check_broadcast, check_floating, check_square
from softrsa._gradients import again, within
from softrsa._precision import warn_of_lost
from softrsa._ranks import average_ranks, is_rounding, rounding_of
from softrsa.errors import DataError, ShapeError
from softrsa.pairs import expand, off_diagonal
from softrsa.transforms import double_center
from softrsa.transforms.center import norm as norm_of
from softrsa.transforms.center import residual


@dataclass(frozen=True)
class Embedding:
    """How an RSM becomes a vector whose cosine with another's is the score: `Measure.embed`.

    What is known of such a measure holds for resamples, permutations, noise ceilings and mixtures
    of RSMs, which are then computed all at once.

    Attributes
    ----------
    of : {"values", "deviations", "ranks"}
        What is compared: values as they are, less their mean, or their average ranks less theirs.
    offsets : {"kept", "removed", "whitened"}
        Whether row and column means are removed from the square: of the entries off its diagonal,
        as `softrsa.transforms.double_center` does, or of all of it, with a diagonal of zeros, which
        is the whitening of `whitened_cosine`.
    untied : bool
        Whether ranks are divided by the length they have without ties, not by their own: `rho_a`.

    Raises
    ------
    DataError
        If these three do not go together.

    Examples
    --------
    >>> spearman_is = Embedding(of="ranks")
    >>> spearman_is.unit(torch.tensor([[10.0, 20.0, 90.0], [10.0, 30.0, 20.0]])).prod(0).sum()
    tensor(0.5000)
    """

    of: Literal["values", "deviations", "ranks"] = "values"
    offsets: Literal["kept", "removed", "whitened"] = "kept"
    untied: bool = False

    def __post_init__(self):
        if (self.of, self.offsets, self.untied) not in _KNOWN:
            known = "; ".join(f"{of}, {kept}{', untied' * no}" for of, kept, no in _KNOWN)
            raise DataError(f"There is no {self}. What goes together: {known}.")

    @property
    def takes(self) -> tuple[str, ...]:
        """What a measure that is so embedded may take; see `Measure.takes`."""
        if self.offsets == "removed":
            return ("matrices",)
        once = ("pairs", "dissimilarities")
        return once if self.untied or self.offsets == "whitened" else ("vectors", *once)

    def vectors(self, x: Tensor) -> Tensor:
        """Embed what the measure takes, (..., n_pairs) or (..., n, n): vectors (..., m).

        Linear but for ranks; exactly 0 where a measure is undefined.
        """
        if self.offsets == "removed":
            return double_center(x).flatten(-2)
        x = average_ranks(x) if self.of == "ranks" else x
        x = x if self.of == "values" else centered(x)
        return without_means(expand(x)).flatten(-2) if self.offsets == "whitened" else x

    def unit(self, x: Tensor) -> Tensor:
        """Vectors whose inner products are the scores."""
        vectors = self.vectors(x)
        if self.untied:
            n = vectors.shape[-1]
            return vectors * (12 / (n**3 - n)) ** 0.5
        return vectors / vectors.norm(dim=-1, keepdim=True)

    def normalize(self, x: Tensor) -> Tensor:
        """Bring ``x`` to the form whose mean over subjects is pooled; nothing is whitened there."""
        if self.of == "ranks":
            return average_ranks(x)
        if self.offsets == "removed":
            return self.unit(x).view(x.shape)
        return Embedding(self.of).unit(x)


_KNOWN = (
    ("values", "kept", False), ("deviations", "kept", False), ("ranks", "kept", False),
    ("ranks", "kept", True), ("values", "removed", False), ("values", "whitened", False),
    ("deviations", "whitened", False),
)  # fmt: skip


def cosine(x: Tensor, y: Tensor) -> Tensor:
    r"""Cosine between two condensed RSMs.

    .. math:: \cos(x, y) = \frac{\langle x, y\rangle}{\lVert x\rVert\,\lVert y\rVert}

    Parameters
    ----------
    x, y : Tensor, shape (..., n_pairs)
        Pairs of two RSMs in the same order; any unit; leading dimensions broadcast.

    Returns
    -------
    Tensor, shape (...)
        Cosine in [-1, 1]. NaN where ``x`` or ``y`` is all zero.

    Raises
    ------
    DTypeError
        If either tensor is not float32 or float64.
    ShapeError
        If the two do not have the same number of pairs.

    Notes
    -----
    Differentiable wherever it is defined. No epsilon is added to the denominator.

    Examples
    --------
    >>> cosine(torch.tensor([3.0, 4.0]), torch.tensor([4.0, 3.0]))
    tensor(0.9600)
    """
    check_pairs(x=x, y=y)
    return _cosine(x, y)


def pearson(x: Tensor, y: Tensor) -> Tensor:
    r"""Pearson correlation between two condensed RSMs.

    .. math:: r(x, y) = \cos(x - \bar x,\; y - \bar y)

    Parameters
    ----------
    x, y : Tensor, shape (..., n_pairs)
        Pairs of two RSMs in the same order; any unit; leading dimensions broadcast.

    Returns
    -------
    Tensor, shape (...)
        Correlation in [-1, 1]. NaN where ``x`` or ``y`` is constant, because the correlation is
        then undefined (`scipy.stats.pearsonr` agrees).

    Raises
    ------
    DTypeError
        If either tensor is not float32 or float64.
    ShapeError
        If the two do not have the same number of pairs.

    Notes
    -----
    Differentiable wherever it is defined.

    References
    ----------
    Kriegeskorte, Mur & Bandettini (2008), doi:10.3389/neuro.06.004.2008.

    Examples
    --------
    >>> pearson(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 3.0, 2.0]))
    tensor(0.5000)
    """
    check_pairs(x=x, y=y)
    return _cosine(x, y, center=True)


def spearman(x: Tensor, y: Tensor) -> Tensor:
    """Spearman rank correlation between two condensed RSMs: Pearson of average ranks.

    Values are tied if they are equal within rounding: if a run of neighbors lies within 8 units in
    the last place of the largest value, 1024 in float64.

    Parameters
    ----------
    x, y : Tensor, shape (..., n_pairs)
        Pairs of two RSMs in the same order; any unit; leading dimensions broadcast.

    Returns
    -------
    Tensor, shape (...)
        Correlation in [-1, 1]. NaN where ``x`` or ``y`` is constant.

    Raises
    ------
    DTypeError
        If either tensor is not float32 or float64.
    ShapeError
        If the two do not have the same number of pairs.

    Notes
    -----
    Ranks are piecewise constant: no gradient is passed to either input.

    Examples
    --------
    >>> spearman(torch.tensor([1.0, 2.0, 9.0]), torch.tensor([1.0, 3.0, 2.0]))
    tensor(0.5000)
    """
    check_pairs(x=x, y=y)
    middle = (x.shape[-1] + 1) / 2
    left, right = (average_ranks(vectors, torch.float64) - middle for vectors in (x, y))
    return _cosine(left, right).to(torch.promote_types(x.dtype, y.dtype))


def centered_pearson(x: Tensor, y: Tensor) -> Tensor:
    r"""Pearson correlation of the double-centered off-diagonal entries of two square RSMs.

    What every anchor or neighbor shares with all others is removed first
    (`softrsa.transforms.double_center`), so that two RSMs cannot correlate by agreeing on one
    number per stimulus.

    Parameters
    ----------
    x, y : Tensor, shape (..., n_stimuli, n_stimuli)
        Square RSMs, symmetric or not, of the same stimuli; leading dimensions broadcast. At least
        4 stimuli: of 3, nothing is left but rounding when both are symmetric.

    Returns
    -------
    Tensor, shape (...)
        Correlation in [-1, 1]. NaN where nothing is left after centering.

    Raises
    ------
    DTypeError
        If either tensor is not float32 or float64.
    ShapeError
        If the two are not square, differ in their number of stimuli, or have fewer than 4.

    Notes
    -----
    Differentiable wherever it is defined. Invariant to adding any row or column vector.

    Examples
    --------
    >>> x = torch.tensor([[0.0, 1, 2, 3], [1, 0, 5, 4], [2, 5, 0, 6], [3, 4, 6, 0]])
    >>> centered_pearson(x, x + torch.tensor([[5.0], [0], [9], [2]]))
    tensor(1.0000)
    """
    check_same_stimuli(x, y, at_least=4)
    return within(_CenteredCosine.apply(x, y))


def row_offset_share(x: Tensor, y: Tensor) -> Tensor:
    r"""Part of what two RSMs share that row and column means alone explain.

    The covariance of the off-diagonal entries splits exactly into that of the additive part
    (row + column offsets) and that of the double-centered rest; the share is
    :math:`|A| / (|A| + |C|)`.

    Parameters
    ----------
    x, y : Tensor, shape (..., n_stimuli, n_stimuli)
        Square RSMs of the same stimuli, before any centering; leading dimensions broadcast.

    Returns
    -------
    Tensor, shape (...)
        Share in [0, 1]: near 1 the RSMs agree on one number per stimulus only, near 0 on geometry
        only. NaN where the covariance is zero in both parts.

    Raises
    ------
    DTypeError
        If either tensor is not float32 or float64.
    ShapeError
        If the two are not square, differ in their number of stimuli, or have fewer than 3.

    Examples
    --------
    >>> rows = torch.tensor([[1.0], [2.0], [4.0], [8.0]]).expand(4, 4)
    >>> row_offset_share(rows, 3 * rows)
    tensor(1.)
    """
    check_same_stimuli(x, y, at_least=3)
    x_rest, y_rest = double_center(x), double_center(y)
    total = (centered(off_diagonal(x)) * centered(off_diagonal(y))).sum(-1)
    geometry = (x_rest * y_rest).sum((-2, -1))
    offsets = total - geometry
    return offsets.abs() / (offsets.abs() + geometry.abs())


def check_pairs(**tensors: Tensor) -> None:
    """Check that condensed RSMs are floating point and equally long."""
    check_floating(**tensors)
    for name, value in tensors.items():
        if value.ndim == 0:
            raise ShapeError(f"`{name}` must have shape (..., n_pairs), got a scalar.")
    lengths = {name: value.shape[-1] for name, value in tensors.items()}
    if len(set(lengths.values())) > 1:
        found = ", ".join(
            f"`{name}` has {n} pairs ({(1 + isqrt(1 + 8 * n)) // 2} stimuli)"
            for name, n in lengths.items()
        )
        raise ShapeError(f"Both RSMs must cover the same stimuli: {found}.")
    check_broadcast(**tensors)


def check_same_stimuli(x: Tensor, y: Tensor, *, at_least: int) -> None:
    """Check that two tensors are square RSMs (..., n, n) of the same stimuli."""
    check_floating(x=x, y=y)
    check_square(x=x, y=y)
    if x.shape[-1] != y.shape[-1] or x.shape[-1] < at_least:
        raise ShapeError(
            f"Both RSMs must cover the same stimuli, at least {at_least}: "
            f"`x` has {x.shape[-1]}, `y` has {y.shape[-1]}."
        )
    check_broadcast(2, x=x, y=y)


def centered(x: Tensor) -> Tensor:
    """Subtract the mean of the last dimension; an exact 0 where that is constant but for rounding.

    What is left of a constant would correlate with anything.
    """
    return (x - x.mean(-1, keepdim=True)).masked_fill(_constant(x), 0.0)


def _constant(x: Tensor) -> Tensor:
    """Whether vectors (..., m) hold nothing but one value and rounding, (..., 1)."""
    low, high = torch.aminmax(x.detach(), dim=-1, keepdim=True)
    return is_rounding(low, high, rounding_of(low, high))


def without_means(square: Tensor) -> Tensor:
    """Subtract row means, then column means, of all entries."""
    square = square - square.mean(-1, keepdim=True)
    return square - square.mean(-2, keepdim=True)


def _cosine(x: Tensor, y: Tensor, *, center: bool = False) -> Tensor:
    """Cosine of vectors (..., m), less their means if asked for; NaN of nothing."""
    if not x.shape[-1]:
        return (x + y).sum(-1) * torch.nan
    return within(_Cosine.apply(x, y, center))


class _Moments(NamedTuple):
    """Mean, inverse of the size (a power of 2) and squared length of vectors: (..., 1) each."""

    mean: Tensor
    inverse: Tensor
    square: Tensor

    def unit(self, x: Tensor) -> Tensor:
        """Vectors of length 1, in the type of ``x``."""
        rounded = self.mean.to(x.dtype)
        rest = (x - rounded).sub_((self.mean - rounded).to(x.dtype))
        return rest.mul_((self.inverse / self.square.sqrt()).to(x.dtype))


PART = 2**20  # entries taken at a time: float64 copies of float32 vectors stay small


def _parts(x: Tensor) -> Iterator[slice]:
    step = max(1, PART * x.shape[-1] // max(1, x.numel()))
    return (slice(start, start + step) for start in range(0, x.shape[-1], step))


def _deviations(x: Tensor, part: slice, mean: Tensor, inverse: Tensor) -> Tensor:
    return (x[..., part].double() - mean).mul_(inverse)


def _moments(x: Tensor, center: bool) -> _Moments:
    """Sum up in float64; the squared length is NaN where centering leaves nothing but rounding."""
    low, high = torch.aminmax(x, dim=-1, keepdim=True)
    mean = torch.zeros_like(low, dtype=torch.float64)
    if center:
        for part in _parts(x):
            mean += x[..., part].double().sum(-1, keepdim=True)
        mean /= x.shape[-1]
    size = torch.maximum((low - mean).abs(), (high - mean).abs())
    inverse = torch.ldexp(torch.ones_like(size), -size.frexp().exponent)
    square = torch.zeros_like(mean)
    for part in _parts(x):
        square += _deviations(x, part, mean, inverse).square_().sum(-1, keepdim=True)
    if center and x.dtype == torch.float32 and not x.requires_grad:
        spread = (square / x.shape[-1]).sqrt() / inverse
        largest = torch.maximum(low.abs(), high.abs())
        warn_of_lost(torch.finfo(x.dtype).eps * largest / spread, "a correlation of these RSMs")
    if center:
        square.masked_fill_(is_rounding(low, high, rounding_of(low, high)), torch.nan)
    return _Moments(mean, inverse, square)


class _Cosine(torch.autograd.Function):
    """`_plain_cosine`, summed in float64, without copies of the vectors."""

    @staticmethod
    def forward(ctx, x: Tensor, y: Tensor, center: bool) -> Tensor:
        of_x, of_y = _moments(x, center), _moments(y, center)
        product: Tensor | float = 0.0
        for part in _parts(x):
            left, right = (
                _deviations(vectors, part, mean, inverse)
                for vectors, (mean, inverse, _) in ((x, of_x), (y, of_y))
            )
            product = product + torch.einsum("...i,...i->...", left, right)
        # under one root, and so exactly 1 of a vector with itself
        score = product / (of_x.square * of_y.square).sqrt()[..., 0]
        ctx.save_for_backward(x, y, score, *of_x, *of_y)
        ctx.center = center
        return score.to(torch.promote_types(x.dtype, y.dtype))

    @staticmethod
    def backward(ctx, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        x, y, score, *moments = ctx.saved_tensors
        needed = ctx.needs_input_grad[:2]
        if torch.is_grad_enabled():  # somebody will differentiate once more
            plain = partial(_plain_cosine, center=ctx.center)
            return (*again(plain, (x, y), grad_outputs[0], needed), None)
        of_x, of_y = _Moments(*moments[:3]), _Moments(*moments[3:])
        x_unit, y_unit, grad = of_x.unit(x), of_y.unit(y), grad_outputs[0][..., None]

        def gradient(own: Tensor, other: Tensor, moments: _Moments) -> Tensor:
            # both have no mean, if that was removed: neither has their sum
            rest = other - score[..., None].to(own.dtype) * own
            factor = grad * (moments.inverse / moments.square.sqrt()).to(own.dtype)
            return (rest * factor).to(own.dtype).sum_to_size(own.shape)

        return (
            gradient(x_unit, y_unit, of_x) if needed[0] else None,
            gradient(y_unit, x_unit, of_y) if needed[1] else None,
            None,
        )


def _plain_cosine(x: Tensor, y: Tensor, *, center: bool) -> Tensor:
    """`_cosine` in plain arithmetic."""
    if center:
        x, y = centered(x), centered(y)
    return (x / x.norm(dim=-1, keepdim=True) * (y / y.norm(dim=-1, keepdim=True))).sum(-1)


def _centered_pearson(x: Tensor, y: Tensor) -> Tensor:
    """`centered_pearson` in plain arithmetic."""
    # centered entries sum to zero over the off-diagonal, so their cosine is the correlation
    left, right = (double_center(matrix).flatten(-2) for matrix in (x, y))
    return _plain_cosine(left, right, center=False)


class _CenteredCosine(torch.autograd.Function):
    """`_centered_pearson` with its gradient in closed form, for which fits are many times faster.

    The gradient is a sum of both centered matrices, so that it need not be centered again.
    """

    @staticmethod
    def forward(ctx, x: Tensor, y: Tensor) -> Tensor:
        (x_unit, x_norm), (y_unit, y_norm) = _centered_unit(x), _centered_unit(y)
        rows = (x_unit * y_unit).sum(-1, keepdim=True)
        score = rows.double().sum(-2, keepdim=True).to(rows.dtype)
        ctx.save_for_backward(x, y, x_unit, y_unit, x_norm, y_norm, score)
        undefined = x_norm.isinf() | y_norm.isinf()
        return score.masked_fill(undefined, torch.nan)[..., 0, 0]

    @staticmethod
    def backward(ctx, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        x, y, x_unit, y_unit, x_norm, y_norm, score = ctx.saved_tensors
        if torch.is_grad_enabled():  # somebody will differentiate once more
            return again(_centered_pearson, (x, y), grad_outputs[0], ctx.needs_input_grad)
        grad = grad_outputs[0][..., None, None]

        def gradient(own: Tensor, other: Tensor, norm: Tensor) -> Tensor:
            return torch.sub(other, score * own).mul_(grad / norm).sum_to_size(own.shape)

        needed = ctx.needs_input_grad
        return (
            gradient(x_unit, y_unit, x_norm) if needed[0] else None,
            gradient(y_unit, x_unit, y_norm) if needed[1] else None,
        )


def _centered_unit(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Double-center and bring to norm 1, and the norm (..., 1, 1); infinite if nothing is left."""
    rest, size, scale = residual(matrix)
    norm = norm_of(rest)
    if rest.dtype == torch.float32 and not matrix.requires_grad:
        warn_of_lost(torch.finfo(rest.dtype).eps * size / norm, "a score of double-centered RSMs")
    norm = norm.masked_fill(norm == 0, torch.inf)
    return rest.div_(norm), norm / scale
