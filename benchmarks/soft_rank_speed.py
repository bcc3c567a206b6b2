"""Claims about `soft_rank`: SciPy and plain torch keep up with torchsort, forward and backward.

Run with ``env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE python benchmarks/soft_rank_speed.py``; the
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

import torch
import torchsort
from torch import Tensor

from softrsa.transforms import soft_rank

ROWS, COLUMNS = 512, 9_500
REPETITIONS = 6
STRENGTHS = (0.1, 1.0)
LIMITS = {"scipy": 1.3, "torch": 3.0}


def bare_torchsort(x: Tensor, strength: float) -> Tensor:
    """Call torchsort as a user would who standardizes beforehand, in float32."""
    return torchsort.soft_rank(x * (COLUMNS / 12**0.5), regularization_strength=strength)


def seconds(function: Callable[[Tensor], Tensor], x: Tensor, weight: Tensor) -> float:
    """Time one forward and backward pass."""
    x = x.clone().requires_grad_()
    start = time.perf_counter()
    function(x).backward(weight)
    return time.perf_counter() - start


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
    x, weight = torch.randn(2, ROWS, COLUMNS, generator=torch.Generator().manual_seed(0))
    for strength in STRENGTHS:
        contenders: dict[str, Callable[[Tensor], Tensor]] = {
            name: lambda x, name=name, strength=strength: soft_rank(
                x, strength=strength, backend=name
            )
            for name in ("torchsort", "scipy", "torch")
        }
        contenders["bare torchsort"] = lambda x, strength=strength: bare_torchsort(x, strength)
        times: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(REPETITIONS):
            for name, function in contenders.items():
                times[name].append(seconds(function, x, weight))
        middle = {name: median(values[1:]) for name, values in times.items()}  # first: warm-up
        print(f"strength {strength:g}, {ROWS} x {COLUMNS} float32, forward and backward:")
        for name, value in middle.items():
            print(f"      {name}: {value:.3f} s (median of {REPETITIONS - 1})")
        for name, limit in LIMITS.items():
            for peer in ("torchsort", "bare torchsort"):
                ratio = middle[name] / middle[peer]
                verdict = "pass" if ratio <= limit else "FAIL"
                print(f"{verdict}  {name} / {peer}: {ratio:.2f} x (at most {limit:g})")


if __name__ == "__main__":
    main()
