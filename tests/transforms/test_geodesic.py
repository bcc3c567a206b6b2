"""Geodesic transform: SciPy's shortest paths, the published rules, ranks and what is undefined."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import shortest_path
from scipy.spatial.distance import squareform
from scipy.stats import rankdata

from softrsa.errors import DataError, DTypeError, UnknownNameError
from softrsa.transforms import geo_topological, geo_topological_type, geodesic

RULES = [("p_shortest", 0.3), ("p_nearest", 0.25), ("k_nearest", 2), ("twostep", None)]


def by_scipy(rdm, keep, amount, published, *, edges_only=False):
    """Shortest paths of one condensed RDM, rule by rule, from the description of the procedure."""
    x = rdm if keep == "twostep" else rankdata(rdm)
    x = (x - x.min()) / (x.max() - x.min())
    n = len(squareform(x))
    full = squareform(x)
    weights = np.full((n, n), np.nan)  # NaN: no edge
    k = {"k_nearest": amount, "p_nearest": int((amount or 0) * n)}.get(keep)
    for i in range(n):
        for j in range(i + 1, n):
            near_i, near_j = (nearest(full[end], end, k, published) for end in (i, j))
            short = {
                "p_shortest": full[i, j] <= np.quantile(x, min(amount or 0, 1)),
                "twostep": full[i, j] != 1,
            }.get(keep, j in near_i or (not published and i in near_j))
            if short and not (published and full[i, j] == 0):
                weights[i, j] = full[i, j]
    if edges_only:
        return weights
    kept = np.nonzero(~np.isnan(weights))
    # SciPy drops zeros of dense input, not those written into a sparse one
    graph = csr_matrix((weights[kept], kept), shape=(n, n))
    return squareform(shortest_path(graph, method="FW", directed=False), checks=False)


def nearest(row, itself, k, published):
    """The nearest k, and all that are as near as the last of them, or the first of these."""
    others = [a for a in np.argsort(row, kind="stable") if a != itself]
    if published or not k:
        return others[:k]
    return [a for a in others if row[a] <= row[others[k - 1]]]


@pytest.mark.parametrize("zero_edges", ["keep", "drop"])
@pytest.mark.parametrize(("keep", "amount"), RULES)
def test_paths_are_those_of_scipy(keep, amount, zero_edges):
    rdms = np.random.default_rng(1).random((3, 2, 66))
    if keep == "twostep":
        rdms = geo_topological(torch.from_numpy(rdms), 0.3, 0.7).numpy()
    options = {"keep": keep, "amount": amount, "zero_edges": zero_edges}
    lengths = geodesic(torch.from_numpy(rdms), rank=False, **options)
    ranks = geodesic(torch.from_numpy(rdms), **options)
    for index in np.ndindex(3, 2):
        expected = by_scipy(rdms[index], keep, amount, published=zero_edges == "drop")
        np.testing.assert_allclose(lengths[index].numpy(), expected, atol=1e-12)
        ours = rankdata(np.round(lengths[index].numpy(), 9))  # sums in another order may tie
        np.testing.assert_allclose(rankdata(np.round(expected, 9)), ours)
        assert ranks[index].sum().item() == pytest.approx(66 * 67 / 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("levels", [None, 40])
@pytest.mark.parametrize(("keep", "amount"), RULES[:3])
def test_ranks_are_those_of_exact_lengths(keep, amount, levels, dtype):
    """Shortest paths over whole numbers; rounded fractions broke 7 of 10 of their ties."""
    rdms = np.random.default_rng(2).random((2, 435))
    rdms = np.round(rdms, 5) if levels is None else np.round(rdms * levels)
    found = geodesic(torch.from_numpy(rdms).to(dtype), keep=keep, amount=amount)
    assert found.dtype == dtype
    for one, rdm in zip(found.numpy(), rdms, strict=True):
        twice = np.round(2 * rankdata(rdm)).astype(int)
        whole = squareform(twice - twice.min())
        # edges by the rule itself: lengths that are finite without a detour
        edges = by_scipy(rdm, keep, amount, published=False, edges_only=True)
        kept = np.nonzero(~np.isnan(edges))
        graph = csr_matrix((whole[kept].astype(float), kept), shape=whole.shape)
        lengths = squareform(shortest_path(graph, method="FW", directed=False), checks=False)
        finite = lengths[np.isfinite(lengths)]
        assert (finite == np.round(finite)).all()
        assert len(np.unique(finite)) < 0.9 * len(finite) or keep == "k_nearest"
        np.testing.assert_array_equal(one, rankdata(lengths))


def test_zero_edges_after_clamping_differ_as_published():
    """Pairs clamped to 0 stay at 0 if their edges are kept, and take a detour if not."""
    rdm = geo_topological(torch.rand(66, generator=torch.Generator().manual_seed(0)), 0.3, 0.7)
    kept = geodesic(rdm, keep="twostep", rank=False)
    dropped = geodesic(rdm, keep="twostep", rank=False, zero_edges="drop")
    clamped = rdm == 0
    assert clamped.sum() == 20
    assert (kept[clamped] == 0).all()
    assert (dropped[clamped] > 0).all()


@given(st.integers(4, 12), st.integers(0, 10**6), st.sampled_from(RULES[:3]))
def test_paths_are_shorter_than_edges_and_obey_the_triangle(n, seed, rule):
    rdm = torch.rand(n * (n - 1) // 2, dtype=torch.float64, generator=_generator(seed))
    paths = torch.from_numpy(
        squareform(geodesic(rdm, keep=rule[0], amount=rule[1], rank=False).numpy())
    )
    assert (paths[:, :, None] <= paths[:, None, :] + paths.T[None, :, :] + 1e-12).all()
    increasing = geodesic(3 * rdm + 1, keep=rule[0], amount=rule[1])
    assert increasing.equal(geodesic(rdm, keep=rule[0], amount=rule[1]))


def test_without_a_path_a_pair_ranks_highest():
    rdm = torch.tensor([0.1, 0.8, 0.9, 0.7, 0.6, 0.2])  # 0-1 and 2-3
    lengths = geodesic(rdm, keep="k_nearest", amount=1, rank=False)
    assert lengths.tolist() == pytest.approx([0, *[np.inf] * 4, 0.2])
    assert geodesic(rdm, keep="k_nearest", amount=1).tolist() == [1, 4.5, 4.5, 4.5, 4.5, 2]
    square = geodesic(torch.from_numpy(squareform(rdm.numpy())), keep="k_nearest", amount=1)
    assert square.diagonal().tolist() == [0, 0, 0, 0]
    assert square[2, 3] == 2


def test_constant_and_nan_rdms_are_nan_and_leave_others_alone():
    good = torch.rand(10, generator=_generator(0))
    stack = torch.stack(
        [good, torch.ones(10), good.clone().index_fill_(0, torch.tensor(3), np.nan)]
    )
    found = geodesic(stack, keep="p_shortest", amount=0.5)
    assert found[1:].isnan().all()
    assert found[0].equal(geodesic(good, keep="p_shortest", amount=0.5))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"keep": "nearest"}, UnknownNameError, "keep 'nearest'"),
        ({"keep": "twostep", "zero_edges": "no"}, UnknownNameError, "zero_edges 'no'"),
        ({"keep": "twostep", "amount": 1}, DataError, "takes no `amount`, got 1"),
        ({"keep": "k_nearest", "amount": 5}, DataError, "from 0 to 4, got 5"),
        ({"keep": "k_nearest"}, DataError, "from 0 to 4, got None"),
        ({"keep": "p_shortest", "amount": 1.5}, DataError, "from 0 to 1, got 1.5"),
    ],
)
def test_bad_options(options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        geodesic(torch.rand(10), **options)
    with pytest.raises(DTypeError, match="int64"):
        geodesic(torch.arange(10), keep="twostep")


@pytest.mark.parametrize(
    ("bounds", "kind"),
    [
        ((0, 0.4), "local"), ((0.05, 0.36), "intermediate"), ((0.6, 1), "global"),
        ((0, 1), "geometry"), ((0.1, 0.9), "geometry"), ((0.1, 0.89), "intermediate"),
        ((0.4, 0.6), "topology"), ((0.39, 0.6), "intermediate"), ((0.5, 0.50001), "topology"),
    ],
)  # fmt: skip
def test_types_of_the_paper(bounds, kind):
    assert geo_topological_type(*bounds) == kind


def test_types_need_ordered_quantiles():
    with pytest.raises(DataError, match=r"got lower=0.6, upper=0.5"):
        geo_topological_type(0.6, 0.5)


def _generator(seed):
    return torch.Generator().manual_seed(seed)
