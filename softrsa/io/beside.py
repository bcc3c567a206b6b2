"""Labels that lie in a file beside its numbers: texts and ids whose length fits an axis of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from softrsa.errors import StimulusError, unknown_name
from softrsa.io.options import Options
from softrsa.io.synonyms import meaning, renamings
from softrsa.io.wording import ON_COMMAND_LINE, listed

OF_UNITS = ("unit", "region", "layer", "subject", "session", "hemisphere", "neuroid_id")


@dataclass(frozen=True)
class Sides:
    """What labels the rows and columns of an array.

    Attributes
    ----------
    turned : bool
        Whether the stimuli are in the columns.
    ids : ndarray or None
        The stimulus ids, as far as known.
    source : str
        The variable that holds them; empty if the caller gave them.
    coords : dict of str to (str, ndarray)
        Further labels, each with its side: ``stimulus`` or ``unit``.
    """

    turned: bool
    ids: np.ndarray | None
    source: str = ""
    coords: dict[str, tuple[str, np.ndarray]] = field(default_factory=dict)


def labels_beside(content: Mapping[str, Any], key: str) -> dict[str, np.ndarray]:
    """Find rows of texts, whatever they are called, and of whole numbers that are called labels."""
    found = {name: _row(name, value) for name, value in content.items() if name != key}
    return {name: row for name, row in found.items() if row is not None}


def _row(name: str, value: Any) -> np.ndarray | None:
    if not isinstance(value, np.ndarray) or not 1 < value.size == max(value.shape):
        return None
    row = value.ravel()
    if row.dtype == object:
        texts = ["" if np.size(each) == 0 else each for each in row]
        return np.array(texts) if all(isinstance(each, str) for each in texts) else None
    if row.dtype.kind == "U":
        return row
    if row.dtype.kind not in "iuf" or _role(name) == "other":
        return None
    whole = np.isfinite(row).all() and (row == np.round(row)).all()
    return row.astype(np.int64) if whole else None


def _role(name: str) -> str:
    """Tell what a variable labels, by its name."""
    word = meaning(name) or name.lower()
    return "stimulus" if word == "stimulus" else "unit" if word in OF_UNITS else "other"


def ids_of(options: Options, n: int, name: str) -> np.ndarray:
    """Find the ids of n stimuli, such as those of RDMs: the caller's, or those beside them."""
    if options.stimuli is None and options.beside:
        if options.ids_in is not None:
            return check_ids(_asked_for(options, name), n, name)
        fitting = {k: row for k, row in options.beside.items() if len(row) == n and _distinct(row)}
        for role in ("stimulus", "other"):
            own = [key for key in fitting if _role(key) == role]
            if own and (role == "stimulus" or len(own) == 1):
                return fitting[own[0]]
            if own:
                raise _which(own, f"the {n} stimuli of the {name}")
    return check_ids(options.stimuli, n, name)


def find_sides(shape: tuple[int, ...], options: Options, name: str) -> Sides:
    """Find what labels the rows (stimuli) and columns (units) of a recording, and which is which.

    Labels of a telling name that fit the columns only turn the array over; labels of another name
    are trusted only where they fit the rows only. What fits both sides decides nothing.
    """
    rows, columns = shape[0], int(np.prod(shape[1:]))
    beside = options.beside
    only_rows = [key for key, row in beside.items() if len(row) == rows != columns]
    only_columns = [key for key, row in beside.items() if len(row) == columns != rows]
    flat = len(shape) == 2
    upside_down = flat and any(_role(key) == "unit" for key in only_rows)
    if options.stimuli is not None:
        turned = upside_down and len(options.stimuli) == columns != rows
        return _with_labels(Sides(turned, options.stimuli), beside, rows, columns)
    if options.ids_in is not None:
        ids = _asked_for(options, name)
        turned = flat and len(ids) == columns != rows
        return _with_labels(Sides(turned, ids, options.ids_in), beside, rows, columns)
    found = _by_name(beside, only_rows)
    if found:
        return _with_labels(Sides(False, beside[found], found), beside, rows, columns)
    turning = _by_name(beside, only_columns) if flat else None
    if turning and not any(_role(key) == "unit" for key in only_columns):
        return _with_labels(Sides(True, beside[turning], turning), beside, rows, columns)
    texts = [key for key in only_rows if _role(key) == "other" and _distinct(beside[key])]
    if texts and not (turning or upside_down):
        if len(texts) > 1:
            raise _which(texts, f"the {rows} rows of the {name}")
        return _with_labels(Sides(False, beside[texts[0]], texts[0]), beside, rows, columns)
    _refuse_unclear(shape, beside, name)
    return _with_labels(Sides(False, None), beside, rows, columns)


def _refuse_unclear(shape: tuple[int, ...], beside: Mapping[str, np.ndarray], name: str) -> None:
    """Say which labels there are and what they fit, where that does not tell rows from columns."""
    fits = {key: [i for i, n in enumerate(shape) if n == len(row)] for key, row in beside.items()}
    fitting = {key: axes for key, axes in fits.items() if axes}
    if all(_role(key) == "unit" and axes == [1] for key, axes in fitting.items()):
        return  # as it should be, and no word of stimuli
    size = " x ".join(map(str, shape))
    words = {key: _sides_in_words(axes, len(shape)) for key, axes in fitting.items()}
    for key in fitting:
        if _role(key) != "unit" and not _distinct(beside[key]):
            words[key] += ", but repeats"
    shown = ", ".join(f"the {len(beside[key])}-long {key!r} {words[key]}" for key in fitting)
    able = sorted(
        (key for key in fitting if _role(key) != "unit" and _distinct(beside[key])),
        key=lambda key: _role(key) != "stimulus",
    )
    turned = all(fitting[key] == [1] for key in able) if able else _upside_down(fitting)
    what = "looks transposed (units x stimuli)" if turned and len(shape) == 2 else "is unclear"
    if able:
        turns = ", which also turns the array over" if fitting[able[0]] == [1] else ""
        advice = f"If {able[0]!r} holds the stimulus ids, load with `stimuli={able[0]!r}`{turns}"
    else:
        each = f"{shape[1]} columns, which turns it over" if turned else f"{shape[0]} rows"
        advice = f"Give the stimulus ids with `stimuli=[...]`, one for each of its {each}"
    raise StimulusError(
        f"The {name} is {size}, with stimuli expected in its rows, and {what}: {shown}. "
        f"{advice}. {ON_COMMAND_LINE}"
    )


def _upside_down(fitting: Mapping[str, list[int]]) -> bool:
    """Tell whether labels of units fit the rows, and only these."""
    return any(_role(key) == "unit" and axes == [0] for key, axes in fitting.items())


def _sides_in_words(axes: list[int], n_axes: int) -> str:
    """Say which axes a length fits."""
    if len(axes) > 1:
        return "fits both its rows and its columns" if n_axes == 2 else f"fits its axes {axes}"
    return "fits its rows" if axes == [0] else "fits its columns"


def _by_name(beside: Mapping[str, np.ndarray], keys: list[str]) -> str | None:
    """Choose the labels that are called stimuli; distinct ones before those that repeat."""
    called = [key for key in keys if _role(key) == "stimulus"]
    return min(called, key=lambda key: not _distinct(beside[key]), default=None)


def _with_labels(sides: Sides, beside: Mapping[str, np.ndarray], rows: int, columns: int) -> Sides:
    """Add the labels of units and further texts of stimuli."""
    n, units = (columns, rows) if sides.turned else (rows, columns)
    own = [key for key, row in beside.items() if _role(key) == "unit" and len(row) == units]
    renamed = renamings(own)
    for key in own:
        sides.coords[renamed.get(key, key)] = ("unit", beside[key])
    taken = {*sides.coords, sides.source, "stimulus", "trial", "unit", *own}
    for key, row in beside.items():
        if key not in taken and _role(key) != "unit" and len(row) == n != units:
            sides.coords[key] = ("stimulus", row)
    return sides


def _asked_for(options: Options, name: str) -> np.ndarray:
    """Take the variable that the caller says holds the ids."""
    wanted = options.ids_in or ""
    if wanted not in options.beside:
        raise unknown_name(
            f"variable with ids (`stimuli`) beside the {name}:",
            wanted,
            options.beside,
        )
    return options.beside[wanted]


def _which(keys: list[str], of: str) -> StimulusError:
    return StimulusError(
        f"Which of {listed(keys)} holds the ids of {of}? Say it with `stimuli={keys[0]!r}`. "
        f"{ON_COMMAND_LINE}"
    )


def _distinct(row: np.ndarray) -> bool:
    return len(np.unique(row)) == len(row)


def check_ids(
    stimuli: np.ndarray | None, n_rows: int, name: str, shape: tuple[int, ...] = ()
) -> np.ndarray:
    """Refuse to number stimuli unasked, or to label rows with ids of another number."""
    if stimuli is None:
        axes = ""
        if len(shape) == 2:
            axes = f" Its {shape[0]} rows are taken for stimuli, its {shape[1]} columns for units."
        raise StimulusError(
            f"The {name} holds no stimulus ids: give the ids of its {n_rows} rows, in their order, "
            f"with `stimuli=[...]`, or number them with `stimuli=range({n_rows})`."
            f"{axes} {ON_COMMAND_LINE}"
        )
    if len(stimuli) != n_rows:
        turned = len(shape) == 2 and len(stimuli) == shape[1]
        hint = (
            "Its columns fit: turn it over (one row per stimulus) before saving it"
            if turned
            else "Give one id per row"
        )
        raise StimulusError(
            f"The {name} has {n_rows} stimuli, `stimuli` has {len(stimuli)} ids. {hint}."
        )
    return stimuli
