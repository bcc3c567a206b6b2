"""From names to what a fit needs: measures, scaling; and the progress bar of fits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from softrsa.alignment.fitting import TRANSFORMS
from softrsa.alignment.paths import Plan
from softrsa.alignment.settings import FitSettings
from softrsa.alignment.sides import Side
from softrsa.errors import unknown_name
from softrsa.measures import Measure, get
from softrsa.rsm import SIMILARITIES


def check_names(transform: str, measure: str, similarity: str) -> None:
    """Refuse unknown names before any work is done."""
    if transform not in TRANSFORMS:
        raise unknown_name("transform", transform, TRANSFORMS)
    get(measure)
    if similarity not in SIMILARITIES:
        raise unknown_name("similarity", similarity, SIMILARITIES)


def make_plan(measure: str, model: Side, brain: Side, settings: FitSettings) -> Plan:
    """Resolve what depends on the data: the measure to fit under and each side's scaling."""
    scored = get(measure)
    fitted: Measure = scored if scored.differentiable else get("centered_pearson")
    how = settings.scaling
    scaling = [
        ("affine" if side.bounded else "minmax") if how == "auto" else how
        for side in (model, brain)
    ]
    return Plan(scored, fitted, (scaling[0], scaling[1]), settings)


@contextmanager
def progress_bar(total: int, shown: bool) -> Iterator[Callable[[int], object]]:
    """Show a tqdm bar over fit steps, after a second; yields what advances it."""
    from tqdm import tqdm

    with tqdm(
        total=total,
        disable=not shown or not total,
        desc="fitting transforms",
        unit="step",
        unit_scale=True,
        delay=1,
        mininterval=0.5,
    ) as bar:
        yield bar.update
