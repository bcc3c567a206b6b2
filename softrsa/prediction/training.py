"""Training a network of body and head, so that it can go on where it stopped."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import NamedTuple

import torch
from torch import Tensor

from softrsa._processes import ALONE, Ranks
from softrsa.errors import FitError
from softrsa.prediction.bank import NeighborBank
from softrsa.prediction.distributed import synced_batch_norm
from softrsa.prediction.heads import LinearHead
from softrsa.prediction.network import Network
from softrsa.prediction.samples import Batch, Samples


class Recipe(NamedTuple):
    """How to train."""

    batch_size: int
    patience: int
    learning_rate: float
    gate_learning_rate: float
    from_bank: bool  # whether neighbors in training are the whole training set, else the batch
    extractor_learning_rate: float | None = None  # None: as the body
    scale_loss: bool = False  # so that gradients do not vanish in float16


class Training:
    """A network in training: what it has seen, how it did, and where its randomness stands.

    With several ranks each has all samples, and does its part of each batch.
    """

    def __init__(
        self,
        network: Network,
        train: Samples,
        validation: Samples,
        recipe: Recipe,
        ranks: Ranks = ALONE,
    ):
        self.network, self.train, self.validation = network, train, validation
        self.recipe, self.ranks = recipe, ranks
        groups = _parameter_groups(network, recipe)
        # a body of no layers under a head without parameters has nothing to learn
        self.optimizer = torch.optim.Adam(groups) if groups else None
        self.scaler = torch.amp.GradScaler(train.y.device.type, enabled=recipe.scale_loss)
        self.losses: list[float] = []  # on the validation samples, after each epoch
        self.best = (float("inf"), deepcopy(network.state_dict()))
        self.best_epoch = 0

    def run(self, epochs: int, on_epoch: Callable[[float], object]) -> None:
        """Train so many epochs more, or until the loss has not fallen for `patience` epochs."""
        for _ in range(epochs):
            with synced_batch_norm(self.network, self.ranks):
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
        if self.recipe.from_bank:
            self._fill_bank(self.network, self.train)
        self.network.train()
        n, device = len(self.train.y), self.train.y.device
        # nearly equal parts: a last batch of a few would have few neighbors
        n_batches = max(1, n // self.recipe.batch_size)
        batches = self.ranks.shared(torch.randperm(n), device).tensor_split(n_batches)
        own = [rows[self.ranks.part(len(rows))] for rows in batches]
        for rows, x in zip(batches, self.train.inputs.stream(own), strict=True):
            self.optimizer.zero_grad(set_to_none=True)
            self.backward(rows, x)
            self.scaler.step(self.optimizer)
            self.scaler.update()

    def backward(self, rows: Tensor, x: Batch) -> None:
        """Add the gradients of the mean squared error of a batch, of which ``x`` is this rank's."""
        own = rows[self.ranks.part(len(rows))]
        y = self.train.y
        predicted = self.predict_part(rows, x)
        errors = predicted - y.index_select(0, own.to(y.device))
        loss = errors.square().sum() / (len(rows) * y.shape[1])
        self.scaler.scale(loss).backward()
        self.ranks.sum_gradients(self.network.parameters())

    def predict_part(self, rows: Tensor, x: Batch) -> Tensor:
        """Predict this rank's part ``x`` of a batch, each sample without its own label."""
        part = self.ranks.part(len(rows))
        z, bank, y = self.network(x), self.network.bank, self.train.y
        rows = rows.to(y.device)
        if self.recipe.from_bank:
            return self.network.head(z, bank.embeddings, bank.labels, exclude=rows[part])
        neighbors = self.ranks.gather(z, len(rows))
        own = torch.arange(part.start, part.stop, device=z.device)
        return self.network.head(z, neighbors, y.index_select(0, rows), exclude=own)

    @torch.no_grad()
    def validation_loss(self) -> float:
        """Mean squared error of the validation samples, from the training samples."""
        network, truth = self.network, self.validation.y
        bank = self._fill_bank(network, self.train)
        z = network.embed(self.validation.inputs, self.ranks)
        part = self.ranks.part(len(z))
        errors = network.head.predict(z[part], bank.embeddings, bank.labels) - truth[part]
        loss = self.ranks.gather(errors, len(z)).square().mean()
        # the same number everywhere, or one rank would stop and the others wait for it
        return float(self.ranks.shared(loss, truth.device))

    def finished(self, samples: Samples) -> Network:
        """Copy the best network so far, with these samples for neighbors."""
        network = deepcopy(self.network)
        network.load_state_dict(self.best[1])
        self._fill_bank(network, samples)
        return network.eval()

    def _fill_bank(self, network: Network, samples: Samples) -> NeighborBank:
        return network.bank.fill(network.embed(samples.inputs, self.ranks), samples.y)


def _parameter_groups(network: Network, recipe: Recipe) -> list[dict[str, object]]:
    """Parameters and the rate they are learned at: extractor, body, and temperature and gate."""
    body, head = list(network.body.parameters()), list(network.head.parameters())
    if isinstance(network.head, LinearHead):
        body, head = body + head, []
    extractor = [] if network.extractor is None else list(network.extractor.parameters())
    own_rate = recipe.extractor_learning_rate
    rate = recipe.learning_rate if own_rate is None else own_rate
    return [
        {"params": parameters, "lr": rate}
        for parameters, rate in (
            (extractor, rate),
            (body, recipe.learning_rate),
            (head, recipe.gate_learning_rate),
        )
        if parameters
    ]
