"""From runs to labelled scores: all together, or one at a time and then put together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from softrsa.alignment.held_out import (
    SIDES,
    UNFITTED,
    Run,
    collect,
    evaluate,
    evaluate_features,
    fit_all,
    score_all_stimuli,
    score_features,
    stimulus_labels,
)
from softrsa.alignment.resampling import (
    by_group,
    finished,
    labelled,
    make_draws,
    resample,
    score_sums,
)
from softrsa.alignment.responses import Side
from softrsa.alignment.settings import FitSettings
from softrsa.measures import Measure, get

SUMS = ("score", "stimuli", "pairs", "chance")  # as `resampling.score_sums` gives them


@dataclass(frozen=True)
class Job:
    """What is done with every run, whatever its data."""

    names: tuple[str, ...]
    measure: str
    similarity: str
    settings: FitSettings
    n_resamples: int
    seed: int

    @property
    def entry(self) -> Measure:
        """The measure itself."""
        return get(self.measure)

    @property
    def of_features(self) -> bool:
        """Whether features are compared, without RSMs: nothing is fitted or resampled then."""
        return self.entry.takes == "features"

    @property
    def resamples(self) -> bool:
        """Whether scores are resampled."""
        return self.n_resamples > 0 and not self.of_features

    @property
    def resampling_seed(self) -> int:
        """Seed of the resamples."""
        return self.seed + 2


def score_together(
    runs: Sequence[Run],
    layers: Mapping[str, Side],
    regions: Mapping[str, Side],
    job: Job,
    *,
    progress: bool,
) -> xr.Dataset:
    """Fit, score and resample all runs in this process, fits of all runs in the same batches."""
    data = _scores(runs, layers, regions, job, progress=progress)
    if not job.resamples:
        return data
    drawn = resample(
        runs, _transforms(data), job.entry, n_resamples=job.n_resamples, seed=job.resampling_seed
    )
    return data.merge(drawn, join="exact")


def score_alone(run: Run, job: Job) -> xr.Dataset:
    """Fit, score and resample one run as if there were no other.

    Returns
    -------
    Dataset
        As of one layer, region and fold; `sum_<kind>` (sum_or_number, draw_<kind>, transform,
        scored_subject) hold what `resampling.score_sums` gives. What is of all stimuli comes with
        the first fold.
    """
    sides = {run.layer: run.model}, {run.region: run.brain}
    first = replace(run, fold=0)
    data = _scores([first], *sides, job, progress=False, all_stimuli=run.fold == 0)
    if not job.resamples:
        return data
    draws = make_draws(job.n_resamples, run.model.n_stimuli, job.resampling_seed)
    sums = score_sums([first], _transforms(data), job.entry, draws)
    return data.assign(
        {
            f"sum_{kind}": (
                ("sum_or_number", f"draw_{kind}", "transform", "scored_subject"),
                found[..., list(run.score)].numpy(),
            )
            for kind, found in zip(SUMS, sums, strict=True)
        }
    )


def put_together(read: Callable[[Run], xr.Dataset], runs: Sequence[Run], job: Job) -> xr.Dataset:
    """Make of the parts that `score_alone` gave what `score_together` gives.

    ``read`` gives the part of a run; the parts of one layer with one region are held at a time.
    """
    groups = by_group(runs)
    axes = {
        "layer": list(dict.fromkeys(layer for layer, _ in groups)),
        "region": list(dict.fromkeys(region for _, region in groups)),
        "fold": list(range(max(run.fold for run in runs) + 1)),
    }
    draws = make_draws(job.n_resamples, runs[0].model.n_stimuli, job.resampling_seed)
    whole, resampled = None, {}
    for (layer, region), members in groups.items():
        sums: list[Tensor] = []
        for run in members:
            part = read(run)
            scores = part.drop_dims("sum_or_number", errors="ignore")
            whole = _empty(scores, axes) if whole is None else whole
            _place(whole, scores, run)
            if job.resamples:
                sums = sums or _no_sums(part, len(run.brain.subjects))
                for kind, total in zip(SUMS, sums, strict=True):
                    total[..., list(run.score)] += torch.from_numpy(part[f"sum_{kind}"].values)
        if job.resamples:
            resampled[layer, region] = finished(sums, draws)
    data = xr.Dataset() if whole is None else whole
    if not job.resamples:
        return data
    return data.merge(labelled(resampled, _transforms(data), runs), join="exact")


def _scores(
    runs: Sequence[Run],
    layers: Mapping[str, Side],
    regions: Mapping[str, Side],
    job: Job,
    *,
    progress: bool,
    all_stimuli: bool = True,
) -> xr.Dataset:
    """Fit the runs and score them; over all stimuli too, or NaN for those scores."""
    if not job.of_features:
        fit_all(
            runs, job.names, job.measure, job.similarity, job.settings,
            seed=job.seed, progress=progress,
        )  # fmt: skip
    judge, judge_all = (
        (evaluate_features, score_features) if job.of_features else (evaluate, score_all_stimuli)
    )
    of_all = partial(judge_all, measure=job.entry) if all_stimuli else _not_scored
    return collect(
        runs, layers, regions, partial(judge, measure=job.entry), of_all, stops=job.settings.stops
    )


def _not_scored(name: str, model: Side, brain: Side) -> float:
    del name, model, brain
    return float("nan")


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
    for name, one in part.isel(layer=0, region=0, fold=0).data_vars.items():
        dims = whole[name].dims
        if "fold" in dims or run.fold == 0:
            whole[name][{dim: i for dim, i in at.items() if dim in dims}] = one.values


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
