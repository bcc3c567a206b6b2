"""Independent pieces of work side by side, one core each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")
LARGE = 1_000_000  # entries of a tensor from which several threads on it pay


def map_on_cores(
    function: Callable[[T], R], items: Sequence[T], *, entries: int, device: torch.device
) -> list[R]:
    """Apply ``function`` to all items, whose tensors have about so many ``entries``.

    Two threads on one small tensor hinder each other (several times slower here, and far more on a
    busy machine), so on a CPU small items get a core each; torch's number of threads is restored.
    """
    if device.type != "cpu" or not items:
        return [function(item) for item in items]
    cores = torch.get_num_threads()
    workers = min(cores, len(items))
    each = cores // workers if entries > LARGE else 1
    try:
        with ThreadPoolExecutor(workers, initializer=_prepare, initargs=(each,)) as pool:
            return list(pool.map(function, items))
    finally:
        torch.set_num_threads(cores)


def _prepare(threads: int) -> None:
    """Set up a worker thread; both settings are its own."""
    torch.set_num_threads(threads)
    # products of steps beyond the bounds underflow, and subnormal numbers take three times as long
    torch.set_flush_denormal(True)
