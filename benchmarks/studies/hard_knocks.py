"""Bad calls, mutated files and kills, repeated with a fixed seed and counted.

Every public function of tensors is called with arguments that are wrong in one place, files of
several formats are changed at random places, and writers are killed. Prints how many trials were
refused clearly (an error of softrsa's own, or a documented builtin one), right, silent (a result
for what cannot be right), raw (an error of another library), crashed or hung, and exits with 1
where one of the last four is above zero.

    python benchmarks/studies/hard_knocks.py [--quick]
"""

from __future__ import annotations

import argparse
import inspect
import os
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import xarray as xr

from softrsa import measures, pairs, rsm, transforms
from softrsa.errors import SoftRSAError
from softrsa.io import save

KINDS = ("refused", "right", "silent", "raw", "crash", "hang")
BAD = KINDS[2:]
N = 8
FORMATS = {"netCDF": "x.nc", "NumPy": "x.npy", "archive": "x.npz", "CSV": "x.csv"}


def arguments_of(name: str) -> dict[str, object]:
    """Right arguments of a public function, by its name; none where the study does not know any."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, N, 6, generator=generator, dtype=torch.float64)
    s = rsm.similarity_matrix(x)
    takes = measures.available()[name].takes if name in measures.available() else ""
    if takes:
        sides = {
            "features": (x, y),
            "vectors": (pairs.condense(s), pairs.condense(rsm.similarity_matrix(y))),
        }.get(takes, (s, rsm.similarity_matrix(y)))
        return dict(zip(("x", "y"), sides, strict=True))
    return {
        "soft_step": {"s": s, "lower": 0.2, "upper": 0.8, "transition": 0.5},
        "log_soft_step": {"s": s, "lower": 0.2, "upper": 0.8, "transition": 0.5},
        "soft_step_s2": {"s": s, "upper": 0.8, "transition": 0.5},
        "log_soft_step_s2": {"s": s, "upper": 0.8, "transition": 0.5},
        "geo_topological": {"rdm": 1 - s, "lower": 0.2, "upper": 0.8},
        "similarity_matrix": {"x": x},
        "condense": {"matrix": s},
        "expand": {"vector": pairs.condense(s), "diagonal": 0.0},
        "off_diagonal": {"matrix": s},
    }.get(name, {})


def spoiled(value: object) -> Iterator[tuple[str, object]]:
    """Give what must not stand in the place of a right argument."""
    yield "None", None
    yield "a string", "0.5"
    yield "a list", [0.5]
    if isinstance(value, torch.Tensor):
        yield "whole numbers", value.long()
        yield "complex", value.to(torch.complex64)
        yield "a number", 0.5
        yield "no dimension", value.flatten()[0]
        yield "empty", value[..., :0]
    else:
        yield "far too large", 7.0
        yield "far too small", -7.0


def bad_calls() -> Counter[str]:
    """Call every public function with one argument spoiled."""
    counts: Counter[str] = Counter()
    modules = (measures, transforms, pairs, rsm)
    functions = {n: getattr(m, n) for m in modules for n in m.__all__ if callable(getattr(m, n))}
    for name, function in functions.items():
        right = arguments_of(name)
        if not right or not inspect.isfunction(function):
            continue
        names = list(inspect.signature(function).parameters)[: len(right)]
        for place, value in zip(names, right.values(), strict=True):
            for what, wrong in spoiled(value):
                given = {**dict(zip(names, right.values(), strict=True)), place: wrong}
                counts[judge(lambda f=function, g=given: f(**g), f"{name}: {place} is {what}")] += 1
    return counts


ANY_SHAPE = tuple(f"{log}soft_step{s2}: s is" for log in ("", "log_") for s2 in ("", "_s2"))
ANY_NUMBER = tuple(f"{name}: " for name in ("condense", "expand", "off_diagonal"))
ANY_BOUND = tuple(
    f"{log}soft_step: {place}"
    for log in ("", "log_")
    for place in ("lower is far too small", "upper is far too large")
)


def is_right(what: str) -> bool:
    """Say whether a call is right all the same: functions of any shape, number or bound."""
    if what.startswith(ANY_SHAPE):
        return what.endswith(("empty", "no dimension"))
    if what.startswith(ANY_NUMBER):
        return what.endswith(("whole numbers", "complex", "far too large", "far too small"))
    return what.startswith(ANY_BOUND)


def judge(call: Callable[[], object], what: str) -> str:
    """Say how a call that cannot be right ends."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            call()
    except SoftRSAError:
        return "refused"
    except Exception as error:  # what it is counts
        print(f"raw     {what}: {type(error).__name__}: {str(error)[:90]}", file=sys.stderr)
        return "raw"
    if is_right(what):
        return "right"
    print(f"silent  {what}", file=sys.stderr)
    return "silent"


def mutated_files(trials: int, folder: Path) -> dict[str, Counter[str]]:
    """Change bytes of files, or cut them short, and read each in a process of its own pace."""
    rng = np.random.default_rng(0)
    ids = [f"stimulus {i}" for i in range(N)]
    array = xr.DataArray(
        rng.normal(size=(N, 6)), dims=("stimulus", "unit"),
        coords={"stimulus": ids, "unit": [f"u{i}" for i in range(6)]},
    )  # fmt: skip
    found = {}
    for title, name in FORMATS.items():
        path = folder / name
        if path.suffix == ".npy":
            np.save(path, array.values)
        elif path.suffix == ".csv":
            array.to_pandas().to_csv(path)
        else:
            save(array, path)
        whole = path.read_bytes()
        files = []
        for i in range(trials):
            content = bytearray(whole)
            for at in rng.integers(0, len(content), 1 + i % 4):
                content[at] = int(rng.integers(256))
            one = folder / f"{i}-{name}"
            one.write_bytes(
                content[: int(rng.integers(1, len(content)))] if i % 3 == 0 else content
            )
            files.append(one)
        found[title] = read_apart(files)
    return found


READER = """
import sys, warnings
warnings.simplefilter("ignore")
from softrsa.errors import SoftRSAError
from softrsa.io import load
for path in sys.argv[1:]:
    options = {"stimuli": [f"s{i}" for i in range(8)]} if path.endswith(".npy") else {}
    try:
        load(path, **options)
        print("right", flush=True)
    except SoftRSAError:
        print("refused", flush=True)
    except Exception as error:
        print("raw", flush=True)
        print(path, type(error).__name__, error, file=sys.stderr)
"""


def read_apart(files: list[Path]) -> Counter[str]:
    """Read files in another process, whose end, or silence of a minute, is one file's doing."""
    counts: Counter[str] = Counter()
    while files:
        command = [sys.executable, "-c", READER, *map(str, files)]
        try:
            done = subprocess.run(  # noqa: S603
                command, check=False, capture_output=True, text=True, timeout=60 + len(files)
            )
            ends, last = done.stdout.split(), "crash"
            sys.stderr.write(done.stderr)
        except subprocess.TimeoutExpired as stopped:
            ends, last = (stopped.stdout or b"").decode().split(), "hang"
        counts.update(ends)
        if len(ends) < len(files):
            counts[last] += 1
        files = files[len(ends) + 1 :]
    return counts


WRITER = """
import sys
from softrsa._files import atomic_path
while True:
    with atomic_path(sys.argv[1]) as path:
        path.write_text("whole" * 1000)
        print(flush=True)
"""


def kills(trials: int, folder: Path) -> Counter[str]:
    """Kill a process that writes a file again and again: it stays whole, and nothing is left."""
    counts: Counter[str] = Counter()
    rng, target = np.random.default_rng(0), folder / "kept.txt"
    for _ in range(trials):
        command = [sys.executable, "-c", WRITER, str(target)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:  # noqa: S603
            assert process.stdout is not None  # noqa: S101
            process.stdout.readline()
            time.sleep(float(rng.uniform(0, 0.05)))
            os.kill(process.pid, signal.SIGKILL)
        left = len(list(folder.glob(".kept-*")))
        whole = not target.exists() or target.read_text() == "whole" * 1000
        counts["right" if whole and left <= 1 else "silent"] += 1
    return counts


def main() -> int:
    """Try everything, print the table, and say whether something went wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few files and kills")
    quick = parser.parse_args().quick
    with tempfile.TemporaryDirectory() as folder:
        rows = {"bad calls": bad_calls()}
        rows |= mutated_files(12 if quick else 300, Path(folder))
        rows["kills"] = kills(1 if quick else 20, Path(folder))
    print(f"{'':12}{'tried':>8}" + "".join(f"{kind:>9}" for kind in KINDS))
    for title, counts in rows.items():
        numbers = "".join(f"{counts[kind]:9d}" for kind in KINDS)
        print(f"{title:12}{sum(counts.values()):8d}{numbers}")
    return int(any(counts[kind] for counts in rows.values() for kind in BAD))


if __name__ == "__main__":
    sys.exit(main())
