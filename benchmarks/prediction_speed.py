"""Claims about neighbor heads: little slower than a softmax of similarities, and lean inference.

Run with ``python benchmarks/prediction_speed.py``. Memory is the growth of a process's peak, each
contender in a process of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import _harness
import torch
from _harness import Case, Contender, Found, Memory, Turns, claim, compare
from torch import Tensor

from softrsa.prediction import DiffKNNHead, NCAHead, SoftStepNCAHead

WIDTH, BATCH = 100, 512
QUERIES, NEIGHBORS = 2_800, 9_500
REPETITIONS = 15


def training_contenders(n: int = BATCH) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """Predictions of a batch from itself: without a step, and by each head."""
    plain = NCAHead(temperature=None)
    own = torch.arange(n)

    def similarity_softmax_product(z: Tensor, y: Tensor) -> Tensor:
        return plain.plan(z, z).block().softmax(-1) @ y

    heads = {
        "NCA": NCAHead(),
        "NCA + S1": SoftStepNCAHead(WIDTH),
        "NCA + S2": SoftStepNCAHead(WIDTH, family="s2"),
        "DiffKNN": DiffKNNHead(WIDTH),
    }
    return {
        "similarity, softmax, product": similarity_softmax_product,
        "cdist, softmax, product": lambda z, y: (-torch.cdist(z, z)).softmax(-1) @ y,
        **{
            name: lambda z, y, head=head: head(z, z, y, exclude=own) for name, head in heads.items()
        },
    }


def eager(queries: Tensor, neighbors: Tensor, labels: Tensor, family: str = "s1") -> Tensor:
    """Transcribe the formulas of NCA with a step, as published code does."""
    head = SoftStepNCAHead(WIDTH, family=family)
    lower, upper, transition = (p.unsqueeze(-1) for p in head.soft_step.gate(None, queries))
    s = -torch.cdist(queries, neighbors)
    low, high = s.amin(-1, keepdim=True), s.amax(-1, keepdim=True)
    scaled = (s - low) / (high - low)
    if family == "s1":
        u = (scaled - lower).abs() ** (1 / transition)
        v = (upper - scaled).abs() ** (1 / transition)
        step = torch.where(scaled <= lower, 0.0, torch.where(scaled >= upper, 1.0, u / (u + v)))
    else:
        power = (scaled / upper) ** ((upper - scaled) * transition / (1 - transition))
        step = torch.where(scaled >= upper, 1.0, power)
    return torch.softmax(s + step.log(), -1) @ labels


def plain_nca(queries: Tensor, neighbors: Tensor, labels: Tensor) -> Tensor:
    """Transcribe the formula of NCA without a step."""
    return torch.softmax(-torch.cdist(queries, neighbors), -1) @ labels


TRANSCRIPTIONS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "NCA": plain_nca,
    "NCA + S1": eager,
    "NCA + S2": partial(eager, family="s2"),
}


def inference_contenders() -> dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]]:
    """Predictions of queries from neighbors."""
    head = SoftStepNCAHead(WIDTH)
    return {
        "cdist, softmax, product": lambda q, n, y: (-torch.cdist(q, n)).softmax(-1) @ y,
        "eager formulas": eager,
        "NCA + S1": head.predict,
    }


def inference_data(
    n_queries: int = QUERIES, n_neighbors: int = NEIGHBORS
) -> tuple[Tensor, Tensor, Tensor]:
    """Random queries, neighbors and labels, float32."""
    rng = torch.Generator().manual_seed(0)
    return (
        torch.randn(n_queries, WIDTH, generator=rng),
        torch.randn(n_neighbors, WIDTH, generator=rng),
        torch.rand(n_neighbors, generator=rng),
    )


def training_data(n: int = BATCH) -> tuple[Tensor, Tensor]:
    """Make a random batch with its labels, float32."""
    rng = torch.Generator().manual_seed(0)
    return torch.randn(n, WIDTH, generator=rng), torch.rand(n, generator=rng)


def step(function: Callable[[Tensor, Tensor], Tensor], batch: Tensor, labels: Tensor) -> None:
    """Pass forward and backward once."""
    function(batch.clone().requires_grad_(), labels).square().sum().backward()


def cases(quick: bool) -> Iterator[Case]:
    """Yield training steps and inference, against the formulas written out."""
    n = 32 if quick else BATCH
    repetitions = 1 if quick else REPETITIONS
    for name in ("NCA", "NCA + S1", "NCA + S2", "DiffKNN"):
        yield Case(
            f"{name}, training step",
            f"batch {n}, d = {WIDTH}",
            partial(_train, name, n, repetitions),
        )
    sizes = (64, 200) if quick else (QUERIES, NEIGHBORS)
    size = f"{sizes[0]} queries × {sizes[1]} neighbors"
    yield Case("NCA + S1, inference", size, partial(_infer, *sizes, min(repetitions, 5)))


def _train(name: str, n: int, repetitions: int) -> Found:
    batch, labels = training_data(n)
    contenders = training_contenders(n)
    base = "similarity, softmax, product"
    runs = {key: partial(step, f, batch, labels) for key, f in contenders.items()}
    formulas = TRANSCRIPTIONS.get(name)
    peer = None
    if formulas is not None:
        plain = partial(step, lambda z, y: formulas(z, z, y), batch, labels)
        peer = Contender("formulas in torch", plain)
    return compare(
        runs[name],
        peer=peer,
        limit=Contender(base, runs[base]),
        memory=Memory(__file__, f"{n} {name}", f"{n} {base}", "limit"),
        repetitions=repetitions,
    )


def _infer(n_queries: int, n_neighbors: int, repetitions: int) -> Found:
    data = inference_data(n_queries, n_neighbors)
    contenders = inference_contenders()
    base, formulas = "cdist, softmax, product", "eager formulas"
    with torch.no_grad():
        return compare(
            lambda: contenders["NCA + S1"](*data),
            peer=Contender(formulas, lambda: contenders[formulas](*data)),
            limit=Contender(base, lambda: contenders[base](*data)),
            memory=Memory(
                __file__,
                f"inference {n_queries} {n_neighbors} NCA + S1",
                f"inference {n_queries} {n_neighbors} {formulas}",
            ),
            repetitions=repetitions,
        )


def memory_run(name: str) -> Callable[[], object]:
    """Prepare "N CONTENDER" of training, or "inference N M CONTENDER"."""
    kind, rest = name.split(" ", 1)
    if kind != "inference":
        batch, labels = training_data(int(kind))
        step(training_contenders(8)[rest], batch[:8], labels[:8])  # libraries
        return partial(step, training_contenders(int(kind))[rest], batch, labels)
    n, m, who = rest.split(" ", 2)
    data = inference_data(int(n), int(m))
    function = inference_contenders()[who]

    def run() -> Tensor:
        with torch.no_grad():
            return function(*data)

    with torch.no_grad():
        function(data[0][:64], data[1][:64], data[2][:64])
    return run


def training() -> None:
    """Check the claims about training steps."""
    batch, labels = training_data()
    turns = Turns(
        {name: partial(step, f, batch, labels) for name, f in training_contenders().items()},
        REPETITIONS,
    )
    print(f"forward and backward, batch {BATCH}, d = {WIDTH}, float32:")
    turns.show()
    base = "similarity, softmax, product"
    for name in ("NCA", "NCA + S1", "NCA + S2"):
        claim(f"{name} / {base}", turns.ratio(name, base), 2.0, at_most=True)


def inference() -> None:
    """Check the claims about inference."""
    data = inference_data()
    with torch.no_grad():
        turns = Turns({n: lambda f=f: f(*data) for n, f in inference_contenders().items()}, 5)
    memory = {
        name: _harness.peak_megabytes(__file__, f"inference {QUERIES} {NEIGHBORS} {name}")
        for name in inference_contenders()
    }
    print(f"inference of {QUERIES} queries from {NEIGHBORS} neighbors, d = {WIDTH}, float32:")
    turns.show()
    ours, plain, formulas = "NCA + S1", "cdist, softmax, product", "eager formulas"
    claim(f"{ours} / {plain}", turns.ratio(ours, plain), 2.2, at_most=True)
    claim(f"memory of {ours}", memory[ours], 150, at_most=True, unit="MB")
    claim(f"{formulas} / {ours}", turns.ratio(formulas, ours), 2.5)
    claim(f"memory of {formulas} / {ours}", memory[formulas] / memory[ours], 4)


if __name__ == "__main__":
    _harness.start()
    training()
    inference()
