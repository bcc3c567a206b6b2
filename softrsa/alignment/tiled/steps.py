"""What is done to the entries of a tile: a SoftStep, from the anchors of its rows or columns.

Bounds are in the unit of the raw similarities: scaling moves and stretches similarities and bounds
alike, and the first family depends on ratios of their differences only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from softrsa.transforms import log_soft_step_s2

N_SCRATCH = 3


class Step(Protocol):
    """A family: from similarities and parameters, shaped (k, 1) or (1, k), to values and back.

    ``unit`` is the range of similarities. `N_SCRATCH` matrices of the tile's shape may be written
    to.
    """

    def forward(
        self,
        s: Tensor,
        parameters: Sequence[Tensor],
        unit: float,
        *,
        out: Tensor,
        scratch: Sequence[Tensor],
    ) -> Tensor:
        """Write the values of a tile to ``out``."""
        ...

    def backward(
        self,
        by_value: Tensor,
        s: Tensor,
        parameters: Sequence[Tensor],
        unit: float,
        *,
        end: int,
        value: Tensor,
        scratch: Sequence[Tensor],
        by_s: Tensor | None,
    ) -> list[Tensor]:
        """Gradients by the parameters of the rows (``end`` 0) or columns (1), shape (k,) each.

        Adds to ``by_s`` and uses up ``value``.
        """
        ...


class S1:
    """sigma((log u - log v) / t) of the distances u, v to the bounds: see `soft_step`.

    Its parameters are lower, upper and 1 / transition.
    """

    def forward(
        self,
        s: Tensor,
        parameters: Sequence[Tensor],
        unit: float,
        *,
        out: Tensor,
        scratch: Sequence[Tensor],
    ) -> Tensor:
        """As `soft_step`: exactly 0 and 1 beyond the bounds."""
        kind = torch.finfo(s.dtype)
        log_ratio = self._log_ratio(s, parameters, unit, scratch)[2]
        torch.mul(log_ratio, parameters[2], out=out).sigmoid_()
        return torch.threshold_(out, kind.tiny / kind.eps**2.1, 0.0)

    def _log_ratio(
        self, s: Tensor, parameters: Sequence[Tensor], unit: float, scratch: Sequence[Tensor]
    ) -> Sequence[Tensor]:
        """Clamped distances and the logarithm of their ratio."""
        u, v, log_ratio = scratch
        floor = smallest_distance(unit, s.dtype)
        torch.sub(s, parameters[0], out=u).clamp_min_(floor)
        torch.sub(parameters[1], s, out=v).clamp_min_(floor)
        torch.div(u, v, out=log_ratio).log_()
        return scratch

    def backward(
        self,
        by_value: Tensor,
        s: Tensor,
        parameters: Sequence[Tensor],
        unit: float,
        *,
        end: int,
        value: Tensor,
        scratch: Sequence[Tensor],
        by_s: Tensor | None,
    ) -> list[Tensor]:
        """Beyond a bound the value is exactly 0 or 1, which stops the gradient."""
        u, v, log_ratio = self._log_ratio(s, parameters, unit, scratch)
        steepness = parameters[2]
        dim = 1 - end  # over which the entries of a tile share a parameter
        inner = value.addcmul_(value, value, value=-1).mul_(by_value)
        by_steepness = log_ratio.mul_(inner).sum(dim)
        by_lower, by_upper = torch.div(inner, u, out=u), torch.div(inner, v, out=v)
        factor = -steepness.flatten()
        sums = [factor * by_lower.sum(dim), factor * by_upper.sum(dim), by_steepness]
        if by_s is not None:
            by_s.addcmul_(by_lower.add_(by_upper), steepness)
        return sums


class S2:
    """The second family, see `soft_step_s2`, differentiated by autograd.

    Its parameters are the lowest similarity, the range of similarities, upper and transition.
    """

    def forward(
        self,
        s: Tensor,
        parameters: Sequence[Tensor],
        unit: float,
        *,
        out: Tensor,
        scratch: Sequence[Tensor],
    ) -> Tensor:
        """Scale the similarities and apply the step."""
        del unit, scratch
        return out.copy_(_second(s, *parameters))

    def backward(
        self,
        by_value: Tensor,
        s: Tensor,
        parameters: Sequence[Tensor],
        unit: float,
        *,
        end: int,
        value: Tensor,
        scratch: Sequence[Tensor],
        by_s: Tensor | None,
    ) -> list[Tensor]:
        """Compute the tile once more, with a graph."""
        del unit, end, value, scratch
        inputs = [given.detach().requires_grad_() for given in (s, *parameters)]
        with torch.enable_grad():
            found = _second(*inputs)
        by_tile, *by_parameters = torch.autograd.grad(found, inputs, by_value)
        if by_s is not None:
            by_s.add_(by_tile)
        return [by.flatten() for by in by_parameters]


def smallest_distance(unit: float, dtype: torch.dtype) -> float:
    """Distance to a bound so small that the step is exactly 0 or 1, with room for ratios."""
    kind = torch.finfo(dtype)
    return max(unit * kind.tiny / kind.eps, 8 * kind.tiny)


def _second(s: Tensor, low: Tensor, width: Tensor, upper: Tensor, transition: Tensor) -> Tensor:
    return log_soft_step_s2((s - low) / width, upper, transition).exp()


FAMILIES: dict[str, Step] = {"s1": S1(), "s2": S2()}
