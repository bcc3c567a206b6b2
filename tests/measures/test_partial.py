"""Partial correlations against pingouin, mne-rsa and the formula by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata

from softrsa.errors import DataError, DTypeError, ShapeError
from softrsa.measures import (
    centered_pearson,
    get,
    partial_correlation,
    pearson,
    semipartial_correlation,
    spearman,
)
from softrsa.measures.partial import of_residuals, residual_squares
from softrsa.pairs import expand

FROZEN = json.loads((Path(__file__).parents[1] / "reference" / "partial.json").read_text())
BRAIN, MODEL, *CONTROLS = torch.tensor(FROZEN["rdms"], dtype=torch.float64)
CONTROLS = torch.stack(CONTROLS)


@pytest.mark.parametrize("method", ["pearson", "spearman"])
def test_it_is_pingouin(method):
    rank = method == "spearman"
    partial = partial_correlation(MODEL, BRAIN, CONTROLS, rank=rank)
    semi = semipartial_correlation(MODEL, BRAIN, CONTROLS, rank=rank)
    assert float(partial) == pytest.approx(FROZEN[f"pingouin_partial_{method}"], abs=1e-12)
    assert float(semi) == pytest.approx(FROZEN[f"pingouin_semipartial_{method}"], abs=1e-12)


@pytest.mark.parametrize("rank", [False, True])
def test_it_is_mne_rsa_for_each_model_given_the_others(rank):
    models = torch.stack([MODEL, *CONTROLS])
    others = torch.stack([models[[j for j in range(4) if j != i]] for i in range(4)])
    expected = FROZEN["mne_rsa_partial-spearman" if rank else "mne_rsa_partial"]
    found = partial_correlation(models, BRAIN, others, rank=rank)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def data(seed, n=28, k=2):
    rng = torch.Generator().manual_seed(seed)
    x, y = torch.randn(2, n, dtype=torch.float64, generator=rng)
    control = torch.randn(k, n, dtype=torch.float64, generator=rng)
    return x + control[0], y + control.sum(0), control


def by_hand(x, y, control, *, rank):
    if rank:
        x, y, *control = (rankdata(v) for v in (x, y, *control))
    design = np.column_stack([np.ones(len(x)), *control])
    rest = [v - design @ np.linalg.lstsq(design, v, rcond=None)[0] for v in (x, y)]
    return np.corrcoef(*rest)[0, 1], np.corrcoef(rest[0], y)[0, 1]


@given(seed=st.integers(0, 10**6), rank=st.booleans(), k=st.integers(1, 4))
def test_residuals_by_hand(seed, rank, k):
    x, y, control = data(seed, k=k)
    partial, semi = by_hand(x.numpy(), y.numpy(), control.numpy(), rank=rank)
    assert float(partial_correlation(x, y, control, rank=rank)) == pytest.approx(partial, abs=1e-10)
    assert float(semipartial_correlation(x, y, control, rank=rank)) == pytest.approx(
        semi, abs=1e-10
    )


@given(seed=st.integers(0, 10**6))
def test_one_control_is_the_formula_of_three_correlations(seed):
    x, y, control = data(seed, k=1)
    xy, xc, yc = pearson(x, y), pearson(x, control[0]), pearson(y, control[0])
    expected = (xy - xc * yc) / ((1 - xc**2) * (1 - yc**2)).sqrt()
    torch.testing.assert_close(partial_correlation(x, y, control[0]), expected)


@given(seed=st.integers(0, 10**6), rank=st.booleans())
def test_nothing_is_left_where_the_control_is_one_of_the_two(seed, rank):
    x, y, control = data(seed)
    for left, right in ((x, y), (y, x)):
        assert partial_correlation(left, right, x, rank=rank).isnan()
        assert partial_correlation(left, right, 3 - 2 * x, rank=rank).isnan()
    for dtype in (torch.float32, torch.float64):
        scaled = (2 * x.to(dtype) + 5).to(dtype)
        assert partial_correlation(scaled, y.to(dtype), x.to(dtype), rank=rank).isnan()
    assert semipartial_correlation(x, y, x, rank=rank).isnan()
    if not rank:
        mixed = x + control[0]
        assert partial_correlation(x, y, torch.stack([mixed, control[0]])).isnan()


@given(seed=st.integers(0, 10**6), rank=st.booleans())
def test_what_it_is_invariant_to(seed, rank):
    x, y, control = data(seed)
    score = partial_correlation(x, y, control, rank=rank)
    scaled = partial_correlation(3 * x + 1, 0.1 * y - 7, 5 * control + 2, rank=rank)
    torch.testing.assert_close(scaled, score)
    torch.testing.assert_close(partial_correlation(y, x, control.flip(0), rank=rank), score)
    if rank:
        bent = partial_correlation(x.exp(), y**3, control.exp(), rank=True)
    else:  # only the span of the controls counts, and what is in it may be added to either
        more = torch.stack([control[0] + control[1], control[0], control[1]])
        bent = partial_correlation(x + 4 * control[0], y - control[1], more)
    torch.testing.assert_close(bent, score)
    semi = semipartial_correlation(x, y, control, rank=rank)
    assert float(semi.abs()) <= float(score.abs()) + 1e-12


def test_a_constant_control_removes_nothing(rng):
    x, y, _ = data(0)
    constant = torch.full_like(x, 0.1)
    for rank, plain in ((False, pearson), (True, spearman)):
        torch.testing.assert_close(partial_correlation(x, y, constant, rank=rank), plain(x, y))
        torch.testing.assert_close(semipartial_correlation(x, y, constant, rank=rank), plain(x, y))


def test_batches_types_and_gradient():
    x, y, control = data(3)
    batch = partial_correlation(torch.stack([x, y])[:, None], torch.stack([y, x, y]), control)
    assert batch.shape == (2, 3)
    torch.testing.assert_close(batch[0, 0], partial_correlation(x, y, control))
    single = partial_correlation(x.float(), y.float(), control.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), batch[0, 0], rtol=0, atol=1e-6)
    x, y = x.clone().requires_grad_(), y.clone().requires_grad_()
    assert torch.autograd.gradcheck(partial_correlation, (x, y, control))
    missing = x.detach().clone()
    missing[3] = torch.nan
    assert partial_correlation(missing, y.detach(), control).isnan()


def test_inputs_are_left_alone():
    x, y, control = data(4)
    before = [v.clone() for v in (x, y, control)]
    partial_correlation(x, y, control, rank=True)
    semipartial_correlation(x, y, control)
    assert all(torch.equal(a, b) for a, b in zip(before, (x, y, control), strict=True))


@pytest.mark.parametrize("name", ["pearson", "spearman", "cosine", "centered_pearson"])
def test_residual_squares_are_scored_as_partial_correlations(name):
    x, y, control = data(5)
    measure = get(name)
    rest = [residual_squares(expand(v), expand(control), measure) for v in (x, y)]
    found = of_residuals(measure).between(*rest)
    if name == "centered_pearson":  # of what double-centering leaves, by hand
        n, numbers = 8, (x.numpy(), y.numpy())
        one_hot = np.eye(n)
        rows, columns = np.triu_indices(n, 1)
        offsets = one_hot[rows] + one_hot[columns]
        design = np.column_stack([offsets, *control.numpy()])
        left = [v - design @ np.linalg.lstsq(design, v, rcond=None)[0] for v in numbers]
        expected = np.dot(*left) / np.prod([np.linalg.norm(v) for v in left])
        same = residual_squares(expand(x), expand(x)[None], measure)
        assert centered_pearson(same, expand(y)).isnan()
    elif name == "cosine":
        left = [
            v - control.T.numpy() @ np.linalg.lstsq(control.T.numpy(), v, rcond=None)[0]
            for v in (x.numpy(), y.numpy())
        ]
        expected = np.dot(*left) / np.prod([np.linalg.norm(v) for v in left])
    else:
        expected = partial_correlation(x, y, control, rank=name == "spearman")
    assert float(found) == pytest.approx(float(expected), abs=1e-10)


def test_errors_say_what_must_hold():
    x, y, control = data(6)
    with pytest.raises(ShapeError, match=r"with the 28 pairs .* got \(2, 27\)"):
        partial_correlation(x, y, control[:, :27])
    with pytest.raises(ShapeError, match=r"Given 4 controls, .* at least 7 pairs, got 6"):
        partial_correlation(x[:6], y[:6], torch.rand(4, 6, dtype=torch.float64))
    with pytest.raises(DTypeError, match=r"`control` must be float32 or float64, got torch\.int64"):
        partial_correlation(x, y, torch.ones(28, dtype=torch.int64))
    with pytest.raises(
        DataError, match=r"'kendall_tau_a' has no partial form. Use one of .*pearson.*spearman"
    ):
        residual_squares(expand(x), expand(control), get("kendall_tau_a"))
