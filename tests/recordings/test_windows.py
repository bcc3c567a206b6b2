"""Windows over time, and means over trials at each time."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from softrsa.errors import DataError, ShapeError, UnknownNameError
from softrsa.recordings import average_trials, time_windows


def recorded(n_times=10, start=0.1, sample=0.01):
    """Values that are the number of the sample."""
    return xr.DataArray(
        np.broadcast_to(np.arange(float(n_times)), (2, 3, n_times)).copy(),
        dims=("trial", "unit", "time"),
        coords={
            "stimulus": ("trial", ["a", "b"]),
            "region": ("unit", ["V4", "IT", "IT"]),
            "time": start + sample * np.arange(n_times),
        },
        attrs={"measured": "spikes"},
    )


@settings(max_examples=25)
@given(
    st.integers(2, 30),
    st.integers(1, 8),
    st.integers(1, 8),
    st.sampled_from([0.01, 0.1, 1 / 3, 5.0]),
    st.floats(-2, 2),
)
def test_equals_slices_of_samples(n_times, width, step, sample, start):
    """Whatever the rounding of times, windows are these stretches of samples."""
    array = recorded(n_times, start, sample)
    stretches = [slice(a, a + width) for a in range(0, n_times - width + 1, step)]
    if not stretches:
        with pytest.raises(DataError, match=f"No window of .* fits into {n_times} sample"):
            time_windows(array, width=width * sample, step=step * sample)
        return
    for reduce in ("mean", "sum"):
        found = time_windows(array, width=width * sample, step=step * sample, reduce=reduce)
        assert found.dims == array.dims
        expected = [getattr(np.arange(n_times)[s], reduce)() for s in stretches]
        np.testing.assert_allclose(found[0, 0], expected, rtol=1e-12)
        centers = [array.time.values[s].mean() for s in stretches]
        np.testing.assert_allclose(found.time, centers, rtol=1e-12)


def test_labels_type_and_default_step():
    array = recorded().astype(np.float32)
    before = array.copy(deep=True)
    found = time_windows(array, width=0.05)
    xr.testing.assert_identical(array, before)
    assert found.sizes == {"trial": 2, "unit": 3, "time": 2}
    assert found.dtype == np.float32
    assert found.region.values.tolist() == ["V4", "IT", "IT"]
    assert found.attrs == {"measured": "spikes", "window_width": 0.05, "window_step": 0.05}
    plain = time_windows(array.drop_vars("time").T, width=5)
    assert plain.dims == ("time", "unit", "trial")
    assert plain.time.values.tolist() == [2, 7]


def test_trials_are_averaged_at_each_time():
    array = recorded()
    array = xr.concat([array, 3 * array[:1]], "trial")
    means = average_trials(array)
    assert means.dims == ("stimulus", "unit", "time")
    assert means.stimulus.values.tolist() == ["a", "b"]
    for time in array.time.values:
        expected = average_trials(array.sel(time=time, drop=True))
        np.testing.assert_array_equal(means.sel(time=time), expected)


def test_mistakes_are_named():
    array = recorded()
    with pytest.raises(ShapeError, match=r"no dimension `time`, only \('trial', 'unit'\)"):
        time_windows(array[..., 0], width=1)
    with pytest.raises(UnknownNameError, match=r"'means'\. Did you mean 'mean'"):
        time_windows(array, width=0.1, reduce="means")
    with pytest.raises(DataError, match=r"must be positive, got 0\.1 and -1"):
        time_windows(array, width=0.1, step=-1)
    with pytest.raises(DataError, match=r"No window of 3 fits into 10 samples from 0\.1 to 0\.19"):
        time_windows(array, width=3)
    with pytest.raises(DataError, match="increase; sort by them"):
        time_windows(array[..., ::-1], width=0.1)
    gap = array[..., [0, 1, 2, 8, 9]]
    with pytest.raises(DataError, match=r"2 windows of 5 have no sample, the first from 0\.14 on"):
        time_windows(gap, width=0.02)
