"""Files written whole or not at all, our own results read back, and the place for caches."""

from __future__ import annotations

import errno
import os
import re
import shutil
import socket
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from pickle import UnpicklingError
from secrets import token_hex
from typing import TYPE_CHECKING, Any, ClassVar, Self

from softrsa.errors import FileFormatError, FileMissingError, SoftRSAError

if TYPE_CHECKING:
    import xarray as xr


class OutputError(SoftRSAError, OSError):
    """A file or folder cannot be written where it was asked for."""


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside ``path`` that becomes ``path`` when the block ends well.

    Whatever goes wrong inside the block, ``path`` keeps what it had before and the temporary file
    is deleted; those that killed processes of this machine left are deleted too. Missing parent
    folders are made.

    Parameters
    ----------
    path : str or Path
        The file to write.

    Yields
    ------
    Path
        An empty file in the same folder, with the same suffix, to write to.

    Raises
    ------
    OutputError
        If the folder cannot be made or written to, its disk is full, or ``path`` is itself a
        folder.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with atomic_path(folder / "new" / "scores.csv") as temporary:
    ...     _ = temporary.write_text("layer,score")
    >>> [file.name for file in (folder / "new").iterdir()]
    ['scores.csv']
    """
    path = Path(path)
    _make_folder(path.parent)
    if path.is_dir():
        raise OutputError(f"Cannot write the file {path}: it is a folder. Add a file name.")
    _forget_dead(path)
    name = f".{path.stem}-{_machine()}-{os.getpid()}-{token_hex(4)}{path.suffix}"
    temporary = path.with_name(name)
    try:
        temporary.touch(exist_ok=False)
    except OSError as error:
        raise _cannot_write(path, error) from error
    try:
        yield temporary
        _check_room(path, temporary)
        try:
            os.replace(temporary, path)
        except OSError as error:
            raise _cannot_write(path, error) from error
    except (OSError, RuntimeError) as error:
        full = isinstance(error, OSError) and error.errno in FULL
        if isinstance(error, SoftRSAError) and not isinstance(error, OutputError):
            raise
        if full or shutil.disk_usage(path.parent).free < LEAST_ROOM:
            raise _cannot_write(path, OSError(errno.ENOSPC, "the disk is full")) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
LEAST_ROOM = 2**14  # bytes free on a disk; with fewer, whatever fails fails for want of room


def _machine() -> str:
    """Name this machine, and the numbers of processes that count in it, in few letters."""
    processes = Path("/proc/self/ns/pid")
    inner = str(processes.stat().st_ino) if processes.exists() else ""
    return sha256(f"{socket.gethostname()} {inner}".encode()).hexdigest()[:6]


def _forget_dead(path: Path) -> None:
    """Delete temporary files for ``path`` of processes of this machine that are no more."""
    pattern = re.compile(
        rf"\.{re.escape(path.stem)}-{_machine()}-(\d+)-[0-9a-f]{{8}}{re.escape(path.suffix)}"
    )
    with suppress(OSError):  # a folder that may be written to, not read
        for name in os.listdir(path.parent):
            match = pattern.fullmatch(name)
            if match and not _is_running(int(match[1])):
                path.with_name(name).unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    if os.name == "nt":  # where signal 0 ends it
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True


def _check_room(path: Path, temporary: Path) -> None:
    """Refuse what is empty because the disk is full: some libraries write it without a word."""
    if temporary.is_file() and temporary.stat().st_size == 0:
        free = shutil.disk_usage(path.parent).free
        if free < LEAST_ROOM:
            raise _cannot_write(path, OSError(errno.ENOSPC, "the disk is full"))


@contextmanager
def locked(target: Path) -> Iterator[None]:
    """Let one process or thread at a time into the block, for the file ``target``.

    Where the system has no such locks (Windows, some network disks), all go in. The lock is a
    hidden file beside ``target``, which whoever leaves last takes away.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    path = target.with_name(f".{target.name}.lock")
    while True:
        file = path.open("a")
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        try:  # whoever had it may have deleted the file, and another made a new one
            current = os.path.samestat(os.fstat(file.fileno()), path.stat())
        except FileNotFoundError:
            current = False
        if current:
            break
        file.close()
    with file:
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def write_result(data: xr.Dataset, path: str | Path) -> None:
    """Write a result, with an attribute that says what it is, to a netCDF file."""
    with atomic_path(path) as temporary:
        try:
            data.to_netcdf(temporary, engine="netcdf4")
        except (OSError, RuntimeError) as error:
            raise OutputError(f"Cannot write {path}: {error}.") from error


def read_result(
    path: str | Path, kind: str, what: str, *, attribute: str = "softrsa_kind"
) -> xr.Dataset:
    """Read a result that `write_result` wrote, whose attribute must say its kind, into memory.

    ``what`` it is in words stands after "holds no": "result of `optimize_to_score`".
    """
    import xarray as xr

    path = Path(path)
    if not path.is_file():
        raise FileMissingError(f"There is no file {path.resolve()}.")
    try:
        with xr.open_dataset(path, engine="netcdf4") as lazy:
            data = lazy.load()
    except (OSError, RuntimeError, ValueError) as error:
        raise FileFormatError(f"{path} is not a readable netCDF file: {error}.") from error
    if data.attrs.get(attribute) != kind:
        raise FileFormatError(
            f"{path} holds no {what}. Recordings, activations and RDMs are read with "
            "`softrsa.load`."
        )
    return data


def write_tensors(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write plain types and tensors, among them the ``format``, so that all is there or nothing."""
    import torch

    with atomic_path(path) as temporary:
        torch.save(content, temporary)


@contextmanager
def read_tensors(
    path: str | Path, form: str, *, passing: type[Exception] | tuple[()] = ()
) -> Iterator[dict[str, Any]]:
    """Give what `write_tensors` wrote in this format; nothing in the file is executed.

    Whatever fails while it is used means that the file is damaged, except errors ``passing``.
    """
    import torch

    path = Path(path)
    writer = form.removeprefix("softrsa.").partition("/")[0]
    foreign = f"{path} is not a file written by `{writer}.save`."
    if not path.is_file():
        raise FileMissingError(f"There is no file {path.resolve()}.")
    try:
        with warnings.catch_warnings():  # of a foreign file's protocol, which is refused below
            warnings.simplefilter("ignore", UserWarning)
            content = torch.load(path, weights_only=True, map_location="cpu")
    except (UnpicklingError, RuntimeError, ValueError, EOFError, LookupError, OSError) as error:
        raise FileFormatError(foreign) from error
    if not isinstance(content, dict) or content.get("format") != form:
        raise FileFormatError(foreign)
    try:
        yield content
    except passing:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise FileFormatError(f"{path} is damaged: {error!r}.") from error


class StoredResult:
    """What was found, in one labelled Dataset, to be written to a file and read again."""

    data: xr.Dataset
    _attribute: ClassVar[str] = "softrsa_kind"  # of the file: says what it is
    _kind: ClassVar[str]
    _what: ClassVar[str]

    def __init__(self, data: Any): ...  # of the dataclasses that are results

    def __post_init__(self):
        kind = {self._attribute: self._kind}  # however its data come to a file
        object.__setattr__(self, "data", self.data.assign_attrs(kind))

    def to_netcdf(self, path: str | Path) -> None:
        """Write everything to one netCDF file, whole or not at all.

        Parameters
        ----------
        path : str or Path
            The file, whose folder is made where there is none; an existing one is replaced.

        Raises
        ------
        OutputError
            If the file cannot be written.
        """
        write_result(self.data, path)

    @classmethod
    def from_netcdf(cls, path: str | Path) -> Self:
        """Read a result written by `to_netcdf`.

        Parameters
        ----------
        path : str or Path
            The file.

        Returns
        -------
        object of this class
            Equal to the one written.

        Raises
        ------
        FileMissingError
            If there is no such file.
        FileFormatError
            If the file holds something else.
        """
        return cls(read_result(path, cls._kind, cls._what, attribute=cls._attribute))


def cache_folder() -> Path:
    """Find where downloads and streamed results go: ``SOFTRSA_CACHE`` or the system's cache.

    Examples
    --------
    >>> import os
    >>> os.environ["SOFTRSA_CACHE"] = "/scratch/softrsa"
    >>> cache_folder().as_posix()
    '/scratch/softrsa'
    >>> del os.environ["SOFTRSA_CACHE"]
    """
    chosen = os.environ.get("SOFTRSA_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("softrsa"))


def _make_folder(folder: Path) -> None:
    """Make a folder and its parents, or say which of them is in the way."""
    for part in (folder, *folder.parents):
        if part.exists() and not part.is_dir():
            raise OutputError(
                f"Cannot write into {folder}: {part} is a file, not a folder. "
                "Choose another folder, or move that file away."
            )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_write(folder, error) from error


def _cannot_write(path: Path, error: OSError) -> OutputError:
    """Word the system's refusal to write."""
    return OutputError(
        f"Cannot write {path}: {error.strerror or error}. "
        "Choose a folder you may write to, with room on its disk."
    )
