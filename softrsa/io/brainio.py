"""BrainIO assemblies (Brain-Score's files), read without brainscore installed."""

from __future__ import annotations

import xarray as xr

from softrsa.errors import ShapeError, StimulusError
from softrsa.io.labels import plain_labels
from softrsa.io.schema import check_recording, check_trials
from softrsa.io.trials import mean_by_stimulus
from softrsa.io.wording import listed

KEPT = ("region", "layer", "subject", "neuroid_id", "hemisphere")
STIMULUS_COORDINATES = ("stimulus_id", "image_id")  # today's name, then the legacy one


def is_assembly(array: xr.DataArray) -> bool:
    """Tell whether an array has the dimensions of a BrainIO neuroid assembly."""
    return {"presentation", "neuroid"} <= set(array.dims)


def convert_assembly(assembly: xr.DataArray, name: str) -> xr.DataArray:
    """Turn presentations × neuroids into stimuli × units, averaged over repetitions."""
    assembly = _drop_time(assembly, name)
    found = [c for c in STIMULUS_COORDINATES if c in assembly.coords]
    if not found or assembly[found[0]].dims != ("presentation",):
        raise StimulusError(
            f"The {name} has no coordinate `stimulus_id` (or legacy `image_id`) along "
            f"`presentation`, only {listed(sorted(map(str, assembly.coords)), 20)}."
        )
    unit_coords = {
        label: ("unit", plain_labels(coord.values))
        for label, coord in assembly.coords.items()
        if coord.dims == ("neuroid",) and label in (*KEPT, "animal")
    }
    if "animal" in unit_coords:
        animal = unit_coords.pop("animal")
        unit_coords.setdefault("subject", animal)
    trials = xr.DataArray(
        assembly.transpose("presentation", "neuroid").variable.data,
        dims=("trial", "unit"),
        coords={**unit_coords, "stimulus": ("trial", assembly[found[0]].values)},
        attrs=assembly.attrs,
    )
    return check_recording(mean_by_stimulus(check_trials(trials, name=name)), name=name)


def _drop_time(assembly: xr.DataArray, name: str) -> xr.DataArray:
    """Squeeze a single time bin; ask which one where there are several."""
    n_bins = assembly.sizes.get("time_bin", 1)
    if n_bins > 1:
        raise ShapeError(
            f"The {name} has {n_bins} time bins, one is needed: pick one with "
            '`array.isel(time_bin=0)` or average them with `array.mean("time_bin")`.'
        )
    assembly = assembly.squeeze("time_bin", drop=True) if "time_bin" in assembly.dims else assembly
    extra = set(assembly.dims) - {"presentation", "neuroid"}
    if extra:
        raise ShapeError(
            f"The {name} must have the dimensions presentation, neuroid and at most time_bin; it "
            f"also has {listed(sorted(map(str, extra)))}."
        )
    return assembly
