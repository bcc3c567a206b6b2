"""Measures of kernels: those of features where there are any, and loops where there are none."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import sqrtm, svdvals

from softrsa.errors import DTypeError, NoSecondDerivativeError, ShapeError
from softrsa.measures import centered_pearson, kernel_cka, kernel_nbs, linear_cka, nbs
from softrsa.measures.shape import SMALL
from softrsa.rsm import similarity_matrix

SHAPES = [(12, 4, 3), (6, 20, 30), (6, 20, 2), (5, 5, 5), (70, 10, 80)]
BOTH = pytest.mark.parametrize(
    ("of_kernels", "of_features"), [(kernel_cka, linear_cka), (kernel_nbs, nbs)]
)


def features(rng, shape, *lead):
    n, p, q = shape
    return [torch.randn(*lead, n, k, dtype=torch.float64, generator=rng) for k in (p, q)]


def indefinite(rng, *lead, n=8):
    """Kernels with negative eigenvalues, not symmetric."""
    return torch.randn(*lead, n, n, dtype=torch.float64, generator=rng)


@BOTH
@pytest.mark.parametrize("shape", SHAPES)
def test_of_inner_products_it_is_the_measure_of_features(of_kernels, of_features, shape, rng):
    x, y = features(rng, shape, 3)
    found, expected = of_kernels(x @ x.mT, y @ y.mT), of_features(x, y)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    again = of_kernels(similarity_matrix(x, similarity="dot") + 5, y @ y.mT)
    rounding = 1e-10 if shape[0] <= SMALL else 1e-8  # see `nuclear_norm`
    torch.testing.assert_close(again, expected, rtol=0, atol=rounding)
    single = of_kernels((x @ x.mT).float(), (y @ y.mT).float()).double()
    torch.testing.assert_close(single, expected, rtol=0, atol=1e-5)


@BOTH
@pytest.mark.parametrize("shape", SHAPES[:4])
def test_gradient_is_that_of_features(of_kernels, of_features, shape, rng):
    """Of rank n - 1, of low rank, and of both: what reaches the features is the same."""
    x, y = features(rng, shape)
    x.requires_grad_()
    (found,) = torch.autograd.grad(of_kernels(x @ x.mT, y @ y.mT), x)
    (expected,) = torch.autograd.grad(of_features(x, y), x)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


def test_cka_is_the_cosine_of_what_is_centered_by_hand(rng):
    x, y = indefinite(rng, 2)
    h = np.eye(8) - 1 / 8
    left, right = (h @ (s + s.T) @ h for s in (x.numpy(), y.numpy()))
    expected = (left * right).sum() / np.linalg.norm(left) / np.linalg.norm(right)
    assert kernel_cka(x, y).item() == pytest.approx(expected, abs=1e-14)
    assert abs(kernel_cka(x, y) - centered_pearson(x, y)) > 1e-3  # which leaves the diagonal out


def test_nbs_is_scipys_square_roots(rng):
    x, y = indefinite(rng, 2)
    h = np.eye(8) - 1 / 8
    roots, traces = [], []
    for s in (x.numpy(), y.numpy()):
        values, vectors = np.linalg.eigh(h @ (s + s.T) @ h)
        assert (values < -0.1).any()
        nearest = vectors @ np.diag(values.clip(0)) @ vectors.T
        roots.append(sqrtm(nearest).real)
        traces.append(np.trace(nearest))
    expected = svdvals(roots[0] @ roots[1]).sum() / np.sqrt(np.prod(traces))
    assert kernel_nbs(x, y).item() == pytest.approx(expected, abs=1e-7)  # the root of 0 is 1e-8


@given(st.integers(0, 999))
def test_one_number_per_stimulus_is_not_seen(seed):
    rng = torch.Generator().manual_seed(seed)
    x, y = indefinite(rng, 2)
    rows = torch.randn(8, dtype=torch.float64, generator=rng)
    for measure in (kernel_cka, kernel_nbs):
        moved = measure(2 * x + rows[:, None] - 3 * rows, y)
        assert moved.item() == pytest.approx(measure(x, y).item(), abs=1e-12)


@pytest.mark.parametrize("measure", [kernel_cka, kernel_nbs])
class TestBoth:
    def test_gradients_at_full_rank_and_below_zero(self, measure, rng):
        x, y = (s.requires_grad_() for s in indefinite(rng, 2, n=6))
        assert torch.autograd.gradcheck(measure, (x, y))
        definite = (x @ x.mT).detach().requires_grad_()
        assert torch.autograd.gradcheck(measure, (definite, y))

    def test_gradient_along_kernels_of_low_rank(self, measure, rng):
        x, y = (z.requires_grad_() for z in features(rng, (7, 2, 3)))
        assert torch.autograd.gradcheck(lambda a, b: measure(a @ a.mT, b @ b.mT), (x, y))

    def test_gradient_at_repeated_eigenvalues_and_a_perfect_match(self, measure, rng):
        basis = torch.linalg.qr(torch.randn(8, 3, dtype=torch.float64, generator=rng)).Q
        low = (basis @ basis.T).requires_grad_()
        whole = torch.eye(8, dtype=torch.float64).requires_grad_()
        other = indefinite(rng)
        for a, b in ((low, other), (low, low.detach()), (whole, other), (whole, whole.detach())):
            score = measure(a, b)
            (grad,) = torch.autograd.grad(score, a)
            assert grad.isfinite().all()
            assert (a is not b and b is other) or score.item() == pytest.approx(1, abs=1e-12)
        assert torch.autograd.gradcheck(lambda a: measure(a @ a.mT, other), (whole,))

    def test_undefined_where_nothing_is_left(self, measure, rng):
        x, y = indefinite(rng, 2, 3)
        x[0] = 0.1
        x[1, 2, 3] = torch.nan
        y.requires_grad_()
        score = measure(x, y)
        assert score.isnan().tolist() == [True, True, False]

    def test_errors_name_what_was_found(self, measure, rng):
        x = indefinite(rng)
        with pytest.raises(ShapeError, match=r"at least 2: `x` has 8, `y` has 7"):
            measure(x, x[:7, :7])
        with pytest.raises(ShapeError, match=r"`y` must be square.*\(8, 7\)"):
            measure(x, x[:, :7])
        with pytest.raises(DTypeError, match=r"got torch\.int64"):
            measure(x.long(), x)


def test_dissimilarities_are_no_kernel(rng):
    x, y = features(rng, (9, 4, 4))
    rdms = [torch.cdist(z, z).square() for z in (x, y)]
    assert kernel_nbs(*rdms).isnan()
    assert kernel_nbs(-rdms[0], -rdms[1]).item() == pytest.approx(nbs(x, y).item(), abs=1e-10)
    assert kernel_cka(*rdms).item() == pytest.approx(linear_cka(x, y).item(), abs=1e-12)


def test_second_derivatives_are_right_or_refused(rng):
    x, y = (s.requires_grad_() for s in indefinite(rng, 2, n=5))
    assert torch.autograd.gradgradcheck(kernel_cka, (x, y))
    with pytest.raises(NoSecondDerivativeError, match="without `create_graph=True`"):
        torch.autograd.grad(kernel_nbs(x, y), x, create_graph=True)
