"""Which modules of a model are meant, and hooks that read what they return."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from softrsa.errors import DataError, ShapeError, unknown_name

__all__ = ["Recorder", "borrowed", "choose_layers"]

LEAVES = "leaves"


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
