"""Region identification: which region an RDM of a left-out subject is of."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from itertools import product
from typing import Any, NamedTuple, cast, get_args

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor
from tqdm import tqdm

from softrsa._threads import one_thread_if
from softrsa.errors import DataError, unknown_name
from softrsa.identification.matching import (
    LEAST_STIMULI,
    Items,
    LabelledRDMs,
    Rule,
    best_region,
    check_values,
    checked_items,
    draw_counts,
    items_of_recordings,
    labelled_items,
    match_scores,
    products,
    resampled_products,
    split_stimuli,
    with_units,
)
from softrsa.identification.published import TRANSFORMS as PUBLISHED_TRANSFORMS
from softrsa.identification.published import identify_as_published
from softrsa.identification.result import IdentificationResult
from softrsa.identification.statistics import (
    EVERY,
    LEARNED,
    NO_UNITS,
    OF_UNITS,
    TRANSFORMS,
    Fitting,
    Statistic,
    Training,
    Views,
    all_products,
    candidates,
    choose_fixed,
    learned_statistic,
    views,
)
from softrsa.pairs import condense, expand
from softrsa.transforms.on_rsms import threshold_grid

SMALL = 1_000_000  # entries of all RDMs up to which one thread is faster


class Outcome(NamedTuple):
    """What came of a transform on one fold of the stimuli."""

    predicted: np.ndarray  # (n_items,) numbers of regions, -1 where undefined
    resampled: np.ndarray  # (n_resamples, n_subjects) accuracies
    chosen: list[str]  # per subject
    shares: np.ndarray  # training accuracy per candidate, mean over subjects


def identify_regions(
    rdms: Tensor | np.ndarray | LabelledRDMs,
    subjects: Sequence[object] | None = None,
    regions: Sequence[object] | None = None,
    *,
    units: Sequence[Tensor | np.ndarray] | None = None,
    transform: str | Sequence[str] | None = None,
    published: bool = False,
    rule: Rule = "best_match",
    stimulus_folds: int = 2,
    grid: int = 10,
    steps: Sequence[int] = (20, 40, 80, 160),
    learning_rate: float = 0.05,
    penalty: float = 1e-3,
    n_resamples: int = 1000,
    seed: int = 0,
    progress: bool = False,
) -> IdentificationResult:
    """Identify regions of held-out subjects on held-out stimuli from their RDMs.

    One subject after the other is left out. Each of its RDMs goes to the region whose mean over
    the other subjects it matches best. What is free in a transform is chosen, or learned, from the
    other subjects' RDMs of the training stimuli; what is scored are RDMs of the test stimuli alone.

    Parameters
    ----------
    rdms : Tensor or array, shape (n_items, n_stimuli, n_stimuli), or labelled RDMs
        An RDM of a subject's region, or several (sessions), per item; all of the same stimuli.
        Labelled: a stack (region, subject[, session], anchor, neighbor), or a mapping from regions
        to stacks without that dimension; RDMs that are all NaN count as absent. Or recordings
        (stimulus, unit) with `region` and `subject` on their units, or by region with `subject`,
        whose RDMs are 1 - correlation.
    subjects, regions : sequence, length n_items, optional
        Whose RDM it is, and of which region; for RDMs without labels.
    units : sequence of arrays, each of shape (n_stimuli, n_units), optional
        For "framed", the responses behind each of RDMs without labels, in a unit with a meaningful
        zero.
    transform : str or sequence of str, optional
        What is compared, all of it made of the ranks of an RDM's dissimilarities, from 0 to 1:
        "identity", the ranks (plain RSA); "centered", less row and column means; "geo_topological",
        between quantiles (l, u); "geodesic", along paths over the edges to the k nearest neighbors;
        "global" and "instance", SoftSteps trained to tell regions apart, with one gate for all
        stimuli, or one that depends on the profile of each, on similarities that are ranked over
        the whole RDM or within the row of each. Profiles alone are of dissimilarities as they are:
        for "instance" all subjects' must have one scale, as correlation distances do. "framed",
        where there are units: ranks of the squared Euclidean distances of responses, the origin and
        a constant pattern (`softrsa.rsm.framed`), both of which count once in every resample of the
        stimuli. All that the data allow by default.
    published : bool
        Repeat the procedure of Lin & Kriegeskorte instead: nearest centroids, thresholds that are
        the best on the very data reported, resampled rows. Optimistic; warns so. Of the other
        options `transform` (of the first, third and fourth), `n_resamples`, `seed` and `progress`
        count.
    rule : {"best_match", "centroid"}
        Correlation with a region's mean, or Euclidean distance from it, as published.
    stimulus_folds : int
        Parts of the stimuli, each the test stimuli once. 1: all stimuli for training and test,
        which leaves only subjects held out.
    grid : int
        Steps of l and u between 0 and 1.
    steps : sequence of int
        Numbers of training steps of a SoftStep to choose among, beside none, by leaving out parts
        of the other subjects.
    learning_rate, penalty : float
        Of Adam, and on the squares of a gate's distance from the identity.
    n_resamples : int
        Of stimuli, and of subjects, for intervals; and permutations of regions, for p.
    seed : int
        Of folds and resamples.
    progress : bool
        Show a progress bar.

    Returns
    -------
    IdentificationResult
        With `table`, `compare`, `confusion`, `plot`, `plot_grid`; a `PublishedIdentification`,
        with `types` and `comparisons` beside, under ``published=True``.

    Raises
    ------
    ShapeError
        If shapes do not fit, or there are fewer than 4 stimuli in a fold.
    DataError
        If values are missing, an RDM is constant, there is one region, or a region has fewer
        subjects than needed: 2, 3 where something is chosen, 4 where something is learned.
    UnknownNameError
        If a transform or rule is unknown.

    References
    ----------
    Lin & Kriegeskorte (2024), PNAS 121(42), doi:10.1073/pnas.2317881121. Framed RSA: Taylor &
    Kriegeskorte (2025), Cognitive Computational Neuroscience.

    Examples
    --------
    >>> points = torch.randn(2, 12, 3, generator=torch.Generator().manual_seed(0))
    >>> rdms = torch.cdist(points, points).repeat(3, 1, 1)  # 3 subjects who are all alike
    >>> result = identify_regions(
    ...     rdms, ["a", "a", "b", "b", "c", "c"], ["V1", "IT"] * 3, transform="identity"
    ... )
    >>> result.table[["transform", "accuracy", "chance"]].values.tolist()
    [['identity', 1.0, 0.5]]
    """
    items = as_items(rdms, subjects, regions, units)
    transforms = _asked(transform, items, published)
    _check_numbers(transforms, n_resamples)
    if published:
        return identify_as_published(
            items, transforms, n_resamples=n_resamples, seed=seed, progress=progress
        )
    fitting = Fitting(rule, grid, steps, learning_rate, penalty, seed)
    _check_options(transforms, fitting, items)
    _check_subjects(transforms, items)
    n_stimuli = items.rdms.shape[-1]
    folds = split_stimuli(n_stimuli, stimulus_folds, seed)
    outcomes: list[list[Outcome]] = []
    with (
        tqdm(total=len(transforms) * len(folds), desc="identify", disable=not progress) as bar,
        one_thread_if(items.rdms.numel() <= SMALL, items.rdms.device),
    ):
        for name in transforms:
            outcomes.append([])
            for number, fold in enumerate(folds):
                counts = draw_counts(len(fold[1]), n_resamples, seed + number)
                outcomes[-1].append(_evaluate(name, items, fold, counts, fitting))
                bar.update()
    settings = {
        "rule": rule, "stimulus_folds": stimulus_folds, "grid": grid, "steps": list(steps),
        "penalty": penalty, "learning_rate": learning_rate, "n_resamples": n_resamples,
        "seed": seed, "n_stimuli": n_stimuli, "softrsa": version("softrsa"),
    }  # fmt: skip
    return IdentificationResult(_as_dataset(transforms, items, outcomes, settings, grid))


def as_items(
    rdms: Tensor | np.ndarray | LabelledRDMs | Items,
    subjects: Sequence[object] | None,
    regions: Sequence[object] | None,
    units: Sequence[Tensor | np.ndarray] | None = None,
) -> Items:
    """Check RDMs, with labels of their own or beside them, or recordings."""
    if isinstance(rdms, Items):
        return rdms
    if isinstance(rdms, xr.DataArray | Mapping):
        if subjects is not None or regions is not None:
            raise DataError("Labelled RDMs name their subjects and regions: leave both out.")
        if units is not None:
            raise DataError(
                "`units` go with RDMs without labels: give labelled recordings instead of RDMs."
            )
        some = rdms if isinstance(rdms, xr.DataArray) else next(iter(rdms.values()), None)
        if some is not None and "unit" in some.dims:
            return items_of_recordings(rdms)
        return checked_items(*labelled_items(rdms))
    if subjects is None or regions is None:
        raise DataError("RDMs without labels need `subjects` and `regions`, one for each RDM.")
    items = checked_items(rdms, subjects, regions)
    return items if units is None else with_units(items, units, subjects)


def _asked(transform: str | Sequence[str] | None, items: Items, published: bool) -> list[str]:
    """List the transforms asked for: all that the data allow by default."""
    if isinstance(transform, str):
        return [transform]
    if transform is not None:
        return list(transform)
    if published:
        return list(PUBLISHED_TRANSFORMS)
    return [*TRANSFORMS, *(OF_UNITS if items.frame is not None else ())]


def _evaluate(
    transform: str,
    items: Items,
    fold: tuple[Tensor, Tensor],
    counts: Tensor,
    fitting: Fitting,
) -> Outcome:
    """Leave one subject out after the other, and match its RDMs of the test stimuli."""
    parts = (items.of_stimuli(stimuli) for stimuli in fold)
    train, test = (views(part.rdms, part.frame) for part in parts)
    if transform in OF_UNITS:  # the two patterns that are added are in every resample once
        counts = torch.cat([counts, counts.new_ones(len(counts), 2)], dim=1)
    choose = _chooser(transform, train, items, fitting, min(map(len, fold)))
    predicted = torch.full((len(items.region),), -1)
    accuracies, chosen, shares = [], [], []
    known: dict[str, tuple[Tensor, Tensor]] = {}  # of fixed statistics, which subjects may share
    for subject in range(len(items.subjects)):
        statistic, share = choose(subject)
        grams = known.get(statistic.name)
        if grams is None:
            vectors = statistic.function(test)
            rule = fitting.rule
            grams = products(vectors, rule), resampled_products(vectors, rule, counts)
            if transform not in LEARNED:
                known[statistic.name] = grams
        own, references = items.of([subject]), items.references([subject])
        whole, resampled = (
            best_region(match_scores(gram, references, fitting.rule, own)) for gram in grams
        )
        predicted[own] = whole
        accuracies.append((resampled == items.region[own]).double().mean(-1))
        chosen.append(statistic.name)
        shares.append(share)
    return Outcome(
        predicted.numpy(),
        torch.stack(accuracies, -1).numpy(),
        chosen,
        torch.stack(shares).mean(0).numpy(),
    )


def _chooser(
    transform: str, seen: Views, items: Items, fitting: Fitting, smallest: int
) -> Callable[[int], tuple[Statistic, Tensor]]:
    """Give what finds the best statistic without a subject, and the share each one identifies."""
    everyone = range(len(items.subjects))

    def learned(subject: int) -> tuple[Statistic, Tensor]:
        others = [s for s in everyone if s != subject]
        return learned_statistic(transform, seen, items, others, fitting), torch.zeros(0)

    if transform in LEARNED:
        return learned
    found = candidates(transform, smallest, fitting.grid)
    if len(found) == 1:
        return lambda _: (found[0], torch.zeros(1))
    grams = all_products(found, seen, fitting.rule)

    def fixed(subject: int) -> tuple[Statistic, Tensor]:
        others = items.of([s for s in everyone if s != subject])
        training = Training(seen, items.region, items.references([subject]), others)
        return choose_fixed(found, grams, training, fitting.rule)

    return fixed


def _check_numbers(transforms: list[str], n_resamples: int) -> None:
    if not transforms or len(set(transforms)) < len(transforms):
        raise DataError(
            "`transform` must name one transform at least, and each once, "
            f"got {', '.join(transforms) or 'none'}."
        )
    if n_resamples < 1:
        raise DataError(f"`n_resamples` must be at least 1, got {n_resamples}.")


def _check_options(transforms: list[str], fitting: Fitting, items: Items) -> None:
    for name in transforms:
        if name not in EVERY:
            raise unknown_name("transform", name, EVERY)
    if items.frame is None and set(OF_UNITS) & set(transforms):
        raise DataError(NO_UNITS)
    if fitting.rule not in get_args(Rule):
        raise unknown_name("rule", fitting.rule, get_args(Rule))
    steps = list(fitting.steps)
    if fitting.grid < 1 or not steps or min(steps) < 1:
        raise DataError(
            f"`grid` and all `steps` must be at least 1, got {fitting.grid} and {steps}."
        )
    if fitting.learning_rate <= 0 or fitting.penalty < 0:
        raise DataError(
            "`learning_rate` must be above 0 and `penalty` not below, got "
            f"{fitting.learning_rate:g} and {fitting.penalty:g}."
        )


def _check_subjects(transforms: list[str], items: Items) -> None:
    if len(items.regions) < 2:
        raise DataError(f"There must be two regions at least, got {items.regions}.")
    chosen = {"geo_topological", "geodesic"} & set(transforms)
    least = 4 if set(LEARNED) & set(transforms) else 3 if chosen else 2
    for number, name in enumerate(items.regions):
        found = len(items.subject[items.region == number].unique())
        if found < least:
            raise DataError(
                f"Region {name!r} must be there for {least} subjects at least, for the transforms "
                f"{', '.join(transforms)}; it is for {found}."
            )


def _as_dataset(
    transforms: list[str],
    items: Items,
    outcomes: list[list[Outcome]],
    settings: dict[str, object],
    grid: int,
) -> xr.Dataset:
    names = np.array([*items.regions, ""])  # the last one for what is undefined
    data = xr.Dataset(
        {
            "predicted": (
                ("transform", "fold", "item"),
                names[[[o.predicted for o in folds] for folds in outcomes]],
            ),
            "resampled": (
                ("transform", "resample", "subject"),
                np.stack([np.mean([o.resampled for o in folds], 0) for folds in outcomes]),
            ),
            "chosen": (
                ("transform", "fold", "subject"),
                [[o.chosen for o in folds] for folds in outcomes],
            ),
        },
        {
            "transform": transforms,
            "subject": items.subjects,
            "item_subject": ("item", np.array(items.subjects)[items.subject]),
            "item_region": ("item", names[items.region]),
        },
        {"settings": json.dumps(settings)},
    )
    if "geo_topological" in transforms:
        of_grid = outcomes[transforms.index("geo_topological")]
        shares = np.mean([o.shares for o in of_grid], 0)
        data["grid_accuracy"] = _on_grid(shares, grid)
    return data


def _on_grid(shares: np.ndarray, grid: int) -> xr.DataArray:
    """Put the accuracies of candidates (l, u) in a matrix; NaN where l is above u."""
    values = np.full((grid + 1, grid + 1), np.nan)
    for (low, high), share in zip(threshold_grid(grid), shares, strict=True):
        values[round(low * grid), round(high * grid)] = share
    levels = np.arange(grid + 1) / grid
    return xr.DataArray(values, {"lower": levels, "upper": levels}, ("lower", "upper"))


def identification_curves(
    rdms: Tensor | np.ndarray | LabelledRDMs,
    subjects: Sequence[object] | None = None,
    regions: Sequence[object] | None = None,
    *,
    noise: Sequence[float] = (0.0,),
    n_stimuli: Sequence[int] | None = None,
    n_subsets: int = 5,
    seed: int = 0,
    progress: bool = False,
    **options: Any,
) -> pd.DataFrame:
    """Identify regions with noise added to RDMs, and from random subsets of the stimuli.

    Parameters
    ----------
    rdms, subjects, regions
        As `identify_regions` takes them.
    noise : sequence of float
        Standard deviations of noise added to the dissimilarities, in that of all RDMs' entries;
        what becomes negative is set to 0, as in the published procedure.
    n_stimuli : sequence of int, optional
        Numbers of stimuli; all by default.
    n_subsets : int
        Random subsets for each number that is not all; and draws of the noise.
    seed : int
        Of subsets, noise, folds and resamples.
    progress : bool
        Show a progress bar.
    **options
        Further options of `identify_regions`. Noise and "framed" exclude each other.

    Returns
    -------
    DataFrame
        `noise`, `n_stimuli`, `subset`, `transform`, `subject`, `accuracy`, one row for each
        combination. Average over subsets before taking intervals over subjects.

    Raises
    ------
    DataError
        If noise is negative, or numbers of stimuli are out of range.
    ShapeError, UnknownNameError
        As `identify_regions`.

    Examples
    --------
    >>> points = torch.randn(2, 12, 3, generator=torch.Generator().manual_seed(0))
    >>> rdms = torch.cdist(points, points).repeat(3, 1, 1)
    >>> curves = identification_curves(
    ...     rdms, ["a", "a", "b", "b", "c", "c"], ["V1", "IT"] * 3,
    ...     n_stimuli=[8, 12], n_subsets=2, transform="identity",
    ... )
    >>> curves.groupby("n_stimuli")["accuracy"].agg(["size", "mean"]).values.tolist()
    [[6.0, 1.0], [3.0, 1.0]]
    """
    items = as_items(rdms, subjects, regions, options.pop("units", None))
    everything = items.rdms.shape[-1]
    numbers = [everything] if n_stimuli is None else list(n_stimuli)
    _check(noise, numbers, n_subsets, everything)
    if max(noise) > 0:
        items = _without_frame(items, options.get("transform"))
    names = [[known[i] for i in number] for known, number in
             ((items.subjects, items.subject), (items.regions, items.region))]  # fmt: skip
    vectors = condense(items.rdms)
    runs = [
        (level, number, subset)
        for level, number in product(noise, numbers)
        for subset in range(1 if number == everything and level == 0 else n_subsets)
    ]
    found = []
    for level, number, subset in tqdm(runs, desc="curves", disable=not progress):
        rng = np.random.default_rng((seed, subset))
        stimuli = torch.from_numpy(np.sort(rng.permutation(everything)[:number]))
        added = torch.from_numpy(rng.standard_normal(vectors.shape)) * vectors.std() * level
        noisy = expand((vectors + added).clamp_min(0) if level else vectors)
        some = items._replace(rdms=noisy).of_stimuli(stimuli)
        check_values(some.rdms, *names)
        result = identify_regions(cast(Any, some), seed=seed, **options)
        table = result.by_subject.melt(
            var_name="transform", value_name="accuracy", ignore_index=False
        )
        found.append(table.reset_index().assign(noise=level, n_stimuli=number, subset=subset))
    columns = ["noise", "n_stimuli", "subset", "transform", "subject", "accuracy"]
    return pd.concat(found, ignore_index=True)[columns]


def _without_frame(items: Items, transform: str | Sequence[str] | None) -> Items:
    """Refuse framed patterns of responses that noise in RDMs does not reach."""
    asked = [transform] if isinstance(transform, str) else transform or ()
    if set(OF_UNITS) & set(asked):
        raise DataError(
            "`noise` is added to dissimilarities, of which 'framed' is not made: leave either out, "
            "or add noise to the responses yourself."
        )
    return items._replace(frame=None)


def _check(noise: Sequence[float], numbers: Sequence[int], n_subsets: int, everything: int) -> None:
    if n_subsets < 1 or not noise or min(noise) < 0:
        raise DataError(
            f"`noise` must be at least 0 and `n_subsets` 1, got {list(noise)} and {n_subsets}."
        )
    if any(number != int(number) for number in numbers):
        raise DataError(f"`n_stimuli` must be whole numbers, got {numbers}.")
    if not numbers or min(numbers) < LEAST_STIMULI or max(numbers) > everything:
        raise DataError(
            f"`n_stimuli` must be from {LEAST_STIMULI} to the {everything} there are, "
            f"got {numbers}."
        )
