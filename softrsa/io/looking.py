"""A first look at a file or folder, and the table of formats that are told by it.

Each format's own file in `softrsa.io` adds its row.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from softrsa._table import Table
from softrsa.errors import DataError, FileFormatError, FileMissingError

if TYPE_CHECKING:
    import xarray as xr

    from softrsa.io.labelling import Options

ZARR_FILES = ("zarr.json", ".zgroup")  # of format 3, of format 2
PICKLE_SUFFIXES = (".pkl", ".pickle", ".p", ".joblib")
TORCH_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # torch.save before 1.6
DAMAGED = "damaged"
SAMPLE = 4096  # bytes of a text


@dataclass(frozen=True)
class Look:
    """What a path holds, as far as can be told without reading it.

    Attributes
    ----------
    path : Path
        Where it lies.
    container : str
        folder, hdf5, matlab73, matlab5, netcdf3, npz, npy, torch, zip, pickle, text, empty or
        unknown.
    names : frozenset of str
        Names of its members: files of a folder, arrays of an archive, top-level names in HDF5.
    attributes : frozenset of str
        Names of attributes of an HDF5 file, and "netcdf" if it has dimensions.
    """

    path: Path
    container: str
    names: frozenset[str] = frozenset()
    attributes: frozenset[str] = frozenset()

    @property
    def is_plain_hdf5(self) -> bool:
        """Whether it holds arrays in HDF5 without what netCDF adds."""
        return self.container == "hdf5" and "netcdf" not in self.attributes and bool(self.names)


EVERY = frozenset({"trials", "drop_missing_units"})  # of what is read, whatever the format
PLAIN = frozenset({"stimuli", "kind", "dims", "halves"})  # of numbers without labels
ALL = PLAIN | {"variable"}
NAMED = ALL | {"ids_in"}  # whose arrays have names, so that one may hold the ids


@dataclass(frozen=True, kw_only=True)
class Format:
    """A row of the table of formats: how files are recognized and read.

    Attributes
    ----------
    name, title : str
        What it is called in one word, and in a sentence.
    recognizes : callable
        Tells from a first look (`path`, `container`, `names`, `attributes`) whether a file is in
        this format.
    read : callable
        Given the path and the options of `load` (`stimuli`, `variable`, `kind`), reads it into a
        labelled array; what a library raises is worded by `load`.
    takes : frozenset of str
        The options of `load` that mean something for it.
    general : bool
        Whether it is any file of its container, such as .npz: asked after formats that know more.
    suffix : str
        Ending of the names of files, such as ``.csv``, that `save` writes in this format.
    write : callable, optional
        Given a checked array and a path, writes the file.

    Raises
    ------
    DataError
        If the name or the title is missing, or an option of ``takes`` is none of `load`.

    Examples
    --------
    >>> row = Format(
    ...     name="answers", title="a file of answers",
    ...     recognizes=lambda seen: seen.path.suffix == ".answers",
    ...     read=lambda path, options: read_answers(path),
    ... )
    >>> row.recognizes(Look(Path("monday.answers"), "text"))
    True
    """

    name: str
    title: str
    recognizes: Callable[[Look], bool]
    read: Callable[[Path, Options], xr.DataArray]
    takes: frozenset[str] = frozenset()
    general: bool = False
    suffix: str = ""
    write: Callable[[xr.DataArray, Path], object] | None = None

    def __post_init__(self):
        if not (self.name and self.title):
            raise DataError(f"A format needs a `name` and a `title`, got {self!r}.")
        if not self.takes <= NAMED:
            raise DataError(
                f"Format {self.name!r} takes {sorted(self.takes - NAMED)}, and options of `load` "
                f"are {sorted(NAMED)}."
            )


FORMATS: Table[Format] = Table("format", Format, "softrsa.io")


def look(path: Path) -> Look:
    """Look at a path."""
    if path.is_dir():
        return Look(path, "folder", frozenset(child.name for child in path.iterdir()))
    if not path.exists():
        raise FileMissingError(f"There is no file {path}.")
    if not path.is_file():  # a pipe would be waited for without end
        raise FileFormatError(
            f"{path} is a pipe or a device, not a file. Copy what comes from it into a file."
        )
    with path.open("rb") as file:
        start = file.read(SAMPLE)
    container = _container(path, start)
    if container in ("hdf5", "matlab73"):
        return Look(path, container, *_hdf5_names(path))
    if container == "zip":
        return _look_into_zip(path)
    return Look(path, container)


MAGIC = (
    (b"\x89HDF\r\n\x1a\n", "hdf5"),
    (b"MATLAB 7.3 MAT-file", "matlab73"),
    (b"MATLAB 5.0 MAT-file", "matlab5"),
    (b"CDF\x01", "netcdf3"),
    (b"CDF\x02", "netcdf3"),
    (b"CDF\x05", "netcdf3"),
    (b"\x93NUMPY", "npy"),
    (b"PK\x03\x04", "zip"),
    (b"PK\x05\x06", "zip"),
    (TORCH_LEGACY, "torch"),
)


def _container(path: Path, start: bytes) -> str:
    """Tell the container from the first bytes; from the suffix where these say nothing."""
    if not start:
        return "empty"
    known = [name for magic, name in MAGIC if start.startswith(magic)]
    if known:
        return known[0]
    pickled = start[:1] == b"\x80" and start[1] in range(2, 6)
    if pickled or path.suffix.lower() in PICKLE_SUFFIXES:
        return "pickle"
    if start[124:128] in (b"\x00\x01IM", b"\x01\x00MI"):
        return "matlab5"  # written by others than MATLAB, with another text before
    try:
        text = start.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if len(start) < SAMPLE or error.start < SAMPLE - 4:  # not a character cut in two
            return "unknown"
        text = start[: error.start].decode("utf-8-sig")
    return "text" if "\0" not in text else "unknown"


def _hdf5_names(path: Path) -> tuple[frozenset[str], frozenset[str]]:
    """List the top-level names and attributes, and "netcdf"; or that it is damaged."""
    import h5py

    try:
        with h5py.File(path) as file:
            nodes = list(file.values())
            if None in nodes:  # names of things that are not there
                return frozenset(map(str, file)), frozenset({DAMAGED})
            netcdf = "_NCProperties" in file.attrs or any(
                {"DIMENSION_LIST", "CLASS", "REFERENCE_LIST"} & {*node.attrs} for node in nodes
            )
            attributes = {*map(str, file.attrs), *(["netcdf"] if netcdf else [])}
            return frozenset(map(str, file)), frozenset(attributes)
    except (OSError, RuntimeError, KeyError):
        return frozenset(), frozenset({DAMAGED})


def _look_into_zip(path: Path) -> Look:
    """Tell NumPy's archives, torch's files and others apart."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, NotImplementedError):
        return Look(path, "npz" if path.suffix == ".npz" else "zip")
    if names and all(name.endswith(".npy") for name in names):
        return Look(path, "npz", frozenset(name.removesuffix(".npy") for name in names))
    if any(name.split("/")[-1] == "data.pkl" for name in names):
        return Look(path, "torch", frozenset(names))
    return Look(path, "npz" if not names and path.suffix == ".npz" else "zip", frozenset(names))
