"""Learned alignment of a model's layers with a brain's regions."""

from softrsa.alignment.align import (
    FewGroupsWarning,
    FewStimuliWarning,
    MissingPairsWarning,
    NoCeilingWarning,
    RowOffsetWarning,
    StimulusScaleWarning,
    UndefinedScoreWarning,
    align,
)
from softrsa.alignment.aligner import Aligner
from softrsa.alignment.feature_reweighted import FeatureReweighting, feature_reweighted_rsa
from softrsa.alignment.loss import AlignmentLoss
from softrsa.alignment.result import AlignmentResult
from softrsa.alignment.settings import (
    DegenerateFitWarning,
    FitSettings,
    Split,
    grouped_folds,
    random_splits,
    stimulus_folds,
)
from softrsa.identification.identify import identification_curves, identify_regions
from softrsa.identification.published import OptimisticWarning, PublishedIdentification
from softrsa.identification.result import IdentificationResult
from softrsa.tiled import tiled_noise_ceiling, tiled_scores
from softrsa.transforms.geo_topological import threshold_correlations

__all__ = [
    "Aligner",
    "AlignmentLoss",
    "AlignmentResult",
    "DegenerateFitWarning",
    "FeatureReweighting",
    "FewGroupsWarning",
    "FewStimuliWarning",
    "FitSettings",
    "IdentificationResult",
    "MissingPairsWarning",
    "NoCeilingWarning",
    "OptimisticWarning",
    "PublishedIdentification",
    "RowOffsetWarning",
    "Split",
    "StimulusScaleWarning",
    "UndefinedScoreWarning",
    "align",
    "feature_reweighted_rsa",
    "grouped_folds",
    "identification_curves",
    "identify_regions",
    "random_splits",
    "stimulus_folds",
    "threshold_correlations",
    "tiled_noise_ceiling",
    "tiled_scores",
]
