"""How many threads torch works with on small tensors."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TypeVar

import torch

from softrsa._memory import keep_freed


@contextmanager
def one_thread_if(small: bool, device: torch.device) -> Iterator[None]:
    """Use one thread on a CPU where several would wait for each other more than they work."""
    before = torch.get_num_threads()
    try:
        if small and device.type == "cpu":
            torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(before)


T = TypeVar("T")
R = TypeVar("R")
LARGE = 1_000_000  # entries of a tensor from which several threads on it pay
_HERE = threading.local()  # .works: a worker thread; .pools: those of any other thread


def map_on_cores(
    function: Callable[[T], R], items: Sequence[T], *, entries: int, device: torch.device
) -> list[R]:
    """Apply ``function`` to all items, whose tensors have about so many ``entries``.

    Two threads on one small tensor hinder each other (several times slower here, and far more on a
    busy machine), so on a CPU small items get a core each. Within such a piece of work, items
    follow one another.
    """
    if device.type != "cpu" or not items or hasattr(_HERE, "works"):
        return [function(item) for item in items]
    cores = torch.get_num_threads()
    workers = min(cores, len(items))
    each = cores // workers if entries > LARGE else 1

    def work(item: T) -> R:
        torch.set_num_threads(each)
        return function(item)

    pieces = [_pool(workers).submit(work, item) for item in items]
    try:
        return [piece.result() for piece in pieces]
    finally:
        for piece in pieces:  # after a failure nothing goes on unseen
            piece.cancel()
        wait(pieces)
        torch.set_num_threads(cores)  # what a worker sets, new threads start with


def _pool(workers: int) -> ThreadPoolExecutor:
    """Threads that stay: new ones would fetch new memory from the system every time.

    Every thread that has work done has its own, so that none waits for the work of another.
    """
    pools: dict[int, ThreadPoolExecutor] = _HERE.__dict__.setdefault("pools", {})
    if workers not in pools:
        pools[workers] = ThreadPoolExecutor(workers, "softrsa", initializer=_prepare)
    return pools[workers]


def _prepare() -> None:
    """Set up a worker thread; the setting is its own."""
    _HERE.works = True
    keep_freed()
    # products of steps beyond the bounds underflow, and subnormal numbers take three times as long
    torch.set_flush_denormal(True)


def _forget() -> None:
    """Forget the threads of the process this one was forked from: none of them is here.

    Nor are those of OpenMP, which would be waited for without end; torch's data loaders do as here.
    """
    if _HERE.__dict__:
        torch.set_num_threads(1)
    _HERE.__dict__.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
