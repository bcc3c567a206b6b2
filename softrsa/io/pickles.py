"""Pickles, which run whatever code they carry when they are opened: refused, with the way out."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

from softrsa.errors import FileFormatError
from softrsa.io.options import Options

WAY_OUT = (
    "A pickle runs whatever code it carries, so softrsa opens none. If you trust whoever made it, "
    "open it yourself and save the array with `softrsa.io.save`, or as plain numbers: "
    "`numpy.savez(path, data=values.astype(float), stimulus=[str(name) for name in names])`"
)


def read_pickle(path: Path, options: Options) -> NoReturn:
    """Refuse a pickle."""
    raise FileFormatError(f"{path} is a pickle (or a joblib file, which is one). {WAY_OUT}.")


def pickled_in(what: str) -> FileFormatError:
    """Build the error for an array of objects inside another file."""
    return FileFormatError(f"{what} is pickled. {WAY_OUT}.")
