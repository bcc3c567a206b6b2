"""Claims about `soft_rank`: SciPy and plain torch keep up with torchsort, forward and backward.

Run with ``python benchmarks/soft_rank_speed.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import _harness
import torch
from _harness import Case, Contender, Found, Memory, Turns, claim, compare
from torch import Tensor

from softrsa.transforms import soft_rank

ROWS, COLUMNS = 512, 9_500
REPETITIONS = 5
STRENGTHS = (0.1, 1.0)
LIMITS = {"scipy": 1.3, "torch": 3.0}
TABLE_SIZES = ((256, 1_000), (64, 10_000))


def bare_torchsort(x: Tensor, strength: float) -> Tensor:
    """Call torchsort as a user would who standardizes beforehand, in float32."""
    import torchsort

    scale = x.shape[-1] / 12**0.5
    return torchsort.soft_rank(x * scale, regularization_strength=strength)


def data(rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Make values to rank, and the gradient of what is made of their ranks."""
    x, weight = torch.randn(2, rows, columns, generator=torch.Generator().manual_seed(0))
    return x, weight


def step(function: Callable[[Tensor], Tensor], x: Tensor, weight: Tensor) -> None:
    """Pass forward and backward once."""
    function(x.clone().requires_grad_()).backward(weight)


def cases(quick: bool) -> Iterator[Case]:
    """Yield forward and backward passes at a middle strength, by each backend."""
    for rows, columns in ((8, 100),) if quick else TABLE_SIZES:
        for backend in ("auto", "scipy", "torch"):
            measure = partial(_ranking, rows, columns, backend, 1 if quick else 5)
            yield Case(f"soft rank, {backend}", f"{rows} × {columns} float32", measure)


def _ranking(rows: int, columns: int, backend: str, repetitions: int) -> Found:
    x, weight = data(rows, columns)
    return compare(
        lambda: step(lambda z: soft_rank(z, strength=0.1, backend=backend), x, weight),
        peer=Contender("bare torchsort", lambda: step(lambda z: bare_torchsort(z, 0.1), x, weight)),
        limit=Contender("torch.sort", lambda: x.sort(-1)),
        memory=Memory(__file__, f"{backend} {rows} {columns}", f"bare {rows} {columns}"),
        repetitions=repetitions,
    )


def memory_run(name: str) -> _harness.Run:
    """Prepare "BACKEND ROWS COLUMNS" of the table, or "bare ROWS COLUMNS"."""
    backend, rows, columns = name.split(" ")

    def function(z: Tensor) -> Tensor:
        if backend == "bare":
            return bare_torchsort(z, 0.1)
        return soft_rank(z, strength=0.1, backend=backend)

    step(function, *data(2, 8))  # libraries
    x, weight = data(int(rows), int(columns))
    return lambda: step(function, x, weight)


def main() -> None:
    """Check every claim."""
    x, weight = data(ROWS, COLUMNS)
    for strength in STRENGTHS:
        functions: dict[str, Callable[[Tensor], Tensor]] = {
            name: lambda z, name=name, strength=strength: soft_rank(
                z, strength=strength, backend=name
            )
            for name in ("torchsort", "scipy", "torch")
        }
        functions["bare torchsort"] = lambda z, strength=strength: bare_torchsort(z, strength)
        turns = Turns({n: partial(step, f, x, weight) for n, f in functions.items()}, REPETITIONS)
        print(f"strength {strength:g}, {ROWS} x {COLUMNS} float32, forward and backward:")
        turns.show()
        for name, limit in LIMITS.items():
            for peer in ("torchsort", "bare torchsort"):
                claim(f"{name} / {peer}", turns.ratio(name, peer), limit, at_most=True)


if __name__ == "__main__":
    _harness.start()
    main()
