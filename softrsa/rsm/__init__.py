"""Similarity matrices: computing them, scaling them to [0, 1], building labelled stacks."""

from softrsa._precision import RoundingWarning
from softrsa.rsm.build import build_rsms, to_rsm
from softrsa.rsm.crossnobis import crossnobis, crossnobis_unbalanced
from softrsa.rsm.estimate import build_rdms
from softrsa.rsm.framing import framed
from softrsa.rsm.neighborhoods import disks, spheres, touching
from softrsa.rsm.poisson import poisson_cv, poisson_kl
from softrsa.rsm.scaling import SCALINGS, scale_similarities
from softrsa.rsm.searchlight import searchlight
from softrsa.rsm.similarity import (
    SIMILARITIES,
    SIMILARITY_TABLE,
    Similarity,
    condensed_similarity,
    similarity_matrix,
)

__all__ = [
    "SCALINGS",
    "SIMILARITIES",
    "SIMILARITY_TABLE",
    "RoundingWarning",
    "Similarity",
    "build_rdms",
    "build_rsms",
    "condensed_similarity",
    "crossnobis",
    "crossnobis_unbalanced",
    "disks",
    "framed",
    "poisson_cv",
    "poisson_kl",
    "scale_similarities",
    "searchlight",
    "similarity_matrix",
    "spheres",
    "to_rsm",
    "touching",
]
