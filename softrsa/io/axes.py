"""Plain numbers to labelled arrays: which axis is what, by name or by shape."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from softrsa._wording import counted, listed
from softrsa.errors import DataError, DTypeError, ShapeError, StimulusError
from softrsa.io.labelling import (
    Options,
    Sides,
    check_ids,
    find_sides,
    ids_of,
    is_distinct,
    labels_beside,
    meaning,
)
from softrsa.io.matrices import (
    expand_rows,
    has_even_diagonal,
    in_own_orders,
    looks_square,
    n_stimuli,
    settle_halves,
)
from softrsa.io.schema import LEADING, check_labelled, check_rdms, plain_labels

AXES = {  # words for axes that are no words for labels
    "anchor": "anchor", "neighbor": "neighbor", "neighbour": "neighbor", "trial": "trial",
    "run": "trial", "repetition": "trial", "repeat": "trial", "presentation": "trial",
    "time": "time", "timepoint": "time", "timebin": "time", "neuroid": "unit",
}  # fmt: skip
MATRIX_NAME = re.compile(r"(^|[^a-z])(rdms?|rsms?|dsms?)([^a-z]|$)|dissimilarit|similarit|distance")
SIMILARITIES = re.compile(r"(^|[^a-z])rsms?([^a-z]|$)|(?<!dis)similarit")
FEATURES = re.compile(r"features?|activations?|embeddings?")  # of a network: units in any shape


def axis_meaning(name: str) -> str:
    """Tell what an axis of some name is: a dimension of softrsa, or an axis of units as named."""
    plain = name.strip().lower().replace("_", "").replace("-", "").replace(" ", "")
    known = AXES.get(plain) or AXES.get(plain.removesuffix("s")) or meaning(name)
    return known if known in (*AXES.values(), "stimulus", "unit", *LEADING) else name.strip()


def label_array(values: np.ndarray, options: Options, name: str) -> xr.DataArray:
    """Label an array by the names of its axes, or by its shape where that leaves one reading.

    (n, n), (subject, n, n) and MATLAB's (n, n, subject) are RDMs or RSMs where they are symmetric
    or the caller says so; a vector, or rows where the caller says so, are their upper triangles;
    other arrays of two axes have a stimulus per row. Everything else needs ``dims``.
    """
    values = to_float(values, name, options)
    if options.dims is not None:
        return _label_named(values, options.dims, options, name)
    if values.ndim > 2 and not _squares(values):
        values = values.reshape([n for n in values.shape if n > 1] or [1])
    matrices = None if options.kind == "recording" else _as_matrices(values, options, name)
    if matrices is None:
        if values.ndim > 2 and FEATURES.search(options.called.lower()):
            options.facts.append(f"all axes of the {name} but the first are units")
            values = values.reshape(len(values), -1)
        _check_two_axes(values, name)
        return _label_found(values, options, name)
    beside = {w: row for k, row in options.beside.items() if (w := axis_meaning(k)) in LEADING}
    rows = {word: row for word, row in beside.items() if len(row) == len(matrices)}
    if matrices.ndim == 3 and rows and (len(rows) > 1 or not is_distinct(*rows.values())):
        grid, leading, _ = stack_rows(matrices, rows, name)
        return label_rdms(grid, options, name, leading)
    leading = _leading_by_length(matrices.shape, options, name)
    return label_rdms(matrices, options, name, leading)


def _as_matrices(values: np.ndarray, options: Options, name: str) -> np.ndarray | None:
    """Find square matrices in an array, or None where there are none."""
    told = options.kind is not None
    called = bool(MATRIX_NAME.search(options.called.lower()))
    diagonal = 1.0 if options.kind == "rsm" else 0.0
    if values.ndim == 1 and n_stimuli(values.size) is not None:
        return _from_triangle(values, options, name)
    squares = _squares(values)
    if len(squares) > 1:
        squares = [square for square in squares if looks_square(square)] or squares
        if len(squares) > 1:
            raise _two_readings(values.shape, name)
    if squares:
        square = squares[0]
        if told or called or looks_square(square) or has_even_diagonal(square):
            return square  # halves that differ are refused with the others' options
        return None
    if told and values.ndim == 2:
        options.facts.append(f"each row of the {name} is taken for the upper triangle of a subject")
        return expand_rows(values, name, diagonal)
    if told:
        raise ShapeError(
            f'The {name} has shape {values.shape}, which `kind="{options.kind}"` cannot be: no two '
            "axes beside each other are of one length."
        )
    if called and values.ndim == 2 and n_stimuli(values.shape[1]) is not None:
        raise ShapeError(
            f"The {name} has shape {values.shape}: is each row the upper triangle of an RDM of "
            f'{n_stimuli(values.shape[1])} stimuli (`kind="rdm"`, `--kind rdm`), or a stimulus '
            '(`kind="recording"`)?'
        )
    return None


def _from_triangle(values: np.ndarray, options: Options, name: str) -> np.ndarray:
    """Expand a row of pairs, which has no diagonal to tell similarities from dissimilarities."""
    if options.kind is None and SIMILARITIES.search(options.called.lower()):
        raise ShapeError(
            f"The {name} is one row of {values.size} numbers, the upper triangle of an RDM or of "
            'an RSM: say `kind="rsm"` or `kind="rdm"` (`--kind rsm`).'
        )
    if options.kind is None:
        options.facts.append(
            f"the {name} is one row of {values.size} numbers, taken for the upper triangle of an "
            "RDM"
        )
    return expand_rows(values, name, 1.0 if options.kind == "rsm" else 0.0)


def _squares(values: np.ndarray) -> list[np.ndarray]:
    """List the ways to see square matrices: in the last two axes, or, as in MATLAB, the first."""
    found = []
    if values.ndim > 1 and values.shape[-1] == values.shape[-2] > 1:
        found.append(values)
    if values.ndim > 2 and values.shape[0] == values.shape[1] > 1:
        found.append(np.moveaxis(values, (0, 1), (-2, -1)))
    return found


def _leading_by_length(shape: Sequence[int], options: Options, name: str) -> dict[str, np.ndarray]:
    """Find what the axes before anchor and neighbor are, by labels of their length."""
    *sizes, _, _ = shape
    fitting = [
        {
            str(word): row
            for key, row in options.beside.items()
            if (word := axis_meaning(key)) in LEADING and len(row) == n and is_distinct(row)
        }
        for n in sizes
    ]
    words = [next(iter(found)) for found in fitting if len(found) == 1]
    if len(words) == len(sizes) and len({*words}) == len(sizes):
        return {word: found[word] for word, found in zip(words, fitting, strict=True)}
    if len(sizes) > 1:
        raise _two_readings(shape, name)
    if sizes and sizes[0] > 1:
        options.notes.append(
            f"the axis of {sizes[0]} of the {name} is taken for subjects; say otherwise with "
            '`dims`, such as `dims=("time", "anchor", "neighbor")`'
        )
    return {"subject": np.arange(1, sizes[0] + 1)} if sizes else {}


def _two_readings(shape: Sequence[int], name: str) -> ShapeError:
    """Word the refusal of an array whose axes nothing tells apart."""
    n_leading = len(shape) - 2
    size = " x ".join(map(str, shape))
    if n_leading == 1:
        readings = [("subject", "anchor", "neighbor"), ("anchor", "neighbor", "subject")]
    else:
        first = ("time", "subject", "session", "region", "layer")[:n_leading]
        readings = [(*first, "anchor", "neighbor"), (*first[::-1], "anchor", "neighbor")]
    shown = " or ".join(f"`dims={dims!r}`" for dims in readings)
    return ShapeError(
        f"The {name} is {size}, and nothing says what its axes are: name them, such as {shown}, "
        "with any of "
        f"{listed(LEADING)} before or after. On the command line: "
        f"`--dims {','.join(readings[0])}`."
    )


def _check_two_axes(values: np.ndarray, name: str) -> None:
    """Refuse what has no rows and columns, and what has more."""
    if values.ndim < 2:
        raise ShapeError(
            f"The {name} has shape {values.shape}; a recording is (stimuli, units), RDMs are "
            "(n, n), and upper triangles have n (n - 1) / 2 entries."
        )
    if values.ndim == 2:
        return
    examples = {
        3: (("stimulus", "unit", "trial"), ("trial", "unit", "time")),
        4: (("stimulus", "channel", "height", "width"), ("x", "y", "z", "trial")),
    }.get(values.ndim, (("stimulus", *(f"axis_{i}" for i in range(1, values.ndim))),))
    shown = " or ".join(f"`dims={dims!r}`" for dims in examples)
    raise ShapeError(
        f"The {name} is {' x '.join(map(str, values.shape))}, and nothing says what its axes are: "
        f"name them, such as {shown}. `stimulus`, `trial`, `time`, `subject`, `region`, `layer` "
        "and `session` have a meaning; all other names are axes of units, which are laid side by "
        f"side. On the command line: `--dims {','.join(examples[0])}`."
    )


def _label_named(
    values: np.ndarray, names: Sequence[str], options: Options, name: str
) -> xr.DataArray:
    """Label an array whose axes have names."""
    dims = tuple(axis_meaning(dim) for dim in names)
    if len(dims) != values.ndim or len({*dims}) < len(dims):
        raise ShapeError(
            f"`dims` must name each of the {values.ndim} axes of the {name} once, whose shape is "
            f"{values.shape}; got {tuple(names)!r}."
        )
    array = xr.DataArray(values, dims=dims)
    if {"anchor", "neighbor"} & {*dims}:
        leading = [dim for dim in dims if dim not in ("anchor", "neighbor")]
        strange = [dim for dim in leading if dim not in LEADING]
        if (
            strange
            or len(dims) - len(leading) < 2
            or array.sizes["anchor"] != array.sizes["neighbor"]
        ):
            raise ShapeError(
                f"`dims` of RDMs are `anchor`, `neighbor`, of one length, and any of "
                f"{listed(LEADING)}; got {tuple(names)!r} for shape {values.shape}."
            )
        array = array.transpose(*leading, "anchor", "neighbor")
        labels = {dim: _labels_of(dim, array.sizes[dim], options) for dim in leading}
        return label_rdms(array.values, options, name, labels)
    if options.kind in ("rdm", "rsm"):
        raise DataError(
            f'`kind="{options.kind}"` needs `anchor` and `neighbor` among `dims`, got {names!r}.'
        )
    return _recording_of(array, options, name)


def _labels_of(dim: str, n: int, options: Options) -> np.ndarray:
    """Find the labels of an axis among those beside the array, or number its entries from 1."""
    for key, row in options.beside.items():
        if axis_meaning(key) == dim and len(row) == n and is_distinct(row):
            return row
    return np.arange(n) if dim == "time" else np.arange(1, n + 1)


def _recording_of(array: xr.DataArray, options: Options, name: str) -> xr.DataArray:
    """Lay axes of units side by side, and trials of stimuli below each other."""
    rows = [dim for dim in ("stimulus", "trial") if dim in array.dims]
    if not rows:
        raise ShapeError(
            f"`dims` of a recording must hold `stimulus` or `trial`, got {tuple(array.dims)!r}."
        )
    time = [dim for dim in ("time",) if dim in array.dims]
    units = [str(dim) for dim in array.dims if dim not in (*rows, *time)]
    if not units:
        raise ShapeError(f"`dims` has no axis of units: {tuple(array.dims)!r}.")
    array = array.transpose(*rows, *units, *time)
    sizes = [array.sizes[dim] for dim in units]
    n_rows, n_units = array.sizes[rows[0]], int(np.prod(sizes))
    sides = find_sides((n_rows, n_units), options, name, turnable=False)
    coords, ids = dict(sides.coords), sides.ids
    if len(units) > 1:
        places = np.unravel_index(np.arange(n_units), sizes)
        for dim, place in zip(units, places, strict=True):
            known = dim in LEADING
            labels = _labels_of(dim, array.sizes[dim], options) if known else None
            coords[dim] = ("unit", place if labels is None else labels[place])
        coords.pop("unit", None)
    values = array.values
    if len(rows) == 2:
        n_trials = array.sizes["trial"]
        ids = np.repeat(check_ids(ids, n_rows, name), n_trials)
        coords = {
            key: (side, np.repeat(row, n_trials) if side == "stimulus" else row)
            for key, (side, row) in coords.items()
        }
        coords["repetition"] = ("stimulus", np.tile(np.arange(1, n_trials + 1), n_rows))
    values = values.reshape(-1, n_units, *values.shape[values.ndim - len(time) :])
    if time:
        n_times = values.shape[-1]
        rows_of_time = [r for k, r in options.beside.items() if axis_meaning(k) == "time"]
        fitting = [row for row in rows_of_time if len(row) == n_times]
        coords["time"] = ("time", [*fitting, np.arange(n_times)][0])
    return label_recording(values, ids, name, coords, options, trials="trial" in rows)


def label_rdms(
    matrices: np.ndarray,
    options: Options,
    name: str,
    leading: Mapping[str, object] | None = None,
) -> xr.DataArray:
    """Label matrices (..., n, n) with the caller's ids and check them."""
    ids = ids_of(options, matrices.shape[-1], name)
    values, notes, facts = settle_halves(matrices, name, options.halves)
    options.notes.extend(notes)
    options.facts.extend(facts)
    coords = {**(leading or {}), "anchor": ids, "neighbor": ids}
    attrs = {} if options.kind is None else {"kind": options.kind}
    array = xr.DataArray(values, dims=tuple(coords), coords=coords, attrs=attrs)
    diagonal = np.diagonal(values, axis1=-2, axis2=-1)
    if np.isnan(diagonal).any() and not np.isnan(values).all((-2, -1)).any():
        options.facts.append(f"the diagonal of the {name} is NaN and is ignored")
    return check_rdms(array, name=name)


def of_participants(arrays: Mapping[str, Any]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Find matrices and ids that come in pairs by name, such as `rdm_anna` and `stimuli_anna`."""
    matrices, orders = {}, {}
    for key, value in arrays.items():
        head, _, tag = key.partition("_")
        if tag and isinstance(value, np.ndarray):
            if meaning(head) == "stimulus":
                orders[tag] = value.ravel()
            elif head.lower().startswith(("rdm", "rsm")):
                one = np.squeeze(value)
                of_similarities = head.lower().startswith("rsm") and one.ndim == 1
                matrices[tag] = expand_rows(one, key, 1.0) if of_similarities else value
    if len(matrices) < 2 or {*matrices} != {*orders}:
        return {}
    return {tag: (matrix, orders[tag]) for tag, matrix in matrices.items()}


def in_rows(arrays: Mapping[str, Any], key: str) -> dict[Any, tuple[np.ndarray, np.ndarray]]:
    """Find the matrices of several subjects where a table of texts has a row of ids for each."""
    values = arrays[key]
    beside = labels_beside(arrays, key)
    for other, table in arrays.items():
        texts = isinstance(table, np.ndarray) and table.ndim == 2 and table.dtype.kind in "UO"
        if other == key or not texts or not isinstance(values, np.ndarray):
            continue
        for orders in (table, table.T):
            k, n = orders.shape
            fitting = {
                (k, n, n): values, (n, n, k): np.moveaxis(values, -1, 0),
                (k, n * (n - 1) // 2): values,
            }.get(values.shape)  # fmt: skip
            rows = [np.array([str(each) for each in row]) for row in orders]
            if fitting is None or min(k, n) < 2 or not all(map(is_distinct, rows)):
                continue
            named = [row for word, row in beside.items() if meaning(word) == "subject"]
            named = [row for row in named if len(row) == k and is_distinct(row)]
            labels = named[0].tolist() if named else range(1, k + 1)
            return dict(zip(labels, zip(fitting, rows, strict=True), strict=True))
    return {}


def label_participants(
    found: Mapping[Any, tuple[np.ndarray, np.ndarray]], options: Options, name: str
) -> xr.DataArray:
    """Label matrices of several subjects, squares or upper triangles, each by ids of its own."""
    if options.stimuli is not None or options.ids_in is not None:
        raise StimulusError(
            f"The {name} holds the stimulus ids of each subject: leave out `stimuli`."
        )
    if options.dims is not None or options.kind == "recording":
        given = "dims" if options.dims is not None else "kind"
        raise DataError(
            f"The {name} are matrices of several subjects, each with ids of its own: leave out "
            f"`{given}`."
        )
    squares = []
    for matrix, _ in found.values():
        values = np.squeeze(to_float(matrix, name, options))
        diagonal = 1.0 if options.kind == "rsm" else 0.0
        values = expand_rows(values, name, diagonal) if values.ndim == 1 else values
        values, notes, facts = settle_halves(values, name, options.halves)
        options.notes.extend(notes)
        options.facts.extend(facts)
        squares.append(values)
    orders = [plain_labels(np.asarray(ids)) for _, ids in found.values()]
    stack, ids = in_own_orders(squares, orders, name)
    options.facts.append(f"each of {len(squares)} subjects by stimulus ids of its own")
    tags = [str(tag) for tag in found]
    subjects = np.array([int(t) for t in tags] if all(map(str.isdecimal, tags)) else tags)
    own = replace(options, stimuli=ids, beside={})
    return label_rdms(stack, own, name, {"subject": subjects})


def label_recording(
    values: np.ndarray,
    stimuli: np.ndarray | None,
    name: str,
    coords: Mapping[str, tuple[str, np.ndarray]] | None,
    options: Options,
    *,
    trials: bool = False,
) -> xr.DataArray:
    """Label (row, unit[, time]); rows are trials where they are said to be or ids repeat."""
    if options.halves is not None:
        raise DataError(f"The {name} is a recording, which has no `halves`: leave that out.")
    ids = check_ids(stimuli, len(values), name, values.shape)
    repeated = not is_distinct(ids)
    if repeated and not trials:
        options.facts.append(
            f"ids of the {name} repeat ({len(ids)} rows of {len(np.unique(ids))} stimuli): its "
            "rows are taken for trials"
        )
    row = "trial" if trials or repeated else "stimulus"
    labels = {
        key: (row if s == "stimulus" else s, held) for key, (s, held) in (coords or {}).items()
    }
    dims = (row, "unit", *(("time",) if values.ndim > 2 else ()))
    array = xr.DataArray(values, dims=dims, coords={"stimulus": (row, ids), **labels})
    return checked(array, options, name)


def checked(array: xr.DataArray, options: Options, name: str) -> xr.DataArray:
    """Check an array that was read, after units with NaN are left out where that is asked for."""
    if "unit" in array.dims and options.drop_missing_units:
        others = [dim for dim in array.dims if dim != "unit"]
        missing = array.isnull().any(others).values
        n_missing, n_units = int(missing.sum()), array.sizes["unit"]
        if n_missing:
            throughout = int(array.isnull().all(others).values.sum())
            array = array.isel(unit=np.flatnonzero(~missing))
            options.notes.append(
                f"{n_missing} of {counted(n_units, 'unit')} of the {name} have NaN ({throughout} "
                "of them throughout) and are left out"
            )
    return check_labelled(array, name=name)


def _label_found(values: np.ndarray, options: Options, name: str) -> xr.DataArray:
    """Label a recording with what lies beside it, and note where its ids come from."""
    sides: Sides = find_sides(values.shape, options, name)
    values = values.T if sides.turned else values
    array = label_recording(values, sides.ids, name, sides.coords, options)
    if not sides.source:
        return array
    where = "its columns, turned over" if sides.turned else "its rows"
    return array.assign_attrs(stimulus_ids=f"{sides.source!r} of the file, along {where}")


def to_float(values: object, name: str, options: Options | None = None) -> np.ndarray:
    """Make numbers float32 or float64; refuse what are no numbers."""
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise DTypeError(
            f"The {name} holds {array.dtype} values, not real numbers; save it as float64."
        )
    small = array.dtype.kind == "f" and array.dtype.itemsize < 8
    wanted = np.dtype(np.float32 if small else np.float64)
    if options is not None and array.dtype.newbyteorder("=") != wanted:
        options.facts.append(f"the {array.dtype.name} values of the {name} become {wanted.name}")
    return array.astype(wanted, copy=False)


def stack_rows(
    matrices: np.ndarray, labels: Mapping[str, Sequence | np.ndarray], name: str
) -> tuple[np.ndarray, dict[str, np.ndarray], tuple[np.ndarray, ...]]:
    """Put matrices, one per row, in a grid of their labels, such as subject × region.

    Labels that are the same in all rows make no axis. Places of the grid without a row become NaN.
    Returned are the grid, the labels of its leading axes and each row's place.
    """
    axes = {dim: np.asarray(labels[dim]) for dim in LEADING if dim in labels}
    uniques = {dim: distinct(values) for dim, values in axes.items()}
    uniques = {dim: values for dim, values in uniques.items() if len(values) > 1}
    if not uniques and len(matrices) > 1:
        if axes:
            shown = ", ".join(f"{dim} {values[:1].tolist()[0]!r}" for dim, values in axes.items())
            raise DataError(
                f"The {name} holds {len(matrices)} RDMs, all of {shown}: average them first."
            )
        uniques = {"subject": np.arange(1, len(matrices) + 1)}
        axes = uniques
    place = tuple(places_of(axes[dim], found) for dim, found in uniques.items())
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


def places_of(labels: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Find each label's place among the known ones."""
    places = {label: i for i, label in enumerate(known.tolist())}
    return np.array([places[label] for label in labels.tolist()], dtype=np.int64)


def distinct(labels: np.ndarray) -> np.ndarray:
    """Find distinct labels in order of appearance."""
    _, first = np.unique(labels, return_index=True)
    return labels[np.sort(first)]


def from_frame(frame: pd.DataFrame, name: str = "DataFrame") -> xr.DataArray:
    """Make a labelled array of a frame: its index are stimuli, its columns units, or stimuli too.

    Levels of the columns label units by their names.
    """
    if isinstance(frame.index, pd.MultiIndex):
        raise StimulusError(
            f"The index of the {name} is a MultiIndex of {listed(frame.index.names)}; it must hold "
            "one id per stimulus: take one level, `frame.droplevel([...])`."
        )
    try:
        values = to_float(frame.to_numpy(), name)
    except DTypeError:
        other = [str(c) for c, kind in frame.dtypes.items() if kind.kind not in "biuf"]
        raise DTypeError(
            f"The columns {listed(other)} of the {name} hold no numbers; leave them out, or make "
            "them its index: `frame.set_index(column)`."
        ) from None
    ids = plain_labels(frame.index.to_numpy())
    if {*frame.columns.tolist()} == {*ids.tolist()} and len(frame.columns) == len(ids):
        coords = {"anchor": ids, "neighbor": plain_labels(frame.columns.to_numpy())}
        array = xr.DataArray(values, dims=("anchor", "neighbor"), coords=coords)
        return check_rdms(array, name=name)
    levels = {}
    for i, level in enumerate(frame.columns.names):
        word = meaning(str(level)) if level is not None else None
        labels = plain_labels(frame.columns.get_level_values(i).to_numpy())
        levels[word or (str(level) if level is not None else "unit")] = ("unit", labels)
    return label_recording(values, ids, name, levels, Options())
