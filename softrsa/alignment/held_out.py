"""A run: a layer, a region and a fold, fitted on its training and scored on its test stimuli."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from softrsa._groups import Groups, alone
from softrsa.alignment.controlled import (
    Side,
    plain_rsa_given,
    resample_given,
    transformed_control,
    views,
)
from softrsa.alignment.descent import FitPlan
from softrsa.alignment.feature_scores import resample_features, score_features
from softrsa.alignment.fitting import (
    BESIDE_SCORE,
    Fitted,
    Task,
    count_fit_steps,
    fit_transforms,
    make_plan,
    progress_bar,
    scores_beside,
)
from softrsa.alignment.resampling import Draws, resample_scores
from softrsa.alignment.responses import Responses
from softrsa.alignment.settings import (
    UNFITTED,
    Options,
    Split,
)
from softrsa.errors import DataError
from softrsa.inference import noise_ceiling
from softrsa.inference.noise_ceiling import NoiseCeiling
from softrsa.inference.trial_ceiling import ceiling_of_halves, has_trial_ceiling
from softrsa.measures import Measure, get, pearson, row_offset_share
from softrsa.measures.missing import FEWEST_PAIRS, lacks_pairs, on_held_pairs
from softrsa.measures.partial import of_residuals
from softrsa.pairs import off_diagonal
from softrsa.transforms.center import held_pairs
from softrsa.transforms.on_rsms import Identity, SoftGate


def stimulus_labels(model: Responses, brain: Responses) -> np.ndarray:
    """Ids of the stimuli as netCDF keeps them, or their places where the data have none."""
    stimuli = brain.stimuli if model.stimuli is None else model.stimuli
    if stimuli is None:
        return np.arange(model.n_stimuli)
    return stimuli.values if stimuli.dtype.kind in "iuf" else np.array([*map(str, stimuli)])


PARAMETERS = ("lower", "upper", "transition")
SIDES = ("model", "brain")
CURVE_GRID = torch.linspace(0, 1, 41, dtype=torch.float64)
CURVE_QUANTILES = (0.1, 0.5, 0.9)  # over anchors
OF_MAP = ("map_size", "map_penalty", "map_steps", "effective_dimension", "distance_from_identity")
NUMBERS = (
    "score", "n_pairs", "train_score", "row_offset_share", *BESIDE_SCORE, "ceiling_lower",
    "ceiling_upper", "penalty", "n_steps", "degenerate", *OF_MAP,
)  # fmt: skip
NAMES = ("chosen", "gate", "fallback")
ROLES = ("train", "inner")  # scores along a fit: on its stimuli, and on inner folds


@dataclass
class Run:
    """A layer, a region, a fold, and the subjects to learn from and to score."""

    layer: str
    region: str
    fold: int
    model: Responses
    brain: Responses
    split: Split
    learn: tuple[int, ...]
    score: tuple[int, ...]
    fitted: dict[str, Fitted] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Layer, region, fold and subject left out, for messages."""
        out = [s for i, s in enumerate(self.brain.subjects) if i not in self.learn]
        left_out = f", without subject {', '.join(map(repr, out))}" if out else ""
        return f"layer {self.layer!r}, region {self.region!r}, fold {self.fold}{left_out}"

    def test(self) -> tuple[Responses, Responses]:
        """Both sides over the test stimuli, all subjects."""
        return self.model.take(self.split.test), self.brain.take(self.split.test)

    def readers(self, test: Responses) -> Responses:
        """Subjects whose units embed the brain's anchors: those learned from."""
        return test.take_subjects(self.learn)


def make_runs(
    layer: tuple[str, Responses],
    region: tuple[str, Responses],
    splits: Sequence[Split],
    subjects: str,
    together: Groups | None = None,
) -> list[Run]:
    """Make a run per fold, or per fold and held-out subject, of a named layer and region.

    Subjects who are ``together`` are held out together.
    """
    brain = region[1]
    everyone = tuple(range(len(brain.subjects)))
    groups = [(everyone, everyone)]
    if subjects == "leave_one_out":
        codes = (together or alone(len(everyone))).codes.tolist()
        if len({*codes}) < 2:
            whose = "subjects" if together is None or together.are_single else "groups of subjects"
            raise DataError(
                f"Leaving a subject out needs at least 2 {whose}, region {region[0]!r} has "
                f"{len({*codes})}. Use subjects='pooled'."
            )
        groups = [
            tuple(tuple(i for i in everyone if (codes[i] == out) is own) for own in (False, True))
            for out in dict.fromkeys(codes)
        ]
    cases = [(split, learn, score) for split in splits for learn, score in groups]
    return [
        Run(layer[0], region[0], i, layer[1], brain, split, learn, score)
        for i, (split, learn, score) in enumerate(cases)
    ]


def fit_all(runs: Sequence[Run], options: Options, *, progress: bool) -> None:
    """Fit every run, together with all others whose sides are scaled alike."""
    settings, chains = options.settings, options.fitted
    known = options.groups_of_stimuli(runs[0].model.n_stimuli) if runs else None
    known = None if known is None or known.are_single else known
    groups: dict[tuple[str, str], list[Run]] = {}
    plans: dict[tuple[str, str], FitPlan] = {}
    for run in runs:
        plan = make_plan(options.scoring, run.model, run.brain, settings, options.seed)
        plan = replace(plan, groups=known)
        groups.setdefault(plan.scaling, []).append(run)
        plans[plan.scaling] = plan
    tasks = {scaling: _tasks(members) for scaling, members in groups.items()}
    total = sum(count_fit_steps(group, chains, settings, known) for group in tasks.values())
    with progress_bar(total, progress) as advance:
        for scaling, members in groups.items():
            fits = fit_transforms(tasks[scaling], chains, plans[scaling], on_step=advance)
            for run, fitted in zip(members, fits, strict=True):
                run.fitted = fitted


def _tasks(runs: Sequence[Run]) -> list[Task]:
    """Give the fits what they may see; runs that learn from the same subjects share their RSMs."""
    brains: dict[tuple[int, tuple[int, ...]], Responses] = {}
    for run in runs:
        key = id(run.brain), run.learn
        if key not in brains:
            brains[key] = run.brain.take_subjects(run.learn)
    return [Task(run.model, brains[id(run.brain), run.learn], run.split.train) for run in runs]


class Judged(NamedTuple):
    """What came of a run: a record per transform, and the sums of its resampled scores."""

    records: dict[str, dict[str, Any]]
    sums: list[Tensor] | None


def evaluate(
    run: Run, options: Options, draws: Draws | None, on_step: Callable[[int], object]
) -> Judged:
    """Score every transform of a run on its test stimuli, each pair of stimuli transformed once."""
    model, brain = run.test()
    readers, chosen = run.readers(brain), list(run.score)
    sides = {name: fitted.model_side(model, brain) for name, fitted in run.fitted.items()}
    pairs = [Side(*run.fitted[name].stepped(side, brain, readers)) for name, side in sides.items()]
    controls = _controls(model, run.fitted)
    whole, given, of_offsets, aside = views(pairs, controls, options.measure)
    measure = on_held_pairs(whole) if options.missing else whole
    scored = [side.scored(chosen) for side in given]
    if controls is None:
        models, brains = zip(*scored, strict=True)
        resampled = resample_scores(
            run, measure, models, torch.stack(brains), draws, on_step=on_step
        )
    else:
        resampled = resample_given(run, options.measure, pairs, controls, draws)
    scores = [measure.between(*both).mean() for both in scored]
    shares = [row_offset_share(*side.scored(chosen)).mean() for side in of_offsets]
    beside = [scores_beside(*side.scored(chosen)) for side in aside]
    # a measure that does not say how it normalizes: the mean RSM as it is
    pool = "normalized" if options.measure.normalize else "raw"
    n_pairs = int(held_pairs(model.rsms, brain.rsms).sum()) // 2
    people = options.groups_of_subjects(brain.subjects)
    records = {}
    for k, (name, fitted) in enumerate(run.fitted.items()):
        ceiling = (
            _ceiling(given[k].brain, whole, pool, people)
            if brain.halves is None
            else _ceiling_of_trials(brain, fitted, options.measure)
        )
        records[name] = {
            "score": float(scores[k]),
            "n_pairs": n_pairs,
            "row_offset_share": float(shares[k]),
            **beside[k],
            "ceiling_lower": float(ceiling.lower[chosen].mean()),
            "ceiling_upper": float(ceiling.upper[chosen].mean()),
            # which is that of the fit, without a control
            "train_score": fitted.train_score if controls is None else torch.nan,
            "penalty": fitted.penalty,
            "n_steps": fitted.n_steps,
            "degenerate": fitted.degenerate,
            "fallback": fitted.fallback,
            "chosen": fitted.chosen,
            "gate": fitted.gate,
            "path": fitted.path,
            **_of_map(fitted),
            "influence": resampled.influence[k],
            "steps": (
                _describe(fitted, sides[name], sides[name], "model"),
                _describe(fitted, brain, readers, "brain"),
            ),
        }
    records["identity"]["rsa_score"] = plain_rsa(model, brain, chosen)
    return Judged(records, resampled.sums)


def _controls(model: Responses, fitted: Mapping[str, Fitted]) -> list[Tensor] | None:
    """Give the control of each transform, if there is one, over the stimuli of the model."""
    if model.control is None:
        return None
    names = [one.fallback or one.chosen or name for name, one in fitted.items()]
    return [transformed_control(model.control, name) for name in names]


def _of_map(fitted: Fitted) -> dict[str, Any]:
    """Give what is kept of a learned similarity."""
    found = fitted.description
    return {
        "map_size": fitted.map_size,
        "map_penalty": fitted.map_penalty,
        "map_steps": fitted.map_steps,
        "effective_dimension": torch.nan if found is None else found.effective_dimension,
        "distance_from_identity": torch.nan if found is None else found.distance,
        "component_weight": None if found is None else found.weights,
        "map_path": fitted.map_path,
    }


def _ceiling(
    rsms: Tensor, measure: Measure, pool: Literal["normalized", "raw"], groups: Groups
) -> NoiseCeiling:
    """Noise ceilings of subjects (s, n, n); NaN where pairs are missing and they have none.

    NaN also where all subjects are of one group.
    """
    few = int(held_pairs(rsms).sum()) < 2 * FEWEST_PAIRS or len(groups) < 2
    if few or (pool == "raw" and lacks_pairs(rsms)):
        nothing = rsms.new_full((len(rsms),), torch.nan)
        return NoiseCeiling(nothing, nothing)
    return noise_ceiling(rsms, measure, pool=pool, subject_groups=groups.labels or None)


def _ceiling_of_trials(brain: Responses, fitted: Fitted, measure: Measure) -> NoiseCeiling:
    """Noise ceiling (1,) of a subject of whom there are single trials; see `trial_ceiling`.

    NaN under a transform whose gate reads embeddings of units: halves of trials have none.
    """
    transform = fitted.brain_for(brain)
    reads_units = fitted.embeddings is not None and isinstance(transform, SoftGate)
    if brain.halves is None or reads_units or not has_trial_ceiling(measure, brain.similarity):
        return NoiseCeiling(*torch.full((2, 1), torch.nan, dtype=torch.float64))
    found = ceiling_of_halves(
        brain.halves, brain.rsms[0], measure, brain.similarity,
        None if isinstance(transform, Identity) else transform,
    )  # fmt: skip
    return NoiseCeiling(*torch.tensor(found, dtype=torch.float64).view(2, 1))


def plain_rsa(model: Responses, brain: Responses, subjects: Sequence[int]) -> float:
    """Mean over subjects of the (partial) Pearson correlation of RSMs as they are."""
    rsms = brain.rsms[list(subjects)]
    if model.control is not None:
        return plain_rsa_given(model.rsms, rsms, model.control)
    if lacks_pairs(model.rsms, rsms):
        return float(on_held_pairs(get("pearson")).between(model.rsms, rsms).mean())
    return float(pearson(off_diagonal(model.rsms), off_diagonal(rsms)).mean())


def _describe(
    fitted: Fitted, side: Responses, readers: Responses, which: str
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Mean and sd over anchors of the step parameters, and quantiles of the curve over anchors."""
    transform = fitted.model if which == "model" else fitted.brain_for(side)
    if not isinstance(transform, SoftGate):
        return None
    with torch.no_grad():
        steps = transform.step_parameters(side.rsms, fitted.side_anchors(readers, which))
        values = torch.stack([p.flatten() for p in steps]).double().cpu()
        curves = transform.step.step(CURVE_GRID, steps).flatten(0, -2)
    levels = torch.tensor(CURVE_QUANTILES, dtype=torch.float64)
    return values.mean(1), values.std(1, correction=0), curves.quantile(levels, dim=0)


DIMS = ("layer", "region", "transform", "fold")
BESIDE = {  # numbers of each transform in each fold, and their further dimensions
    **dict.fromkeys(NUMBERS, ()),
    "step_mean": ("side", "parameter"),
    "step_sd": ("side", "parameter"),
    "curve": ("side", "anchor_quantile", "similarity"),
    "fit_path": ("role", "stop"),
    "stimulus_influence": ("stimulus",),
}
BESIDE_MAPS = {"component_weight": ("component",), "map_path": ("role", "map_stop")}
SHOWN_COMPONENTS = 50  # of a learned map, the largest first


def collect(
    runs: Sequence[Run],
    judged: Sequence[Judged],
    layers: Mapping[str, Responses],
    regions: Mapping[str, Responses],
    options: Options,
    *,
    all_stimuli: bool,
) -> xr.Dataset:
    """Put what came of all runs into one labelled data set.

    Without ``all_stimuli`` the scores over all stimuli are left NaN.
    """
    names, layer_names, region_names = [*judged[0].records], list(layers), list(regions)
    coordinates: dict[str, Sequence | np.ndarray] = {
        "layer": layer_names, "region": region_names, "transform": names,
        "fold": range(max(run.fold for run in runs) + 1), "side": list(SIDES),
        "parameter": list(PARAMETERS), "anchor_quantile": list(CURVE_QUANTILES),
        "similarity": CURVE_GRID.numpy(), "role": list(ROLES), "stop": list(options.settings.stops),
        "stimulus": stimulus_labels(runs[0].model, runs[0].brain),
    }  # fmt: skip
    beside = dict(BESIDE)
    if any(one.map for one in options.fitted):
        beside |= BESIDE_MAPS
        coordinates["component"] = range(SHOWN_COMPONENTS)
        coordinates["map_stop"] = list(options.settings.map_stops)
    n = {dim: len(labels) for dim, labels in coordinates.items()}
    data: dict[str, tuple[tuple[str, ...], np.ndarray]] = {
        key: ((*DIMS, *dims), _missing(n, *DIMS, *dims)) for key, dims in beside.items()
    }
    data |= {key: (DIMS, np.full([n[dim] for dim in DIMS], "", dtype=object)) for key in NAMES}
    data["rsa_score"] = (dims := ("layer", "region", "fold")), _missing(n, *dims)
    arrays = {key: values for key, (_, values) in data.items()}
    for run, (records, _) in zip(runs, judged, strict=True):
        place = layer_names.index(run.layer), region_names.index(run.region)
        arrays["rsa_score"][(*place, run.fold)] = records["identity"]["rsa_score"]
        for k, record in enumerate(records.values()):
            at = (*place, k, run.fold)
            _put(arrays, at, record)
            tested = (*at, run.split.test.numpy())
            arrays["stimulus_influence"][tested] = record["influence"].cpu()
    if all_stimuli:
        data["all_stimuli_score"] = DIMS[:3], _over_all(names, layers, regions, options)
    else:
        data["all_stimuli_score"] = DIMS[:3], _missing(n, *DIMS[:3])
    data["n_subjects"] = ("region",), np.array([len(one.subjects) for one in regions.values()])
    return xr.Dataset(data, coordinates)


def _missing(n: Mapping[str, int], *dims: str) -> np.ndarray:
    kind = np.float32 if "stimulus" in dims else np.float64  # there may be many
    return np.full([n[dim] for dim in dims], np.nan, dtype=kind)


def _put(arrays: Mapping[str, np.ndarray], at: tuple[int, ...], record: Mapping[str, Any]) -> None:
    """Write what is known of one transform in one fold to its place."""
    for key in (*NUMBERS, *NAMES):
        arrays[key][at] = record[key]
    if record["path"] is not None:
        arrays["fit_path"][at] = record["path"]
    if record["map_path"] is not None:
        arrays["map_path"][at] = record["map_path"]
    if record["component_weight"] is not None:
        first = record["component_weight"][:SHOWN_COMPONENTS]
        arrays["component_weight"][at][: len(first)] = first
    for side, described in enumerate(record["steps"]):
        if described is not None:
            for key, values in zip(("step_mean", "step_sd", "curve"), described, strict=True):
                arrays[key][(*at, side)] = values


def _over_all(
    names: Sequence[str],
    layers: Mapping[str, Responses],
    regions: Mapping[str, Responses],
    options: Options,
) -> np.ndarray:
    """Scores over all stimuli, without held-out ones (n_layers, n_regions, n_transforms)."""

    def score(name: str, layer: Responses, region: Responses) -> float:
        if options.of_features and name == "identity":
            return score_features_of_all(layer, region, options)
        return score_all_stimuli(name, layer, region, options)

    return np.array(
        [[[score(name, a, b) for name in names] for b in regions.values()] for a in layers.values()]
    )


def score_all_stimuli(name: str, model: Responses, brain: Responses, options: Options) -> float:
    """Mean score of the subjects over all stimuli; NaN where a transform is fitted."""
    if name not in UNFITTED:
        return float("nan")
    transform, measure = UNFITTED[name](), options.scoring
    own = transform(model.rsms[0])
    if model.control is not None:
        control = transformed_control(model.control, name)
        given = Side(own[None], transform(brain.rsms)).less(control, options.measure)
        return float(of_residuals(options.measure).between(*given).mean())
    if options.missing:  # a pair that a subject lacks is left out of all
        return float(measure.between(own, transform(brain.rsms)).mean())
    scores = [measure.between(own, transform(rsm)) for rsm in brain.rsms]
    return float(torch.stack(scores).mean())


def row_offset_warnings(data: xr.Dataset, options: Options) -> list[str]:
    """Name the scores that are mostly agreement on one number per stimulus."""
    measure = options.measure
    if "column_offset" in measure.invariances:
        return []
    shown = [one.name for one in options.transforms]
    share = data["row_offset_share"].mean("fold").sel(transform=shown)
    high = share.where(share > 0.5).to_series().dropna()
    if high.empty:
        return []
    worst = high.index[int(high.argmax())]
    return [
        f"Row offsets explain more than half of what is shared in {len(high)} of {share.size} "
        f"scores under {measure.name!r} (most: {high.max():.2f} for "
        f"{' / '.join(map(str, worst))}). "
        "Such a score says little about geometry; use measure='centered_pearson'."
    ]


LEAST_GAIN = 0.01  # under the measure in use, from which on it is looked at what it is
LEAST_SHARE = 0.25  # of the gain that the balanced score must have too
MOST_LOST = 0.01  # of identification


def stimulus_scale_warnings(data: xr.Dataset, options: Options) -> list[str]:
    """Name the gains that are one factor per stimulus, or that stimuli are told apart worse for."""
    fixed = [one.name for one in options.fitted if one.rsms.baseline and one.units is None]
    shown = [one.name for one in options.transforms if one.name not in fixed]
    if not shown:
        return []
    found = data[["score", "balanced_score", "identification"]]
    best = found["score"].mean("fold").sel(transform=fixed).fillna(-np.inf).argmax("transform")
    baseline = found.sel(transform=fixed).isel(transform=best).drop_vars("transform")
    each = (found - baseline).sel(transform=shown)
    gain = each.mean("fold")
    lacking = _beyond_noise(LEAST_SHARE * each["score"] - each["balanced_score"], 0.0)
    worse = _beyond_noise(-each["identification"], MOST_LOST)
    bad = (gain["score"] > LEAST_GAIN) & (lacking | worse)
    if not bad.any():
        return []
    rows = gain.where(bad).to_dataframe().dropna(subset=["score"])
    place = int(rows["score"].argmax())
    worst, name = rows.iloc[place], " / ".join(map(str, rows.index[place]))
    return [
        f"{len(rows)} of {bad.size} gains under {options.measure.name!r} look like the "
        "stimulus-scale shortcut: both sides agree on one factor per stimulus, and the geometry "
        f"is not more alike (most: {name} gains {worst['score']:+.3f}, its balanced score "
        f"{worst['balanced_score']:+.3f}, identification of stimuli "
        f"{worst['identification']:+.3f}). Do not claim these gains; quote `balanced_score`."
    ]


def _beyond_noise(each: xr.DataArray, least: float) -> xr.DataArray:
    """Whether means over folds are more than ``least``, and more than one standard error."""
    mean, n = each.mean("fold"), each.notnull().sum("fold")
    error = each.std("fold", ddof=1) / n**0.5 if each.sizes["fold"] > 1 else xr.zeros_like(mean)
    return (mean > least) & (mean > error.where(n > 1, 0.0))


def undefined_warnings(data: xr.Dataset, options: Options) -> list[str]:
    """Name the scores that are NaN, and say why."""
    shown = [one.name for one in options.transforms]
    there = data["degenerate"].notnull()  # regions may have fewer folds than others
    lost = (data["score"].isnull() & there).sel(transform=shown)
    counted = _counted_folds(lost)
    if counted is None:
        return []
    n_scores = int(there.sel(transform=shown).sum())
    return [
        f"{counted[0]} of {n_scores} scores of folds are undefined (NaN), most of them for "
        f"{counted[1]}: on one side there is no variance above rounding, or none after centering "
        "(stimuli that do not differ, one unit per stimulus, one number per stimulus only), "
        f"{'the control explains all of it, ' if options.control else ''}or "
        "values are missing. Nothing can be compared there."
    ]


def degenerate_warnings(data: xr.Dataset) -> list[str]:
    """Name the fits that were taken at an earlier step, and those that could not start."""
    messages = []
    earlier = _counted_folds(data["degenerate"] > 0)
    if earlier is not None:
        messages.append(
            f"{earlier[0]} fits collapsed (next to no variance or pairs left) at the step chosen "
            f"and were taken earlier, most of them for {earlier[1]}. "
            "Raise `penalties` or lower `learning_rate` in FitSettings."
        )
    stood_in = _counted_folds(data["fallback"] != "")
    if stood_in is not None:
        messages.append(
            f"{stood_in[0]} fits could not start, most of them for {stood_in[1]}: the scaled RSMs "
            "have next to no variance, or one pair has it all. The best fixed transform stands in "
            "for them (column `folds_fallen_back`). Check the RSMs for constant values and "
            "outliers, or use scaling='rank' in FitSettings."
        )
    return messages


def _counted_folds(there: xr.DataArray) -> tuple[int, str] | None:
    """How many folds have something, and which layer, region and transform has it most often."""
    folds = there.sum("fold").to_series()
    if not folds.sum():
        return None
    return int(folds.sum()), " / ".join(map(str, folds.index[int(folds.argmax())]))


def evaluate_features(
    run: Run, options: Options, draws: Draws | None, on_step: Callable[[int], object]
) -> Judged:
    """Score the features of a run's test stimuli, as `evaluate` scores RSMs."""
    chosen = list(run.score)
    n = len(run.split.test)
    records, sides = {}, []
    for name, fitted in run.fitted.items():
        model = fitted.model_features(run.model, run.brain)
        train, test = (
            (model.take(stimuli), run.brain.take(stimuli))
            for stimuli in (run.split.train, run.split.test)
        )
        sides.append((train, test))
        of_model = test[0].rsms if len(test[0].rsms) == 1 else test[0].rsms[chosen]
        of_brain = test[1].rsms[chosen]
        records[name] = {
            "score": score_features(options.measure, train, test, chosen),
            "n_pairs": n * (n - 1) // 2,
            "train_score": score_features(options.measure, train, train, chosen),
            "row_offset_share": float(row_offset_share(of_model, of_brain).mean()),
            **scores_beside(of_model, of_brain),
            **dict.fromkeys(("ceiling_lower", "ceiling_upper"), torch.nan),
            "penalty": 0.0, "n_steps": 0, "degenerate": False, "chosen": fitted.chosen, "gate": "",
            "fallback": "", **_of_map(fitted),
            "steps": (None, None), "path": fitted.path,
        }  # fmt: skip
    resampled = resample_features(run, options.measure, sides, draws, on_step=on_step)
    for record, influence in zip(records.values(), resampled.influence, strict=True):
        record["influence"] = influence
    records["identity"]["rsa_score"] = plain_rsa(*run.test(), chosen)
    return Judged(records, resampled.sums)


def score_features_of_all(model: Responses, brain: Responses, options: Options) -> float:
    """Mean over subjects of the score over all stimuli; NaN for what is fitted."""
    measure = options.measure
    if measure.held_out is not None:
        return torch.nan
    sides = model, brain
    return score_features(measure, sides, sides, range(len(brain.subjects)))
