"""What file names of BIDS say, and a table of the files of a data set."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from softrsa._wording import listed, natural_key
from softrsa.errors import DataError, FileMissingError

ENTITY = re.compile(r"(?:^|_)(sub|ses|task|run|space|hemi|desc|res)-([A-Za-z0-9]+)(?=[_.]|$)")
NAMES = {"sub": "subject", "ses": "session"}
COLUMNS = ("subject", "session", "task", "run", "space")
IMAGE = "_bold.nii.gz"


def entities(path: str | os.PathLike[str]) -> dict[str, str]:
    """Read what a file name says: subject, session, task, run, space, hemi, desc, res.

    Examples
    --------
    >>> entities("sub-01/func/sub-01_task-faces_run-2_bold.nii.gz")
    {'subject': '01', 'task': 'faces', 'run': '2'}
    """
    found: list[tuple[str, str]] = ENTITY.findall(Path(path).name)
    return {NAMES.get(key, key): value for key, value in found}


SHARED = ("subject", "session", "task", "run")  # that a table and its image must agree in


def check_together(image: str, table: object, name: str) -> None:
    """Refuse a table whose file name says that it is of another image."""
    if not isinstance(table, (str, os.PathLike)):
        return
    one, other = entities(image), entities(table)
    differ = [key for key in SHARED if key in one and other.get(key, one[key]) != one[key]]
    if differ:
        raise DataError(
            f"{Path(table).name} and {Path(image).name} differ in {listed(differ)}: images and "
            f"`{name}` must be in the same order."
        )


def bids_table(
    folder: str | os.PathLike[str],
    *,
    raw: str | os.PathLike[str] | None = None,
    subject: str | Sequence[str] | None = None,
    session: str | Sequence[str] | None = None,
    task: str | Sequence[str] | None = None,
    run: str | Sequence[str] | None = None,
    space: str | Sequence[str] | None = None,
) -> pd.DataFrame:
    """List the functional images of a BIDS data set or of fMRIPrep, and what belongs to each.

    Parameters
    ----------
    folder : path
        The derivatives of fMRIPrep, or a raw data set.
    raw : path, optional
        The raw data set, in which events are looked for too. By default the folder that holds
        ``derivatives``, where there is one.
    subject, session, task, run, space : str or sequence of str, optional
        Keep these only, without their prefix: ``task="faces"``, not ``"task-faces"``.

    Returns
    -------
    pandas.DataFrame
        A row per image: `subject`, `session`, `task`, `run`, `space` (missing where the name says
        none), and the paths `image`, `mask`, `events`, `confounds` (missing where there is none).
        Of fMRIPrep only preprocessed images (``desc-preproc``) are listed.

    Raises
    ------
    FileMissingError
        If there is no such folder, or no image in it.
    DataError
        If nothing is left of what was asked for; the message says what there is.

    Examples
    --------
    >>> runs = bids_table("derivatives/fmriprep", task="faces", space="T1w")  # doctest: +SKIP
    >>> betas = from_nifti(runs["image"], events=runs["events"], ...)  # doctest: +SKIP
    """
    root = Path(folder)
    if not root.is_dir():
        raise FileMissingError(f"There is no folder {root}.")
    images = sorted(root.rglob(f"*{IMAGE}"), key=lambda path: natural_key(str(path)))
    preprocessed = [path for path in images if entities(path).get("desc") == "preproc"]
    images = preprocessed or images
    if not images:
        raise FileMissingError(
            f"{root} holds no file whose name ends in {IMAGE}. Give the folder of fMRIPrep's "
            "derivatives or of a BIDS data set; images of other names go to `from_nifti` as they "
            "are."
        )
    roots = [root, *_raw_roots(root, raw)]
    table = pd.DataFrame([_row(path, roots) for path in images])
    asked = {"subject": subject, "session": session, "task": task, "run": run, "space": space}
    for column, wanted in asked.items():
        if wanted is None:
            continue
        names = [wanted] if isinstance(wanted, str) else [*map(str, wanted)]
        left = table[table[column].isin(names)]
        if left.empty:
            there = table[column].dropna().unique()
            raise DataError(
                f"No image has {column} {listed(names)}; there are {listed(there) or 'none'}."
            )
        table = left
    return table.reset_index(drop=True)


def _raw_roots(root: Path, raw: str | os.PathLike[str] | None) -> list[Path]:
    """Find where the raw data may be."""
    if raw is not None:
        if not Path(raw).is_dir():
            raise FileMissingError(f"There is no folder {raw} (`raw`).")
        return [Path(raw)]
    parents = [one for one in root.resolve().parents if one.name == "derivatives"]
    return [parents[0].parent] if parents else []


def _row(image: Path, roots: Sequence[Path]) -> dict[str, str | None]:
    """Describe an image by its name, and find what belongs to it."""
    named = entities(image)
    stem = image.name.removesuffix(IMAGE)
    same = [f"{key}-{value}" for key, value in ENTITY.findall(stem) if key not in ("space", "desc")]
    folder = image.parent
    run = "_".join(part for part in same if not part.startswith("res-"))
    masks = [folder / f"{re.sub(r'desc-[A-Za-z0-9]+', 'desc-brain', stem)}_mask.nii.gz"]
    found = {
        "image": image,
        "mask": _first(masks),
        "events": _first(_events(image, run, roots)),
        "confounds": _first(
            folder / f"{run}_desc-confounds_{ending}.tsv" for ending in ("timeseries", "regressors")
        ),
    }
    paths = {key: None if path is None else str(path) for key, path in found.items()}
    return {**{column: named.get(column) for column in COLUMNS}, **paths}


def _first(paths: Iterable[Path]) -> Path | None:
    return next((path for path in paths if path.is_file()), None)


def _events(image: Path, run: str, roots: Sequence[Path]) -> list[Path]:
    """List where the events of a run may be: beside it, then in the raw data of that subject."""
    named = entities(image)
    folders = [f"sub-{named['subject']}"] if "subject" in named else []
    folders += [f"ses-{named['session']}"] if "session" in named else []
    name = f"{run}_events.tsv"
    task = f"task-{named.get('task')}_events.tsv"  # one for all runs, at the top
    inside = [root.joinpath(*folders, "func", name) for root in roots]
    return [image.parent / name, *inside, *(root / task for root in roots)]
