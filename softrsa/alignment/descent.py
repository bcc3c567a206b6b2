"""Many small fits at once: gates of both sides by gradient descent, stopped at several points."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from softrsa._descent import TIE, Ascent
from softrsa._groups import Groups
from softrsa._memory import give_back_freed
from softrsa._processes import ALONE, Ranks
from softrsa._threads import map_on_cores
from softrsa.alignment.embedding import Embedding
from softrsa.alignment.responses import Responses
from softrsa.alignment.settings import FitSettings
from softrsa.errors import DataError
from softrsa.measures import Measure
from softrsa.rsm.scaling import Scaling, undefined_where_constant
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
from softrsa.transforms.center import MeansAndSizes
from softrsa.transforms.on_rsms import Identity, SoftGate

# Entries of the brain-side RSMs of one batch. Below it the working set stays near the cores'
# caches; a larger batch is slower per fit, a smaller one spends its time in Python.
BATCH_ENTRIES = 150_000
STEP_STIMULI = 384  # of more than these, each step sees so many, drawn anew
PATIENCE = 3  # stopping points without a better validation score, after which a fit is given up
PATIENT_STEPS = 20  # but not before so many
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
class FitPlan:
    """How to fit: measures to score and to fit with, scaling per side.

    Maps of units are fitted under ``fitted``, the differentiable measure nearest to the one that
    scores; gates under ``gated``, which must not reward a factor per stimulus. With a ``tiling``,
    RSMs are never held whole.
    """

    scored: Measure
    fitted: Measure
    gated: Measure
    scaling: tuple[str, str]
    settings: FitSettings
    tiling: Tiling | None = None
    seed: int = 0
    groups: Groups | None = None  # of stimuli, which inner folds keep whole

    def learns_side(self, side: int) -> bool:
        """Whether gates are learned on the model's side (0), or the brain's (1)."""
        return self.settings.sides in ("both", ("model", "brain")[side])

    def soft_gate(self, gate: Gate | None, scaling: str | Scaling) -> SoftGate | Identity:
        """Make a gate a transform of RSMs; without one, they stay as they are."""
        if gate is None:
            return Identity()
        # tiles are sums of entries, and rows would have to be known before
        keep = self.settings.keep_stimuli and gate.n_features > 0 and self.tiling is None
        step = SoftStep(gate, family=self.settings.family)
        return SoftGate(step, scaling, self.settings.symmetrize, keep=keep)


@dataclass(frozen=True)
class Problem:
    """One fit: both sides over its training stimuli, and optionally over validation stimuli.

    It ends at the stopping point ``last``, or where validation, as the mean over the problems of
    its ``group``, no longer gets better.
    """

    model: Responses
    brain: Responses
    train: Tensor
    validation: Tensor | None
    gate: str
    penalty: float
    last: int
    group: object = None


@dataclass(frozen=True)
class Block:
    """A batch of problems over stimuli of one role: scaled RSMs and anchors of both sides."""

    model: Tensor  # (batch, 1 or n_subjects, n, n)
    brain: Tensor  # (batch, n_subjects, n, n)
    model_anchors: Tensor | None  # (batch, 1 or n_subjects, n, k)
    brain_anchors: Tensor | None  # (batch, n_subjects or 1, n, k)
    model_kept: MeansAndSizes | None  # of each side, where gates keep them
    brain_kept: MeansAndSizes | None

    def at(self, problems: Tensor) -> Block:
        """Keep some problems."""

        def some(x: Tensor | MeansAndSizes | None) -> Any:
            if isinstance(x, MeansAndSizes):
                return MeansAndSizes(x.offsets[problems], x.sizes[problems])
            return None if x is None else x[problems]

        return Block(*map(some, vars(self).values()))

    def of_stimuli(self, stimuli: Tensor) -> Block:
        """Keep some stimuli, the same of every problem."""

        def side(
            rsms: Tensor, anchors: Tensor | None, kept: MeansAndSizes | None
        ) -> tuple[Tensor, Tensor | None, MeansAndSizes | None]:
            rsms = rsms[..., stimuli, :][..., stimuli]
            seen = None if anchors is None else anchors[..., stimuli, :]
            return rsms, seen, None if kept is None else MeansAndSizes.of(rsms)

        model = side(self.model, self.model_anchors, self.model_kept)
        brain = side(self.brain, self.brain_anchors, self.brain_kept)
        return Block(model[0], brain[0], model[1], brain[1], model[2], brain[2])


@dataclass(frozen=True)
class FitTrace:
    """What became of one fit at each stopping point up to that where it ended.

    ``gates`` holds (model, brain) gates per stopping point, None of a side that is left as it is,
    ``embeddings`` what an embedding gate reads, ``scalings`` what brings each side's similarities
    to [0, 1]. ``objective`` and ``validation`` are scores under the measure fitted, of training and
    of validation stimuli, ``train`` and ``held_out`` under the measure in use; of validation
    stimuli -inf where the transform degenerated.
    """

    train: Tensor
    objective: Tensor
    validation: Tensor
    held_out: Tensor
    degenerate: Tensor
    gates: tuple[tuple[Gate | None, Gate | None], ...]
    scalings: tuple[Scaling, Scaling]
    embeddings: tuple[Embedding, Embedding] | None


class Standing(NamedTuple):
    """How problems stand at a stopping point, each (n_problems,); see `FitTrace`."""

    train: Tensor
    objective: Tensor
    validation: Tensor
    held_out: Tensor
    degenerate: Tensor


class Batch(Protocol):
    """Problems that are fitted side by side: see `ascend`."""

    noisy: bool
    patience: int  # stopping points without a score better by ``least``, after which to give up
    least: float

    @property
    def problems(self) -> Sequence[Any]:
        """Each with ``last`` and ``group``."""
        ...

    @property
    def learned(self) -> Sequence[nn.Module]:
        """Modules whose parameters have a leading dimension of problems."""
        ...

    def objective(self) -> Tensor:
        """Score every problem for one step."""
        ...

    def whole_objective(self) -> Tensor:
        """Score every problem on all training stimuli."""
        ...

    def standing(self) -> Standing:
        """How every problem stands now."""
        ...

    def snapshot(self, row: int) -> Any:
        """Copy what a problem has learned by now."""
        ...

    def keep(self, at: Tensor) -> None:
        """Go on with some problems only."""
        ...


def ascend(
    batch: Batch, stops: Sequence[int], rate: float, on_step: Callable[[int], object]
) -> list[tuple[list[Tensor], list[Any]]]:
    """Ascend from stopping point to stopping point, leaving behind the fits that have ended.

    Gives of every problem the columns of `Standing` and what was learned, by stopping point.
    """
    everyone = batch.problems
    standings: list[list[tuple[Tensor, ...]]] = [[] for _ in everyone]
    learned: list[list[Any]] = [[] for _ in everyone]
    active = torch.arange(len(everyone))
    ascent = Ascent(batch.learned, rate, noisy=batch.noisy)
    for k, (before, stop) in enumerate(pairwise((0, *stops))):
        for _ in range(stop - before):
            ascent.step(batch.objective)
            on_step(len(active))
        ascent.settle(batch.whole_objective)
        now = batch.standing()
        if batch.noisy:  # many stimuli: large matrices have come and gone
            give_back_freed()
        for row, i in enumerate(active.tolist()):
            standings[i].append(tuple(value[row].cpu() for value in now))
            learned[i].append(batch.snapshot(row))
        so_far = [standings[i] for i in active.tolist()]
        going = _going_on(batch, so_far, k, stops)
        on_step(sum(stops[everyone[i].last] - stop for i in active[~going].tolist()))
        if not going.any():
            break
        if not going.all():
            batch.keep(going.nonzero().squeeze(1))
            ascent = ascent.keep(going.nonzero().squeeze(1), batch.learned)
            active = active[going]
    columns = [[torch.stack(one) for one in zip(*each, strict=True)] for each in standings]
    return list(zip(columns, learned, strict=True))


def _going_on(
    batch: Batch,
    standings: Sequence[Sequence[tuple[Tensor, ...]]],
    k: int,
    stops: Sequence[int],
) -> Tensor:
    """Which problems go on after stopping point ``k``: groups whole."""
    curves: dict[object, list[Tensor]] = {}
    for problem, one in zip(batch.problems, standings, strict=True):
        validation = torch.stack([standing[2] for standing in one])
        curves.setdefault(problem.group, []).append(validation)
    rule = batch.patience, batch.least
    given_up = {
        group
        for group, found in curves.items()
        if group is not None and given_up_at(torch.stack(found).mean(0), stops, *rule) is not None
    }
    return torch.tensor([p.last > k and p.group not in given_up for p in batch.problems])


def fit_traces(
    problems: Sequence[Problem],
    plan: FitPlan,
    on_step: Callable[[int], object],
) -> list[FitTrace]:
    """Fit all problems, in batches of equal size; ``on_step`` hears how many fits have stepped."""

    def run(members: list[int]) -> list[FitTrace]:
        return _Batch([problems[i] for i in members], plan).run(on_step)

    batches = list(_batches(problems))
    rsms = problems[0].brain.rsms if problems else torch.empty(0)
    entries = max(BATCH_ENTRIES, rsms.numel())
    fitted = map_on_cores(run, batches, entries=entries, device=rsms.device)
    traces: dict[int, FitTrace] = {}
    for members, found in zip(batches, fitted, strict=True):
        traces.update(zip(members, found, strict=True))
    return [traces[i] for i in range(len(problems))]


def _batches(problems: Sequence[Problem]) -> Iterator[list[int]]:
    """Positions of problems that can be stacked, about `BATCH_ENTRIES` together, groups whole."""
    alike: dict[tuple, dict[object, list[int]]] = {}
    for i, p in enumerate(problems):
        n_validation = 0 if p.validation is None else len(p.validation)
        kind = p.gate, len(p.train), n_validation, len(p.brain.rsms), p.last
        group = i if p.group is None else p.group
        alike.setdefault(kind, {}).setdefault(group, []).append(i)
    for (_, n, _, n_subjects, _), groups in alike.items():
        size = max(1, BATCH_ENTRIES // (n * n * n_subjects))
        members: list[int] = []
        for group in groups.values():
            members += group
            if len(members) >= size:
                yield members
                members = []
        if members:
            yield members


class _Batch:
    """Gates with one leading entry per problem, and the data they see."""

    patience, least = PATIENCE, TIE

    def __init__(self, problems: list[Problem], plan: FitPlan):
        self.problems, self.plan = problems, plan
        first = problems[0]
        self.embeddings = (
            [embeddings_of(p, plan.settings.n_components) for p in problems]
            if first.gate == "embedding"
            else None
        )
        device = first.brain.rsms.device
        self._set_gates(
            [
                self._gate(first.gate, side).double().to(device) if plan.learns_side(side) else None
                for side in (0, 1)
            ]
        )
        self.penalty = torch.tensor([p.penalty for p in problems], device=device).double()
        self.scalings: list[Scaling] = []
        self.train = self._block([p.train for p in problems], learn=True)
        validation = [p.validation for p in problems if p.validation is not None]
        self.validation = self._block(validation) if validation else None
        self.noisy = self.train.model.shape[-1] > STEP_STIMULI
        # a stream of its own for each batch would depend on how problems are put together
        self.generator = torch.Generator().manual_seed(plan.seed)

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

    def _block(self, stimuli: list[Tensor], *, learn: bool = False) -> Block:
        """Scale the RSMs of some stimuli; scales and units are learned on the training ones."""
        sides = [
            (p.model.take(i), p.brain.take(i)) for p, i in zip(self.problems, stimuli, strict=True)
        ]
        scaled, anchors = [], []
        for k, (gate, how) in enumerate(zip(self.gates, self.plan.scaling, strict=True)):
            rsms = torch.stack([pair[k].rsms for pair in sides])
            if gate is not None:
                rsms = undefined_where_constant(rsms, how)
            if learn:
                self.scalings.append(Scaling.fit(rsms, how))
            scaled.append(rsms if gate is None else self.scalings[k](rsms))
            profile = None
            if isinstance(gate, ProfileGate):
                profile = gate.profile(scaled[-1])
                if learn:
                    gate.standardize(profile.flatten(1, 2).unsqueeze(1))
            elif gate is not None and self.embeddings is not None:
                profile = self._embedded([pair[k] for pair in sides], k)
            anchors.append(profile)
        kept = [
            MeansAndSizes.of(rsms) if isinstance(transform, SoftGate) and transform.keep else None
            for transform, rsms in zip(self.transforms, scaled, strict=True)
        ]
        return Block(*scaled, *anchors, *kept)

    def _embedded(self, sides: list[Responses], k: int) -> Tensor:
        pairs = zip(self.embeddings or [], sides, strict=True)
        return torch.stack(
            [pair[k].project(side.all_units()).unsqueeze(0).double() for pair, side in pairs]
        )

    def _transformed(self, block: Block) -> tuple[Tensor, Tensor]:
        model, brain = (
            transform.step_scaled(*side) if isinstance(transform, SoftGate) else side[0]
            for transform, side in zip(
                self.transforms,
                (
                    (block.model, block.model_anchors, block.model_kept),
                    (block.brain, block.brain_anchors, block.brain_kept),
                ),
                strict=True,
            )
        )
        return model, brain

    def _set_gates(self, gates: Sequence[Gate | None]) -> None:
        """Make transforms of both sides' gates."""
        self.gates = list(gates)
        self.transforms = [
            self.plan.soft_gate(gate, how)
            for gate, how in zip(gates, self.plan.scaling, strict=True)
        ]

    def run(self, on_step: Callable[[int], object]) -> list[FitTrace]:
        """Fit all problems of the batch."""
        settings, embeddings = self.plan.settings, self.embeddings
        scalings = [(self.scalings[0][i], self.scalings[1][i]) for i in range(len(self.problems))]
        pairs = embeddings or [None] * len(self.problems)
        found = ascend(self, settings.stops, settings.learning_rate, on_step)
        return [
            FitTrace(*columns, gates=tuple(gates), embeddings=pair, scalings=scaling)  # type: ignore[arg-type]
            for (columns, gates), pair, scaling in zip(found, pairs, scalings, strict=True)
        ]

    @property
    def learned(self) -> list[Gate]:
        """Gates of the sides that are learned."""
        return [gate for gate in self.gates if gate is not None]

    def snapshot(self, row: int) -> tuple[Gate | None, Gate | None]:
        """Gates of both sides of one problem."""
        model, brain = (None if gate is None else gate.select((row, 0)) for gate in self.gates)
        return model, brain

    def keep(self, at: Tensor) -> None:
        """Go on with some problems only."""
        self.problems = [self.problems[i] for i in at.tolist()]
        self._set_gates(
            [None if gate is None else gate.select(at).requires_grad_(True) for gate in self.gates]
        )
        self.penalty, self.train = self.penalty[at], self.train.at(at)
        self.validation = None if self.validation is None else self.validation.at(at)

    def objective(self) -> Tensor:
        """Score to raise, less the penalty, of every problem; of many stimuli, of some."""
        n = self.train.model.shape[-1]
        if n <= STEP_STIMULI:
            return self.whole_objective()
        drawn = torch.randperm(n, generator=self.generator)[:STEP_STIMULI]
        return self._objective_of(self.train.of_stimuli(drawn.to(self.train.model.device)))

    def whole_objective(self) -> Tensor:
        """Score to raise, less the penalty, on all training stimuli."""
        return self._objective_of(self.train)

    def _objective_of(self, block: Block) -> Tensor:
        score = self.plan.gated.between(*self._transformed(block)).mean(-1)
        distance = sum(gate.penalty().squeeze(-1) for gate in self.learned)
        return score - self.penalty * distance

    @torch.no_grad()
    def standing(self) -> Standing:
        """How every problem stands now."""
        measures = self.plan.gated, self.plan.scored
        transformed = self._transformed(self.train)
        objective, train = mean_scores(measures, transformed)
        bad = train.isnan()
        for before, after in zip((self.train.model, self.train.brain), transformed, strict=True):
            bad = bad | is_degenerate(before, after).any(-1)
        if self.validation is None:
            unknown = torch.full_like(train, torch.nan)
            return Standing(train, objective, unknown, unknown, bad)
        validation, held_out = (
            score.nan_to_num(-torch.inf).masked_fill(bad, -torch.inf)
            for score in mean_scores(measures, self._transformed(self.validation))
        )
        if self.plan.settings.gate_measure is None:  # the measure in use may have no gradient
            validation = held_out
        return Standing(train, objective, validation, held_out, bad)


def mean_scores(measures: tuple[Measure, Measure], sides: tuple[Tensor, Tensor]) -> list[Tensor]:
    """Score both sides under two measures, as means over subjects; once where they are the same."""
    first = measures[0].between(*sides).mean(-1)
    same = measures[0] is measures[1]
    return [first, first if same else measures[1].between(*sides).mean(-1)]


def given_up_at(
    validation: Tensor, stops: Sequence[int], patience: int = PATIENCE, least: float = TIE
) -> int | None:
    """First stopping point where mean validation scores have not got better for too long.

    Better is by more than ``least``. What comes after is not looked at, whether it was computed, as
    in tiles, or not.
    """
    for k in range(len(validation)):
        so_far = validation[: k + 1].nan_to_num(-torch.inf)
        since_best = k - int((so_far >= so_far.max() - least).int().argmax())
        if stops[k] >= PATIENT_STEPS and since_best >= patience:
            return k
    return None


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
    model, brain = (
        Embedding.fit(side.all_units()[problem.train], n_components)
        for side in (problem.model, problem.brain)
    )
    return model, brain


def fit_tiled_traces(
    problems: Sequence[Problem], plan: FitPlan, on_step: Callable[[int], object]
) -> list[FitTrace]:
    """Fit problems one after the other: each fills the machine, or all of its ranks."""
    return [_TiledFit(problem, plan).run(on_step) for problem in problems]


@torch.no_grad()
def score_tiled(
    transforms: tuple[nn.Module, nn.Module],
    sides: tuple[Responses, Responses],
    measure: str,
    *,
    anchors: tuple[Tensor | None, Tensor | None] = (None, None),
    ranks: Ranks,
) -> float:
    """Mean score over subjects of transformed RSMs."""
    kind = torch.promote_types(sides[0].dtype, sides[1].dtype)
    placed = [
        place(rsm, transform, anchor, ranks, which=i)
        for transform, side, anchor in zip(transforms, sides, anchors, strict=True)
        for i, rsm in enumerate(side.tiles(kind, keep=False))
    ]
    both = transforms[0], *[transforms[1]] * len(sides[1].subjects)
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

    def __init__(self, problem: Problem, plan: FitPlan):
        self.plan, self.tiling = plan, plan.tiling or Tiling()
        self.sides = problem.model, problem.brain
        self.problem = problem
        self.embeddings = (
            embeddings_of(problem, plan.settings.n_components)
            if problem.gate == "embedding"
            else None
        )
        device = self.sides[0].device
        gates = [
            self._gate(problem.gate, k).to(device) if plan.learns_side(k) else None for k in (0, 1)
        ]
        self.transforms = [
            plan.soft_gate(gate, how) for gate, how in zip(gates, plan.scaling, strict=True)
        ]
        self.train = problem.train
        self.training = self._block(problem.train)
        self._learn()
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
                place(rsm, transform, anchors, self.tiling.ranks, which=i)
                for i, rsm in enumerate(part.tiles(torch.float32, keep=keep))
            ]
        return placed

    def _learn(self) -> None:
        """Let the training stimuli set the scales of similarities and the units of profiles."""
        for transform, block in zip(
            self.transforms, (self.training[:1], self.training[1:]), strict=True
        ):
            if not isinstance(transform, SoftGate):
                continue
            if transform.scaling.how == "minmax":
                ends = zip(*(placed.scale for placed in block if placed.scale), strict=True)
                numbers = (torch.stack(one).unsqueeze(-1).detach() for one in ends)
                transform.scaling = Scaling("minmax", tuple(numbers))
            profiles = [placed.anchors for placed in block if placed.anchors is not None]
            if isinstance(transform.step.gate, ProfileGate):
                transform.step.gate.standardize(torch.cat(profiles))

    def run(self, on_step: Callable[[int], object]) -> FitTrace:
        """Ascend from stopping point to stopping point."""
        gates = self._gates()
        noisy = self.tiling.batch_size is not None
        ascent = Ascent(gates, self.plan.settings.learning_rate, batched=False, noisy=noisy)
        stops = self.plan.settings.stops[: self.problem.last + 1]
        standings: list[Standing] = []
        kept: list[tuple[Gate | None, Gate | None]] = []
        for before, stop in pairwise((0, *stops)):
            for _ in range(stop - before):
                ascent.step(self._objective)
                on_step(1)
            ascent.settle(self._whole_objective)
            standings.append(self._standing())
            model, brain = (
                deepcopy(transform.step.gate).requires_grad_(False)
                if isinstance(transform, SoftGate)
                else None
                for transform in self.transforms
            )
            kept.append((model, brain))
        columns = map(torch.stack, zip(*standings, strict=True))
        of_model, of_brain = (
            transform.scaling if isinstance(transform, SoftGate) else Scaling(how)
            for transform, how in zip(self.transforms, self.plan.scaling, strict=True)
        )
        return FitTrace(
            *columns, gates=tuple(kept), scalings=(of_model, of_brain), embeddings=self.embeddings
        )

    def _gates(self) -> list[Gate]:
        """Gates of the sides that are learned."""
        return [one.step.gate for one in self.transforms if isinstance(one, SoftGate)]

    def _objective(self) -> Tensor:
        return self._objective_of(self._batch())

    def _whole_objective(self) -> Tensor:
        return self._objective_of(self.training)

    def _objective_of(self, block: Sequence[Placed]) -> Tensor:
        distance = torch.stack([gate.penalty() for gate in self._gates()]).sum()
        score = self._mean_score(block, self.plan.gated.name)
        return score - self.problem.penalty * distance

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
    def _standing(self) -> Standing:
        """How it stands now."""
        train = self._mean_score(self.training, self.plan.scored.name)
        bad = train.isnan() | self._degenerate()
        if self.validation is None:  # measures of tiles are all fitted under themselves
            unknown = torch.full_like(train, torch.nan)
            return Standing(train, train, unknown, unknown, bad)
        score = self._mean_score(self.validation, self.plan.scored.name)
        held_out = score.nan_to_num(-torch.inf).masked_fill(bad, -torch.inf)
        return Standing(train, train, held_out, held_out, bad)

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
