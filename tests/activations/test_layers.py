"""Layers by name and by path: tuples, mappings and dataclasses, and what is refused."""

from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from softrsa.activations import extract_activations, list_layers
from softrsa.errors import DataError, ShapeError, UnknownNameError
from softrsa.recordings import split_units

Pair = namedtuple("Pair", "mean spread")


@dataclass
class Output:
    """As of transformers: a mapping that is a dataclass, or the latter alone."""

    logits: torch.Tensor
    states: tuple
    cache: object = None


class Returns(nn.Module):
    """Returns what it is told to, of its input."""

    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, x):
        return self.make(x)


class Network(nn.Module):
    """A tuple, a mapping and a dataclass on the way, and a mapping at the end."""

    def __init__(self):
        super().__init__()
        self.pair = Returns(lambda x: (x + 1, (x + 2, None)))
        self.named = Returns(lambda x: OrderedDict(logits=x * 2, hidden=[x * 3, x * 4]))
        self.data = Returns(lambda x: Output(x * 5, (x * 6,)))
        self.two = Returns(lambda x: Pair(x * 7, x * 8))
        self.alone = Returns(lambda x: (x * 9, None))

    def forward(self, x):
        for part in (self.pair, self.named, self.data, self.two, self.alone):
            part(x)
        return {"end": x * 10, "other": x[:, :1]}


X = torch.tensor([[1.0, -2.0], [3.0, 0.5], [0.0, 4.0]])
EXPECTED = {
    "pair[0]": X + 1, "pair[1]": X + 2, "pair[1][0]": X + 2, "named[logits]": X * 2,
    "named[hidden][1]": X * 4, "data[logits]": X * 5, "data[states]": X * 6, "two[1]": X * 8,
    "alone": X * 9, "alone[0]": X * 9, "[end]": X * 10,
}  # fmt: skip


@pytest.mark.parametrize("name", EXPECTED)
def test_a_path_names_the_tensor(name):
    found = extract_activations(Network(), X, name, progress=False)
    np.testing.assert_array_equal(found, EXPECTED[name])
    assert set(found["layer"].values) == {name}


def test_paths_in_quotes_globs_and_labels():
    several = ['named["logits"]', "pa*[0]", "alone"]
    found = split_units(extract_activations(Network(), X, several, progress=False), "layer")
    assert list(found) == ["named[logits]", "pair[0]", "alone"]
    for name, values in found.items():
        np.testing.assert_array_equal(values, EXPECTED[name])
    labels = {"early": "pair[1][0]", "late": "[end]"}
    found = split_units(extract_activations(Network(), X, labels, progress=False), "layer")
    np.testing.assert_array_equal(found["early"], X + 2)
    np.testing.assert_array_equal(found["late"], X * 10)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("pair", DataError, r"returns a tuple with 2 tensors; .* pair\[0\] \(3 × 2\), pair\[1\]"),
        ("**", DataError, r"Layer 'pair' returns a tuple with 2 tensors"),
        ("named[hidden]", DataError, r"named\[hidden\]\[0\] .*, named\[hidden\]\[1\]"),
        ("pair[2]", UnknownNameError, r"layer 'pair\[2\]'\. Did you mean"),
        ("named[logit]", UnknownNameError, r"Did you mean 'named\[logits\]'"),
        ("nothing[0]", UnknownNameError, r"Unknown layer 'nothing\[0\]'"),
        ({"a": "nothing[0]"}, UnknownNameError, r"Unknown layer 'nothing\[0\]'"),
    ],
)
def test_no_tensor_is_chosen_in_silence(name, error, message):
    with pytest.raises(error, match=message):
        extract_activations(Network(), X, name, progress=False)


def test_a_tensor_has_no_parts():
    with pytest.raises(DataError, match=r"Layer '0' returns one tensor: leave \[0\] out"):
        extract_activations(nn.Sequential(nn.Linear(2, 2)), X, "0[0]", progress=False)


def test_the_list_has_a_row_for_each_tensor():
    table = list_layers(Network(), X)
    assert table["layer"].tolist() == [
        "pair[0]", "pair[1][0]", "named[logits]", "named[hidden][0]", "named[hidden][1]",
        "data[logits]", "data[states][0]", "two[0]", "two[1]", "alone", "[end]", "[other]",
    ]  # fmt: skip
    assert table["units"].tolist() == [2] * 11 + [1]
    found = extract_activations(Network(), X, table["layer"], progress=False)
    assert found.sizes["unit"] == 23  # each name of the list is one that is taken


class Recurrent(nn.Module):
    """A recurrent network over (stimulus, time, feature)."""

    def __init__(self, *, batch_first):
        super().__init__()
        self.batch_first = batch_first
        self.lstm = nn.LSTM(2, 4, num_layers=3, batch_first=batch_first)
        self.last = nn.Identity()

    def forward(self, x):
        states, _ = self.lstm(x if self.batch_first else x.transpose(0, 1))
        return self.last(states[:, -1] if self.batch_first else states[-1])


def test_axes_that_are_not_the_stimuli_though_of_their_length(rng):
    """Three layers, three times and three stimuli: nothing but the module tells them apart."""
    x = torch.randn(3, 3, 2, generator=rng)
    network = Recurrent(batch_first=True)
    states = extract_activations(network, x, "lstm[0]", pool=lambda s: s[:, -1], progress=False)
    np.testing.assert_array_equal(states, extract_activations(network, x, "last", progress=False))
    for name in ("lstm[1][0]", "lstm[1][1]"):
        with pytest.raises(
            ShapeError, match="last state of a LSTM, whose first axis is its layers"
        ):
            extract_activations(network, x, name, progress=False)
    table = list_layers(network, x).set_index("layer")
    assert table.loc["lstm[0]", ["shape", "units"]].tolist() == ["3 × 4", 12]
    assert table.loc["lstm[1][0]", ["shape", "units"]].tolist() == [
        "3 × 3 × 4, not by stimulus", 0,
    ]  # fmt: skip
    with pytest.raises(
        ShapeError, match=r"LSTM with `batch_first=False`, whose first axis is time"
    ):
        extract_activations(Recurrent(batch_first=False), x, "lstm[0]", progress=False)


def test_frames_folded_into_the_batch_are_named(rng):
    model = nn.Sequential(Returns(lambda x: x.flatten(0, 1)), nn.Linear(4, 2))
    with pytest.raises(ShapeError, match=r"returned 15 rows for 3 stimuli; .* 5 for each, perhaps"):
        extract_activations(model, torch.randn(3, 5, 4, generator=rng), "1", progress=False)
