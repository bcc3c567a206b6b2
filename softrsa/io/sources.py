"""Source estimates of MNE-Python: vertices as units, labels as regions, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from softrsa._wording import counted, listed
from softrsa.errors import DataError, ShapeError, StimulusError, unknown_name
from softrsa.io.schema import plain_labels

HEMISPHERES = ("lh", "rh")


def is_source_estimate(given: Any) -> bool:
    """Tell source estimates by what they have."""
    return all(hasattr(given, name) for name in ("vertices", "tstep", "data"))


def from_sources(
    given: Any,
    stimulus: str | Sequence[str] | Sequence[int] | None,
    labels: Any,
    subject: str | None,
) -> xr.DataArray:
    """Label source estimates: a mapping from stimuli, or a row of trials with ids."""
    row, ids = _rows(given, stimulus)
    estimates = [*given.values()] if isinstance(given, Mapping) else [*given]
    first = estimates[0]
    for i, one in enumerate(estimates):
        _check_alike(one, first, ids[i].item())
    values = np.stack([np.asarray(one.data, dtype=np.float64) for one in estimates])
    spaces, vertices = _places(first)
    names = vertex_names(spaces, vertices)
    units = {"unit": names, "space": ("unit", spaces), "vertex": ("unit", vertices)}
    if subject is not None:
        units["subject"] = ("unit", np.array([subject] * len(names)))
    array = xr.DataArray(
        values,
        dims=(row, "unit", "time"),
        coords={**units, "stimulus": (row, ids), "time": np.asarray(first.times)},
    )
    return array if labels is None else _with_regions(array, labels)


def _rows(given: Any, stimulus: Any) -> tuple[str, np.ndarray]:
    """Find whether estimates are of stimuli or of trials, and their ids."""
    if isinstance(given, Mapping):
        return "stimulus", plain_labels(np.array([*given]))
    if stimulus is None or isinstance(stimulus, str):
        raise StimulusError(
            f"{counted(len(given), 'source estimate')} have no stimulus ids: give a mapping from "
            "ids to estimates, or of trials `stimulus=[...]`, one id for each."
        )
    ids = plain_labels(np.asarray(stimulus))
    if ids.shape != (len(given),):
        raise ShapeError(
            f"`stimulus` must be one id for each of {counted(len(given), 'source estimate')}, got "
            f"the shape {ids.shape}."
        )
    return "trial", ids


def _check_alike(one: Any, first: Any, name: object) -> None:
    """Refuse estimates of other vertices or times, or with three orientations."""
    if np.ndim(one.data) != 2:
        raise DataError(
            f"The source estimate of {name!r} has data of the shape {np.shape(one.data)}, and "
            "(vertices, times) is needed; of vectors take `stc.magnitude()`."
        )
    same = np.shape(one.data) == np.shape(first.data) and np.allclose(one.times, first.times)
    pairs = zip(_spaces(one), _spaces(first), strict=False)
    if not (same and all(np.array_equal(a, b) for a, b in pairs)):
        shapes = np.shape(one.data), np.shape(first.data)
        what = (
            f"the shape {shapes[0]}, the first {shapes[1]}" if shapes[0] != shapes[1] else "others"
        )
        raise DataError(
            "Source estimates must have the same vertices and times as the first; that of "
            f"{name!r} has {what}. Morph them to one "
            "brain (mne.compute_source_morph) and `crop`."
        )


def _spaces(one: Any) -> list[np.ndarray]:
    """Give the vertices of each hemisphere or volume."""
    held = one.vertices
    return [np.asarray(each) for each in held] if isinstance(held, (list, tuple)) else [held]


def _places(one: Any) -> tuple[np.ndarray, np.ndarray]:
    """Name the space and the vertex of each row."""
    parts = _spaces(one)
    surface = hasattr(one, "lh_vertno")
    names = [HEMISPHERES[i] if surface else str(i) for i in range(len(parts))]
    return np.repeat(names, [len(part) for part in parts]), np.concatenate(parts).astype(np.int64)


def vertex_names(spaces: np.ndarray, vertices: np.ndarray) -> np.ndarray:
    """Name units by hemisphere and vertex, such as ``lh:1204``."""
    return np.array([f"{space}:{v}" for space, v in zip(spaces, vertices, strict=True)])


def _with_regions(array: xr.DataArray, labels: Any) -> xr.DataArray:
    """Keep the vertices in labels, whose names are regions."""
    names = array["unit"].values
    regions = np.full(len(names), "", dtype=object)
    for label, inside in _labels_at(names, labels):
        twice = inside & (regions != "")
        if twice.any():
            raise DataError(
                f"{counted(int(twice.sum()), 'vertex', 'vertices')} of label {label!r}, also in "
                f"{listed(dict.fromkeys(regions[twice]))}: a unit has one region."
            )
        regions[inside] = label
    array = array.assign_coords(region=("unit", regions.astype(str)))
    return array.isel(unit=np.flatnonzero(regions != ""))


def _labels_at(names: np.ndarray, labels: Any) -> list[tuple[str, np.ndarray]]:
    """Find which units each label has; refuse labels without."""
    found = []
    for label in labels:
        own = vertex_names(np.repeat([label.hemi], len(label.vertices)), label.vertices)
        found.append((str(label.name), np.isin(names, own)))
    empty = [name for name, inside in found if not inside.any()]
    if empty:
        raise DataError(
            f"{counted(len(empty), 'label')} of {len(found)} have none of the vertices "
            f"({listed(empty)}). Leave them out, or take a finer source space."
        )
    return found


def to_sources(
    values: np.ndarray, units: np.ndarray, like: Any, tmin: float, tstep: float
) -> Any:  # fmt: skip
    """Make a source estimate of (unit, time) values, units named as `from_sources` does."""
    known = vertex_names(*_places(like))
    place = {name: i for i, name in enumerate(known)}
    for unit in units.tolist():
        if unit not in place:
            raise unknown_name("vertex", unit, known)
    at = np.array([place[unit] for unit in units.tolist()])
    order = np.argsort(at)
    sizes = [len(part) for part in _spaces(like)]
    ends = np.cumsum(sizes)
    kept = [
        part[at[order][(at[order] >= end - n) & (at[order] < end)] - (end - n)]
        for part, n, end in zip(_spaces(like), sizes, ends, strict=True)
    ]
    return type(like)(values[order], kept, tmin, tstep, subject=like.subject)


def spread_regions(
    values: np.ndarray, regions: np.ndarray, like: Any, labels: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Give each vertex of a label the values of the region of that name; and the units."""
    names = vertex_names(*_places(like))
    inside = dict(_labels_at(names, labels))
    for region in regions.tolist():
        if region not in inside:
            raise unknown_name("label", region, inside)
    each = [(values[i], names[inside[region]]) for i, region in enumerate(regions.tolist())]
    spread = np.concatenate([np.repeat(row[None], len(own), axis=0) for row, own in each])
    return spread, np.concatenate([own for _, own in each])
