"""A CSV file of rows that a long run adds to, and takes up again after it was stopped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from softrsa.errors import FileFormatError
from softrsa.io import atomic_path

TEXT = ("task", "method", "head", "similarity", "settings", "softrsa")  # columns of names


def read_rows(path: str | Path | None, columns: Sequence[str], kind: str) -> pd.DataFrame:
    """Read the rows known so far, none where there is no file; ``kind`` is of what for errors."""
    if path is None or not Path(path).exists():
        return pd.DataFrame(columns=list(columns))
    try:
        # names such as "None" or "2024" are names
        rows = pd.read_csv(path, dtype=dict.fromkeys(TEXT, str), keep_default_na=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise FileFormatError(f"{path} is no table of {kind}: {error}") from error
    if list(rows.columns) != list(columns):
        raise FileFormatError(
            f"{path} is no table of {kind}: expected the columns {', '.join(columns)}, "
            f"found {', '.join(map(str, rows.columns))}. Name another file."
        )
    return rows


def add_row(rows: pd.DataFrame, row: Sequence[object], path: str | Path | None) -> pd.DataFrame:
    """Add a row to those of the file, where there is one, and write it: whole, or not at all.

    Rows that another run has written meanwhile are kept.
    """
    if path is not None:
        rows = read_rows(path, list(rows.columns), "this run")
    added = pd.DataFrame([row], columns=rows.columns)
    rows = pd.concat([rows, added], ignore_index=True) if len(rows) else added
    if path is not None:
        with atomic_path(path) as temporary:
            rows.to_csv(temporary, index=False)
    return rows
