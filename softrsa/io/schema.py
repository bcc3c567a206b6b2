"""What a recording (or a table of activations) must look like."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Iterator
from itertools import pairwise, product

import numpy as np
import pandas as pd
import xarray as xr
from xarray.indexes import PandasMultiIndex

from softrsa._wording import counted, listed
from softrsa.errors import DataError, DTypeError, ShapeError, StimulusError
from softrsa.io.matrices import ROUNDING, kind_of_diagonal, settle_halves


class ReadingWarning(UserWarning):
    """Says what numbers in a file or an array were taken for, where that was a choice."""


def check_dtype(array: xr.DataArray, name: str) -> xr.DataArray:
    """Allow float32 and float64 only, in the machine's byte order."""
    dtype = array.dtype.newbyteorder("=")
    if dtype not in (np.float32, np.float64):
        remedy = (
            "take its real part or modulus, e.g. `array.real` or `abs(array)`"
            if dtype.kind == "c"
            else 'convert it with `array.astype("float64")`'
        )
        raise DTypeError(f"The {name} must be float32 or float64, got {array.dtype}; {remedy}.")
    return array if dtype == array.dtype else array.astype(dtype)


def check_is_array(array: object, name: str) -> None:
    """Refuse what is not labelled."""
    if not isinstance(array, xr.DataArray):
        raise DTypeError(f"The {name} must be an xarray.DataArray, got {type(array).__name__}.")


def _check_filled(array: xr.DataArray, name: str) -> None:
    for dim in array.dims:
        if not array.sizes[dim]:
            raise DataError(f"The {name} is empty: it has 0 entries along `{dim}`.")


def stimulus_ids(
    array: xr.DataArray, dim: str, name: str, *, coordinate: str | None = None
) -> np.ndarray:
    """Read the stimulus ids along a dimension as integers or strings."""
    coordinate = coordinate or dim
    if coordinate not in array.coords or array.coords[coordinate].dims != (dim,):
        raise StimulusError(
            f"The {name} has no stimulus ids: give it a coordinate `{coordinate}` along `{dim}`, "
            f"e.g. `array.assign_coords({coordinate}=({dim!r}, ids))`."
        )
    if isinstance(array.indexes.get(coordinate), pd.MultiIndex):
        raise StimulusError(
            f"`{coordinate}` of the {name} is a MultiIndex of "
            f"{listed(array.indexes[coordinate].names)}; it must hold one id per stimulus."
        )
    ids = plain_labels(array.coords[coordinate].values)
    if ids.dtype.kind not in "iuU":
        raise StimulusError(
            f"The stimulus ids of the {name} must be all strings or all integers, got {ids.dtype} "
            f"({listed(ids, 3)}); convert them, e.g. with `ids.astype(str)`."
        )
    return ids


def plain_labels(values: np.ndarray) -> np.ndarray:
    """Turn strings stored as objects or bytes (as netCDF gives them) into fixed-width strings."""
    if values.dtype.kind == "S":
        return np.char.decode(values, "utf-8")
    if values.dtype.kind in "OT" and all(isinstance(value, str) for value in values.flat):
        return values.astype(np.str_)
    return values


def check_distinct(ids: pd.Index, name: str) -> None:
    """Refuse repeated stimulus ids."""
    if ids.has_duplicates:
        repeated = ids[ids.duplicated()].unique()
        raise StimulusError(
            f"The {name} repeats the stimuli {listed(repeated)}. Average the trials first: "
            '`softrsa.recordings.average_trials`, or read the file with `trials="mean"` '
            "(`--trials mean`)."
        )


def labels_along(array: xr.DataArray, dim: str) -> dict[str, np.ndarray]:
    """List the coordinates along one dimension."""
    return {str(n): plain_labels(c.values) for n, c in array.coords.items() if c.dims == (dim,)}


def without_levels(array: xr.DataArray) -> xr.DataArray:
    """Make the levels of MultiIndexes plain coordinates."""
    multi = {i.dim for i in array.xindexes.values() if isinstance(i, PandasMultiIndex)}
    return array.reset_index(list(multi)) if multi else array


def is_lazy(array: xr.DataArray | xr.Variable) -> bool:
    """Tell whether values are a dask array, in chunks."""
    return array.chunks is not None


def read_values(array: xr.DataArray | xr.Variable) -> np.ndarray:
    """Read all values, one chunk after another: side by side they would be held together."""
    return (array.compute(scheduler="synchronous") if is_lazy(array) else array).values


def chunk_slices(array: xr.DataArray | xr.Variable) -> Iterator[tuple[slice, ...]]:
    """Cut an array into its chunks, in order; into one piece where it is in memory."""
    sizes = array.chunks if array.chunks is not None else tuple((n,) for n in array.shape)
    edges = ([int(edge) for edge in np.cumsum((0, *each))] for each in sizes)
    yield from product(*([slice(a, b) for a, b in pairwise(each)] for each in edges))


LEADING = ("layer", "region", "subject", "session", "time")
KINDS = ("rdm", "rsm")


def check_rdms(
    rdms: xr.DataArray, *, name: str = "RDM stack", complete: bool = False
) -> xr.DataArray:
    """Check a stack of RDMs or RSMs and give its two stimulus dimensions one order.

    Parameters
    ----------
    rdms : DataArray, dims (..., anchor, neighbor) in any order
        Dissimilarities or similarities, float32 or float64. `anchor` and `neighbor` hold the same
        distinct stimulus ids; leading dimensions are named layer, region, subject, session or time.
        NaN is a pair that is missing; a matrix that is NaN throughout was not recorded. A half of
        zeros or NaN is filled from the other one, with a `ReadingWarning`. ``attrs["kind"]`` is
        ``"rdm"`` or ``"rsm"``; without it, a diagonal of zeros or NaN means RDM and one of ones
        RSM, up to rounding.
    name : str
        What to call the stack in messages.
    complete : bool
        Whether missing pairs are refused.

    Returns
    -------
    DataArray, dims (..., anchor, neighbor)
        Leading dimensions in the order they had, neighbors in the order of the anchors, with
        ``attrs["kind"]``. A diagonal of NaN is that of the kind.

    Raises
    ------
    DTypeError
        If the numbers are not float32 or float64.
    ShapeError
        If the dimensions differ or there is but one stimulus.
    StimulusError
        If ids are absent or repeated, or anchors and neighbors differ.
    DataError
        If the stack is empty, has infinite values, all are NaN, labels of a leading dimension
        repeat, the kind cannot be told, or pairs are missing where all are needed.

    Examples
    --------
    >>> array = xr.DataArray(
    ...     [[3.0, 0.0], [0.0, 3.0]],
    ...     dims=("anchor", "neighbor"),
    ...     coords={"anchor": ["a", "b"], "neighbor": ["b", "a"]},
    ... )
    >>> check_rdms(array).values, check_rdms(array).attrs["kind"]
    (array([[0., 3.],
           [3., 0.]]), 'rdm')
    """
    rdms = _rdms_in_order(rdms, name)
    rdms = _one_order(rdms, name)
    settled = settle_halves(rdms.values, name, strict=False)
    for message in settled.notes:
        warnings.warn(f"{message[0].upper()}{message[1:]}.", ReadingWarning, stacklevel=3)
    if settled.notes:
        rdms = rdms.copy(data=settled.values)
    recorded = _recorded(rdms, name, complete=complete)
    kind = rdms.attrs["kind"] if "kind" in rdms.attrs else _guess_kind(rdms, recorded, name)
    if kind not in KINDS:
        raise DataError(f'The {name} has attrs["kind"] = {kind!r}; it must be "rdm" or "rsm".')
    return _with_diagonal(rdms, recorded, kind, name).assign_attrs(kind=kind)


def _with_diagonal(rdms: xr.DataArray, recorded: np.ndarray, kind: str, name: str) -> xr.DataArray:
    """Fill a diagonal of NaN with what the kind has there; that of a matrix not there is NaN."""
    diagonal = np.diagonal(rdms.values, axis1=-2, axis2=-1)
    there = recorded.reshape(diagonal.shape[:-1])[..., None]
    absent = np.isnan(diagonal) & there
    if np.array_equal(np.isnan(diagonal), np.broadcast_to(~there, diagonal.shape)):
        return rdms
    if kind == "rsm" and np.nanmax(np.abs(rdms.values)) > 1 + ROUNDING:
        raise DataError(
            f"The {name} holds similarities beyond 1 and has NaN on its diagonal: how similar a "
            "stimulus is to itself cannot be told. Fill the diagonal in."
        )
    values = rdms.values.copy()
    filled = np.einsum("...ii->...i", values)  # a view, written to
    filled[absent] = 0.0 if kind == "rdm" else 1.0
    filled[np.broadcast_to(~there, filled.shape)] = np.nan
    return rdms.copy(data=values)


def _rdms_in_order(rdms: xr.DataArray, name: str) -> xr.DataArray:
    """Check dimensions, their labels and the number type; move anchor and neighbor last."""
    check_is_array(rdms, name)
    leading = [dim for dim in rdms.dims if dim not in ("anchor", "neighbor")]
    if len(leading) != rdms.ndim - 2 or not set(leading) <= set(LEADING):
        raise ShapeError(
            f"The {name} must have the dimensions (..., 'anchor', 'neighbor'), where ... are any "
            f"of {LEADING}; got {rdms.dims}."
        )
    rdms = check_dtype(rdms, name).transpose(*leading, "anchor", "neighbor")
    _check_filled(rdms, name)
    for dim in rdms.dims:
        labels = rdms.indexes.get(dim)
        if dim in LEADING and labels is not None and labels.has_duplicates:
            repeated = labels[labels.duplicated()].unique()
            raise DataError(f"The {name} has the {dim} {listed(repeated)} more than once.")
    return rdms


def _one_order(rdms: xr.DataArray, name: str) -> xr.DataArray:
    """Give the neighbors the order of the anchors."""
    for dim in ("anchor", "neighbor"):
        rdms = rdms.assign_coords({dim: stimulus_ids(rdms, dim, name)})
        check_distinct(rdms.indexes[dim], name)
    anchors, neighbors = rdms.indexes["anchor"], rdms.indexes["neighbor"]
    only_anchors, only_neighbors = anchors.difference(neighbors), neighbors.difference(anchors)
    if len(only_anchors) or len(only_neighbors):
        raise StimulusError(
            f"The anchors and neighbors of the {name} must be the same stimuli; only among the "
            f"anchors: {listed(only_anchors) or 'none'}; only among the neighbors: "
            f"{listed(only_neighbors) or 'none'}."
        )
    if len(anchors) == 1:
        raise ShapeError(f"The {name} has 1 stimulus; similarities need at least 2.")
    return rdms if anchors.equals(neighbors) else rdms.sel(neighbor=rdms["anchor"].values)


def _recorded(rdms: xr.DataArray, name: str, *, complete: bool) -> np.ndarray:
    """Refuse infinite values, and missing pairs if need be; tell which were recorded, flat."""
    leading, n = rdms.shape[:-2], rdms.shape[-1]
    stack = rdms.values.reshape(-1, n, n)
    missing = np.isnan(stack)
    np.einsum("kii->ki", missing)[:] = False  # a view: the diagonal is ignored
    absent = missing.sum(axis=(1, 2)) == n * n - n
    bad = np.isinf(stack) | missing if complete else np.isinf(stack)
    partial = bad.any(axis=(1, 2)) & ~absent
    if partial.any():
        culprits = rdms["anchor"].values[_to_leave_out(np.asarray(bad[partial].any(axis=0)))]
        slices = [_label(rdms, np.unravel_index(i, leading)) for i in np.flatnonzero(partial)]
        where = f" in {'; '.join(slices[:5])}" if leading else ""
        more = f" and {len(slices) - 5} more matrices" if len(slices) > 5 else ""
        what = "NaN or infinite" if complete else "infinite"
        raise DataError(
            f"The {name} has {bad[partial].sum()} values that are {what}{where}{more}, "
            f"all of them with the stimuli {listed(culprits)}. Leave these stimuli out, or set a "
            "matrix that was not recorded to NaN throughout."
        )
    if absent.all():
        raise DataError(f"The {name} holds nothing but NaN.")
    return np.asarray(~absent)


def _to_leave_out(bad: np.ndarray) -> list[int]:
    """Find few stimuli that all bad pairs share, by taking the one with the most, again and again.

    One missing stimulus spoils a pair of every other one; naming all of them would not help.
    """
    bad = bad | bad.T
    counts = bad.sum(axis=0)
    chosen = []
    while counts.any():
        worst = int(counts.argmax())
        chosen.append(worst)
        counts = counts - (bad[worst] & (counts > 0))
        counts[chosen] = 0
    return sorted(chosen)


def _label(rdms: xr.DataArray, position: tuple[np.intp, ...]) -> str:
    """Name one matrix of a stack by its labels."""
    names = (
        f"{dim} {rdms[dim][i].item()!r}" for dim, i in zip(rdms.dims[:-2], position, strict=True)
    )
    return ", ".join(names)


def _guess_kind(rdms: xr.DataArray, recorded: np.ndarray, name: str) -> str:
    """Tell the kind from the diagonal: zeros or NaN mean RDM, ones RSM, up to rounding."""
    stack = rdms.values.reshape(-1, *rdms.shape[-2:])[recorded]
    kind = kind_of_diagonal(stack)
    if kind is not None:
        return kind
    diagonal = np.diagonal(stack, axis1=1, axis2=2)
    raise DataError(
        f"Cannot tell whether the {name} holds similarities or dissimilarities: its diagonal runs "
        f'from {np.nanmin(diagonal):.3g} to {np.nanmax(diagonal):.3g}. Set `array.attrs["kind"]` '
        'to "rdm" or "rsm"; of a file, say it when it is read, with `kind="rdm"` or `kind="rsm"` '
        '(`--kind rdm` on the command line), or `kind="recording"` if its columns are units.'
    )


BLOCK_BYTES = 64 * 2**20  # largest part of an array looked at in one go
PARTS = ("layer", "region", "subject")  # unit coordinates an error message quotes


def check_recording(recording: xr.DataArray, *, name: str = "recording") -> xr.DataArray:
    """Check a recording or activations, one row per stimulus, and put its dimensions in order.

    Parameters
    ----------
    recording : DataArray, dims (stimulus, unit) in any order
        Responses in any unit, float32 or float64. The coordinate `stimulus` holds a distinct id
        (string or integer) per stimulus; coordinates on `unit` may be `region`, `layer`, `subject`.
    name : str
        What to call the array in messages.

    Returns
    -------
    DataArray, dims (stimulus, unit)
        The same values; not loaded into memory if they were not yet.

    Raises
    ------
    DTypeError
        If the numbers are not float32 or float64.
    ShapeError
        If the dimensions differ or there is but one stimulus.
    StimulusError
        If stimulus ids are absent, repeated or neither strings nor integers.
    DataError
        If there are no stimuli, no units, or values that are NaN or infinite.

    Examples
    --------
    >>> array = xr.DataArray(np.eye(2), dims=("unit", "stimulus"), coords={"stimulus": [5, 3]})
    >>> check_recording(array).dims
    ('stimulus', 'unit')
    """
    recording = check_labels(recording, name=name)
    _check_finite(recording, recording["stimulus"].values, name)
    return recording


def check_labels(recording: xr.DataArray, *, name: str) -> xr.DataArray:
    """Check all that `check_recording` checks but the values."""
    if set(getattr(recording, "dims", ())) == {"trial", "unit"}:
        raise ShapeError(
            f"The {name} holds single trials, one row per stimulus is needed: average them with "
            "`softrsa.recordings.average_trials`."
        )
    recording = _in_order(recording, ("stimulus", "unit"), name)
    recording = recording.assign_coords(stimulus=stimulus_ids(recording, "stimulus", name))
    check_distinct(recording.indexes["stimulus"], name)
    if recording.sizes["stimulus"] == 1:
        raise ShapeError(f"The {name} has 1 stimulus; similarities need at least 2.")
    return recording


def check_trials(trials: xr.DataArray, *, name: str = "recording") -> xr.DataArray:
    """Check a recording of single trials and put its dimensions in order.

    Parameters
    ----------
    trials : DataArray, dims (trial, unit) in any order
        Responses in any unit, float32 or float64; the coordinate `stimulus` on `trial` holds ids.
    name : str
        What to call the array in messages.

    Returns
    -------
    DataArray, dims (trial, unit)
        The same values.

    Raises
    ------
    DTypeError, ShapeError, StimulusError, DataError
        As `check_recording`, but stimuli may repeat.

    Examples
    --------
    >>> array = xr.DataArray(
    ...     np.ones((1, 3)), dims=("unit", "trial"), coords={"stimulus": ("trial", [7, 7, 9])}
    ... )
    >>> check_trials(array).dims
    ('trial', 'unit')
    """
    trials = _in_order(trials, ("trial", "unit"), name)
    ids = stimulus_ids(trials, "trial", name, coordinate="stimulus")
    trials = trials.assign_coords(stimulus=("trial", ids))
    _check_finite(trials, ids, name)
    return trials


def blocks(array: xr.DataArray) -> Iterator[tuple[slice, slice, np.ndarray]]:
    """Walk through rows and columns in blocks, by chunks where dask reads them."""
    if is_lazy(array):
        for rows, columns in chunk_slices(array):
            yield rows, columns, read_values(array[rows, columns])
        return
    row_bytes = max(1, array.nbytes // max(1, array.shape[0]))
    step = max(1, BLOCK_BYTES // row_bytes)
    for start in range(0, array.shape[0], step):
        rows = slice(start, min(start + step, array.shape[0]))
        yield rows, slice(0, array.shape[1]), array[rows].values


def _in_order(array: xr.DataArray, dims: tuple[Hashable, ...], name: str) -> xr.DataArray:
    """Check dimensions, number type and that there is something at all."""
    check_is_array(array, name)
    if set(array.dims) != set(dims):
        raise ShapeError(f"The {name} must have the dimensions {dims}, got {array.dims}.")
    array = check_dtype(array, name).transpose(*dims)
    _check_filled(array, name)
    return array


def _check_finite(array: xr.DataArray, ids: np.ndarray, name: str) -> None:
    """Refuse NaN and infinity, naming the stimuli and the layers or regions they are in."""
    bad_rows = np.zeros(array.shape[0], dtype=bool)
    bad_columns = np.zeros(array.shape[1], dtype=np.int64)
    for rows, columns, block in blocks(array):
        bad = ~np.isfinite(block)
        if bad.any():
            bad_rows[rows] |= bad.any(axis=1)
            bad_columns[columns] += bad.sum(axis=0)
    if not bad_rows.any():
        return
    stimuli = pd.unique(ids[bad_rows])
    raise DataError(
        f"The {name} has {counted(int(bad_columns.sum()), 'value')} that are NaN or infinite, "
        f"at {counted(len(stimuli), 'stimulus', 'stimuli')} "
        f"({listed(stimuli)}){_where(array, bad_columns > 0)}."
        f"{_which_units(array, bad_columns)} "
        "Leave out these stimuli, or the units when the file is read with "
        "`drop_missing_units=True` (`--drop-missing-units`), or fill the values in, first."
    )


def _which_units(array: xr.DataArray, bad_columns: np.ndarray) -> str:
    """Say how many units are bad, and which, where these are few."""
    bad = np.flatnonzero(bad_columns)
    shown = array["unit"].values[bad] if "unit" in array.coords else bad
    which = f" ({listed(shown)})" if len(bad) < len(bad_columns) else ""
    return f" They are in {len(bad)} of its {counted(len(bad_columns), 'unit')}{which}."


def _where(array: xr.DataArray, bad_columns: np.ndarray) -> str:
    """Say which layers, regions and subjects the bad units belong to."""
    labels = labels_along(array, "unit")
    found = {part: pd.unique(labels[part][bad_columns]) for part in PARTS if part in labels}
    return "".join(f", {part} {listed(held)}" for part, held in found.items())


def labels_of_stimuli(array: xr.DataArray, ids: np.ndarray) -> dict[str, np.ndarray]:
    """List what labels stimuli beside their ids: of trials, what is the same in all of one."""
    row = "trial" if "trial" in array.dims else "stimulus"
    codes = pd.Index(ids).get_indexer(pd.Index(plain_labels(array["stimulus"].values)))
    if (codes < 0).any() or len({*codes.tolist()}) < len(ids):
        return {}
    at = np.unique(codes, return_index=True)[1]
    found = {}
    for name, labels in labels_along(array, row).items():
        if name in ("stimulus", row):
            continue
        same = labels[at][codes] == labels
        if (same | (pd.isna(labels) & pd.isna(labels[at][codes]))).all():
            found[name] = labels[at]
    return found


def mean_by_stimulus(trials: xr.DataArray) -> xr.DataArray:
    """Average checked (trial, unit, ...) rows that share a stimulus, in order of appearance."""
    codes, ids = pd.factorize(trials["stimulus"].values)
    order = np.argsort(codes, kind="stable")
    counts = np.bincount(codes)
    starts = np.cumsum(counts) - counts
    sums = np.add.reduceat(trials.values[order], starts, axis=0, dtype=np.float64)
    coords = {name: coord for name, coord in trials.coords.items() if "trial" not in coord.dims}
    coords |= {name: ("stimulus", row) for name, row in labels_of_stimuli(trials, ids).items()}
    return xr.DataArray(
        (sums / counts.reshape(-1, *[1] * (trials.ndim - 1))).astype(trials.dtype),
        dims=("stimulus", *trials.dims[1:]),
        coords={**coords, "stimulus": ids},
        attrs=trials.attrs,
        name=trials.name,
    )


VARIABLE = "data"  # as in BrainIO files


def check_labelled(array: xr.DataArray, *, name: str) -> xr.DataArray:
    """Check an array by the schema its dimensions ask for."""
    dims = set(array.dims)
    if {"anchor", "neighbor"} <= dims:
        return check_rdms(array, name=name)
    if "unit" in dims and ("trial" in dims or "stimulus" in dims):
        check = check_trials if "trial" in dims else check_recording
        return _check_times(array, check, name) if "time" in dims else check(array, name=name)
    raise ShapeError(
        f"The {name} must have the dimensions (stimulus, unit), (trial, unit), with time after "
        f"them where there is one, or (..., anchor, neighbor), got {array.dims}."
    )


def _check_times(
    array: xr.DataArray, check: Callable[..., xr.DataArray], name: str
) -> xr.DataArray:
    """Check all times at once, laid side by side as units; dims (row, unit, time)."""
    row = "trial" if "trial" in array.dims else "stimulus"
    array = array.transpose(row, "unit", "time")
    rows = {key: c.variable for key, c in array.coords.items() if c.dims == (row,)}
    flat = array.values.reshape(array.shape[0], -1)
    found = check(xr.DataArray(flat, dims=(row, "unit"), coords=rows), name=name)
    array = array.copy(data=found.values.reshape(array.shape))
    return array.assign_coords(stimulus=(row, found["stimulus"].values))


def check_storable(array: xr.DataArray) -> None:
    """Refuse coordinates and attributes that netCDF would change, lose or choke on."""
    for name, coord in array.coords.items():
        if plain_labels(coord.values).dtype.kind not in "biufU":
            raise DataError(
                f"The coordinate `{name}` holds {coord.dtype} values, which netCDF cannot keep; "
                "convert it to strings or numbers."
            )
    for holder in (array, *array.coords.values()):
        for key, value in holder.attrs.items():
            row = isinstance(value, (list, tuple)) or getattr(value, "ndim", 0) == 1
            if not (len(value) and all(map(_is_plain, value)) if row else _is_plain(value)):
                raise DataError(
                    f"The attribute {key!r} is a {type(value).__name__}, which netCDF cannot keep; "
                    "give it as a string, a number or a list of those, or drop it with "
                    f"`del array.attrs[{key!r}]`."
                )


def _is_plain(value: object) -> bool:
    """Tell strings and numbers from the rest."""
    plain = isinstance(value, (str, int, float, np.integer, np.floating))
    return plain and not isinstance(value, bool)
