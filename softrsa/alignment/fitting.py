"""From training stimuli to transforms: baselines, learned ones, and the choice among them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from softrsa._processes import Ranks
from softrsa._threads import map_on_cores
from softrsa.alignment.descent import Path, Plan, Problem, fit_paths, fit_tiled_paths, score_tiled
from softrsa.alignment.embedding import Embedding
from softrsa.alignment.responses import Side, TiledSide
from softrsa.alignment.settings import SMALLEST_BLOCK, FitSettings, Split, stimulus_folds
from softrsa.errors import DataError, FitError, unknown_name
from softrsa.measures import Measure, get
from softrsa.pairs import expand
from softrsa.rsm import SIMILARITIES
from softrsa.transforms import SoftStep
from softrsa.transforms.geo_topological import geo_topological_grid
from softrsa.transforms.on_rsms import (
    Centered,
    HardGT,
    Identity,
    SoftGate,
    threshold_grid,
)

FIXED = ("identity", "centered", "geo_topological")
LEARNED = ("global", "instance")
TRANSFORMS = (*FIXED, *LEARNED, "selected")  # in order of complexity


@dataclass(frozen=True)
class Task:
    """Both sides, and the stimuli to learn from."""

    model: Side
    brain: Side
    train: Tensor


@dataclass(frozen=True)
class Fitted:
    """A transform for each side, fitted on training stimuli.

    Attributes
    ----------
    name : str
        One of `TRANSFORMS`; for "selected", ``chosen`` says which.
    model, brain : Module
        Take RSMs (..., n, n) and anchors.
    embeddings : pair of Embedding, or None
        What an embedding gate reads: units of either side -> anchors.
    train_score : float
        Mean over subjects on the training stimuli.
    inner_scores : Tensor, shape (inner_folds,)
        Validation scores that the choice was made on; empty where nothing was chosen.
    gate, penalty, n_steps
        What was chosen for a learned transform ("" , NaN and 0 otherwise).
    degenerate : bool
        Whether the fit collapsed at the chosen step and an earlier one was taken.
    path : Tensor, shape (2, n_stops), or None
        Of a learned transform: the training score and the mean validation score over inner folds at
        every number of steps at which the fit may stop; NaN where it had collapsed.
    """

    name: str
    chosen: str
    model: nn.Module
    brain: nn.Module
    embeddings: tuple[Embedding, Embedding] | None
    train_score: float
    inner_scores: Tensor
    gate: str = ""
    penalty: float = float("nan")
    n_steps: int = 0
    degenerate: bool = False
    path: Tensor | None = None

    def side_anchors(self, side: Side, which: str) -> Tensor | None:
        """Embeddings of the stimuli of the "model" or "brain", where its gate reads any."""
        if self.embeddings is None:
            return None
        units = side.all_units()
        if units is None:
            raise DataError(
                f"The {which}'s gate reads embeddings of units (features or recordings), got RDMs."
            )
        embedding = self.embeddings[0 if which == "model" else 1]
        return embedding.project(units).to(side.rsms.dtype)

    @torch.no_grad()
    def transformed(
        self, model: Side, brain: Side, readers: Side | None = None
    ) -> tuple[Tensor, Tensor]:
        """RSMs of both sides after the transform: (1, n, n) and (n_subjects, n, n).

        The brain's embedding reads ``readers``, the subjects fitted on; ``brain`` by default.
        """
        return (
            self.model(model.rsms, self.side_anchors(model, "model")),
            self.brain(brain.rsms, self.side_anchors(readers or brain, "brain")),
        )

    def score_tiled(self, model: TiledSide, brain: TiledSide, measure: str, ranks: Ranks) -> float:
        """Mean score over subjects of the transformed RSMs, which are never held."""
        sides = model, brain
        anchors: tuple[Tensor | None, Tensor | None] = None, None
        if self.embeddings is not None:
            parts = zip(self.embeddings, sides, strict=True)
            of_model, of_brain = (embedding.project(side.all_units()) for embedding, side in parts)
            anchors = of_model, of_brain
        both = self.model, self.brain
        return score_tiled(both, sides, measure, anchors=anchors, ranks=ranks)


def fit_transforms(
    tasks: Sequence[Task],
    names: Sequence[str],
    plan: Plan,
    *,
    seed: int,
    on_step: Callable[[int], object],
) -> list[dict[str, Fitted]]:
    """Fit the named transforms for every task, all learned ones as batches."""
    wanted = _candidates(names)
    needs_choice = "selected" in names or any(name in LEARNED for name in wanted)
    splits = [_inner_splits(task, plan.settings, seed) if needs_choice else [] for task in tasks]

    def fixed(case: tuple[Task, list[Split]]) -> dict[str, Fitted]:
        on_step(0)  # lets the progress bar appear while thresholds are searched
        return {name: _fixed(name, *case, plan) for name in wanted if name in FIXED}

    cases = list(zip(tasks, splits, strict=True))
    if plan.tiling is not None:  # whose tiles are shared among the cores
        results = [fixed(case) for case in cases]
    else:
        rsms = tasks[0].brain.rsms
        results = map_on_cores(fixed, cases, entries=rsms.numel(), device=rsms.device)
    for name in (name for name in wanted if name in LEARNED):
        fits = _learned(name, tasks, splits, plan, on_step)
        for result, fitted in zip(results, fits, strict=True):
            result[name] = fitted
    if "selected" in names:
        for result in results:
            result["selected"] = replace(one_standard_error(list(result.values())), name="selected")
    return [{name: result[name] for name in names} for result in results]


def count_fit_steps(tasks: Sequence[Task], names: Sequence[str], settings: FitSettings) -> int:
    """How many single-fit steps `fit_transforms` will take, for a progress bar."""
    total = 0
    for name in (name for name in _candidates(names) if name in LEARNED):
        for task in tasks:
            combinations = len(_gates(name, task, settings)) * len(settings.penalties)
            total += (combinations * _n_inner(task, settings) + 1) * settings.steps[-1]
    return total


def one_standard_error(candidates: Sequence[Fitted]) -> Fitted:
    """Choose the simplest candidate not worse than the best by more than one standard error.

    The error is that of the paired differences over inner folds; candidates are in order of
    complexity.
    """
    scores = torch.stack([c.inner_scores for c in candidates])
    means = scores.mean(1)
    best = int(means.nan_to_num(-torch.inf).argmax())
    loss = scores[best] - scores
    error = loss.std(1) / scores.shape[1] ** 0.5
    eligible = loss.mean(1) <= error
    eligible[best] = True
    return candidates[int(eligible.int().argmax())]


def _candidates(names: Sequence[str]) -> list[str]:
    """List transforms to fit, simplest first; "selected" alone chooses among all."""
    named = [name for name in TRANSFORMS if name in names and name != "selected"]
    return named or [*FIXED, *LEARNED]


def _n_inner(task: Task, settings: FitSettings) -> int:
    return min(settings.inner_folds, len(task.train) // SMALLEST_BLOCK)


def _inner_splits(task: Task, settings: FitSettings, seed: int) -> list[Split]:
    n_inner = _n_inner(task, settings)
    if n_inner < 2 or len(task.train) - len(task.train) // n_inner < SMALLEST_BLOCK:
        raise DataError(
            f"Learned transforms need at least {2 * SMALLEST_BLOCK} training stimuli to choose on, "
            f"got {len(task.train)}. Use fewer folds, more stimuli, or fixed transforms only "
            f"({', '.join(FIXED)})."
        )
    inner = stimulus_folds(len(task.train), n_inner, seed=seed)
    return [Split(task.train[split.train], task.train[split.test]) for split in inner]


def _fixed(name: str, task: Task, inner: Sequence[Split], plan: Plan) -> Fitted:
    """Fit a fixed transform; only the thresholds of "geo_topological" depend on the data."""

    def score(transform: nn.Module, stimuli: Tensor) -> float:
        model, brain = task.model.take(stimuli), task.brain.take(stimuli)
        if plan.tiling is not None:
            both = cast(tuple[TiledSide, TiledSide], (model, brain))
            name, ranks = plan.scored.name, plan.tiling.ranks
            return score_tiled((transform, transform), both, name, ranks=ranks)
        value = plan.scored.between(transform(model.rsms), transform(brain.rsms)).mean()
        return float(value)

    def fit(stimuli: Tensor) -> nn.Module:
        if name == "geo_topological":
            model, brain = task.model.take(stimuli).rsms, task.brain.take(stimuli).rsms
            return HardGT(*best_threshold(model, brain, plan.scored, plan.settings.grid))
        return Identity() if name == "identity" else Centered()

    transform = fit(task.train)
    inner_scores = torch.tensor([score(fit(split.train), split.test) for split in inner])
    train_score = score(transform, task.train)
    return Fitted(name, name, transform, transform, None, train_score, inner_scores)


def _gates(name: str, task: Task, settings: FitSettings) -> list[str]:
    if name == "global":
        return ["global"]
    has_units = task.model.units is not None and task.brain.units is not None
    gates = [gate for gate in settings.gates if gate != "embedding" or has_units]
    if not gates:
        raise DataError(
            "Embedding gates need units (features or recordings) on both sides, and one side has "
            "RDMs only. Allow profile gates: gates=('profile',)."
        )
    return gates


def _learned(
    name: str,
    tasks: Sequence[Task],
    splits: Sequence[Sequence[Split]],
    plan: Plan,
    on_step: Callable[[int], object],
) -> list[Fitted]:
    """Choose gate, penalty and steps on inner folds; fit again on all training stimuli."""
    keys, problems = [], []
    for i, (task, inner) in enumerate(zip(tasks, splits, strict=True)):
        for gate in _gates(name, task, plan.settings):
            for penalty in plan.settings.penalties:
                keys += [(i, gate, penalty)] * len(inner)
                problems += [Problem(task.model, task.brain, *s, gate, penalty) for s in inner]
    fit = fit_paths if plan.tiling is None else fit_tiled_paths
    paths = fit(problems, plan, on_step)
    choices = [_best_choice(i, keys, paths) for i in range(len(tasks))]
    final = [
        Problem(task.model, task.brain, task.train, None, choice.gate, choice.penalty)
        for task, choice in zip(tasks, choices, strict=True)
    ]
    fits = fit(final, plan, on_step)
    return [
        _chosen_fit(name, path, choice, plan) for path, choice in zip(fits, choices, strict=True)
    ]


class Choice(NamedTuple):
    """What inner folds chose."""

    gate: str
    penalty: float
    stop: int  # position in `FitSettings.stops`
    inner_scores: Tensor  # (inner_folds,), at that stop
    validation: Tensor  # (n_stops,), means over inner folds


def _best_choice(task: int, keys: Sequence[tuple[int, str, float]], paths: list[Path]) -> Choice:
    """Gate, penalty and stopping point with the best mean validation score."""
    by_key: dict[tuple[str, float], list[Tensor]] = {}
    for (i, gate, penalty), path in zip(keys, paths, strict=True):
        if i == task:
            by_key.setdefault((gate, penalty), []).append(path.validation)
    best: Choice | None = None
    for (gate, penalty), scores in by_key.items():
        table = torch.stack(scores)  # (inner_folds, stops)
        stop = int(table.mean(0).argmax())
        if best is None or table[:, stop].mean() > best.inner_scores.mean():
            best = Choice(gate, penalty, stop, table[:, stop].double(), table.mean(0))
    if best is None:
        raise FitError("There was nothing to choose from: no gate, penalty or inner fold.")
    return best


def _chosen_fit(name: str, path: Path, choice: Choice, plan: Plan) -> Fitted:
    """Take the fit at the chosen stopping point, or the last before it that had not collapsed."""
    gate, penalty, stop = choice.gate, choice.penalty, choice.stop
    sound = (~path.degenerate[: stop + 1]).nonzero().flatten()
    if not len(sound):
        raise FitError(
            f"The {name} fit ({gate} gate, penalty {penalty:g}) cannot start: the scaled RSMs have "
            "next to no variance, or one pair has it all. Check them for constant values and "
            "outliers, or use scaling='rank'."
        )
    used = int(sound[-1])
    gates = path.gates[used]
    model, brain = (
        SoftGate(SoftStep(g, family=plan.settings.family), how, plan.settings.symmetrize)
        for g, how in zip(gates, plan.scaling, strict=True)
    )
    return Fitted(
        name,
        name,
        model,
        brain,
        path.embeddings,
        float(path.train[used]),
        choice.inner_scores,
        gate,
        penalty,
        plan.settings.stops[used],
        used != stop,
        _finite_path(path.train, choice.validation),
    )


def _finite_path(train: Tensor, validation: Tensor) -> Tensor:
    """Put both curves together; NaN for what is not a score."""
    both = torch.stack([train.double().cpu(), validation.double().cpu()])
    return both.where(both.isfinite(), torch.nan)


def check_names(transform: str, measure: str, similarity: str) -> None:
    """Refuse unknown names before any work is done."""
    if transform not in TRANSFORMS:
        raise unknown_name("transform", transform, TRANSFORMS)
    get(measure)
    if similarity not in SIMILARITIES:
        raise unknown_name("similarity", similarity, SIMILARITIES)


def make_plan(measure: str, model: Side, brain: Side, settings: FitSettings) -> Plan:
    """Resolve what depends on the data: the measure to fit under and each side's scaling."""
    scored = get(measure)
    fitted: Measure = scored if scored.differentiable else get("centered_pearson")
    how = settings.scaling
    scaling = [
        ("affine" if side.bounded else "minmax") if how == "auto" else how
        for side in (model, brain)
    ]
    return Plan(scored, fitted, (scaling[0], scaling[1]), settings)


@contextmanager
def progress_bar(total: int, shown: bool) -> Iterator[Callable[[int], object]]:
    """Show a tqdm bar over fit steps, after a second; yields what advances it."""
    from tqdm import tqdm

    with tqdm(
        total=total,
        disable=not shown or not total,
        desc="fitting transforms",
        unit="step",
        unit_scale=True,
        delay=1,
        mininterval=0.5,
    ) as bar:
        yield bar.update


def best_threshold(
    model: Tensor, brain: Tensor, measure: Measure, steps: int
) -> tuple[float, float]:
    """Thresholds (l, u), the same for both sides, with the highest training score.

    ``model`` is (1, n, n), ``brain`` (n_subjects, n, n).
    """
    grid = threshold_grid(steps)
    low, high = torch.tensor(grid, dtype=torch.float64).T
    scores = []
    for part in geo_topological_grid(1 - torch.cat([model, brain]), low, high):
        if measure.takes in ("vectors", "pairs"):
            of_model, of_brain = (1 - part).split([1, len(brain)], dim=1)
            scores.append(measure(of_model, of_brain).mean(-1))
        else:
            of_model, of_brain = (1 - expand(part)).split([1, len(brain)], dim=1)
            scores.append(measure.between(of_model, of_brain).mean(-1))
    return grid[int(torch.cat(scores).nan_to_num(-torch.inf).argmax())]
