"""Epochs, averages and source estimates of MNE-Python: objects, its files, and maps for it."""

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
from softrsa.errors import (
    DataError,
    DTypeError,
    FileMissingError,
    ShapeError,
    StimulusError,
    unknown_name,
)
from softrsa.io.labelling import Options
from softrsa.io.looking import FORMATS, Format, Look
from softrsa.io.schema import check_is_array, plain_labels
from softrsa.io.sources import from_sources, is_source_estimate, spread_regions, to_sources

EPOCHS = re.compile(r".*[-_]epo(-\d+)?\.fif(\.gz)?")
AVERAGES = re.compile(r".*[-_]ave\.fif(\.gz)?")
STIMULUS = "stimulus"  # a column of metadata that is taken for ids


def from_epochs(
    epochs: Any, *, stimulus: str | Sequence[str] | Sequence[int] | None = None,
    picks: str | Sequence[str] | None = None, time: tuple[float, float] | None = None,
    labels: Sequence[Any] | None = None, subject: str | None = None,
) -> xr.DataArray:  # fmt: skip
    """Make a labelled array of epochs, averages or source estimates of MNE-Python.

    Parameters
    ----------
    epochs : mne.Epochs, or sequence or mapping of mne.Evoked or mne.SourceEstimate
        Single trials; or one average for each stimulus, whose ids are the keys, or the comments
        where there are none. A mapping of source estimates is one for each stimulus, a sequence
        one for each trial.
    stimulus : str or sequence, optional
        A column of the epochs' metadata that holds the ids of stimuli, or ``"event"`` for the names
        of events, or one id for each trial. By default the column `stimulus`, or the names of
        events without such metadata.
    picks : str or sequence of str, optional
        Which channels: a kind such as ``"mag"``, ``"grad"`` or ``"eeg"``, or names. By default all
        good channels, which must be of one kind: kinds have units of their own.
    time : (float, float), optional
        The first and the last time to keep, in s. By default all.
    labels : sequence of mne.Label, optional
        Of source estimates, keep the vertices in these; their names are regions.
    subject : str, optional
        Whose they are; kept in a coordinate on `unit`.

    Returns
    -------
    DataArray, dims (trial, unit, time) or (stimulus, unit, time)
        In the unit of MNE-Python (V, T or T/m), float64; `unit` holds the names of channels, with
        the coordinates `kind`, and `x`, `y`, `z` in m where positions are known; of source
        estimates names such as ``lh:1204``, with `space` (``lh``, ``rh``, or the number of a
        volume), `vertex` and `region`. `time` is in s.

    Raises
    ------
    DTypeError
        If ``epochs`` is something else.
    DataError
        If channels are of several kinds, or none are left, or averages have other channels,
        vertices or times than the first, or no time is within ``time``, or labels share vertices
        or have none.
    StimulusError
        If averages have no comments, or some have the same, or source estimates have no ids.
    ShapeError
        If ids are not as many as trials.
    UnknownNameError
        If metadata have no such column.

    Notes
    -----
    Filter, decimate and correct baselines with MNE-Python before. Trials go to
    `softrsa.recordings.average_trials`, or to `softrsa.rsm.build_rdms` with a coordinate of folds.

    Examples
    --------
    >>> import mne
    >>> info = mne.create_info(["MEG1", "MEG2"], sfreq=100, ch_types="mag")
    >>> events = [[0, 0, 1], [50, 0, 2]]
    >>> epochs = mne.EpochsArray(
    ...     np.ones((2, 2, 30)), info, events, -0.1, {"face": 1, "house": 2}, verbose="error"
    ... )
    >>> meg = from_epochs(epochs, time=(0, 0.1))
    >>> dict(meg.sizes), meg["stimulus"].values.tolist()
    ({'trial': 2, 'unit': 2, 'time': 11}, ['face', 'house'])
    """
    sources = _are_sources(epochs)
    _refuse_unused({"picks": picks} if sources else {"labels": labels}, sources=sources)
    if hasattr(epochs, "get_data") and hasattr(epochs, "event_id"):
        picked = _picked(epochs, picks)
        coords = {"stimulus": ("trial", _ids_of_trials(picked, stimulus))}
        found = _labelled(picked, picked.get_data(copy=True), "trial", coords, subject)
    elif sources:
        found = from_sources(epochs, stimulus, labels, subject)
    else:
        averages = _averages(epochs)
        _refuse_unused({"stimulus": stimulus}, sources=False)
        found = _from_averages(averages, picks, subject)
    return found if time is None else _between(found, time)


def _refuse_unused(options: dict[str, Any], *, sources: bool) -> None:
    """Refuse what has no meaning for what was given."""
    for name, value in options.items():
        if value is not None:
            what = (
                "averages" if name == "stimulus" else "source estimates" if sources else "sensors"
            )
            more = ": their ids are keys of a mapping, or comments" if name == "stimulus" else ""
            raise DataError(f"`{name}` has no meaning for {what}{more}. Leave it out.")


def _are_sources(given: Any) -> bool:
    """Tell a row or a mapping of source estimates."""
    held = [*given.values()] if isinstance(given, Mapping) else given
    return isinstance(held, Sequence) and bool(held) and all(map(is_source_estimate, held))


def _from_averages(
    averages: dict[str, Any], picks: str | Sequence[str] | None, subject: str | None
) -> xr.DataArray:
    """Stack averages, one for each stimulus."""
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


def _between(array: xr.DataArray, time: tuple[float, float]) -> xr.DataArray:
    """Keep the times from the first to the last asked for."""
    pair, times = np.asarray(time), array["time"].values
    if pair.shape != (2,) or pair.dtype.kind not in "iuf" or not pair[0] <= pair[1]:
        raise DataError(f"`time` must be the first and the last time in s, got {time!r}.")
    rounding = 1e-3 * (np.diff(times).min() if len(times) > 1 else 1e-3)
    kept = (times >= pair[0] - rounding) & (times <= pair[1] + rounding)
    if not kept.any():
        raise DataError(
            f"No time is from {pair[0]:g} to {pair[1]:g} s; there are {times[0]:g} to "
            f"{times[-1]:g} s."
        )
    return array.isel(time=np.flatnonzero(kept))


def to_mne(
    values: xr.DataArray, like: Any, *, labels: Sequence[Any] | None = None, comment: str = "score"
) -> Any:
    """Make an object of MNE-Python of scores or other values, to draw maps and curves with it.

    Parameters
    ----------
    values : DataArray, dims (unit) or (unit, time), or (region) or (region, time)
        One number for each sensor or vertex, and time in s, evenly spaced. `unit` holds names as
        `from_epochs` gives them.
    like : mne.Info, or what has one, or mne.SourceEstimate
        The epochs, averages or source estimates that the units come from.
    labels : sequence of mne.Label, optional
        With regions: each vertex of a label has the value of the region of its name.
    comment : str
        What to call an Evoked.

    Returns
    -------
    mne.EvokedArray or mne.SourceEstimate
        Of the channels or vertices in ``values`` only. MNE-Python takes the numbers of an Evoked
        for V or T when it draws: `evoked.plot_topomap(scalings=1, units="score")`.

    Raises
    ------
    DTypeError
        If ``values`` is no labelled array, or ``like`` is something else.
    ShapeError
        If the dimensions are others.
    UnknownNameError
        If ``like`` has no such channels or vertices, or there are no such labels.
    DataError
        If units repeat or have no names, times are not evenly spaced, or regions come without
        labels.

    Examples
    --------
    >>> import mne
    >>> info = mne.create_info(["MEG1", "MEG2", "MEG3"], sfreq=100, ch_types="mag")
    >>> scores = xr.DataArray([0.25, 0.5], dims="unit", coords={"unit": ["MEG3", "MEG1"]})
    >>> evoked = to_mne(scores, info)
    >>> evoked.ch_names, evoked.data.ravel().tolist()
    (['MEG3', 'MEG1'], [0.25, 0.5])
    """
    sources = is_source_estimate(like)
    info = getattr(like, "info", like)
    if not sources and not (isinstance(info, Mapping) and "ch_names" in info):
        raise DTypeError(
            "`like` must be an Info of MNE-Python, epochs, averages or a source estimate, got "
            f"{type(like).__name__}."
        )
    array, dim = _of_units(values, regions=sources)
    names = plain_labels(array[dim].values)
    numbers = array.values.astype(np.float64).reshape(len(names), -1)
    tmin, step = _even_times(values)
    if not sources:
        return _to_evoked(numbers, names, info, tmin, step, comment=comment)
    if dim == "region":
        if labels is None:
            raise DataError("Regions are put on vertices by `labels=`, a list of mne.Label.")
        numbers, names = spread_regions(numbers, names, like, labels)
    return to_sources(numbers, names, like, tmin, like.tstep if step is None else step)


def _of_units(values: xr.DataArray, *, regions: bool) -> tuple[xr.DataArray, str]:
    """Check the dimensions and names; time comes last."""
    check_is_array(values, "values")
    dims = {*values.dims} - {"time"}
    dim = "region" if regions and dims == {"region"} else "unit"
    if dims != {dim}:
        more = ", or (region) or (region, time)" if regions else ""
        raise ShapeError(
            f"The values must have the dimensions (unit) or (unit, time){more}, got {values.dims}."
        )
    if dim not in values.indexes or values.indexes[dim].has_duplicates:
        raise DataError(f"Each {dim} needs a name of its own in the coordinate `{dim}`.")
    return values.transpose(dim, ...), dim


def _even_times(values: xr.DataArray) -> tuple[float, float | None]:
    """Find the first time and the step between times, if there are several."""
    if "time" not in values.coords:
        return 0.0, None
    times = np.atleast_1d(values["time"].values).astype(np.float64)
    steps = np.diff(times)
    if len(steps) and not (steps.min() > 0 and np.ptp(steps) <= 1e-3 * steps.min()):
        raise DataError(
            f"Times must be evenly spaced; their steps are from {steps.min():g} to {steps.max():g} "
            "s. Take some of them, or `values.interp`."
        )
    return float(times[0]), round(float(steps.mean()), 12) if len(steps) else None


def _to_evoked(
    numbers: np.ndarray, names: np.ndarray, info: Any, tmin: float, step: float | None, *,
    comment: str,
) -> Any:  # fmt: skip
    """Make an Evoked of some of the channels."""
    mne: Any = import_module("mne")
    known = [*info["ch_names"]]
    for name in names.tolist():
        if name not in known:
            raise unknown_name("channel", name, known)
    info = mne.pick_info(info, [known.index(name) for name in names.tolist()])
    if step is not None:
        info = mne.Info({**info, "sfreq": 1 / step})
    return mne.EvokedArray(numbers, info, tmin, comment=comment, verbose="error")


def _averages(given: Any) -> dict[str, Any]:
    """Name averages by their stimuli."""
    several = isinstance(given, Sequence) and not isinstance(given, str)
    found: list[Any] = []
    if isinstance(given, Mapping) or several:
        found = [*(given.values() if isinstance(given, Mapping) else given)]
    if not found or not all(hasattr(one, "comment") and hasattr(one, "get_data") for one in found):
        raise DTypeError(
            "`epochs` must be epochs of MNE-Python, or a sequence or mapping of averages (Evoked) "
            f"or source estimates, got {type(given).__name__}."
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
            f"`softrsa.io.from_epochs(..., picks={kinds[0]!r})`, or of a file with "
            f"`softrsa.load(..., variable={kinds[0]!r})` (`--variable recordings:{kinds[0]}`)."
        )
    return found


def _ids_of_trials(
    epochs: Any, stimulus: str | Sequence[str] | Sequence[int] | None
) -> np.ndarray:  # fmt: skip
    """Find the stimulus of each trial in metadata or in the names of events, or as given."""
    if stimulus is not None and not isinstance(stimulus, str):
        given = plain_labels(np.asarray(stimulus))
        if given.shape != (len(epochs),):
            raise ShapeError(
                f"`stimulus` must be one id for each of {counted(len(epochs), 'trial')}, got the "
                f"shape {given.shape}."
            )
        return given
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
    one = found[0] if isinstance(found, list) else found
    picks, column = _kind_and_column(options.variable, {*one.get_channel_types()})
    return from_epochs(found, stimulus=column, picks=picks)


def _kind_and_column(variable: str | None, kinds: set[str]) -> tuple[str | None, str | None]:
    """Read ``variable``: a kind of channels, a column of metadata, or both with a slash."""
    if variable is None:
        return None, None
    head, slash, tail = variable.partition("/")
    if head in kinds:
        return head, tail if slash else None
    return None, variable


def _is_mne(seen: Look) -> bool:
    name = seen.path.name
    return seen.path.is_file() and bool(EPOCHS.fullmatch(name) or AVERAGES.fullmatch(name))


FORMATS.add(
    Format(
        name="mne", title="epochs or averages of MNE-Python", recognizes=_is_mne, read=_read,
        takes=frozenset({"variable"}),
    )
)  # fmt: skip
