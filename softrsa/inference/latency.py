"""When a curve begins and peaks, with intervals from a bootstrap over subjects."""

from __future__ import annotations

import numpy as np

from softrsa._checks import check_count
from softrsa.errors import DataError


def onset_and_peak(
    curves: np.ndarray, times: np.ndarray, *, fraction: float = 0.5, start: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Onset and peak of curves (..., n_times), both (...), in the unit of the times.

    The onset is when a curve last rises through a share of its peak before it, on the straight
    line between two times; the first time where it never was below. The peak is sought from the
    time ``start`` on. NaN of curves that are nowhere above 0.

    Examples
    --------
    >>> times = np.array([0.0, 0.1, 0.2, 0.3])
    >>> onset, peak = onset_and_peak(np.array([0.0, 0.2, 1.0, 0.5]), times)
    >>> round(float(onset), 4), float(peak)
    (0.1375, 0.2)
    """
    at = curves[..., start:].argmax(-1)[..., None] + start
    height = np.take_along_axis(curves, at, -1)
    share = fraction * height
    before = (curves < share) & (np.arange(len(times)) < at)
    last = np.where(before, np.arange(len(times)), -1).max(-1, keepdims=True)
    after = np.minimum(last + 1, len(times) - 1)
    low, high = (
        np.take_along_axis(curves, np.maximum(where, 0), -1) for where in (last, after)
    )  # fmt: skip
    step = np.divide(share - low, high - low, out=np.zeros_like(low), where=last >= 0)
    onset = times[np.maximum(last, 0)] + step * (times[after] - times[np.maximum(last, 0)])
    positive = height[..., 0] > 0
    return np.where(positive, onset[..., 0], np.nan), np.where(positive, times[at[..., 0]], np.nan)


def latency_intervals(
    scores: np.ndarray,
    times: np.ndarray,
    *,
    fraction: float,
    window: tuple[float, float] | None,
    level: float,
    n_resamples: int,
    seed: int,
) -> dict[str, float]:
    """Onset and peak of the mean of scores (n_subjects, n_times), with percentile intervals."""
    for name, share in (("fraction", fraction), ("level", level)):
        if not 0 < share < 1:
            raise DataError(f"`{name}` must be between 0 and 1, got {share!r}.")
    check_count("n_resamples", n_resamples, 1)
    known = np.isfinite(scores).all(0)
    if window is not None:
        low, high = window
        known &= times <= high  # what comes before the window is kept for the onset
        if not (known & (times >= low)).any():
            raise DataError(
                f"`window` must hold a time: {window} does not, of times from {times[0]:g} to "
                f"{times[-1]:g}."
            )
    names = ("onset", "onset_low", "onset_high", "peak", "peak_low", "peak_high", "peak_score")
    if not known.any():
        return dict.fromkeys(names, np.nan)
    scores, times = scores[:, known], times[known].astype(float)
    start = 0 if window is None else int(np.searchsorted(times, window[0]))
    how = {"fraction": fraction, "start": start}
    n = len(scores)
    mean = scores.mean(0)
    onset, peak = onset_and_peak(mean, times, **how)
    ends = np.full((2, 2), np.nan)
    if n > 1:
        drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), n_resamples) / n
        tails = _expanded(level, n)
        ends = np.array(
            [_quantiles(found, tails) for found in onset_and_peak(drawn @ scores, times, **how)]
        )
    values = (onset, *ends[0], peak, *ends[1], mean[start:].max())
    return {name: float(value) for name, value in zip(names, values, strict=True)}


def _expanded(level: float, n: int) -> np.ndarray:
    """Shares of resamples below the two ends of an interval, from n subjects.

    Plain percentiles are too narrow for few subjects; these are wider as Student's t is, and by
    the variance that resamples lack (Hesterberg, 2015).
    """
    from scipy.stats import norm, t

    return norm.cdf(t.ppf([(1 - level) / 2, (1 + level) / 2], n - 1) * (n / (n - 1)) ** 0.5)


def _quantiles(found: np.ndarray, tails: np.ndarray) -> np.ndarray:
    known = found[np.isfinite(found)]
    return np.quantile(known, tails) if known.size else np.full(2, np.nan)
