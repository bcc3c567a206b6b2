"""What is done to the entries of a tile: a SoftStep, from the anchors of its rows or columns.

Bounds are in the unit of the raw similarities: scaling moves and stretches similarities and bounds
alike, and the first family depends on ratios of their differences only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from softrsa._processes import ALONE, Ranks
from softrsa.measures._features import first_order
from softrsa.rsm.scaling import between
from softrsa.tiled.tiles import Tile, TiledRSM, scratch, share_tiles, tile_size
from softrsa.transforms.soft_step import bound_distances_, exact_zeros_, run_step_s2

N_SCRATCH = 3


class Entries(NamedTuple):
    """Similarities of a tile, and how the anchors of one of its ends see them."""

    s: Tensor
    parameters: Sequence[Tensor]  # of a family, shaped (k, 1) or (1, k)
    unit: float  # range of similarities
    scratch: Sequence[Tensor]  # matrices of the tile's shape that may be written to


class Step(Protocol):
    """A family: from similarities and parameters to values and back."""

    def forward(self, entries: Entries, out: Tensor) -> Tensor:
        """Write the values of a tile to ``out``."""
        ...

    def backward(
        self, entries: Entries, by_value: Tensor, *, end: int, value: Tensor, by_s: Tensor | None
    ) -> list[Tensor]:
        """Gradients by the parameters of the rows (``end`` 0) or columns (1), shape (k,) each.

        Adds to ``by_s`` and uses up ``value``.
        """
        ...


class S1:
    """sigma((log u - log v) / t), see `soft_step`, by lower, upper and 1 / transition."""

    def forward(self, entries: Entries, out: Tensor) -> Tensor:
        """As `soft_step`: exactly 0 and 1 beyond the bounds."""
        log_ratio = self._log_ratio(entries)[2]
        return exact_zeros_(torch.mul(log_ratio, entries.parameters[2], out=out).sigmoid_())

    def _log_ratio(self, entries: Entries) -> Sequence[Tensor]:
        """Clamped distances and the logarithm of their ratio."""
        s, parameters, unit, (u, v, log_ratio) = entries
        floor = smallest_distance(unit, s.dtype)
        bound_distances_(s, parameters[0], parameters[1], out=(u, v), floor=floor)
        torch.div(u, v, out=log_ratio).log_()
        return u, v, log_ratio

    def backward(
        self, entries: Entries, by_value: Tensor, *, end: int, value: Tensor, by_s: Tensor | None
    ) -> list[Tensor]:
        """Beyond a bound the value is exactly 0 or 1, which stops the gradient."""
        u, v, log_ratio = self._log_ratio(entries)
        steepness = entries.parameters[2]
        dim = 1 - end  # over which the entries of a tile share a parameter
        inner = value.addcmul_(value, value, value=-1).mul_(by_value)
        by_steepness = log_ratio.mul_(inner).sum(dim)
        by_lower, by_upper = torch.div(inner, u, out=u), torch.div(inner, v, out=v)
        factor = -steepness.flatten()
        sums = [factor * by_lower.sum(dim), factor * by_upper.sum(dim), by_steepness]
        if by_s is not None:
            by_s.addcmul_(by_lower.add_(by_upper), steepness)
        return sums


class S2:
    """The second family, see `soft_step_s2`, differentiated by autograd.

    Its parameters are the similarities that become 0 and 1, their rounding, upper and transition.
    """

    def forward(self, entries: Entries, out: Tensor) -> Tensor:
        """Scale the similarities and apply the step."""
        return out.copy_(_second(entries.s, *entries.parameters))

    def backward(
        self, entries: Entries, by_value: Tensor, *, end: int, value: Tensor, by_s: Tensor | None
    ) -> list[Tensor]:
        """Compute the tile once more, with a graph."""
        del end, value
        given = (entries.s, *entries.parameters)
        inputs = [each.detach().requires_grad_() for each in given]
        with torch.enable_grad():
            found = _second(*inputs)
        by_tile, *by_parameters = torch.autograd.grad(
            found, inputs, by_value, materialize_grads=True
        )
        if by_s is not None:
            by_s.add_(by_tile)
        return [by.flatten() for by in by_parameters]


def smallest_distance(unit: float, dtype: torch.dtype) -> float:
    """Distance to a bound so small that the step is exactly 0 or 1, with room for ratios."""
    kind = torch.finfo(dtype)
    return max(unit * kind.tiny / kind.eps, 8 * kind.tiny)


def _second(s: Tensor, *parameters: Tensor) -> Tensor:
    low, high, rounding, upper, transition = parameters
    return run_step_s2(between(s, low, high, rounding), upper, transition, log=False)


FAMILIES: dict[str, Step] = {"s1": S1(), "s2": S2()}


@dataclass(frozen=True)
class TransformedRSM:
    """An RSM in tiles, and what is done to its entries by a family of steps, if by any.

    Parameters, (n,) each, are of every anchor, as the family takes them; ``unit`` is the range of
    similarities that the step is for.
    """

    rsm: TiledRSM
    family: str | None = None
    parameters: tuple[Tensor, ...] = ()
    unit: float = 1.0
    symmetrize: bool = True

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """What gradients may reach: features first, then parameters."""
        return (self.rsm.source.tensor, *self.parameters)


class Moments(NamedTuple):
    """Sums over off-diagonal entries, in float64: (n_rsms, n) twice, (n_pairs,)."""

    rows: Tensor
    columns: Tensor
    products: Tensor


def moments(
    rsms: Sequence[TransformedRSM],
    pairs: Sequence[tuple[int, int]],
    *,
    size: int | None = None,
    ranks: Ranks = ALONE,
) -> Moments:
    """Row sums, column sums, and inner products of listed pairs of transformed RSMs.

    Gradients, of the first order, reach the step parameters and the features. Several ranks share
    the tiles; every one of them has the whole result, and the whole gradient.
    """
    size = size or tile_size(rsms[0].rsm.device)
    job = _Job(tuple(rsms), tuple(pairs), size, ranks)
    found = _Moments.apply(job, *(t for r in rsms for t in r.tensors))
    return Moments(*map(first_order, found))  # type: ignore[arg-type]


@torch.no_grad()
def power_sums(rsms: Sequence[TransformedRSM], ranks: Ranks = ALONE) -> Tensor:
    """Sum the first four powers of off-diagonal entries: (n_rsms, 4), float64."""
    job = _Job(tuple(rsms), (), tile_size(rsms[0].rsm.device), ranks).detached()
    return _on_all_tiles(job, lambda worker, tiles: [worker.powers(tiles)])[0]


class Block(NamedTuple):
    """Rows and columns of all RSMs, 0 on their diagonals; memory that is used again."""

    rows: slice
    columns: slice
    values: list[Tensor]


@torch.no_grad()
def over_blocks(
    rsms: Sequence[TransformedRSM],
    work: Callable[[Iterator[Block]], list[Tensor]],
    ranks: Ranks = ALONE,
) -> tuple[Tensor, ...]:
    """Add up what ``work`` makes of blocks: each entry off the diagonal is in one of them.

    Cores and ranks are given a share of the blocks each, which may be none.
    """
    job = _Job(tuple(rsms), (), tile_size(rsms[0].rsm.device), ranks).detached()
    return _on_all_tiles(job, lambda worker, tiles: work(worker.blocks(tiles)))


class _Job(NamedTuple):
    """What is summed, in tiles of which size."""

    rsms: tuple[TransformedRSM, ...]
    pairs: tuple[tuple[int, int], ...]
    size: int
    ranks: Ranks

    def detached(self) -> _Job:
        """Without what autograd knows of the parameters: other threads must not ask it."""
        plain = (replace(r, parameters=tuple(p.detach() for p in r.parameters)) for r in self.rsms)
        return self._replace(rsms=tuple(plain))


class _Moments(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, ...]:
        ctx.job = inputs[0].detached()
        ctx.save_for_backward(*inputs[1:])  # autograd then notices if one is written to
        return _on_all_tiles(ctx.job, lambda worker, tiles: worker.sums(tiles))

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        needed = ctx.needs_input_grad[1:]
        tensors = ctx.saved_tensors
        upstream = _Upstream.of(ctx.job, Moments(*grad_outputs))

        def gradients(worker: _Worker, tiles: list[Tile]) -> list[Tensor]:
            return worker.gradients(tiles, upstream, needed)

        found = _on_all_tiles(ctx.job, gradients)
        return None, *(
            part.to(tensor.dtype) if need else None
            for part, tensor, need in zip(found, tensors, needed, strict=True)
        )


def _on_all_tiles(
    job: _Job, run: Callable[[_Worker, list[Tile]], list[Tensor]]
) -> tuple[Tensor, ...]:
    """Add up what the cores of all ranks find on their share of the tiles."""
    rsm = job.rsms[0].rsm
    found = share_tiles(
        lambda tiles: run(_Worker(job), tiles), rsm.n, job.size, rsm.device, job.ranks
    )
    totals = tuple(reduce(torch.add, members) for members in zip(*found, strict=True))
    job.ranks.add_up(*totals)
    return totals


class _Upstream(NamedTuple):
    """What reaches the entries of each RSM: an offset per row and column, and other RSMs."""

    rows: Sequence[Sequence[Tensor]]  # per RSM and block
    columns: Sequence[Sequence[Tensor]]
    products: list[list[tuple[int, float]]]  # per RSM: which others, times what

    def ends(self, k: int, tile: Tile, *, shared: bool) -> list[tuple[Tensor, Tensor]]:
        """Offsets of the rows and columns of each plane of a tile."""
        i, j = tile.row_block, tile.column_block
        rows, columns = self.rows[k], self.columns[k]
        if shared:
            return [(rows[i] + columns[i], rows[j] + columns[j])]
        return [(rows[i], columns[j]), (columns[i], rows[j])]

    @classmethod
    def of(cls, job: _Job, gradients: Moments) -> _Upstream:
        """Cut gradients of the sums into blocks, and sort products by RSM."""
        kinds = [r.rsm.dtype for r in job.rsms]
        products: list[list[tuple[int, float]]] = [[] for _ in job.rsms]
        for (k, other), weight in zip(job.pairs, gradients.products.tolist(), strict=True):
            products[k].append((other, weight))
            products[other].append((k, weight))
        rows, columns = (
            [part.to(kind).split(job.size) for part, kind in zip(found, kinds, strict=True)]
            for found in (gradients.rows, gradients.columns)
        )
        return cls(rows, columns, products)


class _Planes(NamedTuple):
    """A tile of a transformed RSM: as anchors of its rows see it and as those of its columns do.

    Entry (i, j) of the tile always stands for the stimuli i (row) and j (column). ``values`` are
    both planes, or the one that both share; ``steps`` those that a shared one is the mean of.
    """

    s: Tensor
    steps: list[Tensor]
    values: list[Tensor]

    @property
    def shared(self) -> bool:
        return len(self.values) == 1


class _Worker:
    """One thread's share of the tiles, with memory that every tile uses again."""

    def __init__(self, job: _Job):
        self.job = job
        self._memory: dict[tuple[object, ...], Tensor] = {}
        # per RSM and end of a tile (rows, columns): parameters of each block, ready to broadcast
        self._parameters = [
            tuple(
                list(
                    zip(
                        *(p.unsqueeze(dim).split(job.size, 1 - dim) for p in r.parameters),
                        strict=True,
                    )
                )
                for dim in (1, 0)
            )
            for r in job.rsms
        ]

    def sums(self, tiles: list[Tile]) -> list[Tensor]:
        """Rows, columns and products over some tiles."""
        first, n_rsms = self.job.rsms[0].rsm, len(self.job.rsms)
        ends = torch.zeros(2, n_rsms, first.n, dtype=torch.float64, device=first.device)
        rows, columns = ([part.split(self.job.size) for part in end] for end in ends)
        if not tiles:  # more ranks than tiles
            return [*ends, ends.new_zeros(len(self.job.pairs))]
        products: list[Tensor] = []
        for tile in tiles:
            planes = self._planes(tile)
            for k, seen in enumerate(planes):
                _add_sums(tile, seen.values, rows[k], columns[k])
            products += [_inner(planes[k], planes[m]) for k, m in self.job.pairs]
        shares = torch.tensor([_share(tile) for tile in tiles], dtype=torch.float64)
        table = torch.stack([product.double() for product in products]).view(len(tiles), -1)
        return [ends[0], ends[1], shares.to(first.device) @ table]

    def powers(self, tiles: list[Tile]) -> Tensor:
        """Sum powers of every RSM's entries over some tiles."""
        total = torch.zeros(len(self.job.rsms), 4, dtype=torch.float64)
        total = total.to(self.job.rsms[0].rsm.device)
        for tile in tiles:
            for k, seen in enumerate(self._planes(tile)):
                for value in seen.values:
                    square = value * value
                    sums = [
                        value.sum(),
                        _dot(value, value),
                        _dot(value, square),
                        _dot(square, square),
                    ]
                    total[k] += _share(tile) * 2 / len(seen.values) * torch.stack(sums)
        return total

    def blocks(self, tiles: list[Tile]) -> Iterator[Block]:
        """Tiles, and what lies opposite of them beyond the diagonal."""
        for tile in tiles:
            planes = self._planes(tile)
            yield Block(tile.rows, tile.columns, [seen.values[0] for seen in planes])
            if not tile.on_diagonal:
                opposite = [seen.values[-1].mT for seen in planes]
                yield Block(tile.columns, tile.rows, opposite)

    def gradients(
        self, tiles: list[Tile], upstream: _Upstream, needed: Sequence[bool]
    ) -> list[Tensor]:
        """Gradients by every RSM's features and parameters over some tiles."""
        wanted = iter(needed)
        needed_of = [[next(wanted) for _ in r.tensors] for r in self.job.rsms]
        found = [
            [torch.zeros_like(t if need else t[:0]) for t, need in zip(r.tensors, of, strict=True)]
            for r, of in zip(self.job.rsms, needed_of, strict=True)
        ]
        learned = [k for k, of in enumerate(needed_of) if any(of)]
        for tile in tiles:
            planes = self._planes(tile)
            reaching = {k: self._by_values(k, tile, planes, upstream) for k in learned}
            for k, by_values in reaching.items():
                self._backward(k, tile, planes[k], by_values, (found[k], needed_of[k][0]))
        return [part for parts in found for part in parts]

    def _planes(self, tile: Tile) -> list[_Planes]:
        return [self._planes_of(k, r, tile) for k, r in enumerate(self.job.rsms)]

    def _planes_of(self, k: int, r: TransformedRSM, tile: Tile) -> _Planes:
        s = r.rsm.read(tile, self._matrix(tile, r, k, "s"))
        if r.family is None:
            return _Planes(s, [], [s])
        step = FAMILIES[r.family]
        steps = [
            step.forward(entries, self._matrix(tile, r, k, end))
            for end, entries in enumerate(self._of_ends(k, tile, s))
        ]
        values = steps
        if r.symmetrize:
            values = [torch.add(*steps, out=self._matrix(tile, r, k, "mean")).mul_(0.5)]
        if tile.on_diagonal:
            for value in values:
                value.diagonal().zero_()
        return _Planes(s, steps, values)

    def _by_values(
        self, k: int, tile: Tile, planes: list[_Planes], upstream: _Upstream
    ) -> list[Tensor]:
        """Find what reaches the values of RSM ``k`` in a tile."""
        seen, r = planes[k], self.job.rsms[k]
        found = []
        for i, (of_rows, of_columns) in enumerate(upstream.ends(k, tile, shared=seen.shared)):
            by = self._matrix(tile, r, k, "by", i)
            torch.add(of_rows.unsqueeze(1), of_columns.unsqueeze(0), out=by)
            for other, weight in upstream.products[k]:
                across = planes[other].values
                if seen.shared and len(across) == 2:
                    by.add_(across[0], alpha=weight).add_(across[1], alpha=weight)
                else:
                    by.add_(across[i % len(across)], alpha=2 * weight if seen.shared else weight)
            if tile.on_diagonal:
                by.mul_(0.5).diagonal().zero_()
            found.append(by)
        return found

    def _backward(
        self,
        k: int,
        tile: Tile,
        planes: _Planes,
        by_values: list[Tensor],
        wanted: tuple[list[Tensor], bool],
    ) -> None:
        """Pass what reaches the values on to parameters, and to features if these want it."""
        r, (found, to_features) = self.job.rsms[k], wanted
        if r.family is None:
            r.rsm.source.backward(tile, by_values[0], found[0])
            return
        if planes.shared:
            by_values = [by_values[0].mul_(0.5)] * 2
        by_s = self._matrix(tile, r, "by_s").zero_() if to_features else None
        step = FAMILIES[r.family]
        parts = zip((tile.rows, tile.columns), by_values, planes.steps, strict=True)
        ends = enumerate(zip(parts, self._of_ends(k, tile, planes.s), strict=True))
        for end, ((part, by_value, value), entries) in ends:
            sums = step.backward(entries, by_value, end=end, value=value, by_s=by_s)
            for total, one in zip(found[1:], sums, strict=True):
                if len(total):
                    total[part] += one
        if by_s is not None:
            r.rsm.source.backward(tile, by_s, found[0])

    def _of_ends(self, k: int, tile: Tile, s: Tensor) -> list[Entries]:
        """Entries of a tile as the anchors of its rows see them, and as those of its columns do."""
        r, (of_rows, of_columns) = self.job.rsms[k], self._parameters[k]
        scratch = [self._matrix(tile, r, r.rsm.dtype, i) for i in range(N_SCRATCH)]
        parameters = (of_rows[tile.row_block], of_columns[tile.column_block])
        return [Entries(s, given, r.unit, scratch) for given in parameters]

    def _matrix(self, tile: Tile, r: TransformedRSM, *name: object) -> Tensor:
        """Memory for a matrix of the tile's shape, the same for every tile of this shape."""
        key = (*name, *tile.shape)
        if key not in self._memory:
            flat = scratch(r.rsm.source.tensor, self.job.size**2, name)
            self._memory[key] = flat[: tile.shape[0] * tile.shape[1]].view(tile.shape)
        return self._memory[key]


def _share(tile: Tile) -> float:
    """Count a tile on the diagonal half: it has each entry twice, others have mirror images."""
    return 0.5 if tile.on_diagonal else 1.0


def _add_sums(
    tile: Tile, values: list[Tensor], rows: Sequence[Tensor], columns: Sequence[Tensor]
) -> None:
    """Add the sums of a tile's rows and columns to those of their blocks."""
    sums = [(value.sum(1), value.sum(0)) for value in values]
    (along, down), (across, below) = sums[0], sums[-1]
    i, j, share = tile.row_block, tile.column_block, _share(tile)
    rows[i].add_(along, alpha=share)
    columns[j].add_(down, alpha=share)
    rows[j].add_(below, alpha=share)
    columns[i].add_(across, alpha=share)


def _inner(a: _Planes, b: _Planes) -> Tensor:
    """Sum of products of two RSMs over a tile and its mirror image."""
    if a.shared and b.shared:
        return 2 * _dot(a.values[0], b.values[0])
    first, second = (p.values * 2 if p.shared else p.values for p in (a, b))
    return _dot(first[0], second[0]) + _dot(first[1], second[1])


DOT_ENTRIES = {"cpu": 2**15}  # turned into float64 at a time; on the CPU what its cache holds
LARGE_DOT = 2**22


def _dot(x: Tensor, y: Tensor) -> Tensor:
    """Sum of products, in float64: what measures take off later may be nearly all of it."""
    same, x, y = x is y, x.view(-1), y.view(-1)
    if x.dtype == torch.float64:
        return torch.dot(x, y)
    size = DOT_ENTRIES.get(x.device.type, LARGE_DOT)
    sums = []
    for a, b in zip(x.split(size), y.split(size), strict=True):
        wide = a.double()
        sums.append(torch.dot(wide, wide if same else b.double()))
    return torch.stack(sums).sum()
