"""NBS and Procrustes against SciPy, singular values, and the bounds of SPEC section 4."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.linalg import svdvals
from scipy.spatial import procrustes

from softrsa.measures import angular_procrustes, linear_cka, nbs, procrustes_distance
from softrsa.measures.shape import SMALL, angular_score, cross_nuclear_norm, nuclear_norm

SHAPES = [(12, 4, 3), (6, 20, 30), (6, 20, 2), (5, 5, 5)]
pairs = arrays(np.float64, (2, 6, 4), elements=st.floats(-10, 10))


def draw(rng, shape):
    n, p, q = shape
    return [torch.randn(n, k, dtype=torch.float64, generator=rng) for k in (p, q)]


def centered(x):
    return x - x.mean(0)


@pytest.mark.parametrize("shape", SHAPES)
def test_nbs_is_the_bures_similarity_of_kernels(shape, rng):
    """tr((K^1/2 L K^1/2)^1/2) / sqrt(tr K tr L): the definition, without singular values."""
    x, y = draw(rng, shape)
    k, m = ((centered(z) @ centered(z).T).numpy() for z in (x, y))
    values, vectors = np.linalg.eigh(k)
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    fidelity = np.sqrt(np.linalg.eigvalsh(root @ m @ root).clip(0)).sum()
    assert nbs(x, y).item() == pytest.approx(
        fidelity / np.sqrt(np.trace(k) * np.trace(m)), abs=1e-6
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_all_are_the_singular_values(shape, rng):
    x, y = draw(rng, shape)
    a, b = centered(x).numpy(), centered(y).numpy()
    total, sizes = svdvals(a.T @ b).sum(), (np.linalg.norm(a), np.linalg.norm(b))
    score = total / np.prod(sizes)
    assert nbs(x, y).item() == pytest.approx(score, abs=1e-13)
    angle = np.arccos(score) / (np.pi / 2)
    assert angular_procrustes(x, y).item() == pytest.approx(1 - angle, abs=1e-13)
    distance = np.sqrt(sizes[0] ** 2 + sizes[1] ** 2 - 2 * total)
    assert procrustes_distance(x, y).item() == pytest.approx(distance, abs=1e-12)
    scaled = procrustes_distance(x, y, scaling=True).item()
    assert scaled == pytest.approx(np.sqrt(2 - 2 * score), abs=1e-12)


def test_scipys_disparity(rng):
    """SciPy scales the second set to the best size: what is left is 1 - NBS squared."""
    x, y = draw(rng, (12, 4, 4))
    disparity = procrustes(x.numpy(), y.numpy())[2]
    assert 1 - nbs(x, y).item() ** 2 == pytest.approx(disparity, abs=1e-13)


@given(pairs)
def test_no_rotation_brings_them_closer(values):
    x, y = torch.from_numpy(values)
    distance = procrustes_distance(x, y)
    left, _, right = np.linalg.svd((centered(x).T @ centered(y)).numpy())
    rotation = torch.from_numpy(left @ right)
    nearest = (centered(x) @ rotation - centered(y)).norm()
    assert distance.item() == pytest.approx(nearest.item(), abs=1e-6)
    random = torch.linalg.qr(x[:4] + torch.eye(4)).Q
    assert distance <= (centered(x) @ random - centered(y)).norm() + 1e-9


@given(pairs)
def test_cka_bounds_nbs(values):
    """sqrt(CKA / sqrt(r_x r_y)) <= NBS <= sqrt(k CKA / sqrt(r_x r_y)), k the smaller rank."""
    x, y = torch.from_numpy(values)
    ratios, ranks = [], []
    for z in (x, y):
        lengths = torch.linalg.svdvals(centered(z))
        variances = lengths.square()
        assume(variances[0] > 1e-3)
        ratios.append((variances.sum() ** 2 / variances.square().sum()).item())
        ranks.append(int((lengths > 1e-13 * lengths[0]).sum()))  # NBS sees lengths, not variances
    cka = linear_cka(x, y).item() / np.sqrt(np.prod(ratios))
    score = nbs(x, y).item()
    assert np.sqrt(cka) - 1e-7 <= score <= np.sqrt(min(ranks) * cka) + 1e-7


@pytest.mark.parametrize("rows", [5, SMALL, SMALL + 1, 100])
def test_nuclear_norm_of_steep_spectra(rows, rng):
    """Singular values down to 1e-12 of the largest, and exact zeros, by either decomposition."""
    left = torch.linalg.qr(torch.randn(rows, rows, dtype=torch.float64, generator=rng)).Q
    right = torch.linalg.qr(torch.randn(120, rows, dtype=torch.float64, generator=rng)).Q
    values = torch.logspace(0, -12, rows, dtype=torch.float64)
    values[-rows // 4 :] = 0
    matrix = (left * values) @ right.T
    assert nuclear_norm(matrix).item() == pytest.approx(values.sum().item(), rel=2e-8)
    matrix.requires_grad_()
    (polar,) = torch.autograd.grad(nuclear_norm(matrix), matrix)
    large = values > 1e-5  # below, an eigendecomposition of the squares mixes directions
    found = left[:, large].T @ polar @ right[:, large]
    torch.testing.assert_close(found, torch.eye(int(large.sum())).double(), rtol=0, atol=1e-5)
    assert torch.linalg.svdvals(polar).max() < 1.5


@pytest.mark.parametrize("rows", [6, SMALL + 4])
def test_nuclear_norm_gradient_is_the_polar_factor(rows, rng):
    """Repeated singular values, also zeros: U V' of a projection is the projection."""
    basis = torch.linalg.qr(torch.randn(rows, 3, dtype=torch.float64, generator=rng)).Q
    projection = (basis @ basis.T).requires_grad_()
    (grad,) = torch.autograd.grad(nuclear_norm(projection), projection)
    torch.testing.assert_close(grad, projection.detach(), rtol=0, atol=1e-12)
    zero = torch.zeros(2, rows, rows, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(nuclear_norm(zero).sum(), zero)
    assert torch.equal(grad, torch.zeros_like(zero))


def test_gradient_of_rank_deficient_features(rng):
    """Central differences cancel at the kink, so they see what the gradient is to be."""
    low = torch.randn(8, 2, dtype=torch.float64, generator=rng)
    x = low @ torch.randn(2, 5, dtype=torch.float64, generator=rng)
    y = torch.randn(8, 5, dtype=torch.float64, generator=rng)
    assert torch.autograd.gradcheck(nbs, (x.requires_grad_(), y.requires_grad_()))
    assert torch.autograd.gradcheck(nbs, (x, x.detach().clone().requires_grad_()))


def test_single_precision_gradient_is_double_precisions(rng):
    """On a decaying spectrum, where a float32 eigendecomposition is off by percents."""
    scale = torch.logspace(0, -3, 80)
    x, y = torch.randn(2, 200, 80, generator=rng) * scale
    grads = []
    for dtype in (torch.float32, torch.float64):
        z = y.to(dtype).requires_grad_()
        (grad,) = torch.autograd.grad(nbs(x.to(dtype), z), z)
        grads.append(grad.double())
    assert (grads[0] - grads[1]).norm() < 1e-3 * grads[1].norm()


def test_angle_at_its_ends():
    scores = torch.tensor([1.0, 1 + 1e-12, -1.0, 0.0, torch.nan], dtype=torch.float64)
    scores.requires_grad_()
    found = angular_score(scores)
    expected = torch.tensor([1.0, 1.0, -1.0, 0.0, torch.nan], dtype=torch.float64)
    torch.testing.assert_close(found, expected, equal_nan=True)
    (grad,) = torch.autograd.grad(found[:4].sum(), scores)
    assert grad[:3].tolist() == [0.0, 0.0, 0.0]
    assert grad[3].item() == pytest.approx(2 / np.pi)


def test_what_is_decomposed_is_no_larger_than_the_stimuli(rng, monkeypatch):
    sizes = []
    for name in ("eigh", "svd"):
        original = getattr(torch.linalg, name)

        def watched(matrix, *args, original=original, **options):
            sizes.append(tuple(matrix.shape))
            return original(matrix, *args, **options)

        monkeypatch.setattr(torch.linalg, name, watched)
    x, y = draw(rng, (70, 300, 200))
    nbs(x, y)
    nbs(*draw(rng, (200, 90, 80)))
    assert cross_nuclear_norm(x, y).isfinite()
    assert max(max(size) for size in sizes) <= 80
