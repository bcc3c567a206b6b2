"""Memory used again: the system takes longer to hand it out than a core to fill it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from threading import local
from typing import NamedTuple, Protocol, TypeVar
from weakref import finalize

import torch
from torch import Tensor

from softrsa._precision import product, short_type
from softrsa._processes import Ranks
from softrsa._threads import map_on_cores
from softrsa.rsm import similarity_matrix
from softrsa.rsm._blocks import ALL, RULES

KEPT_BYTES = 2**28  # of tiles kept from pass to pass instead of computed again, per RSM
MOST_SCRATCH = 128  # matrices of the size of a tile that a thread holds on to


class _Spare:
    """Memory of tiles nobody needs any more, for the next RSM.

    Devices other than the CPU have allocators that do this. There is no lock: tiles are given
    back where the garbage collector pleases, and what happens to a deque happens at once.
    """

    def __init__(self):
        self._free: dict[tuple[object, ...], deque[Tensor]] = {}

    def take(self, like: Tensor) -> Tensor:
        """Memory of a tensor's shape and type; what it holds is arbitrary."""
        try:
            return self._free[like.shape, like.dtype, like.device].pop()
        except LookupError:
            return torch.empty_like(like)

    def give(self, kept: dict[tuple[int, ...], Tensor]) -> None:
        """Keep the memory of tiles, as much of each shape as an RSM may keep."""
        for tile in list(kept.values()):
            if tile.device.type == "cpu":
                most = KEPT_BYTES // max(1, tile.numel() * tile.itemsize)
                key = tile.shape, tile.dtype, tile.device
                self._free.setdefault(key, deque(maxlen=most)).append(tile)


SPARE = _Spare()
_HERE = local()


def scratch(like: Tensor, size: int, name: object) -> Tensor:
    """Memory for so many numbers that this thread has under this name, again and again."""
    if like.device.type != "cpu":
        return like.new_empty(size)
    memory: dict[tuple[object, ...], Tensor] = _HERE.__dict__.setdefault("memory", {})
    key = (name, size, like.dtype, like.device)
    if key not in memory:
        if len(memory) >= MOST_SCRATCH:  # of sizes gone by
            memory.clear()
        memory[key] = like.new_empty(size)
    return memory[key]


# Rows of a tile. On a CPU the working set of a tile stays near the core's cache; on a GPU a few
# hundred MB keep it busy.
TILE_SIZE = {"cpu": 256}
TILE_SIZE_OF_THREADS = 512  # which wait for each other between operations: fewer, larger ones
LARGE_TILE_SIZE = 4096


class Tile(NamedTuple):
    """Rows and columns of a tile; only those at or above the diagonal are visited."""

    rows: slice
    columns: slice
    row_block: int
    column_block: int

    @property
    def on_diagonal(self) -> bool:
        """Whether the diagonal runs through it."""
        return self.row_block == self.column_block

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and columns."""
        return self.rows.stop - self.rows.start, self.columns.stop - self.columns.start


def upper_tiles(n: int, size: int) -> list[Tile]:
    """Tiles at and above the diagonal of an n x n matrix."""
    blocks = [slice(start, min(start + size, n)) for start in range(0, n, size)]
    places = range(len(blocks))
    return [Tile(blocks[i], blocks[j], i, j) for i in places for j in places[i:]]


def tile_size(device: torch.device) -> int:
    """Size of tiles that suits a device."""
    if device.type == "cpu" and torch.get_num_threads() > 1:
        return max(TILE_SIZE["cpu"], TILE_SIZE_OF_THREADS)
    return TILE_SIZE.get(device.type, LARGE_TILE_SIZE)


class Source(Protocol):
    """What tiles are made from; gradients arrive at ``tensor``."""

    tensor: Tensor
    self_similarity: float | None

    def compute(self, rows: slice, columns: slice, out: Tensor) -> Tensor:
        """Similarities of a tile, in ``out`` where that spares memory."""
        ...

    def of_pairs(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Similarities of listed pairs of stimuli, with gradient to ``tensor``."""
        ...

    def backward(self, tile: Tile, by_tile: Tensor, by_tensor: Tensor) -> None:
        """Add the gradient of a tile to that of ``tensor``."""
        ...


class GramSource:
    """Inner products of rows: correlation, cosine and dot, once the rows are prepared."""

    def __init__(self, rows: Tensor, self_similarity: float | None):
        self.tensor = rows
        self.self_similarity = self_similarity
        self._short = short_type(rows)  # here: other threads do not know of autocast

    def compute(self, rows: slice, columns: slice, out: Tensor) -> Tensor:
        """Multiply in the type of autocast, if that is on, and give the type of the features."""
        left, right = self.tensor[rows], self.tensor[columns]
        if self._short is None:
            return torch.mm(left, right.mT, out=out)
        return out.copy_(product(left, right.mT, self._short))

    def of_pairs(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Multiply pair by pair."""
        return (self.tensor[rows] * self.tensor[columns]).sum(-1)

    def backward(self, tile: Tile, by_tile: Tensor, by_tensor: Tensor) -> None:
        """Add to the gradient of the rows on either side."""
        by_tensor[tile.rows].addmm_(by_tile, self.tensor[tile.columns])
        by_tensor[tile.columns].addmm_(by_tile.mT, self.tensor[tile.rows])


class PairSource:
    """Any other similarity of features, computed and differentiated tile by tile."""

    def __init__(self, features: Tensor, similarity: str, bandwidth: float | None):
        self.tensor = features
        self.self_similarity: float | None = 1.0 if similarity == "rbf" else 0.0
        self._options = {"similarity": similarity, "bandwidth": bandwidth}

    def compute(self, rows: slice, columns: slice, out: Tensor) -> Tensor:
        """Compute as `similarity_matrix` does between two sets of stimuli."""
        del out
        return similarity_matrix(
            self.tensor[rows].detach(), self.tensor[columns].detach(), **self._options
        )

    def of_pairs(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Compute every pair as a matrix of its own."""
        x, y = self.tensor[rows].unsqueeze(-2), self.tensor[columns].unsqueeze(-2)
        return similarity_matrix(x, y, **self._options)[:, 0, 0]

    def backward(self, tile: Tile, by_tile: Tensor, by_tensor: Tensor) -> None:
        """Let autograd differentiate this tile."""
        places = tile.rows, tile.columns
        parts = [self.tensor[place].detach().requires_grad_() for place in places]
        with torch.enable_grad():
            found = similarity_matrix(*parts, **self._options)
        gradients = torch.autograd.grad(found, parts, by_tile)
        for place, gradient in zip(places, gradients, strict=True):
            by_tensor[place] += gradient


class TiledRSM:
    """An n x n RSM, perhaps ``bounded`` by -1 and 1, of which only some tiles are held.

    Tiles are kept, instead of computed again at every visit, as far as they fit into
    ``kept_bytes``.
    """

    def __init__(self, source: Source, *, bounded: bool = False, kept_bytes: int | None = None):
        self.source = source
        self.bounded = bounded
        self.n = len(source.tensor)
        self._room = KEPT_BYTES if kept_bytes is None else kept_bytes
        self._kept: dict[tuple[int, ...], Tensor] = {}
        finalize(self, SPARE.give, self._kept)

    @property
    def dtype(self) -> torch.dtype:
        """Number type of the similarities."""
        return self.source.tensor.dtype

    @property
    def device(self) -> torch.device:
        """Where they are computed."""
        return self.source.tensor.device

    @property
    def needs_gradient(self) -> bool:
        """Whether the features require one."""
        return torch.is_grad_enabled() and self.source.tensor.requires_grad

    def read(self, tile: Tile, out: Tensor) -> Tensor:
        """Similarities of a tile, not to be written to; on the diagonal symmetric, 0 on it."""
        key = (tile.rows.start, tile.rows.stop, tile.columns.start, tile.columns.stop)
        found = self._kept.get(key)
        if found is not None:
            return found
        size = out.numel() * out.itemsize
        keep = self._room >= size
        if keep:
            self._room -= size
            out = SPARE.take(out)
        found = self.source.compute(tile.rows, tile.columns, out)
        if tile.on_diagonal:  # a product of a matrix with itself differs from its mirror image
            above = found.triu(1)
            torch.add(above, above.mT, out=found)
        if keep:
            self._kept[key] = found
        return found


T = TypeVar("T")


def share_tiles(
    work: Callable[[list[Tile]], T],
    n: int,
    size: int,
    device: torch.device,
    ranks: Ranks,
) -> list[T]:
    """Let every core of this rank work on its part of this rank's part of all tiles.

    Tiles are dealt out one by one, so that all have as much to do. It runs without gradient.
    """
    tiles = upper_tiles(n, size)[ranks.rank :: ranks.size]
    cores = torch.get_num_threads() if device.type == "cpu" else 1

    def run(part: list[Tile]) -> T:
        with torch.no_grad():  # which is a thread's own setting
            return work(part)

    parts = [tiles[k::cores] for k in range(max(1, min(cores, len(tiles))))]
    return map_on_cores(run, parts, entries=0, device=device)


def tiled_features(
    x: Tensor,
    similarity: str = "correlation",
    bandwidth: float | None = None,
    kept_bytes: int | None = None,
) -> TiledRSM:
    """Lay out the RSM of features (n, p), which may require a gradient."""
    if similarity not in ("correlation", "cosine", "dot"):
        return TiledRSM(PairSource(x, similarity, bandwidth), kept_bytes=kept_bytes)
    plan = RULES[similarity](x, x, [ALL], None)
    rows = plan.left(ALL, ALL)
    if similarity == "dot":
        rows = rows / x.shape[-1] ** 0.5
    bounded = similarity != "dot"
    source = GramSource(rows, plan.self_similarity)
    return TiledRSM(source, bounded=bounded, kept_bytes=kept_bytes)
