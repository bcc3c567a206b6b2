"""`softrsa report`: a page for readers from the result of an alignment."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from softrsa import datasets
from softrsa.alignment import AlignmentResult
from softrsa.cli.common import add_output
from softrsa.errors import DataError


def add_report(parser: argparse.ArgumentParser) -> None:
    """Give the parser its options."""
    add = parser.add_argument
    add("result", type=Path, metavar="RESULT", help="result.nc, as `softrsa align` writes it")
    add(
        "--out", type=Path, metavar="FILE",
        help="the page to write (report.html beside the result)",
    )  # fmt: skip
    add("--title", help="heading of the page")
    add("--images", type=Path, metavar="DIR", help="pictures of the stimuli, named by stimulus id")
    add("--dataset", help="take the pictures of this data set instead")
    add_output(parser)
    parser.set_defaults(run=_report)


def _report(arguments: argparse.Namespace) -> None:
    """Read, write, say where."""
    if arguments.images and arguments.dataset:
        raise DataError("Give --images DIR or --dataset NAME, not both.")
    result = AlignmentResult.from_netcdf(arguments.result)
    images = arguments.images
    if arguments.dataset:
        images = datasets.load(arguments.dataset, progress=not arguments.quiet).images
        if images is None:
            raise DataError(f"Data set {arguments.dataset!r} has no images.")
    out = arguments.out or arguments.result.with_name("report.html")
    result.report(out, title=arguments.title, images=images)
    if arguments.json:
        sys.stdout.write(json.dumps({"out": str(out.resolve())}) + "\n")
    elif not arguments.quiet:
        sys.stdout.write(f"The report is {out.resolve()}\n")
