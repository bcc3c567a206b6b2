"""The data sets softrsa knows: what they are, where they come from, and how to load them."""

from __future__ import annotations

from softrsa.datasets.cards import Card, DataFile, available, card
from softrsa.datasets.fetching import fetch
from softrsa.datasets.loading import DataSet, load

__all__ = ["Card", "DataFile", "DataSet", "available", "card", "fetch", "load"]
