"""Framed patterns: what the origin and the constant pattern add, and how they are labelled."""

import re

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from softrsa.errors import DataError, DTypeError, ShapeError, StimulusError
from softrsa.rsm import build_rsms, crossnobis, framed, similarity_matrix

N, P = 7, 5


def labelled(ids, **coords):
    return xr.DataArray(
        np.random.default_rng(0).normal(size=(len(ids), P)), dims=("stimulus", "unit"),
        coords={"stimulus": ids, "layer": ("unit", ["a", "a", "b", "b", "b"]), **coords},
        name="response", attrs={"unit": "spikes/s"},
    )  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_distances_are_norms_and_means(dtype, rng):
    x = torch.randn(3, N, P, generator=rng, dtype=dtype) + 1
    found = framed(x, level=2.0)
    assert found.dtype == dtype
    assert found.shape == (3, N + 2, P)
    torch.testing.assert_close(found[:, :N], x)
    rdms = -similarity_matrix(found, similarity="sqeuclidean")
    points = np.concatenate([x[1].numpy(), np.zeros((1, P)), np.full((1, P), 2.0)])
    expected = torch.from_numpy(cdist(points, points, "sqeuclidean") / P).to(dtype)
    torch.testing.assert_close(rdms[1], expected)
    torch.testing.assert_close(rdms[1, :N, N], x[1].square().mean(-1))
    means = (rdms[1, :N, N] + 4 - rdms[1, :N, N + 1]) / 4
    torch.testing.assert_close(means, x[1].mean(-1), atol=1e-5, rtol=1e-5)


@given(factor=st.floats(0.01, 100.0), seed=st.integers(0, 100))
@settings(max_examples=25)
def test_the_level_follows_the_responses(factor, seed):
    """RDMs of framed patterns scale with responses, and units have no order."""
    x = torch.from_numpy(np.random.default_rng(seed).normal(size=(N, P)) + 0.5)
    found = framed(x)
    assert found[N].abs().sum() == 0
    torch.testing.assert_close(found[N + 1], x.square().mean().sqrt().expand(P))
    mean_norm = x.square().sum(-1).mean()
    torch.testing.assert_close(found[N + 1].square().sum(), mean_norm)
    first, second = (
        similarity_matrix(framed(one), similarity="sqeuclidean") for one in (x, factor * x.flip(-1))
    )
    torch.testing.assert_close(second, factor**2 * first)


def test_a_shift_is_seen_by_the_frame_alone(rng):
    x = torch.randn(N, P, generator=rng, dtype=torch.float64)
    first, second = (
        -similarity_matrix(framed(one, level=1.0), similarity="l2") for one in (x, x + 0.7)
    )
    torch.testing.assert_close(first[:N, :N], second[:N, :N])
    assert (first[:N, N:] - second[:N, N:]).abs().max() > 0.1


def test_folds_have_one_level(rng):
    x = torch.randn(4, N, P, generator=rng, dtype=torch.float64) + 2
    level = float(x.square().mean().sqrt())
    rdm = crossnobis(framed(x, level=level))
    assert rdm.shape == (N + 2, N + 2)
    assert rdm[N, N + 1] == pytest.approx(level**2)
    torch.testing.assert_close(rdm[:N, :N], crossnobis(x))


def test_gradient_reaches_responses():
    x = torch.rand(3, 2, dtype=torch.float64, requires_grad=True)
    framed(x).square().sum().backward()
    torch.testing.assert_close(x.grad, 2 * x.detach() * (1 + 1 / 3))


def test_labels_are_kept():
    ids = [f"image{i}" for i in range(N)]
    category = ("stimulus", ["face"] * N)
    size = ("stimulus", np.arange(N))
    array = labelled(ids, category=category, size=size)
    before = array.copy(deep=True)
    found = framed(array)
    assert array.identical(before)
    assert found["stimulus"].values.tolist() == [*ids, "origin", "constant"]
    assert found["layer"].values.tolist() == ["a", "a", "b", "b", "b"]
    assert found["category"].values.tolist()[-3:] == ["face", "", ""]
    assert np.isnan(found["size"].values[-2:]).all()
    assert found.attrs == array.attrs
    torch.testing.assert_close(
        torch.from_numpy(found.values), framed(torch.from_numpy(array.values))
    )
    rsms = build_rsms(found, by="layer", similarity="sqeuclidean")
    assert rsms["anchor"].values.tolist()[-1] == "constant"
    assert framed(labelled(range(N)))["stimulus"].values.tolist()[0] == "0"


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: framed(np.eye(3)), DTypeError, "`units` must be a torch.Tensor"),
        (lambda: framed(torch.ones(3, dtype=torch.int64)), DTypeError, "got torch.int64"),
        (lambda: framed(torch.ones(3)), ShapeError, "at least one of each, got (3,)"),
        (lambda: framed(torch.zeros(3, 2)), DataError, "but all responses are 0"),
        (lambda: framed(torch.ones(3, 2), level=0.0), DataError, "but `level` is 0.0"),
        (lambda: framed(torch.ones(3, 2), level=float("inf")), DataError, "but `level` is inf"),
        (lambda: framed(torch.ones(3, 2), level="high"), DataError, "`level` must be a number"),
        (lambda: framed(labelled(["origin", "b", "c"])), StimulusError, "are called 'origin'"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call()


def test_correlation_is_undefined_for_the_frame(rng):
    x = torch.randn(N, P, generator=rng)
    found = similarity_matrix(framed(x))
    assert found[:N, :N].isfinite().all()
    assert found[N:].isnan().all()
