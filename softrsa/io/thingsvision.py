"""Folders of thingsvision: `features.*` with `file_names.txt`, split or streamed, by module."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np
import xarray as xr

from softrsa._wording import listed, natural_key
from softrsa.errors import FileFormatError, ShapeError, unknown_name
from softrsa.io.archives import join_layers, open_hdf5, open_npy, open_torch
from softrsa.io.axes import label_recording, to_float
from softrsa.io.labelling import Options
from softrsa.io.looking import FORMATS, Format, Look

NAMES = "file_names.txt"
IMAGES = (".eps", ".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".gif")
FEATURES = re.compile(
    r"features(?P<set>.*?)(?:_(?P<first>\d+)-(?P<last>\d+)|_(?P<part>\d+))?"
    r"\.(?P<format>npy|pt|hdf5|h5|mat|txt)"
)


def holds_features(seen: Look) -> bool:
    """Tell whether a folder, or a folder in it, holds features."""
    return seen.container == "folder" and bool(_modules(seen.path))


def read_folder(path: Path, options: Options) -> xr.DataArray:
    """Read features with the ids of `file_names.txt`, of all modules or the one asked for."""
    modules = _modules(path)
    if options.variable is not None:
        if options.variable not in modules:
            raise unknown_name(f"module in {path}:", options.variable, filter(None, modules))
        modules = {options.variable: modules[options.variable]}
    names = _file_names(path, [*modules.values()])
    stimuli = options.stimuli if options.stimuli is not None or names is None else _ids(names)
    layers = {module: _read(folder, names) for module, folder in modules.items()}
    title = f"features in {path}"
    if [*layers] == [""]:
        values = layers[""]
        return label_recording(values.reshape(len(values), -1), stimuli, title, None, options)
    rows = {module: len(values) for module, values in layers.items()}
    if len({*rows.values()}) > 1:
        raise ShapeError(f"The {title} have other numbers of rows in other modules: {rows}.")
    return join_layers(layers, stimuli, title, options)


def _modules(path: Path) -> dict[str, Path]:
    """Find the folders with features: this one, or one for each module."""
    if any(FEATURES.fullmatch(child.name) for child in path.iterdir()):
        return {"": path}
    return {
        str(PurePosixPath(folder.relative_to(path))): folder
        for folder in sorted((child for child in _below(path) if child.is_dir()), key=_written)
        if any(FEATURES.fullmatch(child.name) for child in folder.iterdir())
    }


def _written(folder: Path) -> tuple[int, list[tuple[int, str]]]:
    """Order modules as the network wrote them, at its first images; else numbers by value."""
    found = [c.stat().st_mtime_ns for c in folder.iterdir() if FEATURES.fullmatch(c.name)]
    return min(found, default=0), natural_key(str(folder))


def _below(path: Path) -> Iterator[Path]:
    """List what lies one or two folders deep: a module's name may hold a slash."""
    for child in path.iterdir():
        yield child
        if child.is_dir():
            yield from child.iterdir()


def _file_names(path: Path, folders: list[Path]) -> list[str] | None:
    """Read the file names beside the features or above them."""
    for folder in (path, *folders[:1]):
        if (folder / NAMES).is_file():
            lines = (folder / NAMES).read_text(encoding="utf-8").splitlines()
            return [line.strip() for line in lines if line.strip()]
    return None


def _ids(names: list[str]) -> np.ndarray:
    """Make stimulus ids of file names: without folder and suffix, where that is distinct."""
    bare = [_bare(name) for name in names]
    stems = [name.replace("\\", "/").split("/")[-1] for name in bare]
    return np.array(stems if len({*stems}) == len(stems) else bare, dtype=np.str_)


def _bare(name: str) -> str:
    """Take the suffix of an image off a file name."""
    suffix = PurePosixPath(name).suffix
    return name[: -len(suffix)] if suffix.lower() in IMAGES else name


def _read(folder: Path, names: list[str] | None) -> np.ndarray:
    """Read and join the files of one folder."""
    matches = [m for child in folder.iterdir() if (m := FEATURES.fullmatch(child.name))]
    sets = sorted({(m["set"], m["format"]) for m in matches})
    whole = [m for m in matches if m["first"] is None and m["part"] is None]
    parts = sorted(
        (m for m in matches if m not in whole), key=lambda m: int(m["first"] or m["part"])
    )
    if len(sets) > 1 or len(whole) > 1 or (whole and parts):
        raise FileFormatError(
            f"{folder} holds several sets of features "
            f"({listed(sorted(m.string for m in matches))}): leave one of them in the folder."
        )
    if whole:
        return _read_file(folder / whole[0].string, names)
    _check_gaps(folder, parts)
    return np.concatenate([_read_part(folder, m) for m in parts])


def _check_gaps(folder: Path, parts: list[re.Match[str]]) -> None:
    """Refuse parts with others missing between them."""
    expected = 0 if parts[0]["first"] else 1
    for m in parts:
        if int(m["first"] or m["part"]) != expected:
            missing = f"from {expected}" if m["first"] else f"{expected:02d}"
            raise FileFormatError(
                f"{folder} lacks the part of the features {missing}: it holds "
                f"{listed(p.string for p in parts)}."
            )
        expected = int(m["last"]) if m["first"] else expected + 1


def _read_part(folder: Path, m: re.Match[str]) -> np.ndarray:
    """Read a part and check that it has the rows its name says."""
    values = _read_file(folder / m.string, None)
    if m["first"] and len(values) != int(m["last"]) - int(m["first"]):
        raise ShapeError(
            f"{folder / m.string} has {len(values)} rows; its name says "
            f"{int(m['last']) - int(m['first'])}."
        )
    return values


def _read_file(path: Path, names: list[str] | None) -> np.ndarray:
    """Read one file of features."""
    if path.suffix == ".npy":
        values = open_npy(path)
    elif path.suffix == ".pt":
        values = open_torch(path)
    elif path.suffix == ".txt":
        values = np.loadtxt(path, ndmin=2)
    elif path.suffix == ".mat":
        values = _read_mat(path, names)
    else:
        arrays = open_hdf5(path)
        splits = sorted(key for key in arrays if re.fullmatch(r"features_\d+", key))
        values = arrays.get("features")
        if values is None and splits:
            values = np.concatenate([arrays[key] for key in splits])
    if not isinstance(values, np.ndarray):
        raise FileFormatError(f"{path} holds no array called 'features'.")
    return to_float(values, f"features in {path}")


def _read_mat(path: Path, names: list[str] | None) -> np.ndarray | None:
    """Read the variable `features`, or a variable for each image."""
    from scipy.io import loadmat

    found = {k: v for k, v in loadmat(path).items() if not k.startswith("__")}
    if "features" in found or names is None:
        return found.get("features")
    missing = [_bare(name) for name in names if _bare(name) not in found]
    if missing:
        raise FileFormatError(f"{path} has no variable for the images {listed(missing)}.")
    return np.concatenate([found[_bare(name)].reshape(1, -1) for name in names])


FORMATS.add(
    Format(
        name="thingsvision", title="a folder of thingsvision", read=read_folder,
        takes=frozenset({"stimuli", "variable"}), recognizes=holds_features,
    )
)  # fmt: skip
