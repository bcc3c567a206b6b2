"""How much can be expected, and how sure one may be."""

from softrsa.inference.bootstrap import Variances, bootstrap, resampling_variances
from softrsa.inference.comparing import compare_models
from softrsa.inference.crossvalidation import FlexibleModel, crossvalidate, weighted_rsm_model
from softrsa.inference.intersubject import (
    IntersubjectResult,
    behavior_rsm,
    intersubject_rsa,
    intersubject_rsm,
)
from softrsa.inference.noise_ceiling import NoiseCeiling, noise_ceiling
from softrsa.inference.permutation import CeilingTest, noise_ceiling_test, permutation_test
from softrsa.inference.regression import CollinearityWarning, RegressionResult, regress_rdms
from softrsa.inference.result import InferenceResult, evaluate
from softrsa.inference.variance_partitioning import PartitionResult, partition_variance

__all__ = [
    "CeilingTest",
    "CollinearityWarning",
    "FlexibleModel",
    "InferenceResult",
    "IntersubjectResult",
    "NoiseCeiling",
    "PartitionResult",
    "RegressionResult",
    "Variances",
    "behavior_rsm",
    "bootstrap",
    "compare_models",
    "crossvalidate",
    "evaluate",
    "intersubject_rsa",
    "intersubject_rsm",
    "noise_ceiling",
    "noise_ceiling_test",
    "partition_variance",
    "permutation_test",
    "regress_rdms",
    "resampling_variances",
    "weighted_rsm_model",
]
