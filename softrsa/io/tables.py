"""Tables of text (CSV, TSV) to labelled arrays.

Wide: stimulus ids in the first column, a unit per further column; with the same ids in the header
it is a square RDM or RSM. Long: a row per number, with its labels beside it: columns ``stimulus``,
``unit``, ``value`` (and ``region``, ``layer``, ``subject``, ... of the unit), or ``anchor``,
``neighbor`` and ``dissimilarity`` or ``similarity`` (and ``subject``, ``region``, ... of the RDM).
Columns may have the names in `softrsa.io.labelling.SYNONYMS` instead, such as ``image``, ``voxel``
or ``beta``.
"""

from __future__ import annotations

import csv
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from softrsa._wording import counted, listed
from softrsa.errors import DataError, DTypeError, FileFormatError, StimulusError
from softrsa.io.labelling import (
    STIMULUS,
    WORDS,
    Options,
    distinct,
    known_names,
    meaning,
    places_of,
    renamings,
)
from softrsa.io.looking import FORMATS, Format
from softrsa.io.schema import check_rdms, check_recording, check_trials, plain_labels


def labels(column: pd.Series) -> np.ndarray:
    """Read labels as integers where all are, else as text."""
    codes, found = pd.factorize(column.to_numpy(dtype=object))
    texts = [str(cell) for cell in found]
    known = np.array([int(t) for t in texts] if all(map(is_whole, texts)) else texts)
    return known[codes]


def numbers(column: pd.Series, name: str, path: Path) -> np.ndarray:
    """Read a column of numbers; an empty cell is NaN."""
    try:
        return np.array([float(cell.strip() or "nan") for cell in column])
    except ValueError:
        wrong = next(cell for cell in column if cell.strip() and not is_number(cell))
        raise DTypeError(
            f"The column {name!r} of {path} holds {wrong!r}, which is no number: write a number, "
            "or leave the row out."
        ) from None


def is_whole(text: str) -> bool:
    """Tell integers as Python would write them from other texts, such as '01'."""
    digits = text.removeprefix("-")
    return digits.isdecimal() and digits.isascii() and len(digits) < 19 and str(int(text)) == text


def is_number(text: str) -> bool:
    """Tell texts that are numbers."""
    try:
        float(text)
    except ValueError:
        return False
    return True


VALUES = {"dissimilarity": "rdm", "similarity": "rsm"}
UNIT_LABELS = ("region", "layer", "subject", "session", "hemisphere", "neuroid_id")


def from_pairs(table: pd.DataFrame, options: Options, path: Path) -> xr.DataArray:
    """Build RDMs of a row per pair; the other way round and the diagonal may be left out."""
    value = next(name for name in VALUES if name in table.columns)
    anchors, neighbors = (labels(table[c]) for c in _pair_columns(table, options, path))
    if anchors.dtype.kind != neighbors.dtype.kind:
        anchors, neighbors = anchors.astype(np.str_), neighbors.astype(np.str_)
    given = _leading(table)
    known = {dim: distinct(found) for dim, found in given.items()}
    known["anchor"] = known["neighbor"] = distinct(np.concatenate([anchors, neighbors]))
    given |= {"anchor": anchors, "neighbor": neighbors}
    place = tuple(places_of(found, known[dim]) for dim, found in given.items())
    _check_once(place, anchors, neighbors, path)
    squares = np.full(tuple(len(known[dim]) for dim in given), np.nan)
    squares[place] = numbers(table[value], value, path)
    np.copyto(squares, squares.swapaxes(-1, -2).copy(), where=np.isnan(squares))
    diagonal = np.einsum("...ii->...i", squares)  # a view, written to
    absent = np.asarray(np.isnan(squares).all(axis=(-1, -2)))
    diagonal[np.isnan(diagonal) & ~absent[..., None]] = 0.0 if value == "dissimilarity" else 1.0
    attrs = {"kind": options.kind or VALUES[value]}
    array = xr.DataArray(squares, dims=tuple(given), coords=known, attrs=attrs)
    return check_rdms(array, name=f"table {path}")


def _leading(table: pd.DataFrame) -> dict[str, np.ndarray]:
    """Find the columns that tell RDMs apart."""
    given = {
        word: labels(table[column])
        for word, names in WORDS.items()
        for column in names
        if column in table.columns
    }
    if not given and "rdm_index" in table.columns and table["rdm_index"].nunique() > 1:
        return {"subject": labels(table["rdm_index"])}  # as rsatoolbox numbers them
    return given


def _pair_columns(table: pd.DataFrame, options: Options, path: Path) -> tuple[str, str]:
    """Find the columns with the two stimuli: anchor and neighbor, or as rsatoolbox names them."""
    paired = _pairs_of(table)
    known = [c for c in ("anchor", options.variable, *stimulus_pairs(table)) if c in paired]
    own = [c for c in paired if c != "pattern_index"]
    chosen = known or (own if len(own) == 1 else []) or [c for c in paired if c == "pattern_index"]
    if not chosen:
        raise FileFormatError(
            f"{path} has dissimilarities, but nothing says between which stimuli: it needs the "
            "columns `anchor` and `neighbor`, or pairs such as `stimulus_1` and `stimulus_2` with "
            f"{known_names(['stimulus'])}; it has {listed(table.columns, 20)}."
        )
    return paired[chosen[0]]


def stimulus_pairs(table: pd.DataFrame) -> list[str]:
    """Name the pairs of columns that are called stimuli, best first."""
    paired = _pairs_of(table)
    called = [name for name in paired if meaning(name) == "stimulus"]
    return [name for name in ("anchor", *STIMULUS) if name in paired] + called


def _pairs_of(table: pd.DataFrame) -> dict[str, tuple[str, str]]:
    """Find columns for two of a kind, as `image_1` and `image_2`, or `stim_a` and `stim_b`."""
    columns = [str(column) for column in table.columns]
    found = {"anchor": ("anchor", "neighbor")} if {"anchor", "neighbor"} <= {*columns} else {}
    for first, second in (("_1", "_2"), ("1", "2"), ("_a", "_b"), ("_A", "_B")):
        for column in columns:
            stem = column.removesuffix(first)
            if stem != column and f"{stem}{second}" in columns:
                found.setdefault(stem.rstrip("_"), (column, f"{stem}{second}"))
    return found


def from_long(table: pd.DataFrame, path: Path) -> xr.DataArray:
    """Build a recording of a row per number; what labels units and what labels rows is found."""
    name = f"table {path}"
    row = "trial" if "trial" in table.columns else "stimulus"
    # units may be numbered anew in each region or subject
    parts = ["unit", *(c for c in table.columns if c in UNIT_LABELS)]
    rows, units = _codes(table[[row]]), _codes(table[parts])
    _check_once((rows, units), table[row].to_numpy(), table["unit"].to_numpy(), path)
    values = np.zeros((rows.max() + 1, units.max() + 1))
    there = np.zeros(values.shape, dtype=bool)
    there[rows, units] = True
    if not there.all():
        a, b = np.argwhere(~there)[0]
        raise DataError(
            f"{path} lacks {counted(int((~there).sum()), 'value')}, such as that of {row} "
            f"{table[row].iloc[(rows == a).argmax()]!r} and unit "
            f"{table['unit'].iloc[(units == b).argmax()]!r}."
        )
    values[rows, units] = numbers(table["value"], "value", path)
    coords = _labels_of_sides(table.drop(columns="value"), {row: rows, "unit": units}, path)
    for dim in {row, "unit"} - {"stimulus"}:  # numbers from 0 are what an unlabelled dimension has
        if np.array_equal(coords[dim][1], np.arange(len(coords[dim][1]))):
            del coords[dim]
    array = xr.DataArray(values, dims=(row, "unit"), coords=coords)
    check = check_recording if row == "stimulus" else check_trials
    return check(array, name=name)


def _codes(columns: pd.DataFrame) -> np.ndarray:
    """Give numbers to the distinct rows of some columns in order of appearance."""
    return pd.factorize(pd.MultiIndex.from_frame(columns))[0]


def _labels_of_sides(
    table: pd.DataFrame, sides: dict[str, np.ndarray], path: Path
) -> dict[str, tuple[str, np.ndarray]]:
    """Find for every column the side whose entries it labels."""
    coords: dict[str, tuple[str, np.ndarray]] = {}
    for column in map(str, table.columns):
        found = labels(table[column])
        first = "unit" if column in UNIT_LABELS else ""  # where all are of one region, say
        for side, codes in sorted(sides.items(), key=lambda item: item[0] != first):
            own = np.empty(codes.max() + 1, found.dtype)
            own[codes] = found
            if (own[codes] == found).all():
                coords[column] = (side, own)
                break
        else:
            raise DataError(
                f"{path} has the column {column!r}, which differs within a row and "
                "within a unit: leave it out, or make a table for each of its values."
            )
    return coords


def _check_once(place: tuple, a: np.ndarray, b: np.ndarray, path: Path) -> None:
    """Refuse two values for one place."""
    rows = pd.DataFrame(np.stack(place, axis=1))
    doubled = np.flatnonzero(rows.duplicated().to_numpy())
    if len(doubled):
        i = doubled[0]
        raise DataError(
            f"{path} has more than one value for {a[i].item()!r} and {b[i].item()!r} (row "
            f"{i + 2}): average them, or add a column that tells them apart."
        )


LONG = ("stimulus", "unit", "value")
SEPARATORS = (",", "\t", ";")


def read_table(path: Path, options: Options) -> xr.DataArray:
    """Read a table, wide or long."""
    table = _read(path)
    named = renamings(map(str, table.columns))
    columns = {*table.columns, *named.values()}
    distances = {name: word for name, word in named.items() if word in VALUES}
    if {*table.columns} & {*VALUES} or (distances and stimulus_pairs(table)):
        return from_pairs(table.rename(columns=distances), options, path)
    if {*LONG} <= columns:
        wanted = {name: word for name, word in named.items() if word not in VALUES}
        return from_long(table.rename(columns=wanted), path)
    _check_wide(table, path)
    return _from_wide(table, options, path)


def _check_wide(table: pd.DataFrame, path: Path) -> None:
    """Refuse texts among the numbers: a long table whose columns are not known, or a wrong cell."""
    for name in table.columns[1:]:
        wrong = next((c for c in table[name] if c.strip() and not is_number(c)), None)
        if wrong is None:
            continue
        found = {meaning(str(column)) for column in table.columns} & {*LONG}
        lacking = [word for word in LONG if word not in found]
        raise DTypeError(
            f"The column {str(name)!r} of {path} holds {wrong!r}, which is no number. A wide table "
            "has stimulus ids in its first column and numbers in all others. A long table, a row "
            f"per number, has the columns {known_names(LONG)}, and perhaps "
            f"{known_names(('region', 'layer', 'subject', 'session'))}, or for RDMs `anchor`, "
            f"`neighbor` and {known_names(VALUES)}. This one has {listed(table.columns, 20)}"
            + (f": it lacks {listed(lacking)}." if len(lacking) < len(LONG) else ".")
        )


def _read(path: Path) -> pd.DataFrame:
    """Read all cells as text; what is a number is decided by column."""
    text = path.read_text(encoding="utf-8-sig")
    header = text.lstrip().split("\n", 1)[0]
    separator = max(SEPARATORS, key=header.count)
    if not header.count(separator):
        raise FileFormatError(
            f"{path} is text, but no table: its first line has no comma, tab or semicolon: "
            f"{header[:60]!r}."
        )
    try:
        rows = list(csv.reader(StringIO(text, newline=""), delimiter=separator, strict=True))
    except csv.Error as error:
        raise FileFormatError(f"{path} is no table: {error}.") from error
    names, rows = rows[0], [row for row in rows[1:] if row]
    short = [i for i, row in enumerate(rows, start=2) if len(row) != len(names)]
    if short:
        raise FileFormatError(
            f"{path} has {counted(len(names), 'column')}, but row {short[0]} has "
            f"{len(rows[short[0] - 2])}: it is damaged, or was cut short."
        )
    if len({*names}) < len(names):
        doubled = sorted({name for name in names if names.count(name) > 1})
        raise FileFormatError(f"{path} has the columns {listed(doubled)} more than once.")
    if not rows:
        raise DataError(f"{path} has a header, but no rows.")
    return pd.DataFrame(rows, columns=pd.Index(names), dtype=object)


def _from_wide(table: pd.DataFrame, options: Options, path: Path) -> xr.DataArray:
    """Build a recording with a unit per column, or a square RDM or RSM."""
    name = f"table {path}"
    ids = labels(table.iloc[:, 0])
    header = np.array(table.columns[1:], dtype=np.str_)
    if len(header) and all(is_number(h) and not is_whole(h) for h in header.tolist()):
        raise FileFormatError(
            f"{path} starts with numbers ({listed(header, 3)}): its first row must name the "
            "columns, its first column the stimuli."
        )
    values = np.column_stack([numbers(table[c], str(c), path) for c in table.columns[1:]])
    square = {*header.tolist()} == {*map(str, ids.tolist())} and len(header) == len(ids)
    if square and options.kind != "recording":
        attrs = {} if options.kind is None else {"kind": options.kind}
        names = header.astype(ids.dtype) if ids.dtype.kind in "iu" else header
        coords = {"anchor": ids, "neighbor": names}
        return check_rdms(
            xr.DataArray(values, dims=("anchor", "neighbor"), coords=coords, attrs=attrs), name=name
        )
    if options.kind in ("rdm", "rsm"):
        only = sorted({*header.tolist()} ^ {*map(str, ids.tolist())})
        raise StimulusError(
            f"{path} is no square of stimuli: {listed(only)} are in its first column or in its "
            "header only."
        )
    coords = {"stimulus": ids, "unit": header}
    return check_recording(
        xr.DataArray(values, dims=("stimulus", "unit"), coords=coords), name=name
    )


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


FORMATS.add(
    Format(  # long or wide; its columns by any of `softrsa.io.labelling`
        name="table", title="a table of text (CSV)", general=True, read=read_table,
        suffix=".csv", write=write_csv,
        takes=frozenset({"variable", "kind"}), recognizes=lambda seen: seen.container == "text",
    )
)  # fmt: skip
