"""Whitened measures given the covariance of the stimuli's estimates, for inference."""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from torch import Tensor

from softrsa.errors import ShapeError, unknown_name
from softrsa.measures.correlation import Embedding, cosine
from softrsa.measures.registry import MEASURES, Measure
from softrsa.measures.whitened import cholesky_factor, whiten
from softrsa.pairs import condense, expand

KINDS = ("cosine", "pearson")


def whitened(kind: Literal["cosine", "pearson"], noise_covariance: Tensor) -> Measure:
    r"""Whitened cosine or Pearson correlation given the covariance of the stimuli's estimates.

    The measure goes where the name of one does: `softrsa.inference.evaluate`, `bootstrap`,
    `permutation_test`, `noise_ceiling`.

    Parameters
    ----------
    kind : {"cosine", "pearson"}
        `whitened_cosine` or `whitened_pearson`.
    noise_covariance : Tensor, shape (n_stimuli, n_stimuli) or (n_stimuli,)
        :math:`\Sigma`, symmetric positive definite, or variances of independent estimates, in the
        order of the stimuli; rsatoolbox's ``sigma_k``.

    Returns
    -------
    Measure
        Of as many stimuli; it is named ``whitened_cosine_with_covariance``, or likewise.

    Raises
    ------
    UnknownNameError
        If there is no such kind.
    DTypeError, ShapeError, DataError
        If ``noise_covariance`` is not float32 or float64, not of those shapes, not symmetric or not
        positive definite. ShapeError, when it scores, also if there are other numbers of stimuli,
        as in folds of `softrsa.align`.

    Notes
    -----
    Rows and columns follow the draw where stimuli are resampled. Copies of a stimulus have in
    common what is not independent: with P the draw and :math:`\lambda` the least eigenvalue, the
    covariance of a resample is :math:`P (\Sigma - \lambda I) P^\top + \lambda I`, which is positive
    definite; pairs of copies are left out. Of equal independent variances scores are those of
    `whitened_cosine` by name, whose resamples are computed all at once; here one after another. The
    mean subject of a resample's noise ceiling is of RSMs normalized over all stimuli.

    References
    ----------
    Diedrichsen et al. (2021), arXiv:2007.02789.

    Examples
    --------
    >>> measure = whitened("cosine", torch.tensor([1.0, 1.0, 4.0]))
    >>> measure(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 3.0, 2.0]))
    tensor(0.8000)
    """
    if kind not in KINDS:
        raise unknown_name("kind of whitened measure", kind, KINDS)
    row = MEASURES[f"whitened_{kind}"]
    if noise_covariance.ndim not in (1, 2) or len(noise_covariance) < 2:
        raise ShapeError(
            "`noise_covariance` must have shape (n_stimuli, n_stimuli) or (n_stimuli,), got "
            f"{tuple(noise_covariance.shape)}."
        )
    n = len(noise_covariance)
    ones = torch.ones(n * (n - 1) // 2, dtype=torch.float64, device=noise_covariance.device)
    row.function(ones, ones, noise_covariance=noise_covariance)  # which checks it
    sigma = noise_covariance.detach().double()
    sigma = sigma.diag() if sigma.ndim == 1 else sigma

    def function(x: Tensor, y: Tensor) -> Tensor:
        if x.shape[-1] != n * (n - 1) // 2:
            raise ShapeError(
                f"The covariance of {function.__name__!r} is of {n} stimuli, {n * (n - 1) // 2} "
                f"pairs, and RSMs of {x.shape[-1]} pairs are compared. Folds and missing pairs "
                f"have no part of it: use 'whitened_{kind}' there."
            )
        return row.function(x, y, noise_covariance=sigma.to(x.device))

    function.__name__ = f"whitened_{kind}_with_covariance"
    return Measure(
        function=function, takes=row.takes, range=row.range, smallest_n=row.smallest_n,
        invariances=row.invariances, reference=row.reference,
        normalize=Embedding("values" if kind == "cosine" else "deviations").unit,
        resampled=partial(_resampled, sigma, deviations=kind == "pearson"),
        words=f"{row.words}, given the covariance of the estimates of stimuli",
    )  # fmt: skip


def _resampled(sigma: Tensor, x: Tensor, y: Tensor, *, counts: Tensor, deviations: bool) -> Tensor:
    """Score pairs (..., n_pairs) where stimuli occur so often (n,), whole numbers of times.

    What whitening would make of pairs of copies, which are not there, is projected out.
    """
    n = len(sigma)
    draw = torch.arange(n, device=counts.device).repeat_interleave(counts.long())
    least = torch.linalg.eigvalsh(sigma)[0].to(x)
    common = (sigma.to(x) - least * torch.eye(n).to(x))[draw][:, draw]
    factor = cholesky_factor(common + least * torch.eye(len(draw)).to(x))
    there = condense((draw[:, None] != draw).to(x)) > 0
    left, right = (condense(expand(v)[..., draw, :][..., draw]) for v in (x, y))
    if deviations:
        left, right = (
            (v - v[..., there].mean(-1, keepdim=True)).where(there, 0.0) for v in (left, right)
        )
    absent = torch.eye(len(there)).to(x)[~there]
    axes = torch.linalg.qr(whiten(expand(absent), factor).flatten(-2).mT).Q
    left, right = (whiten(expand(v), factor).flatten(-2) for v in (left, right))
    return cosine(*(v - (v @ axes) @ axes.mT for v in (left, right)))
