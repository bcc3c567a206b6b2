"""Products in the short type of `torch.autocast`, everything around them in the type of the input.

torch's own setting of float32 products, `torch.set_float32_matmul_precision`, is left alone.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

AUTOCASTING = ("cpu", "cuda")


def short_type(x: Tensor) -> torch.dtype | None:
    """Find the type that products of ``x`` are to be made in; None for its own.

    As torch has it, autocast is for float32: what is given as float64 stays so.
    """
    kind = x.device.type
    if kind not in AUTOCASTING or x.dtype != torch.float32 or not torch.is_autocast_enabled(kind):
        return None
    return torch.get_autocast_dtype(kind)


def without_autocast(x: Tensor) -> AbstractContextManager[object]:
    """Switch autocast off, so that nothing is rounded but what `product` rounds."""
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if kind in AUTOCASTING else nullcontext()


def product(a: Tensor, b: Tensor, short: torch.dtype | None) -> Tensor:
    """Multiply matrices in the given type, and return the type they have."""
    return a @ b if short is None else (a.to(short) @ b.to(short)).to(a.dtype)
