"""Cells of tables, which are text, to labels and numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from softrsa.errors import DTypeError


def labels(column: pd.Series) -> np.ndarray:
    """Read labels as integers where all are, else as text."""
    codes, found = pd.factorize(column.to_numpy(dtype=object))
    texts = [str(cell) for cell in found]
    known = np.array([int(t) for t in texts] if all(map(is_whole, texts)) else texts)
    return known[codes]


def numbers(column: pd.Series, name: str, path: Path) -> np.ndarray:
    """Read a column of numbers; an empty cell is NaN."""
    try:
        return np.array([float(cell.strip() or "nan") for cell in column])
    except ValueError:
        wrong = next(cell for cell in column if cell.strip() and not is_number(cell))
        raise DTypeError(
            f"The column {name!r} of {path} holds {wrong!r}, which is no number: write a number, "
            "or leave the row out."
        ) from None


def is_whole(text: str) -> bool:
    """Tell integers as Python would write them from other texts, such as '01'."""
    digits = text.removeprefix("-")
    return digits.isdecimal() and digits.isascii() and len(digits) < 19 and str(int(text)) == text


def is_number(text: str) -> bool:
    """Tell texts that are numbers."""
    try:
        float(text)
    except ValueError:
        return False
    return True
