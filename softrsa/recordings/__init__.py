"""Recordings on their way to tensors: trials averaged, units split, stimuli joined by id."""

from softrsa.recordings.averaging import average_trials
from softrsa.recordings.joining import join_stimuli
from softrsa.recordings.units import select, split_units

__all__ = ["average_trials", "join_stimuli", "select", "split_units"]
