"""Labelled trials, of one time or several, as tensors and groups."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor

from softrsa._wording import counted
from softrsa.errors import DataError, unknown_name
from softrsa.io.schema import check_trials, labels_along, mean_by_stimulus


def checked_trials(trials: xr.DataArray, *, name: str = "trials") -> xr.DataArray:
    """Check trials, time by time where there are several; dims (trial, unit) or with time last."""
    if "time" not in getattr(trials, "dims", ()) or not trials.sizes["time"]:
        return check_trials(trials, name=name)
    first = check_trials(trials.isel(time=0, drop=True), name=name)
    for i, label in enumerate(trials["time"].values.tolist()):
        check_trials(trials.isel(time=i, drop=True), name=f"{name} at time {label!r}")
    trials = trials.astype(first.dtype, copy=False).transpose("trial", "unit", "time")
    return trials.assign_coords(stimulus=first["stimulus"])


def as_tensor(trials: xr.DataArray) -> Tensor:
    """Give (trial, unit) or (time, trial, unit) values without copying where that is possible."""
    tensor = share_or_copy(trials.values)
    return tensor.movedim(-1, 0) if "time" in trials.dims else tensor


def share_or_copy(values: np.ndarray) -> Tensor:
    """Give a tensor of the same memory, or a copy of what torch cannot share."""
    shared = values.flags.writeable and min(values.strides, default=0) >= 0
    return torch.from_numpy(values if shared else values.copy())


def groups(trials: xr.DataArray, coordinate: str) -> tuple[Tensor, list]:
    """Give trials the number of their label, in order of first appearance; and the labels."""
    present = labels_along(trials, "trial")
    if coordinate not in present:
        raise unknown_name("trial coordinate", coordinate, present)
    labels = trials[coordinate].values
    absent = pd.isna(labels)
    if absent.any():
        raise DataError(
            f"{counted(int(absent.sum()), 'trial')} of {len(labels)} have no {coordinate}. Label "
            f'them or leave them out: `trials.sel(trial=trials["{coordinate}"].notnull())`.'
        )
    codes, names = pd.factorize(labels)
    return torch.from_numpy(codes.astype(np.int64)), np.asarray(names).tolist()


def group_means(x: Tensor, codes: Tensor, n_groups: int) -> tuple[Tensor, Tensor]:
    """Average (..., trial, unit) rows in float64; NaN for groups without. Also their numbers."""
    counts = torch.bincount(codes, minlength=n_groups)
    sums = x.new_zeros(*x.shape[:-2], n_groups, x.shape[-1], dtype=torch.float64)
    sums.index_add_(-2, codes, x.double())
    return sums / counts.unsqueeze(-1), counts


def residuals(x: Tensor, codes: Tensor) -> tuple[Tensor, int]:
    """Take the mean of its group from each row; also the degrees of freedom that are left."""
    first = torch.from_numpy(np.unique(codes.cpu().numpy(), return_index=True)[1]).to(x.device)
    shifted = x.double() - x[..., first[codes], :].double()  # constant groups are exactly 0
    means, _ = group_means(shifted, codes, len(first))
    return shifted - means[..., codes, :], len(codes) - len(first)


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
        of first appearance. Coordinates of units, and those of trials that are the same in all
        trials of a stimulus (its category, say), and attributes are kept.

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
