"""A scikit-learn regressor: a small network whose head predicts from labelled neighbors."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import ceil
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

from softrsa._checks import resolve_device
from softrsa.errors import (
    DataError,
    FileFormatError,
    FileMissingError,
    NotFittedError,
    unknown_name,
)
from softrsa.io import atomic_path
from softrsa.prediction.heads import LinearHead
from softrsa.prediction.network import HEADS, NEIGHBOR_HEADS, Network, make_body
from softrsa.prediction.training import Recipe, Samples, Training
from softrsa.transforms import Family

try:
    from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin
    from sklearn.exceptions import NotFittedError as SklearnNotFittedError
    from sklearn.utils import check_random_state
    from sklearn.utils.validation import validate_data
except ImportError as error:
    raise FileMissingError(
        "NeighborRegressor needs scikit-learn 1.6 or later: install softrsa[prediction]."
    ) from error

_validated: Any = validate_data  # whose stubs know strings only
FORMAT = "softrsa.NeighborRegressor/1"
SCALES = ("input_mean_", "input_scale_", "label_low_", "label_range_")


class _NotFittedError(NotFittedError, SklearnNotFittedError):
    """The error of both libraries."""


class NeighborRegressor(MultiOutputMixin, RegressorMixin, BaseEstimator):
    """Regression by learned neighbors: an embedding, and a weighted mean of neighbors' labels.

    Inputs are standardized, labels scaled to [0, 1]; an MLP embeds the samples; the head predicts
    each from the others. Training stops when the error of held-out samples no longer falls. After
    it, all samples given, the held-out ones too, are neighbors of new ones.

    Parameters
    ----------
    head : str
        "linear" (the baseline), "nca", "softstep-nca-global", "softstep-nca-instance",
        "diffknn-global" or "diffknn-instance".
    family : {"s1", "s2"}
        Of the SoftStep, see `SoftStepNCAHead`.
    similarity : {"l2", "l1", "cosine", "dot", "rbf"}
        Of embeddings, see `NCAHead`.
    temperature : float, optional
        Where the learned temperature starts. None: 1 and not learned, as in the papers.
    layers : tuple of int
        Widths of the body's layers, the last being the embedding's; () compares the standardized
        inputs themselves.
    dropout : float
        Share of units dropped after each layer, in [0, 1).
    train_neighbors : {"batch", "bank"}
        Neighbors in training: the batch, with gradient, or all training samples, embedded once per
        epoch.
    batch_size : int
        Number of samples per step, at least 2.
    max_epochs : int
        Passes over the training samples, at most.
    patience : int
        Epochs without a lower validation error after which training stops.
    learning_rate, gate_learning_rate : float
        Of Adam, for the body, and for the temperature and gate of a neighbor head.
    validation_fraction : float
        Share of the samples held out to stop by, in (0, 1).
    warm_start : bool
        Whether `fit` goes on with up to ``max_epochs`` more epochs where the last one stopped. The
        samples must be the same.
    random_state : int, RandomState or None
        Seed of weights, batches and held-out samples.
    device : str
        "auto", "cpu", "cuda" or "cuda:<index>".

    Attributes
    ----------
    network_ : Module
        Body, head and neighbors, on ``device``.
    validation_losses_ : list of float
        Mean squared error of scaled labels after each epoch; the network is the best epoch's.
    n_iter_ : int
        Number of epochs.

    Notes
    -----
    The papers' setting is ``temperature=None, layers=(200, 25)`` with ``batch_size=32`` and small
    learning rates. Inputs that are not numbers or not finite are refused.

    References
    ----------
    Susman, Suárez-Fariñas & Colonel, "Nearness of neighbors attention", arXiv:2506.08139.

    Examples
    --------
    >>> x = np.linspace(0, 6, 120)[:, None]
    >>> regressor = NeighborRegressor("softstep-nca-global", random_state=0).fit(x, np.sin(x[:, 0]))
    >>> regressor.score(x, np.sin(x[:, 0])) > 0.95
    True
    """

    n_features_in_: int

    def __init__(
        self,
        head: str = "diffknn-instance",
        *,
        family: Family = "s1",
        similarity: str = "l2",
        temperature: float | None = 0.1,
        layers: Sequence[int] = (200, 25),
        dropout: float = 0.0,
        train_neighbors: Literal["batch", "bank"] = "batch",
        batch_size: int = 256,
        max_epochs: int = 200,
        patience: int = 20,
        learning_rate: float = 1e-3,
        gate_learning_rate: float = 1e-2,
        validation_fraction: float = 0.15,
        warm_start: bool = False,
        random_state: int | np.random.RandomState | None = None,
        device: str = "auto",
    ):
        self.head = head
        self.family: Family = family
        self.similarity = similarity
        self.temperature = temperature
        self.layers = layers
        self.dropout = dropout
        self.train_neighbors = train_neighbors
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.patience = patience
        self.learning_rate = learning_rate
        self.gate_learning_rate = gate_learning_rate
        self.validation_fraction = validation_fraction
        self.warm_start = warm_start
        self.random_state = random_state
        self.device = device

    def fit(self, X: np.ndarray, y: np.ndarray, *, progress: bool = False) -> Self:
        """Fit to labelled samples.

        Parameters
        ----------
        X : array, shape (n_samples, n_features)
            Samples, at least 4.
        y : array, shape (n_samples,) or (n_samples, n_targets)
            Labels, in any unit.
        progress : bool
            Show a progress bar.

        Returns
        -------
        NeighborRegressor
            Itself.

        Raises
        ------
        ValueError
            From scikit-learn, if ``X`` or ``y`` is not usable.
        UnknownNameError, DataError
            If an option is not known or out of range, or there are fewer than 4 samples.
        FitError
            If training diverges.
        """
        self._check_options()
        X, y = _validated(
            self, X, y, dtype=np.float64, y_numeric=True, multi_output=True, ensure_min_samples=4
        )
        y = np.asarray(y, dtype=np.float64)
        resumed = self.warm_start and getattr(self, "training_", None) is not None
        samples = self._scaled_samples(X, y, resumed)
        with _own_randomness(resolve_device(self.device)):
            if resumed:
                torch.set_rng_state(self.rng_state_)
            else:
                self._start(samples)
            with _progress_bar(self.max_epochs, progress) as on_epoch:
                self.training_.run(self.max_epochs, on_epoch)
            self.rng_state_ = torch.get_rng_state()
        self.network_ = self.training_.finished(samples)
        self.validation_losses_ = list(self.training_.losses)
        self.n_iter_ = len(self.validation_losses_)
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Predict labels (m,) or (m, n_targets), in the unit of those given, of samples (m, d)."""
        scaled = self._fitted().predict(self._inputs(X)).cpu().numpy().astype(np.float64)
        labels = scaled * self.label_range_ + self.label_low_
        return labels if self.is_multi_output_ else labels[:, 0]

    def embed(self, X: np.ndarray) -> np.ndarray:
        """Embed samples (m, d) as the neighbors are: (m, layers[-1])."""
        return self._fitted().embed(self._inputs(X)).cpu().numpy()

    def neighbors(
        self,
        X: np.ndarray,
        n_neighbors: int = 5,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find which training samples made a prediction.

        Parameters
        ----------
        X : array, shape (m, n_features)
            Samples to predict.
        n_neighbors : int
            How many to give for each, at most all.

        Returns
        -------
        indices : array of int, shape (m, n_neighbors)
            Rows of the ``X`` given to `fit`, by falling weight.
        weights : array, shape (m, n_neighbors)
            Their weights; all weights of a prediction sum to 1.

        Raises
        ------
        NotFittedError
            Before `fit`.
        DataError
            If the head is linear, or there are not so many neighbors.
        """
        network = self._fitted()
        if isinstance(network.head, LinearHead):
            raise DataError("`head='linear'` predicts without neighbors.")
        if not 1 <= n_neighbors <= len(network.bank):
            raise DataError(
                f"`n_neighbors` must be from 1 to {len(network.bank)}, got {n_neighbors!r}."
            )
        indices, weights = network.neighbors(self._inputs(X), n_neighbors)
        return indices.cpu().numpy(), weights.cpu().numpy()

    def save(self, path: str | Path) -> None:
        """Write the fitted regressor to one file, readable with `load` and safe to receive."""
        network = self._fitted()
        params = self.get_params()
        params["layers"] = list(self.layers)
        if not isinstance(self.random_state, (int, type(None))):
            params["random_state"] = None
        content = {
            "format": FORMAT,
            "params": params,
            "sizes": (self.n_features_in_, len(self.label_low_), self.is_multi_output_),
            "scales": {name: torch.as_tensor(getattr(self, name)) for name in SCALES},
            "losses": self.validation_losses_,
            "state": network.state_dict(),
        }
        with atomic_path(path) as temporary:
            torch.save(content, temporary)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a regressor written by `save`; nothing in the file is executed."""
        path = Path(path)
        if not path.is_file():
            raise FileMissingError(f"There is no file {path.resolve()}.")
        try:
            with warnings.catch_warnings():  # of a foreign file's protocol, which is refused below
                warnings.simplefilter("ignore", UserWarning)
                content = torch.load(path, weights_only=True, map_location="cpu")
        except (UnpicklingError, RuntimeError, ValueError, EOFError, LookupError, OSError) as error:
            raise FileFormatError(f"{path} was not written by `NeighborRegressor.save`.") from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise FileFormatError(f"{path} was not written by `NeighborRegressor.save`.")
        try:
            return cls._rebuilt(content)
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise FileFormatError(f"{path} is damaged: {error!r}.") from error

    @classmethod
    def _rebuilt(cls, content: dict[str, Any]) -> Self:
        params = content["params"]
        regressor = cls(**{**params, "layers": tuple(params["layers"])})
        n_features, n_targets, regressor.is_multi_output_ = content["sizes"]
        regressor.n_features_in_ = n_features
        for name in SCALES:
            setattr(regressor, name, content["scales"][name].numpy())
        with _own_randomness(torch.device("cpu")):
            network = regressor._make_network(n_features, n_targets)
        network.load_state_dict(content["state"])
        regressor.network_ = network.eval()
        regressor.validation_losses_ = content["losses"]
        regressor.n_iter_ = len(content["losses"])
        return regressor

    def _check_options(self) -> None:
        for name, choices in (("head", HEADS), ("train_neighbors", ("batch", "bank"))):
            if getattr(self, name) not in choices:
                raise unknown_name(name, getattr(self, name), choices)
        for name, least in (("batch_size", 2), ("max_epochs", 1), ("patience", 1)):
            if getattr(self, name) < least:
                raise DataError(f"`{name}` must be at least {least}, got {getattr(self, name)!r}.")
        for name in ("learning_rate", "gate_learning_rate"):
            if not getattr(self, name) > 0:
                raise DataError(f"`{name}` must be positive, got {getattr(self, name)!r}.")
        if not 0 < self.validation_fraction < 1:
            raise DataError(
                f"`validation_fraction` must be between 0 and 1, got {self.validation_fraction!r}."
            )
        if not 0 <= self.dropout < 1:
            raise DataError(f"`dropout` must be in [0, 1), got {self.dropout!r}.")

    def _scaled_samples(self, x: np.ndarray, y: np.ndarray, resumed: bool) -> Samples:
        """Standardize and scale; the scales are those of all samples, kept when resumed."""
        if not resumed:
            self.is_multi_output_ = y.ndim == 2
            columns = y if y.ndim == 2 else y[:, None]
            self.input_mean_, spread = x.mean(0), x.std(0)
            # a constant feature stays what it is; its deviation may be rounding instead of zero
            rounding = 4 * np.finfo(np.float64).eps * np.abs(x).max(0)
            self.input_scale_ = np.where(spread > rounding, spread, 1.0)
            self.label_low_ = columns.min(0)
            extent = columns.max(0) - self.label_low_
            self.label_range_ = np.where(extent > 0, extent, 1.0)
        columns = y if y.ndim == 2 else y[:, None]
        labels = (columns - self.label_low_) / self.label_range_
        device = resolve_device(self.device)
        return Samples(
            self._standardized(x), torch.as_tensor(labels, dtype=torch.float32, device=device)
        )

    def _standardized(self, x: np.ndarray) -> Tensor:
        z = (x - self.input_mean_) / self.input_scale_
        return torch.as_tensor(z, dtype=torch.float32, device=resolve_device(self.device))

    def _start(self, samples: Samples) -> None:
        """Make a new network, hold samples out, and begin a training."""
        seed = check_random_state(self.random_state).randint(2**31 - 1)
        torch.manual_seed(seed)
        n = len(samples.x)
        # two are left to train on at least, one is held out
        n_held_out = min(max(1, ceil(self.validation_fraction * n)), n - 2)
        order = torch.randperm(n).to(samples.x.device)
        parts = [samples.pick(order[n_held_out:]), samples.pick(order[:n_held_out])]
        network = self._make_network(samples.x.shape[1], samples.y.shape[1]).to(samples.x.device)
        recipe = Recipe(
            self.batch_size,
            self.patience,
            self.learning_rate,
            self.gate_learning_rate,
            self.train_neighbors == "bank",
        )
        self.training_ = Training(network, parts[0], parts[1], recipe)

    def _make_network(self, n_features: int, n_targets: int) -> Network:
        body = make_body(n_features, self.layers, self.dropout)
        width = self.layers[-1] if self.layers else n_features
        if self.head == "linear":
            return Network(body, LinearHead(width, n_targets))
        make = NEIGHBOR_HEADS[self.head]
        return Network(body, make(width, self.family, self.similarity, self.temperature))

    def _inputs(self, x: np.ndarray) -> Tensor:
        return self._standardized(_validated(self, x, dtype=np.float64, reset=False))

    def _fitted(self) -> Network:
        if not hasattr(self, "network_"):
            raise _NotFittedError(
                "This NeighborRegressor is not fitted yet; call `fit(X, y)` first."
            )
        return self.network_.to(resolve_device(self.device))


@contextmanager
def _own_randomness(device: torch.device) -> Iterator[None]:
    """Leave the generators of torch as they are found."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


@contextmanager
def _progress_bar(total: int, shown: bool) -> Iterator[Any]:
    """Show a tqdm bar over epochs with the validation loss; yields what advances it."""
    from tqdm.auto import tqdm

    with tqdm(total=total, disable=not shown, desc="training", unit="epoch", delay=1) as bar:

        def advance(loss: float) -> None:
            bar.set_postfix(validation=f"{loss:.3g}", refresh=False)
            bar.update()

        yield advance
