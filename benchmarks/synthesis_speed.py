"""Claims about `optimize_to_score`: many times faster than through singular values, no more steps.

Run with ``python benchmarks/synthesis_speed.py``. Data of 500 x 100, float64, variances from 1 to
1e-4, from one random start to a score of 0.99, against the same loop with the published formulas
(Cloos et al. 2024): singular values of X'Y and of the n x n Grams XX' and YY', by
`torch.linalg.svdvals`, and `torch.optim.Adam`. Both run to the target.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

import _harness
import torch
from _harness import Case, Contender, Found, Turns, claim, compare
from torch import Tensor

from softrsa.synthesis import optimize_to_score
from softrsa.synthesis.objective import starting_features

STIMULI, UNITS, TARGET, ROUNDS = 500, 100, 0.99, 3


def singular_values(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Singular values of X'Y, XX' and YY', columns centered."""
    x, y = x - x.mean(0), y - y.mean(0)
    return tuple(torch.linalg.svdvals(product) for product in (x.T @ y, x @ x.T, y @ y.T))


def nbs_by_singular_values(x: Tensor, y: Tensor) -> Tensor:
    """Score by the normalized Bures similarity as published."""
    xy, xx, yy = singular_values(x, y)
    return xy.sum() / (xx.sum() * yy.sum()).sqrt()


def angular_cka_by_singular_values(x: Tensor, y: Tensor) -> Tensor:
    """Score by angular linear CKA as published, but for its arccos at 1."""
    xy, xx, yy = singular_values(x, y)
    cka = xy.square().sum() / (xx.square().sum() * yy.square().sum()).sqrt()
    return 1 - torch.arccos(cka) / (math.pi / 2)


CONTENDERS = {"nbs": nbs_by_singular_values, "angular_cka": angular_cka_by_singular_values}


def data(n: int = STIMULI, p: int = UNITS) -> Tensor:
    """Make features with variances from 1 to 1e-4."""
    noise = torch.randn(n, p, generator=torch.Generator().manual_seed(0)).double()
    return noise * torch.logspace(0, -4, p, dtype=torch.float64).sqrt()


def plain_loop(x: Tensor, measure: Callable[[Tensor, Tensor], Tensor]) -> int:
    """Count the steps to the target."""
    y = starting_features(None, x, n_restarts=1, n_units=None, seed=0)[0].requires_grad_()
    optimizer = torch.optim.Adam([y], lr=0.1)
    steps = 0
    while (score := measure(x, y)).item() < TARGET:
        optimizer.zero_grad()
        (-score).backward()
        optimizer.step()
        steps += 1
    return steps


def our_loop(x: Tensor, measure: str) -> int:
    """Count the steps to the target, all bookkeeping included."""
    return int(optimize_to_score(x, measure, target=TARGET, device="cpu").steps_to_target)


def cases(quick: bool) -> Iterator[Case]:
    """Yield optimizations to a score."""
    n, p = (60, 12) if quick else (STIMULI, UNITS)
    for name in CONTENDERS:
        measure = partial(_optimizing, name, n, p, 1 if quick else ROUNDS)
        yield Case(f"optimize_to_score, {name} to {TARGET}", f"{n} × {p} float64", measure)


def _optimizing(name: str, n: int, p: int, repetitions: int) -> Found:
    x = data(n, p)
    n_steps = our_loop(x, name)

    def products() -> None:
        for _ in range(n_steps):  # X'Y and Y'Y of the value, two of the gradient
            cross, own = x.T @ x, x.T @ x
            x @ own, x @ cross

    return compare(
        lambda: our_loop(x, name),
        peer=Contender("torch, as diffscore", lambda: plain_loop(x, CONTENDERS[name])),
        limit=Contender("products of its steps", products),
        repetitions=repetitions,
    )


def main() -> None:
    """Check every claim."""
    x = data()
    for name, published in CONTENDERS.items():
        steps, their_steps = our_loop(x, name), plain_loop(x, published)
        turns = Turns(
            {"ours": lambda n=name: our_loop(x, n), "published": partial(plain_loop, x, published)},
            ROUNDS,
            warm_up=False,
        )
        turns.show()
        claim(f"{name}, seconds to {TARGET}", turns.ratio("published", "ours"), 15)
        claim(f"{name}, steps to {TARGET}", steps, their_steps, at_most=True, unit="steps")


if __name__ == "__main__":
    _harness.start()
    main()
