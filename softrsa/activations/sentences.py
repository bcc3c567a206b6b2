"""Encoders of sentences: hidden states of each layer, one vector for each sentence."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from softrsa.errors import DataError, unknown_name
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
        When called, if a sentence is empty, no text, or has more tokens.
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
        filled = [*numbers, *[self.tokenizer.pad_token_id] * (self.length - len(numbers))]
        return torch.tensor(filled)


def sentence_encoder(
    name: str, *, pretrained: bool, tokens: str = "mean"
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
    length = min(MOST_TOKENS, tokenizer.model_max_length)
    n_layers: int = encoder.config.num_hidden_layers
    padding: Any = tokenizer.pad_token_id
    module = SentenceEncoder(encoder, n_layers, padding, tokens)
    return module, Tokens(tokenizer, length)


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
