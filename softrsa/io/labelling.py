"""Plain arrays to labelled ones: which axis is what, and who the rows are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isqrt

import numpy as np
import xarray as xr

from softrsa.errors import DataError, DTypeError, ShapeError
from softrsa.io.beside import check_ids, find_sides, ids_of
from softrsa.io.options import Options
from softrsa.io.schema import check_recording, check_trials
from softrsa.io.stacks import LEADING, check_rdms
from softrsa.io.synonyms import meaning
from softrsa.io.wording import listed

STACKED = {0: (), 1: ("subject",), 2: ("subject", "time")}  # axes before anchor and neighbor


def label_array(values: np.ndarray, options: Options, name: str) -> xr.DataArray:
    """Label an array by its shape.

    (n, n), (subject, n, n), (subject, time, n, n) and MATLAB's (n, n, subject) are RDMs or RSMs
    where they are symmetric or the caller says so; a vector, or rows where the caller says so, are
    their upper triangles; anything else has a stimulus per row, the other axes being units.
    """
    values = to_float(values, name)
    matrices = None if options.kind == "recording" else _as_matrices(values, options.kind, name)
    if matrices is None:
        return _label_found(values, options, name)
    dims = STACKED.get(matrices.ndim - 2)
    if dims is None:
        raise ShapeError(
            f"The {name} has shape {values.shape}; RDMs come as (n, n), (subject, n, n) or "
            "(subject, time, n, n)."
        )
    leading = {dim: np.arange(1, n + 1) for dim, n in zip(dims, matrices.shape, strict=False)}
    for key, row in options.beside.items():
        dim = meaning(key)
        if dim in leading and len({*row.tolist()}) == len(row) == len(leading[dim]):
            leading[dim] = row
    return label_rdms(matrices, options, name, leading)


def label_rdms(
    matrices: np.ndarray,
    options: Options,
    name: str,
    leading: Mapping[str, object] | None = None,
) -> xr.DataArray:
    """Label matrices (..., n, n) with the caller's ids and check them."""
    ids = ids_of(options, matrices.shape[-1], name)
    coords = {**(leading or {}), "anchor": ids, "neighbor": ids}
    attrs = {} if options.kind is None else {"kind": options.kind}
    array = xr.DataArray(matrices, dims=tuple(coords), coords=coords, attrs=attrs)
    return check_rdms(array, name=name)


def label_recording(
    values: np.ndarray,
    stimuli: np.ndarray | None,
    name: str,
    coords: Mapping[str, tuple[str, np.ndarray]] | None = None,
    *,
    trials: bool = False,
) -> xr.DataArray:
    """Label rows as stimuli and all other axes, flattened, as units."""
    check_axes(values, name)
    ids = check_ids(stimuli, len(values), name, values.shape)
    flat = values.reshape(len(values), -1)
    row = "trial" if trials else "stimulus"
    labels = {
        key: (row if s == "stimulus" else s, held) for key, (s, held) in (coords or {}).items()
    }
    array = xr.DataArray(flat, dims=(row, "unit"), coords={"stimulus": (row, ids), **labels})
    return (check_recording if row == "stimulus" else check_trials)(array, name=name)


def check_axes(values: np.ndarray, name: str) -> None:
    """Refuse what has no rows and columns."""
    if values.ndim < 2:
        raise ShapeError(
            f"The {name} has shape {values.shape}; a recording is (stimuli, units), RDMs are "
            "(n, n), and upper triangles have n (n - 1) / 2 entries."
        )


def _label_found(values: np.ndarray, options: Options, name: str) -> xr.DataArray:
    """Label a recording with what lies beside it, and note where its ids come from."""
    check_axes(values, name)
    sides = find_sides(values.shape, options, name)
    values = values.T if sides.turned else values
    trials = (
        bool(sides.source) and sides.ids is not None and len(np.unique(sides.ids)) < len(sides.ids)
    )
    array = label_recording(values, sides.ids, name, sides.coords, trials=trials)
    if not sides.source:
        return array
    where = "its columns, turned over" if sides.turned else "its rows"
    return array.assign_attrs(stimulus_ids=f"{sides.source!r} of the file, along {where}")


def expand_rows(rows: np.ndarray, name: str, diagonal: float = 0.0) -> np.ndarray:
    """Expand upper triangles (..., n_pairs), in SciPy's order, to squares (..., n, n)."""
    n_pairs = rows.shape[-1]
    n = n_stimuli(n_pairs)
    if n is None:
        raise ShapeError(
            f"The {name} has rows of {n_pairs} pairs, which is no n (n - 1) / 2: they are no upper "
            "triangles of RDMs."
        )
    upper, lower = np.triu_indices(n, 1)
    squares = np.full((*rows.shape[:-1], n, n), diagonal, dtype=rows.dtype)
    squares[..., upper, lower] = squares[..., lower, upper] = rows
    absent = np.isnan(rows).all(axis=-1)
    squares[absent] = np.nan  # not recorded: NaN throughout, the diagonal too
    return squares


def n_stimuli(n_pairs: int) -> int | None:
    """Tell how many stimuli have so many pairs."""
    n = (1 + isqrt(1 + 8 * n_pairs)) // 2
    return n if n > 1 and n * (n - 1) // 2 == n_pairs else None


def to_float(values: object, name: str) -> np.ndarray:
    """Make numbers float32 or float64; refuse what are no numbers."""
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise DTypeError(
            f"The {name} holds {array.dtype} values, not real numbers; save it as float64."
        )
    if array.dtype.kind in "biu" or array.dtype.itemsize > 8:
        return array.astype(np.float64)
    return array.astype(np.float32 if array.dtype.itemsize < 8 else np.float64)


def stack_rows(
    matrices: np.ndarray, labels: Mapping[str, Sequence | np.ndarray], name: str
) -> tuple[np.ndarray, dict[str, np.ndarray], tuple[np.ndarray, ...]]:
    """Put matrices, one per row, in a grid of their labels, such as subject × region.

    Labels that are the same in all rows make no axis. Places of the grid without a row become NaN.
    Returned are the grid, the labels of its leading axes and each row's place.
    """
    axes = {dim: np.asarray(labels[dim]) for dim in LEADING if dim in labels}
    uniques = {dim: _in_order(values) for dim, values in axes.items()}
    uniques = {dim: values for dim, values in uniques.items() if len(values) > 1}
    if not uniques and len(matrices) > 1:
        if axes:
            shown = ", ".join(f"{dim} {values[:1].tolist()[0]!r}" for dim, values in axes.items())
            raise DataError(
                f"The {name} holds {len(matrices)} RDMs, all of {shown}: average them first."
            )
        uniques = {"subject": np.arange(1, len(matrices) + 1)}
        axes = uniques
    place = tuple(
        np.array(
            [{label: i for i, label in enumerate(found.tolist())}[x] for x in axes[d].tolist()]
        )
        for d, found in uniques.items()
    )
    sizes = tuple(map(len, uniques.values()))
    if not sizes:
        return matrices[0], {}, ()
    flat = np.ravel_multi_index(place, sizes)
    taken, counts = np.unique(flat, return_counts=True)
    if (counts > 1).any():
        doubled = np.unravel_index(taken[counts > 1][0], sizes)
        shown = ", ".join(
            f"{d} {found[i].item()!r}"
            for (d, found), i in zip(uniques.items(), doubled, strict=True)
        )
        raise DataError(
            f"The {name} holds {counts.max()} RDMs of {shown}. Average them, or tell them apart by "
            f"another of {listed(LEADING)}."
        )
    grid = np.full((*sizes, *matrices.shape[1:]), np.nan, dtype=matrices.dtype)
    grid[place] = matrices
    return grid, uniques, place


def _places(labels: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Find each label's place among the known ones."""
    places = {label: i for i, label in enumerate(known.tolist())}
    return np.array([places[label] for label in labels.tolist()])


def _in_order(labels: np.ndarray) -> np.ndarray:
    """Find distinct labels in order of appearance."""
    _, first = np.unique(labels, return_index=True)
    return labels[np.sort(first)]


def _as_matrices(values: np.ndarray, kind: str | None, name: str) -> np.ndarray | None:
    """Find square matrices in an array, or None where there are none."""
    for square in _candidates(values):
        if kind is not None or _symmetric(square):
            return square
    vector = values.ndim == 1 and n_stimuli(values.size) is not None
    if vector or (kind is not None and values.ndim == 2):
        return expand_rows(values, name, 1.0 if kind == "rsm" else 0.0)
    if kind is not None:
        raise ShapeError(f'The {name} has shape {values.shape}, which `kind="{kind}"` cannot be.')
    return None


def _candidates(values: np.ndarray) -> list[np.ndarray]:
    """List the ways to see square matrices: in the last two axes, or, as in MATLAB, the first."""
    found = []
    if values.ndim > 1 and values.shape[-1] == values.shape[-2] > 1:
        found.append(values)
    if values.ndim > 2 and values.shape[0] == values.shape[1] > 1:
        found.append(np.moveaxis(values, (0, 1), (-2, -1)))
    return found


def _symmetric(matrices: np.ndarray) -> bool:
    """Tell whether matrices equal their transposes, to rounding."""
    scale = np.nanmax(np.abs(matrices), initial=0.0)
    tolerance = 100 * np.finfo(matrices.dtype).eps * scale
    return np.allclose(matrices, matrices.swapaxes(-1, -2), 0, tolerance, equal_nan=True)
