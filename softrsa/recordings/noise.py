"""Noise between units: its covariance and precision, and responses freed of it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from softrsa._wording import counted
from softrsa.errors import DataError, ShapeError, SoftRSAError
from softrsa.recordings.covariance import (
    CovarianceMethod,
    precision_of,
    residual_covariance,
    symmetric_root,
)
from softrsa.recordings.trials import as_tensor, checked_trials, groups, residuals

PAIR = ("unit", "other_unit")


def noise_covariance(
    trials: xr.DataArray,
    *,
    method: CovarianceMethod = "shrinkage_diagonal",
    by: str | None = None,
    dof: int | None = None,
) -> xr.DataArray:
    """Estimate the covariance of the noise between units, from trials or from residuals.

    Parameters
    ----------
    trials : DataArray, dims (trial, unit) or (trial, unit, time)
        Trials with a coordinate `stimulus`, float32 or float64, in any unit: noise is what is left
        without the mean of each stimulus. Without that coordinate they are taken as residuals (of
        a linear model, say; any name for the dimension will do) and their mean is removed.
    method : {"shrinkage_diagonal", "shrinkage_identity", "diagonal", "full"}
        How to estimate: see `softrsa.recordings.residual_covariance`.
    by : str, optional
        A coordinate on `trial`, such as ``"run"``: one covariance for each of its labels, from
        residuals about the means of stimuli within it. Their mean over the labels is that of
        residuals freed of what differs between runs.
    dof : int, optional
        Degrees of freedom (of each run); by default the number of trials less that of stimuli, or
        the number of residuals less one.

    Returns
    -------
    DataArray, dims ([by,] [time,] unit, other_unit)
        Covariances, in the squared unit of the trials, with the coordinates of the units.

    Raises
    ------
    DTypeError, ShapeError, StimulusError, DataError
        If the trials are not as `softrsa.io.check_trials` wants them.
    UnknownNameError
        If ``method`` is unknown, or trials have no coordinate ``by``.
    DataError
        If no degrees of freedom are left, as where each stimulus has one trial; with ``by`` the
        message names the run.

    Notes
    -----
    Computed in float64. rsatoolbox 0.3.2's ``cov_from_measurements`` counts
    ``(n_stimuli - 1) * n_trials_each`` degrees of freedom, which are in truth
    ``n_stimuli * (n_trials_each - 1)``; given these as ``dof`` it agrees, as
    ``cov_from_unbalanced`` does.

    Examples
    --------
    >>> trials = xr.DataArray(
    ...     [[1.0, 5.0], [3.0, 5.5], [0.0, 1.0], [4.0, 2.0]],
    ...     dims=("trial", "unit"),
    ...     coords={"stimulus": ("trial", ["face", "face", "house", "house"])},
    ... )
    >>> noise_covariance(trials, method="full").values
    array([[5.   , 1.25 ],
           [1.25 , 0.3125]])
    """
    return _by_label(trials, by, lambda x, own: residual_covariance(x, method=method, dof=own), dof)


def noise_precision(
    trials: xr.DataArray,
    *,
    method: CovarianceMethod = "shrinkage_diagonal",
    by: str | None = None,
    dof: int | None = None,
) -> xr.DataArray:
    """Invert `noise_covariance`: the precision of the noise between units.

    Parameters
    ----------
    trials, method, by, dof
        As in `noise_covariance`.

    Returns
    -------
    DataArray, dims ([by,] [time,] unit, other_unit)
        Precisions, symmetric and positive definite, in one over the squared unit of the trials.

    Raises
    ------
    DataError
        If a unit has no noise, or the covariance has not full rank; the message gives the rank.
        Otherwise the errors of `noise_covariance`.

    Notes
    -----
    Computed in float64. Equal to ``rsatoolbox.data.noise.prec_from_unbalanced``. It is of single
    trials; that of their means is as many times larger as trials are averaged.

    References
    ----------
    Walther et al. (2016), doi:10.1016/j.neuroimage.2015.12.012.

    Examples
    --------
    >>> trials = xr.DataArray(
    ...     [[1.0, 5.0], [3.0, 5.5], [0.0, 2.0], [4.0, 1.0]],
    ...     dims=("trial", "unit"),
    ...     coords={"stimulus": ("trial", ["face", "face", "house", "house"])},
    ... )
    >>> np.diag(noise_precision(trials, method="diagonal"))
    array([0.2, 3.2])
    """
    return _by_label(
        trials, by, lambda x, own: precision_of(residual_covariance(x, method=method, dof=own)), dof
    )


def whiten_noise(array: xr.DataArray, precision: xr.DataArray) -> xr.DataArray:
    """Normalize multivariate noise: give it unit variance in all directions.

    Parameters
    ----------
    array : DataArray, dims (trial or stimulus, unit) or with time
        Responses, float32 or float64, in any unit.
    precision : DataArray, dims ([fold,] [time,] unit, other_unit)
        The result of `noise_precision`; where it has one for each fold or run, ``array`` needs
        that coordinate on its trials.

    Returns
    -------
    DataArray, dims of ``array``
        Responses times the symmetric square root of the precision, in standard deviations of the
        noise. Each new unit is as close as can be to the one it replaces, whose coordinates it
        keeps. Euclidean distances between them are Mahalanobis distances.

    Raises
    ------
    ShapeError
        If the units of the two differ.
    UnknownNameError
        If ``array`` has no coordinate for the folds of the precision.
    DataError
        If a precision is not positive definite, or a fold of ``array`` has none.

    References
    ----------
    Walther et al. (2016), doi:10.1016/j.neuroimage.2015.12.012.

    Examples
    --------
    >>> array = xr.DataArray(
    ...     [[4.0, 6.0], [2.0, 0.0]], dims=("stimulus", "unit"), coords={"stimulus": ["a", "b"]}
    ... )
    >>> precision = xr.DataArray(np.diag([0.25, 4.0]), dims=("unit", "other_unit"))
    >>> whiten_noise(array, precision).values
    array([[ 2., 12.],
           [ 1.,  0.]])
    """
    _check_units(array, precision)
    folds = [dim for dim in precision.dims if dim not in (*PAIR, "time")]
    if folds:
        return _whiten_each(array, precision, folds[0])
    order = ("time",) if "time" in array.dims else ()
    rows = [dim for dim in array.dims if dim not in ("unit", "time")]
    x = torch.tensor(array.transpose(*order, *rows, "unit").values)
    matrix = precision.transpose(*(dim for dim in order if dim in precision.dims), *PAIR)
    root = symmetric_root(torch.tensor(matrix.values))
    white = (x.double() @ root).to(x.dtype).numpy()
    result = xr.DataArray(white, dims=(*order, *rows, "unit")).transpose(*array.dims)
    return array.copy(data=result.values)


def _whiten_each(array: xr.DataArray, precision: xr.DataArray, fold: Hashable) -> xr.DataArray:
    """Whiten the trials of each fold by its own precision."""
    codes, labels = groups(array, str(fold))
    result = array.copy(deep=True)
    known = precision[fold].values.tolist()
    for code, label in enumerate(labels):
        if label not in known:
            raise DataError(f"There is no precision for {fold} {label!r}, only for {known}.")
        rows = np.flatnonzero(codes.numpy() == code)
        one = precision.isel({fold: known.index(label)}, drop=True)
        place = {"trial": rows}
        result[place] = whiten_noise(array.isel(place), one).values
    return result


def _check_units(array: xr.DataArray, precision: xr.DataArray) -> None:
    if not set(PAIR) <= set(precision.dims):
        raise ShapeError(f"A precision has the dimensions {PAIR}, got {precision.dims}.")
    if "time" in precision.dims and "time" not in array.dims:
        raise ShapeError("The precision has a time dimension, and the array has none.")
    sizes = array.sizes["unit"], precision.sizes["unit"]
    both = "unit" in array.indexes and "unit" in precision.indexes
    if sizes[0] != sizes[1] or (
        both and not array.indexes["unit"].equals(precision.indexes["unit"])
    ):
        raise ShapeError(
            f"The array and the precision must have the same units: {counted(sizes[0], 'unit')} "
            f"and {sizes[1]}{', with other labels' if sizes[0] == sizes[1] else ''}."
        )


Compute = Callable[[Tensor, int], Tensor]


def _by_label(
    trials: xr.DataArray, by: str | None, compute: Compute, dof: int | None
) -> xr.DataArray:
    """Compute a matrix between units of all trials, or for each label of a coordinate."""
    trials = _trials_or_residuals(trials)
    labels, matrices = [], []
    for label, part in _parts(trials, by):
        codes, _ = groups(part, "stimulus")
        x, own = residuals(as_tensor(part), codes)
        try:
            matrices.append(compute(x, own if dof is None else dof))
        except SoftRSAError as error:
            if by is None:
                raise
            raise type(error)(f"In {by} {label!r}: {error}") from error
        labels.append(label)
    time = ("time",) if "time" in trials.dims else ()
    stack = torch.stack(matrices).numpy() if by else matrices[0].numpy()
    kept = {n: c for n, c in trials.coords.items() if set(c.dims) <= {"unit", "time"}}
    return xr.DataArray(
        stack.astype(trials.dtype),
        dims=(*((by,) if by else ()), *time, *PAIR),
        coords={**kept, **({by: labels} if by else {})},
    )


def _trials_or_residuals(trials: xr.DataArray) -> xr.DataArray:
    """Check trials; residuals become trials of one stimulus."""
    if "stimulus" not in getattr(trials, "coords", ()) and hasattr(trials, "dims"):
        rows = [dim for dim in trials.dims if dim not in ("unit", "time")]
        if len(rows) == 1:
            trials = trials.rename({rows[0]: "trial"})
            trials = trials.assign_coords(stimulus=("trial", np.zeros(trials.sizes["trial"], int)))
            return checked_trials(trials, name="residuals")
    return checked_trials(trials)


def _parts(trials: xr.DataArray, by: str | None) -> Iterator[tuple[object, xr.DataArray]]:
    if by is None:
        yield None, trials
        return
    codes, labels = groups(trials, by)
    for code, label in enumerate(labels):
        yield label, trials.isel(trial=np.flatnonzero(codes.numpy() == code))
