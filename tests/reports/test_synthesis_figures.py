"""What is in the figures of optimized data, read back from the artists."""

import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure

from softrsa.reports.figures import COLORS, panels
from softrsa.reports.synthesis_figures import (
    plot_capture,
    plot_component_curves,
    plot_decoding,
    plot_feasible_region,
    plot_scores,
)


@pytest.fixture
def components():
    """Three recorded steps of two restarts; the second component is captured by one of them."""
    captured = np.linspace(0, 1, 3)[:, None, None] * np.array([[1, 0.9, 0.2], [1, 0.8, 0.2]])
    return xr.Dataset(
        {
            "explained": ("component", [0.8, 0.19, 0.01]),
            "captured": (("recorded_step", "restart", "component"), captured),
            "score": (("recorded_step", "restart"), [[0.1, 0.3], [0.5, 0.7], [0.9, 0.9]]),
            "score_at_capture": (
                ("restart", "component"), [[0.4, 0.6, np.nan], [0.5, np.nan, np.nan]],
            ),
        },
        coords={"component": [1, 2, 3], "recorded_step": [0, 4, 9]},
        attrs={"measure": "angular_procrustes"},
    )  # fmt: skip


def lines(ax):
    return [np.column_stack(line.get_data(orig=False)) for line in ax.get_lines()]


def test_scores_stop_where_a_restart_stopped():
    data = xr.Dataset(
        {
            "scores": (("step", "restart"), [[0.1, 0.2], [0.5, 0.9], [0.95, 0.9]]),
            "steps_taken": ("restart", [2, 1]),
        },
        attrs={"measure": "linear_cka", "target": 0.9},
    )
    ax = plot_scores(data)
    drawn = lines(ax)
    assert drawn[0].tolist() == [[0, 0.1], [1, 0.5], [2, 0.95]]
    assert drawn[2].tolist() == [[0, 0.2], [1, 0.9]]
    assert drawn[-1][:, 1].tolist() == [0.9, 0.9]
    assert ax.get_legend_handles_labels()[1] == ["linear CKA"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("step", "score")


def test_component_curves_are_means_over_restarts(components):
    ax = plot_component_curves(components)
    np.testing.assert_allclose(lines(ax)[1], [[0.2, 0], [0.6, 0.425], [0.9, 0.85]])
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert texts == ["1 (80 %)", "2 (19 %)", "3 (1 %)"]
    assert ax.get_xlabel() == "angular procrustes on the way"


def test_of_many_components_eight_are_drawn(components):
    many = components.isel(component=np.arange(30) % 3)
    assert len(lines(plot_component_curves(many))) == 8


def test_capture_shows_what_was_never_captured_as_open(components):
    ax = plot_capture(components, color=COLORS[2])
    found, never = ax.get_lines()
    np.testing.assert_allclose(lines(ax)[0], [[0.8, 0.45], [0.19, 0.6]])
    assert never.get_xdata().tolist() == [0.01]
    assert never.get_markerfacecolor() == "white"
    assert never.get_transform() == ax.get_xaxis_transform()
    assert ax.get_ylim()[1] < 0.7
    assert found.get_color() == COLORS[2]
    assert ax.get_xscale() == "log"


@pytest.mark.parametrize("swapped", [False, True])
def test_feasible_region_and_bounds(swapped):
    names = ["nbs", "linear_cka"] if swapped else ["linear_cka", "nbs"]
    points = np.array([[0.0, 0.1], [0.5, 0.4], [0.9, 0.95]])
    region = xr.Dataset(
        {
            "target_a": ("target", [0, 0.5, 1.0]),
            "target_b": ("target", [0, 0, 1.0]),
            "score_a": (("target", "seed"), points[:, :1]),
            "score_b": (("target", "seed"), points[:, 1:]),
        },
        attrs={"measure_a": names[0], "measure_b": names[1], "rank": 4, "participation_x": 4.0},
    )
    ax = plot_feasible_region(region)
    assert ax.patches[0].get_xy()[:3].tolist() == points.tolist()
    assert ax.get_legend() is None
    bounded = plot_feasible_region(region.assign(lower=region["score_b"]))
    low, high = lines(bounded)[-2:]
    end = [0.5, 1] if swapped else [1, 0.5]  # sqrt(1 / sqrt(4 * 4)) where CKA is 1
    np.testing.assert_allclose(low[-1], end)
    np.testing.assert_allclose(high[-1], [1, 1])
    assert bounded.get_ylabel() == ("linear CKA" if swapped else "NBS")


def test_decoding_with_chance():
    data = xr.Dataset(
        {
            "score": (("recorded_step", "restart"), [[0.1], [0.9]]),
            "relative": (("recorded_step", "restart"), [[0.4], [0.8]]),
            "reference": 0.5,
            "chance": 0.25,
        },
        attrs={"measure": "nbs"},
    )
    ax = plot_decoding(data)
    assert lines(ax)[0].tolist() == [[0.1, 0.4], [0.9, 0.8]]
    assert [line[0, 1] for line in lines(ax)[1:]] == [1, 0.5]


def test_a_second_measure_is_not_cut_off(components):
    ax = plot_capture(components)
    plot_capture(components.assign(score_at_capture=components["score_at_capture"] - 0.3), ax=ax)
    assert ax.get_ylim()[0] < 0.15


def test_into_the_axes_given(components):
    figure, axes = panels(2)
    assert isinstance(figure, Figure)
    for draw, ax in zip((plot_capture, plot_component_curves), axes, strict=True):
        assert draw(components, ax=ax) is ax
