"""From runs to labelled scores: all together, or some at a time and then put together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from softrsa._threads import map_on_cores
from softrsa.alignment.fitting import progress_bar
from softrsa.alignment.held_out import (
    SIDES,
    Judged,
    Run,
    collect,
    evaluate,
    evaluate_features,
    fit_all,
    stimulus_labels,
)
from softrsa.alignment.maps import unit_weights
from softrsa.alignment.resampling import (
    Draws,
    by_group,
    count_steps,
    every_order,
    finished,
    labelled,
    make_draws,
    resampled,
)
from softrsa.alignment.responses import Data, Responses
from softrsa.alignment.settings import UNFITTED, Options
from softrsa.transforms.learned_similarity import LearnedSimilarities

SUMS = ("score", "stimuli", "pairs", "chance")  # as `resampling.resample_scores` gives them


def score_together(
    runs: Sequence[Run],
    layers: Mapping[str, Responses],
    regions: Mapping[str, Responses],
    options: Options,
    *,
    progress: bool,
) -> xr.Dataset:
    """Fit, score and resample all runs in this process, fits of all runs in the same batches."""
    draws = _draws(runs, options)
    fit_all(runs, options, progress=progress)
    n_steps = sum(1 + count_steps(run, options.scoring, draws) for run in runs)
    with progress_bar(n_steps, progress, "scoring") as advance:
        judged = _judged(runs, options, draws, advance)
    data = collect(runs, judged, layers, regions, options, all_stimuli=True)
    if draws is None:
        return data
    sums = [one.sums or [] for one in judged]
    found = resampled(runs, sums, _transforms(data), draws, options.asked)
    return data.merge(found, join="exact")


def score_apart(
    runs: Sequence[Run], options: Options, on_step: Callable[[int], object] = lambda _: None
) -> list[xr.Dataset]:
    """Fit, score and resample some runs together; ``on_step`` hears of it.

    Returns
    -------
    list of Dataset
        Of each run, as of one layer, region and fold; `sum_<kind>` (sum_or_number, draw_<kind>,
        transform, scored_subject) hold what `resampling.resample_scores` gives. What is of all
        stimuli comes with the first fold.
    """
    draws = _draws(runs, options)
    fit_all(runs, options, progress=False)
    judged = _judged(runs, options, draws, on_step)
    parts = [_part(run, one, options) for run, one in zip(runs, judged, strict=True)]
    for run in runs:
        run.fitted = {}  # which is large, and part of the result no more
    return parts


def _part(run: Run, judged: Judged, options: Options) -> xr.Dataset:
    """Put what came of one run into a data set of its own."""
    sides = {run.layer: run.model}, {run.region: run.brain}
    first = [replace(run, fold=0)]
    data = collect(first, [judged], *sides, options, all_stimuli=run.fold == 0)
    sums = {
        f"sum_{kind}": (
            ("sum_or_number", f"draw_{kind}", "transform", "scored_subject"),
            found[..., list(run.score)].numpy(),
        )
        for kind, found in zip(SUMS, judged.sums or [], strict=False)
    }
    return data.assign(sums)


def _draws(runs: Sequence[Run], options: Options) -> Draws | None:
    if not options.resamples:
        return None
    n_stimuli = runs[0].model.n_stimuli
    groups = options.groups_of_stimuli(n_stimuli)
    people = dict(options.subject_groups.labels)
    draws = make_draws(options.n_resamples, groups, options.resampling_seed, people)
    all_orders = None
    if options.folds is None and groups.are_single:
        all_orders = every_order(n_stimuli, options.scoring)
    return draws._replace(orders=all_orders)


def _judged(
    runs: Sequence[Run],
    options: Options,
    draws: Draws | None,
    on_step: Callable[[int], object],
) -> list[Judged]:
    """Score fitted runs on their test stimuli."""
    rsms = runs[0].brain.rsms

    def judge(run: Run) -> Judged:
        if options.of_features:
            judged = evaluate_features(run, options, draws, on_step)
        else:
            judged = evaluate(run, options, draws, on_step)
        on_step(1)
        return judged

    return map_on_cores(judge, runs, entries=rsms.numel(), device=rsms.device)


def put_together(
    read: Callable[[Run], xr.Dataset], runs: Sequence[Run], options: Options
) -> xr.Dataset:
    """Make of the parts that `score_apart` gave what `score_together` gives.

    ``read`` gives the part of a run; the parts of one layer with one region are held at a time.
    """
    groups = by_group(runs)
    axes = {
        "layer": list(dict.fromkeys(layer for layer, _ in groups)),
        "region": list(dict.fromkeys(region for _, region in groups)),
        "fold": list(range(max(run.fold for run in runs) + 1)),
    }
    draws = _draws(runs, options)
    whole, scores_of = None, {}
    for (layer, region), members in groups.items():
        sums: list[Tensor] = []
        for run in members:
            part = read(run)
            scores = part.drop_dims("sum_or_number", errors="ignore")
            whole = _empty(scores, axes) if whole is None else whole
            _place(whole, scores, run)
            if draws is not None:
                sums = sums or _no_sums(part, len(run.brain.subjects))
                for kind, total in zip(SUMS, sums, strict=True):
                    total[..., list(run.score)] += torch.from_numpy(part[f"sum_{kind}"].values)
        if draws is not None:
            scores_of[layer, region] = finished(sums, draws, members[0].brain.subjects)
    data = xr.Dataset() if whole is None else whole
    if draws is None:
        return data
    found = labelled(scores_of, _transforms(data), runs, draws.groups, options.asked)
    return data.merge(found, join="exact")


def _transforms(data: xr.Dataset) -> list[str]:
    return [str(name) for name in data["transform"].values]


def _empty(part: xr.Dataset, axes: Mapping[str, Sequence]) -> xr.Dataset:
    """Make room for all layers, regions and folds, from what is of one."""
    variables = {}
    for name, one in part.data_vars.items():
        shape = [len(axes.get(str(dim), one[dim])) for dim in one.dims]
        is_text = one.dtype.kind not in "fi"
        missing = "" if is_text else 0 if one.dtype.kind == "i" else np.nan
        values = np.full(shape, missing, dtype=object if is_text else one.dtype)
        variables[name] = (one.dims, values)
    shared = {name: values for name, values in part.coords.items() if name not in axes}
    return xr.Dataset(variables, {**shared, **axes})


def _place(whole: xr.Dataset, part: xr.Dataset, run: Run) -> None:
    """Put the part of a run where it belongs; what is not of one fold comes with the first."""
    labels = {"layer": run.layer, "region": run.region, "fold": run.fold}
    at = {dim: whole.indexes[dim].get_loc(label) for dim, label in labels.items()}
    for name, one in part.variables.items():
        if name in part.coords or not ("fold" in one.dims or run.fold == 0):
            continue
        here = tuple(at.get(str(dim), slice(None)) for dim in one.dims)
        there = tuple(0 if dim in at else slice(None) for dim in one.dims)
        whole[name].values[here] = one.values[there]


def _no_sums(part: xr.Dataset, n_subjects: int) -> list[Tensor]:
    shapes = (part[f"sum_{kind}"].shape[:-1] for kind in SUMS)
    return [torch.zeros(*shape, n_subjects, dtype=torch.float64) for shape in shapes]


MAX_SHOWN = 150  # stimuli: more are no longer told apart, and weigh megabytes


def example_rsms(runs: Sequence[Run], data: xr.Dataset, shown: Sequence[str]) -> xr.Dataset:
    """Keep RSMs of every region and its best layer, under every transform, to look at.

    Parameters
    ----------
    runs : sequence of Run
        Of all layers and regions. Where they were fitted elsewhere, fitted transforms are NaN.
    data : Dataset
        Their scores.
    shown : sequence of str
        Transforms among which the best layer is sought.

    Returns
    -------
    Dataset
        `example_rsm` (region, transform, side, anchor, neighbor), float32: the mean over folds of
        the transforms, over training stimuli too, so nothing to score; the brain's is the mean over
        subjects. At most 150 stimuli, evenly drawn. `example_layer` (region) names the layer.
    """
    regions = [str(name) for name in data["region"].values]
    transforms = [str(name) for name in data["transform"].values]
    n = runs[0].model.n_stimuli
    at = torch.linspace(0, n - 1, min(n, MAX_SHOWN), dtype=torch.float64).round().long()
    values = np.full((len(regions), len(transforms), 2, len(at), len(at)), np.nan, np.float32)
    best = data["score"].sel(transform=list(shown)).mean("fold").max("transform")
    layers = []
    for i, region in enumerate(regions):
        scores = best.sel(region=region).fillna(-np.inf)
        layers.append(str(scores["layer"].values[int(scores.argmax("layer"))]))
        members = [run for run in runs if (run.layer, run.region) == (layers[-1], region)]
        for j, name in enumerate(transforms):
            for side, found in enumerate(_mean_transformed(members, name, at)):
                values[i, j, side] = found.cpu().numpy()
    ids = stimulus_labels(runs[0].model, runs[0].brain)[at.numpy()]
    return xr.Dataset(
        {
            "example_rsm": (("region", "transform", "side", "anchor", "neighbor"), values),
            "example_layer": ("region", np.array(layers, dtype=object)),
        },
        {"side": list(SIDES), "anchor": ids, "neighbor": ids},
    )


def weights_of_units(
    runs: Sequence[Run], options: Options, layers: Mapping[str, Data]
) -> xr.Dataset:
    """Say how much each unit of the layers counts in learned similarities, as means over folds.

    Parameters
    ----------
    runs : sequence of Run
        Of all layers and regions. Those fitted elsewhere, on a cluster or for a store, have none.
    options : Options
        What was fitted.
    layers : mapping of str to data
        As given: for names of units.

    Returns
    -------
    Dataset
        `unit_weight` (region, mapped, unit), float32, mean 1 in each layer, with the coordinates
        `unit_layer` and `unit_name`; empty where nothing was mapped.
    """
    names = [one.name for one in options.fitted if one.map]
    sources = {run.layer: run.model.source for run in runs if run.fitted}
    known = {layer: source for layer, source in sources.items() if source is not None}
    if not names or not known:
        return xr.Dataset()
    ends = np.cumsum([0, *(source.shape[1] for source in known.values())])
    places = dict(zip(known, pairwise(ends), strict=True))
    regions = list(dict.fromkeys(run.region for run in runs))
    values = np.full((len(regions), len(names), ends[-1]), np.nan, np.float32)
    for (layer, region), members in by_group(runs).items():
        for j, name in enumerate(names) if layer in known else ():
            maps = [run.fitted[name].units for run in members]
            own = [
                unit_weights(members[0].model, one)
                for one in maps
                if isinstance(one, LearnedSimilarities)
            ]
            if own:
                here = slice(*places[layer])
                values[regions.index(region), j, here] = torch.stack(own).mean(0).cpu().numpy()
    labels = [_unit_names(layers[layer], source.shape[1]) for layer, source in known.items()]
    return xr.Dataset(
        {"unit_weight": (("region", "mapped", "unit"), values)},
        {
            "mapped": names,
            "unit_layer": ("unit", np.repeat([*known], np.diff(ends))),
            "unit_name": ("unit", np.concatenate(labels)),
        },
    )


def _unit_names(data: Data, n_units: int) -> np.ndarray:
    """Names of units as texts: of a labelled array that has some, or their places."""
    if isinstance(data, xr.DataArray) and "unit" in data.coords:
        return np.array([*map(str, data["unit"].values)])
    return np.arange(n_units).astype(str)


def _mean_transformed(runs: Sequence[Run], name: str, at: Tensor) -> tuple[Tensor, Tensor]:
    """RSMs (k, k) of both sides under a transform, as the mean over runs and subjects."""
    sums: list[Tensor] = []
    for run in runs:
        model, brain = run.model.take(at), run.brain.take(at)
        if name in run.fitted:
            pair = run.fitted[name].transformed(model, brain, run.readers(brain))
        elif name in UNFITTED:
            transform = UNFITTED[name]()
            pair = transform(model.rsms), transform(brain.rsms)
        else:
            pair = (torch.full_like(model.rsms, torch.nan),) * 2
        means = [side.mean(0) / len(runs) for side in pair]
        sums = [a + b for a, b in zip(sums, means, strict=True)] if sums else means
    return sums[0], sums[1]
