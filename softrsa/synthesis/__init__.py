"""Data optimized to a score: what a similarity measure sees first, last and never."""

from softrsa.synthesis.components import (
    TrivialCaptureWarning,
    captured_components,
    component_sensitivity,
)
from softrsa.synthesis.decoding import decode_along
from softrsa.synthesis.feasible import feasible_region
from softrsa.synthesis.optimizing import OptimizationInterrupted, optimize_to_score
from softrsa.synthesis.result import SynthesisResult

__all__ = [
    "OptimizationInterrupted",
    "SynthesisResult",
    "TrivialCaptureWarning",
    "captured_components",
    "component_sensitivity",
    "decode_along",
    "feasible_region",
    "optimize_to_score",
]
