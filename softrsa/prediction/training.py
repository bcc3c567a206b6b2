"""Training a network of body and head, so that it can go on where it stopped."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import NamedTuple

import torch
from torch import Tensor, nn

from softrsa.errors import FitError
from softrsa.prediction.heads import LinearHead
from softrsa.prediction.network import Network


class Samples(NamedTuple):
    """Standardized inputs (n, n_features) and scaled labels (n, n_targets)."""

    x: Tensor
    y: Tensor

    def pick(self, rows: Tensor) -> Samples:
        """Take some of them."""
        return Samples(self.x.index_select(0, rows), self.y.index_select(0, rows))


class Recipe(NamedTuple):
    """How to train."""

    batch_size: int
    patience: int
    learning_rate: float
    gate_learning_rate: float
    from_bank: bool  # whether neighbors in training are the whole training set, else the batch


class Training:
    """A network in training: what it has seen, how it did, and where its randomness stands."""

    def __init__(self, network: Network, train: Samples, validation: Samples, recipe: Recipe):
        self.network, self.train, self.validation = network, train, validation
        self.recipe = recipe
        slow = list(network.body.parameters())
        fast = list(network.head.parameters())
        if isinstance(network.head, LinearHead):
            slow, fast = slow + fast, []
        groups = [
            {"params": parameters, "lr": rate}
            for parameters, rate in (
                (slow, recipe.learning_rate),
                (fast, recipe.gate_learning_rate),
            )
            if parameters
        ]
        # a body of no layers under a head without parameters has nothing to learn
        self.optimizer = torch.optim.Adam(groups) if groups else None
        self.losses: list[float] = []  # on the validation samples, after each epoch
        self.best = (float("inf"), deepcopy(network.state_dict()))
        self.best_epoch = 0

    def run(self, epochs: int, on_epoch: Callable[[float], object]) -> None:
        """Train so many epochs more, or until the loss has not fallen for `patience` epochs."""
        for _ in range(epochs):
            self._run_epoch()
            loss = self.validation_loss()
            if loss != loss:  # noqa: PLR0124  NaN
                raise FitError(
                    f"Training diverged in epoch {len(self.losses) + 1}: the loss is not a number. "
                    "Lower `learning_rate` or `gate_learning_rate`."
                )
            self.losses.append(loss)
            on_epoch(loss)
            if loss < self.best[0]:
                self.best = loss, deepcopy(self.network.state_dict())
                self.best_epoch = len(self.losses)
            if len(self.losses) - self.best_epoch >= self.recipe.patience:
                break

    def _run_epoch(self) -> None:
        if self.optimizer is None:
            return
        network = self.network.train()
        if self.recipe.from_bank:
            network.bank.refresh(network.body, *self.train)
        n = len(self.train.x)
        # nearly equal parts: a last batch of a few would have few neighbors
        for rows in torch.randperm(n).tensor_split(max(1, n // self.recipe.batch_size)):
            batch = self.train.pick(rows.to(self.train.x.device))
            loss = nn.functional.mse_loss(self._predict(batch, rows), batch.y)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()

    def _predict(self, batch: Samples, rows: Tensor) -> Tensor:
        """Predict a batch, each sample without its own label."""
        z, bank = self.network.body(batch.x), self.network.bank
        if self.recipe.from_bank:
            own = rows.to(z.device)
            return self.network.head(z, bank.embeddings, bank.labels, exclude=own)
        own = torch.arange(len(z), device=z.device)
        return self.network.head(z, z, batch.y, exclude=own)

    def validation_loss(self) -> float:
        """Mean squared error of the validation samples, from the training samples."""
        network, held_out = self.network, self.validation
        network.bank.refresh(network.body, *self.train)
        predicted = network.predict(held_out.x)
        return float((predicted - held_out.y).square().mean())

    def finished(self, samples: Samples) -> Network:
        """Copy the best network so far, with these samples for neighbors."""
        network = deepcopy(self.network)
        network.load_state_dict(self.best[1])
        network.bank.refresh(network.body, *samples)
        return network.eval()
