"""What decides the results of a run, as digests and options that can be compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import Any

import numpy as np
import xarray as xr
from torch import Tensor

from softrsa.io.labels import plain_labels
from softrsa.io.lazy import chunk_slices, read_values

Fingerprint = Mapping[str, Any]  # of strings, numbers and mappings of those, as JSON holds them


def digest(*data: object) -> str:
    """Digest values, labels and number types of arrays, or lists of them, with SHA-256.

    Parameters
    ----------
    *data : DataArray, ndarray, Tensor, str or sequence of those
        Dask-backed arrays are read one chunk at a time, and their digest depends on the chunks.

    Returns
    -------
    str
        64 hexadecimal digits.

    Examples
    --------
    >>> digest(np.arange(3.0)) == digest(np.array([0.0, 1.0, 2.0]))
    True
    >>> digest(np.arange(3.0)) == digest(np.arange(3.0, dtype="float32"))
    False
    """
    hasher = sha256()
    for piece in _pieces(data):
        hasher.update(piece)
    return hasher.hexdigest()


def differences(there: Fingerprint, here: Fingerprint) -> list[str]:
    """Say in words where two fingerprints differ.

    Examples
    --------
    >>> differences({"seed": 0, "layer": {"a": "1f"}}, {"seed": 1, "layer": {"a": "2e"}})
    ['seed is 0 there and 1 here', "layer 'a' has other data"]
    """
    found = []
    for key in dict.fromkeys((*there, *here)):
        old, new = there.get(key), here.get(key)
        if old == new:
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += _different_parts(key, old, new)
        else:
            found.append(f"{key} is {old!r} there and {new!r} here")
    return found


def _different_parts(kind: str, there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Name what only one side has, and what is not the same."""
    found = [f"{kind} {name!r} is only there" for name in there if name not in here]
    found += [f"{kind} {name!r} is only here" for name in here if name not in there]
    shared = [name for name in here if name in there]
    return found + [
        f"{kind} {name!r} has other data" for name in shared if there[name] != here[name]
    ]


def _pieces(data: object) -> Iterator[bytes | memoryview]:
    """Walk through everything that tells data apart, as bytes."""
    if isinstance(data, (list, tuple)):
        yield f"[{len(data)}]".encode()
        for one in data:
            yield from _pieces(one)
    elif isinstance(data, (xr.DataArray, xr.Variable)):
        yield repr((type(data).__name__, data.dims, data.attrs.get("kind"))).encode()
        if isinstance(data, xr.DataArray):
            for name in sorted(map(str, data.coords)):
                yield from _pieces([name, data.coords[name].variable])
        yield from _values(data)
    else:
        array = data.detach().cpu().numpy() if isinstance(data, Tensor) else np.asarray(data)
        yield from _array(array)


def _values(data: xr.DataArray | xr.Variable) -> Iterator[bytes | memoryview]:
    """Walk through values chunk by chunk, in order; there is one where they are in memory."""
    for cut in chunk_slices(data):
        yield from _array(read_values(data[cut]))


def _array(array: np.ndarray) -> Iterator[bytes | memoryview]:
    array = plain_labels(array)
    array = array.astype(np.str_) if array.dtype.kind in "OT" else array
    yield repr((array.dtype.str, array.shape)).encode()
    yield np.ascontiguousarray(array).view(np.uint8).data if array.size else b""
