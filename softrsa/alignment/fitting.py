"""From training stimuli to transforms: baselines, learned ones, and the choice among them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from softrsa._descent import TIE, first_best
from softrsa._groups import Groups
from softrsa._processes import Ranks
from softrsa._threads import map_on_cores
from softrsa._wording import counted
from softrsa.alignment.descent import (
    FitPlan,
    FitTrace,
    Problem,
    fit_tiled_traces,
    fit_traces,
    given_up_at,
    score_tiled,
)
from softrsa.alignment.embedding import Embedding
from softrsa.alignment.feature_scores import score_features
from softrsa.alignment.maps import (
    Description,
    Lesson,
    Mapped,
    count_map_steps,
    learn_maps,
    points_of,
)
from softrsa.alignment.responses import Responses
from softrsa.alignment.settings import (
    SELECTED,
    SMALLEST_BLOCK,
    FitSettings,
    Split,
    baselines,
    splits_of_groups,
    stimulus_folds,
    with_choices,
)
from softrsa.errors import DataError, FitError
from softrsa.measures import (
    Measure,
    balanced_pearson,
    get,
    per_anchor_pearson,
    stimulus_identification,
)
from softrsa.measures.missing import lacks_pairs
from softrsa.rsm.similarity import as_similarity
from softrsa.tiled.scores import tiled_scores
from softrsa.transforms.learned_similarity import LearnedSimilarities
from softrsa.transforms.on_rsms import Chain, SoftGate, Training, Transform

BESIDE_SCORE = {  # what every score stands beside, and the measure that gives it
    "per_anchor_score": per_anchor_pearson,
    "balanced_score": balanced_pearson,
    "identification": stimulus_identification,
}
GUARDS = (balanced_pearson, stimulus_identification)  # what `simplest` looks at beside the score
FEWEST_BESIDE = 5  # stimuli that all of these can score
TOLERANCE = 0.005  # by which these may be lower than those of the best fixed transform


@dataclass(frozen=True)
class Task:
    """Both sides, and the stimuli to learn from."""

    model: Responses
    brain: Responses
    train: Tensor


@dataclass(frozen=True)
class Fitted:
    """A transform for each side, fitted on training stimuli.

    Attributes
    ----------
    name : str
        Of the transform; for "selected", ``chosen`` says which.
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
        Whether the fit had collapsed at the chosen step, so that an earlier one was taken.
    fallback : str
        Name of the best fixed transform, where it stands in for a fit that could not start.
    path : Tensor, shape (2, n_stops), or None
        Of a learned transform: the training score and the mean validation score over inner folds at
        every number of steps at which the fit may stop; NaN where it had collapsed or ended.
    units : Module, or None
        What happens to the model's units (n, n_units) before they become an RSM; a `ModuleList` of
        `LearnedSimilarity`, one or one per subject, where their similarity was learned. In `align`
        these read points (`Responses.points`).
    subjects : tuple of str
        Those it was fitted on. The scales learned of their RSMs are not those of others.
    inner_beside : Tensor, shape (2, inner_folds)
        Balanced Pearson and stimulus identification on the inner folds.
    map_size, map_penalty, map_steps
        What was chosen for a learned similarity (0, NaN and 0 otherwise).
    map_path : Tensor, shape (2, n_map_stops), or None
        As ``path``, of the learned similarity.
    description : Description, or None
        What the learned map does to principal components.
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
    fallback: str = ""
    path: Tensor | None = None
    units: nn.Module | None = None
    subjects: tuple[str, ...] = ()
    inner_beside: Tensor | None = None
    map_size: int = 0
    map_penalty: float = float("nan")
    map_steps: int = 0
    map_path: Tensor | None = None
    description: Description | None = None

    def side_anchors(self, side: Responses, which: str) -> Tensor | None:
        """Embeddings of the stimuli of the "model" or "brain", where its gate reads any."""
        if self.embeddings is None:
            return None
        if side.units is None:
            raise DataError(
                f"The {which}'s gate reads embeddings of units (features or recordings), got RDMs."
            )
        embedding = self.embeddings[0 if which == "model" else 1]
        return embedding.project(side.all_units()).to(side.rsms.dtype)

    def model_side(self, model: Responses, brain: Responses | None = None) -> Responses:
        """Put the model's units through what was fitted to them.

        With a map per subject there is an RSM for each subject of the ``brain``.
        """
        if isinstance(self.units, LearnedSimilarities):
            wanted = self.subjects if brain is None else brain.subjects
            return mapped(model, self.units, self.subjects, wanted)
        return self._changed(model)

    def model_features(self, model: Responses, brain: Responses) -> Responses:
        """As `model_side`, with the features that go with each subject of the ``brain``.

        A subject that no map was fitted to gets those of all maps side by side.
        """
        if not isinstance(self.units, LearnedSimilarities):
            return self._changed(model)
        side = self.model_side(model, brain)
        own = dict(zip(self.subjects, side.units or (), strict=False))
        if len(self.units) == 1 or self.subjects == brain.subjects:
            return side
        units = tuple(own[s] if s in own else side.all_units() for s in brain.subjects)
        return replace(side, units=units)

    def _changed(self, model: Responses) -> Responses:
        """Put the model's units through a module of the user's own."""
        return model if self.units is None else with_units(model, self.units, self.name)

    def transformed(
        self, model: Responses, brain: Responses, readers: Responses | None = None
    ) -> tuple[Tensor, Tensor]:
        """RSMs of both sides after the transform: (1, n, n) and (n_subjects, n, n).

        The brain's embedding reads ``readers``, the subjects fitted on; ``brain`` by default.
        """
        return self.stepped(self.model_side(model, brain), brain, readers)

    @torch.no_grad()
    def stepped(
        self, model: Responses, brain: Responses, readers: Responses | None = None
    ) -> tuple[Tensor, Tensor]:
        """As `transformed`, of a model whose units are transformed already."""
        return (
            self.model(model.rsms, self.side_anchors(model, "model")),
            self.brain_for(brain)(brain.rsms, self.side_anchors(readers or brain, "brain")),
        )

    def brain_for(self, brain: Responses) -> nn.Module:
        """Brain's transform, with scales of their own for subjects other than those fitted on."""
        if not isinstance(self.brain, SoftGate) or brain.subjects == self.subjects:
            return self.brain
        return SoftGate(
            self.brain.step, self.brain.scaling.how, self.brain.symmetrize, keep=self.brain.keep
        )

    def score_tiled(self, model: Responses, brain: Responses, measure: str, ranks: Ranks) -> float:
        """Mean score over subjects of the transformed RSMs, which are never held."""
        both = self.model, self.brain_for(brain)
        anchors = self._tiled_anchors(model, brain)
        return score_tiled(both, (model, brain), measure, anchors=anchors, ranks=ranks)

    def _tiled_anchors(
        self, model: Responses, brain: Responses
    ) -> tuple[Tensor | None, Tensor | None]:
        """Embeddings of both sides' stimuli, where gates read them."""
        if self.embeddings is None:
            return None, None
        parts = zip(self.embeddings, (model, brain), strict=True)
        of_model, of_brain = (embedding.project(side.all_units()) for embedding, side in parts)
        return of_model, of_brain

    def scores_tiled(
        self, model: Responses, brain: Responses, measure: str, ranks: Ranks
    ) -> dict[str, float]:
        """Mean scores over subjects of RSMs never held, with what they stand beside."""
        anchors = self._tiled_anchors(model, brain)
        found = tiled_scores(
            model.all_units(), [*(brain.units or ())], measure=measure,
            model_transform=self.model, brain_transform=self.brain_for(brain),
            model_anchors=anchors[0], brain_anchors=anchors[1],
            similarity=as_similarity(model.similarity).name, distributed=ranks.size > 1,
            beside=True,
        )  # fmt: skip
        return {name: float(each.mean()) for name, each in found.items()}


def check_units(model: Responses, names: str, layer: str) -> Tensor:
    """Give a layer's units, or refuse one without units of its own for a transform of units."""
    if model.units is None:
        raise DataError(
            f"{names} acts on the units of a layer, and {layer} is given as RDMs or RSMs only. "
            "Give its activations, or leave the transform out."
        )
    if model.averaged:
        raise DataError(
            f"{names} acts on the units of a layer, and {layer} is the mean of several subjects' "
            "RSMs. Give one subject's activations, or leave the transform out."
        )
    return model.units[0]


def with_units(model: Responses, transform: nn.Module, name: str) -> Responses:
    """Put a model's units through a transform, and make its RSM of what comes out."""
    units = check_units(model, repr(name), "a layer")
    with torch.no_grad():
        return model.with_units(transform(units.double()), name)


@torch.no_grad()
def mapped(
    model: Responses, maps: LearnedSimilarities, fitted_on: Sequence[str], wanted: Sequence[str]
) -> Responses:
    """Put a layer through learned maps: one RSM, or one for each subject wanted.

    A subject that no map was fitted to gets the mean over the maps' RSMs.
    """
    units = points_of(model)
    features = tuple(one.features(units) for one in maps.each())
    each = zip(maps.each(), features, strict=True)
    rsms = torch.stack([one.compare(found) for one, found in each])
    if len(maps) > 1:
        places = {name: i for i, name in enumerate(fitted_on)}
        mean = rsms.mean(0)
        rsms = torch.stack([rsms[places[s]] if s in places else mean for s in wanted])
    subjects = model.subjects if len(rsms) == 1 else tuple(wanted)
    similarity = maps.each()[0].similarity
    return replace(
        model, held=rsms, units=features, subjects=subjects, points=None, source=None,
        similarity=similarity, bounded=similarity.bounded,
    )  # fmt: skip


def fit_transforms(
    tasks: Sequence[Task],
    chains: Sequence[Chain],
    plan: FitPlan,
    *,
    on_step: Callable[[int], object],
) -> list[dict[str, Fitted]]:
    """Fit the transforms for every task, all learned ones as batches."""
    wanted = candidates(chains)
    needs_choice = SELECTED in chains or any(one.is_learned for one in wanted)
    splits = [_inner_splits(task, plan) if needs_choice else [] for task in tasks]
    results: list[dict[str, Fitted]] = [{} for _ in tasks]
    for rows in {one.units: None for one in wanted}:
        seen = _Seen(tasks, splits, plan, rows, on_step, guarded=SELECTED in chains)
        for one in (one for one in wanted if one.units is rows):
            fit = seen.learned if one.rsms.is_learned else seen.fixed
            for result, fitted in zip(results, fit(one, on_step), strict=True):
                result[one.name] = fitted
    if SELECTED in chains:
        for result in results:
            among = [result[one.name] for one in wanted]
            result[SELECTED.name] = replace(simplest(among), name=SELECTED.name)
    return [{one.name: result[one.name] for one in chains} for result in results]


def count_fit_steps(
    tasks: Sequence[Task],
    chains: Sequence[Chain],
    settings: FitSettings,
    groups: Groups | None = None,
) -> int:
    """How many single-fit steps `fit_transforms` may take, one of what is not learned."""
    wanted = candidates(chains)
    total = sum(len(tasks) for one in wanted if not one.rsms.is_learned)
    for way in {one.map for one in wanted if one.map}:
        for task in tasks:
            total += count_map_steps(way, _n_inner(task, settings, groups), settings)
    for one in (one for one in wanted if one.rsms.is_learned):
        for task in tasks:
            combinations = len(_gates(one, task, settings)) * len(settings.penalties)
            n_inner = _n_inner(task, settings, groups)
            total += (combinations * n_inner + 1) * settings.steps[-1]
    return total


def simplest(fits: Sequence[Fitted]) -> Fitted:
    """Choose by `one_standard_error` among the fits that tell stimuli apart as before.

    Those are left out whose balanced score or identification on inner folds is below that of the
    best fixed fit by more than `TOLERANCE`.
    """
    names = {one.name for one in baselines()}
    fixed = [fit for fit in fits if fit.name in names]
    among = fixed or [*fits]
    best = among[first_best(torch.stack([fit.inner_scores.mean() for fit in among]))]
    if best.inner_beside is None:
        return one_standard_error(fits)
    floor = best.inner_beside.mean(1) - TOLERANCE
    kept = [
        fit
        for fit in fits
        if fit is best
        or (fit.inner_beside is not None and not bool((fit.inner_beside.mean(1) < floor).any()))
    ]
    return one_standard_error(kept)


def one_standard_error(fits: Sequence[Fitted]) -> Fitted:
    """Choose the simplest fit not worse than the best by more than one standard error.

    The error is that of the paired differences over inner folds; fits are in order of complexity.
    """
    scores = torch.stack([fit.inner_scores for fit in fits])
    means = scores.mean(1)
    best = first_best(means)
    loss = scores[best] - scores
    error = loss.std(1) / scores.shape[1] ** 0.5
    eligible = loss.mean(1) <= error + TIE
    eligible[best] = True
    return fits[int(eligible.int().argmax())]


def candidates(chains: Sequence[Chain]) -> list[Chain]:
    """List transforms to fit: all but the choice among them."""
    return [one for one in with_choices(chains) if one.name != SELECTED.name]


def _n_inner(task: Task, settings: FitSettings, groups: Groups | None) -> int:
    return n_inner_folds(task.train, settings, groups)


def n_inner_folds(train: Tensor, settings: FitSettings, groups: Groups | None) -> int:
    """How many inner folds training stimuli, and their groups, allow."""
    most = min(settings.inner_folds, len(train) // SMALLEST_BLOCK)
    return most if groups is None else min(most, len(groups.take(train)))


def _inner_splits(task: Task, plan: FitPlan) -> list[Split]:
    n_inner = _n_inner(task, plan.settings, plan.groups)
    if plan.groups is not None and n_inner < 2:
        raise DataError(
            "Learned transforms are chosen on inner folds that keep groups whole, and the training "
            f"stimuli of a fold are of {counted(len(plan.groups.take(task.train)), 'group')}; at "
            "least 2 are needed. Use more groups, or fixed transforms only "
            f"({', '.join(one.name for one in baselines())})."
        )
    if n_inner < 2 or len(task.train) - len(task.train) // n_inner < SMALLEST_BLOCK:
        raise DataError(
            f"Learned transforms need at least {2 * SMALLEST_BLOCK} training stimuli to choose on, "
            f"got {len(task.train)}. Use fewer folds, more stimuli, or fixed transforms only "
            f"({', '.join(one.name for one in baselines())})."
        )
    if plan.groups is None:
        inner = stimulus_folds(len(task.train), n_inner, seed=plan.seed)
    else:
        inner = splits_of_groups(plan.groups.take(task.train), n_inner, seed=plan.seed)
    # equal sizes, at the cost of one stimulus: folds are then fitted side by side, and end together
    n_train, n_test = (min(map(len, part)) for part in zip(*inner, strict=True))
    if min(n_train, n_test) < SMALLEST_BLOCK:  # of groups of different size
        raise DataError(
            f"Inner folds keep groups whole, and one would train on {n_train} and test "
            f"{n_test} stimuli; at least {SMALLEST_BLOCK} are needed. Use fewer inner folds "
            "(`FitSettings.inner_folds`), or merge small groups."
        )
    return [Split(task.train[train[:n_train]], task.train[test[:n_test]]) for train, test in inner]


def _gates(one: Chain, task: Task, settings: FitSettings) -> list[str]:
    """Kinds of gates to choose among: those of the row that the settings and the data allow."""
    if one.rsms.gates == ("global",):
        return ["global"]
    has_units = task.model.units is not None and task.brain.units is not None
    allowed = [gate for gate in one.rsms.gates if gate in settings.gates]
    gates = [gate for gate in allowed if gate != "embedding" or has_units]
    if not gates:
        raise DataError(
            "Embedding gates need units (features or recordings) on both sides, and one side has "
            "RDMs only. Allow profile gates: gates=('profile',)."
        )
    return gates


class _Seen:
    """Tasks as transforms of RSMs see them: after the layer's units were transformed, if asked.

    What is fitted to units is fitted to training stimuli: of the task, or of an inner fold.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        splits: Sequence[Sequence[Split]],
        plan: FitPlan,
        units: Transform | None,
        on_step: Callable[[int], object] = lambda _: None,
        *,
        guarded: bool = False,
    ):
        self.tasks, self.splits, self.plan, self.row = tasks, splits, plan, units
        self.guarded = guarded
        self.way = "" if units is None else units.map
        self.maps = self._learned_maps(on_step) if self.way else None
        self.modules, self.models, self.inner = [], [], []
        for i, (task, inner) in enumerate(zip(tasks, splits, strict=True)):
            of_inner: Sequence[nn.Module | None]
            if self.maps is not None:
                module, of_inner = self.maps[i].maps, self.maps[i].inner
            else:
                module = self._fit(task.model, task.brain, task.train)
                of_inner = [self._fit(task.model, task.brain, split.train) for split in inner]
            self.modules.append(module)
            self.models.append(self._changed(task, module))
            self.inner.append([self._changed(task, one) for one in of_inner])

    def _learned_maps(self, on_step: Callable[[int], object]) -> list[Mapped]:
        """Learn the similarity of every task."""
        lessons, plain = [], []
        for task, inner in zip(self.tasks, self.splits, strict=True):
            lessons.append(Lesson(task.model, task.brain, task.train, inner))
            scores = [
                score_sides(self.plan.scored, task.model, task.brain, split) for split in inner
            ]
            plain.append(torch.tensor(scores, dtype=torch.float64))
        return learn_maps(self.way, lessons, plain, self.plan, on_step)

    def _described(self, i: int) -> dict[str, Any]:
        """Give what was chosen for the similarity of a task, as fields of `Fitted`."""
        if self.maps is None or self.maps[i].maps is None:
            return {"units": self.modules[i]}
        one = self.maps[i]
        return {
            "units": one.maps, "map_size": one.size, "map_penalty": one.penalty,
            "map_steps": one.n_steps, "map_path": one.path, "description": one.description,
            "subjects": self.tasks[i].brain.subjects,
        }  # fmt: skip

    def _fit(self, model: Responses, brain: Responses, train: Tensor) -> nn.Module | None:
        if self.row is None or self.row.fit is None:
            return None
        return self.row.fit(lambda: _training(model.take(train), brain.take(train), self.plan))

    def _changed(self, task: Task, module: nn.Module | None) -> Responses:
        if isinstance(module, LearnedSimilarities):
            subjects = task.brain.subjects
            return mapped(task.model, module, subjects, subjects)
        if module is None or self.row is None:
            return task.model
        return with_units(task.model, module, self.row.name)

    def fixed(self, one: Chain, on_step: Callable[[int], object]) -> list[Fitted]:
        """Fit a transform of RSMs that is not learned by descent."""
        fit_module = one.rsms.fit
        if fit_module is None:
            raise FitError(f"Nothing says how {one.name!r} is fitted.")

        def fit(i: int) -> Fitted:
            on_step(0)  # lets the progress bar appear while thresholds are searched
            task, model = self.tasks[i], self.models[i]

            def of(side: Responses, stimuli: Tensor) -> nn.Module:
                part, brain = side.take(stimuli), task.brain.take(stimuli)
                return fit_module(lambda: _training(part, brain, self.plan))

            def fitted_as(transform: nn.Module, score: float) -> Fitted:
                unknown = torch.empty(0, dtype=torch.float64)
                return Fitted(one.name, one.name, transform, transform, None, score, unknown)

            transform = of(model, task.train)
            scores, beside = [], []
            for side, split in zip(self.inner[i], self.splits[i], strict=True):
                own = of(side, split.train)
                scores.append(self._score(own, side, task.brain, split))
                beside.append(self._beside(fitted_as(own, 0.0), side, task.brain, split.test))
            train_score = self._score(transform, model, task.brain, Split(task.train, task.train))
            on_step(1)
            return replace(
                fitted_as(transform, train_score),
                inner_scores=torch.tensor(scores, dtype=torch.float64),
                inner_beside=_columns(beside), **self._described(i),
            )  # fmt: skip

        places = range(len(self.tasks))
        if self.plan.tiling is not None:  # whose tiles are shared among the cores
            return [fit(i) for i in places]
        brain = self.tasks[0].brain
        entries = len(brain.subjects) * brain.n_stimuli**2
        return map_on_cores(fit, [*places], entries=entries, device=brain.device)

    @torch.no_grad()
    def _score(
        self, transform: nn.Module, model: Responses, brain: Responses, split: Split
    ) -> float:
        """Score the test stimuli of a split, both sides under one transform."""
        plan = self.plan
        if plan.tiling is not None:
            sides = model.take(split.test), brain.take(split.test)
            both, ranks = (transform, transform), plan.tiling.ranks
            return score_tiled(both, sides, plan.scored.name, ranks=ranks)
        return score_sides(plan.scored, model, brain, split, transform)

    @torch.no_grad()
    def _beside(
        self,
        fitted: Fitted,
        model: Responses,
        brain: Responses,
        stimuli: Tensor,
    ) -> Tensor | None:
        """Balanced score and identification of some stimuli, where a choice is to be made."""
        if not self.guarded or self.plan.tiling is not None:
            return None
        pair = fitted.stepped(model.take(stimuli), brain.take(stimuli))
        few = pair[0].shape[-1] < FEWEST_BESIDE
        unknown = torch.full((len(GUARDS),), torch.nan, dtype=torch.float64)
        return unknown if few else torch.stack([one(*pair).mean().double() for one in GUARDS])

    def learned(self, one: Chain, on_step: Callable[[int], object]) -> list[Fitted]:
        """Choose gate, penalty and steps on inner folds; fit again on all training stimuli."""
        keys, problems, last = [], [], len(self.plan.settings.steps)
        for i, (task, inner) in enumerate(zip(self.tasks, self.splits, strict=True)):
            for gate in _gates(one, task, self.plan.settings):
                for penalty in self.plan.settings.penalties:
                    key = i, gate, penalty
                    keys += [key] * len(inner)
                    problems += [
                        Problem(model, task.brain, *split, gate, penalty, last, key)
                        for model, split in zip(self.inner[i], inner, strict=True)
                    ]
        fit = fit_traces if self.plan.tiling is None else fit_tiled_traces
        stops = self.plan.settings.stops
        traces = fit(problems, self.plan, on_step)
        choices = [_best_choice(i, keys, traces, stops) for i in range(len(self.tasks))]
        final = [
            Problem(model, task.brain, task.train, None, choice.gate, choice.penalty, choice.stop)
            for task, model, choice in zip(self.tasks, self.models, choices, strict=True)
        ]
        on_step(sum(stops[-1] - stops[choice.stop] for choice in choices))  # steps not taken
        fits = fit(final, self.plan, on_step)
        by_task: list[list[FitTrace]] = [[] for _ in self.tasks]
        for (i, *chosen), trace in zip(keys, traces, strict=True):
            if tuple(chosen) == (choices[i].gate, choices[i].penalty):
                by_task[i].append(trace)
        return [
            self._standing_in(one, i, choice)
            if bool(trace.degenerate[0])
            else replace(
                _chosen_fit(one.name, trace, choice, self.plan),
                **{"subjects": self.tasks[i].brain.subjects, **self._described(i)},
                inner_beside=self._beside_inner(i, choice, by_task[i]),
            )
            for i, (trace, choice) in enumerate(zip(fits, choices, strict=True))
        ]  # fmt: skip

    def _beside_inner(self, i: int, choice: Choice, traces: Sequence[FitTrace]) -> Tensor | None:
        """Balanced score and identification of the inner folds at the stop that was chosen."""
        found = []
        for trace, side, split in zip(traces, self.inner[i], self.splits[i], strict=True):
            fit = _at_stop("", trace, choice, self.plan, min(choice.stop, len(trace.gates) - 1))
            brain = self.tasks[i].brain
            found.append(
                self._beside(replace(fit, subjects=brain.subjects), side, brain, split.test)
            )
        return _columns(found)

    def _standing_in(self, one: Chain, i: int, choice: Choice) -> Fitted:
        """Give the best fixed transform, in place of a fit that cannot start."""
        alone = copy(self)
        alone.tasks, alone.splits = self.tasks[i : i + 1], self.splits[i : i + 1]
        alone.modules, alone.models = self.modules[i : i + 1], self.models[i : i + 1]
        alone.inner = self.inner[i : i + 1]
        alone.maps = None if self.maps is None else self.maps[i : i + 1]
        tiled = self.plan.tiling is not None
        fits = [
            alone.fixed(baseline, lambda _: None)[0]
            for baseline in baselines()
            if baseline.rsms.tiled or not tiled
        ]
        best = fits[first_best(torch.stack([fit.inner_scores.mean() for fit in fits]))]
        return replace(
            best, name=one.name, chosen=one.name, fallback=best.name, gate=choice.gate,
            penalty=choice.penalty,
        )  # fmt: skip


def _training(model: Responses, brain: Responses, plan: FitPlan) -> Training:
    """Give what a row's `fit` may read, all on the training stimuli."""
    units = None if model.units is None else model.units[0].double()
    return Training(model.rsms, brain.rsms, units, plan.scored, plan.settings.grid)


class Choice(NamedTuple):
    """What inner folds chose."""

    gate: str
    penalty: float
    stop: int  # position in `FitSettings.stops`
    inner_scores: Tensor  # (inner_folds,), at that stop, under the measure in use
    validation: Tensor  # means over inner folds of what was chosen on, up to where fits ended


def _best_choice(
    task: int,
    keys: Sequence[tuple[int, str, float]],
    traces: Sequence[FitTrace],
    stops: Sequence[int],
) -> Choice:
    """Gate, penalty and stopping point with the best mean validation score."""
    by_key: dict[tuple[str, float], list[tuple[Tensor, Tensor]]] = {}
    for (i, gate, penalty), trace in zip(keys, traces, strict=True):
        if i == task:
            by_key.setdefault((gate, penalty), []).append((trace.validation, trace.held_out))
    best: Choice | None = None
    for (gate, penalty), scores in by_key.items():
        table, held_out = (torch.stack(one) for one in zip(*scores, strict=True))  # (folds, stops)
        end = given_up_at(table.mean(0), stops)  # in tiles all stops are computed
        table = table if end is None else table[:, : end + 1]
        stop = first_best(table.mean(0))
        if best is None or table[:, stop].mean() > best.validation[best.stop] + TIE:
            scores_there = held_out[:, stop].double()
            best = Choice(gate, penalty, stop, scores_there, table.mean(0))
    if best is None:
        raise FitError("There was nothing to choose from: no gate, penalty or inner fold.")
    return best


def _chosen_fit(name: str, trace: FitTrace, choice: Choice, plan: FitPlan) -> Fitted:
    """Take the fit at the chosen stopping point, or the last sound one before it.

    Sound is what has not collapsed and is not worse than the start, which is always a candidate.
    """
    better = trace.objective >= trace.objective[0] - TIE
    return _at_stop(name, trace, choice, plan, int((better & ~trace.degenerate).nonzero()[-1]))


def _at_stop(name: str, trace: FitTrace, choice: Choice, plan: FitPlan, used: int) -> Fitted:
    """Take the fit at a stopping point."""
    model, brain = (
        plan.soft_gate(gate, scaling)
        for gate, scaling in zip(trace.gates[used], trace.scalings, strict=True)
    )
    return Fitted(
        name,
        name,
        model,
        brain,
        trace.embeddings,
        float(trace.train[used]),
        choice.inner_scores,
        choice.gate,
        choice.penalty,
        plan.settings.stops[used],
        bool(trace.degenerate[min(choice.stop, len(trace.degenerate) - 1)]),
        "",
        _curves(trace.objective, choice.validation, len(plan.settings.stops)),
    )


def _curves(train: Tensor, validation: Tensor, n_stops: int) -> Tensor:
    """Put both curves together (2, n_stops); NaN for what is no score, and after the end."""
    curves = torch.full((2, n_stops), torch.nan, dtype=torch.float64)
    for row, curve in zip(curves, (train, validation), strict=True):
        row[: len(curve)] = curve.where(curve.isfinite(), torch.nan)
    return curves


def make_plan(
    measure: Measure, model: Responses, brain: Responses, settings: FitSettings, seed: int
) -> FitPlan:
    """Resolve what depends on the data: the measures to fit under and each side's scaling."""
    nearest = "linear_cka" if measure.takes == "features" else "centered_pearson"
    fitted = measure if measure.differentiable else get(nearest)
    gated = fitted if settings.gate_measure is None else get(settings.gate_measure)
    how = settings.scaling
    scaling = [
        ("affine" if side.bounded else "minmax") if how == "auto" else how
        for side in (model, brain)
    ]
    return FitPlan(measure, fitted, gated, (scaling[0], scaling[1]), settings, seed=seed)


@torch.no_grad()
def score_sides(
    measure: Measure,
    model: Responses,
    brain: Responses,
    split: Split,
    transform: nn.Module | None = None,
) -> float:
    """Mean score over subjects of the test stimuli of a split, both sides under one transform.

    Of a measure on features, what it fits is fitted to the training stimuli.
    """
    test = model.take(split.test), brain.take(split.test)
    if measure.takes == "features":
        train = model.take(split.train), brain.take(split.train)
        return score_features(measure, train, test, range(len(brain.subjects)))
    sides = [side.rsms if transform is None else transform(side.rsms) for side in test]
    return float(measure.between(*sides).mean())


MOST_IDENTIFIED = 1000  # stimuli: of more, evenly drawn ones are told apart


def scores_beside(model: Tensor, brain: Tensor) -> dict[str, float]:
    """Scores (`BESIDE_SCORE`) that no number or factor per stimulus can raise, means over subjects.

    NaN where pairs are missing, or stimuli are too few.
    """
    if lacks_pairs(model, brain) or model.shape[-1] < FEWEST_BESIDE:
        return dict.fromkeys(BESIDE_SCORE, torch.nan)
    n = model.shape[-1]
    some = torch.linspace(0, n - 1, min(n, MOST_IDENTIFIED), dtype=torch.float64).round().long()
    few = [rsms[..., some, :][..., some] for rsms in (model, brain)] if n > len(some) else None
    return {
        name: float(measure(*(few if few and name == "identification" else (model, brain))).mean())
        for name, measure in BESIDE_SCORE.items()
    }


def _columns(found: Sequence[Tensor | None]) -> Tensor | None:
    """Put numbers of inner folds side by side, where there are any."""
    there = [one for one in found if one is not None]
    return torch.stack(there, 1) if there else None


@contextmanager
def progress_bar(
    total: int, shown: bool, title: str = "fitting transforms"
) -> Iterator[Callable[[int], object]]:
    """Show a tqdm bar over steps, after a second; yields what advances it."""
    from tqdm import tqdm

    with tqdm(
        total=total,
        disable=not shown or not total,
        desc=title,
        unit="step",
        unit_scale=True,
        delay=1,
        mininterval=0.5,
    ) as bar:
        yield bar.update
