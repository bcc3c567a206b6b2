"""Labelled arrays to long tables, a row per number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from softrsa.errors import DataError
from softrsa.io.cells import is_whole
from softrsa.io.labels import plain_labels
from softrsa.io.wording import listed


def write_csv(array: xr.DataArray, path: Path) -> None:
    """Write a checked array; refuse labels that could not be read back."""
    for name, coord in array.coords.items():
        _check_readable(str(name), plain_labels(np.asarray(coord.values)))
    table = _pairs(array) if "anchor" in array.dims else _long(array)
    table.to_csv(path, index=False, lineterminator="\n")


def _check_readable(name: str, labels: np.ndarray) -> None:
    """Refuse texts that a reader would take for integers, and labels with fractions."""
    if labels.dtype.kind == "U":
        texts = labels.ravel().tolist()
        if texts and all(map(is_whole, texts)):
            raise DataError(
                f"The labels `{name}` are texts that look like whole numbers ({listed(texts, 3)}), "
                "which a table cannot keep apart: save as .nc or .npz, or make them integers."
            )
        if any("\r" in text or "\n" in text for text in texts):
            raise DataError(f"The labels `{name}` have line breaks; save as .nc or .npz.")
    elif labels.dtype.kind not in "iu":
        raise DataError(
            f"The labels `{name}` are {labels.dtype}, which a table gives back as text; make them "
            "texts or integers, or save as .nc or .npz."
        )


def _pairs(array: xr.DataArray) -> pd.DataFrame:
    """List pairs: each once where the other way round is the same, and the diagonal if need be."""
    extra = [str(name) for name in array.coords if name not in array.dims]
    if extra:
        raise DataError(
            f"A table of RDMs has no place for {listed(extra)}: drop them with "
            f"`array.drop_vars({extra!r})`, or save as .nc or .npz."
        )
    rdm = array.attrs["kind"] == "rdm"
    values = array.values.astype(np.float64)
    n = array.sizes["anchor"]
    absent = np.isnan(values)
    even = np.array_equal(values, values.swapaxes(-1, -2), equal_nan=True)
    diagonal = np.einsum("...ii->...i", values)
    plain = even and bool((np.isnan(diagonal) | (diagonal == (0.0 if rdm else 1.0))).all())
    kept = np.triu(np.ones((n, n), bool), 1) if plain else np.ones((n, n), bool)
    chosen = np.broadcast_to(kept, values.shape) & ~absent
    places = np.nonzero(chosen)
    columns: dict[str, np.ndarray] = {}
    for dim, at in zip(array.dims, places, strict=True):
        named = dim in array.coords
        labels = plain_labels(array[dim].values) if named else np.arange(1, array.sizes[dim] + 1)
        columns[str(dim)] = labels[at]
    columns["dissimilarity" if rdm else "similarity"] = values[places]
    return pd.DataFrame(columns)


def _long(array: xr.DataArray) -> pd.DataFrame:
    """List stimuli × units, with what labels either."""
    row = str(array.dims[0])
    n_rows, n_units = array.shape
    i, j = (each.ravel() for each in np.indices((n_rows, n_units)))
    columns: dict[str, np.ndarray] = {row: _own(array, row)[i], "unit": _own(array, "unit")[j]}
    for name, coord in array.coords.items():
        if name not in array.dims:
            side = coord.dims[0] if coord.ndim == 1 else None
            at = i if side == row else j if side == "unit" else None
            if at is None:
                raise DataError(
                    f"A table has no place for `{name}`, which labels neither rows nor units: drop "
                    f"it with `array.drop_vars({name!r})`, or save as .nc or .npz."
                )
            columns[str(name)] = plain_labels(coord.values)[at]
    if "value" in columns:
        raise DataError("A label cannot be called 'value' in a table; rename it.")
    columns["value"] = array.values.astype(np.float64).ravel()
    return pd.DataFrame(columns)


def _own(array: xr.DataArray, dim: str) -> np.ndarray:
    """Take a dimension's labels, or number its entries."""
    return plain_labels(array[dim].values) if dim in array.coords else np.arange(array.sizes[dim])
