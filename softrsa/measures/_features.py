"""What measures on features share: checks, and the removal of column means."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from softrsa._checks import check_broadcast, check_floating
from softrsa._precision import warn_of_rounding
from softrsa.errors import DTypeError, NoSecondDerivativeError, ShapeError


def check_features(x: Tensor, y: Tensor, *, at_least: int = 2) -> None:
    """Check that two tensors are features (..., n, p) and (..., n, q) of the same stimuli."""
    check_floating(x=x, y=y)
    if x.dtype != y.dtype:
        raise DTypeError(f"`x` and `y` must have one number type, got {x.dtype} and {y.dtype}.")
    for name, value in (("x", x), ("y", y)):
        if value.ndim < 2 or value.shape[-1] == 0:
            raise ShapeError(
                f"`{name}` must have shape (..., n_stimuli, n_units) with at least one unit, "
                f"got {tuple(value.shape)}."
            )
    if x.shape[-2] != y.shape[-2] or x.shape[-2] < at_least:
        raise ShapeError(
            f"Both must have the same stimuli, at least {at_least}: "
            f"`x` has {x.shape[-2]}, `y` has {y.shape[-2]}."
        )
    check_broadcast(2, x=x, y=y)
    for value in (x, y):
        warn_of_rounding(value, "a score")


def check_held_out(x_train: Tensor, y_train: Tensor, x_test: Tensor, y_test: Tensor) -> None:
    """Check features of training stimuli and those of others in the same units."""
    check_features(x_train, y_train)
    check_features(x_test, y_test)
    for name, train, test in (("x", x_train, x_test), ("y", y_train, y_test)):
        if train.shape[-1] != test.shape[-1]:
            raise ShapeError(
                f"`{name}_train` and `{name}_test` must have the same units, "
                f"got {train.shape[-1]} and {test.shape[-1]}."
            )


def centered(x: Tensor, *, scaled: bool = False) -> Tensor:
    """Subtract the mean over stimuli from each unit; an exact 0 where a unit is constant.

    With ``scaled`` all are divided by the largest range of a unit, so that powers stay within the
    range of float32. The gradient takes that number for a constant, which is exact for whatever
    does not depend on the scale. NaN where all units are constant.
    """
    result: Tensor = _Centered.apply(x, scaled)  # type: ignore[assignment]
    return result


class _Centered(torch.autograd.Function):
    """Few passes over the features: for measures of many stimuli these are what takes time."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scaled: bool) -> Tensor:
        low, high = x.amin(-2, keepdim=True), x.amax(-2, keepdim=True)
        # the mean of equal numbers is rounded
        result = x - torch.where(low == high, low, x.mean(-2, keepdim=True))
        result -= result.mean(-2, keepdim=True)  # the mean of what is large is rounded
        factor = (high - low).amax(-1, keepdim=True).reciprocal() if scaled else None
        ctx.factor = factor
        return result if factor is None else result.mul_(factor)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        rest = grad - grad.mean(-2, keepdim=True)
        return (rest if ctx.factor is None else rest * ctx.factor), None


def undefined(x: Tensor) -> Tensor:
    """Find matrices (..., n, p) with an entry that is not finite: (..., 1, 1).

    LAPACK refuses them, so they are decomposed as zeros and their results made NaN.
    """
    return ~x.isfinite().all(-1, keepdim=True).all(-2, keepdim=True)


def first_order(value: Tensor) -> Tensor:
    """Pass a value on whose gradient is written out or holds parts of the computation still.

    It cannot be differentiated again: what was held still would be missing without a word.
    """
    result: Tensor = _FirstOrder.apply(value)  # type: ignore[assignment]
    return result


class _FirstOrder(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        if torch.is_grad_enabled():
            raise NoSecondDerivativeError(
                "This measure has first derivatives only: call `backward` or `autograd.grad` "
                "without `create_graph=True`."
            )
        return grad
