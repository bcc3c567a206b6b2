"""`softrsa report`: a page for readers from the result of an alignment."""

from __future__ import annotations

import argparse
import json
import sys

from softrsa import datasets
from softrsa.alignment import AlignmentResult
from softrsa.cli.parser import say
from softrsa.errors import DataError


def run(arguments: argparse.Namespace) -> None:
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
    if out.is_file() and not (arguments.overwrite or arguments.quiet):
        say(f"softrsa: {out} of an earlier run will be replaced.")
    result.report(out, title=arguments.title, images=images)
    if arguments.json:
        sys.stdout.write(json.dumps({"out": str(out.resolve())}) + "\n")
    elif not arguments.quiet:
        sys.stdout.write(f"The report is {out.resolve()}\n")
