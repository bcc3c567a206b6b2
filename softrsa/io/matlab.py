"""What MATLAB files hold to labelled arrays: structs of RDMs, stacks, plain matrices."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from softrsa._memory import check_dataset, check_room
from softrsa._wording import ON_COMMAND_LINE, listed
from softrsa.errors import FileFormatError, ShapeError, StimulusError, unknown_name
from softrsa.io.axes import (
    in_rows,
    label_array,
    label_participants,
    label_rdms,
    of_participants,
    stack_rows,
    to_float,
)
from softrsa.io.labelling import Options, labels_beside, meaning
from softrsa.io.looking import FORMATS, NAMED, Format
from softrsa.io.matrices import expand_rows, n_stimuli

Content = dict[str, Any]
SIZES = {"double": 8, "single": 4, "int64": 8, "uint64": 8, "int32": 4, "uint32": 4}  # at least


@dataclass(frozen=True)
class Opaque:
    """A variable of a class that only MATLAB reads, such as a string array or a table."""

    kind: str


def open_matlab(path: Path) -> Content:
    """Read all variables of a file before 7.3."""
    from scipy.io import loadmat, whosmat
    from scipy.io.matlab import MatlabOpaque

    for name, shape, kind in whosmat(path):
        check_room(f"{path}: {name!r}, of shape {shape},", math.prod(shape) * SIZES.get(kind, 1))
    found = loadmat(path, chars_as_strings=True)
    content: Content = {}
    for name, value in found.items():
        if isinstance(value, MatlabOpaque):  # SciPy gives its name in itself
            content[_text(value["s0"].flat[0])] = Opaque(_text(value["s2"].flat[0]))
        elif not name.startswith("__"):
            content[name] = _plain(value)
    return content


def open_matlab73(path: Path) -> Content:
    """Read all variables of a file of 7.3, which is HDF5 with its axes the other way round."""
    import h5py

    with h5py.File(path) as file:
        return {n: _node(file[n], file) for n in map(str, file) if not n.startswith("#")}


def _plain(value: Any) -> Any:
    """Convert what SciPy gives: records to dictionaries, characters to strings."""
    if not isinstance(value, np.ndarray):
        return value
    if value.dtype.names:
        records = np.empty(value.shape, dtype=object)
        for place in np.ndindex(value.shape):
            records[place] = {name: _plain(value[place][name]) for name in value.dtype.names}
        return records.flat[0] if records.size == 1 else records
    if value.dtype.kind == "O":
        cells = np.empty(value.shape, dtype=object)
        for place in np.ndindex(value.shape):
            cells[place] = _plain(value[place])
        return cells
    if value.dtype.kind == "U":
        rows = [row.rstrip() for row in value.ravel().tolist()]
        return rows[0] if len(rows) == 1 else np.array(rows)
    return value


def _node(node: Any, file: Any) -> Any:
    """Convert a variable of a 7.3 file."""
    import h5py

    if isinstance(node, h5py.Group):
        return _struct({n: _node(node[n], file) for n in map(str, node)}, node)
    kind = _text(node.attrs.get("MATLAB_class", b""))
    if "MATLAB_object_decode" in node.attrs and kind not in ("function_handle", "char"):
        return Opaque(kind)
    if node.attrs.get("MATLAB_empty"):
        return "" if kind == "char" else np.zeros(0)
    check_dataset(f"{node.file.filename}: {node.name}", node)
    values = np.asarray(node[()])
    if h5py.check_ref_dtype(node.dtype) is h5py.Reference:
        cells = np.empty(values.shape, dtype=object)
        for place in np.ndindex(values.shape):
            cells[place] = _node(file[values[place]], file)
        return cells.T
    if kind == "char":
        rows = ["".join(map(chr, row)).rstrip() for row in np.atleast_2d(values.T).tolist()]
        return rows[0] if len(rows) == 1 else np.array(rows)
    return values.T if values.dtype.names is None else values


def _struct(fields: dict[str, Any], group: Any) -> Any:
    """Tell one struct from an array of structs, each of whose fields is a list of references."""
    import h5py

    listed = [
        isinstance(node, h5py.Dataset)
        and h5py.check_ref_dtype(node.dtype) is h5py.Reference
        and "MATLAB_class" not in node.attrs  # a cell has one
        for node in group.values()
    ]
    if not fields or not all(listed):
        return fields
    shape = next(iter(fields.values())).shape
    records = np.empty(shape, dtype=object)
    for place in np.ndindex(shape):
        records[place] = {name: values[place] for name, values in fields.items()}
    return records.flat[0] if records.size == 1 else records


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


RDM = ("rdm", "rdms")
ROW_LABELS = {  # fields beside `rdm` that say of whom, of what and when a row is
    "subj": "subject", "subject": "subject", "sub": "subject", "participant": "subject",
    "roi": "region", "region": "region", "layer": "layer", "session": "session", "ses": "session",
    "time": "time",
}  # fmt: skip


def _convert(content: Content, options: Options, path: Path) -> xr.DataArray:
    """Choose the variable and label what it holds."""
    people = {} if options.variable else of_participants(content)
    if people:
        return label_participants(people, options, f"RDMs in {path}")
    name = _choose(content, options.variable, path)
    value, title = content[name], f"variable {name!r} of {path}"
    people = in_rows(content, name)
    if people:
        return label_participants(people, options, title)
    options = replace(options, beside=labels_beside(content, name), called=name)
    try:
        return _label(value, options, title)
    except StimulusError as error:
        closed = [key for key, held in content.items() if isinstance(held, Opaque)]
        if options.stimuli is not None or not closed:
            raise
        raise StimulusError(
            f"{error} The file also holds {listed(closed)}, {content[closed[0]].kind} objects that "
            f"only MATLAB reads: save texts there as `cellstr({closed[0]})`."
        ) from error


def _label(value: Any, options: Options, title: str) -> xr.DataArray:
    """Label what a variable holds."""
    if isinstance(value, dict):
        return _from_struct(value, options, title)
    if isinstance(value, np.ndarray) and value.dtype == object:
        return _from_cells(value, options, title)
    if isinstance(value, str):
        raise FileFormatError(f"The {title} is the text {value!r}, no numbers.")
    if isinstance(value, Opaque):
        raise FileFormatError(f"The {title} is a {value.kind} object, which only MATLAB reads.")
    numbers = to_float(value, title, options)
    return label_array(
        numbers if _of_one_unit(numbers, options) else _squeezed(numbers), options, title
    )


def _of_one_unit(values: np.ndarray, options: Options) -> bool:
    """Tell a row or column with an id per number from the upper triangle of an RDM."""
    rows = [*options.beside.values()] if options.stimuli is None else [options.stimuli]
    lengths = {len(row) for row in rows}
    if values.ndim != 2 or 1 not in values.shape or values.size not in lengths:
        return False
    return values.shape[1] == 1 or (
        options.stimuli is None and n_stimuli(values.size) not in lengths
    )


def _choose(content: Content, variable: str | None, path: Path) -> str:
    """Take the variable asked for, or the only one that could hold recordings or RDMs."""
    if variable is not None:
        if variable not in content:
            raise unknown_name(f"variable in {path}:", variable, content)
        return variable
    able = [name for name, value in content.items() if _able(value)]
    able = [name for name in able if name not in labels_beside(content, "")] or able
    if len(able) == 1:
        return able[0]
    shown = ", ".join(f"{name} ({_described(content[name])})" for name in able or content)
    if able:
        raise FileFormatError(
            f"{path} holds {len(able)} variables ({shown}): say which to read with "
            f"`variable={able[0]!r}`. {ON_COMMAND_LINE}"
        )
    raise FileFormatError(
        f"{path} holds no recordings and no RDMs, only {shown or 'nothing'}. Known are matrices, "
        "stacks of them, and structs with a field `RDM` or `rdm`."
    )


def _able(value: Any) -> bool:
    """Tell whether a variable could be recordings or RDMs."""
    if isinstance(value, dict):
        return _field(value, RDM) is not None
    if not isinstance(value, np.ndarray):
        return False
    if value.dtype == object:
        first = value.flat[0] if value.size else None
        return _able(first) if isinstance(first, dict) else getattr(first, "size", 0) > 1
    return value.dtype.kind in "biuf" and value.size > 1


def _described(value: Any) -> str:
    if isinstance(value, dict):
        return f"struct with {listed(value)}"
    if isinstance(value, np.ndarray):
        kind = value.dtype if value.dtype != object else "cells or structs"
        return f"{' x '.join(map(str, value.shape))} {kind}"
    return f"{value.kind} object" if isinstance(value, Opaque) else type(value).__name__


def _field(struct: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    """Find a field whatever its capitals."""
    return next((value for key, value in struct.items() if key.lower() in names), None)


def _from_struct(struct: Mapping[str, Any], options: Options, title: str) -> xr.DataArray:
    """Label one struct: a field `rdm`, and perhaps one label per row or matrix."""
    values = _field(struct, RDM)
    if values is None:
        raise FileFormatError(f"The {title} is a struct without `RDM` or `rdm`: {listed(struct)}.")
    if isinstance(values, np.ndarray) and values.dtype == object:
        return _from_cells(values, options, title)
    values = to_float(values, title)
    labels = {
        ROW_LABELS[key.lower()]: np.asarray(_texts(held)).ravel()
        for key, held in struct.items()
        if key.lower() in ROW_LABELS and np.size(_texts(held)) == len(values)
    }
    if not labels:
        return label_array(_squeezed(values), _as_rdm(options), title)
    return _from_rows(values, labels, options, title)


def _from_rows(
    values: np.ndarray, labels: dict[str, np.ndarray], options: Options, title: str
) -> xr.DataArray:
    """Label rows (upper triangles or matrices) by subject, region and the like."""
    diagonal = 1.0 if options.kind == "rsm" else 0.0
    squares = values if values.ndim > 2 else expand_rows(values, title, diagonal)
    labels = {dim: _whole(held) for dim, held in labels.items()}
    grid, leading, _ = stack_rows(squares, labels, title)
    return label_rdms(grid, _as_rdm(options), title, leading)


def _from_cells(cells: np.ndarray, options: Options, title: str) -> xr.DataArray:
    """Stack an array of structs with RDMs (and names), or of cells with matrices."""
    cells = np.squeeze(cells)
    shape = cells.shape
    structs = [*cells.flat] if cells.ndim else [cells.item()]
    named = all(isinstance(each, dict) for each in structs)
    found = [_field(each, RDM) if named else each for each in structs]
    if any(not isinstance(each, np.ndarray) or each.dtype == object for each in found):
        raise FileFormatError(
            f"The {title} must be structs with a field `RDM`, or cells with a matrix each; got "
            f"{_described(structs[0])}."
        )
    orders = [_order(each) for each in structs] if named else []
    orders = [ids for ids in orders if ids is not None]
    if len(orders) == len(structs) > 1 == len(shape):
        people = dict(enumerate(zip(found, orders, strict=True), start=1))
        return label_participants(people, _as_rdm(options), title)
    squares = [_square(to_float(each, title), options, title) for each in found]
    if len({each.shape for each in squares}) > 1:
        sizes = [each.shape[0] for each in squares]
        raise ShapeError(f"The RDMs in the {title} have other numbers of stimuli: {listed(sizes)}.")
    names = [_field(each, ("name",)) if named else None for each in structs]
    stacked = np.stack(squares).reshape(*shape, *squares[0].shape)
    dims = {0: (), 1: ("subject",), 2: ("subject", "session")}.get(len(shape))
    if dims is None:
        raise ShapeError(f"The {title} has {len(shape)} axes of RDMs; at most 2 can be read.")
    leading: dict[str, Any] = {d: np.arange(1, n + 1) for d, n in zip(dims, shape, strict=True)}
    texts = np.array(names) if all(isinstance(each, str) for each in names) else None
    if texts is not None and len(dims) == 1 and len(np.unique(texts)) == len(texts):
        leading["subject"] = texts
    array = label_rdms(stacked, _as_rdm(options), title, leading)
    return array if texts is None else array.assign_coords(name=(dims, texts.reshape(shape)))


def _order(struct: Mapping[str, Any]) -> np.ndarray | None:
    """Find the stimulus ids of one struct."""
    for key, held in struct.items():
        texts = _texts(held)
        if meaning(key) == "stimulus" and isinstance(texts, np.ndarray) and texts.size > 1:
            return _whole(texts.ravel())
    return None


def _square(values: np.ndarray, options: Options, title: str) -> np.ndarray:
    """Make a square of an upper triangle."""
    values = _squeezed(values)
    if values.ndim == 1:
        return expand_rows(values, title, 1.0 if options.kind == "rsm" else 0.0)
    if values.ndim != 2 or values.shape[0] != values.shape[1]:
        raise ShapeError(f"The {title} holds an RDM of shape {values.shape}.")
    return values


def _squeezed(values: np.ndarray) -> np.ndarray:
    """Make a vector of MATLAB's (1, n) and (n, 1)."""
    return values.ravel() if values.ndim == 2 and 1 in values.shape else values


def _as_rdm(options: Options) -> Options:
    """Take what is called an RDM for one, unless told otherwise."""
    return options if options.kind else replace(options, kind="rdm")


def _texts(values: Any) -> Any:
    """Make a cell of texts an array of them."""
    if isinstance(values, np.ndarray) and values.dtype == object:
        return np.array([str(each) for each in values.flat])
    return values


def _whole(labels: np.ndarray) -> np.ndarray:
    """Make MATLAB's doubles that count integers again."""
    whole = labels.dtype.kind in "biuf" and (labels == np.round(labels)).all()
    return labels.astype(np.int64) if whole else labels


FORMATS.add(
    Format(
        name="matlab", title="a MATLAB file", general=True, takes=NAMED,
        recognizes=lambda seen: seen.container == "matlab5",
        read=lambda path, options: _convert(open_matlab(path), options, path),
    )
)  # fmt: skip
FORMATS.add(
    Format(
        name="matlab73", title="a MATLAB 7.3 file", general=True, takes=NAMED,
        recognizes=lambda seen: seen.container == "matlab73",
        read=lambda path, options: _convert(open_matlab73(path), options, path),
    )
)  # fmt: skip
