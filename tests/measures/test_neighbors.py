"""Measures of neighborhoods: scikit-learn's neighbors, the formula by hand, and what they mean."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from softrsa.errors import DataError
from softrsa.measures import cknna, mutual_knn, neighbor_jaccard
from softrsa.rsm import similarity_matrix

MEASURES = [mutual_knn, neighbor_jaccard, cknna]


def points(rng, n=40, p=6):
    return torch.randn(2, n, p, generator=rng, dtype=torch.float64)


def neighbors(x, k):
    found = NearestNeighbors(n_neighbors=k).fit(x.numpy()).kneighbors(return_distance=False)
    return [set(row.tolist()) for row in found]


@pytest.mark.parametrize("k", [1, 5, 20])
def test_neighbors_are_those_of_scikit_learn(k, rng):
    x, y = points(rng)
    rsms = [similarity_matrix(one, similarity="l2") for one in (x, y)]
    pairs = list(zip(neighbors(x, k), neighbors(y, k), strict=True))
    shared = np.mean([len(a & b) / k for a, b in pairs])
    jaccard = np.mean([len(a & b) / len(a | b) for a, b in pairs])
    assert float(mutual_knn(*rsms, k=k)) == pytest.approx(shared, abs=1e-12)
    assert float(neighbor_jaccard(*rsms, k=k)) == pytest.approx(jaccard, abs=1e-12)


def test_cknna_by_hand(rng):
    k = 4
    rsms = [similarity_matrix(one, similarity="dot").numpy() for one in points(rng, n=15)]
    own = np.eye(15, dtype=bool)
    rests, masks = [], []
    for rsm in rsms:
        row = np.where(own, 0.0, rsm)
        rests.append(np.where(own, 0.0, rsm - row.sum(1, keepdims=True) / 14))
        nearest = np.argsort(-np.where(own, -np.inf, rsm), axis=1)[:, :k]
        mask = np.zeros_like(own)
        np.put_along_axis(mask, nearest, True, 1)
        masks.append(mask)
    (a, b), (of_a, of_b) = rests, masks
    expected = (a * b)[of_a & of_b].sum() / np.sqrt((a[of_a] ** 2).sum() * (b[of_b] ** 2).sum())
    found = cknna(*map(torch.from_numpy, rsms), k=k)
    assert float(found) == pytest.approx(expected, abs=1e-12)


@given(st.integers(5, 25), st.integers(1, 4), st.integers(0, 2**31))
def test_unrelated_rsms_share_k_of_the_others(n, k, seed):
    """Over all orders of the stimuli of one side the mean is k / (n - 1): over many, nearly."""
    rng = torch.Generator().manual_seed(seed)
    x, y = (torch.rand(n, n, generator=rng, dtype=torch.float64) for _ in range(2))
    orders = torch.stack([torch.randperm(n, generator=rng) for _ in range(300)])
    found = mutual_knn(x, y[orders[:, :, None], orders[:, None]], k=k).mean()
    assert float(found) == pytest.approx(k / (n - 1), abs=0.1)


def test_ties_share_the_last_places():
    x = torch.tensor([[9, 3, 2, 2], [3, 9, 1, 0], [2, 1, 9, 0], [2, 1, 0, 9]]).double()
    y = torch.tensor([[9, 3, 2, 0], [3, 9, 1, 0], [2, 1, 9, 0], [2, 1, 0, 9]]).double()
    # of row 0, one neighbor is common, and of the two tied ones half is
    assert float(mutual_knn(x, y, k=2)) == pytest.approx((0.75 + 1 + 1 + 1) / 4)
    assert float(neighbor_jaccard(x, y, k=2)) == pytest.approx((1.5 / 2.5 + 3) / 4)


@pytest.mark.parametrize("measure", MEASURES)
def test_as_many_neighbors_as_asked_for(measure, rng):
    few = torch.rand(2, 9, 9, generator=rng, dtype=torch.float64)
    torch.testing.assert_close(measure(*few), measure(*few, k=2))  # one in four of 8 others
    many = torch.rand(2, 60, 60, generator=rng, dtype=torch.float64)
    torch.testing.assert_close(measure(*many), measure(*many, k=10))
    with pytest.raises(DataError, match=r"`k` must be at most 8, the number of other .* got 9"):
        measure(*few, k=9)
    with pytest.raises(DataError, match=r"`k` must be at least 1, got 0"):
        measure(*few, k=0)


@pytest.mark.parametrize("measure", MEASURES)
def test_missing_similarities_are_undefined(measure, rng):
    x, y = torch.rand(2, 9, 9, generator=rng, dtype=torch.float64)
    x[2, 3] = torch.nan
    assert measure(x, y).isnan()


def test_ties_count_as_in_a_random_order(rng):
    """The mean over orders of the ties, drawn for each RSM by itself."""
    x, y = torch.randint(0, 3, (2, 9, 9), generator=rng).double()
    noise = 1e-3 * torch.rand(2, 4000, 9, 9, generator=rng, dtype=torch.float64)
    for k in (1, 3):
        expected = mutual_knn(x + noise[0], y + noise[1], k=k).mean()
        assert float(mutual_knn(x, y, k=k)) == pytest.approx(float(expected), abs=0.01)


def test_rsms_of_ties_alone_say_nothing(rng):
    constant, y = torch.ones(9, 9).double(), torch.rand(9, 9, generator=rng, dtype=torch.float64)
    for other in (constant, y):
        assert float(mutual_knn(constant, other, k=2)) == pytest.approx(2 / 8)
        assert float(neighbor_jaccard(constant, other, k=2)) == pytest.approx(0.5 / 3.5)
        assert cknna(constant, other, k=2).isnan()


def test_least_cknna():
    """Of neighbors below the mean: each RSM has one far above it, and the other's just below."""
    x, y = torch.zeros(2, 9, 9, dtype=torch.float64)
    places = torch.arange(9)
    x[places, places - 1], x[places, places - 2] = 1.0, 1e-6
    y[places, places - 1], y[places, places - 2] = 1e-6, 1.0
    assert -0.29 < float(cknna(x, y)) < -0.27  # -2 r / (1 + r^2) of r = 1 / 7


def test_float32_similarities_that_differ_by_rounding_are_tied():
    rng = torch.Generator().manual_seed(0)
    points = torch.randint(0, 3, (24, 4), generator=rng).double()
    exact = -torch.cdist(points, points)  # many equal distances
    y = torch.rand(24, 24, generator=rng, dtype=torch.float64)
    shaken = exact.float() * (1 + 2e-7 * torch.rand(24, 24, generator=rng))
    assert not torch.equal(shaken, exact.float())
    for measure in (mutual_knn, neighbor_jaccard):
        torch.testing.assert_close(
            measure(shaken, y.float()).double(), measure(exact, y), rtol=0, atol=1e-6
        )
