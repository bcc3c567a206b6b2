"""What the estimators share: a network trained on labelled samples, and asked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from softrsa._processes import ALONE, Ranks
from softrsa._threads import one_thread_if
from softrsa.errors import DataError
from softrsa.prediction.heads import LinearHead
from softrsa.prediction.network import Network, embed_inputs
from softrsa.prediction.options import LabelScale, Options
from softrsa.prediction.samples import ArrayInputs, Inputs, Samples
from softrsa.prediction.training import Recipe, Training

SMALL = 1_000_000  # entries of the tensors of a step up to which one thread is faster


class Learner:
    """A network that is trained on labelled samples and predicts in the unit of their labels.

    An extractor whose rate is 0 is not trained: its features are computed once.
    """

    network: Network
    scale: LabelScale
    training: Training

    def __init__(
        self,
        options: Options,
        device: torch.device,
        extractor: nn.Module | None = None,
        *,
        extractor_learning_rate: float | None = None,
        ranks: Ranks = ALONE,
    ):
        self.options, self.device, self.ranks = options, device, ranks
        self.extractor, self.extractor_learning_rate = extractor, extractor_learning_rate
        self.frozen = extractor is not None and extractor_learning_rate == 0
        self.params: dict[str, Any] = {}  # all the estimator was told, without the device
        self.losses: list[float] = []
        self.rng_state: Tensor | None = None

    def fit(
        self,
        samples: tuple[Inputs, np.ndarray],
        *,
        seed: int,
        validation: tuple[Inputs, np.ndarray] | None = None,
        groups: Tensor | None = None,
        progress: bool = False,
    ) -> Self:
        """Start anew with inputs and labels; without samples to validate with, hold some out.

        Of groups (n,), numbered from 0, whole ones are held out.
        """
        least = 4 if validation is None else 2
        if len(samples[1]) < least:
            raise DataError(f"There must be at least {least} samples, got {len(samples[1])}.")
        if validation is not None and not len(validation[1]):
            raise DataError(
                "`validation` must have at least one sample, got none; leave it out to hold some "
                "of the samples out."
            )
        self.scale = LabelScale.of(samples[1])
        with own_randomness(self.device):
            if self.extractor is not None:
                self.ranks.share_state(self.extractor.to(self.device))
            scaled = self._scaled(*samples)
            held_out = None if validation is None else self._scaled(*validation)
            self._start(scaled, held_out, seed, groups)
            return self._run(scaled, progress)

    def go_on(self, samples: tuple[Inputs, np.ndarray], *, progress: bool = False) -> Self:
        """Train more on the same samples, on the device where they lie now."""
        training = self.training
        before = len(training.train.y) + len(training.validation.y)
        if len(samples[1]) != before:
            raise DataError(
                f"With `warm_start=True` the samples must be those of the last `fit`, got "
                f"{len(samples[1])} instead of {before}; set `warm_start=False` to start anew."
            )
        training.recipe = training.recipe._replace(patience=self.options.patience)
        with own_randomness(self.device):
            scaled = self._scaled(*samples)
            if self.rng_state is not None:
                torch.set_rng_state(self.rng_state)
            return self._run(scaled, progress)

    def move_training(self, device: torch.device) -> None:
        """Bring what is trained, its samples and the optimizer's state to a device."""
        training = self.training
        found = training.train.y.device
        if found.type != device.type and self.extractor is not None:
            raise DataError(
                f"An extractor goes on training on the type of device it began on, `{found.type}`, "
                f"got `{device.type}`; its precision depends on it. Set `device` back, or "
                "`warm_start=False` to start anew."
            )
        self.move(device)
        if found == device:
            return
        training.network.to(device)
        training.train, training.validation = (
            Samples(samples.inputs.to(device), samples.y.to(device))
            for samples in (training.train, training.validation)
        )
        if training.optimizer is not None:
            state = training.optimizer.state_dict()  # loading it brings it to the parameters
            training.optimizer.load_state_dict(state)

    def move(self, device: torch.device) -> Self:
        """Go to a device, to predict there."""
        self.network.to(device)
        self.device = device
        return self

    def predict(self, inputs: Inputs) -> np.ndarray:
        """Predict labels in the unit of those given."""
        with own_randomness(self.device):
            return self.scale.restored(self.network.predict(inputs))

    def embed(self, inputs: Inputs) -> np.ndarray:
        """Embed samples as the neighbors are."""
        with own_randomness(self.device):
            return self.network.embed(inputs).cpu().numpy()

    def neighbors(self, inputs: Inputs, n_neighbors: int) -> tuple[np.ndarray, np.ndarray]:
        """Find the samples that made a prediction, and their weights, by falling weight."""
        network = self.network
        if isinstance(network.head, LinearHead):
            raise DataError(f"`head={self.options.head!r}` predicts without neighbors.")
        if not 1 <= n_neighbors <= len(network.bank):
            raise DataError(
                f"`n_neighbors` must be from 1 to {len(network.bank)}, got {n_neighbors!r}."
            )
        with own_randomness(self.device):
            indices, weights = network.neighbors(inputs, n_neighbors)
        return indices.cpu().numpy(), weights.cpu().numpy()

    def state(self) -> dict[str, Any]:
        """Give all that `restore` needs, of plain types and tensors."""
        scale = self.scale
        return {
            "sizes": (self.n_features, len(scale.low), scale.columns),
            "labels": {"low": torch.as_tensor(scale.low), "extent": torch.as_tensor(scale.extent)},
            "losses": self.losses,
            "state": self.network.state_dict(),
        }

    def restore(self, content: dict[str, Any]) -> Self:
        """Become the learner that gave this state."""
        n_features, n_targets, columns = content["sizes"]
        labels = content["labels"]
        self.scale = LabelScale(labels["low"].numpy(), labels["extent"].numpy(), columns)
        with own_randomness(torch.device("cpu")):
            network = self.options.make_network(n_features, n_targets)
        self._attach(network)
        network.load_state_dict(content["state"])
        self.network, self.n_features = network.to(self.device).eval(), n_features
        self.losses = list(content["losses"])
        return self

    def _scaled(self, inputs: Inputs, labels: np.ndarray) -> Samples:
        y = self.scale.scaled(labels, self.device)
        if self.extractor is not None and self.frozen:
            size = self.options.batch_size
            features = embed_inputs(self.extractor, inputs, size, self.ranks)
            inputs = ArrayInputs(features, self.device)
        return Samples(inputs, y)

    def _start(
        self, samples: Samples, validation: Samples | None, seed: int, groups: Tensor | None
    ) -> None:
        """Make a new network, hold samples out, and begin a training."""
        seed = int(self.ranks.shared(torch.tensor(seed), self.device))
        torch.manual_seed(seed)
        train = samples
        if validation is None:
            n = len(samples.y)
            # two are left to train on at least, one is held out
            n_held_out = min(max(1, ceil(self.options.validation_fraction * n)), n - 2)
            order = torch.randperm(n)
            if groups is not None:
                is_held_out = _hold_out_groups(groups, n_held_out)[order]
                order = torch.cat([order[is_held_out], order[~is_held_out]])
                n_held_out = int(is_held_out.sum())
            train, validation = samples.pick(order[n_held_out:]), samples.pick(order[:n_held_out])
        self._check_shares(len(train.y))
        self.n_features = self._count_features(samples.inputs)
        network = self.options.make_network(self.n_features, samples.y.shape[1]).to(self.device)
        if self.options.head == "linear-centered" and isinstance(network.head, LinearHead):
            network.head.center(train.y)
        if not self.frozen:
            self._attach(network)
        if self.ranks.rank:
            torch.manual_seed(seed + self.ranks.rank)  # or all ranks would drop the same units
        options = self.options
        recipe = Recipe(
            options.batch_size,
            options.patience,
            options.learning_rate,
            options.gate_learning_rate,
            options.train_neighbors == "bank",
            self.extractor_learning_rate,
            getattr(network.extractor, "precision", None) == torch.float16,
        )
        self.training = Training(network, train, validation, recipe, self.ranks)

    def _check_shares(self, n: int) -> None:
        if min(n, self.options.batch_size) < self.ranks.size:
            raise DataError(
                f"`batch_size={self.options.batch_size}` and the {n} training samples must be at "
                f"least as many as the {self.ranks.size} processes; start fewer."
            )

    def _count_features(self, inputs: Inputs) -> int:
        """Find the width of what the body gets."""
        first = torch.zeros(1).long()
        if self.extractor is None or self.frozen:
            batch = next(iter(inputs.stream([first])))
            return batch.shape[1] if isinstance(batch, Tensor) else 0
        return embed_inputs(self.extractor, inputs.pick(first), 1).shape[1]

    def _attach(self, network: Network) -> Network:
        """Put the extractor before the body; what fits into memory in training does in use."""
        if self.extractor is not None:
            network.extractor, network.n_at_once = self.extractor, self.options.batch_size
        return network

    def _run(self, samples: Samples, progress: bool) -> Self:
        epochs = self.options.max_epochs
        small = self.options.batch_size * max(self.n_features, self.options.batch_size) <= SMALL
        alone = self.extractor is None or self.frozen
        with (
            progress_bar(epochs, progress and not self.ranks.rank) as on_epoch,
            one_thread_if(small and alone, self.device),
        ):
            self.training.run(epochs, on_epoch)
        self.rng_state = torch.get_rng_state()
        self.network = self.training.finished(samples)
        if self.frozen:
            self._attach(self.network)
        self.network.eval()
        self.losses = list(self.training.losses)
        return self


def _hold_out_groups(groups: Tensor, n_wanted: int) -> Tensor:
    """Choose groups at random, of about so many samples, and mark their samples (n,).

    In random order each group is taken that brings the number nearer to the one wanted; where all
    are too large the smallest is, which leaves two samples at least of four in two groups.
    """
    sizes = groups.bincount()
    chosen = torch.zeros(len(sizes), dtype=torch.bool)
    n_held_out = 0
    for group in torch.randperm(len(sizes)).tolist():
        size = int(sizes[group])
        nearer = abs(n_held_out + size - n_wanted) < abs(n_held_out - n_wanted)
        if nearer and n_held_out + size <= len(groups) - 2:
            chosen[group] = True
            n_held_out += size
    if not n_held_out:
        chosen[sizes.argmin()] = True
    return chosen[groups]


@contextmanager
def own_randomness(device: torch.device) -> Iterator[None]:
    """Leave the generators of torch as they are found."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


@contextmanager
def progress_bar(total: int, shown: bool) -> Iterator[Any]:
    """Show a tqdm bar over epochs with the validation loss; yields what advances it."""
    from tqdm import tqdm

    with tqdm(total=total, disable=not shown, desc="training", unit="epoch", delay=1) as bar:

        def advance(loss: float) -> None:
            bar.set_postfix(validation=f"{loss:.3g}", refresh=False)
            bar.update()

        yield advance
