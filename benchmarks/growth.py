"""How time and memory grow with the size, against what theory says.

Run with ``python benchmarks/table.py --only growth``. Exponents are slopes of logarithms over four
sizes that double, sizes taking turns; the ratio is that of the growth at each doubling to theory's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from math import nan
from statistics import median

import _harness
import torch
from _harness import Case, Found, Over, Turns, slope
from torch import Tensor

from softrsa.alignment import threshold_correlations, tiled_scores
from softrsa.inference import bootstrap
from softrsa.measures import kendall_tau_a, linear_cka, nbs, procrustes_distance
from softrsa.prediction import SoftStepNCAHead
from softrsa.rsm import condensed_similarity, crossnobis
from softrsa.tiled.scores import lay_out
from softrsa.transforms import GlobalGate, SoftStep, geodesic, soft_rank


@dataclass(frozen=True)
class Growing:
    """A call of growing size; ``memory`` None where it is too small to measure."""

    what: str
    of: str
    smallest: int
    time: float  # exponents in theory
    memory: float | None
    make: Callable[[int], _harness.Run]


def random(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Make random numbers."""
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(0))


def _rsm(n: int) -> _harness.Run:
    x = random(n, 512, dtype=torch.float32)
    return lambda: condensed_similarity(x)


def _features(measure: Callable[[Tensor, Tensor], Tensor], n: int) -> _harness.Run:
    x, y = random(2, n, 64)

    def run() -> object:
        leaves = x.clone().requires_grad_(), y.clone().requires_grad_()
        return torch.autograd.grad(measure(*leaves), leaves)

    return run


def _crossnobis(n: int) -> _harness.Run:
    x = random(8, n, 200)
    return lambda: crossnobis(x)


def _pairs(n: int) -> int:
    return n * (n - 1) // 2


def _bootstrap(n: int) -> _harness.Run:
    models, subjects = random(10, _pairs(n)), random(8, _pairs(n))
    return lambda: bootstrap(models, subjects, "pearson", over="both", n_resamples=200)


def _grid(n: int) -> _harness.Run:
    rdms, models = random(20, _pairs(n)).abs(), random(8, _pairs(n))
    low = [0.01 * i for i in range(40)]
    high = [0.5 + 0.01 * i for i in range(40)]
    return lambda: threshold_correlations(rdms, low, high, models)


def _geodesic(n: int) -> _harness.Run:
    rdms = random(4, _pairs(n)).abs()
    return lambda: geodesic(rdms, keep="p_shortest", amount=0.3)


def _training(n: int) -> _harness.Run:
    z, labels = random(n, 100, dtype=torch.float32), random(n, dtype=torch.float32)
    head, own = SoftStepNCAHead(100), torch.arange(n)

    def run() -> None:
        leaf = z.clone().requires_grad_()
        head(leaf, leaf, labels, exclude=own).square().sum().backward()

    return run


def _inference(n: int) -> _harness.Run:
    queries, neighbors = random(500, 100, dtype=torch.float32), random(n, 100, dtype=torch.float32)
    labels, head = random(n, dtype=torch.float32), SoftStepNCAHead(100)

    def run() -> Tensor:
        with torch.no_grad():
            return head.predict(queries, neighbors, labels)

    return run


def _soft_rank(n: int) -> _harness.Run:
    x = random(64, n, dtype=torch.float32)
    return lambda: soft_rank(x.clone().requires_grad_(), strength=0.1).sum().backward()


def _kendall(n: int) -> _harness.Run:
    x, y = random(2, 8, n)
    return lambda: kendall_tau_a(x, y)


def _tiled(n: int) -> _harness.Run:
    x, y = random(2, n, 64, dtype=torch.float32)
    steps = SoftStep(GlobalGate()), SoftStep(GlobalGate())

    def run() -> None:
        sides = lay_out(x, kept_bytes=0), lay_out(y, kept_bytes=0)  # which would hide the growth
        score = tiled_scores(*sides, model_transform=steps[0], brain_transform=steps[1])
        score.sum().backward()

    return run


GROWING = (
    Growing("RSM, correlation, condensed", "stimuli × 512", 2_000, 2, 2, _rsm),
    Growing(
        "linear CKA and gradients", "stimuli × 64", 4_000, 1, 1, partial(_features, linear_cka)
    ),
    Growing("NBS and gradients", "stimuli × 64", 4_000, 1, 1, partial(_features, nbs)),
    Growing(
        "Procrustes and gradients", "stimuli × 64", 4_000, 1, 1,
        partial(_features, procrustes_distance),
    ),
    Growing("crossnobis, 8 folds", "stimuli × 200", 250, 2, 2, _crossnobis),
    Growing("bootstrap, 200 resamples", "stimuli", 50, 2, None, _bootstrap),
    Growing("geo-topological grid, 40 (l, u)", "stimuli", 60, 2, 2, _grid),
    Growing("geodesic transform", "stimuli", 40, 3, None, _geodesic),
    Growing("NCA + S1, training step", "batch", 256, 2, 2, _training),
    Growing("NCA + S1, inference, 500 queries", "neighbors", 5_000, 1, 1, _inference),
    Growing("alignment step in tiles, none kept", "stimuli × 64", 1_000, 2, 1, _tiled),
    Growing("soft rank, 64 rows", "columns", 2_000, 1, 1, _soft_rank),
    Growing("Kendall's tau-a", "pairs", 5_000, 1.5, None, _kendall),
)  # fmt: skip


def cases(quick: bool) -> Iterator[Case]:
    """Yield the growth of time, then that of memory, of each."""
    for growing in GROWING:
        first = max(20, growing.smallest // 8) if quick else growing.smallest
        sizes = [first * 2**i for i in range(2 if quick else 4)]
        span = f"{sizes[0]} to {sizes[-1]} {growing.of}"
        measure = partial(_time, growing, sizes, 1 if quick else 3)
        yield Case(f"growth of time: {growing.what}", span, measure)
        if growing.memory is not None:
            measure = partial(_memory, growing, sizes)
            yield Case(f"growth of memory: {growing.what}", span, measure)


def _time(growing: Growing, sizes: list[int], repetitions: int) -> Found:
    runs = {str(size): growing.make(size) for size in sizes}
    times = Turns(runs, repetitions).times
    found = median(slope(sizes, turn) for turn in zip(*times.values(), strict=True))
    return Found(limit=_over(found, growing.time))


def _memory(growing: Growing, sizes: list[int]) -> Found:
    name = GROWING.index(growing)
    peaks = [_harness.peak_megabytes(__file__, f"{name} {size}") for size in sizes]
    assert growing.memory is not None  # noqa: S101, `cases` asks for no others
    found = slope(sizes, [max(peak, 0.1) for peak in peaks]) if peaks[0] == peaks[0] else nan
    return Found(limit=_over(found, growing.memory))


def _over(found: float, theory: float) -> Over:
    return Over(2 ** (found - theory), f"theory: n^{theory:g}; found n^{found:.2f}")


def memory_run(name: str) -> _harness.Run:
    """Prepare "PLACE SIZE", the place in `GROWING`."""
    place, size = map(int, name.split(" "))
    GROWING[place].make(20)()  # libraries
    return GROWING[place].make(size)
