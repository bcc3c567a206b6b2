"""A model's layers by name: which are meant, what they return in a forward pass, and its parts."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn

from softrsa.activations.stimuli import Inputs, count
from softrsa.errors import DataError, ShapeError, unknown_name

LEAVES = "leaves"
WHOLE = re.compile(r"(?P<module>[^\[\]]*)(?P<path>(?:\[[^\[\]]+\])*)")
Keys = tuple[str, ...]  # such as ("1", "logits"), of `[1][logits]`


class Layer(NamedTuple):
    """What a name of a layer means: a module, and a part of what it returns."""

    module: str
    path: Keys = ()

    def __str__(self) -> str:
        return self.module + written(self.path)


def written(path: Keys) -> str:
    """Write a path as in the name of a layer, such as ``[1][logits]``."""
    return "".join(f"[{key}]" for key in path)


def choose_layers(
    model: nn.Module, layers: str | Iterable[str] | Mapping[str, str]
) -> tuple[dict[str, Layer], set[str]]:
    """Resolve names, globs and ``"leaves"`` to label → layer, and tell the exact ones."""
    if isinstance(layers, Mapping):
        named = {label: _layer(name) for label, name in layers.items()}
        modules = [name for name, _ in model.named_modules()]
        for layer in named.values():
            if layer.module not in modules or layer == Layer(""):
                raise unknown_name("layer", str(layer), modules[1:])
        return named, set(named)
    chosen: dict[str, Layer] = {}
    exact: set[str] = set()
    for pattern in [layers] if isinstance(layers, str) else layers:
        found, is_exact = _matches(model, pattern)
        if not found:
            raise unknown_name("layer", pattern, [n for n, _ in model.named_modules() if n])
        named = {str(layer): layer for layer in found}
        exact |= set(named) if is_exact else set()
        chosen |= named
    if not chosen:
        raise DataError("`layers` is empty; name at least one layer.")
    return chosen, exact


def _layer(name: str) -> Layer:
    """Take a name apart: a module, and what is in brackets after it."""
    whole = WHOLE.fullmatch(name)
    if whole is None:
        return Layer(name)
    keys = re.findall(r"\[([^\[\]]+)\]", whole["path"])
    return Layer(whole["module"], tuple(key.strip().strip("'\"") for key in keys))


def _matches(model: nn.Module, pattern: str) -> tuple[list[Layer], bool]:
    """Find the layers a name, a glob or ``"leaves"`` means, and whether it is a name."""
    modules = dict(model.named_modules())
    names = [name for name in modules if name]
    if pattern in names:
        return [Layer(pattern)], True
    glob, path = _layer(pattern)
    if glob in names or (not glob and path):  # or a part of what the model itself returns
        return [Layer(glob, path)], True
    if glob == LEAVES:
        return [Layer(n, path) for n in names if not any(modules[n].children())], False
    parts = re.split(r"(\*\*|\*|\?)", glob)
    meaning = {"**": ".*", "*": r"[^.]*", "?": r"[^.]"}
    regex = re.compile("".join(meaning.get(part, re.escape(part)) for part in parts))
    return [Layer(name, path) for name in names if regex.fullmatch(name)], False


def tensors_in(output: Any) -> dict[Keys, Tensor]:
    """Find the tensors in what a module returns, by path.

    It may be a tensor, or tuples, lists, mappings and dataclasses of them, one in the other; what
    is none of these, such as None or a cache, is left out.

    Examples
    --------
    >>> found = tensors_in((torch.ones(2, 3), {"h": torch.zeros(2), "n": 4}))
    >>> [written(path) for path in found]
    ['[0]', '[1][h]']
    """
    if isinstance(output, Tensor):
        return {(): output}
    parts: Iterable[tuple[Any, Any]] = ()
    if isinstance(output, Mapping):
        parts = output.items()
    elif isinstance(output, (tuple, list)):
        parts = enumerate(output)
    elif is_dataclass(output) and not isinstance(output, type):
        parts = [(one.name, getattr(output, one.name)) for one in fields(output)]
    return {
        (str(key), *path): tensor
        for key, part in parts
        for path, tensor in tensors_in(part).items()
    }


def chosen_tensor(output: Any, layer: Layer, label: str) -> tuple[Keys, Tensor]:
    """Take the tensor that a path means, or the only one; refuse to choose among several."""
    found = tensors_in(output)
    kind = type(output).__name__
    if not found:
        raise DataError(
            f"Layer {label!r} returns a {kind}, not a tensor, nor a tuple, list or mapping with "
            "one in it; choose a layer inside or after it."
        )
    inside = {path: found[path] for path in found if path[: len(layer.path)] == layer.path}
    if len(inside) == 1:
        return next(iter(inside.items()))
    shown = [f"{layer.module}{written(path)}" for path in found]
    if not inside and list(found) == [()]:
        raise DataError(
            f"Layer {layer.module!r} returns one tensor: leave {written(layer.path)} out."
        )
    if not inside:
        raise unknown_name("layer", str(layer), shown)
    sizes = ", ".join(
        f"{layer.module}{written(path)} ({_size(tensor.shape)})" for path, tensor in inside.items()
    )
    raise DataError(
        f"Layer {label!r} returns a {kind} with {len(inside)} tensors; name the one to keep: "
        f"{sizes}."
    )


def _size(shape: Iterable[int]) -> str:
    return " × ".join(map(str, shape)) or "a single number"


def check_first_axis(module: nn.Module, path: Keys, label: str) -> None:
    """Refuse outputs of torch's own modules whose first axis is not the stimuli, whatever its size.

    An output of as many rows as stimuli would be taken for one row per stimulus.
    """
    recurrent = isinstance(module, nn.RNNBase)
    if recurrent and path[:1] == ("1",):
        raise ShapeError(
            f"Layer {label!r} is the last state of a {type(module).__name__}, whose first axis is "
            "its layers, not the stimuli: return what you need of it as (stimulus, ...) from a "
            "module of yours and take that."
        )
    by_time = recurrent or (isinstance(module, nn.MultiheadAttention) and path[:1] == ("0",))
    if by_time and not module.batch_first:
        raise ShapeError(
            f"Layer {label!r} is a {type(module).__name__} with `batch_first=False`, whose first "
            "axis is time, not the stimuli: take a layer after it whose first axis is the "
            "stimuli, or build it with `batch_first=True`."
        )


class Recorder:
    """Reads the outputs of layers during one forward pass at a time."""

    def __init__(
        self, model: nn.Module, layers: Mapping[str, Layer], pool: Callable[[Tensor, str], Tensor]
    ):
        modules = dict(model.named_modules())
        self.pool = pool
        self.outputs: dict[str, list[Tensor]] = {label: [] for label in layers}
        self.handles = [
            modules[layer.module].register_forward_hook(self._hook(label, layer))
            for label, layer in layers.items()
        ]

    def _hook(self, label: str, layer: Layer) -> Callable[[nn.Module, Any, Any], None]:
        """Make the hook of one layer; it copies, as later modules may write in place."""

        def keep(module: nn.Module, _inputs: Any, output: Any) -> None:
            path, tensor = chosen_tensor(output, layer, label)
            check_first_axis(module, path, label)
            pooled = self.pool(tensor.detach(), label)
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
                        f"first axis must be the batch.{_folded(len(output), n_stimuli)}"
                    )
                taken[label if len(calls) == 1 else f"{label}#{i}"] = output
            calls.clear()
        return taken

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_details: object) -> None:
        for handle in self.handles:
            handle.remove()


def _folded(n_rows: int, n_stimuli: int) -> str:
    """Say what several rows for each stimulus may be."""
    if n_rows % n_stimuli or not n_rows:
        return ""
    return (
        f" There are {n_rows // n_stimuli} for each, perhaps frames or windows: take a layer "
        "after they are put together again."
    )


@contextmanager
def borrowed(model: nn.Module, device: torch.device | None) -> Iterator[Callable[[Inputs], object]]:
    """Give a forward pass in eval mode on a device; leave the model exactly as it was."""
    training = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with torch.no_grad():
            yield _forward_on(model, device)
    finally:
        for module, flag in training:
            module.training = flag


def _forward_on(model: nn.Module, device: torch.device | None) -> Callable[[Inputs], object]:
    """Make a forward pass that brings batches to where the weights are, or both to a device."""
    parameter = next(model.parameters(), None)
    held = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    if device is None and parameter is not None:
        device = parameter.device
    elsewhere = device is not None and any(tensor.device != device for tensor in held.values())
    # copies lent for the pass, instead of `model.to`, which would move weights, gradients and all
    lent = {name: tensor.to(device) for name, tensor in held.items()} if elsewhere else {}

    def brought(tensor: Tensor) -> Tensor:
        dtype = parameter.dtype if parameter is not None and tensor.is_floating_point() else None
        return tensor.to(device=device, dtype=dtype)

    def forward(batch: Inputs) -> object:
        named = batch if isinstance(batch, dict) else {}
        plain = () if isinstance(batch, dict) else batch if isinstance(batch, tuple) else (batch,)
        inputs = tuple(map(brought, plain))
        options = {name: brought(tensor) for name, tensor in named.items()}
        if lent:
            return torch.func.functional_call(model, lent, inputs, options)
        return model(*inputs, **options)

    return forward


def list_layers(model: nn.Module, batch: Inputs) -> pd.DataFrame:
    """List the modules that a model uses, in the order of use, and what they return.

    Parameters
    ----------
    model : torch.nn.Module
        Any model that takes a batch of stimuli.
    batch : Tensor, shape (n, ...), or tuple or dict of them
        Some stimuli, preprocessed; several inputs as a tuple, or a dict by the names of arguments.

    Returns
    -------
    DataFrame
        `layer`, a name of ``model.named_modules()``, with the path to each tensor, as in
        ``lstm[1][0]`` or ``decoder[logits]``, where it returns several; `module`, its class;
        `shape` of its output for one stimulus; `units`, how many numbers that is; `calls`, how
        often it is used. A module that returns no tensor, or one whose first axis is not the
        stimuli, has no units. Parts of what the model itself returns are named ``[logits]``.

    Examples
    --------
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    >>> list_layers(model, torch.zeros(1, 3, 5, 5))[["layer", "shape", "units"]]
      layer      shape  units
    0     0  8 × 3 × 3     72
    1     1  8 × 3 × 3     72
    """
    n = count(batch)
    rows: dict[str, list[Any]] = {}

    def hook(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def note(module: nn.Module, _inputs: Any, output: Any) -> None:
            for row in _rows(Layer(name), module, output, n):
                rows.setdefault(row[0], [*row, 0])[-1] += 1

        return note

    with ExitStack() as stack, borrowed(model, None) as forward:
        for name, module in model.named_modules():
            stack.callback(module.register_forward_hook(hook(name)).remove)
        forward(batch)
    return pd.DataFrame([*rows.values()], columns=["layer", "module", "shape", "units", "calls"])


def _rows(layer: Layer, module: nn.Module, output: Any, n: int) -> Iterator[tuple[Any, ...]]:
    """Give name, class, shape and units of each tensor that a module returns."""
    found = tensors_in(output)
    kind = type(module).__name__
    if not layer.module and (len(found) < 2 or isinstance(output, Tensor)):
        return  # the model itself, whose one output is that of its last layer
    if not found:
        yield layer.module, kind, "no tensor", 0
    for path, tensor in found.items():
        name = layer.module if len(found) == 1 else str(Layer(layer.module, path))
        if _by_stimulus(module, path, tensor, n):
            yield name, kind, " × ".join(map(str, tensor.shape[1:])) or "1", tensor[0].numel()
        else:
            yield name, kind, f"{_size(tensor.shape)}, not by stimulus", 0


def _by_stimulus(module: nn.Module, path: Keys, tensor: Tensor, n: int) -> bool:
    """Tell whether the first axis of an output is that of the stimuli."""
    try:
        check_first_axis(module, path, "")
    except ShapeError:
        return False
    return tensor.ndim > 0 and len(tensor) == n
