"""Claims about bootstraps of model scores: much faster than rsatoolbox, and the same numbers.

Run with ``env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE python benchmarks/inference_speed.py``; the
contenders take turns, so that other load on the machine falls on all alike. rsatoolbox is given a
hundredth of the resamples and its time multiplied: its time is per resample.
"""

from __future__ import annotations

import os
import platform
import subprocess
import time
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import numpy as np
import torch
from rsatoolbox.inference import eval_bootstrap_pattern, eval_dual_bootstrap
from rsatoolbox.model import ModelFixed
from rsatoolbox.rdm import RDMs

from softrsa.inference import bootstrap

STIMULI, MODELS, SUBJECTS = 92, 10, 8
PAIRS = STIMULI * (STIMULI - 1) // 2
RESAMPLES, THEIRS = 1000, 10
REPETITIONS = 4


def timed(function: Callable[[], object]) -> float:
    """Time one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def versus(
    claim: str, ours: Callable[[], object], theirs: Callable[[], object], least: float | None
) -> None:
    """Take turns and compare the medians."""
    times: list[tuple[float, float]] = []
    for repetition in range(REPETITIONS):
        pair = timed(ours), timed(theirs) * RESAMPLES / THEIRS
        if repetition:  # the first warms up
            times.append(pair)
    our_time, their_time = (median(column) for column in zip(*times, strict=True))
    ratio = their_time / our_time
    verdict = "     " if least is None else "pass " if ratio >= least else "FAIL "
    wanted = "" if least is None else f" (at least {least:g})"
    print(f"{verdict} {claim}: {their_time:.0f} s / {our_time:.3f} s = {ratio:.0f} x{wanted}")


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
    load = f"load {os.getloadavg()[0]:.1f}"
    print(
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {machine}, {load}, commit {commit or 'unknown'}"
    )
    rng = torch.Generator().manual_seed(0)
    models = torch.rand(MODELS, PAIRS, dtype=torch.float64, generator=rng)
    subjects = models[0] + torch.rand(SUBJECTS, PAIRS, dtype=torch.float64, generator=rng)
    fixed = [ModelFixed(str(i), one.numpy()) for i, one in enumerate(models)]
    rdms = RDMs(subjects.numpy())
    np.random.seed(0)  # noqa: NPY002, rsatoolbox draws from it
    warnings.simplefilter("ignore")
    what = f"{RESAMPLES} resamples, {MODELS} models, {SUBJECTS} subjects, {STIMULI} stimuli"
    for measure, method, least in (
        ("pearson", "corr", 150),
        ("whitened_pearson", "corr_cov", None),
    ):
        versus(
            f"eval_dual_bootstrap / bootstrap over both, {measure}, both ceilings, {what}",
            lambda m=measure: bootstrap(models, subjects, m, over="both", n_resamples=RESAMPLES),
            lambda m=method: eval_dual_bootstrap(fixed, rdms, method=m, N=THEIRS),
            least,
        )
    for ceilings in (True, False):
        versus(
            "eval_bootstrap_pattern / bootstrap over stimuli, spearman, "
            f"{'with' if ceilings else 'without'} ceilings, {what}",
            lambda c=ceilings: bootstrap(
                models, subjects, "spearman", n_resamples=RESAMPLES, ceilings=c
            ),
            lambda c=ceilings: eval_bootstrap_pattern(
                fixed, rdms, method="spearman", N=THEIRS, boot_noise_ceil=c
            ),
            60,
        )


if __name__ == "__main__":
    main()
