"""Split-half reliability: hand-worked, against a loop, and its mathematics; choosing units."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from softrsa.errors import DataError, ShapeError, StimulusError
from softrsa.recordings import reliability, select_reliable


def recorded(n_stimuli=8, repeats=4, noise=1.0, n_units=6, seed=0):
    rng = np.random.default_rng(seed)
    stimulus = np.repeat(np.arange(n_stimuli), repeats)
    values = rng.normal(size=(n_stimuli, n_units))[stimulus]
    values = values + noise * rng.normal(size=values.shape)
    order = rng.permutation(len(stimulus))
    return xr.DataArray(
        values[order],
        dims=("trial", "unit"),
        coords={
            "stimulus": ("trial", stimulus[order]),
            "region": ("unit", ["V4", "IT"] * (n_units // 2)),
            "unit": np.arange(n_units) + 5,
        },
    )


def test_two_trials_have_but_two_splits():
    """With two trials of each of 3 stimuli the 8 splits are equally likely; their mean by hand."""
    trials = recorded(n_stimuli=3, repeats=2, n_units=2)
    ordered = trials.sortby("stimulus").values.reshape(3, 2, 2)
    expected = np.zeros(2)
    for sides in np.ndindex(2, 2, 2):
        halves = [ordered[np.arange(3), np.abs(np.subtract(sides, k))] for k in (0, 1)]
        expected += [np.corrcoef(halves[0][:, u], halves[1][:, u])[0, 1] / 8 for u in (0, 1)]
    found = reliability(trials, n_splits=4_000)
    np.testing.assert_allclose(found.split_half, expected, atol=0.03)
    corrected = 2 * found.split_half / (1 + found.split_half)
    np.testing.assert_allclose(found.reliability, corrected, rtol=1e-12)


def test_predicts_the_correlation_of_means_with_new_trials():
    """Spearman-Brown: signal and noise variance 1, n trials, reliability n / (n + 1)."""
    for repeats in (4, 5):
        found = reliability(recorded(n_stimuli=400, repeats=repeats, n_units=60), n_splits=20)
        assert found.reliability.mean().item() == pytest.approx(repeats / (repeats + 1), abs=0.01)


@given(st.integers(0, 50), st.floats(0.1, 100), st.floats(-1e3, 1e3))
def test_no_matter_the_scale_or_the_order_of_dimensions(seed, scale, shift):
    trials = recorded(seed=seed)
    found = reliability(trials, n_splits=5, seed=seed)
    moved = reliability((scale * trials + shift).T, n_splits=5, seed=seed)
    xr.testing.assert_allclose(moved, found, rtol=1e-6, atol=1e-6)
    assert (abs(found.split_half) <= 1).all()


def test_noiseless_units_are_perfect_and_constant_ones_nan():
    trials = recorded(noise=0.0)
    trials[:, 1] = 0.1
    found = reliability(trials, n_splits=7)
    assert np.isnan(found.reliability[1])
    np.testing.assert_allclose(np.delete(found.reliability.values, 1), 1, rtol=1e-12)


def test_labels_time_seed_and_input():
    trials = recorded()
    before = trials.copy(deep=True)
    found = reliability(trials, n_splits=5, seed=3)
    xr.testing.assert_identical(trials, before)
    assert found.attrs == {"n_splits": 5, "seed": 3}
    assert found.region.values.tolist() == ["V4", "IT"] * 3
    assert found.unit.values.tolist() == [5, 6, 7, 8, 9, 10]
    xr.testing.assert_identical(found, reliability(trials, n_splits=5, seed=3))
    assert not found.equals(reliability(trials, n_splits=5, seed=4))
    over_time = xr.concat([trials, 1 - 2 * trials], "time")
    twice = reliability(over_time, n_splits=5, seed=3)
    assert twice.reliability.dims == ("unit", "time")
    np.testing.assert_allclose(twice.reliability[:, 0], found.reliability, rtol=1e-12)
    np.testing.assert_allclose(twice.reliability[:, 1], found.reliability, rtol=1e-12)


def test_single_trials_are_named():
    trials = recorded()
    alone = trials.sel(trial=~trials.stimulus.isin([2, 6]))
    alone = xr.concat([alone, trials.sel(trial=trials.stimulus == 6)[:1]], "trial")
    with pytest.raises(StimulusError, match=r"1 stimulus has one trial only \(6\)"):
        reliability(alone)
    with pytest.raises(ShapeError, match="at least 3, got 2"):
        reliability(trials.sel(trial=trials.stimulus < 2))
    with pytest.raises(ShapeError, match="at least 1, got 0"):
        reliability(trials, n_splits=0)
    trials[0, 0] = np.nan
    with pytest.raises(DataError, match=r"1 value that are NaN .*region 'V4'"):
        reliability(trials)


def test_selection_by_threshold_and_number():
    trials = recorded()
    values = xr.DataArray([0.1, 0.9, np.nan, 0.5, 0.7, 0.5], dims="unit")
    data = xr.Dataset({"reliability": values, "split_half": values})
    for limits, expected in (
        ({"least": 0.5}, [6, 8, 9, 10]),
        ({"top": 2}, [6, 9]),
        ({"top": 3}, [6, 8, 9]),
        ({"top": 50}, [5, 6, 8, 9, 10]),
        ({"least": 0.6, "top": 4}, [6, 9]),
    ):
        for given_values in (values, data):
            kept = select_reliable(trials, given_values, **limits)
            assert kept.unit.values.tolist() == expected
            assert kept.attrs["units_left_out"] == 6 - len(expected)
            np.testing.assert_array_equal(kept, trials.sel(unit=expected))


def test_selection_says_why_nothing_is_left():
    trials = recorded()
    values = xr.DataArray([0.1, 0.32, np.nan, 0.2, 0.1, 0.1], dims="unit")
    with pytest.raises(DataError, match=r"No unit of 6 .*`least=0\.5`\): the highest is 0\.32"):
        select_reliable(trials, values, least=0.5)
    with pytest.raises(DataError, match="all are NaN"):
        select_reliable(trials, values * np.nan, top=3)
    with pytest.raises(DataError, match="Give `least`, `top` or both"):
        select_reliable(trials, values)
    with pytest.raises(DataError, match="at least 1, got 0"):
        select_reliable(trials, values, top=0)
    with pytest.raises(ShapeError, match="6 units and the reliability 5"):
        select_reliable(trials, values[:5], top=1)
    with pytest.raises(ShapeError, match="have different labels"):
        select_reliable(trials, values.assign_coords(unit=np.arange(6)), top=1)
    with pytest.raises(ShapeError, match=r"got \('unit', 'time'\)"):
        select_reliable(trials, values.expand_dims(time=2).T, top=1)
