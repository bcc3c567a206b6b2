"""Units taken apart by their labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

import numpy as np
import pandas as pd
import xarray as xr

from softrsa._wording import counted
from softrsa.errors import DataError, unknown_name
from softrsa.io.schema import labels_along

T = TypeVar("T")


def split_units(array: xr.DataArray, by: str) -> dict[str, xr.DataArray]:
    """Split recordings or activations by a coordinate of their units.

    Parameters
    ----------
    array : DataArray, dims (stimulus, unit)
        Recordings or activations; those not yet read from disk are not read.
    by : str
        A coordinate on `unit`, such as ``"region"``, ``"layer"`` or ``"subject"``.

    Returns
    -------
    dict of str to DataArray
        One array (stimulus, unit) per label, in order of first appearance.

    Raises
    ------
    UnknownNameError
        If the units have no such coordinate.
    DataError
        If units have no label, or all values of a label are NaN.

    Examples
    --------
    >>> array = xr.DataArray(
    ...     np.eye(3),
    ...     dims=("stimulus", "unit"),
    ...     coords={"stimulus": [1, 2, 3], "region": ("unit", ["V4", "IT", "V4"])},
    ... )
    >>> {region: part.sizes["unit"] for region, part in split_units(array, "region").items()}
    {'V4': 2, 'IT': 1}
    """
    present = labels_along(array, "unit")
    if by not in present:
        raise unknown_name("unit coordinate", by, present)
    labels = array[by].values
    absent = pd.isna(labels) | (labels.astype(str) == "")
    if absent.any():
        raise DataError(
            f"{counted(int(absent.sum()), 'unit')} of {len(labels)} have no {by}. Label them or "
            f'leave them out: `array.sel(unit=array["{by}"] != "")`.'
        )
    codes, names = pd.factorize(labels)
    parts = {str(name): _units(array, np.flatnonzero(codes == i)) for i, name in enumerate(names)}
    for name, part in parts.items():
        if bool(part[:1].isnull().all()) and bool(part.isnull().all()):
            raise DataError(f"The {by} {name!r} is empty: all its values are NaN. Leave it out.")
    return parts


def select(parts: Mapping[str, T], names: Iterable[str] | None, *, kind: str) -> dict[str, T]:
    """Take the named parts, in the order named; all of them for ``None``.

    Parameters
    ----------
    parts : mapping of str
        What there is, e.g. the result of `split_units`.
    names : iterable of str, or None
        What is wanted.
    kind : str
        What the names are, for the message: ``"layer"``, ``"region"``, ...

    Returns
    -------
    dict of str
        The parts wanted.

    Raises
    ------
    UnknownNameError
        If a name is not among the parts; the message offers the nearest ones.

    Examples
    --------
    >>> select({"V1": 1, "V4": 2, "IT": 3}, ["IT", "V1"], kind="region")
    {'IT': 3, 'V1': 1}
    """
    wanted = list(parts) if names is None else list(names)
    for name in wanted:
        if name not in parts:
            raise unknown_name(kind, name, parts)
    return {name: parts[name] for name in wanted}


def _units(array: xr.DataArray, positions: np.ndarray) -> xr.DataArray:
    """Take units, as a slice where they are contiguous (no copy, and fast from disk)."""
    first, last = int(positions[0]), int(positions[-1])
    contiguous = last - first + 1 == len(positions)
    return array.isel(unit=slice(first, last + 1) if contiguous else positions)
