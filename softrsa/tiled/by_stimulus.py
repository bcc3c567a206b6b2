"""Measures that give every stimulus its weight, from passes over tiles; without gradient.

Where `moments` sums entries once, these need what centering leaves of each row, and balanced
Pearson one pass for every step towards the factors of the stimuli.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from softrsa._gradients import within
from softrsa._processes import ALONE, Ranks
from softrsa.measures import stimulus_identification
from softrsa.measures.balanced import BALANCED
from softrsa.tiled.moments import Block, Moments, TransformedRSM, moments, over_blocks
from softrsa.tiled.tiles import TiledRSM

MOST_PASSES = 200  # towards factors
MOST_IDENTIFIED = 2000  # stimuli that are told apart
ROUNDING = 8  # units in the last place of entries, below which what is left of a row is none


class CenteredTiles:
    """RSMs in tiles less their row and column offsets; the first is compared with all others."""

    def __init__(self, rsms: Sequence[TransformedRSM], ranks: Ranks = ALONE):
        self.rsms, self.ranks = rsms, ranks
        first = rsms[0].rsm
        self.n, self.dtype = first.n, first.dtype
        with torch.no_grad():
            sums = moments(rsms, [(k, k) for k in range(len(rsms))], ranks=ranks)
        self.rows, self.columns = (part.to(self.dtype) for part in _offsets(sums))
        self.sizes = sums.products.sqrt()

    def per_anchor(self) -> Tensor:
        """Scores (n_rsms - 1,) of `per_anchor_pearson`."""
        found = self.row_products
        own, cross = found.rows.masked_fill(self._empty(found.rows), torch.nan), found.cross
        return within((cross / (own[:1] * own[1:]).sqrt()).mean(-1))

    def balanced(self) -> Tensor:
        """Scores (n_rsms - 1,) of `balanced_pearson`."""
        squares = (self.row_products.rows + self.row_products.columns) / 2
        factors = self._factors(squares.masked_fill(self._empty(squares), torch.nan))
        root = factors.sqrt()

        def work(blocks: Iterator[Block]) -> list[Tensor]:
            totals, own, cross = (self._zeros(m) for m in (len(self.rsms), len(self.rsms), -1))
            for block, entries in self._entries(blocks):
                for k, one in enumerate(entries):
                    at_rows, at_columns = (root[k, p] for p in (block.rows, block.columns))
                    one.mul_(at_rows.to(one)[:, None]).mul_(at_columns.to(one))
                    totals[k] += one.sum(dtype=torch.float64)
                    own[k] += one.square().sum(dtype=torch.float64)
                    if k:
                        cross[k - 1] += (entries[0] * one).sum(dtype=torch.float64)
            return [totals, own, cross]

        totals, own, cross = over_blocks(self.rsms, work, self.ranks)
        number = self.n * (self.n - 1)
        own = own - totals.square() / number
        return within((cross - totals[0] * totals[1:] / number) / (own[0] * own[1:]).sqrt())

    @property
    def row_products(self) -> _RowProducts:
        """Sums over each row and column; found in one pass, once."""
        if not hasattr(self, "_row_products"):
            self._row_products = _RowProducts(*over_blocks(self.rsms, self._sum_rows, self.ranks))
        return self._row_products

    def _sum_rows(self, blocks: Iterator[Block]) -> list[Tensor]:
        count = len(self.rsms)
        rows, columns, cross = (self._zeros(m, self.n) for m in (count, count, count - 1))
        for block, entries in self._entries(blocks):
            for k, one in enumerate(entries):
                squares = one.square()
                rows[k, block.rows] += squares.sum(1, dtype=torch.float64)
                columns[k, block.columns] += squares.sum(0, dtype=torch.float64)
                if k:
                    products = squares.copy_(entries[0]).mul_(one)
                    cross[k - 1, block.rows] += products.sum(1, dtype=torch.float64)
        return [rows, columns, cross]

    def _factors(self, squares: Tensor) -> Tensor:
        """Factors (n_rsms, n), see `softrsa.measures.balanced`, by passes; NaN where none are."""
        factors, product = 1 / squares, squares
        for _ in range(MOST_PASSES):
            (product,) = over_blocks(self.rsms, self._times(factors), self.ranks)
            sums = factors * product
            total = sums.mean(-1, keepdim=True)
            deviation = (sums / total - 1).abs().amax(-1, keepdim=True)
            if not bool((deviation > BALANCED).any()):
                return (factors / total.sqrt()).masked_fill(~(deviation <= BALANCED), torch.nan)
            factors = total.sqrt() / product  # a factor common to all would go to and fro
        return torch.full_like(factors, torch.nan)

    def _times(self, factors: Tensor) -> Callable[[Iterator[Block]], list[Tensor]]:
        """Multiply squares of entries, and those of the transpose, by a vector per RSM."""

        def work(blocks: Iterator[Block]) -> list[Tensor]:
            product = torch.zeros_like(factors)
            for block, entries in self._entries(blocks):
                for k, one in enumerate(entries):
                    squares = one.double().square_()
                    product[k, block.rows] += squares @ factors[k, block.columns] / 2
                    product[k, block.columns] += factors[k, block.rows] @ squares / 2
            return [product]

        return work

    def _entries(self, blocks: Iterator[Block]) -> Iterator[tuple[Block, list[Tensor]]]:
        """Centered entries of blocks, 0 on the diagonal; copies, which may be written to."""
        for block in blocks:
            entries = []
            for value, rows, columns in zip(block.values, self.rows, self.columns, strict=True):
                rest = value - rows[block.rows, None]
                rest.sub_(columns[block.columns])
                if block.rows == block.columns:
                    rest.diagonal().zero_()
                entries.append(rest)
            yield block, entries

    def _empty(self, squares: Tensor) -> Tensor:
        """Tell which RSMs (n_rsms, 1) have a row of which next to nothing is left."""
        rounding = ROUNDING * torch.finfo(self.dtype).eps * self.sizes.unsqueeze(-1)
        return (squares <= rounding.square() / self.n).any(-1, keepdim=True)

    def _zeros(self, count: int, *shape: int) -> Tensor:
        count = len(self.rsms) - 1 if count < 0 else count
        return self.sizes.new_zeros(count, *shape)


class _RowProducts(NamedTuple):
    """Squares summed over rows and over columns, (n_rsms, n), and products with the first."""

    rows: Tensor
    columns: Tensor
    cross: Tensor


def _offsets(sums: Moments) -> tuple[Tensor, Tensor]:
    """Offsets of rows and columns (n_rsms, n), see `softrsa.transforms.double_center`."""
    rows, columns = sums.rows, sums.columns
    n = rows.shape[-1]
    total = rows.sum(-1, keepdim=True) / ((n - 1) * (n - 2))
    of_rows = ((n - 1) * rows + columns) / (n * (n - 2)) - total
    return of_rows, ((n - 1) * columns + rows) / (n * (n - 2))


def tiled_identification(rsms: Sequence[TransformedRSM]) -> Tensor:
    """Scores (n_rsms - 1,) of `stimulus_identification`, of at most 2000 evenly drawn stimuli."""
    held = [_held(r) for r in rsms]
    return torch.stack([stimulus_identification(held[0], other) for other in held[1:]])


def _held(r: TransformedRSM) -> Tensor:
    """Square RSM (m, m) of evenly drawn stimuli."""
    rsm, most = r.rsm, min(r.rsm.n, MOST_IDENTIFIED)
    drawn = torch.arange(most, device=rsm.device) * rsm.n // most
    source = copy(rsm.source)
    source.tensor = source.tensor.detach()[drawn]
    few = TiledRSM(source, bounded=rsm.bounded, kept_bytes=0)
    some = replace(r, rsm=few, parameters=tuple(p[drawn] for p in r.parameters))

    def work(blocks: Iterator[Block]) -> list[Tensor]:
        square = source.tensor.new_zeros(most, most)
        for block in blocks:
            square[block.rows, block.columns] = block.values[0]
        return [square]

    return over_blocks([some], work)[0]
