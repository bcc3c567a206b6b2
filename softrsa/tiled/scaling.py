"""Scaling to [0, 1] and gates, as step parameters in the unit of the raw similarities."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from softrsa._processes import ALONE, Ranks
from softrsa._ranks import ascending, in_order, is_rounding, rounding_of, sorted_quantile
from softrsa._threads import map_on_cores
from softrsa.errors import DataError
from softrsa.tiled.tiles import Tile, TiledRSM, scratch, share_tiles, tile_size
from softrsa.transforms import StepParameters

BLOCK_ENTRIES = 2**22  # of a stretch of rows whose quantiles are taken


class Scale(NamedTuple):
    """Similarities that become 0 and 1, and what differs by rounding only: shape (n,) or (1,)."""

    low: Tensor
    high: Tensor
    rounding: Tensor

    @property
    def width(self) -> Tensor:
        """Range that becomes 1."""
        return self.high - self.low


def scale_of(rsm: TiledRSM, how: str, ranks: Ranks = ALONE) -> Scale:
    """Find how similarities are brought to [0, 1], with gradient to the features.

    As `softrsa.rsm.scale_similarities`; of equal extremes the first gets the whole gradient.
    """
    one = torch.ones(1, dtype=rsm.dtype, device=rsm.device)
    if how == "rank":
        raise DataError(
            "scaling='rank' needs all pairs at once, so it cannot be done in tiles: use "
            "'row_minmax', 'minmax' or, for correlation and cosine, 'affine'."
        )
    if how == "affine" and rsm.bounded:
        return Scale(-one, one, rounding_of(-one, one))
    low, high = row_extremes(rsm, ranks)
    if how == "affine":
        beyond = float(torch.maximum(high, -low).detach().max())
        if beyond > 1 + torch.finfo(rsm.dtype).eps ** 0.75:  # rounding of long sums
            raise DataError(
                f"`affine` needs similarities in [-1, 1], got one of size {beyond:.6g}. "
                "Use 'minmax' or 'row_minmax'."
            )
        return Scale(-one, one, rounding_of(-one, one))
    if how == "minmax":
        low, high = low.min().unsqueeze(0), high.max().unsqueeze(0)
    own = one * (rsm.source.self_similarity or 0.0)
    rounding = torch.maximum(rounding_of(low, high), rounding_of(own, own))
    constant = is_rounding(low, high, rounding).nonzero().flatten().tolist()
    if constant:
        place = "the matrix" if how == "minmax" else f"row {constant[0]}"
        value = float(low.detach()[constant[0]])
        raise DataError(
            f"All similarities of {place} are {value:.6g}, so they have no scale "
            f"from 0 to 1 ({len(constant)} such in all). Leave out stimuli that do not differ."
        )
    return Scale(low, high, rounding)


def row_extremes(rsm: TiledRSM, ranks: Ranks = ALONE) -> tuple[Tensor, Tensor]:
    """Smallest and largest similarity (n,) of each stimulus to any other, with gradient."""
    find = _find_places if rsm.needs_gradient else _find_values
    found = share_tiles(
        lambda tiles: find(rsm, tiles), rsm.n, tile_size(rsm.device), rsm.device, ranks
    )
    low, high = (_Best.of(parts, ranks) for parts in zip(*found, strict=True))
    if not rsm.needs_gradient:
        return -low.value, high.value
    here = torch.arange(rsm.n, device=rsm.device)
    ends = rsm.source.of_pairs(here, low.place), rsm.source.of_pairs(here, high.place)
    # the values of the tiles, to the last digit: an extreme is to become exactly 0 or 1
    return -low.value + (ends[0] - ends[0].detach()), high.value + (ends[1] - ends[1].detach())


class _Best(NamedTuple):
    """Largest value of each row so far, and where it stands."""

    value: Tensor
    place: Tensor

    @classmethod
    def of(cls, parts: tuple[_Best, ...], ranks: Ranks) -> _Best:
        """Take the best of several, and of all ranks."""
        own, which = torch.stack([p.value for p in parts]).max(0)
        value = own.clone()
        ranks.take_largest(value)
        place = torch.stack([p.place for p in parts]).gather(0, which[None])[0]
        place = place.masked_fill(own < value, -1)  # another rank has it
        ranks.take_largest(place)
        return cls(value, place)

    @classmethod
    def none(cls, rsm: TiledRSM) -> _Best:
        value = torch.full((rsm.n,), -torch.inf, dtype=rsm.dtype, device=rsm.device)
        return cls(value, torch.zeros(rsm.n, dtype=torch.long, device=rsm.device))


def _find_values(rsm: TiledRSM, tiles: list[Tile]) -> tuple[_Best, _Best]:
    """Largest -s and largest s of each row."""
    low, high = _Best.none(rsm), _Best.none(rsm)
    for tile, s in _read_all(rsm, tiles):
        for dim, part in ((1, tile.rows), (0, tile.columns)):
            torch.maximum(
                low.value[part], -_off_diagonal(tile, s, torch.inf).amin(dim), out=low.value[part]
            )
            torch.maximum(
                high.value[part], _off_diagonal(tile, s, -torch.inf).amax(dim), out=high.value[part]
            )
    return low, high


def _find_places(rsm: TiledRSM, tiles: list[Tile]) -> tuple[_Best, _Best]:
    """Largest -s and largest s of each row, and where."""
    best = _Best.none(rsm), _Best.none(rsm)
    for tile, s in _read_all(rsm, tiles):
        for kept, values in zip(best, (-s, s), strict=True):
            signed = _off_diagonal(tile, values, -torch.inf)
            for dim, part, offset in ((1, tile.rows, tile.columns), (0, tile.columns, tile.rows)):
                value, place = signed.max(dim)
                better = value > kept.value[part]
                kept.place[part] = torch.where(better, place + offset.start, kept.place[part])
                kept.value[part] = torch.where(better, value, kept.value[part])
    return best


def _read_all(rsm: TiledRSM, tiles: list[Tile]):
    largest = max((t.shape[0] * t.shape[1] for t in tiles), default=0)
    memory = scratch(rsm.source.tensor, largest, "read")
    for tile in tiles:
        height, width = tile.shape
        yield tile, rsm.read(tile, memory[: height * width].view(height, width))


def _off_diagonal(tile: Tile, s: Tensor, instead: float) -> Tensor:
    """Put something else on the diagonal."""
    return s.clone().fill_diagonal_(instead) if tile.on_diagonal else s


def raw_bounds(scale: Scale, gates: StepParameters) -> tuple[Tensor, ...]:
    """Parameters of the first family: bounds of raw similarities, and 1 / transition."""
    # not low + bound * width, which may miss the upper end by a digit
    lower, upper = (
        torch.lerp(scale.low, scale.high, bound) for bound in (gates.lower, gates.upper)
    )
    # where the bounds coincide the upper one decides, as in `soft_step`
    bound = upper.detach()
    gap = bound - torch.nextafter(bound, torch.full_like(bound, -torch.inf))
    smallest = torch.finfo(bound.dtype).eps ** 2 / 2
    return torch.minimum(lower, upper - gap.clamp_min(smallest)), upper, 1 / gates.transition


def second_family(scale: Scale, gates: StepParameters) -> tuple[Tensor, ...]:
    """Parameters of the second family: scale, upper and transition."""
    return *scale, gates.upper, gates.transition


def profile(rsm: TiledRSM, scale: Scale, n_quantiles: int, ranks: Ranks = ALONE) -> Tensor:
    """Quantiles (n, n_quantiles) of each row of scaled similarities, as `ProfileGate.profile`."""
    levels = torch.arange(1, n_quantiles + 1, dtype=torch.float64) / (n_quantiles + 1)
    find = _profile_by_places if rsm.needs_gradient else _profile_values
    raw = find(rsm, levels, ranks)
    return (raw - scale.low.unsqueeze(-1)) / scale.width.unsqueeze(-1)


def _profile_values(rsm: TiledRSM, levels: Tensor, ranks: Ranks) -> Tensor:
    def quantiles(others: Tensor) -> Tensor:
        ordered = in_order(others)
        return torch.stack([sorted_quantile(ordered, level) for level in levels], -1)

    return _on_rows(rsm, quantiles, ranks)


def _profile_by_places(rsm: TiledRSM, levels: Tensor, ranks: Ranks) -> Tensor:
    """Quantiles as interpolations between two entries, whose places are found without gradient."""
    position = levels * (rsm.n - 2)
    below = position.floor().long().clamp_max(max(rsm.n - 3, 0))
    ends = torch.stack([below, (below + 1).clamp_max(rsm.n - 2)], -1)
    share = (position - below).to(rsm.source.tensor)
    here = torch.arange(rsm.n, device=rsm.device)
    found = _on_rows(rsm, lambda others: ascending(others)[1][:, ends], ranks)
    found = found + (found >= here[:, None, None])  # the stimulus itself was left out

    def quantile(k: int, _: Tensor) -> Tensor:
        low, high = (rsm.source.of_pairs(here, found[:, k, end]) for end in (0, 1))
        return low + share[k] * (high - low)

    # without the checkpoint, two n x n_units products per quantile would be kept for the gradient
    parts = [
        checkpoint(quantile, k, rsm.source.tensor, use_reentrant=False) for k in range(len(levels))
    ]
    return torch.stack(parts, -1)  # type: ignore[arg-type]


def _on_rows(rsm: TiledRSM, function: Callable[[Tensor], Tensor], ranks: Ranks) -> Tensor:
    """Apply a function to the similarities (k, n - 1) of some stimuli at a time to all others."""
    n, own = rsm.n, ranks.part(rsm.n)
    step = max(1, BLOCK_ENTRIES // n)
    starts = range(own.start, max(own.stop, own.start + 1), step)  # once, also for no rows

    def work(start: int) -> Tensor:
        rows = slice(start, min(start + step, own.stop))
        with torch.no_grad():
            out = rsm.source.tensor.new_empty(rows.stop - start, n)
            s = rsm.source.compute(rows, slice(0, n), out)
            others = torch.ones_like(s, dtype=torch.bool)
            others[:, rows].diagonal().fill_(False)
            return function(s[others].view(len(s), n - 1))

    found = torch.cat(map_on_cores(work, starts, entries=0, device=rsm.device))
    return ranks.gather(found, n)
