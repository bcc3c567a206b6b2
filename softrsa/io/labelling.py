"""What the caller and the file say of an array: words, options, labels of rows and columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np

from softrsa._wording import ON_COMMAND_LINE, listed
from softrsa.errors import DataError, StimulusError, unknown_name
from softrsa.io.matrices import Halves
from softrsa.io.schema import plain_labels

SYNONYMS = {
    "stimulus": ("stimulus", "stimuli", "stim", "image", "img", "condition", "cond", "picture"),
    "unit": ("unit", "voxel", "neuron", "channel", "electrode", "cell", "site"),
    "value": ("value", "beta", "response", "rate", "activation", "amplitude"),
    "region": ("region", "roi", "area"),
    "layer": ("layer", "module"),
    "subject": ("subject", "subj", "sub", "participant"),
    "session": ("session", "ses"),
    "time": ("time", "timepoint"),
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
OF_TRIALS = {  # labels of rows that repeat stimuli, and what they are called here
    "run": "run", "runs": "run", "block": "block", "blocks": "block", "fold": "fold",
    "folds": "fold", "chunk": "chunk", "chunks": "chunk",
}  # fmt: skip
STIMULUS = ("stimulus", "stimuli", "stimulus_id", "image_id", "conds", "condition", "conditions")
ENDINGS = (
    "", "id", "ids", "name", "names", "label", "labels", "file", "files", "path", "paths", "s",
)  # fmt: skip


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
Trials = Literal["keep", "mean"]


@dataclass(frozen=True)
class Options:
    """What the caller of `load` says about a file, as far as given, and what is found on the way.

    `ids_in` is the variable that holds the stimulus ids. Not given, but found: `beside`, rows of
    labels in the same file; `called`, the name of the numbers; `facts` and `notes`, sentences about
    what they were taken for, of which the notes are said aloud.
    """

    stimuli: np.ndarray | None = None
    variable: str | None = None
    kind: Kind | None = None
    dims: tuple[str, ...] | None = None
    halves: Halves | None = None
    trials: Trials | None = None
    drop_missing_units: bool | None = None
    ids_in: str | None = None
    beside: Mapping[str, np.ndarray] = field(default_factory=dict)
    called: str = ""
    facts: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def given(self) -> list[str]:
        """Name the options that were given."""
        return [name for name in GIVEN if getattr(self, name) is not None]


GIVEN = (
    "stimuli", "variable", "kind", "dims", "halves", "trials", "drop_missing_units", "ids_in",
)  # fmt: skip
NUMBERED = "numbered"  # as `stimuli`: ids 0, 1, 2, ...


def check_options(
    stimuli: Iterable[str] | Iterable[int] | str | None = None,
    variable: str | None = None,
    kind: Kind | None = None,
    *,
    dims: Iterable[str] | None = None,
    halves: Halves | None = None,
    trials: Trials | None = None,
    drop_missing_units: bool = False,
) -> Options:
    """Check options before any file is opened."""
    for name, value, known in (("kind", kind, Kind), ("halves", halves, Halves),
                               ("trials", trials, Trials)):  # fmt: skip
        if value is not None and value not in get_args(known):
            raise unknown_name(name, value, get_args(known))
    if variable is not None and not isinstance(variable, str):
        raise DataError(f"`variable` must be a name in the file, got {variable!r}.")
    named = None if dims is None else (dims,) if isinstance(dims, str) else tuple(dims)
    if named is not None and not all(isinstance(dim, str) and dim.strip() for dim in named):
        raise DataError(f"`dims` must be names, one for each axis of the array, got {dims!r}.")
    one = isinstance(stimuli, str)
    return Options(
        stimuli=None if stimuli is None or one else _ids(stimuli),
        variable=variable, kind=kind, dims=named, halves=halves, trials=trials,
        drop_missing_units=drop_missing_units or None, ids_in=stimuli if one else None,
    )  # fmt: skip


def _ids(stimuli: Iterable[str] | Iterable[int]) -> np.ndarray:
    """Take ids that are all strings or all integers; where they repeat, rows are trials."""
    if isinstance(stimuli, bytes) or not isinstance(stimuli, Iterable):
        what = "the one string " if isinstance(stimuli, bytes) else ""
        raise StimulusError(f"`stimuli` must be a row of ids, got {what}{stimuli!r}.")
    ids = plain_labels(np.asarray(list(stimuli)))
    if ids.ndim != 1 or ids.dtype.kind not in "iuU":
        raise StimulusError(
            f"`stimuli` must be a row of ids, all strings or all integers; got {ids.dtype} of "
            f"shape {ids.shape}."
        )
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


def may_label(name: str, array: np.ndarray) -> bool:
    """Tell by name, shape and type whether an array of numbers could be a row of labels."""
    in_row = 1 < array.size == max(array.shape)
    return in_row and array.dtype.kind in "iuf" and _role(name) != "other"


def _row(name: str, value: Any) -> np.ndarray | None:
    if not isinstance(value, np.ndarray) or not 1 < value.size == max(value.shape):
        return None
    row = value.ravel()
    if row.dtype == object:
        texts = ["" if np.size(each) == 0 else each for each in row]
        return np.array(texts) if all(isinstance(each, str) for each in texts) else None
    if row.dtype.kind == "U":
        return row
    if not may_label(name, row):
        return None
    if meaning(name) == "time":
        return row
    whole = np.isfinite(row).all() and (row == np.round(row)).all()
    return row.astype(np.int64) if whole else None


def _role(name: str) -> str:
    """Tell what a variable labels, by its name: stimulus, trial, unit, time or other."""
    word = meaning(name) or name.lower()
    if word in ("stimulus", "time"):
        return word
    if word in OF_TRIALS:
        return "trial"
    return "unit" if word in OF_UNITS else "other"


def ids_of(options: Options, n: int, name: str) -> np.ndarray:
    """Find the ids of n stimuli, such as those of RDMs: the caller's, or those beside them."""
    if options.ids_in is not None:
        return check_ids(_asked_for(options, n, name), n, name)
    if options.stimuli is None and options.beside:
        fitting = {
            k: row for k, row in options.beside.items() if len(row) == n and is_distinct(row)
        }
        for role in ("stimulus", "other"):
            own = [key for key in fitting if _role(key) == role]
            if own and (role == "stimulus" or len(own) == 1):
                return fitting[own[0]]
            if own:
                raise _which(own, f"the {n} stimuli of the {name}")
    return check_ids(options.stimuli, n, name)


def find_sides(
    shape: tuple[int, ...], options: Options, name: str, *, turnable: bool = True
) -> Sides:
    """Find what labels the rows (stimuli) and columns (units) of a recording, and which is which.

    Labels of a telling name that fit the columns only turn the array over; labels of another name
    are trusted only where they fit the rows only. What fits both sides decides nothing.
    """
    rows, columns = shape[0], int(np.prod(shape[1:]))
    beside = options.beside
    only_rows = [key for key, row in beside.items() if len(row) == rows != columns]
    only_columns = [key for key, row in beside.items() if len(row) == columns != rows]
    flat = turnable and len(shape) == 2
    upside_down = flat and any(_role(key) == "unit" for key in only_rows)

    def labelled(turned: bool, ids: np.ndarray | None, source: str = "") -> Sides:
        return _with_labels(Sides(turned, ids, source), beside, rows, columns)

    if options.stimuli is not None:
        return labelled(upside_down and len(options.stimuli) == columns != rows, options.stimuli)
    if options.ids_in is not None:
        ids = _asked_for(options, rows, name)
        source = options.ids_in if options.ids_in in beside else ""
        return labelled(flat and len(ids) == columns != rows, ids, source)
    found = _by_name(beside, only_rows)
    if found:
        return labelled(False, beside[found], found)
    turning = _by_name(beside, only_columns) if flat else None
    if turning and not any(_role(key) == "unit" for key in only_columns):
        return labelled(True, beside[turning], turning)
    texts = [key for key in only_rows if _role(key) == "other" and is_distinct(beside[key])]
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
        if _role(key) != "unit" and not is_distinct(beside[key]):
            words[key] += ", but repeats"
    shown = ", ".join(f"the {len(beside[key])}-long {key!r} {words[key]}" for key in fitting)
    able = sorted(
        (key for key in fitting if _role(key) != "unit" and is_distinct(beside[key])),
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
    return min(called, key=lambda key: not is_distinct(beside[key]), default=None)


def _with_labels(sides: Sides, beside: Mapping[str, np.ndarray], rows: int, columns: int) -> Sides:
    """Add the labels of units and further texts of stimuli."""
    n, units = (columns, rows) if sides.turned else (rows, columns)
    own = [key for key, row in beside.items() if _role(key) == "unit" and len(row) == units]
    renamed = renamings(own)
    for key in own:
        sides.coords[renamed.get(key, key)] = ("unit", beside[key])
    taken = {*sides.coords, sides.source, "stimulus", "trial", "unit", *own}
    for key, row in beside.items():
        if key not in taken and _role(key) != "time" and len(row) == n != units:
            known = renamings([key]).get(key, OF_TRIALS.get(key.lower(), key))
            sides.coords[known] = ("stimulus", row)
    return sides


def _asked_for(options: Options, n: int, name: str) -> np.ndarray:
    """Take the variable that the caller says holds the ids, or number them."""
    wanted = options.ids_in or ""
    if wanted == NUMBERED and wanted not in options.beside:
        return np.arange(n)
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


def is_distinct(row: np.ndarray) -> bool:
    """Tell whether no label repeats."""
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
            f"with `stimuli=[...]`, or number them with `stimuli=range({n_rows})`.{axes} On the "
            "command line: `--stimuli FILE` with an id per line, or `--stimuli numbered`."
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
