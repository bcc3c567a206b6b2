"""Claims about alignment in tiles: near the bare products, far from a plain transcription.

Run with ``python benchmarks/tiled_speed.py [--threads N]``. One instance-wise step: RSMs of both
sides from 512 features, row min-max, bounds and transitions of each anchor linear in its features
and through a sigmoid, SoftStep, the mean with the transpose, Pearson correlation over pairs, and
the gradient of the gates. The limit is two matrix products and two passes of a sigmoid, with
memory used again; the plain transcription writes the same formulas down with `triu_indices`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import _harness
import torch
from _harness import Case, Contender, Found, Memory, Over, Run, Turns, claim, compare
from torch import Tensor

from softrsa.alignment import tiled_scores
from softrsa.transforms import EmbeddingGate, SoftStep
from softrsa.transforms.on_rsms import SoftGate

UNITS = 512
SIZES = (500, 1000, 2000, 4000)
LARGE = 16_000
START = torch.tensor([-4.0, 4.0, 4.0])  # logits of the identity
WORKER = Path(__file__).with_name("tiled_ranks.py")


def features(n: int) -> tuple[Tensor, Tensor]:
    """Make a model and a brain that has something of it."""
    x, noise = torch.randn(2, n, UNITS, generator=torch.Generator().manual_seed(0))
    return x, x + noise


def ours(n: int, *, distributed: bool = False) -> Run:
    """Prepare one step with `tiled_scores`."""
    x, y = features(n)
    transforms = [
        SoftGate(SoftStep(EmbeddingGate(UNITS)), "row_minmax", symmetrize=True) for _ in "xy"
    ]

    def run() -> Tensor:
        score = tiled_scores(
            x, y, measure="pearson", model_transform=transforms[0], brain_transform=transforms[1],
            model_anchors=x, brain_anchors=y, distributed=distributed,
        )  # fmt: skip
        score.sum().backward()
        return score.detach()

    return run


def plain(n: int) -> Run:
    """Prepare the same step as the formulas say it."""
    both = features(n)
    gates = [torch.zeros(UNITS, 3, requires_grad=True) for _ in both]
    itself = torch.eye(n, dtype=torch.bool)
    first, second = torch.triu_indices(n, n, 1)

    def transformed(x: Tensor, gate: Tensor) -> Tensor:
        x_c = x - x.mean(1, keepdim=True)
        z = x_c / x_c.norm(dim=1, keepdim=True)
        s = z @ z.T
        low = s.masked_fill(itself, torch.inf).amin(1, keepdim=True)
        high = s.masked_fill(itself, -torch.inf).amax(1, keepdim=True)
        s = (s - low) / (high - low)
        a, width, t = torch.sigmoid(x @ gate + START).unsqueeze(1).unbind(-1)
        b = a + width * (1 - a)
        u, v = (s - a).clamp_min(1e-30) ** (1 / t), (b - s).clamp_min(1e-30) ** (1 / t)
        step = u / (u + v)
        return ((step + step.T) / 2)[first, second]

    def run() -> Tensor:
        vectors = [transformed(x, gate) for x, gate in zip(both, gates, strict=True)]
        score = torch.corrcoef(torch.stack(vectors))[0, 1]
        score.backward()
        return score.detach()

    return run


def bare(n: int) -> Run:
    """Prepare two matrix products and two passes of a sigmoid."""
    x, y = features(n)
    first, second = torch.empty(2, n, n)

    def run() -> None:
        for z, out in ((x, first), (y, second)):
            torch.mm(z, z.T, out=out).sigmoid_()

    return run


def cases(quick: bool) -> Iterator[Case]:
    """Yield the step at several sizes, and two processes against one."""
    for n in SIZES[: 1 if quick else None]:
        yield Case("alignment step in tiles", f"{n} × {UNITS}", partial(_step, n, quick))
    if not quick:
        yield Case("alignment step in tiles", f"{LARGE} × {UNITS}", _large)
    n = 500 if quick else 4000
    yield Case(
        "alignment step, two processes of one thread", f"{n} × {UNITS}", partial(_processes, n)
    )


def _step(n: int, quick: bool) -> Found:
    return compare(
        ours(n),
        peer=Contender("plain transcription", plain(n)),
        limit=Contender("two products, two sigmoids", bare(n)),
        memory=Memory(__file__, f"ours {n}", f"plain {n}", "plain transcription"),
        repetitions=1 if quick else 3 if n > 2000 else 7,
    )


def _large() -> Found:
    limit = Contender("two products, two sigmoids", bare(LARGE))
    memory = Memory(__file__, f"ours {LARGE}", f"bare {LARGE}", "both RSMs")
    return compare(ours(LARGE), limit=limit, memory=memory, repetitions=1, warm_up=False)


def _processes(n: int) -> Found:
    """Two processes of one thread against one of two threads: the same cores."""
    one, two = (seconds_of_step(n, *how) for how in ((1, 2), (2, 1)))
    return Found(limit=Over(two / one, "one process of two threads"))


def seconds_of_step(n: int, processes: int, threads: int) -> float:
    """Median time of a step in processes started by `torchrun`."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    environment = {**os.environ, **dict.fromkeys(_harness.POOLS, str(threads))}
    result = subprocess.run(  # noqa: S603
        [sys.executable, *launcher, str(WORKER), str(n), str(threads)],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return float(json.loads(result.stdout.splitlines()[-1]))


def memory_run(name: str) -> Run:
    """Prepare "WAY SIZE"."""
    way, size = name.split(" ")
    prepare = {"ours": ours, "plain": plain, "bare": bare}[way]
    if way != "bare":
        prepare(300)()  # libraries and threads
    return prepare(int(size))


def main() -> None:
    """Check the claims."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    _harness.start(parser.parse_args().threads)
    difference = abs(float(ours(1000)()[0]) - float(plain(1000)()))
    claim("score less that of the plain transcription", difference, 1e-5, at_most=True, unit="")
    for n in SIZES:
        print(f"{n} stimuli x {UNITS}")
        runs = {"ours": ours(n), "plain": plain(n), "limit": bare(n)}
        turns = Turns(runs, 3 if n > 2000 else 7)
        turns.show()
        # without a compiler 3 times the limit, with one 1.5 times; this is without
        claim("time over the limit", turns.ratio("ours", "limit"), 3.0, at_most=True)
        claim("time of the plain transcription over ours", turns.ratio("plain", "ours"), 5.0)
        mine, theirs = (
            _harness.peak_megabytes(__file__, f"{way} {n}") for way in ("ours", "plain")
        )
        claim("its memory over ours", theirs / mine, 5.0)
        print(f"      memory beside the features: {mine:.0f} MB, plain {theirs:.0f} MB")
    print(f"30000 stimuli x {UNITS}")
    peak = _harness.peak_megabytes(__file__, "ours 30000")
    claim("memory of a step beside the features", peak, 3000.0, at_most=True, unit="MB")


if __name__ == "__main__":
    main()
