"""Labelled trials to labelled RDMs, against rsatoolbox from trials to RDM."""

import numpy as np
import pytest
import torch
import xarray as xr
from rsatoolbox.data import Dataset, noise
from rsatoolbox.rdm import calc_rdm

from softrsa.errors import DataError, DeviceError, DTypeError, ShapeError, UnknownNameError
from softrsa.io import check_rdms, load, save
from softrsa.recordings import noise_precision, time_windows
from softrsa.rsm import (
    build_rdms,
    build_rsms,
    crossnobis,
    crossnobis_unbalanced,
    poisson_cv,
    poisson_kl,
)

pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered in cast")  # rsatoolbox's
STIMULI = ["car", "dog", "face", "house", "tree"]
RUNS, REPEATS, UNITS = 3, 2, 12
METHODS = ["crossnobis", "mahalanobis", "poisson", "poisson_cv"]
THEIRS = {"full": "full", "diagonal": "diag", "shrinkage_diagonal": "shrinkage_diag"}


@pytest.fixture
def trials():
    """Counts in two trials of each stimulus in each run, shuffled; V4 and IT, subjects a and b."""
    rng = np.random.default_rng(5)
    stimulus = np.tile(np.repeat(STIMULI, REPEATS), RUNS)
    run = np.repeat([1, 2, 3], len(STIMULI) * REPEATS)
    rates = rng.uniform(2, 9, (5, UNITS))[np.searchsorted(STIMULI, stimulus)]
    order = rng.permutation(len(run))
    first = [np.flatnonzero(stimulus[order] == s)[0] for s in STIMULI]  # in alphabetic order
    order = np.r_[order[first], np.delete(order, first)]
    return xr.DataArray(
        rng.poisson(rates)[order].astype(float),
        dims=("trial", "unit"),
        coords={
            "stimulus": ("trial", stimulus[order]),
            "run": ("trial", run[order]),
            "region": ("unit", ["V4"] * 4 + ["IT"] * 4 + ["V4"] * 4),
            "subject": ("unit", ["a"] * 8 + ["b"] * 4),
        },
    )


def theirs(trials, method, kind):
    dataset = Dataset(
        trials.values,
        obs_descriptors={"stimulus": trials.stimulus.values, "run": trials.run.values},
    )
    options = {"descriptor": "stimulus", "method": method}
    if kind is not None:
        options["noise"] = noise.prec_from_unbalanced(dataset, "stimulus", method=THEIRS[kind])
    if method == "crossnobis":
        options["cv_descriptor"] = "run"
    return calc_rdm(dataset, **options).get_matrices()[0]


def cells(trials, stimuli):
    """Mean and number of the trials of each stimulus in each run, one by one."""
    x, counts = np.full((RUNS, len(stimuli), trials.sizes["unit"]), np.nan), []
    for r, s in np.ndindex(RUNS, len(stimuli)):
        mine = (trials.run == r + 1) & (trials.stimulus == stimuli[s])
        counts.append(int(mine.sum()))
        if counts[-1]:
            x[r, s] = trials.values[mine.values].mean(0)
    return torch.from_numpy(x), torch.tensor(counts).reshape(RUNS, len(stimuli))


@pytest.mark.parametrize("kind", [None, *THEIRS])
@pytest.mark.parametrize("method", ["crossnobis", "mahalanobis", "poisson"])
def test_rsatoolbox_from_trials_to_rdms(trials, method, kind):
    found = build_rdms(trials, method=method, by=("region", "subject"), noise=kind)
    assert found.dims == ("region", "subject", "anchor", "neighbor")
    assert found.anchor.values.tolist() == found.neighbor.values.tolist() == STIMULI
    for region, subject in (("V4", "a"), ("IT", "a"), ("V4", "b")):
        part = trials[:, (trials.region == region).values & (trials.subject == subject).values]
        expected = theirs(part, method, None if method == "poisson" else kind)
        one = found.sel(region=region, subject=subject)
        np.testing.assert_allclose(one, expected, rtol=0, atol=1e-8)
    assert found.sel(region="IT", subject="b").isnull().all()
    assert found.attrs["kind"] == "rdm"
    assert found.attrs["dissimilarity"] == method
    check_rdms(found)


@pytest.mark.parametrize("method", ["poisson", "poisson_cv"])
def test_priors_are_passed_on(trials, method):
    prior = {"prior_lambda": 3.0, "prior_weight": 0.7}
    found = build_rdms(trials, method=method, **prior).values
    folds, n = cells(trials, STIMULI)
    if method == "poisson":
        together = (folds.nan_to_num() * n[..., None]).sum(0) / n.sum(0)[:, None]
        expected = poisson_kl(together, **prior)
    else:
        expected = poisson_cv(folds, **prior)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)
    assert np.abs(found - build_rdms(trials, method=method).values).max() > 0.01


@pytest.mark.parametrize("method", METHODS)
class TestEveryMethod:
    def test_type_input_and_exactness(self, trials, method, tmp_path):
        before = trials.copy(deep=True)
        found = build_rdms(trials, method=method)
        xr.testing.assert_identical(trials, before)
        single = build_rdms(trials.astype(np.float32), method=method)
        assert single.dtype == np.float32
        np.testing.assert_allclose(single, found, rtol=1e-4, atol=1e-5)
        assert (np.diag(found) == 0).all()
        assert (found.values == found.values.T).all()
        save(found, tmp_path / "rdms.nc")
        xr.testing.assert_equal(load(tmp_path / "rdms.nc"), found)

    def test_order_of_trials_and_dimensions_does_not_matter(self, trials, method):
        found = build_rdms(trials, method=method, by="region")
        moved = build_rdms(trials[::-1].T, method=method, by="region")
        moved = moved.sel(anchor=STIMULI, neighbor=STIMULI)
        xr.testing.assert_allclose(moved, found, rtol=0, atol=1e-12)

    def test_each_time_is_itself_alone(self, trials, method):
        over_time = xr.concat([trials, trials[:, ::-1] + 1, 2 * trials], "time")
        over_time = over_time.assign_coords(time=[0.1, 0.2, 0.3], region=trials.region)
        over_time = over_time.assign_coords(subject=trials.subject).transpose("time", ...)
        found = build_rdms(over_time, method=method, by="region")
        assert found.dims == ("region", "time", "anchor", "neighbor")
        for time in (0.1, 0.2, 0.3):
            alone = build_rdms(over_time.sel(time=time, drop=True), method=method, by="region")
            xr.testing.assert_allclose(found.sel(time=time, drop=True), alone, rtol=0, atol=1e-12)
        check_rdms(found)

    def test_mistakes_are_named(self, trials, method):
        with pytest.raises(ShapeError, match="are of 1 stimulus"):
            build_rdms(trials.sel(trial=trials.stimulus == "dog"), method=method)
        with pytest.raises(UnknownNameError, match=r"'shrinkage'\. Did you mean"):
            build_rdms(trials, method=method, noise="shrinkage")
        with pytest.raises(UnknownNameError, match=r"'regoin'\. Did you mean 'region'"):
            build_rdms(trials, method=method, by="regoin")
        with pytest.raises(DTypeError, match="float16"):
            build_rdms(trials.astype(np.float16), method=method)
        with pytest.raises(DeviceError, match="'gpu'"):
            build_rdms(trials, method=method, device="gpu")
        bad = trials.copy(deep=True)
        bad[0, 5] = np.nan
        with pytest.raises(DataError, match=r"1 value that .*'car'.*region 'IT', subject 'a'"):
            build_rdms(bad, method=method)
        if method in ("crossnobis", "poisson_cv"):
            with pytest.raises(UnknownNameError, match=r"coordinate 'fold'.* Known: stimulus, run"):
                build_rdms(trials, method=method, fold="fold")
            with pytest.raises(ShapeError, match="at least 2 folds, all trials have one `run`"):
                build_rdms(trials.sel(trial=trials.run == 1), method=method)
        if method != "crossnobis":
            with pytest.raises(DataError, match=f"got method='{method}'"):
                build_rdms(trials, method=method, per_fold=True)


def test_a_precision_for_each_fold(trials):
    part = trials[:, 4:8]
    found = build_rdms(part, per_fold=True)
    precision = noise_precision(part, by="run").sel(run=[1, 2, 3])
    x, _ = cells(part, STIMULI)
    expected = crossnobis(x, torch.from_numpy(precision.values))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)


def test_unequal_runs(trials):
    """Run 3 lacks the house, run 1 a trial of the dog."""
    lacking = (trials.run == 3) & (trials.stimulus == "house")
    one = np.flatnonzero((trials.run == 1) & (trials.stimulus == "dog"))[0]
    keep = ~lacking.values
    keep[one] = False
    fewer = trials[keep]
    found = build_rdms(fewer, noise=None)
    rest = [s for s in STIMULI if s != "house"]
    balanced = build_rdms(fewer.sel(trial=fewer.stimulus != "house"), noise=None)
    xr.testing.assert_allclose(
        found.sel(anchor=rest, neighbor=rest), balanced.sel(anchor=rest, neighbor=rest)
    )
    two = build_rdms(fewer.sel(trial=fewer.run != 3), noise=None)
    order = {"anchor": rest, "neighbor": "house"}
    xr.testing.assert_allclose(found.sel(order), two.sel(order))
    pooled = build_rdms(fewer, noise=None, over="all")
    x, counts = cells(fewer, pooled.anchor.values)
    expected = crossnobis_unbalanced(x, over="all", counts=counts)
    np.testing.assert_allclose(pooled, expected, rtol=0, atol=1e-10)
    with pytest.raises(ShapeError, match=r"run 3 lacks 1 of 5"):
        build_rdms(fewer, per_fold=True, by="region")


def test_stimuli_that_cannot_be_compared_are_named(trials):
    once = trials.sel(trial=(trials.run == 1) | (trials.stimulus != "tree"))
    for method in ("crossnobis", "poisson_cv"):
        with pytest.raises(DataError, match=r"4 pairs of stimuli share fewer .*'car'.*'tree'"):
            build_rdms(once, method=method)
    with pytest.raises(DataError, match=r"1 stimulus is in one `run` only \('tree'\)"):
        build_rdms(once, over="all")


def test_errors_of_a_part_name_region_and_subject(trials):
    trials[:, 5] = 2.0
    with pytest.raises(
        DataError, match=r"In region 'IT', subject 'a': 1 unit of 4 \(first: unit 1\)"
    ):
        build_rdms(trials, by=("region", "subject"))
    with pytest.raises(DataError, match=r"In region 'IT': Poisson rates .* down to -2\d\.\d+ with"):
        build_rdms(trials - 30.0 * (trials.region == "IT"), by="region", method="poisson")
    trials[:, 5] = trials[:, 4] + trials[:, 6]
    with pytest.raises(DataError, match=r"In region 'IT': .* of 4 units has rank 3"):
        build_rdms(trials, by="region", noise="full")
    keys = [f"{s} {r}" for s, r in zip(trials.stimulus.values, trials.run.values, strict=True)]
    single = trials[np.sort(np.unique(keys, return_index=True)[1])].sortby("run")
    with pytest.raises(DataError, match=r"In region 'V4': run 1: 5 residuals leave 0 degrees"):
        build_rdms(single, by="region", per_fold=True)


def test_rsms_over_time(trials):
    """`build_rsms` takes windows of time too."""
    values = np.random.default_rng(0).normal(size=(5, UNITS, 6))
    recording = xr.DataArray(
        values,
        dims=("stimulus", "unit", "time"),
        coords={"stimulus": STIMULI, "region": trials.region.variable, "time": 0.5 * np.arange(6)},
    )
    windows = time_windows(recording, width=1)
    found = build_rsms(windows, by="region")
    assert found.dims == ("region", "time", "anchor", "neighbor")
    assert found.time.values.tolist() == [0.25, 1.25, 2.25]
    expected = np.corrcoef(values[:, 4:8, 2:4].mean(-1))
    np.testing.assert_allclose(found.sel(region="IT", time=1.25), expected, atol=1e-12)
    assert check_rdms(found).attrs["kind"] == "rsm"
