"""Checks of shape and number type, and their wording."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

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


def check_square(**matrices: Tensor) -> None:
    """Check that tensors are (..., n, n) with at least two stimuli."""
    for name, value in matrices.items():
        if value.ndim < 2 or value.shape[-1] != value.shape[-2]:
            raise ShapeError(
                f"`{name}` must be square, of shape (..., n_stimuli, n_stimuli), "
                f"got {tuple(value.shape)}."
            )
        if value.shape[-1] < 2:
            raise ShapeError(f"`{name}` needs at least 2 stimuli, got {value.shape[-1]}.")


def check_count(name: str, value: object, least: int) -> None:
    """Check that a number of repetitions is whole and large enough."""
    whole = isinstance(value, Integral)
    if not whole or int(value) < least:
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
