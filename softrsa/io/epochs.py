"""Epochs and averages of MNE-Python: objects, and the files that it writes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from softrsa._wording import counted, listed
from softrsa.errors import DataError, DTypeError, FileMissingError, StimulusError, unknown_name
from softrsa.io.labelling import Options
from softrsa.io.looking import FORMATS, Format, Look

EPOCHS = re.compile(r".*[-_]epo(-\d+)?\.fif(\.gz)?")
AVERAGES = re.compile(r".*[-_]ave\.fif(\.gz)?")
STIMULUS = "stimulus"  # a column of metadata that is taken for ids


def from_epochs(
    epochs: Any, *, stimulus: str | None = None, picks: str | Sequence[str] | None = None,
    subject: str | None = None,
) -> xr.DataArray:  # fmt: skip
    """Make a labelled array of epochs, or of averages, of MNE-Python.

    Parameters
    ----------
    epochs : mne.Epochs, or sequence or mapping of mne.Evoked
        Single trials; or one average for each stimulus, whose ids are the keys, or the comments
        where there are none.
    stimulus : str, optional
        A column of the epochs' metadata that holds the ids of stimuli, or ``"event"`` for the names
        of events. By default the column `stimulus`, or the names of events without such metadata.
    picks : str or sequence of str, optional
        Which channels: a kind such as ``"mag"``, ``"grad"`` or ``"eeg"``, or names. By default all
        good channels, which must be of one kind: kinds have units of their own.
    subject : str, optional
        Whose they are; kept in a coordinate on `unit`.

    Returns
    -------
    DataArray, dims (trial, unit, time) or (stimulus, unit, time)
        In the unit of MNE-Python (V, T or T/m), float64; `unit` holds the names of channels, with
        the coordinates `kind`, and `x`, `y`, `z` in m where positions are known; `time` is in s.

    Raises
    ------
    DTypeError
        If ``epochs`` is something else.
    DataError
        If channels are of several kinds, or none are left, or averages have other channels or
        times than the first.
    StimulusError
        If averages have no comments, or some have the same.
    UnknownNameError
        If metadata have no such column.

    Notes
    -----
    Crop, decimate and correct baselines with MNE-Python before. Trials go to
    `softrsa.recordings.average_trials`, or to `softrsa.rsm.build_rdms` with a coordinate of folds.

    Examples
    --------
    >>> import mne  # doctest: +SKIP
    >>> meg = from_epochs(mne.read_epochs("sub-01-epo.fif"), picks="mag")  # doctest: +SKIP
    """
    if hasattr(epochs, "get_data") and hasattr(epochs, "event_id"):
        picked = _picked(epochs, picks)
        ids = _ids_of_trials(picked, stimulus)
        coords = {"stimulus": ("trial", ids)}
        return _labelled(picked, picked.get_data(copy=True), "trial", coords, subject)
    averages = _averages(epochs)
    picked = [_picked(one, picks) for one in averages.values()]
    first = picked[0]
    for name, one in zip(averages, picked, strict=True):
        same = one.times.shape == first.times.shape and np.allclose(one.times, first.times)
        if one.ch_names != first.ch_names or not same:
            raise DataError(
                f"Averages must have the same channels and times; {name!r} has "
                f"{counted(len(one.ch_names), 'channel')} and {counted(len(one.times), 'time')}, "
                f"the first {len(first.ch_names)} and {len(first.times)}. Take those they share "
                "with mne.channels.equalize_channels and `crop`."
            )
    values = np.stack([one.get_data() for one in picked])
    coords = {"stimulus": np.array([*averages], dtype=object).astype(str)}
    return _labelled(first, values, "stimulus", coords, subject)


def _averages(given: Any) -> dict[str, Any]:
    """Name averages by their stimuli."""
    several = isinstance(given, Sequence) and not isinstance(given, str)
    found: list[Any] = []
    if isinstance(given, Mapping) or several:
        found = [*(given.values() if isinstance(given, Mapping) else given)]
    if not found or not all(hasattr(one, "comment") and hasattr(one, "get_data") for one in found):
        raise DTypeError(
            "`epochs` must be epochs of MNE-Python, or a sequence or mapping of averages (Evoked), "
            f"got {type(given).__name__}."
        )
    names = [*map(str, given)] if isinstance(given, Mapping) else [one.comment for one in found]
    if not all(names) or len({*names}) < len(names):
        raise StimulusError(
            f"Each average needs a name of its own; their comments are {listed(names)}. Give a "
            "mapping from stimulus ids to averages."
        )
    return dict(zip(names, found, strict=True))


def _picked(one: Any, picks: str | Sequence[str] | None) -> Any:
    """Keep the channels asked for, or all good ones if these are of one kind."""
    try:
        found = one.copy().pick("data" if picks is None else picks, exclude="bads", verbose="error")
    except ValueError as error:
        kinds = sorted({*one.get_channel_types()})
        raise DataError(
            f"`picks={picks!r}` finds no good channel; there are channels of the kinds "
            f"{listed(kinds)}."
        ) from error
    kinds = found.get_channel_types()
    if len({*kinds}) > 1:
        numbers = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
        raise DataError(
            f"Channels are of several kinds, in units of their own: {numbers}. Take one, with "
            f"`softrsa.io.from_epochs(..., picks={kinds[0]!r})`."
        )
    return found


def _ids_of_trials(epochs: Any, stimulus: str | None) -> np.ndarray:
    """Find the stimulus of each trial in metadata or in the names of events."""
    metadata: Any = epochs.metadata
    columns = [*map(str, getattr(metadata, "columns", []))]
    column = STIMULUS if stimulus is None and STIMULUS in columns else stimulus
    if column is None or (column == "event" and "event" not in columns):
        names = {number: name for name, number in epochs.event_id.items()}
        return np.array([names[number] for number in epochs.events[:, 2]])
    if column not in columns:
        raise unknown_name("column of metadata", column, [*columns, "event"])
    ids = metadata[column]
    if ids.isna().any():
        raise StimulusError(
            f"The column {column!r} of metadata has no id for {int(ids.isna().sum())} of "
            f"{len(ids)} trials; drop these epochs."
        )
    return ids.to_numpy() if ids.dtype.kind in "iu" else ids.astype(str).to_numpy().astype(str)


def _labelled(
    one: Any, values: np.ndarray, dim: str, coords: dict[str, Any], subject: str | None
) -> xr.DataArray:
    """Label values with channels, their kind and place, and times."""
    places = np.array([channel["loc"][:3] for channel in one.info["chs"]], dtype=float)
    known = bool(np.isfinite(places).all() and places.any(1).all())
    units = {"unit": one.ch_names, "kind": ("unit", one.get_channel_types())}
    if known:
        units |= {axis: ("unit", places[:, i]) for i, axis in enumerate("xyz")}
    if subject is not None:
        units["subject"] = ("unit", [subject] * len(one.ch_names))
    return xr.DataArray(
        values, dims=(dim, "unit", "time"), coords={**coords, **units, "time": one.times}
    )


def _read(path: Path, options: Options) -> xr.DataArray:
    """Read a file of MNE-Python."""
    if find_spec("mne") is None:
        raise FileMissingError(
            f'{path} is read by MNE-Python, which is not installed: `pip install "softrsa[meg]"`.'
        )
    mne: Any = import_module("mne")
    if EPOCHS.fullmatch(path.name):
        found = mne.read_epochs(path, verbose="error")
    else:
        found = mne.read_evokeds(path, verbose="error")
    return from_epochs(found, stimulus=options.variable)


def _is_mne(seen: Look) -> bool:
    name = seen.path.name
    return seen.path.is_file() and bool(EPOCHS.fullmatch(name) or AVERAGES.fullmatch(name))


FORMATS.add(
    Format(
        name="mne", title="epochs or averages of MNE-Python", recognizes=_is_mne, read=_read,
        takes=frozenset({"variable"}),
    )
)  # fmt: skip
