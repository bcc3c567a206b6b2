"""BrainIO assemblies (Brain-Score's files), read and written without brainscore installed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from softrsa._files import atomic_path
from softrsa._wording import listed
from softrsa.errors import DTypeError, ShapeError, SoftRSAError, StimulusError, unknown_name
from softrsa.io.axes import checked, to_float
from softrsa.io.labelling import Options
from softrsa.io.looking import FORMATS, Format, Look, look
from softrsa.io.netcdf import holds_netcdf, open_array, write_compressed
from softrsa.io.schema import (
    check_labelled,
    check_recording,
    check_storable,
    labels_along,
    mean_by_stimulus,
    plain_labels,
    without_levels,
)

KEPT = ("region", "layer", "subject", "neuroid_id", "hemisphere")
STIMULUS_COORDINATES = ("stimulus_id", "image_id")  # today's name, then the legacy one
TimeBin = int | tuple[float, float]


def from_brainio(
    assembly: xr.DataArray | str | Path,
    *,
    average_repetitions: bool = True,
    region: str | None = None,
    layer: str | None = None,
    time_bin: TimeBin | None = None,
) -> xr.DataArray:
    """Turn a BrainIO assembly, in memory or on disk, into a labelled array.

    Parameters
    ----------
    assembly : DataArray, str or Path
        A neuroid assembly (presentation, neuroid[, time_bin]), with its labels as MultiIndex levels
        or as plain coordinates, or the netCDF file of one.
    average_repetitions : bool
        Whether presentations of one stimulus are averaged; otherwise they are kept as trials, with
        what labels presentations, such as `repetition`.
    region, layer : str, optional
        Take only neuroids of this region or layer.
    time_bin : int or (float, float), optional
        Which of several time bins: its place from 0, or its start and end.

    Returns
    -------
    DataArray
        (stimulus, unit), or (trial, unit) without averaging. Of the neuroids' coordinates region,
        layer, subject (or animal, as subject), neuroid_id and hemisphere are kept.

    Raises
    ------
    FileMissingError, FileFormatError
        If a path is given and is no netCDF file.
    ShapeError
        If it is not a neuroid assembly, or has several time bins and none was picked.
    StimulusError, DTypeError, DataError
        If stimulus ids are missing or values are not finite numbers.
    UnknownNameError
        If no neuroid has the region or layer, or there is no such time bin.

    Examples
    --------
    >>> assembly = xr.DataArray(
    ...     [[1.0, 2.0], [3.0, 4.0], [5.0, 8.0]],
    ...     dims=("presentation", "neuroid"),
    ...     coords={
    ...         "stimulus_id": ("presentation", ["face", "house", "face"]),
    ...         "region": ("neuroid", ["V4", "IT"]),
    ...     },
    ... )
    >>> from_brainio(assembly, region="IT").values.ravel()
    array([5., 4.])
    """
    name = "assembly"
    if isinstance(assembly, (str, Path)):
        assembly, name = _open(Path(assembly), None), f"assembly in {assembly}"
    elif not isinstance(assembly, xr.DataArray):
        raise DTypeError(
            "`assembly` must be an xarray.DataArray or the path of a netCDF file, got "
            f"{type(assembly).__name__}."
        )
    only = {"region": region, "layer": layer}
    return _labelled(assembly, name, only, time_bin=time_bin, average=average_repetitions)


def to_brainio(recording: xr.DataArray, path: str | Path | None = None) -> xr.DataArray:
    """Turn a labelled array into a BrainIO assembly, and write its netCDF file if asked to.

    Parameters
    ----------
    recording : DataArray
        Recordings or activations (stimulus, unit), or single trials (trial, unit).
    path : str or Path, optional
        The file to write, as BrainIO writes it: variable ``data``, labels as plain coordinates.

    Returns
    -------
    DataArray, dims (presentation, neuroid)
        With stimulus_id and repetition on `presentation`, neuroid_id and the labels of the units
        on `neuroid`. BrainIO's own classes, such as ``NeuroidAssembly(array)``, take it; so do
        `load` and `from_brainio`.

    Raises
    ------
    ShapeError, StimulusError, DTypeError, DataError
        If it is not as described, or a label cannot be held by netCDF.
    OutputError
        If the file cannot be written.

    Examples
    --------
    >>> recording = xr.DataArray(
    ...     np.eye(2), dims=("stimulus", "unit"), coords={"stimulus": ["face", "house"]}
    ... )
    >>> to_brainio(recording).coords["stimulus_id"].values.tolist()
    ['face', 'house']
    """
    recording = check_labelled(recording, name="recording")
    if "anchor" in recording.dims:
        raise ShapeError("BrainIO holds recordings (stimulus, unit), not RDMs or RSMs.")
    row = recording.dims[0]
    stimuli = recording["stimulus"].values
    presentation: dict[str, Any] = {
        name: ("presentation", labels)
        for name, labels in labels_along(recording, str(row)).items()
        if name not in ("stimulus", row)
    }
    repetition = pd.Series(stimuli).groupby(stimuli).cumcount().to_numpy()
    presentation.setdefault("repetition", ("presentation", repetition))
    units: dict[str, Any] = {
        name: ("neuroid", labels)
        for name, labels in labels_along(recording, "unit").items()
        if name != "unit"
    }
    names = recording["unit"].values if "unit" in recording.coords else range(recording.shape[1])
    units.setdefault("neuroid_id", ("neuroid", np.array([str(name) for name in names])))
    assembly = xr.DataArray(
        recording.values.copy(),
        dims=("presentation", "neuroid"),
        coords={"stimulus_id": ("presentation", stimuli), **presentation, **units},
        attrs={k: v for k, v in recording.attrs.items() if k != "source_format"},
    )
    if path is not None:
        check_storable(assembly)
        with atomic_path(path) as temporary:
            write_compressed(assembly, temporary)
    return assembly


def holds_assembly(seen: Look) -> bool:
    """Tell whether a netCDF file or zarr store can be opened and holds an assembly."""
    if not holds_netcdf(seen):
        return False
    try:
        with open_array(seen.path) as array:
            return bool({"presentation", "event"} & {*array.dims})
    except SoftRSAError:
        return False


def read_assembly(path: Path, options: Options) -> xr.DataArray:
    """Read an assembly and average its presentations, unless trials are wanted."""
    name = f"array in {path}"
    assembly = _open(path, options.variable)
    assembly = assembly.copy(data=to_float(assembly.values, name, options))
    keep = options.trials == "keep"
    if not keep and assembly.sizes.get("presentation", 0):
        options.facts.append("presentations of a stimulus averaged")
    return _labelled(assembly, name, {}, average=not keep, options=options)


def _labelled(
    assembly: xr.DataArray,
    name: str,
    only: Mapping[str, str | None],
    *,
    time_bin: TimeBin | None = None,
    average: bool = True,
    options: Options | None = None,
) -> xr.DataArray:
    """Take one time and the neuroids with some labels of an assembly, and average repetitions."""
    assembly = without_levels(assembly)
    _check_neuroids(assembly, name)
    assembly = _pick_time(assembly, time_bin, name)
    for label, wanted in only.items():
        if wanted is not None:
            assembly = _only(assembly, label, wanted, name)
    trials = checked(_trials(assembly, name, keep=not average), options or Options(), name)
    return check_recording(mean_by_stimulus(trials), name=name) if average else trials


def _open(path: Path, variable: str | None) -> xr.DataArray:
    """Read the one array of a file."""
    look(path)  # is it there?
    with open_array(path, variable=variable) as lazy:
        return lazy.load()


def _check_neuroids(assembly: xr.DataArray, name: str) -> None:
    """Refuse assemblies of other kinds, in words."""
    dims = {*assembly.dims}
    if {"presentation", "neuroid"} <= dims:
        return
    if "event" in dims:
        found = "a spike-times assembly: count spikes in time bins first"
    elif "presentation" in dims:
        found = "a behavioral assembly: it has choices, not units. Make RDMs of them first"
    else:
        found = "no assembly"
    raise ShapeError(
        f"The {name} must have the dimensions (presentation, neuroid[, time_bin]); with "
        f"{assembly.dims} it is {found}."
    )


def _only(assembly: xr.DataArray, label: str, wanted: str, name: str) -> xr.DataArray:
    """Take the neuroids of one region or layer."""
    if label not in assembly.coords or assembly[label].dims != ("neuroid",):
        raise unknown_name(f"label of neuroids in the {name}:", label, map(str, assembly.coords))
    labels = plain_labels(assembly[label].values)
    if wanted not in labels.tolist():
        raise unknown_name(f"{label} in the {name}:", wanted, pd.unique(labels))
    return assembly.isel(neuroid=np.flatnonzero(labels == wanted))


def _trials(assembly: xr.DataArray, name: str, *, keep: bool) -> xr.DataArray:
    """Turn presentations × neuroids into trials × units."""
    found = [c for c in STIMULUS_COORDINATES if c in assembly.coords]
    if not found or assembly[found[0]].dims != ("presentation",):
        raise StimulusError(
            f"The {name} has no coordinate `stimulus_id` (or legacy `image_id`) along "
            f"`presentation`, only {listed(sorted(map(str, assembly.coords)), 20)}."
        )
    coords: dict[str, Any] = {
        name: ("unit", labels)
        for name, labels in labels_along(assembly, "neuroid").items()
        if name in (*KEPT, "animal")
    }
    if "animal" in coords:
        animal = coords.pop("animal")
        coords.setdefault("subject", animal)
    if keep:
        coords |= {
            name: ("trial", labels)
            for name, labels in labels_along(assembly, "presentation").items()
            if name not in (*found, "presentation", *coords)
        }
    return xr.DataArray(
        assembly.transpose("presentation", "neuroid").variable.data,
        dims=("trial", "unit"),
        coords={**coords, "stimulus": ("trial", assembly[found[0]].values)},
        attrs=assembly.attrs,
    )


def _pick_time(assembly: xr.DataArray, time_bin: TimeBin | None, name: str) -> xr.DataArray:
    """Take the time bin asked for, or the only one."""
    extra = set(assembly.dims) - {"presentation", "neuroid", "time_bin"}
    if extra:
        raise ShapeError(
            f"The {name} must have the dimensions presentation, neuroid and at most time_bin; it "
            f"also has {listed(sorted(map(str, extra)))}."
        )
    n_bins = assembly.sizes.get("time_bin", 1)
    bins: list[Any] = _bins(assembly, n_bins)
    if time_bin is None:
        if n_bins > 1:
            raise ShapeError(
                f"The {name} has {n_bins} time bins ({listed(bins)}), one is needed: pick one with "
                "`softrsa.io.from_brainio(..., time_bin=0)` or, in memory, "
                '`array.isel(time_bin=0)`, or average them with `array.mean("time_bin")`.'
            )
        place = 0
    else:
        wanted = tuple(time_bin) if isinstance(time_bin, (tuple, list)) else time_bin
        known: list[Any] = bins if isinstance(wanted, tuple) else [*range(n_bins)]
        if wanted not in known:
            raise unknown_name(f"time bin of the {name}:", wanted, known)
        place = known.index(wanted)
    has_bins = "time_bin" in assembly.dims
    return assembly.isel(time_bin=place, drop=True) if has_bins else assembly


def _bins(assembly: xr.DataArray, n_bins: int) -> list[Any]:
    """List start and end of each time bin, or its place."""
    if not {"time_bin_start", "time_bin_end"} <= {*assembly.coords}:
        return [*range(n_bins)]
    edges = (np.atleast_1d(assembly[f"time_bin_{end}"].values).tolist() for end in ("start", "end"))
    return list(zip(*edges, strict=True))


FORMATS.add(
    Format(
        name="brainio", title="a BrainIO assembly (netCDF)", read=read_assembly,
        takes=frozenset({"variable"}), recognizes=holds_assembly,
    )
)  # fmt: skip
