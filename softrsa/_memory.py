"""Memory: what can be had, what was freed, and amounts in words."""

from __future__ import annotations

import ctypes
import functools
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from softrsa.errors import MemoryLimitError

CGROUP = Path("/sys/fs/cgroup")
PROCESS_GROUPS = Path("/proc/self/cgroup")
FILES_OF_GROUPS = {  # limit, use, and the part of it that is file caches; of version 2, then 1
    "": ("memory.max", "memory.current", "inactive_file"),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # as glibc's malloc.h has them
LARGEST_KEPT = 2**25  # bytes; the most that glibc allows


@functools.cache
def _of_c(name: str) -> Callable[..., int] | None:
    """Find a function of the C library: glibc has these, others need them less."""
    try:
        return getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):
        return None


def keep_freed() -> None:
    """Let freed pieces of less than 32 MB stay with this process, for what comes next.

    The C library starts by giving back each piece of more than 128 kB, and fetches it anew page by
    page: half of the time of arithmetic on RSMs of 100 stimuli. It would learn from what is freed,
    but not in a worker of dask, which sets a threshold of its own.

    Examples
    --------
    >>> keep_freed()
    """
    tune = _of_c("mallopt")
    if tune is not None:
        tune(M_MMAP_THRESHOLD, LARGEST_KEPT)
        tune(M_TRIM_THRESHOLD, 2 * LARGEST_KEPT)


def give_back_freed() -> None:
    """Give freed memory back to the system.

    The C library keeps freed pieces of less than 32 MB for later, gigabytes of them where matrices
    of many stimuli come and go.

    Examples
    --------
    >>> give_back_freed()
    """
    trim = _of_c("malloc_trim")
    if trim is not None:
        trim(0)


def available_memory(device: torch.device | None = None) -> float | None:
    """Bytes that can still be had on a device, under the limits of this process; None if unknown.

    Examples
    --------
    >>> found = available_memory()
    >>> found is None or found > 0
    True
    """
    if device is not None and device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    known = [bytes_ for bytes_ in (_of_system(), _of_cgroup()) if bytes_ is not None]
    return min(known, default=None)


def _of_system() -> float | None:
    """Read what can be had without swapping; off Linux, take a half of what there is."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        try:
            return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2
        except (AttributeError, ValueError, OSError):  # Windows
            return None
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return 1024.0 * int(found[0]) if found else None


def _of_cgroup() -> float | None:
    """Read the least that limits of a container or a batch job leave beside file caches."""
    left = [
        bytes_ for folder, names in _groups() if (bytes_ := _left_in(folder, *names)) is not None
    ]
    return min(left, default=None)


def _groups() -> Iterator[tuple[Path, tuple[str, str, str]]]:
    """Give the groups of this process, its own to the outermost, and the names of their files."""
    try:
        lines = PROCESS_GROUPS.read_text().splitlines()
    except OSError:
        lines = []
    own = {kinds: path for _, kinds, path in (line.split(":", 2) for line in lines)}
    for kinds, names in FILES_OF_GROUPS.items():
        top = CGROUP / kinds
        inner = top / own.get(kinds, "/").lstrip("/")
        for folder in (inner, *inner.parents):
            if folder == top or top in folder.parents:
                yield folder, names


def _left_in(folder: Path, limit: str, used: str, cache: str) -> float | None:
    try:
        most, now = (int((folder / name).read_text()) for name in (limit, used))
        stat = (folder / "memory.stat").read_text().split()
    except (OSError, ValueError):  # no such file; "max"
        return None
    cached = int(stat[stat.index(cache) + 1]) if cache in stat else 0
    return float(max(0, most - now + cached))


LARGEST_RATIO, OF_BYTES = 2000, 2**30  # of what is unpacked to what is on disk, where it matters


@dataclass
class _Limit:
    """What may be read, and what of it was."""

    most: float
    taken: float = 0.0


_LIMIT: ContextVar[_Limit | None] = ContextVar("limit", default=None)


@contextmanager
def reading_at_most(limit: float | None) -> Iterator[None]:
    """Set how many bytes may be read in all, by default as much as can be had at each time.

    Examples
    --------
    >>> with reading_at_most(1e9):
    ...     check_room("rdm.npy", 2e9)
    Traceback (most recent call last):
    softrsa.errors.MemoryLimitError: rdm.npy takes 2.0 GB of memory, and the limit is 1.0 GB...
    """
    before = _LIMIT.set(None if limit is None else _Limit(limit))
    try:
        yield
    finally:
        _LIMIT.reset(before)


def check_room(what: str, bytes_: float, on_disk: float | None = None) -> None:
    """Refuse to read what would not fit into memory, before memory is taken.

    What takes a lot where there is next to nothing on disk is refused too: its header is damaged.

    Examples
    --------
    >>> check_room("rdm.npy", 6e13)
    Traceback (most recent call last):
    softrsa.errors.MemoryLimitError: rdm.npy takes 60000.0 GB of memory, and there are ...
    """
    limit = _LIMIT.get()
    if limit is not None:
        limit.taken += bytes_
        most, said, bytes_ = limit.most, "the limit is {}", limit.taken
    else:
        most, said = available_memory(), "there are {} left"
        if on_disk is not None and bytes_ > max(OF_BYTES, LARGEST_RATIO * on_disk):
            most, said = on_disk, "only {} of it are on disk"
    if most is not None and bytes_ > most:
        raise MemoryLimitError(
            f"{what} takes {gigabytes(bytes_)} of memory, and {said.format(gigabytes(most))}. If "
            "that is right, allow for more with `limit=` in bytes (`--limit` in GB), read it on a "
            "larger machine, or in parts: netCDF and zarr with `chunks`. Else its header is "
            "damaged."
        )


def check_dataset(what: str, node: Any) -> None:
    """Refuse an array of HDF5 that promises too much, itself or by its chunks.

    Examples
    --------
    >>> import h5py
    >>> with h5py.File("rdm.h5", "w", driver="core", backing_store=False) as file:
    ...     node = file.create_dataset("rdm", (4000000, 4000000), "f4", chunks=(1, 100))
    ...     check_dataset("rdm in rdm.h5", node)
    Traceback (most recent call last):
    softrsa.errors.MemoryLimitError: rdm in rdm.h5, of shape (4000000, 4000000), takes 64000.0 GB...
    """
    if node.shape is None:
        return
    chunk = math.prod(node.chunks or ()) * node.dtype.itemsize
    whole = math.prod(node.shape) * node.dtype.itemsize
    stored = None if node.is_virtual or node.external else node.id.get_storage_size()
    check_room(f"{what}, of shape {node.shape},", max(whole, chunk), stored)


def gigabytes(bytes_: float) -> str:
    """Word an amount of memory.

    Examples
    --------
    >>> gigabytes(1.24e9), gigabytes(3.2e7)
    ('1.2 GB', '0.03 GB')
    """
    return f"{bytes_ / 1e9:.1f} GB" if bytes_ >= 1e8 else f"{bytes_ / 1e9:.2f} GB"
