"""What the estimators of neighbors are told, and the scale of the labels they are given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from softrsa.errors import DataError, ShapeError, unknown_name
from softrsa.prediction.heads import LinearHead
from softrsa.prediction.network import Network, make_body
from softrsa.prediction.step_heads import HEADS, LINEAR_HEADS, NEIGHBOR_HEADS
from softrsa.transforms import Family


def as_plain(value: Any) -> Any:
    """Make Python's own types of NumPy's scalars, and lists of sequences of them."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, (tuple, list)):
        return [as_plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value


FREE = ("max_epochs", "patience", "device", "warm_start")  # what a resumed training may have anew
TrainNeighbors = Literal["batch", "bank"]


@dataclass(frozen=True)
class Options:
    """What every estimator of neighbors has to be told, under the names it has there."""

    head: str
    family: Family
    similarity: str
    temperature: float | None
    layers: Sequence[int]
    dropout: float
    train_neighbors: TrainNeighbors
    batch_size: int
    max_epochs: int
    patience: int
    learning_rate: float
    gate_learning_rate: float
    validation_fraction: float

    @classmethod
    def of(cls, estimator: object) -> Options:
        """Take and check the options of an estimator."""
        found = {field.name: getattr(estimator, field.name) for field in fields(cls)}
        options = cls(**{**found, "layers": tuple(found["layers"])})
        options.check()
        return options

    def check(self) -> None:
        """Refuse what is unknown or out of range."""
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

    @property
    def from_bank(self) -> bool:
        """Whether neighbors in training are the whole training set, else the batch."""
        return self.train_neighbors == "bank"

    def make_network(self, n_features: int, n_targets: int) -> Network:
        """Make an untrained network without extractor."""
        body = make_body(n_features, self.layers, self.dropout)
        width = self.layers[-1] if self.layers else n_features
        if self.head in LINEAR_HEADS:
            return Network(body, LinearHead(width, n_targets))
        make = NEIGHBOR_HEADS[self.head]
        head = make(width, self.family, self.similarity, self.temperature)
        return Network(body, head)


def check_resumed(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to go on with a training that other parameters were begun with."""
    changed = [name for name, value in now.items() if name not in FREE and value != before[name]]
    if changed:
        found = ", ".join(f"`{name}` from {before[name]!r} to {now[name]!r}" for name in changed)
        raise DataError(
            f"With `warm_start=True` `fit` goes on with the same network, of whose parameters only "
            f"{', '.join(f'`{name}`' for name in FREE)} may change; changed were {found}. Set them "
            "back, or `warm_start=False` to start anew."
        )


@dataclass(frozen=True)
class LabelScale:
    """Labels in their own unit, (n,) or (n, n_targets), to and from [0, 1]."""

    low: np.ndarray
    extent: np.ndarray
    columns: bool  # whether labels have a dimension for targets

    @classmethod
    def of(cls, labels: np.ndarray) -> LabelScale:
        """Find the range of labels; that of a constant one is 1."""
        columns = labels.reshape(len(labels), -1)
        low, high = columns.min(0), columns.max(0)
        return cls(low, np.where(high > low, high - low, 1.0), labels.ndim == 2)

    def scaled(self, labels: np.ndarray, device: torch.device) -> Tensor:
        """Labels (n, n_targets) in [0, 1]."""
        columns = labels.reshape(len(labels), -1)
        if columns.shape[1] != len(self.low):
            raise ShapeError(
                f"All labels must have {len(self.low)} targets, got {columns.shape[1]}."
            )
        scaled = (columns - self.low) / self.extent
        return torch.as_tensor(scaled, dtype=torch.float32, device=device)

    def restored(self, scaled: Tensor) -> np.ndarray:
        """Labels in their own unit and form."""
        labels = scaled.cpu().numpy().astype(np.float64) * self.extent + self.low
        return labels if self.columns else labels[:, 0]
