"""Measures of kernels: RSMs with their diagonal, as inner products of what represents stimuli."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from softrsa._gradients import within
from softrsa._ranks import rounding_of
from softrsa.measures._features import first_order, undefined
from softrsa.measures.correlation import check_same_stimuli
from softrsa.measures.shape import nuclear_norm


def kernel_cka(x: Tensor, y: Tensor) -> Tensor:
    r"""Centered kernel alignment of two kernels: the cosine between them after centering.

    With :math:`K` the mean of a kernel and its transpose, and :math:`H = I - \frac1n 1 1^\top`,

    .. math:: \frac{\langle H K_x H,\; H K_y H\rangle}{\lVert H K_x H\rVert\,\lVert H K_y H\rVert}

    Parameters
    ----------
    x, y : Tensor, shape (..., n_stimuli, n_stimuli)
        RSMs of the same stimuli with their diagonal, such as inner products, or what a SoftStep
        makes of similarities; leading dimensions broadcast. At least 2 stimuli.

    Returns
    -------
    Tensor, shape (...)
        Score in [-1, 1]; in [0, 1] where both kernels are positive semidefinite. NaN where nothing
        is left of one after centering.

    Raises
    ------
    DTypeError
        If either tensor is not float32 or float64.
    ShapeError
        If the two are not square, differ in their number of stimuli, or have fewer than 2.

    Notes
    -----
    Of kernels :math:`X X^\top` it is `linear_cka` of the features X. Self-similarities are data
    here, other than for `centered_pearson`, which is the same without them. Of RDMs, minus the RDM
    is a kernel; its factor -1/2 is none of the score. Computed in float64; differentiable.

    References
    ----------
    Cortes, Mohri & Rostamizadeh (2012), JMLR 13, 795-828; Kornblith, Norouzi, Lee & Hinton (2019),
    arXiv:1905.00414.

    Examples
    --------
    >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
    >>> kernel_cka(x @ x.mT, x[:, :1] @ x[:, :1].mT)
    tensor(0.7906)
    """
    check_same_stimuli(x, y, at_least=2)
    return _cosine(unit_kernel(x), unit_kernel(y), x, y)


def unit_kernel(x: Tensor) -> Tensor:
    """Centered kernels (..., n, n) of norm 1, float64; NaN where nothing is left."""
    return _divided(center_kernel(x))


def _divided(kernel: Tensor) -> Tensor:
    norm = torch.linalg.vector_norm(kernel, dim=(-2, -1), keepdim=True)
    return kernel / norm.masked_fill(norm == 0, torch.nan)


def _cosine(left: Tensor, right: Tensor, x: Tensor, y: Tensor) -> Tensor:
    score = (left * right).sum(-1).sum(-1)
    return within(score).to(torch.promote_types(x.dtype, y.dtype))


def resampled_kernel_cka(x: Tensor, y: Tensor, counts: Tensor) -> Tensor:
    """`kernel_cka` where stimuli occur so often (n,), each copy with the similarities of it."""
    left, right = (_divided(_counted_kernel(rsms, counts)) for rsms in (x, y))
    return _cosine(left, right, x, y)


def kernel_nbs(x: Tensor, y: Tensor) -> Tensor:
    r"""Measure the normalized Bures similarity of two kernels.

    With :math:`K_x, K_y` the symmetrized and centered kernels as in `kernel_cka`, brought to the
    nearest positive semidefinite ones (negative eigenvalues become 0),

    .. math:: \frac{\lVert K_x^{1/2} K_y^{1/2}\rVert_*}
              {\sqrt{\operatorname{tr} K_x \,\operatorname{tr} K_y}}

    Parameters
    ----------
    x, y : Tensor, shape (..., n_stimuli, n_stimuli)
        As for `kernel_cka`. At least 2 stimuli.

    Returns
    -------
    Tensor, shape (...)
        Score in [0, 1]. NaN where a centered kernel has no positive eigenvalue: of an RDM with a
        diagonal of zeros, for instance. Give minus the RDM.

    Raises
    ------
    DTypeError, ShapeError
        As `kernel_cka`.

    Notes
    -----
    Of kernels :math:`X X^\top` it is `nbs` of the features X. Computed in float64 by three
    symmetric eigendecompositions (n x n). Gradients are finite where eigenvalues repeat and where
    kernels have low rank; an eigenvalue that cannot be told from 0 counts as 0, where the score has
    a kink.
    First derivatives only.

    References
    ----------
    Harvey, Larsen & Williams (2024), arXiv:2311.11436.

    Examples
    --------
    >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
    >>> kernel_nbs(x @ x.mT, x[:, :1] @ x[:, :1].mT)
    tensor(0.7906)
    """
    check_same_stimuli(x, y, at_least=2)
    return _nbs(center_kernel(x), center_kernel(y), x, y)


def resampled_kernel_nbs(x: Tensor, y: Tensor, counts: Tensor) -> Tensor:
    """`kernel_nbs` where stimuli occur so often (n,), each copy with the similarities of it."""
    return _nbs(_counted_kernel(x, counts), _counted_kernel(y, counts), x, y)


def _nbs(left: Tensor, right: Tensor, x: Tensor, y: Tensor) -> Tensor:
    a, b = (_root(kernel, rsms.dtype) for kernel, rsms in ((left, x), (right, y)))
    sizes = a.norm(dim=(-2, -1)) * b.norm(dim=(-2, -1))
    score = nuclear_norm(a.mT @ b) / sizes.masked_fill(sizes == 0, torch.nan)
    return first_order(within(score, 0.0).to(torch.promote_types(x.dtype, y.dtype)))


def positive_kernel(x: Tensor) -> Tensor:
    """Centered kernels (..., n, n) without negative eigenvalues, of trace 1, float64."""
    root = _root(center_kernel(x), x.dtype)
    root = root / root.norm(dim=(-2, -1), keepdim=True)
    return root @ root.mT


def _root(kernel: Tensor, dtype: torch.dtype) -> Tensor:
    """Coordinates A with A A' = K, but for negative eigenvalues and rounding in ``dtype``."""
    result: Tensor = _Root.apply(kernel, torch.finfo(dtype).eps)  # type: ignore[assignment]
    return result


class _Root(torch.autograd.Function):
    """For functions of A that do not change if A is rotated, A -> A R, as norms do not.

    The derivative of the projection on positive eigenvalues has no differences of eigenvalues in
    its denominators but those of a positive from a negative one, which are sums of their sizes.
    """

    @staticmethod
    def forward(ctx: Any, kernel: Tensor, eps: float) -> Tensor:
        bad = undefined(kernel)
        values, vectors = torch.linalg.eigh(kernel.masked_fill(bad, 0.0))
        largest = values.abs().amax(-1, keepdim=True)
        positive = values > kernel.shape[-1] * eps * largest
        ctx.save_for_backward(values, vectors, positive)
        roots = values.where(positive, 0.0).sqrt().unsqueeze(-2)
        return (vectors * roots).masked_fill(bad, torch.nan)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        values, vectors, positive = ctx.saved_tensors
        inside = vectors.mT @ grad_outputs[0]
        roots = values.where(positive, 1.0).sqrt().unsqueeze(-2)
        # of a positive eigenvalue p with another: 1 / sqrt(p), with one q < 0: sqrt(p) / (p - q)
        beyond = values.where(~positive, 0.0).clamp_max(0.0).unsqueeze(-1)
        weights = roots / (roots.square() - beyond) * positive.unsqueeze(-2)
        inside = inside * weights / 2
        outside = ~positive.unsqueeze(-1) & positive.unsqueeze(-2)
        inside = inside + (inside * outside).mT
        return vectors @ inside @ vectors.mT, None


def center_kernel(x: Tensor) -> Tensor:
    """Symmetrize and center, H K H, in float64; an exact 0 where nothing but rounding is left."""
    kernel = (x.double() + x.double().mT) / 2
    n = kernel.shape[-1]
    return _without_rounding(_less_means(kernel, kernel.new_full((n,), 1 / n)), kernel, x.dtype)


def _counted_kernel(x: Tensor, counts: Tensor) -> Tensor:
    """Center kernels where stimuli occur so often; entries times the roots of how often."""
    weights = counts.double()
    kernel = (x.double() + x.double().mT) / 2
    rest = _without_rounding(_less_means(kernel, weights / weights.sum()), kernel, x.dtype)
    return rest * weights.sqrt() * weights.sqrt().unsqueeze(-1)


def _less_means(kernel: Tensor, shares: Tensor) -> Tensor:
    """Subtract weighted means of rows and columns, shares (n,) that sum to 1."""
    means = (kernel @ shares).unsqueeze(-1)
    return kernel - means - means.mT + (means.mT @ shares).unsqueeze(-1)


def _without_rounding(rest: Tensor, kernel: Tensor, dtype: torch.dtype) -> Tensor:
    size, left = (
        torch.linalg.vector_norm(part.detach(), dim=(-2, -1), keepdim=True)
        for part in (kernel, rest)
    )
    return rest.masked_fill(left <= rounding_of(size, size, dtype), 0.0)
