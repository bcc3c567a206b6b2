"""Features of any torch network: its classifier taken off, tokens and maps pooled."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from softrsa.errors import DataError, DTypeError, ShapeError, unknown_name

Pool = Literal["mean", "first", "channels_first"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]
CLASSIFIERS = ("fc", "_fc", "classifier", "head", "heads", "last_linear")
OUTPUTS = ("last_hidden_state", "pooler_output", "image_embeds", "text_embeds", "logits")


class Attached(nn.Module):
    """A network that gives features (n, n_features); see `attach`.

    ``precision`` is that of its computations by `torch.autocast`, features being float32 then; None
    is that of inputs and weights.
    """

    precision: torch.dtype | None = None

    def __init__(self, module: nn.Module, layer: str | None, pool: Pool):
        super().__init__()
        self.module, self.layer = module, layer
        self.pool: Pool = pool

    def forward(self, inputs: Tensor | Mapping[str, Tensor]) -> Tensor:
        """Compute features (n, n_features) of inputs (n, ...), or of a mapping of them by name."""
        if self.precision is None:
            return self._features(inputs)
        first = inputs if isinstance(inputs, Tensor) else next(iter(inputs.values()))
        with torch.autocast(first.device.type, dtype=self.precision):
            return self._features(inputs).float()

    def _features(self, inputs: Tensor | Mapping[str, Tensor]) -> Tensor:
        output = self._call(inputs) if self.layer is None else self._reach(inputs, self.layer)
        mask = inputs.get("attention_mask") if isinstance(inputs, Mapping) else None
        return pool_features(_tensor_of(output), self.pool, mask)

    def _call(self, inputs: Tensor | Mapping[str, Tensor]) -> object:
        try:
            return self.module(**inputs) if isinstance(inputs, Mapping) else self.module(inputs)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            tensors = [inputs] if isinstance(inputs, Tensor) else inputs.values()
            if not any(tensor.dtype == torch.uint8 for tensor in tensors):
                raise
            raise DTypeError(
                f"The extractor must be able to compute with its inputs, of type uint8 ({error}). "
                "Convert images to float and scale them as in its training, for instance "
                "`images.float() / 255`."
            ) from error

    def _reach(self, inputs: Tensor | Mapping[str, Tensor], layer: str) -> object:
        """Run until the layer has its output; what comes after it is not computed."""

        def stop(_module: nn.Module, _inputs: object, output: object) -> None:
            raise _ReachedError(output)

        handle = self.module.get_submodule(layer).register_forward_hook(stop)
        try:
            self._call(inputs)
        except _ReachedError as reached:
            return reached.output
        finally:
            handle.remove()
        raise DataError(
            f"The network's forward pass does not use the layer {layer!r}; choose one that it does."
        )

    def extra_repr(self) -> str:
        """Show what is taken and how it is pooled."""
        return f"layer={self.layer!r}, pool={self.pool!r}"


class _ReachedError(Exception):
    """Ends a forward pass at the layer whose output is wanted."""

    def __init__(self, output: object):
        super().__init__()
        self.output = output


def attach(
    extractor: nn.Module,
    *,
    layer: str | None = None,
    classifier: str | None = "auto",
    pool: Pool = "mean",
) -> Attached:
    """Make a network that gives one row of features per sample from any torch network.

    Of an output object the first there is of ``last_hidden_state``, ``pooler_output``,
    ``image_embeds``, ``text_embeds`` and ``logits`` is taken, of a tuple the first tensor. Maps
    (n, channels, height, width) are averaged over places, tokens (n, n_tokens, n_features) pooled,
    features (n, n_features) left as they are. The output (n, channels, length) of 1-D convolutions
    looks like tokens: it needs ``pool="channels_first"``.

    Parameters
    ----------
    extractor : Module
        A CNN, a transformer, an MLP, with or without a classifier; it is copied, not changed. A
        mapping of inputs is given to it as named arguments.
    layer : str, optional
        Take the output of this submodule, for instance ``"blocks.3"``, instead of the last one.
    classifier : str or None
        Submodule to leave out. "auto": the last linear layer in the last child named ``fc``,
        ``_fc``, ``classifier``, ``head``, ``heads`` or ``last_linear``; none if there is no such
        child. None: none. With ``layer``, none is left out.
    pool : {"mean", "first", "channels_first"}
        Of tokens: their mean, over those with a 1 in the inputs' ``attention_mask`` if there is
        one, or the first, which is the class token of many transformers. "channels_first": the
        output has its features before its places, as that of 1-D convolutions (n, channels,
        length), whose mean over the length is taken, in the same way.

    Returns
    -------
    Attached
        From inputs (n, ...) to features (n, n_features), in the mode of ``extractor``. It raises
        `ShapeError` where an output has another number of dimensions.

    Raises
    ------
    DTypeError
        If ``extractor`` is not a Module.
    UnknownNameError
        If ``pool`` is not known, or ``layer`` or ``classifier`` is not a submodule.
    DataError
        If ``layer`` and ``classifier`` are both given.

    Examples
    --------
    >>> from collections import OrderedDict
    >>> body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    >>> parts = OrderedDict(body=body, pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten())
    >>> network = nn.Sequential(parts | {"fc": nn.Linear(8, 1000)})
    >>> attach(network)(torch.zeros(5, 3, 16, 16)).shape
    torch.Size([5, 8])
    >>> attach(network, layer="body.0")(torch.zeros(5, 3, 16, 16)).shape
    torch.Size([5, 8])
    """
    if not isinstance(extractor, nn.Module):
        raise DTypeError(f"`extractor` must be a torch Module, got {type(extractor).__name__}.")
    if pool not in get_args(Pool):
        raise unknown_name("pooling (`pool`)", pool, get_args(Pool))
    module = deepcopy(extractor)
    names = [name for name, _ in module.named_modules() if name]
    if layer is not None:
        if classifier not in ("auto", None):
            raise DataError("Give `layer` or `classifier`: what follows the layer is not computed.")
        if layer not in names:
            raise unknown_name("layer", layer, names)
        return Attached(module, layer, pool)
    found = _find_classifier(module) if classifier == "auto" else classifier
    if found is not None:
        if found not in names:
            raise unknown_name("classifier", found, names)
        parent, _, name = found.rpartition(".")
        setattr(module.get_submodule(parent), name, nn.Identity())
    return Attached(module, None, pool)


def _find_classifier(module: nn.Module) -> str | None:
    """Name the last linear layer within the last child named like a classifier."""
    children = [name for name, _ in module.named_children() if name in CLASSIFIERS]
    if not children:
        return None
    last = children[-1]
    linear = [
        f"{last}.{name}" if name else last
        for name, member in module.get_submodule(last).named_modules()
        if isinstance(member, nn.Linear)
    ]
    return linear[-1] if linear else None


def pool_features(output: Tensor, pool: Pool, mask: Tensor | None = None) -> Tensor:
    """Pool maps or tokens to (n, n_features); a mask (n, n_tokens) has 1 for tokens that count."""
    if output.ndim == 2:
        return output
    if output.ndim == 4:
        return nn.functional.adaptive_avg_pool2d(output, 1).flatten(1)
    if output.ndim != 3:
        raise ShapeError(
            "The extractor must give features (n, n_features), tokens (n, n_tokens, n_features) or "
            f"maps (n, channels, height, width), got {tuple(output.shape)}. Name a `layer` that "
            "does, or wrap the extractor in a module that does."
        )
    if pool == "first":
        return output[:, 0]
    if pool == "channels_first":
        output = output.mT
    if mask is None:
        return output.mean(1)
    if mask.shape != output.shape[:2]:
        raise ShapeError(
            f"`attention_mask` has the shape {tuple(mask.shape)} for tokens of the shape "
            f"{tuple(output.shape)}; leave it out of the inputs, or use pool='first'."
        )
    share = mask.to(output.dtype).unsqueeze(-1)
    return (output * share).sum(1) / share.sum(1).clamp_min(1)  # a sample of no token gives 0


def _tensor_of(output: Any) -> Tensor:
    """Take the tensor of features out of what a network returns."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, (tuple, list)) and output and isinstance(output[0], Tensor):
        return output[0]
    for name in OUTPUTS:
        value = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
        if isinstance(value, Tensor):
            return value
    raise DTypeError(
        "The extractor must return a tensor, a tuple that begins with one, or an object with one "
        f"of {', '.join(OUTPUTS)}, got {type(output).__name__}. Name a `layer` that does."
    )


def resolve_precision(precision: str, device: torch.device) -> torch.dtype | None:
    """Find the type for mixed precision on a device; None for float32 throughout."""
    if precision not in get_args(Precision):
        raise unknown_name("precision", precision, get_args(Precision))
    if precision == "float32" or (precision == "auto" and device.type != "cuda"):
        return None
    if precision == "auto":
        bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if bfloat16 else torch.float16
    return torch.bfloat16 if precision == "bfloat16" else torch.float16
