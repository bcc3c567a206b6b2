"""What is done to one side's RSMs: nothing, centering, thresholds, or a learned SoftStep."""

from __future__ import annotations

from torch import Tensor, nn

from softrsa.rsm import scale_similarities
from softrsa.transforms.center import double_center
from softrsa.transforms.gates import SoftStep, StepParameters
from softrsa.transforms.geo_topological import GeoTopological


class Identity(nn.Module):
    """The RSM as it is: plain RSA."""

    def forward(self, rsms: Tensor, anchors: Tensor | None = None) -> Tensor:
        """Return ``rsms`` (..., n, n)."""
        del anchors
        return rsms


class Centered(nn.Module):
    """The double-centered RSM."""

    def forward(self, rsms: Tensor, anchors: Tensor | None = None) -> Tensor:
        """Return the centered ``rsms`` (..., n, n)."""
        del anchors
        return double_center(rsms)


class HardGT(nn.Module):
    """A geo-topological transform of 1 - similarity, turned back into a similarity."""

    def __init__(self, lower: float, upper: float):
        super().__init__()
        self.threshold = GeoTopological(lower, upper, "trsa")

    def forward(self, rsms: Tensor, anchors: Tensor | None = None) -> Tensor:
        """Return the transformed ``rsms`` (..., n, n)."""
        del anchors
        return 1 - self.threshold(1 - rsms)


class SoftGate(nn.Module):
    """Similarities scaled to [0, 1], through a SoftStep, symmetrized if asked for."""

    def __init__(self, step: SoftStep, scaling: str, symmetrize: bool):
        super().__init__()
        self.step = step
        self.scaling = scaling
        self.symmetrize = symmetrize

    def scale(self, rsms: Tensor) -> Tensor:
        """Bring similarities (..., n, n) to [0, 1]."""
        return scale_similarities(rsms, self.scaling)

    def forward(self, rsms: Tensor, anchors: Tensor | None = None) -> Tensor:
        """Return the transformed ``rsms`` (..., n, n)."""
        return self.step_scaled(self.scale(rsms), anchors)

    def step_parameters(self, rsms: Tensor, anchors: Tensor | None = None) -> StepParameters:
        """Lower, upper and transition of the anchors of ``rsms``."""
        return self.step.gate(self.scale(rsms), anchors)

    def step_scaled(self, scaled: Tensor, anchors: Tensor | None = None) -> Tensor:
        """Transform similarities that are scaled already."""
        stepped = self.step(scaled, anchors)
        return (stepped + stepped.mT) / 2 if self.symmetrize else stepped


def threshold_grid(steps: int) -> list[tuple[float, float]]:
    """Pairs l <= u on a regular grid of quantiles, without the two that leave a constant.

    Examples
    --------
    >>> threshold_grid(2)
    [(0.0, 0.5), (0.0, 1.0), (0.5, 0.5), (0.5, 1.0)]
    """
    levels = [i / steps for i in range(steps + 1)]
    pairs = [(low, high) for i, low in enumerate(levels) for high in levels[i:]]
    return [pair for pair in pairs if pair not in ((0.0, 0.0), (1.0, 1.0))]
