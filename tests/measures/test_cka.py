"""CKA against its definition by kernels, and the identities of SPEC section 4."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import pdist, squareform

from softrsa.errors import DataError
from softrsa.measures import angular_cka, centered_pearson, debiased_cka, linear_cka, rbf_cka
from softrsa.measures._products import kernel_products

SHAPES = [(12, 4, 3), (6, 20, 30), (6, 20, 1), (30, 40, 2), (30, 2, 40), (5, 5, 5)]
pairs = arrays(np.float64, (2, 7, 3), elements=st.floats(-10, 10))


def draw(rng, shape):
    n, p, q = shape
    return (torch.randn(n, k, dtype=torch.float64, generator=rng) for k in (p, q))


def kernel_cka(k, m):
    """tr(KHLH) / sqrt(tr(KHKH) tr(LHLH)), as in the paper."""
    n = len(k)
    h = np.eye(n) - 1 / n
    return np.trace(k @ h @ m @ h) / np.sqrt(np.trace(k @ h @ k @ h) * np.trace(m @ h @ m @ h))


def hsic_unbiased(k, m):
    """Song et al.'s estimator, as printed."""
    n, one = len(k), np.ones(len(k))
    k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
    product = one @ k @ one * (one @ m @ one) / ((n - 1) * (n - 2))
    return (np.trace(k @ m) + product - 2 / (n - 2) * one @ k @ m @ one) / (n * (n - 3))


@pytest.mark.parametrize("shape", SHAPES)
def test_linear_and_angular_are_the_kernels(shape, rng):
    x, y = draw(rng, shape)
    expected = kernel_cka((x @ x.T).numpy(), (y @ y.T).numpy())
    assert linear_cka(x, y).item() == pytest.approx(expected, abs=1e-13)
    angle = np.arccos(expected) / (np.pi / 2)
    assert angular_cka(x, y).item() == pytest.approx(1 - angle, abs=1e-13)


@pytest.mark.parametrize("shape", SHAPES)
def test_debiased_is_songs_estimator_and_centered_pearson_of_kernels(shape, rng):
    x, y = draw(rng, shape)
    k, m = (x @ x.T).numpy(), (y @ y.T).numpy()
    expected = hsic_unbiased(k, m) / np.sqrt(hsic_unbiased(k, k) * hsic_unbiased(m, m))
    found = debiased_cka(x + 3, y - 2).item()  # shifts move the kernels, not the estimator
    assert found == pytest.approx(expected, abs=1e-11)
    assert found == pytest.approx(centered_pearson(x @ x.T, y @ y.T).item(), abs=1e-11)


def test_debiased_is_near_zero_where_the_biased_is_not(rng):
    x, y = torch.randn(2, 200, 10, 100, dtype=torch.float64, generator=rng)
    assert linear_cka(x, y).mean() > 0.8
    assert debiased_cka(x, y).mean().abs() < 0.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_orthogonal_stimuli_have_no_debiased_score(dtype, rng):
    """Their kernel is the same off the diagonal: what is left of it is rounding."""
    x = 0.3 * torch.eye(6, dtype=dtype)
    y = torch.randn(6, 3, dtype=dtype, generator=rng)
    assert debiased_cka(x, y).isnan()
    assert debiased_cka(y, x).isnan()


@pytest.mark.parametrize("bandwidth", ["median", 0.7, 5.0])
def test_rbf_is_the_kernels(bandwidth, rng):
    x, y = draw(rng, (12, 4, 3))

    def kernel(z):
        d = pdist(z.numpy())
        sigma = np.median(d) if bandwidth == "median" else bandwidth
        return np.exp(-(squareform(d) ** 2) / (2 * sigma**2))

    expected = kernel_cka(kernel(x), kernel(y))
    assert rbf_cka(x, y, bandwidth=bandwidth).item() == pytest.approx(expected, abs=1e-12)


def test_rbf_of_a_wide_bandwidth_is_linear(rng):
    x, y = draw(rng, (12, 4, 3))
    assert rbf_cka(x, y, bandwidth=1e3).item() == pytest.approx(linear_cka(x, y).item(), abs=1e-4)
    with pytest.raises(DataError, match=r"`bandwidth` must be positive and finite, got -1"):
        rbf_cka(x, y, bandwidth=-1.0)


@given(pairs)
def test_cka_is_the_cosine_of_whitened_squared_euclidean_rdms(values):
    """Diedrichsen et al. (2020): with V from independent noise, by a dense inverse."""
    x, y = torch.from_numpy(values)
    n = len(x)
    row, column = np.triu_indices(n, 1)
    contrast = np.zeros((len(row), n))
    contrast[np.arange(len(row)), row], contrast[np.arange(len(row)), column] = 1, -1
    inverse = np.linalg.inv((contrast @ contrast.T) ** 2)
    d, e = (pdist(z, "sqeuclidean") for z in values)
    if min(d.max(), e.max()) > 1e-3:
        expected = d @ inverse @ e / np.sqrt(d @ inverse @ d * (e @ inverse @ e))
        assert linear_cka(x, y).item() == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("shape", SHAPES)
def test_nothing_larger_than_the_smaller_of_both_products_is_formed(shape, rng):
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor) and "mm" in str(function):
                self.size = max(self.size, result.numel())
            return result

    x, y = (z.requires_grad_() for z in draw(rng, shape))
    with Largest() as largest:
        kernel_products(x, y).xy.backward()
    n, p, q = shape
    # the gradients of the two have their own size
    assert largest.size <= max(min(n * n, p * q), n * p, n * q)


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_fourth_powers_beyond_float32(scale, rng):
    x, y = draw(rng, (12, 4, 3))
    for function in (linear_cka, angular_cka, debiased_cka, rbf_cka):
        found = function((scale * x).float(), y.float()).item()
        assert found == pytest.approx(function(x, y).item(), abs=1e-5)
