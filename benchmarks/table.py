"""One table of ratios: every part of softrsa against its peer and its limit, in the same run.

    python benchmarks/table.py [--only NAME ...] [--quick] [--threads N]

`make bench` runs it, which takes about a quarter of an hour on two cores, and writes
`docs/benchmarks.md`. With ``--quick`` (small sizes, one repetition) or ``--only`` nothing is
written. The exit code is 1 where a row could not be measured.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
import traceback
import warnings
from functools import partial
from pathlib import Path

import _harness
from _harness import Case, Found, Over

# each has `cases(quick)`, in the order of the table
MODULES = (
    "rsm_speed",
    "crossnobis_speed",
    "geo_topological_speed",
    "soft_rank_speed",
    "feature_speed",
    "measure_speed",
    "inference_speed",
    "cluster_speed",
    "mne_rsa_speed",
    "prediction_speed",
    "synthesis_speed",
    "tiled_speed",
    "growth",
    "import_time",
)
PAGE = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"
HEAD = (
    "| what | size | peer / ours | peer | ours / limit | limit | memory |\n"
    "| --- | --- | --- | --- | --- | --- | --- |"
)
TEXT = """# How fast, how lean

Ratios only, each formed in one run on one machine; `make bench` repeats all of them in about a
quarter of an hour (`benchmarks/table.py --only NAME --quick` tries one out).

{table}

Measured on {machine}; {conditions}.

- **peer / ours**: how many times as long the peer takes: another library, or a plain transcription
  of the formulas. Larger is better.
- **ours / limit**: how many times as long we take as the limit, a part of the work that nobody can
  leave out, such as the matrix product. 1 is as good as can be; below 1, we leave out half of a
  symmetric product that the limit makes in full.
- **memory**: our memory at its peak, result included, over that of the peer or limit named, each
  in a process of its own; less than a megabyte counts as one. Smaller is better.
- **growth**: time or memory over several sizes, as a power of the size by least squares of
  logarithms. The ratio is that of the growth at each doubling to what theory says: 1 is as theory
  has it, below 1 it grows less, as where fixed costs still count.
- Contenders take turns, and a ratio is the median of those within turns; the first turn warms up.
  A peer that takes long is given a part of the work and its time multiplied, where it is
  proportional to the work; the row says so.

`benchmarks/README.md` has the claims behind these rows, with their targets.
"""


def main() -> int:
    """Measure, print and write; 1 where a row failed."""
    options = _options()
    _harness.start(options.threads)
    conditions = _harness.conditions(options.threads)
    warnings.simplefilter("ignore", RuntimeWarning)  # rsatoolbox casts NaN to integers
    began = time.monotonic()
    lines, n_failed = [HEAD], 0
    print(HEAD)
    for name in options.only or MODULES:
        for case in _cases(name, options.quick):
            line, failed = _measure(case)
            print(line)
            lines.append(line)
            n_failed += failed
    if not options.quick and not options.only:
        PAGE.write_text(
            TEXT.format(table="\n".join(lines), machine=_harness.machine(), conditions=conditions),
            encoding="utf-8",
        )
        print(f"written to {PAGE}")
    print(f"{(time.monotonic() - began) / 60:.1f} minutes")
    if n_failed:
        print(f"{n_failed} rows could not be measured.", file=sys.stderr)
    return int(n_failed > 0)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    names = ", ".join(MODULES)
    parser.add_argument("--only", nargs="+", choices=MODULES, metavar="NAME", help=names)
    parser.add_argument("--quick", action="store_true", help="small sizes, one repetition")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def _cases(name: str, quick: bool) -> list[Case]:
    """List the rows of a module; where that fails, one row that fails for the same reason."""
    try:
        return [*importlib.import_module(name).cases(quick)]
    except Exception as error:  # said in its row
        return [Case(name, "all rows", partial(_fail, error))]


def _fail(error: Exception) -> Found:
    raise error


def _measure(case: Case) -> tuple[str, bool]:
    """Make one line of the table, and say whether measuring failed."""
    try:
        found = case.measure()
    except Exception as error:
        traceback.print_exc()
        return f"| {case.what} | {case.size} | failed: {type(error).__name__} | | | | |", True
    return _line(case, found), False


def _line(case: Case, found: Found) -> str:
    peer, limit = (
        f"{_number(over)} | {over.name}" if over else "– | –" for over in (found.peer, found.limit)
    )
    memory = f"{_number(found.memory)} of {found.memory.name}" if found.memory else "–"
    return f"| {case.what} | {case.size} | {peer} | {limit} | {memory} |"


def _number(over: Over) -> str:
    """Write two or three digits."""
    if over.ratio >= 20:
        return f"{over.ratio:.0f}"
    return f"{over.ratio:.2f}" if over.ratio >= 0.1 else f"{over.ratio:.2g}"


if __name__ == "__main__":
    sys.exit(main())
