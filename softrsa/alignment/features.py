"""Scores of measures that compare features: units of both sides, with no RSM in between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from softrsa.alignment.runs import Run, plain_rsa
from softrsa.alignment.sides import Side
from softrsa.errors import DataError
from softrsa.measures import Measure
from softrsa.measures._spectral import coordinates
from softrsa.measures.predictivity import Kind, held_out_predictivity

PREDICTIVE: dict[str, Kind] = {"linear_predictivity": "linear", "ridge_predictivity": "ridge"}


def check_feature_measure(
    entry: Measure, transforms: Sequence[str], sides: Mapping[str, Side]
) -> None:
    """Refuse transforms, which act on RSMs, and sides that have no units."""
    others = [name for name in transforms if name != "identity"]
    if others:
        raise DataError(
            f"{entry.name!r} compares features, and transforms change RSMs ({', '.join(others)}): "
            "use transforms=['identity'] with it, or a measure on RSMs."
        )
    for name, side in sides.items():
        if side.units is None:
            raise DataError(
                f"{entry.name!r} compares features, and {name!r} holds RDMs or RSMs only. Give "
                "recordings or activations, or use a measure on RSMs."
            )


def compact(units: Tensor) -> Tensor:
    """Rotate units into as few dimensions as there are stimuli, in their own number type.

    From that type measures know what is rounding, and so the rank.
    """
    return coordinates(units).to(units.dtype)


def evaluate_features(run: Run, measure: Measure) -> dict[str, dict[str, Any]]:
    """Score the features of a run's test stimuli, as `runs.evaluate` scores RSMs."""
    chosen = list(run.score)
    train = run.model.take(run.split.train), run.brain.take(run.split.train)
    test = run.test()
    record = {
        "score": _mean_score(measure, train, test, chosen),
        "train_score": _mean_score(measure, train, train, chosen),
        **dict.fromkeys(("row_offset_share", "ceiling_lower", "ceiling_upper"), torch.nan),
        "penalty": 0.0, "n_steps": 0, "degenerate": False, "chosen": "identity", "gate": "",
        "steps": (None, None), "path": None,
        "influence": torch.full((len(run.split.test),), torch.nan),
        "rsa_score": plain_rsa(*test, chosen),
    }  # fmt: skip
    return {"identity": record}


def few_stimuli_warnings(measure: Measure, runs: Sequence[Run]) -> list[str]:
    """Say where a measure is high for any features, because there are more units than stimuli."""
    if measure.name in {*PREDICTIVE, "debiased_cka"}:
        return []
    fewest = min(len(run.split.test) for run in runs)
    widest = max(u.shape[-1] for run in runs for side in run.test() for u in side.units or ())
    if widest < fewest - 1:
        return []
    return [
        f"{measure.name!r} is biased where stimuli are not many more than units: the smallest fold "
        f"scores {fewest} stimuli, and there are up to {widest} units or principal axes. Unrelated "
        "features would score high too; use 'debiased_cka', or fewer folds."
    ]


def score_features(name: str, model: Side, brain: Side, measure: Measure) -> float:
    """Mean over subjects of the score over all stimuli; NaN for what is fitted."""
    del name  # of the transform: the identity
    if measure.name in PREDICTIVE:
        return torch.nan
    sides = model, brain
    return _mean_score(measure, sides, sides, range(len(brain.subjects)))


def _mean_score(
    entry: Measure, train: tuple[Side, Side], test: tuple[Side, Side], subjects: Sequence[int]
) -> float:
    scores = []
    for subject in subjects:
        x, y = _features(train, subject)
        x_test, y_test = _features(test, subject)
        if entry.name in PREDICTIVE:
            kind = PREDICTIVE[entry.name]
            score = held_out_predictivity(x, y, x_test, y_test, kind=kind)
        else:
            score = entry(x_test, y_test)
        # a distance with its sign changed, so that larger is more similar in every table
        scores.append(score if entry.larger_is_more_similar else -score)
    return float(torch.stack(scores).mean())


def _features(sides: tuple[Side, Side], subject: int) -> tuple[Tensor, Tensor]:
    model, brain = ((side.units or ())[i] for side, i in zip(sides, (0, subject), strict=True))
    # of two precisions the lower: beyond it, one side holds rounding
    dtype = min(model.dtype, brain.dtype, key=lambda kind: torch.finfo(kind).bits)
    return model.to(dtype), brain.to(dtype)
