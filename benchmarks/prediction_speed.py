"""Claims about neighbor heads: little slower than a softmax of similarities, and lean inference.

Run with ``env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE python benchmarks/prediction_speed.py``. The
contenders take turns on one thread, so that other load on the machine falls on all alike; memory is
the growth of a process's peak, each contender in a process of its own.
"""

from __future__ import annotations

import multiprocessing
import platform
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from softrsa.prediction import DiffKNNHead, NCAHead, SoftStepNCAHead

WIDTH, BATCH = 100, 512
QUERIES, NEIGHBORS = 2_800, 9_500
REPETITIONS = 15


def training_contenders() -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """Predictions of a batch from itself: without a step, and by each head."""
    plain = NCAHead(temperature=None)
    own = torch.arange(BATCH)

    def similarity_softmax_product(z: Tensor, y: Tensor) -> Tensor:
        return plain.plan(z, z).block().softmax(-1) @ y

    heads = {
        "NCA": NCAHead(),
        "NCA + S1": SoftStepNCAHead(WIDTH),
        "NCA + S2": SoftStepNCAHead(WIDTH, family="s2"),
        "DiffKNN": DiffKNNHead(WIDTH),
    }
    return {
        "similarity, softmax, product": similarity_softmax_product,
        "cdist, softmax, product": lambda z, y: (-torch.cdist(z, z)).softmax(-1) @ y,
        **{
            name: lambda z, y, head=head: head(z, z, y, exclude=own) for name, head in heads.items()
        },
    }


def eager(queries: Tensor, neighbors: Tensor, labels: Tensor) -> Tensor:
    """Transcribe the formulas of NCA + S1, as published code does."""
    head = SoftStepNCAHead(WIDTH)
    lower, upper, transition = (p.unsqueeze(-1) for p in head.soft_step.gate(None, queries))
    s = -torch.cdist(queries, neighbors)
    low, high = s.amin(-1, keepdim=True), s.amax(-1, keepdim=True)
    scaled = (s - low) / (high - low)
    u = (scaled - lower).abs() ** (1 / transition)
    v = (upper - scaled).abs() ** (1 / transition)
    step = torch.where(scaled <= lower, 0.0, torch.where(scaled >= upper, 1.0, u / (u + v)))
    return torch.softmax(s + step.log(), -1) @ labels


def inference_contenders() -> dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]]:
    """Predictions of queries from neighbors."""
    head = SoftStepNCAHead(WIDTH)
    return {
        "cdist, softmax, product": lambda q, n, y: (-torch.cdist(q, n)).softmax(-1) @ y,
        "eager formulas": eager,
        "NCA + S1": head.predict,
    }


def inference_data() -> tuple[Tensor, Tensor, Tensor]:
    """Random queries, neighbors and labels, float32."""
    rng = torch.Generator().manual_seed(0)
    return (
        torch.randn(QUERIES, WIDTH, generator=rng),
        torch.randn(NEIGHBORS, WIDTH, generator=rng),
        torch.rand(NEIGHBORS, generator=rng),
    )


def megabytes(name: str) -> float:
    """Growth of this process's peak memory by one inference; call it in a fresh process."""
    torch.set_num_threads(1)
    data = inference_data()
    function = inference_contenders()[name]
    with torch.no_grad():
        function(data[0][:64], data[1][:64], data[2][:64])  # libraries are loaded
        before = status("VmRSS")
        function(*data)
    return status("VmHWM") - before


def status(field: str) -> float:
    """Read a memory field of this process in MB; unlike ru_maxrss, free of the parent's."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def medians(runs: dict[str, Callable[[], object]], repetitions: int) -> dict[str, float]:
    """Seconds of each, taking turns; the first round is a warm-up."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repetitions + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return {name: median(values[1:]) for name, values in times.items()}


def claim(text: str, value: float, limit: float, *, most: bool = True, unit: str = "x") -> None:
    """Print one claim with its verdict."""
    verdict = "pass" if (value <= limit if most else value >= limit) else "FAIL"
    print(f"{verdict}  {text}: {value:.2f} {unit} (at {'most' if most else 'least'} {limit:g})")


def main() -> None:
    """Print where and when, then every claim."""
    torch.set_num_threads(1)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    machine = f"{platform.machine()}, 1 thread, torch {torch.__version__}"
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {machine}, commit {commit or 'unknown'}")
    rng = torch.Generator().manual_seed(0)
    batch, labels = torch.randn(BATCH, WIDTH, generator=rng), torch.rand(BATCH, generator=rng)

    def step(function: Callable[[Tensor, Tensor], Tensor]) -> None:
        function(batch.clone().requires_grad_(), labels).square().sum().backward()

    runs = {n: lambda f=f: step(f) for n, f in training_contenders().items()}
    found = medians(runs, REPETITIONS)
    print(f"forward and backward, batch {BATCH}, d = {WIDTH}, float32:")
    for name, value in found.items():
        print(f"      {name}: {1e3 * value:.1f} ms (median of {REPETITIONS})")
    base = "similarity, softmax, product"
    for name in ("NCA", "NCA + S1", "NCA + S2"):
        claim(f"{name} / {base}", found[name] / found[base], 2.0)

    data = inference_data()
    with torch.no_grad():
        runs = {n: lambda f=f: f(*data) for n, f in inference_contenders().items()}
        found = medians(runs, 5)
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        memory = {name: pool.apply(megabytes, (name,)) for name in found}
    print(f"inference of {QUERIES} queries from {NEIGHBORS} neighbors, d = {WIDTH}, float32:")
    for name, value in found.items():
        print(f"      {name}: {value:.3f} s (median of 5), {memory[name]:.0f} MB")
    ours, plain, formulas = "NCA + S1", "cdist, softmax, product", "eager formulas"
    claim(f"{ours} / {plain}", found[ours] / found[plain], 2.2)
    claim(f"memory of {ours}", memory[ours], 150, unit="MB")
    claim(f"{formulas} / {ours}", found[formulas] / found[ours], 2.5, most=False)
    claim(f"memory of {formulas} / {ours}", memory[formulas] / memory[ours], 4, most=False)


if __name__ == "__main__":
    main()
