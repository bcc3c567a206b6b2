"""Labelled samples to learn from: arrays in memory, or a torch dataset read batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from softrsa.errors import DataError, DTypeError, ShapeError

Batch = Tensor | dict[str, Tensor]


class Samples(NamedTuple):
    """Inputs and their scaled labels (n, n_targets)."""

    inputs: Inputs
    y: Tensor

    def pick(self, rows: Tensor) -> Samples:
        """Take some of them."""
        return Samples(self.inputs.pick(rows), self.y.index_select(0, rows.to(self.y.device)))


class ArrayInputs:
    """Inputs that lie in memory: a tensor (n, ...), or some by name, as a tokenizer gives them."""

    def __init__(self, values: Batch, device: torch.device):
        self.values, self.device = values, device

    def __len__(self) -> int:
        values = self.values
        return len(values if isinstance(values, Tensor) else next(iter(values.values())))

    def stream(self, parts: Sequence[Tensor]) -> Iterator[Batch]:
        """Give one batch for each part, a tensor of row numbers, on the device."""
        return (_moved(_rows(self.values, rows), self.device) for rows in parts)

    def pick(self, rows: Tensor) -> ArrayInputs:
        """Take some of them."""
        return ArrayInputs(_rows(self.values, rows), self.device)

    def to(self, device: torch.device) -> ArrayInputs:
        """Lie on a device, and give batches there."""
        return ArrayInputs(_moved(self.values, device), device)


class DatasetInputs:
    """Inputs of a map-style dataset, whose items are inputs or pairs of input and label."""

    def __init__(self, dataset: Dataset, device: torch.device, n_workers: int, rows: Any = None):
        self.dataset, self.device, self.n_workers = dataset, device, n_workers
        self.rows = np.arange(dataset_length(dataset)) if rows is None else rows

    def __len__(self) -> int:
        return len(self.rows)

    def stream(self, parts: Sequence[Tensor]) -> Iterator[Batch]:
        """Give one batch for each part, on the device; the workers read ahead."""
        # workers are seeded from where torch's randomness stands, without moving it on: an array
        # and a dataset of the same samples are then learned alike
        generator = torch.Generator()
        generator.set_state(torch.get_rng_state())
        loader = DataLoader(
            self.dataset,
            batch_sampler=[self.rows[rows.numpy()].tolist() for rows in parts],
            num_workers=self.n_workers,
            collate_fn=_collate_inputs,
            pin_memory=self.device.type == "cuda",
            generator=generator,
        )
        return (_moved(_single(batch), self.device) for batch in loader)

    def pick(self, rows: Tensor) -> DatasetInputs:
        """Take some of them."""
        chosen = self.rows[rows.numpy()]
        return DatasetInputs(self.dataset, self.device, self.n_workers, chosen)

    def to(self, device: torch.device) -> DatasetInputs:
        """Give batches on a device."""
        return DatasetInputs(self.dataset, device, self.n_workers, self.rows)


Inputs = ArrayInputs | DatasetInputs


def as_inputs(inputs: object, device: torch.device, n_workers: int = 0) -> Inputs:
    """Take a dataset, an array, a tensor or a mapping of them for inputs."""
    if isinstance(inputs, Dataset):
        return DatasetInputs(inputs, device, n_workers)
    if isinstance(inputs, Mapping):
        values = {str(name): _single(_as_tensor(value)) for name, value in inputs.items()}
        lengths = {name: len(value) for name, value in values.items()}
        if len(set(lengths.values())) != 1:
            raise ShapeError(f"The inputs must be equally many under each name, got {lengths}.")
        return ArrayInputs(values, device)
    return ArrayInputs(_single(_as_tensor(inputs)), device)


def as_samples(
    samples: object, device: torch.device, *, labels: object = None, n_workers: int = 0
) -> tuple[Inputs, np.ndarray]:
    """Take a dataset of (input, label) pairs, or a pair (inputs, labels), for samples.

    The labels of a dataset are read once, which reads every input too; labels apart spare this.
    """
    if labels is not None:
        samples = (samples, labels)
    if isinstance(samples, Dataset):
        inputs, found = as_inputs(samples, device, n_workers), _read_labels(samples, n_workers)
    elif isinstance(samples, (tuple, list)) and len(samples) == 2:
        inputs, found = as_inputs(samples[0], device, n_workers), samples[1]
    else:
        raise DTypeError(
            "Samples must be a map-style torch Dataset of (input, label) pairs, or inputs with "
            f"labels, got {type(samples).__name__}."
        )
    return inputs, checked_labels(found, len(inputs))


def checked_labels(given: Any, n_inputs: int) -> np.ndarray:
    """Check that there is a finite label (n,) or (n, n_targets) for each input; in float64."""
    try:
        labels = np.asarray(given.detach().cpu() if isinstance(given, Tensor) else given)
        labels = labels.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise DTypeError(f"Labels must be numbers, as many for each input ({error}).") from error
    if labels.ndim not in (1, 2) or len(labels) != n_inputs:
        raise ShapeError(
            f"Labels must have shape ({n_inputs},) or ({n_inputs}, n_targets) for {n_inputs} "
            f"inputs, got {labels.shape}."
        )
    finite = np.isfinite(labels)
    bad = ~(finite.all(1) if finite.ndim == 2 else finite)
    if bad.any():
        raise DataError(
            f"Labels must be finite, {bad.sum()} are not, first that of sample {bad.argmax()}; "
            "leave these samples out."
        )
    return labels


def group_numbers(given: Any, n_samples: int) -> Tensor:
    """Give the groups (n_samples,) of samples, at least two, numbers from 0."""
    groups = np.asarray(given.detach().cpu() if isinstance(given, Tensor) else given)
    if groups.shape != (n_samples,):
        raise ShapeError(
            f"`groups` must have shape ({n_samples},), one name or number for each sample, "
            f"got {groups.shape}."
        )
    try:
        missing = bool((groups != groups).any())  # noqa: PLR0124  NaN
        names, numbers = np.unique(groups, return_inverse=True)
    except TypeError as error:
        raise DTypeError(
            f"`groups` must be all numbers or all strings, none missing, got others ({error}); "
            "convert them."
        ) from error
    if missing:
        raise DataError("`groups` must name the group of each sample, some are NaN; name them.")
    if len(names) < 2:
        raise DataError(
            f"`groups` must name at least 2 groups, one to train on and one to validate with, got "
            f"{len(names)}; leave `groups` out to hold out samples at random."
        )
    return torch.as_tensor(numbers.astype(np.int64))


def dataset_length(dataset: Any) -> int:
    """Count the samples of a dataset, which must be map-style."""
    if not hasattr(dataset, "__len__") or isinstance(dataset, IterableDataset):
        raise DTypeError(
            f"The dataset must be map-style, with __len__ and __getitem__; {type(dataset).__name__}"
            " is not. Samples are drawn at random and held out by number."
        )
    return len(dataset)


def _read_labels(dataset: Dataset, n_workers: int) -> Tensor:
    n = dataset_length(dataset)
    loader = DataLoader(
        dataset, batch_size=256, num_workers=n_workers, collate_fn=_collate_labels, shuffle=False
    )
    return torch.cat(list(loader)) if n else torch.empty(0)


def _collate_inputs(items: list[Any]) -> Any:
    return default_collate([item[0] if isinstance(item, (tuple, list)) else item for item in items])


def _collate_labels(items: list[Any]) -> Tensor:
    for item in items:
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            raise DTypeError(
                "Each item of the dataset must be a pair (input, label), got "
                f"{type(item).__name__}"
                + (f" of {len(item)}." if isinstance(item, (tuple, list)) else ".")
            )
    try:
        return default_collate([np.asarray(label, dtype=np.float64) for _, label in items])
    except (TypeError, ValueError, RuntimeError) as error:
        raise DTypeError(
            f"The labels of the dataset must be numbers, as many in each ({error})."
        ) from error


def _as_tensor(values: Any) -> Tensor:
    try:
        tensor = torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DTypeError(
            f"Inputs must be tensors or arrays of numbers, got {type(values).__name__} ({error})."
        ) from error
    if not tensor.ndim:
        raise ShapeError("The first dimension must be the samples, got a single number.")
    return tensor


def _rows(values: Batch, rows: Tensor) -> Batch:
    if isinstance(values, Tensor):
        return values.index_select(0, rows.to(values.device))
    return {name: value.index_select(0, rows.to(value.device)) for name, value in values.items()}


def _moved(batch: Batch, device: torch.device) -> Batch:
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    return {name: value.to(device, non_blocking=True) for name, value in batch.items()}


def _single(values: Any) -> Any:
    """Numbers with a fraction in float32, as the weights are; whole numbers as they are."""
    if isinstance(values, Mapping):
        return {str(name): _single(value) for name, value in values.items()}
    if not isinstance(values, Tensor):
        raise DTypeError(
            "Each input of the dataset must be a tensor, an array or a number, or a dict of them "
            f"by name; got a batch of {type(values).__name__}. Leave out what is no number."
        )
    return values.float() if values.is_floating_point() else values
