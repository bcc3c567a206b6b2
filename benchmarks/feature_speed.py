"""Claims about linear CKA, NBS and Procrustes: close to the bare products, far from published code.

Run with ``python benchmarks/feature_speed.py``. Value and gradient for both inputs, 2000 stimuli x
1024 units. Published code takes norms of the Grams from the singular values of n x n matrices
(diffscore, Cloos et al.), or rotates the features (netrep, Williams et al.; values only); both are
written here from the formulas.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import _harness
import numpy as np
import torch
from _harness import Case, Contender, Found, Memory, Turns, claim, compare
from torch import Tensor

from softrsa.measures import linear_cka, nbs, procrustes_distance

STIMULI, UNITS, REPETITIONS = 2000, 1024, 6
TABLE_SIZES = ((1000, 256), (500, 1000))  # more stimuli than units, and the reverse


def features(n: int, p: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Make random features of the same stimuli."""
    x, y = torch.randn(2, n, p, dtype=dtype, generator=torch.Generator().manual_seed(0))
    return x, y


def bare_cka(x: Tensor, y: Tensor) -> None:
    """Form the three products of the value and the four of the gradients."""
    if len(x) <= x.shape[1]:
        own, other = x @ x.T, y @ y.T
        own @ x, other @ y, other @ x, own @ y
        return
    cross, own, other = x.T @ y, x.T @ x, y.T @ y
    x @ own, y @ other, y @ cross.T, x @ cross


def bare_nbs(x: Tensor, y: Tensor) -> None:
    """Form the products of value and gradients, with one symmetric eigendecomposition.

    With more units than stimuli, in n coordinates, which take a QR decomposition.
    """
    if len(x) < x.shape[1]:
        x, y = (z @ torch.linalg.qr(z.T).Q for z in (x, y))
    cross = x.T @ y
    vectors = torch.linalg.eigh(cross @ cross.T).eigenvectors
    polar = vectors @ (vectors.T @ cross)
    y @ polar.T, x @ polar


def _singular_values(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Singular values of X'Y, XX' and YY', columns centered."""
    x, y = x - x.mean(0), y - y.mean(0)
    xy, xx, yy = (torch.linalg.svdvals(product) for product in (x.T @ y, x @ x.T, y @ y.T))
    return xy, xx, yy


def published_cka(x: Tensor, y: Tensor) -> Tensor:
    """Take every norm from singular values, as in diffscore."""
    xy, xx, yy = _singular_values(x, y)
    return xy.square().sum() / (xx.square().sum() * yy.square().sum()).sqrt()


def published_nbs(x: Tensor, y: Tensor) -> Tensor:
    """Take every trace from singular values, as in diffscore."""
    xy, xx, yy = _singular_values(x, y)
    return xy.sum() / (xx.sum() * yy.sum()).sqrt()


def published_procrustes(x: Tensor, y: Tensor) -> Tensor:
    """Take every trace from singular values, as in diffscore."""
    xy, xx, yy = _singular_values(x, y)
    return (xx.sum() + yy.sum() - 2 * xy.sum()).sqrt()


def numpy_cka(x: np.ndarray, y: np.ndarray) -> float:
    """Compare the kernels of centered features."""
    a, b = (z @ z.T for z in (x - x.mean(0), y - y.mean(0)))
    return float((a * b).sum() / (np.linalg.norm(a) * np.linalg.norm(b)))


def _rotated(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Center, and rotate both into the directions they share, as netrep fits its alignments."""
    x, y = x - x.mean(0), y - y.mean(0)
    left, _, right = np.linalg.svd(x.T @ y)
    return x @ left, y @ right.T


def numpy_nbs(x: np.ndarray, y: np.ndarray) -> float:
    """Cosine of the rotated features."""
    x, y = _rotated(x, y)
    return float((x * y).sum() / (np.linalg.norm(x) * np.linalg.norm(y)))


def numpy_procrustes(x: np.ndarray, y: np.ndarray) -> float:
    """Distance of the rotated features."""
    x, y = _rotated(x, y)
    return float(np.linalg.norm(x - y))


class Ways(NamedTuple):
    """One measure: ours, its products alone, and the published ways."""

    ours: Callable[[Tensor, Tensor], Tensor]
    bare: Callable[[Tensor, Tensor], None]
    in_torch: Callable[[Tensor, Tensor], Tensor]
    in_numpy: Callable[[np.ndarray, np.ndarray], float]


WAYS = {
    "linear CKA": Ways(linear_cka, bare_cka, published_cka, numpy_cka),
    "NBS": Ways(nbs, bare_nbs, published_nbs, numpy_nbs),
    "Procrustes distance": Ways(
        procrustes_distance, bare_nbs, published_procrustes, numpy_procrustes
    ),
}


def with_gradients(
    measure: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor
) -> list[Tensor]:
    """Value and both gradients."""
    x, y = x.detach().requires_grad_(), y.detach().requires_grad_()
    value = measure(x, y)
    return [value.detach(), *torch.autograd.grad(value, (x, y))]


def cases(quick: bool) -> Iterator[Case]:
    """Yield each measure, values against NumPy, values with gradients against torch."""
    for n, p in ((100, 40), (40, 100)) if quick else TABLE_SIZES:
        size = f"{n} × {p} float64"
        for name in WAYS:
            repetitions = 1 if quick else 5
            yield Case(f"{name}, value", size, partial(_values, name, n, p, repetitions))
            yield Case(
                f"{name}, value and gradients", size, partial(_gradients, name, n, p, repetitions)
            )


def _values(name: str, n: int, p: int, repetitions: int) -> Found:
    x, y = features(n, p)
    a, b = x.numpy(), y.numpy()
    ways = WAYS[name]
    _check_same(ways.ours(x, y), ways.in_numpy(a, b))
    peer = Contender("NumPy, as netrep", lambda: ways.in_numpy(a, b))
    return compare(lambda: ways.ours(x, y), peer=peer, repetitions=repetitions)


def _gradients(name: str, n: int, p: int, repetitions: int) -> Found:
    x, y = features(n, p)
    ways = WAYS[name]
    _check_same(ways.ours(x, y), ways.in_torch(x, y))
    return compare(
        lambda: with_gradients(ways.ours, x, y),
        peer=Contender("torch, as diffscore", lambda: with_gradients(ways.in_torch, x, y)),
        limit=Contender("its products alone", lambda: ways.bare(x, y)),
        memory=Memory(__file__, f"ours {n} {p} {name}", f"torch {n} {p} {name}"),
        repetitions=repetitions,
    )


def _check_same(ours: Tensor, theirs: Tensor | float) -> None:
    if abs(float(ours) - float(theirs)) > 1e-8 * abs(float(theirs)):
        raise ValueError(f"Values differ: {float(ours)} and {float(theirs)}.")


def memory_run(name: str) -> _harness.Run:
    """Prepare "WHO N P MEASURE" of the table: value and gradients."""
    who, n, p, measure = name.split(" ", 3)
    x, y = features(int(n), int(p))
    ways = WAYS[measure]
    function = ways.ours if who == "ours" else ways.in_torch
    with_gradients(function, x[:8, :8], y[:8, :8])  # libraries
    return lambda: with_gradients(function, x, y)


def check(name: str) -> None:
    """Print the ratios to the bare products and to published code."""
    ways = WAYS[name]
    x, y = features(STIMULI, UNITS)
    turns = Turns(
        {
            "bare": lambda: ways.bare(x, y),
            "ours": lambda: with_gradients(ways.ours, x, y),
        },
        REPETITIONS,
    )
    turns.show()
    claim(f"{name} / its products alone", turns.ratio("ours", "bare"), 1.3, at_most=True)
    turns = Turns(
        {
            "ours": lambda: with_gradients(ways.ours, x, y),
            "published": lambda: with_gradients(ways.in_torch, x, y),
        },
        2,
    )
    claim(f"published code / {name}", turns.ratio("published", "ours"), 8)


def precision() -> None:
    """Print how far the float32 gradient of NBS is from the float64 one, decaying spectrum."""
    scale = torch.logspace(0, -3, 100)
    x, y = (z * scale for z in features(500, 100))
    double, single = (
        with_gradients(nbs, x.to(dtype), y.to(dtype))[2] for dtype in (torch.float64, torch.float32)
    )
    error = float((single - double).norm() / double.norm())
    verdict = "pass" if error <= 1e-3 else "FAIL"
    print(f"{verdict}  nbs, float32: relative error of the gradient {error:.1e} (at most 1e-3)")


if __name__ == "__main__":
    _harness.start()
    precision()
    for measure in ("linear CKA", "NBS"):
        check(measure)
