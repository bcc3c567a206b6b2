"""Claims about tests over time: faster than MNE-Python, and all times of a study in seconds.

Run with ``python benchmarks/cluster_speed.py``, with MNE-Python (1.13) installed; without it the
seconds of a study are measured alone. Flips are random on both sides, as many of them; one thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec

import _harness
import numpy as np
import torch
import xarray as xr
from _harness import Case, Contender, Found, Turns, claim, compare, seconds

from softrsa.inference import cluster_test, time_courses
from softrsa.rsm import build_rsms

SUBJECTS, TIMES, FLIPS = 16, 120, 1000
STUDY = {"models": 2, "times": 120, "subjects": 8, "stimuli": 60}
SHAPES = {"time": (TIMES,), "time x time": (60, 60), "time x sensors": (TIMES, 64)}
METHODS = {"mass": None, "tfce": {"start": 0, "step": 0.2}}
REPETITIONS = 3


def data(shape: tuple[int, ...]) -> torch.Tensor:
    """Noise with an effect in the middle of the first dimension."""
    rng = torch.Generator().manual_seed(0)
    values = torch.randn(SUBJECTS, *shape, dtype=torch.float64, generator=rng)
    values[:, shape[0] // 3 : 2 * shape[0] // 3] += 0.5
    return values


def ring(shape: tuple[int, ...], what: str) -> np.ndarray | None:
    """Sensors on a ring, each with four neighbors."""
    if "sensors" not in what:
        return None
    steps = np.abs(np.arange(shape[-1])[:, None] - np.arange(shape[-1]))
    steps = np.minimum(steps, shape[-1] - steps)
    return ((steps > 0) & (steps < 3)).astype(int)


def ours(what: str, method: str, n_flips: int) -> Callable[[], object]:
    """Prepare our test."""
    values, adjacency = data(SHAPES[what]), ring(SHAPES[what], what)
    return lambda: cluster_test(values, adjacency=adjacency, method=method, n_flips=n_flips)


def theirs(what: str, method: str, n_flips: int) -> Callable[[], object]:
    """Prepare the same test by MNE-Python."""
    from mne.stats import permutation_cluster_1samp_test, spatio_temporal_cluster_1samp_test
    from scipy.sparse import csr_array

    shape = SHAPES[what]
    values, adjacency = data(shape).numpy(), ring(shape, what)
    options = {
        "n_permutations": n_flips, "threshold": METHODS[method], "verbose": "error",
        "out_type": "mask", "rng": 0,
    }  # fmt: skip
    if adjacency is None:
        return lambda: permutation_cluster_1samp_test(values, **options)
    links = csr_array(adjacency)
    return lambda: spatio_temporal_cluster_1samp_test(values, adjacency=links, **options)


def study() -> tuple[xr.DataArray, xr.DataArray]:
    """Models and an RDM movie of several subjects."""
    rng = np.random.default_rng(0)
    n, subjects = STUDY["stimuli"], STUDY["subjects"]
    ids = [f"image {i}" for i in range(n)]
    recordings = xr.DataArray(
        rng.normal(size=(n, 20 * subjects, STUDY["times"])),
        dims=("stimulus", "unit", "time"),
        coords={
            "stimulus": ids,
            "subject": ("unit", np.repeat([f"s{i}" for i in range(subjects)], 20)),
            "time": np.arange(STUDY["times"]) / 100,
        },
    )
    layers = xr.DataArray(
        rng.normal(size=(n, 10 * STUDY["models"])),
        dims=("stimulus", "unit"),
        coords={
            "stimulus": ids,
            "layer": ("unit", np.repeat([f"layer {i}" for i in range(STUDY["models"])], 10)),
        },
    )
    return build_rsms(layers, by="layer"), build_rsms(recordings, by="subject")


def cases(quick: bool) -> Iterator[Case]:
    """Yield cluster tests and a study."""
    n = 50 if quick else FLIPS
    for what, shape in SHAPES.items():
        size = f"{SUBJECTS} subjects, {' × '.join(map(str, shape))} positions, {n} flips"
        yield Case(f"cluster test over {what}, mass", size, partial(_test, what, "mass", n))
    size = f"{SUBJECTS} subjects, {TIMES} positions, {n} flips"
    yield Case("cluster test over time, TFCE", size, partial(_test, "time", "tfce", n))


def _test(what: str, method: str, n: int) -> Found:
    peer = Contender("MNE-Python", theirs(what, method, n)) if find_spec("mne") else None
    return compare(ours(what, method, n), peer=peer, repetitions=REPETITIONS)


def main() -> None:
    """Check every claim."""
    if find_spec("mne"):
        for what, method in (
            ("time", "mass"), ("time x time", "mass"), ("time x sensors", "mass"), ("time", "tfce"),
        ):  # fmt: skip
            contenders = {
                "ours": ours(what, method, FLIPS),
                "MNE-Python": theirs(what, method, FLIPS),
            }
            turns = Turns(contenders, REPETITIONS)
            turns.show()
            text = f"MNE-Python / cluster_test over {what}, {method}, {FLIPS} flips"
            claim(text, turns.ratio("MNE-Python", "ours"), 3)
    models, movie = study()
    size = " × ".join(f"{n} {name}" for name, n in STUDY.items())
    for measure in ("centered_pearson", "spearman"):
        taken = min(
            seconds(lambda m=measure: time_courses(models, movie, m, n_flips=FLIPS))
            for _ in range(REPETITIONS)
        )
        text = f"time_courses, {size}, ceilings and {FLIPS} flips, {measure}"
        claim(text, taken, 3 if measure == "centered_pearson" else None, at_most=True, unit="s")


if __name__ == "__main__":
    _harness.start()
    main()
