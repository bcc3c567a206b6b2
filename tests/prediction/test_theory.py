"""The decomposition of the loss, and the optimum that training reaches."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from softrsa.errors import DataError, DTypeError, ShapeError
from softrsa.prediction import pair_and_triplet_terms, triplet_optimum


@given(st.integers(0, 10**6), st.integers(1, 6))
def test_terms_by_double_sum(seed, n):
    random = np.random.default_rng(seed)
    weights, y, z = random.dirichlet(np.ones(n), 3), random.normal(size=3), random.normal(size=n)
    found = pair_and_triplet_terms(*map(torch.from_numpy, (weights, y, z)))
    for i in range(3):
        d = y[i] - z
        pairs = sum(weights[i, j] ** 2 * d[j] ** 2 for j in range(n))
        products = np.outer(weights[i] * d, weights[i] * d)
        cross = products[~np.eye(n, dtype=bool)].sum()
        np.testing.assert_allclose([x[i] for x in found], [pairs, cross], atol=1e-12)
        np.testing.assert_allclose(pairs + cross, (y[i] - weights[i] @ z) ** 2, atol=1e-12)


def test_neighbors_are_the_anchors_by_default():
    weights = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    found = pair_and_triplet_terms(weights, torch.tensor([0.0, 3.0]))
    assert [x.tolist() for x in found] == [[9, 9], [0, 0]]


@given(st.floats(-3, 3), st.floats(-3, 3), st.floats(-3, 3))
def test_no_other_weights_are_better(y, first, second):
    labels = torch.tensor([first, second], dtype=torch.float64)
    best = triplet_optimum(torch.tensor(y, dtype=torch.float64), labels)
    assert best.sum().item() == pytest.approx(1)
    share = np.linspace(0, 1, 201)
    least = ((y - share * first - (1 - share) * second) ** 2).min()
    assert (y - best @ labels).square().item() <= least + 1e-12


def test_ratio_between_and_the_nearer_label_outside():
    """p_ij / p_ik = (y_k - y_i) / (y_i - y_j), worked by hand."""
    labels = torch.tensor([[1.0, 5.0], [1.0, 5.0], [1.0, 5.0], [2.0, 2.0]])
    found = triplet_optimum(torch.tensor([2.0, 0.0, 9.0, 1.0]), labels)
    assert found.tolist() == [[0.75, 0.25], [1, 0], [0, 1], [0.5, 0.5]]


def test_training_a_free_similarity_matrix_reaches_the_optimum(rng):
    """Three samples, leave-one-out softmax of free similarities, mean squared error."""
    y = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    s = (0.1 * torch.randn(3, 3, generator=rng, dtype=torch.float64)).requires_grad_()
    optimizer = torch.optim.Adam([s], lr=0.1)
    itself = torch.eye(3, dtype=torch.bool)
    for _ in range(600):
        weights = s.masked_fill(itself, -torch.inf).softmax(-1)
        loss = (weights @ y - y).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    others = [[1, 2], [0, 2], [0, 1]]
    expected = triplet_optimum(y, torch.stack([y[pair] for pair in others]))
    found = torch.stack([weights[i, pair] for i, pair in enumerate(others)]).detach()
    # the extremes are reached in the limit of infinite similarities only
    torch.testing.assert_close(found, expected, rtol=0, atol=5e-3)
    torch.testing.assert_close(found[1], expected[1], rtol=0, atol=1e-6)


def test_errors():
    with pytest.raises(ShapeError, match=r"got \(2, 3\), \(2,\) and \(2,\)"):
        pair_and_triplet_terms(torch.ones(2, 3), torch.ones(2))
    with pytest.raises(DTypeError, match="one number type"):
        pair_and_triplet_terms(torch.ones(2, 2), torch.ones(2).double())
    with pytest.raises(ShapeError, match=r"\(\.\.\., 2\), got \(3,\)"):
        triplet_optimum(torch.ones(()), torch.ones(3))
    with pytest.raises(DataError, match="finite"):
        triplet_optimum(torch.tensor(torch.nan), torch.ones(2))
