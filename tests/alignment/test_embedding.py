"""Embeddings against scikit-learn and NumPy."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from softrsa.alignment.embedding import Embedding, rotated
from softrsa.errors import ShapeError


def units(rng, n, p, dtype=torch.float64):
    return 3 + torch.randn(n, p, dtype=dtype, generator=rng) * torch.linspace(1, 3, p, dtype=dtype)


@pytest.mark.parametrize(("n", "p"), [(20, 6), (12, 50)])
def test_whitened_principal_components_also_of_new_stimuli(n, p, rng):
    x, new = units(rng, n, p), units(rng, 7, p)
    embedding = Embedding.fit(x, 4)
    oracle = PCA(4, whiten=True, svd_solver="full").fit(x.numpy())
    for data in (x, new):
        expected = oracle.transform(data.numpy())
        found = embedding.project(data).numpy()
        sign = np.sign((found * expected).sum(0))
        np.testing.assert_allclose(found, expected * sign, rtol=0, atol=1e-8)


def test_scores_have_unit_variance_and_are_uncorrelated(rng):
    x = units(rng, 30, 100, torch.float32)
    scores = Embedding.fit(x, 5).project(x).numpy()
    np.testing.assert_allclose(np.cov(scores.T), np.eye(5), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_more_components_than_the_rank(dtype, rng):
    x = units(rng, 20, 3, dtype) @ torch.randn(3, 40, dtype=dtype, generator=rng)
    embedding = Embedding.fit(x, 9)
    assert embedding.components.shape == (40, 3)
    assert embedding.project(x).isfinite().all()
    assert Embedding.fit(torch.ones(10, 4, dtype=dtype), 2).components.shape == (4, 0)
    assert Embedding.fit(x[:3], 9).components.shape == (40, 2)


def test_sign_does_not_depend_on_the_order_of_units(rng):
    x = units(rng, 20, 8)
    order = torch.randperm(8, generator=rng)
    a, b = Embedding.fit(x, 4), Embedding.fit(x[:, order], 4)
    torch.testing.assert_close(b.project(x[:, order]), a.project(x), rtol=0, atol=1e-9)


@pytest.mark.parametrize(("n", "p"), [(10, 4), (10, 40_000), (6, 6)])
def test_rotation_keeps_inner_products_and_embeddings(n, p, rng):
    x = torch.randn(n, p, generator=rng)
    small = rotated(x)
    assert small.shape == (n, min(n, p))
    assert small.dtype == torch.float64
    gram = x.double() @ x.double().T
    torch.testing.assert_close(small @ small.T, gram, rtol=1e-12, atol=1e-9 * p)
    train, test = slice(0, n - 2), slice(n - 2, n)
    wide, narrow = Embedding.fit(x[train].double(), 3), Embedding.fit(small[train], 3)
    torch.testing.assert_close(
        narrow.project(small[test]), wide.project(x[test].double()), rtol=0, atol=1e-6
    )


def test_other_units_are_refused(rng):
    embedding = Embedding.fit(units(rng, 10, 6), 2)
    with pytest.raises(ShapeError, match=r"fitted on 6 units, got 5"):
        embedding.project(units(rng, 3, 5))
