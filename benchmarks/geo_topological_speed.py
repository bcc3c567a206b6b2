"""Claims about geodesic and geo-topological transforms: much faster than the published procedures.

Run with ``python benchmarks/geo_topological_speed.py``. The published procedures are written here
from their description (Lin & Kriegeskorte 2024); values are compared in the same run, contenders
take turns. The published ones are timed on 24 of the RDMs or pairs of thresholds, and the time
multiplied: it is proportional to their number. All on one thread and in processor time, which other
load on the machine falsifies least.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial

import _harness
import networkx as nx
import numpy as np
import torch
from _harness import Case, Contender, Found, Memory, Turns, claim, compare
from rsatoolbox.rdm import RDMs, rank_transform
from rsatoolbox.rdm import compare as compare_rdms
from rsatoolbox.rdm.transform import geodesic_transform, geotopological_transform
from scipy.spatial.distance import squareform
from scipy.stats import rankdata

from softrsa.alignment import threshold_correlations
from softrsa.transforms import geodesic

RDMS, STIMULI, REFERENCES = 192, 62, 8
PAIRS = STIMULI * (STIMULI - 1) // 2
STEPS = 20  # of either threshold
SHORTEST = 0.05
REPETITIONS = 5
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


def versus(
    text: str, ours: Callable[[], object], theirs: Callable[[], object], least: float, scale: float
) -> None:
    """Take turns; theirs times ``scale``, for being given a part."""
    turns = Turns({"ours": ours, "published": theirs}, REPETITIONS, clock=time.process_time)
    turns.show()
    claim(text, turns.ratio("published", "ours", scale), least)


def same(text: str, ours: np.ndarray, theirs: np.ndarray, most: float) -> None:
    """Print the largest difference."""
    largest = float(np.abs(ours - theirs).max())
    verdict = "pass " if largest <= most else "FAIL "
    print(f"{verdict} {text}: largest difference {largest:.1e} (at most {most:g})", flush=True)


def rsatoolbox_grid(
    rdms: np.ndarray, lower: np.ndarray, upper: np.ndarray, models: np.ndarray
) -> np.ndarray:
    """Transform ranked RDMs by rsatoolbox at every pair of thresholds, then correlate.

    Its transform writes into the RDMs it is given, hence the copies.
    """
    ranked, references = rank_transform(RDMs(rdms)).get_vectors(), RDMs(models)
    return np.array(
        [
            compare_rdms(
                geotopological_transform(RDMs(ranked.copy()), low, high), references, "corr"
            )
            for low, high in zip(lower, upper, strict=True)
        ]
    )


def cases(quick: bool) -> Iterator[Case]:
    """Yield correlations over the grid, and the geodesic transform."""
    n_rdms, repetitions = (4, 1) if quick else (RDMS, 3)
    size = f"{STEPS * STEPS} (l, u), {n_rdms} RDMs of {STIMULI}, {REFERENCES} models"
    yield Case(
        f"geo-topological grid (peer: {SHARE} of the (l, u))",
        size,
        partial(_grid, n_rdms, repetitions),
    )
    n_few = 2 if quick else SHARE
    yield Case(
        "geodesic transform", f"{n_few} RDMs of {STIMULI}", partial(_paths, n_few, repetitions)
    )


def _random_rdms(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((n, PAIRS))


def _few() -> np.ndarray:
    """Choose the thresholds that the peer is given."""
    return np.linspace(0, STEPS * STEPS - 1, SHARE).round().astype(int)


def _grid(n_rdms: int, repetitions: int) -> Found:
    rdms, models = _random_rdms(n_rdms), _random_rdms(REFERENCES, 1)
    (low, high), few = thresholds(), _few()
    x, y = torch.from_numpy(rdms), torch.from_numpy(models).mT.contiguous()

    def products() -> None:
        for _ in range(len(low)):
            x @ y

    scale = len(low) / len(few)
    return compare(
        memory_run(f"ours {n_rdms}"),
        peer=Contender(
            "rsatoolbox", lambda: rsatoolbox_grid(rdms, low[few], high[few], models), scale
        ),
        limit=Contender("correlations alone", products),
        memory=Memory(__file__, f"ours {n_rdms}", f"rsatoolbox {n_rdms}"),
        repetitions=repetitions,
    )


def _paths(n_rdms: int, repetitions: int) -> Found:
    rdms = _random_rdms(n_rdms)
    tensor, theirs = torch.from_numpy(rdms), RDMs(rdms)
    return compare(
        lambda: geodesic(tensor, keep="twostep", rank=False),
        peer=Contender("rsatoolbox", lambda: geodesic_transform(theirs)),
        repetitions=repetitions,
    )


def memory_run(name: str) -> Callable[[], object]:
    """Prepare "WHO N_RDMS" of the table: the grid."""
    who, n_rdms = name.split(" ")
    rdms, models = _random_rdms(int(n_rdms)), _random_rdms(REFERENCES, 1)
    low, high = thresholds()
    if who == "ours":
        x, y = torch.from_numpy(rdms), torch.from_numpy(models)
        threshold_correlations(x[:2], [0.1], [0.2], y)  # libraries
        return lambda: threshold_correlations(x, low.tolist(), high.tolist(), y)
    few = _few()[:4]
    rsatoolbox_grid(rdms[:2], low[:1], high[:1] + 0.1, models)
    return lambda: rsatoolbox_grid(rdms, low[few], high[few], models)


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

        text = f"{len(low)} (l, u), {RDMS} RDMs of {STIMULI} stimuli {what}"
        same(f"GT and Pearson, {text}", ours().numpy()[few], theirs(), 1e-12)
        versus(f"NumPy / threshold_correlations, {text}", ours, theirs, 20, len(low) / SHARE)


def main() -> None:
    """Check every claim."""
    rdms = np.random.default_rng(0).random((RDMS, PAIRS))
    geodesics(rdms)
    grids(rdms)


if __name__ == "__main__":
    _harness.start()
    main()
