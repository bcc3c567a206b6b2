"""Downloads that go on where they stopped, and never leave a half or wrong file behind."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from requests import Response

__all__ = ["CutShortError", "Resuming", "locked"]

TIMEOUT = 30  # seconds without an answer from the server
TRIES = 3  # in a row without a single new byte
PAUSE = 0.2  # seconds before the first further try
CHUNK = 2**14  # bytes; what came of a chunk that was cut is lost
PARTIAL_CONTENT, RANGE_NOT_SATISFIABLE = 206, 416


class CutShortError(OSError):
    """The connection broke again and again before the file was complete."""


class Resuming:
    """A downloader for `pooch.retrieve` that goes on with what an earlier one left.

    What has arrived lies in ``part``; a complete file is handed over to pooch, which checks its
    sha256 before it gets its name.
    """

    def __init__(self, part: Path, *, progress: bool) -> None:
        self.part = part
        self.progress = progress
        self.resumed = False

    def __call__(self, url: str, output_file: Any, _pooch: Any) -> None:
        """Download ``url`` to ``output_file``."""
        from tqdm import tqdm

        self.resumed = self._size() > 0
        with tqdm(
            desc=Path(str(self.part)).name.removeprefix(".").removesuffix(".part"),
            unit="B", unit_scale=True, disable=not self.progress, leave=True,
        ) as bar:  # fmt: skip
            self._until_complete(url, bar)
        os.replace(self.part, output_file)

    def _until_complete(self, url: str, bar: Any) -> None:
        """Try again as long as anything arrives."""
        from requests import ConnectionError as Broken
        from requests import Timeout
        from requests.exceptions import ChunkedEncodingError

        tries = 0
        while True:
            before = self._size()
            try:
                if self._continue(url, bar):
                    return
                reason: Exception = CutShortError("connection cut short")
            except (Broken, Timeout, ChunkedEncodingError) as error:
                reason = error
            tries = 0 if self._size() > before else tries + 1
            if tries == TRIES or (self._size() == 0 and isinstance(reason, Broken)):
                raise reason
            time.sleep(PAUSE * (tries + 1))

    def _continue(self, url: str, bar: Any) -> bool:
        """Ask for what is missing, take what comes, and tell whether that was all."""
        import requests

        start = self._size()
        headers = {"Accept-Encoding": "identity"}  # bytes as they are, so that they can be counted
        if start:
            headers["Range"] = f"bytes={start}-"
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
            if start and response.status_code == RANGE_NOT_SATISFIABLE:
                complete = _total(response) == start
                if not complete:
                    self.part.unlink()  # longer than the file: it was another one
                return complete
            response.raise_for_status()
            first = _first(response) if response.status_code == PARTIAL_CONTENT else 0
            if first not in (start, 0):
                self.part.unlink(missing_ok=True)
                return False
            total = _total(response)
            bar.total = total
            bar.n = first
            with self.part.open("ab" if first else "wb") as file:
                for chunk in response.iter_content(CHUNK):
                    file.write(chunk)
                    bar.update(len(chunk))
        return total is None or self._size() >= total

    def _size(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0


def _first(response: Response) -> int:
    """Read at which byte a partial answer starts."""
    found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(found[1]) if found else -1


def _total(response: Response) -> int | None:
    """Read how long the whole file is, where the server says."""
    found = re.search(r"/(\d+)$", response.headers.get("Content-Range", ""))
    if found:
        return int(found[1])
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdecimal() and response.status_code != PARTIAL_CONTENT else None


@contextmanager
def locked(target: Path) -> Iterator[None]:
    """Let one process or thread at a time download a file; the others wait for it.

    Where the system or the disk has no such locks, all of them download; each file is still
    written whole, checked and then named.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with target.with_name(f".{target.name}.lock").open("a") as file:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
