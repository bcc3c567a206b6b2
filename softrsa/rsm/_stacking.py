"""One matrix for each combination of labels of the units, stacked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from softrsa.recordings import split_units

Labels = tuple[str, ...]
Compute = Callable[[xr.DataArray, Mapping[str, str]], Tensor]


def stack_parts(
    array: xr.DataArray, names: Sequence[str], ids: np.ndarray, compute: Compute, dtype: torch.dtype
) -> xr.DataArray:
    """Compute a matrix (of each time) for each part of the units; NaN for those there are none of.

    ``names`` are coordinates on `unit`; ``compute(part, labels)`` gives ([n_times,] n, n).
    """
    parts = dict(_parts(array, names))
    found = [list(dict.fromkeys(labels[i] for labels in parts)) for i in range(len(names))]
    combinations = list(product(*found))
    time = ("time",) if "time" in array.dims else ()
    inner = (*(array.sizes[dim] for dim in time), len(ids), len(ids))
    stack = torch.full((len(combinations), *inner), torch.nan, dtype=dtype)
    for place, labels in zip(stack, combinations, strict=True):
        if labels in parts:
            place.copy_(compute(parts[labels], dict(zip(names, labels, strict=True))))
    times = {dim: array[dim].values for dim in time}
    coords = {**dict(zip(names, found, strict=True)), **times, "anchor": ids, "neighbor": ids}
    return xr.DataArray(
        stack.reshape(*map(len, found), *inner).numpy(),
        dims=(*names, *time, "anchor", "neighbor"),
        coords=coords,
    )


def where(labels: Mapping[str, str]) -> str:
    """Say which part a message is about: ``", region 'IT', subject 'a'"``."""
    return "".join(f", {name} {label!r}" for name, label in labels.items())


def _parts(
    array: xr.DataArray, names: Sequence[str], labels: Labels = ()
) -> Iterator[tuple[Labels, xr.DataArray]]:
    """Split by one coordinate after the other."""
    if not names:
        yield labels, array
        return
    for label, part in split_units(array, names[0]).items():
        yield from _parts(part, names[1:], (*labels, label))
