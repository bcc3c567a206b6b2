"""Counting, recorded windows and gaps, against loops over every spike and interval."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from softrsa.errors import DataError, MemoryLimitError
from softrsa.io.spikes import Spikes, count_spikes, overlapping

TENTHS = st.lists(st.integers(-20, 60), max_size=30)  # so that spikes meet edges
INTERVALS = st.lists(st.tuples(st.integers(-20, 60), st.integers(1, 30)), max_size=5)


def spikes_of(trains, intervals=None):
    return Spikes(
        np.arange(len(trains)), lambda i: np.asarray(trains[i], dtype=float),
        lambda i: None if intervals is None else intervals[i], {},
    )  # fmt: skip


@given(TENTHS, TENTHS, st.lists(st.integers(-10, 50), min_size=1, max_size=6))
def test_each_spike_is_in_the_bins_that_hold_it(first, second, onsets):
    trains = [np.array(train) / 10 for train in (first, second)]
    edges = np.array([-0.2, 0.1, 0.4])
    counts, recorded = count_spikes(spikes_of(trains), np.array(onsets) / 10, edges)
    expected = [
        [[sum(a + t <= x < b + t for x in train) for a, b in ((-2, 1), (1, 4))]
         for train in (first, second)]
        for t in onsets
    ]  # fmt: skip
    assert counts.tolist() == expected
    assert recorded.all()


@given(INTERVALS, st.lists(st.integers(-30, 80), min_size=1, max_size=6), st.integers(1, 15))
def test_windows_are_recorded_if_intervals_cover_them(pairs, onsets, length):
    intervals = np.array([(a / 10, (a + n) / 10) for a, n in pairs]).reshape(-1, 2)
    _, recorded = count_spikes(
        spikes_of([[]], [intervals]), np.array(onsets) / 10, np.array([0, length / 10])
    )
    covered = {tenth for a, n in pairs for tenth in range(a, a + n)}
    expected = [all(t + k in covered for k in range(length)) for t in onsets]
    assert recorded[:, 0].tolist() == expected


@given(INTERVALS, st.lists(st.integers(-30, 80), min_size=1, max_size=6), st.integers(1, 15))
def test_windows_overlap_intervals_if_they_share_a_tenth(pairs, onsets, length):
    intervals = np.array([(a / 10, (a + n) / 10) for a, n in pairs]).reshape(-1, 2)
    starts = np.array(onsets) / 10
    found = overlapping(starts, starts + length / 10, intervals)
    covered = {tenth for a, n in pairs for tenth in range(a, a + n)}
    assert found.tolist() == [any(t + k in covered for k in range(length)) for t in onsets]


def test_times_that_are_none():
    trains = spikes_of([[0.1, 0.2], [0.1, np.nan, np.nan]])
    with pytest.raises(DataError, match="Unit 1 has 2 spike times that are NaN or infinite"):
        count_spikes(trains, np.zeros(1), np.array([0, 1.0]))


def test_counts_larger_than_memory(monkeypatch):
    monkeypatch.setattr("softrsa.io.spikes.available_memory", lambda: 1e9)
    trains = spikes_of([[0.1]] * 100)
    message = r"2000 trials x 100 units x 1000 bins take 1\.6 GB .* there are 1\.0 GB left"
    with pytest.raises(MemoryLimitError, match=message):
        count_spikes(trains, np.zeros(2000), np.linspace(0, 1, 1001))
