"""CKA from batches: unbiased, the same for a seed, and never more than a batch in memory."""

import weakref
from itertools import combinations

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from softrsa.errors import DataError, DTypeError, ShapeError
from softrsa.measures import debiased_cka, minibatch_cka

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
