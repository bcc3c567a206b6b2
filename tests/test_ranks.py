"""Average ranks as SciPy's, quantiles as NumPy's, ties and NaN included."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy.stats import rankdata

from softrsa._ranks import average_ranks, sorted_quantile

shapes = array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=7)
tied = arrays(np.float64, shapes, elements=st.integers(-3, 3).map(lambda i: i / 4))


@given(tied)
def test_ranks_are_scipys(x):
    before = x.copy()
    np.testing.assert_array_equal(average_ranks(torch.from_numpy(x)), rankdata(x, axis=-1))
    np.testing.assert_array_equal(x, before)


@given(tied, arrays(np.float64, 3, elements=st.floats(0, 1)))
def test_quantiles_are_numpys(x, levels):
    ordered = np.sort(x, axis=-1)
    for level in (*levels, 0.0, 1.0):
        found = sorted_quantile(torch.from_numpy(ordered), torch.tensor(level, dtype=torch.float64))
        np.testing.assert_allclose(found, np.quantile(x, level, axis=-1), rtol=0, atol=1e-14)


def test_quantile_levels_broadcast_against_leading_dimensions(rng):
    x = torch.rand(4, 9, dtype=torch.float64, generator=rng).sort(-1).values
    levels = torch.tensor([[0.1], [0.5], [0.9]], dtype=torch.float64)
    expected = np.quantile(x.numpy(), [0.1, 0.5, 0.9], axis=-1)
    np.testing.assert_allclose(sorted_quantile(x, levels), expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nan_makes_its_own_row_undefined_only(dtype):
    x = torch.tensor([[0.3, 0.1, torch.nan, 0.2], [0.3, 0.1, 0.4, 0.2]], dtype=dtype)
    ranks = average_ranks(x)
    assert ranks.dtype == dtype
    assert ranks[0].isnan().all()
    assert ranks[1].tolist() == [3, 1, 4, 2]
    middle = sorted_quantile(x.sort(-1).values, torch.tensor(0.5))
    assert middle[0].isnan()
    assert middle[1].item() == pytest.approx(0.25)


def test_infinite_values_rank_last():
    assert average_ranks(torch.tensor([torch.inf, 1.0, torch.inf])).tolist() == [2.5, 1, 2.5]
