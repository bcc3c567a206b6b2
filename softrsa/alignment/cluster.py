"""Runs shared among processes and kept in a store: pieces of work, and what tells runs apart."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from softrsa._checks import resolve_device
from softrsa.alignment.held_out import Run
from softrsa.alignment.responses import Responses
from softrsa.alignment.scoring import put_together, score_apart
from softrsa.alignment.settings import Options, Split
from softrsa.errors import DTypeError, FileFormatError, FileMissingError, FitError, SoftRSAError
from softrsa.io import OutputError, atomic_path
from softrsa.io.load import UNREADABLE
from softrsa.io.schema import chunk_slices, plain_labels, read_values

if TYPE_CHECKING:
    from distributed import Client, Future
    from tqdm import tqdm

Fingerprint = Mapping[str, Any]  # of strings, numbers and mappings of those, as JSON holds them


def digest(*data: object) -> str:
    """Digest values, labels and number types of arrays, or lists of them, with SHA-256.

    Parameters
    ----------
    *data : DataArray, ndarray, Tensor, str or sequence of those
        Dask-backed arrays are read one chunk at a time, and their digest depends on the chunks.

    Returns
    -------
    str
        64 hexadecimal digits.

    Examples
    --------
    >>> digest(np.arange(3.0)) == digest(np.array([0.0, 1.0, 2.0]))
    True
    >>> digest(np.arange(3.0)) == digest(np.arange(3.0, dtype="float32"))
    False
    """
    hasher = sha256()
    for piece in _pieces(data):
        hasher.update(piece)
    return hasher.hexdigest()


def differences(there: Fingerprint, here: Fingerprint) -> list[str]:
    """Say in words where two fingerprints differ.

    Examples
    --------
    >>> differences({"seed": 0, "layer": {"a": "1f"}}, {"seed": 1, "layer": {"a": "2e"}})
    ['seed is 0 there and 1 here', "layer 'a' has other data"]
    """
    found = []
    for key in dict.fromkeys((*there, *here)):
        old, new = there.get(key), here.get(key)
        if old == new:
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += _different_parts(key, old, new)
        else:
            found.append(f"{key} is {old!r} there and {new!r} here")
    return found


def _different_parts(kind: str, there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Name what only one side has, and what is not the same."""
    found = [f"{kind} {name!r} is only there" for name in there if name not in here]
    found += [f"{kind} {name!r} is only here" for name in here if name not in there]
    shared = [name for name in here if name in there]
    return found + [
        f"{kind} {name!r} " + ("is not what it was" if kind == "code" else "has other data")
        for name in shared
        if there[name] != here[name]
    ]


def _pieces(data: object) -> Iterator[bytes | memoryview]:
    """Walk through everything that tells data apart, as bytes."""
    if isinstance(data, (list, tuple)):
        yield f"[{len(data)}]".encode()
        for one in data:
            yield from _pieces(one)
    elif isinstance(data, (xr.DataArray, xr.Variable)):
        yield repr((type(data).__name__, data.dims, data.attrs.get("kind"))).encode()
        if isinstance(data, xr.DataArray):
            for name in sorted(map(str, data.coords)):
                yield from _pieces([name, data.coords[name].variable])
        yield from _values(data)
    else:
        array = data.detach().cpu().numpy() if isinstance(data, Tensor) else np.asarray(data)
        yield from _array(array)


def _values(data: xr.DataArray | xr.Variable) -> Iterator[bytes | memoryview]:
    """Walk through values chunk by chunk, in order; there is one where they are in memory."""
    for cut in chunk_slices(data):
        yield from _array(read_values(data[cut]))


def _array(array: np.ndarray) -> Iterator[bytes | memoryview]:
    array = plain_labels(array)
    array = array.astype(np.str_) if array.dtype.kind in "OT" else array
    yield repr((array.dtype.str, array.shape)).encode()
    yield np.ascontiguousarray(array).view(np.uint8).data if array.size else b""


def digest_code(thing: object) -> str:
    """Digest what a user's function, module or row is made of: code, settings, numbers held.

    What it calls in other places is not looked at.

    Raises
    ------
    DTypeError
        If it holds something that cannot be told from others of its type.

    Examples
    --------
    >>> digest_code(lambda x: x + 1) == digest_code(lambda x: x + 2)
    False
    """
    hasher = sha256()
    for piece in _code(thing, {}):
        hasher.update(piece)
    return hasher.hexdigest()


PLAIN = (str, bytes, int, float, complex, range, np.generic, torch.dtype, torch.device, type(None))
NAMED = (ModuleType, BuiltinFunctionType, np.ufunc)


def _code(thing: object, seen: dict[int, object]) -> Iterator[bytes | memoryview]:
    """Walk through what a thing is made of; never through the same one twice."""
    yield type(thing).__qualname__.encode()
    if isinstance(thing, PLAIN):
        yield repr(thing).encode()
    elif isinstance(thing, NAMED):
        yield repr((getattr(thing, "__module__", None), thing.__name__)).encode()
    elif isinstance(thing, (set, frozenset)):
        yield from sorted(digest_code(one).encode() for one in thing)
    elif isinstance(thing, (Tensor, np.ndarray)):
        yield from _pieces(thing)
    elif id(thing) not in seen:
        seen[id(thing)] = thing  # kept, so that no other gets its id
        for part in _parts_of(thing):
            yield from _code(part, seen)


def _parts_of(thing: Any) -> Iterator[object]:
    """Give what a thing is made of, smaller things."""
    if isinstance(thing, Mapping):
        yield from (part for pair in thing.items() for part in pair)
    elif isinstance(thing, (list, tuple)):
        yield from thing
    elif isinstance(thing, CodeType):  # without numbers of lines
        yield from (thing.co_code.hex(), thing.co_consts, thing.co_names)
    elif isinstance(thing, FunctionType):
        yield from (thing.__code__, thing.__defaults__, thing.__kwdefaults__)
        yield from [cell.cell_contents for cell in thing.__closure__ or ()]
    elif isinstance(thing, MethodType):
        yield from (thing.__func__, thing.__self__)
    elif isinstance(thing, type):
        yield from _parts_of_class(thing)
    elif isinstance(thing, partial):
        yield from (thing.func, thing.args, thing.keywords)
    elif hasattr(thing, "__wrapped__"):
        yield thing.__wrapped__
    else:
        yield from (type(thing), _held_by(thing))


def _parts_of_class(thing: type) -> Iterator[object]:
    """Give what a class of a user's is made of; of others the name."""
    for base in thing.__mro__:
        yield f"{base.__module__}.{base.__qualname__}"
        if base.__module__.partition(".")[0] in ("builtins", "torch", "abc", "typing", "numpy"):
            continue
        for part in vars(base).values():
            inner = getattr(part, "__func__", getattr(part, "fget", part))
            if isinstance(inner, FunctionType):
                yield inner


def _held_by(thing: object) -> dict[str, object]:
    """Attributes of an object, by name."""
    slots = [n for base in type(thing).__mro__ for n in getattr(base, "__slots__", ())]
    if not slots and not hasattr(thing, "__dict__"):
        raise DTypeError(
            f"A results store cannot tell one {type(thing).__qualname__} from another, and a part "
            "of your own holds one. Hold numbers, tensors or plain objects, or run without `store`."
        )
    held = {name: getattr(thing, name) for name in slots if hasattr(thing, name)}
    return held | getattr(thing, "__dict__", {})


RUN_FILE = "run.json"
# netCDF-C bears one thread at a time, and xarray closes files without taking its own lock
ONE_AT_A_TIME = Lock()
WORTH_PACKING = 2**16  # bytes of an array; packing small ones takes longer than all else


@dataclass(frozen=True)
class Store:
    """Parts of one run, a netCDF file each, written whole or not at all.

    Attributes
    ----------
    folder : Path
        Where the parts are.
    run : str
        Digest of what decides the results; a part of another run is never used.
    """

    folder: Path
    run: str

    @classmethod
    def open(cls, folder: str | Path, fingerprint: Fingerprint) -> Store:
        """Open the store of a run, or start one.

        Parameters
        ----------
        folder : str or Path
            A new or empty folder, or one that a run with the same fingerprint was kept in.
        fingerprint : mapping
            What decides the results.

        Returns
        -------
        Store
            With the parts that are there already.

        Raises
        ------
        FileFormatError
            If the folder holds something else or the store of another run.
        OutputError
            If it cannot be written to.
        """
        folder = Path(folder)
        text = json.dumps(fingerprint, indent=1, sort_keys=True)
        file = folder / RUN_FILE
        if file.exists():
            _check_same(file, json.loads(text))
        elif folder.is_dir() and any(folder.iterdir()):
            raise FileFormatError(
                f"{folder} is no results store: it has no {RUN_FILE}, but other files. Choose a "
                "new or empty folder."
            )
        else:
            with atomic_path(file) as temporary:
                temporary.write_text(text)
        return cls(folder, sha256(text.encode()).hexdigest())

    def path(self, piece: str) -> Path:
        """Name the file of a piece's part; names of layers need not be names of files."""
        return self.folder / f"part-{sha256(piece.encode()).hexdigest()[:16]}.nc"

    def read(self, piece: str) -> xr.Dataset | None:
        """Read a piece's part; None where it is missing, damaged or of another run or piece."""
        path = self.path(piece)
        if not path.is_file():
            return None
        try:
            with (
                ONE_AT_A_TIME,
                xr.open_dataset(path, engine="netcdf4", decode_times=False) as lazy,
            ):
                part = lazy.load()
        except UNREADABLE:
            return None
        if (part.attrs.get("run"), part.attrs.get("piece")) != (self.run, piece):
            return None
        if part.attrs.get("digest") != _digest(part):
            return None
        labels = {
            key: (coord.dims, plain_labels(coord.values)) for key, coord in part.coords.items()
        }
        return part.assign_coords(labels)

    def write(self, piece: str, part: xr.Dataset) -> None:
        """Keep the part of a piece."""
        part = part.assign_attrs(run=self.run, piece=piece, digest=_digest(part))
        packed = {"zlib": True, "complevel": 1}
        encoding = {
            key: packed
            for key, one in part.data_vars.items()
            if one.dtype.kind in "fi" and one.nbytes >= WORTH_PACKING
        }
        path = self.path(piece)
        with atomic_path(path) as temporary:
            try:
                with ONE_AT_A_TIME:
                    part.to_netcdf(temporary, engine="netcdf4", encoding=encoding)
            except (OSError, RuntimeError) as error:
                raise OutputError(f"Cannot write {path}: {error}.") from error


def _check_same(file: Path, here: Fingerprint) -> None:
    """Refuse the store of a run that differs, saying where."""
    try:
        there = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise FileFormatError(
            f"{file} cannot be read ({error}), so nothing says which run its folder belongs to. "
            "Choose another folder, or delete this one to start again."
        ) from error
    if there != here:
        found = "; ".join(differences(there, here))
        raise FileFormatError(
            f"The results store {file.parent} holds another run: {found}. Choose "
            "another folder, repeat that run, or delete the folder to start again."
        )


def _digest(part: xr.Dataset) -> str:
    """Digest all values and labels, which netCDF keeps as they are."""
    names = sorted(map(str, part.variables))
    return digest([[name, part[name].variable] for name in names])


RETRIES = 3  # of a piece that fails, and rounds in a row in which workers die and nothing is done
CPU = torch.device("cpu")
MOST_RUNS = 20  # of a piece: fits of so many fill their batches, and a stop loses no more
PIECES_EACH = 3  # for a worker at least, so that all end at about the same time
HELD_BYTES = 2**28  # of parts that need not be read again

Piece = Sequence[Run]  # runs that are fitted together
Place = tuple[str, str, int, Split, tuple[int, ...], tuple[int, ...]]  # a run without its sides
Keep = Callable[[Run, xr.Dataset], object]


def in_pieces(runs: Sequence[Run], workers: int) -> list[Piece]:
    """Split runs into pieces of work, neither too small to be efficient nor too few to share.

    Examples
    --------
    >>> [len(piece) for piece in in_pieces(range(60), workers=2)]
    [10, 10, 10, 10, 10, 10]
    >>> [len(piece) for piece in in_pieces(range(5), workers=2)]
    [1, 1, 1, 1, 1]
    """
    share = len(runs) if workers == 1 else len(runs) // (PIECES_EACH * workers)
    size = max(1, min(MOST_RUNS, share))
    return [runs[i : i + size] for i in range(0, len(runs), size)]


def score_in_pieces(
    runs: Sequence[Run],
    options: Options,
    *,
    client: Client | None,
    store: str | Path | None,
    fingerprint: Fingerprint,
    device: str,
    progress: bool,
) -> xr.Dataset:
    """Score runs some at a time and put the parts, one of each run, together.

    Runs whose part is in the store are not computed again. ``device`` is resolved where a piece is
    computed.
    """
    held: dict[str, xr.Dataset] = {}
    held_bytes = 0
    with _opened(store, fingerprint) as kept:

        def keep(run: Run, part: xr.Dataset) -> None:
            nonlocal held_bytes
            small = held_bytes + part.nbytes <= HELD_BYTES
            if small:
                held[run.name] = part
                held_bytes += part.nbytes
            if store is not None or not small:
                kept.write(run.name, part)

        missing = [run for run in runs if kept.read(run.name) is None]
        if client is None:
            _score_here(missing, options, keep, progress)
        else:
            _Cluster(client, options, device, progress).score(missing, keep)

        def part_of(run: Run) -> xr.Dataset:
            part = held.pop(run.name, None)
            part = kept.read(run.name) if part is None else part
            if part is None:
                raise FileMissingError(
                    f"The part of {run.name} in {kept.folder} was deleted or damaged while others "
                    "were computed. Run again with the same store: only what is missing is done."
                )
            return part

        return put_together(part_of, runs, options)


@contextmanager
def _opened(store: str | Path | None, fingerprint: Fingerprint) -> Iterator[Store]:
    """Open the store, or a temporary one: parts of a large run need not be held in memory."""
    if store is not None:
        yield Store.open(store, fingerprint)
        return
    with TemporaryDirectory(prefix="softrsa-") as folder:
        yield Store.open(folder, fingerprint)


DELAY = 1.0  # seconds


def _bar(n_runs: int, shown: bool) -> tqdm:
    """Make a bar over runs, which appears after a while."""
    from tqdm import tqdm

    return tqdm(total=n_runs, disable=not shown or not n_runs, desc="aligning", delay=DELAY)


def _score_here(runs: Sequence[Run], options: Options, keep: Keep, progress: bool) -> None:
    """Score runs in this process, a piece on all cores after the other, and keep parts at once."""
    with _bar(len(runs), progress) as bar:
        for piece in in_pieces(runs, workers=1):
            parts = _raised(_named(piece, options, lambda _: bar.update(0)))
            for run, part in zip(piece, parts, strict=True):
                keep(run, part)
            bar.update(len(piece))


def _named(
    piece: Piece, options: Options, on_step: Callable[[int], object] = lambda _: None
) -> list[xr.Dataset] | SoftRSAError:
    """Score a piece; an error of ours is given back with its run, as dask retries what raises."""
    try:
        return score_apart(piece, options, on_step)
    except SoftRSAError as error:
        if len(piece) == 1:
            return type(error)(f"In {piece[0].name}: {error}")
    parts: list[xr.Dataset] = []
    for run in piece:  # whose error it was
        found = _named([run], options, on_step)
        if isinstance(found, SoftRSAError):
            return found
        parts += found
    return parts


def _raised(found: list[xr.Dataset] | SoftRSAError) -> list[xr.Dataset]:
    if isinstance(found, SoftRSAError):
        raise found
    return found


@dataclass(frozen=True)
class _Cluster:
    """A dask cluster that scores runs; a device of "auto" is resolved on each worker."""

    client: Client
    options: Options
    device: str
    progress: bool

    def score(self, runs: Sequence[Run], keep: Keep) -> None:
        """Score runs in rounds: what was lost with a worker is in the next one."""
        workers: Any = self.client.nthreads()  # for each its threads
        pieces, idle = in_pieces(runs, max(1, len(workers))), 0
        with _bar(len(runs), self.progress) as bar:
            while pieces and idle <= RETRIES:
                left = self._round(pieces, keep, bar)
                idle = idle + 1 if len(left) == len(pieces) else 0
                pieces = left
        if pieces:
            raise FitError(
                f"Workers died {RETRIES + 1} times in a row before any piece was done; the first "
                f"one left is {pieces[0][0].name}. They may be out of memory: give each more, or "
                "use fewer stimuli."
            )

    def _round(self, pieces: Sequence[Piece], keep: Keep, bar: tqdm) -> list[Piece]:
        """Submit all pieces, keep those done, give back those whose data a dead worker had."""
        from distributed import as_completed

        runs = [run for piece in pieces for run in piece]
        models = _shipped(self.client, {run.layer: run.model for run in runs})
        brains = _shipped(self.client, {run.region: run.brain for run in runs})
        futures = {
            self.client.submit(
                _score_remotely, [_place(run) for run in piece],
                {run.layer: models[run.layer] for run in piece},
                {run.region: brains[run.region] for run in piece},
                self.options, self.device, retries=RETRIES, pure=False,
            ): piece
            for piece in pieces
        }  # fmt: skip
        lost = []
        try:
            for future in as_completed([*futures]):
                piece = futures.pop(future)
                found = _result(future, piece[0])
                if found is None:
                    lost.append(piece)
                else:
                    for run, part in zip(piece, _raised(found), strict=True):
                        keep(run, part)
                    bar.update(len(piece))
        finally:
            self.client.cancel([*futures])
        return lost


def _place(run: Run) -> Place:
    return run.layer, run.region, run.fold, run.split, run.learn, run.score


def _shipped(client: Client, sides: Mapping[str, Responses]) -> dict[str, Future]:
    """Send each side once; pieces fetch it from the worker that has it, or from one another."""
    return {name: client.scatter(side.to(CPU), hash=False) for name, side in sides.items()}  # type: ignore[misc]


def _score_remotely(
    places: Sequence[Place],
    models: Mapping[str, Responses],
    brains: Mapping[str, Responses],
    options: Options,
    device: str,
) -> list[xr.Dataset] | SoftRSAError:
    """Score a piece on a worker, in the one thread that dask runs it in."""
    target = resolve_device(device)
    there = [{name: one.to(target) for name, one in part.items()} for part in (models, brains)]
    piece = [
        Run(layer, region, fold, there[0][layer], there[1][region], split, learn, score)
        for layer, region, fold, split, learn, score in places
    ]
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        return _named(piece, options)
    finally:
        torch.set_num_threads(before)  # which the worker's new threads start with


def _result(future: Future, run: Run) -> list[xr.Dataset] | SoftRSAError | None:
    """Fetch what was found for a piece, from its first run on; None where it died with a worker."""
    from distributed import KilledWorker
    from distributed.client import FutureCancelledError

    try:
        return future.result()
    except FutureCancelledError:
        return None
    except KilledWorker as error:
        raise FitError(
            f"In {run.name}: the worker died each time it was computed ({error}). Workers may be "
            "out of memory: give each more, or use fewer stimuli."
        ) from error
    except Exception as error:
        error.add_note(f"In {run.name}, on a dask worker, after {RETRIES} retries.")
        raise


def check_client(client: object) -> None:
    """Refuse what is no client of dask.distributed."""
    if client is None:
        return
    if not isinstance(client, import_distributed().Client):
        raise DTypeError(
            f"`client` must be a `distributed.Client`, got {type(client).__name__}; e.g. "
            "`Client(LocalCluster())`."
        )


def import_distributed():
    """Import dask's scheduler, or say how to install it."""
    try:
        import distributed
    except ImportError as error:
        raise FileMissingError(
            "Work on a cluster needs dask, which is not installed; install it with "
            "`pip install softrsa[distributed]`."
        ) from error
    return distributed
