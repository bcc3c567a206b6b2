"""Scores given a control: what it explains of both sides is removed before they are compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
import xarray as xr
from torch import Tensor

from softrsa.alignment.resampling import Draws, OfRun, Scored, resample_scores
from softrsa.alignment.responses import Data, Responses
from softrsa.alignment.settings import SMALLEST_BLOCK, UNFITTED
from softrsa.measures import Measure, get
from softrsa.measures.missing import lacks_pairs, on_held_pairs
from softrsa.measures.partial import (
    check_partial,
    check_stimuli_left,
    of_residuals,
    residual_squares,
)
from softrsa.transforms.center import held_pairs


class Side(NamedTuple):
    """What is compared under one transform: the RSM of the model (1 or s, n, n), and the brain's.

    The brain's are of all subjects (s, n, n), for noise ceilings.
    """

    model: Tensor
    brain: Tensor

    def less(self, control: Tensor, measure: Measure) -> Side:
        """Take from both what controls (k, n, n) explain under a measure, of pairs both have."""
        held = held_pairs(*self) if lacks_pairs(*self) else None
        return Side(*(residual_squares(one.double(), control, measure, held) for one in self))

    def scored(self, subjects: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Keep the subjects that are scored; a model may be one for all."""
        chosen = list(subjects)
        own = self.model if len(self.model) == 1 else self.model[chosen]
        return own, self.brain[chosen]


class Views(NamedTuple):
    """Sides as the measure scores them, and as what is told beside its scores does.

    The measure is that of whole RSMs; with missing pairs it needs `on_held_pairs`.
    """

    measure: Measure
    sides: list[Side]
    of_offsets: list[Side]
    beside: list[Side]


def views(sides: list[Side], controls: Sequence[Tensor] | None, measure: Measure) -> Views:
    """Take from the sides of all transforms what their controls explain, if there are any.

    Shares of row offsets are those of plain residuals, other scores those of centered ones.
    """
    if controls is None:
        return Views(measure, sides, sides, sides)

    def less(one: Measure) -> list[Side]:
        return [side.less(control, one) for side, control in zip(sides, controls, strict=True)]

    plain = get("pearson")
    centered = get("centered_pearson")
    return Views(of_residuals(measure), less(measure), less(plain), less(centered))


def transformed_control(control: Tensor, name: str) -> Tensor:
    """Bring a control to what a transform compares: centered with "centered", else as it is.

    Residuals of centered RSMs given one that is not would keep part of it. Learned and clamping
    transforms have no such counterpart: what they compare is given the control as it is.
    """
    last = name.rsplit("+", maxsplit=1)[-1]
    return UNFITTED[last]()(control) if last in UNFITTED else control


def with_control(
    layers: Mapping[str, Responses], control: Mapping[str, Responses]
) -> dict[str, Responses]:
    """Give all layers the RSMs of a control, if there is one."""
    if not control:
        return dict(layers)
    held = torch.cat([side.rsms.double() for side in control.values()])
    return {name: replace(side, control=held) for name, side in layers.items()}


def check_control(measure: Measure, fewest: int, n_controls: int) -> None:
    """Refuse what has no partial score.

    ``fewest`` are the test stimuli of the smallest fold.
    """
    check_partial(measure)
    check_stimuli_left(fewest, n_controls, measure)


def control_parts(
    control: object, by: str, split: Callable[..., dict[str, Data]]
) -> dict[str, Data]:
    """Name the RSMs of a control: by layer where it has several, else "control"."""
    if control is None:
        return {}
    parts = split(control, by, by)
    if (
        isinstance(control, Mapping)
        or len(parts) > 1
        or (isinstance(control, xr.DataArray) and by in control.coords)
    ):
        return parts
    return {"control": next(iter(parts.values()))}


def resample_given(
    run: Scored,
    measure: Measure,
    sides: Sequence[Side],
    controls: Sequence[Tensor],
    draws: Draws | None,
) -> OfRun:
    """Resample partial scores as `resample_scores` does plain ones.

    Residuals stay as they are where stimuli are drawn: coefficients of a least-squares fit have no
    influence of first order on the correlation of its residuals. Ranks have, and are made anew,
    stimuli left out one at a time; not where pairs are missing. Residuals of the model are
    permuted.

    Parameters
    ----------
    run : Run
        Which stimuli and subjects are scored.
    measure : Measure
        The one that has a partial form.
    sides : sequence of Side
        For each transform, before anything is removed.
    controls : sequence of Tensor, shapes (k, n, n)
        For each transform.
    draws : Draws or None
        What was drawn; None for no resamples.
    """
    scored = of_residuals(measure)
    missing = any(lacks_pairs(*side) for side in sides)
    rest = [side.less(control, measure) for side, control in zip(sides, controls, strict=True)]
    models, brains = zip(*(side.scored(run.score) for side in rest), strict=True)
    scorer = on_held_pairs(scored) if missing else scored
    found = resample_scores(run, scorer, models, torch.stack(brains), draws, on_step=_unheard)
    if scored is measure or missing or draws is None or found.sums is None:
        return found
    models, brains = zip(*(side.scored(run.score) for side in sides), strict=True)
    together = [
        torch.cat([brain[:, None], control.expand(len(brain), -1, -1, -1)], 1)
        for brain, control in zip(brains, controls, strict=True)
    ]
    n = brains[0].shape[-1]
    draws = draws._replace(orders=torch.arange(n)[None])  # permuted residuals are there already
    left_out = resample_scores(
        run, _ranked_given(measure), models, torch.stack(together), draws, on_step=_unheard
    )
    if left_out.sums is None:
        return found
    return OfRun(left_out.influence, [*left_out.sums[:3], found.sums[3]])


def _unheard(_: int) -> None:
    """Hear of no steps: their number is that of plain scores."""


def _ranked_given(measure: Measure) -> Measure:
    """Make a measure of RSMs (..., n, n) with others and their controls (..., 1 + k, n, n)."""
    scored = of_residuals(measure)

    def given(x: Tensor, y: Tensor) -> Tensor:
        if y.shape[-1] < SMALLEST_BLOCK:
            return (x[..., 0, 0] + y[..., 0, 0, 0]) * torch.nan
        y, control = y[..., 0, :, :], y[..., 1:, :, :]
        return scored.between(*(residual_squares(one, control, measure) for one in (x, y)))

    given.__name__ = measure.name
    return Measure(
        function=given, takes="matrices", range=measure.range, smallest_n=measure.smallest_n,
        invariances=measure.invariances, reference=measure.reference,
    )  # fmt: skip


def plain_rsa_given(model: Tensor, brain: Tensor, control: Tensor) -> float:
    """Mean over subjects of the partial Pearson correlation of RSMs as they are."""
    side = Side(model, brain).less(control, get("pearson"))
    return float(on_held_pairs(get("pearson")).between(*side).mean())
