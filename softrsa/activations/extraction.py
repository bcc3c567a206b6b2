"""Run a model over stimuli and keep what its layers return, in memory or in a file."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from secrets import token_hex
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor, nn
from tqdm import tqdm

from softrsa._checks import resolve_device
from softrsa._memory import available_memory
from softrsa._wording import listed
from softrsa.activations.layers import Recorder, borrowed, choose_layers
from softrsa.activations.stimuli import Batch, Inputs, count, iterate_batches
from softrsa.errors import (
    DataError,
    FileFormatError,
    ShapeError,
    StimulusError,
    unknown_name,
)
from softrsa.io import OutputError, atomic_path, cache_folder, open_array
from softrsa.io.schema import check_distinct, plain_labels

CHUNK_UNITS = 4096  # × 64 stimuli × 4 bytes = 1 MiB
CHUNK_STIMULI = 64
# the activations of a batch (n_stimuli, n_units), the widths of layers, and ids
Block = tuple[np.ndarray, dict[str, int], list[Any] | None]


def extract_activations(
    model: nn.Module,
    stimuli: Any,
    layers: str | Iterable[str] | Mapping[str, str],
    *,
    stimulus_ids: Sequence[str] | Sequence[int] | None = None,
    preprocess: Callable[[Any], Tensor] | None = None,
    batch_size: int = 32,
    pool: Literal["flatten", "mean"] | Callable[[Tensor], Tensor] = "flatten",
    device: str | torch.device | None = None,
    path: str | Path | None = None,
    memory_limit: int | None = None,
    resume: bool = False,
    progress: bool = True,
) -> xr.DataArray:
    """Run a model over stimuli and return what the named layers compute.

    The model runs in eval mode without gradients, and is left exactly as it was: training flags,
    hooks, device, also when something fails.

    Parameters
    ----------
    model : torch.nn.Module
        Any model that takes a batch of stimuli.
    stimuli : tensor, ndarray, mapping, iterable or path
        A tensor or array (n, ...), of images (n, channel, height, width), of video
        (n, time, channel, height, width), of sound (n, sample), of whatever the model takes; a
        mapping of stimulus ids to arrays; any iterable of batches, or of pairs of a batch and its
        ids; or a folder of images, whose ids are the file names without suffix, sorted. A batch of
        an iterable may be a tuple of tensors, in the order of the model's arguments, or a mapping
        by their names; such a tuple comes with its ids, as two tensors alone are a batch and ids.
    layers : str, iterable of str, or mapping
        Module names as in ``model.named_modules()``; globs, in which ``*`` stops at dots and ``**``
        does not; ``"leaves"``, all modules without children; or a mapping of labels to names.
        Modules that a glob or ``"leaves"`` finds but the model does not use are left out. Of a
        module that returns a tuple, list, mapping or dataclass, a path names the tensor:
        ``"encoder.layers.3[0]"``, ``"decoder[logits]"``, ``"lstm[1][0]"``, ``"blocks.*[0]"``, and
        ``"[logits]"`` of what the model itself returns. `list_layers` lists them.
    stimulus_ids : sequence of str or int, optional
        Ids in the order of the stimuli; by default those that come with the stimuli, or 0, 1, ...
    preprocess : callable, optional
        Turns one stimulus into the model's input (a tensor without batch axis); folders of images
        are opened with PIL as RGB and given to `preprocess_image` by default.
    batch_size : int
        Stimuli per pass; an iterable of batches keeps its own.
    pool : {"flatten", "mean"} or callable
        Keep all of a layer's output, or its mean over all but the batch and channel axes (0, 1):
        over place, and over time where channels come before it (n, channel, time, ...). Elsewhere,
        as in (n, time, channel), give a function of the output, such as ``lambda x: x.mean(1)``,
        that keeps the first axis.
    device : str or torch.device, optional
        Where to run: ``"auto"``, ``"cpu"``, ``"cuda"``, ...; by default where the model is.
    path : str or Path, optional
        A netCDF file to stream to, batch by batch; the result is then read from it when used.
    memory_limit : int, optional
        Bytes the result may take in memory, by default half of what is available; a larger one is
        streamed to a file in the cache folder, with a warning that names it.
    resume : bool
        With ``path``: keep each batch in a folder beside it, ``<path>.parts``, until all are there,
        and go on where a stopped run ended. The last batch kept is computed again, and must be what
        it was. Not for an iterable of batches.
    progress : bool
        Whether to show a progress bar when it takes more than a second.

    Returns
    -------
    DataArray, dims (stimulus, unit), float32
        With the coordinates `layer` and `unit` (the place in the layer's flattened output). The
        calls of a module that is used several times in one pass are labeled ``name#1``,
        ``name#2``, ...

    Raises
    ------
    UnknownNameError
        If the model has no such layer, or ``pool`` is not known.
    DeviceError
        If the device is not there.
    DataError
        If there are no stimuli, a layer is not used or returns no tensor, or several and no path
        says which, or what a stopped run kept is of another model or other stimuli.
    ShapeError
        If a layer's output has no batch axis, or changes its size between batches, or the inputs
        of a batch have different lengths.
    StimulusError
        If ids are repeated, or as many ids as stimuli are not given.
    DTypeError
        If stimuli are raw uint8 values, or of a type that is not known.
    OutputError
        If the file cannot be written.

    Examples
    --------
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU())
    >>> activations = extract_activations(model, torch.ones(5, 2, 2), ["1", "2"])
    >>> activations.sizes, activations["layer"].values.tolist()
    (Frozen({'stimulus': 5, 'unit': 6}), ['1', '1', '1', '2', '2', '2'])
    """
    pooling = _pooling(pool)
    if batch_size < 1:
        raise DataError(f"`batch_size` must be at least 1, got {batch_size}.")
    chosen, exact = choose_layers(model, layers)
    where = None if device is None else resolve_device(device)
    parts = Parts(path, stimuli) if resume else None
    skip = 0 if parts is None else max(len(parts.done) - 1, 0)
    batches, n_stimuli = iterate_batches(
        stimuli, preprocess=preprocess, batch_size=batch_size, skip=skip
    )
    ids = None if stimulus_ids is None else list(stimulus_ids)
    if ids is not None and n_stimuli is not None:
        _checked_ids(ids, [None] * n_stimuli)  # before the work, not after it
    known = available_memory()
    half = 2**31 if known is None else int(known / 2)  # 2 GB where nobody knows
    limit = half if memory_limit is None else memory_limit
    store = Store(path, limit=limit, n_expected=n_stimuli if ids is None else len(ids))
    with borrowed(model, where) as forward, Recorder(model, chosen, pooling) as recorder:
        blocks = _run(forward, batches, recorder, exact)
        blocks = blocks if parts is None else parts.kept_and_new(blocks)
        found = _collect(blocks, ids, store, progress=progress)
    if parts is not None:
        parts.remove()
    return found


def _flatten(output: Tensor, label: str) -> Tensor:
    """Make one row per stimulus of everything a layer returns."""
    if not output.ndim:
        raise ShapeError(
            f"Layer {label!r} returns a single number; its first axis must be stimuli."
        )
    return output.reshape(len(output), -1)


def _mean(output: Tensor, label: str) -> Tensor:
    """Average over all axes but the stimuli and the channels (axes 0 and 1)."""
    return _flatten(output, label) if output.ndim < 3 else output.flatten(2).mean(-1)


POOLS: dict[str, Callable[[Tensor, str], Tensor]] = {"flatten": _flatten, "mean": _mean}


def _pooling(pool: str | Callable[[Tensor], Tensor]) -> Callable[[Tensor, str], Tensor]:
    """Give what makes rows of a layer's output: one that is known, or the caller's own."""
    if not callable(pool):
        if pool not in POOLS:
            raise unknown_name("pooling (`pool`)", pool, POOLS)
        return POOLS[pool]

    def own(output: Tensor, label: str) -> Tensor:
        pooled = pool(output)
        if not isinstance(pooled, Tensor) or pooled.shape[:1] != output.shape[:1]:
            got = tuple(pooled.shape) if isinstance(pooled, Tensor) else type(pooled).__name__
            raise ShapeError(
                f"`pool` must give a tensor with the first axis of what it gets; of layer "
                f"{label!r}, {tuple(output.shape)}, it made {got}."
            )
        return _flatten(pooled, label)

    return own


def _run(
    forward: Callable[[Inputs], object],
    batches: Iterable[Batch],
    recorder: Recorder,
    exact: set[str],
) -> Iterator[Block]:
    """Give the activations (n_stimuli, n_units) of each batch, the layers' widths, and ids."""
    widths: dict[str, int] | None = None
    for batch, ids in batches:
        forward(batch)
        outputs = recorder.take(count(batch))
        found = {label: output.shape[1] for label, output in outputs.items()}
        if widths is None:
            _check_used(found, exact)
            widths = found
        if found != widths:
            changed = {label for label, _ in found.items() ^ widths.items()}
            raise ShapeError(
                f"The outputs of the layers {listed(sorted(changed))} differ between batches in "
                "size or number; all stimuli must have the same shape."
            )
        yield torch.cat(list(outputs.values()), dim=1).numpy(), widths, ids


def _check_used(found: Mapping[str, int], exact: set[str]) -> None:
    """Refuse layers asked for by name that the forward pass did not reach."""
    unused = sorted(label for label in exact if not {label, f"{label}#1"} & found.keys())
    if unused or not found:
        raise DataError(
            f"The model's forward pass does not use the layers {listed(unused) or 'chosen'}; "
            "choose layers that it does."
        )


def _collect(
    blocks: Iterable[Block],
    given_ids: list[Any] | None,
    store: Store,
    *,
    progress: bool,
) -> xr.DataArray:
    """Store the blocks as they come and label the whole."""
    ids: list[Any] = []
    bar = tqdm(
        total=store.n_expected, desc="activations", unit=" stimuli", delay=1, disable=not progress
    )
    with store, bar:
        for block, widths, batch_ids in blocks:
            store.append(block, widths)
            ids += range(len(ids), len(ids) + len(block)) if batch_ids is None else batch_ids
            bar.update(len(block))
        if not ids:
            raise DataError("There are no stimuli.")
        return store.finish(_checked_ids(given_ids, ids))


def _checked_ids(given: list[Any] | None, found: list[Any]) -> list[Any]:
    """Prefer the ids given by the caller; refuse repeated ones, and too few or too many."""
    if given is not None and len(given) != len(found):
        raise StimulusError(
            f"There are {len(found)} stimuli and {len(given)} `stimulus_ids`; give one id each."
        )
    ids = found if given is None else given
    check_distinct(pd.Index(ids), "stimulus ids")
    return ids


class Parts:
    """Batches of a run that may stop, each in a file of its own."""

    def __init__(self, path: str | Path | None, stimuli: Any):
        if path is None:
            raise DataError("`resume` needs `path`: batches are kept beside that file.")
        if not isinstance(stimuli, (str, Path, Mapping, Tensor, np.ndarray)):
            raise DataError(
                "`resume` needs stimuli that can be begun anywhere: a tensor or array, a mapping "
                "or a folder, not an iterable of batches."
            )
        self.folder = Path(f"{path}.parts")
        self.done = sorted(self.folder.glob("[0-9]*.npz")) if self.folder.is_dir() else []

    def kept_and_new(self, blocks: Iterable[Block]) -> Iterator[Block]:
        """Give the batches that were kept, then new ones, which are kept; the last one twice."""
        fresh = iter(blocks)
        if self.done:
            self._check(self.done[-1], next(fresh))
            yield from map(self._read, self.done)
        self.folder.mkdir(parents=True, exist_ok=True)
        for number, block in enumerate(fresh, start=len(self.done)):
            rows, *labels = block
            with atomic_path(self.folder / f"{number:06}.npz") as path:
                np.savez(path, rows=rows, labels=json.dumps(labels))
            yield block

    def remove(self) -> None:
        """Delete the parts, once the whole is there."""
        for path in self.folder.glob("[0-9]*.npz"):
            path.unlink()
        self.folder.rmdir()

    def _read(self, path: Path) -> Block:
        try:
            with np.load(path, allow_pickle=False) as file:
                widths, ids = json.loads(str(file["labels"]))
                return file["rows"], widths, ids
        except (OSError, ValueError, KeyError) as error:
            raise FileFormatError(f"{path} cannot be read ({error}); delete it.") from error

    def _check(self, path: Path, again: Block) -> None:
        """Refuse to go on with what is of another model or of other stimuli."""
        rows, widths, ids = self._read(path)
        same = (widths, ids) == (again[1], again[2]) and rows.shape == again[0].shape
        size = float(np.abs(rows).max(initial=0.0))
        if not same or not np.allclose(rows, again[0], rtol=0, atol=1e-3 * size, equal_nan=True):
            raise DataError(
                f"{self.folder} holds {len(self.done)} batches of another model, layers, batch "
                "size or stimuli. Delete that folder, or write to another file."
            )


class Store:
    """Rows of activations: in memory while they fit, else in a file."""

    def __init__(self, path: str | Path | None, *, limit: int, n_expected: int | None):
        self.path = None if path is None else Path(path)
        self.limit = limit
        self.n_expected = n_expected
        self.n_rows = 0
        self.widths: dict[str, int] = {}
        self.values = np.empty((0, 0), dtype=np.float32)
        self.file: FileStore | None = None
        self.stack = ExitStack()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *details: Any) -> None:
        self.stack.__exit__(*details)

    def append(self, rows: np.ndarray, widths: dict[str, int]) -> None:
        """Add the activations (n_stimuli, n_units) of further stimuli."""
        if not self.n_rows:
            self.widths = widths
            self.values = np.empty((0, rows.shape[1]), dtype=np.float32)
        end = self.n_rows + len(rows)
        n_bytes = max(end, self.n_expected or 0) * rows.shape[1] * 4
        if self.file is None and (self.path is not None or n_bytes > self.limit):
            self._move_to_file(n_bytes)
        if self.file is not None:
            self.file.append(rows)
        else:
            if end > len(self.values):
                # realloc: blocks large enough to matter are remapped, not copied
                self.values.resize((max(end, self.n_expected or 0), rows.shape[1]), refcheck=False)
            self.values[self.n_rows : end] = rows
        self.n_rows = end

    def finish(self, ids: list[Any]) -> xr.DataArray:
        """Label the array; one in a file is opened, not read."""
        if self.file is None or self.path is None:
            coords = {"stimulus": ids, **unit_labels(self.widths)}
            return xr.DataArray(
                self.values[: self.n_rows], dims=("stimulus", "unit"), coords=coords
            )
        self.file.finish(ids)
        self.stack.close()
        return open_array(self.path)

    def _move_to_file(self, n_bytes: int) -> None:
        """Go on in a file, with what there is so far."""
        if self.path is None:
            self.path = cache_folder() / "activations" / f"activations-{token_hex(4)}.nc"
            warnings.warn(
                f"The activations ({n_bytes / 2**20:.0f} MiB or more) exceed the memory limit of "
                f"{self.limit / 2**20:.0f} MiB; they are written to {self.path}. Give `path` to "
                "choose the place, or delete that file when it is no longer needed.",
                stacklevel=5,
            )
        temporary = self.stack.enter_context(atomic_path(self.path))
        self.file = FileStore(temporary, self.widths)
        self.stack.callback(self.file.close)
        if self.n_rows:
            self.file.append(self.values[: self.n_rows])
            self.values = np.empty((0, 0), dtype=np.float32)


class FileStore:
    """Rows in a netCDF file of softrsa's schema, written as they come."""

    def __init__(self, path: Path, widths: Mapping[str, int]):
        import netCDF4

        self.path = path
        self.n_rows = 0
        self.file = netCDF4.Dataset(path, "w")
        n_units = sum(widths.values())
        self.file.createDimension("stimulus", None)
        self.file.createDimension("unit", n_units)
        self.data = self.file.createVariable(
            "data",
            "f4",
            ("stimulus", "unit"),
            zlib=True,
            complevel=1,
            chunksizes=(CHUNK_STIMULI, min(n_units, CHUNK_UNITS)),
        )
        self.data.softrsa_schema = "1"
        self.data.coordinates = "layer"
        labels = unit_labels(widths)
        self.file.createVariable("unit", "i8", ("unit",), zlib=True)[:] = labels["unit"]
        self._write_text("layer", "unit", labels["layer"][1])

    def append(self, rows: np.ndarray) -> None:
        """Add the activations of further stimuli."""
        try:
            self.data[self.n_rows : self.n_rows + len(rows)] = rows
        except (OSError, RuntimeError) as error:
            raise OutputError(f"Cannot write {self.path}: {error}.") from error
        self.n_rows += len(rows)

    def finish(self, ids: list[Any]) -> None:
        """Write the stimulus ids."""
        labels = plain_labels(np.asarray(ids))
        kind = str if labels.dtype.kind == "U" else labels.dtype
        values = labels.astype(object) if kind is str else labels
        self.file.createVariable("stimulus", kind, ("stimulus",))[:] = values

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    def _write_text(self, name: str, dim: str, labels: np.ndarray) -> None:
        """Write many labels as compressed characters: strings of their own take minutes."""
        encoded = np.char.encode(labels, "utf-8")
        width = encoded.dtype.itemsize
        self.file.createDimension(f"{name}_length", width)
        variable = self.file.createVariable(name, "S1", (dim, f"{name}_length"), zlib=True)
        variable[:] = encoded.view("S1").reshape(len(encoded), width)
        variable._Encoding = "utf-8"


def unit_labels(widths: Mapping[str, int]) -> dict[str, Any]:
    """Label units by their layer and their place in its flattened output."""
    places = [np.arange(width) for width in widths.values()]
    layers = np.repeat(np.array(list(widths)), list(widths.values()))
    return {"unit": np.concatenate(places), "layer": ("unit", layers)}
