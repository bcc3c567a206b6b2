"""Libraries of the extra `fmri`, imported when they are needed."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from softrsa.errors import FileMissingError


def library(name: str, reason: str) -> Any:
    """Import a library of the extra `fmri` when it is needed."""
    if find_spec(name.split(".", maxsplit=1)[0]) is None:
        raise FileMissingError(
            f"{reason} needs {name.split('.', maxsplit=1)[0]}, which is not installed: "
            '`pip install "softrsa[fmri]"`.'
        )
    return import_module(name)
