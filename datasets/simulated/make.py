"""Make the simulated data set: a small network's layers and recordings that warp three of them.

    python datasets/simulated/make.py [folder]

Sixty stimuli are points in a space of five latent features. A small random network turns them into
four layers. Each of three regions takes the similarities of one layer through a SoftStep whose
bounds depend on the anchor through the first two principal components of the layer: at one end
only near neighbors are told apart, at the other only far ones. The warped similarities are
symmetrized and double-centered, so a stimulus's mean similarity says nothing, and become the
correlations of four subjects' recordings, to which noise is added. `warp.nc` holds the true lower
bound, upper bound and transition of every stimulus, so that recovery can be checked.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from softrsa.alignment.embedding import Embedding
from softrsa.io import atomic_path, save
from softrsa.rsm import scale_similarities, similarity_matrix
from softrsa.transforms import double_center, soft_step

SEED = 20261122
N_STIMULI = 60
WIDTHS = {"layer1": 96, "layer2": 80, "layer3": 64, "layer4": 48}
REGIONS = {"early": "layer1", "middle": "layer2", "late": "layer4"}
SUBJECTS = ("S1", "S2", "S3", "S4")
LATENT_SCALES = (2.0, 1.2, 0.7, 0.7, 0.7)
N_UNITS = 90  # per subject and region; more than stimuli, so any correlation matrix fits
NOISE = 0.3  # standard deviation of the noise, in that of the signal
COMPONENT_WEIGHTS = (1.6, 0.5)  # of the layer's components 1 and 2, in what moves the bounds
OFFSET = -0.6
LOWER_DEPTH, UPPER_DEPTH, UPPER_MAX = 0.75, 0.35, 0.97
TRANSITION = 0.4


def make_layers(generator: torch.Generator) -> dict[str, Tensor]:
    """Activations (stimulus, unit) of a random tanh network over latent stimuli."""
    latent = torch.randn(N_STIMULI, len(LATENT_SCALES), generator=generator, dtype=torch.float64)
    activity = latent * torch.tensor(LATENT_SCALES, dtype=torch.float64)
    layers = {}
    for name, width in WIDTHS.items():
        fan_in = activity.shape[1]
        weight = torch.randn(fan_in, width, generator=generator, dtype=torch.float64)
        bias = 0.3 * torch.randn(width, generator=generator, dtype=torch.float64)
        activity = torch.tanh(1.8 * activity @ weight / fan_in**0.5 + bias)
        layers[name] = activity
    return layers


def true_warp(layer: Tensor) -> Tensor:
    """Lower bound, upper bound and transition (3, stimulus) of every anchor."""
    components = Embedding.fit(layer, 2).project(layer)
    push = OFFSET + components @ torch.tensor(COMPONENT_WEIGHTS).to(components)
    lower = LOWER_DEPTH * torch.sigmoid(push)
    upper = (1 - UPPER_DEPTH * torch.sigmoid(-push)).clamp_max(UPPER_MAX)
    return torch.stack([lower, upper, torch.full_like(lower, TRANSITION)])


def warped_correlation(layer: Tensor, warp: Tensor) -> Tensor:
    """Correlation matrix of a region: off the diagonal, the warped and centered similarities."""
    scaled = scale_similarities(similarity_matrix(layer), "affine")
    stepped = soft_step(scaled, *(p.unsqueeze(-1) for p in warp))
    centered = double_center((stepped + stepped.mT) / 2)
    strength = 0.98 / torch.linalg.eigvalsh(centered)[0].abs()  # keeps all eigenvalues positive
    return torch.eye(N_STIMULI, dtype=torch.float64) + strength * centered


def make_recording(correlation: Tensor, generator: torch.Generator) -> Tensor:
    """Responses (stimulus, unit) with exactly these correlations, and noise on top."""
    root = torch.linalg.cholesky(correlation)
    draws = torch.randn(N_UNITS, N_STIMULI, generator=generator, dtype=torch.float64)
    basis = torch.linalg.qr(draws - draws.mean(0)).Q  # orthonormal, each summing to zero
    signal = root @ basis.mT * N_UNITS**0.5
    noise = torch.randn(signal.shape, generator=generator, dtype=torch.float64)
    return signal + NOISE * noise


def labelled(parts: list[Tensor], labels: dict[str, list[str]], title: str) -> xr.DataArray:
    """Put parts side by side along `unit`, with a label per part."""
    sizes = [part.shape[1] for part in parts]
    coords: dict[str, object] = {
        name: ("unit", np.repeat(values, sizes)) for name, values in labels.items()
    }
    coords["stimulus"] = [f"simulated_{i:02d}" for i in range(N_STIMULI)]
    return xr.DataArray(
        torch.cat(parts, 1).float().numpy(),
        dims=("stimulus", "unit"),
        coords=coords,
        attrs={"title": title, "simulated": 1, "seed": SEED},
    )


def main(folder: Path) -> None:
    """Write activations.nc, recordings.nc and warp.nc."""
    generator = torch.Generator().manual_seed(SEED)
    layers = make_layers(generator)
    warps = {region: true_warp(layers[layer]) for region, layer in REGIONS.items()}
    parts, regions, subjects = [], [], []
    for region, layer in REGIONS.items():
        correlation = warped_correlation(layers[layer], warps[region])
        for subject in SUBJECTS:
            parts.append(make_recording(correlation, generator))
            regions.append(region)
            subjects.append(subject)
    activations = labelled(
        list(layers.values()), {"layer": list(layers)}, "Simulated activations of a small network"
    )
    recordings = labelled(
        parts, {"region": regions, "subject": subjects}, "Simulated recordings of four subjects"
    )
    save(activations, folder / "activations.nc")
    save(recordings, folder / "recordings.nc")
    warp = xr.DataArray(
        torch.stack(list(warps.values())).numpy(),
        dims=("region", "parameter", "stimulus"),
        coords={
            "region": list(REGIONS),
            "layer": ("region", list(REGIONS.values())),
            "parameter": ["lower", "upper", "transition"],
            "stimulus": recordings["stimulus"].values,
        },
        name="warp",
        attrs={"title": "Simulated warp of each region", "simulated": 1, "seed": SEED},
    )
    with atomic_path(folder / "warp.nc") as temporary:
        warp.to_netcdf(temporary, engine="netcdf4")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
