"""Soft ranks against torchsort, SciPy and values worked by hand; all backends alike."""

import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy.optimize import isotonic_regression
from scipy.stats import rankdata

from softrsa.errors import DataError, DeviceError, DTypeError, ShapeError, UnknownNameError
from softrsa.transforms import soft_rank
from softrsa.transforms.soft_rank import by_scipy, by_torch, choose

STRENGTHS = (1e-3, 0.1, 1.0, 10.0, 1e3)
TORCHSORT = find_spec("torchsort") is not None  # an extra, which cannot be built everywhere
BACKENDS = ("torchsort", "scipy", "torch") if TORCHSORT else ("scipy", "torch")
backends = pytest.mark.parametrize("backend", BACKENDS)
some_rows = arrays(
    np.float64, array_shapes(min_dims=2, max_dims=2, max_side=30), elements=st.integers(-9, 9)
)


def standardized(x):
    n = x.shape[-1]
    z = x - x.mean(-1, keepdim=True)
    return z / z.square().mean(-1, keepdim=True).sqrt() * ((n * n - 1) / 12) ** 0.5


def kinds(rng, n):
    x = torch.randn(3, n, dtype=torch.float64, generator=rng)
    return {
        "normal": x,
        "ties": (2 * x).round(),
        "half of one value": x.relu(),
        "far": 1e3 + x,
        "heavy tails": x / torch.rand(3, n, dtype=torch.float64, generator=rng),
        "even": torch.linspace(0, 1, n).double().expand(3, n) ** 3,
    }


@backends
@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("n", [2, 33, 500])
@pytest.mark.skipif(not TORCHSORT, reason="torchsort is not installed")
def test_torchsort_of_standardized_rows(backend, strength, n, rng):
    import torchsort

    for x in kinds(rng, n).values():
        for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-5)):
            given, oracle = (x.to(dtype).detach().clone() for _ in range(2))
            weight = torch.randn(x.shape, dtype=torch.float64, generator=rng)
            found = soft_rank(given.requires_grad_(), strength=strength, backend=backend)
            expected = torchsort.soft_rank(
                standardized(oracle.requires_grad_().double()), regularization_strength=strength
            )
            assert found.dtype == dtype
            torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=0)
            (found * weight).sum().backward()
            (expected * weight).sum().backward()
            size = float(oracle.grad.abs().max())
            # at a kink the gradient is one-sided: "even" at 0.1 is not on one, ties never are
            torch.testing.assert_close(given.grad, oracle.grad, rtol=0, atol=1e-4 * size + 1e-12)


@backends
def test_ten_thousand_values_keep_their_digits(backend, rng):
    x = 100 + torch.randn(10_000, generator=rng)
    for strength in (1e-3, 0.3, 1.0):
        u = standardized(x.double()).sort().values / strength
        fitted = isotonic_regression(u.numpy() - np.arange(1, 10_001)).x
        expected = (u - torch.from_numpy(fitted))[x.argsort(stable=True).argsort()]
        found = soft_rank(x, strength=strength, backend=backend)
        torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=0)


def test_three_values_by_hand():
    """Ranks (1, 2, 3) of (-1, 0, 1) * 1.5 / strength: pooled where neighbors are closer than 1."""
    x = torch.tensor([5.0, 5.0, 8.0], dtype=torch.float64)
    # standardized: (-a, -a, 2 a) with 6 a^2 / 3 = 8 / 12, a = 1 / sqrt(3)
    a = 3**-0.5
    for backend in BACKENDS:
        found = soft_rank(x, strength=1.0, backend=backend)
        torch.testing.assert_close(found, torch.tensor([1.5, 1.5, 3.0]).double())
        found = soft_rank(x, strength=2.0, backend=backend)
        expected = torch.tensor([2 - a / 2, 2 - a / 2, 2 + a], dtype=torch.float64)
        torch.testing.assert_close(found, expected)


@given(some_rows, st.sampled_from(BACKENDS), st.floats(1e-3, 1e3), st.floats(-50, 50))
def test_ranks_of_any_rows(values, backend, strength, shift):
    """Order, bounds and mean of ranks, tied alike; no other scale or shift changes them."""
    x = torch.from_numpy(values)
    n = x.shape[-1]
    found = soft_rank(x, strength=strength, backend=backend)
    assert found.isfinite().all()
    assert ((found >= 1 - 1e-9) & (found <= n + 1e-9)).all()
    torch.testing.assert_close(found.mean(-1), torch.full((len(x),), (n + 1) / 2).double())
    order = x.argsort(-1)
    rises, steps = found.gather(-1, order).diff(dim=-1), x.gather(-1, order).diff(dim=-1)
    assert (rises >= -1e-9).all()
    assert (rises[steps == 0].abs() < 1e-9).all()
    moved = soft_rank(3.7 * x + shift, strength=strength, backend=backend)
    torch.testing.assert_close(moved, found, rtol=0, atol=1e-6)
    hard = soft_rank(x, strength=1e-4, backend=backend)
    np.testing.assert_allclose(hard, rankdata(values, axis=-1), rtol=0, atol=1e-6)


@given(arrays(np.float64, (3, 40), elements=st.floats(-5, 5)))
def test_isotonic_regression_is_scipys(values):
    """Any order of values, not only those that soft ranks bring."""
    y = torch.from_numpy(values)
    torch.testing.assert_close(by_torch(y), by_scipy(y), rtol=0, atol=1e-12)


def test_few_rounds_are_enough(rng, monkeypatch):
    """Pooling one pair of blocks after the other would take a thousand rounds for some of these."""
    calls = []
    module = sys.modules["softrsa.transforms.soft_rank"]  # the name is the function, too
    once = module._may_be_on_hull
    monkeypatch.setattr(
        module, "_may_be_on_hull", lambda *given: calls.append(None) or once(*given)
    )
    for x in kinds(rng, 3_000).values():
        for strength in (0.1, 0.5, 1.0, 1.5, 10.0):
            calls.clear()
            soft_rank(x, strength=strength, backend="torch")
            assert len(calls) <= 10


@backends
def test_just_beyond_a_kink(backend):
    """Two values are one rank apart: a strength a little below 1 separates them."""
    x = torch.tensor([0.0, 1.0], dtype=torch.float64, requires_grad=True)
    for strength, expected in ((1 / 1.0001, [1.0, 2.0]), (2.0, [1.25, 1.75])):
        found = soft_rank(x, strength=strength, backend=backend)
        torch.testing.assert_close(found, torch.tensor(expected).double(), rtol=0, atol=1e-12)
        (gradient,) = torch.autograd.grad(found[0], x)
        assert gradient.abs().max() < 1e-12  # standardized: two values are always alike


@backends
@pytest.mark.parametrize("strength", [0.05, 0.5, 5.0])
def test_gradients(backend, strength, rng):
    x = torch.randn(2, 7, dtype=torch.float64, generator=rng)
    x[1, 3] = x[1, 5]

    def ranks(untied):  # tied values move together: apart, they are at a kink
        tied = untied.clone()
        tied[1, 3] = untied[1, 5]
        return soft_rank(tied, strength=strength, backend=backend)

    assert torch.autograd.gradcheck(ranks, x.requires_grad_())
    assert torch.autograd.gradgradcheck(ranks, x)


@backends
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_undefined_and_constant_rows_leave_the_others_alone(backend, dtype, rng):
    x = torch.randn(5, 9, dtype=dtype, generator=rng)
    expected = soft_rank(x[0], strength=0.3, backend=backend)
    x[1] = 0.1
    x[2, 3], x[3, 4], x[4, 0] = torch.nan, torch.inf, -torch.inf
    found = soft_rank(x.requires_grad_(), strength=0.3, backend=backend)
    assert torch.equal(found[0], expected)
    assert (found[1] == 5).all()
    assert found[2:].isnan().all()
    found[:2].square().sum().backward()
    assert x.grad.isfinite().all()
    assert (x.grad[1] == 0).all()


@backends
def test_strength_means_the_same_for_any_length(backend, rng):
    """Relative soft ranks of the quantiles of one distribution agree at n = 32 and 10 000."""
    few, many = (torch.special.ndtri((torch.arange(n) + 0.5) / n).double() for n in (32, 10_240))
    for strength in (0.3, 1.0, 3.0):
        short = (soft_rank(few, strength=strength, backend=backend) - 0.5) / 32
        long = (soft_rank(many, strength=strength, backend=backend) - 0.5) / 10_240
        torch.testing.assert_close(short, long.view(32, -1).mean(-1), rtol=0, atol=0.01)


@backends
def test_any_leading_shape_and_nothing_written(backend, rng):
    x = torch.randn(2, 3, 4, 5, generator=rng)
    before = x.clone()
    found = soft_rank(x.mT, strength=0.3, backend=backend)
    assert found.shape == (2, 3, 5, 4)
    for i in range(5):
        one = soft_rank(x[1, 2, :, i], strength=0.3, backend=backend)
        torch.testing.assert_close(found[1, 2, i], one)
    assert torch.equal(x, before)
    assert soft_rank(torch.ones(0, 3), strength=1.0, backend=backend).shape == (0, 3)
    assert soft_rank(torch.tensor([7.0]), strength=1.0, backend=backend).tolist() == [1.0]


@backends
def test_parts_change_nothing(backend, rng, monkeypatch):
    x = torch.randn(7, 50, dtype=torch.float64, generator=rng)
    whole = soft_rank(x, strength=0.5, backend=backend)
    monkeypatch.setitem(sys.modules["softrsa.transforms.soft_rank"].PART, "cpu", 120)
    torch.testing.assert_close(soft_rank(x, strength=0.5, backend=backend), whole)


def test_backends_are_found_where_they_are(monkeypatch):
    assert choose("scipy", torch.device("cpu")) is by_scipy
    assert choose("torch", torch.device("cpu")) is by_torch
    assert choose("auto", torch.device("meta")) is by_torch
    with pytest.raises(DataError, match=r"CPU only, got a tensor on 'meta'"):
        choose("scipy", torch.device("meta"))
    with pytest.raises(DeviceError, match=r"torchsort is not installed for 'meta'"):
        choose("torchsort", torch.device("meta"))
    monkeypatch.setitem(sys.modules, "torchsort.isotonic_cpu", None)
    assert choose("auto", torch.device("cpu")) is by_scipy
    with pytest.raises(DeviceError, match=r"Install softrsa\[torchsort\], or use backend='auto'"):
        soft_rank(torch.rand(3), strength=1.0, backend="torchsort")


def test_torchsort_is_loaded_only_when_used():
    code = "import sys, softrsa.transforms; sys.exit('torchsort' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0  # noqa: S603


def test_wrong_arguments_are_named():
    x = torch.rand(4)
    with pytest.raises(UnknownNameError, match=r"backend 'torchsrt'\. Did you mean 'torchsort'"):
        soft_rank(x, strength=1.0, backend="torchsrt")
    for strength in (0, -1.0, float("nan"), float("inf")):
        with pytest.raises(DataError, match=f"positive and finite, got {strength}"):
            soft_rank(x, strength=strength)
    with pytest.raises(ShapeError, match=r"`x` must have shape \(\.\.\., n\), got a scalar"):
        soft_rank(torch.tensor(1.0), strength=1.0)
    with pytest.raises(DTypeError, match=r"`x` must be float32 or float64, got torch\.int64"):
        soft_rank(torch.arange(3), strength=1.0)
