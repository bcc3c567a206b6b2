"""Flexible models against rsatoolbox's fits, and their cross-validation."""

import numpy as np
import pytest
import torch
from rsatoolbox.model import ModelInterpolate, ModelSelect, ModelWeighted
from rsatoolbox.model.fitter import fit_interpolate, fit_regress_nn, fit_select
from rsatoolbox.rdm import RDMs
from tqdm import tqdm

from softrsa.errors import DataError, FitError, ShapeError, UnknownNameError
from softrsa.inference import FlexibleModel, compare_models, crossvalidate, weighted_rsm_model
from softrsa.measures import get, soft_spearman
from softrsa.pairs import condense, expand
from softrsa.transforms import soft_rank


@pytest.fixture
def data(rng):
    layers = torch.rand(4, 66, dtype=torch.float64, generator=rng)
    noise = torch.rand(5, 66, dtype=torch.float64, generator=rng)
    return expand(layers), expand(layers[1] + 0.6 * layers[2] + noise)


METHODS = {
    "cosine": ("cosine", 1e-8),
    "pearson": ("corr", 1e-8),
    "whitened_cosine": ("cosine_cov", 2e-4),  # its solver stops at a relative 1e-5
    "whitened_pearson": ("corr_cov", 2e-4),
}


@pytest.mark.parametrize("measure", METHODS)
def test_weights_are_rsatoolbox(data, measure):
    layers, subjects = data
    method, tolerance = METHODS[measure]
    model = ModelWeighted("w", condense(layers).numpy())
    expected = fit_regress_nn(model, RDMs(condense(subjects).numpy()), method=method)
    found = weighted_rsm_model(layers).fit(subjects, measure)
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("measure", "method"), [("pearson", "corr"), ("spearman", "spearman")])
def test_select_and_interpolate_are_rsatoolbox(data, measure, method):
    layers, subjects = data
    theirs = RDMs(condense(subjects).numpy())
    chosen = fit_select(ModelSelect("s", condense(layers).numpy()), theirs, method=method)
    selected = FlexibleModel("s", layers, "select").fit(subjects, measure)
    assert selected.tolist() == [float(i == chosen) for i in range(4)]
    mixed = fit_interpolate(ModelInterpolate("i", condense(layers).numpy()), theirs, method=method)
    found = FlexibleModel("i", layers, "interpolate").fit(subjects, measure)
    np.testing.assert_allclose(found, mixed, rtol=0, atol=1e-6)


@pytest.mark.parametrize("measure", ["pearson", "cosine", "whitened_pearson", "centered_pearson"])
def test_no_other_weights_are_better(data, measure, rng):
    layers, subjects = data
    entry, model = get(measure), weighted_rsm_model(layers)
    best = entry.between(model.predict(model.fit(subjects, measure)), subjects).mean()
    for weights in torch.rand(200, 4, dtype=torch.float64, generator=rng):
        assert entry.between(model.predict(weights), subjects).mean() <= best + 1e-12


def test_rank_measures_are_ascended_by_gradient(data):
    layers, subjects = data
    model = weighted_rsm_model(layers)
    found = model.fit(subjects, "spearman")
    entry = get("spearman")
    assert (found >= 0).all()
    reached = entry.between(model.predict(found), subjects).mean()
    linear = entry.between(model.predict(model.fit(subjects, "pearson")), subjects).mean()
    assert reached > linear - 0.01


def test_held_out_stimuli_and_subjects_are_not_used(data):
    layers, subjects = data
    models = [weighted_rsm_model(layers), FlexibleModel("best", layers, "select")]
    result = crossvalidate(models, subjects, "pearson", stimulus_folds=3, seed=2)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(2))
    expected = torch.zeros(2, 5, dtype=torch.float64)
    for i in range(3):
        test = order[i::3].sort().values
        train = torch.tensor([j for j in range(12) if j not in test])
        for s in range(5):
            others = [t for t in range(5) if t != s]
            for m, model in enumerate(models):
                small = FlexibleModel("m", layers[:, train][:, :, train], model.kind)
                weights = small.fit(subjects[others][:, train][:, :, train], "pearson")
                predicted = model.predict(weights)[test][:, test]
                held = subjects[s][test][:, test]
                expected[m, s] += get("pearson").between(predicted, held) / 3
    np.testing.assert_allclose(result.data["score"], expected, rtol=0, atol=1e-12)
    assert result.names == ["weighted", "best"]
    assert result.data["weights"].shape == (2, 3, 5, 4)
    assert np.isfinite(compare_models(result).comparisons["p"]).all()


def test_noise_is_not_fitted(rng):
    layers = expand(torch.rand(8, 190, dtype=torch.float64, generator=rng))
    subjects = expand(torch.rand(6, 190, dtype=torch.float64, generator=rng))
    model = weighted_rsm_model(layers)
    result = crossvalidate([model], subjects, "pearson", stimulus_folds=4)
    inside = get("pearson").between(model.predict(model.fit(subjects, "pearson")), subjects)
    assert inside.mean() > 0.04
    assert abs(result.table["score"][0]) < 0.05


def test_rank_measures_rank_subjects_once_and_find_the_best_weights(rng):
    layers = torch.rand(4, 105, dtype=torch.float64, generator=rng)
    subjects = layers[:2].sum(0) + torch.rand(3, 105, dtype=torch.float64, generator=rng)
    model = weighted_rsm_model(expand(layers))
    calls = []
    with pytest.MonkeyPatch.context() as patched:
        count = lambda x, **options: calls.append(x.ndim) or soft_rank(x, **options)  # noqa: E731
        patched.setattr("softrsa.inference.crossvalidation.soft_rank", count)
        found = model.fit(expand(subjects), "spearman")
    assert calls.count(2) == 1  # the subjects
    assert calls.count(1) < 150
    reached = soft_spearman(found @ layers, subjects).mean().item()
    others = torch.rand(500, 4, dtype=torch.float64, generator=rng)
    near = (found + 0.1 * others - 0.05).clamp_min(0)
    for weights in (others, near):
        assert reached > soft_spearman((weights @ layers)[:, None], subjects).mean(1).max() - 1e-3


def test_a_fold_without_weights_takes_the_best_single_rsm(data):
    layers, subjects = data
    opposite = -subjects.mean(0) + 0.3 * layers
    against = FlexibleModel("against", opposite)
    group = torch.zeros(12, 12, dtype=torch.float64)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    pair = order[::2][:2]  # the same part: constant among the training stimuli of that fold
    group[pair[0], pair[1]] = group[pair[1], pair[0]] = 1.0
    flat = FlexibleModel("flat", group[None], "select")
    good = weighted_rsm_model(layers)
    result = crossvalidate([against, flat, good], subjects, "pearson", stimulus_folds=2)
    alone = crossvalidate([good], subjects, "pearson", stimulus_folds=2)
    np.testing.assert_array_equal(result.data["score"][2], alone.data["score"][0])
    weights = result.data["weights"].values
    for f in range(2):
        train = order[1 - f :: 2].sort().values
        for part, (own, one) in enumerate(zip(weights[0, f], weights[1, f], strict=True)):
            s = int(torch.randperm(5, generator=_after(order))[part])
            others = [t for t in range(5) if t != s]
            seen = subjects[others][:, train][:, :, train]
            scores = get("pearson").between(opposite[:, None][..., train, :][..., train], seen)
            assert own.tolist() == [float(k == scores.mean(1).argmax()) for k in range(4)]
            assert one[0] == 1.0
    assert result.table["score"][0] < 0
    assert "'against' could not be fitted in 10 of 10 fits" in result.warnings[-2]
    assert "'flat' could not be fitted in 5 of 10 fits" in result.warnings[-1]
    assert "undefined (NaN) for flat:" in result.warnings[0]  # constant in the other test fold
    assert alone.warnings == []
    with pytest.raises(FitError, match=r"No weights of 'against'"):
        against.fit(subjects, "pearson")
    assert against.fit_single(torch.ones_like(subjects), "pearson").tolist() == [1, 0, 0, 0]


def _after(order):
    """The generator once the stimuli have been drawn."""
    rng = torch.Generator().manual_seed(0)
    assert torch.equal(torch.randperm(len(order), generator=rng), order)
    return rng


def test_progress_is_shown_on_demand(data, capsys, monkeypatch):
    layers, subjects = data
    model = weighted_rsm_model(layers)
    bars = []
    monkeypatch.setattr(
        "softrsa.inference.crossvalidation.tqdm",
        lambda *args, **options: bars.append(options) or tqdm(*args, **options),
    )
    for progress in (False, True):
        crossvalidate([model], subjects, "pearson", stimulus_folds=2, progress=progress)
    assert [bar["disable"] for bar in bars] == [True, False]
    assert bars[1]["total"] == 10
    assert capsys.readouterr().err == ""  # a short one stays hidden


def test_wrong_arguments_are_named(data):
    layers, subjects = data
    model = weighted_rsm_model(layers)
    with pytest.raises(DataError, match=r"`stimulus_folds` must be from 1 to 3 for 12 stimuli"):
        crossvalidate([model], subjects, "pearson", stimulus_folds=4)
    with pytest.raises(DataError, match=r"Nothing is held out"):
        crossvalidate([model], subjects[:1], "pearson", stimulus_folds=1)
    with pytest.raises(DataError, match=r"different names, got \['weighted', 'weighted'\]"):
        crossvalidate([model, model], subjects, "pearson", stimulus_folds=2)
    with pytest.raises(ShapeError, match=r"\(5, 66\); use `softrsa\.pairs\.expand`"):
        crossvalidate([model], condense(subjects), "pearson", stimulus_folds=2)
    with pytest.raises(UnknownNameError, match=r"kind of model 'sum'"):
        FlexibleModel("m", layers, "sum")
    with pytest.raises(ShapeError, match=r"12 stimuli, the subjects' RSMs have shape \(5, 8, 8\)"):
        model.fit(subjects[:, :8, :8], "pearson")
    with pytest.raises(FitError, match=r"No weights of 'flat' give a defined score"):
        FlexibleModel("flat", torch.ones(2, 12, 12), "select").fit(subjects, "pearson")
    gone = subjects.clone()
    gone[0, 1, 2] = torch.nan
    with pytest.raises(DataError, match=r"1 pairs are NaN; leave out their stimuli"):
        crossvalidate([model], gone, "pearson", stimulus_folds=2)
