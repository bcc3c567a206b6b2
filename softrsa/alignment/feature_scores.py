"""Scores of measures that compare features, not RSMs, and how these vary."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from softrsa._groups import Groups
from softrsa.alignment.resampling import Draws, OfRun, Scored, counted, small_block, weighed
from softrsa.alignment.responses import Responses
from softrsa.alignment.settings import SELECTED, Options, acts_on_units_only, with_choices
from softrsa.errors import DataError
from softrsa.measures import Measure
from softrsa.measures.shape import coordinates

CHUNK = 2**22  # numbers of resampled features that are held at a time
Sides = tuple[Responses, Responses]


def check_feature_measure(options: Options, sides: Mapping[str, Responses]) -> None:
    """Refuse transforms of RSMs, and sides that have no units."""
    entry = options.measure
    others = [one.name for one in options.transforms if not acts_on_units_only(one)]
    if others:
        able = ", ".join(one.name for one in with_choices([SELECTED]) if acts_on_units_only(one))
        raise DataError(
            f"{entry.name!r} compares features, and these transforms change RSMs: "
            f"{', '.join(others)}. Use {able} with it, or a measure on RSMs."
        )
    learned = [one.name for one in options.transforms if one.map or one.name == SELECTED.name]
    if learned and not may_rotate(entry):
        raise DataError(
            f"{entry.name!r} compares single units, and {', '.join(learned)} makes mixtures of "
            "them. Use identity with it, or a measure that does not change under rotations (of "
            'your own measure, say so: Measure(..., invariances={"orthogonal"})).'
        )
    for name, side in sides.items():
        if side.units is None:
            raise DataError(
                f"{entry.name!r} compares features, and {name!r} holds RDMs or RSMs only. Give "
                "recordings or activations, or use a measure on RSMs."
            )


def may_rotate(measure: Measure) -> bool:
    """Tell whether rotating a model's units leaves a score as it is.

    That is declared, or follows where the measure fits the units: predictions are linear in them.
    """
    return measure.held_out is not None or bool({"orthogonal", "linear"} & measure.invariances)


def compact(units: Tensor) -> Tensor:
    """Rotate units into as few dimensions as there are stimuli, in their own number type.

    From that type measures know what is rounding, and so the rank.
    """
    return coordinates(units).to(units.dtype)


def score_features(measure: Measure, train: Sides, test: Sides, subjects: Sequence[int]) -> float:
    """Mean score over some subjects of a measure on features; larger is more similar."""
    return float(torch.stack([_score(measure, train, test, one) for one in subjects]).mean())


def _score(
    measure: Measure,
    train: Sides,
    test: Sides,
    subject: int,
    places: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Score of one subject; of many selections (r, m) of each side's test stimuli, (r,)."""
    x, y = _features(test, subject)
    if places is not None:
        x, y = x[places[0]], y[places[1]]
    if measure.held_out is None:
        score = measure(x, y)
    else:
        score = measure.held_out(*_features(train, subject), x, y)
    # a distance with its sign changed, so that larger is more similar in every table
    return score if measure.larger_is_more_similar else -score


def _features(sides: Sides, subject: int) -> tuple[Tensor, Tensor]:
    model, brain = sides
    of_model = model.units or ()
    # where a map was learned for each subject, so are its features
    own = of_model[model.subjects.index(brain.subjects[subject]) if len(of_model) > 1 else 0]
    theirs = (brain.units or ())[subject]
    # of two precisions the lower: beyond it, one side holds rounding
    dtype = min(own.dtype, theirs.dtype, key=lambda kind: torch.finfo(kind).bits)
    return own.to(dtype), theirs.to(dtype)


def resample_features(
    run: Scored,
    measure: Measure,
    sides: Sequence[tuple[Sides, Sides]],
    draws: Draws | None,
    *,
    on_step: Callable[[int], object],
) -> OfRun:
    """Resample the scores of one run: each stimulus, or group, left out once, and permuted ones.

    Parameters
    ----------
    run : Run
        Which stimuli and subjects are scored.
    measure : Measure
        On features. What it fits stays as fitted on the training stimuli; pairs are not drawn.
    sides : sequence of (train, test), each (model, brain)
        Of every transform.
    draws : Draws or None
        What was drawn; None for no resamples.
    on_step : callable
        Hears of how many of the scores that `count_steps` counts are done.

    Returns
    -------
    OfRun
        As of `resample_scores`.
    """
    test = run.split.test
    n = len(test)
    if draws is None:
        return OfRun(torch.full((len(sides), n), torch.nan), None)
    groups = draws.groups.take(test)
    everyone, orders = torch.arange(n), draws.orders_of(test, measure)
    places = [(everyone[None], everyone[None]), (orders, everyone.expand_as(orders))]
    parts = []
    for train, own in sides:
        score, permuted = (
            torch.stack([_in_chunks(measure, train, own, one, each) for one in run.score], -1)
            for each in places
        )
        left_out = [_without_each(measure, train, own, one, groups) for one in run.score]
        parts.append((score, torch.stack(left_out, -1), permuted))
    on_step(len(groups) + len(orders))
    score, left_out, by_chance = (torch.stack(one, 1) for one in zip(*parts, strict=True))
    change = score - torch.where(left_out.isnan(), score, left_out)
    # many of these measures are higher the fewer stimuli there are, which says nothing of any one
    change = (change - change.mean(0)).movedim(0, -1) * ((n - groups.sizes) / (n * groups.sizes))
    influence = change[..., groups.codes]  # (t, s, n)
    grouped = not draws.groups.are_single
    scale = small_block(measure, len(groups), grouped=grouped)
    more = scale * (draws.counts[:, test] - 1)
    by_stimuli = score + torch.einsum("rn,tsn->rts", more, influence)
    by_pairs = score.expand(len(draws.counts), -1, -1)
    n_subjects = len(run.brain.subjects)
    sums = [counted(one, run.score, n_subjects) for one in (score, by_stimuli, by_pairs, by_chance)]
    if grouped:
        sums[1] = weighed(sums[1], sums[0], draws.fold_weights(test))
    return OfRun(influence.mean(1), sums)


def _without_each(
    measure: Measure, train: Sides, test: Sides, subject: int, groups: Groups
) -> Tensor:
    """Scores (n_groups,) without each group of test stimuli; NaN where too few are left."""
    kept = [(groups.codes != group).nonzero().flatten() for group in range(len(groups))]
    found = torch.full((len(kept),), torch.nan, dtype=torch.float64)
    for size in {len(one) for one in kept}:
        if size >= measure.smallest_n:
            alike = [i for i, one in enumerate(kept) if len(one) == size]
            places = torch.stack([kept[i] for i in alike])
            found[alike] = _in_chunks(measure, train, test, subject, (places, places))
    return found


def _in_chunks(
    measure: Measure, train: Sides, test: Sides, subject: int, places: tuple[Tensor, Tensor]
) -> Tensor:
    """Scores (r,) of selections of test stimuli in bounded memory, in float64 on the processor."""
    x, y = _features(test, subject)
    size = max(1, CHUNK // (places[0].shape[1] * (x.shape[1] + y.shape[1])))
    parts = zip(*(one.to(x.device).split(size) for one in places), strict=True)
    return torch.cat([_score(measure, train, test, subject, part) for part in parts]).double().cpu()


def few_stimuli_warnings(options: Options, runs: Sequence[Any]) -> list[str]:
    """Say where a measure is high for any features, because there are more units than stimuli."""
    measure = options.measure
    if not options.of_features or measure.unbiased or measure.held_out:
        return []
    fewest = min(len(run.split.test) for run in runs)
    widest = max(u.shape[-1] for run in runs for side in run.test() for u in side.units or ())
    if widest < fewest - 1:
        return []
    return [
        f"{measure.name!r} is biased where stimuli are not many more than units: the smallest fold "
        f"scores {fewest} stimuli, and there are up to {widest} units or principal axes. Unrelated "
        "features would score high too: see `calibrated_score`, use 'debiased_cka', or fewer folds."
    ]
