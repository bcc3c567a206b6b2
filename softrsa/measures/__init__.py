"""Measures of how alike two RSMs are; larger is more similar."""

from softrsa.measures.correlation import (
    centered_pearson,
    cosine,
    pearson,
    row_offset_share,
    spearman,
)
from softrsa.measures.registry import Measure, available, get

__all__ = [
    "Measure",
    "available",
    "centered_pearson",
    "cosine",
    "get",
    "pearson",
    "row_offset_share",
    "spearman",
]
