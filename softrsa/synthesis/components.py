"""Which principal components of the data a score has seen, and which it is sensitive to."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from softrsa.errors import DataError
from softrsa.synthesis.objective import (
    Features,
    MeasureLike,
    as_tensor,
    labelled_features,
    make_objective,
    name_of,
    principal_components,
)
from softrsa.synthesis.result import SynthesisResult

ROUNDING = 1e-6  # of a share of 1, for features of either float type
BLOCK = 2**22  # entries of perturbed features scored at once


class TrivialCaptureWarning(UserWarning):
    """Synthetic features have so many units that any values hold every component."""


def captured_components(result: SynthesisResult) -> xr.Dataset:
    r"""How much of each principal component of ``x`` the synthetic features hold, along the steps.

    With :math:`Q` an orthonormal basis of the centered synthetic features and :math:`v_i` the
    principal axes of the centered :math:`X`,

    .. math:: R^2_i = 1 - \frac{\lVert X v_i - Q Q^\top X v_i\rVert^2}{\lVert X v_i\rVert^2}

    Parameters
    ----------
    result : SynthesisResult
        From `optimize_to_score`.

    Returns
    -------
    Dataset
        By `component` (from 1, largest variance first), `restart` and `recorded_step`: `variance`
        (sum of squares of the component over stimuli divided by n - 1, in squared units of ``x``),
        `explained` (its share of all variance), `captured` (:math:`R^2_i`, in [0, 1]), `score`, and
        `score_at_capture`: the score at which :math:`R^2_i` first crosses half-way from its start
        to 1, interpolated between the two recorded steps around that crossing. NaN where it never
        does, or where it is 1 from the start (as with as many synthetic units as stimuli).

    Raises
    ------
    DataError
        If ``x`` is constant over stimuli.

    Warns
    -----
    TrivialCaptureWarning
        If there are at least n - 1 synthetic units, which hold everything from the start.

    Notes
    -----
    A linear map of the synthetic features is fitted without held-out stimuli, so even random
    features begin at about q / (n - 1). Components of equal variance are not defined one by one.

    References
    ----------
    Cloos et al. (2024), arXiv:2407.07059.

    Examples
    --------
    >>> from softrsa.synthesis import optimize_to_score
    >>> x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) @ torch.diag(
    ...     torch.tensor([9.0, 3.0, 1.0])
    ... )
    >>> found = captured_components(optimize_to_score(x, "linear_cka", target=0.99))
    >>> found["explained"].round(2).values
    array([0.89, 0.1 , 0.01])
    >>> found["captured"][-1, 0].round(1).values  # a CKA of 0.99 with one of three components
    array([1. , 0.2, 0.3])
    """
    left, singular, _ = principal_components(result.x)
    recorded = result.recorded
    captured = torch.stack([captured_share(step, left) for step in recorded])
    captured = torch.where(captured > 1 - ROUNDING, 1.0, captured)
    scores = result.recorded_scores
    n, q = recorded.shape[-2:]
    if q >= n - 1:
        warnings.warn(
            f"With {q} synthetic units for {n} stimuli any values hold every component, so nothing "
            "can be seen of which are captured. Optimize fewer units (`n_units`, or --units).",
            TrivialCaptureWarning,
            stacklevel=2,
        )
    variance = singular.square() / (n - 1)
    return xr.Dataset(
        {
            "variance": ("component", variance.numpy()),
            "explained": ("component", (variance / variance.sum()).numpy()),
            "captured": (("recorded_step", "restart", "component"), captured.numpy()),
            "score": (("recorded_step", "restart"), scores.numpy()),
            "score_at_capture": (
                ("restart", "component"), first_crossing(captured, scores).numpy()
            ),
        },
        coords={
            "component": np.arange(1, len(variance) + 1),
            "recorded_step": result.recorded_steps.numpy(),
        },
        attrs={"measure": result.data.attrs["measure"]},
    )  # fmt: skip


def captured_share(y: Tensor, directions: Tensor) -> Tensor:
    """Share of unit vectors over stimuli (n, r) in the span of centered (R, n, q): (R, r)."""
    wide = y.double()
    left, singular, _ = torch.linalg.svd(wide - wide.mean(-2, keepdim=True), full_matrices=False)
    kept = singular > max(y.shape[-2:]) * torch.finfo(y.dtype).eps * singular[..., :1]
    inside = (left * kept[..., None, :]).mT @ directions
    return inside.square().sum(-2).clamp(max=1.0)


def first_crossing(captured: Tensor, scores: Tensor) -> Tensor:
    """Scores (k, R) where (k, R, r) first cross half-way from their start to 1: (R, r)."""
    half = (captured[0] + 1) / 2
    above = captured >= half
    if len(captured) < 2:
        return torch.full_like(half, torch.nan)
    after = above.int().argmax(0).clamp(min=1)[None]
    before = after - 1
    low, high = captured.gather(0, before)[0], captured.gather(0, after)[0]
    share = (half - low) / (high - low)
    wide = scores[..., None].expand_as(captured)
    low_score, high_score = wide.gather(0, before)[0], wide.gather(0, after)[0]
    found = low_score + share * (high_score - low_score)
    return found.masked_fill(~above.any(0) | above[0], torch.nan)


@torch.enable_grad()
def component_sensitivity(
    x: Features, measure: MeasureLike, *, amplitude: float = 0.5, similarity: str = "correlation"
) -> xr.Dataset:
    r"""How fast a score rises as one missing principal component comes back.

    :math:`Y_i` is :math:`X` with its component :math:`i` scaled by the amplitude :math:`a` and all
    others whole. With :math:`\lambda_j` the variances, :math:`c_j` = :math:`a^2` for :math:`j = i`
    and 1 otherwise,

    .. math:: \frac{\partial\,\mathrm{CKA}}{\partial a} = \frac{2 a \lambda_i^2}
              {\sqrt{\sum_j \lambda_j^2 \sum_j \lambda_j^2 c_j^2}}
              \left(1 - a^2 \frac{\sum_j \lambda_j^2 c_j}{\sum_j \lambda_j^2 c_j^2}\right),
              \qquad
              \frac{\partial\,\mathrm{NBS}}{\partial a} = \frac{\lambda_i}
              {\sqrt{\sum_j \lambda_j \sum_j \lambda_j c_j}}
              \left(1 - a \frac{\sum_j \lambda_j \sqrt{c_j}}{\sum_j \lambda_j c_j}\right):

    quadratic in the component's variance for CKA, linear for NBS, but for the normalization that
    all components share. So CKA hardly notices a component of small variance.

    Parameters
    ----------
    x : DataArray (stimulus, unit), or Tensor or ndarray, shape (n, p)
        Features, float32 or float64; computed in float64.
    measure : str, Measure or callable
        As for `optimize_to_score`.
    amplitude : float
        What is left of the component, above 0 (there, NBS has a kink). At 1 nothing is missing and
        the sensitivity is 0.
    similarity : str
        Of RSMs, for measures on those.

    Returns
    -------
    Dataset
        By `component`: `variance`, `explained`, `score` of :math:`Y_i`, `numeric` (the derivative
        by automatic differentiation), and `analytic` (the formula, for `linear_cka`, `nbs` and
        their angular forms; NaN for others).

    Raises
    ------
    DTypeError, ShapeError, StimulusError, DataError, UnknownNameError
        As `optimize_to_score`, or if ``amplitude`` is not above 0.

    References
    ----------
    Cloos et al. (2024), arXiv:2407.07059.

    Examples
    --------
    >>> x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) @ torch.diag(
    ...     torch.tensor([9.0, 3.0, 1.0])
    ... )
    >>> component_sensitivity(x, "linear_cka")["numeric"].round(3).values
    array([0.432, 0.009, 0.   ])
    >>> component_sensitivity(x, "nbs")["analytic"].round(3).values
    array([0.255, 0.048, 0.007])
    """
    if not 0 < amplitude < math.inf:
        raise DataError(f"`amplitude` must be above 0 and finite, got {amplitude}.")
    tensor = as_tensor(labelled_features(x), torch.device("cpu")).double()
    left, singular, right = principal_components(tensor)
    objective = make_objective(measure, tensor, similarity=similarity)
    size = max(1, BLOCK // tensor.numel())
    parts = [
        _derivatives(objective.scores, tensor, left[:, i], singular[i] * right[:, i], amplitude)
        for i in torch.arange(len(singular)).split(size)
    ]
    scores, numeric = (torch.cat(part) for part in zip(*parts, strict=True))
    variance = singular.square() / (len(left) - 1)
    analytic = analytic_sensitivity(name_of(measure), variance, amplitude)
    values = {
        "variance": variance,
        "explained": variance / variance.sum(),
        "score": scores,
        "numeric": numeric,
        "analytic": analytic,
    }
    return xr.Dataset(
        {name: ("component", value.numpy()) for name, value in values.items()},
        coords={"component": np.arange(1, len(variance) + 1)},
        attrs={"measure": objective.name, "amplitude": float(amplitude)},
    )


def _derivatives(
    scores_of: Callable[[Tensor], Tensor], x: Tensor, left: Tensor, right: Tensor, amplitude: float
) -> tuple[Tensor, Tensor]:
    """Scores, and derivatives by amplitude, of ``x`` with one of the components scaled."""
    amplitudes = torch.full((left.shape[1],), amplitude, dtype=x.dtype, requires_grad=True)
    change = (amplitudes - 1)[:, None, None] * left.mT[:, :, None] * right.mT[:, None, :]
    scores = scores_of(x + change)
    (slopes,) = torch.autograd.grad(scores.sum(), amplitudes)
    return scores.detach(), slopes


def analytic_sensitivity(name: str, variance: Tensor, amplitude: float) -> Tensor:
    """Take the formulas of `component_sensitivity`; NaN for measures without one."""
    if name in ("linear_cka", "angular_cka"):
        weight, power = variance.square(), 2
    elif name in ("nbs", "angular_procrustes"):
        weight, power = variance, 1
    else:
        return torch.full_like(variance, torch.nan)
    a = amplitude**power
    whole = weight.sum()
    inner, norm = whole - weight * (1 - a), whole - weight * (1 - a**2)
    slope = weight / (whole * norm).sqrt() * (1 - a * inner / norm)
    slope = slope * power * amplitude ** (power - 1)
    if name.startswith("angular"):  # 1 - arccos(s) / (pi / 2)
        score = inner / (whole * norm).sqrt()
        slope = slope * 2 / (math.pi * (1 - score.square()).sqrt())
    return slope
