"""Regression by neighbors: heads, an estimator, experiments."""

from importlib import import_module
from typing import TYPE_CHECKING

from softrsa.prediction.bank import NeighborBank
from softrsa.prediction.heads import LinearHead, NCAHead
from softrsa.prediction.step_heads import DiffKNNHead, SoftStepNCAHead
from softrsa.prediction.surfaces import SurfaceData, grid_error, make_surface
from softrsa.prediction.theory import LossTerms, pair_and_triplet_terms, triplet_optimum

if TYPE_CHECKING:
    from softrsa.prediction.regressor import NeighborRegressor

__all__ = [
    "DiffKNNHead",
    "LinearHead",
    "LossTerms",
    "NCAHead",
    "NeighborBank",
    "NeighborRegressor",
    "SoftStepNCAHead",
    "SurfaceData",
    "grid_error",
    "make_surface",
    "pair_and_triplet_terms",
    "triplet_optimum",
]


def __getattr__(name: str) -> object:
    """Load what needs scikit-learn when it is asked for."""
    if name == "NeighborRegressor":
        return import_module("softrsa.prediction.regressor").NeighborRegressor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
