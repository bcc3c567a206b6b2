"""Products in the short type of `torch.autocast`, everything around them in the type of the input.

torch's own setting of float32 products, `torch.set_float32_matmul_precision`, is left alone.
"""

from __future__ import annotations

import warnings
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


class RoundingWarning(UserWarning):
    """The number type of the data rounds away part of what is asked for."""


LOST = 5e-3  # of what varies: so much may rounding be without a word, and scores err by 1e-3
SOME_STIMULI, SOME_UNITS = 256, 512  # that are looked at, evenly drawn


def warn_of_rounding(x: Tensor, what: str, *, within_rows: bool = False) -> None:
    """Warn where float32 responses (..., n, p) do not determine ``what``.

    Their rounding is compared with how stimuli differ, or with how the units of one do.
    """
    if x.dtype != torch.float32 or x.requires_grad or not x.numel():
        return
    n, p = x.shape[-2:]
    some = x[..., :: max(1, n // SOME_STIMULI), :: max(1, p // SOME_UNITS)].double()
    # the median over stimuli, which one that is much larger does not move
    middle = some.mean(-1, keepdim=True) if within_rows else some.median(-2, keepdim=True).values
    spread = (some - middle).square().mean(-1).sqrt()
    if within_rows:
        share = (some.square().mean(-1).sqrt() / spread).median(-1).values
    else:
        share = x.abs().amax((-2, -1)) / spread.median(-1).values
    warn_of_lost(torch.finfo(x.dtype).eps * share, what)


def warn_of_lost(shares: Tensor, what: str) -> None:
    """Warn where rounding is so large a share of what varies, if it is not all there is."""
    lost = shares[(shares > LOST) & (shares < 1)]
    if lost.numel():
        warnings.warn(
            RoundingWarning(
                f"Rounding to float32 is {lost.max().item():.1g} of what varies, so {what} cannot "
                "be more exact. Use float64 from the beginning, or take off what is common first."
            ),
            stacklevel=4,
        )
