"""`softrsa time`: a model's layers at every time of recordings, with tests over subjects."""

from __future__ import annotations

import argparse
import shlex
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import xarray as xr

from softrsa.alignment.align import named_parts
from softrsa.cli.common import DPI, outputs, read, show
from softrsa.errors import DataError
from softrsa.inference import TimeCourseResult, time_courses
from softrsa.recordings import select

FILES = ("report.html", "courses.csv", "latencies.csv", "result.nc", "courses.png")
DIFFERENCES = "differences.csv"  # of several layers in several subjects


def run(arguments: argparse.Namespace) -> None:
    """Load, score, write, show."""
    layers = _named(read(arguments, 0), arguments, "layer")
    regions = _named(_with_times(read(arguments, 1), arguments.times), arguments, "region")
    compared = len(layers) > 1 and any(
        arguments.subject in part.coords and len({*part[arguments.subject].values.tolist()}) > 1
        for part in regions.values()
    )
    files = (*FILES, DIFFERENCES) if compared else FILES
    with outputs(arguments, files, others=(DIFFERENCES,)) as paths:
        result = time_courses(
            layers, regions, arguments.measure, by=arguments.by, region=arguments.region,
            subject=arguments.subject, transform=arguments.transform,
            similarity=arguments.similarity, join=arguments.join, chance=arguments.chance,
            alternative=arguments.alternative, method=arguments.method,
            threshold=arguments.threshold, n_flips=arguments.flips, seed=arguments.seed,
            progress=not arguments.quiet,
        )  # fmt: skip
        command = shlex.join(["softrsa", *arguments.argv])
        result = TimeCourseResult(result.data.assign_attrs(command=command))
        latencies = result.latencies(n_resamples=arguments.resamples, seed=arguments.seed)
        latencies.to_csv(paths["latencies.csv"], index=False)
        _write(result, paths)
    for message in result.warnings:
        warnings.warn(message, UserWarning, stacklevel=2)
    text = latencies.to_string(index=False, float_format="{:.3f}".format, na_rep="-")
    show(arguments, text, latencies)


def _with_times(data: xr.DataArray, given: str | None) -> xr.DataArray:
    """Give times to recordings that have none: a file with one a line, or START:STEP."""
    if given is None:
        return data
    n = data.sizes.get("time", 0)
    if not n:
        raise DataError("--times is given, and the recordings have no time.")
    file = Path(given)
    try:
        if file.is_file():
            times = np.array([float(line) for line in file.read_text().split()])
        else:
            start, step = map(float, given.split(":"))
            times = start + step * np.arange(n)
    except ValueError as error:
        raise DataError(
            f"--times must be START:STEP, such as -0.1:0.02, or a file with a number a line, got "
            f"{given!r}."
        ) from error
    if len(times) != n:
        raise DataError(f"--times has {len(times)} numbers, and the recordings {n} times.")
    return data.assign_coords(time=times)


def _write(result: TimeCourseResult, paths: Mapping[str, Path]) -> None:
    """Write the result, its tables and its figure."""
    result.table.to_csv(paths["courses.csv"], index=False)
    result.to_netcdf(paths["result.nc"])
    result.plot().savefig(paths["courses.png"], dpi=DPI)
    result.report(paths["report.html"])
    if DIFFERENCES in paths:
        result.differences().to_csv(paths[DIFFERENCES], index=False)


def _named(data: xr.DataArray, arguments: argparse.Namespace, kind: str) -> dict[str, xr.DataArray]:
    """Split data into the layers or regions asked for; one without a label is named by its file."""
    place = 0 if kind == "layer" else 1
    by = (arguments.by, arguments.region)[place]
    parts = named_parts(data, by, kind)
    if by not in data.coords:
        (part,) = parts.values()
        parts = {arguments.files[place].stem: part}
    wanted = (arguments.layers, arguments.regions)[place]
    return select(parts, wanted, kind=kind)  # type: ignore[return-value]
