"""Transforms of similarities: SoftStep and gates, geo-topological, geodesic, centering, ranks."""

from softrsa.transforms.center import double_center
from softrsa.transforms.gates import (
    EmbeddingGate,
    Family,
    Gate,
    GlobalGate,
    ProfileGate,
    SoftStep,
    StepParameters,
)
from softrsa.transforms.geo_topological import GeoTopological, geo_topological, geo_topological_grid
from softrsa.transforms.geodesic import geo_topological_type, geodesic
from softrsa.transforms.learned_similarity import LearnedSimilarity
from softrsa.transforms.on_rsms import TRANSFORMS, Training, Transform
from softrsa.transforms.soft_rank import soft_rank
from softrsa.transforms.soft_step import (
    log_soft_k_step,
    log_soft_step,
    log_soft_step_s2,
    soft_k_step,
    soft_step,
    soft_step_s2,
)

__all__ = [
    "TRANSFORMS",
    "EmbeddingGate",
    "Family",
    "Gate",
    "GeoTopological",
    "GlobalGate",
    "LearnedSimilarity",
    "ProfileGate",
    "SoftStep",
    "StepParameters",
    "Training",
    "Transform",
    "double_center",
    "geo_topological",
    "geo_topological_grid",
    "geo_topological_type",
    "geodesic",
    "log_soft_k_step",
    "log_soft_step",
    "log_soft_step_s2",
    "soft_k_step",
    "soft_rank",
    "soft_step",
    "soft_step_s2",
]
