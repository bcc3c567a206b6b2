"""Claims about searchlights and time courses: faster than mne-rsa, with the same scores.

Run with ``python benchmarks/mne_rsa_speed.py``, with mne-rsa 1.0 installed. It asks for graphical
toolkits of several hundred MB that are not needed here: ``pip install --no-deps mne-rsa mne nibabel
decorator lazy_loader``. One thread; correlation distances, scored against several models.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec

import _harness
import numpy as np
import torch
import xarray as xr
from _harness import Case, Contender, Found, Turns, claim, compare

from softrsa.inference import time_courses
from softrsa.measures import get
from softrsa.rsm import searchlight

STIMULI, MODELS = 40, 12
CENTERS, VOXELS = 1000, 100
SUBJECTS, SENSORS, TIMES = 8, 60, 120
MEASURES = ("pearson", "spearman")
REPETITIONS = 3
WANTED = 20
Runs = tuple[Callable[[], np.ndarray], Callable[[], np.ndarray]]


def models(rng: np.random.Generator) -> np.ndarray:
    """Condensed RDMs (models, pairs)."""
    return rng.random((MODELS, STIMULI * (STIMULI - 1) // 2))


def over_space(measure: str, n_centers: int) -> Runs:
    """Score a searchlight (centers, models): ours and theirs."""
    rng = np.random.default_rng(0)
    rdms, x = models(rng), rng.normal(size=(STIMULI, 2 * n_centers))
    neighbors = [rng.choice(x.shape[1], VOXELS, replace=False) for _ in range(n_centers)]

    def ours() -> np.ndarray:
        score = get(measure).against(torch.from_numpy(rdms))
        return searchlight(torch.from_numpy(x), neighbors, evaluate=score, progress=False).numpy()

    def theirs() -> np.ndarray:
        from mne_rsa import rsa_array

        patches = [(slice(None), own) for own in neighbors]
        return rsa_array(x, [*rdms], patches, rsa_metric=measure).T

    return ours, theirs


def over_time(measure: str, n_times: int) -> Runs:
    """Score time courses (subjects, times, models): ours, with noise ceilings, and theirs."""
    rng = np.random.default_rng(0)
    rdms, x = models(rng), rng.normal(size=(SUBJECTS, STIMULI, SENSORS, n_times))
    ids = [f"image {i}" for i in range(STIMULI)]
    squares = np.zeros((MODELS, STIMULI, STIMULI))
    rows, columns = np.triu_indices(STIMULI, 1)
    squares[:, rows, columns] = squares[:, columns, rows] = rdms
    layers = xr.DataArray(
        squares, dims=("layer", "anchor", "neighbor"),
        coords={"layer": range(MODELS), "anchor": ids, "neighbor": ids}, attrs={"kind": "rdm"},
    )  # fmt: skip
    coords = {"stimulus": ids, "time": range(n_times)}
    meg = [xr.DataArray(one, dims=("stimulus", "unit", "time"), coords=coords) for one in x]

    def ours() -> np.ndarray:
        found = time_courses(layers, meg, measure, n_flips=1)
        return found.data["score"].squeeze("region").transpose("subject", "time", "model").values

    def theirs() -> np.ndarray:
        from mne_rsa import rsa_array
        from mne_rsa import searchlight as patches

        return np.stack(
            [
                rsa_array(one, [*rdms], patches(one.shape, temporal_radius=0), rsa_metric=measure).T
                for one in x
            ]
        )

    return ours, theirs


def prepared(quick: bool) -> Iterator[tuple[str, str, Runs]]:
    """Name, size and calls of every comparison."""
    n_centers, n_times = (100, 20) if quick else (CENTERS, TIMES)
    of_all = f"{STIMULI} stimuli, {MODELS} models"
    for measure in MEASURES:
        size = f"{n_centers} centers × {VOXELS} voxels, {of_all}"
        yield f"searchlight, {measure}", size, over_space(measure, n_centers)
        size = f"{SUBJECTS} subjects, {n_times} times × {SENSORS} sensors, {of_all}"
        yield f"time course, {measure}", size, over_time(measure, n_times)


def cases(quick: bool) -> Iterator[Case]:
    """Yield searchlights and time courses."""
    for name, size, (ours, theirs) in prepared(quick):
        yield Case(name, size, partial(_compared, ours, theirs))


def _compared(ours: Callable[[], object], theirs: Callable[[], object]) -> Found:
    peer = Contender("mne-rsa", theirs) if find_spec("mne_rsa") else None
    return compare(ours, peer=peer, repetitions=REPETITIONS)


def main() -> None:
    """Check every claim, and that scores are the same."""
    if not find_spec("mne_rsa"):
        sys.exit("mne-rsa is not installed; the first lines of this file say how.")
    for name, size, (ours, theirs) in prepared(quick=False):
        np.testing.assert_allclose(ours(), theirs(), atol=1e-10)
        turns = Turns({"ours": ours, "mne-rsa": theirs}, REPETITIONS)
        turns.show()
        claim(f"mne-rsa / {name}, {size}", turns.ratio("mne-rsa", "ours"), WANTED)


if __name__ == "__main__":
    _harness.start()
    main()
