"""Poisson divergences against rsatoolbox, by hand, and their mathematics."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from rsatoolbox.data import Dataset
from rsatoolbox.rdm import calc_rdm
from rsatoolbox.rdm.calc_unbalanced import calc_rdm_unbalanced
from scipy.stats import poisson

from softrsa.errors import DataError
from softrsa.pairs import condense
from softrsa.rsm import poisson_cv, poisson_kl

FOLDS, N, P = 4, 6, 5
PRIORS = [{}, {"prior_lambda": 3.0, "prior_weight": 0.5}]


def counts(rng, *lead):
    return torch.poisson(torch.full((*lead, N, P), 3.0, dtype=torch.float64), rng)


def dataset(x, first=0):
    """One row per fold and stimulus; ``first`` says which fold comes first."""
    n_folds = len(x)
    return Dataset(
        x.reshape(n_folds * N, P).numpy(),
        obs_descriptors={
            "stimulus": np.tile(np.arange(N), n_folds),
            "fold": np.repeat((np.arange(n_folds) - first) % n_folds, N),
        },
    )


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")  # rsatoolbox's
def test_rsatoolbox(prior, rng):
    x = counts(rng, FOLDS)
    options = {"descriptor": "stimulus", **prior}
    expected = calc_rdm(dataset(x), method="poisson", **options).get_vectors()[0]
    np.testing.assert_allclose(
        condense(poisson_kl(x.mean(0), **prior)), expected, rtol=0, atol=1e-8
    )
    found = condense(poisson_cv(x, **prior))
    options |= {"method": "poisson_cv", "cv_descriptor": "fold"}
    expected = calc_rdm_unbalanced(dataset(x), **options).get_vectors()[0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-8)
    # calc_rdm keeps its last fold only: every fold is the last once
    turns = [calc_rdm(dataset(x, first), **options).get_vectors()[0] for first in range(FOLDS)]
    np.testing.assert_allclose(found, np.mean(turns, axis=0), rtol=0, atol=1e-8)


def test_divergence_of_the_distributions():
    """Without prior it is KL(p, q) + KL(q, p), summed over counts with SciPy."""
    k = np.arange(200)
    p, q = poisson(3.5), poisson(7.0)
    log_ratio = p.logpmf(k) - q.logpmf(k)
    expected = ((p.pmf(k) - q.pmf(k)) * log_ratio).sum()
    x = torch.tensor([[3.5], [7.0]], dtype=torch.float64)
    assert poisson_kl(x, prior_weight=0)[0, 1].item() == pytest.approx(expected, rel=1e-12)
    assert expected == pytest.approx(3.5 * math.log(2), rel=1e-12)


@given(arrays(np.float64, (4, 3), elements=st.floats(0, 100)))
def test_never_negative_and_zero_for_equals(values):
    x = torch.from_numpy(np.concatenate([values, values[:1]]))
    found = poisson_kl(x)
    assert (found > -1e-9).all()
    assert found[0, -1].item() == pytest.approx(0, abs=1e-9)
    folds = x.expand(3, -1, -1)
    torch.testing.assert_close(poisson_cv(folds), found, rtol=1e-9, atol=1e-9)


def test_absent_stimuli_are_left_out_of_pairs_of_folds(rng):
    x = counts(rng, 3)
    expected = poisson_cv(x[:2])
    x[2, 1] = torch.nan
    found = poisson_cv(x)
    torch.testing.assert_close(found[1], expected[1], rtol=0, atol=1e-12)
    without = torch.tensor([0, 2, 3, 4, 5])
    torch.testing.assert_close(found[without][:, without], poisson_cv(x[:, without]))


@pytest.mark.parametrize("compute", [poisson_kl, poisson_cv])
def test_what_is_no_rate_is_refused(compute, rng):
    x = counts(rng, 2)
    x[1, 2, 3] = -0.25
    with pytest.raises(DataError, match=r"responses down to -0\.25 with `prior_lambda=1\.0`"):
        compute(x)
    x[1, 2, 3] = 0
    with pytest.raises(DataError, match=r"down to 0 with .*`prior_weight=0\.0`.*need a prior"):
        compute(x, prior_weight=0.0)
    with pytest.raises(DataError, match=r"at least 0, got -1\.0"):
        compute(x, prior_weight=-1.0)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_gaps_are_named_and_not_passed_on(value, rng):
    x = counts(rng, 2)
    x[1, 2, 3] = value
    with pytest.raises(DataError, match=r"to stimulus 2 are not finite in unit 3 \(1 .*_cv`"):
        poisson_kl(x)
