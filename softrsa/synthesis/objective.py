"""A measure as a function of the synthetic features alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from softrsa.errors import DataError, ShapeError, unknown_name
from softrsa.measures import Measure, available, get
from softrsa.rsm import SIMILARITIES, similarity_matrix

MeasureLike = str | Measure | Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Objective:
    """Scores of synthetic features against fixed ones.

    Attributes
    ----------
    name : str
        Of the measure.
    scores : callable
        Takes (R, n, q), gives (R,).
    worst, best : float, or None
        Ends of the measure's range; None where they are not known.
    larger_is_more_similar : bool
        False for a distance.
    """

    name: str
    scores: Callable[[Tensor], Tensor]
    worst: float | None = None
    best: float | None = None
    larger_is_more_similar: bool = True


def make_objective(measure: MeasureLike, x: Tensor, *, similarity: str) -> Objective:
    """Fix the real features in a measure; one on RSMs reads RSMs of the given similarity.

    Where the order matters the synthetic features predict the real ones, as a model's do.
    """
    if similarity not in SIMILARITIES:
        raise unknown_name("similarity", similarity, SIMILARITIES)
    if isinstance(measure, (str, Measure)):
        measure = check_differentiable(measure)
    else:
        return Objective(name_of(measure), _checked(measure, x))
    low, high = measure.range
    worst, best = (low, high) if measure.larger_is_more_similar else (high, low)
    return Objective(
        measure.name, _of_entry(measure, x, similarity), worst, best,
        measure.larger_is_more_similar,
    )  # fmt: skip


def check_differentiable(measure: str | Measure) -> Measure:
    """Look a measure up, refusing one without a gradient."""
    entry = get(measure) if isinstance(measure, str) else measure
    if not entry.differentiable:
        known = [name for name, entry in available().items() if entry.differentiable]
        raise DataError(
            f"{entry.name!r} passes no gradient, so no data can be optimized to it. "
            f"Differentiable: {', '.join(known)}."
        )
    return entry


def name_of(measure: MeasureLike) -> str:
    """Name a measure, also one that is a callable object or a partial function."""
    if isinstance(measure, (str, Measure)):
        return measure if isinstance(measure, str) else measure.name
    inner = getattr(measure, "func", measure)
    return str(getattr(inner, "__name__", type(inner).__name__))


def _of_entry(entry: Measure, x: Tensor, similarity: str) -> Callable[[Tensor], Tensor]:
    if entry.takes == "features":
        return lambda y: entry.function(x, y) if entry.symmetric else entry.function(y, x)
    target = entry.pairs_of(similarity_matrix(x, similarity=similarity))

    def scores(y: Tensor) -> Tensor:
        return entry.function(target, entry.pairs_of(similarity_matrix(y, similarity=similarity)))

    return scores


def _checked(measure: Callable[[Tensor, Tensor], Tensor], x: Tensor) -> Callable[[Tensor], Tensor]:
    """Check what a function of the user's returns; one restart is given to it unbatched."""

    def scores(y: Tensor) -> Tensor:
        alone = len(y) == 1
        found = measure(x, y[0] if alone else y)
        wanted = () if alone else (len(y),)
        if not isinstance(found, Tensor) or found.shape != wanted:
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ShapeError(
                f"`measure` must give a tensor of shape {wanted} for features {tuple(x.shape)} and "
                f"{(*y.shape[1:],) if alone else tuple(y.shape)}, got {shape}."
            )
        if torch.is_grad_enabled() and not found.requires_grad:
            raise DataError(
                f"`measure` {name_of(measure)!r} passes no gradient to its second input, so no "
                "data can be optimized to it; it must be made of differentiable torch functions."
            )
        return found[None] if alone else found

    return scores
