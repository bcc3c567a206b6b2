"""Sentences: tokens pooled by layer, and the real encoder where it is installed."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from softrsa.activations import extract_activations, load_model
from softrsa.activations.sentences import SentenceEncoder, Tokens
from softrsa.cli import main
from softrsa.errors import DataError, FileMissingError, UnknownNameError
from softrsa.recordings import split_units

SENTENCES = {"a": "one two", "b": "one two three four", "c": "four"}
WORDS = {"": 0, "one": 1, "two": 2, "three": 3, "four": 4}


class Encoder(nn.Module):
    """Two layers that tell where padding would leak in."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(5, 3)

    def forward(self, input_ids, attention_mask, *, output_hidden_states):
        states = self.table(input_ids)
        return SimpleNamespace(hidden_states=(states, 2 * states, states**2))


class Tokenizer:
    """Splits at spaces."""

    pad_token_id = 0

    def __call__(self, text):
        return {"input_ids": [WORDS[word] for word in text.split()]}


@pytest.mark.parametrize("tokens", ["mean", "last", "cls"])
def test_only_tokens_of_the_sentence_count(tokens):
    torch.manual_seed(0)
    encoder = Encoder()
    module = SentenceEncoder(encoder, 2, 0, tokens)
    found = extract_activations(
        module, SENTENCES, "layers.*", preprocess=Tokens(Tokenizer(), 6), progress=False
    )
    table = encoder.table.weight.detach().numpy()
    pool = {"mean": lambda x: x.mean(0), "last": lambda x: x[-1], "cls": lambda x: x[0]}[tokens]
    layers = split_units(found, "layer")
    assert list(layers) == ["layers.embeddings", "layers.layer1", "layers.layer2"]
    for name, of_states in zip(layers, (lambda x: x, lambda x: 2 * x, np.square), strict=True):
        expected = [
            pool(of_states(table[[WORDS[word] for word in text.split()]]))
            for text in SENTENCES.values()
        ]
        np.testing.assert_allclose(layers[name], expected, atol=1e-6)


def test_what_is_no_sentence():
    tokens = Tokens(Tokenizer(), 3)
    with pytest.raises(DataError, match=r"'one two three four'\.\.\. has 4 tokens; .* takes 3"):
        tokens("one two three four")
    for one in ("  ", 3):
        with pytest.raises(DataError, match="must be text, and not empty"):
            tokens(one)
    with pytest.raises(UnknownNameError, match="way to pool tokens 'max'"):
        SentenceEncoder(Encoder(), 2, 0, "max")


def test_missing_packages_name_the_extra(monkeypatch):
    monkeypatch.setattr("softrsa.activations.models.find_spec", lambda _name: None)
    for name, install in (
        ("all-minilm-l6-v2", r'pip install "softrsa\[text\]"'),
        ("transformers:bert", r'pip install "softrsa\[text\]"'),
        ("torchvision:resnet18", "pip install torchvision"),
        ("timm:resnet18", "pip install timm"),
    ):
        with pytest.raises(FileMissingError, match=install):
            load_model(name)


def test_the_real_encoder_is_that_of_sentence_transformers(tmp_path, monkeypatch):
    pytest.importorskip("all_minilm_l6_v2")
    pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)
    text = "A dog runs in the park.\nA puppy is running outside.\nThe stock market fell today.\n"
    (tmp_path / "s.txt").write_text(text)
    command = ["extract", "--model", "all-minilm-l6-v2", "--sentences", "s.txt", "--out", "l.nc"]
    assert main([*command, "--layers", "layer6"]) == 0
    import softrsa

    found = softrsa.load("l.nc").values
    unit = found / np.linalg.norm(found, axis=1, keepdims=True)
    # cosines that the library sentence-transformers 6.2.0 gives for these sentences
    np.testing.assert_allclose((unit @ unit.T)[0], [1.0, 0.544, 0.065], atol=5e-4)
