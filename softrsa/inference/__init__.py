"""How much can be expected, and how sure one may be."""

from softrsa.inference.bootstrap import Variances, bootstrap, resampling_variances
from softrsa.inference.comparing import compare_models
from softrsa.inference.crossvalidation import FlexibleModel, crossvalidate, weighted_rsm_model
from softrsa.inference.noise_ceiling import NoiseCeiling, noise_ceiling
from softrsa.inference.permutation import CeilingTest, noise_ceiling_test, permutation_test
from softrsa.inference.result import InferenceResult, evaluate
from softrsa.inference.trial_ceiling import TrialCeiling, trial_ceiling

__all__ = [
    "CeilingTest",
    "FlexibleModel",
    "InferenceResult",
    "NoiseCeiling",
    "TrialCeiling",
    "Variances",
    "bootstrap",
    "compare_models",
    "crossvalidate",
    "evaluate",
    "noise_ceiling",
    "noise_ceiling_test",
    "permutation_test",
    "resampling_variances",
    "trial_ceiling",
    "weighted_rsm_model",
]
