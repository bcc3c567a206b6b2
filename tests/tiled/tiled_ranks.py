"""What `test_tiled_ranks.py` computes in one process and in several."""

import sys
import time
from pathlib import Path

import torch

from softrsa import Aligner
from softrsa._processes import join_ranks
from softrsa.alignment import FitSettings, tiled_noise_ceiling, tiled_scores
from softrsa.tiled import tiles
from softrsa.transforms import EmbeddingGate, ProfileGate, SoftStep
from softrsa.transforms.on_rsms import SoftGate

N = 90
KINDS = ("float32", "float64")
SETTINGS = FitSettings(steps=(3, 6), inner_folds=2, keep_stimuli=False)


def make_data(kind: str) -> tuple[torch.Tensor, list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    model, *noise = torch.randn(3, N, 12, generator=generator, dtype=torch.float64)
    dtype = getattr(torch, kind)
    return model.to(dtype), [(model + e).to(dtype) for e in noise]


def make_transform(gate: str) -> SoftGate:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        step = SoftStep(ProfileGate(5) if gate == "profile" else EmbeddingGate(12))
        with torch.no_grad():
            for parameter in step.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
    return SoftGate(step, "row_minmax", symmetrize=True)


def compute(kind: str, *, distributed: bool) -> dict:
    """Scores, gradients to features and gates, ceilings, and a fit."""
    model, brain = make_data(kind)
    found = {}
    for gate in ("profile", "embedding"):
        x, transform = model.clone().requires_grad_(), make_transform(gate)
        anchors = model if gate == "embedding" else None
        scores = tiled_scores(
            x,
            brain,
            model_transform=transform,
            brain_transform=transform,
            model_anchors=anchors,
            brain_anchors=anchors,
            distributed=distributed,
        )
        gradients = torch.autograd.grad(scores.sum(), [x, *transform.parameters()])
        found[gate] = scores.detach(), gradients
    found["ceilings"] = tuple(tiled_noise_ceiling(brain, distributed=distributed))
    aligner = Aligner("instance", settings=SETTINGS, tiled=True)
    aligner.fit(model[:60], [y[:60] for y in brain])
    found["fit"] = aligner.score(model[60:], [y[60:] for y in brain])
    return found


def main(mode: str, folder: Path) -> None:
    ranks = join_ranks(torch.device("cpu"))
    model, brain = make_data("float32")
    if mode == "different":
        tiled_scores(model + ranks.rank, brain, distributed=True)
    if mode == "failing":
        if ranks.rank == 1:
            raise KeyError("lost on the way")
        time.sleep(1)
        tiled_scores(model, brain, distributed=True)
    found = {kind: compute(kind, distributed=True) for kind in KINDS}
    torch.save(found, folder / f"rank_{ranks.rank}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    tiles.TILE_SIZE["cpu"] = 16  # so that every rank has several
    main(sys.argv[1], Path(sys.argv[2]))
