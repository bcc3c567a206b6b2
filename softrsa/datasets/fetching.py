"""Files of a data set: found in a local folder, or downloaded once into the cache."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from softrsa.datasets.cards import DataFile, card, catalogue
from softrsa.datasets.placing import find_placed, local_folder
from softrsa.errors import DataError, FileMissingError
from softrsa.io import cache_folder

__all__ = ["fetch"]

TIMEOUT = 30  # seconds without an answer from the server


def fetch(name: str, *, progress: bool = True) -> dict[str, Path]:
    """Find or download the files of a data set, and check that they are the right ones.

    Files are looked for in the folder the environment variable ``SOFTRSA_DATA`` names, or, where
    that is unset and softrsa runs from a checkout, in ``shared/data`` beside the checkout. Those
    not found there are downloaded into the cache (``SOFTRSA_CACHE``, or the system's). Data that
    softrsa may not download are put by hand into a folder of the data set's name, in that place.

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
    return {file.name: _find(name, file, progress) for file in about.files}


def _find(name: str, file: DataFile, progress: bool) -> Path:
    """Find one file: beside its card, in the local folder, or downloaded."""
    if not file.url:
        return _verified(catalogue() / name / file.path, file)
    local = local_folder()
    if local is not None and (local / file.path).is_file():
        return _verified(local / file.path, file)
    return _download(file, progress)


def _verified(path: Path, file: DataFile) -> Path:
    """Check that a file is there and is the one the card means."""
    if not path.is_file():
        raise FileMissingError(
            f"There is no file {path}, which comes with softrsa; reinstall softrsa."
        )
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != file.sha256:
        raise DataError(
            f"{path} is not the file of the card: expected sha256 {file.sha256}, found {found}. "
            "Delete it, so that it is downloaded again, or put the right file in its place."
        )
    return path


def _download(file: DataFile, progress: bool) -> Path:
    """Download a file into the cache, unless it is there already."""
    import pooch

    target = cache_folder() / "datasets" / file.path
    downloader: Any = pooch.HTTPDownloader(progressbar=progress, timeout=TIMEOUT)
    try:
        with _quiet(pooch.get_logger()):
            pooch.retrieve(
                file.url,
                known_hash=f"sha256:{file.sha256}",
                fname=target.name,
                path=target.parent,
                downloader=downloader,
            )
    except OSError as error:  # those of `requests` are OSErrors too
        response = getattr(error, "response", None)  # there is one if the server said no
        if response is not None:
            response.close()
        reason = type(error).__name__ if response is None else error
        raise FileMissingError(
            f"{file.name} is not here and cannot be downloaded from {file.url} ({reason}). Connect "
            f"to the network, or put the file at {target} by hand."
        ) from error
    except ValueError as error:
        raise DataError(
            f"What {file.url} holds is not the file of the card (sha256 {file.sha256}). If you "
            f"have the right file, put it at {target}."
        ) from error
    return target


@contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    """Keep a logger to warnings for a while."""
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
