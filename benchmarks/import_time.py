"""Importing softrsa against importing what it cannot do without, in processes that take turns.

Run with ``python benchmarks/table.py --only import_time``.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from functools import partial

from _harness import Case, Contender, Found, compare

BASE = "import torch, xarray"
REPETITIONS = 7


def cases(quick: bool) -> Iterator[Case]:
    """Yield the one row."""
    measure = partial(_importing, 1 if quick else REPETITIONS)
    yield Case("import softrsa", "at most 1.5", measure)


def _importing(repetitions: int) -> Found:
    return compare(
        partial(_python, "import softrsa"),
        limit=Contender(BASE, partial(_python, BASE)),
        repetitions=repetitions,
    )


def _python(line: str) -> None:
    subprocess.run([sys.executable, "-c", line], check=True)  # noqa: S603
