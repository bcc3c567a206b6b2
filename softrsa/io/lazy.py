"""Arrays that dask reads when asked: what is read at a time, and in what order."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise, product

import numpy as np
import xarray as xr

__all__ = ["chunk_slices", "is_lazy", "read_values"]


def is_lazy(array: xr.DataArray | xr.Variable) -> bool:
    """Tell whether values are a dask array, in chunks."""
    return array.chunks is not None


def read_values(array: xr.DataArray | xr.Variable) -> np.ndarray:
    """Read all values, one chunk after another: side by side they would be held together."""
    return (array.compute(scheduler="synchronous") if is_lazy(array) else array).values


def chunk_slices(array: xr.DataArray | xr.Variable) -> Iterator[tuple[slice, ...]]:
    """Cut an array into its chunks, in order; into one piece where it is in memory.

    Examples
    --------
    >>> list(chunk_slices(xr.Variable(("stimulus", "unit"), np.zeros((2, 3)))))
    [(slice(0, 2, None), slice(0, 3, None))]
    """
    sizes = array.chunks if array.chunks is not None else tuple((n,) for n in array.shape)
    edges = ([int(edge) for edge in np.cumsum((0, *each))] for each in sizes)
    yield from product(*([slice(a, b) for a, b in pairwise(each)] for each in edges))
