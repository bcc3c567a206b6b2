"""The data sets softrsa knows: what they are, where they come from, and how to load them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from softrsa.datasets.cards import (
    Card,
    DataFile,
    PlacedFile,
    Published,
    available,
    card,
    find_placed,
)
from softrsa.datasets.fetching import fetch
from softrsa.datasets.verifying import FileCheck, presence, verify

if TYPE_CHECKING:
    from softrsa.datasets.loading import DataSet, Parts, add, load

__all__ = [
    "Card",
    "DataFile",
    "DataSet",
    "FileCheck",
    "Parts",
    "PlacedFile",
    "Published",
    "add",
    "available",
    "card",
    "fetch",
    "find_placed",
    "load",
    "presence",
    "verify",
]


def __getattr__(name: str) -> Any:
    """Import what needs labelled arrays when it is first used: cards are read without."""
    if name not in ("DataSet", "Parts", "add", "load"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = getattr(import_module("softrsa.datasets.loading"), name)
    return globals()[name]
