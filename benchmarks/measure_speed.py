"""Claims about rank and whitened correlations: much faster than rsatoolbox, and the same numbers.

Run with ``python benchmarks/measure_speed.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import _harness
import numpy as np
import torch
from _harness import Case, Contender, Found, Turns, claim, compare
from rsatoolbox.rdm import RDMs
from rsatoolbox.rdm import compare as compare_rdms
from torch import Tensor

from softrsa.measures import kendall_tau_a, kendall_tau_b, whitened_cosine, whitened_pearson

STIMULI = 92
PAIRS = STIMULI * (STIMULI - 1) // 2
MODELS, BRAINS = 100, 50
REPETITIONS = 3


METHODS = {  # by rsatoolbox's name
    "tau-a": kendall_tau_a,
    "tau-b": kendall_tau_b,
    "cosine_cov": whitened_cosine,
    "corr_cov": whitened_pearson,
}


def data(n_models: int, n_brains: int) -> tuple[Tensor, Tensor, Tensor]:
    """Make random RDMs without ties, and the covariance of the noise of stimuli."""
    rng = torch.Generator().manual_seed(0)
    x = torch.rand(n_models, PAIRS, dtype=torch.float64, generator=rng)
    y = torch.rand(n_brains, PAIRS, dtype=torch.float64, generator=rng)
    root = torch.randn(STIMULI, STIMULI, dtype=torch.float64, generator=rng)
    return x, y, root @ root.T / STIMULI + torch.eye(STIMULI)


def cases(quick: bool) -> Iterator[Case]:
    """Yield Kendall and whitened correlations."""
    for method, function in METHODS.items():
        whitened = method.endswith("cov")
        n = 2 if quick or whitened else 20
        yield Case(
            function.__name__,
            f"{n} × {n} RDMs of {STIMULI}",
            partial(_correlations, method, n, 1 if quick else REPETITIONS),
        )


def _correlations(method: str, n: int, repetitions: int) -> Found:
    x, y, noise = data(n, n)
    theirs, function = (RDMs(x.numpy()), RDMs(y.numpy())), METHODS[method]
    if method.endswith("cov"):
        mine, other = {"noise_covariance": noise}, {"sigma_k": noise.numpy()}
        square = torch.rand(2 * n, STIMULI, STIMULI, dtype=torch.float64)
        limit = Contender("its products alone", lambda: noise @ square @ noise)
    else:
        mine, other = {}, {}
        limit = Contender("torch.sort", lambda: (x.sort(-1), y.sort(-1)))
    return compare(
        lambda: function(x[:, None], y, **mine),
        peer=Contender("rsatoolbox compare", lambda: compare_rdms(*theirs, method, **other)),
        limit=limit,
        repetitions=repetitions,
    )


def versus(
    text: str,
    ours: Callable[[], object],
    theirs: Callable[[], object],
    least: float,
    *,
    share: float = 1.0,
    close: float = 1e-8,
) -> None:
    """Take turns and compare values; ``share`` is how much of our work the peer was given."""
    turns = Turns({"ours": ours, "rsatoolbox": theirs}, REPETITIONS)
    turns.show()
    claim(text, turns.ratio("rsatoolbox", "ours", 1 / share), least)
    found, expected = np.asarray(ours()), np.asarray(theirs())
    difference = np.abs(found[: len(expected), : expected.shape[1]] - expected).max()
    verdict = "pass" if difference < close else "FAIL"
    print(f"{verdict}  values differ by at most {difference:.1e} (at most {close:g})")


def main() -> None:
    """Check every claim."""
    x, y, noise = data(MODELS, BRAINS)
    sets = {
        "no ties": (x, y),
        "float32, a few ties": (x.float().double(), y.float().double()),
        "100 values, many ties": ((100 * x).round(), (100 * y).round()),
    }
    stack = f"{MODELS} x {BRAINS} RDMs of {STIMULI} stimuli"
    for kind, (a, b) in sets.items():
        rdms = RDMs(a.numpy()), RDMs(b.numpy()[: BRAINS // 5])
        for function, method in ((kendall_tau_a, "tau-a"), (kendall_tau_b, "tau-b")):
            if method == "tau-b" and kind != "no ties":
                continue
            # the peer's time is per pair of RDMs: a fifth of them is enough
            versus(
                f"rsatoolbox {method} (a fifth, times 5) / {function.__name__}, {stack}, {kind}",
                lambda f=function, a=a, b=b: f(a[:, None], b),
                lambda r=rdms, m=method: compare_rdms(*r, m),
                5 if kind != "100 values, many ties" else 1,
                share=0.2,
            )
    few = RDMs(x.numpy()[:4]), RDMs(y.numpy()[:4])
    for function, method in ((whitened_cosine, "cosine_cov"), (whitened_pearson, "corr_cov")):
        versus(
            f"rsatoolbox {method} (4 x 4 RDMs) / {function.__name__} (4 x 4), full covariance",
            lambda f=function: f(x[:4, None], y[:4], noise_covariance=noise),
            lambda m=method: compare_rdms(*few, m, sigma_k=noise.numpy()),
            20,
            close=1e-4,  # its solver stops at a relative 1e-5
        )
        taken = _harness.seconds(lambda f=function: f(x[:, None], y, noise_covariance=noise))
        print(f"      {function.__name__}, {stack}: {taken:.3f} s")


if __name__ == "__main__":
    _harness.start()
    main()
