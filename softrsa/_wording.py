"""How error messages list labels."""

from __future__ import annotations

import re
from collections.abc import Iterable

ON_COMMAND_LINE = (
    "On the command line these are `--stimuli`, `--variable`, `--kind` and `--dims`; see "
    "`softrsa align --help`."
)


def listed(labels: Iterable[object], limit: int = 5) -> str:
    """Name the first few labels and say how many there are.

    Examples
    --------
    >>> listed(["face", "house"])
    "'face', 'house'"
    >>> listed(range(8))
    '0, 1, 2, 3, 4, ... (8 in all)'
    """
    plain = [getattr(label, "item", lambda label=label: label)() for label in labels]  # NumPy's too
    shown = ", ".join(map(repr, plain[:limit]))
    return f"{shown}, ... ({len(plain)} in all)" if len(plain) > limit else shown


def first_line(error: Exception) -> str:
    """Quote the first line of an error, or name its kind where it says nothing."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Give a number its noun, in the plural where that is right.

    Examples
    --------
    >>> counted(1, "unit"), counted(3, "unit"), counted(2, "stimulus", "stimuli")
    ('1 unit', '3 units', '2 stimuli')
    """
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def natural_key(text: str) -> list[tuple[int, str]]:
    """Sort texts with the numbers in them by value.

    Examples
    --------
    >>> sorted(["layer10", "layer2"], key=natural_key)
    ['layer2', 'layer10']
    """
    return [(int(c), "") if c.isdecimal() else (-1, c) for c in re.split(r"(\d+)", text)]
