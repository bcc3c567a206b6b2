"""Divergences of spike counts, taken to be Poisson."""

from __future__ import annotations

import torch
from torch import Tensor

from softrsa._checks import check_floating
from softrsa.errors import DataError, ShapeError
from softrsa.rsm.crossnobis import (
    across_folds,
    check_folds,
    distances,
    recorded_rows,
    shared_distances,
)


def poisson_kl(x: Tensor, *, prior_lambda: float = 1.0, prior_weight: float = 0.1) -> Tensor:
    r"""Symmetrized Kullback-Leibler divergence between Poisson responses, per unit.

    With the rates :math:`\lambda = (x + w \lambda_0) / (1 + w)`, drawn towards a prior, and
    :math:`p` units,

    .. math:: d_{ij} = \frac{1}{p} \langle \lambda_i - \lambda_j,\;
              \log \lambda_i - \log \lambda_j \rangle

    Parameters
    ----------
    x : Tensor, shape (..., n_stimuli, n_units)
        Spike counts or rates (means over trials), float32 or float64.
    prior_lambda : float
        :math:`\lambda_0`, the rate expected beforehand, in the unit of ``x``.
    prior_weight : float
        :math:`w`, how many trials the prior counts for; at least 0.

    Returns
    -------
    Tensor, shape (..., n_stimuli, n_stimuli)
        An RDM: exactly symmetric, 0 on the diagonal, nowhere negative but for rounding.

    Raises
    ------
    DTypeError
        If ``x`` is neither float32 nor float64.
    ShapeError
        If ``x`` has less than two dimensions or nothing in it.
    DataError
        If ``prior_weight`` is negative, a response is not finite, or a rate is not positive: its
        logarithm is undefined.

    Notes
    -----
    Differentiable; summed in float64.

    References
    ----------
    Schütt et al. (2023), doi:10.7554/eLife.82566. Equal to
    ``rsatoolbox.rdm.calc_rdm(method="poisson")``.

    Examples
    --------
    >>> import torch
    >>> poisson_kl(torch.tensor([[0.0, 3.0], [2.0, 3.0], [8.0, 1.0]])).round(decimals=4)
    tensor([[ 0.0000,  2.7677, 16.9217],
            [ 2.7677,  0.0000,  4.6235],
            [16.9217,  4.6235,  0.0000]])
    """
    check_floating(x=x)
    if x.ndim < 2 or 0 in x.shape[-2:]:
        raise ShapeError(
            "`x` must have shape (..., n_stimuli, n_units) with at least one of each, "
            f"got {tuple(x.shape)}."
        )
    rates, logs = _rates(x, prior_lambda, prior_weight)
    # distances do not see means over stimuli; without them fewer digits are lost
    rates, logs = rates - rates.mean(-2, keepdim=True), logs - logs.mean(-2, keepdim=True)
    found = (distances(rates @ logs.mT) / x.shape[-1]).to(x.dtype)
    bad = ~torch.isfinite(x) if not bool(torch.isfinite(found).all()) else None
    if bad is not None and bool(bad.any()):
        *_, stimulus, unit = bad.nonzero()[0].tolist()
        raise DataError(
            f"The responses to stimulus {stimulus} are not finite in unit {unit} "
            f"({int(bad.any(-1).sum())} such rows in all). Leave out stimuli that were not shown "
            "(`poisson_cv` takes folds that lack some) and units with gaps."
        )
    return found


def poisson_cv(x_folds: Tensor, *, prior_lambda: float = 1.0, prior_weight: float = 0.1) -> Tensor:
    r"""Cross-validated symmetrized divergence between Poisson responses, per unit.

    As `poisson_kl`, with the rates of one fold and the logarithms of another, averaged over all
    pairs of folds :math:`f \ne g`:

    .. math:: d_{ij} = \frac{1}{p} \operatorname{mean}_{f \ne g} \langle
              \lambda^f_i - \lambda^f_j,\; \log \lambda^g_i - \log \lambda^g_j \rangle

    Parameters
    ----------
    x_folds : Tensor, shape (..., n_folds, n_stimuli, n_units)
        Spike counts or rates, float32 or float64; each fold a mean of trials of its own. A
        stimulus that a fold lacks is NaN in all units: pairs are averaged over the folds that have
        both stimuli. At least two folds.
    prior_lambda, prior_weight : float
        As in `poisson_kl`.

    Returns
    -------
    Tensor, shape (..., n_stimuli, n_stimuli)
        An RDM: exactly symmetric, 0 on the diagonal; elsewhere 0 on average for stimuli that do
        not differ, so also negative. NaN for stimuli that no two folds both have.

    Raises
    ------
    DTypeError
        If ``x_folds`` is neither float32 nor float64.
    ShapeError
        If there are fewer than two folds, or nothing in them.
    DataError
        If ``prior_weight`` is negative, a rate is not positive, or a stimulus is NaN in part of
        the units of a fold.

    Notes
    -----
    Differentiable; summed in float64. rsatoolbox 0.3.2's ``calc_rdm(method="poisson_cv")`` keeps
    but the last of its folds; this is the mean over all, and equal to
    ``calc_rdm_unbalanced(method="poisson_cv")`` for one trial of each stimulus in each fold.

    References
    ----------
    Schütt et al. (2023), doi:10.7554/eLife.82566.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[[0.0, 3.0], [8.0, 1.0]], [[1.0, 2.0], [6.0, 2.0]]])
    >>> poisson_cv(x).round(decimals=4)
    tensor([[0.0000, 8.1082],
            [8.1082, 0.0000]])
    """
    check_folds(x_folds)
    recorded = recorded_rows(x_folds)
    rates, logs = _rates(x_folds, prior_lambda, prior_weight, ~recorded.unsqueeze(-1))
    n_folds, _, n_units = x_folds.shape[-3:]
    if not bool(recorded.all()):
        return (shared_distances(rates, logs, recorded) / n_units).to(x_folds.dtype)
    rates, logs = rates - rates.mean(-2, keepdim=True), logs - logs.mean(-2, keepdim=True)
    n_pairs = n_folds * (n_folds - 1)
    return (distances(across_folds(rates, logs)) / (n_pairs * n_units)).to(x_folds.dtype)


def _rates(
    x: Tensor, prior_lambda: float, prior_weight: float, absent: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Draw responses towards the prior; rates and their logarithms in float64, 1 where absent."""
    if not prior_weight >= 0:
        raise DataError(f"`prior_weight` must be at least 0, got {prior_weight!r}.")
    rates = (x.double() + prior_lambda * prior_weight) / (1 + prior_weight)
    if absent is not None:
        rates = rates.masked_fill(absent, 1.0)
    if bool((rates <= 0).any()):
        raise DataError(
            f"Poisson rates must be positive, got responses down to {x[rates <= 0].min():.6g} "
            f"with `prior_lambda={prior_lambda!r}`, `prior_weight={prior_weight!r}`. Give spike "
            "counts or rates, not scaled or baseline-corrected; zeros need a prior."
        )
    return rates, rates.log()
