"""What every estimator of distances from folds or counts promises; errors of the family."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from softrsa import rsm
from softrsa.errors import DataError, DTypeError, ShapeError
from softrsa.rsm import (
    crossnobis,
    crossnobis_unbalanced,
    poisson_cv,
    poisson_kl,
    similarity_matrix,
)

FOLDS, N, P = 3, 5, 4


class Estimator(NamedTuple):
    compute: Callable[..., Tensor]
    folds: bool = True
    precision: bool = False
    offset_cancels: bool = True  # what is added to all responses (of one fold)
    scales: bool = True  # distances grow with the square of the responses


def mahalanobis(x, precision):
    return -similarity_matrix(x, similarity="mahalanobis", precision=precision)


def pooled(x, precision=None):
    return crossnobis_unbalanced(x, precision, over="all")


ESTIMATORS = {
    "crossnobis": Estimator(crossnobis, precision=True),
    "crossnobis_unbalanced": Estimator(crossnobis_unbalanced, precision=True),
    "crossnobis_unbalanced over all": Estimator(pooled, precision=True),
    "mahalanobis": Estimator(mahalanobis, folds=False, precision=True),
    "poisson_cv": Estimator(poisson_cv, offset_cancels=False, scales=False),
    "poisson_kl": Estimator(poisson_kl, folds=False, offset_cancels=False, scales=False),
}


def draw(rng, *lead, folds=True):
    """Positive, so that they may be counts."""
    shape = (*lead, FOLDS, N, P) if folds else (*lead, N, P)
    return 5 * torch.rand(*shape, dtype=torch.float64, generator=rng)


def precisions(rng, *lead):
    root = torch.randn(*lead, P, P, dtype=torch.float64, generator=rng)
    return root @ root.mT + torch.eye(P)


def test_no_estimator_is_left_out():
    public = {name for name in rsm.__all__ if name.startswith(("crossnobis", "poisson"))}
    assert public <= set(ESTIMATORS)


@pytest.mark.parametrize("name", ESTIMATORS)
class TestEveryEstimator:
    def cases(self, name, rng, *lead):
        """Responses, with each kind of precision that the estimator takes."""
        estimator = ESTIMATORS[name]
        x = draw(rng, *lead, folds=estimator.folds)
        one, batch = precisions(rng), precisions(rng, *lead)
        batch = batch.unsqueeze(-3) if estimator.folds else batch
        if not estimator.precision:
            return [(x, ())]
        return [(x, (one,)), (x, (batch,))] + ([(x, ())] if estimator.folds else [])

    def test_batch_equals_loop(self, name, rng):
        compute = ESTIMATORS[name].compute
        for x, more in self.cases(name, rng, 2, 3):
            found = compute(x, *more)
            assert found.shape == (2, 3, N, N)
            for i in range(2):
                for j in range(3):
                    own = [m if m.ndim == 2 else m[i, j] for m in more]
                    one = compute(x[i, j], *own)
                    torch.testing.assert_close(found[i, j], one, rtol=0, atol=1e-12)

    def test_leading_dimensions_broadcast(self, name, rng):
        if not ESTIMATORS[name].precision:
            return
        compute, folds = ESTIMATORS[name].compute, ESTIMATORS[name].folds
        x, precision = draw(rng, 2, 1, folds=folds), precisions(rng, 3)
        precision = precision.unsqueeze(-3) if folds else precision
        found = compute(x, precision)
        assert found.shape == (2, 3, N, N)
        torch.testing.assert_close(found[1, 2], compute(x[1, 0], precision[2]))

    def test_symmetric_with_zero_diagonal(self, name, rng):
        for x, more in self.cases(name, rng, 2):
            found = ESTIMATORS[name].compute(x, *more)
            assert torch.equal(found, found.mT)
            assert (found.diagonal(dim1=-2, dim2=-1) == 0).all()

    def test_keeps_dtype_and_inputs(self, name, rng):
        for x, more in self.cases(name, rng, 2):
            given_tensors = [x.float(), *(m.float() for m in more)]
            before = [t.clone() for t in given_tensors]
            found = ESTIMATORS[name].compute(*given_tensors)
            assert found.dtype == torch.float32
            assert all(map(torch.equal, given_tensors, before))
            exact = ESTIMATORS[name].compute(*(t.double() for t in given_tensors))
            torch.testing.assert_close(found.double(), exact, rtol=1e-6, atol=1e-5)

    def test_gradients(self, name, rng):
        for x, more in self.cases(name, rng):
            inputs = tuple(t.clone().requires_grad_() for t in (x + 0.1, *more))
            assert torch.autograd.gradcheck(ESTIMATORS[name].compute, inputs)

    def test_order_of_stimuli_and_folds_does_not_matter(self, name, rng):
        for x, more in self.cases(name, rng):
            order = torch.tensor([3, 0, 4, 1, 2])
            found = ESTIMATORS[name].compute(x, *more)
            moved = ESTIMATORS[name].compute(x[..., order, :], *more)
            torch.testing.assert_close(moved, found[order][:, order], rtol=0, atol=1e-12)
            if ESTIMATORS[name].folds:
                turned = ESTIMATORS[name].compute(x.flip(0), *more)
                torch.testing.assert_close(turned, found, rtol=0, atol=1e-12)

    def test_wrong_shapes_and_types(self, name, rng):
        compute, folds, precision, *_ = ESTIMATORS[name]
        x, more = draw(rng, folds=folds), (precisions(rng),) if precision else ()
        with pytest.raises(DTypeError, match=r"must be float32 or float64, got torch\.int64"):
            compute(x.long(), *more)
        with pytest.raises(ShapeError, match=r"at least one of\s+each, got .*0"):
            compute(x[..., :0, :], *more)
        if folds:
            with pytest.raises(ShapeError, match="at least 2 folds, got 1"):
                compute(x[:1], *more)
        if precision:
            with pytest.raises(ShapeError, match=r"\(4, 4\).* got \(3, 3\)"):
                compute(x, torch.eye(3).double())
            shape = (2, 1, P, P) if folds else (2, P, P)
            with pytest.raises(ShapeError, match=r"must broadcast, got \(3,\) and \(2,\)"):
                compute(draw(rng, 3, folds=folds), torch.eye(P).double().expand(shape))


@pytest.mark.parametrize("n_units", [2, 9])
def test_more_units_than_stimuli_and_fewer(n_units, rng):
    """The sum over pairs of folds is put together in two ways."""
    x = torch.randn(FOLDS, N, n_units, dtype=torch.float64, generator=rng)
    differences = x.unsqueeze(-2) - x.unsqueeze(-3)
    pairs = [(f, g) for f in range(FOLDS) for g in range(FOLDS) if f != g]
    expected = sum((differences[f] * differences[g]).mean(-1) for f, g in pairs) / len(pairs)
    torch.testing.assert_close(crossnobis(x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", [n for n in ESTIMATORS if ESTIMATORS[n].scales])
@given(scale=st.floats(0.01, 100), seed=st.integers(0, 99))
def test_squared_distances_scale_and_forget_the_mean(name, scale, seed):
    """d(c x + pattern of the fold) = c^2 d(x)."""
    estimator, rng = ESTIMATORS[name], torch.Generator().manual_seed(seed)
    x, precision = draw(rng, folds=estimator.folds), precisions(rng)
    pattern = torch.randn(*x.shape[:-2], 1, P, dtype=torch.float64, generator=rng)
    found = estimator.compute(scale * (x + pattern), precision)
    expected = scale**2 * estimator.compute(x, precision)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9 * scale**2)


@pytest.mark.parametrize("name", ["crossnobis", "crossnobis_unbalanced", "poisson_cv"])
def test_unbiased_where_nothing_differs(name, rng):
    """Folds of pure noise about one mean: the distances of 4000 draws average to 0."""
    if name == "poisson_cv":
        x = torch.poisson(torch.full((4_000, FOLDS, 3, P), 3.0, dtype=torch.float64), rng)
    else:
        x = torch.randn(4_000, FOLDS, 3, P, dtype=torch.float64, generator=rng)
    if name != "crossnobis":
        x[:, 0, 2] = torch.nan
    found = ESTIMATORS[name].compute(x)
    for i, j in ((0, 1), (0, 2)):
        pair = found[:, i, j]
        assert abs(float(pair.mean())) < 3.5 * float(pair.std()) / 4_000**0.5


def test_pairs_without_folds_in_common_are_nan(rng):
    """Stimulus 0 in folds 0 and 1, stimulus 1 in folds 1 and 2, stimulus 2 in fold 0 alone."""
    x = draw(rng)
    x[2, 0] = x[0, 1] = x[1:, 2] = torch.nan
    undefined = torch.zeros(N, N, dtype=torch.bool)
    undefined[2] = undefined[:, 2] = True
    for over, more in (("all", False), ("shared", True)):
        expected = undefined.clone()
        expected[0, 1] = expected[1, 0] = more
        found = crossnobis_unbalanced(x, over=over)
        assert torch.equal(found.isnan(), expected.fill_diagonal_(False))
        assert (found.diagonal() == 0).all()
    assert torch.equal(poisson_cv(x).isnan(), expected)


def test_gradients_pass_by_what_is_absent(rng):
    x = draw(rng)
    x[2, 0] = torch.nan
    for compute in (crossnobis_unbalanced, pooled, poisson_cv):
        given_x = x.clone().requires_grad_()
        compute(given_x).sum().backward()
        assert given_x.grad.isfinite().all()
        assert (given_x.grad[2, 0] == 0).all()


def test_stimuli_recorded_in_part_are_named(rng):
    x = draw(rng)
    x[1, 3, 2] = torch.nan
    for compute in (crossnobis_unbalanced, poisson_cv):
        with pytest.raises(DataError, match=r"Stimulus 3 of fold 1 .*\(1 such in all\)"):
            compute(x)


def test_mahalanobis_is_euclidean_after_whitening(rng):
    x, precision = draw(rng, 2, folds=False), precisions(rng, 2)
    white = x @ torch.linalg.cholesky(precision)
    expected = torch.cdist(white, white).square() / P
    np.testing.assert_allclose(mahalanobis(x, precision), expected, rtol=0, atol=1e-10)
