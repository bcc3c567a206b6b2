"""Noise covariance and precision against rsatoolbox and scikit-learn; whitening."""

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from rsatoolbox.data import Dataset, noise
from rsatoolbox.rdm import calc_rdm
from sklearn.covariance import ledoit_wolf

from softrsa.errors import DataError, DTypeError, ShapeError, UnknownNameError
from softrsa.pairs import condense
from softrsa.recordings import (
    average_trials,
    noise_covariance,
    noise_precision,
    precision_of,
    residual_covariance,
    whiten_noise,
)
from softrsa.rsm import similarity_matrix

THEIRS = {
    "full": "full",
    "diagonal": "diag",
    "shrinkage_diagonal": "shrinkage_diag",
    "shrinkage_identity": "shrinkage_eye",
}
N, REPEATS, RUNS, P = 6, 4, 2, 5


def recorded(seed=0, n_units=P, dtype=np.float64):
    """REPEATS trials of N stimuli in each of RUNS runs, with correlated noise."""
    rng = np.random.default_rng(seed)
    stimulus = np.tile(np.repeat(np.arange(N), REPEATS), RUNS)
    run = np.repeat(["one", "two"], N * REPEATS)
    mixing = rng.normal(size=(n_units, n_units))
    values = 3 * rng.normal(size=(N, n_units))[stimulus]
    values = values + rng.normal(size=(len(stimulus), n_units)) @ mixing
    return xr.DataArray(
        values.astype(dtype),
        dims=("trial", "unit"),
        coords={
            "stimulus": ("trial", stimulus),
            "run": ("trial", run),
            "region": ("unit", ["V4"] * n_units),
            "unit": np.arange(n_units) + 10,
        },
        attrs={"measured": "spikes/s"},
    )


def dataset(trials):
    return Dataset(trials.values, obs_descriptors={"stimulus": trials.stimulus.values})


@pytest.mark.parametrize("method", THEIRS)
class TestEveryMethod:
    def test_rsatoolbox(self, method):
        trials = recorded()
        theirs = {"method": THEIRS[method]}
        found = noise_covariance(trials, method=method)
        expected = noise.cov_from_unbalanced(dataset(trials), "stimulus", **theirs)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-8)
        dof = N * (REPEATS * RUNS - 1)  # its own count for balanced trials is another
        expected = noise.cov_from_measurements(dataset(trials), "stimulus", dof=dof, **theirs)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-8)
        expected = noise.prec_from_measurements(dataset(trials), "stimulus", dof=dof, **theirs)
        np.testing.assert_allclose(
            noise_precision(trials, method=method), expected, rtol=0, atol=1e-8
        )

    def test_residuals_and_their_degrees_of_freedom(self, method):
        trials = recorded().drop_vars(["stimulus", "run"]).rename(trial="volume")
        for dof in (None, 17):
            expected = noise.prec_from_residuals(trials.values, dof=dof, method=THEIRS[method])
            found = noise_precision(trials, method=method, dof=dof)
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-8)

    def test_by_run_is_each_run_alone(self, method):
        trials = recorded()
        found = noise_precision(trials, method=method, by="run")
        assert found.dims == ("run", "unit", "other_unit")
        assert found.run.values.tolist() == ["one", "two"]
        assert found.region.values.tolist() == ["V4"] * P
        for run in ("one", "two"):
            alone = noise_precision(trials.sel(trial=trials.run == run), method=method)
            xr.testing.assert_allclose(found.sel(run=run, drop=True), alone)

    def test_tensor_batch_type_and_gradient(self, method, rng):
        x = torch.randn(2, 3, 12, 4, dtype=torch.float64, generator=rng)
        before = x.clone()
        found = residual_covariance(x, method=method, dof=9)
        one = residual_covariance(x[1, 2], method=method, dof=9)
        torch.testing.assert_close(found[1, 2], one, rtol=1e-12, atol=1e-12)
        assert torch.equal(x, before)
        assert residual_covariance(x.float(), method=method).dtype == torch.float32
        inverse = precision_of(found)
        torch.testing.assert_close(inverse @ found, torch.eye(4).double().expand_as(found))
        assert torch.equal(inverse, inverse.mT)
        assert torch.autograd.gradcheck(
            lambda r: precision_of(residual_covariance(r, method=method)),
            x[0, 0].requires_grad_(),
        )

    @pytest.mark.parametrize("over_time", [False, True])
    def test_type_time_and_input(self, method, over_time):
        trials = recorded(dtype=np.float32)
        if over_time:
            trials = xr.concat([trials, 2 * trials], xr.DataArray([0.1, 0.2], dims="time"))
            trials = trials.transpose("unit", "trial", "time")
        before = trials.copy(deep=True)
        found = noise_covariance(trials, method=method)
        assert found.dtype == np.float32
        xr.testing.assert_identical(trials, before)
        if over_time:
            assert found.dims == ("time", "unit", "other_unit")
            np.testing.assert_allclose(found[1], 4 * found[0], rtol=1e-5)
            assert whiten_noise(trials, noise_precision(trials, method=method)).dims == trials.dims


def test_shrinkage_to_identity_is_that_of_scikit_learn():
    residuals = np.random.default_rng(1).normal(size=(15, 8)) * np.arange(1, 9)
    residuals -= residuals.mean(0)
    found = residual_covariance(torch.from_numpy(residuals), method="shrinkage_identity", dof=12)
    expected, _ = ledoit_wolf(residuals, assume_centered=True)
    np.testing.assert_allclose(found, expected * 15 / 12, rtol=1e-10)


@given(st.integers(0, 30))
def test_covariance_does_not_see_what_stimuli_add(seed):
    trials = recorded(seed)
    pattern = np.random.default_rng(seed).normal(size=(N, P))
    moved = trials + pattern[trials.stimulus.values]
    for by in (None, "run"):
        found = noise_covariance(moved, by=by)
        np.testing.assert_allclose(found, noise_covariance(trials, by=by), rtol=1e-9, atol=1e-9)


def test_variances_are_unbiased():
    """Two trials of each stimulus leave half the degrees of freedom."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(2_000, 10)) * 3
    trials = xr.DataArray(
        values, dims=("trial", "unit"), coords={"stimulus": ("trial", np.arange(2_000) // 2)}
    )
    variances = np.diag(noise_covariance(trials, method="diagonal"))
    assert variances.mean() == pytest.approx(9, abs=4 * 9 * (2 / 1_000 / 10) ** 0.5)


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")  # rsatoolbox's
@pytest.mark.parametrize("over_time", [False, True])
def test_whitened_noise_is_white_and_distances_are_mahalanobis(over_time):
    trials = recorded()
    if over_time:
        trials = xr.concat([trials, recorded(3)], "time")
    precision = noise_precision(trials, method="full")
    white = whiten_noise(trials, precision)
    xr.testing.assert_identical(white.copy(data=trials.values), trials)
    np.testing.assert_allclose(
        noise_covariance(white, method="full"),
        np.broadcast_to(np.eye(P), precision.shape),
        atol=1e-10,
    )
    if over_time:
        return
    means = torch.from_numpy(average_trials(white).values)
    expected = calc_rdm(
        dataset(trials), method="mahalanobis", descriptor="stimulus", noise=precision.values
    ).get_vectors()[0]
    found = -condense(similarity_matrix(means, similarity="sqeuclidean"))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-8)


def test_each_run_is_whitened_by_its_own_precision():
    trials = recorded()
    precision = noise_precision(trials, by="run")
    white = whiten_noise(trials, precision)
    for run in ("one", "two"):
        mine = trials.run == run
        alone = whiten_noise(trials.sel(trial=mine), precision.sel(run=run, drop=True))
        xr.testing.assert_allclose(white.sel(trial=mine), alone)
    with pytest.raises(DataError, match=r"no precision for run 'two', only for \['one'\]"):
        whiten_noise(trials, precision[:1])


def test_whitening_refuses_other_units():
    trials, precision = recorded(), noise_precision(recorded())
    with pytest.raises(ShapeError, match="4 units and 5"):
        whiten_noise(trials[:, :4], precision)
    with pytest.raises(ShapeError, match="with other labels"):
        whiten_noise(trials.assign_coords(unit=np.arange(P)), precision)
    with pytest.raises(ShapeError, match=r"has the dimensions .* got \('unit',\)"):
        whiten_noise(trials, precision[0].drop_vars("unit").rename(other_unit="unit"))
    with pytest.raises(DataError, match=r"positive definite, got an eigenvalue of -"):
        whiten_noise(trials, -precision)


def test_singular_covariances_give_rank_and_remedy():
    trials = recorded(n_units=60)
    message = r"of 60 units has rank 42, .*method=\"shrinkage_diagonal\""
    with pytest.raises(DataError, match=message):
        noise_precision(trials, method="full")
    with pytest.raises(DataError, match=message):
        noise_precision(trials.astype(np.float32), method="full")
    with pytest.raises(DataError, match=r"In run 'one': The noise covariance of 60 .* rank 18"):
        noise_precision(trials, method="full", by="run")
    assert np.isfinite(noise_precision(trials)).all()
    twice = recorded()
    twice[:, 3] = -2e6 * twice[:, 0]
    with pytest.raises(DataError, match="of 5 units has rank 4"):
        noise_precision(twice, method="full")


def test_units_of_any_scale_are_not_singular():
    trials = recorded() * np.logspace(-9, 9, P)
    precision = noise_precision(trials, method="full")
    product = precision.values @ noise_covariance(trials, method="full").values
    assert np.diag(product) == pytest.approx(1)


@pytest.mark.parametrize("method", [name for name in THEIRS if name != "shrinkage_identity"])
def test_units_without_noise_are_named(method):
    trials = recorded()
    trials[:, 2] = 0.1 * trials.stimulus
    with pytest.raises(DataError, match=r"1 unit of 5 \(first: unit 2\) have no noise"):
        noise_precision(trials, method=method)


def test_one_trial_per_stimulus_leaves_nothing():
    trials = recorded()[::REPEATS]
    with pytest.raises(DataError, match=r"In run 'one': 6 residuals leave 0 degrees of freedom"):
        noise_covariance(trials, by="run")
    with pytest.raises(DataError, match="6 residuals leave 0 degrees"):
        noise_covariance(trials[:N])
    assert np.isfinite(noise_covariance(trials)).all()


def test_other_mistakes_are_named():
    trials = recorded()
    with pytest.raises(
        UnknownNameError, match=r"'shrinkage_diag'\. Did you mean 'shrinkage_diagonal'"
    ):
        noise_covariance(trials, method="shrinkage_diag")
    with pytest.raises(UnknownNameError, match=r"trial coordinate 'runs'\. Did you mean 'run'"):
        noise_covariance(trials, by="runs")
    trials[3, 1] = np.nan
    with pytest.raises(DataError, match=r"1 value that are NaN .*\(0\), region 'V4'"):
        noise_precision(trials)
    over_time = xr.concat([recorded(), trials], xr.DataArray([5, 6], dims="time"))
    with pytest.raises(DataError, match=r"trials at time 6 has 1 value"):
        noise_precision(over_time)
    with pytest.raises(DTypeError, match=r"got torch\.int64"):
        residual_covariance(torch.ones(3, 2).long())
    with pytest.raises(ShapeError, match=r"got \(0, 2\)"):
        residual_covariance(torch.ones(0, 2))
