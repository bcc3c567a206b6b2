"""Responses over time, in windows."""

from __future__ import annotations

from typing import Literal

import numpy as np
import xarray as xr

from softrsa._wording import counted
from softrsa.errors import DataError, ShapeError, unknown_name

REDUCTIONS = ("mean", "sum")


def time_windows(
    array: xr.DataArray,
    *,
    width: float,
    step: float | None = None,
    reduce: Literal["mean", "sum"] = "mean",
) -> xr.DataArray:
    """Average or sum responses within windows that slide over time.

    Window k holds the samples from ``start + k * step`` on, up to but without ``width`` later,
    where ``start`` is the first time; a window that the last sample does not fill is left out.

    Parameters
    ----------
    array : DataArray, with a dimension time
        Responses, such as (trial, unit, time) or (stimulus, unit, time), in any unit. Times
        increase, in any unit; without a coordinate they are 0, 1, 2, ...
    width : float
        Length of a window, in the unit of the times.
    step : float, optional
        From one window to the next, in the unit of the times; ``width`` by default, so that
        windows lie side by side.
    reduce : {"mean", "sum"}
        ``"sum"`` for spike counts.

    Returns
    -------
    DataArray, dims of ``array``
        Responses in the number type of ``array``, float64 where that is integers, computed in
        float64, with the mean time of each
        window's samples as the coordinate `time`; `window_width` and `window_step` in the
        attributes.

    Raises
    ------
    ShapeError
        If there is no dimension `time`.
    UnknownNameError
        If ``reduce`` is something else.
    DataError
        If times do not increase, ``width`` or ``step`` is not positive, no window fits, or a
        window holds no sample.

    Examples
    --------
    >>> array = xr.DataArray([[0.0, 2.0, 4.0, 6.0, 8.0]], dims=("unit", "time"))
    >>> windows = time_windows(array, width=2, step=1)
    >>> windows.values, windows.time.values
    (array([[1., 3., 5., 7.]]), array([0.5, 1.5, 2.5, 3.5]))
    """
    if "time" not in array.dims:
        raise ShapeError(f"The array has no dimension `time`, only {array.dims}.")
    if reduce not in REDUCTIONS:
        raise unknown_name("reduction (`reduce`)", reduce, REDUCTIONS)
    step = width if step is None else step
    times = _exact(array["time"].values)
    starts, stops = _bounds(times, width, step)
    samples = array.transpose("time", ...).values
    mean = reduce == "mean"
    parts = [
        samples[a:b].mean(0, dtype=np.float64) if mean else samples[a:b].sum(0, dtype=np.float64)
        for a, b in zip(starts, stops, strict=True)
    ]
    rest = [dim for dim in array.dims if dim != "time"]
    centers = [times[a:b].mean() for a, b in zip(starts, stops, strict=True)]
    kept = {name: c for name, c in array.coords.items() if "time" not in c.dims}
    return xr.DataArray(
        np.stack(parts).astype(array.dtype if array.dtype.kind == "f" else np.float64),
        dims=("time", *rest),
        coords={**kept, "time": centers},
        attrs={**array.attrs, "window_width": float(width), "window_step": float(step)},
        name=array.name,
    ).transpose(*array.dims)


def _exact(times: np.ndarray) -> np.ndarray:
    """Give times in float64 without what their own number type rounded off, where they are even.

    Seconds in float32 are off by more than windows of some samples can bear.
    """
    exact = np.asarray(times, dtype=np.float64)
    if len(exact) < 3 or times.dtype.kind != "f" or not np.isfinite(exact).all():
        return exact
    step = (exact[-1] - exact[0]) / (len(exact) - 1)
    even = exact[0] + step * np.arange(len(exact))
    rounding = 4 * np.finfo(times.dtype).eps * np.abs(exact).max()
    return even if (np.abs(even - exact) <= rounding).all() else exact


def _bounds(times: np.ndarray, width: float, step: float) -> tuple[np.ndarray, np.ndarray]:
    """Find the first sample of each window and the first after it."""
    if not (width > 0 and step > 0):
        raise DataError(f"`width` and `step` must be positive, got {width!r} and {step!r}.")
    gaps = np.diff(times)
    if not len(times) or not np.isfinite(times).all() or (gaps <= 0).any():
        raise DataError("The times must be finite and increase; sort by them: `array.sortby`.")
    sample = float(np.median(gaps)) if len(gaps) else width
    tolerance = 1e-3 * sample  # times such as 0.1, 0.2, 0.3 are rounded
    length = times[-1] + sample - times[0]
    n_windows = (
        int(np.floor((length - width + tolerance) / step)) + 1 if width <= length + tolerance else 0
    )
    if n_windows < 1:
        raise DataError(
            f"No window of {width:g} fits into {counted(len(times), 'sample')} from "
            f"{times[0]:g} to {times[-1]:g}."
        )
    edges = times[0] + step * np.arange(n_windows) - tolerance
    starts, stops = np.searchsorted(times, edges), np.searchsorted(times, edges + width)
    empty = starts == stops
    if empty.any():
        raise DataError(
            f"{counted(int(empty.sum()), 'window')} of {n_windows} have no sample, the first from "
            f"{edges[empty][0] + tolerance:g} on. Make `width` longer than the longest gap, "
            f"{gaps.max():g}."
        )
    return starts, stops
