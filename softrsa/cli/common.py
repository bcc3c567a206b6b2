"""What all commands share: one-line mistakes, files written whole or not at all, values."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NoReturn

import pandas as pd
import xarray as xr

import softrsa
from softrsa._wording import counted
from softrsa.errors import DataError
from softrsa.io import atomic_path
from softrsa.recordings import average_trials

DPI = 200


class Stopped(KeyboardInterrupt):
    """Ctrl-C after which something was kept; the message says what."""


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose mistakes are one line too."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one line and leave with exit code 2."""
        line = one_line(message)
        say(f"softrsa: error: {line}{'' if line.endswith('.') else '.'} See `{self.prog} --help`.")
        sys.exit(2)


@contextmanager
def outputs(out: Path, files: Iterable[str]) -> Iterator[dict[str, Path]]:
    """Give temporary paths, before the work, that become the output files if all goes well."""
    new = [folder for folder in (out, *out.parents) if not folder.exists()]
    try:
        with ExitStack() as stack:
            yield {name: stack.enter_context(atomic_path(out / name)) for name in files}
    except BaseException:
        for folder in new:
            with suppress(OSError):  # not there yet, or not empty
                folder.rmdir()
        raise


def check_one_source(arguments: argparse.Namespace, *, files: int, wanted: str) -> None:
    """Refuse sources that are missing or doubled."""
    given = [
        counted(len(arguments.files), "file"),
        *(["--demo"] if arguments.demo else []),
        *([f"--dataset {arguments.dataset}"] if arguments.dataset else []),
    ]
    named = arguments.demo + bool(arguments.dataset)
    if (named, len(arguments.files)) not in ((1, 0), (0, files)):
        raise DataError(f"Give {wanted}, or --dataset NAME, or --demo; got {' and '.join(given)}.")


def read(path: Path) -> xr.DataArray:
    """Read a file; the trials of each stimulus are averaged."""
    array = softrsa.load(path)
    return average_trials(array) if "trial" in array.dims else array


def add_output(parser: argparse.ArgumentParser) -> None:
    """Give a parser the options of what it writes to the terminal."""
    parser.add_argument("--quiet", action="store_true", help="no progress and no table")
    parser.add_argument(
        "--json", action="store_true", help="the table as JSON on stdout, for programs"
    )


def note(arguments: argparse.Namespace, line: str) -> None:
    """Say something on the way; not where it was asked to be quiet, nor among JSON."""
    if not arguments.quiet:
        (sys.stderr if arguments.json else sys.stdout).write(f"{line}\n")


def show(arguments: argparse.Namespace, text: str, table: pd.DataFrame) -> None:
    """Write what was found to stdout: JSON where asked for, else text unless quiet."""
    out = arguments.out.resolve()
    if arguments.json:
        rows = json.loads(table.to_json(orient="records", double_precision=12))  # NaN is null
        sys.stdout.write(json.dumps({"out": str(out), "rows": rows}) + "\n")
    elif not arguments.quiet:
        sys.stdout.write(f"{text}\nResults are in {out}\n")


def names(text: str) -> list[str]:
    """Split names at commas."""
    found = [name.strip() for name in text.split(",") if name.strip()]
    if not found:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected names separated by commas.")
    return found


def seed(text: str) -> int:
    """Take a whole number that seeds a generator."""
    if not text.isdecimal() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a whole number from 0 to 2^63.")
    return int(text)


def one_line(message: object) -> str:
    """Join the lines of a message."""
    return " ".join(str(message).split())


def say(line: str) -> None:
    """Write a line to stderr."""
    sys.stderr.write(f"{line}\n")
