"""Files of a data set: found in a local folder, or downloaded once into the cache."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from softrsa._files import atomic_path, cache_folder, locked
from softrsa.datasets.cards import ADDED, Card, DataFile, card, find_placed, folder_of, local_folder
from softrsa.errors import DataError, FileMissingError

if TYPE_CHECKING:
    from requests import Response

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

        Path(output_file).unlink(missing_ok=True)  # empty: nothing but the part is left by a kill
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


MIRROR = "SOFTRSA_MIRROR"


def fetch(name: str, *, progress: bool = True) -> dict[str, Path]:
    """Find or download the files of a data set, and check that they are the right ones.

    Files are looked for in the folder the environment variable ``SOFTRSA_DATA`` names, or, where
    that is unset and softrsa runs from a checkout, in ``shared/data`` beside the checkout. Those
    not found there are downloaded into the cache (``SOFTRSA_CACHE``, or the system's): from the
    mirror that ``SOFTRSA_MIRROR`` names, if any, and else from their own source. A mirror is a
    folder, or an address that starts with http, with the files at the paths of the cards. A
    download that was stopped goes on where it was, a file has its name only once its sha256 is
    right, and of several processes that want a file one downloads it. Data that softrsa may not
    download are put by hand into a folder of the data set's name, in that place.

    Parameters
    ----------
    name : str
        One of `available()`.
    progress : bool
        Whether to show a progress bar while downloading.

    Returns
    -------
    dict of str to Path
        The files by name; those put there by hand by their path on the card.

    Raises
    ------
    UnknownNameError
        If there is no such data set.
    FileMissingError
        If a file is nowhere to be found and cannot be downloaded, or ``SOFTRSA_DATA`` is no folder.
    DataError
        If a file's sha256 is not that of the card.

    Examples
    --------
    >>> sorted(fetch("macaque-v4"))
    ['images_201025.zip', 'responses_avg_201025.npy']
    """
    about = card(name)
    if about.placed:
        folder = find_placed(about)
        return {file.path: folder / file.path for file in about.placed}
    return {file.name: _find(about, file, progress) for file in about.files}


def locate(about: Card, file: DataFile) -> Path | None:
    """Find a file where it may lie: beside its card, in the local folder, in the cache."""
    if comes_with_softrsa(about, file):
        places = [folder_of(about.name) / file.path]
    else:
        local = local_folder()
        places = [local / file.path] if local else []
        places.append(cache_folder() / "datasets" / file.path)
    return next((path for path in places if path.is_file()), None)


def comes_with_softrsa(about: Card, file: DataFile) -> bool:
    """Tell files that lie beside their card."""
    return not file.url and not about.access


def _find(about: Card, file: DataFile, progress: bool) -> Path:
    """Find one file: beside its card, in the local folder, or downloaded."""
    if comes_with_softrsa(about, file):
        return _verified(about, folder_of(about.name) / file.path, file)
    local = local_folder()
    if local is not None and (local / file.path).is_file():
        return _verified(about, local / file.path, file)
    return _download(about, file, progress)


def _verified(about: Card, path: Path, file: DataFile) -> Path:
    """Check that a file is there and is the one the card means."""
    if not path.is_file():
        added = about.name in ADDED
        why = "belongs beside its card" if added else "comes with softrsa; reinstall softrsa"
        raise FileMissingError(f"There is no file {path}, which {why}.")
    found = sha256(path)
    if found != file.sha256:
        raise DataError(
            f"{path} is not the file of the card: expected sha256 {file.sha256}, found {found}. "
            "Delete it, so that it is downloaded again, or put the right file in its place."
        )
    return path


def sha256(path: Path) -> str:
    """Compute a file's checksum."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _download(about: Card, file: DataFile, progress: bool) -> Path:
    """Get a file into the cache, unless it is there already: from the mirror, or its source."""
    target = cache_folder() / "datasets" / file.path
    if _is_right(target, file):  # also where the cache cannot be written to
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with locked(target):
        if _is_right(target, file):  # another process has just brought it
            return target
        problems: list[FileMissingError | DataError] = []
        for source in _sources(file):
            try:
                if isinstance(source, Path):
                    _copy(source, target, file)
                else:
                    _retrieve(source, target, file, progress)
            except (FileMissingError, DataError) as error:
                problems.append(error)
            else:
                return target
    if not file.url:
        problems.append(
            FileMissingError(
                f"{target} has to be put in place by hand. Source: {about.source}. How: "
                f"{about.access} Licence: {about.licence}"
            )
        )
    if len(problems) == 1:
        raise problems[0]
    kind = DataError if all(isinstance(p, DataError) for p in problems) else FileMissingError
    raise kind(" ".join(map(str, problems))) from problems[-1]


def _is_right(path: Path, file: DataFile) -> bool:
    return path.is_file() and sha256(path) == file.sha256


def _sources(file: DataFile) -> Iterator[Path | str]:
    """List where to look for a file: the mirror, where one is named, then its own source."""
    mirror = os.environ.get(MIRROR)
    if mirror and re.match(r"https?://", mirror):
        yield f"{mirror.rstrip('/')}/{file.path}"
    elif mirror:
        folder = Path(mirror).expanduser()
        if not folder.is_dir():
            raise FileMissingError(
                f"The environment variable {MIRROR} is {mirror!r}, which is neither a folder nor "
                "an address that starts with http:// or https://. Correct it, or unset it."
            )
        yield folder / file.path
    if file.url:
        yield file.url


def _copy(source: Path, target: Path, file: DataFile) -> None:
    """Copy a file from a mirror, if it is the right one."""
    if not source.is_file():
        raise FileMissingError(f"The mirror has no file {source}.")
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)
        found = sha256(temporary)
        if found != file.sha256:
            raise DataError(
                f"{source} in the mirror is not the file of the card: expected sha256 "
                f"{file.sha256}, found {found}. Copy it there again."
            )


def _retrieve(url: str, target: Path, file: DataFile, progress: bool) -> None:
    """Download a file; what an earlier download left is thrown away if it turns out wrong."""
    part = target.with_name(f".{target.name}.{file.sha256[:8]}.part")
    downloader = Resuming(part, progress=progress)
    try:
        _retrieve_once(url, target, file, downloader)
    except ValueError as error:
        if downloader.resumed:  # perhaps the old part was of another file
            _retrieve(url, target, file, progress)
            return
        raise DataError(
            f"What {url} holds is not the file of the card (sha256 {file.sha256}). If you "
            f"have the right file, put it at {target}."
        ) from error
    except OSError as error:  # those of `requests` are OSErrors too
        response = getattr(error, "response", None)  # there is one if the server said no
        if response is not None:
            response.close()
        reason = type(error).__name__ if response is None else error
        size = part.stat().st_size if part.exists() else 0
        kept = f" {size} bytes are kept, to go on from." if size else ""
        raise FileMissingError(
            f"{file.name} is not here and cannot be downloaded from {url} ({reason}). Connect "
            f"to the network, or put the file at {target} by hand.{kept}"
        ) from error


def _retrieve_once(url: str, target: Path, file: DataFile, downloader: Resuming) -> None:
    """Let pooch download, check and name the file."""
    import pooch

    with _quiet(pooch.get_logger()):
        pooch.retrieve(
            url,
            known_hash=f"sha256:{file.sha256}",
            fname=target.name,
            path=target.parent,
            downloader=cast(Any, downloader),  # pooch calls it with three arguments
        )


@contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    """Keep a logger to warnings for a while."""
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
