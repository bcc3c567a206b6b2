"""Whitened correlations against the dense inverse of V, rsatoolbox and linear CKA."""

import functools

import numpy as np
import pytest
import scipy.sparse.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from rsatoolbox.rdm import RDMs, compare

from softrsa.errors import DataError, DTypeError, ShapeError
from softrsa.measures import get, linear_cka, whitened_cosine, whitened_pearson
from softrsa.pairs import condense
from softrsa.rsm import similarity_matrix

BOTH = pytest.mark.parametrize(
    ("function", "method"), [(whitened_cosine, "cosine_cov"), (whitened_pearson, "corr_cov")]
)


def draw(rng, *shape):
    return torch.rand(*shape, dtype=torch.float64, generator=rng)


def covariance(rng, n):
    root = torch.randn(n, n, dtype=torch.float64, generator=rng)
    return root @ root.mT / n + 0.3 * torch.eye(n)


def dense(x, y, sigma):
    """The definition: V of all pairs with all pairs, inverted."""
    n = len(sigma)
    row, column = np.triu_indices(n, 1)
    contrast = np.eye(n)[row] - np.eye(n)[column]
    inverse = np.linalg.inv((contrast @ sigma @ contrast.T) ** 2)
    size = [np.sqrt(np.einsum("ij,jk,ik->i", v, inverse, v)) for v in (x, y)]
    return x @ inverse @ y.T / size[0][:, None] / size[1]


@BOTH
@pytest.mark.parametrize("n", [3, 4, 9])
def test_dense_inverse(function, method, n, rng):
    x, y = draw(rng, 3, n * (n - 1) // 2), draw(rng, 2, n * (n - 1) // 2)
    left, right = x.numpy(), y.numpy()
    if function is whitened_pearson:
        left, right = (v - v.mean(1, keepdims=True) for v in (left, right))
    sigma = covariance(rng, n)
    variances = sigma.diagonal()
    for noise, full in ((None, torch.eye(n)), (sigma, sigma), (variances, variances.diag())):
        expected = dense(left, right, full.double().numpy())
        found = function(x[:, None], y, noise_covariance=noise)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@BOTH
@pytest.mark.parametrize("n", [5, 12])
def test_rsatoolbox(function, method, n, rng, monkeypatch):
    x, y = draw(rng, 3, n * (n - 1) // 2), draw(rng, 2, n * (n - 1) // 2)
    y[1] = (3 * y[1]).round() + 1
    sigma = covariance(rng, n)
    rdms = RDMs(x.numpy().copy()), RDMs(y.numpy().copy())
    np.testing.assert_allclose(function(x[:, None], y), compare(*rdms, method), rtol=0, atol=1e-13)
    found = function(x[:, None], y, noise_covariance=sigma)
    loose = compare(*rdms, method, sigma_k=sigma.numpy())
    np.testing.assert_allclose(found, loose, rtol=0, atol=1e-4)
    # its solver stops at a relative 1e-5 by default: let it go on
    exact = functools.partial(scipy.sparse.linalg.cg, rtol=1e-13)
    monkeypatch.setattr(scipy.sparse.linalg, "cg", exact)
    tight = compare(*rdms, method, sigma_k=sigma.numpy())
    np.testing.assert_allclose(found, tight, rtol=0, atol=1e-8)


def test_of_squared_distances_it_is_linear_cka(rng):
    """Also as the registry takes it, from similarities of any kind that squared distances have."""
    x, y = draw(rng, 8, 5), draw(rng, 8, 3)
    expected = linear_cka(x, y)
    distances = [similarity_matrix(v, similarity="sqeuclidean") for v in (x, y)]
    score = whitened_cosine(*(condense(-d) for d in distances))
    torch.testing.assert_close(score, expected)
    entry = get("whitened_cosine")
    torch.testing.assert_close(entry.between(*distances), expected)
    kernels = [similarity_matrix(v, similarity="dot") for v in (x, y)]
    torch.testing.assert_close(entry.between(*kernels), expected)


def test_from_correlations_it_is_that_of_correlation_distances(rng):
    rsms = [similarity_matrix(draw(rng, 8, 20)) for _ in range(2)]
    rdms = [RDMs(condense(1 - rsm)[None].numpy()) for rsm in rsms]
    for name, method in (("whitened_cosine", "cosine_cov"), ("whitened_pearson", "corr_cov")):
        expected = compare(*rdms, method).item()
        assert get(name).between(*rsms).item() == pytest.approx(expected, abs=1e-13)


@given(arrays(np.float64, (3, 10), elements=st.floats(0, 10)), st.floats(1e-3, 1e3))
def test_scale_of_rdm_and_noise_does_not_matter(values, scale):
    x, y = torch.from_numpy(values[:2]) + torch.arange(10) / 10
    variances = 0.1 + torch.from_numpy(values[2, :5])
    for function in (whitened_cosine, whitened_pearson):
        score = function(x, y, noise_covariance=variances)
        assert abs(score) <= 1 + 1e-12
        moved = function(scale * x, y, noise_covariance=scale * variances)
        torch.testing.assert_close(moved, score, rtol=0, atol=1e-9)
        order = torch.randperm(5, generator=torch.Generator().manual_seed(int(scale)))
        n = torch.zeros(5, 5, dtype=x.dtype)
        row, column = torch.triu_indices(5, 5, 1)
        permuted = []
        for vector in (x, y):
            square = n.index_put((row, column), vector)
            permuted.append(condense((square + square.mT)[order][:, order]))
        moved = function(*permuted, noise_covariance=variances[order])
        torch.testing.assert_close(moved, score, rtol=0, atol=1e-9)


@pytest.mark.parametrize("function", [whitened_cosine, whitened_pearson])
def test_gradients(function, rng):
    x, y = draw(rng, 2, 1, 6).requires_grad_(), draw(rng, 2, 6).requires_grad_()
    assert torch.autograd.gradcheck(function, (x, y))
    root = covariance(rng, 4).requires_grad_()

    def with_noise(x, y, root):
        return function(x, y, noise_covariance=root @ root.mT)

    assert torch.autograd.gradcheck(with_noise, (x, y, root))
    assert torch.autograd.gradgradcheck(function, (x, y))


@pytest.mark.parametrize("function", [whitened_cosine, whitened_pearson])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_undefined_and_number_types(function, dtype, rng):
    y = draw(rng, 3, 10).to(dtype)
    constant = torch.full((10,), 0.0 if function is whitened_cosine else 0.1, dtype=dtype)
    assert function(constant, y).isnan().all()
    y[1, 2] = torch.nan
    found = function(y[0], y)
    assert found.isnan().tolist() == [False, True, False]
    assert found.dtype == dtype
    assert found[0].item() == pytest.approx(1, abs=1e-6)
    exact = function(y[0].double(), y[2].double())
    assert found[2].item() == pytest.approx(exact.item(), abs=1e-6)


@pytest.mark.parametrize("function", [whitened_cosine, whitened_pearson])
def test_wrong_arguments_are_named(function, rng):
    x = draw(rng, 6)

    def with_noise(noise):
        return function(x, x, noise_covariance=noise)

    with pytest.raises(ShapeError, match=r"n \(n - 1\) / 2 pairs .* got 7; 4 stimuli have 6"):
        function(draw(rng, 7), draw(rng, 7))
    with pytest.raises(ShapeError, match=r"`x` has 6 pairs \(4 stimuli\), `y` has 10 pairs"):
        function(x, draw(rng, 10))
    with pytest.raises(ShapeError, match=r"\(4, 4\) or \(4,\) for 4 stimuli .*got \(3, 4\)"):
        with_noise(torch.ones(3, 4))
    with pytest.raises(DTypeError, match=r"`noise_covariance` must be .*got torch\.int64"):
        with_noise(torch.eye(4).long())
    lopsided = torch.eye(4).double()
    lopsided[0, 2] = 0.25
    with pytest.raises(DataError, match=r"must be symmetric .* differ by up to 0\.25"):
        with_noise(lopsided)
    with pytest.raises(DataError, match=r"must be symmetric and finite.* up to nan"):
        with_noise(torch.full((4, 4), torch.nan))
    with pytest.raises(DataError, match=r"positive definite; its smallest eigenvalue is -0\.5"):
        with_noise(torch.tensor([1.0, 2.0, -0.5, 1.0]))
    with pytest.raises(DataError, match=r"positive definite; its smallest eigenvalue is"):
        with_noise(torch.ones(4, 4))
