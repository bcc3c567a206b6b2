"""Regression by neighbors: heads, an estimator, experiments."""

from softrsa.prediction.heads import LinearHead, NCAHead
from softrsa.prediction.step_heads import DiffKNNHead, SoftStepNCAHead

__all__ = ["DiffKNNHead", "LinearHead", "NCAHead", "SoftStepNCAHead"]
