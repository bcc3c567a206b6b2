"""What of a data set is here, and whether it is the right thing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from softrsa.datasets.cards import Card, available, card, placed_folder
from softrsa.datasets.fetching import locate, sha256

Status = Literal["ok", "missing", "corrupt", "unchecked"]


@dataclass(frozen=True)
class FileCheck:
    """What was found of one file.

    Attributes
    ----------
    dataset, file : str
        The data set, and the file's path on its card.
    status : {"ok", "missing", "corrupt", "unchecked"}
        Whether its sha256 is right; unchecked where it is here, but no sha256 is known.
    path : Path or None
        Where it lies.
    """

    dataset: str
    file: str
    status: Status
    path: Path | None


def verify(name: str | None = None) -> list[FileCheck]:
    """Check the files of a data set, or of all, that are here; nothing is downloaded.

    Parameters
    ----------
    name : str, optional
        One of `available()`; by default all of them.

    Returns
    -------
    list of FileCheck
        One per file of the cards.

    Raises
    ------
    UnknownNameError
        If there is no such data set.
    FileMissingError
        If ``SOFTRSA_DATA`` names no folder.

    Examples
    --------
    >>> {check.status for check in verify("simulated")}
    {'ok'}
    """
    names = available() if name is None else [name]
    return [check for each in names for check in _checks(card(each))]


def presence(about: Card) -> Literal["here", "partly", "not here"]:
    """Tell whether the files of a card are here, without reading them.

    Parameters
    ----------
    about : Card
        From `card`.

    Returns
    -------
    {"here", "partly", "not here"}
        All of them, some, or none.

    Examples
    --------
    >>> presence(card("simulated"))
    'here'
    """
    found = [locate(about, file) is not None for file in about.files]
    folder = placed_folder(about.name)
    found += [any(folder.glob(file.path)) for file in about.placed]
    return "here" if all(found) else "partly" if any(found) else "not here"


def _checks(about: Card) -> list[FileCheck]:
    """Check the files of one card."""
    checks: list[FileCheck] = []
    for file in about.files:
        path = locate(about, file)
        if path is None:
            status: Status = "missing"
        else:
            status = "ok" if sha256(path) == file.sha256 else "corrupt"
        checks.append(FileCheck(about.name, file.path, status, path))
    folder = placed_folder(about.name)
    for placed in about.placed:
        here = next(iter(sorted(folder.glob(placed.path))), None)
        status = "missing" if here is None else "unchecked"
        checks.append(FileCheck(about.name, placed.path, status, here))
    return checks
