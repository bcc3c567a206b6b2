"""What `test_distributed.py` computes in one process and in two."""

import sys

import torch
from torch import nn

from softrsa._processes import Ranks, current_ranks, join_ranks
from softrsa.prediction import FineTuner, NeighborRegressor
from softrsa.prediction.network import Network
from softrsa.prediction.options import LabelScale, Options
from softrsa.prediction.samples import ArrayInputs, Samples
from softrsa.prediction.training import Training, synced_batch_norm

CPU = torch.device("cpu")
HEADS = ("linear", "nca", "softstep-nca-instance", "diffknn-instance")
CASES = [(h, n, d) for h in HEADS for n in ("batch", "bank") for d in ("float32", "float64")]


def make_extractor(seed: int = 5) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 6, 3, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU(inplace=True),
            nn.Conv2d(6, 8, 3, bias=False),  # whose gradient before batch norm would be rounding
            nn.BatchNorm2d(8, momentum=None),
            nn.Tanh(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )


def make_samples(n=41, dtype=torch.float32):
    generator = torch.Generator().manual_seed(3)
    # samples far apart: batch norm of features that hardly vary would enlarge rounding
    contrast = 4 * torch.rand(n, 3, 1, 1, generator=generator, dtype=torch.float64)
    x = contrast * torch.randn(n, 3, 8, 8, generator=generator, dtype=torch.float64)
    y = (2 * contrast[:, 0, 0, 0]).sin() + contrast[:, 1, 0, 0]
    return x.to(dtype), y.numpy()


def compute_gradients(head: str, neighbors: str, dtype: str, ranks: Ranks) -> dict:
    """Gradients of one batch of 11, and the statistics of batch norm after it."""
    kind = getattr(torch, dtype)
    x, y = make_samples(dtype=kind)
    tuner = FineTuner(nn.Identity(), head, layers=(7, 5), batch_size=11, train_neighbors=neighbors)
    options = Options.of(tuner)
    torch.manual_seed(1)
    network: Network = options.make_network(8, 1)
    network.extractor = make_extractor()
    network = network.to(kind)
    labels = LabelScale.of(y).scaled(y, CPU).to(kind)
    samples = Samples(ArrayInputs(x, CPU), labels)
    training = Training(network, samples, samples, options, ranks=ranks)
    training._fill_bank(network, samples)
    network.train()
    rows = torch.randperm(len(y))[:11]
    with synced_batch_norm(network, ranks):
        training.backward(rows, x[rows[ranks.part(11)]])
    found = {name: p.grad for name, p in network.named_parameters()}
    return found | {name: b.clone() for name, b in network.named_buffers() if "running" in name}


def fit_all() -> dict:
    """Whole fits, through the public classes."""
    x, y = make_samples()
    options = {"layers": (7, 5), "batch_size": 10, "random_state": 0, "max_epochs": 3}
    result = {}
    for name, more in {
        "trained": {"learning_rate": 1e-2},
        "frozen": {"extractor_learning_rate": 0.0, "learning_rate": 1e-2},
        "bank": {"train_neighbors": "bank", "head": "nca"},
    }.items():
        tuner = FineTuner(make_extractor(), **options, **more).fit((x, y), progress=True)
        result[name] = tuner.validation_losses_, torch.as_tensor(tuner.predict(x))
    regressor = NeighborRegressor("nca", **options, extractor=make_extractor()).fit(x, y)
    result["regressor"] = regressor.validation_losses_, torch.as_tensor(regressor.predict(x))
    own = make_extractor(seed=current_ranks().rank)
    seeds = set()

    def note(module, *_):
        if module.training:
            seeds.add(torch.initial_seed())

    own.register_forward_hook(note)
    free = FineTuner(own, **{**options, "random_state": None}, dropout=0.5).fit((x, y))
    result["dropout"] = free.validation_losses_, torch.as_tensor(free.predict(x)), seeds
    few = FineTuner(make_extractor(), layers=(7, 5), max_epochs=1, random_state=0).fit(
        (x[:5], y[:5])
    )
    result["one to validate"] = few.validation_losses_, torch.as_tensor(few.predict(x))
    return result


def run(folder: str) -> dict:
    """Find all of it on this rank."""
    ranks = join_ranks(CPU)
    gradients = {case: compute_gradients(*case, ranks) for case in CASES}
    fits = fit_all()
    x, y = make_samples()
    tuner = FineTuner(make_extractor(), max_epochs=1, random_state=0).fit((x[:5], y[:5]))
    tuner.save(f"{folder}/of_rank_{ranks.rank}.pt")
    return {"gradients": gradients, "fits": fits}


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.save(run(sys.argv[1]), f"{sys.argv[1]}/found.pt")
