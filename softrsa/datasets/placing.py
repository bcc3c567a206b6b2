"""Data that softrsa may not download: where the user puts them, and what to say if they are not."""

from __future__ import annotations

import os
from pathlib import Path

from softrsa.datasets.cards import Card, catalogue
from softrsa.errors import FileMissingError
from softrsa.io import cache_folder

__all__ = ["find_placed"]


def find_placed(about: Card, folder: str | Path | None = None) -> Path:
    """Find the folder with the files of a card that are put there by hand, and check that they are.

    Parameters
    ----------
    about : Card
        From `card`.
    folder : str or Path, optional
        Where the files lie; by default the folder of the data set's name where the environment
        variable ``SOFTRSA_DATA`` says, or, where that is unset, in ``shared/data`` beside a
        checkout or in the cache.

    Returns
    -------
    Path
        The folder, absolute.

    Raises
    ------
    FileMissingError
        If a file is not there; the message says what is missing, where to get it, on what terms,
        and where to put it.

    Examples
    --------
    >>> from softrsa.datasets import card
    >>> find_placed(card("rsna"), "nowhere")
    Traceback (most recent call last):
        ...
    softrsa.errors.FileMissingError: The data set 'rsna' has to be put in place by hand. ...
    """
    place = (
        Path(folder).expanduser() if folder is not None else placed_folder(about.name)
    ).absolute()
    missing = [file for file in about.placed if not any(place.glob(file.path))]
    if missing:
        named = "; ".join(f"{place / file.path} ({file.what})" for file in missing)
        raise FileMissingError(
            f"The data set {about.name!r} has to be put in place by hand. Missing: {named}. "
            f"Source: {about.source}. How: {about.access} Licence: {about.licence}"
        )
    return place


def local_folder() -> Path | None:
    """Find the folder where data may already lie."""
    named = os.environ.get("SOFTRSA_DATA")
    if named:
        folder = Path(named).expanduser()
        if not folder.is_dir():
            raise FileMissingError(
                f"The environment variable SOFTRSA_DATA names {folder}, which is no folder. "
                "Correct it, or unset it to download what is needed."
            )
        return folder
    beside = catalogue().parents[1] / "shared" / "data"
    return beside if catalogue().name == "datasets" and beside.is_dir() else None


def placed_folder(name: str) -> Path:
    """Find the folder where the files of a data set are put by hand."""
    return (local_folder() or cache_folder() / "datasets") / name
