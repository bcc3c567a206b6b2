"""Claims about rank and whitened correlations: much faster than rsatoolbox, and the same numbers.

Run with ``env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE python benchmarks/measure_speed.py``; the
contenders take turns, so that other load on the machine falls on all alike.
"""

from __future__ import annotations

import platform
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import numpy as np
import torch
from rsatoolbox.rdm import RDMs, compare

from softrsa.measures import kendall_tau_a, kendall_tau_b, whitened_cosine, whitened_pearson

STIMULI = 92
PAIRS = STIMULI * (STIMULI - 1) // 2
MODELS, BRAINS = 100, 50
REPETITIONS = 4


def timed(function: Callable[[], object]) -> tuple[float, np.ndarray]:
    """Time one call and keep what it found."""
    start = time.perf_counter()
    found = function()
    return time.perf_counter() - start, np.asarray(found)


def versus(
    claim: str,
    ours: Callable[[], object],
    theirs: Callable[[], object],
    least: float,
    *,
    share: float = 1.0,
    close: float = 1e-8,
) -> None:
    """Take turns, compare the medians; ``share`` is how much of our work the peer was given."""
    times: list[tuple[float, float]] = []
    for repetition in range(REPETITIONS):
        our_time, found = timed(ours)
        their_time, expected = timed(theirs)
        if repetition:  # the first warms up
            times.append((our_time, their_time / share))
    difference = np.abs(found[: len(expected), : expected.shape[1]] - expected).max()
    our_time, their_time = (median(column) for column in zip(*times, strict=True))
    verdict = "pass" if their_time / our_time >= least and difference < close else "FAIL"
    print(
        f"{verdict}  {claim}: {their_time:.3f} s / {our_time:.3f} s = "
        f"{their_time / our_time:.1f} x (at least {least:g}); differ by at most {difference:.1e}"
    )


def main() -> None:
    """Print where and when, then every claim."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {machine}, commit {commit or 'unknown'}")
    rng = torch.Generator().manual_seed(0)
    x = torch.rand(MODELS, PAIRS, dtype=torch.float64, generator=rng)
    y = torch.rand(BRAINS, PAIRS, dtype=torch.float64, generator=rng)
    sets = {
        "no ties": (x, y),
        "float32, a few ties": (x.float().double(), y.float().double()),
        "100 values, many ties": ((100 * x).round(), (100 * y).round()),
    }
    stack = f"{MODELS} x {BRAINS} RDMs of {STIMULI} stimuli"
    for kind, (a, b) in sets.items():
        rdms = RDMs(a.numpy()), RDMs(b.numpy()[: BRAINS // 5])
        for function, method in ((kendall_tau_a, "tau-a"), (kendall_tau_b, "tau-b")):
            if method == "tau-b" and kind != "no ties":
                continue
            # the peer's time is per pair of RDMs: a fifth of them is enough
            versus(
                f"rsatoolbox {method} (a fifth, times 5) / {function.__name__}, {stack}, {kind}",
                lambda f=function, a=a, b=b: f(a[:, None], b),
                lambda r=rdms, m=method: compare(*r, m),
                5 if kind != "100 values, many ties" else 1,
                share=0.2,
            )
    root = torch.randn(STIMULI, STIMULI, dtype=torch.float64, generator=rng)
    noise = root @ root.T / STIMULI + torch.eye(STIMULI)
    few = RDMs(x.numpy()[:4]), RDMs(y.numpy()[:4])
    for function, method in ((whitened_cosine, "cosine_cov"), (whitened_pearson, "corr_cov")):
        versus(
            f"rsatoolbox {method} (4 x 4 RDMs) / {function.__name__} (4 x 4), full covariance",
            lambda f=function: f(x[:4, None], y[:4], noise_covariance=noise),
            lambda m=method: compare(*few, m, sigma_k=noise.numpy()),
            20,
            close=1e-4,  # its solver stops at a relative 1e-5
        )
        start = time.perf_counter()
        function(x[:, None], y, noise_covariance=noise)
        print(f"      {function.__name__}, {stack}: {time.perf_counter() - start:.3f} s")


if __name__ == "__main__":
    main()
