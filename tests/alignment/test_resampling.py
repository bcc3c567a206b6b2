"""Intervals, p against chance and comparisons of held-out scores."""

import warnings
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch

import softrsa
from softrsa.alignment import AlignmentResult, random_splits, scoring
from softrsa.alignment.align import FewStimuliWarning
from softrsa.errors import DataError, UnknownNameError
from softrsa.measures import Measure, cosine, get, pearson
from softrsa.pairs import condense, expand
from softrsa.rsm import similarity_matrix

FIXED = ["identity", "centered"]


def study(n=60, n_subjects=5):
    rng = torch.Generator().manual_seed(0)
    real = {"dtype": torch.float64, "generator": rng}
    x, y = torch.randn(2, n, 8, **real)
    return {"right": x, "wrong": y}, [x + torch.randn(n, 8, **real) for _ in range(n_subjects)]


@pytest.fixture(scope="module")
def result():
    layers, brain = study()
    return softrsa.align(layers, {"V4": brain}, transforms=FIXED, measure="pearson")


def test_table_tells_what_is_above_chance(result):
    table = result.table.set_index(["layer", "transform"])
    assert (table["score_low"] < table["score"]).all()
    assert (table["score"] < table["score_high"]).all()
    assert table.loc["right", "score_low"].min() > 0
    assert table.loc["wrong", "score_low"].max() < 0 < table.loc["wrong", "score_high"].min()
    assert table.loc["right", "p_chance"].max() == 1 / 1001
    assert table.loc["wrong", "p_chance"].min() > 0.1


def test_subjects_scores_average_to_the_score(result):
    of_subjects = result.data["subject_score"].mean("tested_subject")
    np.testing.assert_allclose(of_subjects, result.data["score"].mean("fold"), atol=1e-12)
    drawn = result.data["resampled_score"].mean("resample")
    assert float(abs(drawn - of_subjects).max()) < 0.02


def test_interval_over_subjects_is_students(result):
    each = result.data["subject_score"].sel(layer="right", region="V4", transform="identity").values
    reach = scipy.stats.t.ppf(0.975, 4) * each.std(ddof=1) / 5**0.5
    low = result.intervals(over="subjects")["low"].sel(layer="right", transform="identity")
    # a thousand resamples know a variance to 5 %
    assert float(each.mean() - low[0]) == pytest.approx(reach, rel=0.08)
    wider = result.intervals(over="subjects", level=0.99)["low"]
    assert float(wider.sel(layer="right", transform="identity")[0]) < float(low[0])


def test_p_of_one_fold_is_that_of_a_loop():
    layers, brain = study(30, 1)
    split = random_splits(30, 18, 1, seed=0)
    layers["right"] = layers["right"] + 3 * layers["wrong"]
    found = softrsa.align(
        layers, {"V4": brain}, transforms=["identity"], measure="pearson", folds=split,
        n_resamples=2000,
    )  # fmt: skip
    model, target = (similarity_matrix(x[split[0].test]) for x in (layers["right"], brain[0]))
    observed = pearson(condense(model), condense(target))
    rng = torch.Generator().manual_seed(1)
    reached = 0
    for _ in range(2000):
        order = torch.randperm(12, generator=rng)
        reached += int(pearson(condense(model[order][:, order]), condense(target)) >= observed)
    p = float(found.data["p_chance"].sel(layer="right", transform="identity")[0])
    assert p == pytest.approx(reached / 2000, abs=0.05)


def test_corrected_p_is_that_of_the_best_in_a_loop():
    layers, brain = study(30, 1)
    split = random_splits(30, 18, 1, seed=0)
    layers["right"] = layers["right"] + 3 * layers["wrong"]
    found = softrsa.align(
        layers, {"V4": brain}, transforms=["identity"], measure="pearson", folds=split,
        n_resamples=2000,
    )  # fmt: skip
    test = split[0].test
    models = [condense(similarity_matrix(layers[name][test])) for name in layers]
    target = condense(similarity_matrix(brain[0][test]))
    rng = torch.Generator().manual_seed(1)
    orders = [torch.randperm(12, generator=rng) for _ in range(2000)]
    permuted = [condense(expand(target)[order][:, order]) for order in orders]
    null = np.array([[float(pearson(model, one)) for model in models] for one in permuted])
    best = ((null - null.mean(0)) / null.std(0, ddof=1)).max(1)
    table = found.table.set_index("layer")
    for k, name in enumerate(layers):
        observed = float(pearson(models[k], target))
        calibrated = (observed - null[:, k].mean()) / null[:, k].std(ddof=1)
        row = table.loc[name]
        # the fixed baselines, whose scores are the same or nearly, are in the family too
        assert row["p_corrected"] == pytest.approx(np.mean(best >= calibrated), abs=0.1)
        assert row["p_corrected"] >= row["p_chance"] >= 1 / 2001
        assert row["calibrated_score"] == pytest.approx(calibrated, abs=0.15)


@pytest.mark.parametrize("measure", ["linear_cka", "ridge_predictivity", "procrustes_distance"])
def test_features_are_resampled_as_in_a_loop(measure):
    layers, brain = study(40, 1)
    split = random_splits(40, 28, 1, seed=0)
    layers["right"] = layers["right"] + 2 * layers["wrong"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FewStimuliWarning)
        found = softrsa.align(layers, {"V4": brain}, measure=measure, folds=split)
    train, test = split[0]
    entry = softrsa.measures.get(measure)
    sign = 1 if entry.larger_is_more_similar else -1

    def score(model: torch.Tensor, target: torch.Tensor) -> float:
        if entry.held_out is None:
            return sign * float(entry(model, target))
        return float(entry.held_out(layers[name][train], brain[0][train], model, target))

    rng = torch.Generator().manual_seed(1)
    orders = [torch.randperm(12, generator=rng) for _ in range(400)]
    table = found.table.query("transform == 'identity'").set_index("layer")
    for name, model in layers.items():
        x, y = model[test], brain[0][test]
        observed, null = score(x, y), np.array([score(x[order], y) for order in orders])
        kept = [[j for j in range(12) if j != i] for i in range(12)]
        without = np.array([score(x[one], y[one]) for one in kept])
        row = table.loc[name]
        assert row["score"] == pytest.approx(observed)
        calibrated = (observed - null.mean()) / null.std(ddof=1)
        assert row["calibrated_score"] == pytest.approx(calibrated, rel=0.25, abs=0.3)
        assert row["p_chance"] == pytest.approx(np.mean(null >= observed), abs=0.08)
        # the jackknife's variance, times 12 / 11 since units are centered within the fold
        error = ((without - without.mean()) ** 2).sum() ** 0.5
        half = (row["score_high"] - row["score_low"]) / 2 / scipy.stats.t.ppf(0.975, 11)
        assert half == pytest.approx(error, rel=0.12)


def test_a_layer_high_by_chance_hides_no_other():
    generator = torch.Generator().manual_seed(0)
    brain = torch.randn(30, 20, generator=generator, dtype=torch.float64)
    layers = {
        "wide": torch.randn(30, 400, generator=generator, dtype=torch.float64),
        "narrow": brain[:, :4] + 0.3 * torch.randn(30, 4, generator=generator, dtype=torch.float64),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FewStimuliWarning)
        found = softrsa.align(layers, {"V4": brain}, measure="linear_cka", folds=None)
    table = found.table.set_index("layer")
    assert table.loc["wide", "score"] > table.loc["narrow", "score"]
    assert table.loc["wide", "p_corrected"] > 0.05 > table.loc["narrow", "p_corrected"]


@pytest.mark.parametrize(
    "measure", ["soft_matching", "permutation_matching", "soft_matching_distance"]
)
def test_units_of_a_wide_layer_are_matched_as_they_are(measure):
    generator = torch.Generator().manual_seed(0)
    layer = torch.randn(20, 50, generator=generator, dtype=torch.float64)
    brain = layer[:, :15] + 0.1 * torch.randn(20, 15, generator=generator, dtype=torch.float64)
    options = {"measure": measure, "folds": None, "n_resamples": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FewStimuliWarning)
        found = softrsa.align({"wide": layer}, {"V4": brain}, **options)
    entry = get(measure)
    sign = 1 if entry.larger_is_more_similar else -1
    assert found.table["score"][0] == pytest.approx(sign * float(entry(layer, brain)))
    with pytest.raises(DataError, match="compares single units, and metric makes mixtures"):
        softrsa.align({"wide": layer}, {"V4": brain}, transforms=["metric"], measure=measure)


def test_comparisons_and_corrections(result):
    layers = result.compare("layer", correction="fwer").set_index("transform")
    assert layers.columns[:4].tolist() == ["region", "layer", "other", "difference"]
    assert layers.loc["identity", "p"] < 0.02
    assert (layers["low"] > 0).all()
    assert layers.loc["identity", "effect_size"] > 2
    smaller, larger = sorted(layers["p"])
    assert sorted(layers["p_corrected"]) == pytest.approx([2 * smaller, max(2 * smaller, larger)])
    pairs = result.compare("transform", over="stimuli")
    assert len(pairs) == 2
    assert (pairs["p_corrected"] == pairs["p"]).all()


def test_the_same_scores_have_no_difference():
    layers, brain = study(40, 3)
    # centering twice changes nothing, so the measure that centers scores both alike
    found = softrsa.align(layers, {"V4": brain}, transforms=FIXED, n_resamples=50)
    pairs = found.compare("transform")
    assert pairs["difference"].abs().max() < 1e-12
    assert pairs[["p", "low", "effect_size"]].isna().all(axis=None)


def test_round_trip_and_seed(result, tmp_path):
    result.to_netcdf(tmp_path / "result.nc")
    loaded = AlignmentResult.from_netcdf(tmp_path / "result.nc")
    assert loaded.table.equals(result.table)
    assert loaded.compare("layer").equals(result.compare("layer"))
    layers, brain = study()
    again = softrsa.align(layers, {"V4": brain}, transforms=FIXED, measure="pearson")
    assert again.data["resampled_score"].equals(result.data["resampled_score"])


def test_standard_error_over_subjects_left_out():
    layers, brain = study(40, 4)
    found = softrsa.align(
        layers, {"V4": brain}, transforms=["identity"], subjects="leave_one_out", folds=4,
        measure="pearson", n_resamples=2,
    )  # fmt: skip
    each = found.data["subject_score"].sel(transform="identity", region="V4").values
    table = found.table
    np.testing.assert_allclose(table["score_se"], each.std(1, ddof=1) / 2, atol=1e-12)
    np.testing.assert_allclose(table["score"], each.mean(1), atol=1e-12)


def test_what_is_not_resampled():
    layers, brain = study(24, 1)
    options = {"transforms": ["identity"], "folds": 3}
    without = softrsa.align(layers, {"V4": brain}, n_resamples=0, **options)
    assert without.table[["score_low", "score_high", "p_chance"]].isna().all(axis=None)
    assert np.isnan(without.intervals()["low"]).all()
    with pytest.raises(DataError, match="n_resamples=1000"):
        without.compare("layer")
    one = softrsa.align(layers, {"V4": brain}, n_resamples=20, **options)
    assert one.table["score_low"].notna().all()
    assert np.isnan(one.intervals(over="subjects")["low"]).all()
    overlapping = random_splits(24, 12, 3, seed=0)
    split = softrsa.align(
        layers, {"V4": brain}, n_resamples=20, transforms=["identity"], folds=overlapping
    )
    assert split.table["p_chance"].isna().all()
    assert split.table["score_low"].notna().all()


@pytest.mark.parametrize("n_subjects", [1, 4])
def test_the_slow_road_leads_to_the_same_place(n_subjects):
    """A measure softrsa knows nothing about: intervals as of the one it equals, a little wider."""
    layers, brain = study(40, n_subjects)
    own = Measure(
        function=lambda x, y: cosine(x - x.mean(-1, keepdim=True), y - y.mean(-1, keepdim=True)),
        takes="vectors", range=(-1.0, 1.0), smallest_n=3, reference="a test",
    )  # fmt: skip
    options = {"transforms": ["identity"], "folds": 2, "n_resamples": 400}
    slow, fast = (
        softrsa.align(layers, {"V4": brain}, measure=measure, **options).table
        for measure in (own, "pearson")
    )
    np.testing.assert_allclose(slow["score"], fast["score"], atol=1e-12)
    widths = [(table["score_high"] - table["score_low"]).to_numpy() for table in (slow, fast)]
    assert ((widths[0] > 0.85 * widths[1]) & (widths[0] < 1.6 * widths[1])).all()
    assert (slow["p_chance"] - fast["p_chance"]).abs().max() < 0.12


@pytest.mark.filterwarnings("ignore:Row offsets")
@pytest.mark.parametrize("name", ["centered_pearson", "spearman"])
def test_a_measure_that_says_what_it_is_has_the_numbers_of_its_twin(name):
    def own(x, y):
        return get(name).function(x, y)

    layers, brain = study(24, 2)
    options = {"transforms": ["identity"], "folds": 2, "n_resamples": 20}
    given = replace(get(name), function=own)
    mine, theirs = (
        softrsa.align(layers, {"V4": brain}, measure=m, **options).data for m in (given, name)
    )
    for variable in ("score", "resampled_score", "p_chance", "stimulus_influence"):
        np.testing.assert_allclose(mine[variable], theirs[variable], rtol=0, atol=1e-12)


def test_the_slow_road_shows_where_it_is(monkeypatch):
    layers, brain = study(24, 1)
    shown = []
    monkeypatch.setattr(scoring, "progress_bar", lambda *given: shown.append(given) or bar())
    heard = []

    @contextmanager
    def bar():
        yield heard.append

    options = {"transforms": ["identity"], "folds": 2, "n_resamples": 30, "progress": True}
    softrsa.align(layers["right"], {"V4": brain}, measure="kendall_tau_a", **options)
    # of either fold 12 stimuli left out, 30 permutations, and its end
    assert sum(heard) == shown[0][0] == 2 * (12 + 30 + 1)


def test_mistakes_name_the_values(result):
    layers, brain = study(24, 1)
    with pytest.raises(DataError, match="at least 2, got 1"):
        softrsa.align(layers, {"V4": brain}, n_resamples=1)
    with pytest.raises(UnknownNameError, match="Did you mean 'layer'"):
        result.compare("layers")
    with pytest.raises(UnknownNameError, match="Did you mean 'fdr'"):
        result.compare("layer", correction="fdrr")
    with pytest.raises(UnknownNameError, match="Did you mean 'stimuli'"):
        result.intervals(over="stimulus")
    with pytest.raises(DataError, match=r"`level` must be between 0 and 1, got 95"):
        result.compare("layer", level=95)
