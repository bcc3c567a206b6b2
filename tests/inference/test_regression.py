"""Regression of RSMs against statsmodels, scikit-learn, SciPy, mne-rsa and loops by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls
from sklearn.linear_model import Ridge
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.outliers_influence import variance_inflation_factor
from statsmodels.tools import add_constant

from softrsa.errors import DataError, ShapeError, StimulusError, UnknownNameError
from softrsa.inference import CollinearityWarning, RegressionResult, regress_rdms
from softrsa.inference.least_squares import (
    PENALTIES,
    coefficients,
    fit_held_out,
    held_out_shares,
    moments,
    standardized,
)
from softrsa.inference.pair_table import stack_rsms
from softrsa.pairs import condense, expand

FROZEN = json.loads((Path(__file__).parents[1] / "reference" / "partial.json").read_text())
FEW = {"n_resamples": 20, "folds": None}


def simulated(seed, n=12, m=3, s=4):
    rng = torch.Generator().manual_seed(seed)
    models = torch.rand(m, n * (n - 1) // 2, dtype=torch.float64, generator=rng)
    models[-1] += models[0]
    weights = torch.rand(s, m, dtype=torch.float64, generator=rng)
    return models, weights @ models + torch.rand(s, models.shape[1], generator=rng)


def z(values):
    return (values - values.mean(-1, keepdims=True)) / values.std(-1, keepdims=True)


def columns(result):
    return result.data["coefficient"].transpose("predictor", "subject").values


@settings(max_examples=15)
@given(seed=st.integers(0, 10**6))
def test_least_squares_are_statsmodels(seed):
    models, brains = simulated(seed)
    raw = regress_rdms(models, brains, standardize=False, **FEW)
    scaled = regress_rdms(models, brains, **FEW)
    design = add_constant(models.T.numpy())
    for i, brain in enumerate(brains.numpy()):
        fit = OLS(brain, design).fit()
        np.testing.assert_allclose(columns(raw)[:, i], fit.params[1:], rtol=1e-9, atol=1e-11)
        beta = OLS(z(brain), add_constant(z(models.numpy()).T)).fit().params[1:]
        np.testing.assert_allclose(columns(scaled)[:, i], beta, rtol=1e-9, atol=1e-11)
        for result in (raw, scaled):
            assert result.by_subject["r2"][i] == pytest.approx(fit.rsquared, abs=1e-10)
    vif = [variance_inflation_factor(design, i) for i in range(1, 4)]
    np.testing.assert_allclose(scaled.table["vif"], vif, rtol=1e-8)


def test_least_squares_are_mne_rsa():
    brain, *models = torch.tensor(FROZEN["rdms"], dtype=torch.float64)
    found = regress_rdms(torch.stack(models), brain[None], standardize=False, **FEW)
    expected = FROZEN["mne_rsa_regression"]
    np.testing.assert_allclose(found.table["coefficient"], expected, rtol=1e-9, atol=1e-11)


@settings(max_examples=15)
@given(seed=st.integers(0, 10**6))
def test_non_negative_ones_are_scipy(seed):
    models, brains = simulated(seed)
    models[1] -= brains[0]  # which takes a negative coefficient
    found = columns(regress_rdms(models, brains, method="nnls", **FEW))
    design = z(models.numpy()).T
    expected = [nnls(design, brain)[0] for brain in z(brains.numpy())]
    np.testing.assert_allclose(found, np.transpose(expected), rtol=1e-7, atol=1e-9)
    assert (found >= 0).all()


@settings(max_examples=15)
@given(seed=st.integers(0, 10**6))
def test_a_ridge_is_scikit_learn(seed):
    models, brains = simulated(seed)
    result = regress_rdms(models, brains, method="ridge", **FEW)
    penalty = result.data.attrs["penalty"]
    assert penalty in PENALTIES
    design = z(models.numpy()).T
    for i, brain in enumerate(z(brains.numpy())):
        fit = Ridge(alpha=penalty * len(design)).fit(design, brain)
        np.testing.assert_allclose(columns(result)[:, i], fit.coef_, rtol=1e-8, atol=1e-10)


def drawn(counts):
    return torch.repeat_interleave(torch.arange(len(counts)), counts.long())


@settings(max_examples=15)
@given(seed=st.integers(0, 10**6), method=st.sampled_from(["ols", "nnls"]))
def test_a_resample_is_a_regression_of_drawn_stimuli(seed, method):
    models, brains = simulated(seed)
    rng = torch.Generator().manual_seed(seed)
    counts = torch.randint(0, 3, (12,), generator=rng).double()
    counts[:5] = 1
    stack = stack_rsms(models, brains, "pearson")
    values = standardized(stack, [*stack.models, *stack.subjects])
    given = moments(values, 3, stack.counts_of_pairs(counts[None])).correlations()
    at = drawn(counts)
    pairs = [condense(expand(v, torch.nan)[:, at][:, :, at]) for v in (models, brains)]
    kept = ~pairs[0][0].isnan()  # a stimulus makes no pair with its copy
    x, y = (z(v[:, kept].numpy()) for v in pairs)
    expected = [
        nnls(x.T, one)[0] if method == "nnls" else np.linalg.lstsq(x.T, one, rcond=None)[0]
        for one in y
    ]
    found = coefficients(given, method)[0]
    np.testing.assert_allclose(found, np.transpose(expected), rtol=1e-7, atol=1e-8)


def test_held_out_by_hand():
    models, brains = simulated(7, n=20)
    stack = stack_rsms(models, brains, "pearson")
    values = standardized(stack, [*stack.models, *stack.subjects])
    every = (0, 1, 2)
    parts = fit_held_out(stack, values, [every], folds=4, method="ols", seed=3)
    found = held_out_shares(stack, values, parts, torch.ones(1, 20).double())[every][0]
    x, y = (expand(torch.tensor(z(v.numpy()))) for v in (models, brains))
    lost, total = np.zeros(4), np.zeros(4)
    assert sorted(torch.cat([part.test for part in parts]).tolist()) == list(range(20))
    for part in parts:
        rest = torch.tensor([i for i in range(20) if i not in part.test])
        train, test = (
            [condense(v[:, at][:, :, at]).numpy() for v in (x, y)] for at in (rest, part.test)
        )
        betas = [OLS(one, add_constant(train[0].T)).fit().params[1:] for one in train[1]]
        for i in range(4):
            beta = np.mean([betas[j] for j in range(4) if j != i], 0)
            predicted, observed = beta @ test[0], test[1][i]
            error = (observed - observed.mean()) - (predicted - predicted.mean())
            lost[i] += (error**2).sum()
            total[i] += ((observed - observed.mean()) ** 2).sum()
    np.testing.assert_allclose(found, 1 - lost / total, rtol=1e-9)
    result = regress_rdms(models, brains, folds=4, seed=3, n_resamples=5)
    np.testing.assert_allclose(result.by_subject["r2_held_out"], found, rtol=1e-9)


@settings(max_examples=10)
@given(seed=st.integers(0, 10**6), method=st.sampled_from(["ols", "nnls", "ridge"]))
def test_what_coefficients_are_invariant_to(seed, method):
    models, brains = simulated(seed)
    plain = regress_rdms(models, brains, method=method, **FEW).table
    scale = torch.tensor([[2.0], [0.5], [7.0]]).double()
    moved = regress_rdms(models * scale - 3, 4 * brains + 1, method=method, **FEW).table
    for column in ("coefficient", "se", "vif"):
        np.testing.assert_allclose(moved[column], plain[column], rtol=1e-6, atol=1e-9)
    order = [2, 0, 1]
    turned = regress_rdms(models[order], brains, method=method, **FEW).table
    np.testing.assert_allclose(
        turned["coefficient"], plain["coefficient"][order], rtol=1e-6, atol=1e-9
    )


def labelled(values, dim, ids):
    return xr.DataArray(
        expand(values).numpy(), dims=(dim, "anchor", "neighbor"), attrs={"kind": "rdm"},
        coords={dim: [f"{dim} {i}" for i in "abcd"[: len(values)]], "anchor": ids, "neighbor": ids},
    )  # fmt: skip


def test_labelled_stacks_are_joined_by_stimulus():
    models, brains = simulated(2)
    ids = [f"image {i}" for i in range(12)]
    mixed = [ids[i] for i in np.random.default_rng(0).permutation(12)]
    brain = labelled(brains, "subject", ids).sel(anchor=mixed, neighbor=mixed)
    found = regress_rdms(labelled(models, "layer", ids), brain, **FEW)
    plain = regress_rdms(models, brains, **FEW)
    np.testing.assert_allclose(columns(found), columns(plain), rtol=1e-9)
    assert found.table["predictor"].tolist() == ["layer a", "layer b", "layer c"]
    strange = labelled(models, "layer", [*ids[:-1], "image x"])
    with pytest.raises(StimulusError, match=r"2 are on one side only, such as \['image 11'"):
        regress_rdms(strange, brain)


def test_missing_pairs_are_left_out_and_said():
    models, brains = simulated(3)
    brains[1, 5] = torch.nan
    result = regress_rdms(models, brains, **FEW)
    kept = torch.arange(66) != 5
    one = OLS(z(brains[0, kept].numpy()), add_constant(z(models[:, kept].numpy()).T)).fit()
    np.testing.assert_allclose(columns(result)[:, 0], one.params[1:], rtol=1e-9)
    assert "1 pairs missing in some RSM were left out of all." in result.warnings


def test_it_repeats_and_is_kept(tmp_path):
    models, brains = simulated(4)
    result = regress_rdms(models, brains, **FEW, seed=5)
    assert result.table.equals(regress_rdms(models, brains, **FEW, seed=5).table)
    result.to_netcdf(tmp_path / "r.nc")
    again = RegressionResult.from_netcdf(tmp_path / "r.nc")
    assert again.table.equals(result.table)
    assert again.warnings == result.warnings
    single = regress_rdms(models.float(), brains.float(), **FEW, seed=5)
    np.testing.assert_allclose(columns(single), columns(result), rtol=0, atol=1e-5)


def test_one_subject_is_tested_over_stimuli_only():
    models, brains = simulated(5)
    result = regress_rdms(models, brains[:1], **FEW)
    assert result.data.attrs["over"] == "stimuli"
    assert result.data.attrs["df"] == 11
    assert any("One subject" in note for note in result.warnings)
    with pytest.raises(DataError, match="over subjects needs at least 2 subjects, got 1"):
        regress_rdms(models, brains[:1], over="subjects", folds=None)


def test_predictors_that_cannot_be_told_apart_are_named():
    models, brains = simulated(6)
    names = ["edges", "faces", "shape"]
    twin = models.clone()
    twin[1] = 4 - 3 * twin[0]
    with pytest.raises(DataError, match=r"'edges' and 'faces' are the same but for offset"):
        regress_rdms(twin, brains, names=names)
    flat = models.clone()
    flat[2] = 0.3
    with pytest.raises(DataError, match=r"'shape' have one value only"):
        regress_rdms(flat, brains, names=names)
    added = models.clone()
    added[2] = added[0] + 2 * added[1]
    with pytest.raises(DataError, match=r"'edges', 'faces', 'shape' are collinear"):
        regress_rdms(added, brains, names=names)
    close = models.clone()
    close[2] = close[0] + 0.1 * close[2]
    with pytest.warns(CollinearityWarning, match=r"edges \d+\.\d, shape \d+\.\d"):
        result = regress_rdms(close, brains, names=names, **FEW)
    assert any("edges" in note for note in result.warnings)
    with pytest.raises(DataError, match=r"'subject 2' have one value only"):
        regress_rdms(models, torch.stack([brains[0], torch.ones(66).double()]), **FEW)


def test_too_many_predictors_or_folds():
    rng = torch.Generator().manual_seed(0)
    many = torch.rand(9, 10, generator=rng)
    with pytest.raises(ShapeError, match="9 predictors need at least 11 pairs of stimuli, got 10"):
        regress_rdms(many, many[:2], **FEW)
    models, brains = simulated(8)
    with pytest.raises(DataError, match=r"5 folds of 12 stimuli.*Use 2 to 3 folds"):
        regress_rdms(models, brains)
    with pytest.raises(UnknownNameError, match="lasso"):
        regress_rdms(models, brains, method="lasso")
    with pytest.raises(DataError, match="`n_resamples` must be at least 2, got 1"):
        regress_rdms(models, brains, n_resamples=1, folds=None)


def test_intervals_hold_what_was_put_in():
    models, brains = simulated(9, n=30, s=6)
    result = regress_rdms(models, brains, n_resamples=200)
    table = result.table
    assert (
        (table["ci_low"] < table["coefficient"]) & (table["coefficient"] < table["ci_high"])
    ).all()
    assert float(result.by_subject["r2_held_out"].mean()) > 0.2
    assert result.plot().get_ylabel().startswith("coefficient (standardized)")
