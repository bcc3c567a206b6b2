"""The command `softrsa`: parse, call public functions, write files; no mathematics."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import xarray as xr

import softrsa
from softrsa import datasets
from softrsa.activations import load_model
from softrsa.alignment import AlignmentResult
from softrsa.alignment.fitting import TRANSFORMS
from softrsa.errors import DataError, SoftRSAError
from softrsa.io import atomic_path
from softrsa.recordings import select, split_units
from softrsa.reports import format_best, format_table

EXAMPLES = """examples:
  softrsa align --demo --out results/
  softrsa align --dataset kriegeskorte92 --model efficientnet-lite0 --out results/
  softrsa align LAYERS.nc RECORDINGS.nc --by layer --region region --subject subject \\
      --transform identity,geo_topological,global,instance --folds 5 --out results/
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; a user's mistake is one line on stderr and exit code 2."""
    arguments = _parser().parse_args(argv)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            arguments.run(arguments)
        for message in dict.fromkeys(str(w.message) for w in caught):
            _say(f"softrsa: warning: {_one_line(message)}")
    except (SoftRSAError, OSError) as error:
        _say(f"softrsa: error: {_one_line(error)}")
        return 2
    return 0


class _Parser(argparse.ArgumentParser):
    """An ArgumentParser whose mistakes are one line too."""

    def error(self, message: str) -> NoReturn:
        _say(f"softrsa: error: {_one_line(message)} See `{self.prog} --help`.")
        sys.exit(2)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="softrsa",
        description="Representational similarity analysis with learned transforms.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=softrsa.__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_align(commands.add_parser(
        "align", help="align a model's layers with a brain's regions on held-out stimuli",
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    ))  # fmt: skip
    return parser


def _add_align(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "files",
        nargs="*",
        metavar="FILE",
        type=Path,
        help="LAYERS.nc RECORDINGS.nc: netCDF files of activations and of recordings or RDMs",
    )
    add("--demo", action="store_true", help="use the simulated data set that softrsa carries")
    add("--dataset", help=f"one of: {', '.join(datasets.available())}")
    add("--model", help="a pretrained network to show the data set's images (efficientnet-lite0)")
    add("--untrained", action="store_true", help="use the network with random weights")
    add("--out", type=Path, required=True, metavar="DIR", help="where results are written")
    add("--by", default="layer", help="coordinate that holds layers (%(default)s)")
    add("--region", default="region", help="coordinate that holds regions (%(default)s)")
    add("--subject", default="subject", help="coordinate that holds subjects (%(default)s)")
    add("--layers", type=_names, help="only these layers, comma-separated")
    add("--regions", type=_names, help="only these regions, comma-separated")
    add("--similarity", default="correlation", help="between stimuli (%(default)s)")
    add("--measure", default="centered_pearson", help="between RSMs (%(default)s)")
    add(
        "--transform",
        type=_names,
        default=list(TRANSFORMS),
        metavar="A,B,...",
        help=f"of: {','.join(TRANSFORMS)} (all)",
    )
    add("--folds", type=int, default=5, help="over stimuli (%(default)s)")
    add(
        "--leave-one-subject-out",
        action="store_true",
        help="score each subject under transforms fitted on the others",
    )
    add(
        "--join",
        choices=("exact", "intersection"),
        default="exact",
        help="whether both files must have the same stimuli (%(default)s)",
    )
    add(
        "--permute",
        action="store_true",
        help="a control: shuffle the brain's stimuli, so every gain must vanish",
    )
    add("--seed", type=int, default=0, help="of folds and inner folds (%(default)s)")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:0 (%(default)s)")
    add("--quiet", action="store_true", help="no progress and no table")
    parser.set_defaults(run=_align)  # fmt: skip


def _align(arguments: argparse.Namespace) -> None:
    """Load, align, write, show."""
    with atomic_path(arguments.out / "scores.csv") as probe:  # fail before the work, not after
        probe.touch()
        layers, regions = _load(arguments)
        result = softrsa.align(
            layers,
            regions,
            by=arguments.by,
            region=arguments.region,
            subject=arguments.subject,
            transforms=arguments.transform,
            measure=arguments.measure,
            similarity=arguments.similarity,
            folds=arguments.folds,
            subjects="leave_one_out" if arguments.leave_one_subject_out else "pooled",
            join=arguments.join,
            permute=arguments.permute,
            seed=arguments.seed,
            device=arguments.device,
            progress=not arguments.quiet,
        )
        result.table.to_csv(probe, index=False)
    _write(result, arguments.out)
    if not arguments.quiet:
        sys.stdout.write(f"{format_table(result.table)}\n\n{format_best(result.table)}\n")
        sys.stdout.write(f"Results are in {arguments.out.resolve()}\n")


def _load(
    arguments: argparse.Namespace,
) -> tuple[dict[str, xr.DataArray], dict[str, xr.DataArray]]:
    """Read both sides from files, a data set, or a network shown a data set's images."""
    name = "simulated" if arguments.demo else arguments.dataset
    if (name is None) == (len(arguments.files) != 2) or (arguments.demo and arguments.dataset):
        raise DataError(
            "Give two files (LAYERS.nc RECORDINGS.nc), or --dataset NAME, or --demo; got "
            f"{len(arguments.files)} files, --dataset {arguments.dataset}"
            f"{' and --demo' if arguments.demo else ''}."
        )
    if name is None:
        layers, brain = (softrsa.load(path) for path in arguments.files)
        regions = _split(brain, arguments.region, "region")
    else:
        data = datasets.load(name, progress=not arguments.quiet)
        if data.card.simulated and not arguments.quiet:
            sys.stdout.write(f"Data set {name!r} is simulated.\n")
        layers, regions = _layers_of(data, arguments), data.regions
    return (
        select(_split(layers, arguments.by, "layer"), arguments.layers, kind="layer"),
        select(regions, arguments.regions, kind="region"),
    )


def _layers_of(data: datasets.DataSet, arguments: argparse.Namespace) -> xr.DataArray:
    """Take the layers a data set carries, or those of a network shown its images."""
    if arguments.model is None:
        if data.layers is None:
            raise DataError(f"Data set {data.name!r} carries no layers; name a network: --model.")
        return data.layers
    if data.images is None:
        raise DataError(f"Data set {data.name!r} has no images to show to {arguments.model!r}.")
    model = load_model(arguments.model, pretrained=not arguments.untrained, seed=arguments.seed)
    return softrsa.extract_activations(
        model.module, data.images, model.layers, preprocess=model.preprocess,
        progress=not arguments.quiet,
    )  # fmt: skip


def _split(data: xr.DataArray, by: str, kind: str) -> dict[str, xr.DataArray]:
    """Split by a unit coordinate or a leading dimension; one part where there is neither."""
    if "unit" in data.dims:
        labelled = any(coord.dims == ("unit",) for coord in data.coords.values())
        return split_units(data, by) if labelled else {kind: data}
    if by not in data.dims:
        return {kind: data}
    return {str(name): data.sel({by: name}, drop=True) for name in data[by].values}


def _write(result: AlignmentResult, out: Path) -> None:
    """Write the result and its figures, each file whole or not at all."""
    result.to_netcdf(out / "result.nc")
    figures: dict[str, Callable] = {
        "alignment.png": result.plot,
        "transforms.png": result.plot_transforms,
    }
    for name, draw in figures.items():
        with atomic_path(out / name) as path:
            draw().savefig(path, dpi=150)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _one_line(message: object) -> str:
    return " ".join(str(message).split())


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main())
