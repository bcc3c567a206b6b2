"""Tables of text (CSV, TSV, blanks) to labelled arrays.

Wide: stimulus ids in the first column, a unit per further column. A square that is symmetric up to
rounding, or filled in one half, is an RDM or RSM; its stimuli may be named in its first column, in
its first row, in both, or nowhere. Long: a row per number, with its labels: columns ``stimulus``,
``unit``, ``value`` (and ``region``, ``layer``, ``subject``, ... of the unit), or ``anchor``,
``neighbor`` and ``dissimilarity`` or ``similarity`` (and ``subject``, ``region``, ... of the RDM).
Columns may have the names in `softrsa.io.labelling.SYNONYMS` instead, such as ``image``, ``voxel``
or ``beta``.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from softrsa._memory import check_room, gigabytes
from softrsa._wording import counted, listed
from softrsa.errors import DataError, DTypeError, FileFormatError, StimulusError
from softrsa.io.axes import (
    MATRIX_NAME,
    axis_meaning,
    checked,
    distinct,
    label_rdms,
    label_recording,
    places_of,
)
from softrsa.io.labelling import (
    NUMBERED,
    STIMULUS,
    WORDS,
    Options,
    check_ids,
    ids_of,
    known_names,
    meaning,
    renamings,
)
from softrsa.io.looking import FORMATS, SAMPLE, Format
from softrsa.io.matrices import has_even_diagonal, looks_square
from softrsa.io.schema import check_rdms, plain_labels


def labels(column: pd.Series) -> np.ndarray:
    """Read labels as integers where all are, else as text."""
    codes, found = pd.factorize(column.to_numpy(dtype=object))
    texts = [str(cell) for cell in found]
    known = np.array([int(t) for t in texts] if all(map(is_whole, texts)) else texts)
    return known[codes]


def numbers(column: pd.Series, name: str, path: Path) -> np.ndarray:
    """Read a column of numbers; an empty cell is NaN."""
    try:
        return np.array([_as_number(cell) for cell in column])
    except ValueError:
        wrong = next(cell for cell in column if not _is_value(cell))
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
    return text.isascii() and "_" not in text


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
    paired = _pairs_of(table.columns)
    known = [c for c in ("anchor", options.variable, *stimulus_pairs(table.columns)) if c in paired]
    own = [c for c in paired if c != "pattern_index"]
    chosen = known or (own if len(own) == 1 else []) or [c for c in paired if c == "pattern_index"]
    if not chosen:
        raise FileFormatError(
            f"{path} has dissimilarities, but nothing says between which stimuli: it needs the "
            "columns `anchor` and `neighbor`, or pairs such as `stimulus_1` and `stimulus_2` with "
            f"{known_names(['stimulus'])}; it has {listed(table.columns, 20)}."
        )
    return paired[chosen[0]]


def stimulus_pairs(columns: Iterable[str]) -> list[str]:
    """Name the pairs of columns that are called stimuli, best first."""
    paired = _pairs_of(columns)
    called = [name for name in paired if meaning(name) == "stimulus"]
    return [name for name in ("anchor", *STIMULUS) if name in paired] + called


def _pairs_of(columns: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Find columns for two of a kind, as `image_1` and `image_2`, or `stim_a` and `stim_b`."""
    columns = [str(column) for column in columns]
    found = {"anchor": ("anchor", "neighbor")} if {"anchor", "neighbor"} <= {*columns} else {}
    for first, second in (("_1", "_2"), ("1", "2"), ("_a", "_b"), ("_A", "_B")):
        for column in columns:
            stem = column.removesuffix(first)
            if stem != column and f"{stem}{second}" in columns:
                found.setdefault(stem.rstrip("_"), (column, f"{stem}{second}"))
    return found


def from_long(table: pd.DataFrame, options: Options, path: Path) -> xr.DataArray:
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
    return checked(xr.DataArray(values, dims=(row, "unit"), coords=coords), options, name)


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
            f"{path} has more than one value for {str(a[i])!r} and {str(b[i])!r} (row "
            f"{i + 2}): average them, or add a column that tells them apart."
        )


LONG = ("stimulus", "unit", "value")
SEPARATORS = (",", "\t", ";")


def read_table(path: Path, options: Options) -> xr.DataArray:
    """Read a table: a row per number or pair, or a grid of numbers."""
    cells = read_cells(path, options)
    header = cells[0]
    if not any(map(is_number, header)) and len(cells) > 1 and len(header) == len(cells[1]):
        named = renamings(header)
        columns = {*header, *named.values()}
        distances = {name: word for name, word in named.items() if word in VALUES}
        table = partial(_with_header, cells, path)
        if {*header} & {*VALUES} or (distances and stimulus_pairs(header)):
            _check_of_grids(options, path)
            return from_pairs(table().rename(columns=distances), options, path)
        if {*LONG} <= columns:
            _check_of_grids(options, path)
            if options.kind in ("rdm", "rsm") or options.variable is not None:
                given = "kind" if options.kind in ("rdm", "rsm") else "variable"
                raise DataError(
                    f"{path} is a long table of responses, for which `{given}` has no meaning: "
                    "leave it out."
                )
            wanted = {name: word for name, word in named.items() if word not in VALUES}
            return from_long(table().rename(columns=wanted), options, path)
    return read_grid(cells, options, path)


def _with_header(cells: list[list[str]], path: Path) -> pd.DataFrame:
    """Make a frame of texts whose first row names the columns."""
    _check_columns(cells[0], path)
    return pd.DataFrame(cells[1:], columns=pd.Index(cells[0]), dtype=object)


def _check_columns(names: list[str], path: Path) -> None:
    """Refuse columns of one name."""
    doubled = sorted(name for name, count in Counter(names).items() if count > 1)
    if doubled:
        raise FileFormatError(f"{path} has the columns {listed(doubled)} more than once.")


def _check_of_grids(options: Options, path: Path) -> None:
    """Refuse what is about grids of numbers only."""
    for name in ("stimuli", "ids_in", "halves"):
        if getattr(options, name) is not None:
            option = "stimuli" if name == "ids_in" else name
            raise StimulusError(
                f"{path} is a table with a row per number, which holds its own stimulus ids: leave "
                f"out `{option}`."
            )


def read_cells(path: Path, options: Options) -> list[list[str]]:
    """Read all cells of a text as texts; rows are of one length, but for a shorter first one."""
    _check_size(path)
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = [*islice((line for line in file if line.strip()), FIRST_LINES)]
        separator, comma = _separator(lines)
        file.seek(0)
        try:
            if separator is None:
                plain = (line.replace("\t", " ").strip() for line in file)
                reader = csv.reader(plain, delimiter=" ", skipinitialspace=True)
                cells = [row for row in reader if row]
            else:
                reader = csv.reader(file, delimiter=separator, strict=True)
                cells = [row for row in reader if row and not _names_separator(row)]
        except csv.Error as error:
            raise FileFormatError(f"{path} is no table: {error}.") from error
    if separator is None and min(map(len, cells), default=0) < 2:
        raise FileFormatError(
            f"{path} is text, but no table: its first line has no comma, tab, semicolon or blank: "
            f"{lines[0].rstrip()[:60] if lines else ''!r}."
        )
    if comma:
        options.facts.append(f"decimals of {path} have a comma")
        cells = [[DECIMAL_COMMA.sub(r"\1.\2", cell.strip()) for cell in row] for row in cells]
    width = len(cells[1]) if len(cells) > 1 else len(cells[0])
    wrong = [i for i, row in enumerate(cells[1:], start=2) if len(row) != width]
    if wrong or len(cells[0]) not in (width, width - 1):
        row = wrong[0] if wrong and len(cells[0]) in (width, width - 1) else 2
        raise FileFormatError(
            f"{path} has {counted(len(cells[0]), 'column')}, but row {row} has "
            f"{len(cells[row - 1])}: it is damaged, or was cut short."
        )
    if len(cells) < 2:
        raise DataError(f"{path} has a header, but no rows.")
    return cells


def _names_separator(row: list[str]) -> bool:
    """Tell the line `sep=;` that Excel writes first."""
    return row[0].lower() == "sep=" and not any(row[1:])


def _check_size(path: Path) -> None:
    """Refuse a text whose cells would not fit into memory, by how many there are at its start."""
    with path.open("rb") as file:
        start = file.read(SAMPLE)
    cells = max(start.count(mark) for mark in (b",", b"\t", b";", b" ")) / max(1, len(start))
    size = path.stat().st_size
    check_room(f"{path}, a text of {gigabytes(size)},", size * (1 + BYTES_OF_CELL * cells))


BYTES_OF_CELL = 80  # as text and as number
FIRST_LINES = 100  # that tell how cells are separated
DECIMAL_COMMA = re.compile(r"^([+-]?\d*),(\d+(?:[eE][+-]?\d+)?)$")


def _separator(lines: list[str]) -> tuple[str | None, bool]:
    """Find what separates cells (None for blanks), and whether decimals have a comma."""
    first = lines[0] if lines else ""
    if ";" in first:
        rows = [line.rstrip("\r\n").split(";") for line in lines]
        commas = [cell.strip() for row in rows for cell in row if "," in cell]
        even = len({len(row) for row in rows[1:]}) < 2
        if commas and even and all(map(DECIMAL_COMMA.match, commas)):
            return ";", True
    separator = max(SEPARATORS, key=first.count)
    return (separator, False) if first.count(separator) else (None, False)


MISSING = ("", "na", "n/a", "#n/a", "nan", "null", "none", ".", "-")
GENERIC = re.compile(r"(v|x|var|col|column|c|unnamed:)[ _.]?\d+", re.IGNORECASE)


def _is_value(text: str) -> bool:
    """Tell numbers and what stands for a missing one from other texts."""
    return is_number(text) or text.lower() in MISSING


def _as_number(text: str) -> float:
    return float("nan" if text.lower() in MISSING else text)


@dataclass(frozen=True)
class Grid:
    """A table of numbers, with the names of its rows and columns where it has them."""

    values: np.ndarray
    rows: list[str] | None
    columns: list[str] | None
    corner: str = ""


def read_grid(cells: list[list[str]], options: Options, path: Path) -> xr.DataArray:
    """Read a grid: a square RDM or RSM, or a recording with a unit per column."""
    name = f"table {path}"
    if options.variable is not None:
        raise DataError(f"{path} is one table, for which `variable` has no meaning: leave it out.")
    for row in cells:  # in place: a copy takes as much again
        row[:] = [cell.strip() for cell in row]
    square = None if options.kind == "recording" else _square(cells, options, path)
    if square is not None:
        values, ids = _square_ids(square, options, path)
        own = replace(options, stimuli=ids, ids_in=None)
        return label_rdms(values, own, name)
    if options.kind is not None and options.kind != "recording":
        raise StimulusError(
            f"{path} is no square of stimuli: it has {counted(len(cells), 'row')} and "
            f"{counted(len(cells[1]), 'column')}, names included."
        )
    grid = _recording(cells, options, path)
    ids = grid.rows
    if options.stimuli is not None or options.ids_in is not None:
        _check_nameless(ids, path)
        stimuli = check_ids(ids_of(options, len(grid.values), name), len(grid.values), name)
    else:
        stimuli = None if ids is None else plain_ids(ids)
    values, columns = grid.values, grid.columns
    coords: dict[str, tuple[str, np.ndarray]] = {}
    if columns is not None:
        labels = [axis_meaning(column) in OF_ROWS for column in columns]
        for j in np.flatnonzero(labels):
            row = values[:, j]
            whole = bool((row == np.round(row)).all())
            key = axis_meaning(columns[j])
            coords[key if key != "trial" else columns[j]] = (
                "stimulus", row.astype(np.int64) if whole else row,
            )  # fmt: skip
        kept = ~np.array(labels)
        values, columns = (
            values[:, kept],
            [c for c, unit in zip(columns, kept, strict=True) if unit],
        )
        if coords:
            options.facts.append(f"columns of {path} that label its rows: {', '.join(coords)}")
        coords["unit"] = ("unit", np.array(columns))
    return label_recording(values, stimuli, name, coords, options)


def _check_nameless(names: list[str] | None, path: Path) -> None:
    """Refuse ids for stimuli that have names."""
    if not _is_numbering(names):
        raise StimulusError(
            f"{path} holds its own stimulus ids ({listed(names or [], 3)}): leave out `stimuli`, "
            "and rename ids with `array.assign_coords` where needed."
        )


OF_ROWS = ("region", "layer", "subject", "session", "trial", "time")  # columns that are no units


def plain_ids(texts: list[str]) -> np.ndarray:
    """Read ids as integers where all are, else as text."""
    return np.array([int(t) for t in texts] if all(map(is_whole, texts)) else texts)


def _square(cells: list[list[str]], options: Options, path: Path) -> Grid | None:
    """Find the square among a table's numbers, with names on both sides, one, or none."""
    n_rows, n_columns = len(cells), len(cells[1])
    short = len(cells[0]) < n_columns  # R leaves the corner out
    header = short or not all(map(_is_value, cells[0])) or not cells[0][0]
    header = header and any(cells[0])
    named = short or not all(_is_value(row[0]) for row in cells[header:])
    if n_rows == n_columns:
        header = named = short or (header and not is_number(cells[0][0]))
        if not header and not all(map(_is_value, cells[0])):
            return None
    elif n_rows - 1 == n_columns and not short:
        header, named = True, False
    elif n_rows == n_columns - 1 and not short:
        header, named = False, True
    elif not (short and n_rows == n_columns):
        return None
    grid = _grid(cells, header=header, named=named)
    if grid is None or len(grid.values) < 2:
        return None
    same = grid.rows is not None and {*grid.rows} == {*(grid.columns or [])}
    told = options.kind is not None or MATRIX_NAME.search(path.stem.lower())
    values = grid.values
    return grid if same or told or looks_square(values) or has_even_diagonal(values) else None


def _grid(cells: list[list[str]], *, header: bool, named: bool) -> Grid | None:
    """Take names off a table; None where other texts are left."""
    values = np.empty((len(cells) - header, len(cells[-1]) - named))
    for place, row in zip(values, cells[header:], strict=True):
        if not _fill(place, row[named:]):
            return None
    short = header and len(cells[0]) < len(cells[1])
    columns = cells[0][named and not short :] if header else None
    return Grid(
        values,
        [row[0] for row in cells[header:]] if named else None,
        columns,
        cells[0][0] if header and not short else "",
    )


def _fill(place: np.ndarray, row: list[str]) -> bool:
    """Write a row of texts as numbers, if all are."""
    try:
        if any("_" in cell or not cell.isascii() for cell in row):
            raise ValueError
        place[:] = row
    except ValueError:
        if not all(map(_is_value, row)):
            return False
        place[:] = [*map(_as_number, row)]
    return True


def _square_ids(grid: Grid, options: Options, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Find the stimulus ids of a square: the caller's, or names of the side that has them."""
    n = len(grid.values)
    name = f"table {path}"
    rows = None if _is_numbering(grid.rows) else grid.rows
    columns = None if _is_numbering(grid.columns) else grid.columns
    if options.stimuli is not None or options.ids_in is not None:
        if not (rows and columns) or {*rows} == {*columns}:
            _check_nameless(rows or columns, path)
        return grid.values, ids_of(options, n, name)
    if rows and columns and {*rows} != {*columns}:
        if [_mangled(row) for row in rows] == [_mangled(column) for column in columns]:
            columns = None
        else:
            only = sorted({*rows} ^ {*columns})
            raise StimulusError(
                f"{path} is a square whose rows and columns have other names: {listed(only)} are "
                "on one side only. Give the ids with `stimuli=[...]` (`--stimuli FILE`), or say "
                '`kind="recording"` (`--kind recording`) if its columns are units.'
            )
    if rows and columns:
        places = {column: i for i, column in enumerate(columns)}
        return grid.values[:, [places[row] for row in rows]], plain_ids(rows)
    for side, names in (("rows", rows), ("columns", columns)):
        if names:
            if grid.rows != grid.columns:
                options.facts.append(f"the stimuli of {path} have the names of its {side}")
            return grid.values, plain_ids(names)
    known = grid.rows or grid.columns
    whole = known is not None and all(map(is_whole, known))
    if not (grid.rows and grid.columns and whole and grid.rows == grid.columns):
        start = int(known[0]) if known and whole else 0
        options.notes.append(
            f"the {n} stimuli of {path} have no names and are numbered from {start}; give ids with "
            "`stimuli` (`--stimuli`)"
        )
    return grid.values, plain_ids(known) if known and whole else np.arange(n)


def _is_numbering(names: list[str] | None) -> bool:
    """Tell names that say nothing: 0, 1, ..., as V1, V2, ... or empty ones."""
    if names is None:
        return True
    counts = [[str(i + start) for i in range(len(names))] for start in (0, 1)]
    return names in counts or all(not name or GENERIC.fullmatch(name) for name in names)


def _mangled(name: str) -> str:
    """Make a name what R and pandas make of it where it heads a column."""
    return re.sub(r"^X(?=[\d_])|[^A-Za-z0-9]|\.\d+$", "", name)


def _recording(cells: list[list[str]], options: Options, path: Path) -> Grid:
    """Tell the names of a recording's rows and columns from its numbers."""
    first = cells[0]
    short = len(first) < len(cells[1])
    given = None if options.stimuli is None else len(options.stimuli)
    numbers_first = all(map(_is_value, first[1:])) and not short
    if numbers_first and is_number(first[0]):
        if given is None and options.ids_in is None:
            raise FileFormatError(
                f"{path} starts with numbers ({listed(first, 3)}): its first row must name the "
                "columns, its first column the stimuli; or give the ids of its "
                f"{len(cells)} rows with `stimuli=[...]` (`--stimuli FILE`, `--stimuli numbered`)."
            )
        return _complete(cells, options, path, header=False, named=False)
    header = short or not numbers_first or not first[0] or _heads_ids(first, path)
    body = cells[header:]
    texts = short or not all(_is_value(row[0]) for row in body)
    whole = all(re.fullmatch(r"-?\d+", row[0]) for row in body)
    given = len(body) if options.ids_in == NUMBERED else given
    if not texts and len(body) == given:
        called = meaning(first[0]) == "stimulus" or not first[0]
        return _complete(cells, options, path, header=header, named=header and called)
    if not texts and not (whole and (short or not first[0] or _called_ids(first[0]))):
        raise StimulusError(
            f"The first column of {path}, {first[0]!r}, holds numbers such as {body[0][0]!r}: are "
            f"these stimulus ids, or values? Call it `stimulus` if they are ids; else give the ids "
            f"of its {len(body)} rows with `stimuli=[...]` (`--stimuli FILE`, `--stimuli "
            "numbered`)."
        )
    return _complete(cells, options, path, header=header, named=True)


def _called_ids(name: str) -> bool:
    """Tell the name of a column of stimulus ids."""
    return meaning(name) == "stimulus" or name.lower() in ID_COLUMNS


ID_COLUMNS = ("id", "ids", "index", "name", "names", "row", "rownames", "unnamed: 0", "label")


def _heads_ids(first: list[str], path: Path) -> bool:
    """Tell a first row of numbers that are names of units from one of values."""
    if _called_ids(first[0]):
        return True
    if _is_numbering(first[1:]):
        return True
    if all(map(is_whole, first[1:])) and len({*first[1:]}) == len(first[1:]):
        raise FileFormatError(
            f"Are the numbers in the first row of {path} ({listed(first, 4)}) names of units, or "
            "values? Put `stimulus` into its first cell if they are names; else write a row of "
            "names above them."
        )
    return False


def _complete(
    cells: list[list[str]], options: Options, path: Path, *, header: bool, named: bool
) -> Grid:
    """Take names off a table; refuse texts among its numbers."""
    grid = _grid(cells, header=header, named=named)
    if grid is None:
        raise _wrong_cell(cells, path, header=header, named=named)
    if header and grid.columns is not None:
        _check_columns(grid.columns, path)
    return grid


def _wrong_cell(cells: list[list[str]], path: Path, *, header: bool, named: bool) -> DTypeError:
    """Word the refusal of a text among numbers: a long table whose columns are not known, maybe."""
    at, wrong = next(
        (j, cell) for row in cells[header:] for j, cell in enumerate(row[named:], start=named)
        if not _is_value(cell)
    )  # fmt: skip
    names = cells[0]
    found = {meaning(name) for name in names} & {*LONG}
    lacking = [word for word in LONG if word not in found]
    return DTypeError(
        f"The column {names[at]!r} of {path} holds {wrong!r}, which is no number. A wide table "
        "has stimulus ids in its first column and numbers in all others. A long table, a row "
        f"per number, has the columns {known_names(LONG)}, and perhaps "
        f"{known_names(('region', 'layer', 'subject', 'session'))}, or for RDMs `anchor`, "
        f"`neighbor` and {known_names(VALUES)}. This one has {listed(names, 20)}"
        + (f": it lacks {listed(lacking)}." if len(lacking) < len(LONG) else ".")
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
        takes=frozenset({"variable", "kind", "stimuli", "halves"}),
        recognizes=lambda seen: seen.container == "text",
    )
)  # fmt: skip
