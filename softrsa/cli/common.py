"""What all commands share: files written whole or not at all, what they read and show."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr

from softrsa import datasets
from softrsa._wording import counted
from softrsa.cli.parser import say
from softrsa.errors import DataError, SoftRSAError
from softrsa.io import atomic_path, load
from softrsa.io.load import takes
from softrsa.io.tables import plain_ids
from softrsa.recordings import average_trials

DPI = 200


class Stopped(KeyboardInterrupt):
    """Ctrl-C after which something was kept; the message says what."""


@contextmanager
def outputs(
    arguments: argparse.Namespace, files: Iterable[str], *, others: Iterable[str] = ()
) -> Iterator[dict[str, Path]]:
    """Give temporary paths, before the work, that become the output files if all goes well.

    Those of an earlier run are replaced, and ``others`` that this one does not write are deleted:
    what is in the folder then is of one run. Without --overwrite or --quiet, that is said before.
    """
    out, files = arguments.out, [*files]
    new = [folder for folder in (out, *out.parents) if not folder.exists()]
    replaced, stale = (
        [name for name in dict.fromkeys(names) if (out / name).is_file()]
        for names in (files, [name for name in others if name not in files])
    )
    if (replaced or stale) and not (arguments.overwrite or arguments.quiet):
        parts = [f"{', '.join(replaced)} will be replaced"] * bool(replaced)
        parts += [f"{', '.join(stale)}, which this run does not write, deleted"] * bool(stale)
        say(f"softrsa: {out} has results of an earlier run: {'; '.join(parts)}.")
    try:
        with ExitStack() as stack:
            yield {name: stack.enter_context(atomic_path(out / name)) for name in files}
    except BaseException:
        for folder in new:
            with suppress(OSError):  # not there yet, or not empty
                folder.rmdir()
        raise
    for name in stale:
        (out / name).unlink(missing_ok=True)


def check_one_source(
    arguments: argparse.Namespace, *, files: int, wanted: str, more: bool = False
) -> None:
    """Refuse sources that are missing or doubled; there may be more files where that is said."""
    given = [
        counted(len(arguments.files), "file"),
        *(["--demo"] if arguments.demo else []),
        *([f"--dataset {arguments.dataset}"] if arguments.dataset else []),
    ]
    named = arguments.demo + bool(arguments.dataset)
    number = min(len(arguments.files), files) if more else len(arguments.files)
    if (named, number) not in ((1, 0), (0, files)):
        raise DataError(f"Give {wanted}, or --dataset NAME, or --demo; got {' and '.join(given)}.")


def load_dataset(arguments: argparse.Namespace, name: str) -> datasets.DataSet:
    """Load a data set, and say so where it is simulated."""
    data = datasets.load(name, progress=not arguments.quiet)
    if data.card.simulated:
        note(arguments, f"{name}: these data are simulated.")
    return data


FILES_OF = ("layers", "recordings")  # names of the first file and of all others, before what an
# option says of one; those of --control are named "control"


def control_files(arguments: argparse.Namespace) -> list[tuple[Path, str]]:
    """Files of --control, each with the layer that was named after a colon, or ""."""
    found = []
    for text in getattr(arguments, "control", None) or ():
        file, colon, layer = text.rpartition(":")
        whole = not colon or Path(text).exists() or len(file) == 1  # C:\file
        found.append((Path(text), "") if whole else (Path(file), layer))
    return found


def _sources(arguments: argparse.Namespace) -> list[Path]:
    """All files that are read, those of controls last."""
    return [*arguments.files, *(path for path, _ in control_files(arguments))]


def read(
    arguments: argparse.Namespace, place: int = 0, *, keep_trials: bool = False
) -> xr.DataArray:
    """Read one of the files and average the trials of each stimulus, unless they are kept.

    What it was taken for is said with the results. Places after the files are those of controls.
    """
    path = _sources(arguments)[place]
    options, alone = _reading(arguments, place)
    ids = []
    try:
        array = load(path, **options)
    except SoftRSAError as error:
        array = _with_its_ids(arguments, place, options, alone)
        ids = ["its own stimulus ids"]
        if array is None and not alone:
            raise
        if array is None:
            hint = f"--{alone[0]} {FILES_OF[bool(place)]}:{getattr(arguments, alone[0])[0]}"
            raise type(error)(
                f"{error} An option about the other file only is written {hint}."
            ) from error
    else:
        arguments.ids_used = getattr(arguments, "ids_used", False) or "stimuli" in options
    sizes = " x ".join(f"{n} {dim}" for dim, n in array.sizes.items())
    read_as = [array.attrs["read_as"]] if "read_as" in array.attrs else []
    told = "; ".join([sizes, *ids, *read_as])
    taken = f"{path}: {array.attrs.get('source_format', 'netCDF')}, {told}."
    arguments.taken_for = [*getattr(arguments, "taken_for", []), taken]
    kept = keep_trials and "time" not in array.dims
    return average_trials(array) if "trial" in array.dims and not kept else array


def _with_its_ids(
    arguments: argparse.Namespace, place: int, options: dict[str, Any], alone: list[str]
) -> xr.DataArray | None:
    """Read a file that holds stimulus ids itself, where --stimuli is for those that hold none.

    None if it does not, or if no file were left for which --stimuli is.
    """
    files = _sources(arguments)
    last = place == len(files) - 1
    if "stimuli" not in alone or (last and not getattr(arguments, "ids_used", False)):
        return None
    try:
        return load(files[place], **{n: value for n, value in options.items() if n != "stimuli"})
    except SoftRSAError:
        return None


def _reading(arguments: argparse.Namespace, place: int) -> tuple[dict[str, Any], list[str]]:
    """Find the options of `load` that are about one of the files, and which do not name it."""
    files = _sources(arguments)
    taken = [takes(path) for path in files]
    found: dict[str, Any] = {}
    alone = []
    kinds = [FILES_OF[bool(i)] for i in range(len(arguments.files))]
    kinds += ["control"] * (len(files) - len(kinds))
    names = [{kind, path.name, path.stem} for kind, path in zip(kinds, files, strict=True)]
    for name in ("stimuli", "kind", "dims", "variable", "halves", "trials"):
        texts = [t for t in getattr(arguments, name, None) or () if isinstance(t, str)]
        for text in texts:  # identify has numbers of stimuli
            about, colon, value = text.partition(":")
            if len(files) > 1 and colon and about in set().union(*names):
                if about not in names[place]:
                    continue
            elif len(files) > 1 and name not in taken[place]:
                if not any(name in each for each in taken):
                    raise DataError(f"--{name} has no meaning for any of the files: leave it out.")
                continue
            else:
                value = text
                alone += [name] if len(files) > 1 else []
            if name in found:
                raise DataError(f"--{name} is given twice for {files[place]}.")
            found[name] = _value(name, value.strip())
    if arguments.drop_missing_units:
        found["drop_missing_units"] = True
    if arguments.limit is not None:
        found["limit"] = 1e9 * arguments.limit
    return found, alone


def _value(name: str, text: str) -> Any:
    """Make of an option's text what `load` takes."""
    if name == "dims":
        return tuple(dim.strip() for dim in text.split(","))
    return as_ids(text) if name == "stimuli" else text


def as_ids(text: str | None) -> Any:
    """Take ids from a file with one a line, or from between commas; else the text itself."""
    if text is None:
        return None
    file = Path(text)
    if file.is_file():
        listed = file.read_text(encoding="utf-8-sig").splitlines()
    elif "," in text:
        listed = text.split(",")
    else:
        return text
    ids = [line.strip() for line in listed]
    return plain_ids([line for line in ids if line])


def note(arguments: argparse.Namespace, line: str) -> None:
    """Say something on the way; not where it was asked to be quiet, nor among JSON."""
    if not arguments.quiet:
        (sys.stderr if arguments.json else sys.stdout).write(f"{line}\n")


def show(arguments: argparse.Namespace, text: str, table: pd.DataFrame) -> None:
    """Write what was found to stdout: JSON where asked for, else text unless quiet."""
    out = "" if arguments.out is None else str(arguments.out.resolve())
    if arguments.json:
        rows = json.loads(table.to_json(orient="records", double_precision=12))  # NaN is null
        sys.stdout.write(json.dumps({"out": out, "rows": rows}) + "\n")
    elif not arguments.quiet:
        for line in getattr(arguments, "taken_for", []):
            sys.stdout.write(f"{line}\n")
        sys.stdout.write(f"{text}\n" + (f"Results are in {out}\n" if out else ""))
