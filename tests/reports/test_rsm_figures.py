"""Pictures of RSMs and of neighbors, read back from the artists."""

import numpy as np
import pytest
import xarray as xr
from scipy.spatial.distance import pdist, squareform

from softrsa.errors import DataError, ShapeError, UnknownNameError
from softrsa.reports import plot_geo_topological_grid, plot_mds, plot_neighbors, plot_rsm
from softrsa.reports.rsm_figures import cluster_order

IDS = [f"s{i}" for i in range(8)]


def labelled(values, **leading):
    coords = {**leading, "anchor": IDS, "neighbor": IDS}
    return xr.DataArray(values, dims=tuple(coords), coords=coords, attrs={"kind": "rdm"})


def rdms(n, seed=0):
    points = np.random.default_rng(seed).normal(size=(n, 8, 3))
    return np.stack([squareform(pdist(each)) for each in points])


def shown(ax):
    return np.ma.filled(ax.images[0].get_array().astype(float), np.nan)


def test_rsm_shows_every_pair_but_no_self_similarity():
    values = rdms(1)[0]
    found = shown(plot_rsm(labelled(values)))
    off = ~np.eye(8, dtype=bool)
    assert np.isnan(np.diagonal(found)).all()
    np.testing.assert_array_equal(found[off], values[off])


def test_categories_stand_together_in_the_order_they_first_appear():
    names = dict(zip(IDS, "babbacab", strict=True))
    ax = plot_rsm(labelled(rdms(1)[0]), order="category", categories=names)
    assert [text.get_text() for text in ax.get_yticklabels()] == ["b", "a", "c"]
    assert list(ax.get_yticks()) == [1.5, 5.0, 7.0]
    places = [0, 2, 3, 7, 1, 4, 6, 5]
    np.testing.assert_array_equal(
        np.nan_to_num(shown(ax)), rdms(1)[0][np.ix_(places, places)]
    )  # fmt: skip


@pytest.mark.parametrize("sign", [1, -1])
def test_clusters_are_found_whatever_their_order(sign):
    groups = np.array([0, 1, 0, 1, 1, 0, 0, 1])
    values = sign * (groups[:, None] != groups) + 0.01 * rdms(1)[0]
    order = cluster_order(values)
    assert abs(np.diff(groups[order])).sum() == 1


def test_images_stand_in_both_margins_and_names_replace_the_left_one():
    images = {name: np.zeros((2, 2, 3), np.uint8) for name in IDS[:6]}
    both = plot_rsm(labelled(rdms(1)[0]), images=images)
    below = plot_rsm(labelled(rdms(1)[0]), images=images, categories=["x"] * 8)
    assert (len(both.child_axes), len(below.child_axes)) == (12, 6)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: plot_rsm(labelled(rdms(2), layer=["a", "b"])), ShapeError, "a stack by 'layer'"),
        (lambda: plot_rsm(np.zeros((2, 3))), ShapeError, r"got shape \(2, 3\)"),
        (lambda: plot_rsm(rdms(1)[0], order="category"), DataError, "needs `categories`"),
        (lambda: plot_rsm(rdms(1)[0], categories=["a"]), ShapeError, "per stimulus: 8, got 1"),
        (
            lambda: plot_rsm(labelled(rdms(1)[0]), categories={"s0": "a"}),
            DataError,
            "stimuli 's1', 's2'",
        ),
        (lambda: plot_rsm(rdms(1)[0], order="size"), UnknownNameError, "size"),
        (lambda: plot_mds({"a": labelled(rdms(1)[0])}), DataError, "at least 3 RSMs, got 1"),
        (
            lambda: plot_neighbors(np.ones(2), np.ones(3)),
            ShapeError,
            r"got 3 and weights of shape \(2,\)",
        ),
    ],
)
def test_what_cannot_be_drawn_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_map_keeps_distances_that_two_dimensions_can_hold():
    # three RSMs always lie in a plane: distances on the map are those of the measure
    stack = labelled(rdms(3), layer=["1", "2", "3"])
    ax = plot_mds({"model": stack[:2], "brain": stack[2]})
    at = np.concatenate([line.get_xydata() for line in ax.lines if line.get_marker() != "None"])
    upper = np.triu_indices(8, 1)
    wanted = 1 - np.corrcoef(rdms(3)[:, *upper])
    np.testing.assert_allclose(squareform(pdist(at)), wanted * (1 - np.eye(3)), atol=1e-9)
    assert "100% shown" in ax.get_title()
    assert [text.get_text() for text in ax.texts] == ["1", "2", "brain"]


def test_stimuli_of_a_map_are_matched_by_id_and_must_be_the_same():
    stack = labelled(rdms(3), layer=["1", "2", "3"])
    turned = stack.isel(anchor=slice(None, None, -1), neighbor=slice(None, None, -1))
    ax = plot_mds({"model": stack, "again": turned})
    one, two = (line.get_xydata() for line in ax.lines if line.get_marker() != "None")
    np.testing.assert_allclose(one, two, atol=1e-7)
    fewer = stack.isel(anchor=slice(4), neighbor=slice(4))
    with pytest.raises(DataError, match="'again' has 4, the first 8"):
        plot_mds({"model": stack, "again": fewer})


def test_neighbors_are_drawn_with_their_weights_and_weighted_mean():
    weights, labels = np.array([0.5, 0.3, 0.1]), np.array([1.0, 4.0, 2.0])
    ax = plot_neighbors(weights, labels, names=["a", "b", "c"], truth=3.0)
    np.testing.assert_allclose(ax.collections[-1].get_offsets()[:, 0], labels)
    lines = {line.get_label(): line.get_xdata()[0] for line in ax.lines}
    assert lines == pytest.approx({"weighted mean": (weights @ labels) / 0.9, "truth": 3.0})
    assert [text.get_text() for text in ax.get_yticklabels()] == ["a", "b", "c"]


def test_grid_of_thresholds_shows_each_score_at_its_place():
    scores = xr.DataArray(
        [[0.1, 0.2], [np.nan, 0.3]],
        dims=("lower", "upper"),
        coords={"lower": [0.0, 0.5], "upper": [0.5, 1.0]},
    )
    ax = plot_geo_topological_grid(scores, label="correlation")
    found = np.ma.filled(ax.collections[0].get_array(), np.nan)
    np.testing.assert_array_equal(np.reshape(found, (2, 2)), scores.values.T)
    assert ax.figure.axes[-1].get_ylabel() == "correlation"
