"""SoftKStep in value and log form: the formula in 60 digits, ends, gradients and errors."""

import math

import mpmath
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from softrsa.errors import DataError, DTypeError
from softrsa.transforms import log_soft_k_step, soft_k_step, soft_step

# three correctly rounded operations in float32, one rounding to bfloat16
TOLERANCE = {torch.float64: 1e-13, torch.float32: 2e-6, torch.bfloat16: 4e-3}


def exact(rank, k, width, transition):
    """The quotient of powers of SPEC section 2, in 60 digits."""
    with mpmath.workdps(60):
        power = 1 / mpmath.mpf(transition)
        u, v = mpmath.mpf(k + width - rank) ** power, mpmath.mpf(rank - k) ** power
        return u / (u + v)


@pytest.mark.parametrize("transition", [1e-3, 0.3, 0.75, 1.0])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_quotient_of_powers(dtype, transition):
    ranks = torch.arange(0, 12, 0.25, dtype=dtype)
    found = soft_k_step(ranks, 3, transition=transition)
    log_found = log_soft_k_step(ranks, 3, transition=transition)
    assert found.dtype == log_found.dtype == dtype
    held = torch.tensor(transition, dtype=torch.float64 if dtype == torch.float64 else torch.float)
    for rank, one, log_one in zip(ranks.tolist(), found.tolist(), log_found.tolist(), strict=True):
        if rank <= 3:
            assert (one, log_one) == (1.0, 0.0)
        elif rank >= 7:
            assert (one, log_one) == (0.0, -math.inf)
        else:
            expected = exact(rank, 3, 4, held.item())
            close = {"rel": 2 * TOLERANCE[dtype], "abs": 2 * TOLERANCE[dtype]}
            assert one == pytest.approx(float(expected), abs=TOLERANCE[dtype])
            assert log_one == pytest.approx(float(mpmath.log(expected)), **close)


def test_one_k_per_row():
    ranks = torch.arange(10.0).expand(2, 10)
    found = soft_k_step(ranks, torch.tensor([[1.0], [4.0]]), width=2.0, transition=1.0)
    assert found.tolist() == [[1, 1, 0.5] + [0] * 7, [1, 1, 1, 1, 1, 0.5] + [0] * 4]


def test_gradient_is_that_of_finite_differences():
    ranks = torch.tensor([0.0, 2.3, 3.1, 4.9, 5.6, 9.0], dtype=torch.float64, requires_grad=True)
    k = torch.tensor(2.1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(soft_k_step, (ranks, k))
    between = ranks.detach()[1:5].requires_grad_()
    assert torch.autograd.gradcheck(log_soft_k_step, (between, k))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("transition", [1e-3, 0.75, 1.0])
def test_gradient_is_finite_on_the_kinks(dtype, transition):
    ranks = torch.tensor([2.0, 4.0, 6.0], dtype=dtype, requires_grad=True)
    k = torch.tensor(2.0, dtype=dtype, requires_grad=True)
    for form in (soft_k_step, log_soft_k_step):
        value = form(ranks, k, transition=transition)
        by_ranks, by_k = torch.autograd.grad(value[:2].sum(), (ranks, k))
        assert by_ranks.isfinite().all()
        assert by_k.isfinite()
        assert by_ranks[[0, 2]].tolist() == [0, 0]


@given(
    st.lists(st.floats(0, 30), min_size=1, max_size=8),
    st.floats(1, 20),
    st.floats(0.5, 8),
    st.floats(1e-2, 1),
)
def test_reflected_soft_step_and_monotone(ranks, k, width, transition):
    """Falls with the rank, rises with k, and is 1 - S1 of the ranks themselves."""
    ranks = torch.tensor(sorted(ranks), dtype=torch.float64)
    found = soft_k_step(ranks, k, width=width, transition=transition)
    assert (found.diff() <= 0).all()
    assert (soft_k_step(ranks, k + 0.5, width=width, transition=transition) >= found).all()
    ends = torch.tensor([k, k + width, transition], dtype=torch.float64)
    # rounding of k + width, amplified by 1 / transition
    torch.testing.assert_close(found, 1 - soft_step(ranks, *ends), rtol=0, atol=1e-9)


def test_errors_say_what_must_hold():
    ranks = torch.arange(4.0)
    for form in (soft_k_step, log_soft_k_step):
        with pytest.raises(DataError, match=r"`width` must be positive and finite, got 0\."):
            form(ranks, 2, width=0)
        with pytest.raises(DataError, match=r"`transition` must be in \(0, 1\], got 1\.5"):
            form(ranks, 2, transition=1.5)
        with pytest.raises(DTypeError, match=r"got torch\.int64"):
            form(torch.arange(4), 2)
