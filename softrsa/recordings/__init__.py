"""Recordings on their way to tensors: trials averaged, noise estimated, units and times chosen."""

from softrsa.recordings.covariance import precision_of, residual_covariance
from softrsa.recordings.folds import to_folds
from softrsa.recordings.joining import join_stimuli
from softrsa.recordings.noise import noise_covariance, noise_precision, whiten_noise
from softrsa.recordings.split_halves import half_means, reliability, select_reliable
from softrsa.recordings.subjects import join_subjects
from softrsa.recordings.trials import average_trials
from softrsa.recordings.units import select, split_units
from softrsa.recordings.windows import time_windows

__all__ = [
    "average_trials",
    "half_means",
    "join_stimuli",
    "join_subjects",
    "noise_covariance",
    "noise_precision",
    "precision_of",
    "reliability",
    "residual_covariance",
    "select",
    "select_reliable",
    "split_units",
    "time_windows",
    "to_folds",
    "whiten_noise",
]
