"""Measures of how alike two RSMs or two sets of features are."""

from softrsa.measures.cca import cca, svcca
from softrsa.measures.cka import angular_cka, debiased_cka, linear_cka, rbf_cka
from softrsa.measures.correlation import (
    centered_pearson,
    cosine,
    pearson,
    row_offset_share,
    spearman,
)
from softrsa.measures.predictivity import linear_predictivity, ridge_predictivity
from softrsa.measures.registry import Measure, available, get
from softrsa.measures.shape import angular_procrustes, nbs, procrustes_distance

__all__ = [
    "Measure",
    "angular_cka",
    "angular_procrustes",
    "available",
    "cca",
    "centered_pearson",
    "cosine",
    "debiased_cka",
    "get",
    "linear_cka",
    "linear_predictivity",
    "nbs",
    "pearson",
    "procrustes_distance",
    "rbf_cka",
    "ridge_predictivity",
    "row_offset_share",
    "spearman",
    "svcca",
]
