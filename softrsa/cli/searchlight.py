"""`softrsa searchlight`: a model's layers around every voxel or vertex, with tests."""

from __future__ import annotations

import argparse
import shlex
import warnings
from pathlib import Path
from typing import Any

import xarray as xr

from softrsa.cli.common import DPI, outputs, read, show
from softrsa.cli.images import are_images, check_no_images, ids_of_images, read_images
from softrsa.errors import DataError
from softrsa.inference import SearchlightResult, searchlight_maps
from softrsa.io import load, read_mesh
from softrsa.io.fmri.surface import hemisphere_of

FILES = ("report.html", "peaks.csv", "result.nc", "maps.png")


def run(arguments: argparse.Namespace) -> None:
    """Load, score, write, show."""
    models, *files = arguments.files
    if not files:
        raise DataError("Give a file of layers or RDMs, and then images of the brain.")
    arguments.files = [models]
    ids = ids_of_images(arguments)
    layers = _layers(read(arguments), arguments)
    recordings = _recordings(arguments, files, ids)
    mesh = _mesh(arguments.mesh)
    with outputs(arguments, FILES) as paths:
        result = searchlight_maps(
            layers, recordings, arguments.measure, radius=arguments.radius, rings=arguments.rings,
            mesh=mesh, by=arguments.by, method=arguments.method, fold=arguments.fold,
            smallest=arguments.smallest, similarity=arguments.similarity, join=arguments.join,
            chance=arguments.chance, alternative=arguments.alternative, test=arguments.test,
            n_flips=arguments.flips, n_permutations=arguments.permutations, seed=arguments.seed,
            progress=not arguments.quiet,
        )  # fmt: skip
        command = shlex.join(["softrsa", *arguments.argv])
        result = SearchlightResult(result.data.assign_attrs(command=command))
        table = result.table
        table.to_csv(paths["peaks.csv"], index=False)
        result.to_netcdf(paths["result.nc"])
        result.plot(mesh=mesh).savefig(paths["maps.png"], dpi=DPI)
        result.report(paths["report.html"], mesh=mesh)
    folder = arguments.out / "maps"
    (result.to_gifti if "vertex" in result.data.coords else _nifti(result))(folder)
    for message in result.warnings:
        warnings.warn(message, UserWarning, stacklevel=2)
    show(arguments, table.to_string(index=False, float_format="{:.3f}".format, na_rep="-"), table)


def _nifti(result: SearchlightResult) -> Any:
    """Write images where there is a grid to write them on."""
    return result.to_nifti if "grid" in result.data.attrs else (lambda _: [])


def _layers(data: xr.DataArray, arguments: argparse.Namespace) -> Any:
    """Keep the layers asked for."""
    if arguments.layers is None:
        return data
    from softrsa.alignment.align import named_parts
    from softrsa.recordings import select

    return select(named_parts(data, arguments.by, "layer"), arguments.layers, kind="layer")


def _recordings(
    arguments: argparse.Namespace, files: list[Path], ids: Any
) -> dict[str, xr.DataArray]:
    """Read images by subject, or arrays that were saved, one per subject."""
    if are_images(files):
        return read_images(arguments, files, ids)
    check_no_images(arguments)
    if ids is not None:
        raise DataError("--stimuli names volumes of images or, as layers:IDS, rows of layers.")
    names = [path.stem for path in files]
    if len({*names}) < len(names):
        names = [str(path) for path in files]
    return {name: load(path) for name, path in zip(names, files, strict=True)}


def _mesh(files: list[Path] | None) -> Any:
    """Read the surface, of one hemisphere or of both."""
    if not files:
        return None
    if len(files) == 1:
        return read_mesh(files[0])
    sides = [hemisphere_of(path.name) for path in files]
    if sorted(map(str, sides)) != ["left", "right"]:
        raise DataError(
            "Of two meshes one must be of the left and one of the right hemisphere by its name "
            f"(hemi-L, lh.), got {', '.join(path.name for path in files)}."
        )
    return {side: read_mesh(path) for side, path in zip(sides, files, strict=True)}
