"""SoftStep in value and log form: limits, kinks and corners, against 60-digit formulas."""

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from softrsa.errors import DTypeError
from softrsa.transforms import (
    geo_topological,
    log_soft_step,
    log_soft_step_s2,
    soft_step,
    soft_step_s2,
)

DTYPES = (torch.float64, torch.float32, torch.bfloat16)
TRANSITIONS = (1e-3, 0.03, 0.3, 0.75, 1.0)
# three correctly rounded operations in float32, one rounding to bfloat16
TOLERANCE = {torch.float64: 1e-13, torch.float32: 2e-6, torch.bfloat16: 4e-3}
unit = st.floats(0, 1)


def scalar(*values, dtype=torch.float64):
    return tuple(torch.tensor(v, dtype=dtype) for v in values)


def exact_s1(s, a, b, t):
    """The quotient of powers of SPEC section 2, in 60 digits."""
    with mpmath.workdps(60):
        u, v, k = mpmath.mpf(s) - mpmath.mpf(a), mpmath.mpf(b) - mpmath.mpf(s), 1 / mpmath.mpf(t)
        return u**k / (u**k + v**k)


def exact_s2(s, b, t):
    with mpmath.workdps(60):
        s, b, t = mpmath.mpf(s), mpmath.mpf(b), mpmath.mpf(t)
        return (s / b) ** ((b - s) * t / (1 - t))


def log_of(value):
    with mpmath.workdps(60):
        return float(mpmath.log(value))


@pytest.mark.parametrize("t", TRANSITIONS)
@pytest.mark.parametrize("dtype", DTYPES)
class TestFirstFamily:
    a, b = 0.25, 0.75  # exact in every number type

    def grid(self, dtype):
        return torch.linspace(0, 1, 65, dtype=torch.float64).to(dtype)

    def test_quotient_of_powers(self, dtype, t):
        s = self.grid(dtype)
        parameters = scalar(self.a, self.b, t, dtype=dtype)
        found, log_found = soft_step(s, *parameters), log_soft_step(s, *parameters)
        assert found.dtype == log_found.dtype == dtype
        for value, one, log_one in zip(s.tolist(), found.tolist(), log_found.tolist(), strict=True):
            if value <= self.a:
                assert (one, log_one) == (0.0, -np.inf)
            elif value >= self.b:
                assert (one, log_one) == (1.0, 0.0)
            else:
                exact = exact_s1(value, self.a, self.b, parameters[2].item())
                assert one == pytest.approx(float(exact), abs=TOLERANCE[dtype])
                close = {"rel": 2 * TOLERANCE[dtype], "abs": 2 * TOLERANCE[dtype]}
                assert log_one == pytest.approx(log_of(exact), **close)

    def test_monotone_onto_zero_to_one(self, dtype, t):
        found = soft_step(self.grid(dtype), *scalar(self.a, self.b, t, dtype=dtype))
        assert (found.diff() >= 0).all()
        assert (found.min(), found.max()) == (0, 1)

    @pytest.mark.parametrize("s", [0.25, 0.5, 0.75, 0.0, 1.0])
    def test_finite_gradient_at_bounds_and_middle(self, dtype, t, s):
        inputs = [x.requires_grad_() for x in scalar(s, self.a, self.b, t, dtype=dtype)]
        for form in (soft_step, log_soft_step):
            value = form(*inputs)
            gradients = torch.autograd.grad(value, inputs, allow_unused=True)
            assert all(g is None or g.isfinite() for g in gradients)
            if s != 0.5:
                assert value.item() in (0.0, 1.0, -np.inf)
                assert all(g is None or g == 0 for g in gradients)
        if s == 0.5:
            # dS/ds = 1 / ((b - a) t) at the middle, from the formula
            slope = torch.autograd.grad(soft_step(*inputs), inputs[0])[0].item()
            expected = 1 / ((self.b - self.a) * inputs[3].item())
            assert slope == pytest.approx(expected, rel=max(1e-12, 2 * TOLERANCE[dtype]))

    def test_finite_one_step_inside_the_bounds(self, dtype, t):
        a, b, t = scalar(self.a, self.b, t, dtype=dtype)
        inside = torch.stack([torch.nextafter(a, b), torch.nextafter(b, a)])
        inputs = [x.requires_grad_() for x in (inside, a, b, t)]
        for form in (soft_step, log_soft_step):
            value = form(*inputs)
            assert value.isfinite().all()
            assert all(g.isfinite().all() for g in torch.autograd.grad(value.sum(), inputs))


def test_transition_one_is_the_ramp():
    s = torch.linspace(0, 1, 101, dtype=torch.float64)
    found = soft_step(s, *scalar(0.2, 0.7, 1.0))
    np.testing.assert_allclose(found, np.interp(s, [0.2, 0.7], [0, 1]), rtol=0, atol=1e-15)


def test_small_transition_is_a_step_in_the_middle_not_a_plateau():
    s = torch.tensor([0.2001, 0.44, 0.45, 0.46, 0.6999], dtype=torch.float64)
    found = soft_step(s, *scalar(0.2, 0.7, 1e-3))
    np.testing.assert_allclose(found, [0, 0, 0.5, 1, 1], rtol=0, atol=1e-12)


def test_equal_bounds_are_a_hard_step():
    s = torch.tensor([0.29, 0.3, 0.31], requires_grad=True)
    value = soft_step(s, *scalar(0.3, 0.3, 0.5, dtype=torch.float32))
    assert value.tolist() == [0, 1, 1]
    value.sum().backward()
    assert s.grad.tolist() == [0, 0, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bound", [0.0, 1e-4, 0.02, 0.2, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("t", [0.03, 1.0])
def test_equal_bounds_leave_nothing_one_rounding_below(dtype, bound, t):
    (b,) = scalar(bound, dtype=dtype)
    down, up = (torch.nextafter(b, b + sign) for sign in (-1, 1))
    s = torch.stack([0 * b - 1, down, b, up]).requires_grad_()
    value = soft_step(s, b, b, torch.tensor(t, dtype=dtype))
    assert value.tolist() == [0, 0, 1, 1] if bound else value[[0, 2, 3]].tolist() == [0, 1, 1]
    value.sum().backward()
    assert s.grad.tolist() == [0, 0, 0, 0]


@given(st.lists(unit, min_size=1, max_size=6), unit, unit, st.floats(1e-3, 1))
def test_symmetric_about_the_middle_and_monotone(values, one, other, t):
    """S1(s; a, b, t) + S1(a + b - s; a, b, t) = 1."""
    a, b = sorted((one, other))
    s = torch.tensor(sorted(values), dtype=torch.float64)
    found = soft_step(s, *scalar(a, b, t))
    assert ((found >= 0) & (found <= 1)).all()
    assert (found.diff() >= 0).all()
    if b - a > 1e-2:
        inside = s.clamp(a + 1e-6, b - 1e-6)
        both = soft_step(inside, *scalar(a, b, t)) + soft_step(a + b - inside, *scalar(a, b, t))
        # 1 / t amplifies the rounding of a + b - s
        torch.testing.assert_close(both, torch.ones_like(both), rtol=0, atol=1e-6)


@given(st.lists(unit, min_size=3, max_size=3), unit, unit)
def test_ramp_is_the_geo_topological_transform_of_dissimilarities(values, one, other):
    """S1(s; 1 - u, 1 - l, 1) = 1 - GT_{l, u}(1 - s)."""
    low, high = sorted((one, other))
    s = torch.tensor(values, dtype=torch.float64)
    step = soft_step(s, *scalar(1 - high, 1 - low, 1.0))
    gt = 1 - geo_topological(1 - s, low, high, preset="value")
    if high - low > 1e-9:
        # 1 - s rounds: on a ramp of width w that moves the value by eps / w
        torch.testing.assert_close(step, gt, rtol=0, atol=4e-16 / (high - low) + 1e-15)
    away = ((1 - s - low).abs() > 1e-12) & ((1 - s - high).abs() > 1e-12)
    assert torch.equal((step == 1)[away], (gt == 1)[away])
    assert torch.equal((step == 0)[away], (gt == 0)[away])


@pytest.mark.parametrize("form", [soft_step, log_soft_step])
def test_first_family_gradcheck(form, rng):
    a = 0.1 + 0.2 * torch.rand(2, 3, 1, dtype=torch.float64, generator=rng)
    b = 0.7 + 0.2 * torch.rand(3, 1, dtype=torch.float64, generator=rng)
    t = 0.2 + 0.8 * torch.rand(2, 3, 1, dtype=torch.float64, generator=rng)
    t[0, 0] = 1.0
    inside = 0.32 + 0.36 * torch.rand(2, 3, 5, dtype=torch.float64, generator=rng)
    outside = torch.tensor([0.0, 0.05, 0.95, 1.0], dtype=torch.float64).expand(2, 3, 4)
    s = torch.cat([inside, outside], -1) if form is soft_step else inside  # log 0 is infinite
    inputs = [x.requires_grad_() for x in (s, a, b, t)]
    assert torch.autograd.gradcheck(form, inputs)


@pytest.mark.parametrize("form", [soft_step_s2, log_soft_step_s2])
def test_second_family_gradcheck(form, rng):
    s = 0.05 + 0.6 * torch.rand(2, 3, 5, dtype=torch.float64, generator=rng)
    b = 0.7 + 0.3 * torch.rand(3, 1, dtype=torch.float64, generator=rng)
    t = 0.1 + 0.8 * torch.rand(2, 3, 1, dtype=torch.float64, generator=rng)
    inputs = [x.requires_grad_() for x in (s, b, t)]
    assert torch.autograd.gradcheck(form, inputs)
    assert torch.autograd.gradgradcheck(form, inputs)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("t", [0.125, 0.5, 0.75])
def test_second_family_values(dtype, t):
    s = torch.tensor([0.0, 0.125, 0.25, 0.5, 0.6875, 0.75, 1.0]).to(dtype)
    b, t = scalar(0.75, t, dtype=dtype)
    found, log_found = soft_step_s2(s, b, t), log_soft_step_s2(s, b, t)
    assert found.dtype == log_found.dtype == dtype
    exact = [exact_s2(value, 0.75, t.item()) for value in s[1:5].tolist()]
    expected = [0.0, *map(float, exact), 1.0, 1.0]
    np.testing.assert_allclose(found.double(), expected, rtol=0, atol=TOLERANCE[dtype])
    assert (found[0], log_found[0]) == (0, -torch.inf)
    assert log_found[-2:].tolist() == [0, 0]
    np.testing.assert_allclose(
        log_found[1:5].double(), [log_of(x) for x in exact], rtol=2 * TOLERANCE[dtype]
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_second_family_limits(dtype):
    """Towards t = 0 everything above 0 becomes 1, towards t = 1 everything below b becomes 0."""
    s = torch.tensor([0.0, 0.01, 0.4, 0.7, 0.9], dtype=torch.float64).to(dtype)
    b, zero, one = scalar(0.8, 0.0, 1.0, dtype=dtype)
    tolerance = 1e-5 if dtype != torch.bfloat16 else 0
    np.testing.assert_allclose(soft_step_s2(s, b, zero).double(), [0, 1, 1, 1, 1], atol=tolerance)
    np.testing.assert_allclose(soft_step_s2(s, b, one).double(), [0, 0, 0, 0, 1], atol=1e-30)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("t", [0.0, 1e-3, 0.5, 0.999, 1.0])
def test_second_family_gradient_is_finite_at_zero_and_at_the_bound(dtype, t):
    tiny = torch.finfo(dtype).tiny
    s = torch.tensor([0.0, tiny, 0.4, 0.8, 1.0], dtype=dtype, requires_grad=True)
    b, t = (x.requires_grad_() for x in scalar(0.8, t, dtype=dtype))
    soft_step_s2(s, b, t).sum().backward()
    assert all(x.grad.isfinite().all() for x in (s, b, t))
    assert (s.grad[0], s.grad[3], s.grad[4]) == (0, 0, 0)


@pytest.mark.parametrize("form", [soft_step_s2, log_soft_step_s2])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("b", [1e-30, 1e-38, 1e-42, 0.0, 1.0])
@pytest.mark.parametrize("t", [0.0, 0.5, 1.0])
def test_second_family_gradient_is_finite_at_any_bound(form, dtype, b, t):
    kind = torch.finfo(dtype)
    values = [0.0, kind.smallest_normal * kind.eps, kind.tiny, 1e-38, 1e-31, 1e-20, 0.5, 1.0]
    s = torch.tensor(values, dtype=torch.float64).to(dtype).requires_grad_()
    b, t = (x.requires_grad_() for x in scalar(b, t, dtype=dtype))
    step = form(s, b, t)
    step[step.isfinite()].sum().backward()
    assert all(x.grad.isfinite().all() for x in (s, b, t))


def test_second_family_gradient_at_a_small_bound():
    """Against derivatives by hand, where s / b**2 is out of range."""
    s, b, t = (torch.tensor(x, requires_grad=True) for x in (1e-31, 1e-30, 0.5))
    log_soft_step_s2(s, b, t).backward()
    assert s.grad.item() == pytest.approx(np.log(10) + 9, rel=1e-5)
    assert b.grad.item() == pytest.approx(-np.log(10) - 0.9, rel=1e-5)


@pytest.mark.parametrize("form", [soft_step, log_soft_step])
@pytest.mark.parametrize("dtype", [torch.float16, torch.int64, torch.complex64])
def test_number_types_are_named(form, dtype):
    with pytest.raises(DTypeError, match=rf"`s` must be float32 or float64 or bfloat16.*{dtype}"):
        form(torch.zeros(3, dtype=dtype), *scalar(0.2, 0.8, 0.5))
    second = {soft_step: soft_step_s2, log_soft_step: log_soft_step_s2}[form]
    with pytest.raises(DTypeError, match=rf"got {dtype}"):
        second(torch.zeros(3, dtype=dtype), *scalar(0.8, 0.5))


def test_inputs_are_left_alone(rng):
    s = torch.rand(4, 4, generator=rng)
    before = s.clone()
    for form in (soft_step, log_soft_step):
        form(s, *scalar(0.2, 0.8, 0.5, dtype=torch.float32))
    for form in (soft_step_s2, log_soft_step_s2):
        form(s, *scalar(0.8, 0.5, dtype=torch.float32))
    assert torch.equal(s, before)


def test_per_anchor_parameters_equal_a_loop(rng):
    s = torch.rand(3, 4, 6, generator=rng, dtype=torch.float64)
    a, width, t = torch.rand(3, 3, 4, 1, generator=rng, dtype=torch.float64)
    b = a + width * (1 - a)
    found = soft_step(s, a, b, t)
    for i in range(3):
        for j in range(4):
            one = soft_step(s[i, j], a[i, j], b[i, j], t[i, j])
            assert torch.equal(found[i, j], one)


@pytest.mark.parametrize("step", [soft_step, log_soft_step])
def test_second_derivatives(step, rng):
    s = 0.15 + 0.7 * torch.rand(3, 4, generator=rng, dtype=torch.float64)
    inputs = [s, *torch.tensor([0.1, 0.9, 0.6], dtype=torch.float64)]
    assert torch.autograd.gradgradcheck(step, [x.clone().requires_grad_(True) for x in inputs])
    beyond = torch.tensor([0.05, 0.1, 0.9, 0.95], dtype=torch.float64)
    fixed = [x.clone().requires_grad_(True) for x in inputs[1:]]
    first = torch.autograd.grad(soft_step(beyond, *fixed).sum(), fixed, create_graph=True)
    second = torch.autograd.grad(sum(first), fixed)
    assert [x.item() for x in (*first, *second)] == [0.0] * 6


def test_a_transition_for_each_of_several_steps_of_one_row(rng):
    s = torch.rand(6, generator=rng, dtype=torch.float64)
    transition = torch.tensor([[0.3], [1.0]], dtype=torch.float64, requires_grad=True)
    bounds = torch.tensor([0.2, 0.8], dtype=torch.float64)
    found = soft_step(s, *bounds, transition)
    above, below = (s - 0.2).clamp_min(0), (0.8 - s).clamp_min(0)
    for row, t in zip(found, (0.3, 1.0), strict=True):
        expected = above ** (1 / t) / (above ** (1 / t) + below ** (1 / t))
        torch.testing.assert_close(row.detach(), expected, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(lambda t: soft_step(s, *bounds, t), transition)


def test_gradients_again_where_one_bound_is_made_of_the_other(rng):
    s = torch.rand(5, generator=rng, dtype=torch.float64)
    lower = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    half = torch.tensor(0.5, dtype=torch.float64)
    once, again = (
        torch.autograd.grad(soft_step(s, lower, lower + half, half).sum(), lower, create_graph=many)
        for many in (False, True)
    )
    torch.testing.assert_close(again[0], once[0], rtol=1e-12, atol=1e-14)
