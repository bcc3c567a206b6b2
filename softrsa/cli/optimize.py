"""`softrsa optimize`: random data changed until measures give them a score against real ones."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from softrsa._wording import listed
from softrsa.cli.common import (
    DPI,
    Stopped,
    check_one_source,
    load_dataset,
    outputs,
    read,
    show,
)
from softrsa.errors import DataError, unknown_name
from softrsa.measures import available
from softrsa.recordings import split_units
from softrsa.reports.figures import COLORS, MARKERS, panels
from softrsa.reports.synthesis_figures import plot_capture, plot_scores
from softrsa.synthesis import (
    OptimizationInterrupted,
    SynthesisResult,
    captured_components,
    optimize_to_score,
)
from softrsa.synthesis.objective import check_differentiable

DEMO_LAYER, DEMO_UNITS = "layer2", 20
FILES = ("components.csv", "scores.png", "components.png")


def run(arguments: argparse.Namespace) -> None:
    """Load, optimize to each measure, write, show."""
    measures = list(dict.fromkeys(arguments.measure))
    for measure in measures:
        check_differentiable(measure)
    own = [f"{measure}.nc" for measure in measures]
    others = [] if arguments.resume else [f"{name}.nc" for name in available()]
    with outputs(arguments, [*own, *FILES], others=others) as paths:
        x = _load(arguments)
        results = _optimize_all(x, measures, arguments)
        components = {measure: captured_components(r) for measure, r in results.items()}
        table = _write(results, components, paths)
    show(arguments, _summary(results, components), table)


def _optimize_all(
    x: xr.DataArray, measures: Sequence[str], arguments: argparse.Namespace
) -> dict[str, SynthesisResult]:
    """Optimize to each measure; every few seconds, keep what there is for `--resume`."""
    results: dict[str, SynthesisResult] = {}
    for measure in measures:
        earlier = arguments.out / f"{measure}.nc"
        begin: dict[str, Any] = {
            "n_restarts": arguments.restarts, "n_units": arguments.units, "seed": arguments.seed
        }  # fmt: skip
        if arguments.resume and earlier.is_file():
            begin = {"resume": SynthesisResult.from_netcdf(earlier)}
        try:
            results[measure] = optimize_to_score(
                x, measure, target=arguments.target, similarity=arguments.similarity,
                average=arguments.average,
                lr=arguments.lr, max_steps=arguments.max_steps, record=arguments.record,
                device=arguments.device, progress=not arguments.quiet,
                keep=lambda part, path=earlier: part.to_netcdf(path), **begin,
            )  # fmt: skip
        except OptimizationInterrupted as stop:
            results[measure] = stop.result
            for name, result in results.items():
                result.to_netcdf(arguments.out / f"{name}.nc")
            kept = ", ".join(f"{name}.nc" for name in results)
            raise Stopped(f"kept {kept} in {arguments.out}; go on with --resume.") from stop
    return results


def _write(
    results: Mapping[str, SynthesisResult],
    components: Mapping[str, xr.Dataset],
    paths: Mapping[str, Path],
) -> pd.DataFrame:
    """Write every result, the table of components, which is given back, and the figures."""
    for measure, result in results.items():
        result.to_netcdf(paths[f"{measure}.nc"])
    tables = [_table(part).assign(measure=measure) for measure, part in components.items()]
    table = pd.concat(tables, ignore_index=True)
    table = table[["measure", *table.columns.drop("measure")]]
    table.to_csv(paths["components.csv"], index=False)
    for name in ("scores.png", "components.png"):
        figure, (ax,) = panels(1)
        for i, measure in enumerate(results):
            color, marker = COLORS[i % len(COLORS)], MARKERS[i % len(MARKERS)]
            if name == "scores.png":
                plot_scores(results[measure].data, ax=ax, color=color)
            else:
                plot_capture(components[measure], ax=ax, color=color, marker=marker)
        ax.legend(fontsize=8, frameon=False)
        figure.savefig(paths[name], dpi=DPI)
    return table


def _table(components: xr.Dataset) -> pd.DataFrame:
    """Give every component of every restart a row."""
    end = components.isel(recorded_step=-1, drop=True)
    shown = end[["variance", "explained", "captured", "score_at_capture"]]
    return shown.to_dataframe(dim_order=["restart", "component"]).reset_index()


def _summary(results: Mapping[str, SynthesisResult], components: Mapping[str, xr.Dataset]) -> str:
    """Say how far each measure got and what it left out."""
    lines = []
    for measure, result in results.items():
        steps = result.steps_to_target.numpy()
        met = steps[np.isfinite(steps)]
        took = f"reached in {met.mean():.0f} steps" if len(met) else "not reached"
        if 0 < len(met) < len(steps):
            took = f"reached by {len(met)} of {len(steps)} restarts"
        captured = components[measure]["captured"].isel(recorded_step=-1)
        half = int((captured.mean("restart") >= 0.5).sum())
        lines.append(
            f"{measure}: {float(result.scores[-1].mean()):.4f}, target {took}; the data "
            f"optimized hold at least half of {half} of {captured.sizes['component']} components"
        )
    return "\n".join(lines)


def _load(arguments: argparse.Namespace) -> xr.DataArray:
    """Read the features to compare with."""
    check_one_source(arguments, files=1, wanted="one file")
    name = "simulated" if arguments.demo else arguments.dataset
    if arguments.demo:
        if not (arguments.layer or arguments.region):
            arguments.layer = DEMO_LAYER
        if arguments.units is None:
            arguments.units = DEMO_UNITS  # fewer than stimuli, or they would hold every component
    if name is None:
        array = read(arguments)
        found = {
            kind: split_units(array, kind) if kind in array.coords else {}
            for kind in ("layer", "region")
        }
        x = _choose(found, arguments, arguments.files[0], whole=array)
    else:
        data = load_dataset(arguments, name)
        layers = {} if data.layers is None else _layers(data.layers)
        x = _choose({"layer": layers, "region": data.regions}, arguments, name)
    if "unit" not in x.dims:
        raise DataError(
            f"{arguments.files[0] if name is None else name} has RDMs there, and random data are "
            "optimized against units: recordings or activations (stimulus, unit)."
        )
    return x


def _layers(layers: xr.DataArray) -> dict[str, xr.DataArray]:
    if "unit" in layers.dims:
        return split_units(layers, "layer")
    return {str(name): layers.sel(layer=name) for name in layers["layer"].values}


def _choose(
    found: Mapping[str, Mapping[str, xr.DataArray]],
    arguments: argparse.Namespace,
    source: Path | str,
    *,
    whole: xr.DataArray | None = None,
) -> xr.DataArray:
    """Take the part that is named, or the only one there is."""
    for kind, parts in found.items():
        name = getattr(arguments, kind)
        if name is not None:
            if name not in parts:
                raise unknown_name(f"{kind} in {source}:", name, parts)
            return parts[name]
    parts = {(kind, name): part for kind in found for name, part in found[kind].items()}
    if len(parts) == 1:
        return next(iter(parts.values()))
    if not parts and whole is not None:
        return whole
    if not parts:
        raise DataError(f"{source} has neither layers nor regions.")
    choices = "; ".join(f"--{kind} {listed(part, 10)}" for kind, part in found.items() if part)
    raise DataError(f"{source} has several parts; name one of {choices}.")
