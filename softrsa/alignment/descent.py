"""Many small fits at once: gates of both sides by gradient descent, stopped at several points."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from softrsa._processes import ALONE, Ranks
from softrsa._threads import map_on_cores
from softrsa.alignment.embedding import Embedding
from softrsa.alignment.responses import Side, TiledSide
from softrsa.alignment.settings import FitSettings
from softrsa.errors import DataError
from softrsa.measures import Measure
from softrsa.tiled.moments import TransformedRSM, power_sums
from softrsa.tiled.scaling import raw_bounds
from softrsa.tiled.scores import Placed, apply_transform, compare, place, with_first
from softrsa.transforms import (
    EmbeddingGate,
    Gate,
    GlobalGate,
    ProfileGate,
    SoftStep,
    StepParameters,
)
from softrsa.transforms.on_rsms import SoftGate

# Entries of the brain-side RSMs of one batch. Below it the working set stays near the cores'
# caches; a larger batch is slower per fit, a smaller one spends its time in Python.
BATCH_ENTRIES = 300_000
VARIANCE_FLOOR = 0.01  # of the scaled RSM's variance: less is a transform that has collapsed
PAIRS_FLOOR = 0.01  # of the pairs, as the participation ratio of their squares
ENTRIES_FLOOR = 3.0  # in any case: two entries are one pair of a symmetric matrix


@dataclass(frozen=True)
class Tiling:
    """How a fit in tiles goes about it.

    Attributes
    ----------
    batch_size : int, optional
        Stimuli of each step, drawn anew with ``seed``; all training stimuli by default.
    ranks : Ranks
        Processes that share the tiles.
    """

    batch_size: int | None = None
    seed: int = 0
    ranks: Ranks = ALONE


@dataclass(frozen=True)
class Plan:
    """How to fit: a measure to score with, a differentiable one to fit with, scaling per side.

    With a ``tiling``, sides are `softrsa.alignment.responses.TiledSide`.
    """

    scored: Measure
    fitted: Measure
    scaling: tuple[str, str]
    settings: FitSettings
    tiling: Tiling | None = None


@dataclass(frozen=True)
class Problem:
    """One fit: both sides over its training stimuli, and optionally over validation stimuli."""

    model: Side
    brain: Side
    train: Tensor
    validation: Tensor | None
    gate: str
    penalty: float


@dataclass(frozen=True)
class Path:
    """What became of one fit at each stopping point.

    ``gates`` holds (model, brain) gates per stopping point, ``embeddings`` what an embedding gate
    reads. ``validation`` is the score per stopping point, -inf where the transform degenerated.
    """

    train: Tensor
    validation: Tensor
    degenerate: Tensor
    gates: tuple[tuple[Gate, Gate], ...]
    embeddings: tuple[Embedding, Embedding] | None


@dataclass
class _Block:
    """A batch of problems over stimuli of one role: scaled RSMs and anchors of both sides."""

    model: Tensor  # (batch, 1, n, n)
    brain: Tensor  # (batch, n_subjects, n, n)
    model_anchors: Tensor | None  # (batch, 1, n, k)
    brain_anchors: Tensor | None  # (batch, n_subjects or 1, n, k)


def fit_paths(
    problems: Sequence[Problem],
    plan: Plan,
    on_step: Callable[[int], object],
) -> list[Path]:
    """Fit all problems, in batches of equal size; ``on_step`` hears how many fits have stepped."""

    def run(members: list[int]) -> list[Path]:
        return _Batch([problems[i] for i in members], plan).run(on_step)

    batches = list(_batches(problems))
    rsms = problems[0].brain.rsms if problems else torch.empty(0)
    entries = max(BATCH_ENTRIES, rsms.numel())
    found_by_batch = map_on_cores(run, batches, entries=entries, device=rsms.device)
    paths: dict[int, Path] = {}
    for members, found in zip(batches, found_by_batch, strict=True):
        paths.update(zip(members, found, strict=True))
    return [paths[i] for i in range(len(problems))]


def _batches(problems: Sequence[Problem]) -> Iterator[list[int]]:
    """Positions of problems that can be stacked, at most `BATCH_ENTRIES` together."""
    groups: dict[tuple, list[int]] = {}
    for i, p in enumerate(problems):
        n_validation = 0 if p.validation is None else len(p.validation)
        groups.setdefault((p.gate, len(p.train), n_validation, len(p.brain.rsms)), []).append(i)
    for (_, n, _, n_subjects), members in groups.items():
        size = max(1, BATCH_ENTRIES // (n * n * n_subjects))
        for start in range(0, len(members), size):
            yield members[start : start + size]


class _Batch:
    """Gates with one leading entry per problem, and the data they see."""

    def __init__(self, problems: list[Problem], plan: Plan):
        self.problems, self.plan = problems, plan
        first = problems[0]
        self.embeddings = (
            [embeddings_of(p, plan.settings.n_components) for p in problems]
            if first.gate == "embedding"
            else None
        )
        gates = [self._gate(first.gate, side).to(first.brain.rsms.device) for side in (0, 1)]
        self.model, self.brain = (
            SoftGate(SoftStep(gate, family=plan.settings.family), how, plan.settings.symmetrize)
            for gate, how in zip(gates, plan.scaling, strict=True)
        )
        self.penalty = torch.tensor([p.penalty for p in problems], device=first.brain.rsms.device)
        self.train = self._block([p.train for p in problems])
        validation = [p.validation for p in problems if p.validation is not None]
        self.validation = self._block(validation) if validation else None

    def _gate(self, kind: str, side: int) -> Gate:
        shape = (len(self.problems), 1)
        if kind == "global":
            return GlobalGate(batch_shape=shape)
        if kind == "profile":
            return ProfileGate(self.plan.settings.n_quantiles, batch_shape=shape)
        pairs = self.embeddings or []
        width = max(1, *(pair[side].components.shape[1] for pair in pairs))
        for pair in pairs:  # where there are fewer, zeros: such a feature never gets a weight
            found = pair[side].components
            pair[side].components = F.pad(found, (0, width - found.shape[1]))
        return EmbeddingGate(width, batch_shape=shape)

    def _block(self, stimuli: list[Tensor]) -> _Block:
        sides = [
            (p.model.take(i), p.brain.take(i)) for p, i in zip(self.problems, stimuli, strict=True)
        ]
        scaled, anchors = [], []
        for k, transform in enumerate((self.model, self.brain)):
            rsms = torch.stack([pair[k].rsms for pair in sides])
            scaled.append(transform.scale(rsms).float())
            anchors.append(self._anchors(transform, scaled[-1], [pair[k] for pair in sides], k))
        return _Block(scaled[0], scaled[1], anchors[0], anchors[1])

    def _anchors(
        self, transform: SoftGate, scaled: Tensor, sides: list[Side], k: int
    ) -> Tensor | None:
        gate = transform.step.gate
        if isinstance(gate, ProfileGate):
            profile = gate.profile(scaled)
            if not hasattr(self, "train"):  # the training block comes first and sets the unit
                gate.standardize(profile.flatten(1, 2).unsqueeze(1))
            return profile
        if self.embeddings is None:
            return None
        return torch.stack(
            [
                pair[k].project(units).unsqueeze(0).float()
                for pair, side in zip(self.embeddings, sides, strict=True)
                if (units := side.all_units()) is not None
            ]
        )

    def _transformed(self, block: _Block) -> tuple[Tensor, Tensor]:
        return (
            self.model.step_scaled(block.model, block.model_anchors),
            self.brain.step_scaled(block.brain, block.brain_anchors),
        )

    def run(self, on_step: Callable[[int], object]) -> list[Path]:
        """Descend to the last stopping point, noting scores and gates at each."""
        parameters = [*self.model.parameters(), *self.brain.parameters()]
        optimizer = torch.optim.Adam(parameters, lr=self.plan.settings.learning_rate)
        train, validation, degenerate, states = [], [], [], []
        gates = self.model.step.gate, self.brain.step.gate
        for step in range(self.plan.settings.stops[-1] + 1):
            if step:
                self._descend(optimizer)
                on_step(len(self.problems))
            if step in self.plan.settings.stops:
                now = self._evaluate()
                for record, value in zip((train, validation, degenerate), now, strict=True):
                    record.append(value)
                states.append([{k: v.clone() for k, v in g.state_dict().items()} for g in gates])
        records = [torch.stack(record, -1).cpu() for record in (train, validation, degenerate)]
        count = len(self.problems)
        return [self._path(i, states, *(record[i] for record in records)) for i in range(count)]

    def _descend(self, optimizer: torch.optim.Optimizer) -> None:
        """Take one step; the problems are independent, so their losses just add up."""
        score = self.plan.fitted.between(*self._transformed(self.train)).mean(-1)
        gates = self.model.step.gate, self.brain.step.gate
        distance = sum(gate.penalty().squeeze(-1) for gate in gates)
        loss = (self.penalty * distance - score).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    @torch.no_grad()
    def _evaluate(self) -> tuple[Tensor, Tensor, Tensor]:
        """Training score, validation score and degeneracy of every problem, as it stands."""
        transformed = self._transformed(self.train)
        train = self.plan.scored.between(*transformed).mean(-1)
        bad = train.isnan()
        for before, after in zip((self.train.model, self.train.brain), transformed, strict=True):
            bad = bad | is_degenerate(before, after).any(-1)
        if self.validation is None:
            return train, torch.full_like(train, torch.nan), bad
        score = self.plan.scored.between(*self._transformed(self.validation)).mean(-1)
        return train, score.nan_to_num(-torch.inf).masked_fill(bad, -torch.inf), bad

    def _path(
        self, i: int, states: list, train: Tensor, validation: Tensor, degenerate: Tensor
    ) -> Path:
        gates = tuple(
            (_single(self.model.step.gate, model, i), _single(self.brain.step.gate, brain, i))
            for model, brain in states
        )
        embeddings = None if self.embeddings is None else self.embeddings[i]
        return Path(train, validation, degenerate, gates, embeddings)


def is_degenerate(before: Tensor, after: Tensor) -> Tensor:
    """Whether a transform of (..., n, n) has kept next to no variance, or next to no pairs."""
    n = before.shape[-1]
    diagonal = torch.eye(n, dtype=torch.bool, device=before.device)
    count = n * (n - 1)

    def deviation(x: Tensor) -> Tensor:
        mean = x.masked_fill(diagonal, 0).sum((-2, -1), keepdim=True) / count
        return (x - mean).masked_fill(diagonal, 0)

    squares = deviation(after).square()
    total = squares.sum((-2, -1))
    kept = total / deviation(before).square().sum((-2, -1))
    entries = total.square() / squares.square().sum((-2, -1))
    floor = max(PAIRS_FLOOR * count, ENTRIES_FLOOR)
    return ~((kept >= VARIANCE_FLOOR) & (entries >= floor))  # NaN is degenerate too


def embeddings_of(problem: Problem, n_components: int) -> tuple[Embedding, Embedding]:
    """Principal components of both sides' units over the training stimuli."""
    sides = (problem.model.all_units(), problem.brain.all_units())
    model, brain = (Embedding.fit(u[problem.train], n_components) for u in sides if u is not None)
    return model, brain


def _single(batched: Gate, state: dict[str, Tensor], i: int) -> Gate:
    """Gate number ``i`` of a batch, on its own."""
    if isinstance(batched, GlobalGate):
        gate: Gate = GlobalGate()
    elif isinstance(batched, ProfileGate):
        gate = ProfileGate(batched.n_features)
    else:
        gate = EmbeddingGate(batched.n_features, batched.hidden)
    shared = {"identity_logits"}
    gate.load_state_dict({k: v if k in shared else v[i, 0] for k, v in state.items()})
    return gate.requires_grad_(False).to(batched.bias.device)


def fit_tiled_paths(
    problems: Sequence[Problem], plan: Plan, on_step: Callable[[int], object]
) -> list[Path]:
    """Fit problems one after the other: each fills the machine, or all of its ranks."""
    return [_TiledFit(problem, plan).run(on_step) for problem in problems]


@torch.no_grad()
def score_tiled(
    transforms: tuple[nn.Module, nn.Module],
    sides: tuple[TiledSide, TiledSide],
    measure: str,
    *,
    anchors: tuple[Tensor | None, Tensor | None] = (None, None),
    ranks: Ranks,
) -> float:
    """Mean score over subjects of transformed RSMs."""
    kind = torch.promote_types(sides[0].dtype, sides[1].dtype)
    placed = [
        place(rsm, transform, anchor, ranks)
        for transform, side, anchor in zip(transforms, sides, anchors, strict=True)
        for rsm in side.rsms(kind, keep=False)
    ]
    both = transforms[0], *[transforms[1]] * len(sides[1].units)
    return float(_score(placed, both, measure, ranks))


def _score(
    placed: Sequence[Placed], transforms: Sequence[nn.Module], measure: str, ranks: Ranks
) -> Tensor:
    """Mean score of the first RSM with all others."""
    sides = [apply_transform(*both, measure) for both in zip(placed, transforms, strict=True)]
    products = compare(sides, with_first(len(sides)), ranks)
    return torch.stack([products.score(measure, 0, k) for k in range(1, len(sides))]).mean()


class _TiledFit:
    """One problem: gates, and the data they see."""

    def __init__(self, problem: Problem, plan: Plan):
        self.plan, self.tiling = plan, plan.tiling or Tiling()
        self.sides = cast(tuple[TiledSide, TiledSide], (problem.model, problem.brain))
        self.penalty = problem.penalty
        self.embeddings = (
            embeddings_of(problem, plan.settings.n_components)
            if problem.gate == "embedding"
            else None
        )
        device = self.sides[0].units[0].device
        gates = [self._gate(problem.gate, k).to(device) for k in (0, 1)]
        self.transforms = [
            SoftGate(SoftStep(gate, family=plan.settings.family), how, plan.settings.symmetrize)
            for gate, how in zip(gates, plan.scaling, strict=True)
        ]
        self.train = problem.train
        self.training = self._block(problem.train)
        self._standardize()
        held_out = problem.validation
        self.validation = None if held_out is None else self._block(held_out, keep=False)
        self.generator = torch.Generator().manual_seed(self.tiling.seed)

    def _gate(self, kind: str, side: int) -> Gate:
        if kind == "global":
            return GlobalGate()
        if kind == "profile":
            return ProfileGate(self.plan.settings.n_quantiles)
        return EmbeddingGate(max(1, self._embedding(side).components.shape[1]))

    def _embedding(self, side: int) -> Embedding:
        if self.embeddings is None:
            raise DataError("An embedding gate needs units on both sides.")
        return self.embeddings[side]

    @torch.no_grad()
    def _block(self, stimuli: Tensor, *, keep: bool = True) -> list[Placed]:
        """Place the RSMs of some stimuli: the model's, then each subject's."""
        placed = []
        for k, (side, transform) in enumerate(zip(self.sides, self.transforms, strict=True)):
            part = side.take(stimuli)
            anchors = None
            if self.embeddings is not None:
                anchors = self._embedding(k).project(part.all_units()).float()
            placed += [
                place(rsm, transform, anchors, self.tiling.ranks)
                for rsm in part.rsms(torch.float32, keep=keep)
            ]
        return placed

    def _standardize(self) -> None:
        """Let profiles of the training stimuli set the unit of a gate's features."""
        for transform, block in zip(
            self.transforms, (self.training[:1], self.training[1:]), strict=True
        ):
            profiles = [placed.anchors for placed in block if placed.anchors is not None]
            if isinstance(transform.step.gate, ProfileGate):
                transform.step.gate.standardize(torch.cat(profiles))

    def run(self, on_step: Callable[[int], object]) -> Path:
        """Descend to the last stopping point, noting scores and gates at each."""
        gates = [transform.step.gate for transform in self.transforms]
        parameters = [p for gate in gates for p in gate.parameters()]
        optimizer = torch.optim.Adam(parameters, lr=self.plan.settings.learning_rate)
        stops = self.plan.settings.stops
        records: list[tuple[Tensor, Tensor, Tensor]] = []
        kept: list[tuple[Gate, Gate]] = []
        for step in range(stops[-1] + 1):
            if step:
                self._descend(optimizer, gates)
                on_step(1)
            if step in stops:
                records.append(self._evaluate())
                model, brain = (deepcopy(gate).requires_grad_(False) for gate in gates)
                kept.append((model, brain))
        train, validation, bad = (torch.stack(column) for column in zip(*records, strict=True))
        return Path(train, validation, bad, tuple(kept), self.embeddings)

    @torch.enable_grad()
    def _descend(self, optimizer: torch.optim.Optimizer, gates: Sequence[Gate]) -> None:
        distance = torch.stack([gate.penalty() for gate in gates]).sum()
        score = self._mean_score(self._batch(), self.plan.fitted.name)
        optimizer.zero_grad()
        (self.penalty * distance - score).backward()
        optimizer.step()

    def _batch(self) -> list[Placed]:
        """Stimuli of one step: all, or as many as a minibatch has, drawn anew."""
        size = self.tiling.batch_size
        if size is None or size >= len(self.train):
            return self.training
        drawn = torch.randperm(len(self.train), generator=self.generator)[:size]
        return self._block(self.train[drawn])

    def _mean_score(self, block: Sequence[Placed], measure: str) -> Tensor:
        transforms = [self.transforms[0], *[self.transforms[1]] * (len(block) - 1)]
        return _score(block, transforms, measure, self.tiling.ranks)

    @torch.no_grad()
    def _evaluate(self) -> tuple[Tensor, Tensor, Tensor]:
        """Training score, validation score and degeneracy, as it stands."""
        train = self._mean_score(self.training, self.plan.scored.name)
        bad = train.isnan() | self._degenerate()
        if self.validation is None:
            return train, torch.full_like(train, torch.nan), bad
        score = self._mean_score(self.validation, self.plan.scored.name)
        return train, score.nan_to_num(-torch.inf).masked_fill(bad, -torch.inf), bad

    def _degenerate(self) -> Tensor:
        """As `softrsa.alignment.descent.is_degenerate`, of any RSM of the training stimuli."""
        transforms = [self.transforms[0], *[self.transforms[1]] * (len(self.training) - 1)]
        after = [
            apply_transform(placed, transform, self.plan.scored.name).transformed
            for placed, transform in zip(self.training, transforms, strict=True)
        ]
        sums = power_sums([*map(_scaled, self.training), *after], self.tiling.ranks)
        n = self.training[0].rsm.n
        count = n * (n - 1)
        mean = sums[:, 0] / count
        squares = sums[:, 1] - count * mean**2
        fourth = sums[:, 3] - 4 * mean * sums[:, 2] + 6 * mean**2 * sums[:, 1] - 3 * count * mean**4
        before, now = squares.view(2, -1)
        entries = now**2 / fourth.view(2, -1)[1]
        floor = max(PAIRS_FLOOR * count, ENTRIES_FLOOR)
        return ~((now >= VARIANCE_FLOOR * before) & (entries >= floor)).all()


def _scaled(placed: Placed) -> TransformedRSM:
    """Similarities scaled to [0, 1] and nothing else: the first family as a linear ramp."""
    if placed.scale is None:
        return TransformedRSM(placed.rsm)
    zero = torch.zeros_like(placed.scale.low)
    ramp = raw_bounds(placed.scale, StepParameters(zero, zero + 1, zero + 1))
    parameters = tuple(p.expand(placed.rsm.n) for p in ramp)
    unit = float(placed.scale.width.max())
    return TransformedRSM(placed.rsm, "s1", parameters, unit, symmetrize=False)
