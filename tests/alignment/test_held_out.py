"""align under measures that compare features: units of both sides, without RSMs."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression

from softrsa.alignment import Aligner, FewStimuliWarning, align, stimulus_folds
from softrsa.errors import DataError
from softrsa.measures import available, debiased_cka, linear_cka

ON_FEATURES = [name for name, entry in available().items() if entry.takes == "features"]


@pytest.fixture
def data(rng):
    """A layer that a region of two subjects is made of, and one that has nothing to do with it."""
    right, wrong = torch.randn(2, 60, 4, dtype=torch.float64, generator=rng)
    brain = [
        right @ torch.randn(4, 3, dtype=torch.float64, generator=rng)
        + 0.3 * torch.randn(60, 3, dtype=torch.float64, generator=rng)
        for _ in range(2)
    ]
    return {"wrong": wrong, "right": right}, {"V4": brain}


@pytest.mark.parametrize("measure", ON_FEATURES)
def test_the_right_layer_wins_under_every_measure(data, measure):
    result = align(*data, measure=measure, folds=3)
    table = result.table.set_index("layer")
    assert list(table["transform"]) == ["identity", "identity"]
    assert table["score"]["right"] > table["score"]["wrong"]
    assert np.allclose(table["gain"], 0)
    assert table["ceiling_lower"].isna().all()
    assert table["balanced_score"]["right"] > table["balanced_score"]["wrong"]
    assert table["all_stimuli_score"].isna().all() == ("predictivity" in measure)
    result.plot()


def test_scores_are_those_of_held_out_stimuli(data):
    result = align(*data, measure="debiased_cka", folds=4, seed=3)
    splits = stimulus_folds(60, 4, seed=3)
    layers, regions = data
    expected = [
        np.mean([debiased_cka(layers["right"][s.test], y[s.test]).item() for y in regions["V4"]])
        for s in splits
    ]
    found = result.data["score"].sel(layer="right", region="V4", transform="identity")
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_predictivity_is_fitted_on_the_training_stimuli(data):
    result = align(*data, measure="linear_predictivity", folds=4, seed=3)
    layers, regions = data
    x = layers["right"].numpy()
    expected = []
    for split in stimulus_folds(60, 4, seed=3):
        a, b = split.train.numpy(), split.test.numpy()
        models = [LinearRegression().fit(x[a], y[a].numpy()) for y in regions["V4"]]
        scores = [m.score(x[b], y[b].numpy()) for m, y in zip(models, regions["V4"], strict=True)]
        expected.append(np.mean(scores))
    found = result.data["score"].sel(layer="right", region="V4", transform="identity")
    np.testing.assert_allclose(found, expected, atol=1e-10)


def test_wide_layers_are_compacted_without_a_trace(data, rng):
    layers, regions = data
    wide = layers["right"] @ torch.randn(4, 500, dtype=torch.float64, generator=rng)
    with pytest.warns(FewStimuliWarning, match="scores 20 stimuli, and there are up to 60 units"):
        result = align({"wide": wide}, regions, measure="linear_cka", folds=3)
    test = stimulus_folds(60, 3, seed=0)[0].test
    expected = np.mean([linear_cka(wide[test], y[test]).item() for y in regions["V4"]])
    assert result.data["score"][0, 0, 0, 0].item() == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("measure", ["cca", "linear_predictivity"])
@pytest.mark.parametrize("brain_type", [torch.float32, torch.float64])
def test_rounding_of_the_data_is_no_rank(data, measure, brain_type, rng):
    """A layer of rank 4 in 15 units, in float32, is scored as its 4 dimensions."""
    layers, regions = data
    wide = layers["right"] @ torch.randn(4, 15, dtype=torch.float64, generator=rng)
    parts = {"right": layers["right"], "wide": wide.float()}
    brain = {"V4": [part.to(brain_type) for part in regions["V4"]]}
    scores = align(parts, brain, measure=measure, folds=3).table.set_index("layer")["score"]
    assert scores["wide"] == pytest.approx(scores["right"], abs=1e-4)


def test_what_does_not_fit_is_refused(data, rng):
    layers, regions = data
    with pytest.raises(DataError, match=r"compares features, .* RSMs: centered\. Use identity"):
        align(layers, regions, measure="nbs", transforms=["identity", "centered"])
    rdms = 1 - torch.corrcoef(torch.randn(60, 9, dtype=torch.float64, generator=rng))
    with pytest.raises(DataError, match="'nbs' compares features, and 'V1' holds RDMs"):
        align(layers, {"V1": rdms}, measure="nbs")
    with pytest.raises(DataError, match="'global' transforms RSMs, and 'nbs' compares features"):
        Aligner("global", measure="nbs").fit(layers["right"], regions["V4"])
    with pytest.raises(DataError, match=r"use `align\(..., measure='ridge_pred"):
        Aligner("identity", measure="ridge_predictivity").fit(layers["right"], regions["V4"])
