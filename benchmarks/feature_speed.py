"""Claims about linear CKA and NBS: close to the bare products, far from published code.

Run with ``env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE python benchmarks/feature_speed.py``. Value
and gradient for both inputs, 2000 stimuli x 1024 units; the contenders take turns. Published code
takes norms of the Grams from the singular values of n x n matrices (Cloos et al., diffscore).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor

from softrsa.measures import linear_cka, nbs

STIMULI, UNITS, REPETITIONS = 2000, 1024, 7
OPTIONS = {"dtype": torch.float64, "generator": torch.Generator().manual_seed(0)}


def bare_cka(x: Tensor, y: Tensor) -> None:
    """Form the three products of the value and the four of the gradients."""
    cross, own, other = x.T @ y, x.T @ x, y.T @ y
    x @ own, y @ other, y @ cross.T, x @ cross


def bare_nbs(x: Tensor, y: Tensor) -> None:
    """Form the products of value and gradients, with one symmetric eigendecomposition."""
    cross = x.T @ y
    vectors = torch.linalg.eigh(cross @ cross.T).eigenvectors
    polar = vectors @ (vectors.T @ cross)
    y @ polar.T, x @ polar


def published_cka(x: Tensor, y: Tensor) -> Tensor:
    """Take every norm from singular values, as in diffscore."""
    x, y = x - x.mean(0), y - y.mean(0)
    own, other = (torch.linalg.svdvals(z @ z.T).square().sum().sqrt() for z in (x, y))
    return torch.linalg.svdvals(x.T @ y).square().sum() / (own * other)


def published_nbs(x: Tensor, y: Tensor) -> Tensor:
    """Take every trace from singular values, as in diffscore."""
    x, y = x - x.mean(0), y - y.mean(0)
    own, other = (torch.linalg.svdvals(z @ z.T).sum() for z in (x, y))
    return torch.linalg.svdvals(x.T @ y).sum() / (own * other).sqrt()


def with_gradients(measure: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> list:
    """Value and both gradients."""
    x, y = x.detach().requires_grad_(), y.detach().requires_grad_()
    value = measure(x, y)
    return [value.detach(), *torch.autograd.grad(value, (x, y))]


def seconds(function: Callable[[], object]) -> float:
    """Time one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def compare(name: str, measure: Callable, bare: Callable, published: Callable) -> None:
    """Print the ratios to the bare products and to published code."""
    x, y = torch.randn(2, STIMULI, UNITS, **OPTIONS)
    ours, theirs = [], []
    for repetition in range(REPETITIONS):
        limit, own = (
            seconds(lambda: bare(x, y)),
            seconds(lambda: with_gradients(measure, x, y)),
        )
        ours.append(own / limit)
        if repetition in {1, 2}:
            theirs.append(seconds(lambda: with_gradients(published, x, y)) / own)
    (value, *_), (reference, *_) = (with_gradients(f, x, y) for f in (measure, published))
    print(f"{name}: {median(ours[1:]):.2f} x the bare products and decomposition (at most 1.3); "
          f"published code {median(theirs):.1f} x as long (at least 8); "
          f"values differ by {abs(value - reference):.1e}")  # fmt: skip


def precision() -> None:
    """Print how far the float32 gradient of NBS is from the float64 one, decaying spectrum."""
    scale = torch.logspace(0, -3, 100)
    x, y = (torch.randn(500, 100, **OPTIONS) * scale for _ in range(2))
    double, single = (
        with_gradients(nbs, x.to(dtype), y.to(dtype))[2] for dtype in (torch.float64, torch.float32)
    )
    error = (single - double).norm() / double.norm()
    print(f"nbs, float32: relative error of the gradient {error:.1e} (at most 1e-3)")


if __name__ == "__main__":
    precision()
    compare("linear_cka", linear_cka, bare_cka, published_cka)
    compare("nbs", nbs, bare_nbs, published_nbs)
