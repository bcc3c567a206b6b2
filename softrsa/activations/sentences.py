"""Encoders of sentences: hidden states of each layer, one vector for each sentence."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from softrsa.errors import DataError, FileFormatError, FileMissingError, unknown_name
from softrsa.io import atomic_path, cache_folder

MOST_TOKENS = 128


def _mean(states: Tensor, is_token: Tensor) -> Tensor:
    weights = is_token.to(states.dtype)[..., None]
    return (states * weights).sum(1) / weights.sum(1)


def _last(states: Tensor, is_token: Tensor) -> Tensor:
    return states[torch.arange(len(states), device=states.device), is_token.sum(1) - 1]


def _first(states: Tensor, _is_token: Tensor) -> Tensor:
    return states[:, 0]


TOKENS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mean": _mean,
    "last": _last,
    "cls": _first,
}


class SentenceEncoder(nn.Module):
    """A transformer whose layers are pooled over the tokens of each sentence.

    Takes token numbers (n, n_tokens), padded at the end, and gives the last layer, (n, p). The
    modules `layers.embeddings`, `layers.layer1` and so on give what each layer says, likewise.

    Parameters
    ----------
    encoder : torch.nn.Module
        Takes ``input_ids`` and ``attention_mask`` and gives ``hidden_states``.
    n_layers : int
        Layers after the embeddings.
    padding : int
        The number of the token that fills up.
    tokens : {"mean", "last", "cls"}
        Which tokens count: their mean, the last or the first.

    Raises
    ------
    UnknownNameError
        If ``tokens`` is something else.
    """

    def __init__(self, encoder: nn.Module, n_layers: int, padding: int, tokens: str = "mean"):
        super().__init__()
        if tokens not in TOKENS:
            raise unknown_name("way to pool tokens", tokens, TOKENS)
        self.encoder, self.padding, self.tokens = encoder, padding, tokens
        names = ["embeddings", *(f"layer{i + 1}" for i in range(n_layers))]
        self.layers = nn.ModuleDict({name: nn.Identity() for name in names})

    def forward(self, numbers: Tensor) -> Tensor:
        """Encode sentences."""
        is_token = numbers != self.padding
        found = self.encoder(
            input_ids=numbers, attention_mask=is_token.long(), output_hidden_states=True
        )
        pool = TOKENS[self.tokens]
        layers = zip(self.layers.values(), found.hidden_states, strict=True)
        return [layer(pool(states, is_token)) for layer, states in layers][-1]


class Tokens:
    """Turns a sentence into token numbers (n_tokens,), filled up to the same length.

    Parameters
    ----------
    tokenizer : callable
        Of the library `transformers`.
    length : int
        Most tokens.

    Raises
    ------
    DataError
        When called, if a sentence is empty, no text, or has more tokens, or the one that fills up.
    """

    def __init__(self, tokenizer: Any, length: int):
        self.tokenizer, self.length = tokenizer, length

    def __call__(self, sentence: str) -> Tensor:
        """Look up the numbers of the tokens."""
        if not isinstance(sentence, str) or not sentence.strip():
            raise DataError(f"A sentence must be text, and not empty, got {sentence!r}.")
        numbers = self.tokenizer(sentence)["input_ids"]
        if len(numbers) > self.length:
            raise DataError(
                f"The sentence {sentence[:40]!r}... has {len(numbers)} tokens; this model takes "
                f"{self.length} at most. Split it."
            )
        if self.tokenizer.pad_token_id in numbers:
            raise DataError(
                f"The sentence {sentence[:40]!r} has the token with which this model fills up "
                f"({self.tokenizer.pad_token_id}), so that its end cannot be told: leave it out."
            )
        filled = [*numbers, *[self.tokenizer.pad_token_id] * (self.length - len(numbers))]
        return torch.tensor(filled)


def sentence_encoder(
    name: str, *, pretrained: bool, tokens: str = "mean", most: int = MOST_TOKENS
) -> tuple[SentenceEncoder, Tokens]:
    """Build an encoder and its tokenizer with the library `transformers`."""
    library: Any = import_module("transformers")
    library.logging.disable_progress_bar()
    tokenizer = library.AutoTokenizer.from_pretrained(name)
    if pretrained:
        encoder = library.AutoModel.from_pretrained(name, use_safetensors=True)
    else:
        encoder = library.AutoModel.from_config(library.AutoConfig.from_pretrained(name))
    if tokenizer.pad_token_id is None:  # as of models that continue texts
        tokenizer.pad_token = tokenizer.eos_token
    length = min(MOST_TOKENS, most, tokenizer.model_max_length)
    n_layers: int = encoder.config.num_hidden_layers
    padding: Any = tokenizer.pad_token_id
    module = SentenceEncoder(encoder, n_layers, padding, tokens)
    return module, Tokens(tokenizer, length)


POOLING = {  # of sentence-transformers, as it writes it since version 5.4, and what was called so
    "mean": "mean", "lasttoken": "last", "cls": "cls", "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last", "pooling_mode_cls_token": "cls",
}  # fmt: skip


@dataclass(frozen=True)
class SentenceFolder:
    """What a folder of sentence-transformers says.

    Attributes
    ----------
    transformer : Path
        The folder of the encoder, as `transformers` reads it.
    tokens : str
        Which tokens count.
    most : int
        Most tokens of a sentence.
    """

    transformer: Path
    tokens: str
    most: int


def sentence_folder(folder: Path, tokens: str | None = None) -> SentenceFolder:
    """Read how a folder of sentence-transformers makes one vector; refuse what is not understood.

    With ``tokens`` its own pooling does not count.
    """
    if not (folder / "modules.json").is_file():
        raise FileMissingError(
            f"{folder} is no folder of sentence-transformers: it has no modules.json. What the "
            "library transformers wrote is read with `transformers:FOLDER`."
        )
    kinds = {one["type"].split(".")[-1]: folder / one["path"] for one in _json(folder / MODULES)}
    if [*kinds][:2] != KNOWN[:2] or not {*kinds} <= {*KNOWN}:
        raise FileFormatError(
            f"{folder} has the modules {', '.join(kinds)}; read here are {', '.join(KNOWN)}, in "
            "this order. Take `transformers:FOLDER` for its encoder alone."
        )
    said = _json(kinds["Transformer"] / "sentence_bert_config.json")
    prompt = _json(folder / "config_sentence_transformers.json").get("default_prompt_name")
    if said.get("do_lower_case") or prompt:
        raise FileFormatError(
            f"{folder} changes sentences before it encodes them "
            f"({'the prompt ' + repr(prompt) if prompt else 'lower case'}), which is not done "
            "here: change yours so, and take `transformers:FOLDER`."
        )
    own = tokens or _pooling(kinds["Pooling"])
    return SentenceFolder(kinds["Transformer"], own, said.get("max_seq_length") or MOST_TOKENS)


MODULES = "modules.json"
KNOWN = ["Transformer", "Pooling", "Normalize"]


def _pooling(folder: Path) -> str:
    """Find which tokens a folder's pooling takes."""
    config = _json(folder / "config.json")
    named = config.get("pooling_mode", [])
    named = [named] if isinstance(named, str) else named
    modes = named or [key for key in config if key.startswith("pooling_mode_") and config[key]]
    if len(modes) != 1 or modes[0] not in POOLING:
        raise FileFormatError(
            f"{folder / 'config.json'} pools tokens by {' and '.join(modes) or 'nothing'}; known "
            f"are {', '.join(POOLING)}. Say which tokens to take with `tokens='mean'`, 'last' or "
            "'cls'."
        )
    return POOLING[modes[0]]


def _json(path: Path) -> Any:
    """Read a file of settings; one that is not there has none."""
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise FileFormatError(f"{path} cannot be read as JSON ({error}).") from error


def unpacked(archive: str | Path, name: str) -> Path:
    """Unpack a model once, into the cache folder; give the folder that holds its configuration."""
    folder = cache_folder() / "models" / name
    done = folder / "unpacked.json"
    if not done.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(folder)
        with atomic_path(done) as path:
            path.write_text(json.dumps(sorted(map(str, folder.rglob("*")))), encoding="utf-8")
    return next(path.parent for path in sorted(folder.rglob("config.json")) if _is_model(path))


def _is_model(path: Path) -> bool:
    """Tell the configuration of a model from that of its pooling and the like."""
    return "num_hidden_layers" in path.read_text(encoding="utf-8")
