"""Regression by neighbors: heads, an estimator, experiments."""

from importlib import import_module
from typing import TYPE_CHECKING

from softrsa.prediction.heads import LinearHead, NCAHead
from softrsa.prediction.network import NeighborBank
from softrsa.prediction.step_heads import DiffKNNHead, SoftStepNCAHead
from softrsa.prediction.theory import LossTerms, pair_and_triplet_terms, triplet_optimum

if TYPE_CHECKING:
    from softrsa.prediction.attaching import attach
    from softrsa.prediction.encoding import image_features, sound_features, text_features
    from softrsa.prediction.experiment import run_experiment
    from softrsa.prediction.experiment_result import ExperimentResult, RankTest, friedman_nemenyi
    from softrsa.prediction.fine_tuning import FineTuner
    from softrsa.prediction.regressor import NeighborRegressor
    from softrsa.prediction.search import SearchResult, search_settings
    from softrsa.prediction.surface_experiment import (
        SurfaceData,
        grid_error,
        make_surface,
        run_surfaces,
    )
    from softrsa.prediction.tasks import RegressionTask, label_strata, load_task, make_task

__all__ = [
    "DiffKNNHead",
    "ExperimentResult",
    "FineTuner",
    "LinearHead",
    "LossTerms",
    "NCAHead",
    "NeighborBank",
    "NeighborRegressor",
    "RankTest",
    "RegressionTask",
    "SearchResult",
    "SoftStepNCAHead",
    "SurfaceData",
    "attach",
    "friedman_nemenyi",
    "grid_error",
    "image_features",
    "label_strata",
    "load_task",
    "make_surface",
    "make_task",
    "pair_and_triplet_terms",
    "run_experiment",
    "run_surfaces",
    "search_settings",
    "sound_features",
    "text_features",
    "triplet_optimum",
]


_LAZY = {
    "attaching": ("attach",),
    "encoding": ("image_features", "sound_features", "text_features"),
    "experiment": ("run_experiment",),
    "experiment_result": ("ExperimentResult", "RankTest", "friedman_nemenyi"),
    "fine_tuning": ("FineTuner",),
    "regressor": ("NeighborRegressor",),
    "search": ("SearchResult", "search_settings"),
    "surface_experiment": ("SurfaceData", "grid_error", "make_surface", "run_surfaces"),
    "tasks": ("RegressionTask", "label_strata", "load_task", "make_task"),
}


def __getattr__(name: str) -> object:
    """Load what needs scikit-learn, or much of SciPy, when it is asked for."""
    for module, names in _LAZY.items():
        if name in names:
            return getattr(import_module(f"softrsa.prediction.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
