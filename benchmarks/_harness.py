"""How everything here is measured: contenders in turns, ratios within turns, memory by itself.

A benchmark module has ``cases(quick)``, which yields the rows of the table that `table.py` prints,
and ``memory_run(name)``, which prepares one of the calls whose memory it compares. Its own ``main``
checks the claims of `README.md`.
"""

from __future__ import annotations

import importlib
import math
import multiprocessing
import os
import platform
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median

FORCED = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")  # kernels of another machine than this one
POOLS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
MEGABYTE = 2**20
LIBRARIES = ("softrsa.inference", "softrsa.prediction", "rsatoolbox.inference", "torchsort")
STATUS = Path("/proc/self/status")
Run = Callable[[], object]


def start(threads: int = 1) -> None:
    """Pin the threads and free NumPy's kernels, in a process begun anew if need be: call it first.

    NumPy reads both when it is imported, and they cannot be changed later.
    """
    wanted = {name: value for name, value in os.environ.items() if name not in FORCED}
    wanted |= dict.fromkeys(POOLS, str(threads))
    if wanted != dict(os.environ):
        sys.stdout.flush()
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], wanted)  # noqa: S606

    import torch

    torch.set_num_threads(threads)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    print(f"{machine()}, {conditions(threads)}")


def machine() -> str:
    """Name the processor and what computes on it."""
    kinds = [
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if line.startswith("model name")
    ] or [platform.processor()]
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "numpy", "scipy"))
    return f"{kinds[0]} ({platform.machine()}, {os.cpu_count()} cores), {packages}"


def conditions(threads: int) -> str:
    """Say when, with how many threads and on how busy a machine."""
    threaded = f"{threads} thread{'s' if threads > 1 else ''}"
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=Path(__file__).parent, capture_output=True, text=True, check=False,
    ).stdout.strip()  # fmt: skip
    now = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    return f"{threaded}, load {os.getloadavg()[0]:.1f}, {now}, commit {commit or 'unknown'}"


def seconds(run: Run, clock: Callable[[], float] = time.perf_counter) -> float:
    """Time one call."""
    began = clock()
    run()
    return clock() - began


class Turns:
    """Seconds of each contender, turn by turn; other load on the machine falls on all alike."""

    def __init__(
        self,
        contenders: dict[str, Run],
        repetitions: int,
        *,
        warm_up: bool = True,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self.times: dict[str, list[float]] = {name: [] for name in contenders}
        for turn in range(repetitions + warm_up):
            for name, run in contenders.items():
                taken = seconds(run, clock)
                if turn >= warm_up:
                    self.times[name].append(taken)

    def ratio(self, over: str, under: str, scale: float = 1.0) -> float:
        """Median of the ratios within turns; ``scale`` where ``over`` was given a part only."""
        pairs = zip(self.times[over], self.times[under], strict=True)
        return scale * median(a / b for a, b in pairs)

    def show(self) -> None:
        """Print the medians."""
        for name, values in self.times.items():
            print(f"      {name}: {1e3 * median(values):.1f} ms (median of {len(values)})")


def claim(
    text: str, found: float, wanted: float | None, *, at_most: bool = False, unit: str = "×"
) -> None:
    """Print a claim, what was measured and whether it holds."""
    if wanted is None:
        print(f"      {text}: {found:.2f} {unit}")
        return
    holds = found <= wanted if at_most else found >= wanted
    word = "at most" if at_most else "at least"
    print(f"{'pass' if holds else 'FAIL'}  {text}: {found:.2f} {unit} ({word} {wanted:g})")


def status(name: str) -> int:
    """Read a memory field of this process in bytes; unlike ru_maxrss, free of the parent's."""
    return int(STATUS.read_text(encoding="ascii").split(f"{name}:")[1].split()[0]) * 1024


def peak_megabytes(module: str, name: str) -> float:
    """Growth of memory at its peak by the call ``memory_run(name)`` of a module, result included.

    In a process of its own, forked from one that has nothing but the libraries; NaN where the
    system does not tell.
    """
    if not STATUS.exists():
        return math.nan
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(LIBRARIES))
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_measure_memory, Path(module).stem, name).result()


def _measure_memory(module: str, name: str) -> float:
    warnings.simplefilter("ignore", RuntimeWarning)  # as in `table.py`
    run = importlib.import_module(module).memory_run(name)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts from here
    before = status("VmRSS")
    result = run()
    peak = status("VmHWM")
    del result
    return max(peak - before, 0) / MEGABYTE


@dataclass(frozen=True)
class Over:
    """A ratio and what it is to."""

    ratio: float
    name: str


@dataclass(frozen=True)
class Found:
    """What one row of the table says; None where there is nothing to compare with."""

    peer: Over | None = None  # its time over ours: larger is better
    limit: Over | None = None  # our time over the limit's: 1 is as good as can be
    memory: Over | None = None  # our memory over theirs: smaller is better


@dataclass(frozen=True)
class Case:
    """A row that is yet to be measured."""

    what: str
    size: str
    measure: Callable[[], Found]


@dataclass(frozen=True)
class Contender:
    """Another way to the same result, or a part of the way that cannot be left out."""

    name: str
    run: Run
    scale: float = 1.0  # how many times its work is ours, where it is given a part of it


@dataclass(frozen=True)
class Memory:
    """Whose memory to compare: names for ``memory_run`` of a module."""

    module: str
    ours: str
    theirs: str
    name: str = field(default="peer")


def compare(
    ours: Run,
    *,
    peer: Contender | None = None,
    limit: Contender | None = None,
    memory: Memory | None = None,
    repetitions: int = 5,
    warm_up: bool = True,
) -> Found:
    """Let them take turns and form the ratios of one row."""
    runs: dict[str, Run] = {"ours": ours}
    runs |= {key: one.run for key, one in (("peer", peer), ("limit", limit)) if one is not None}
    turns = Turns(runs, repetitions, warm_up=warm_up)
    beside = None
    if memory is not None:
        mine, other = (
            # what takes next to nothing counts as a megabyte
            max(peak_megabytes(memory.module, name), 1.0)
            for name in (memory.ours, memory.theirs)
        )
        beside = Over(mine / other, memory.name)
    return Found(
        None if peer is None else Over(turns.ratio("peer", "ours", peer.scale), peer.name),
        None if limit is None else Over(turns.ratio("ours", "limit") / limit.scale, limit.name),
        beside,
    )


def slope(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Exponent of the power of the size that values grow with, by least squares of logarithms."""
    x, y = ([math.log(v) for v in column] for column in (sizes, values))
    middle = sum(x) / len(x)
    spread = sum((a - middle) ** 2 for a in x)
    return sum((a - middle) * b for a, b in zip(x, y, strict=True)) / spread
