"""Cross-validated distances, and the others rsatoolbox has, against it."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from rsatoolbox.data import Dataset
from rsatoolbox.rdm import calc_rdm

from softrsa.errors import DataError, DTypeError, ShapeError
from softrsa.pairs import condense
from softrsa.rsm import condensed_similarity, crossnobis

FOLDS, N, P = 4, 6, 5


def draw(rng, *shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=rng)


def precisions(rng, *lead, n_units=P):
    root = draw(rng, *lead, n_units, n_units)
    return root @ root.mT + 0.5 * torch.eye(n_units)


def rsatoolbox_crossnobis(x, noise):
    """One row per fold and stimulus."""
    n_folds, n = x.shape[:2]
    dataset = Dataset(
        x.reshape(n_folds * n, -1).numpy(),
        obs_descriptors={
            "stimulus": np.tile(np.arange(n), n_folds),
            "fold": np.repeat(np.arange(n_folds), n),
        },
    )
    rdms = calc_rdm(
        dataset, method="crossnobis", descriptor="stimulus", cv_descriptor="fold", noise=noise
    )
    return rdms.get_vectors()[0]


@pytest.mark.parametrize("n_folds", [2, FOLDS])
@pytest.mark.parametrize("offset", [0.0, 1e3])
@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")  # rsatoolbox's
def test_rsatoolbox(n_folds, offset, rng):
    x = draw(rng, n_folds, N, P) + offset
    one, each = precisions(rng), precisions(rng, n_folds)
    for precision, noise in ((None, None), (one, one.numpy()), (each, list(each.numpy()))):
        found = condense(crossnobis(x, precision))
        np.testing.assert_allclose(found, rsatoolbox_crossnobis(x, noise), rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    ("method", "similarity"),
    [("correlation", "correlation"), ("euclidean", "sqeuclidean"), ("mahalanobis", "mahalanobis")],
)
def test_other_distances_are_rsatoolboxs(method, similarity, rng):
    x, precision = draw(rng, N, P), precisions(rng)
    if method == "mahalanobis":
        ours, theirs = {"precision": precision}, {"noise": precision.numpy()}
    else:
        ours, theirs = {}, {}
    expected = calc_rdm(Dataset(x.numpy()), method=method, **theirs).get_vectors()[0]
    own = 1 if method == "correlation" else 0
    found = own - condensed_similarity(x, similarity=similarity, **ours)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-8)


def test_by_hand():
    """Differences (2, 1), (3, -1), (1, 1): products 5, 3, 2; mean 10 / 3, over 2 units."""
    x = torch.zeros(3, 2, 2, dtype=torch.float64)
    x[:, 1] = torch.tensor([[2.0, 1.0], [3.0, -1.0], [1.0, 1.0]])
    assert crossnobis(x)[0, 1].item() == pytest.approx(10 / 6, rel=1e-14)
    weighted = crossnobis(x, torch.tensor([[2.0, 0.0], [0.0, 1.0]]))
    assert weighted[0, 1].item() == pytest.approx((11 + 5 + 5) / 6, rel=1e-14)


@given(arrays(np.float64, (3, 4, 3), elements=st.floats(-10, 10)), st.floats(-100, 100))
def test_folds_in_any_order_and_their_means_do_not_matter(values, shift):
    x = torch.from_numpy(values)
    found = crossnobis(x)
    assert torch.equal(found, found.mT)
    assert (found.diagonal() == 0).all()
    moved = x.flip(0) + shift * torch.arange(3)[:, None, None]
    torch.testing.assert_close(crossnobis(moved), found, rtol=0, atol=1e-9)
    noiseless = crossnobis(x[:1].expand(3, 4, 3))
    expected = -condensed_similarity(x[0], similarity="sqeuclidean")
    torch.testing.assert_close(condense(noiseless), expected, rtol=0, atol=1e-9)


def test_unbiased_by_noise(rng):
    """The same two stimuli in every fold: distances average to 0, unlike without folds."""
    x = draw(rng, 4_000, 3, 2, P)
    found = crossnobis(x)[:, 0, 1]
    assert abs(float(found.mean())) < 3 * float(found.std()) / 4_000**0.5


def test_batch_equals_loop_and_types(rng):
    x, each = draw(rng, 2, 3, FOLDS, N, P), precisions(rng, 3, FOLDS)
    before = x.clone()
    for precision in (None, precisions(rng)):
        found = crossnobis(x, precision)
        assert found.shape == (2, 3, N, N)
        one = crossnobis(x[1, 2], precision)
        torch.testing.assert_close(found[1, 2], one, rtol=0, atol=1e-12)
    found = crossnobis(x, each)
    torch.testing.assert_close(found[1, 2], crossnobis(x[1, 2], each[2]), rtol=0, atol=1e-12)
    assert torch.equal(x, before)
    small = crossnobis((1e3 + x).float(), each.float())
    assert small.dtype == torch.float32
    exact = crossnobis((1e3 + x).float().double(), each)
    torch.testing.assert_close(small.double(), exact, rtol=1e-4, atol=1e-4)


def test_gradients(rng):
    x = draw(rng, 3, 3, 2).requires_grad_()
    one, each = precisions(rng, n_units=2), precisions(rng, 3, n_units=2)
    for precision in (None, one, each):
        given = (x,) if precision is None else (x, precision.requires_grad_())
        assert torch.autograd.gradcheck(crossnobis, given)


def test_wrong_arguments_are_named(rng):
    x = draw(rng, FOLDS, N, P)
    with pytest.raises(ShapeError, match=r"\(\.\.\., n_folds, n_stimuli, n_units\).*got \(6, 5\)"):
        crossnobis(x[0])
    with pytest.raises(ShapeError, match="at least 2 folds, got 1"):
        crossnobis(x[:1])
    with pytest.raises(ShapeError, match=r"\(5, 5\), or \(4, 5, 5\) .*got \(4, 4\)"):
        crossnobis(x, torch.eye(4))
    with pytest.raises(ShapeError, match=r"or \(4, 5, 5\) for one per fold, got \(3, 5, 5\)"):
        crossnobis(x, torch.eye(5).expand(3, 5, 5))
    with pytest.raises(DTypeError, match=r"`precision` must be .* got torch\.int64"):
        crossnobis(x, torch.eye(5).long())
    each = torch.eye(5).repeat(4, 1, 1)
    each[2, 1, 1] = 0
    with pytest.raises(DataError, match="`precision` of fold 2 cannot be inverted"):
        crossnobis(x, each)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_gaps_are_named_and_not_passed_on(value, rng):
    x = draw(rng, 2, FOLDS, N, P)
    x[1, 2, 3, 4] = value
    message = r"fold 2 to stimulus 3 are not finite in unit 4 \(1 .*`crossnobis_unbalanced`"
    for precision in (None, precisions(rng), precisions(rng, FOLDS)):
        with pytest.raises(DataError, match=message):
            crossnobis(x, precision)


def test_precisions_whose_covariances_cancel_are_named(rng):
    x, one = draw(rng, 3, N, P), precisions(rng)
    with pytest.raises(DataError, match="folds 0 and 2 have a singular mean"):
        crossnobis(x, torch.stack([one, one, -one]).requires_grad_())
    with pytest.raises(DataError, match="`precision` must be positive definite"):
        crossnobis(x, torch.stack([one, one, -one]))
    with pytest.raises(DataError, match="of fold 1 cannot be inverted"):
        crossnobis(x, torch.stack([one, torch.zeros(P, P), one]).requires_grad_())
