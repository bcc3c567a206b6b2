"""What is computed of RDMs before they are matched: the fixed statistics, and how one is chosen."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from softrsa._ranks import average_ranks
from softrsa.alignment.matching import Rule, match_scores, products
from softrsa.alignment.side_transforms import threshold_grid
from softrsa.pairs import condense, expand
from softrsa.transforms import ProfileGate, double_center, geo_topological, geodesic

TRANSFORMS = ("identity", "centered", "geo_topological", "geodesic", "global", "instance")
LEARNED = ("global", "instance")
NEAREST = (1, 2, 3, 5, 8, 12)  # neighbors whose edges a geodesic transform keeps


class Views(NamedTuple):
    """RDMs of some stimuli as the transforms see them."""

    ranks: Tensor  # (n_items, n, n), of the dissimilarities of each RDM, from 0 to 1
    nearness: Tensor  # (n_items, n, n), 1 - ranks within each anchor's row, from 0 to 1
    profiles: Tensor  # (n_items, n, n_quantiles), of each anchor's dissimilarities, negated

    def of_stimuli(self, stimuli: Tensor) -> Views:
        """Take some of the stimuli, ranked as they are among all."""
        square = (x.index_select(1, stimuli).index_select(2, stimuli) for x in self[:2])
        return Views(*square, profiles=self.profiles.index_select(1, stimuli))

    def of_items(self, items: Tensor) -> Views:
        """Take some of the RDMs."""
        return Views(*(x.index_select(0, items) for x in self))


def views(rdms: Tensor) -> Views:
    """Rank and scale RDMs (n_items, n, n), none of them constant."""
    n = rdms.shape[-1]
    ranks = average_ranks(condense(rdms))
    low, high = ranks.amin(-1, keepdim=True), ranks.amax(-1, keepdim=True)
    off = ~torch.eye(n, dtype=torch.bool)
    within = average_ranks(rdms[:, off].unflatten(-1, (n, n - 1))) - 1
    nearness = torch.ones_like(rdms)
    nearness[:, off] = 1 - within.flatten(-2) / (n - 2)
    return Views(
        expand((ranks - low) / (high - low)),
        nearness,
        ProfileGate().profile(-rdms),
    )


class Statistic(NamedTuple):
    """A function from views of RDMs to condensed ones, and its name."""

    name: str
    function: Callable[[Views], Tensor]


def candidates(transform: str, n_stimuli: int, grid: int) -> list[Statistic]:
    """All fixed statistics of a transform among which the training data choose.

    ``n_stimuli`` is the number in the smallest RDM they must suit.
    """
    if transform == "geo_topological":
        return [
            Statistic(f"l = {low:g}, u = {high:g}", _thresholds(low, high))
            for low, high in threshold_grid(grid)
        ]
    if transform == "geodesic":
        return [Statistic(f"k = {k}", _nearest(k)) for k in NEAREST if k < n_stimuli]
    if transform == "centered":
        return [Statistic("", lambda seen: condense(double_center(seen.ranks)))]
    return [Statistic("", lambda seen: condense(seen.ranks))]


def _thresholds(low: float, high: float) -> Callable[[Views], Tensor]:
    return lambda seen: geo_topological(condense(seen.ranks), low, high)


def _nearest(k: int) -> Callable[[Views], Tensor]:
    return lambda seen: geodesic(condense(seen.ranks), keep="k_nearest", amount=k)


class Training(NamedTuple):
    """What a statistic is chosen or learned from."""

    seen: Views
    region: Tensor  # (n_items,), true numbers
    references: Tensor  # (n_items, n_regions, n_items), as in `match_scores`
    items: Tensor  # numbers of those that count


def all_products(found: list[Statistic], seen: Views, rule: Rule) -> list[Tensor]:
    """Inner products of all RDMs under each statistic."""
    return [products(statistic.function(seen), rule) for statistic in found]


def choose_fixed(
    found: list[Statistic], grams: list[Tensor], data: Training, rule: Rule
) -> tuple[Statistic, Tensor]:
    """Take the statistic that identifies most of the items, and say what share each does.

    Among equals, the one whose true regions stand out most from the best other ones. ``grams`` are
    from `all_products`.
    """
    shares, margins = [], []
    true = data.region.index_select(0, data.items).unsqueeze(-1)
    for gram in grams:
        scores = match_scores(gram, data.references, rule, data.items)
        defined = ~scores.isnan()
        known = scores.masked_fill(~defined, -torch.inf)
        own = known.gather(-1, true).squeeze(-1)
        other = known.scatter(-1, true, -torch.inf).amax(-1)
        right = (own > other).to(scores.dtype)
        shares.append(right.mean() if defined.any() else right.new_tensor(torch.nan))
        margin = (own - other)[own.isfinite() & other.isfinite()]
        spread = scores[defined].std().clamp_min(torch.finfo(scores.dtype).tiny)
        margins.append(margin.sum() / len(own) / spread)
    share = torch.stack(shares)
    best = share.nan_to_num(-1.0)
    margin = torch.stack(margins).nan_to_num(-torch.inf)
    return found[int(torch.where(best == best.max(), margin, -torch.inf).argmax())], share
