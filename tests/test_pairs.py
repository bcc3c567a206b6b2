"""Pair order: SciPy's, there and back again."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import squareform

from softrsa.errors import ShapeError
from softrsa.pairs import condense, expand, off_diagonal

sizes = st.integers(2, 12)


def draw(rng, *shape):
    return torch.randn(*shape, dtype=torch.float64, generator=rng)


@given(n=sizes, seed=st.integers(0, 2**16))
def test_order_is_scipys_there_and_back(n, seed):
    vector = draw(torch.Generator().manual_seed(seed), n * (n - 1) // 2)
    matrix = expand(vector)
    np.testing.assert_array_equal(matrix, squareform(vector.numpy()))
    assert torch.equal(condense(matrix), vector)
    assert torch.equal(expand(condense(matrix), 1.0).diagonal(), torch.ones(n, dtype=torch.float64))


@given(n=sizes)
def test_off_diagonal_goes_row_by_row(n):
    matrix = torch.arange(n * n).reshape(n, n)
    expected = matrix.numpy()[~np.eye(n, dtype=bool)]
    np.testing.assert_array_equal(off_diagonal(matrix), expected)


@pytest.mark.parametrize("function", [condense, off_diagonal])
def test_batch_equals_loop_and_leaves_the_input(function, rng):
    batch = draw(rng, 2, 3, 5, 5)
    before = batch.clone()
    loop = torch.stack([torch.stack([function(matrix) for matrix in row]) for row in batch])
    assert torch.equal(function(batch), loop)
    assert torch.equal(batch, before)
    assert torch.equal(function(batch.mT), function(batch.mT.contiguous()))


def test_expand_keeps_the_type_and_takes_batches(rng):
    for dtype in (torch.float32, torch.int64, torch.bool):
        vector = draw(rng, 4, 2, 6).to(dtype)
        assert expand(vector).dtype == dtype
        assert torch.equal(expand(vector)[3, 1], expand(vector[3, 1]))


def test_gradients(rng):
    matrix = draw(rng, 2, 4, 4).requires_grad_()
    assert torch.autograd.gradcheck(condense, (matrix,))
    assert torch.autograd.gradcheck(off_diagonal, (matrix,))
    assert torch.autograd.gradcheck(expand, (draw(rng, 2, 6).requires_grad_(),))


@pytest.mark.parametrize("function", [condense, off_diagonal])
def test_matrices_that_are_not_square_are_named(function):
    with pytest.raises(ShapeError, match=r"must be square.* got \(2, 3\)"):
        function(torch.ones(2, 3))
    with pytest.raises(ShapeError, match=r"must be square.* got \(4,\)"):
        function(torch.ones(4))
    with pytest.raises(ShapeError, match="at least 2 stimuli, got 1"):
        function(torch.ones(1, 1))


@pytest.mark.parametrize(("pairs", "stimuli", "needed"), [(4, 3, 3), (7, 4, 6), (2, 2, 1)])
def test_lengths_that_are_no_number_of_pairs_are_named(pairs, stimuli, needed):
    message = rf"pairs \(1, 3, 6, 10, \.\.\.\), got {pairs}; {stimuli} stimuli have {needed}"
    with pytest.raises(ShapeError, match=message):
        expand(torch.ones(pairs))


def test_nothing_to_expand_is_refused():
    for empty in (torch.ones(0), torch.tensor(1.0)):
        with pytest.raises(ShapeError, match="got 0"):
            expand(empty)
