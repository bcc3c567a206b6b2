"""Tables of text (CSV, TSV) to labelled arrays.

Wide: stimulus ids in the first column, a unit per further column; with the same ids in the header
it is a square RDM or RSM. Long: a row per number, with its labels beside it: columns ``stimulus``,
``unit``, ``value`` (and ``region``, ``layer``, ``subject``, ... of the unit), or ``anchor``,
``neighbor`` and ``dissimilarity`` or ``similarity`` (and ``subject``, ``region``, ... of the RDM).
Columns may have the names in `softrsa.io.synonyms` instead, such as ``image``, ``voxel``, ``beta``.
"""

from __future__ import annotations

import csv
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from softrsa.errors import DataError, DTypeError, FileFormatError, StimulusError
from softrsa.io.cells import is_number, is_whole, labels, numbers
from softrsa.io.options import Options
from softrsa.io.schema import check_recording
from softrsa.io.stacks import check_rdms
from softrsa.io.synonyms import known_names, meaning, renamings
from softrsa.io.tables_long import VALUES, from_long, from_pairs, stimulus_pairs
from softrsa.io.wording import counted, listed

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
