"""Gates of both sides by gradient descent, on all training stimuli in tiles or on minibatches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import cast

import torch
from torch import Tensor, nn

from softrsa._processes import Ranks
from softrsa.alignment.embedding import Embedding
from softrsa.alignment.paths import (
    ENTRIES_FLOOR,
    PAIRS_FLOOR,
    VARIANCE_FLOOR,
    Path,
    Plan,
    Problem,
    Tiling,
    embeddings_of,
)
from softrsa.alignment.side_transforms import SoftGate
from softrsa.alignment.tiled.moments import TransformedRSM, power_sums
from softrsa.alignment.tiled.objective import Placed, apply_transform, compare, place, with_first
from softrsa.alignment.tiled.scaling import raw_bounds
from softrsa.alignment.tiled.sides import TiledSide
from softrsa.errors import DataError
from softrsa.transforms import (
    EmbeddingGate,
    Gate,
    GlobalGate,
    ProfileGate,
    SoftStep,
    StepParameters,
)


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
        """As `softrsa.alignment.paths.is_degenerate`, of any RSM of the training stimuli."""
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
