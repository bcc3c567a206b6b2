"""SoftStep: differentiable steps of similarities in [0, 1], in value and log form."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from softrsa._checks import SHORT_FLOATS, check_floating


def soft_step(s: Tensor, lower: Tensor, upper: Tensor, transition: Tensor) -> Tensor:
    r"""Squash similarities below ``lower`` to 0 and above ``upper`` to 1, softly in between.

    With :math:`u = s - a` and :math:`v = b - s`, where :math:`a` is ``lower``, :math:`b` is
    ``upper`` and :math:`t` is ``transition``, the values between become

    .. math:: S_1(s) = \frac{u^{1/t}}{u^{1/t} + v^{1/t}}
                     = \sigma\!\left(\frac{\log u - \log v}{t}\right)

    Parameters
    ----------
    s : Tensor, shape (..., n, m)
        Similarities scaled to [0, 1]; any shape.
    lower, upper : Tensor
        Bounds with ``lower <= upper``, in the unit of ``s``; broadcast against ``s``. One value per
        anchor has shape (..., n, 1).
    transition : Tensor
        Softness in (0, 1]: 1 is the linear ramp, towards 0 a step at the middle of the bounds.

    Returns
    -------
    Tensor
        Values in [0, 1] of the broadcast shape: exactly 0 at and below ``lower``, exactly 1 at and
        above ``upper`` (1 where all three coincide).

    Raises
    ------
    DTypeError
        If ``s`` is not float32, float64 or bfloat16.

    Notes
    -----
    Computed in log space, so small transitions do not underflow to a plateau; bfloat16 is computed
    in float32 and rounded once. Values at or beyond the bounds pass no gradient to any input, and
    the gradient is finite everywhere.

    References
    ----------
    Susman, Lin, Suárez-Fariñas & Colonel, "SoftStep", eq. 1.

    Examples
    --------
    >>> s = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9])
    >>> soft_step(s, torch.tensor(0.2), torch.tensor(0.8), torch.tensor(0.5))
    tensor([0.0000, 0.0385, 0.5000, 0.9615, 1.0000])
    """
    logit, below, above = _step_logit(s, lower, upper, transition)
    step = torch.sigmoid(logit).masked_fill(below, 0.0).masked_fill(above, 1.0)
    return step.to(s.dtype)


def log_soft_step(s: Tensor, lower: Tensor, upper: Tensor, transition: Tensor) -> Tensor:
    r"""Logarithm of `soft_step`: what is added to a logit to weight neighbors by the step.

    Parameters
    ----------
    s, lower, upper, transition : Tensor
        As for `soft_step`.

    Returns
    -------
    Tensor
        Values in [-inf, 0]: exactly -inf at and below ``lower``, exactly 0 at and above ``upper``.

    Raises
    ------
    DTypeError
        If ``s`` is not float32, float64 or bfloat16.

    Notes
    -----
    :math:`\log S_1 = \log\sigma((\log u - \log v) / t)` never takes the logarithm of a step that
    has underflowed, so it stays finite between the bounds for transitions down to 1e-3.

    Examples
    --------
    >>> s = torch.tensor([0.1, 0.5, 0.9])
    >>> log_soft_step(s, torch.tensor(0.2), torch.tensor(0.8), torch.tensor(0.5))
    tensor([   -inf, -0.6931,  0.0000])
    """
    logit, below, above = _step_logit(s, lower, upper, transition)
    step = F.logsigmoid(logit).masked_fill(below, -torch.inf).masked_fill(above, 0.0)
    return step.to(s.dtype)


def soft_step_s2(s: Tensor, upper: Tensor, transition: Tensor) -> Tensor:
    r"""Second SoftStep family: a power that reaches 1 at ``upper`` and 0 only at 0.

    .. math:: S_2(s) = (s / b)^{(b - s)\, t / (1 - t)}, \quad s < b; \qquad 1, \quad s \ge b

    Parameters
    ----------
    s : Tensor, shape (..., n, m)
        Similarities scaled to [0, 1]; any shape.
    upper : Tensor
        Bound :math:`b` in (0, 1]; broadcasts against ``s``.
    transition : Tensor
        Steepness :math:`t` in [0, 1]: towards 0 everything above 0 becomes 1, towards 1 everything
        below ``upper`` becomes 0. Clamped to [eps, 1 - eps] of the number type.

    Returns
    -------
    Tensor
        Values in [0, 1]: exactly 0 at ``s <= 0``, exactly 1 at and above ``upper``.

    Raises
    ------
    DTypeError
        If ``s`` is not float32, float64 or bfloat16.

    Notes
    -----
    The exponent keeps the form exp(logit t). At ``s = 0``, where the slope may be infinite, and at
    and above ``upper`` no gradient is passed, so it is finite everywhere.

    References
    ----------
    Susman, Suárez-Fariñas & Colonel, "Nearness of neighbors attention", arXiv:2506.08139.

    Examples
    --------
    >>> s = torch.tensor([0.0, 0.2, 0.4, 0.8])
    >>> soft_step_s2(s, torch.tensor(0.8), torch.tensor(0.5))
    tensor([0.0000, 0.4353, 0.7579, 1.0000])
    """
    return log_soft_step_s2(s, upper, transition).exp()


def log_soft_step_s2(s: Tensor, upper: Tensor, transition: Tensor) -> Tensor:
    r"""Logarithm of `soft_step_s2`: :math:`(b - s)\,\frac{t}{1-t}\,\log(s / b)`.

    Parameters
    ----------
    s, upper, transition : Tensor
        As for `soft_step_s2`.

    Returns
    -------
    Tensor
        Values in [-inf, 0]: -inf at ``s <= 0``, exactly 0 at and above ``upper``.

    Raises
    ------
    DTypeError
        If ``s`` is not float32, float64 or bfloat16.

    Examples
    --------
    >>> s = torch.tensor([0.0, 0.2, 0.8])
    >>> log_soft_step_s2(s, torch.tensor(0.8), torch.tensor(0.5))
    tensor([   -inf, -0.8318,  0.0000])
    """
    check_floating(SHORT_FLOATS, s=s)
    wide, (upper, transition) = _widen(s, upper, transition)
    below, above = wide <= 0, wide >= upper
    ratio = (wide / upper).masked_fill(below | above, 0.5)  # any value whose log is finite
    # the clamp keeps exp(logit t) finite; 1 - eps is the last number below 1
    steepness = torch.logit(transition, eps=torch.finfo(wide.dtype).eps).exp()
    log_step = (upper - wide) * steepness * ratio.log()
    return log_step.masked_fill(below, -torch.inf).masked_fill(above, 0.0).to(s.dtype)


def _step_logit(
    s: Tensor, lower: Tensor, upper: Tensor, transition: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """(log u - log v) / t between the bounds, and where ``s`` is at or beyond either."""
    check_floating(SHORT_FLOATS, s=s)
    wide, (lower, upper, transition) = _widen(s, lower, upper, transition)
    below, above = wide <= lower, wide >= upper
    beyond = below | above
    tiny = torch.finfo(wide.dtype).tiny  # a subnormal distance would have an infinite 1 / u
    u = (wide - lower).masked_fill(beyond, 1.0).clamp_min(tiny)
    v = (upper - wide).masked_fill(beyond, 1.0).clamp_min(tiny)
    return (u.log() - v.log()) / transition, below, above


def _widen(s: Tensor, *parameters: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Give everything the type of ``s``, float32 instead of bfloat16."""
    dtype = torch.float32 if s.dtype == torch.bfloat16 else s.dtype
    return s.to(dtype), [torch.as_tensor(p, device=s.device).to(dtype) for p in parameters]
