"""RSMs before and after their transforms, to look at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from softrsa.alignment.evidence import stimulus_labels
from softrsa.alignment.runs import SIDES, UNFITTED, Run

MAX_SHOWN = 150  # stimuli: more are no longer told apart, and weigh megabytes


def example_rsms(runs: Sequence[Run], data: xr.Dataset, shown: Sequence[str]) -> xr.Dataset:
    """Keep RSMs of every region and its best layer, under every transform, to look at.

    Parameters
    ----------
    runs : sequence of Run
        Of all layers and regions. Where they were fitted elsewhere, fitted transforms are NaN.
    data : Dataset
        Their scores.
    shown : sequence of str
        Transforms among which the best layer is sought.

    Returns
    -------
    Dataset
        `example_rsm` (region, transform, side, anchor, neighbor), float32: the mean over folds of
        the transforms, over training stimuli too, so nothing to score; the brain's is the mean over
        subjects. At most 150 stimuli, evenly drawn. `example_layer` (region) names the layer.
    """
    regions = [str(name) for name in data["region"].values]
    transforms = [str(name) for name in data["transform"].values]
    n = runs[0].model.n_stimuli
    at = torch.linspace(0, n - 1, min(n, MAX_SHOWN), dtype=torch.float64).round().long()
    values = np.full((len(regions), len(transforms), 2, len(at), len(at)), np.nan, np.float32)
    best = data["score"].sel(transform=list(shown)).mean("fold").max("transform")
    layers = []
    for i, region in enumerate(regions):
        scores = best.sel(region=region).fillna(-np.inf)
        layers.append(str(scores["layer"].values[int(scores.argmax("layer"))]))
        members = [run for run in runs if (run.layer, run.region) == (layers[-1], region)]
        for j, name in enumerate(transforms):
            for side, found in enumerate(_mean_transformed(members, name, at)):
                values[i, j, side] = found.cpu().numpy()
    ids = stimulus_labels(runs[0].model, runs[0].brain)[at.numpy()]
    return xr.Dataset(
        {
            "example_rsm": (("region", "transform", "side", "anchor", "neighbor"), values),
            "example_layer": ("region", np.array(layers, dtype=object)),
        },
        {"side": list(SIDES), "anchor": ids, "neighbor": ids},
    )


def _mean_transformed(runs: Sequence[Run], name: str, at: Tensor) -> tuple[Tensor, Tensor]:
    """RSMs (k, k) of both sides under a transform, as the mean over runs and subjects."""
    sums: list[Tensor] = []
    for run in runs:
        model, brain = run.model.take(at), run.brain.take(at)
        if name in run.fitted:
            pair = run.fitted[name].transformed(model, brain, run.readers(brain))
        elif name in UNFITTED:
            transform = UNFITTED[name]()
            pair = transform(model.rsms), transform(brain.rsms)
        else:
            pair = (torch.full_like(model.rsms, torch.nan),) * 2
        means = [side.mean(0) / len(runs) for side in pair]
        sums = [a + b for a, b in zip(sums, means, strict=True)] if sums else means
    return sums[0], sums[1]
