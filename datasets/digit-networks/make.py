"""Make the data set digit-networks: RDMs of the layers of small networks that differ in their seed.

    python datasets/digit-networks/make.py [folder]

After the simulations of Lin & Kriegeskorte (2024): instances of one network, trained from different
seeds, stand for subjects, and its layers for regions, so that it is known what is the same region.
The network has six convolutional layers and learns scikit-learn's digits; the stimuli are digits it
was not trained on. Responses are noisy: the standard deviation of the noise is `level` times that
of the layer's responses, and for each subject and stimulus another factor on top, log-normal with
median 1 and `spread` as the standard deviation of its logarithm, as numbers of trials, attention
and motion make it in recordings. A spread of 0 gives every stimulus the same noise. RDMs are
correlation distances between noisy responses.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import xarray as xr
from torch import Tensor, nn
from tqdm import tqdm

from softrsa.io import atomic_path, save
from softrsa.rsm import similarity_matrix

SEED = 20261122
N_SUBJECTS = 16
N_STIMULI = 120  # twelve of each digit
CHANNELS = (12, 12, 16, 16, 24, 24)
STRIDES = (1, 1, 2, 1, 2, 1)
EPOCHS = 12
BATCH = 64
LEARNING_RATE = 3e-3
LEVELS = (0.0, 0.1, 0.2, 0.3, 0.4)
SPREAD = 1.0
CARRIED_LEVEL, CARRIED_SUBJECTS, CARRIED_OF_EACH = 0.2, 10, 6  # of the file with the card


class Network(nn.Module):
    """Convolutions with rectifiers, and a linear readout of the channels' means."""

    def __init__(self):
        super().__init__()
        widths = (1, *CHANNELS)
        self.layers = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride, padding=1)
            for a, b, stride in zip(widths[:-1], CHANNELS, STRIDES, strict=True)
        )
        self.readout = nn.Linear(CHANNELS[-1], 10)

    def responses(self, images: Tensor) -> list[Tensor]:
        """Rectified responses (n_images, channels, height, width) of every layer."""
        found = []
        for layer in self.layers:
            images = torch.relu(layer(images))
            found.append(images)
        return found

    def forward(self, images: Tensor) -> Tensor:
        """Logits of the ten digits."""
        return self.readout(self.responses(images)[-1].mean((2, 3)))


def digits(n_stimuli: int = N_STIMULI) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images and labels to train on, and the images and labels of the stimuli, by digit."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.from_numpy(data.images[:, None] / 16.0).float()
    labels = torch.from_numpy(data.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(SEED))
    of_each = [order[labels[order] == digit][: n_stimuli // 10] for digit in range(10)]
    stimuli = torch.cat(of_each)
    rest = order[~torch.isin(order, stimuli)]
    return images[rest], labels[rest], images[stimuli], labels[stimuli]


def trained(images: Tensor, labels: Tensor, seed: int) -> Network:
    """Train a network from a seed; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Network()
        optimizer = torch.optim.Adam(network.parameters(), LEARNING_RATE)
        for _ in range(EPOCHS):
            for batch in torch.randperm(len(labels)).split(BATCH):
                optimizer.zero_grad()
                nn.functional.cross_entropy(network(images[batch]), labels[batch]).backward()
                optimizer.step()
    return network


def make_responses(
    n_subjects: int = N_SUBJECTS, n_stimuli: int = N_STIMULI, *, progress: bool = True
) -> list[list[Tensor]]:
    """Responses (n_stimuli, n_units) of every subject's layers, without noise."""
    images, labels, stimuli, _ = digits(n_stimuli)
    found = []
    for subject in tqdm(range(n_subjects), desc="networks", disable=not progress):
        network = trained(images, labels, SEED + subject)
        with torch.no_grad():
            found.append([r.flatten(1).double() for r in network.responses(stimuli)])
    return found


def noisy_responses(
    responses: list[list[Tensor]], level: float, *, spread: float = SPREAD, seed: int = SEED
) -> list[list[Tensor]]:
    """Responses (n_stimuli, n_units) of every subject's layers, with noise."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    noisy = []
    for layers in responses:
        factor = torch.exp(spread * normal(len(layers[0]), 1))
        noisy.append([x + level * x.std() * factor * normal(*x.shape) for x in layers])
    return noisy


def noisy_rdms(
    responses: list[list[Tensor]], level: float, *, spread: float = SPREAD, seed: int = SEED
) -> Tensor:
    """RDMs (n_subjects, n_layers, n_stimuli, n_stimuli) of responses with noise."""
    noisy = noisy_responses(responses, level, spread=spread, seed=seed)
    return torch.stack([torch.stack([1 - similarity_matrix(x) for x in one]) for one in noisy])


def labelled(rdms: Tensor) -> xr.DataArray:
    """RDMs with the names of layers, subjects and stimuli, float32."""
    of_each = rdms.shape[-1] // 10
    ids = [f"digit{digit}_{i:02d}" for digit in range(10) for i in range(1, of_each + 1)]
    return xr.DataArray(
        rdms.transpose(0, 1).float().numpy(),
        dims=("region", "subject", "anchor", "neighbor"),
        coords={
            "region": [f"layer{i}" for i in range(1, rdms.shape[1] + 1)],
            "subject": [f"network{i:02d}" for i in range(1, rdms.shape[0] + 1)],
            "anchor": ids,
            "neighbor": ids,
        },
        name="dissimilarity",
        attrs={
            "kind": "rdm",
            "title": f"Simulated: noise level {CARRIED_LEVEL}, spread {SPREAD}, seed {SEED}",
        },
    )


def main(folder: Path) -> None:
    """Write `rdms.nc`."""
    rdms = noisy_rdms(make_responses(), CARRIED_LEVEL)[:CARRIED_SUBJECTS]
    kept = torch.arange(N_STIMULI).view(10, -1)[:, :CARRIED_OF_EACH].flatten()
    rdms = rdms[..., kept[:, None], kept]
    with atomic_path(folder / "rdms.nc") as path:
        save(labelled(rdms), path)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
