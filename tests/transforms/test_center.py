"""Double-centering: the residual of a least-squares fit of rows and columns."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from softrsa.errors import DTypeError, ShapeError
from softrsa.transforms import double_center
from softrsa.transforms.center import ROUNDS, MeansAndSizes, with_means_and_sizes


def residual(matrix):
    """Fit row and column dummies to the off-diagonal entries with NumPy."""
    n = len(matrix)
    row, column = np.nonzero(~np.eye(n, dtype=bool))
    design = np.zeros((len(row), 2 * n))
    design[np.arange(len(row)), row] = 1
    design[np.arange(len(row)), n + column] = 1
    values = matrix[row, column]
    fit = design @ np.linalg.lstsq(design, values, rcond=None)[0]
    result = np.zeros_like(matrix)
    result[row, column] = values - fit
    return result


@pytest.mark.parametrize("n", [3, 4, 7, 20])
@pytest.mark.parametrize("symmetric", [False, True])
def test_least_squares_residual(n, symmetric, rng):
    matrix = torch.randn(n, n, dtype=torch.float64, generator=rng)
    matrix = matrix + matrix.mT if symmetric else matrix
    np.testing.assert_allclose(double_center(matrix), residual(matrix.numpy()), rtol=0, atol=1e-13)


@given(
    arrays(np.float64, (5, 5), elements=st.floats(-10, 10)),
    arrays(np.float64, (2, 5), elements=st.floats(-100, 100)),
)
def test_offsets_change_nothing_and_sums_are_zero(matrix, offsets):
    matrix, (rows, columns) = torch.from_numpy(matrix), torch.from_numpy(offsets)
    found = double_center(matrix)
    moved = double_center(matrix + rows[:, None] + columns)
    torch.testing.assert_close(moved, found, rtol=0, atol=1e-12)
    torch.testing.assert_close(double_center(found), found, rtol=0, atol=1e-13)
    for axis in (-1, -2):
        assert found.sum(axis).abs().max() < 1e-12
    assert (found.diagonal() == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numbers_too_small_to_scale_are_centered(dtype):
    least = torch.zeros(5, 5, dtype=dtype)
    least[0] = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    assert (least > 0).any()
    assert (double_center(least) == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_batch_equals_loop_and_the_diagonal_is_not_read(dtype, rng):
    stack = torch.randn(2, 3, 6, 6, dtype=dtype, generator=rng)
    stack.diagonal(dim1=-2, dim2=-1).fill_(torch.nan)
    before = stack.clone()
    found = double_center(stack)
    assert found.dtype == dtype
    torch.testing.assert_close(stack, before, equal_nan=True)
    for i in range(2):
        for j in range(3):
            torch.testing.assert_close(found[i, j], double_center(stack[i, j]))
    assert found.isfinite().all()


def test_gradient(rng):
    matrix = torch.randn(2, 5, 5, dtype=torch.float64, generator=rng, requires_grad=True)
    assert torch.autograd.gradcheck(double_center, (matrix,))
    assert torch.autograd.gradgradcheck(double_center, (matrix,))


def test_wrong_input_is_named():
    with pytest.raises(ShapeError, match=r"at least 3 stimuli, got 2"):
        double_center(torch.zeros(2, 2))
    with pytest.raises(ShapeError, match=r"square.*got \(4, 5\)"):
        double_center(torch.zeros(4, 5))
    with pytest.raises(DTypeError, match=r"`matrix` must be float32 or float64, got torch\.int64"):
        double_center(torch.zeros(4, 4).long())


def sized_by_hand(own, sizes):
    """Rows and columns times one factor per stimulus, found in ROUNDS rounds."""
    factor = np.ones(len(own))
    for _ in range(ROUNDS):
        rows = np.sqrt(((own * factor) ** 2).sum(1))
        factor = np.sqrt(factor * sizes / rows)
    return own * np.outer(factor, factor)


def test_means_and_sizes_by_hand(rng):
    own, like = (torch.randn(2, 6, 6, generator=rng, dtype=torch.float64) for _ in range(2))
    found = with_means_and_sizes(own, MeansAndSizes.of(like))
    for one, of_like, got in zip(own, like, found, strict=True):
        rest = double_center(of_like).numpy()
        sizes = np.sqrt((rest**2).sum(1))
        wanted = of_like.numpy() - rest + sized_by_hand(double_center(one).numpy(), sizes)
        np.testing.assert_allclose(got.numpy(), wanted, atol=1e-12)


def test_means_and_sizes_take_offsets_and_factors_away(rng):
    own, like = (torch.randn(8, 8, generator=rng, dtype=torch.float64) for _ in range(2))
    kept = MeansAndSizes.of(like)
    factor = 1 + torch.rand(8, generator=rng, dtype=torch.float64)
    found = with_means_and_sizes(own + factor[:, None] + factor, kept)
    torch.testing.assert_close(found, with_means_and_sizes(own, kept), atol=1e-12, rtol=0)
    # any number of rounds would take a factor away; three do so to some percent
    scaled = with_means_and_sizes(double_center(own) * factor.outer(factor), kept)
    plain = with_means_and_sizes(own, kept)
    assert (scaled - plain).norm() < 0.2 * (double_center(own) * factor.outer(factor) - own).norm()


@pytest.mark.parametrize("empty", [False, True])
def test_gradients_of_means_and_sizes(empty, rng):
    own, like = (torch.randn(2, 5, 5, generator=rng, dtype=torch.float64) for _ in range(2))
    if empty:
        like[0] = 1.0  # rows without size keep what they have
    own.requires_grad_()
    kept = MeansAndSizes.of(like)
    assert torch.autograd.gradcheck(lambda x: with_means_and_sizes(x, kept), own)
    assert torch.autograd.gradgradcheck(lambda x: with_means_and_sizes(x, kept), own)
    if not empty:
        like.requires_grad_()
        assert torch.autograd.gradcheck(
            lambda x, y: with_means_and_sizes(x, MeansAndSizes.of(y)), (own, like)
        )
