"""CKA against its definition by kernels, and the identities of SPEC section 4."""

from __future__ import annotations

import weakref
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import pdist, squareform
from torch.utils.data import DataLoader, TensorDataset

from softrsa.errors import DataError, DTypeError, ShapeError
from softrsa.measures import (
    angular_cka,
    centered_pearson,
    debiased_cka,
    linear_cka,
    minibatch_cka,
    rbf_cka,
    unit_debiased_cka,
)
from softrsa.measures.cka import _of_pairs_of_units, kernel_products, unbiased_hsics

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


N = 7


def features(rng, *lead, n=N, dtype=torch.float64):
    x, y = torch.randn(*lead, n, 3, generator=rng), torch.randn(*lead, n, 5, generator=rng)
    return x.to(dtype), (y + x.sum(-1, keepdim=True)).to(dtype)


def song_hsic(k, m):
    """Unbiased estimator of Song et al. (2012), eq. 5, as it stands there."""
    n = len(k)
    k, m, one = k - np.diag(np.diag(k)), m - np.diag(np.diag(m)), np.ones(n)
    sums = one @ k @ one * (one @ m @ one) / ((n - 1) * (n - 2))
    return (np.trace(k @ m) + sums - 2 / (n - 2) * one @ k @ m @ one) / (n * (n - 3))


@pytest.mark.parametrize("size", [4, 5, N])
def test_all_batches_together_are_all_stimuli(size, rng):
    x, y = features(rng)
    subsets = [list(chosen) for chosen in combinations(range(N), size)]
    # from outside: the mean of HSIC over all batches is that of all stimuli, so their ratio is CKA
    k, m = (z.numpy() @ z.numpy().T for z in (x + 3, y))
    hsics = [
        [song_hsic(a[np.ix_(s, s)], b[np.ix_(s, s)]) for s in subsets]
        for a, b in ((k, m), (k, k), (m, m))
    ]
    xy, xx, yy = (np.mean(values) for values in hsics)
    np.testing.assert_allclose(xy, song_hsic(k, m), rtol=1e-10)
    found = minibatch_cka((x[s] + 3, y[s]) for s in subsets)
    torch.testing.assert_close(float(found), xy / np.sqrt(xx * yy), rtol=1e-10, atol=0)
    torch.testing.assert_close(found, debiased_cka(x, y), rtol=1e-10, atol=0)


def test_one_batch_of_all_is_debiased_cka(rng):
    x, y = features(rng, 2, n=30)
    found = minibatch_cka(x, y, batch_size=30)
    torch.testing.assert_close(found, debiased_cka(x, y), rtol=1e-12, atol=0)
    assert found.shape == (2,)


def test_many_batches_come_close(rng):
    x, y = features(rng, n=60)
    found = minibatch_cka(x, y, batch_size=8, epochs=100)
    few = torch.stack([debiased_cka(x[i : i + 8], y[i : i + 8]) for i in range(0, 56, 8)]).mean()
    assert abs(found - debiased_cka(x, y)) < 0.01
    assert abs(few - debiased_cka(x, y)) > 0.01  # a mean of scores is another thing


def test_the_seed_alone_decides(rng):
    x, y = features(rng, n=40)
    state = torch.random.get_rng_state()
    first, second, other = (minibatch_cka(x, y, batch_size=8, seed=seed) for seed in (1, 1, 2))
    assert first == second
    assert first != other
    assert torch.equal(state, torch.random.get_rng_state())
    # epochs go on with other orders
    assert minibatch_cka(x, y, batch_size=8, seed=1, epochs=2) != first


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_types(dtype, rng):
    x, y = features(rng, n=20, dtype=dtype)
    assert minibatch_cka(x, y, batch_size=6).dtype == dtype


def test_gradients(rng):
    x, y = (z.requires_grad_() for z in features(rng, n=12))
    assert torch.autograd.gradcheck(lambda a, b: minibatch_cka(a, b, batch_size=5), (x, y))


def test_a_data_loader(rng):
    x, y = features(rng, n=32)
    loader = DataLoader(TensorDataset(x, y), batch_size=8)
    expected = minibatch_cka(zip(x.split(8), y.split(8), strict=True))
    assert minibatch_cka(loader) == expected


def test_no_batch_is_kept(rng):
    gone = []

    def batches():
        for _ in range(3):
            batch = features(rng, n=8)
            assert all(reference() is None for reference in gone)
            gone.extend(weakref.ref(z) for z in batch)
            yield batch
            del batch

    assert minibatch_cka(batches()).isfinite()
    assert len(gone) == 6


def test_constant_sides_are_undefined(rng):
    x, y = features(rng, n=12)
    assert minibatch_cka(torch.ones_like(x), y, batch_size=4).isnan()
    # one such batch only adds nothing
    pairs = [(x[:6], y[:6]), (torch.ones(6, 3, dtype=x.dtype), y[6:])]
    assert minibatch_cka(pairs).isfinite()


def test_wrong_arguments_are_named(rng):
    x, y = features(rng)
    pairs = [(x, y)]
    for size in (None, 3, 8):
        with pytest.raises(DataError, match=rf"from 4 to the number of stimuli, 7, got {size}"):
            minibatch_cka(x, y, batch_size=size)
    with pytest.raises(DataError, match="`y` must be one too, got NoneType"):
        minibatch_cka(x, batch_size=4)
    with pytest.raises(DataError, match="`epochs` must be at least 1, got 0"):
        minibatch_cka(x, y, batch_size=4, epochs=0)
    for options in ({"batch_size": 4}, {"epochs": 2}):
        with pytest.raises(DataError, match="Pairs of batches take neither"):
            minibatch_cka(pairs, **options)
    with pytest.raises(DataError, match="got a `y`, batch_size=None"):
        minibatch_cka(pairs, y)
    with pytest.raises(DataError, match="at least one batch, got none"):
        minibatch_cka([])
    with pytest.raises(ShapeError, match="at least 4: `x` has 3"):
        minibatch_cka([(x, y), (x[:3], y[:3])])
    with pytest.raises(DTypeError, match="one number type"):
        minibatch_cka([(x, y.float())])


@pytest.mark.parametrize("x", [np.ones((8, 3)), 3, "ab"])
def test_what_gives_no_batches_is_refused(x):
    with pytest.raises(DataError, match=f"got {type(x).__name__}"):
        minibatch_cka(x)


def test_batches_must_be_pairs():
    with pytest.raises(DataError, match=r"must be a pair \(x, y\) of tensors, got Tensor"):
        minibatch_cka([torch.ones(8, 3)])
    with pytest.raises(DataError, match=r"whole number from 4 .* 8, got 4.5"):
        minibatch_cka(torch.ones(8, 3), torch.ones(8, 3), batch_size=4.5)


class TestUnitDebiased:
    def test_by_hand_over_pairs_of_different_units(self, rng):
        x, y = draw(rng, (7, 3, 4))
        x, y = x + 2 * x[:, :1], y + 2 * x[:, :1]
        kernels = [[np.outer(u, u) for u in side.numpy().T] for side in (x, y)]

        def mean(left, right, *, apart):
            pairs = [(a, b) for a in range(len(left)) for b in range(len(right))]
            values = [song_hsic(left[a], right[b]) for a, b in pairs if not (apart and a == b)]
            return sum(values) / len(values)

        k, m = kernels
        own = mean(k, k, apart=True) * mean(m, m, apart=True)
        expected = mean(k, m, apart=False) / own**0.5
        assert float(unit_debiased_cka(x, y)) == pytest.approx(expected, abs=1e-12)

    @staticmethod
    def sampled(rng, p):
        """Units whose weights on 6 sources come from normals of known covariance; their CKA."""
        scales = torch.tensor([3.0, 2, 1, 1, 0.5, 0.5]).double(), torch.ones(6).double()
        a, b = (s.square() for s in scales)
        truth = float((a * b).sum() / (a.square().sum() * b.square().sum()).sqrt())
        sources = torch.randn(300, 200, 6, generator=rng, dtype=torch.float64)
        x, y = (
            sources @ (s[:, None] * torch.randn(300, 6, p, generator=rng, dtype=torch.float64))
            for s in scales
        )
        return x, y, truth

    @pytest.mark.parametrize(("p", "far"), [(10, 0.14), (20, 0.07), (40, 0.04)])
    def test_nearer_to_the_population_than_debiased_cka(self, p, far, rng):
        x, y, truth = self.sampled(rng, p)
        found, biased = float(unit_debiased_cka(x, y).mean()), float(debiased_cka(x, y).mean())
        assert abs(found - truth) < min(far, truth - biased)

    def test_each_sum_is_unbiased_with_few_units(self, rng):
        x, y, truth = self.sampled(rng, 4)
        hsics = unbiased_hsics(x, y)
        xx, yy = (_of_pairs_of_units(own, z) for own, z in ((hsics.xx, x), (hsics.yy, y)))
        ratio = hsics.xy.mean() / (xx.nansum() * yy.nansum()).sqrt() * len(x)
        assert float(ratio) == pytest.approx(truth, abs=0.06)

    def test_unrelated_features_score_nothing(self, rng):
        x, y = torch.randn(2, 400, 30, 12, generator=rng, dtype=torch.float64) + torch.randn(
            2, 400, 30, 1, generator=rng, dtype=torch.float64
        )
        found = unit_debiased_cka(x, y)
        assert found.isfinite().all()
        assert abs(float(found.mean())) < 0.02

    def test_scale_and_shift_do_not_count_and_rotations_do(self, rng):
        x, y = draw(rng, (20, 4, 5))
        x, y = x + x[:, :1], y + y[:, :1]
        score = unit_debiased_cka(x, y)
        torch.testing.assert_close(unit_debiased_cka(3 * x + 1, y - 2), score)
        turn = torch.linalg.qr(torch.randn(4, 4, generator=rng, dtype=torch.float64)).Q
        assert (unit_debiased_cka(x @ turn, y) - score).abs() > 1e-3
        torch.testing.assert_close(unit_debiased_cka(y, x), score)

    def test_gradients_and_types(self, rng):
        x, y = draw(rng, (20, 4, 5))
        x, y = ((z + z[:, :1]).requires_grad_() for z in (x, y))
        assert torch.autograd.gradcheck(unit_debiased_cka, (x, y))
        single = unit_debiased_cka(x.float(), y.float())
        assert single.dtype == torch.float32
        torch.testing.assert_close(single.double(), unit_debiased_cka(x, y), rtol=0, atol=1e-5)

    def test_units_that_share_nothing_are_undefined(self):
        x = torch.eye(8, 3, dtype=torch.float64)
        assert unit_debiased_cka(x, x.sum(-1, keepdim=True).expand(-1, 2)).isnan()

    def test_refusals(self, rng):
        x, y = draw(rng, (20, 4, 5))
        with pytest.raises(ShapeError, match=r"`y` must have at least 2 units.* got 1"):
            unit_debiased_cka(x, y[:, :1])
        with pytest.raises(ShapeError, match="at least 4"):
            unit_debiased_cka(x[:3], y[:3])
