"""Neighbors kept on a module: embeddings of the training set, and their labels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from softrsa.errors import DataError, NotFittedError, ShapeError


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
