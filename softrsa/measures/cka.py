"""Centered kernel alignment: linear, RBF, debiased, and as an angle."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import reduce
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from softrsa._checks import broadcast_shape, check_count
from softrsa._gradients import within
from softrsa._precision import product, short_type, without_autocast
from softrsa.errors import DataError, ShapeError
from softrsa.measures._features import centered, check_features, first_order
from softrsa.measures.shape import angular_score
from softrsa.rsm import similarity_matrix


class KernelProducts(NamedTuple):
    """Inner products of the linear kernels of x and y, shape (...)."""

    xy: Tensor
    xx: Tensor
    yy: Tensor


def kernel_products(x: Tensor, y: Tensor) -> KernelProducts:
    """<XX', YY'>, <XX', XX'> and <YY', YY'> of features (..., n, p) and (..., n, q).

    Under autocast matrices are multiplied in its type, forward and backward; sums are not.
    """
    short = short_type(x)
    with without_autocast(x):
        return KernelProducts(*map(first_order, _products(x, y, short)))


def _products(x: Tensor, y: Tensor, short: torch.dtype | None) -> tuple[Tensor, Tensor, Tensor]:
    n, p, q = x.shape[-2], x.shape[-1], y.shape[-1]
    if n * n <= p * q:
        a, b = _Kernel.apply(x, short), _Kernel.apply(y, short)
        return _inner(a, b), _inner(a, a), _inner(b, b)
    lead = broadcast_shape(x.shape[:-2], y.shape[:-2])
    cross = _CrossProduct.apply(x.expand(*lead, n, p), y.expand(*lead, n, q), short)
    return cross, _self_product(x, p * q, short), _self_product(y, p * q, short)


def _inner(a: Tensor, b: Tensor) -> Tensor:
    return torch.linalg.vecdot(a.flatten(-2), b.flatten(-2))


class _Kernel(torch.autograd.Function):
    """XX', for functions of it whose gradient is symmetric."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, short: torch.dtype | None) -> Tensor:
        ctx.save_for_backward(x)
        ctx.short = short
        return product(x, x.mT, short)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        return product(2 * grad, x, ctx.short), None


class _CrossProduct(torch.autograd.Function):
    """Squared norm of X'Y."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, short: torch.dtype | None) -> Tensor:
        cross = product(x.mT, y, short)
        ctx.save_for_backward(x, y, cross)
        ctx.short = short
        return _inner(cross, cross)

    @staticmethod
    def backward(  # type: ignore[override]
        ctx: Any, grad: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None]:
        x, y, cross = ctx.saved_tensors
        scaled = cross * (2 * grad[..., None, None])
        to_x, to_y, _ = ctx.needs_input_grad
        return (
            product(y, scaled.mT, ctx.short) if to_x else None,
            product(x, scaled, ctx.short) if to_y else None,
            None,
        )


def _self_product(x: Tensor, limit: int, short: torch.dtype | None) -> Tensor:
    """Squared norm of X'X (or XX', if that is smaller), at most ``limit`` entries at a time."""
    return _SelfProduct.apply(x.mT if x.shape[-1] <= x.shape[-2] else x, limit, short)


class _SelfProduct(torch.autograd.Function):
    """Squared norm of ZZ', in stretches of rows; kept for the gradient if it is one stretch."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, limit: int, short: torch.dtype | None) -> Tensor:
        ctx.limit, ctx.short = limit, short
        total, whole = z.new_zeros(z.shape[:-2]), None
        for rows in _stretches(z.shape[-2], limit):
            part = product(z[..., rows, :], z.mT, short)
            total += _inner(part, part)
            whole = part if part.shape[-2] == z.shape[-2] else None
        ctx.save_for_backward(z, whole)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        z, whole = ctx.saved_tensors
        factor = 4 * grad[..., None, None]
        if whole is not None:
            return product(whole * factor, z, ctx.short), None, None
        result = torch.empty_like(z)
        for rows in _stretches(z.shape[-2], ctx.limit):
            part = product(z[..., rows, :], z.mT, ctx.short).mul_(factor)
            result[..., rows, :] = product(part, z, ctx.short)
        return result, None, None


def _stretches(n: int, limit: int) -> Iterator[slice]:
    step = max(1, limit // n)
    return (slice(start, start + step) for start in range(0, n, step))


def linear_cka(x: Tensor, y: Tensor) -> Tensor:
    r"""Linear centered kernel alignment of two sets of features.

    With columns centered,

    .. math:: \mathrm{CKA}(X, Y) = \frac{\lVert X^\top Y\rVert_F^2}
              {\lVert XX^\top\rVert_F\,\lVert YY^\top\rVert_F}

    Parameters
    ----------
    x : Tensor, shape (..., n_stimuli, p)
        Responses, float32 or float64, in any unit.
    y : Tensor, shape (..., n_stimuli, q)
        Responses to the same stimuli; leading dimensions broadcast.

    Returns
    -------
    Tensor, shape (...)
        Score in [0, 1]. NaN where no unit of ``x`` or of ``y`` varies over stimuli.

    Raises
    ------
    DTypeError
        If a tensor is neither float32 nor float64, or they differ.
    ShapeError
        If the two do not have the same stimuli, or fewer than 2.

    Notes
    -----
    Differentiable once wherever it is defined. The smaller of n x n and p x q is formed, nothing
    larger. Under `torch.autocast` float32 features are multiplied in its type, and summed in
    float32.
    With few stimuli and many units it is biased upward: see `debiased_cka`. It equals the cosine of
    the centered linear kernels and the whitened cosine of the squared-Euclidean RDMs.

    References
    ----------
    Kornblith, Norouzi, Lee & Hinton (2019), arXiv:1905.00414.

    Examples
    --------
    >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
    >>> linear_cka(x, x @ torch.tensor([[0.0, 2.0], [-2.0, 0.0]]))
    tensor(1.)
    >>> linear_cka(x, x[:, :1])
    tensor(0.7906)
    """
    check_features(x, y)
    return _linear(x, y)


def _linear(x: Tensor, y: Tensor) -> Tensor:
    scaled = x.dtype == torch.float32  # whose range fourth powers would leave
    products = kernel_products(centered(x, scaled=scaled), centered(y, scaled=scaled))
    return within(products.xy / (products.xx.sqrt() * products.yy.sqrt()), 0.0)


def angular_cka(x: Tensor, y: Tensor) -> Tensor:
    r"""Linear CKA as an angle, from 0 (right angle) to 1 (none).

    .. math:: 1 - \frac{\arccos \mathrm{CKA}(X, Y)}{\pi / 2}

    Parameters
    ----------
    x, y : Tensor, shape (..., n_stimuli, p) and (..., n_stimuli, q)
        As for `linear_cka`.

    Returns
    -------
    Tensor, shape (...)
        Score in [0, 1]; 1 minus it is a metric. NaN where `linear_cka` is.

    Raises
    ------
    DTypeError, ShapeError
        As `linear_cka`.

    Notes
    -----
    At a score of 1, where the angle has a kink, the gradient is 0.

    References
    ----------
    Williams, Kunz, Kornblith & Linderman (2021), arXiv:2110.14739.

    Examples
    --------
    >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
    >>> angular_cka(x, x[:, :1])
    tensor(0.5804)
    """
    check_features(x, y)
    return angular_score(_linear(x, y))


def debiased_cka(x: Tensor, y: Tensor) -> Tensor:
    r"""Linear CKA from the unbiased (U-statistic) estimator of HSIC.

    With the diagonals of the kernels :math:`K, L` set to 0,

    .. math:: \mathrm{HSIC}(K, L) = \frac{1}{n (n - 3)} \Big[\operatorname{tr} KL
              + \frac{(1^\top K 1)(1^\top L 1)}{(n - 1)(n - 2)} - \frac{2}{n - 2} 1^\top K L 1\Big]

    and :math:`\mathrm{HSIC}(K, L) / \sqrt{\mathrm{HSIC}(K, K)\,\mathrm{HSIC}(L, L)}` is returned.

    Parameters
    ----------
    x, y : Tensor, shape (..., n_stimuli, p) and (..., n_stimuli, q)
        As for `linear_cka`; at least 4 stimuli.

    Returns
    -------
    Tensor, shape (...)
        Score in [-1, 1], about 0 on average for unrelated features. NaN where the kernels' entries
        off the diagonal hold nothing but one number per stimulus.

    Raises
    ------
    DTypeError
        As `linear_cka`.
    ShapeError
        If the two do not have the same stimuli, or fewer than 4.

    Notes
    -----
    Differentiable once wherever it is defined; computed in float64. It equals `centered_pearson`
    of the linear kernels.

    References
    ----------
    Song, Smola, Gretton, Bedo & Borgwardt (2012), JMLR 13, 1393-1434; Nguyen, Raghu & Kornblith
    (2021), arXiv:2010.15327.

    Examples
    --------
    >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0], [2.0, 0.5], [0.0, -2.0]])
    >>> debiased_cka(x, x[:, :1])
    tensor(0.7517)
    """
    check_features(x, y, at_least=4)
    return ratio_of_hsics(unbiased_hsics(x, y)).to(x.dtype)


def unbiased_hsics(x: Tensor, y: Tensor) -> KernelProducts:
    """HSIC of x with y, x and y in float64, each by its unbiased estimator, shape (...).

    An exact 0 of a kernel that holds nothing but one number per stimulus.
    """
    eps, n = torch.finfo(x.dtype).eps, x.shape[-2]
    # with many units the diagonals, which are taken off again, are nearly all there is
    x, y = centered(x.double()), centered(y.double())
    products = kernel_products(x, y)
    a, b = x.square().sum(-1), y.square().sum(-1)  # diagonals of the kernels
    xy = _without_diagonals(products.xy, a, b)
    xx, yy = (
        # what is left of an all but additive kernel is rounding
        rest.masked_fill(rest <= 8 * eps * product, 0.0)
        for rest, product in (
            (_without_diagonals(products.xx, a, a), products.xx),
            (_without_diagonals(products.yy, b, b), products.yy),
        )
    )
    return KernelProducts(*(total / (n * (n - 3)) for total in (xy, xx, yy)))


def ratio_of_hsics(hsics: KernelProducts) -> Tensor:
    """Divide by the geometric mean of the HSICs of each with itself; NaN where one is 0."""
    xx, yy = (own.masked_fill(own == 0, torch.nan) for own in (hsics.xx, hsics.yy))
    return within(hsics.xy / (xx.sqrt() * yy.sqrt()))


def _without_diagonals(product: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Compute n (n - 3) HSIC from the kernels' inner product and their diagonals (..., n).

    Rows of a centered kernel sum to 0, so those of one without its diagonal to minus the diagonal.
    """
    n = a.shape[-1]
    sums = a.sum(-1) * b.sum(-1)
    return product + sums / ((n - 1) * (n - 2)) - n / (n - 2) * (a * b).sum(-1)


def unit_debiased_cka(x: Tensor, y: Tensor) -> Tensor:
    r"""Linear CKA of the populations that the units were sampled from, and of all stimuli.

    With the HSIC of `debiased_cka` and :math:`k_a = x_a x_a^\top` the kernel of one unit,

    .. math:: \frac{\frac{1}{pq} \sum_{a, b} \mathrm{HSIC}(k_a, l_b)}
              {\sqrt{\frac{1}{p (p - 1)} \sum_{a \ne a'} \mathrm{HSIC}(k_a, k_{a'})}
               \sqrt{\frac{1}{q (q - 1)} \sum_{b \ne b'} \mathrm{HSIC}(l_b, l_{b'})}}

    Parameters
    ----------
    x : Tensor, shape (..., n_stimuli, p)
        Responses of at least 2 units, float32 or float64, in any unit.
    y : Tensor, shape (..., n_stimuli, q)
        Responses of at least 2 *other* units to the same stimuli, at least 4; leading dimensions
        broadcast.

    Returns
    -------
    Tensor, shape (...)
        Score, about 0 on average for unrelated features; with few units it may leave [-1, 1]. NaN
        where pairs of different units of one side share nothing: where their sum is not positive.

    Raises
    ------
    DTypeError
        As `debiased_cka`.
    ShapeError
        If the two do not have the same stimuli, fewer than 4, or fewer than 2 units.

    Notes
    -----
    A sampled unit agrees with itself in noise and tuning of its own, which makes the denominator of
    `debiased_cka` too large and its score too low, the more so the fewer units. Here a unit is
    compared with others only, and each of the three sums is unbiased over stimuli and over units
    that are drawn at random. Their ratio is not: with few units it scatters, and is too high on
    average where `debiased_cka` is too low (10 units of 6 sources, truth .64: .74 and .47; 40
    units: .66 and .58). For artificial networks whose units are all there,
    take `debiased_cka`. Features that share units, as ``x`` with itself, score above 1. Rotating
    units changes what a unit is, and the score. Differentiable once; computed in float64.

    References
    ----------
    Chun, Canatar, Chung & Lee (2025), arXiv:2502.15104.

    Examples
    --------
    >>> rng = torch.Generator().manual_seed(0)
    >>> sources = torch.randn(100, 4, generator=rng)
    >>> x, y = (sources @ torch.randn(4, 40, generator=rng) for _ in range(2))  # populations: 1
    >>> debiased_cka(x, y), unit_debiased_cka(x, y)
    (tensor(0.9131), tensor(1.0310))
    """
    check_features(x, y, at_least=LEAST)
    for name, side in (("x", x), ("y", y)):
        if side.shape[-1] < 2:
            raise ShapeError(
                f"`{name}` must have at least 2 units, which are compared with each other, got "
                f"{side.shape[-1]}. Use `debiased_cka`."
            )
    hsics = unbiased_hsics(x, y)
    xx, yy = (_of_pairs_of_units(own, z) for own, z in ((hsics.xx, x), (hsics.yy, y)))
    return (hsics.xy / (xx.sqrt() * yy.sqrt())).to(x.dtype)


def _of_pairs_of_units(hsic: Tensor, x: Tensor) -> Tensor:
    """HSIC of x with itself (...) without that of units with themselves; NaN if not positive."""
    n, p = x.shape[-2:]
    squares = centered(x.double()).square()
    sums = squares.sum(-2)
    own = sums.square() * (1 + 1 / ((n - 1) * (n - 2))) - n / (n - 2) * squares.square().sum(-2)
    of_units = own.sum(-1) / (n * (n - 3))
    rest = hsic - of_units
    rounding = 8 * torch.finfo(x.dtype).eps * of_units.detach().abs()
    return (rest * (p / (p - 1))).masked_fill(rest <= rounding, torch.nan)


def rbf_cka(x: Tensor, y: Tensor, *, bandwidth: float | Literal["median"] = "median") -> Tensor:
    r"""CKA with radial basis function kernels :math:`\exp(-\lVert x_i - x_j\rVert^2 / 2\sigma^2)`.

    Parameters
    ----------
    x, y : Tensor, shape (..., n_stimuli, p) and (..., n_stimuli, q)
        As for `linear_cka`.
    bandwidth : float or "median"
        :math:`\sigma` of both kernels, in the unit of the responses, or the median distance
        between different stimuli, for each side its own.

    Returns
    -------
    Tensor, shape (...)
        Score in [0, 1]. NaN where all entries of a kernel are equal.

    Raises
    ------
    DTypeError, ShapeError
        As `linear_cka`.
    DataError
        If the bandwidth is not positive, or the median distance is 0.

    Notes
    -----
    Differentiable wherever it is defined, through the median too. Two n x n kernels are formed.

    References
    ----------
    Kornblith, Norouzi, Lee & Hinton (2019), arXiv:1905.00414.

    Examples
    --------
    >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
    >>> rbf_cka(x, 3 * x)
    tensor(1.0000)
    >>> rbf_cka(x, 3 * x, bandwidth=1.0)
    tensor(0.9742)
    """
    check_features(x, y)
    kernels = (similarity_matrix(z, similarity="rbf", bandwidth=bandwidth) for z in (x, y))
    a, b = (_unit(_double_centered(kernel)) for kernel in kernels)
    return within((a * b).sum((-2, -1)), 0.0)


def _double_centered(k: Tensor) -> Tensor:
    """HKH of symmetric kernels."""
    means = k.mean(-1, keepdim=True)
    return k - means - means.mT + means.mean(-2, keepdim=True)


def _unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=(-2, -1), keepdim=True)


LEAST = 4  # stimuli that the unbiased estimator needs
Batch = tuple[Tensor, Tensor]


def minibatch_cka(
    x: Tensor | Iterable[Batch],
    y: Tensor | None = None,
    *,
    batch_size: int | None = None,
    epochs: int = 1,
    seed: int = 0,
) -> Tensor:
    r"""Linear CKA from the unbiased estimator of HSIC, averaged over batches of stimuli.

    With :math:`K_b, L_b` the linear kernels of batch :math:`b` of :math:`B` and the HSIC of
    `debiased_cka`,

    .. math:: \frac{\frac1B \sum_b \mathrm{HSIC}(K_b, L_b)}
              {\sqrt{\frac1B \sum_b \mathrm{HSIC}(K_b, K_b)}
               \sqrt{\frac1B \sum_b \mathrm{HSIC}(L_b, L_b)}}

    Parameters
    ----------
    x : Tensor, shape (..., n_stimuli, p), or iterable of pairs of Tensor
        Responses, float32 or float64, in any unit; or pairs of both sides' responses to one batch
        of at least 4 stimuli each, as a data loader gives them. Pairs are asked for one after the
        other, and none is kept.
    y : Tensor, shape (..., n_stimuli, q), optional
        Responses to the same stimuli; leading dimensions broadcast. Not with pairs.
    batch_size : int, optional
        Stimuli in each batch, from 4 to ``n_stimuli``; needed for tensors, not for pairs.
    epochs : int
        How often the stimuli are put into a random order and cut into batches; what is left over
        at the end of each is not used. Not for pairs.
    seed : int
        Of the random orders.

    Returns
    -------
    Tensor, shape (...)
        Score, about 0 on average for unrelated features, in the type of the (first) responses. NaN
        where one side is constant in every batch.

    Raises
    ------
    DTypeError, ShapeError
        As `debiased_cka`, also of every batch.
    DataError
        If ``batch_size`` is lacking or out of range, ``epochs`` is not a whole number from 1, there
        is no batch, or options of tensors are given with pairs.

    Notes
    -----
    Each average is an unbiased estimate of the HSIC of all stimuli, whatever the batch size; their
    ratio approaches `debiased_cka` as batches are added, while an average of the batches' CKA does
    not. One batch of all stimuli is `debiased_cka` itself. Computed in float64. Differentiable
    once; with gradient, the graph of all batches is held.

    References
    ----------
    Nguyen, Raghu & Kornblith (2021), arXiv:2010.15327; Song, Smola, Gretton, Bedo & Borgwardt
    (2012), JMLR 13, 1393-1434.

    Examples
    --------
    >>> x = torch.randn(1000, 20, generator=torch.Generator().manual_seed(0))
    >>> y = x[:, :10] + torch.randn(1000, 10, generator=torch.Generator().manual_seed(1))
    >>> from softrsa.measures import debiased_cka
    >>> debiased_cka(x, y)
    tensor(0.3653)
    >>> minibatch_cka(x, y, batch_size=50)
    tensor(0.3763)
    >>> minibatch_cka(zip(x.split(50), y.split(50)))
    tensor(0.3642)
    """
    if not isinstance(x, Iterable) or isinstance(x, (np.ndarray, str)):
        raise DataError(
            f"`x` must be a tensor or give pairs of tensors, got {type(x).__name__}. Convert "
            "arrays with `torch.as_tensor`."
        )
    if isinstance(x, Tensor):
        batches = _cut(x, y, batch_size, epochs, seed)
    elif y is None and batch_size is None and epochs == 1:
        batches = iter(x)
    else:
        raise DataError(
            "Pairs of batches take neither `y` nor `batch_size` or `epochs`, got "
            f"{'a `y`, ' if y is not None else ''}{batch_size=}, {epochs=}. Give tensors, or let "
            "the loader make the batches and repeat them."
        )
    # with `map`, unlike in a loop, no batch is held while the next one is made
    found = map(_hsics, batches)
    first = next(found, None)
    if first is None:
        raise DataError("There must be at least one batch, got none.")
    dtype, hsics = first
    total = reduce(_add, (more for _, more in found), hsics)
    return ratio_of_hsics(total).to(dtype)


def _hsics(batch: Batch) -> tuple[torch.dtype, KernelProducts]:
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        raise DataError(f"A batch must be a pair (x, y) of tensors, got {type(batch).__name__}.")
    x, y = batch
    check_features(x, y, at_least=LEAST)
    return x.dtype, unbiased_hsics(x, y)


def _add(total: KernelProducts, more: KernelProducts) -> KernelProducts:
    """Add up: of sums the ratio is that of means."""
    return KernelProducts(*(a + b for a, b in zip(total, more, strict=True)))


def _cut(
    x: Tensor, y: Tensor | None, batch_size: int | None, epochs: int, seed: int
) -> Iterator[Batch]:
    """Check everything, then give batches of stimuli in random order."""
    if not isinstance(y, Tensor):
        raise DataError(f"`x` is a tensor, so `y` must be one too, got {type(y).__name__}.")
    check_features(x, y, at_least=LEAST)
    check_count("epochs", epochs, 1)
    n = x.shape[-2]
    if not isinstance(batch_size, int) or not LEAST <= batch_size <= n:
        raise DataError(
            f"`batch_size` must be a whole number from {LEAST} to the number of stimuli, {n}, "
            f"got {batch_size!r}."
        )
    return _parts(x, y, batch_size, epochs, seed)


def _parts(x: Tensor, y: Tensor, batch_size: int, epochs: int, seed: int) -> Iterator[Batch]:
    rng = torch.Generator().manual_seed(seed)  # of the host: the same batches on every device
    n = x.shape[-2]
    for _ in range(epochs):
        order = torch.randperm(n, generator=rng)[: n - n % batch_size].to(x.device)
        for part in order.split(batch_size):
            yield x.index_select(-2, part), y.index_select(-2, part)
