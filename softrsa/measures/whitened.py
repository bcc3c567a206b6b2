"""Whitened correlations between RDMs: the covariance of dissimilarity estimates is undone."""

from __future__ import annotations

import torch
from torch import Tensor

from softrsa._checks import check_floating
from softrsa._gradients import within
from softrsa.errors import DataError, ShapeError
from softrsa.measures.correlation import centered, check_pairs, without_means
from softrsa.pairs import expand


def whitened_cosine(x: Tensor, y: Tensor, *, noise_covariance: Tensor | None = None) -> Tensor:
    r"""Cosine between two condensed RDMs after whitening.

    Estimates of dissimilarities that share a stimulus covary: with covariance :math:`\Sigma`
    between the response estimates of stimuli,

    .. math:: V_{(ij),(kl)} \propto \left[(e_i - e_j)^\top \Sigma\, (e_k - e_l)\right]^2, \qquad
              \frac{x^\top V^{-1} y}{\sqrt{x^\top V^{-1} x \; y^\top V^{-1} y}}

    Parameters
    ----------
    x, y : Tensor, shape (..., n_pairs)
        Squared distances, or other dissimilarities that grow like these, in the order of
        `softrsa.pairs.condense`; leading dimensions broadcast. Not similarities: a constant added
        changes the result.
    noise_covariance : Tensor, shape (n_stimuli, n_stimuli) or (n_stimuli,), optional
        :math:`\Sigma`, symmetric positive definite, in any unit; a vector holds the variances of
        independent estimates. Of independent and equally reliable stimuli by default.

    Returns
    -------
    Tensor, shape (...)
        Cosine in [-1, 1]. NaN where ``x`` or ``y`` is all zero or a value is missing.

    Raises
    ------
    DTypeError
        If a tensor is not float32 or float64.
    ShapeError
        If the two do not have the same number of pairs, that is not n (n - 1) / 2 for any number
        of stimuli, or ``noise_covariance`` is not of their number.
    DataError
        If ``noise_covariance`` is not symmetric or not positive definite.

    Notes
    -----
    :math:`x^\top V^{-1} y` is, up to a constant, the inner product of
    :math:`\Sigma^{-1/2} G_x \Sigma^{-1/2}` and :math:`\Sigma^{-1/2} G_y \Sigma^{-1/2}`, with
    :math:`G = C D C^\top` of the square RDM and the centering
    :math:`C = I - 1 1^\top \Sigma^{-1} / (1^\top \Sigma^{-1} 1)`. So each RDM is whitened once, and
    nothing of size ``n_pairs ** 2`` is made. Of squared Euclidean distances, without
    ``noise_covariance``, it is linear CKA. Differentiable, in all three arguments, wherever it is
    defined; computed in float64.

    ``rsatoolbox.rdm.compare`` "cosine_cov" solves for :math:`V^{-1}` to a relative 1e-5 only, and
    takes the unweighted centering for a vector of variances, so that its result is not that of
    the same variances as a matrix. This one is.

    References
    ----------
    Diedrichsen et al. (2021), arXiv:2007.02789.

    Examples
    --------
    >>> whitened_cosine(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 3.0, 2.0]))
    tensor(0.8750)
    """
    _check(x, y, noise_covariance)
    return _whitened_cosine(x.double(), y.double(), noise_covariance).to(_common_type(x, y))


def whitened_pearson(x: Tensor, y: Tensor, *, noise_covariance: Tensor | None = None) -> Tensor:
    r"""Pearson correlation between two condensed RDMs after whitening.

    Parameters
    ----------
    x, y : Tensor, shape (..., n_pairs)
        Dissimilarities, or similarities, in the order of `softrsa.pairs.condense`; leading
        dimensions broadcast.
    noise_covariance : Tensor, shape (n_stimuli, n_stimuli) or (n_stimuli,), optional
        As in `whitened_cosine`.

    Returns
    -------
    Tensor, shape (...)
        Correlation in [-1, 1]: `whitened_cosine` of the vectors less their means. NaN where ``x``
        or ``y`` is constant or a value is missing.

    Raises
    ------
    DTypeError, ShapeError, DataError
        As `whitened_cosine`.

    Notes
    -----
    As of `whitened_cosine`; ``rsatoolbox.rdm.compare`` has it as "corr_cov". The mean is the plain
    one, as there.

    References
    ----------
    Diedrichsen et al. (2021), arXiv:2007.02789.

    Examples
    --------
    >>> whitened_pearson(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 3.0, 2.0]))
    tensor(0.5000)
    """
    _check(x, y, noise_covariance)
    left, right = (centered(z.double()) if z.shape[-1] else z for z in (x, y))
    return _whitened_cosine(left, right, noise_covariance).to(_common_type(x, y))


def _check(x: Tensor, y: Tensor, noise_covariance: Tensor | None) -> None:
    check_pairs(x=x, y=y)
    n = expand(x.detach().reshape(-1, x.shape[-1])[:1]).shape[-1] if x.shape[-1] else 1
    if noise_covariance is None:
        return
    check_floating(noise_covariance=noise_covariance)
    if noise_covariance.shape not in ((n,), (n, n)):
        raise ShapeError(
            f"`noise_covariance` must have shape {(n, n)} or {(n,)} for {n} stimuli "
            f"({x.shape[-1]} pairs), got {tuple(noise_covariance.shape)}."
        )


def _whitened_cosine(x: Tensor, y: Tensor, noise_covariance: Tensor | None) -> Tensor:
    if not x.shape[-1]:
        return (x + y).sum(-1) * torch.nan
    factor = None if noise_covariance is None else cholesky_factor(noise_covariance.double())
    left, right = (_unit(whiten(expand(vectors), factor).flatten(-2)) for vectors in (x, y))
    # a matrix product where both broadcast
    return within(torch.einsum("...i,...i->...", left, right))


def cholesky_factor(covariance: Tensor) -> Tensor:
    """Cholesky factor of a covariance, or of the matrix with these variances."""
    if covariance.ndim == 1:
        covariance = covariance.diag()
    lopsided = (covariance - covariance.mT).detach().abs().max().item()
    size = covariance.detach().abs().max().item()
    if not lopsided <= 1e-6 * size:  # float32 products are symmetric to this
        raise DataError(
            "`noise_covariance` must be symmetric and finite; entries across the diagonal "
            f"differ by up to {lopsided:.3g}."
        )
    factor, failed = torch.linalg.cholesky_ex(covariance)
    if failed:
        lowest = torch.linalg.eigvalsh(covariance.detach())[0].item()
        raise DataError(
            "`noise_covariance` must be positive definite; its smallest eigenvalue is "
            f"{lowest:.3g}. Shrink it towards its diagonal."
        )
    return factor


def whiten(rdm: Tensor, factor: Tensor | None) -> Tensor:
    """W C D C' W' of square RDMs, with W the inverse of the factor."""
    if factor is None:
        return without_means(rdm)
    identity = torch.eye(len(factor), dtype=factor.dtype, device=factor.device)
    inverse = torch.linalg.solve_triangular(factor, identity, upper=False)
    # W C = (I - u u') W, with u the unit vector along W 1
    along = inverse.sum(-1, keepdim=True)
    projection = identity - along @ along.mT / along.square().sum()
    both = projection @ inverse
    return both @ rdm @ both.mT


def _unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def _common_type(x: Tensor, y: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, y.dtype)
