"""SoftStep: differentiable steps of similarities in [0, 1], in value and log form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from numbers import Real
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from softrsa._checks import SHORT_FLOATS, broadcast_shape, check_broadcast, check_floating, holds
from softrsa._gradients import again
from softrsa.errors import DataError, DTypeError


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
    DataError
        If a parameter is out of its range.

    Notes
    -----
    Computed in log space, so small transitions do not underflow to a plateau; bfloat16 is computed
    in float32 and rounded once. Values at or beyond the bounds pass no gradient to any input, and
    the gradient is finite everywhere. As of `torch.sigmoid`, values may not be changed in place
    before gradients are taken: torch refuses that.

    References
    ----------
    Susman, Lin, Suárez-Fariñas & Colonel, "SoftStep", eq. 1.

    Examples
    --------
    >>> s = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9])
    >>> soft_step(s, torch.tensor(0.2), torch.tensor(0.8), torch.tensor(0.5))
    tensor([0.0000, 0.0385, 0.5000, 0.9615, 1.0000])
    """
    check_floating(SHORT_FLOATS, s=s)
    check_steps(upper, transition, lower)
    return run_step(s, lower, upper, transition, log=False)


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
    DataError
        If a parameter is out of its range.

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
    check_floating(SHORT_FLOATS, s=s)
    check_steps(upper, transition, lower)
    return run_step(s, lower, upper, transition, log=True)


def soft_step_s2(s: Tensor, upper: Tensor, transition: Tensor) -> Tensor:
    r"""Second SoftStep family: a power that reaches 1 at ``upper`` and 0 only at 0.

    .. math:: S_2(s) = (s / b)^{(b - s)\, t / (1 - t)}, \quad s < b; \qquad 1, \quad s \ge b

    Parameters
    ----------
    s : Tensor, shape (..., n, m)
        Similarities scaled to [0, 1]; any shape.
    upper : Tensor
        Bound :math:`b` in [0, 1]; broadcasts against ``s``.
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
    DataError
        If a parameter is out of its range.

    Notes
    -----
    The exponent keeps the form exp(logit t). At ``s = 0``, where the slope may be infinite, and at
    and above ``upper`` no gradient is passed, and just above 0 it is cut off before it leaves the
    range of the type: it is finite everywhere.

    References
    ----------
    Susman, Suárez-Fariñas & Colonel, "Nearness of neighbors attention", arXiv:2506.08139.

    Examples
    --------
    >>> s = torch.tensor([0.0, 0.2, 0.4, 0.8])
    >>> soft_step_s2(s, torch.tensor(0.8), torch.tensor(0.5))
    tensor([0.0000, 0.4353, 0.7579, 1.0000])
    """
    check_floating(SHORT_FLOATS, s=s)
    check_steps(upper, transition, None, family="s2")
    return run_step_s2(s, upper, transition, log=False)


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
    DataError
        If a parameter is out of its range.

    Examples
    --------
    >>> s = torch.tensor([0.0, 0.2, 0.8])
    >>> log_soft_step_s2(s, torch.tensor(0.8), torch.tensor(0.5))
    tensor([   -inf, -0.8318,  0.0000])
    """
    check_floating(SHORT_FLOATS, s=s)
    check_steps(upper, transition, None, family="s2")
    return run_step_s2(s, upper, transition, log=True)


MOST = 1 + 1e-5  # leaves room for rounding, and for differences taken at 1


def check_steps(
    upper: Tensor | float,
    transition: Tensor | float,
    lower: Tensor | float | None,
    *,
    family: str = "s1",
    zero: bool = False,
) -> None:
    """Check the order of bounds and the ranges of parameters; NaN among them gives NaN.

    Fits, whose gates keep to the ranges, do without: a look at values waits for the device. A
    transition of ``zero`` is where that of a gate may end by rounding.
    """
    named = {"upper": upper, "transition": transition}
    if family == "s1":
        named["lower"] = lower  # pyright: ignore[reportArgumentType]
    given = {name: _number(name, value) for name, value in named.items()}
    check_broadcast(0, **given)
    high, soft, low = given["upper"], given["transition"], given.get("lower")
    if low is None and not holds(~((high < 0) | (high > MOST)).any()):
        raise DataError(f"`upper` must be in [0, 1], got {_extent(high)}.")
    if low is not None and not holds(~(low > high).any()):
        bounds = torch.broadcast_tensors(low, high)
        worst = (bounds[0] > bounds[1]).flatten().int().argmax()
        low, high = (bound.flatten()[worst] for bound in bounds)
        raise DataError(
            f"`lower` must not exceed `upper`, got lower={low:.6g} and upper={high:.6g}. "
            "Swap them, or use 1 - s to reverse a step."
        )
    zero = zero or low is None
    below = soft < 0 if zero else soft <= 0
    if not holds(~(below | (soft > MOST)).any()):
        raise DataError(
            f"`transition` must be in {'[' if zero else '('}0, 1], got {_extent(soft)}: 1 is the "
            f"{'softest, towards 0 the steepest' if low is not None else 'steepest'}."
        )


def _extent(values: Tensor) -> str:
    """Name the least and largest of values, or the only one."""
    low, high = (f"{value:.6g}" for value in values.aminmax())
    return low if low == high else f"{low} to {high}"


def _number(name: str, value: object) -> Tensor:
    if isinstance(value, Tensor) and not value.is_complex():
        return value.detach()
    if isinstance(value, bool) or not isinstance(value, Real):
        raise DTypeError(f"`{name}` must be a torch.Tensor or a number, got {value!r}.")
    return torch.as_tensor(float(value))


def run_step_s2(s: Tensor, upper: Tensor, transition: Tensor, *, log: bool) -> Tensor:
    """Widen, and take the second family, or its logarithm."""
    wide, (upper, transition) = _widen(s, upper, transition)
    below, above = wide <= 0, wide >= upper
    beyond = below | above
    # there any value whose log is finite, before the division: its gradient would be 0 times inf
    log_ratio = _LogRatio.apply(torch.where(beyond, 0.5, wide), torch.where(beyond, 1.0, upper))
    # the clamp keeps exp(logit t) finite; 1 - eps is the last number below 1
    steepness = torch.logit(transition, eps=torch.finfo(wide.dtype).eps).exp()
    log_step = (upper - wide) * steepness * log_ratio
    result = log_step.masked_fill(below, -torch.inf).masked_fill(above, 0.0).to(s.dtype)
    return result if log else result.exp()


class _LogRatio(torch.autograd.Function):
    """log(s / b) of positive numbers of one shape, with a gradient that is finite everywhere."""

    generate_vmap_rule = True

    @staticmethod
    def forward(s: Tensor, b: Tensor) -> Tensor:
        return (s / b).log_()

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, *grad_outputs: Tensor) -> tuple[Tensor, Tensor]:
        s, b = ctx.saved_tensors
        kind = torch.finfo(s.dtype)
        most = kind.max * kind.eps  # leaves room for what it is multiplied with further on
        grad = grad_outputs[0]
        return (grad / s).clamp(-most, most), (-grad / b).clamp(-most, most)


def run_step(s: Tensor, lower: Tensor, upper: Tensor, transition: Tensor, *, log: bool) -> Tensor:
    """Widen, and apply `_Step`."""
    wide, (lower, upper, transition) = _widen(s, lower, upper, transition)
    whole = broadcast_shape(wide.shape, lower.shape, upper.shape, transition.shape)
    step: Tensor = _Step.apply(wide.expand(whole), lower, upper, transition, log)
    return step.to(s.dtype)


Inputs = tuple[Tensor, Tensor, Tensor, Tensor, bool]  # named in quotes: torch 2.6 compiles no alias


class _Step(torch.autograd.Function):
    """sigma((log u - log v) / t), or its logarithm, with a gradient that is finite everywhere.

    Distances to the bounds are clamped to the smallest normal number instead of masked: masks and
    logarithms of zero take most of the time of plain arithmetic. Beyond the upper bound the step
    then rounds to exactly 1; beyond the lower one it is too small to matter and set to exactly 0.
    """

    @staticmethod
    def forward(ctx, *inputs: Tensor | bool) -> Tensor:
        s, given, upper, transition, log = cast("Inputs", inputs)
        # where the bounds coincide the upper one decides: its step is 1 at the bound itself
        gap = upper - torch.nextafter(upper, torch.full_like(upper, -torch.inf))  # none between
        lower = torch.minimum(given, upper - gap.clamp_min_(torch.finfo(s.dtype).eps ** 2 / 2))
        above, below = _distances(s, lower, upper)
        logit = above.div_(below).log_().mul_(transition.reciprocal())
        step = exact_zeros_(torch.sigmoid(logit, out=below))
        ctx.log = log
        ctx.save_for_backward(s, given, upper, transition, logit, step, lower)
        if not log:
            return step
        result = F.logsigmoid(logit)
        return result.masked_fill_(s <= lower, -torch.inf).masked_fill_(s >= upper, 0.0)

    @staticmethod
    def backward(ctx, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        s, given, upper, transition, logit, step, lower = ctx.saved_tensors
        needed = ctx.needs_input_grad
        if torch.is_grad_enabled():  # somebody will differentiate once more
            plain = partial(_plain_step, log=ctx.log)
            return *again(plain, (s, given, upper, transition), grad_outputs[0], needed), None
        inside = (s > lower) & (s < upper) if ctx.log else step
        inner = torch.rsub(step, 1).mul_(inside).mul_(grad_outputs[0]).mul_(transition.reciprocal())
        by_lower, by_upper = (
            torch.div(inner, distance, out=distance) for distance in _distances(s, lower, upper)
        )
        return (
            by_lower + by_upper if needed[0] else None,
            by_lower.sum_to_size(given.shape).neg_() if needed[1] else None,
            by_upper.sum_to_size(upper.shape).neg_() if needed[2] else None,
            inner.mul_(logit).sum_to_size(transition.shape).neg_() if needed[3] else None,
            None,
        )


def _plain_step(s: Tensor, lower: Tensor, upper: Tensor, transition: Tensor, log: bool) -> Tensor:
    """Take the step between the bounds by plain arithmetic; 0 elsewhere."""
    inside = (s > lower) & (s < upper)
    above, below = (torch.where(inside, distance, 1.0) for distance in (s - lower, upper - s))
    logit = (above / below).log() / transition
    return torch.where(inside, F.logsigmoid(logit) if log else logit.sigmoid(), 0.0)


def _distances(s: Tensor, lower: Tensor, upper: Tensor) -> Sequence[Tensor]:
    return bound_distances_(s, lower, upper, out=(torch.empty_like(s), torch.empty_like(s)))


def exact_zeros_(step: Tensor) -> Tensor:
    """Make what a clamped distance has left of a step exactly 0, in place."""
    kind = torch.finfo(step.dtype)
    return torch.threshold_(step, kind.tiny / kind.eps**2.1, 0.0)


def bound_distances_(
    s: Tensor, lower: Tensor, upper: Tensor, *, out: Sequence[Tensor], floor: float | None = None
) -> Sequence[Tensor]:
    """Write distances to the lower bound, where that may be ``s``, and to the upper bound.

    Beyond a bound they are clamped, to the least number of the type or to ``floor``.
    """
    u, v = out
    least = torch.finfo(s.dtype).tiny if floor is None else floor
    torch.sub(upper, s, out=v).clamp_min_(least)
    torch.sub(s, lower, out=u).clamp_min_(least)
    return out


def _widen(s: Tensor, *parameters: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Give everything the type of ``s``, float32 instead of bfloat16."""
    dtype = torch.float32 if s.dtype == torch.bfloat16 else s.dtype
    return s.to(dtype), [torch.as_tensor(p, device=s.device, dtype=dtype) for p in parameters]


def soft_k_step(
    ranks: Tensor, k: Tensor | float, *, width: float = 4.0, transition: float = 0.75
) -> Tensor:
    r"""Keep ranks up to ``k`` with weight 1, drop those past ``k + width``, softly in between.

    With :math:`u = k + q - r` and :math:`v = r - k`, where :math:`q` is ``width`` and :math:`t` is
    ``transition``, the ranks between become

    .. math:: \frac{u^{1/t}}{u^{1/t} + v^{1/t}} = \sigma\!\left(\frac{\log u - \log v}{t}\right)

    Parameters
    ----------
    ranks : Tensor, shape (..., n)
        Ranks counted from 0, hard or soft; any shape.
    k : Tensor or float
        The last rank with weight 1; broadcasts against ``ranks``. One value per row has shape
        (..., 1).
    width : float
        Positive number of ranks over which the weight falls from 1 to 0.
    transition : float
        Softness in (0, 1]: 1 is a linear ramp, towards 0 a step at ``k + width / 2``.

    Returns
    -------
    Tensor
        Values in [0, 1] of the broadcast shape: exactly 1 up to ``k``, exactly 0 from
        ``k + width`` on.

    Raises
    ------
    DTypeError
        If ``ranks`` is not float32, float64 or bfloat16.
    DataError
        If ``width`` is not positive and finite, or ``transition`` is not in (0, 1].

    Notes
    -----
    It is `soft_step` of the negative ranks and inherits its care: log space, a gradient that is
    finite everywhere, and none for ranks at or beyond the ends of the transition.

    References
    ----------
    Susman, Lin, Suárez-Fariñas & Colonel, "SoftStep: learning sparse similarity powers deep
    neighbor-based regression", algorithm 1.

    Examples
    --------
    >>> soft_k_step(torch.arange(8.0), 2)
    tensor([1.0000, 1.0000, 1.0000, 0.8123, 0.5000, 0.1877, 0.0000, 0.0000])
    """
    return soft_step(*_reflected(ranks, k, width, transition))


def log_soft_k_step(
    ranks: Tensor, k: Tensor | float, *, width: float = 4.0, transition: float = 0.75
) -> Tensor:
    """Logarithm of `soft_k_step`: what is added to a logit to keep the first neighbors.

    Parameters
    ----------
    ranks, k, width, transition
        As for `soft_k_step`.

    Returns
    -------
    Tensor
        Values in [-inf, 0]: exactly 0 up to ``k``, exactly -inf from ``k + width`` on.

    Raises
    ------
    DTypeError
        If ``ranks`` is not float32, float64 or bfloat16.
    DataError
        If ``width`` is not positive and finite, or ``transition`` is not in (0, 1].

    Examples
    --------
    >>> log_soft_k_step(torch.tensor([2.0, 4.0, 6.0]), 2)
    tensor([ 0.0000, -0.6931,    -inf])
    """
    return log_soft_step(*_reflected(ranks, k, width, transition))


def _reflected(
    ranks: Tensor, k: Tensor | float, width: float, transition: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Turn it into a SoftStep: larger is better, 1 from ``-k`` upwards, 0 below ``-k - width``."""
    check_floating(SHORT_FLOATS, ranks=ranks)
    if not 0 < width < math.inf:
        raise DataError(f"`width` must be positive and finite, got {width!r}.")
    if not 0 < transition <= 1:
        raise DataError(f"`transition` must be in (0, 1], got {transition!r}.")
    dtype = torch.float32 if ranks.dtype == torch.bfloat16 else ranks.dtype
    last = torch.as_tensor(k, dtype=dtype, device=ranks.device)
    return -ranks, -(last + width), -last, last.new_tensor(transition)
