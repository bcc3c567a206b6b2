"""Which stimuli a score rests on, and what they are called."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from softrsa.alignment.sides import Side
from softrsa.inference.matched import MEASURES, pair_influences
from softrsa.measures import Measure


def stimulus_influence(measure: Measure, model: Tensor, brain: Tensor) -> Tensor:
    """How much the score depends on each stimulus, as the mean over subjects.

    Parameters
    ----------
    measure : Measure
        Of RSMs.
    model : Tensor, shape (1, n_stimuli, n_stimuli)
        Transformed RSM.
    brain : Tensor, shape (n_subjects, n_stimuli, n_stimuli)
        Those it is compared with.

    Returns
    -------
    Tensor, shape (n_stimuli,)
        The derivative of the score with respect to how often a stimulus occurs, ranks and the
        whitening staying as they are: a stimulus above 0 is one that both sides agree about. NaN
        for measures without such a derivative.
    """
    if measure.name not in MEASURES:
        return model.new_full(model.shape[-1:], torch.nan)
    of_pairs = pair_influences(measure, model, brain[None])[1][0].mean(0)
    return of_pairs.sum(-1) + of_pairs.sum(-2)


def stimulus_labels(model: Side, brain: Side) -> np.ndarray:
    """Ids of the stimuli as netCDF keeps them, or their places where the data have none."""
    stimuli = brain.stimuli if model.stimuli is None else model.stimuli
    if stimuli is None:
        return np.arange(model.n_stimuli)
    return stimuli.values if stimuli.dtype.kind in "iuf" else np.array([*map(str, stimuli)])
