"""Batches of any form: video, sound, several inputs, with ids."""

import numpy as np
import pytest
import torch
from torch import nn

from softrsa.activations import extract_activations, list_layers
from softrsa.errors import DTypeError, ShapeError, StimulusError, UnknownNameError


class Video(nn.Module):
    """A convolution over (time, height, width) of (stimulus, time, channel, height, width)."""

    def __init__(self):
        super().__init__()
        self.space = nn.Conv3d(3, 4, (1, 3, 3))
        self.time = nn.Conv3d(4, 5, (3, 1, 1))

    def forward(self, x):
        return self.time(self.space(x.transpose(1, 2)).relu())


class Sound(nn.Module):
    """Strided convolutions over samples, then one feature per frame, (stimulus, frame, channel)."""

    def __init__(self):
        super().__init__()
        self.waves = nn.Conv1d(1, 6, 16, stride=8)
        self.frames = nn.Linear(6, 3)

    def forward(self, x):
        return self.frames(self.waves(x[:, None]).relu().transpose(1, 2))


def batches(values, names, size):
    """Give pairs of a batch and its ids, as a loader would."""
    for start in range(0, len(values), size):
        yield values[start : start + size], names[start : start + size]


NAMES = [f"clip {i}" for i in range(5)]


def test_video(rng):
    model, x = Video(), torch.randn(5, 6, 3, 8, 9, generator=rng)
    assert list_layers(model, x[:2])["shape"].tolist() == ["4 × 6 × 6 × 7", "5 × 4 × 6 × 7"]
    found = extract_activations(
        model, batches(x, NAMES, 2), ["space", "time"], pool="mean", progress=False
    )
    assert found["stimulus"].values.tolist() == NAMES
    with torch.no_grad():
        space = model.space(x.transpose(1, 2))
        expected = torch.cat([space.mean((2, 3, 4)), model.time(space.relu()).mean((2, 3, 4))], 1)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_sound(rng):
    model, x = Sound(), torch.randn(5, 400, generator=rng)
    found = extract_activations(
        model, batches(x.numpy(), NAMES, 3), ["waves", "frames"], progress=False
    )
    assert found.groupby("layer").count().sizes["stimulus"] == 5
    windows = x.unfold(1, 16, 8).numpy()  # (5, frame, 16)
    weight, bias = (one.detach().numpy() for one in (model.waves.weight, model.waves.bias))
    waves = np.einsum("sfk,ck->scf", windows, weight[:, 0]) + bias[:, None]
    np.testing.assert_allclose(
        found.sel(unit=found["layer"] == "waves"), waves.reshape(5, -1), atol=1e-5
    )
    over_time = extract_activations(
        model, batches(x, NAMES, 3), "frames", pool=lambda output: output.mean(1), progress=False
    )
    weight, bias = (one.detach().numpy() for one in (model.frames.weight, model.frames.bias))
    expected = (np.maximum(waves, 0).transpose(0, 2, 1) @ weight.T + bias).mean(1)
    np.testing.assert_allclose(over_time, expected, atol=1e-5)


def test_pooling_of_ones_own_keeps_the_stimuli():
    model, x = nn.Sequential(nn.Identity()), torch.ones(3, 4, 2)
    with pytest.raises(ShapeError, match=r"of layer '0', \(3, 4, 2\), it made \(4, 2\)"):
        extract_activations(model, x, "0", pool=lambda output: output.mean(0), progress=False)
    with pytest.raises(ShapeError, match="it made max"):
        extract_activations(model, x, "0", pool=lambda output: output.max(1), progress=False)
    with pytest.raises(UnknownNameError, match="pool"):
        extract_activations(model, x, "0", pool="max", progress=False)


class Both(nn.Module):
    """Takes two inputs."""

    def __init__(self):
        super().__init__()
        self.sum = nn.Identity()

    def forward(self, video, sound):
        return self.sum(video.mean((1, 2)) - 2 * sound.mean(1))


@pytest.mark.parametrize("form", ["tuple", "mapping", "mapping without ids"])
def test_several_inputs(rng, form):
    video = torch.randn(4, 2, 3, generator=rng)
    sound = torch.randn(4, 5, generator=rng)

    def given():
        for part in (slice(0, 3), slice(3, 4)):
            named = {"sound": sound[part], "video": video[part].numpy()}
            inputs = (video[part], sound[part]) if form == "tuple" else named
            yield inputs if form.endswith("without ids") else (inputs, NAMES[part])

    found = extract_activations(Both(), given(), "sum", progress=False)
    expected = video.numpy().mean((1, 2)) - 2 * sound.numpy().mean(1)
    np.testing.assert_allclose(found[:, 0], expected, atol=1e-6)
    numbered = form.endswith("without ids")
    assert found["stimulus"].values.tolist() == ([0, 1, 2, 3] if numbered else NAMES[:4])


@pytest.mark.parametrize(
    ("batch", "options", "error", "message"),
    [
        (({"video": torch.ones(2, 1, 1), "sound": torch.ones(3, 1)}, ["a", "b"]), {}, ShapeError,
         "got 2, 3 rows of 'video', 'sound'"),
        (((torch.ones(2, 1, 1), torch.ones(2, 1)), ["a"]), {}, StimulusError, "2 stimuli came"),
        (((torch.ones(2, 1, 1), "b"), ["a", "b"]), {}, DTypeError, "got str"),
        (({}, []), {}, DTypeError, "got dict"),
        (((torch.ones(2, 1, 1), torch.ones(2, 1)), ["a", "b"]), {"preprocess": torch.abs},
         DTypeError, "`preprocess` is for one stimulus"),
    ],
)  # fmt: skip
def test_inputs_that_cannot_be_used(batch, options, error, message):
    with pytest.raises(error, match=message):
        extract_activations(Both(), [batch], "sum", progress=False, **options)
