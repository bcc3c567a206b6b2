"""Cards: what each data set is, whose it is, and the files it consists of."""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from softrsa._files import cache_folder
from softrsa.errors import DataError, FileMissingError, unknown_name

CARD = "dataset.toml"
ADDED: dict[str, Path] = {}  # folders of data sets of the user's own, by name


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
        Where it is downloaded from; empty for files that come with softrsa, and for those of a card
        with `access`, which are put in place by hand.
    """

    path: str
    sha256: str
    url: str = ""

    @property
    def name(self) -> str:
        """The file's name without its folder."""
        return Path(self.path).name


@dataclass(frozen=True)
class PlacedFile:
    """A file, or files of a kind, that the user puts in the data set's folder by hand.

    Attributes
    ----------
    path : str
        Where it lies in that folder; with a star, such as ``*.wav``, for one file or more.
    what : str
        What it holds.
    """

    path: str
    what: str  # their publishers give no sha256, so there is none to check


@dataclass(frozen=True)
class Published:
    """How a paper used a data set, and what it found.

    Attributes
    ----------
    source : str
        The paper that gives the results.
    extractor : str
        The network whose features its regression heads got.
    labels : str
        How labels were scaled to [0, 1].
    split : str
        How samples were held out for validation and test.
    results : dict of str to tuple of float
        By head, mean and standard deviation over splits of the mean squared error, times 1000.
    """

    source: str
    extractor: str
    labels: str
    split: str
    results: dict[str, tuple[float, float]]


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
        Its files that come with softrsa or that softrsa downloads.
    kind : str
        What sort of data it is: RDMs, recordings, embedding or regression.
    shapes : str
        Its parts and how large they are.
    access : str
        For data that softrsa may not download, how to come by them.
    placed : tuple of PlacedFile
        What to put where of such data, in a folder of the data set's name.
    published : Published or None
        Published results of regression on it.
    terms : str
        The licence in a word or two, for lists; `licence` says it in full.
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
    kind: str = ""
    shapes: str = ""
    access: str = ""
    placed: tuple[PlacedFile, ...] = ()
    published: Published | None = field(default=None, repr=False)
    terms: str = ""


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
    return sorted({*ADDED, *(path.parent.name for path in catalogue().glob(f"*/{CARD}"))})


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
    return read_card(folder_of(name))


def read_card(folder: Path) -> Card:
    """Read the card in a folder."""
    path = folder / CARD
    if not path.is_file():
        raise FileMissingError(f"There is no file {path}.")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        files = tuple(DataFile(**entry) for entry in content.pop("files", []))
        placed = tuple(PlacedFile(**entry) for entry in content.pop("placed", []))
        published = content.pop("published", None)
        return Card(
            **content, files=files, placed=placed, published=published and _published(**published)
        )
    except (TypeError, ValueError) as error:
        reason = str(error).removeprefix("Card.__init__() ")
        raise DataError(f"{path} is no card of a data set: {reason}.") from error


def folder_of(name: str) -> Path:
    """Find the folder with a data set's card."""
    return ADDED.get(name) or catalogue() / name


def _published(results: dict[str, list[float]], **rest: str) -> Published:
    return Published(**rest, results={head: (mean, sd) for head, (mean, sd) in results.items()})


def catalogue() -> Path:
    """Find the folder of cards: inside an installed package, beside it in a checkout."""
    package = Path(str(resources.files("softrsa")))
    packaged = package / "_datasets"
    return packaged if packaged.is_dir() else package.parent / "datasets"


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
