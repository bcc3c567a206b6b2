"""Whether `align` says the same on every processor, tried with other kernels on this one.

    python benchmarks/studies/machines.py [--quick]

All transforms on the simulated data that softrsa carries, in one process after the other; `--quick`
takes 2 layers × 2 regions, and a few minutes. Printed are the largest absolute differences of
held-out scores from those of the first process, and for how many (layer, region, fold) "selected"
chose another transform: in all, and not at ties (held-out scores of both within the tolerance).
Exits with 1 where fixed transforms differ by more than 1e-9, learned ones by more than 1e-3, or
another transform was chosen at no tie.

MKL heeds MKL_ENABLE_INSTRUCTIONS on Intel's processors only; MKL_CBWR=COMPATIBLE has it take its
oldest kernels on all.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from _harness import conditions, machine

VARIABLES = (
    "", "ATEN_CPU_CAPABILITY=default", "ATEN_CPU_CAPABILITY=avx2",
    "MKL_ENABLE_INSTRUCTIONS=SSE4_2", "MKL_CBWR=COMPATIBLE",
)  # fmt: skip
THREADS = (1, 2)
FIXED = ("identity", "centered", "geo_topological")
LEARNED = ("global", "instance", "selected")
MOST = {"fixed": 1e-9} | dict.fromkeys(LEARNED, 1e-3)
FORCING = {one.partition("=")[0] for one in VARIABLES}


def align_once(quick: bool) -> None:
    """Align in this process, and print what is compared."""
    from softrsa import align, datasets

    warnings.simplefilter("ignore")
    data = datasets.load("simulated", progress=False)
    layers, regions = data.layers, data.regions
    if quick:
        layers = layers[:, np.isin(layers["layer"], ["layer1", "layer3"])]
        regions = {name: regions[name] for name in ("early", "late")}
    result = align(layers, regions, n_resamples=0).data
    fold_last = ("transform", "layer", "region", "fold")
    found = {
        "transforms": result["transform"].values.tolist(),
        "score": result["score"].transpose(*fold_last).values.tolist(),
        "chosen": result["chosen"].sel(transform="selected").values.astype(str).tolist(),
    }
    print(json.dumps(found))


def run(variable: str, threads: int, quick: bool) -> dict[str, Any]:
    """Align in a process with one variable set and so many threads."""
    name, _, value = variable.partition("=")
    plain = {key: own for key, own in os.environ.items() if key not in FORCING}
    given = plain | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    told = subprocess.run(  # noqa: S603
        [sys.executable, __file__, "--once", *(["--quick"] if quick else [])],
        env=given | ({name: value} if name else {}), stdout=subprocess.PIPE, text=True, check=True,
    ).stdout  # fmt: skip
    found = json.loads(told.splitlines()[-1])
    return {
        "score": dict(zip(found["transforms"], np.array(found["score"]), strict=True)),
        "chosen": np.array(found["chosen"]),
    }


def differences(first: dict[str, Any], other: dict[str, Any]) -> dict[str, float]:
    """Find the largest differences of scores, NaN in one of both counting as infinite."""
    apart = {name: _largest(first["score"][name], other["score"][name]) for name in first["score"]}
    return {"fixed": max(apart[name] for name in FIXED)} | {name: apart[name] for name in LEARNED}


def _largest(x: np.ndarray, y: np.ndarray) -> float:
    gap = np.where(np.isnan(x) & np.isnan(y), 0, np.abs(x - y))
    return float(np.where(np.isnan(gap), np.inf, gap).max())


def other_choices(first: dict[str, Any], other: dict[str, Any]) -> tuple[int, int]:
    """Count other choices of "selected", and those of them that are not ties."""
    differ = np.argwhere(first["chosen"] != other["chosen"])
    gaps = [
        abs(score[first["chosen"][place]][place] - score[other["chosen"][place]][place])
        for place in map(tuple, differ)
        for score in [first["score"]]
    ]
    return len(gaps), sum(not gap <= MOST["selected"] for gap in gaps)


def main() -> int:
    """Print the table, and say whether all agree."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="2 layers × 2 regions")
    parser.add_argument("--once", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.once:
        align_once(arguments.quick)
        return 0
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    print(f"{machine()}, {conditions(max(THREADS))}\n")
    columns = ["variable", "threads", *MOST, "chose another", "not at a tie"]
    print(f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")
    first, faults = None, []
    for variable in VARIABLES:
        for threads in THREADS:
            found = run(variable, threads, arguments.quick)
            first = first or found
            apart, (changed, odd) = differences(first, found), other_choices(first, found)
            shown = [f"{apart[name]:.1e}" for name in MOST]
            count = f"{changed} of {found['chosen'].size}"
            cells = [variable or "none", str(threads), *shown, count, str(odd)]
            print(f"| {' | '.join(cells)} |")
            faults += [name for name, most in MOST.items() if apart[name] > most]
            faults += ["the chosen transform"] * bool(odd)
    print(f"\nFAIL: {', '.join(dict.fromkeys(faults))}" if faults else "\nAll agree.")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
