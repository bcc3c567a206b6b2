"""What is computed of RDMs before they are matched: the fixed statistics, and how one is chosen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from math import log
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from softrsa._descent import Ascent, first_best
from softrsa._ranks import average_ranks
from softrsa.errors import DataError, FitError
from softrsa.identification.matching import Frame, Items, Rule, match_scores, products
from softrsa.pairs import condense, expand
from softrsa.transforms import (
    GlobalGate,
    ProfileGate,
    SoftStep,
    double_center,
    geo_topological,
    geodesic,
)
from softrsa.transforms.on_rsms import threshold_grid

TRANSFORMS = ("identity", "centered", "geo_topological", "geodesic", "global", "instance")
LEARNED = ("global", "instance")
OF_UNITS = ("framed",)  # need responses, not RDMs alone
EVERY = (*TRANSFORMS, *OF_UNITS)
NO_UNITS = (
    "The transform 'framed' needs units, whose norms and means are not in RDMs: give recordings "
    "(stimulus, unit) with region and subject on their units instead of RDMs, or `units=` beside "
    "RDMs without labels."
)
NEAREST = (1, 2, 3, 5, 8, 12)  # neighbors whose edges a geodesic transform keeps


class Views(NamedTuple):
    """RDMs of some stimuli as the transforms see them."""

    ranks: Tensor  # (n_items, n, n), of the dissimilarities of each RDM, from 0 to 1
    nearness: Tensor  # (n_items, n, n), 1 - ranks within each anchor's row, from 0 to 1
    profiles: Tensor  # (n_items, n, n_quantiles), of each anchor's dissimilarities, negated
    framed: Tensor | None = None  # (n_items, n + 2, n + 2), ranks as above, of framed patterns

    def of_stimuli(self, stimuli: Tensor) -> Views:
        """Take some of the stimuli, ranked as they are among all, without framed RDMs."""
        square = (x.index_select(1, stimuli).index_select(2, stimuli) for x in self[:2])
        return Views(*square, profiles=self.profiles.index_select(1, stimuli))

    def of_items(self, items: Tensor) -> Views:
        """Take some of the RDMs, without framed ones."""
        return Views(*(x.index_select(0, items) for x in self[:3]))


def views(rdms: Tensor, frame: Frame | None = None) -> Views:
    """Rank and scale RDMs (n_items, n, n), none of them constant, and those of framed patterns."""
    n = rdms.shape[-1]
    off = ~torch.eye(n, dtype=torch.bool)
    within = average_ranks(rdms[:, off].unflatten(-1, (n, n - 1))) - 1
    nearness = torch.ones_like(rdms)
    nearness[:, off] = 1 - within.flatten(-2) / (n - 2)
    return Views(
        _ranked(rdms),
        nearness,
        ProfileGate().profile(-rdms),
        None if frame is None else _ranked(frame.rdms()),
    )


def _ranked(rdms: Tensor) -> Tensor:
    """Ranks of the dissimilarities of each RDM, from 0 to 1."""
    ranks = average_ranks(condense(rdms))
    low, high = ranks.amin(-1, keepdim=True), ranks.amax(-1, keepdim=True)
    return expand((ranks - low) / (high - low))


class Statistic(NamedTuple):
    """A function from views of RDMs to condensed ones, and its name."""

    name: str
    function: Callable[[Views], Tensor]


def candidates(transform: str, n_stimuli: int, grid: int) -> list[Statistic]:
    """All fixed statistics that suit so many stimuli, among which the training data choose."""
    if transform == "geo_topological":
        return [
            Statistic(f"l = {low:g}, u = {high:g}", _thresholds(low, high))
            for low, high in threshold_grid(grid)
        ]
    if transform == "geodesic":
        return [Statistic(f"k = {k}", _nearest(k)) for k in NEAREST if k < n_stimuli]
    if transform == "centered":
        return [Statistic("", lambda seen: condense(double_center(seen.ranks)))]
    if transform == "framed":
        return [Statistic("", _framed)]
    return [Statistic("", lambda seen: condense(seen.ranks))]


def _framed(seen: Views) -> Tensor:
    if seen.framed is None:
        raise DataError(NO_UNITS)
    return condense(seen.framed)


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


START = 20.0  # inverse temperature of correlations in the cross-entropy
ROUNDING = 16  # differences of values from 0 to 1 that are none, in machine precision
MOST_STIMULI = 24  # of a training step, drawn anew for each: quicker, and harder to overfit


class Fitting(NamedTuple):
    """What decides a choice beside the data."""

    rule: Rule
    grid: int
    steps: Sequence[int]
    learning_rate: float
    penalty: float
    seed: int


class Base(NamedTuple):
    """What surrounds a SoftStep."""

    within_rows: bool  # similarities are ranked within each anchor's row, not over the whole RDM
    centered: bool  # what comes out is double-centered

    def start(self, seen: Views) -> Tensor:
        """Similarities (n_items, n, n) from 0 to 1 that a SoftStep gets."""
        return seen.nearness if self.within_rows else 1 - seen.ranks

    def finish(self, stepped: Tensor) -> Tensor:
        """Condensed similarities, the mean of both directions."""
        both = (stepped + stepped.mT) / 2
        return condense(double_center(both) if self.centered else both)

    @property
    def name(self) -> str:
        """For the result."""
        return ("rows, " if self.within_rows else "") + ("centered, " if self.centered else "")


class LearnedStatistic(nn.Module):
    """A SoftStep of similarities, and a temperature."""

    def __init__(self, transform: str, base: Base, seen: Views):
        super().__init__()
        gate = GlobalGate() if transform == "global" else ProfileGate()
        if isinstance(gate, ProfileGate):
            gate.standardize(seen.profiles.flatten(0, -2))
        self.base = base
        self.step = SoftStep(gate).to(seen.ranks)
        self.log_scale = nn.Parameter(torch.tensor(log(START)).to(seen.ranks))

    def forward(self, seen: Views) -> Tensor:
        """Condensed similarities of RDMs."""
        return self.base.finish(self.step(self.base.start(seen), seen.profiles))

    def cross_entropy(self, data: Training) -> Tensor:
        """Mean over items, from correlations with the regions' means times a learned number.

        Regions that no reference has are left out, and so are items of such a region. An item
        that the transform makes constant counts as a guess.
        """
        vectors = self(data.seen)
        varied = vectors.amax(-1) - vectors.amin(-1) > ROUNDING * torch.finfo(vectors.dtype).eps
        region = data.region.index_select(0, data.items)
        there, seen = (
            refs.index_select(0, data.items).sum(-1) > 0
            for refs in (data.references, data.references * varied)
        )
        asked, told = (mask.gather(-1, region[:, None]).squeeze(-1) for mask in (there, seen))
        told = told & varied.index_select(0, data.items)
        guesses = (asked & ~told).sum() * log(data.references.shape[1])
        if not told.any():
            return (guesses + 0 * self.log_scale) / asked.sum().clamp_min(1)
        items, absent = data.items[told], ~seen[told]
        gram = products(vectors, "best_match")
        scores = match_scores(gram, data.references * varied, "best_match", items)
        logits = scores.masked_fill(absent, 0.0) * self.log_scale.exp()
        logits = logits.masked_fill(absent, -torch.inf)
        told_apart = nn.functional.cross_entropy(logits, region[told], reduction="sum")
        return (told_apart + guesses) / asked.sum()


def learned_statistic(
    transform: str, seen: Views, items: Items, subjects: list[int], fitting: Fitting
) -> Statistic:
    """Train on some subjects for as many steps as serve parts of them that are left out.

    Whether the outcome is double-centered and, for instance-wise gates, whether ranks are within
    rows, is what identifies most before training.
    """
    everyone = range(len(items.subjects))

    def training(kept: list[int]) -> Training:
        references = items.references([s for s in everyone if s not in kept])
        return Training(seen, items.region, references, items.of(kept))

    every = training(subjects)
    base = _best_base(transform, every, fitting.rule)
    order = np.random.default_rng(fitting.seed).permutation(subjects)
    # a part to train on needs two subjects, each of which is matched with the other
    parts = np.array_split(order, 2 if len(order) > 3 else len(order))
    stops = sorted({0, *fitting.steps})
    losses = torch.zeros(len(stops), dtype=torch.float64)
    for part in (part.tolist() for part in parts):
        data = training([s for s in subjects if s not in part])
        left_out = data._replace(items=items.of(part))
        for k, learned in enumerate(learn(transform, base, data, fitting, stops)):
            with torch.no_grad():
                losses[k] += learned.cross_entropy(left_out)
    least = first_best(-losses)  # the fewest steps, of a tie
    n_steps = stops[least]
    *_, learned = learn(transform, base, every, fitting, stops[: least + 1])

    @torch.no_grad()
    def function(seen: Views) -> Tensor:
        return learned(seen)

    return Statistic(f"{base.name}{n_steps} steps", function)


def _best_base(transform: str, data: Training, rule: Rule) -> Base:
    found = [
        Base(r, c) for r in (False, True)[: 1 + (transform == "instance")] for c in (False, True)
    ]
    statistics = [Statistic(base.name, partial(_untrained, base)) for base in found]
    grams = all_products(statistics, data.seen, rule)
    return found[statistics.index(choose_fixed(statistics, grams, data, rule)[0])]


def _untrained(base: Base, seen: Views) -> Tensor:
    return base.finish(base.start(seen))


def learn(
    transform: str, base: Base, data: Training, fitting: Fitting, stops: Sequence[int]
) -> Iterator[LearnedStatistic]:
    """Give the statistic after these numbers of steps; it is always the same object."""
    learned = LearnedStatistic(transform, base, data.seen.of_items(data.items)).double()
    n_stimuli = data.seen.ranks.shape[-1]
    noisy = n_stimuli > MOST_STIMULI
    generator = torch.Generator().manual_seed(fitting.seed)
    ascent = Ascent([learned], fitting.learning_rate, batched=False, noisy=noisy)

    def whole(part: Training = data) -> Tensor:
        return -learned.cross_entropy(part) - fitting.penalty * learned.step.gate.penalty()

    def objective() -> Tensor:
        if not noisy:
            return whole()
        stimuli = torch.randperm(n_stimuli, generator=generator)[:MOST_STIMULI]
        return whole(data._replace(seen=data.seen.of_stimuli(stimuli)))

    with torch.no_grad():
        start = whole()
    if not start.isfinite():
        raise FitError(
            f"The cross-entropy of the {transform} transform is {-start.item()}. Are there "
            "constant RDMs?"
        )
    for before, stop in pairwise((0, *stops)):
        for _ in range(stop - before):
            ascent.step(objective)
        ascent.settle(whole)
        yield learned
