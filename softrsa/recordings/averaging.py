"""Trials averaged to one response per stimulus."""

from __future__ import annotations

import xarray as xr

from softrsa.io.trials import mean_by_stimulus
from softrsa.recordings._trials import checked_trials


def average_trials(trials: xr.DataArray) -> xr.DataArray:
    """Average the trials of each stimulus.

    Parameters
    ----------
    trials : DataArray, dims (trial, unit) or (trial, unit, time)
        Responses in any unit, with a coordinate `stimulus` on `trial`.

    Returns
    -------
    DataArray, dims (stimulus, unit) or (stimulus, unit, time)
        Means, computed in float64 and returned in the number type of the trials; stimuli in order
        of first appearance, unit coordinates and attributes kept.

    Raises
    ------
    DTypeError, ShapeError, StimulusError, DataError
        If the trials are not as `softrsa.io.check_trials` wants them.

    Examples
    --------
    >>> trials = xr.DataArray(
    ...     [[1.0], [4.0], [3.0]],
    ...     dims=("trial", "unit"),
    ...     coords={"stimulus": ("trial", ["face", "house", "face"])},
    ... )
    >>> average_trials(trials).to_series().to_dict()
    {('face', 0): 2.0, ('house', 0): 4.0}
    """
    return mean_by_stimulus(checked_trials(trials))
