"""Net2Brain's files: features by image or by layer, and RDMs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from softrsa._wording import listed, natural_key
from softrsa.errors import FileFormatError, ShapeError, StimulusError, unknown_name
from softrsa.io.archives import join_layers, open_npz, open_torch, pickled_in
from softrsa.io.axes import label_rdms, to_float
from softrsa.io.labelling import Options
from softrsa.io.looking import FORMATS, Format, Look
from softrsa.io.matrices import expand_rows

CONSOLIDATED = "consolidated_"
RDM_KEYS = {"rdm", "stimuli_name", "layer_name"}


def holds_rdm(seen: Look) -> bool:
    """Tell whether a file is one of Net2Brain's RDMs of a layer."""
    torch_rdm = seen.container == "torch" and re.fullmatch(r"RDM_.*\.pt", seen.path.name)
    return (seen.container == "npz" and seen.names >= RDM_KEYS) or bool(torch_rdm)


def holds_layer(seen: Look) -> bool:
    """Tell whether a file holds one layer's features, by image."""
    return seen.container == "npz" and _layer_of(seen.path.name) is not None


def holds_files(seen: Look) -> bool:
    """Tell whether a folder holds such files, or an archive of layers for each image."""
    if seen.container != "folder":
        return False
    archives = [name for name in seen.names if name.endswith(".npz")]
    torch_rdms = [name for name in seen.names if re.fullmatch(r"RDM_.*\.pt", name)]
    return len(archives) > 1 or bool(torch_rdms) or any(map(_layer_of, archives))


def read_rdm(path: Path, options: Options) -> xr.DataArray:
    """Read one layer's RDM; what is pickled beside the numbers (`meta`) is not opened."""
    rdm, ids, layer = _open_rdm(path)
    array = label_rdms(rdm, _with_ids(options, ids, path), f"RDM in {path}")
    return array.assign_coords(layer=layer)


def read_layer(path: Path, options: Options) -> xr.DataArray:
    """Read one layer's features, by image."""
    images = _open(path)
    layers = {_layer_of(path.name) or path.stem: _rows(images, path)}
    options = _with_ids(options, _natural(images), path)
    return join_layers(layers, options.stimuli, f"{path}", options)


def read_files(path: Path, options: Options) -> xr.DataArray:
    """Read a folder: RDMs by layer, features by layer, or features by image."""
    files = sorted(path.glob("*.npz"), key=lambda file: natural_key(file.stem))
    rdms = sorted(path.glob("RDM_*"), key=lambda file: natural_key(file.stem))
    if rdms:
        return _read_rdms([f for f in rdms if f.suffix in (".npz", ".pt")], path, options)
    by_layer = [file for file in files if _layer_of(file.name)]
    if by_layer:
        layers = _read_layers(by_layer, options, path)
    else:
        layers = _read_images(files, options, path)
    ids = layers.pop("")  # the images' names go with them
    options = _with_ids(options, ids, path)
    return join_layers(layers, options.stimuli, f"features in {path}", options)


def _read_rdms(files: list[Path], path: Path, options: Options) -> xr.DataArray:
    """Stack the RDMs of several layers."""
    opened = {layer: (rdm, ids) for rdm, ids, layer in map(_open_rdm, files)}
    if options.variable is not None:
        opened = {options.variable: _pick(opened, options.variable, path)}
    _, first = next(iter(opened.values()))
    for layer, (rdm, ids) in opened.items():
        if rdm.shape[-1] != len(next(iter(opened.values()))[0]) or ids != first:
            raise StimulusError(f"The RDM of layer {layer!r} in {path} is of other stimuli.")
    stacked = np.stack([rdm for rdm, _ in opened.values()])
    leading = {"layer": np.array([*opened], dtype=np.str_)}
    return label_rdms(stacked, _with_ids(options, first, path), f"RDMs in {path}", leading)


def _read_layers(files: list[Path], options: Options, path: Path) -> dict[str, Any]:
    """Read features by layer; all layers must have the same images."""
    found = {_layer_of(file.name) or "": file for file in files}
    if options.variable is not None:
        found = {options.variable: _pick(found, options.variable, path)}
    ids: list[str] | None = None
    layers: dict[str, Any] = {}
    for layer, file in found.items():
        images = _open(file)
        if ids is not None and {*images} != {*ids}:
            raise StimulusError(
                f"{file} has other images than the layers before: "
                f"{listed(sorted({*images} ^ {*ids}))} are in one of them only."
            )
        ids = ids or _natural(images)
        layers[layer] = _rows({name: images[name] for name in ids}, file)
    return {**layers, "": ids}


def _read_images(files: list[Path], options: Options, path: Path) -> dict[str, Any]:
    """Read features by image, layer after layer."""
    images = {file.stem: _open(file) for file in files}
    first = next(iter(images.values()))
    wanted = [*first] if options.variable is None else [options.variable]
    _pick(first, wanted[0], path)
    for name, layers in images.items():
        if {*layers} != {*first}:
            raise FileFormatError(
                f"{path / name}.npz holds other layers than {files[0].name}: "
                f"{listed(sorted({*layers} ^ {*first}))} are in one of them only."
            )
    rows = {layer: _rows({n: held[layer] for n, held in images.items()}, path) for layer in wanted}
    return {**rows, "": [*images]}


def _open_rdm(path: Path) -> tuple[np.ndarray, list[str] | None, str]:
    """Read an RDM, its stimuli and its layer."""
    if path.suffix == ".pt":
        content = open_torch(path)
        if not isinstance(content, dict) or "rdm" not in content:
            raise FileFormatError(f"{path} holds no RDM of Net2Brain: it has no key 'rdm'.")
    else:
        content, pickled = open_npz(path)
        if "rdm" in pickled:
            raise pickled_in(f"The array 'rdm' in {path}")
    rdm = to_float(content["rdm"], f"RDM in {path}")
    rdm = rdm if rdm.ndim == 2 else expand_rows(rdm, f"RDM in {path}")
    ids, layer = content.get("stimuli_name"), content.get("layer_name")
    stem = path.stem.removeprefix("RDM_")
    return (
        rdm,
        None if ids is None else [str(i) for i in ids],
        stem if layer is None else str(layer),
    )


def _open(path: Path) -> dict[str, np.ndarray]:
    """Read an archive of features."""
    arrays, pickled = open_npz(path)
    if pickled:
        raise pickled_in(f"{listed(pickled)} in {path}")
    return arrays


def _rows(images: Mapping[str, np.ndarray], path: Path) -> np.ndarray:
    """Put the features of all images in rows, flattened."""
    sizes = {name: values.size for name, values in images.items()}
    if len({*sizes.values()}) > 1:
        least, most = min(sizes, key=lambda n: sizes[n]), max(sizes, key=lambda n: sizes[n])
        raise ShapeError(
            f"The features in {path} differ in size between images, from {sizes[least]} "
            f"({least!r}) to {sizes[most]} ({most!r}); pool them to one size first."
        )
    return np.stack([to_float(v, f"features in {path}").ravel() for v in images.values()])


def _with_ids(options: Options, ids: list[str] | None, path: Path) -> Options:
    """Take the file's own ids; the caller's only where it has none that can be read."""
    if ids is None:
        return options
    if options.stimuli is not None:
        raise StimulusError(f"{path} holds its own stimulus ids: leave out `stimuli`.")
    return replace(options, stimuli=np.array(ids, dtype=np.str_))


def _pick(found: Mapping[str, Any], layer: str, path: Path) -> Any:
    if layer not in found:
        raise unknown_name(f"layer in {path}:", layer, found)
    return found[layer]


def _layer_of(name: str) -> str | None:
    """Read the layer off the name of a file of features by layer."""
    found = re.fullmatch(rf".*{CONSOLIDATED}(.+)\.npz", name)
    return found[1] if found else None


def _natural(names: Iterable[str]) -> list[str]:
    """Sort names as Net2Brain does: numbers in them by value."""
    return sorted(names, key=natural_key)


for _row in (
    Format(
        name="net2brain-rdm", title="an RDM of Net2Brain", read=read_rdm,
        takes=frozenset({"stimuli"}), recognizes=holds_rdm,
    ),
    Format(
        name="net2brain-layer", title="a layer's features of Net2Brain", read=read_layer,
        recognizes=holds_layer,
    ),
    Format(
        name="net2brain", title="a folder of Net2Brain", read=read_files,
        takes=frozenset({"stimuli", "variable"}), recognizes=holds_files,
    ),
):  # fmt: skip
    FORMATS.add(_row)
