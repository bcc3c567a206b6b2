"""What may be asked of a similarity."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from softrsa._checks import check_broadcast, check_floating
from softrsa.errors import DataError, DTypeError, ShapeError, unknown_name
from softrsa.rsm._plans import PLANS

Bandwidth = float | Literal["median"] | None


def check_arguments(
    x: Tensor,
    y: Tensor | None,
    similarity: str,
    bandwidth: Bandwidth,
    precision: Tensor | None,
) -> None:
    """Check types first, then the name, then shapes, then options."""
    given = {"x": x, "y": y, "precision": precision}
    tensors = {name: value for name, value in given.items() if value is not None}
    check_floating(**tensors)
    if similarity not in PLANS:
        raise unknown_name("similarity", similarity, PLANS)
    for name in tensors.keys() - {"precision"}:
        if tensors[name].ndim < 2 or 0 in tensors[name].shape[-2:]:
            raise ShapeError(
                f"`{name}` must have shape (..., n_stimuli, n_units) with at least one of each, "
                f"got {tuple(tensors[name].shape)}."
            )
    if y is not None:
        _check_pair(x, y)
    if (precision is None) == (similarity == "mahalanobis"):
        verb = "needs a" if precision is None else "takes no"
        raise DataError(f"`similarity={similarity!r}` {verb} `precision`.")
    if precision is not None:
        _check_precision(x, precision)
    if bandwidth is not None and similarity != "rbf":
        raise DataError(f"`similarity={similarity!r}` takes no `bandwidth`, got {bandwidth!r}.")
    if isinstance(bandwidth, str) and bandwidth != "median":
        raise unknown_name("bandwidth", bandwidth, ["median"])
    if isinstance(bandwidth, (int, float)) and not 0 < bandwidth < math.inf:
        raise DataError(f"`bandwidth` must be positive and finite, got {bandwidth!r}.")


def _check_precision(x: Tensor, precision: Tensor) -> None:
    if precision.shape[-2:] != (x.shape[-1], x.shape[-1]):
        raise ShapeError(
            f"`precision` must have shape {(x.shape[-1], x.shape[-1])} for {x.shape[-1]} units, "
            f"got {tuple(precision.shape)}."
        )
    check_broadcast(2, x=x, precision=precision)


def _check_pair(x: Tensor, y: Tensor) -> None:
    if x.dtype != y.dtype:
        raise DTypeError(f"`x` and `y` must have one number type, got {x.dtype} and {y.dtype}.")
    if x.shape[-1] != y.shape[-1]:
        raise ShapeError(
            f"`x` and `y` must have the same units: `x` has {x.shape[-1]}, `y` has {y.shape[-1]}."
        )
    try:
        torch.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    except RuntimeError as error:
        raise ShapeError(
            "The leading dimensions of `x` and `y` must broadcast, "
            f"got {tuple(x.shape[:-2])} and {tuple(y.shape[:-2])}."
        ) from error
