"""Friedman and Nemenyi against scikit-posthocs, Demšar's worked example and SciPy."""

import numpy as np
import pandas as pd
import pytest
import scikit_posthocs
import torch
from scipy import stats

from softrsa.errors import DataError, ShapeError, UnknownNameError
from softrsa.prediction.experiment_result import friedman_nemenyi
from softrsa.reports.prediction_figures import _groups


@pytest.fixture
def table(rng):
    values = torch.randn(12, 5, generator=rng, dtype=torch.float64) + torch.arange(5) * 0.7
    return pd.DataFrame(values.numpy(), columns=list("abcde"))


def test_agrees_with_scikit_posthocs_and_scipy(table):
    found = friedman_nemenyi(table)
    statistic, p = stats.friedmanchisquare(*table.to_numpy().T)
    assert (found.statistic, found.p) == pytest.approx((statistic, p))
    expected = scikit_posthocs.posthoc_nemenyi_friedman(table)
    np.testing.assert_allclose(found.pairwise, expected, atol=1e-6)


@pytest.mark.parametrize(("k", "q"), [(3, 2.343), (5, 2.728), (10, 3.164)])
def test_critical_distance_is_demsars_table(k, q, rng):
    """Table 5a of Demšar (2006), alpha .05, printed to three digits."""
    table = pd.DataFrame(torch.randn(20, k, generator=rng).numpy())
    expected = q * np.sqrt(k * (k + 1) / (6 * 20))
    assert friedman_nemenyi(table).critical_distance == pytest.approx(expected, abs=5e-4)


def test_a_pair_at_the_critical_distance_has_p_alpha(table):
    found = friedman_nemenyi(table, alpha=0.1)
    gaps = np.abs(found.mean_ranks.to_numpy()[:, None] - found.mean_ranks.to_numpy())
    differ = found.pairwise.to_numpy() < 0.1
    assert (differ == (gaps > found.critical_distance)).all()
    assert differ.any()


def test_higher_may_be_better(table):
    down, up = friedman_nemenyi(table), friedman_nemenyi(-table, better="higher")
    pd.testing.assert_series_equal(down.mean_ranks, up.mean_ranks)


def test_figure_names_every_method_and_joins_what_does_not_differ(table):
    ax = friedman_nemenyi(table).plot()
    words = " ".join(text.get_text() for text in ax.texts)
    assert all(f"{name} " in words or f" {name}" in words for name in table)
    assert _groups(np.array([1.0, 1.5, 2.2, 4.0]), 1.0) == [(1.0, 1.5), (1.5, 2.2)]
    assert _groups(np.array([1.0, 3.0, 5.0]), 1.0) == []


def test_mistakes_are_named(table):
    with pytest.raises(ShapeError, match=r"at least 3 methods .* got 2 and 12"):
        friedman_nemenyi(table[["a", "b"]])
    with pytest.raises(DataError, match="'c' has nan on 4"):
        friedman_nemenyi(table.assign(c=table["c"].where(table.index != 4)))
    with pytest.raises(UnknownNameError, match=r"direction 'low'\. Did you mean 'lower'"):
        friedman_nemenyi(table, better="low")
    with pytest.raises(DataError, match="`alpha` must lie between 0 and 1, got 5"):
        friedman_nemenyi(table, alpha=5)
