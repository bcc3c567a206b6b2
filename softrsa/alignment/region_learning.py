"""SoftSteps trained to tell regions apart, and for how many steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from math import log
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from softrsa.alignment.identification_items import Items
from softrsa.alignment.matching import Rule, match_scores, products
from softrsa.alignment.region_statistics import (
    Statistic,
    Training,
    Views,
    all_products,
    choose_fixed,
)
from softrsa.errors import FitError
from softrsa.pairs import condense
from softrsa.transforms import GlobalGate, ProfileGate, SoftStep, double_center

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
    seen = Views(*(x.float() for x in seen))

    def training(kept: list[int]) -> Training:
        references = items.references([s for s in everyone if s not in kept])
        return Training(seen, items.region, references.float(), items.of(kept))

    every = training(subjects)
    base = _best_base(transform, every, fitting.rule)
    order = np.random.default_rng(fitting.seed).permutation(subjects)
    # a part to train on needs two subjects, each of which is matched with the other
    parts = np.array_split(order, 2 if len(order) > 3 else len(order))
    stops = sorted({0, *fitting.steps})
    losses = torch.zeros(len(stops))
    for part in (part.tolist() for part in parts):
        data = training([s for s in subjects if s not in part])
        left_out = data._replace(items=items.of(part))
        path = learn(transform, base, data, fitting)
        for step, learned in zip(range(stops[-1] + 1), path, strict=False):
            if step in stops:
                with torch.no_grad():
                    losses[stops.index(step)] += learned.cross_entropy(left_out)
    n_steps = stops[int(losses.argmin())]
    path = learn(transform, base, every, fitting)
    learned = next(learned for step, learned in enumerate(path) if step == n_steps)

    @torch.no_grad()
    def function(seen: Views) -> Tensor:
        return learned(Views(*(x.float() for x in seen))).double()

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
    transform: str, base: Base, data: Training, fitting: Fitting
) -> Iterator[LearnedStatistic]:
    """Give the statistic after 0, 1, 2, ... steps of training; it is always the same object."""
    learned = LearnedStatistic(transform, base, data.seen.of_items(data.items))
    optimizer = torch.optim.Adam(learned.parameters(), lr=fitting.learning_rate)
    generator = torch.Generator().manual_seed(fitting.seed)
    n_stimuli = data.seen.ranks.shape[-1]
    while True:
        yield learned
        stimuli = torch.randperm(n_stimuli, generator=generator)[:MOST_STIMULI]
        loss = learned.cross_entropy(data._replace(seen=data.seen.of_stimuli(stimuli)))
        if not loss.isfinite():
            raise FitError(
                f"The cross-entropy of the {transform} transform became {loss.item()}. "
                "Are there constant RDMs, or is `learning_rate` too high?"
            )
        optimizer.zero_grad()
        (loss + fitting.penalty * learned.step.gate.penalty()).backward()
        optimizer.step()
