"""Fine-tune a torch network so that labels are predicted from neighbors in its features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field, fields
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import nn

from softrsa._files import read_tensors, write_tensors
from softrsa._processes import ALONE, Ranks, current_ranks, join_ranks, rank_device
from softrsa.errors import DataError
from softrsa.prediction.attaching import Pool, Precision, attach, resolve_precision
from softrsa.prediction.options import Options, TrainNeighbors, as_plain
from softrsa.prediction.samples import Inputs, as_inputs, as_samples
from softrsa.prediction.training import FittedNetwork, Learner, own_randomness
from softrsa.transforms import Family

FORMAT = "softrsa.FineTuner/1"


@dataclass(eq=False)
class FineTuner(FittedNetwork):
    """A torch network trained with an MLP and a head that predicts labels from neighbors.

    A copy of the extractor loses its classifier (see `attach`); an MLP with batch norm and tanh
    embeds its features; the head predicts each sample of a batch from the others. Labels are scaled
    to [0, 1] within. Training stops when the error of held-out samples no longer falls; then all
    samples given are neighbors of new ones.

    Parameters
    ----------
    extractor : Module
        A CNN, a transformer, an MLP, with or without a classifier; it is not changed.
    head, family, similarity, temperature, layers, dropout
        As for `NeighborRegressor`: "diffknn-instance", "s1", "l2", 0.1, (200, 25) and 0.
    train_neighbors : {"batch", "bank"}
        Neighbors in training: the batch, with gradient, or all training samples, embedded once per
        epoch.
    batch_size : int
        Number of samples per step, at least 2; over all processes.
    max_epochs, patience : int
        Passes at most, and those without a lower validation error after which training stops.
    learning_rate, gate_learning_rate : float
        Of Adam, for extractor and body, and for the temperature and gate of the head.
    extractor_learning_rate : float, optional
        For the extractor alone. 0 freezes it: its features are computed once, in evaluation, so a
        dataset that varies its inputs at random is drawn from once.
    layer, classifier, pool
        As for `attach`.
    validation_fraction : float
        Share of the samples held out to stop by, in (0, 1).
    precision : {"auto", "float32", "bfloat16", "float16"}
        Of the extractor's computations. "auto": on CUDA bfloat16, or float16 with scaled losses
        where the GPU has no bfloat16; float32 elsewhere. Body, head and loss are float32.
    random_state : int, optional
        Seed of weights, batches and held-out samples.
    device : str
        "auto", "cpu", "cuda" or "cuda:<index>".
    n_workers : int
        Processes that read a dataset.

    Attributes
    ----------
    network_ : Module
        Extractor, body, head and neighbors.
    validation_losses_ : list of float
        Mean squared error of scaled labels after each epoch; the network is the best epoch's.
    n_iter_ : int
        Number of epochs.

    Notes
    -----
    Under ``torchrun``, or in a process group begun before, `fit` splits each batch over the
    processes, which must all be given the same samples and options; the gradients are those of one
    process with the whole batch, batch norm included. If one process fails the others wait for the
    timeout of the process group. Only the first shows progress and writes files. Each `predict`
    runs in its own process alone.

    After each epoch the training samples are embedded anew, to be the neighbors of the held-out
    ones: an epoch reads every sample twice.

    References
    ----------
    Susman, Suárez-Fariñas & Colonel, "Nearness of neighbors attention", arXiv:2506.08139.

    Examples
    --------
    >>> images = torch.rand(40, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    >>> brightness = images.mean((1, 2, 3)).numpy() * 100
    >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    >>> tuner = FineTuner(network, "nca", max_epochs=3, random_state=0)
    >>> tuner.fit((images, brightness)).predict(images[:2]).shape
    (2,)
    """

    extractor: nn.Module = field(repr=False)
    head: str = "diffknn-instance"
    _: KW_ONLY
    family: Family = "s1"
    similarity: str = "l2"
    temperature: float | None = 0.1
    layers: Sequence[int] = (200, 25)
    dropout: float = 0.0
    train_neighbors: TrainNeighbors = "batch"
    batch_size: int = 32
    max_epochs: int = 100
    patience: int = 10
    learning_rate: float = 1e-4
    gate_learning_rate: float = 1e-2
    extractor_learning_rate: float | None = None
    layer: str | None = None
    classifier: str | None = "auto"
    pool: Pool = "mean"
    validation_fraction: float = 0.15
    precision: Precision = "auto"
    random_state: int | None = None
    device: str = "auto"
    n_workers: int = 0
    learner_: Learner = field(init=False, repr=False)

    def fit(self, dataset: object, *, validation: object = None, progress: bool = False) -> Self:
        """Fit to labelled samples.

        Parameters
        ----------
        dataset : Dataset or pair (inputs, labels)
            A map-style torch Dataset of (input, label) pairs, at least 4, collated as torch does;
            or a pair of inputs (a tensor or array (n, ...), a mapping of them, a Dataset) and
            labels (n,) or (n, n_targets), in any unit. A Dataset is read once more, for its labels.
        validation : Dataset or pair, optional
            Samples to stop by, instead of held-out ones; they do not become neighbors.
        progress : bool
            Show a progress bar.

        Returns
        -------
        FineTuner
            Itself.

        Raises
        ------
        UnknownNameError, DataError
            If an option is not known or out of range, or samples are too few or labels not finite.
        DTypeError, ShapeError
            If samples, or what the extractor makes of them, are not of a usable type or shape.
        FitError
            If training diverges.
        """
        device = rank_device(self.device)
        learner = self._new_learner(device, join_ranks(device))
        seed = int(np.random.default_rng(self.random_state).integers(2**31 - 1))
        with own_randomness(device):
            samples = as_samples(dataset, device, n_workers=self.n_workers)
            held_out = None
            if validation is not None:
                held_out = as_samples(validation, device, n_workers=self.n_workers)
        self.learner_ = learner.fit(samples, seed=seed, validation=held_out, progress=progress)
        return self

    def predict(self, inputs: object) -> np.ndarray:
        """Predict labels (m,) or (m, n_targets), in the unit of those given.

        Parameters
        ----------
        inputs : Dataset, tensor, array or mapping
            Samples; the labels of a Dataset of pairs are not read.

        Returns
        -------
        array, shape (m,) or (m, n_targets)
            Predictions.

        Raises
        ------
        NotFittedError
            Before `fit`.
        """
        return self._fitted().predict(self._inputs(inputs))

    def embed(self, inputs: object) -> np.ndarray:
        """Embed samples, as given to `predict`, as the neighbors are: (m, layers[-1])."""
        return self._fitted().embed(self._inputs(inputs))

    def neighbors(self, inputs: object, n_neighbors: int = 5) -> tuple[np.ndarray, np.ndarray]:
        """Find which training samples made a prediction.

        Parameters
        ----------
        inputs : Dataset, tensor, array or mapping
            Samples to predict.
        n_neighbors : int
            How many to give for each, at most all.

        Returns
        -------
        indices : array of int, shape (m, n_neighbors)
            Numbers of the samples given to `fit`, by falling weight.
        weights : array, shape (m, n_neighbors)
            Their weights; all weights of a prediction sum to 1.

        Raises
        ------
        NotFittedError
            Before `fit`.
        DataError
            If the head is linear, or there are not so many neighbors.
        """
        return self._fitted().neighbors(self._inputs(inputs), n_neighbors)

    def score(self, dataset: object) -> float:
        """Coefficient of determination, the mean over targets, of samples as given to `fit`.

        NaN for a target whose labels are all equal.
        """
        learner = self._fitted()
        with own_randomness(learner.device):
            inputs, labels = as_samples(dataset, learner.device, n_workers=self.n_workers)
        spread = ((labels - labels.mean(0)) ** 2).sum(0)
        missed = ((labels - learner.predict(inputs)) ** 2).sum(0)
        return float(np.mean(1 - missed / np.where(spread > 0, spread, np.nan)))

    def save(self, path: str | Path) -> None:
        """Write the fitted network to one file, readable with `load` and safe to receive.

        Of options changed since `fit` those of the fit are written, but for device and workers.
        """
        learner = self._fitted()
        if current_ranks().rank == 0:
            # attributes set since `fit` are not those of this network
            params = {**learner.params, "device": self.device, "n_workers": self.n_workers}
            params = {name: as_plain(value) for name, value in params.items()}
            write_tensors(path, {"format": FORMAT, "params": params, **learner.state()})

    @classmethod
    def load(cls, path: str | Path, extractor: nn.Module) -> Self:
        """Read what `save` wrote; nothing in the file is executed.

        Parameters
        ----------
        path : str or Path
            The file.
        extractor : Module
            The network it was made with; its weights are those of the file.

        Returns
        -------
        FineTuner
            Fitted.

        Raises
        ------
        FileMissingError, FileFormatError
            If there is no such file, or it is not of `save`, or of another extractor.
        """
        with read_tensors(path, FORMAT) as content:
            params = content["params"]
            tuner = cls(extractor, **{**params, "layers": tuple(params["layers"])})
            tuner.learner_ = tuner._new_learner(rank_device(tuner.device)).restore(content)
            return tuner

    def _new_learner(self, device: torch.device, ranks: Ranks = ALONE) -> Learner:
        rate = self.extractor_learning_rate
        if rate is not None and not rate >= 0:
            raise DataError(f"`extractor_learning_rate` must be 0 or more, got {rate!r}.")
        if self.n_workers < 0:
            raise DataError(f"`n_workers` must be 0 or more, got {self.n_workers!r}.")
        options = Options.of(self)
        attached = attach(
            self.extractor, layer=self.layer, classifier=self.classifier, pool=self.pool
        )
        attached.float().precision = resolve_precision(self.precision, device)
        if rate == 0:
            attached.requires_grad_(False)
        learner = Learner(options, device, attached, extractor_learning_rate=rate, ranks=ranks)
        names = [f.name for f in fields(self) if f.init and f.name != "extractor"]
        learner.params = {name: getattr(self, name) for name in names} | {"layers": options.layers}
        return learner

    def _inputs(self, inputs: object) -> Inputs:
        return as_inputs(inputs, self._fitted().device, self.n_workers)
