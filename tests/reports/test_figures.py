"""What is in the figures, read back from the artists; how they look was judged by eye."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex

from softrsa.errors import ShapeError
from softrsa.reports import plot_alignment, plot_curve, plot_transforms
from softrsa.reports.figures import COLORS, WIDTH, titles

GRID = np.linspace(0, 1, 41)


TITLES = dict(titles({}))


def table(n_layers=4, n_regions=3, transforms=tuple(TITLES), ceiling=0.8):
    """Make a table of scores that grow with the layer."""
    rows = [
        {
            "layer": f"block{i}", "region": f"region {j}", "transform": transform,
            "score": (i + 1) / n_layers * 0.5 + 0.02 * j, "score_se": 0.03,
            "ceiling_lower": ceiling - 0.05 * j, "ceiling_upper": ceiling + 0.1,
        }
        for i in range(n_layers)
        for j in range(n_regions)
        for transform in transforms
    ]  # fmt: skip
    return pd.DataFrame(rows)


def curves(n_layers=4, n_regions=3, transforms=("identity", "global", "instance")):
    """Make curves x ** (layer + 1), their middle 80 % from half to one and a half times that."""
    middle = GRID ** np.arange(1, n_layers + 1)[:, None]
    values = np.stack([0.5 * middle, middle, np.minimum(1, 1.5 * middle)], 1)
    dims = ("layer", "region", "transform", "fold", "side", "anchor_quantile", "similarity")
    shape = (n_layers, n_regions, len(transforms), 2, 2, 3, 41)
    full = np.broadcast_to(values[:, None, None, None, None], shape).copy()
    coords = {
        "layer": [f"block{i}" for i in range(n_layers)],
        "region": [f"region {j}" for j in range(n_regions)],
        "transform": list(transforms),
        "fold": [0, 1],
        "side": ["model", "brain"],
        "anchor_quantile": [0.1, 0.5, 0.9],
        "similarity": GRID,
    }
    return xr.DataArray(full, dims=dims, coords=coords)


def texts_overlap(figure):
    """Find texts that lie on each other, or stick out of the figure, once drawn."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    titles = [t for ax in figure.axes for t in (ax.title, ax.xaxis.label, ax.yaxis.label)]
    ticks = [
        tick.label1
        for ax in figure.axes
        for axis in (ax.xaxis, ax.yaxis)
        for tick in axis.get_major_ticks()
        if axis.get_view_interval().min() <= tick.get_loc() <= axis.get_view_interval().max()
    ]
    shared = [*figure.texts, *(t for legend in figure.legends for t in legend.get_texts())]
    level = [t for t in (*titles, *ticks, *shared) if t.get_text() and t.get_visible()]
    level = [t for t in level if t.get_rotation() in (0, 90)]
    boxes = [(t.get_text(), t.get_window_extent(renderer)) for t in level]
    frame = figure.bbox.padded(1)
    outside = [name for name, box in boxes if not frame.contains(*box.min + 0.01)
               or not frame.contains(*box.max - 0.01)]  # fmt: skip
    pairs = [
        (a, b)
        for i, (a, one) in enumerate(boxes)
        for b, other in boxes[i + 1 :]
        if one.padded(-1).overlaps(other.padded(-1))
    ]
    return outside + pairs


def test_alignment_has_a_titled_panel_per_transform():
    figure = plot_alignment(table(), measure="centered_pearson")
    assert [ax.get_title() for ax in figure.axes] == list(TITLES.values())
    bars = "Centered Pearson, held-out stimuli\n(± standard error)"
    assert bars in [text.get_text() for text in figure.texts]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["region 0", "region 1", "region 2", "noise ceiling"]


def test_alignment_draws_scores_and_errors():
    rows = table(n_regions=1, transforms=("identity",))
    (ax,) = plot_alignment(rows, measure="pearson").axes
    line, _, (bars,) = ax.containers[0]
    np.testing.assert_allclose(line.get_ydata(orig=False), rows["score"])
    lengths = [segment[1, 1] - segment[0, 1] for segment in bars.get_segments()]
    np.testing.assert_allclose(lengths, 0.06)
    assert line.get_color() == COLORS[0]


def test_one_region_has_a_band_and_several_have_bars_side_by_side():
    (alone,) = plot_alignment(table(4, 1, ("identity",)), measure="pearson").axes
    (band,) = alone.patches
    assert (band.get_y(), band.get_height()) == pytest.approx((0.8, 0.1))
    (ax,) = plot_alignment(table(4, 3, ("identity",)), measure="pearson").axes
    bars = [c.get_paths()[0].get_extents() for c in ax.collections if len(c.get_paths()) == 1]
    assert [bar.y0 for bar in bars] == pytest.approx([0.8, 0.75, 0.7])
    assert [bar.y1 for bar in bars] == pytest.approx([0.9] * 3)
    assert all(a.x1 < b.x0 for a, b in pairwise(bars))
    assert bars[0].x0 > 3.3  # right of the last layer


def test_without_ceilings_none_is_in_the_legend():
    figure = plot_alignment(table(ceiling=np.nan), measure="pearson")
    assert len(figure.legends[0].get_texts()) == 3


@pytest.mark.parametrize(
    ("n_layers", "n_regions", "n_transforms"),
    [(1, 1, 1), (4, 3, 6), (8, 1, 3), (17, 2, 4), (17, 2, 1), (50, 9, 2)],
)
def test_alignment_is_legible(n_layers, n_regions, n_transforms):
    rows = table(n_layers, n_regions, tuple(TITLES)[:n_transforms])
    figure = plot_alignment(rows, measure="centered_pearson")
    assert figure.get_figwidth() <= WIDTH
    assert texts_overlap(figure) == []


@pytest.mark.parametrize(
    ("n_layers", "n_regions", "n_transforms"),
    [(1, 1, 1), (4, 3, 2), (17, 1, 1), (17, 2, 2), (50, 1, 2)],
)
def test_transforms_are_legible(n_layers, n_regions, n_transforms):
    data = curves(n_layers, n_regions, ("global", "instance")[:n_transforms])
    figure = plot_transforms(data, data.isel(anchor_quantile=0, similarity=0, side=0))
    assert figure.get_figwidth() <= WIDTH
    assert texts_overlap(figure) == []


def test_transforms_draws_curves_over_the_identity():
    figure = plot_transforms(curves())
    assert len(figure.axes) == 3 * 4
    assert [ax.get_title() for ax in figure.axes[:2]] == [
        "global,\nmodel side",
        "global,\nbrain side",
    ]
    identity, *lines = figure.axes[0].get_lines()
    assert np.ravel(identity.get_data()).tolist() == [0, 1, 0, 1]
    for power, line in enumerate(lines, start=1):
        np.testing.assert_allclose(line.get_ydata(), GRID**power)
    assert not figure.axes[0].collections


def test_transforms_marks_the_best_layer_of_a_region_and_transform():
    data = curves()
    score = xr.zeros_like(data.isel(anchor_quantile=0, similarity=0, side=0, drop=True))
    score.loc[{"layer": "block2", "region": "region 1", "transform": "instance"}] = 1
    figure = plot_transforms(data, score)
    ax = figure.axes[1 * 4 + 2]
    widths = [line.get_linewidth() for line in ax.get_lines()[1:]]
    assert int(np.argmax(widths)) == 2
    (band,) = ax.collections
    assert to_hex(band.get_facecolor()[0]) == to_hex(ax.get_lines()[3].get_color())


def test_transforms_without_any_learned_says_so():
    (ax,) = plot_transforms(curves(transforms=("identity",))).axes
    assert ax.get_title() == "no learned transform in this result"


def test_intervals_are_drawn_where_there_are_any():
    rows = table(n_regions=1, transforms=("identity",))
    rows["score_low"], rows["score_high"] = rows["score"] - 0.3, rows["score"] + 0.1
    rows.loc[0, ["score_low", "score_high"]] = np.nan
    figure = plot_alignment(rows, measure="pearson")
    (segments,) = (line.get_segments() for line in figure.axes[0].collections[:1])
    lengths = [segment[1, 1] - segment[0, 1] for segment in segments]
    assert lengths[0] == pytest.approx(2 * rows["score_se"][0])
    assert lengths[1:] == pytest.approx([0.4] * (len(lengths) - 1))
    assert any("95 % intervals" in text.get_text() for text in figure.texts)


def test_one_curve_has_a_line_for_each_side_and_refuses_several_layers():
    of_one = curves().sel(layer="block1", region="region 0", transform="global")
    ax = plot_curve(of_one)
    labels = [line.get_label() for line in ax.lines]
    assert labels == ["identity", "model side", "brain side"]
    np.testing.assert_allclose(ax.lines[1].get_ydata(), GRID**2)
    with pytest.raises(ShapeError, match=r"choose of \['layer'\]"):
        plot_curve(curves().sel(region="region 0", transform="global"))
