"""The network of an estimator: what embeds samples, a head, and the neighbors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from softrsa._processes import ALONE, Ranks
from softrsa.errors import DataError, DTypeError, NotFittedError, ShapeError
from softrsa.prediction.heads import LinearHead, NCAHead
from softrsa.prediction.samples import Batch, Inputs


class NeighborBank(nn.Module):
    """Embeddings and labels that a head takes for neighbors, moved and saved with the module.

    Attributes
    ----------
    embeddings : Tensor, shape (n, n_features)
        In the order of the samples last given; empty before.
    labels : Tensor, shape (n,) or (n, n_targets)
        Their labels.

    Notes
    -----
    Both are in the state dict, and a bank of any size takes them from there, in the number type
    they have there.

    Examples
    --------
    >>> bank, body = NeighborBank(), torch.nn.Linear(2, 3)
    >>> len(bank), len(bank.refresh(body, torch.zeros(5, 2), torch.arange(5.0)))
    (0, 5)
    >>> other = NeighborBank()
    >>> other.load_state_dict(bank.state_dict())
    <All keys matched successfully>
    >>> other.embeddings.shape
    torch.Size([5, 3])
    """

    embeddings: Tensor
    labels: Tensor

    def __init__(self):
        super().__init__()
        self.register_buffer("embeddings", torch.empty(0, 0))
        self.register_buffer("labels", torch.empty(0))
        self.register_load_state_dict_pre_hook(_make_room)

    def __len__(self) -> int:
        return len(self.embeddings)

    @torch.no_grad()
    def refresh(
        self, body: nn.Module, samples: Tensor, labels: Tensor, *, batch_size: int = 4096
    ) -> NeighborBank:
        """Embed samples anew, a batch at a time, without dropout and batch statistics.

        Parameters
        ----------
        body : Module
            From samples (m, ...) to embeddings (m, n_features); it and all its parts come
            back in their own modes.
        samples : Tensor, shape (n, ...)
            What the neighbors are made of.
        labels : Tensor, shape (n,) or (n, n_targets)
            Their labels.
        batch_size : int
            Number of samples embedded at once.

        Returns
        -------
        NeighborBank
            Itself.

        Raises
        ------
        ShapeError
            If there is not one label per sample, or no sample.
        DataError
            If ``batch_size`` is less than 1.
        """
        if not len(samples) or len(samples) != len(labels):
            raise ShapeError(
                f"`samples` and `labels` must be equally many, at least one, got {len(samples)} "
                f"and {len(labels)}."
            )
        if batch_size < 1:
            raise DataError(f"`batch_size` must be at least 1, got {batch_size}.")
        modes = [(module, module.training) for module in body.modules()]
        body.eval()
        try:
            embeddings = torch.cat([body(part) for part in samples.split(batch_size)])
        finally:
            for module, training in modes:
                module.training = training
        return self.fill(embeddings, labels)

    def fill(self, embeddings: Tensor, labels: Tensor) -> NeighborBank:
        """Take embeddings (n, n_features) and labels (n,) or (n, n_targets) as they are."""
        self.embeddings, self.labels = embeddings.detach(), labels.detach().clone()
        return self

    def filled(self) -> NeighborBank:
        """Itself, or an error while it is empty."""
        if not len(self):
            raise NotFittedError("The NeighborBank is empty; call `refresh` first.")
        return self

    def extra_repr(self) -> str:
        """Show how many there are."""
        return f"{len(self)} neighbors"


def _make_room(module: nn.Module, state_dict: dict[str, Any], prefix: str, *others: object) -> None:
    """Give the buffers the sizes and types of those that are about to be loaded."""
    del others
    for name, buffer in list(module.named_buffers(recurse=False)):
        if prefix + name in state_dict:
            found = state_dict[prefix + name]
            setattr(module, name, buffer.new_empty(found.shape, dtype=found.dtype))


ROWS = 2**22  # entries of a matrix of weights held at once


def make_body(n_features: int, layers: Sequence[int], dropout: float) -> nn.Sequential:
    """Batch norm, linear layer and tanh for each width; nothing for none (the identity)."""
    modules: list[nn.Module] = []
    for width in layers:
        modules += [nn.BatchNorm1d(n_features), nn.Linear(n_features, width), nn.Tanh()]
        modules += [nn.Dropout(dropout)] if dropout else []
        n_features = width
    return nn.Sequential(*modules)


class Network(nn.Module):
    """Extractor, if any, body, head and bank; predictions are in the unit of the bank's labels."""

    extractor: nn.Module | None

    def __init__(self, body: nn.Module, head: LinearHead | NCAHead):
        super().__init__()
        self.extractor = None
        self.body, self.head, self.bank = body, head, NeighborBank()
        self.n_at_once = 4096  # samples, in evaluation

    def forward(self, x: Batch) -> Tensor:
        """Embed a batch."""
        if self.extractor is not None:
            x = self.extractor(x)
        if not isinstance(x, Tensor):
            raise DTypeError("Inputs by name need an extractor that takes these names.")
        return self.body(x)

    def embed(self, inputs: Inputs, ranks: Ranks = ALONE) -> Tensor:
        """Embed samples (n, ...) as in prediction, each rank its part of them."""
        return embed_inputs(self, inputs, self.n_at_once, ranks)

    def predict(self, inputs: Inputs) -> Tensor:
        """Predict labels (n, n_targets) of samples from the bank."""
        bank = self.bank.filled()
        return self.head.predict(self.embed(inputs), bank.embeddings, bank.labels)

    @torch.no_grad()
    def neighbors(self, inputs: Inputs, n: int) -> tuple[Tensor, Tensor]:
        """Numbers and weights (m, n) of the neighbors with the largest weights, in this order."""
        head, bank = self.head, self.bank.filled()
        if isinstance(head, LinearHead):
            raise TypeError("A linear head has no neighbors.")
        parts = self.embed(inputs).split(max(1, ROWS // len(bank)))
        tops = [head.weights(part, bank.embeddings).topk(n, dim=-1) for part in parts]
        return torch.cat([t.indices for t in tops]), torch.cat([t.values for t in tops])


@torch.no_grad()
def embed_inputs(module: nn.Module, inputs: Inputs, n_at_once: int, ranks: Ranks = ALONE) -> Tensor:
    """Give a module's rows for samples in evaluation, so many at once; each rank does its part."""
    own = ranks.part(len(inputs))
    # a rank without samples embeds one, to learn the size of a row
    rows = torch.arange(own.start, own.stop) if own.stop > own.start else torch.zeros(1).long()
    training = module.training
    module.eval()
    try:
        parts = [module(x) for x in inputs.stream(rows.split(n_at_once))]
    finally:
        module.train(training)
    return ranks.gather(torch.cat(parts)[: own.stop - own.start], len(inputs))
