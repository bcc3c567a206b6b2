"""Run a model over stimuli and keep what its layers return, in memory or in a file."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
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
from softrsa.activations.stimuli import Batch, iterate_batches
from softrsa.errors import (
    DataError,
    FileFormatError,
    ShapeError,
    StimulusError,
    unknown_name,
)
from softrsa.io import OutputError, atomic_path, cache_folder, open_array
from softrsa.io.schema import check_distinct, plain_labels

LEAVES = "leaves"
CHUNK_UNITS = 4096  # × 64 stimuli × 4 bytes = 1 MiB
CHUNK_STIMULI = 64
# the activations of a batch (n_stimuli, n_units), the widths of layers, and ids
Block = tuple[np.ndarray, dict[str, int], list[Any] | None]


def choose_layers(
    model: nn.Module, layers: str | Iterable[str] | Mapping[str, str]
) -> tuple[dict[str, str], set[str]]:
    """Resolve names, globs and ``"leaves"`` to label → module name, and tell the exact ones."""
    names = [name for name, _ in model.named_modules() if name]
    if isinstance(layers, Mapping):
        for name in layers.values():
            if name not in names:
                raise unknown_name("layer", name, names)
        return dict(layers), set(layers)
    chosen: dict[str, str] = {}
    exact: set[str] = set()
    for pattern in [layers] if isinstance(layers, str) else layers:
        found = _matches(model, pattern, names)
        if not found:
            raise unknown_name("layer", pattern, names)
        exact |= {pattern} & set(found)
        chosen |= {name: name for name in found}
    if not chosen:
        raise DataError("`layers` is empty; name at least one layer.")
    return chosen, exact


def _matches(model: nn.Module, pattern: str, names: list[str]) -> list[str]:
    """Find the modules a name, a glob or ``"leaves"`` means."""
    if pattern in names:
        return [pattern]
    if pattern == LEAVES:
        return [n for n, module in model.named_modules() if n and not any(module.children())]
    parts = re.split(r"(\*\*|\*|\?)", pattern)
    meaning = {"**": ".*", "*": r"[^.]*", "?": r"[^.]"}
    regex = re.compile("".join(meaning.get(part, re.escape(part)) for part in parts))
    return [name for name in names if regex.fullmatch(name)]


class Recorder:
    """Reads the outputs of modules during one forward pass at a time."""

    def __init__(self, model: nn.Module, layers: Mapping[str, str], pool: Callable):
        modules = dict(model.named_modules())
        self.pool = pool
        self.outputs: dict[str, list[Tensor]] = {label: [] for label in layers}
        self.handles = [
            modules[name].register_forward_hook(self._hook(label)) for label, name in layers.items()
        ]

    def _hook(self, label: str) -> Callable[[nn.Module, Any, Any], None]:
        """Make the hook of one layer; it copies, as later modules may write in place."""

        def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
            first = output[0] if isinstance(output, (tuple, list)) and output else output
            if not isinstance(first, Tensor):
                raise DataError(
                    f"Layer {label!r} returns a {type(output).__name__}, not a tensor; choose a "
                    "layer inside or after it."
                )
            pooled = self.pool(first.detach(), label)
            self.outputs[label].append(pooled.to("cpu", torch.float32, copy=True))

        return keep

    def take(self, n_stimuli: int) -> dict[str, Tensor]:
        """Give the outputs of the last pass, (n_stimuli, n_units) by label, and forget them."""
        taken = {}
        for label, calls in self.outputs.items():
            for i, output in enumerate(calls, start=1):
                if len(output) != n_stimuli:
                    raise ShapeError(
                        f"Layer {label!r} returned {len(output)} rows for {n_stimuli} stimuli; its "
                        "first axis must be the batch."
                    )
                taken[label if len(calls) == 1 else f"{label}#{i}"] = output
            calls.clear()
        return taken

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_details: object) -> None:
        for handle in self.handles:
            handle.remove()


@contextmanager
def borrowed(model: nn.Module, device: torch.device | None) -> Iterator[Callable[[Tensor], object]]:
    """Give a forward pass in eval mode on a device; leave the model exactly as it was."""
    training = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with torch.no_grad():
            yield _forward_on(model, device)
    finally:
        for module, flag in training:
            module.training = flag


def _forward_on(model: nn.Module, device: torch.device | None) -> Callable[[Tensor], object]:
    """Make a forward pass that brings batches to where the weights are, or both to a device."""
    parameter = next(model.parameters(), None)
    held = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    if device is None and parameter is not None:
        device = parameter.device
    elsewhere = device is not None and any(tensor.device != device for tensor in held.values())
    # copies lent for the pass, instead of `model.to`, which would move weights, gradients and all
    lent = {name: tensor.to(device) for name, tensor in held.items()} if elsewhere else {}

    def forward(batch: Tensor) -> object:
        dtype = parameter.dtype if parameter is not None and batch.is_floating_point() else None
        batch = batch.to(device=device, dtype=dtype)
        return torch.func.functional_call(model, lent, (batch,)) if lent else model(batch)

    return forward


def extract_activations(
    model: nn.Module,
    stimuli: Any,
    layers: str | Iterable[str] | Mapping[str, str],
    *,
    stimulus_ids: Sequence[str] | Sequence[int] | None = None,
    preprocess: Callable[[Any], Tensor] | None = None,
    batch_size: int = 32,
    pool: Literal["flatten", "mean"] = "flatten",
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
        Any model that takes a batch of stimuli as its one argument.
    stimuli : tensor, ndarray, mapping, iterable or path
        A tensor or array (n, ...); a mapping of stimulus ids to arrays; an iterable of batches
        (tensors, or pairs of a tensor and its ids); or a folder of images, whose ids are the file
        names without suffix, sorted.
    layers : str, iterable of str, or mapping
        Module names as in ``model.named_modules()``; globs, in which ``*`` stops at dots and ``**``
        does not; ``"leaves"``, all modules without children; or a mapping of labels to names.
        Modules that a glob or ``"leaves"`` finds but the model does not use are left out.
    stimulus_ids : sequence of str or int, optional
        Ids in the order of the stimuli; by default those that come with the stimuli, or 0, 1, ...
    preprocess : callable, optional
        Turns one stimulus into the model's input (a tensor without batch axis); folders of images
        are opened with PIL as RGB and given to `preprocess_image` by default.
    batch_size : int
        Stimuli per pass; an iterable of batches keeps its own.
    pool : {"flatten", "mean"}
        Keep all of a layer's output, or its mean over all but the batch and channel axes (0, 1).
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
        With the coordinates `layer` and `unit` (the place in the layer's flattened output). Of a
        module that returns a tuple the first tensor is taken; the calls of a module that is used
        several times in one pass are labeled ``name#1``, ``name#2``, ...

    Raises
    ------
    UnknownNameError
        If the model has no such layer, or ``pool`` is not known.
    DeviceError
        If the device is not there.
    DataError
        If there are no stimuli, a layer is not used or returns no tensor, or what a stopped run
        kept is of another model or other stimuli.
    ShapeError
        If a layer's output has no batch axis, or changes its size between batches.
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
    if pool not in POOLS:
        raise unknown_name("pooling (`pool`)", pool, POOLS)
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
    with borrowed(model, where) as forward, Recorder(model, chosen, POOLS[pool]) as recorder:
        blocks = _run(forward, batches, recorder, exact)
        blocks = blocks if parts is None else parts.kept_and_new(blocks)
        found = _collect(blocks, ids, store, progress=progress)
    if parts is not None:
        parts.remove()
    return found


def list_layers(model: nn.Module, batch: Tensor) -> pd.DataFrame:
    """List the modules that a model uses, in the order of use, and what they return.

    Parameters
    ----------
    model : torch.nn.Module
        Any model that takes a batch of stimuli as its one argument.
    batch : Tensor, shape (n, ...)
        Some stimuli, preprocessed.

    Returns
    -------
    DataFrame
        `layer`, a name of ``model.named_modules()``; `module`, its class; `shape` of its output for
        one stimulus; `units`, how many numbers that is; `calls`, how often it is used. A module
        that returns no tensor has neither shape nor units.

    Examples
    --------
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    >>> list_layers(model, torch.zeros(1, 3, 5, 5))[["layer", "shape", "units"]]
      layer      shape  units
    0     0  8 × 3 × 3     72
    1     1  8 × 3 × 3     72
    """
    used: dict[str, list[Any]] = {}

    def hook(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def note(_module: nn.Module, _inputs: Any, output: Any) -> None:
            first = output[0] if isinstance(output, (tuple, list)) and output else output
            used.setdefault(name, []).append(first.shape[1:] if isinstance(first, Tensor) else None)

        return note

    modules = {name: module for name, module in model.named_modules() if name}
    with ExitStack() as stack, borrowed(model, None) as forward:
        for name, module in modules.items():
            stack.callback(module.register_forward_hook(hook(name)).remove)
        forward(batch)
    rows = [
        (
            name, type(modules[name]).__name__,
            "no tensor" if shapes[0] is None else " × ".join(map(str, shapes[0])) or "1",
            0 if shapes[0] is None else shapes[0].numel(), len(shapes),
        )
        for name, shapes in used.items()
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["layer", "module", "shape", "units", "calls"])


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


def _run(
    forward: Callable[[Tensor], object],
    batches: Iterable[Batch],
    recorder: Recorder,
    exact: set[str],
) -> Iterator[Block]:
    """Give the activations (n_stimuli, n_units) of each batch, the layers' widths, and ids."""
    widths: dict[str, int] | None = None
    for batch, ids in batches:
        forward(batch)
        outputs = recorder.take(len(batch))
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
