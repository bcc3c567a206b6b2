"""The network of a `NeighborRegressor`: a body that embeds, a head, and the neighbors."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from softrsa.prediction.bank import NeighborBank
from softrsa.prediction.heads import LinearHead, NCAHead
from softrsa.prediction.step_heads import DiffKNNHead, SoftStepNCAHead
from softrsa.transforms import Family

ROWS = 2**22  # entries of a matrix of weights held at once

NEIGHBOR_HEADS: dict[str, Callable[[int, Family, str, float | None], NCAHead]] = {
    "nca": lambda _, family, s, tau: NCAHead(similarity=s, temperature=tau),
    "softstep-nca-global": lambda _, family, s, tau: SoftStepNCAHead(
        family=family, similarity=s, temperature=tau
    ),
    "softstep-nca-instance": lambda d, family, s, tau: SoftStepNCAHead(
        d, family=family, similarity=s, temperature=tau
    ),
    "diffknn-global": lambda _, family, s, tau: DiffKNNHead(similarity=s, temperature=tau),
    "diffknn-instance": lambda d, family, s, tau: DiffKNNHead(d, similarity=s, temperature=tau),
}
HEADS = ("linear", *NEIGHBOR_HEADS)


def make_body(n_features: int, layers: Sequence[int], dropout: float) -> nn.Sequential:
    """Batch norm, linear layer and tanh for each width; nothing for none (the identity)."""
    modules: list[nn.Module] = []
    for width in layers:
        modules += [nn.BatchNorm1d(n_features), nn.Linear(n_features, width), nn.Tanh()]
        modules += [nn.Dropout(dropout)] if dropout else []
        n_features = width
    return nn.Sequential(*modules)


class Network(nn.Module):
    """Body, head and bank; predictions are in the unit of the bank's labels."""

    def __init__(self, body: nn.Module, head: LinearHead | NCAHead):
        super().__init__()
        self.body, self.head, self.bank = body, head, NeighborBank()

    @torch.no_grad()
    def embed(self, x: Tensor) -> Tensor:
        """Embed samples as in prediction."""
        training = self.training
        self.eval()
        result = torch.cat([self.body(part) for part in x.split(4096)])
        self.train(training)
        return result

    def predict(self, x: Tensor) -> Tensor:
        """Predict labels (m, n_targets) of samples from the bank."""
        bank = self.bank.filled()
        return self.head.predict(self.embed(x), bank.embeddings, bank.labels)

    @torch.no_grad()
    def neighbors(self, x: Tensor, n: int) -> tuple[Tensor, Tensor]:
        """Numbers and weights (m, n) of the neighbors with the largest weights, in this order."""
        head, bank = self.head, self.bank.filled()
        if isinstance(head, LinearHead):
            raise TypeError("A linear head has no neighbors.")
        parts = self.embed(x).split(max(1, ROWS // len(bank)))
        tops = [head.weights(part, bank.embeddings).topk(n, dim=-1) for part in parts]
        return torch.cat([t.indices for t in tops]), torch.cat([t.values for t in tops])
