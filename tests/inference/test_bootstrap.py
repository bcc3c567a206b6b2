"""Bootstraps against rsatoolbox given the same draws, and against the naive loop."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rsatoolbox.inference import (
    eval_bootstrap_pattern,
    eval_bootstrap_rdm,
    eval_dual_bootstrap,
)
from rsatoolbox.model import ModelFixed
from rsatoolbox.rdm import RDMs

from softrsa.errors import DataError, ShapeError, UnknownNameError
from softrsa.inference import bootstrap, compare_models
from softrsa.inference.bootstrap import add_resamples, resampled
from softrsa.inference.pair_table import stack_rsms
from softrsa.inference.result import describe
from softrsa.measures import get
from softrsa.pairs import condense, expand

METHODS = {
    "pearson": "corr",
    "cosine": "cosine",
    "spearman": "spearman",
    "rho_a": "rho-a",
    "kendall_tau_a": "tau-a",
    "kendall_tau_b": "tau-b",
    "whitened_pearson": "corr_cov",
    "whitened_cosine": "cosine_cov",
}
PEERS = {
    "both": eval_dual_bootstrap,
    "subjects": eval_bootstrap_rdm,
    "stimuli": eval_bootstrap_pattern,
}


def simulated(rng, n=9, n_models=3, n_subjects=4, *, ties=False):
    models = torch.rand(n_models, n * (n - 1) // 2, dtype=torch.float64, generator=rng)
    noise = torch.rand(n_subjects, models.shape[1], dtype=torch.float64, generator=rng)
    subjects = models[0] + noise
    return ((4 * models).round(), (4 * subjects).round()) if ties else (models, subjects)


def drawn(draws, n):
    return torch.from_numpy(np.stack([np.bincount(one, minlength=n) for one in draws])).double()


def peer(over, method, models, subjects, monkeypatch, n_resamples=5):
    """Run rsatoolbox with our draws in place of its own."""
    numbers = np.random.default_rng(5)
    n = expand(models[:1]).shape[-1]
    draws = {
        "subjects": numbers.integers(len(subjects), size=(n_resamples, len(subjects))),
        "stimuli": numbers.integers(n, size=(n_resamples, n)),
    }
    order = ["subjects", "stimuli"] if over == "both" else [over]
    queue = iter([draws[kind][i] for i in range(n_resamples) for kind in order])
    monkeypatch.setattr(np.random, "randint", lambda *_, **__: next(queue))
    fixed = [ModelFixed(str(i), one.numpy()) for i, one in enumerate(models)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = PEERS[over](fixed, RDMs(subjects.numpy()), method=method, N=n_resamples)
    return found, drawn(draws["stimuli"], n), drawn(draws["subjects"], len(subjects))


def ours(over, measure, models, subjects, stimulus_counts, subject_counts):
    stack = stack_rsms(models, subjects, measure)
    scores, bounds = resampled(stack, stimulus_counts, subject_counts, over, ceilings=True)
    return scores, bounds, add_resamples(describe(stack, over=over), scores, bounds, over)


@pytest.mark.parametrize(
    ("measure", "ties"),
    [*((m, False) for m in METHODS), *((m, True) for m in ("spearman", "rho_a", "kendall_tau_b"))],
)
def test_dual_bootstrap_is_rsatoolbox(measure, ties, rng, monkeypatch):
    models, subjects = simulated(rng, ties=ties)
    found, *counts = peer("both", METHODS[measure], models, subjects, monkeypatch)
    scores, bounds, data = ours("both", measure, models, subjects, *counts)
    close = {"rtol": 0, "atol": 1e-8}
    np.testing.assert_allclose(scores, found.evaluations[:, :, 0, 0].transpose(2, 0, 1), **close)
    np.testing.assert_allclose(bounds, found.noise_ceiling[:, :, 0].transpose(2, 1, 0), **close)
    np.testing.assert_allclose(data["variance"], found.model_var, **close)
    np.testing.assert_allclose(data["variance_to_ceiling"], found.noise_ceil_var, **close)
    pairs = np.triu_indices(len(models), 1)
    np.testing.assert_allclose(data["variance_difference"].values[pairs], found.diff_var, **close)


@pytest.mark.parametrize("over", ["subjects", "stimuli"])
@pytest.mark.parametrize("measure", ["pearson", "spearman", "whitened_pearson"])
def test_single_bootstraps_are_rsatoolbox(measure, over, rng, monkeypatch):
    models, subjects = simulated(rng)
    found, *counts = peer(over, METHODS[measure], models, subjects, monkeypatch)
    scores, bounds, data = ours(over, measure, models, subjects, *counts)
    close = {"rtol": 0, "atol": 1e-8}
    np.testing.assert_allclose(scores[0], found.evaluations, **close)
    np.testing.assert_allclose(bounds[0], found.noise_ceiling.T, **close)
    np.testing.assert_allclose(data["variance"], found.model_var, **close)
    pairs = np.triu_indices(len(models), 1)
    np.testing.assert_allclose(data["variance_difference"].values[pairs], found.diff_var, **close)
    if over == "stimuli":  # over subjects rsatoolbox drops the ceiling's variance
        np.testing.assert_allclose(data["variance_to_ceiling"], found.noise_ceil_var, **close)


def by_hand(measure, models, subjects, draw):
    """One resample with NaN where a stimulus meets its copy, by the measure itself."""
    rsms = [expand(stack, torch.nan)[:, draw][:, :, draw] for stack in (models, subjects)]
    rows, columns = torch.triu_indices(len(draw), len(draw), 1)
    pairs = [stack[:, rows, columns] for stack in rsms]
    there = ~pairs[0][0].isnan()
    left, right = (stack[:, there] for stack in pairs)
    return get(measure).function(left[:, None], right)


@settings(max_examples=25)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(5, 8),
    ties=st.booleans(),
    measure=st.sampled_from(["pearson", "cosine", "spearman", "rho_a", "kendall_tau_b"]),
)
def test_a_stimulus_makes_no_pair_with_its_copy(seed, n, ties, measure):
    rng = torch.Generator().manual_seed(seed)
    models, subjects = simulated(rng, n, 2, 2, ties=ties)
    draw = torch.randint(n, (n,), generator=rng)
    if len(draw.unique()) < 4:
        draw[:4] = torch.arange(4)
    stack = stack_rsms(models, subjects, measure)
    found, _ = resampled(
        stack, drawn([draw], n), torch.ones(1, 2).double(), "stimuli", ceilings=False
    )
    expected = by_hand(measure, models, subjects, draw).mean(1)
    torch.testing.assert_close(
        torch.from_numpy(found[0, 0]), expected, rtol=0, atol=1e-9, equal_nan=True
    )


def offsets_by_least_squares(square, draw):
    """Residual of row and column offsets over the pairs of a resample, by a dense solver."""
    n = len(draw)
    rows, columns = np.nonzero(draw[:, None] != draw[None])
    design = np.zeros((len(rows), 2 * n))
    design[np.arange(len(rows)), rows] = 1
    design[np.arange(len(rows)), n + columns] = 1
    values = square.numpy()[draw[rows], draw[columns]]
    return values - design @ np.linalg.lstsq(design, values, rcond=None)[0]


@pytest.mark.parametrize("symmetric", [True, False])
def test_centered_pearson_by_least_squares(symmetric, rng):
    squares = torch.rand(5, 8, 8, dtype=torch.float64, generator=rng)
    squares = squares + squares.mT if symmetric else squares
    draw = np.array([0, 0, 1, 2, 3, 3, 3, 6])
    stack = stack_rsms(squares[:2], squares[2:], "centered_pearson")
    found, bounds = resampled(
        stack, drawn([draw], 8), torch.ones(1, 3).double(), "stimuli", ceilings=True
    )
    rest = [offsets_by_least_squares(square, draw) for square in squares]
    expected = [np.mean([np.corrcoef(model, one)[0, 1] for one in rest[2:]]) for model in rest[:2]]
    np.testing.assert_allclose(found[0, 0], expected, rtol=0, atol=1e-10)
    unit = [one / np.linalg.norm(one) for one in rest[2:]]
    upper = np.mean([np.corrcoef(one, sum(unit))[0, 1] for one in unit])
    assert bounds[0, 0, 1] == pytest.approx(upper, abs=1e-10)


@pytest.mark.parametrize("measure", ["pearson", "spearman", "whitened_cosine", "kendall_tau_a"])
def test_all_stimuli_give_the_measure_itself(measure, rng):
    models, subjects = simulated(rng)
    result = bootstrap(models, subjects, measure, n_resamples=4)
    expected = get(measure).function(models[:, None], subjects)
    np.testing.assert_allclose(result.data["score"], expected, rtol=0, atol=1e-12)
    again = bootstrap(expand(models), expand(subjects), measure, n_resamples=4)
    np.testing.assert_allclose(again.data["resampled_score"], result.data["resampled_score"])


def test_missing_pairs_are_left_out_of_all(rng, monkeypatch):
    models, subjects = simulated(rng)
    models[:, 3], subjects[:, 3] = torch.nan, torch.nan
    found, *counts = peer("stimuli", "corr_cov", models, subjects, monkeypatch)
    scores, _, _ = ours("stimuli", "whitened_pearson", models, subjects, *counts)
    np.testing.assert_allclose(scores[0], found.evaluations, rtol=0, atol=1e-8)
    subjects[0, 3] = models[0, 3] = 1.0  # one RSM without it is enough
    again, _, data = ours("stimuli", "whitened_pearson", models, subjects, *counts)
    np.testing.assert_array_equal(again, scores)
    assert "1 pairs missing in some RSM" in data.attrs["warnings"]


def test_chunks_do_not_matter_and_inputs_stay(rng, monkeypatch):
    models, subjects = simulated(rng)
    before = models.clone(), subjects.clone()
    for measure in ("pearson", "spearman"):
        whole = bootstrap(models, subjects, measure, over="both", n_resamples=20)
        with monkeypatch.context() as patched:
            patched.setattr("softrsa.inference.inner_products.CHUNK_BYTES", 1e4)
            patched.setattr("softrsa.inference.inner_products.PRODUCT_BYTES", 1e3)
            pieces = bootstrap(models, subjects, measure, over="both", n_resamples=20)
        for name in ("resampled_score", "resampled_ceiling", "variance"):
            np.testing.assert_allclose(pieces.data[name], whole.data[name], rtol=0, atol=1e-12)
    assert torch.equal(models, before[0])
    assert torch.equal(subjects, before[1])


def test_seed_decides(rng):
    models, subjects = simulated(rng)
    results = [bootstrap(models, subjects, "cosine", n_resamples=9, seed=s) for s in (1, 1, 2)]
    first, same, other = (result.data["resampled_score"].values for result in results)
    np.testing.assert_array_equal(first, same)
    assert np.abs(first - other).max() > 1e-6


def test_a_constant_model_stays_undefined_and_is_named(rng):
    models, subjects = simulated(rng, n_models=2)
    models[1] = 0.1
    result = bootstrap(models, subjects, "pearson", n_resamples=20, names=["good", "flat"])
    assert result.table["score"].isna().tolist() == [False, True]
    assert result.table["score_se"].isna().tolist() == [False, True]
    assert "undefined (NaN) for flat" in result.warnings[0]


def test_a_constant_subject_leaves_nothing_known(rng):
    models, subjects = simulated(rng)
    subjects[1] = 2.0
    for over in ("stimuli", "subjects"):
        result = bootstrap(models, subjects, "pearson", over=over, n_resamples=20)
        bounds = ["score", "score_se", "ci_low", "percentile_low", "percentile_high"]
        assert result.table[bounds].isna().all(axis=None)
        assert "undefined (NaN) for subject 2" in result.warnings[0]


@pytest.mark.parametrize("ceilings", [True, False])
def test_all_that_is_told_is_from_the_same_resamples(ceilings, rng):
    """A model of two values is constant in some resamples, which then count for no model."""
    _, subjects = simulated(rng, n=10)
    group = torch.arange(10) < 2
    models = torch.stack([condense((group[:, None] != group).double()), subjects.mean(0)])
    result = bootstrap(
        models, subjects, "pearson", n_resamples=200, ceilings=ceilings, names=["two", "mean"]
    )
    scores = result.data["resampled_score"].values[0]
    held = np.isfinite(scores).all(1)
    assert 5 < (np.isfinite(scores).any(1) & ~held).sum() < 100
    expected = np.quantile(scores[held], [0.025, 0.975], axis=0)
    np.testing.assert_allclose(result.intervals(kind="percentile").T, expected, rtol=1e-12)
    np.testing.assert_allclose(result.data["variance"], scores[held].var(0, ddof=1) * 10 / 9)
    assert f"{(~held).sum()} of 200 resamples could not be scored" in result.warnings[0]
    tested = compare_models(result, test="percentile")
    n = held.sum()
    below = (scores[held, 0] < scores[held, 1]).mean()
    p = (n - 1) / n * 2 * min(below, 1 - below) + 1 / n
    assert tested.comparisons["p"][0] == pytest.approx(p, abs=1e-12)
    np.testing.assert_allclose(
        tested.table["p_zero"], ((scores[held] <= 0).sum(0) + 1) / (n + 1), rtol=1e-12
    )


def test_one_subject(rng):
    models, subjects = simulated(rng, n_subjects=1)
    result = bootstrap(models, subjects, "pearson", n_resamples=20)
    assert np.isfinite(result.table["score_se"]).all()
    assert result.table["ceiling_lower"].isna().all()
    assert "One subject: no noise ceiling" in result.warnings[0]
    for over in ("subjects", "both"):
        with pytest.raises(DataError, match=rf"over {over} needs at least 2 subjects.*'stimuli'"):
            bootstrap(models, subjects, "pearson", over=over)


def test_wrong_arguments_are_named(rng):
    models, subjects = simulated(rng)
    with pytest.raises(UnknownNameError, match=r"way to resample 'stimulus'.*stimuli"):
        bootstrap(models, subjects, "pearson", over="stimulus")
    with pytest.raises(DataError, match=r"`n_resamples` must be at least 2, got 1"):
        bootstrap(models, subjects, "pearson", n_resamples=1)
    with pytest.raises(DataError, match=r"`n_resamples` must be a whole number from 2, got 10\.0"):
        bootstrap(models, subjects, "pearson", n_resamples=10.0)
    with pytest.raises(ShapeError, match=r"at least 4 stimuli, got 3"):
        bootstrap(models[:, :3], subjects[:, :3], "pearson")
    with pytest.raises(ShapeError, match=r"same stimuli, got 9 .* and 8 \(\(4, 28\)\)"):
        bootstrap(models, subjects[:, :28], "pearson")
    with pytest.raises(
        ShapeError, match=r"got shape \(36,\); give a single one as `models\[None\]`"
    ):
        bootstrap(models[0], subjects, "pearson")
    with pytest.raises(DataError, match=r"'linear_cka' compares features"):
        bootstrap(models, subjects, "linear_cka")
    with pytest.raises(DataError, match=r"one different name for each of 3 models, got \['a', 'a'"):
        bootstrap(models, subjects, "pearson", names=["a", "a", "b"])
    with pytest.raises(DataError, match=r"some are infinite"):
        bootstrap(models / 0, subjects, "pearson")
    gone = subjects.clone()
    gone[2] = torch.nan
    with pytest.raises(DataError, match=r"'subject 3' misses most \(100%\); leave it out"):
        bootstrap(models, gone, "pearson")
