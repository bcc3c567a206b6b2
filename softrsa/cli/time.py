"""`softrsa time`: a model's layers at every time of recordings, with tests over subjects."""

from __future__ import annotations

import argparse
import shlex
import warnings
from collections.abc import Mapping
from pathlib import Path

import xarray as xr

from softrsa.alignment.align import named_parts
from softrsa.cli.common import DPI, outputs, read, show
from softrsa.inference import TimeCourseResult, time_courses
from softrsa.recordings import select

FILES = ("courses.csv", "latencies.csv", "result.nc", "courses.png")
DIFFERENCES = "differences.csv"  # of several layers in several subjects


def run(arguments: argparse.Namespace) -> None:
    """Load, score, write, show."""
    layers = _named(read(arguments, 0), arguments, "layer")
    regions = _named(read(arguments, 1), arguments, "region")
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


def _write(result: TimeCourseResult, paths: Mapping[str, Path]) -> None:
    """Write the result, its tables and its figure."""
    result.table.to_csv(paths["courses.csv"], index=False)
    result.to_netcdf(paths["result.nc"])
    result.plot().savefig(paths["courses.png"], dpi=DPI)
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
