"""Correlations of RSMs against SciPy, rsatoolbox, least squares and hand-worked cases."""

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from rsatoolbox.rdm import RDMs, compare

from softrsa.errors import DTypeError, ShapeError
from softrsa.measures import centered_pearson, cosine, pearson, row_offset_share, spearman
from softrsa.pairs import off_diagonal
from softrsa.transforms import double_center

ON_VECTORS = (cosine, pearson, spearman)
pair = arrays(np.float64, (2, 15), elements=st.floats(-100, 100))
tied = arrays(np.float64, (2, 15), elements=st.integers(-4, 4).map(lambda i: i / 8))
matrices = arrays(np.float64, (2, 5, 5), elements=st.floats(-10, 10))


def test_hand_worked_values():
    x = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    y = torch.tensor([1.0, 3.0, 2.0, 5.0], dtype=torch.float64)
    assert pearson(x, y).item() == pytest.approx(5.5 / 43.75**0.5, rel=1e-15)
    assert cosine(x, y).item() == pytest.approx(33 / (30 * 39) ** 0.5, rel=1e-15)
    assert spearman(x, y).item() == pytest.approx(1 - 6 * 2 / (4 * 15), rel=1e-15)


@given(pair, st.floats(1e-3, 1e3), st.floats(-1e3, 1e3))
def test_pearson_is_scipys_and_ignores_affine_maps(values, scale, shift):
    assume((values.std(axis=1) > 1e-2).all())
    x, y = torch.from_numpy(values)
    expected = scipy.stats.pearsonr(*values).statistic
    assert pearson(x, y).item() == pytest.approx(expected, abs=1e-12)
    assert pearson(scale * x + shift, y).item() == pytest.approx(expected, abs=1e-6)
    assert pearson(-x, y).item() == pytest.approx(-expected, abs=1e-12)


@given(tied)
def test_spearman_is_scipys_with_ties(values):
    assume((np.ptp(values, axis=1) > 0).all())
    expected = scipy.stats.spearmanr(*values).statistic
    assert spearman(*torch.from_numpy(values)).item() == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize(
    ("function", "method"), [(pearson, "corr"), (cosine, "cosine"), (spearman, "spearman")]
)
def test_rsatoolbox(function, method, rng):
    x = torch.rand(3, 28, dtype=torch.float64, generator=rng)
    y = torch.rand(4, 28, dtype=torch.float64, generator=rng)
    expected = compare(RDMs(x.numpy().copy()), RDMs(y.numpy().copy()), method)
    np.testing.assert_allclose(function(x[:, None], y), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("function", ON_VECTORS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [3, 7, 10, 100, 4186])
def test_constant_is_undefined_also_where_its_mean_rounds(function, dtype, n, rng):
    y = torch.randn(n, dtype=dtype, generator=rng)
    constant = torch.full((n,), 0.0 if function is cosine else 0.1, dtype=dtype)
    assert function(constant, y).isnan()
    assert function(y, constant).isnan()
    both = function(torch.stack([constant, y]), y)
    assert both.isnan().tolist() == [True, False]


@pytest.mark.parametrize("function", ON_VECTORS)
def test_missing_values_make_the_score_missing(function, rng):
    x, y = torch.rand(2, 10, generator=rng)
    x[3] = torch.nan
    assert function(x, y).isnan()
    assert function(y, x).isnan()


@pytest.mark.parametrize("scale", [1e-15, 1e15])
def test_fourth_powers_beyond_float32(scale, rng):
    x, y = torch.randn(2, 50, dtype=torch.float64, generator=rng)
    for function in (pearson, cosine):
        found = function((scale * x).float(), (scale * y).float()).item()
        assert found == pytest.approx(function(x, y).item(), abs=1e-6)


def residual(matrix):
    """What rows and columns do not explain of the off-diagonal entries, by least squares."""
    n = len(matrix)
    row, column = np.nonzero(~np.eye(n, dtype=bool))
    design = np.concatenate([np.eye(n)[row], np.eye(n)[column]], axis=1)
    values = matrix[row, column]
    return values - design @ np.linalg.lstsq(design, values, rcond=None)[0]


@pytest.mark.parametrize("n", [4, 5, 12])
def test_centered_pearson_is_the_correlation_of_least_squares_residuals(n, rng):
    x, y = torch.randn(2, n, n, dtype=torch.float64, generator=rng)
    for a, b in ((x, y), (x + x.T, y + y.T), (x, y + y.T)):
        expected = scipy.stats.pearsonr(residual(a.numpy()), residual(b.numpy())).statistic
        assert centered_pearson(a, b).item() == pytest.approx(expected, abs=1e-13)


@given(matrices, arrays(np.float64, (2, 5), elements=st.floats(-10, 10)))
def test_centered_pearson_ignores_one_number_per_stimulus(values, offsets):
    x, y = torch.from_numpy(values)
    rows, columns = torch.from_numpy(offsets)
    score = centered_pearson(x, y)
    assume(residual(x.numpy()).std() > 1e-2)
    assume(residual(y.numpy()).std() > 1e-2)
    moved = centered_pearson(x + rows[:, None] + columns, y)
    assert moved.item() == pytest.approx(score.item(), abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [4, 8, 33])
def test_purely_additive_rsm_has_no_centered_score(dtype, n, rng):
    """What is left of it is rounding, which would correlate with anything."""
    y = torch.randn(n, n, dtype=dtype, generator=rng)
    rows, columns = torch.randn(2, n, dtype=dtype, generator=rng)
    additive = 10 + rows[:, None] + columns
    assert centered_pearson(additive, y).isnan()
    assert centered_pearson(y, additive).isnan()
    assert centered_pearson(torch.full_like(y, 0.1), y).isnan()
    slight = additive + 1e-3 * torch.randn(n, n, dtype=dtype, generator=rng)
    assert centered_pearson(slight, y).isfinite()


def test_row_offset_share_by_hand():
    """x = y = a + c with orthogonal parts: the additive share is |a|^2 / (|a|^2 + |c|^2)."""
    rows = torch.tensor([3.0, 1.0, -1.0, -3.0], dtype=torch.float64)
    additive = rows[:, None].expand(4, 4)
    geometry = torch.tensor(
        [[0, 1, -1, 0], [1, 0, 0, -1], [-1, 0, 0, 1], [0, -1, 1, 0]], dtype=torch.float64
    )  # every row and column sums to zero off the diagonal
    x = additive + geometry
    additive_size = 3 * (9 + 1 + 1 + 9)
    expected = additive_size / (additive_size + 8)
    assert row_offset_share(x, x).item() == pytest.approx(expected, rel=1e-14)
    assert row_offset_share(x, additive).item() == pytest.approx(1, abs=1e-15)
    assert row_offset_share(x, geometry).item() == pytest.approx(0, abs=1e-15)


@given(matrices)
def test_row_offset_share_is_a_share_of_the_covariance(values):
    x, y = torch.from_numpy(values)
    share = row_offset_share(x, y)
    geometry = residual(values[0]) @ residual(values[1])
    a, b = off_diagonal(x).numpy(), off_diagonal(y).numpy()
    total = ((a - a.mean()) * (b - b.mean())).sum()
    assume(abs(geometry) + abs(total - geometry) > 1e-6)
    assert 0 <= share <= 1
    expected = abs(total - geometry) / (abs(total - geometry) + abs(geometry))
    assert share.item() == pytest.approx(expected, abs=1e-6)
    torch.testing.assert_close(row_offset_share(y, x), share)


def test_nothing_shared_has_no_share():
    assert row_offset_share(torch.full((5, 5), 0.1), torch.rand(5, 5)).isnan()


@pytest.mark.parametrize("function", ON_VECTORS)
def test_wrong_pairs_are_named(function):
    with pytest.raises(ShapeError, match=r"`x` has 6 pairs \(4 stimuli\), `y` has 10 pairs \(5 st"):
        function(torch.ones(6), torch.ones(10))
    with pytest.raises(ShapeError, match=r"`y` must have shape \(\.\.\., n_pairs\), got a scalar"):
        function(torch.ones(6), torch.tensor(1.0))
    with pytest.raises(DTypeError, match=r"`y` must be float32 or float64, got torch\.int64"):
        function(torch.ones(6), torch.ones(6).long())


@pytest.mark.parametrize(("function", "least"), [(centered_pearson, 4), (row_offset_share, 3)])
def test_wrong_matrices_are_named(function, least):
    with pytest.raises(ShapeError, match=r"`x` has 6, `y` has 5"):
        function(torch.rand(6, 6), torch.rand(5, 5))
    few = torch.rand(least - 1, least - 1)
    with pytest.raises(ShapeError, match=rf"at least {least}: `x` has {least - 1}"):
        function(few, few)
    with pytest.raises(ShapeError, match=r"`y` must be square, .*got \(4, 5\)"):
        function(torch.rand(4, 4), torch.rand(4, 5))
    with pytest.raises(DTypeError, match=r"`x` must be .* got torch\.complex64"):
        function(torch.rand(4, 4, dtype=torch.complex64), torch.rand(4, 4))


def test_gradient_of_centered_pearson_in_closed_form(rng):
    x = torch.randn(2, 1, 5, 5, generator=rng, dtype=torch.float64, requires_grad=True)
    y = torch.randn(3, 5, 5, generator=rng, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(centered_pearson, (x, y))
    assert torch.autograd.gradgradcheck(centered_pearson, (x, y))
    # one of the two only, and plain arithmetic: HMH-free centering by least squares
    (of_y,) = torch.autograd.grad(centered_pearson(x.detach(), y).sum(), y)
    centered = [double_center(matrix).flatten(-2) for matrix in (x.detach(), y)]
    plain = torch.nn.functional.cosine_similarity(*centered, dim=-1).sum()
    torch.testing.assert_close(of_y, torch.autograd.grad(plain, y)[0], rtol=1e-10, atol=1e-12)


def test_nothing_left_gives_no_gradient(rng):
    rows = torch.randn(5, 1, generator=rng, dtype=torch.float64)
    x = torch.stack([rows.expand(5, 5), torch.randn(5, 5, generator=rng, dtype=torch.float64)])
    x.requires_grad_(True)
    y = torch.randn(5, 5, generator=rng, dtype=torch.float64)
    score = centered_pearson(x, y)
    assert score.isnan().tolist() == [True, False]
    score.nansum().backward()
    assert x.grad[0].abs().max() == 0
    assert 0 < x.grad[1].abs().max() < torch.inf


def test_gradients_again_where_one_side_is_constant_or_made_of_the_other(rng):
    x = torch.randn(6, 6, generator=rng, dtype=torch.float64, requires_grad=True)
    c = torch.randn(6, 6, generator=rng, dtype=torch.float64)
    for function in (lambda x: centered_pearson(x, c), lambda x: centered_pearson(x, x**2 + c)):
        once, again = (
            torch.autograd.grad(function(x), x, create_graph=many)[0] for many in (False, True)
        )
        torch.testing.assert_close(again, once, rtol=1e-12, atol=1e-14)
        assert torch.autograd.gradgradcheck(function, (x,))
