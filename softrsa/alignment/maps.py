"""Learned similarity: linear maps of a layer's points, fitted so that RSMs agree with a brain's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from softrsa._descent import TIE, first_best
from softrsa._threads import map_on_cores
from softrsa.alignment.descent import (
    BATCH_ENTRIES,
    FitPlan,
    Standing,
    ascend,
    given_up_at,
    is_degenerate,
)
from softrsa.alignment.embedding import rotated
from softrsa.alignment.responses import Responses
from softrsa.alignment.settings import FitSettings, Split
from softrsa.errors import DataError
from softrsa.measures import Measure
from softrsa.measures.predictivity import ridge_coefficients
from softrsa.rsm import similarity_matrix
from softrsa.rsm.similarity import as_similarity
from softrsa.transforms.learned_similarity import (
    OF_LENGTH_1,
    LearnedSimilarities,
    LearnedSimilarity,
    similarity_of_features,
    unit_length,
)

PATIENCE, LEAST_GAIN = 1, 1e-3  # a map is done where a stopping point gains no more than this
STEP_STIMULI = 1000  # of more than these, each step of a map sees so many, drawn anew
EXACT_STIMULI = 256  # up to so many, a step in float64 costs next to nothing
ROUNDING = 1e-10  # variances of components below this part of the largest are none


class Components(NamedTuple):
    """Principal components of a layer's points over training stimuli, largest first."""

    mean: Tensor  # (m,)
    directions: Tensor  # (m, k), scaled if asked for: scores' squares sum to 1 per stimulus
    variances: Tensor  # (k,), which sum to 1 at most

    @classmethod
    def fit(cls, points: Tensor, *, scaled: bool = True) -> Components:
        """Find all components of ``points`` (n, m), float64."""
        mean = points.mean(0)
        centered = points - mean
        n, m = points.shape
        product_ = centered @ centered.mT if n <= m else centered.mT @ centered
        variances, vectors = torch.linalg.eigh(product_)
        variances, vectors = variances.flip(0), vectors.flip(1)
        there = variances > variances[:1] * ROUNDING
        variances, vectors = variances[there], vectors[:, there]
        directions = centered.mT @ (vectors / variances.sqrt()) if n <= m else vectors
        if not there.any():  # stimuli that do not differ
            return cls(mean, directions, variances)
        largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
        total = variances.sum()
        scale = (n / total) ** 0.5 if scaled else 1.0
        return cls(mean, directions * largest.sign() * scale, variances / total)

    def first(self, k: int) -> Components:
        """Keep the first k."""
        return Components(self.mean, self.directions[:, :k], self.variances[:k])

    def project(self, points: Tensor) -> Tensor:
        """Scores (n, k) of any stimuli."""
        return (points - self.mean) @ self.directions


@dataclass(frozen=True)
class MapProblem:
    """One map to fit: components of the training stimuli, and the brain's responses to them."""

    components: Components
    model: Responses
    brain: Responses
    train: Tensor
    validation: Tensor | None
    kind: str  # "diagonal" or "full"
    penalty: float
    last: int  # stopping point
    group: object = None


class MapTrace(NamedTuple):
    """What became of one map at each stopping point; see `descent.FitTrace`."""

    train: Tensor
    objective: Tensor
    validation: Tensor
    held_out: Tensor
    degenerate: Tensor
    maps: list[Tensor]  # (k, k) each


class Description(NamedTuple):
    """What a map does to principal components."""

    weights: Tensor  # (k,): squared length of each component's row of the map, mean 1
    effective_dimension: float  # participation ratio of the variances of features
    distance: float  # from the identity: sine of the angle between map map^T and identity


class Mapped(NamedTuple):
    """A similarity learned on the training stimuli of a task, and on those of each inner fold.

    ``maps`` (one, or one per subject) read points; None where none did better than the plain RSM.
    """

    maps: LearnedSimilarities | None
    inner: list[LearnedSimilarities | None]
    description: Description | None = None
    size: int = 0
    penalty: float = float("nan")
    n_steps: int = 0
    path: Tensor | None = None
    degenerate: bool = False


class _Map(nn.Module):
    """Maps of components, one of each problem, that start at the identity.

    Weights of components are exp(v). Any map is I + G V G, with G the diagonal of the square roots
    of the components' standard deviations, the largest being 1: what is learned of components that
    vary little, which are many, costs more.
    """

    def __init__(self, kind: str, deviations: Tensor):
        super().__init__()
        n_problems, k = deviations.shape
        shape = (n_problems, k, k) if kind == "full" else (n_problems, k)
        self.at = nn.Parameter(torch.zeros(shape).to(deviations))
        self.root = (deviations / deviations[:, :1]).sqrt()

    def forward(self, z: Tensor) -> Tensor:
        """Map scores (problems, n, k)."""
        root = self.root.unsqueeze(-2)
        if self.at.ndim == 3:
            return z + (z * root) @ self.at * root
        return z * (self.at / 2).exp().unsqueeze(-2)  # similarities weigh by the square

    def distance(self) -> Tensor:
        """Squared distance from the identity, of each problem."""
        return self.at.square().flatten(1).sum(-1)

    def matrix(self, row: int) -> Tensor:
        """One problem's map (k, k), float64."""
        at, root = self.at.detach()[row].double(), self.root[row].double()
        if at.ndim == 1:
            return torch.diag((at / 2).exp())
        return torch.eye(len(root)).to(at) + root[:, None] * at * root

    def keep(self, at: Tensor) -> None:
        """Go on with some problems only."""
        self.at, self.root = nn.Parameter(self.at.detach()[at].clone()), self.root[at]


def is_poolable(measure: Measure) -> bool:
    """Whether scores are inner products of vectors that are linear but for their length."""
    return measure.embed is not None and measure.embed.of != "ranks"


LEAST_MEAN = 1e-3  # length of a mean of unit vectors: of less, rounding would show


def pooled(measure: Measure, rsms: Tensor) -> tuple[Tensor, Tensor] | None:
    """Put subjects' RSMs (k, n_subjects, n, n) together: one each, and what to multiply scores by.

    Where a score is an inner product of unit vectors, its mean over subjects is that with the mean
    vector. None where it is not, or is not defined for all.
    """
    embed = measure.embed
    if embed is None or not is_poolable(measure) or rsms.shape[1] == 1:
        return None
    size = embed.vectors(measure.pairs_of(rsms)).flatten(2).norm(dim=-1)
    mean = (rsms / size[..., None, None]).mean(1, keepdim=True)
    length = embed.vectors(measure.pairs_of(mean)).flatten(1).norm(dim=-1)
    return (mean, length) if bool((length > LEAST_MEAN).all()) else None


class _MapBatch:
    """Maps with one leading entry per problem, and what they are fitted to."""

    patience, least = PATIENCE, LEAST_GAIN

    def __init__(self, problems: Sequence[MapProblem], plan: FitPlan):
        self.problems, self.plan = problems, plan
        first = problems[0]
        self.of_features = plan.scored.takes == "features"
        self.similarity = similarity_of_features(first.model.similarity)
        n, k = len(first.train), max(len(p.components.variances) for p in problems)
        self.dtype = torch.float64 if n <= EXACT_STIMULI else torch.float32
        self.noisy = n > STEP_STIMULI
        self.train = self._block([p.train for p in problems], k)
        held_out = [p.validation for p in problems if p.validation is not None]
        self.validation = self._block(held_out, k) if held_out else None
        deviations = [p.components.variances.sqrt() for p in problems]
        deviations = torch.stack([F.pad(one, (0, k - len(one))) for one in deviations])
        self.map = _Map(first.kind, deviations.to(self.train[0]))
        self.penalty = torch.tensor([p.penalty for p in problems]).to(self.train[0])
        self.generator = torch.Generator().manual_seed(plan.seed)

    def _block(self, stimuli: list[Tensor], k: int) -> list[Tensor]:
        """Scores on components, and the brain's RSMs or its subjects' units, of some stimuli."""
        scores, brains = [], []
        for p, i in zip(self.problems, stimuli, strict=True):
            z = p.components.project(points_of(p.model)[i])
            scores.append(F.pad(z, (0, k - z.shape[1])))
            brain = p.brain.take(i)
            brains.append(brain.units or () if self.of_features else (brain.rsms,))
        columns = [torch.stack(one) for one in zip(*brains, strict=True)]
        if not self.of_features:
            columns.append(torch.ones(len(scores)).to(columns[0]))  # by which scores are multiplied
            scored, fitted = self.plan.scored, self.plan.fitted
            if scored is fitted and not self.noisy:
                columns = [*(pooled(scored, columns[0]) or columns)]
        return [one.to(self.dtype) for one in (torch.stack(scores), *columns)]

    @property
    def learned(self) -> list[nn.Module]:
        """The maps."""
        return [self.map]

    def objective(self) -> Tensor:
        """Score to raise, less the penalty; of many stimuli, of some."""
        if not self.noisy:
            return self.whole_objective()
        n = self.train[0].shape[1]
        drawn = torch.randperm(n, generator=self.generator)[:STEP_STIMULI]
        drawn = drawn.to(self.train[0].device)
        z, *brain = self.train
        if self.of_features:
            return self._objective_of([z[:, drawn], *(units[:, drawn] for units in brain)])
        rsms, factor = brain
        return self._objective_of([z[:, drawn], rsms[..., drawn, :][..., drawn], factor])

    def whole_objective(self) -> Tensor:
        """Score to raise, less the penalty, on all training stimuli."""
        return self._objective_of(self.train)

    def _objective_of(self, block: list[Tensor]) -> Tensor:
        score = self._score(self.plan.fitted, block, block)
        return score - self.penalty * self.map.distance()

    def _rsms(self, z: Tensor) -> Tensor:
        """RSMs (problems, 1, n, n) of mapped scores."""
        features = self.map(z)
        if self.similarity == "cosine":
            features = unit_length(features)
            return (features @ features.mT).unsqueeze(1)
        return similarity_matrix(features, similarity=self.similarity).unsqueeze(1)

    def _score(self, measure: Measure, train: list[Tensor], block: list[Tensor]) -> Tensor:
        """Mean score over subjects of a block; predictions are fitted on ``train``."""
        if not self.of_features:
            z, rsms, factor = block
            return measure.between(self._rsms(z), rsms).mean(-1) * factor
        x = self.map(block[0])
        if measure.held_out is None or train is block:
            scores = [measure(x, y) for y in block[1:]]
        else:
            x_train = self.map(train[0])
            scores = [
                measure.held_out(x_train, y_train, x, y)
                for y_train, y in zip(train[1:], block[1:], strict=True)
            ]
        mean = torch.stack(scores).mean(0)
        return mean if measure.larger_is_more_similar else -mean

    @torch.no_grad()
    def standing(self) -> Standing:
        """How every problem stands now."""
        scored, fitted = self.plan.scored, self.plan.fitted
        train = self._score(scored, self.train, self.train)
        objective = train if scored is fitted else self._score(fitted, self.train, self.train)
        bad = train.isnan() | self._has_collapsed()
        if self.validation is None:
            unknown = torch.full_like(train, torch.nan)
            return Standing(train, objective, unknown, unknown, bad)
        held_out = self._score(scored, self.train, self.validation)
        held_out = held_out.nan_to_num(-torch.inf).masked_fill(bad, -torch.inf)
        return Standing(train, objective, held_out, held_out, bad)

    def _has_collapsed(self) -> Tensor:
        """Whether next to no variance, or next to no pairs, are left of the RSM."""
        plain = unit_length(self.train[0])
        return is_degenerate((plain @ plain.mT).unsqueeze(1), self._rsms(self.train[0])).any(-1)

    def snapshot(self, row: int) -> Tensor:
        """One problem's map (k, k) of its components."""
        k = len(self.problems[row].components.variances)
        return self.map.matrix(row)[:k, :k]

    def keep(self, at: Tensor) -> None:
        """Go on with some problems only."""
        self.problems = [self.problems[i] for i in at.tolist()]
        self.map.keep(at)
        self.penalty, self.train = self.penalty[at], [one[at] for one in self.train]
        if self.validation is not None:
            self.validation = [one[at] for one in self.validation]


def points_of(model: Responses) -> Tensor:
    """Points (n, m) whose inner products are a layer's similarities, or its units' products."""
    return model.points if model.points is not None else model.all_units().double()


def trace_maps(
    problems: Sequence[MapProblem], plan: FitPlan, on_step: Callable[[int], object]
) -> list[MapTrace]:
    """Fit all maps, in batches of equal size; ``on_step`` hears how many fits have stepped."""

    def run(members: list[int]) -> list[MapTrace]:
        batch = _MapBatch([problems[i] for i in members], plan)
        found = ascend(batch, plan.settings.map_stops, plan.settings.map_rate, on_step)
        return [MapTrace(*columns, maps=maps) for columns, maps in found]

    batches = list(_batches(problems, plan.scored))
    entries = problems[0].brain.n_stimuli ** 2 if problems else 0
    device = problems[0].brain.device if problems else torch.device("cpu")
    traces: dict[int, MapTrace] = {}
    fitted = map_on_cores(run, batches, entries=max(BATCH_ENTRIES, entries), device=device)
    for members, found in zip(batches, fitted, strict=True):
        traces.update(zip(members, found, strict=True))
    return [traces[i] for i in range(len(problems))]


def _batches(problems: Sequence[MapProblem], scored: Measure) -> Iterator[list[int]]:
    """Positions of problems that can be stacked, about `BATCH_ENTRIES` together, groups whole."""
    alike: dict[tuple, dict[object, list[int]]] = {}
    for i, p in enumerate(problems):
        n_validation = 0 if p.validation is None else len(p.validation)
        units = (p.brain.units or ()) if scored.takes == "features" else ()
        shapes = tuple(u.shape[1] for u in units), len(p.brain.subjects)
        sized = p.group[-1] if isinstance(p.group, tuple) else len(p.components.variances)
        kind = p.kind, sized, p.model.similarity, len(p.train), n_validation, p.last, shapes
        alike.setdefault(kind, {}).setdefault(i if p.group is None else p.group, []).append(i)
    for (*_, n, _, _, shapes), groups in alike.items():
        size = max(1, BATCH_ENTRIES // (n * n * (1 if is_poolable(scored) else shapes[1])))
        members: list[int] = []
        for group in groups.values():
            members += group
            if len(members) >= size:
                yield members
                members = []
        if members:
            yield members


class Lesson(NamedTuple):
    """What a similarity is learned from: both sides, training stimuli, and inner folds of these."""

    model: Responses
    brain: Responses
    train: Tensor
    inner: Sequence[Split]


class _Known:
    """Components of layers over stimuli, each found once however many regions there are."""

    def __init__(self, *, scaled: bool):
        # points too, so that no others get their id
        self.found: dict[tuple[int, bytes], tuple[Tensor, Components]] = {}
        # measures on features may know the scale, which a map leaves as it is at first
        self.scaled = scaled

    def of(self, model: Responses, stimuli: Tensor) -> Components:
        points = points_of(model)
        key = id(points), stimuli.cpu().numpy().tobytes()
        if key not in self.found:
            self.found[key] = points, Components.fit(points[stimuli], scaled=self.scaled)
        return self.found[key][1]


def learn_maps(
    kind: str,
    lessons: Sequence[Lesson],
    plain: Sequence[Tensor],
    plan: FitPlan,
    on_step: Callable[[int], object],
) -> list[Mapped]:
    """Learn a similarity for every lesson.

    Parameters
    ----------
    kind : {"diagonal", "full", "ridge"}
        See `softrsa.transforms.Transform.map`.
    lessons : sequence of Lesson
        What to learn from.
    plain : sequence of Tensor
        Scores of the plain RSM on each lesson's inner folds: a map that does not do better on
        average is none.
    plan : FitPlan
        How.
    on_step : callable
        Hears of steps.

    Returns
    -------
    list of Mapped
        For every lesson.
    """
    known, heard = _Known(scaled=plan.scored.takes != "features"), 0

    def hear(steps: int) -> None:
        nonlocal heard
        heard += steps
        on_step(steps)

    if kind == "ridge":
        entries = max((lesson.model.n_stimuli**2 for lesson in lessons), default=0)
        device = lessons[0].model.device if lessons else torch.device("cpu")
        encode = partial(_encoding, known=known, on_step=hear)
        return map_on_cores(encode, lessons, entries=entries, device=device)
    found = _descended(kind, lessons, plain, plan, known=known, on_step=hear)
    each = [count_map_steps(kind, len(lesson.inner), plan.settings) for lesson in lessons]
    on_step(sum(each) - heard)  # steps not taken
    return found


def _descended(
    kind: str,
    lessons: Sequence[Lesson],
    plain: Sequence[Tensor],
    plan: FitPlan,
    *,
    known: _Known,
    on_step: Callable[[int], object],
) -> list[Mapped]:
    """Choose size, penalty and steps on inner folds; fit again on all training stimuli."""
    settings = plan.settings
    keys, problems, last = [], [], len(settings.map_steps)
    for i, (model, brain, _, inner) in enumerate(lessons):
        components = [known.of(model, split.train) for split in inner]
        for size, penalty in _choices(settings, components):
            keys += [(i, penalty, size)] * len(inner)
            problems += [
                MapProblem(
                    own.first(size), model, brain, *split, kind, penalty, last, (i, penalty, size)
                )
                for own, split in zip(components, inner, strict=True)
            ]
    traces = trace_maps(problems, plan, on_step)
    groups: dict[tuple[int, float, int], list[MapTrace]] = {}
    for key, trace in zip(keys, traces, strict=True):
        groups.setdefault(key, []).append(trace)
    chosen = [_best(i, groups, plain[i], settings) for i in range(len(lessons))]
    finals = [
        MapProblem(
            known.of(lesson.model, lesson.train).first(one.size), lesson.model, lesson.brain,
            lesson.train, None, kind, one.penalty, one.stop,
        )
        for lesson, one in zip(lessons, chosen, strict=True) if one is not None
    ]  # fmt: skip
    fits = iter(trace_maps(finals, plan, on_step))
    return [
        _no_map(lesson)
        if one is None
        else _mapped(
            lesson,
            one,
            next(fits),
            groups[i, one.penalty, one.size],
            known=known,
            settings=settings,
        )
        for i, (lesson, one) in enumerate(zip(lessons, chosen, strict=True))
    ]


def _choices(settings: FitSettings, components: Sequence[Components]) -> list[tuple[int, float]]:
    """Sizes and penalties to try, sizes no larger than all inner folds have."""
    most = min(len(one.variances) for one in components)
    sizes = sorted({min(size, most) for size in settings.map_sizes} - {0})
    return list(product(sizes, settings.map_penalties))


class _Chosen(NamedTuple):
    size: int
    penalty: float
    stop: int
    curve: Tensor  # mean validation scores


def _best(
    lesson: int,
    groups: dict[tuple[int, float, int], list[MapTrace]],
    plain: Tensor,
    settings: FitSettings,
) -> _Chosen | None:
    """Find what scores best on inner folds; None where the plain RSM does as well."""
    best, best_score = None, float(plain.mean()) + TIE
    for (i, penalty, size), traces in groups.items():
        if i != lesson:
            continue
        curve = torch.stack([trace.validation for trace in traces]).double().mean(0)
        end = given_up_at(curve, settings.map_stops, PATIENCE, LEAST_GAIN)
        curve = curve if end is None else curve[: end + 1]
        stop = first_best(curve)
        if stop > 0 and curve[stop] > best_score:
            best, best_score = _Chosen(size, penalty, stop, curve), float(curve[stop])
    return best


def _no_map(lesson: Lesson) -> Mapped:
    return Mapped(None, [None for _ in lesson.inner])


def _mapped(
    lesson: Lesson,
    chosen: _Chosen,
    fit: MapTrace,
    inner: Sequence[MapTrace],
    *,
    known: _Known,
    settings: FitSettings,
) -> Mapped:
    """Put a choice and its fits together; the fit is the last that has not collapsed."""
    similarity = similarity_of_features(lesson.model.similarity)
    sound = (fit.objective >= fit.objective[0] - TIE) & ~fit.degenerate
    if not bool(sound.any()):
        return _no_map(lesson)
    used = int(sound.nonzero()[-1])
    own = known.of(lesson.model, lesson.train).first(chosen.size)
    within = [
        _as_module(
            known.of(lesson.model, split.train).first(chosen.size),
            one.maps[chosen.stop],
            similarity,
        )
        for split, one in zip(lesson.inner, inner, strict=True)
    ]
    path = torch.full((2, len(settings.map_stops)), torch.nan, dtype=torch.float64)
    for row, curve in zip(path, (fit.train, chosen.curve), strict=True):
        row[: len(curve)] = curve.where(curve.isfinite(), torch.nan)
    return Mapped(
        LearnedSimilarities([_as_module(own, fit.maps[used], similarity)]),
        [LearnedSimilarities([one]) for one in within],
        described(own, fit.maps[used]), chosen.size, chosen.penalty, settings.map_stops[used],
        path, bool(fit.degenerate[chosen.stop]),
    )  # fmt: skip


def _as_module(components: Components, of_components: Tensor, similarity) -> LearnedSimilarity:
    """Make a map of points from one of their components."""
    weight = components.directions @ of_components
    return LearnedSimilarity(weight, components.mean @ weight, similarity=similarity)


def described(components: Components, of_components: Tensor) -> Description:
    """Describe a map (k, r) of components."""
    metric = of_components @ of_components.mT
    scale = components.variances.sqrt()
    variances = torch.linalg.eigvalsh(scale[:, None] * metric * scale)
    weights = metric.diagonal()
    k = len(weights)
    cosine = metric.trace() / (k**0.5 * metric.norm())
    return Description(
        weights / weights.mean(),
        float(variances.sum().square() / variances.square().sum()),
        float((1 - cosine.square()).clamp_min(0).sqrt()),
    )


def _encoding(lesson: Lesson, known: _Known, on_step: Callable[[int], object]) -> Mapped:
    """Predict each subject's units by ridge regression."""
    similarity = as_similarity(lesson.brain.similarity)  # of what is predicted

    def fit(stimuli: Tensor) -> tuple[LearnedSimilarities, Tensor]:
        components = known.of(lesson.model, stimuli)
        z = components.project(points_of(lesson.model)[stimuli])
        units = [each[stimuli].double() for each in lesson.brain.units or ()]
        y = torch.cat(units, 1)
        # each unit has a strength of its own, so subjects are as well fitted side by side
        coefficients = ridge_coefficients(z, y - y.mean(0))
        maps = LearnedSimilarities()
        widths = [each.shape[1] for each in units]
        for own, mean in zip(coefficients.split(widths, 1), y.mean(0).split(widths), strict=True):
            weight = components.directions @ own
            offset = components.mean @ weight - mean
            maps.append(LearnedSimilarity(weight, offset, similarity=similarity))
        return maps, coefficients

    if not len(known.of(lesson.model, lesson.train).variances):
        return _no_map(lesson)
    maps, coefficients = fit(lesson.train)
    inner = [fit(split.train)[0] for split in lesson.inner]
    on_step(1)
    components = known.of(lesson.model, lesson.train)
    return Mapped(maps, list(inner), described(components, coefficients), len(coefficients))


def count_map_steps(kind: str, n_inner: int, settings: FitSettings) -> int:
    """How many steps of single fits `learn_maps` may take for one lesson."""
    if kind == "ridge":
        return 1
    choices = len(settings.map_sizes) * len(settings.map_penalties)
    return (choices * n_inner + 1) * settings.map_steps[-1]


CHUNK = 4096  # units taken at a time
MAPS: tuple[str, ...] = ("diagonal", "full", "ridge")  # ways to learn one


def is_learnable(model: Responses) -> bool:
    """Whether a layer has points: units, or RSMs that are correlations or cosines."""
    return model.units is not None or model.bounded


def place_points(model: Responses) -> Tensor:
    """Find points (n, m) whose inner products are a layer's similarities.

    Where a layer has units (`Responses.raw`), and for similarities that are no inner products,
    points have the inner products of the units, less their means over stimuli: what patterns of
    length 1 leave out may count. Only differences of points matter; a mean that is large beside
    them would hide the smaller ones in its rounding.
    """
    if not model.patterns:
        units = rotated(model.all_units())
        rounding = len(units) * torch.finfo(units.dtype).eps * units.square().sum()
        units = units - units.mean(0)
        values, vectors = torch.linalg.eigh(units.mT @ units)
        there = values > torch.maximum(values[-1] * ROUNDING, rounding)
        return units @ vectors[:, there]  # columns are orthogonal
    values, vectors = torch.linalg.eigh(model.rsms[0].double())
    there = values > values[-1] * ROUNDING
    return vectors[:, there] * values[there].sqrt()


def with_points(layer: Responses) -> Responses:
    """Find the points that a similarity is learned of; a mean of subjects has no own units."""
    source = None if layer.averaged else layer.source
    raw = layer.units is not None and not layer.averaged
    layer = replace(layer, source=source, raw=raw)
    return replace(layer, points=place_points(layer))


@torch.no_grad()
def unit_maps(model: Responses, maps: LearnedSimilarities) -> list[LearnedSimilarity]:
    """Make maps of a layer's units from maps of its points: the units of all stimuli are needed."""
    if model.source is None or model.points is None:
        raise DataError("The units of all stimuli are needed, and this layer has none.")
    name = model.patterns
    prepares = name if name in OF_LENGTH_1 else ""
    found = []
    for one in maps.each():
        weight = torch.cat([part.T @ _dual(model, one) for part in _prepared_chunks(model)])
        if name == "dot":  # whose products are means over units
            weight = weight / len(weight) ** 0.5
        offset = one.offset
        if not name:
            offset = offset + (_mean_pattern(model.source) @ weight)[0]
        kind = model.source.dtype
        found.append(
            LearnedSimilarity(
                weight.to(kind), offset.to(kind), prepare=prepares, similarity=one.similarity
            )
        )
    return found


@torch.no_grad()
def unit_weights(model: Responses, maps: LearnedSimilarities) -> Tensor:
    """How much each unit counts in learned maps (n_units,), mean 1: see `LearnedSimilarity`."""
    total: Tensor | float = 0.0
    for one in maps.each():
        dual = _dual(model, one)
        squares = [(part.T @ dual).square().sum(1) for part in _prepared_chunks(model)]
        total = total + torch.cat(squares)
    return total / total.mean()  # type: ignore[union-attr]


def _dual(model: Responses, one: LearnedSimilarity) -> Tensor:
    """Coefficients (n, r) over stimuli of a map of points."""
    points = points_of(model)
    return (points / points.square().sum(0)) @ one.weight.detach()


def _mean_pattern(units: Tensor) -> Tensor:
    """Mean over stimuli of each unit (1, n_units), float64."""
    return units.mean(0, keepdim=True, dtype=torch.float64)


def _prepared_chunks(model: Responses) -> Iterator[Tensor]:
    """Units as points hold them, some at a time, float64."""
    if model.source is None:
        raise DataError("The units of all stimuli are needed, and this layer has none.")
    units, name = model.source, model.patterns
    mean: Tensor | float = 0.0
    if name == "correlation":
        mean = units.mean(1, keepdim=True, dtype=torch.float64)
    length: Tensor | float = 1.0
    if name in OF_LENGTH_1:
        squares = [(part.double() - mean).square().sum(1) for part in units.split(CHUNK, 1)]
        length = torch.stack(squares).sum(0).sqrt().unsqueeze(1)
    elif name == "dot":
        length = units.shape[1] ** 0.5
    for part in units.split(CHUNK, 1):
        yield (part.double() - (mean if name else _mean_pattern(part))) / length
