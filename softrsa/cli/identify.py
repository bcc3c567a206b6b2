"""`softrsa identify`: which region an RDM of a left-out subject is of."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

import xarray as xr

from softrsa.alignment import (
    IdentificationResult,
    PublishedIdentification,
    identification_curves,
    identify_regions,
)
from softrsa.cli.common import (
    DPI,
    check_one_source,
    load_dataset,
    outputs,
    read,
    show,
)
from softrsa.errors import DataError
from softrsa.identification.statistics import TRANSFORMS
from softrsa.io.schema import labels_along
from softrsa.recordings import select, split_units
from softrsa.reports.figures import panels

FILES = ("accuracies.csv", "result.nc", "identification.png")
HELD_OUT, PUBLISHED = ("by_subject.csv",), ("types.csv", "comparisons.csv")
GRID, CURVES = "thresholds.png", ("curves.csv", "curves.png")


def run(arguments: argparse.Namespace) -> None:
    """Load, identify, write, show."""
    curves = arguments.noise is not None or arguments.stimuli is not None
    _check_published(arguments)
    asked = arguments.transform or TRANSFORMS
    files = (
        *FILES, *(PUBLISHED if arguments.published else HELD_OUT),
        *([GRID] if "geo_topological" in asked else []), *(CURVES if curves else []),
    )  # fmt: skip
    others = (*PUBLISHED, *HELD_OUT, GRID, *CURVES)
    with outputs(arguments, files, others=others) as paths:
        regions = _load(arguments)
        result = identify_regions(
            regions, transform=arguments.transform, rule=arguments.rule,
            stimulus_folds=arguments.folds, grid=arguments.grid, published=arguments.published,
            n_resamples=arguments.resamples, seed=arguments.seed, progress=not arguments.quiet,
        )  # fmt: skip
        _write(result, paths)
        if curves:
            _write_curves(regions, arguments, paths)
    table = result.table
    show(arguments, table.to_string(index=False, float_format="{:.3f}".format), table)


def _write(result: IdentificationResult, paths: Mapping[str, Path]) -> None:
    """Write the result, its tables and its figures."""
    result.table.to_csv(paths["accuracies.csv"], index=False)
    if isinstance(result, PublishedIdentification):
        result.types.to_csv(paths["types.csv"], index=False)
        result.comparisons.to_csv(paths["comparisons.csv"], index=False)
    else:
        result.by_subject.to_csv(paths["by_subject.csv"])
    result.to_netcdf(paths["result.nc"])
    _draw(result.plot, paths["identification.png"])
    if GRID in paths:
        _draw(result.plot_grid, paths[GRID])


def _draw(plot: Callable[..., object], path: Path) -> None:
    """Draw into a figure of one panel."""
    figure, axes = panels(1)
    plot(ax=axes[0])
    figure.savefig(path, dpi=DPI)


def _write_curves(
    regions: Mapping[str, xr.DataArray], arguments: argparse.Namespace, paths: Mapping[str, Path]
) -> None:
    from softrsa.reports.identification_figures import plot_curves

    curves = identification_curves(
        regions, transform=arguments.transform, rule=arguments.rule, grid=arguments.grid,
        stimulus_folds=arguments.folds, noise=arguments.noise or (0.0,),
        n_stimuli=arguments.stimuli,
        n_subsets=arguments.subsets, seed=arguments.seed, n_resamples=1,
        progress=not arguments.quiet,
    )  # fmt: skip
    curves.to_csv(paths["curves.csv"], index=False)
    figure = plot_curves(curves, chance=1 / len(regions))
    figure.savefig(paths["curves.png"], dpi=DPI)


def _load(arguments: argparse.Namespace) -> dict[str, xr.DataArray]:
    """Read RDMs by region: from a file, or of a data set."""
    check_one_source(arguments, files=1, wanted="one file (RDMS.nc)")
    name = "digit-networks" if arguments.demo else arguments.dataset
    if name is None:
        found = _by_region(read(arguments), str(arguments.files[0]))
    else:
        regions = load_dataset(arguments, name).regions
        for region, array in regions.items():
            _check_subjects(array, region)
        found = dict(regions)
    return select(found, arguments.regions, kind="region")


def _by_region(array: xr.DataArray, source: str) -> dict[str, xr.DataArray]:
    """Split RDMs or recordings by region."""
    if "anchor" not in array.dims:
        labels = labels_along(array, "unit")
        if not {"region", "subject"} <= {*labels}:
            raise DataError(
                f"{source}: units must be labelled by region and subject, found "
                f"{', '.join(sorted(labels)) or 'no labels'}."
            )
        return {str(name): part for name, part in split_units(array, "region").items()}
    if "region" not in array.dims:
        raise DataError(f"{source}: RDMs must have a dimension region, found {array.dims}.")
    return {str(name): array.sel(region=name) for name in array["region"].values}


def _check_subjects(array: xr.DataArray, region: str) -> None:
    if "anchor" not in array.dims and "subject" not in array.coords:
        raise DataError(f"Region {region!r} names no subjects, and there must be several.")


def _check_published(arguments: argparse.Namespace) -> None:
    """Refuse options that the published procedure would ignore."""
    if not arguments.published:
        return
    usual = {"rule": "best_match", "folds": 2, "grid": 10, "noise": None, "stimuli": None}
    ignored = [f"--{name}" for name, value in usual.items() if getattr(arguments, name) != value]
    if ignored:
        raise DataError(f"--published goes its own way: leave out {', '.join(ignored)}.")
