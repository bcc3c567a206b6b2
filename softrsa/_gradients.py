"""Gradients of functions that have one in closed form, where they are differentiated again."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def within(score: Tensor, low: float = -1.0, high: float = 1.0) -> Tensor:
    """Put what rounding has put beyond the range of a score back to its end.

    Gradients pass as they are: at an end, too, they are those of the score.

    Examples
    --------
    >>> within(torch.tensor([-1.5, 0.5, 1.5]))
    tensor([-1.0000,  0.5000,  1.0000])
    """
    found = score.detach()
    beyond = (found - found.clamp(low, high)).nan_to_num(0.0)  # of an infinite score, none
    return score - beyond


def again(
    plain: Callable[..., Tensor], inputs: Sequence[Tensor], grad: Tensor, needed: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """Gradients that can be differentiated, from a function in plain arithmetic.

    ``needed`` says of which inputs, and may go on with other arguments.

    Examples
    --------
    >>> x = torch.tensor(3.0, requires_grad=True)
    >>> (first,) = again(torch.square, [x], torch.tensor(1.0), [True])
    >>> float(torch.autograd.grad(first, x)[0])
    2.0
    """
    # nodes of their own: where one input depends on another, that is not followed here too
    inputs = [x.view_as(x) for x in inputs]
    wanted = [x for x, one in zip(inputs, needed, strict=False) if one]
    found = iter(torch.autograd.grad(plain(*inputs), wanted, grad, create_graph=True))
    return tuple(next(found) if one else None for one in needed[: len(inputs)])
