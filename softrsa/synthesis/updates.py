"""One step of an optimizer, as a pure function: what it is given is never changed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from softrsa.errors import DataError

BETAS = (0.9, 0.999)
EPS = 1e-8  # with the betas, the values of Kingma & Ba (2015) and of torch.optim.Adam


class Moving(NamedTuple):
    """Features on their way, with the two moments of their gradients: each (R, n, q)."""

    y: Tensor
    first: Tensor
    second: Tensor


Update = Callable[[Moving, Tensor, int, float], Moving]


def start(y: Tensor) -> Moving:
    """Stand still at ``y``."""
    return Moving(y, torch.zeros_like(y), torch.zeros_like(y))


def check_steps(max_steps: int, lr: float) -> None:
    """Refuse what would take no step, or none downwards."""
    if max_steps < 0 or not 0 < lr < math.inf:
        raise DataError(
            f"`max_steps` must be at least 0 and `lr` above 0, got {max_steps} and {lr}."
        )


@torch.no_grad()
def adam(now: Moving, grad: Tensor, step: int, lr: float) -> Moving:
    """Take Adam's step number ``step`` + 1 down the gradient (arXiv:1412.6980)."""
    first = now.first.lerp(grad, 1 - BETAS[0])
    second = (now.second * BETAS[1]).addcmul_(grad, grad, value=1 - BETAS[1])
    # both corrections for the start at zero are taken out of the arrays
    correction = (1 - BETAS[1] ** (step + 1)) ** 0.5
    scale = second.sqrt().add_(EPS * correction)
    y = now.y.addcdiv(first, scale, value=-lr * correction / (1 - BETAS[0] ** (step + 1)))
    return Moving(y, first, second)


@torch.no_grad()
def gradient_descent(now: Moving, grad: Tensor, _step: int, lr: float) -> Moving:
    """Step down the gradient."""
    return now._replace(y=now.y.add(grad, alpha=-lr))


OPTIMIZERS: dict[str, Update] = {"adam": adam, "sgd": gradient_descent}
