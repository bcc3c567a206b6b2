"""Centered kernel alignment: linear, RBF, debiased, and as an angle."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from softrsa.measures._features import centered, check_features
from softrsa.measures._products import KernelProducts, kernel_products
from softrsa.measures._spectral import angular_score
from softrsa.rsm import similarity_matrix


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
    return products.xy / (products.xx.sqrt() * products.yy.sqrt())


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
    return hsics.xy / (xx.sqrt() * yy.sqrt())


def _without_diagonals(product: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Compute n (n - 3) HSIC from the kernels' inner product and their diagonals (..., n).

    Rows of a centered kernel sum to 0, so those of one without its diagonal to minus the diagonal.
    """
    n = a.shape[-1]
    sums = a.sum(-1) * b.sum(-1)
    return product + sums / ((n - 1) * (n - 2)) - n / (n - 2) * (a * b).sum(-1)


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
    return (a * b).sum((-2, -1))


def _double_centered(k: Tensor) -> Tensor:
    """HKH of symmetric kernels."""
    means = k.mean(-1, keepdim=True)
    return k - means - means.mT + means.mean(-2, keepdim=True)


def _unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=(-2, -1), keepdim=True)
