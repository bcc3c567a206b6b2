"""Sentences: tokens pooled by layer, and the real encoder where it is installed."""

import json
import logging
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import softrsa
from softrsa.activations import extract_activations, load_model
from softrsa.activations.sentences import SentenceEncoder, Tokens
from softrsa.cli import main
from softrsa.errors import DataError, FileFormatError, FileMissingError, UnknownNameError
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
        return {"input_ids": [WORDS[word] for word in text.split(" ")]}


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


def test_padding_cannot_be_told_from_a_token_of_the_sentence():
    tokens = Tokens(Tokenizer(), 3)
    with pytest.raises(DataError, match="has the token with which this model fills up \\(0\\)"):
        tokens("one  two")  # this tokenizer's word between two spaces is number 0


class Library:
    """As much of the library `transformers` as is asked for; the encoder is the one above."""

    logging = SimpleNamespace(disable_progress_bar=lambda: None)

    def __init__(self):
        tokenizer = Tokenizer()
        tokenizer.model_max_length = 100
        torch.manual_seed(0)
        self.encoder = Encoder()
        self.encoder.config = SimpleNamespace(num_hidden_layers=2)
        self.asked = []

        def given(what):
            def from_pretrained(name, **_options):
                self.asked.append(name)
                return what

            return SimpleNamespace(from_pretrained=from_pretrained)

        self.AutoTokenizer, self.AutoModel = given(tokenizer), given(self.encoder)


@pytest.fixture
def library(monkeypatch):
    found = Library()
    monkeypatch.setattr("softrsa.activations.models.find_spec", lambda _name: True)
    monkeypatch.setitem(sys.modules, "transformers", found)
    return found


def pooled(library, how):
    table = library.encoder.table.weight.detach().numpy()
    words = [table[[WORDS[word] for word in text.split()]] for text in SENTENCES.values()]
    return np.stack([{"mean": w.mean(0), "last": w[-1], "cls": w[0]}[how] for w in words])


@pytest.mark.parametrize("tokens", ["mean", "last", "cls"])
def test_tokens_are_chosen_where_the_model_is_named(library, tokens, tmp_path, monkeypatch):
    found = load_model("transformers:some/encoder", tokens=tokens)
    values = extract_activations(
        found.module, SENTENCES, {"first": found.layers["embeddings"]},
        preprocess=found.preprocess, progress=False,
    )  # fmt: skip
    np.testing.assert_allclose(values, pooled(library, tokens), atol=1e-6)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.csv").write_text("stimulus,text\na,one two\nb,one two three four\nc,four\n")
    command = ["extract", "--model", "transformers:some/encoder", "--sentences", "s.csv"]
    asked = ["--layers", "embeddings", "--tokens", tokens, "--out", "l.nc"]
    assert main([*command, *asked, "--quiet"]) == 0
    np.testing.assert_allclose(softrsa.load("l.nc"), pooled(library, tokens), atol=1e-6)


def folder(path, pooling, *, modules=("Transformer", "Pooling", "Normalize"), said=None, more=None):
    """Write what sentence-transformers writes beside the encoder."""
    rows = [{"type": f"sentence_transformers.models.{m}", "path": m.lower()} for m in modules]
    files = {
        "modules.json": rows, "pooling/config.json": pooling,
        "transformer/sentence_bert_config.json": said or {}, "config_sentence_transformers.json":
        more or {},
    }  # fmt: skip
    for name, content in files.items():
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_text(json.dumps(content))
    return f"sentence-transformers:{path}"


@pytest.mark.parametrize(
    ("pooling", "how"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_mean_tokens": True, "word_embedding_dimension": 384}, "mean"),
        ({"pooling_mode": "lasttoken", "include_prompt": True}, "last"),
        ({"pooling_mode": ["mean"]}, "mean"),
    ],
)
def test_a_folder_of_sentence_transformers_says_how_it_pools(library, tmp_path, pooling, how):
    name = folder(tmp_path, pooling, said={"max_seq_length": 4})
    found = load_model(name)
    assert found.module.tokens == how
    assert set(library.asked) == {str(tmp_path / "transformer")}
    with pytest.raises(DataError, match="this model takes 4 at most"):
        found.preprocess("one two three four one")
    assert load_model(name, tokens="cls").module.tokens == "cls"


@pytest.mark.parametrize(
    ("pooling", "options", "message"),
    [
        ({"pooling_mode": "max"}, {}, r"pools tokens by max; known are mean, lasttoken, cls"),
        ({"pooling_mode": ["cls", "mean"]}, {}, "pools tokens by cls and mean"),
        ({}, {}, "pools tokens by nothing; .* Say which tokens to take with `tokens='mean'`"),
        (
            {"pooling_mode": "mean"},
            {"modules": ("Transformer", "Pooling", "Dense")},
            "Pooling, Dense; read here are Transformer",
        ),
        ({"pooling_mode": "mean"}, {"said": {"do_lower_case": True}}, "lower case"),
        ({"pooling_mode": "mean"}, {"more": {"default_prompt_name": "query"}}, "prompt 'query'"),
    ],
)
def test_a_folder_that_does_more_is_refused(library, tmp_path, pooling, options, message):
    with pytest.raises(FileFormatError, match=message):
        load_model(folder(tmp_path, pooling, **options))
    assert library.asked == []


def test_no_folder_of_sentence_transformers(library, tmp_path):
    with pytest.raises(FileMissingError, match=r"it has no modules\.json"):
        load_model(f"sentence-transformers:{tmp_path}")
    folder(tmp_path, {})
    (tmp_path / "pooling" / "config.json").write_text("{")
    with pytest.raises(FileFormatError, match="cannot be read as JSON"):
        load_model(f"sentence-transformers:{tmp_path}")


def test_tokens_of_what_has_none():
    for name in ("efficientnet-lite0", "timm:resnet18", "mine.py:make", "net.pt2"):
        with pytest.raises(DataError, match="`tokens` is about encoders of sentences"):
            load_model(name, tokens="mean")
    with pytest.raises(UnknownNameError, match="way to pool tokens"):
        load_model("all-minilm-l6-v2", tokens="max")
    with pytest.raises(UnknownNameError, match="Unknown model 'bert'"):
        load_model("bert", tokens="mean")


def test_weights_that_cannot_be_had_are_one_line(library, tmp_path, capsys):
    def offline(name, **_options):
        logging.getLogger("huggingface_hub").error("Retrying in 1s")
        raise ConnectionError(f"Cannot reach the hub for {name}\nsecond line")

    library.AutoModel.from_pretrained = offline
    (tmp_path / "s.txt").write_text("one two\n")
    command = ["extract", "--model", "transformers:far", "--sentences", str(tmp_path / "s.txt")]
    assert main([*command, "--list-layers"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("softrsa: error: 'transformers:far' could not be loaded (Cannot reach")
    assert "load it once where there is network and copy the cache" in said
    assert said.count("\n") == 1


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
    found = softrsa.load("l.nc").values
    unit = found / np.linalg.norm(found, axis=1, keepdims=True)
    # cosines that the library sentence-transformers 6.2.0 gives for these sentences
    np.testing.assert_allclose((unit @ unit.T)[0], [1.0, 0.544, 0.065], atol=5e-4)
