"""Memory used again: the system takes longer to hand it out than a core to fill it."""

from __future__ import annotations

from collections import deque
from threading import local

import torch
from torch import Tensor

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
