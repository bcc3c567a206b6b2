"""Measures on the pairs of stimuli that all RSMs have, where others are missing (NaN)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from softrsa.errors import DataError
from softrsa.measures.correlation import cosine
from softrsa.measures.registry import MEASURES, Measure
from softrsa.transforms.center import center_held, held_pairs

FEWEST_PAIRS = 3


def lacks_pairs(*rsms: Tensor) -> bool:
    """Tell whether an RSM misses a pair of different stimuli."""
    n = rsms[0].shape[-1]
    return int(held_pairs(*rsms).sum()) < n * (n - 1)


def leaves_out_pairs(measure: Measure) -> bool:
    """Tell whether a measure can leave out pairs: whether it is made of pairs by themselves."""
    whole = measure.embed is not None and measure.embed.offsets == "whitened"
    return _removes_offsets(measure) or (measure.takes in ("vectors", "pairs") and not whole)


def _removes_offsets(measure: Measure) -> bool:
    return measure.embed is not None and measure.embed.offsets == "removed"


def check_leaves_out(measure: Measure, name: str) -> None:
    """Refuse a measure that needs all pairs, and name those that do not."""
    if not leaves_out_pairs(measure):
        able = ", ".join(row.name for row in MEASURES.values() if leaves_out_pairs(row))
        raise DataError(
            f"Pairs are missing (NaN) in {name}, and {measure.name!r} needs all of them. Use a "
            f"measure that leaves pairs out ({able}), or leave out the stimuli that lack pairs."
        )


def on_held_pairs(measure: Measure) -> Measure:
    """Make a measure that compares the pairs that both inputs have.

    Parameters
    ----------
    measure : Measure
        One for which `leaves_out_pairs` is true.

    Returns
    -------
    Measure
        Of square RSMs (..., n, n), in which NaN is a missing pair. A pair missing in one RSM of a
        batch is left out of all. Offsets of rows and columns are those of the pairs that are left.
        NaN where fewer than 3 are.
    """
    check_leaves_out(measure, "the RSMs")
    compare: Callable[[Tensor, Tensor], Tensor] = cosine if _removes_offsets(measure) else measure

    def between(x: Tensor, y: Tensor) -> Tensor:
        held = held_pairs(x, y)
        rows, columns = held.triu().nonzero(as_tuple=True)
        if len(rows) < FEWEST_PAIRS:
            shape = torch.broadcast_shapes(x.shape[:-2], y.shape[:-2])
            return x.new_full(shape, torch.nan)
        if _removes_offsets(measure):
            x, y = center_held(x, held), center_held(y, held)
        if measure.takes == "pairs":
            one, other = ((s[..., rows, columns] + s[..., columns, rows]) / 2 for s in (x, y))
        else:
            one, other = (
                torch.cat([s[..., rows, columns], s[..., columns, rows]], -1) for s in (x, y)
            )
        return compare(one, other)

    between.__name__ = measure.name
    return Measure(
        function=between, takes="matrices", range=measure.range, symmetric=measure.symmetric,
        invariances=measure.invariances, smallest_n=measure.smallest_n,
        reference=measure.reference, larger_is_more_similar=measure.larger_is_more_similar,
    )  # fmt: skip
