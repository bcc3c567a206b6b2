"""Archives of named arrays (.npz, .npy, .pt, plain HDF5) to labelled arrays, and .npz back.

Keys: ``data`` (or ``features``, ``rdm``, ``rdms``, or the only array there is), ``stimulus`` (ids
of the rows, or of both sides of RDMs), and labels of the units, such as ``region`` and ``layer``.
Files that `softrsa.io.save` wrote also hold ``dims``, ``dims.<label>`` and ``attrs`` (JSON).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn
from zipfile import ZipFile, is_zipfile

import numpy as np
import xarray as xr

from softrsa._memory import check_dataset, check_room
from softrsa._wording import ON_COMMAND_LINE, listed
from softrsa.errors import DataError, DTypeError, FileFormatError, StimulusError, unknown_name
from softrsa.io.axes import (
    checked,
    in_rows,
    label_array,
    label_participants,
    label_rdms,
    label_recording,
    of_participants,
    to_float,
)
from softrsa.io.labelling import Options, ids_of, labels_beside, may_label, meaning
from softrsa.io.looking import ALL, FORMATS, NAMED, PLAIN, Format
from softrsa.io.matrices import looks_square
from softrsa.io.schema import plain_labels

WAY_OUT = (
    "A pickle runs whatever code it carries, so softrsa opens none. If you trust whoever made it, "
    "open it yourself and save the array with `softrsa.io.save`, or as plain numbers: "
    "`numpy.savez(path, data=values.astype(float), stimulus=[str(name) for name in names])`"
)


def read_pickle(path: Path, options: Options) -> NoReturn:
    """Refuse a pickle."""
    raise FileFormatError(f"{path} is a pickle (or a joblib file, which is one). {WAY_OUT}.")


def pickled_in(what: str) -> FileFormatError:
    """Build the error for an array of objects inside another file."""
    return FileFormatError(f"{what} is pickled. {WAY_OUT}.")


def open_npy(path: Path) -> np.ndarray:
    """Read a .npy file of numbers."""
    with path.open("rb") as file:
        promised = _promised(file)
    if promised.dtype.hasobject:
        raise pickled_in(f"The array in {path}")
    check_room(f"{path}, of shape {promised.shape},", promised.nbytes)
    return np.load(path, allow_pickle=False)


def open_npz(path: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """Read the arrays of a .npz file; those that are pickled are only named."""
    with _opened_npz(path) as (promised, pickled, read):
        return {key: read(key) for key in promised}, pickled


Read = Callable[[str], np.ndarray]


@contextmanager
def _opened_npz(path: Path) -> Iterator[tuple[dict[str, np.ndarray], list[str], Read]]:
    """Give what the headers of a .npz file promise, the keys that are pickled, and what reads."""
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        promised = {key: _of_member(archive, key) for key in archive.files}
        pickled = [key for key, array in promised.items() if array.dtype.hasobject]

        def read(key: str) -> np.ndarray:
            array = promised[key]
            check_room(f"The array {key!r} in {path}, of shape {array.shape},", array.nbytes)
            return plain_labels(archive[key])

        yield {key: array for key, array in promised.items() if key not in pickled}, pickled, read


def _of_member(archive: Any, key: str) -> np.ndarray:
    member = f"{key}.npy"
    with archive.zip.open(member if member in archive.zip.namelist() else key) as stream:
        return _promised(stream)


def _promised(stream: Any) -> np.ndarray:
    """Read an array's header: an array of that shape and type, which takes no memory."""
    lib = np.lib.format
    first = lib.read_magic(stream)[0] == 1
    read_header = lib.read_array_header_1_0 if first else lib.read_array_header_2_0
    shape, _, dtype = read_header(stream)
    return np.broadcast_to(np.empty((), dtype), shape)


def _is_needed(
    key: str, array: np.ndarray, promised: Mapping[str, np.ndarray], options: Options
) -> bool:
    """Tell whether an array is read even if its numbers are not asked for: it may be labels."""
    return (
        array.dtype.kind not in "biufc"
        or key == options.ids_in
        or meaning(key.partition("_")[0]) == "stimulus"
        or f"{DIMS}.{key}" in promised
        or may_label(key, array)
    )


def open_torch(path: Path) -> Any:
    """Read a file of `torch.save` that holds tensors and plain containers, and nothing else."""
    import torch

    if is_zipfile(path):  # else it is not packed, and as large as it is on disk
        with ZipFile(path) as archive:
            check_room(str(path), sum(member.file_size for member in archive.infolist()))
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        if "weights_only" in str(error) or "Unsupported" in str(error):
            found = re.search(r"GLOBAL ([\w.]+)", str(error))
            object_ = f" ({found[1]})" if found else ""
            raise FileFormatError(
                f"{path} holds Python objects{object_}, not only tensors. {WAY_OUT}."
            ) from error
        raise
    return _to_numpy(content, path)


def _to_numpy(content: Any, path: Path) -> Any:
    """Turn tensors into arrays, inside dictionaries too."""
    import torch

    if isinstance(content, torch.Tensor):
        if content.is_complex() or content.is_sparse or content.is_quantized:
            raise DTypeError(f"{path} holds a {content.layout} tensor of {content.dtype}.")
        check_room(f"A tensor of {path}", content.numel() * content.element_size())
        half = content.dtype == torch.bfloat16  # NumPy has none
        return (content.float() if half else content).detach().cpu().numpy()
    if isinstance(content, dict):
        return {str(key): _to_numpy(value, path) for key, value in content.items()}
    return content


def open_hdf5(path: Path) -> dict[str, np.ndarray]:
    """Read the top-level arrays of an HDF5 file."""
    import h5py

    arrays = {}
    with h5py.File(path) as file:
        for key, node in file.items():
            if isinstance(node, h5py.Dataset) and node.shape:
                check_dataset(f"{path}: {key!r}", node)
                arrays[key] = _decoded(np.asarray(node[()]))
    return arrays


def _decoded(values: np.ndarray) -> np.ndarray:
    """Turn HDF5's strings, which come as bytes in objects, into strings."""
    if values.dtype.kind == "O" and all(isinstance(value, bytes) for value in values.flat):
        return np.array([value.decode() for value in values.flat]).reshape(values.shape)
    return plain_labels(values)


DATA = ("data", "features", "rdm", "rdms")
LABELS = ("region", "layer", "subject", "neuroid_id", "hemisphere")  # of units, in others' files
DIMS, ATTRS = "dims", "attrs"


def read_npy(path: Path, options: Options) -> xr.DataArray:
    """Read one array; its stimulus ids come from the caller."""
    return label_array(open_npy(path), replace(options, called=path.stem), f"array in {path}")


def read_npz(path: Path, options: Options) -> xr.DataArray:
    """Read an archive of NumPy."""
    with _opened_npz(path) as (promised, pickled, read):
        arrays = {
            key: read(key) if _is_needed(key, array, promised, options) else array
            for key, array in promised.items()
        }
        people = {} if options.variable else of_participants(arrays)
        data = arrays if people else [_data_key(arrays, pickled, options, path)]
        arrays |= {key: read(key) for key in data if arrays[key] is promised[key]}
    return _from_arrays(arrays, pickled, options, path)


def read_hdf5(path: Path, options: Options) -> xr.DataArray:
    """Read an HDF5 file of plain arrays."""
    return _from_arrays(open_hdf5(path), [], options, path)


def read_torch(path: Path, options: Options) -> xr.DataArray:
    """Read a tensor, or a dictionary of tensors by layer."""
    content = open_torch(path)
    if isinstance(content, np.ndarray):
        return label_array(content, replace(options, called=path.stem), f"tensor in {path}")
    if not isinstance(content, dict) or not content:
        raise FileFormatError(
            f"{path} holds a {type(content).__name__}, not a tensor or tensors by layer."
        )
    arrays = {key: value for key, value in content.items() if isinstance(value, np.ndarray)}
    texts = {key: np.array(value) for key, value in content.items() if _texts(value)}
    named = {"stimulus", *DATA} & {*arrays}
    if named or options.variable or len(arrays) < 2 or len({len(a) for a in arrays.values()}) > 1:
        return _from_arrays(arrays | texts, [], options, path)
    name = f"tensors in {path}"
    if options.dims is not None:
        raise DataError(
            f"{path} holds {len(arrays)} arrays, and `dims` is about one: name it with "
            f"`variable={next(iter(arrays))!r}`. {ON_COMMAND_LINE}"
        )
    shapes = {value.shape for value in arrays.values()}
    square = len(shapes) == 1 and all(map(_is_matrix, arrays.values()))
    if options.kind in ("rdm", "rsm") or (options.kind is None and square):
        stack = np.stack([to_float(value, name, options) for value in arrays.values()])
        return label_rdms(stack, replace(options, beside=texts), name, {"layer": [*arrays]})
    ids = ids_of(replace(options, beside=texts), len(next(iter(arrays.values()))), name)
    return join_layers(arrays, ids, name, options)


def _is_matrix(values: np.ndarray) -> bool:
    """Tell a square that is symmetric within rounding."""
    flat = values.ndim == 2 and values.shape[0] == values.shape[1] > 1
    return flat and values.dtype.kind in "biuf" and looks_square(values.astype(float))


def _texts(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(each, str) for each in value)


def join_layers(
    layers: Mapping[str, np.ndarray], stimuli: np.ndarray | None, name: str, options: Options
) -> xr.DataArray:
    """Put the activations of several layers side by side, labelled by layer."""
    flat = {
        key: to_float(value, name, options).reshape(len(value), -1) for key, value in layers.items()
    }
    deep = [
        key
        for key, value in layers.items()
        if value.ndim > 2 and value[0].size > max(value[0].shape)
    ]
    if deep:
        options.facts.append(f"all axes but the first of {listed(deep)} are units")
    labels = np.repeat([*flat], [value.shape[1] for value in flat.values()])
    values = np.concatenate([*flat.values()], axis=1)
    return label_recording(values, stimuli, name, {"layer": ("unit", labels)}, options)


def write_npz(array: xr.DataArray, path: Path) -> None:
    """Write a checked array with all labels and attributes."""
    content: dict[str, Any] = {"data": array.values, DIMS: np.array(array.dims, dtype=np.str_)}
    for label, coord in array.coords.items():
        if str(label) in ("data", DIMS, ATTRS):
            raise DataError(f"A label cannot be called {label!r} in a .npz file; rename it.")
        content[str(label)] = plain_labels(np.asarray(coord.values))
        content[f"{DIMS}.{label}"] = np.array(coord.dims, dtype=np.str_)
    content[ATTRS] = np.array(json.dumps({k: _plain(v) for k, v in array.attrs.items()}))
    with path.open("wb") as file:  # by a path, NumPy would choose the suffix
        np.savez_compressed(file, allow_pickle=False, **content)


def _plain(value: Any) -> Any:
    """Make an attribute what JSON knows."""
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value


def _from_arrays(
    arrays: Mapping[str, np.ndarray], pickled: list[str], options: Options, path: Path
) -> xr.DataArray:
    """Find the numbers and the labels among named arrays."""
    name = f"array in {path}"
    people = {} if options.variable else of_participants(arrays)
    if people:
        return label_participants(people, options, f"RDMs in {path}")
    key = _data_key(arrays, pickled, options, path)
    if DIMS in arrays:
        return checked(_rebuilt(arrays, key, options, path), options, name)
    if "stimulus" in pickled and options.stimuli is None:
        raise pickled_in(f"The array 'stimulus' in {path}")
    people = in_rows(arrays, key)
    if people:
        return label_participants(people, options, name)
    if "stimulus" in arrays:
        if options.stimuli is not None:
            raise StimulusError(f"{path} holds its own stimulus ids: leave out `stimuli`.")
        options = replace(options, stimuli=arrays["stimulus"])
    values = arrays[key]
    beside = labels_beside(arrays, key)
    flat = values.ndim == 2 and options.dims is None
    if flat and any(k in beside and len(beside[k]) == values.shape[1] for k in LABELS):
        if options.kind is None and _is_matrix(values):
            raise DataError(
                f"The {name} is a symmetric square beside labels of units: an RDM or RSM "
                '(`kind="rdm"`, `kind="rsm"`), or as many units as stimuli (`kind="recording"`)? '
                "On the command line: `--kind`."
            )
        kind = options.kind or "recording"  # RDMs have no units to label
        options = replace(options, kind=kind)
    called = path.stem if key in ("data", "features", "arr_0") else key
    return label_array(values, replace(options, beside=beside, called=called), name)


def _data_key(
    arrays: Mapping[str, np.ndarray], pickled: list[str], options: Options, path: Path
) -> str:
    """Choose the array to read."""
    if options.variable in pickled:
        raise pickled_in(f"The array {options.variable!r} in {path}")
    if options.variable is not None:
        if options.variable not in arrays:
            raise unknown_name(f"array in {path}:", options.variable, arrays)
        return options.variable
    found = [key for key in DATA if key in arrays] or [
        key for key, value in arrays.items() if value.ndim and value.dtype.kind in "biuf"
    ]
    found = [key for key in found if key not in labels_beside(arrays, "")] or found
    if len(found) == 1:
        return found[0]
    if found:
        shapes = ", ".join(f"{key!r} {arrays[key].shape}" for key in found[:10])
        raise FileFormatError(
            f"{path} holds {len(found)} arrays ({shapes}): say which to read with "
            f"`variable={found[0]!r}`. {ON_COMMAND_LINE}"
        )
    if pickled:
        raise pickled_in(f"All that {path} holds ({listed(pickled)})")
    raise FileFormatError(f"{path} holds no array of numbers, only {listed(arrays) or 'nothing'}.")


def _rebuilt(
    arrays: Mapping[str, np.ndarray], key: str, options: Options, path: Path
) -> xr.DataArray:
    """Put an array together as `write_npz` took it apart."""
    dims = tuple(map(str, arrays[DIMS]))
    labels = [label.removeprefix(f"{DIMS}.") for label in arrays if label.startswith(f"{DIMS}.")]
    coords = {n: (tuple(map(str, arrays[f"{DIMS}.{n}"])), arrays[n]) for n in labels}
    attrs = json.loads(str(arrays[ATTRS])) if ATTRS in arrays else {}
    if not isinstance(attrs, dict):
        raise FileFormatError(f"{path} holds `attrs` that are no JSON object: {attrs!r}.")
    values = to_float(arrays[key], f"array in {path}", options)
    return xr.DataArray(values, dims=dims, coords=coords, attrs=attrs)


for _row in (
    Format(
        name="hdf5", title="plain arrays in HDF5", general=True, read=read_hdf5, takes=NAMED,
        recognizes=lambda seen: seen.is_plain_hdf5,
    ),
    Format(
        name="npz", title="an archive of NumPy (.npz)", general=True, read=read_npz, takes=NAMED,
        suffix=".npz", write=write_npz, recognizes=lambda seen: seen.container == "npz",
    ),
    Format(
        name="npy", title="an array of NumPy (.npy)", general=True, read=read_npy,
        takes=PLAIN, recognizes=lambda seen: seen.container == "npy",
    ),
    Format(
        name="torch", title="tensors of torch (.pt)", general=True, read=read_torch, takes=NAMED,
        recognizes=lambda seen: seen.container == "torch",
    ),
    Format(
        name="pickle", title="a pickle", general=True, read=read_pickle, takes=ALL,
        recognizes=lambda seen: seen.container == "pickle",
    ),
):  # fmt: skip
    FORMATS.add(_row)
