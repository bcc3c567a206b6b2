"""How much can be expected, and how sure one may be."""

from softrsa.inference.bootstrap import Variances, bootstrap, resampling_variances
from softrsa.inference.clusters import ClusterTest, cluster_test
from softrsa.inference.comparing import compare_models
from softrsa.inference.crossvalidation import FlexibleModel, crossvalidate, weighted_rsm_model
from softrsa.inference.generalization import TimeGeneralization, time_generalization
from softrsa.inference.interchangeability import (
    InterchangeabilityResult,
    interchangeability,
)
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
from softrsa.inference.searchlight_map import searchlight_maps
from softrsa.inference.searchlight_result import SearchlightResult
from softrsa.inference.time_course import time_courses
from softrsa.inference.time_course_result import TimeCourseResult
from softrsa.inference.trial_ceiling import TrialCeiling, trial_ceiling
from softrsa.inference.variance_partitioning import PartitionResult, partition_variance

__all__ = [
    "CeilingTest",
    "ClusterTest",
    "CollinearityWarning",
    "FlexibleModel",
    "InferenceResult",
    "InterchangeabilityResult",
    "IntersubjectResult",
    "NoiseCeiling",
    "PartitionResult",
    "RegressionResult",
    "SearchlightResult",
    "TimeCourseResult",
    "TimeGeneralization",
    "TrialCeiling",
    "Variances",
    "behavior_rsm",
    "bootstrap",
    "cluster_test",
    "compare_models",
    "crossvalidate",
    "evaluate",
    "interchangeability",
    "intersubject_rsa",
    "intersubject_rsm",
    "noise_ceiling",
    "noise_ceiling_test",
    "partition_variance",
    "permutation_test",
    "regress_rdms",
    "resampling_variances",
    "searchlight_maps",
    "time_courses",
    "time_generalization",
    "trial_ceiling",
    "weighted_rsm_model",
]
