"""MATLAB files of both kinds to plain Python: structs as dictionaries, cells as object arrays."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Content = dict[str, Any]


@dataclass(frozen=True)
class Opaque:
    """A variable of a class that only MATLAB reads, such as a string array or a table."""

    kind: str


def open_matlab(path: Path) -> Content:
    """Read all variables of a file before 7.3."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatlabOpaque

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
