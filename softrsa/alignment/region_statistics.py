"""What is computed of RDMs before they are matched: fixed statistics, and learned SoftSteps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import log
from typing import NamedTuple

import torch
from torch import Tensor, nn

from softrsa._ranks import average_ranks
from softrsa.alignment.matching import Rule, match_scores, products
from softrsa.alignment.side_transforms import threshold_grid
from softrsa.errors import FitError
from softrsa.pairs import condense, expand
from softrsa.transforms import (
    GlobalGate,
    ProfileGate,
    SoftStep,
    double_center,
    geo_topological,
    geodesic,
)

TRANSFORMS = ("identity", "centered", "geo_topological", "geodesic", "global", "instance")
LEARNED = ("global", "instance")
NEAREST = (1, 2, 3, 5, 8, 12)  # neighbors whose edges a geodesic transform keeps
START = 20.0  # inverse temperature of correlations in the cross-entropy


class Statistic(NamedTuple):
    """A function from square RDMs (..., n, n), scaled ranks, to condensed ones, and its name."""

    name: str
    function: Callable[[Tensor], Tensor]


def scaled_ranks(rdms: Tensor) -> Tensor:
    """Ranks of the dissimilarities of each RDM (..., n, n), from 0 to 1, as a square matrix."""
    ranks = average_ranks(condense(rdms))
    low, high = ranks.amin(-1, keepdim=True), ranks.amax(-1, keepdim=True)
    return expand((ranks - low) / (high - low))


def candidates(transform: str, n_stimuli: int, grid: int) -> list[Statistic]:
    """All fixed statistics of a transform among which the training data choose."""
    if transform == "geo_topological":
        return [
            Statistic(f"l = {low:g}, u = {high:g}", _thresholds(low, high))
            for low, high in threshold_grid(grid)
        ]
    if transform == "geodesic":
        return [Statistic(f"k = {k}", _nearest(k)) for k in NEAREST if k < n_stimuli]
    centered = transform == "centered"
    return [Statistic("", lambda x: condense(double_center(x) if centered else x))]


def _thresholds(low: float, high: float) -> Callable[[Tensor], Tensor]:
    return lambda x: geo_topological(condense(x), low, high)


def _nearest(k: int) -> Callable[[Tensor], Tensor]:
    return lambda x: geodesic(condense(x), keep="k_nearest", amount=k)


class Training(NamedTuple):
    """What a statistic is chosen or learned from."""

    x: Tensor  # (n_items, n, n), scaled ranks
    region: Tensor  # (n_items,), true numbers
    references: Tensor  # (n_items, n_regions, n_items), as in `match_scores`
    items: Tensor  # numbers of those that count


class LearnedStatistic(nn.Module):
    """A SoftStep of 1 - scaled ranks, the mean of both directions, and a temperature."""

    def __init__(self, transform: str, x: Tensor):  # what the profiles are standardized by
        super().__init__()
        gate = GlobalGate() if transform == "global" else ProfileGate()
        if isinstance(gate, ProfileGate):
            gate = gate.to(x)
            gate.standardize(gate.profile(1 - x).flatten(0, -2))
        self.step = SoftStep(gate).to(x)
        self.log_scale = nn.Parameter(torch.tensor(log(START)).to(x))

    def forward(self, x: Tensor) -> Tensor:
        """Condensed similarities of square RDMs (..., n, n)."""
        stepped = self.step(1 - x)
        return condense((stepped + stepped.mT) / 2)

    def cross_entropy(self, data: Training) -> Tensor:
        """Mean over items, from correlations with the regions' means times a learned number."""
        gram = products(self(data.x), "best_match")
        scores = match_scores(gram, data.references, "best_match", data.items)
        logits = scores * self.log_scale.exp()
        return nn.functional.cross_entropy(logits, data.region.index_select(0, data.items))


def learn(
    transform: str, data: Training, *, learning_rate: float, penalty: float
) -> Iterator[LearnedStatistic]:
    """Give the statistic after 0, 1, 2, ... steps of training; it is always the same object."""
    learned = LearnedStatistic(transform, data.x.index_select(0, data.items))
    optimizer = torch.optim.Adam(learned.parameters(), lr=learning_rate)
    while True:
        yield learned
        loss = learned.cross_entropy(data)
        if not loss.isfinite():
            raise FitError(
                f"The cross-entropy of the {transform} transform became {loss.item()}. "
                "Are there constant RDMs, or is `learning_rate` too high?"
            )
        optimizer.zero_grad()
        (loss + penalty * learned.step.gate.penalty()).backward()
        optimizer.step()


def choose_fixed(found: list[Statistic], data: Training, rule: Rule) -> tuple[Statistic, Tensor]:
    """Take the statistic that identifies most of the items, and say what share each does.

    Among equals, the one whose true regions stand out most from the best other ones.
    """
    shares, margins = [], []
    for statistic in found:
        gram = products(statistic.function(data.x), rule)
        scores = match_scores(gram, data.references, rule, data.items)
        true = data.region.index_select(0, data.items).unsqueeze(-1)
        own = scores.gather(-1, true).squeeze(-1)
        other = scores.scatter(-1, true, -torch.inf).amax(-1)
        shares.append((own > other).to(scores.dtype).mean())
        spread = scores.std().clamp_min(torch.finfo(scores.dtype).tiny)
        margins.append(((own - other) / spread).mean())
    share = torch.stack(shares)
    best = torch.where(
        share == share.max(), torch.stack(margins).nan_to_num(-torch.inf), -torch.inf
    )
    return found[int(best.argmax())], share
