"""Plain arrays to labelled ones: which axis is what, and who the rows are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isqrt
from typing import Any, Literal, get_args

import numpy as np
import xarray as xr

from softrsa._wording import ON_COMMAND_LINE, listed
from softrsa.errors import DataError, DTypeError, ShapeError, StimulusError, unknown_name
from softrsa.io.schema import LEADING, check_rdms, check_recording, check_trials, plain_labels

SYNONYMS = {
    "stimulus": ("stimulus", "stimuli", "stim", "image", "img", "condition", "cond", "picture"),
    "unit": ("unit", "voxel", "neuron", "channel", "electrode", "cell", "site"),
    "value": ("value", "beta", "response", "rate", "activation", "amplitude"),
    "region": ("region", "roi", "area"),
    "layer": ("layer", "module"),
    "subject": ("subject", "subj", "sub", "participant"),
    "session": ("session", "ses"),
    "dissimilarity": ("dissimilarity", "distance"),
    "similarity": ("similarity",),
}
# what rsatoolbox's descriptors and tables of RDMs are usually called, which have no fixed names
WORDS = {
    "region": ("region", "roi"),
    "layer": ("layer", "module"),
    "subject": ("subject", "subj", "sub", "participant"),
    "session": ("session", "ses"),
    "time": ("time",),
}
STIMULUS = ("stimulus", "stimuli", "stimulus_id", "image_id", "conds", "condition", "conditions")
ENDINGS = ("", "id", "ids", "name", "names", "label", "labels", "file", "files", "s")


def meaning(name: str) -> str | None:
    """Tell what a name means to softrsa, whatever its capitals, underscores and endings."""
    return _MEANINGS.get(_plain(name))


def renamings(names: Iterable[str]) -> dict[str, str]:
    """Find the names to use for what means the same; a name that is there already stays."""
    names = list(names)
    found: dict[str, str] = {}
    taken = {*names}
    for exact in (True, False):  # `image` before `image_id`
        for name in names:
            known = meaning(name)
            plain = known is not None and _plain(name) in SYNONYMS[known]
            if known is not None and plain == exact and known not in taken:
                found[name] = known
                taken.add(known)
    return {name: found[name] for name in names if name in found}


def known_names(wanted: Iterable[str]) -> str:
    """List some names with what else they may be called."""
    others = {name: ", ".join(n for n in SYNONYMS[name] if n != name) for name in wanted}
    return ", ".join(f"`{name}`" + (f" (or {o})" if o else "") for name, o in others.items())


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "").replace(" ", "")


_MEANINGS = {
    f"{synonym}{ending}": word
    for word, synonyms in SYNONYMS.items()
    for synonym in synonyms
    for ending in (ENDINGS if word not in ("value", "dissimilarity", "similarity") else ("", "s"))
}


Kind = Literal["rdm", "rsm", "recording"]


@dataclass(frozen=True)
class Options:
    """Stimulus ids, the variable to read and what its numbers are, as far as given.

    `ids_in` is the variable that holds the stimulus ids; `beside` is not given, but found: rows of
    labels in the same file.
    """

    stimuli: np.ndarray | None = None
    variable: str | None = None
    kind: Kind | None = None
    ids_in: str | None = None
    beside: Mapping[str, np.ndarray] = field(default_factory=dict)

    def given(self) -> list[str]:
        """Name the options that were given."""
        return [
            n for n in ("stimuli", "variable", "kind", "ids_in") if getattr(self, n) is not None
        ]


def check_options(
    stimuli: Iterable[str] | Iterable[int] | str | None, variable: str | None, kind: Kind | None
) -> Options:
    """Check options before any file is opened."""
    if kind is not None and kind not in get_args(Kind):
        raise unknown_name("kind", kind, get_args(Kind))
    if variable is not None and not isinstance(variable, str):
        raise DataError(f"`variable` must be a name in the file, got {variable!r}.")
    if isinstance(stimuli, str):
        return Options(None, variable, kind, ids_in=stimuli)
    return Options(None if stimuli is None else _ids(stimuli), variable, kind)


def _ids(stimuli: Iterable[str] | Iterable[int]) -> np.ndarray:
    """Take ids that are all strings or all integers, and distinct."""
    if isinstance(stimuli, bytes):
        raise StimulusError(f"`stimuli` must be a row of ids, got the one string {stimuli!r}.")
    ids = plain_labels(np.asarray(list(stimuli)))
    if ids.ndim != 1 or ids.dtype.kind not in "iuU":
        raise StimulusError(
            f"`stimuli` must be a row of ids, all strings or all integers; got {ids.dtype} of "
            f"shape {ids.shape}."
        )
    values, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        raise StimulusError(f"`stimuli` repeats the ids {listed(values[counts > 1])}.")
    return ids


OF_UNITS = ("unit", "region", "layer", "subject", "session", "hemisphere", "neuroid_id")


@dataclass(frozen=True)
class Sides:
    """What labels the rows and columns of an array."""

    turned: bool  # whether the stimuli are in the columns
    ids: np.ndarray | None  # of the stimuli, as far as known
    source: str = ""  # the variable that holds them; empty if the caller gave them
    # further labels, each with its side: ``stimulus`` or ``unit``
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

    def labelled(turned: bool, ids: np.ndarray | None, source: str = "") -> Sides:
        return _with_labels(Sides(turned, ids, source), beside, rows, columns)

    if options.stimuli is not None:
        return labelled(upside_down and len(options.stimuli) == columns != rows, options.stimuli)
    if options.ids_in is not None:
        ids = _asked_for(options, name)
        return labelled(flat and len(ids) == columns != rows, ids, options.ids_in)
    found = _by_name(beside, only_rows)
    if found:
        return labelled(False, beside[found], found)
    turning = _by_name(beside, only_columns) if flat else None
    if turning and not any(_role(key) == "unit" for key in only_columns):
        return labelled(True, beside[turning], turning)
    texts = [key for key in only_rows if _role(key) == "other" and _distinct(beside[key])]
    if texts and not (turning or upside_down):
        if len(texts) > 1:
            raise _which(texts, f"the {rows} rows of the {name}")
        return labelled(False, beside[texts[0]], texts[0])
    _refuse_unclear(shape, beside, name)
    return labelled(False, None)


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
    turned = all(fitting[key] == [1] for key in able)
    if not able:  # labels of units that fit the rows, and only these
        turned = any(_role(key) == "unit" and axes == [0] for key, axes in fitting.items())
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


STACKED = {0: (), 1: ("subject",), 2: ("subject", "time")}  # axes before anchor and neighbor


def label_array(values: np.ndarray, options: Options, name: str) -> xr.DataArray:
    """Label an array by its shape.

    (n, n), (subject, n, n), (subject, time, n, n) and MATLAB's (n, n, subject) are RDMs or RSMs
    where they are symmetric or the caller says so; a vector, or rows where the caller says so, are
    their upper triangles; anything else has a stimulus per row, the other axes being units.
    """
    values = to_float(values, name)
    matrices = None if options.kind == "recording" else _as_matrices(values, options.kind, name)
    if matrices is None:
        return _label_found(values, options, name)
    dims = STACKED.get(matrices.ndim - 2)
    if dims is None:
        raise ShapeError(
            f"The {name} has shape {values.shape}; RDMs come as (n, n), (subject, n, n) or "
            "(subject, time, n, n)."
        )
    leading = {dim: np.arange(1, n + 1) for dim, n in zip(dims, matrices.shape, strict=False)}
    for key, row in options.beside.items():
        dim = meaning(key)
        if dim in leading and len({*row.tolist()}) == len(row) == len(leading[dim]):
            leading[dim] = row
    return label_rdms(matrices, options, name, leading)


def label_rdms(
    matrices: np.ndarray,
    options: Options,
    name: str,
    leading: Mapping[str, object] | None = None,
) -> xr.DataArray:
    """Label matrices (..., n, n) with the caller's ids and check them."""
    ids = ids_of(options, matrices.shape[-1], name)
    coords = {**(leading or {}), "anchor": ids, "neighbor": ids}
    attrs = {} if options.kind is None else {"kind": options.kind}
    array = xr.DataArray(matrices, dims=tuple(coords), coords=coords, attrs=attrs)
    return check_rdms(array, name=name)


def label_recording(
    values: np.ndarray,
    stimuli: np.ndarray | None,
    name: str,
    coords: Mapping[str, tuple[str, np.ndarray]] | None = None,
    *,
    trials: bool = False,
) -> xr.DataArray:
    """Label rows as stimuli and all other axes, flattened, as units."""
    check_axes(values, name)
    ids = check_ids(stimuli, len(values), name, values.shape)
    flat = values.reshape(len(values), -1)
    row = "trial" if trials else "stimulus"
    labels = {
        key: (row if s == "stimulus" else s, held) for key, (s, held) in (coords or {}).items()
    }
    array = xr.DataArray(flat, dims=(row, "unit"), coords={"stimulus": (row, ids), **labels})
    return (check_recording if row == "stimulus" else check_trials)(array, name=name)


def check_axes(values: np.ndarray, name: str) -> None:
    """Refuse what has no rows and columns."""
    if values.ndim < 2:
        raise ShapeError(
            f"The {name} has shape {values.shape}; a recording is (stimuli, units), RDMs are "
            "(n, n), and upper triangles have n (n - 1) / 2 entries."
        )


def _label_found(values: np.ndarray, options: Options, name: str) -> xr.DataArray:
    """Label a recording with what lies beside it, and note where its ids come from."""
    check_axes(values, name)
    sides = find_sides(values.shape, options, name)
    values = values.T if sides.turned else values
    trials = (
        bool(sides.source) and sides.ids is not None and len(np.unique(sides.ids)) < len(sides.ids)
    )
    array = label_recording(values, sides.ids, name, sides.coords, trials=trials)
    if not sides.source:
        return array
    where = "its columns, turned over" if sides.turned else "its rows"
    return array.assign_attrs(stimulus_ids=f"{sides.source!r} of the file, along {where}")


def expand_rows(rows: np.ndarray, name: str, diagonal: float = 0.0) -> np.ndarray:
    """Expand upper triangles (..., n_pairs), in SciPy's order, to squares (..., n, n)."""
    n_pairs = rows.shape[-1]
    n = n_stimuli(n_pairs)
    if n is None:
        raise ShapeError(
            f"The {name} has rows of {n_pairs} pairs, which is no n (n - 1) / 2: they are no upper "
            "triangles of RDMs."
        )
    upper, lower = np.triu_indices(n, 1)
    squares = np.full((*rows.shape[:-1], n, n), diagonal, dtype=rows.dtype)
    squares[..., upper, lower] = squares[..., lower, upper] = rows
    absent = np.isnan(rows).all(axis=-1)
    squares[absent] = np.nan  # not recorded: NaN throughout, the diagonal too
    return squares


def n_stimuli(n_pairs: int) -> int | None:
    """Tell how many stimuli have so many pairs."""
    n = (1 + isqrt(1 + 8 * n_pairs)) // 2
    return n if n > 1 and n * (n - 1) // 2 == n_pairs else None


def to_float(values: object, name: str) -> np.ndarray:
    """Make numbers float32 or float64; refuse what are no numbers."""
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise DTypeError(
            f"The {name} holds {array.dtype} values, not real numbers; save it as float64."
        )
    if array.dtype.kind in "biu" or array.dtype.itemsize > 8:
        return array.astype(np.float64)
    return array.astype(np.float32 if array.dtype.itemsize < 8 else np.float64)


def stack_rows(
    matrices: np.ndarray, labels: Mapping[str, Sequence | np.ndarray], name: str
) -> tuple[np.ndarray, dict[str, np.ndarray], tuple[np.ndarray, ...]]:
    """Put matrices, one per row, in a grid of their labels, such as subject × region.

    Labels that are the same in all rows make no axis. Places of the grid without a row become NaN.
    Returned are the grid, the labels of its leading axes and each row's place.
    """
    axes = {dim: np.asarray(labels[dim]) for dim in LEADING if dim in labels}
    uniques = {dim: distinct(values) for dim, values in axes.items()}
    uniques = {dim: values for dim, values in uniques.items() if len(values) > 1}
    if not uniques and len(matrices) > 1:
        if axes:
            shown = ", ".join(f"{dim} {values[:1].tolist()[0]!r}" for dim, values in axes.items())
            raise DataError(
                f"The {name} holds {len(matrices)} RDMs, all of {shown}: average them first."
            )
        uniques = {"subject": np.arange(1, len(matrices) + 1)}
        axes = uniques
    place = tuple(places_of(axes[dim], found) for dim, found in uniques.items())
    sizes = tuple(map(len, uniques.values()))
    if not sizes:
        return matrices[0], {}, ()
    flat = np.ravel_multi_index(place, sizes)
    taken, counts = np.unique(flat, return_counts=True)
    if (counts > 1).any():
        doubled = np.unravel_index(taken[counts > 1][0], sizes)
        shown = ", ".join(
            f"{d} {found[i].item()!r}"
            for (d, found), i in zip(uniques.items(), doubled, strict=True)
        )
        raise DataError(
            f"The {name} holds {counts.max()} RDMs of {shown}. Average them, or tell them apart by "
            f"another of {listed(LEADING)}."
        )
    grid = np.full((*sizes, *matrices.shape[1:]), np.nan, dtype=matrices.dtype)
    grid[place] = matrices
    return grid, uniques, place


def places_of(labels: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Find each label's place among the known ones."""
    places = {label: i for i, label in enumerate(known.tolist())}
    return np.array([places[label] for label in labels.tolist()], dtype=np.int64)


def distinct(labels: np.ndarray) -> np.ndarray:
    """Find distinct labels in order of appearance."""
    _, first = np.unique(labels, return_index=True)
    return labels[np.sort(first)]


def _as_matrices(values: np.ndarray, kind: str | None, name: str) -> np.ndarray | None:
    """Find square matrices in an array, or None where there are none."""
    for square in _candidates(values):
        if kind is not None or _symmetric(square):
            return square
    vector = values.ndim == 1 and n_stimuli(values.size) is not None
    if vector or (kind is not None and values.ndim == 2):
        return expand_rows(values, name, 1.0 if kind == "rsm" else 0.0)
    if kind is not None:
        raise ShapeError(f'The {name} has shape {values.shape}, which `kind="{kind}"` cannot be.')
    return None


def _candidates(values: np.ndarray) -> list[np.ndarray]:
    """List the ways to see square matrices: in the last two axes, or, as in MATLAB, the first."""
    found = []
    if values.ndim > 1 and values.shape[-1] == values.shape[-2] > 1:
        found.append(values)
    if values.ndim > 2 and values.shape[0] == values.shape[1] > 1:
        found.append(np.moveaxis(values, (0, 1), (-2, -1)))
    return found


def _symmetric(matrices: np.ndarray) -> bool:
    """Tell whether matrices equal their transposes, to rounding."""
    scale = np.nanmax(np.abs(matrices), initial=0.0)
    tolerance = 100 * np.finfo(matrices.dtype).eps * scale
    return np.allclose(matrices, matrices.swapaxes(-1, -2), 0, tolerance, equal_nan=True)
