"""Learned alignment of a model's layers with a brain's regions."""

from softrsa.alignment.align import (
    DegenerateFitWarning,
    FewStimuliWarning,
    RowOffsetWarning,
    align,
)
from softrsa.alignment.aligner import Aligner
from softrsa.alignment.folds import Split, random_splits, stimulus_folds
from softrsa.alignment.identification import identify_regions
from softrsa.alignment.identification_curves import identification_curves
from softrsa.alignment.identification_result import IdentificationResult
from softrsa.alignment.loss import AlignmentLoss
from softrsa.alignment.published_identification import OptimisticWarning, PublishedIdentification
from softrsa.alignment.result import AlignmentResult
from softrsa.alignment.settings import FitSettings
from softrsa.alignment.thresholds import threshold_correlations
from softrsa.alignment.tiled import tiled_noise_ceiling, tiled_scores

__all__ = [
    "Aligner",
    "AlignmentLoss",
    "AlignmentResult",
    "DegenerateFitWarning",
    "FewStimuliWarning",
    "FitSettings",
    "IdentificationResult",
    "OptimisticWarning",
    "PublishedIdentification",
    "RowOffsetWarning",
    "Split",
    "align",
    "identification_curves",
    "identify_regions",
    "random_splits",
    "stimulus_folds",
    "threshold_correlations",
    "tiled_noise_ceiling",
    "tiled_scores",
]
