"""The data sets softrsa knows: what they are, where they come from, and how to load them."""

from __future__ import annotations

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
from softrsa.datasets.loading import DataSet, load
from softrsa.datasets.verifying import FileCheck, presence, verify

__all__ = [
    "Card",
    "DataFile",
    "DataSet",
    "FileCheck",
    "PlacedFile",
    "Published",
    "available",
    "card",
    "fetch",
    "find_placed",
    "load",
    "presence",
    "verify",
]
