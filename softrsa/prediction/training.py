"""Training a network of body and head, so that it can go on where it stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from math import ceil
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from softrsa._processes import ALONE, Ranks, current_ranks, sum_over_ranks
from softrsa._threads import one_thread_if
from softrsa.errors import DataError, FitError, NotFittedError
from softrsa.prediction.heads import LinearHead
from softrsa.prediction.network import NeighborBank, Network, embed_inputs
from softrsa.prediction.options import LabelScale, Options
from softrsa.prediction.samples import ArrayInputs, Batch, Inputs, Samples

PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class SyncedBatchNorm(_BatchNorm):
    """Batch norm with the statistics of all ranks' samples, on any device; equal parts or not."""

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002  the name torch gives it
        if input.ndim < 2:
            raise ValueError(f"Batch norm needs (n, channels, ...), got {tuple(input.shape)}.")

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Normalize; in evaluation and in one process as torch does."""
        ranks = current_ranks()
        if not self.training or ranks.size == 1:
            return super().forward(input)
        self._check_input_dim(input)
        x = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
        axes = [0, *range(2, x.ndim)]
        shape = [1, -1, *[1] * (x.ndim - 2)]
        count = x.new_full((1,), x.numel() / x.shape[1])
        sums = sum_over_ranks(torch.cat([x.sum(axes), count]))
        n = sums[-1].detach()
        mean = sums[:-1] / n
        x = x - mean.view(shape)
        variance = sum_over_ranks(x.square().sum(axes)) / n
        self._follow(mean, variance, n)
        scale = (variance + self.eps).rsqrt()
        if self.affine:
            scale = scale * self.weight
        x = x * scale.view(shape)
        return (x + self.bias.view(shape) if self.affine else x).to(input.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor, n: Tensor) -> None:
        """Move the running statistics as one process with all samples would."""
        if self.running_mean is None or self.running_var is None:
            return
        share = self.momentum
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if share is None:  # the mean over all batches so far
                share = 1 / float(self.num_batches_tracked)
        share = 0.0 if share is None else share
        self.running_mean.lerp_(mean.to(self.running_mean), share)
        unbiased = variance * (n / (n - 1))
        self.running_var.lerp_(unbiased.to(self.running_var), share)


@contextmanager
def synced_batch_norm(module: nn.Module, ranks: Ranks) -> Iterator[None]:
    """Let the batch norms of a module see all ranks' samples, within the block."""
    if ranks.size == 1:
        yield
        return
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm)]
    for norm in norms:
        if type(norm) not in PLAIN and not isinstance(norm, nn.SyncBatchNorm):
            raise DataError(
                f"{type(norm).__name__} is a batch norm of its own kind, which cannot see the "
                "samples of all ranks; use torch.nn.BatchNorm1d, 2d or 3d, or train in one process."
            )
    kinds = [type(norm) for norm in norms]
    try:
        for norm in norms:
            if type(norm) in PLAIN:
                norm.__class__ = SyncedBatchNorm  # the same parameters, buffers and names
        yield
    finally:
        for norm, kind in zip(norms, kinds, strict=True):
            norm.__class__ = kind


class Training:
    """A network in training: what it has seen, how it did, and where its randomness stands.

    With several ranks each has all samples, and does its part of each batch.
    """

    def __init__(
        self,
        network: Network,
        train: Samples,
        validation: Samples,
        options: Options,
        *,
        ranks: Ranks = ALONE,
        extractor_learning_rate: float | None = None,  # None: as the body
        scale_loss: bool = False,  # so that gradients do not vanish in float16
    ):
        self.network, self.train, self.validation = network, train, validation
        self.options, self.ranks = options, ranks
        groups = _parameter_groups(network, options, extractor_learning_rate)
        # a body of no layers under a head without parameters has nothing to learn
        self.optimizer = torch.optim.Adam(groups) if groups else None
        self.scaler = torch.amp.GradScaler(train.y.device.type, enabled=scale_loss)
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
            if len(self.losses) - self.best_epoch >= self.options.patience:
                break

    def _run_epoch(self) -> None:
        if self.optimizer is None:
            return
        if self.options.from_bank:
            self._fill_bank(self.network, self.train)
        self.network.train()
        n, device = len(self.train.y), self.train.y.device
        # nearly equal parts: a last batch of a few would have few neighbors
        n_batches = max(1, n // self.options.batch_size)
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
        if self.options.from_bank:
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


def _parameter_groups(
    network: Network, options: Options, own_rate: float | None
) -> list[dict[str, object]]:
    """Parameters and the rate they are learned at: extractor, body, and temperature and gate."""
    body, head = list(network.body.parameters()), list(network.head.parameters())
    if isinstance(network.head, LinearHead):
        body, head = body + head, []
    extractor = [] if network.extractor is None else list(network.extractor.parameters())
    rate = options.learning_rate if own_rate is None else own_rate
    return [
        {"params": parameters, "lr": rate}
        for parameters, rate in (
            (extractor, rate),
            (body, options.learning_rate),
            (head, options.gate_learning_rate),
        )
        if parameters
    ]


SMALL = 1_000_000  # entries of the tensors of a step up to which one thread is faster


class Learner:
    """A network trained on samples; an extractor of rate 0 computes features once."""

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
        """Start anew; without samples to validate with, hold some out, or whole groups (n,)."""
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
        training.options = self.options
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
        self.training = Training(
            network, train, validation, self.options, ranks=self.ranks,
            extractor_learning_rate=self.extractor_learning_rate,
            scale_loss=getattr(network.extractor, "precision", None) == torch.float16,
        )  # fmt: skip

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


class FittedNetwork:
    """What an estimator that has a learner shows of it."""

    learner_: Learner
    _error: ClassVar[type[Exception]] = NotFittedError

    @property
    def network_(self) -> Network:
        """Extractor, body, head and neighbors."""
        return self._fitted().network

    @property
    def validation_losses_(self) -> list[float]:
        """Error after each epoch."""
        return list(self._known().losses)

    @property
    def n_iter_(self) -> int:
        """Number of epochs."""
        return len(self.validation_losses_)

    def _fitted(self) -> Learner:
        return self._known()

    def _known(self) -> Learner:
        """Give the learner wherever it is."""
        if not hasattr(self, "learner_"):
            raise self._error(f"This {type(self).__name__} is not fitted yet; call `fit` first.")
        return self.learner_


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
