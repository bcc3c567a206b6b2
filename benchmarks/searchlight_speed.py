"""Claim: a whole-brain searchlight in minutes, per center 20 times faster than rsatoolbox.

Run with ``python benchmarks/searchlight_speed.py``. Correlation distances of 40 stimuli in spheres
of about 100 voxels, scored against 12 models by Pearson correlation. rsatoolbox gets as many
centers as fit into some seconds; the whole map is timed once, with two threads.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial

import _harness
import numpy as np
import torch
import xarray as xr
from _harness import Case, Contender, Found, Turns, claim, compare, seconds, status

from softrsa.inference import searchlight_maps
from softrsa.rsm import spheres

STIMULI, MODELS = 40, 12
SHAPE, VOXEL, RADIUS = (46, 46, 24), 2.0, 6.0  # 50 784 voxels, up to 123 in a sphere
SOME = 300  # centers for rsatoolbox
REPETITIONS = 3
WANTED, MINUTES = 20, 5


def brain(shape: tuple[int, ...]) -> xr.DataArray:
    """Responses (stimulus, unit) of a block of voxels."""
    rng = np.random.default_rng(0)
    indices = np.indices(shape).reshape(3, -1)
    coords = {axis: ("unit", VOXEL * row) for axis, row in zip("xyz", indices, strict=True)}
    values = rng.normal(size=(STIMULI, indices.shape[1])).astype(np.float32)
    return xr.DataArray(values, {**coords, "stimulus": range(STIMULI)}, ("stimulus", "unit"))


def models() -> xr.DataArray:
    """RDMs (layer, anchor, neighbor)."""
    found = np.random.default_rng(1).random((MODELS, STIMULI, STIMULI))
    found = (found + found.transpose(0, 2, 1)) * (1 - np.eye(STIMULI))
    coords = {"layer": range(MODELS), "anchor": range(STIMULI), "neighbor": range(STIMULI)}
    return xr.DataArray(found, coords, ("layer", "anchor", "neighbor"), attrs={"kind": "rdm"})


def ours(recording: xr.DataArray) -> np.ndarray:
    """Scores (model, center)."""
    found = searchlight_maps(models(), recording, "pearson", radius=RADIUS, progress=False)
    return found.data["score"].values[0]


def theirs(recording: xr.DataArray, centers: np.ndarray) -> np.ndarray:
    """Let rsatoolbox score some centers."""
    from rsatoolbox.inference import eval_fixed
    from rsatoolbox.model import ModelFixed
    from rsatoolbox.util import searchlight as peer

    peer.tqdm = lambda given, **_: given  # no bars
    values = recording.values.astype(np.float64)
    around = spheres(recording, RADIUS)
    own = [around[center] for center in centers]
    rdms = peer.get_searchlight_RDMs(values, centers, own, np.arange(STIMULI), verbose=False)
    upper = np.triu_indices(STIMULI, 1)
    fixed = [ModelFixed(str(i), rdm[upper]) for i, rdm in enumerate(models().values)]
    results = peer.evaluate_models_searchlight(rdms, fixed, eval_fixed, method="corr", n_jobs=1)
    return np.stack([one.evaluations.ravel() for one in results], axis=1)


def cases(quick: bool) -> Iterator[Case]:
    """Yield the map of a small block, per center."""
    recording = brain((10, 10, 8 if quick else 20))
    size = f"{recording.sizes['unit']} centers, {STIMULI} stimuli, {MODELS} models"
    yield Case("searchlight in spheres, Pearson", size, partial(_compared, recording))


def _compared(recording: xr.DataArray) -> Found:
    n = recording.sizes["unit"]
    centers = np.arange(min(SOME, n))
    peer = Contender("rsatoolbox", partial(theirs, recording, centers), scale=n / len(centers))
    return compare(partial(ours, recording), peer=peer, repetitions=REPETITIONS)


def main() -> None:
    """Check both claims, and that scores are the same."""
    recording = brain((20, 20, 20))
    centers = np.random.default_rng(2).choice(recording.sizes["unit"], SOME, replace=False)
    np.testing.assert_allclose(ours(recording)[:, centers], theirs(recording, centers), atol=1e-6)
    turns = Turns(
        {"ours": partial(ours, recording), "rsatoolbox": partial(theirs, recording, centers)},
        REPETITIONS,
    )
    turns.show()
    scale = recording.sizes["unit"] / SOME
    ratio = turns.ratio("rsatoolbox", "ours", scale)
    claim("rsatoolbox / softrsa per center, one thread", ratio, WANTED)
    whole = brain(SHAPE)
    near = np.mean([len(own) for own in spheres(whole, RADIUS)])
    torch.set_num_threads(2)
    before = status("VmRSS")
    taken = seconds(partial(ours, whole)) / 60
    text = f"{whole.sizes['unit']} centers of {near:.0f} voxels, two threads"
    claim(text, taken, MINUTES, at_most=True, unit="minutes")
    claim("memory beside the data", (status("VmHWM") - before) / _harness.MEGABYTE, None, unit="MB")


if __name__ == "__main__":
    _harness.start()
    sys.exit(main())
