"""Which files a command reads: globs, several files of recordings, and whose each is."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Sequence
from glob import glob, has_magic
from pathlib import Path

from softrsa._wording import listed, natural_key
from softrsa.errors import DataError, FileMissingError

SUBJECT = re.compile(r"(?:^|[_\W])(sub-[A-Za-z0-9]+)")  # as in BIDS, of a folder or a file


def found_files(given: Iterable[Path]) -> list[Path]:
    """Expand globs that the shell has left, sorted with numbers by value."""
    found: list[Path] = []
    for path in given:
        text = str(path)
        if path.exists() or not has_magic(text):
            found.append(path)
            continue
        matching = sorted(glob(text, recursive=True), key=natural_key)
        if not matching:
            raise FileMissingError(f"No file matches {text}.")
        found += map(Path, matching)
    return found


def gather_files(arguments: argparse.Namespace) -> None:
    """Put the file of layers, then all files of recordings, into ``arguments.files``."""
    files = found_files(arguments.files)
    recordings = found_files(arguments.recordings or ())
    if recordings and not files:
        files = _layers_file(arguments)
    if recordings and len(files) != 1:
        raise DataError(
            f"With --recordings give one file of layers, as LAYERS or --layers FILE, got "
            f"{listed(map(str, files)) or 'none'}."
        )
    arguments.files = [*files, *recordings]


def _layers_file(arguments: argparse.Namespace) -> list[Path]:
    """Take --layers for the file, where there is one of that name and nothing else says it."""
    files = [Path(name) for name in arguments.layers or ()]
    if len(files) != 1 or not files[0].exists():
        return []
    arguments.layers = None
    return files


def subject_names(files: Sequence[Path]) -> list[str]:
    """Name each file's subject: by `sub-...` in its path, its name, its folder, or its path."""
    whole = [path.resolve() for path in files]
    if twice := [str(p) for p, w in zip(files, whole, strict=True) if whole.count(w) > 1]:
        raise DataError(f"Each file of recordings is a subject, and some are the same: {twice}.")
    coded = [SUBJECT.findall(str(path)) for path in files]
    if all(coded):
        names = [found[-1] for found in coded]
        shown = [str(p) for p, name in zip(files, names, strict=True) if names.count(name) > 1]
        if shown:
            raise DataError(
                f"Several files are of one subject: {listed(shown)}. Each file of recordings is a "
                "subject: join the runs or sessions of one first."
            )
        return names
    for names in ([p.stem for p in whole], [p.parent.name for p in whole]):
        if len({*names}) == len(names):
            return names
    return [str(path) for path in files]


def common_name(files: Sequence[Path]) -> str:
    """Name what several files hold: what their names share without the subject."""
    stems = {SUBJECT.sub("", path.stem).strip("_-. ") for path in files}
    return next(iter(stems)) if len(stems) == 1 and all(stems) else "recordings"
