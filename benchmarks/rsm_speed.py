"""Claims about `softrsa.rsm`: close to a bare matrix product in time, lean in memory.

Run with ``env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE python benchmarks/rsm_speed.py``; the
contenders take turns, so that other load on the machine falls on all alike.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import torch

from softrsa.rsm import condensed_similarity, similarity_matrix

STIMULI, UNITS = 10_000, 512
REPETITIONS = 9
MEGABYTE = 2**20
MEMORY_CASES = {  # function, similarity, stimuli, units
    "92 x 600 000 correlation": ("square", "correlation", 92, 600_000),
    "92 x 600 000 l2": ("square", "l2", 92, 600_000),
    "92 x 600 000 l1": ("square", "l1", 92, 600_000),
    "10 000 x 512 correlation": ("square", "correlation", STIMULI, UNITS),
    "10 000 x 512 correlation, condensed": ("condensed", "correlation", STIMULI, UNITS),
    "10 000 x 512 sqeuclidean": ("square", "sqeuclidean", STIMULI, UNITS),
    "10 000 x 512 rbf, median": ("square", "rbf", STIMULI, UNITS),
    "10 000 x 512 mahalanobis": ("square", "mahalanobis", STIMULI, UNITS),
    "2 000 x 512 l1": ("square", "l1", 2_000, UNITS),
    "3 000 x 20 000 correlation": ("square", "correlation", 3_000, 20_000),
}
FUNCTIONS = {"square": similarity_matrix, "condensed": condensed_similarity}


def seconds(function: Callable[[], object]) -> float:
    """Time one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def report(claim: str, found: float, target: float, *, at_most: bool, unit: str) -> None:
    """Print a claim, what was measured and whether it holds."""
    holds = found <= target if at_most else found >= target
    word = "at most" if at_most else "at least"
    print(f"{'pass' if holds else 'FAIL'}  {claim}: {found:.2f} {unit} ({word} {target:g})")


def speed() -> None:
    """Compare with a matrix product and with rsatoolbox, taking turns."""
    from rsatoolbox.data import Dataset
    from rsatoolbox.rdm import calc_rdm

    x = torch.randn(STIMULI, UNITS, generator=torch.Generator().manual_seed(0))
    out = torch.empty(STIMULI, STIMULI)
    dataset = Dataset(x.numpy())
    contenders = {
        "product": lambda: torch.mm(x, x.T, out=out),
        "softrsa": lambda: condensed_similarity(x),
        "square": lambda: similarity_matrix(x),
        "rsatoolbox": lambda: calc_rdm(dataset, method="correlation"),
    }
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for repetition in range(REPETITIONS):
        for name, function in contenders.items():
            if name != "rsatoolbox" or repetition < 3:
                times[name].append(seconds(function))
    middle = {name: median(values[1:]) for name, values in times.items()}  # the first warms up
    for name, value in middle.items():
        print(f"      {name}: {value:.3f} s (median of {len(times[name]) - 1})")
    size = f"{STIMULI} x {UNITS} float32"
    claim = f"condensed correlation RSM of {size} / torch.mm(x, x.T, out=...)"
    report(claim, middle["softrsa"] / middle["product"], 1.3, at_most=True, unit="x")
    claim = f"rsatoolbox.rdm.calc_rdm / condensed correlation RSM of {size}"
    report(claim, middle["rsatoolbox"] / middle["softrsa"], 10, at_most=False, unit="x")
    print(f"      similarity_matrix / torch.mm: {middle['square'] / middle['product']:.2f} x")


def status(field: str) -> int:
    """Read a memory field of this process in bytes; unlike ru_maxrss, free of the parent's."""
    text = Path("/proc/self/status").read_text()
    return int(text.split(f"{field}:")[1].split()[0]) * 1024


def peak_memory(case: str) -> float:
    """Measure, in this process, the peak beside input and result in MB."""
    kind, similarity, n, p = MEMORY_CASES[case]
    function = FUNCTIONS[kind]
    x = torch.randn(n, p, generator=torch.Generator().manual_seed(0))
    similarity_matrix(x[:64, :512], similarity="l2")  # libraries and thread pools
    options = {"precision": torch.eye(p)} if similarity == "mahalanobis" else {}
    before = status("VmRSS")
    result = function(x, similarity=similarity, **options)
    peak = status("VmHWM")
    return (peak - before - result.nbytes) / MEGABYTE


def memory() -> None:
    """Measure each case in a process of its own."""
    if not Path("/proc/self/status").exists():
        print("      peak memory is measured on Linux only")
        return
    for case in MEMORY_CASES:
        command = [sys.executable, __file__, case]
        done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
        report(
            f"peak beside the result, {case}", json.loads(done.stdout), 200, at_most=True, unit="MB"
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
    speed()
    memory()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(peak_memory(sys.argv[1])))
    else:
        main()
