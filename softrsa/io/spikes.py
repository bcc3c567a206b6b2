"""Spike trains counted in windows, one for each trial, and what was not recorded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from softrsa._memory import available_memory
from softrsa._wording import counted, listed
from softrsa.errors import DataError, MemoryLimitError, unknown_name

Gaps = Literal["nan", "units", "trials"]
GAPS = ("nan", "units", "trials")
ROUNDING = 1e-9  # s; edges such as 0.1 + 0.2 are off by less, and samples are farther apart
ALIKE = 0.05  # by what part durations may differ, as frames of a screen make them


@dataclass(frozen=True)
class Spikes:
    """Spike trains of units, wherever they come from.

    `times` and `observed` take the position of a unit and give its spike times, and the intervals
    (n, 2) in which it was recorded or None where that is always; in s.
    """

    ids: np.ndarray
    times: Callable[[int], np.ndarray]
    observed: Callable[[int], np.ndarray | None]
    labels: dict[str, np.ndarray]


def window_edges(
    window: tuple[float, float] | None, bin_width: float | None, durations: np.ndarray | None
) -> np.ndarray:
    """Find the edges of bins in s from the onset: two where there is one window."""
    start, stop = _shared_duration(durations) if window is None else _checked(window)
    if bin_width is None:
        return np.array([start, stop])
    if not (np.isfinite(bin_width) and bin_width > 0):
        raise DataError(f"`bin_width` must be a positive number of s, got {bin_width!r}.")
    n = round((stop - start) / bin_width)
    if n < 1 or abs(start + n * bin_width - stop) > 1e-6 * bin_width * max(1, n):
        fits = f"{start + max(1, n) * bin_width:g}"
        raise DataError(
            f"The window from {start:g} to {stop:g} s is no whole number of bins of {bin_width:g} "
            f"s: {(stop - start) / bin_width:.4g}. Give `window=({start:g}, {fits})` or another "
            "`bin_width`."
        )
    return np.linspace(start, stop, n + 1)


def _checked(window: tuple[float, float]) -> tuple[float, float]:
    """Take two numbers that increase."""
    pair = np.asarray(window)
    if pair.shape != (2,) or pair.dtype.kind not in "iuf" or not pair[0] < pair[1]:
        raise DataError(
            "`window` must be two numbers, start and stop in s from the onset of each trial, "
            f"such as (0.05, 0.2); got {window!r}."
        )
    if not np.isfinite(pair).all():
        raise DataError(f"`window` must be finite, got {window!r}.")
    return float(pair[0]), float(pair[1])


def _shared_duration(durations: np.ndarray | None) -> tuple[float, float]:
    """Take the whole of trials that last the same."""
    if durations is None:
        raise DataError(
            "Give `window=(start, stop)` in s from the onset of each trial: where trials end is "
            "not said from there."
        )
    shortest, median, longest = np.quantile(durations, [0, 0.5, 1])
    if not (shortest > 0 and longest - shortest <= ALIKE * median):
        raise DataError(
            f"Trials last {shortest:.4g} to {longest:.4g} s, so they have no window in common. "
            "Give one, in s from the onset of each: `softrsa.io.from_nwb(..., window=(0, "
            f"{max(shortest, 0.001):.4g}))`."
        )
    return 0.0, round(float(median), 3) or float(median)


def count_spikes(
    spikes: Spikes, onsets: np.ndarray, edges: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Count (trial, unit, bin) spikes, float64; and tell which (trial, unit) were recorded.

    A bin has what is at its first edge and not what is at its last.
    """
    shape = len(onsets), len(spikes.ids), len(edges) - 1
    _check_room(shape)
    at = onsets[:, None] + edges - ROUNDING
    counts = np.empty(shape)
    recorded = np.ones(shape[:2], dtype=bool)
    for i, unit in enumerate(spikes.ids):
        times = np.asarray(spikes.times(i), dtype=np.float64)
        bad = int((~np.isfinite(times)).sum())
        if bad:
            raise DataError(
                f"Unit {unit.item()!r} has {counted(bad, 'spike time')} that are NaN or infinite."
            )
        if (np.diff(times) < 0).any():
            times = np.sort(times)
        counts[:, i] = np.diff(np.searchsorted(times, at), axis=1)
        intervals = spikes.observed(i)
        if intervals is not None:
            recorded[:, i] = _within(onsets + edges[0], onsets + edges[-1], intervals)
    return counts, recorded


def _check_room(shape: tuple[int, int, int]) -> None:
    """Refuse counts that do not fit into memory."""
    needed, there = 8.0 * np.prod(np.array(shape, dtype=float)), available_memory()
    if there is not None and needed > there:
        raise MemoryLimitError(
            f"Counts of {shape[0]} trials x {shape[1]} units x {shape[2]} bins take "
            f"{needed / 1e9:.1f} GB of memory, and there are {there / 1e9:.1f} GB left. Take fewer "
            "`units` at a time, or a wider `bin_width`."
        )


def _within(starts: np.ndarray, stops: np.ndarray, intervals: np.ndarray) -> np.ndarray:
    """Tell which windows lie in one of the intervals, those that touch taken together."""
    if not len(intervals):
        return np.zeros(len(starts), dtype=bool)
    intervals = intervals[np.argsort(intervals[:, 0], kind="stable")]
    reach = np.maximum.accumulate(intervals[:, 1])
    apart = np.flatnonzero(intervals[1:, 0] > reach[:-1] + ROUNDING)
    first = intervals[np.r_[0, apart + 1], 0]
    last = reach[np.r_[apart, len(reach) - 1]]
    which = np.searchsorted(first, starts + ROUNDING, side="right") - 1
    return (which >= 0) & (stops <= last[which] + ROUNDING)


def overlapping(starts: np.ndarray, stops: np.ndarray, intervals: np.ndarray) -> np.ndarray:
    """Tell which windows share time with an interval."""
    firsts, lasts = np.sort(intervals[:, 0]), np.sort(intervals[:, 1])
    began = np.searchsorted(firsts, stops - ROUNDING)
    ended = np.searchsorted(lasts, starts + ROUNDING, side="right")
    return began > ended


def settle_gaps(
    counts: np.ndarray, recorded: np.ndarray, gaps: Gaps | None, ids: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Do as told with units that were not recorded in some windows; the trials and units kept."""
    trials, units = np.arange(len(recorded)), np.arange(len(ids))
    if gaps is not None and gaps not in GAPS:
        raise unknown_name("treatment of what was not recorded (`gaps`)", gaps, GAPS)
    if recorded.all():
        return counts, trials, units
    if gaps is None:
        raise _not_recorded(recorded, ids)
    if gaps == "nan":
        counts[~recorded] = np.nan
        return counts, trials, units
    if gaps == "trials":
        trials = np.flatnonzero(recorded.all(1))
    else:
        units = np.flatnonzero(recorded.all(0))
    if not (len(trials) and len(units)):
        raise DataError(
            f'`gaps="{gaps}"` leaves nothing: none of the {gaps} was recorded throughout. '
            f"{counted(int((~recorded).sum()), 'window')} of {recorded.size} are missing."
        )
    return counts[np.ix_(trials, units)], trials, units


def _not_recorded(recorded: np.ndarray, ids: np.ndarray) -> DataError:
    """Name the units and trials that are missing."""
    units, trials = np.flatnonzero(~recorded.all(0)), np.flatnonzero(~recorded.all(1))
    return DataError(
        f"{len(units)} of {counted(len(ids), 'unit')} ({listed(ids[units])}) were not recorded "
        f"throughout the windows of {len(trials)} of {counted(len(recorded), 'trial')} (rows "
        f"{listed(trials)}), by the intervals that say when they were. Read with "
        '`softrsa.io.from_nwb(..., gaps="trials")` to leave out these trials, `gaps="units"` to '
        "leave out these units (`--drop-missing-units` on the command line), or "
        '`gaps="nan"` to have NaN there.'
    )
