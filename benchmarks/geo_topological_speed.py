"""Claims about geodesic and geo-topological transforms: much faster than the published procedures.

Run with
``env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE python benchmarks/geo_topological_speed.py``.
The published procedures are written here from their description (Lin & Kriegeskorte 2024); values
are compared in the same run, contenders take turns. The published ones are timed on 24 of the RDMs
or pairs of thresholds, and the time multiplied: it is proportional to their number. All on one
thread and in processor time, which other load on the machine falsifies least.
"""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import networkx as nx
import numpy as np
import torch
from scipy.spatial.distance import squareform
from scipy.stats import rankdata

from softrsa.alignment import threshold_correlations
from softrsa.transforms import geodesic

RDMS, STIMULI, REFERENCES = 192, 62, 8
PAIRS = STIMULI * (STIMULI - 1) // 2
STEPS = 20  # of either threshold
SHORTEST = 0.05
REPETITIONS = 6
SHARE = 24  # of RDMs, or thresholds, that a published procedure is timed on


def unit_ranks(d: np.ndarray) -> np.ndarray:
    """Average ranks scaled to [0, 1]."""
    ranks = rankdata(d)
    return (ranks - ranks.min()) / (ranks.max() - ranks.min())


def published_geodesic(d: np.ndarray) -> np.ndarray:
    """Ranks of shortest paths over the shortest edges of one condensed RDM."""
    x = unit_ranks(d)
    graph = nx.from_numpy_array(squareform(x))  # without edges of length 0
    limit = np.quantile(x, SHORTEST)
    long = [(i, j) for i, j, weight in graph.edges(data="weight") if weight > limit]
    graph.remove_edges_from(long)
    paths = nx.floyd_warshall(graph)
    lengths = np.array([[paths[i][j] for j in range(STIMULI)] for i in range(STIMULI)])
    return rankdata(squareform(lengths, checks=False))


def published_gt(d: np.ndarray, lower: float, upper: float) -> np.ndarray:
    """Geo-topological transform of one condensed RDM."""
    x = unit_ranks(d)
    low, high = np.quantile(x, lower), np.quantile(x, upper)
    y = x.copy()
    y[x < low] = 0.0
    between = (x >= low) & (x <= high)
    y[between] = (x[between] - low) / (high - low)
    y[x > high] = 1.0
    return y


def standardized(x: np.ndarray) -> np.ndarray:
    """Take off the mean of rows and bring them to length 1."""
    x = x - x.mean(1, keepdims=True)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def published_correlations(
    rdms: np.ndarray, lower: np.ndarray, upper: np.ndarray, references: np.ndarray | None
) -> np.ndarray:
    """Transform every RDM anew for every pair of thresholds, then correlate."""
    found = []
    for low, high in zip(lower, upper, strict=True):
        x = standardized(np.array([published_gt(d, low, high) for d in rdms]))
        found.append(x @ (x if references is None else standardized(references)).T)
    return np.array(found)


def thresholds() -> tuple[np.ndarray, np.ndarray]:
    """20 lower thresholds, and for each 20 upper ones above it."""
    low = np.repeat(np.arange(STEPS) / STEPS, STEPS)
    share = np.tile(np.arange(1, STEPS + 1) / STEPS, STEPS)
    return low, low + (1 - low) * share


def timed(function: Callable[[], object]) -> float:
    """Time one call, in seconds of the processor."""
    start = time.process_time()
    function()
    return time.process_time() - start


def versus(
    claim: str, ours: Callable[[], object], theirs: Callable[[], object], least: float, scale: float
) -> None:
    """Take turns and compare the medians; theirs times ``scale``, for being given a part."""
    times: list[tuple[float, float]] = []
    for repetition in range(REPETITIONS):
        pair = timed(ours), timed(theirs) * scale
        if repetition:  # the first warms up
            times.append(pair)
    our_time, their_time = (median(column) for column in zip(*times, strict=True))
    ratio = their_time / our_time
    verdict = "pass " if ratio >= least else "FAIL "
    print(
        f"{verdict} {claim}: {their_time:.1f} s / {our_time:.3f} s = {ratio:.0f} x "
        f"(at least {least:g})",
        flush=True,
    )


def same(claim: str, ours: np.ndarray, theirs: np.ndarray, most: float) -> None:
    """Print the largest difference."""
    largest = float(np.abs(ours - theirs).max())
    verdict = "pass " if largest <= most else "FAIL "
    print(f"{verdict} {claim}: largest difference {largest:.1e} (at most {most:g})", flush=True)


def geodesics(rdms: np.ndarray) -> None:
    """Geodesic transform of all RDMs."""
    tensor = torch.from_numpy(rdms)

    def ours() -> torch.Tensor:
        return geodesic(tensor, keep="p_shortest", amount=SHORTEST, zero_edges="drop")

    what = f"{RDMS} RDMs of {STIMULI} stimuli, {SHORTEST:.0%} shortest edges"
    same(f"geodesic, {what}", ours().numpy(), np.array([*map(published_geodesic, rdms)]), 0.0)
    versus(
        f"networkx / geodesic, {what}", ours, lambda: [*map(published_geodesic, rdms[:SHARE])],
        80, RDMS / SHARE,
    )  # fmt: skip
    versus(
        "the same / geodesic with exact lengths (default)",
        lambda: geodesic(tensor, keep="p_shortest", amount=SHORTEST),
        lambda: [*map(published_geodesic, rdms[:SHARE])], 80, RDMS / SHARE,
    )  # fmt: skip


def grids(rdms: np.ndarray) -> None:
    """Correlations over the grid of thresholds, with references and of RDMs with each other."""
    low, high = thresholds()
    few = np.linspace(0, len(low) - 1, SHARE).round().astype(int)
    tensor = torch.from_numpy(rdms)
    models = np.random.default_rng(1).random((REFERENCES, PAIRS))
    for what, references in ((f"with {REFERENCES} models", models), ("with each other", None)):
        given = None if references is None else torch.from_numpy(references)

        def ours(given: torch.Tensor | None = given) -> torch.Tensor:
            return threshold_correlations(tensor, low.tolist(), high.tolist(), given)

        def theirs(references: np.ndarray | None = references) -> np.ndarray:
            return published_correlations(rdms, low[few], high[few], references)

        claim = f"{len(low)} (l, u), {RDMS} RDMs of {STIMULI} stimuli {what}"
        same(f"GT and Pearson, {claim}", ours().numpy()[few], theirs(), 1e-12)
        versus(f"NumPy / threshold_correlations, {claim}", ours, theirs, 20, len(low) / SHARE)


def main() -> None:
    """Print where and when, then every claim."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    torch.set_num_threads(1)
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    load = f"load {os.getloadavg()[0]:.1f}"
    print(
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {machine}, {load}, commit {commit or 'unknown'}"
    )
    rdms = np.random.default_rng(0).random((RDMS, PAIRS))
    geodesics(rdms)
    grids(rdms)


if __name__ == "__main__":
    main()
