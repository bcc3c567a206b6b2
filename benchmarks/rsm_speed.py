"""Claims about `softrsa.rsm`: close to a bare matrix product in time, lean in memory.

Run with ``python benchmarks/rsm_speed.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import _harness
import torch
from _harness import Case, Contender, Found, Memory, Turns, claim, compare
from scipy.spatial.distance import pdist
from torch import Tensor

from softrsa.rsm import condensed_similarity, similarity_matrix

STIMULI, UNITS = 10_000, 512
REPETITIONS = 8
TABLE_SIZES = (1_000, 3_000, 10_000, 30_000)
PEERS_UP_TO = {"SciPy pdist": 3_000, "rsatoolbox calc_rdm": 10_000}  # what takes them seconds
LARGE = 10_000  # from here on, one repetition for peers and few for us
MEMORY_CASES = {  # function, similarity, stimuli, units
    "92 x 600 000 correlation": ("square", "correlation", 92, 600_000),
    "92 x 600 000 l2": ("square", "l2", 92, 600_000),
    "92 x 600 000 l1": ("square", "l1", 92, 600_000),
    "10 000 x 512 correlation": ("square", "correlation", STIMULI, UNITS),
    "10 000 x 512 correlation, condensed": ("condensed", "correlation", STIMULI, UNITS),
    "10 000 x 512 sqeuclidean": ("square", "sqeuclidean", STIMULI, UNITS),
    "10 000 x 512 rbf, median": ("square", "rbf", STIMULI, UNITS),
    "10 000 x 512 mahalanobis": ("square", "mahalanobis", STIMULI, UNITS),
    "2 000 x 512 l1": ("square", "l1", 2_000, UNITS),
    "3 000 x 20 000 correlation": ("square", "correlation", 3_000, 20_000),
}
FUNCTIONS = {"square": similarity_matrix, "condensed": condensed_similarity}


def data(n: int, p: int = UNITS) -> Tensor:
    """Make random responses, float32."""
    return torch.randn(n, p, generator=torch.Generator().manual_seed(0))


def rsatoolbox_rdm(x: Tensor) -> object:
    """Let rsatoolbox compute 1 - correlation."""
    from rsatoolbox.data import Dataset
    from rsatoolbox.rdm import calc_rdm

    return calc_rdm(Dataset(x.numpy()), method="correlation")


PEERS = {
    "SciPy pdist": lambda x: pdist(x.numpy(), "correlation"),
    "rsatoolbox calc_rdm": rsatoolbox_rdm,
}


def cases(quick: bool) -> Iterator[Case]:
    """Yield condensed correlation RSMs of growing size."""
    sizes = (200, 400) if quick else TABLE_SIZES
    for n in sizes:
        able = [name for name, most in PEERS_UP_TO.items() if n <= most]
        for name in able or [None]:
            measure = partial(_building, n, name, 1 if quick or n >= LARGE else 5)
            yield Case("RSM, correlation, condensed", f"{n} × {UNITS} float32", measure)


def _building(n: int, peer: str | None, repetitions: int) -> Found:
    x = data(n)
    out = torch.empty(n, n)
    product = Contender("torch.mm", lambda: torch.mm(x, x.T, out=out))
    other = None if peer is None else Contender(peer, lambda: PEERS[peer](x))
    theirs = f"{n} product" if peer is None else f"{n} {peer}"
    return compare(
        lambda: condensed_similarity(x),
        peer=other,
        limit=product,
        memory=Memory(__file__, f"{n} ours", theirs, "limit" if peer is None else "peer"),
        repetitions=repetitions,
        warm_up=n < LARGE,
    )


def memory_run(name: str) -> _harness.Run:
    """Prepare one of `MEMORY_CASES`, or "N ours", "N product" or "N PEER" of the table."""
    if name in MEMORY_CASES:
        kind, similarity, n, p = MEMORY_CASES[name]
        x = data(n, p)
        similarity_matrix(x[:64, :512], similarity="l2")  # libraries and thread pools
        options = {"precision": torch.eye(p)} if similarity == "mahalanobis" else {}
        return lambda: FUNCTIONS[kind](x, similarity=similarity, **options)
    size, who = name.split(" ", 1)
    x = data(int(size))
    runs = {"ours": condensed_similarity, "product": lambda z: torch.mm(z, z.T), **PEERS}
    runs[who](x[:64])
    return lambda: runs[who](x)


def speed() -> None:
    """Compare with a matrix product and with rsatoolbox, taking turns."""
    x = data(STIMULI)
    out = torch.empty(STIMULI, STIMULI)
    contenders: dict[str, _harness.Run] = {
        "product": lambda: torch.mm(x, x.T, out=out),
        "softrsa": lambda: condensed_similarity(x),
        "square": lambda: similarity_matrix(x),
    }
    turns = Turns(contenders, REPETITIONS)
    turns.show()
    size = f"{STIMULI} x {UNITS} float32"
    text = f"condensed correlation RSM of {size} / torch.mm(x, x.T, out=...)"
    claim(text, turns.ratio("softrsa", "product"), 1.3, at_most=True)
    claim("similarity_matrix / torch.mm", turns.ratio("square", "product"), None)
    slow: dict[str, _harness.Run] = {
        "softrsa": contenders["softrsa"],
        "rsatoolbox": lambda: rsatoolbox_rdm(x),
    }
    turns = Turns(slow, 2)
    turns.show()
    text = f"rsatoolbox.rdm.calc_rdm / condensed correlation RSM of {size}"
    claim(text, turns.ratio("rsatoolbox", "softrsa"), 10)


def memory() -> None:
    """Measure each case in a process of its own."""
    for case, (kind, _, n, _) in MEMORY_CASES.items():
        result = 4 * (n * n if kind == "square" else n * (n - 1) // 2) / _harness.MEGABYTE
        beside = _harness.peak_megabytes(__file__, case) - result
        claim(f"peak beside the result, {case}", beside, 200, at_most=True, unit="MB")


if __name__ == "__main__":
    _harness.start()
    speed()
    memory()
