"""Predictivity: equal to scikit-learn's regressions, with exact gradients at any rank."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression, Ridge, RidgeCV
from sklearn.metrics import r2_score
from sklearn.model_selection import PredefinedSplit, cross_val_score
from torch.utils._python_dispatch import TorchDispatchMode

from softrsa.errors import DataError, DTypeError, ShapeError, UnknownNameError
from softrsa.measures import linear_predictivity, ridge_predictivity
from softrsa.measures.predictivity import RELATIVE_STRENGTHS, held_out_predictivity

SHAPES = [(40, 7, 5), (12, 30, 4), (20, 20, 3), (20, 19, 1)]
FOLDS = torch.arange(40) % 4
ALPHAS = np.logspace(-3, 5, 17)
MEASURES = [linear_predictivity, ridge_predictivity]
KINDS = ["linear", "ridge"]
both = pytest.mark.parametrize("measure", MEASURES)
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)


def pair(rng, n, p, q, *lead):
    """Features, and targets that depend more and more on the first of them."""
    x = torch.randn(*lead, n, p, dtype=torch.float64, generator=rng)
    noise = torch.randn(*lead, n, q, dtype=torch.float64, generator=rng)
    return x + 3, x[..., :1] * torch.arange(q) + noise - 5


def low_rank(rng, n, p, rank):
    """Two factors of features of a rank below both widths, singular values repeated."""
    draws = [torch.randn(m, rank, dtype=torch.float64, generator=rng) for m in (n, p)]
    left, right = (torch.linalg.qr(draw - draw.mean(0)).Q for draw in draws)
    return left, right.mT.contiguous()


def test_worked_by_hand():
    """Line 1.1 x: errors .1, .9, -1.2, .7 - .5 = .2 over a variance of 8.75."""
    x = torch.tensor([[1.0], [2.0], [3.0], [4.0]], dtype=torch.float64)
    y = torch.tensor([[1.0], [3.0], [2.0], [5.0]], dtype=torch.float64)
    assert linear_predictivity(x, y).item() == pytest.approx(1.1**2 * 5 / 8.75, rel=1e-14)
    pearson = linear_predictivity(x, y, score="pearson").item()
    assert pearson == pytest.approx(5.5 / 43.75**0.5, rel=1e-14)
    # slope 5.5 / (5 + 5): R2 = 1 - (8.75 - 2 * .55 * 5.5 + .55^2 * 5) / 8.75
    expected = (2 * 0.55 * 5.5 - 0.55**2 * 5) / 8.75
    assert ridge_predictivity(x, y, strengths=5.0).item() == pytest.approx(expected, rel=1e-14)


@shapes
def test_in_sample_as_scikit_learn(rng, shape):
    x, y = pair(rng, *shape)
    for measure, model in [
        (linear_predictivity, LinearRegression()),
        (lambda x, y, **o: ridge_predictivity(x, y, strengths=2.0, **o), Ridge(2.0)),
        (
            lambda x, y, **o: ridge_predictivity(x, y, strengths=ALPHAS, **o),
            RidgeCV(ALPHAS, alpha_per_target=True),
        ),
    ]:
        predicted = model.fit(x, y).predict(x).reshape(y.shape)
        for average, multioutput in [
            (None, "raw_values"), ("uniform", "uniform_average"), ("variance", "variance_weighted"),
        ]:  # fmt: skip
            expected = r2_score(y, predicted, multioutput=multioutput)
            found = measure(x, y, average=average).numpy()
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)
        expected = [np.corrcoef(a, b)[0, 1] for a, b in zip(y.T, predicted.T, strict=True)]
        found = measure(x, y, score="pearson", average=None)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("p", [5, 60])
def test_folds_as_scikit_learn(rng, p):
    x, y = pair(rng, 40, p, 3)
    split = PredefinedSplit(FOLDS.numpy())
    for found, model in [
        (linear_predictivity(x, y, folds=FOLDS), LinearRegression()),
        (
            ridge_predictivity(x, y, folds=FOLDS, strengths=ALPHAS),
            RidgeCV(ALPHAS, alpha_per_target=True),
        ),
    ]:
        expected = cross_val_score(model, x, y, cv=split, scoring="r2").mean()
        assert found.item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("p", "rank"), [(6, 6), (50, 29)])
def test_default_strengths_are_relative_to_the_data(rng, p, rank):
    x, y = pair(rng, 30, p, 4)
    unit = (x - x.mean(0)).square().sum() / rank
    model = RidgeCV(RELATIVE_STRENGTHS.numpy() * float(unit), alpha_per_target=True).fit(x, y)
    expected = r2_score(y, model.predict(x))
    assert ridge_predictivity(x, y).item() == pytest.approx(expected, abs=1e-12)
    assert ridge_predictivity(1e5 * x, y).item() == pytest.approx(expected, abs=1e-12)


def test_each_target_has_its_own_strength(rng):
    """A predictable and an unpredictable target need different ones."""
    x, y = pair(rng, 20, 10, 6)
    alone = [ridge_predictivity(x, y[:, i : i + 1]) for i in range(6)]
    found = ridge_predictivity(x, y, average=None)
    torch.testing.assert_close(found, torch.stack(alone), rtol=0, atol=1e-12)


def test_ridge_generalizes_where_least_squares_overfits(rng):
    x, y = pair(rng, 60, 50, 4)
    assert linear_predictivity(x, y) > ridge_predictivity(x, y)
    assert linear_predictivity(x, y, folds=5) < ridge_predictivity(x, y, folds=5)


def test_seed_shuffles_stimuli_into_folds(rng):
    x, y = pair(rng, 23, 3, 2)
    scores = [ridge_predictivity(x, y, folds=5, seed=seed) for seed in (0, 0, 1)]
    assert scores[0] == scores[1] != scores[2]
    order = torch.randperm(23, generator=torch.Generator().manual_seed(7)).tensor_split(5)
    numbers = torch.empty(23, dtype=torch.int64)
    for fold, stimuli in enumerate(order):
        numbers[stimuli] = fold
    assert linear_predictivity(x, y, folds=5, seed=7) == linear_predictivity(x, y, folds=numbers)


@pytest.mark.parametrize("kind", KINDS)
def test_held_out_is_one_fold(rng, kind):
    x, y = pair(rng, 40, 6, 3)
    scores = []
    for fold in range(4):
        train, test = fold != FOLDS, fold == FOLDS
        scores.append(held_out_predictivity(x[train], y[train], x[test], y[test], kind=kind))
    measure = MEASURES[KINDS.index(kind)]
    torch.testing.assert_close(torch.stack(scores).mean(), measure(x, y, folds=FOLDS))


@pytest.mark.parametrize("score", ["r2", "pearson"])
@pytest.mark.parametrize("kind", KINDS)
@shapes
def test_gradient_held_out(rng, shape, kind, score):
    n, p, q = shape
    x, y = pair(rng, n // 2, p, q)
    x_test, y_test = pair(rng, 6, p, q)
    strengths = 3.0 if kind == "ridge" else None

    def held_out(*parts):
        return held_out_predictivity(
            *parts, kind=kind, score=score, strengths=strengths, average=None
        )

    parts = [part.requires_grad_() for part in (x, y, x_test, y_test)]
    assert torch.autograd.gradcheck(held_out, parts, fast_mode=True)


@both
def test_gradient_in_sample(rng, measure):
    x, y = (part.requires_grad_() for part in pair(rng, 12, 4, 3))
    assert torch.autograd.gradcheck(measure, (x, y), fast_mode=True)
    x, y = (part.requires_grad_() for part in pair(rng, 6, 9, 2))
    assert torch.autograd.gradcheck(
        lambda x, y: ridge_predictivity(x, y, average=None), (x, y), fast_mode=True
    )


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_where_rank_is_low_and_singular_values_repeat(rng, kind):
    """Along the manifold of that rank; across it, least squares of minimum norm jumps."""
    left, right = (part.requires_grad_() for part in low_rank(rng, 14, 9, 4))
    _, y = pair(rng, 14, 1, 2)
    x_test, y_test = pair(rng, 6, 9, 2)

    def held_out(left, right, y, x_test):
        parts = (left @ right, y, x_test, y_test)
        return held_out_predictivity(*parts, kind=kind, score="pearson", average="variance")

    inputs = (left, right, y.requires_grad_(), x_test.requires_grad_())
    assert torch.autograd.gradcheck(held_out, inputs, fast_mode=True)


@both
def test_gradient_is_finite_at_a_perfect_match_and_beside_a_constant_target(rng, measure):
    x, y = pair(rng, 10, 15, 3)
    for parts in [(x, x), (x, y), (x[:, :3], y)]:
        source, target = (part.clone().requires_grad_() for part in parts)
        measure(source, target).backward()
        assert source.grad.isfinite().all()
        assert target.grad.isfinite().all()
    y = y.index_fill(1, torch.tensor([1]), 0.1).requires_grad_()
    for score in ("r2", "pearson"):
        measure(x[:, :3], y, score=score, average="variance").backward()
        assert y.grad.isfinite().all()


@both
def test_undefined_is_nan(rng, measure):
    x, y = pair(rng, 12, 3, 3)
    y[:, 1] = 0.1  # its mean over 12 stimuli is not exactly 0.1
    scores = measure(x, y, average=None)
    assert scores.isnan().tolist() == [False, True, False]
    assert measure(x, y).isnan()
    rest = measure(x, y[:, [0, 2]], average="variance")
    assert measure(x, y, average="variance").item() == pytest.approx(rest.item(), abs=1e-12)
    constant = torch.full_like(x, 0.3)
    assert measure(constant, y[:, :1]).item() == pytest.approx(0, abs=1e-12)
    assert measure(constant, y[:, :1], score="pearson").isnan()


@both
def test_batch_equals_loop_and_broadcasts(rng, measure):
    x, _ = pair(rng, 14, 5, 1, 2, 1)
    _, y = pair(rng, 14, 1, 4, 3)
    for options in [{}, {"average": None, "score": "pearson"}, {"folds": 3}]:
        scores = measure(x, y, **options)
        for i in range(2):
            for j in range(3):
                one = measure(x[i, 0], y[j], **options)
                torch.testing.assert_close(scores[i, j], one, rtol=0, atol=1e-12)


@both
def test_single_precision(rng, measure):
    x, y = pair(rng, 30, 8, 4)
    found = measure(x.float(), y.float(), folds=4)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(measure(x, y, folds=4).item(), abs=1e-5)


def test_rounding_predicts_nothing(rng):
    """Rank 3, but for the rounding of float32, which makes 20 regressors of it."""
    left, right = low_rank(rng, 40, 20, 3)
    y = pair(rng, 40, 1, 2)[1]
    short = (left @ right).float(), y.float()
    expected = r2_score(y, LinearRegression().fit(left, y).predict(left))
    assert linear_predictivity(*short).item() == pytest.approx(expected, abs=1e-5)
    fold = torch.arange(40) % 2
    parts = [z[fold == i] for i in (0, 1) for z in short]
    exact = [z[fold == i] for i in (0, 1) for z in (left, y)]
    found, wanted = held_out_predictivity(*parts), held_out_predictivity(*exact)
    assert found.item() == pytest.approx(wanted.item(), abs=1e-5)


@both
def test_wide_features_never_make_coefficients(rng, measure):
    """20 000 x 20 000 of them would take 3 GB, and as much again for the gradient."""
    x, y = (torch.randn(8, 20_000, dtype=torch.float64, generator=rng) for _ in range(2))
    sizes = []

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            parts = out if isinstance(out, (tuple, list)) else [out]
            sizes.extend(z.numel() for z in parts if isinstance(z, torch.Tensor))
            return out

    with Sizes():
        measure(x.requires_grad_(), y, folds=2).backward()
    assert x.grad.isfinite().all()
    assert max(sizes) <= 3 * x.numel()  # errors by strength and target are 21 x 20 000


def test_folds_in_any_form(rng):
    x, y = pair(rng, 12, 3, 2)
    fold = torch.arange(12) % 3
    expected = linear_predictivity(x, y, folds=fold)
    for form in (fold.tolist(), fold.numpy()):
        assert linear_predictivity(x, y, folds=form) == expected
    assert linear_predictivity(x, y, folds=np.int64(3)) == linear_predictivity(x, y, folds=3)


@both
@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), scale=st.floats(1e-3, 1e3), p=st.integers(1, 12))
def test_what_does_not_matter(measure, seed, scale, p):
    """Scale and shift of either side, rotation of x; the score of a fit is between 0 and 1."""
    rng = torch.Generator().manual_seed(seed)
    x, y = pair(rng, 9, p, 3)
    score = measure(x, y)
    assert -1e-9 < score < 1 + 1e-9
    rotation = torch.linalg.qr(torch.randn(p, p, dtype=torch.float64, generator=rng)).Q
    for source, target in [(scale * x - 1, y), (x, scale * y + 2), (x @ rotation, y)]:
        # looser than rounding: without folds, n <= p leaves residuals of rounding only
        assert measure(source, target).item() == pytest.approx(score.item(), abs=1e-7)


def test_messages(rng):
    x, y = pair(rng, 9, 2, 2)
    for error, message, options in [
        (UnknownNameError, r"score 'r'\. Did you mean 'r2'.*pearson", {"score": "r"}),
        (UnknownNameError, "average 'mean'.*uniform, variance, None", {"average": "mean"}),
        (DataError, "`folds` must be at least 2, got 1", {"folds": 1}),
        (DataError, "5 folds of 9 stimuli would score on 1 .*Use 2 to 4 folds", {"folds": 5}),
        (DataError, "1 folds of 9 stimuli", {"folds": torch.zeros(9)}),
        (ShapeError, r"one fold for each of 9 stimuli, got \(4,\)", {"folds": torch.arange(4)}),
    ]:
        for measure in MEASURES:
            with pytest.raises(error, match=message):
                measure(x, y, **options)
    with pytest.raises(DataError, match=r"positive and finite, got \[1.0, 0.0\]"):
        ridge_predictivity(x, y, strengths=[1, 0])
    with pytest.raises(ShapeError, match="`x` has 9, `y` has 8"):
        linear_predictivity(x, y[:8])
    with pytest.raises(DTypeError, match=r"float64 and torch\.float32"):
        ridge_predictivity(x, y.float())
    with pytest.raises(
        ShapeError, match=r"`y_train` and `y_test` must have the same units.*2 and 1"
    ):
        held_out_predictivity(x, y, x, y[:, :1])
    with pytest.raises(UnknownNameError, match=r"predictivity 'lasso'.*linear, ridge"):
        held_out_predictivity(x, y, x, y, kind="lasso")
