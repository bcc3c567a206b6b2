"""What figures of learned similarity show, read back from the artists."""

import numpy as np
import pandas as pd
import pytest
import torch

import softrsa
from softrsa.alignment import AlignmentResult, FitSettings
from softrsa.errors import DataError, DTypeError, UnknownNameError
from softrsa.reports import gains_beside, plot_beside, plot_learned_similarity

NAMES = ["score", "per_anchor_score", "balanced_score", "identification"]


@pytest.fixture(scope="module")
def result():
    """Two layers of four and forty units; the brain reads half of the first."""
    rng = torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, 60, 4, generator=rng)
    brain = x * torch.tensor([5.0, 5.0, 0.1, 0.1]) + noise
    wide = torch.randn(60, 40, generator=rng) + torch.cat([x] * 10, 1)
    settings = FitSettings(inner_folds=2, map_penalties=(1e-3,))
    return softrsa.align(
        {"a": x, "wide": wide}, {"b": brain}, transforms=["metric", "reweighted", "encoding"],
        folds=3, settings=settings, n_resamples=0,
    )  # fmt: skip


def gains_by_hand(result, layer, transform):
    data = result.data.sel(layer=layer, region="b")[NAMES].mean("fold")
    fixed = data.sel(transform=["identity", "centered", "geo_topological"])
    best = fixed.isel(transform=int(np.argmax(fixed["score"].values)))
    return [float(data[name].sel(transform=transform) - best[name]) for name in NAMES]


def test_gains_are_over_one_fixed_transform_for_all_four_scores(result):
    gains = gains_beside(result).set_index(["layer", "transform"])
    assert set(gains.index) == {
        (a, t) for a in ("a", "wide") for t in ("metric", "reweighted", "encoding")
    }
    for layer, transform in gains.index:
        found = gains.loc[(layer, transform), NAMES].astype(float)
        np.testing.assert_allclose(found, gains_by_hand(result, layer, transform), atol=1e-12)
    table = result.table.set_index(["layer", "transform"])["gain"]
    np.testing.assert_allclose(gains["score"], table.loc[gains.index], atol=1e-12)


def test_bars_are_means_over_pairs_and_dots_are_pairs(result):
    ax = plot_beside(result)
    gains = gains_beside(result)
    names = list(dict.fromkeys(gains["transform"]))
    heights = [[bar.get_height() for bar in bars] for bars in ax.containers]
    wanted = gains.groupby("transform", sort=False)[NAMES].mean().loc[names].T
    np.testing.assert_allclose(heights, wanted, atol=1e-12)
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["centered pearson", "per anchor", "balanced", "stimuli identified"]
    dots = [line for line in ax.lines if line.get_marker() == "."]
    assert len(dots) == 4 * len(names)
    of_metric = gains.loc[gains["transform"] == names[0], "score"]
    np.testing.assert_allclose(dots[0].get_ydata(), of_metric)


def test_a_table_needs_a_fixed_transform(result):
    with pytest.raises(DataError, match="Give the result itself"):
        plot_beside(result.table)
    with pytest.raises(DTypeError, match=r"AlignmentResult\.data"):
        plot_beside([1, 2])
    with pytest.raises(DataError, match="balanced_score"):
        plot_beside(AlignmentResult(result.data.drop_vars("balanced_score")))


def test_a_shortcut_is_seen_by_the_first_bar_alone():
    table = pd.DataFrame(
        {
            "layer": "conv", "region": "V4",
            "transform": ["centered", "geo_topological", "instance"],
            "score": [0.39, 0.38, 0.47], "per_anchor_score": [0.36, 0.4, 0.38],
            "balanced_score": [0.34, 0.4, 0.35], "identification": [0.93, 0.9, 0.88],
        }
    )  # fmt: skip
    ax = plot_beside(table)
    assert [bar.get_height() for bar in ax.patches] == pytest.approx([0.08, 0.02, 0.01, -0.05])
    assert [text.get_text() for text in ax.get_xticklabels()] == ["SoftStep, instance-wise"]


def test_weights_of_components_and_named_units(result):
    figure = plot_learned_similarity(result, "a", "b")
    left, right = figure.axes
    one = result.data.sel(layer="a", region="b", transform="metric")
    weights = one["component_weight"].transpose("fold", "component").values
    mean = np.nanmean(weights[:, np.isfinite(weights).any(0)], 0)
    (line,) = [line for line in left.lines if line.get_label() == "mean of folds"]
    np.testing.assert_allclose(line.get_ydata(), mean)
    assert len(left.lines) == 3 + 1 + 1  # folds, their mean, the average
    units = result.unit_weights("a", "b").values
    order = np.argsort(-units)
    np.testing.assert_allclose([bar.get_height() for bar in right.patches], units[order])
    assert [text.get_text() for text in right.get_xticklabels()] == [*map(str, order)]
    title = figure.get_suptitle()
    assert f"effective dimension {float(one['effective_dimension'].mean()):.1f}" in title
    assert f"identity {float(one['distance_from_identity'].mean()):.2f}" in title


def test_many_units_are_a_sorted_curve(result):
    _, right = plot_learned_similarity(result, "wide", "b", "encoding").axes
    units = result.unit_weights("wide", "b", transform="encoding").values
    np.testing.assert_allclose(right.lines[0].get_ydata(), np.sort(units)[::-1])
    assert right.get_xlabel() == "unit, largest weight first"


def test_what_is_not_there_is_named(result):
    for arguments, said in (
        (("c", "b"), "'c'"), (("a", "d"), "'d'"), (("a", "b", "identity"), "'identity'"),
    ):  # fmt: skip
        with pytest.raises(UnknownNameError, match=said):
            plot_learned_similarity(result, *arguments)
    without = AlignmentResult(result.data.drop_vars(["unit_weight", "component_weight"]))
    with pytest.raises(DataError, match="No similarity was learned"):
        plot_learned_similarity(without, "a", "b")


def test_without_weights_of_units_the_panel_says_so(result):
    lacking = AlignmentResult(result.data.drop_vars("unit_weight"))
    _, right = plot_learned_similarity(lacking, "a", "b").axes
    assert "not kept" in right.texts[0].get_text()


def test_a_pair_that_learned_nothing_says_so():
    x, y = torch.randn(2, 40, 5, generator=torch.Generator().manual_seed(0))
    settings = FitSettings(inner_folds=2, map_steps=(1,), map_rate=1e-9)
    result = softrsa.align(
        {"a": x}, {"b": y}, transforms=["metric"], folds=2, n_resamples=0, settings=settings
    )
    if result.data["component_weight"].notnull().any():
        pytest.skip("something was learned")
    figure = plot_learned_similarity(result, "a", "b")
    assert "no fold learned anything" in figure.get_suptitle()
