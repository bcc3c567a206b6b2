"""Importing softrsa, and help on its command line, against importing what it computes with.

Run with ``python benchmarks/table.py --only import_time``.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from functools import partial

from _harness import Case, Contender, Found, compare

BASE = "import torch, xarray"
ALL = "from softrsa import Aligner, align, datasets, extract_activations, load"
LIGHT = {  # at most .3 s where BASE takes 1.5
    "softrsa --help": ["--help"],
    "a mistyped option": ["align", "--demo", "--out", "results", "--foldss", "3"],
    "softrsa datasets list": ["datasets", "list"],
}
REPETITIONS = 7


def cases(quick: bool) -> Iterator[Case]:
    """Yield a row for importing all, and one for each line that must not import torch."""
    repetitions = 1 if quick else REPETITIONS
    yield Case("import all of softrsa", "at most 1.5", partial(_measure, ["-c", ALL], repetitions))
    for name, words in LIGHT.items():
        command = ["-m", "softrsa.cli", *words]
        yield Case(name, "at most 0.2", partial(_measure, command, repetitions))


def _measure(arguments: list[str], repetitions: int) -> Found:
    return compare(
        partial(_python, arguments),
        limit=Contender(BASE, partial(_python, ["-c", BASE])),
        repetitions=repetitions,
    )


def _python(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, check=False)  # noqa: S603
    if done.returncode not in (0, 2):  # 2: the mistyped option
        raise RuntimeError(done.stderr.decode())
