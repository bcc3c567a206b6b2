"""Products under autocast, and torch's own setting of float32 products."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from softrsa.measures import (
    angular_cka,
    angular_procrustes,
    available,
    debiased_cka,
    linear_cka,
    nbs,
    procrustes_distance,
    rbf_cka,
)
from softrsa.rsm import SIMILARITIES, condensed_similarity, similarity_matrix

PRODUCTS = {"mm", "bmm", "addmm", "baddbmm"}
SHORT = {torch.bfloat16: 2**-8, torch.float16: 2**-11}  # and their rounding
SIZES = [(60, 20, 30), (20, 60, 30), (40, 10, 70)]  # stimuli, units of either side


class Products(TorchDispatchMode):
    """Note the type and size of every matrix product; an inner product of vectors is none."""

    def __init__(self):
        super().__init__()
        self.made = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ in PRODUCTS and result.shape[-2:].numel() > 1:
            self.made.append((args[0].dtype, tuple(result.shape[-2:])))
        return result


def features(rng, n, p, q):
    """Make features that have something in common, and scales far from 1."""
    shared = torch.randn(n, 5, generator=rng)
    sides = (shared @ torch.randn(5, k, generator=rng) for k in (p, q))
    return [40 * (side + torch.randn(side.shape, generator=rng)) for side in sides]


def with_gradients(function, *given):
    given = [x.clone().requires_grad_() for x in given]
    value = function(*given)
    weights = torch.arange(float(value.numel())).cos().view(value.shape)
    return value.detach(), torch.autograd.grad((value * weights).sum(), given)


def distance(found, expected):
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("dtype", SHORT, ids=str)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("measure", [linear_cka, angular_cka, nbs, angular_procrustes])
def test_features_are_multiplied_in_the_type_of_autocast(measure, sizes, dtype, rng):
    given = features(rng, *sizes)
    expected, gradients = with_gradients(measure, *given)
    leaves = [x.clone().requires_grad_() for x in given]
    with Products() as products:
        with torch.autocast("cpu", dtype=dtype):
            value = measure(*leaves)
        found = torch.autograd.grad(value, leaves)  # where torch's users call it
    # what is decomposed is made in float64, from X'Y in the short type
    short = [kind for kind, _ in products.made if kind == dtype]
    assert short
    assert torch.float32 not in {kind for kind, _ in products.made}
    assert value.dtype == torch.float32
    assert abs(value - expected) < 4 * SHORT[dtype]
    for gradient, wanted in zip(found, gradients, strict=True):
        assert gradient.dtype == torch.float32
        assert distance(gradient, wanted) < 10 * SHORT[dtype]


@pytest.mark.parametrize("dtype", SHORT, ids=str)
@pytest.mark.parametrize("name", ["correlation", "cosine", "dot"])
def test_responses_are_multiplied_in_the_type_of_autocast(name, dtype, rng):
    x = features(rng, 30, 40, 1)[0] / 40

    def similarity(z):
        return similarity_matrix(z, similarity=name)

    expected, gradients = with_gradients(similarity, x)
    with torch.autocast("cpu", dtype=dtype):
        with Products() as products:
            value, found = with_gradients(similarity, x)
        without_gradient = similarity(x)
        condensed = condensed_similarity(x, similarity=name)
    assert {kind for kind, _ in products.made} == {dtype}
    for result in (value, without_gradient, condensed):
        assert result.dtype == torch.float32
    assert torch.equal(value, without_gradient)
    assert distance(value, expected) < 2 * SHORT[dtype]
    assert distance(found[0], gradients[0]) < 6 * SHORT[dtype]
    # only the product is rounded: the self-similarity is exact, and a division comes after
    if name == "dot":
        rounded = (x.to(dtype) @ x.to(dtype).mT).float() / x.shape[-1]
        torch.testing.assert_close(value, rounded, rtol=1e-6, atol=0)
    else:
        assert (value.diagonal() == 1).all()


@pytest.mark.parametrize("measure", [debiased_cka, procrustes_distance, rbf_cka])
def test_what_needs_all_digits_keeps_them(measure, rng):
    given = features(rng, 30, 8, 9)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, found = with_gradients(measure, *given)
    expected, gradients = with_gradients(measure, *given)
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=0)
    for gradient, wanted in zip(found, gradients, strict=True):
        assert distance(gradient, wanted) < 1e-5


@pytest.mark.parametrize("name", sorted(set(SIMILARITIES) - {"correlation", "cosine", "dot"}))
def test_distances_keep_their_digits(name, rng):
    (x, _) = features(rng, 12, 6, 1)
    options = {"precision": torch.eye(6)} if name == "mahalanobis" else {}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = similarity_matrix(x, similarity=name, **options)
    assert torch.equal(value, similarity_matrix(x, similarity=name, **options))


def test_float64_stays_float64_under_autocast(rng):
    x, y = (z.double() for z in features(rng, 30, 8, 9))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for measure in (linear_cka, nbs):
            assert with_gradients(measure, x, y)[1][0].dtype == torch.float64
        assert similarity_matrix(x).dtype == torch.float64
        value = linear_cka(x, y)
    assert value == linear_cka(x, y)


@pytest.mark.parametrize("precision", ["highest", "medium"])
def test_float32_products_are_torchs_own(precision, rng):
    (x, y) = features(rng, 60, 20, 30)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(precision)
        with Products() as products:
            with_gradients(similarity_matrix, x)
            condensed_similarity(x)
            with_gradients(linear_cka, x, y)
        assert torch.get_float32_matmul_precision() == precision  # and nothing has changed it
    finally:
        torch.set_float32_matmul_precision(before)
    assert {kind for kind, _ in products.made} == {torch.float32}
    assert (60, 60) in {shape for _, shape in products.made}


def test_all_measures_run_under_autocast(rng):
    x, y = (z / 40 for z in features(rng, 12, 5, 6))
    for entry in available().values():
        given = (x, y)
        if entry.takes != "features":
            given = (entry.pairs_of(similarity_matrix(z)) for z in (x, y))
        given = tuple(given)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = entry(*given)
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, entry(*given), rtol=0, atol=2e-2)
