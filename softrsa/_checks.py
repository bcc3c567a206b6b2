"""Checks of shape and number type, and their wording."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from inspect import signature
from math import isnan
from numbers import Integral, Real
from typing import ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor

from softrsa.errors import DataError, DeviceError, DTypeError, ShapeError

FLOATS = (torch.float32, torch.float64)
SHORT_FLOATS = (*FLOATS, torch.bfloat16)  # for functions that compute in float32 within


def check_floating(allowed: tuple[torch.dtype, ...] = FLOATS, /, **tensors: Tensor) -> None:
    """Check that tensors are float32 or float64 (or of the types allowed)."""
    names = " or ".join(str(dtype).removeprefix("torch.") for dtype in allowed)
    for name, value in tensors.items():
        if not isinstance(value, Tensor):
            raise DTypeError(
                f"`{name}` must be a torch.Tensor, got {type(value).__name__}. "
                f"Convert it with `torch.as_tensor({name})`."
            )
        if value.dtype not in allowed:
            remedy = "take its real part or modulus" if value.is_complex() else "use `.float()`"
            raise DTypeError(f"`{name}` must be {names}, got {value.dtype}; {remedy} first.")


P = ParamSpec("P")
R = TypeVar("R")
MOST_SEED = 2**31 - 1  # with what is added for splits, NumPy's and scikit-learn's take it


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and not isnan(value)


KINDS: dict[str, tuple[Callable[[object], bool], str]] = {
    "int": (_is_whole, "a whole number"),
    "float": (_is_number, "a number"),
    "bool": (lambda value: isinstance(value, (bool, np.bool_)), "True or False"),
    "str": (lambda value: isinstance(value, str), "a string"),
    "None": (lambda value: value is None, "None"),
    "Tensor": (lambda value: isinstance(value, Tensor), "a torch.Tensor"),
}


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Give a function that first checks its arguments against their annotations.

    Those annotated with nothing but kinds of the table `KINDS` (``int | None``, say) are checked:
    whole numbers, numbers (not NaN), truth values, strings, tensors. A ``seed`` also has a range.
    What else holds of them is the function's own business.

    Examples
    --------
    >>> @checked
    ... def repeat(word: str, times: "int | None" = None) -> str:
    ...     return word * (times or 1)
    >>> repeat("ab", 2)
    'abab'
    >>> repeat("ab", 2.5)
    Traceback (most recent call last):
    softrsa.errors.DataError: `times` must be a whole number or None, got 2.5 (float).
    """
    takes = signature(function)
    wanted: dict[str, list[str]] = {}
    for name, parameter in takes.parameters.items():
        written = parameter.annotation
        words = written if isinstance(written, str) else getattr(written, "__name__", "")
        kinds = words.strip("\"'").split(" | ")
        if set(kinds) <= KINDS.keys() and parameter.kind not in (
            parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD
        ):  # fmt: skip
            wanted[name] = kinds

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if not torch.compiler.is_compiling():
            given = takes.bind(*args, **kwargs).arguments
            for name in wanted.keys() & given.keys():
                _check_kind(name, given[name], wanted[name])
        return function(*args, **kwargs)

    return call


def _check_kind(name: str, value: object, kinds: Sequence[str]) -> None:
    """Check that a value is of one of the kinds, and a seed in the range of seeds."""
    if not any(KINDS[kind][0](value) for kind in kinds):
        words = [KINDS[kind][1] for kind in kinds]
        listed = ", ".join(words[:-1]) + " or " * (len(words) > 1) + words[-1]
        shown = repr(value) if len(repr(value)) < 60 else f"{repr(value)[:57]}..."
        error = DTypeError if kinds == ["Tensor"] else DataError
        raise error(f"`{name}` must be {listed}, got {shown} ({type(value).__name__}).")
    if name == "seed" and _is_whole(value) and not 0 <= int(value) <= MOST_SEED:  # type: ignore[call-overload]
        raise DataError(f"`seed` must be from 0 to {MOST_SEED}, got {value}.")


def holds(condition: Tensor) -> bool:
    """Say whether a condition on values holds; yes where they are not known.

    They are not in torch.compile and vmap, and devices other than the processor are not waited for.
    """
    if torch.compiler.is_compiling() or condition.device.type != "cpu":
        return True
    try:
        return bool(condition)
    except RuntimeError:  # of vmap
        return True


def check_square(**matrices: Tensor) -> None:
    """Check that tensors are (..., n, n) with at least two stimuli."""
    for name, value in matrices.items():
        if not isinstance(value, Tensor):
            raise DTypeError(f"`{name}` must be a torch.Tensor, got {type(value).__name__}.")
        if value.ndim < 2 or value.shape[-1] != value.shape[-2]:
            raise ShapeError(
                f"`{name}` must be square, of shape (..., n_stimuli, n_stimuli), "
                f"got {tuple(value.shape)}."
            )
        if value.shape[-1] < 2:
            raise ShapeError(f"`{name}` needs at least 2 stimuli, got {value.shape[-1]}.")


def check_symmetric(**matrices: Tensor) -> None:
    """Check that square matrices (..., n, n) are symmetric up to rounding."""
    for name, value in matrices.items():
        check_square(**{name: value})
        gap = (value.detach() - value.detach().mT).abs().nan_to_num(0.0)
        rounding = 1e3 * torch.finfo(value.dtype).eps * value.detach().abs().nan_to_num(0.0).amax()
        if not holds(~(gap > rounding).any()):
            raise DataError(
                f"`{name}` must be symmetric, but entries and their mirror images differ by up to "
                f"{float(gap.max()):.3g}. Average them, `({name} + {name}.mT) / 2`, if both "
                "estimate the same; condensed matrices have one entry per pair."
            )


def check_definite(**matrices: Tensor) -> None:
    """Check that square matrices (..., n, n) are symmetric and have no negative eigenvalue.

    Those that require gradient are being learned, and left alone.
    """
    for name, value in matrices.items():
        if value.requires_grad:
            continue
        check_symmetric(**{name: value})
        wide = value.double()
        rounding = torch.finfo(value.dtype).eps * value.shape[-1]
        scale = wide.diagonal(dim1=-2, dim2=-1).abs().amax(-1)
        shift = torch.diag_embed((10 * rounding * scale).unsqueeze(-1).expand(wide.shape[:-1]))
        failed = torch.linalg.cholesky_ex(wide + shift).info
        if not holds((failed == 0).all()):
            raise DataError(
                f"`{name}` must be positive definite: with an eigenvalue below 0, or all 0, "
                "squared distances are negative, or vanish. Take it from "
                "`softrsa.recordings.noise_precision`, or shrink the covariance more."
            )


def check_count(name: str, value: object, least: int) -> None:
    """Check that a number of repetitions is whole and large enough."""
    whole = _is_whole(value)
    if not whole or int(value) < least:  # type: ignore[call-overload]
        kind = "at least" if whole else "a whole number from"
        raise DataError(f"`{name}` must be {kind} {least}, got {value!r}, e.g. 1000.")


def broadcast_shape(*shapes: Sequence[int]) -> torch.Size:
    """Shape that shapes broadcast to; a `RuntimeError` where they do not.

    `torch.broadcast_shapes` does the same, but its first call imports half a second of torch.

    Examples
    --------
    >>> broadcast_shape((5, 1, 3), (4, 1))
    torch.Size([5, 4, 3])
    """
    length = max([len(shape) for shape in shapes])
    result = [1] * length
    for shape in shapes:
        for place, size in enumerate(shape, length - len(shape)):
            if size not in (1, result[place]):
                if result[place] != 1:
                    raise RuntimeError(f"Shapes {', '.join(map(str, shapes))} do not broadcast.")
                result[place] = size
    return torch.Size(result)


def check_broadcast(n_last: int = 1, /, **tensors: Tensor) -> None:
    """Check that dimensions before the last ones broadcast."""
    leading = {name: tuple(value.shape[: value.ndim - n_last]) for name, value in tensors.items()}
    try:
        broadcast_shape(*leading.values())
    except RuntimeError as error:
        raise ShapeError(
            f"The leading dimensions of {' and '.join(f'`{name}`' for name in leading)} must "
            f"broadcast, got {' and '.join(map(str, leading.values()))}."
        ) from error


def resolve_device(device: str | torch.device) -> torch.device:
    """Turn ``"auto"`` into CUDA where there is one, and refuse CUDA where there is none."""
    if str(device) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        raise DeviceError(
            f"`device` must be 'auto', 'cpu', 'cuda' or 'cuda:<index>', got {device!r}."
        ) from error
    if wanted.type not in ("cpu", "cuda", "meta"):
        raise DeviceError(
            f"`device` must be 'auto', 'cpu', 'cuda' or 'cuda:<index>', got {str(device)!r}; other "
            "kinds lack the float64 that scores are computed in, or are not tested."
        )
    if wanted.type == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            f"`device={str(device)!r}` was asked for, but torch {torch.__version__} sees no CUDA "
            "device. Use device='auto' or 'cpu', or install a CUDA build of torch."
        )
    if wanted.type == "cuda" and (wanted.index or 0) >= torch.cuda.device_count():
        raise DeviceError(
            f"`device={str(device)!r}` was asked for, but there are {torch.cuda.device_count()} "
            "CUDA devices, numbered from 0."
        )
    return wanted
