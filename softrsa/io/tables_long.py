"""Long tables: a row per number, with its labels beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from softrsa.errors import DataError, FileFormatError
from softrsa.io.cells import labels, numbers
from softrsa.io.options import Options
from softrsa.io.rsatoolbox import STIMULUS, WORDS
from softrsa.io.schema import check_recording, check_trials
from softrsa.io.stacks import check_rdms
from softrsa.io.synonyms import known_names, meaning
from softrsa.io.wording import counted, listed

VALUES = {"dissimilarity": "rdm", "similarity": "rsm"}
UNIT_LABELS = ("region", "layer", "subject", "session", "hemisphere", "neuroid_id")


def from_pairs(table: pd.DataFrame, options: Options, path: Path) -> xr.DataArray:
    """Build RDMs of a row per pair; the other way round and the diagonal may be left out."""
    value = next(name for name in VALUES if name in table.columns)
    anchors, neighbors = (labels(table[c]) for c in _pair_columns(table, options, path))
    if anchors.dtype.kind != neighbors.dtype.kind:
        anchors, neighbors = anchors.astype(np.str_), neighbors.astype(np.str_)
    given = _leading(table)
    known = {dim: _distinct(found) for dim, found in given.items()}
    known["anchor"] = known["neighbor"] = _distinct(np.concatenate([anchors, neighbors]))
    given |= {"anchor": anchors, "neighbor": neighbors}
    place = tuple(_places(found, known[dim]) for dim, found in given.items())
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


def _distinct(found: np.ndarray) -> np.ndarray:
    return np.array([*dict.fromkeys(found.tolist())])


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


def _places(labels: np.ndarray, known: np.ndarray) -> np.ndarray:
    places = {label: i for i, label in enumerate(known.tolist())}
    return np.array([places[label] for label in labels.tolist()], dtype=np.int64)
