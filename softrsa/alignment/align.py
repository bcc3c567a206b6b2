"""align: every layer with every region, scored on held-out stimuli."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor

from softrsa._checks import resolve_device
from softrsa._groups import Groups
from softrsa._memory import available_memory
from softrsa._wording import listed
from softrsa.alignment.cluster import check_client, digest, digest_code, score_in_pieces
from softrsa.alignment.controlled import check_control, control_parts, with_control
from softrsa.alignment.embedding import rotated
from softrsa.alignment.feature_scores import (
    check_feature_measure,
    compact,
    few_stimuli_warnings,
    may_rotate,
)
from softrsa.alignment.fitting import check_units, n_inner_folds
from softrsa.alignment.groups import (
    LabelsLike,
    count_groups,
    few_group_warnings,
    labels_of_stimuli,
    labels_of_subjects,
    splits_of,
    without,
)
from softrsa.alignment.held_out import (
    degenerate_warnings,
    make_runs,
    row_offset_warnings,
    stimulus_labels,
    stimulus_scale_warnings,
    undefined_warnings,
)
from softrsa.alignment.maps import MAPS, is_learnable, with_points
from softrsa.alignment.memory import check_memory, estimate_of_run
from softrsa.alignment.responses import Data, Responses, as_responses, join_all, one_subject
from softrsa.alignment.result import AlignmentResult
from softrsa.alignment.scoring import example_rsms, score_together, weights_of_units
from softrsa.alignment.settings import (
    SMALLEST_BLOCK,
    UNFITTED,
    DegenerateFitWarning,
    FitSettings,
    Options,
    Split,
    StimulusScaleWarning,
    ordered,
    splits_or_count,
)
from softrsa.errors import DataError, StimulusError, unknown_name
from softrsa.inference.trial_ceiling import has_trial_ceiling, scaled_halves
from softrsa.io import check_rdms
from softrsa.io.axes import from_frame
from softrsa.io.labelling import meaning
from softrsa.measures import Measure, get
from softrsa.measures.missing import check_leaves_out, lacks_pairs
from softrsa.measures.partial import check_partial
from softrsa.recordings import average_trials, split_units
from softrsa.rsm.similarity import SimilarityLike, as_similarity
from softrsa.transforms.center import held_pairs
from softrsa.transforms.on_rsms import TRANSFORMS, Chain, TransformLike, as_chain

if TYPE_CHECKING:
    from distributed import Client

LabelledData = Mapping[str, Data] | Data


def align(
    layers: LabelledData,
    regions: LabelledData,
    *,
    by: str = "layer",
    region: str = "region",
    subject: str = "subject",
    transforms: Sequence[TransformLike] | TransformLike | None = None,
    measure: str | Measure = "centered_pearson",
    similarity: SimilarityLike = "correlation",
    folds: int | Sequence[Split] | None = 5,
    subjects: Literal["pooled", "leave_one_out"] = "pooled",
    join: Literal["exact", "intersection"] = "exact",
    ids: Literal["exact", "normalize"] = "exact",
    permute: bool = False,
    settings: FitSettings | None = None,
    n_resamples: int = 1000,
    seed: int = 0,
    device: str = "auto",
    progress: bool = False,
    client: Client | None = None,
    store: str | Path | None = None,
    control: LabelledData | None = None,
    stimulus_groups: LabelsLike = None,
    subject_groups: LabelsLike = None,
) -> AlignmentResult:
    """Align every layer of a model with every region of a brain, on held-out stimuli.

    Parameters
    ----------
    layers, regions : DataArray, mapping of str to data, or data
        Activations or recordings (stimulus, unit) with labels on `unit`, stacks of RDMs or RSMs
        (..., anchor, neighbor), a mapping from names to any of these, or plain arrays as
        `Aligner.fit` takes them. A pandas DataFrame is labelled: its index are stimuli, its columns
        units (levels of these label them, such as ``layer``), or stimuli too, of an RDM. Labelled
        data are joined by stimulus id. A layer with several
        subjects, such as a region of other people, counts as the mean of their RSMs.
    by, region, subject : str
        Names of the coordinates that hold layers, regions and subjects.
    transforms : sequence of str, Transform or Module, optional
        Which transforms to report: see `Aligner`; all by default. The fixed ones are always
        computed, as baselines. "selected" chooses among the others named, or among all if it is
        named alone. A `softrsa.transforms.Transform` or a module from RSMs to RSMs is one of your
        own; "a+b" is a transform of the layers' units, then one of RSMs.
    measure : str or Measure
        A name of `softrsa.measures.available`, or a measure of your own. One on features compares
        units directly, without RSMs: "identity" is then the only transform, and predictivity is
        fitted on the training stimuli. Of a distance the negative is the score.
    similarity : str, Similarity or callable
        A name of `softrsa.rsm.similarity_matrix`, or a function of your own from units (n, p) and
        (m, p) to similarities (n, m).
    folds : int, sequence of Split or None
        Folds over stimuli, or splits of your own; None scores transforms without parameters
        (identity, centered) on all stimuli, which as few as 4 allow. p is exact then, over all
        orders of stimuli, where these are 8 or fewer (7 for measures that take longer).
    subjects : {"pooled", "leave_one_out"}
        Fit on and score all subjects, or score each subject under transforms fitted on the others.
    join : {"exact", "intersection"}
        Whether both sides must have the same stimuli.
    ids : {"exact", "normalize"}
        Whether ids must be the same letter by letter; see `softrsa.recordings.join_stimuli`.
    permute : bool
        A control: the brain's stimuli are shuffled first, so every gain must vanish.
    settings : FitSettings, optional
        Everything else about the fits.
    n_resamples : int
        Resamples of test stimuli and subjects for intervals and comparisons, and permutations of
        test stimuli for p against chance; 0 for none. Of Kendall's tau, soft Spearman, measures on
        features and measures of your own, stimuli are left out one at a time instead, and at most
        200 permutations scored, which takes longer. What a measure on features fits stays as fitted
        on training stimuli.
    seed : int
        Seed of folds, inner folds, the permutation and the resamples.
    device : str
        "auto", "cpu", "cuda" or "cuda:<index>".
    progress : bool
        Show a progress bar, and say what memory a large run will take.
    client : distributed.Client, optional
        Share the work among the workers of a dask cluster, in pieces of some layers, regions and
        folds. Pieces lost with a worker are computed again.
    store : str or Path, optional
        A folder that keeps the result of every layer, region and fold once it is done, with a
        client or without. A run that was stopped goes on where it was when it is repeated with the
        same data and options; the store of another run is refused.
    control : DataArray, mapping of str to data, or data, optional
        What is held constant, such as pixels or low-level features, in any form that a layer may
        have, of the same stimuli: each of its RSMs (the mean of subjects) is a control. All scores,
        those of baselines and without folds, `rsa_score`, p, intervals and noise ceilings are then
        partial correlations (`softrsa.measures.partial_correlation`, given all controls at once),
        on the same test stimuli. Transforms are fitted and chosen without it, and `train_score` is
        NaN; the control is centered with the transform "centered", and otherwise compared as it is.
        For pearson, spearman, cosine and centered_pearson.
    stimulus_groups : sequence, mapping or str, optional
        The group of each stimulus, such as its category, video or session: a label for each in the
        order of the data, a mapping from stimulus ids, or the name of a coordinate along `stimulus`
        (or `anchor`). Folds, and the inner folds that choose transforms, keep groups whole,
        intervals are from drawing groups, and p is of exchanging whole groups of one size within
        folds (NaN, with a warning, where that allows fewer than 20 orders): scores, intervals and p
        hold for other groups. With two groups in a fold intervals were too narrow in simulations;
        have four or more, or one. Encoding models choose the strength of their ridge by leaving
        single training stimuli out, all the same.
    subject_groups : sequence, mapping or str, optional
        The group of each subject, such as a family or site: a label for each in the order of the
        data, a mapping from names of subjects, or the name of a coordinate beside that of subjects.
        They are drawn, and with ``subjects="leave_one_out"`` held out, together, and lower noise
        ceilings compare a subject with those of other groups. `score` stays the mean over subjects.

    Returns
    -------
    AlignmentResult
        With `table`, `compare(by)`, `intervals()`, `plot()`, `to_netcdf(path)`.

    Raises
    ------
    UnknownNameError
        If a transform, measure, similarity or coordinate is unknown.
    StimulusError
        If the stimuli do not match.
    DataError, ShapeError, DTypeError
        If the data cannot be used, or are too few for the folds; if groups are fewer than folds,
        missing (None, NaN), not one for each, or all the same; if splits of your own tear groups.
    DeviceError
        If CUDA is asked for and absent.
    FitError
        If workers die again and again.
    MemoryLimitError
        If the run would take more memory than there is.
    FileFormatError, OutputError
        If ``store`` holds another run or something else, or cannot be written to.

    Notes
    -----
    With a client or a store the fits of a piece are batched by themselves, so that scores of
    learned transforms may differ in the last digits from those of all fits batched together.

    Pairs that are NaN in a layer or in a subject of a region are left out of both, and the table's
    column `n_pairs` counts those left; only transforms without parameters are scored then, and
    measures that need all pairs are refused. Stimuli without any pair are left out, with a warning.

    A learned transform that cannot start in a fold, because the scaled RSMs have next to no
    variance, is replaced there by the best fixed one, with a warning and in the table's column
    `folds_fallen_back`; all others go on. Test scores use pairs of test stimuli only. Noise
    ceilings are those of the transformed RSMs of the test stimuli: of several subjects by their
    agreement, of one subject by that of its trials, where single trials (trial, unit) are given
    (see `softrsa.inference.trial_ceiling`). Intervals and p take the fitted transforms as they are:
    they say what would hold for other stimuli and subjects, not for other fits. A warning is raised
    where row offsets explain more than half of what is shared and the measure does not remove them.

    Examples
    --------
    >>> generator = torch.Generator().manual_seed(0)
    >>> x, y = torch.randn(2, 40, 8, generator=generator)
    >>> brain = x + 0.5 * torch.randn(40, 8, generator=generator)
    >>> result = align({"right": x, "wrong": y}, {"V4": brain}, transforms=["centered"])
    >>> result.table[["layer", "score"]].round(1).values.tolist()
    [['right', 0.7], ['wrong', -0.1]]
    """
    options = Options(
        _asked(transforms, get(measure), folds), get(measure), as_similarity(similarity), by,
        region, subject, splits_or_count(folds), subjects, join, ids, permute,
        settings or FitSettings(), n_resamples, seed,
    )  # fmt: skip
    check_client(client)
    held = control_parts(control, by, named_parts)
    options = replace(options, control=tuple(held))
    if held:
        check_partial(options.measure)
    target = resolve_device(device)
    areas, trials = averaged(named_parts(regions, region, "region"))
    named_layers = named_parts(layers, by, "layer")
    _check_joinable(named_layers, trials)
    parts = joined(named_layers, areas, held, options)
    expected = estimate_of_run(parts[:2], options, elsewhere=client is not None)
    check_memory(expected, available_memory(target), device=target, said=progress)
    layer_sides, region_sides, control_sides = _sides(parts, options, target)
    region_sides, untold = with_trials(region_sides, {} if held else trials, parts[1], options)
    n_averaged = sum(len(side.subjects) > 1 for side in layer_sides.values())
    layer_sides = {name: one_subject(side) for name, side in layer_sides.items()}
    asked = transforms is not None
    options = _with_allowed(options, layer_sides, region_sides, asked=asked)
    n_stimuli = _common_count([*layer_sides.items(), *region_sides.items(), *control_sides.items()])
    options = replace(
        options,
        stimulus_groups=labels_of_stimuli(stimulus_groups, parts, n_stimuli),
        subject_groups=labels_of_subjects(subject_groups, parts[1], region_sides, subject),
    )
    layer_sides = with_control(layer_sides, control_sides)  # from here on of the same stimuli
    options, layer_sides, region_sides, missing = _with_missing(
        options, layer_sides, region_sides, asked=asked
    )
    if any(one.map for one in options.fitted):
        layer_sides = {name: with_points(side) for name, side in layer_sides.items()}
    n_stimuli = next(iter(layer_sides.values())).n_stimuli
    splits = splits_of(n_stimuli, options)
    if control_sides:
        fewest = min(len(split.test) for split in splits)
        check_control(options.measure, fewest, len(control_sides))
    if permute:
        order = torch.randperm(n_stimuli, generator=torch.Generator().manual_seed(seed + 1))
        region_sides = {name: side.take(order) for name, side in region_sides.items()}
    runs = [
        run
        for layer in layer_sides.items()
        for area in region_sides.items()
        for run in make_runs(
            layer, area, splits, subjects, options.groups_of_subjects(area[1].subjects)
        )
    ]
    if client is None and store is None:
        data = score_together(runs, layer_sides, region_sides, options, progress=progress)
    else:
        data = score_in_pieces(
            runs, options, client=client, store=store, device=device, progress=progress,
            fingerprint={} if store is None else make_fingerprint(options, parts, splits),
        )  # fmt: skip
    groups = options.groups_of_stimuli(n_stimuli)
    n_groups, n_people = count_groups(splits, groups, region_sides, options)
    if subject_groups is not None:
        data = data.assign(n_subject_groups=("region", n_people))
    shown = [one.name for one in options.transforms]
    data = data.merge(example_rsms(runs, data, shown), join="exact")
    data = data.merge(weights_of_units(runs, options, parts[0]), join="exact")
    attributes = {
        **options.attributes(),
        **_counts(splits, options.settings, groups),
        **n_groups,
        "n_stimuli": n_stimuli, "layers_averaged": n_averaged,
        "stimuli_left_out": json.dumps(_left_out(parts)),
        "softrsa_version": version("softrsa"),
    }  # fmt: skip
    raised = {
        UndefinedScoreWarning: undefined_warnings(data, options),
        RowOffsetWarning: row_offset_warnings(data, options),
        StimulusScaleWarning: stimulus_scale_warnings(data, options),
        DegenerateFitWarning: degenerate_warnings(data),
        FewStimuliWarning: few_stimuli_warnings(options, runs),
        MissingPairsWarning: missing,
        NoCeilingWarning: untold,
        FewGroupsWarning: few_group_warnings(runs, options, n_stimuli),
    }
    for category, messages in raised.items():
        for message in messages:
            warnings.warn(message, category, stacklevel=2)
    messages = json.dumps([message for part in raised.values() for message in part])
    return AlignmentResult(data.assign_attrs(attributes, warnings=messages))


class UndefinedScoreWarning(UserWarning):
    """A score is NaN, because an RSM has nothing to compare."""


class RowOffsetWarning(UserWarning):
    """A score says more about one number per stimulus than about geometry."""


class FewStimuliWarning(UserWarning):
    """A measure on features is high for any features, as there are more units than stimuli."""


class FewGroupsWarning(UserWarning):
    """Groups of stimuli are too few for what is asked of them."""


class NoCeilingWarning(UserWarning):
    """Single trials of a subject were given, and no noise ceiling can be told from them."""


class MissingPairsWarning(UserWarning):
    """Pairs of stimuli are missing in the data, and something was left out for it."""


def _asked(
    transforms: Sequence[TransformLike] | TransformLike | None,
    measure: Measure,
    folds: int | Sequence[Split] | None,
) -> tuple[Chain, ...]:
    """Look up the transforms asked for; repeated ones count once."""
    if transforms is None:
        every = [*TRANSFORMS] if folds is not None else [*UNFITTED]
        transforms = ["identity"] if measure.takes == "features" else every
    given = [transforms] if isinstance(transforms, TransformLike) else [*transforms]
    asked = ordered([as_chain(one) for one in given])
    if folds is None:
        _check_unfitted(asked, "without folds nothing is held out of a fit")
        if measure.held_out is not None:
            raise DataError(f"{measure.name!r} is fitted, which needs folds: give `folds=`.")
    return asked


def _check_unfitted(transforms: Sequence[Chain], why: str) -> None:
    """Refuse transforms with parameters."""
    fitted = [one.name for one in transforms if one.name not in UNFITTED]
    if fitted:
        raise DataError(
            f"{listed(fitted)} cannot be scored: {why}. Ask for {' and '.join(UNFITTED)} only "
            "(`transforms`, `--transform`)."
        )


def _with_missing(
    options: Options,
    layers: dict[str, Responses],
    regions: dict[str, Responses],
    *,
    asked: bool,
) -> tuple[Options, dict[str, Responses], dict[str, Responses], list[str]]:
    """Leave out what cannot be done where pairs are missing, and stimuli that have none."""
    sides = [*layers.items(), *regions.items()]
    lacking = [name for name, side in sides if side.units is None and lacks_pairs(side.rsms)]
    if not lacking or options.of_features:
        return options, layers, regions, []
    check_leaves_out(options.measure, listed(lacking))
    fixed = tuple(one for one in options.transforms if one.name in UNFITTED)
    left_out = [one.name for one in options.transforms if one.name not in UNFITTED]
    if asked:
        _check_unfitted(options.transforms, f"pairs are missing (NaN) in {listed(lacking)}")
    messages = []
    if left_out:
        messages.append(
            f"Pairs are missing (NaN) in {listed(lacking)}, so only transforms without parameters "
            f"are scored, without {', '.join(left_out)}. Column n_pairs counts the pairs."
        )
    options = replace(options, transforms=fixed, missing=True)
    held = [held_pairs(a.rsms, b.rsms) for a in layers.values() for b in regions.values()]
    kept = torch.stack(held).any(0).any(-1)
    n, n_left = len(kept), int(kept.sum())
    if n_left < n:
        ids = stimulus_labels(next(iter(layers.values())), next(iter(regions.values())))
        lonely = f"{n - n_left} of {n} stimuli ({listed(ids[(~kept).cpu().numpy()])})"
        if n_left < SMALLEST_BLOCK:
            raise DataError(
                f"{lonely} share no pair with any other, and {n_left} are left; at least "
                f"{SMALLEST_BLOCK} are needed."
            )
        messages.append(f"{lonely} share no pair with any other and are left out.")
        places = kept.nonzero().flatten()
        left = without(options.stimulus_groups, places.cpu())
        options = replace(options, stimulus_groups=left)
        layers, regions = (
            {name: side.take(places) for name, side in part.items()} for part in (layers, regions)
        )
    return options, layers, regions, messages


def _with_allowed(
    options: Options,
    layers: Mapping[str, Responses],
    regions: Mapping[str, Responses],
    *,
    asked: bool,
) -> Options:
    """Refuse what the data do not allow where it was asked for, and leave it out where not."""
    if options.of_features:
        check_feature_measure(options, {**layers, **regions})
    acting = [one for one in options.transforms if one.units is not None]
    of_units = [one.name for one in acting if not one.map]
    for name, side in layers.items() if of_units else ():
        check_units(side, " and ".join(map(repr, of_units)), f"layer {name!r}")
    lacking = dict.fromkeys(map(str, MAPS), _first(layers, lambda side: not is_learnable(side)))
    lacking["ridge"] = lacking["ridge"] or _first(regions, lambda side: side.units is None)
    unavailable = tuple(kind for kind, name in lacking.items() if name)
    refused = [one for one in acting if one.map in unavailable]
    if refused and asked:
        _refuse_map(refused[0], str(lacking[refused[0].map]), layers)
    kept = tuple(one for one in options.transforms if one not in refused)
    return replace(options, transforms=kept, unavailable=unavailable)


def _refuse_map(one: Chain, name: str, layers: Mapping[str, Responses]) -> None:
    """Say why a similarity cannot be learned from what a layer or region is given as."""
    if name not in layers or is_learnable(layers[name]):
        raise DataError(
            f"{one.name!r} predicts the units of a region, and region {name!r} is given as RDMs or "
            "RSMs. Give recordings, use 'metric', or leave the transform out."
        )
    raise DataError(
        f"{one.name!r} learns a similarity of units, and layer {name!r} is given as RDMs or RSMs "
        "that nothing says are correlations or cosines. Give activations, say what they are "
        '(`attrs["similarity"] = "correlation"`, for example), or leave the transform out.'
    )


def _first(sides: Mapping[str, Responses], condition: Callable[[Responses], bool]) -> str | None:
    """Name of the first side that a condition holds for."""
    return next((name for name, side in sides.items() if condition(side)), None)


def _sides(
    parts: Sequence[dict[str, Data]], options: Options, device: torch.device
) -> tuple[dict[str, Responses], dict[str, Responses], dict[str, Responses]]:
    """Read both sides and the control, of which only RSMs are kept.

    Units are kept where anything reads them, in as few dimensions as it can.
    """
    maps = {one.map for one in options.fitted}
    own = any(one.units is not None and not one.map for one in options.transforms)
    # predictivity is of the brain's own units, so only the model's may be rotated
    fewer = compact if may_rotate(options.measure) else Tensor.detach
    keep = (fewer, Tensor.detach) if options.of_features else (None, None)
    if options.learns or own:  # what acts on units, or predicts them, may depend on which is which
        keep = (
            Tensor.detach if own else fewer if options.of_features else rotated,
            Tensor.detach if "ridge" in maps or options.of_features else rotated,
        )
    layers = _read(parts[0], options, device, keep[0], source=maps != {""})
    regions = _read(parts[1], options, device, keep[1], source=False)
    control = _read(parts[2], options, device, None, source=False, missing=False)
    return layers, regions, {name: one_subject(side) for name, side in control.items()}


def named_parts(data: LabelledData, by: str, kind: str) -> dict[str, Data]:
    """Split data into named parts: by a unit coordinate, a leading dimension, or as given."""
    if isinstance(data, Mapping):
        if not data:
            raise DataError(f"No {kind} given: the mapping is empty.")
        return {str(name): part for name, part in data.items()}
    if isinstance(data, pd.DataFrame):
        data = from_frame(data)
    if not isinstance(data, xr.DataArray):
        return {kind: data}
    if "anchor" in data.dims:
        stack = check_rdms(data, name=f"{kind}s")
        if by not in stack.dims:
            return {kind: stack}
        return {str(name): stack.sel({by: name}, drop=True) for name in stack[by].values}
    if by not in data.coords:
        present = [str(name) for name, coord in data.coords.items() if coord.dims == ("unit",)]
        parts = [name for name in present if meaning(name) in ("layer", "region")]
        if parts or by != kind:  # other labels of units, such as places in a volume, are no parts
            raise unknown_name(f"{kind} coordinate", by, present)
        return {kind: data}
    return dict(split_units(data, by))


def averaged(parts: dict[str, Data]) -> tuple[dict[str, Data], dict[str, xr.DataArray]]:
    """Average the trials of every region that has some; and give these."""
    trials = {
        name: part
        for name, part in parts.items()
        if isinstance(part, xr.DataArray) and "trial" in part.dims and "time" not in part.dims
    }
    means = {}
    for name, part in trials.items():
        mean = average_trials(part)
        means[name] = mean.assign_coords({PLACE: ("stimulus", np.arange(mean.sizes["stimulus"]))})
    return {**parts, **means}, trials


def _check_joinable(layers: Mapping[str, Data], trials: Mapping[str, xr.DataArray]) -> None:
    """Refuse layers without stimulus ids beside trials, which have no order of stimuli."""
    plain = [
        name for name, part in layers.items() if not isinstance(part, xr.DataArray | pd.DataFrame)
    ]
    if trials and plain:
        raise StimulusError(
            f"Region {next(iter(trials))!r} has single trials, which are matched by stimulus id, "
            f"and the layers {listed(plain)} have no ids. Label them: xarray.DataArray(values, "
            "dims=('stimulus', 'unit'), coords={'stimulus': ids})."
        )


PLACE = "place_among_trials"  # of a stimulus, which joining by id keeps
N_HALVES = 20  # random halves of trials that a ceiling is told from


def with_trials(
    sides: dict[str, Responses],
    trials: Mapping[str, xr.DataArray],
    means: Mapping[str, Data],
    options: Options,
) -> tuple[dict[str, Responses], list[str]]:
    """Add random halves of the trials to regions of one subject; and say where that cannot be."""
    found, messages = dict(sides), []
    for name, part in trials.items():
        side = sides[name]
        if len(side.subjects) > 1 or not has_trial_ceiling(options.scoring, side.similarity):
            continue
        try:
            halves = scaled_halves(part, side.similarity, n_splits=N_HALVES, seed=options.seed)
        except StimulusError as error:
            messages.append(f"Region {name!r} has no noise ceiling: {error}")
            continue
        places = torch.from_numpy(means[name][PLACE].values)  # type: ignore[index]
        found[name] = replace(side, halves=halves[:, :, places].to(side.device))
    return found, messages


def joined(
    layers: dict[str, Data], regions: dict[str, Data], control: dict[str, Data], options: Options
) -> tuple[dict[str, Data], dict[str, Data], dict[str, Data]]:
    """Bring all labelled parts to the stimuli of the first, or to those that all share."""
    every = [*layers.values(), *regions.values(), *control.values()]
    parts = iter(join_all(every, how=options.join, ids=options.ids))
    first, second, third = (
        dict(zip(names, parts, strict=False)) for names in (layers, regions, control)
    )
    return first, second, third


def make_fingerprint(
    options: Options, parts: Sequence[Mapping[str, Data]], splits: Sequence[Split]
) -> dict[str, Any]:
    """Say what decides the results: the version, options, and digests of data and folds."""
    digests = [{name: digest(data) for name, data in part.items()} for part in parts]
    control = {"control data": digests[2]} if digests[2] else {}
    settings = {name: str(value) for name, value in asdict(options.settings).items()}
    return {
        "softrsa_version": version("softrsa"),
        "layer": digests[0],
        "region": digests[1],
        **control,
        "fold": {str(i): digest(*split) for i, split in enumerate(splits)},
        "code": {
            f"{type(row).__name__.lower()} {row.name}": digest_code(row)
            for row in options.own_rows()
        },
        **{name: value for name, value in options.attributes().items() if name != "settings"},
        **settings,
    }


def _counts(splits: Sequence[Split], settings: FitSettings, groups: Groups) -> dict[str, float]:
    """Count folds, the stimuli they test, and the inner folds that their training stimuli allow."""
    tested = torch.cat([split.test for split in splits])
    return {
        "n_folds": len(splits),
        "n_tested": len(tested.unique()),
        "n_tested_mean": len(tested) / len(splits),
        "n_inner_folds": min(n_inner_folds(split.train, settings, groups) for split in splits),
    }


def _left_out(parts: Sequence[Mapping[str, Data]]) -> dict[str, list]:
    """Stimuli that an intersection dropped, by layer or region."""
    return {
        name: list(data.attrs["stimuli_left_out"])
        for part in parts
        for name, data in part.items()
        if isinstance(data, xr.DataArray) and "stimuli_left_out" in data.attrs
    }


def _common_count(sides: Sequence[tuple[str, Responses]]) -> int:
    counts = [side.n_stimuli for _, side in sides]
    if len({*counts}) > 1:
        found = ", ".join(f"{name!r} {side.n_stimuli}" for name, side in sides)
        raise StimulusError(
            f"All layers and regions must have the same stimuli; they have: {found}. Label them "
            "(xarray, dims stimulus and unit) to join by id."
        )
    return counts[0]


def _read(
    parts: Mapping[str, Data],
    options: Options,
    device: torch.device,
    keep: Callable[[Tensor], Tensor] | None,
    *,
    source: bool,
    missing: bool = True,
) -> dict[str, Responses]:
    """RSMs of every part, its units as ``keep`` leaves them, and as they are for a ``source``."""
    row = options.similarity
    sides = {}
    for name, data in parts.items():
        side = as_responses(
            data, similarity=row if row.function else row.name, name=name,
            subject=options.subject, device=device, units=keep is not None, missing=missing,
        )  # fmt: skip
        units = tuple(keep(u) for u in side.units) if keep and side.units else None
        whole = side.units[0] if source and side.units and len(side.units) == 1 else None
        sides[name] = replace(side, units=units, source=whole)
    return sides
