"""Scaling to [0, 1]: hand-worked and SciPy values, order, ties, the diagonal, errors."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import rankdata

from softrsa.errors import DataError, DTypeError, ShapeError, UnknownNameError
from softrsa.pairs import off_diagonal
from softrsa.rsm import SCALINGS, scale_similarities, similarity_matrix
from softrsa.rsm.scaling import Scaling
from softrsa.transforms import soft_step_s2

# few distinct values, so that ties abound; the first row and column keep every row from being flat
tied = arrays(np.float64, (2, 5, 5), elements=st.integers(-3, 3).map(lambda i: i / 4))


def not_constant(stack):
    stack[:, :, 0], stack[:, :, 1], stack[:, 0, 2], stack[:, 1, 2] = -0.9, 0.9, 0.9, -0.9
    return torch.from_numpy(stack)


def bounded(rng, *shape, dtype=torch.float64):
    return 2 * torch.rand(*shape, dtype=dtype, generator=rng) - 1


@pytest.mark.parametrize("how", SCALINGS)
class TestEveryScaling:
    @given(stack=tied)
    def test_keeps_order_and_fills_zero_to_one(self, how, stack):
        s = not_constant(stack)
        found = scale_similarities(s, how)
        axes = (-1,) if how == "row_minmax" else (-2, -1)
        pairs, scaled = off_diagonal(s), off_diagonal(found)
        assert (scaled >= 0).all()
        assert (scaled <= 1).all()
        assert (found.diagonal(dim1=-2, dim2=-1) == 1).all()
        if how != "affine":
            itself = torch.eye(5, dtype=torch.bool)
            assert (found.amin(axes) == 0).all()
            assert (found.masked_fill(itself, 0.0).amax(axes) == 1).all()
        rows = [s, found] if how == "row_minmax" else [pairs[:, None], scaled[:, None]]
        higher = rows[0][..., :, None] > rows[0][..., None, :]
        scaled_higher = rows[1][..., :, None] > rows[1][..., None, :]
        if how == "row_minmax":  # the diagonal is 1 whatever it was
            itself = torch.eye(5, dtype=torch.bool)
            keep = ~(itself[:, :, None] | itself[:, None, :])
            higher, scaled_higher = higher & keep, scaled_higher & keep
        assert torch.equal(higher, scaled_higher)

    def test_batch_equals_loop_and_keeps_type_and_input(self, how, rng):
        for dtype in (torch.float32, torch.float64):
            s = bounded(rng, 2, 3, 6, 6, dtype=dtype)
            before = s.clone()
            found = scale_similarities(s, how)
            loop = [[scale_similarities(matrix, how) for matrix in row] for row in s]
            assert torch.equal(found, torch.stack([torch.stack(row) for row in loop]))
            assert found.dtype == dtype
            assert torch.equal(s, before)

    def test_the_diagonal_does_not_matter(self, how, rng):
        s = bounded(rng, 5, 5)
        other = s.clone()
        other.fill_diagonal_(40.0)
        assert torch.equal(scale_similarities(s, how), scale_similarities(other, how))

    def test_all_entries_count_where_nothing_is_a_self_similarity(self, how, rng):
        s = bounded(rng, 4, 4)
        kept = scale_similarities(s, how, exclude_self=False)
        wide = scale_similarities(s.repeat(1, 2), how)  # rectangular: no diagonal
        torch.testing.assert_close(kept, wide[:, :4], rtol=0, atol=1e-15)

    def test_symmetric_stays_symmetric_but_for_rows(self, how, rng):
        s = similarity_matrix(bounded(rng, 3, 6, 20))
        found = scale_similarities(s, how)
        assert torch.equal(found, found.mT) == (how != "row_minmax")

    def test_missing_matrix_stays_missing(self, how, rng):
        s = bounded(rng, 2, 4, 4)
        s[1] = torch.nan
        found = off_diagonal(scale_similarities(s, how))
        assert found[1].isnan().all()
        assert found[0].isfinite().all()

    def test_gradient(self, how, rng):
        s = bounded(rng, 2, 4, 4).requires_grad_()
        if how == "rank":
            assert not scale_similarities(s, how).requires_grad
        else:
            assert torch.autograd.gradcheck(lambda s: scale_similarities(s, how), (s,))
            assert torch.autograd.gradcheck(
                lambda s: scale_similarities(s, how), (bounded(rng, 3, 4).requires_grad_(),)
            )


def test_hand_worked_values():
    s = torch.tensor(
        [[9.0, 2.0, 4.0, 3.0], [2.0, 9.0, 6.0, 6.0], [4.0, 6.0, 9.0, 2.0], [3.0, 6.0, 2.0, 9.0]],
        dtype=torch.float64,
    )
    rows = [[1, 0, 1, 0.5], [0, 1, 1, 1], [0.5, 1, 1, 0], [0.25, 1, 0, 1]]
    assert scale_similarities(s, "row_minmax").tolist() == rows
    assert scale_similarities(s, "minmax")[0].tolist() == [1, 0, 0.5, 0.25]
    # pairs 2 2 3 4 6 6 have the average ranks 1.5 1.5 3 4 5.5 5.5
    assert scale_similarities(s, "rank")[0].tolist() == [1, 0, 2.5 / 4, 1.5 / 4]
    assert scale_similarities(s / 9, "affine")[0, 1].item() == pytest.approx(11 / 18, rel=1e-15)


@given(tied)
def test_ranks_are_scipys(stack):
    s = not_constant(stack)
    for matrix in (s, s[..., :4]):
        square = matrix.shape[-1] == 5
        flat = (off_diagonal(matrix) if square else matrix.flatten(-2)).numpy()
        ranks = rankdata(flat, axis=-1)
        low, high = ranks.min(-1, keepdims=True), ranks.max(-1, keepdims=True)
        found = scale_similarities(matrix, "rank")
        found = off_diagonal(found) if square else found.flatten(-2)
        np.testing.assert_allclose(found, (ranks - low) / (high - low), rtol=0, atol=1e-15)


@given(tied)
def test_symmetric_ranks_agree_with_those_of_all_entries(stack):
    s = not_constant(stack)
    s = s.triu() + s.triu(1).mT
    both = off_diagonal(scale_similarities(s, "rank"))
    flat = rankdata(off_diagonal(s).numpy(), axis=-1)
    low, high = flat.min(-1, keepdims=True), flat.max(-1, keepdims=True)
    np.testing.assert_allclose(both, (flat - low) / (high - low), rtol=0, atol=1e-15)


def test_ranks_stay_exact_beyond_the_digits_of_float32():
    n = 3000  # 8 997 000 entries; sums of two ranks pass 2 ** 24
    s = torch.arange(n * n, dtype=torch.float64).reshape(n, n).remainder(2**22).float()
    ranks = rankdata(off_diagonal(s).double().numpy())  # of float32 newer SciPy ranks in float32
    expected = (ranks - ranks.min()) / (ranks.max() - ranks.min())
    found = off_diagonal(scale_similarities(s, "rank")).numpy()
    np.testing.assert_array_equal(found, expected.astype(np.float32))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("how", ["row_minmax", "minmax", "affine"])
@given(stack=tied, ulps=arrays(np.int64, (2, 5, 5), elements=st.integers(-4, 4)))
def test_rounding_is_not_information(how, dtype, stack, ulps):
    """Equal pairs that differ by what another processor rounds stay at the same end."""
    s = not_constant(stack).to(dtype)
    s.diagonal(dim1=-2, dim2=-1).fill_(1.0)
    if how == "affine":
        s = torch.where(s.abs() == 0.9, s.sign(), s)
    noise = torch.from_numpy(ulps).to(dtype) * torch.finfo(dtype).eps
    exact, rough = scale_similarities(s, how), scale_similarities(s + noise, how)
    for end in (0.0, 1.0):
        assert torch.equal(exact == end, rough == end)
    torch.testing.assert_close(exact, rough, rtol=0, atol=40 * torch.finfo(dtype).eps)
    half = torch.full((), 0.5, dtype=dtype)
    steep = soft_step_s2(rough, half, half / 20)  # 1e-16 would become .4
    torch.testing.assert_close(
        steep, soft_step_s2(exact, half, half / 20), rtol=0, atol=40 * torch.finfo(dtype).eps
    )


@given(st.integers(3, 12), st.integers(2, 40), st.integers(0, 2**32 - 1), st.booleans())
def test_the_ends_of_similarities_are_exactly_zero_and_one(n, n_units, seed, wide):
    generator = torch.Generator().manual_seed(seed)
    dtype = torch.float64 if wide else torch.float32
    x = torch.randn(n, n_units, generator=generator, dtype=dtype)
    for similarity in ("cosine", "l2", "dot"):
        s = similarity_matrix(x, similarity=similarity)
        itself = torch.eye(n, dtype=torch.bool)
        for how, axes in (("row_minmax", -1), ("minmax", (-2, -1)), ("rank", (-2, -1))):
            if similarity == "cosine" and n_units == 2:
                continue  # of few angles some may be equal
            low = s.masked_fill(itself, torch.inf).amin(axes, keepdim=True)
            high = s.masked_fill(itself, -torch.inf).amax(axes, keepdim=True)
            found = scale_similarities(s, how)
            assert (found[(s == low) & ~itself] == 0).all()
            assert (found[(s == high) & ~itself] == 1).all()
            assert ((found == 0) & ~itself).any(axes if how != "row_minmax" else -1).all()


def test_steps_at_the_ends_pass_their_gradient_to_the_others(rng):
    """Of an end that moves, the value stays 0 or 1 and all others move the other way."""
    s = torch.tensor([[1.0, 0.2, 0.5, 0.8]], dtype=torch.float64, requires_grad=True)
    found = scale_similarities(s, "row_minmax")
    for j, expected in ((0, [0, 0, 0, 0]), (1, [0, 0, 0, 0])):
        (by,) = torch.autograd.grad(found[0, j], s, retain_graph=True)
        assert by.tolist() == [expected]
    (by,) = torch.autograd.grad(found[0, 2], s)
    # of (s - a) / (b - a) at s = .5, a = .2, b = 1
    torch.testing.assert_close(
        by, torch.tensor([[-0.3 / 0.64, -0.5 / 0.64, 1 / 0.8, 0.0]], dtype=torch.float64)
    )


@pytest.mark.parametrize("how", SCALINGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
class TestLearnedScaling:
    @given(stack=tied)
    def test_what_it_learned_on_is_scaled_as_ever(self, how, dtype, stack):
        s = not_constant(stack).to(dtype)
        symmetric = similarity_matrix(s[..., :2, :].mT, similarity="l1")
        symmetric[..., 0, 1] = symmetric[..., 1, 0] = 1.0
        blocks = (s, s[..., :4]) if how in ("row_minmax", "affine") else (s, s[..., :4], symmetric)
        for given_s in blocks:
            found = Scaling.fit(given_s, how)(given_s)
            assert found.dtype == dtype
            assert torch.equal(found, scale_similarities(given_s, how))

    @given(factor=st.floats(1e-9, 1e9), seed=st.integers(0, 2**32 - 1))
    def test_the_unit_of_distances_does_not_matter(self, how, dtype, factor, seed):
        if how == "affine":
            return  # is of similarities that have no unit
        x = torch.rand(12, 4, generator=torch.Generator().manual_seed(seed), dtype=dtype)
        s = similarity_matrix(x, similarity="l2")
        train, test = slice(0, 8), slice(8, 12)
        found, scaled = (
            Scaling.fit(block[train, train], how)(block[test, test]) for block in (s, factor * s)
        )
        torch.testing.assert_close(found, scaled, rtol=0, atol=40 * torch.finfo(dtype).eps)

    def test_members_are_scaled_by_their_own_numbers(self, how, dtype, rng):
        train, test = bounded(rng, 3, 2, 6, 6, dtype=dtype), bounded(rng, 3, 2, 4, 4, dtype=dtype)
        scaling = Scaling.fit(train, how)
        for i in range(3):
            alone = Scaling.fit(train[i], how)(test[i])
            assert torch.equal(scaling(test)[i], alone)
            assert torch.equal(scaling[i](test[i]), alone)
        rectangle = scaling(test[..., :3])
        assert rectangle.shape == (3, 2, 4, 3)


def test_held_out_similarities_are_in_the_unit_of_those_learned_on():
    train = torch.tensor([[9.0, 1.0, 2.0], [1.0, 9.0, 5.0], [2.0, 5.0, 9.0]])
    test = torch.tensor([[9.0, 0.0, 1.0, 1.5, 2.0, 3.0, 5.0, 7.0]])
    # (s - 1) / 4, and of the ranks 1, 2, 3 minus 1, half: between two of them half way
    expected = {
        "minmax": [1.0, 0.0, 0.0, 0.125, 0.25, 0.5, 1.0, 1.0],
        "rank": [1.0, 0.0, 0.0, 0.25, 0.5, 0.75, 1.0, 1.0],
    }
    for how, values in expected.items():
        assert Scaling.fit(train, how)(test).tolist() == [values]
    square = Scaling.fit(train, "minmax")(torch.tensor([[7.0, 0.0], [4.0, 7.0]]))
    assert square.tolist() == [[1.0, 0.0], [0.75, 1.0]]


def test_nothing_is_learned_from_a_constant_matrix():
    for how in ("minmax", "rank"):
        with pytest.raises(DataError, match=r"of the matrix are 0\.125"):
            Scaling.fit(0.125 + torch.eye(3), how)
    with pytest.raises(UnknownNameError, match=r"'min_max'\. Did you mean 'minmax'"):
        Scaling.fit(torch.eye(3), "min_max")


def test_missing_values_stay_missing_in_what_was_learned():
    s = torch.tensor([[1.0, torch.nan, 0.1], [torch.nan, 1.0, 0.3], [0.1, 0.3, 1.0]])
    whole = torch.tensor([[1.0, 0.2, 0.1], [0.2, 1.0, 0.3], [0.1, 0.3, 1.0]])
    for how in ("minmax", "rank"):
        assert off_diagonal(Scaling.fit(s, how)(whole)).isnan().all()
        found = off_diagonal(Scaling.fit(whole, how)(s))
        assert torch.equal(found.isnan(), off_diagonal(s).isnan())


def test_rounding_beyond_one_is_clamped():
    s = torch.tensor([[1.0, 1.0 + 2e-7], [-1.0 - 2e-7, 1.0]])
    assert scale_similarities(s, "affine").tolist() == [[1.0, 1.0], [0.0, 1.0]]


def test_constant_row_is_named(rng):
    s = bounded(rng, 2, 3, 4, 4)
    s[1, 2, 3, :3] = 0.25
    with pytest.raises(DataError, match=r"row 3 of matrix \(1, 2\) are 0\.25.* \(1 such in all\)"):
        scale_similarities(s, "row_minmax")
    with pytest.raises(DataError, match=r"of row 3 are 0\.25"):
        scale_similarities(s[1, 2], "row_minmax")
    with pytest.raises(DataError, match=r"of row 0 are .* \(2 such in all\)"):
        scale_similarities(torch.eye(2), "row_minmax")  # one neighbor is no scale


@pytest.mark.parametrize("how", ["minmax", "rank"])
def test_constant_matrix_is_named(rng, how):
    s = bounded(rng, 3, 4, 4)
    s[2] = 0.5 * torch.eye(4) + 0.125 * (1 - torch.eye(4))
    with pytest.raises(DataError, match=r"of matrix \(2,\) are 0\.125"):
        scale_similarities(s, how)
    with pytest.raises(DataError, match=r"of the matrix are 0\.125"):
        scale_similarities(s[2], how)


def test_unbounded_similarities_are_refused_by_affine():
    s = torch.tensor([[1.0, -1.5, 3.0], [0.2, 1.0, 0.1], [0.0, 0.0, 1.0]])
    with pytest.raises(DataError, match=r"got -1\.5 at \(0, 1\) and 1 more outside"):
        scale_similarities(s, "affine")


def test_wrong_arguments_are_named():
    with pytest.raises(UnknownNameError, match=r"'row_min_max'\. Did you mean 'row_minmax'"):
        scale_similarities(torch.eye(3), "row_min_max")
    with pytest.raises(ShapeError, match=r"got \(3,\)"):
        scale_similarities(torch.ones(3), "minmax")
    with pytest.raises(ShapeError, match=r"at least 2 stimuli .* got 1"):
        scale_similarities(torch.ones(1, 1), "minmax")
    with pytest.raises(DTypeError, match=r"`s` must be float32 or float64, got torch\.int64"):
        scale_similarities(torch.ones(3, 3).long(), "minmax")
