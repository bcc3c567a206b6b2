"""Figures over time say what the tables say."""

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from softrsa.errors import DataError, DTypeError
from softrsa.reports import plot_alignment, plot_time_courses, plot_time_generalization
from softrsa.reports.figures import MAX_NAMED

TIMES = np.arange(10) / 10


def table(n_models=2, regions=("V4", "IT"), *, ceilings=True):
    rows = [
        {
            "layer": f"layer {i}", "region": region, "time": time, "score": 0.1 * i,
            "ci_low": 0.1 * i - 0.05, "ci_high": 0.1 * i + 0.05,
            "ceiling_lower": 0.4 if ceilings else np.nan, "ceiling_upper": 0.5,
            "p_corrected": 0.01 if time >= 0.5 and i else 1.0,
        }
        for i in range(n_models) for region in regions for time in TIMES
    ]  # fmt: skip
    return pd.DataFrame(rows)


def bars(ax):
    """Spans of the bars of significance."""
    found = [c for c in ax.collections if c.get_paths() and not c.get_label().startswith("noise")]
    spans = [path.get_extents() for c in found for path in c.get_paths()]
    return [span for span in spans if span.y1 < 0 and span.height < 0.05]


def test_bars_are_below_all_curves_at_significant_times():
    figure = plot_time_courses(table())
    assert [ax.get_title() for ax in figure.axes] == ["V4", "IT"]
    for ax in figure.axes:
        found = bars(ax)
        assert len(found) == 5
        assert min(span.x0 for span in found) == pytest.approx(0.45)
        assert max(span.x1 for span in found) == pytest.approx(0.95)
        assert max(span.y1 for span in found) < -0.05
        assert min(span.y0 for span in found) >= ax.get_ylim()[0]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["layer 0", "layer 1", "noise ceiling"]


def test_many_models_have_a_scale_of_colors_and_few_names():
    figure = plot_time_courses(table(50, ("V4",), ceilings=False))
    (ax,) = figure.axes
    curves = [line for line in ax.lines if len(line.get_xdata()) == len(TIMES)]
    assert len({mpl.colors.to_hex(line.get_color()) for line in curves}) == 50
    legend = figure.legends[0]
    assert len(legend.get_texts()) <= MAX_NAMED
    assert legend.get_title().get_text() == "layer\n(1 of 3 named)"


def test_an_alignment_with_many_regions_names_some():
    times = [f"{time:g}" for time in range(120)]
    given = pd.DataFrame(
        {
            "transform": "identity", "layer": "conv", "region": times, "score": 0.1,
            "score_se": 0.01, "ceiling_lower": 0.3, "ceiling_upper": 0.4,
        }
    )  # fmt: skip
    figure = plot_alignment(given, measure="pearson")
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[0] == "0"
    assert len(labels) <= MAX_NAMED + 1


def pairs(p):
    scores = np.random.default_rng(0).normal(size=(3, 4, 5))
    data = xr.Dataset(
        {
            "score": (("subject", "time", "other_time"), scores),
            "p_corrected": (("time", "other_time"), np.full((4, 5), p)),
        },
        {"time": np.arange(4.0), "other_time": np.arange(5.0)},
        {"measure": "pearson", "other_name": "step"},
    )  # fmt: skip
    data["p_corrected"][1:3, 1:3] = 0.01
    return data


def test_pairs_of_times_are_drawn_with_outlines():
    ax = plot_time_generalization(pairs(1.0))
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("step", "time")
    assert len(ax.collections) == 2
    assert len(plot_time_generalization(pairs(0.01)).collections) == 1  # all of them


def test_what_cannot_be_drawn_is_named():
    with pytest.raises(DataError, match="'p_corrected' is missing"):
        plot_time_courses(table().drop(columns="p_corrected"))
    with pytest.raises(DTypeError, match=r"TimeGeneralization\.data"):
        plot_time_generalization(table())
    with pytest.raises(DataError, match="all scores are NaN"):
        plot_time_generalization(pairs(1.0) * np.nan)
