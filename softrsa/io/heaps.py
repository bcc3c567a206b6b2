"""HDF5's heaps of texts, walked through before its library does: damaged, it may never return."""

from __future__ import annotations

import mmap
from pathlib import Path

START = b"GCOL\x01\0\0\0"  # of a collection, version 1
HEADER = 16  # bytes of a collection's and of an object's header
LIMIT = 256 * 2**20  # bytes; larger files are not looked through


def heap_damaged(path: Path) -> bool:
    """Tell whether a global heap of an HDF5 file has objects that do not fill it in order."""
    if not 0 < path.stat().st_size <= LIMIT:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        at = content.find(START)
        while at >= 0:
            size = _number(content, at + 8)
            if size <= len(content) - at and not _filled(content[at : at + size]):
                return True
            at = content.find(START, at + 1)
    return False


def _filled(heap: bytes) -> bool:
    """Walk through a collection; what is free, object 0, is its rest."""
    at = HEADER
    while len(heap) - at >= HEADER:
        index, size = _number(heap, at, 2), _number(heap, at + 8)
        if index == 0:
            return size == len(heap) - at
        at += HEADER + -(-size // 8) * 8
    return at <= len(heap)


def _number(content: bytes | mmap.mmap, at: int, n_bytes: int = 8) -> int:
    return int.from_bytes(content[at : at + n_bytes], "little")
