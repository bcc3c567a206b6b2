"""attach: classifiers taken off, tokens and maps pooled, the network given left alone."""

from collections import OrderedDict
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from softrsa.activations import load_model
from softrsa.errors import DataError, DTypeError, ShapeError, UnknownNameError
from softrsa.prediction import attach


class Tokens(nn.Module):
    """A small text network that answers as those of Hugging Face do."""

    def __init__(self, answer):
        super().__init__()
        self.embedding, self.answer = nn.Embedding(50, 6), answer

    def forward(self, input_ids, attention_mask=None):
        tokens = self.embedding(input_ids)
        return self.answer(tokens)


def images(n, side, rng):
    return torch.rand(n, 3, side, side, generator=rng)


def test_trained_efficientnet_gives_what_its_classifier_gets(rng):
    """From the network's own parts: convolutions, average, without dropout in evaluation."""
    model = load_model("efficientnet-lite0").module
    x = images(2, 64, rng)
    before = model(x)
    found = attach(model)(x)
    maps = model.extract_features(x)
    torch.testing.assert_close(found, maps.mean((2, 3)))
    torch.testing.assert_close(model._fc(found), before)
    assert torch.equal(model(x), before)


def test_classifier_with_more_than_one_layer_loses_the_last(rng):
    """As in VGG, and as a transformer's classification head has it."""
    layers = [nn.Linear(4, 7), nn.ReLU(), nn.Dropout(0.0), nn.Linear(7, 10)]
    network = nn.Sequential(OrderedDict(body=nn.Linear(5, 4), classifier=nn.Sequential(*layers)))
    x = torch.randn(3, 5, generator=rng)
    expected = layers[1](layers[0](network.body(x)))
    assert torch.equal(attach(network)(x), expected)
    assert torch.equal(attach(network, classifier="classifier")(x), network.body(x))
    assert torch.equal(attach(network, classifier=None)(x), network(x))
    assert torch.equal(attach(network, layer="classifier.0")(x), layers[0](network.body(x)))


def test_plain_network_is_left_as_it_is(rng):
    network = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
    x = torch.randn(3, 5, generator=rng)
    assert torch.equal(attach(network)(x), network(x))
    copy = attach(network)
    with torch.no_grad():
        copy.module[0].weight.zero_()
    assert network[0].weight.abs().sum() > 0


def test_after_the_layer_nothing_is_computed(rng):
    class Never(nn.Module):
        def forward(self, x):
            raise AssertionError(x.shape)

    network = nn.Sequential(nn.Conv2d(3, 4, 3), Never())
    x = images(2, 8, rng)
    found = attach(network, layer="0")(x)
    torch.testing.assert_close(found, network[0](x).mean((2, 3)))
    found.sum().backward()
    with pytest.raises(AssertionError):  # the hook is gone
        attach(network).module(x)


ANSWERS = {
    "tensor": lambda t: t,
    "tuple": lambda t: (t, "states"),
    "mapping": lambda t: {"last_hidden_state": t, "pooler_output": t[:, 0] * 3},
    "object": lambda t: SimpleNamespace(last_hidden_state=t, pooler_output=None),
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_tokens(answer, rng):
    network = Tokens(answer)
    ids = torch.randint(50, (3, 5), generator=rng)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]])
    tokens = network.embedding(ids)
    inputs = {"input_ids": ids, "attention_mask": mask}
    by_hand = torch.stack([tokens[0].mean(0), tokens[1, :2].mean(0), torch.zeros(6)])
    torch.testing.assert_close(attach(network)(inputs), by_hand)
    torch.testing.assert_close(attach(network)(ids), tokens.mean(1))
    assert torch.equal(attach(network, pool="first")(inputs), tokens[:, 0])


def test_one_dimensional_convolutions(rng):
    network = nn.Sequential(nn.Conv1d(2, 6, 3), nn.ReLU())
    x = torch.randn(4, 2, 9, generator=rng)
    found = attach(network, pool="channels_first")(x)
    assert found.shape == (4, 6)
    torch.testing.assert_close(found, network(x).mean(-1))


def test_pooled_outputs_of_objects(rng):
    ids = torch.randint(50, (3, 5), generator=rng)
    for name in ("pooler_output", "image_embeds", "logits"):
        network = Tokens(lambda t, name=name: SimpleNamespace(**{name: t[:, 0] * 3}))
        assert torch.equal(attach(network)(ids), network.embedding(ids)[:, 0] * 3)


class TestErrors:
    def test_names(self):
        network = nn.Sequential(OrderedDict(body=nn.Linear(5, 4), fc=nn.Linear(4, 3)))
        with pytest.raises(UnknownNameError, match=r"layer 'bodi'. Did you mean 'body'"):
            attach(network, layer="bodi")
        with pytest.raises(UnknownNameError, match="classifier 'head'"):
            attach(network, classifier="head")
        with pytest.raises(UnknownNameError, match=r"pooling .*'max'"):
            attach(network, pool="max")
        with pytest.raises(DataError, match="`layer` or `classifier`"):
            attach(network, layer="body", classifier="fc")
        with pytest.raises(DTypeError, match="must be a torch Module, got str"):
            attach("resnet18")

    def test_shapes(self, rng):
        with pytest.raises(ShapeError, match=r"got \(2, 3, 4, 4, 4\). Name a `layer`"):
            attach(nn.Identity())(torch.zeros(2, 3, 4, 4, 4))
        ids = torch.randint(50, (3, 5), generator=rng)
        inputs = {"input_ids": ids, "attention_mask": torch.ones(3, 7)}
        with pytest.raises(ShapeError, match=r"shape \(3, 7\) for tokens of the shape \(3, 5, 6\)"):
            attach(Tokens(lambda t: t))(inputs)

    def test_outputs(self):
        with pytest.raises(DTypeError, match=r"last_hidden_state.*got str"):
            attach(Tokens(lambda _: "text"))(torch.zeros(1, 1).long())
        unused = nn.ModuleDict({"a": nn.Linear(2, 2)})
        unused.forward = lambda x: x
        with pytest.raises(DataError, match="does not use the layer 'a'"):
            attach(unused, layer="a")(torch.zeros(1, 2))
