"""Cluster-based permutation tests against MNE-Python, SciPy and a plain loop."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.stats import ttest_1samp

from softrsa.errors import DataError, DTypeError, ShapeError, UnknownNameError
from softrsa.inference import cluster_test

REFERENCE = json.loads(
    (Path(__file__).parents[1] / "reference" / "clusters_mne.json").read_text(encoding="utf-8")
)
LAYOUTS = ("line", "grid", "sensors")
CASES = [
    (layout, *key.split())
    for layout in LAYOUTS
    for key in REFERENCE[layout]
    if key.split()[0] in ("mass", "tfce", "max")
]


def effect(rng, shape=(8, 30), size=1.5):
    values = torch.randn(*shape, dtype=torch.float64, generator=rng)
    values[:, 10:20] += size
    return values


def of_reference(layout, method, alternative):
    """Run a case of MNE-Python, and give its null distribution.

    One-sided it has the data twice, where rounding lets it, and not the flip of all subjects.
    """
    case = REFERENCE[layout]
    adjacency = case["adjacency"] and np.array(case["adjacency"])
    values = torch.tensor(case["values"], dtype=torch.float64)
    options = {"adjacency": adjacency, "method": method, "alternative": alternative}
    found = cluster_test(values, **options)
    null = found.null.clone()
    if alternative != "two-sided":
        null[-1] = null[0]  # the last flip is that of all subjects
    return found, null, case[f"{method} {alternative}"]


@pytest.mark.parametrize(("layout", "method", "alternative"), CASES)
def test_the_same_as_mne_on_all_flips(layout, method, alternative):
    found, null, expected = of_reference(layout, method, alternative)
    assert found.exact
    of_mne = np.sort(np.abs(expected["null"]))
    np.testing.assert_allclose(null.abs().sort().values, of_mne, rtol=0, atol=1e-9)
    once = 0 if alternative == "two-sided" else 1 / len(null)
    statistic = found.t if method == "mass" else found.enhanced
    np.testing.assert_allclose(statistic.flatten(), expected["statistic"], rtol=0, atol=1e-9)
    if method != "mass":
        np.testing.assert_allclose(found.p.flatten(), expected["p"], rtol=0, atol=once + 1e-12)
        return
    order = sorted(range(len(found.mass)), key=lambda i: expected["clusters"][i][0])
    masks = found.masks.flatten(1)
    assert [mask.nonzero().flatten().tolist() for mask in masks] == [
        expected["clusters"][i] for i in order
    ]
    mass, p = (np.array(expected[name])[order] for name in ("mass", "p"))
    np.testing.assert_allclose(found.mass, mass, rtol=0, atol=1e-9)
    np.testing.assert_allclose(found.cluster_p, p, rtol=0, atol=once + 1e-12)


@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
def test_t_and_uncorrected_p_are_those_of_a_loop(alternative, rng):
    values = effect(rng, size=0.5)
    found = cluster_test(values, alternative=alternative)
    np.testing.assert_allclose(found.t, ttest_1samp(values, 0).statistic, rtol=1e-12)
    side = {"two-sided": np.abs, "greater": np.positive, "less": np.negative}[alternative]
    flips = np.array(list(itertools.product([1, -1], repeat=8)))
    t = np.array([ttest_1samp(flip[:, None] * values.numpy(), 0).statistic for flip in flips])
    expected = (side(t) >= side(found.t.numpy()) - 1e-9).mean(0)
    np.testing.assert_allclose(found.p_uncorrected, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", ["mass", "tfce", "max"])
def test_random_flips_repeat_and_bound_p(method, rng, monkeypatch):
    values = effect(rng, (14, 30))
    found = cluster_test(values, method=method, n_flips=199, seed=3)
    assert not found.exact
    assert len(found.null) == 200
    assert float(found.p.min()) == pytest.approx(1 / 200)
    monkeypatch.setattr("softrsa.inference.clusters.CHUNK", 100)
    again = cluster_test(values, method=method, n_flips=199, seed=3)
    np.testing.assert_allclose(again.null, found.null, rtol=1e-12)
    np.testing.assert_array_equal(again.p, found.p)
    other = cluster_test(values, method=method, n_flips=199, seed=4)
    assert not torch.equal(other.null, found.null)


def test_lines_and_their_adjacency_are_the_same(rng):
    values = torch.randn(7, 5, 6, dtype=torch.float64, generator=rng)
    step = np.abs(np.arange(6)[:, None] - np.arange(6)) == 1
    for method in ("mass", "tfce"):
        lines = cluster_test(values, method=method, threshold=1.0)
        for adjacency in (step, torch.from_numpy(step), coo_array(step.astype(float))):
            linked = cluster_test(values, adjacency=adjacency, method=method, threshold=1.0)
            np.testing.assert_array_equal(linked.labels, lines.labels)
            np.testing.assert_allclose(linked.null, lines.null, rtol=1e-12)
            np.testing.assert_array_equal(linked.p, lines.p)


@given(st.integers(0, 2**31 - 1), st.sampled_from(["mass", "tfce", "max"]))
def test_names_of_positions_do_not_matter(seed, method):
    rng = torch.Generator().manual_seed(seed)
    values = torch.randn(6, 12, dtype=torch.float64, generator=rng)
    links = torch.rand(12, 12, generator=rng) < 0.2
    links = links | links.mT
    order = torch.randperm(12, generator=rng)
    one = cluster_test(values, adjacency=links, method=method, threshold=1.2)
    other = cluster_test(
        values[:, order], adjacency=links[order][:, order], method=method, threshold=1.2
    )
    np.testing.assert_allclose(other.p, one.p[order], rtol=0, atol=1e-12)
    np.testing.assert_allclose(other.null, one.null, rtol=1e-9)


@given(st.integers(0, 2**31 - 1), st.floats(0.3, 3.0), st.sampled_from(["two-sided", "greater"]))
def test_clusters_part_what_is_beyond_the_threshold(seed, threshold, alternative):
    rng = torch.Generator().manual_seed(seed)
    values = torch.randn(5, 6, 7, dtype=torch.float64, generator=rng)
    found = cluster_test(values, threshold=threshold, alternative=alternative)
    size = found.t.abs() if alternative == "two-sided" else found.t
    assert torch.equal(found.masks.sum(0), (size > threshold).long())
    assert torch.equal(found.labels > 0, size > threshold)
    sums = [float(found.t[mask].sum()) for mask in found.masks]
    np.testing.assert_allclose(found.mass, sums, rtol=1e-12)
    assert (found.p[found.labels == 0] == 1).all()
    firsts = [int(mask.flatten().nonzero()[0]) for mask in found.masks]
    assert firsts == sorted(firsts)


@given(st.integers(0, 2**31 - 1), st.sampled_from(["mass", "tfce", "max"]), st.integers(1, 60))
def test_p_is_bounded_and_falls_with_what_is_compared(seed, method, n_flips):
    rng = torch.Generator().manual_seed(seed)
    values = torch.randn(9, 15, dtype=torch.float64, generator=rng)
    found = cluster_test(values, method=method, n_flips=n_flips, threshold=1.0)
    assert float(found.p.min()) >= 1 / (n_flips + 1) - 1e-12
    assert float(found.p.max()) <= 1
    ordered = found.p[found.enhanced.abs().argsort()]
    assert (ordered.diff() <= 0).all()
    if method == "max":
        assert (found.p >= found.p_uncorrected - 1e-12).all()


def test_units_and_signs_change_nothing_but_signs(rng):
    values = effect(rng)
    for method in ("mass", "tfce", "max"):
        one = cluster_test(values, method=method, alternative="greater")
        scaled = cluster_test(1e-6 * values, method=method, alternative="greater")
        turned = cluster_test(-values, method=method, alternative="less")
        np.testing.assert_allclose(scaled.p, one.p)
        np.testing.assert_allclose(turned.p, one.p)
        np.testing.assert_allclose(turned.enhanced, -one.enhanced)
        np.testing.assert_allclose(turned.null, -one.null)
        np.testing.assert_allclose(turned.mass, -one.mass)


def test_positions_left_out_are_nan_and_part_clusters(rng):
    values = effect(rng, size=4)
    values[:, 15] = torch.nan
    values[:, 3] = 0.7  # the same for all subjects: nothing tells how sure it is
    before = values.clone()
    for method in ("mass", "tfce", "max"):
        found = cluster_test(values, method=method)
        for part in (found.t, found.p, found.enhanced, found.p_uncorrected):
            assert part.isnan().nonzero().flatten().tolist() == [3, 15]
    found = cluster_test(values)
    assert int(found.labels[14]) + 1 == int(found.labels[16])
    assert int(found.labels[15]) == 0
    torch.testing.assert_close(values, before, equal_nan=True)


def test_subjects_of_one_size_have_infinite_t_in_some_flips():
    values = torch.ones(6, 4, dtype=torch.float64)
    values[0] = -1.0
    for method in ("mass", "tfce", "max"):
        found = cluster_test(values, method=method, threshold=1.0)
        assert found.t.isfinite().all()
        assert float(found.p[0]) == pytest.approx(7 / 32)  # none or one of six turned


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_number_types_are_kept(dtype, rng):
    found = cluster_test(effect(rng).to(dtype))
    assert {found.t.dtype, found.p.dtype, found.null.dtype, found.mass.dtype} == {dtype}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"values": torch.ones(1, 5)}, DataError, r"at least 2 of them, got 1"),
        ({"values": torch.ones(5)}, ShapeError, r"got shape \(5,\)"),
        ({"values": torch.ones(3, 0)}, ShapeError, r"got shape \(3, 0\)"),
        ({"values": torch.ones(3, 4).int()}, DTypeError, r"float32 or float64, got torch\.int32"),
        ({"values": torch.full((3, 4), torch.inf)}, DataError, r"must be finite, 12 are infinite"),
        ({"values": torch.full((3, 4), torch.nan)}, DataError, r"all NaN"),
        ({"threshold": 0.0}, DataError, r"positive t, got 0\.0: at 0 or below, all positions"),
        ({"threshold": -2.0}, DataError, r"positive t, got -2\.0"),
        ({"step": 0.0}, DataError, r"`step` must be positive, in units of t, got 0\.0"),
        ({"n_flips": 0}, DataError, r"`n_flips` must be at least 1, got 0"),
        ({"method": "masses"}, UnknownNameError, r"'masses'.*mass"),
        ({"alternative": "more"}, UnknownNameError, r"'more'"),
        ({"adjacency": np.eye(4)}, ShapeError, r"\(30, 30\).*got shape \(4, 4\)"),
        ({"adjacency": np.eye(30, k=1)}, DataError, r"symmetric, but of 0 and 1 .* 29 pairs"),
        ({"adjacency": [[1]]}, DTypeError, r"got list"),
    ],
)
def test_wrong_arguments_are_named(change, error, message, rng):
    options = {"values": effect(rng), **change}
    with pytest.raises(error, match=message):
        cluster_test(options.pop("values"), **options)


def test_positions_missing_in_some_subjects_are_named(rng):
    values = effect(rng).view(8, 5, 6).clone()
    values[2, 1, 3] = torch.nan
    message = r"1 position of 30 are NaN in some subjects .* \(1, 3\) in the subjects \[2\]"
    with pytest.raises(DataError, match=message):
        cluster_test(values)
