"""Labelled arrays to rsatoolbox's data sets and RDMs."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from softrsa.errors import DataError, FileMissingError
from softrsa.io.labelled import check_labelled
from softrsa.io.labels import plain_labels
from softrsa.io.rsatoolbox import KEY, MEASURE, WORDS

__all__ = ["to_rsatoolbox"]

OWN_ATTRS = ("kind", "source_format", KEY, MEASURE)


def to_rsatoolbox(array: xr.DataArray) -> Any:
    """Turn a labelled array into a `Dataset` or `RDMs` of rsatoolbox.

    Parameters
    ----------
    array : DataArray
        Recordings (stimulus, unit), single trials (trial, unit) or RDMs (..., anchor, neighbor).

    Returns
    -------
    rsatoolbox.data.Dataset or rsatoolbox.rdm.RDMs
        Coordinates become descriptors of observations, channels, RDMs or patterns; attributes
        become descriptors of the whole. Region, layer, subject and session that all units share are
        descriptors of the whole as well. Matrices that are NaN throughout are left out.
        `from_rsatoolbox` gives the array back.

    Raises
    ------
    FileMissingError
        If rsatoolbox is not installed.
    ShapeError, DTypeError, StimulusError, DataError
        If the array is none of these, or holds similarities.

    Examples
    --------
    >>> array = xr.DataArray(
    ...     np.eye(2), dims=("stimulus", "unit"), coords={"stimulus": ["face", "house"]}
    ... )
    >>> to_rsatoolbox(array).obs_descriptors["stimulus"].tolist()
    ['face', 'house']
    """
    array = check_labelled(array, name="array")
    try:
        from rsatoolbox.data.dataset import Dataset
        from rsatoolbox.rdm.rdms import RDMs
    except ImportError as error:
        raise FileMissingError(
            "Converting to rsatoolbox needs rsatoolbox, which cannot be imported "
            f"({error}); install it with `pip install softrsa[rsatoolbox]`."
        ) from error
    key = str(array.attrs.get(KEY, "stimulus"))
    whole = {str(k): v for k, v in array.attrs.items() if k not in OWN_ATTRS}
    if "anchor" in array.dims:
        return RDMs(**_rdm_parts(array, key), descriptors=whole)
    row = "trial" if "trial" in array.dims else "stimulus"
    units = _along(array, "unit")
    one = {word: v for word, v in units.items() if word in WORDS and len(set(v.tolist())) == 1}
    shared = {word: values[:1].tolist()[0] for word, values in one.items()}
    rows = {key if name == "stimulus" else name: v for name, v in _along(array, row).items()}
    return Dataset(
        array.values.copy(),
        descriptors={**whole, **shared},
        obs_descriptors=rows,
        channel_descriptors=units,
    )


def _rdm_parts(array: xr.DataArray, key: str) -> dict[str, Any]:
    """Take a stack of RDMs apart into what rsatoolbox's constructor wants."""
    if array.attrs["kind"] != "rdm":
        raise DataError(
            "rsatoolbox holds dissimilarities, the array similarities: convert them first, e.g. "
            '`(1 - array).assign_attrs(kind="rdm")`.'
        )
    n = array.sizes["anchor"]
    upper = array.values[..., *np.triu_indices(n, 1)].reshape(-1, n * (n - 1) // 2)
    kept = ~np.isnan(upper).all(axis=1)
    leading = array.dims[:-2]
    labels: dict[str, np.ndarray] = {}
    grid = xr.DataArray(np.zeros(array.shape[:-2]), dims=leading)
    for label, coord in array.coords.items():
        if not {"anchor", "neighbor"} & set(coord.dims):
            wide = coord.variable.set_dims(dict(grid.sizes)).transpose(*leading)
            labels[str(label)] = plain_labels(np.asarray(wide.values)).reshape(-1)[kept]
    for dim in leading:
        if dim not in array.coords:
            places = np.arange(1, array.sizes[dim] + 1)
            wide = xr.Variable((dim,), places).set_dims(dict(grid.sizes)).transpose(*leading)
            labels[str(dim)] = wide.values.reshape(-1)[kept]
    return {
        "dissimilarities": upper[kept],
        "dissimilarity_measure": array.attrs.get(MEASURE),
        "rdm_descriptors": labels,
        "pattern_descriptors": {
            key if name == "anchor" else name: v for name, v in _along(array, "anchor").items()
        },
    }


def _along(array: xr.DataArray, dim: str) -> dict[str, np.ndarray]:
    """List the coordinates along one dimension."""
    found = {str(n): plain_labels(c.values) for n, c in array.coords.items() if c.dims == (dim,)}
    return {name: np.asarray(values) for name, values in found.items()}
