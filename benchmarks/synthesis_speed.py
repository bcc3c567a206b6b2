"""Claims about `optimize_to_score`: many times faster than through singular values, no more steps.

Run with ``env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE python benchmarks/synthesis_speed.py``. Data
of 500 x 100, float64, variances from 1 to 1e-4, from one random start to a score of 0.99, against
the same loop with the published formulas (Cloos et al. 2024): singular values of X'Y and of the
n x n Grams XX' and YY', by `torch.linalg.svdvals`, and `torch.optim.Adam`. Both run to the target;
the two take turns, so that other load on the machine falls on both alike.
"""

from __future__ import annotations

import math
import platform
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from softrsa.synthesis import optimize_to_score
from softrsa.synthesis.sources import starting_features

STIMULI, UNITS, TARGET, ROUNDS = 500, 100, 0.99, 3


def singular_values(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Singular values of X'Y, XX' and YY', columns centered."""
    x, y = x - x.mean(0), y - y.mean(0)
    return tuple(torch.linalg.svdvals(product) for product in (x.T @ y, x @ x.T, y @ y.T))


def nbs_by_singular_values(x: Tensor, y: Tensor) -> Tensor:
    """Score by the normalized Bures similarity as published."""
    xy, xx, yy = singular_values(x, y)
    return xy.sum() / (xx.sum() * yy.sum()).sqrt()


def angular_cka_by_singular_values(x: Tensor, y: Tensor) -> Tensor:
    """Score by angular linear CKA as published, but for its arccos at 1."""
    xy, xx, yy = singular_values(x, y)
    cka = xy.square().sum() / (xx.square().sum() * yy.square().sum()).sqrt()
    return 1 - torch.arccos(cka) / (math.pi / 2)


def plain_loop(x: Tensor, measure: Callable[[Tensor, Tensor], Tensor]) -> tuple[int, float]:
    """Count the steps to the target and the seconds they took."""
    y = starting_features(None, x, n_restarts=1, n_units=None, seed=0)[0].requires_grad_()
    optimizer = torch.optim.Adam([y], lr=0.1)
    began = time.perf_counter()
    steps = 0
    while (score := measure(x, y)).item() < TARGET:
        optimizer.zero_grad()
        (-score).backward()
        optimizer.step()
        steps += 1
    return steps, time.perf_counter() - began


def our_loop(x: Tensor, measure: str) -> tuple[int, float]:
    """Count the steps to the target and the seconds they took, all bookkeeping included."""
    began = time.perf_counter()
    result = optimize_to_score(x, measure, target=TARGET, device="cpu")
    return int(result.steps_to_target), time.perf_counter() - began


def report(claim: str, found: float, target: float, *, at_most: bool, unit: str) -> None:
    """Print a claim, what was measured and whether it holds."""
    holds = found <= target if at_most else found >= target
    word = "at most" if at_most else "at least"
    print(f"{'pass' if holds else 'FAIL'}  {claim}: {found:.2f} {unit} ({word} {target:g})")


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
    noise = torch.randn(STIMULI, UNITS, generator=torch.Generator().manual_seed(0)).double()
    x = noise * torch.logspace(0, -4, UNITS, dtype=torch.float64).sqrt()
    contenders = {
        "nbs": nbs_by_singular_values,
        "angular_cka": angular_cka_by_singular_values,
    }
    for name, published in contenders.items():
        our_loop(x, name)  # warms up
        rounds = [(our_loop(x, name), plain_loop(x, published)) for _ in range(ROUNDS)]
        ours, theirs = (median(pair[i][1] for pair in rounds) for i in (0, 1))
        (steps, _), (their_steps, _) = rounds[0]
        print(
            f"      {name}: {steps} steps of {1e3 * ours / steps:.2f} ms; by singular values "
            f"{their_steps} steps of {1e3 * theirs / their_steps:.1f} ms (medians of {ROUNDS} runs)"
        )
        report(f"{name}, seconds to {TARGET}", theirs / ours, 15, at_most=False, unit="x")
        report(f"{name}, steps to {TARGET}", steps, their_steps, at_most=True, unit="steps")


if __name__ == "__main__":
    main()
