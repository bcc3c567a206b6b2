"""Cards: what each data set is, whose it is, and the files it consists of."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from softrsa.errors import unknown_name

__all__ = ["Card", "DataFile", "available", "card"]

CARD = "dataset.toml"


@dataclass(frozen=True)
class DataFile:
    """One file of a data set.

    Attributes
    ----------
    path : str
        Where it lies in the data folder; beside the card for files that come with softrsa.
    sha256 : str
        Its checksum, 64 hexadecimal digits.
    url : str
        Where it is downloaded from; empty for files that come with softrsa.
    """

    path: str
    sha256: str
    url: str = ""

    @property
    def name(self) -> str:
        """The file's name without its folder."""
        return Path(self.path).name


@dataclass(frozen=True)
class Card:
    """What there is to know about a data set before using it.

    Attributes
    ----------
    name, title, description : str
        What it is called, in one word, one line and one paragraph.
    licence, citation, bibtex, source : str
        On what terms it is used, what to cite (also as BibTeX), and who published it where.
    preprocessing : str
        What was done to the data, by its authors and by softrsa.
    simulated : bool
        Whether it was made by a program instead of recorded.
    files : tuple of DataFile
        Its files.
    """

    name: str
    title: str
    description: str
    licence: str
    citation: str
    bibtex: str
    source: str
    preprocessing: str
    simulated: bool
    files: tuple[DataFile, ...]


def available() -> list[str]:
    """List the names of the data sets.

    Returns
    -------
    list of str
        Sorted names, each good for `card`, `fetch` and `load`.

    Examples
    --------
    >>> "kriegeskorte92" in available()
    True
    """
    return sorted(path.parent.name for path in catalogue().glob(f"*/{CARD}"))


def card(name: str) -> Card:
    """Read the card of a data set.

    Parameters
    ----------
    name : str
        One of `available()`.

    Returns
    -------
    Card
        Title, licence, citation, source, preprocessing and files.

    Raises
    ------
    UnknownNameError
        If there is no such data set; the message offers the nearest names.

    Examples
    --------
    >>> card("kriegeskorte92").simulated
    False
    """
    if name not in available():
        raise unknown_name("dataset", name, available())
    content = tomllib.loads((catalogue() / name / CARD).read_text(encoding="utf-8"))
    files = tuple(DataFile(**entry) for entry in content.pop("files"))
    return Card(**content, files=files)


def catalogue() -> Path:
    """Find the folder of cards: inside an installed package, beside it in a checkout."""
    package = Path(str(resources.files("softrsa")))
    packaged = package / "_datasets"
    return packaged if packaged.is_dir() else package.parent / "datasets"
