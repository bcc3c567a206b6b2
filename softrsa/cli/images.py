"""Images of fMRI on the command line: what belongs to each file, and files of one subject."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import xarray as xr

from softrsa._wording import counted, listed
from softrsa.cli.common import as_ids
from softrsa.errors import DataError, FileMissingError
from softrsa.io import from_gifti, from_nifti
from softrsa.io.fmri.bids import entities
from softrsa.io.fmri.surface import hemisphere_of
from softrsa.io.looking import look

ENDINGS = (".nii", ".nii.gz", ".gii", ".gii.gz", ".mgz", ".mgh", ".img")
SURFACES = (".gii", ".gii.gz")
FREESURFER = (".mgz", ".mgh")  # of a volume, or by its name of a hemisphere
NAMED = ("mask", "atlas", "atlas_labels", "events", "confounds", "confound_columns", "volumes",
         "t_r", "resample", "events_column")  # fmt: skip
OF_LAYERS = "layers:"
PLACE = re.compile(r"\{(\w+)\}")


def are_images(files: Sequence[Path]) -> bool:
    """Tell images from other files, and refuse both together."""
    found = [path.name.lower().endswith(ENDINGS) for path in files]
    if any(found) and not all(found):
        other = [path.name for path, own in zip(files, found, strict=True) if not own]
        raise DataError(f"Images and other files cannot be read together: {listed(other)}.")
    return all(found)


def check_no_images(arguments: argparse.Namespace) -> None:
    """Refuse options of images where there are none."""
    given = [name for name in NAMED if getattr(arguments, name, None)]
    if given:
        option = given[0].replace("_", "-")
        raise DataError(f"--{option} is about images (NIfTI, GIFTI), and there are none.")


def ids_of_images(arguments: argparse.Namespace) -> Any:
    """Take --stimuli for the images, and leave those that say "layers:" for the layers."""
    given = arguments.stimuli or []
    of_layers = [text for text in given if text.startswith(OF_LAYERS)]
    of_images = [text.removeprefix("recordings:") for text in given if text not in of_layers]
    if len(of_images) > 1:
        raise DataError(f"--stimuli is given {len(of_images)} times for the images.")
    arguments.stimuli = [text.removeprefix(OF_LAYERS) for text in of_layers]
    return as_ids(of_images[0].strip()) if of_images else None


def read_images(
    arguments: argparse.Namespace, files: Sequence[Path], stimuli: Any
) -> dict[str, xr.DataArray]:
    """Read images by subject, as their names tell; one that names none is a subject too."""
    for path in files:
        look(path)
    by_subject: dict[str, list[Path]] = {}
    for path in files:
        by_subject.setdefault(entities(path).get("subject", "subject 1"), []).append(path)
    beside = {name: _each(arguments, name, files) for name in ("events", "confounds")}
    found = {}
    for subject, own in by_subject.items():
        tables = {
            name: None if each is None else [each[path] for path in own]
            for name, each in beside.items()
        }
        found[subject] = _one(arguments, own, tables, subject, stimuli)
        array = found[subject]
        told = f"; {array.attrs.pop('read_as')}" if "read_as" in array.attrs else ""
        line = (
            f"{subject}: {counted(len(own), 'image')}, {array.sizes['trial']} trial x "
            f"{array.sizes['unit']} unit{told}."
        )
        arguments.taken_for = [*getattr(arguments, "taken_for", []), line]
    return found


def _one(
    arguments: argparse.Namespace, files: list[Path], tables: dict[str, Any], subject: str,
    stimuli: Any,
) -> xr.DataArray:  # fmt: skip
    """Read the images of one subject."""
    name = files[0].name.lower()
    surface = name.endswith(SURFACES) or (name.endswith(FREESURFER) and hemisphere_of(name))
    labels = arguments.atlas_labels
    options: dict[str, Any] = {
        "mask": _mask(arguments.mask, files[0]),
        "atlas": None if arguments.atlas is None else _filled(arguments.atlas, files[0]),
        "labels": None if labels is None else _filled(labels, files[0]),
        "stimuli": stimuli, "stimulus": arguments.events_column, "volumes": arguments.volumes,
        "confound_columns": arguments.confound_columns, "t_r": arguments.t_r, "subject": subject,
        "progress": not arguments.quiet, **tables,
    }  # fmt: skip
    options["stimulus"] = options["stimulus"] or "trial_type"
    if surface:
        return from_gifti(files, **options)
    return from_nifti(files, resample=arguments.resample, **options)


def _mask(given: list[str] | None, image: Path) -> Any:
    """Give the mask of an image, or a mask for each region."""
    if not given:
        return None
    named = [text.split("=", maxsplit=1) for text in given if "=" in text]
    if len(named) == len(given):
        return {name: _filled(file, image) for name, file in named}
    if len(given) > 1:
        raise DataError(
            "Give one --mask, or one for each region as NAME=FILE, such as --mask V1=v1.nii.gz "
            f"IT=it.nii.gz; got {listed(given)}. Of several subjects write "
            '"sub-{subject}_mask.nii.gz".'
        )
    return _filled(given[0], image)


def _filled(pattern: str, image: Path) -> Path:
    """Fill what stands in braces from the name of an image."""
    known = entities(image)
    missing = [name for name in PLACE.findall(pattern) if name not in known]
    if missing:
        raise DataError(
            f"{pattern} asks for {listed(missing)}, which the name of {image.name} does not say; "
            f"it says {listed(sorted(known)) or 'nothing'}."
        )
    path = Path(PLACE.sub(lambda match: known[match[1]], pattern))
    if not path.exists():
        raise FileMissingError(f"There is no file {path}, which belongs to {image.name}.")
    return path


def _each(
    arguments: argparse.Namespace, name: str, files: Sequence[Path]
) -> dict[Path, Path] | None:
    """Give each image its table: one pattern or file for all, or as many as images."""
    given: list[str] | None = getattr(arguments, name)
    if not given:
        return None
    if len(given) == 1:
        return {path: _filled(given[0], path) for path in files}
    if len(given) != len(files):
        raise DataError(
            f"--{name} must be one file or pattern for all, or one for each of "
            f"{counted(len(files), 'image')}, got {len(given)}. A pattern such as "
            f'"sub-{{subject}}_run-{{run}}_{name}.tsv" is filled from the names of the images.'
        )
    return dict(zip(files, map(Path, given), strict=True))
