"""Memory: what can be had, what was freed, and amounts in words."""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable
from pathlib import Path

import torch

CGROUP = Path("/sys/fs/cgroup")


@functools.cache
def _trim() -> Callable[[int], int] | None:
    """Find what gives freed pieces back: glibc has it, other C libraries need it less."""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None


def keep_freed() -> None:
    """Let freed pieces of less than 32 MB stay with this process, for what comes next.

    The C library starts by giving back each piece of more than 128 kB, and fetches it anew page by
    page: half of the time of arithmetic on RSMs of 100 stimuli. It learns from what is freed.

    Examples
    --------
    >>> keep_freed()
    """
    torch.empty(2**25 - 2**16, dtype=torch.uint8)  # made and freed, never touched


def give_back_freed() -> None:
    """Give freed memory back to the system.

    The C library keeps freed pieces of less than 32 MB for later, gigabytes of them where matrices
    of many stimuli come and go.

    Examples
    --------
    >>> give_back_freed()
    """
    trim = _trim()
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
    """Read what the limit of a container leaves beside file caches; version 2, then 1."""
    for limit, used, cache in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            most, now = (int((CGROUP / name).read_text()) for name in (limit, used))
            stat = (CGROUP / limit).with_name("memory.stat").read_text().split()
        except (OSError, ValueError):  # no such file; "max"
            continue
        cached = int(stat[stat.index(cache) + 1]) if cache in stat else 0
        return float(max(0, most - now + cached))
    return None


def gigabytes(bytes_: float) -> str:
    """Word an amount of memory.

    Examples
    --------
    >>> gigabytes(1.24e9), gigabytes(3.2e7)
    ('1.2 GB', '0.03 GB')
    """
    return f"{bytes_ / 1e9:.1f} GB" if bytes_ >= 1e8 else f"{bytes_ / 1e9:.2f} GB"
