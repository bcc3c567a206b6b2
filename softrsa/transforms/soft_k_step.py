"""SoftKStep: a differentiable cut after the k-th rank, in value and log form."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from softrsa._checks import SHORT_FLOATS, check_floating
from softrsa.errors import DataError
from softrsa.transforms.soft_step import log_soft_step, soft_step


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
