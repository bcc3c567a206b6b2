"""Files of plain named arrays: .npy, .npz, .pt and HDF5, opened without pickle."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from softrsa.errors import DTypeError, FileFormatError
from softrsa.io.labels import plain_labels
from softrsa.io.pickles import WAY_OUT, pickled_in


def open_npy(path: Path) -> np.ndarray:
    """Read a .npy file of numbers."""
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        major = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
        dtype = major.get(version[0], major[2])(file)[2]
    if dtype.hasobject:
        raise pickled_in(f"The array in {path}")
    return np.load(path, allow_pickle=False)


def open_npz(path: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """Read the arrays of a .npz file; those that are pickled are only named."""
    arrays, pickled = {}, []
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        for key in archive.files:
            if _is_pickled(archive, key):
                pickled.append(key)
            else:
                arrays[key] = plain_labels(archive[key])
    return arrays, pickled


def _is_pickled(archive: Any, key: str) -> bool:
    """Tell from an array's header whether it holds Python objects."""
    member = f"{key}.npy"
    with archive.zip.open(member if member in archive.zip.namelist() else key) as stream:
        version = np.lib.format.read_magic(stream)
        header = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        return header(stream)[2].hasobject


def open_torch(path: Path) -> Any:
    """Read a file of `torch.save` that holds tensors and plain containers, and nothing else."""
    import torch

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
        half = content.dtype == torch.bfloat16  # NumPy has none
        return (content.float() if half else content).detach().cpu().numpy()
    if isinstance(content, dict):
        return {str(key): _to_numpy(value, path) for key, value in content.items()}
    return content


def open_hdf5(path: Path) -> dict[str, np.ndarray]:
    """Read the top-level arrays of an HDF5 file."""
    import h5py

    with h5py.File(path) as file:
        found = {key: node for key, node in file.items() if isinstance(node, h5py.Dataset)}
        arrays = {key: np.asarray(node[()]) for key, node in found.items() if node.shape}
    return {key: _decoded(values) for key, values in arrays.items()}


def _decoded(values: np.ndarray) -> np.ndarray:
    """Turn HDF5's strings, which come as bytes in objects, into strings."""
    if values.dtype.kind == "O" and all(isinstance(value, bytes) for value in values.flat):
        return np.array([value.decode() for value in values.flat]).reshape(values.shape)
    return plain_labels(values)
