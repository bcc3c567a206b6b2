"""Measures of how alike two RSMs or two sets of features are."""

from softrsa.measures.anchors import (
    first_rank_identification,
    per_anchor_pearson,
    stimulus_identification,
)
from softrsa.measures.balanced import balanced_pearson
from softrsa.measures.cka import (
    angular_cka,
    debiased_cka,
    linear_cka,
    minibatch_cka,
    rbf_cka,
    unit_debiased_cka,
)
from softrsa.measures.correlation import (
    Embedding,
    centered_pearson,
    cosine,
    pearson,
    row_offset_share,
    spearman,
)
from softrsa.measures.covariance import whitened
from softrsa.measures.kernels import kernel_cka, kernel_nbs
from softrsa.measures.matching import (
    permutation_matching,
    soft_matching,
    soft_matching_distance,
)
from softrsa.measures.neighbors import cknna, mutual_knn, neighbor_jaccard
from softrsa.measures.partial import partial_correlation, semipartial_correlation
from softrsa.measures.predictivity import linear_predictivity, ridge_predictivity
from softrsa.measures.rank import kendall_tau_a, kendall_tau_b, rho_a, soft_spearman
from softrsa.measures.registry import MEASURES, Measure, available, get
from softrsa.measures.regressions import banded_ridge_predictivity, pls_predictivity
from softrsa.measures.shape import angular_procrustes, cca, nbs, procrustes_distance, svcca
from softrsa.measures.shape_alignment import (
    cca_predictivity,
    procrustes_predictivity,
    shape_similarity,
)
from softrsa.measures.whitened import whitened_cosine, whitened_pearson

__all__ = [
    "MEASURES",
    "Embedding",
    "Measure",
    "angular_cka",
    "angular_procrustes",
    "available",
    "balanced_pearson",
    "banded_ridge_predictivity",
    "cca",
    "cca_predictivity",
    "centered_pearson",
    "cknna",
    "cosine",
    "debiased_cka",
    "first_rank_identification",
    "get",
    "kendall_tau_a",
    "kendall_tau_b",
    "kernel_cka",
    "kernel_nbs",
    "linear_cka",
    "linear_predictivity",
    "minibatch_cka",
    "mutual_knn",
    "nbs",
    "neighbor_jaccard",
    "partial_correlation",
    "pearson",
    "per_anchor_pearson",
    "permutation_matching",
    "pls_predictivity",
    "procrustes_distance",
    "procrustes_predictivity",
    "rbf_cka",
    "rho_a",
    "ridge_predictivity",
    "row_offset_share",
    "semipartial_correlation",
    "shape_similarity",
    "soft_matching",
    "soft_matching_distance",
    "soft_spearman",
    "spearman",
    "stimulus_identification",
    "svcca",
    "unit_debiased_cka",
    "whitened",
    "whitened_cosine",
    "whitened_pearson",
]
