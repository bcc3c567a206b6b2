"""A scikit-learn regressor: a small network whose head predicts from labelled neighbors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import nn

from softrsa._files import read_tensors, write_tensors
from softrsa._processes import current_ranks, join_ranks, rank_device
from softrsa._wording import counted, listed
from softrsa.errors import DataError, FileMissingError, NotFittedError
from softrsa.prediction.attaching import attach, resolve_precision
from softrsa.prediction.options import (
    Options,
    TrainNeighbors,
    as_plain,
    check_resumed,
)
from softrsa.prediction.samples import ArrayInputs, Inputs, as_inputs, as_samples, group_numbers
from softrsa.prediction.training import FittedNetwork, Learner
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
FORMAT = "softrsa.NeighborRegressor/2"


class _NotFittedError(NotFittedError, SklearnNotFittedError):
    """The error of both libraries."""


@dataclass(eq=False, repr=False)
class NeighborRegressor(FittedNetwork, MultiOutputMixin, RegressorMixin, BaseEstimator):
    """Regression by learned neighbors: an embedding, and a weighted mean of neighbors' labels.

    Inputs are standardized, or turned into features by an extractor that is trained too; labels are
    scaled to [0, 1]; an MLP embeds the samples; the head predicts each from the others. Training
    stops when the error of held-out samples no longer falls. After it, all samples given, the
    held-out ones too, are neighbors of new ones.

    Parameters
    ----------
    head : str
        "nca", "softstep-nca-global", "softstep-nca-instance", "diffknn-global" or
        "diffknn-instance"; or a baseline, "linear" as torch starts it, or "linear-centered", which
        starts at the mean label and is the stronger one, by far with few samples.
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
        samples must be the same, and so must all parameters but ``max_epochs``, ``patience`` and
        ``device``.
    random_state : int, RandomState or None
        Seed of weights, batches and held-out samples.
    device : str
        "auto", "cpu", "cuda" or "cuda:<index>".
    extractor : Module, optional
        A network whose features are embedded instead of the inputs, see `attach`; a copy of it is
        trained. `FineTuner` does the same, with its own learning rate, precision and workers.

    Attributes
    ----------
    network_ : Module
        Extractor, body, head and neighbors, on ``device``.
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

    head: str = "diffknn-instance"
    _: KW_ONLY
    family: Family = "s1"
    similarity: str = "l2"
    temperature: float | None = 0.1
    layers: Sequence[int] = (200, 25)
    dropout: float = 0.0
    train_neighbors: TrainNeighbors = "batch"
    batch_size: int = 256
    max_epochs: int = 200
    patience: int = 20
    learning_rate: float = 1e-3
    gate_learning_rate: float = 1e-2
    validation_fraction: float = 0.15
    warm_start: bool = False
    random_state: int | np.random.RandomState | None = None
    device: str = "auto"
    extractor: nn.Module | None = None
    _error: ClassVar = _NotFittedError
    n_features_in_: int = field(init=False)
    feature_names_in_: np.ndarray = field(init=False)

    def fit(self, X: Any, y: Any = None, *, groups: Any = None, progress: bool = False) -> Self:
        """Fit to labelled samples.

        Parameters
        ----------
        X : array, shape (n_samples, n_features)
            Samples, at least 4. With an extractor: an array or tensor (n_samples, ...), a mapping
            of them, or a map-style torch Dataset of (input, label) pairs.
        y : array, shape (n_samples,) or (n_samples, n_targets)
            Labels, in any unit; None with a Dataset.
        groups : array, shape (n_samples,), optional
            Number or name of each sample's group, as of a subject, at least 2 groups: whole ones
            are held out to stop by, chosen at random, of about ``validation_fraction`` of the
            samples. A resumed `fit` keeps those held out before.
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
            If an option is not known or out of range, or there are fewer than 4 samples, or fewer
            than 2 groups, or a resumed `fit` has other parameters or another number of samples or
            features.
        DTypeError, ShapeError
            If ``groups``, or what the extractor is given or gives, is not of a usable type or
            shape.
        FitError
            If training diverges.
        """
        options = Options.of(self)
        found = getattr(self, "learner_", None) if self.warm_start else None
        resumed = found is not None and hasattr(found, "training")
        if found is not None and resumed:
            check_resumed(found.params, self._told(options))
        samples = self._labelled(X, y, resumed)
        numbers = None if groups is None else group_numbers(groups, len(samples[1]))
        if found is not None and resumed:
            found.move_training(rank_device(self.device))
            found.options, found.params = options, self._told(options)
            self.learner_ = found.go_on(samples, progress=progress)
        else:
            seed = check_random_state(self.random_state).randint(2**31 - 1)
            learner = self._new_learner(options)
            if self.extractor is not None:
                learner.ranks = join_ranks(learner.device)
            self.learner_ = learner.fit(samples, seed=seed, groups=numbers, progress=progress)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Predict labels (m,) or (m, n_targets), in the unit of those given, of samples.

        Samples so far from those fitted on that float32 cannot hold the way are a DataError.
        """
        found = self._fitted().predict(self._inputs(X))
        finite = np.isfinite(found.reshape(len(found), -1)).all(1)
        if not finite.all():
            which = np.flatnonzero(~finite)
            raise DataError(
                f"{counted(len(which), 'sample')} ({listed(which)}) cannot be predicted: so far "
                "from those fitted on that float32 cannot hold the distance. Check their unit, or "
                "leave them out."
            )
        return found

    def embed(self, X: Any) -> np.ndarray:
        """Embed samples (m, ...) as the neighbors are: (m, layers[-1])."""
        return self._fitted().embed(self._inputs(X))

    def neighbors(self, X: Any, n_neighbors: int = 5) -> tuple[np.ndarray, np.ndarray]:
        """Find which training samples made a prediction.

        Parameters
        ----------
        X : array, shape (m, n_features)
            Samples to predict; with an extractor, all that `fit` takes.
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
        return self._fitted().neighbors(self._inputs(X), n_neighbors)

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Coefficient of determination of labels (m,) or (m, n_targets); None for a Dataset's."""
        if y is None and self.extractor is not None:
            y = as_samples(X, rank_device(self.device))[1]
        return float(super().score(X, y, sample_weight))

    def save(self, path: str | Path) -> None:
        """Write the fitted regressor to one file, readable with `load` and safe to receive.

        The file has the weights of an extractor, but not its code: `load` must be given it. Of
        parameters changed since `fit` those of the fit are written, but for ``device``.
        """
        learner = self._fitted()
        params = {**learner.params, "device": self.device}
        extracts = params.pop("extractor") is not None
        params = {name: as_plain(value) for name, value in params.items()}
        if not isinstance(params["random_state"], (int, type(None))):
            params["random_state"] = None
        content = {"format": FORMAT, "params": params, "extracts": extracts}
        if not extracts:
            scale = {"mean": self.input_mean_, "scale": self.input_scale_}
            content["inputs"] = {name: torch.as_tensor(value) for name, value in scale.items()}
            if hasattr(self, "feature_names_in_"):
                content["feature_names"] = [str(name) for name in self.feature_names_in_]
        if current_ranks().rank == 0:
            write_tensors(path, {**content, **learner.state()})

    @classmethod
    def load(cls, path: str | Path, *, extractor: nn.Module | None = None) -> Self:
        """Read a regressor written by `save`; nothing in the file is executed.

        Parameters
        ----------
        path : str or Path
            The file.
        extractor : Module, optional
            The network the regressor was made with, if any; its weights are those of the file.

        Returns
        -------
        NeighborRegressor
            Fitted.

        Raises
        ------
        FileMissingError, FileFormatError
            If there is no such file, or it is not of `save`.
        DataError
            If an extractor is missing, or the regressor has none.
        """
        with read_tensors(path, FORMAT) as content:
            params, extracts = content["params"], content["extracts"]
            regressor = cls(**{**params, "layers": tuple(params["layers"])}, extractor=extractor)
            if extracts == (extractor is not None):
                return regressor._rebuilt(content)
        raise DataError(
            f"{path} was written {'with' if extracts else 'without'} an extractor; "
            f"{'give it as' if extracts else 'leave out'} `extractor`."
        )

    def _rebuilt(self, content: dict[str, Any]) -> Self:
        self.learner_ = self._new_learner(Options.of(self)).restore(content)
        if self.extractor is None:
            self.n_features_in_ = content["sizes"][0]
            self.input_mean_ = content["inputs"]["mean"].numpy()
            self.input_scale_ = content["inputs"]["scale"].numpy()
            if "feature_names" in content:
                self.feature_names_in_ = np.array(content["feature_names"], dtype=object)
        return self

    def _new_learner(self, options: Options) -> Learner:
        device, attached = rank_device(self.device), None
        if self.extractor is not None:
            attached = attach(self.extractor).float()
            attached.precision = resolve_precision("auto", device)
        learner = Learner(options, device, attached)
        learner.params = self._told(options)
        return learner

    def _told(self, options: Options) -> dict[str, Any]:
        """All parameters, with layers that no one changes."""
        return {**self.get_params(deep=False), "layers": options.layers}

    def _labelled(self, X: Any, y: Any, resumed: bool) -> tuple[Inputs, np.ndarray]:
        """Check samples and standardize arrays; the scales are kept when resumed."""
        if self.extractor is not None:
            return as_samples(X, rank_device(self.device), labels=y)
        shape = np.shape(X) if resumed else ()
        if len(shape) == 2 and shape[1] != self.n_features_in_:
            raise DataError(
                f"With `warm_start=True` the samples must be those of the last `fit`, of "
                f"{self.n_features_in_} features, got {shape[1]}; set `warm_start=False` to start "
                "anew."
            )
        X, y = _validated(
            self,
            X,
            y,
            reset=not resumed,
            dtype=np.float64,
            y_numeric=True,
            multi_output=True,
            ensure_min_samples=4,
        )
        if not resumed:
            self.input_mean_, spread = X.mean(0), X.std(0)
            # a constant feature stays what it is; its deviation may be rounding instead of zero
            rounding = 4 * np.finfo(np.float64).eps * np.abs(X).max(0)
            self.input_scale_ = np.where(spread > rounding, spread, 1.0)
        return self._standardized(X), np.asarray(y, dtype=np.float64)

    def _standardized(self, x: np.ndarray) -> ArrayInputs:
        device = rank_device(self.device)
        z = (x - self.input_mean_) / self.input_scale_
        return ArrayInputs(torch.as_tensor(z, dtype=torch.float32, device=device), device)

    def _inputs(self, x: Any) -> Inputs:
        if self._fitted().extractor is not None:
            return as_inputs(x, rank_device(self.device))
        return self._standardized(_validated(self, x, dtype=np.float64, reset=False))

    def _fitted(self) -> Learner:
        return super()._fitted().move(rank_device(self.device))
