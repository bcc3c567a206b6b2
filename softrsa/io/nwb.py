"""Spikes of NWB files, counted in a window of each trial; pynapple's objects too."""

from __future__ import annotations

import numbers
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from softrsa._wording import counted, listed
from softrsa.errors import (
    DataError,
    DTypeError,
    FileFormatError,
    FileMissingError,
    ShapeError,
    StimulusError,
    unknown_name,
)
from softrsa.io.labelling import Options, meaning
from softrsa.io.looking import FORMATS, Format, Look, look
from softrsa.io.schema import plain_labels
from softrsa.io.spikes import (
    Gaps,
    Spikes,
    count_spikes,
    overlapping,
    settle_gaps,
    window_edges,
)

ONSET, END = "start_time", "stop_time"
NOT_TRIALS = ("epochs", "invalid_times")  # tables of intervals with a meaning of their own
NOT_SCALAR = ("VectorIndex", "DynamicTableRegion", "TimeSeriesReferenceVectorData")
NOT_LABELS = ("spike_times", "obs_intervals", "electrodes", "electrode_group", "spike_amplitudes",
              "waveform_mean", "waveform_sd", "waveforms")  # fmt: skip
PEAK = "peak_channel_id"  # the id of an electrode, in the Allen Institute's files
REGIONS = ("location", "brainarea", "brainregion", "structure", "structureacronym",
           "ecephysstructureacronym", "anatomicallocation")  # fmt: skip


def from_nwb(
    source: Any, *, trials: Any = None, stimulus: str | Sequence[str] | Sequence[int] | None = None,
    window: tuple[float, float] | None = None, bin_width: float | None = None,
    onset: str = ONSET, units: Sequence[int] | None = None, region: str | None = None,
    gaps: Gaps | None = None, subject: str | None = None,
) -> xr.DataArray:  # fmt: skip
    """Count the spikes of each unit in a window of each trial, from NWB or pynapple.

    Parameters
    ----------
    source : str, Path, pynwb.NWBFile or pynapple.TsGroup
        A file with a table of units, the same opened with pynwb, or spike trains of pynapple.
    trials : str, DataFrame, pynwb TimeIntervals or pynapple.IntervalSet, optional
        When trials are: the name of a table of intervals in the file, such as ``"trials"`` or
        ``"natural_scenes_presentations"``, or a table with the columns `start_time` and
        `stop_time` in s. By default the only one that the file has.
    stimulus : str or sequence, optional
        The column that holds the stimulus ids, or one id for each trial. By default the column
        `stimulus`, or the only one that is called so (`image`, `condition`, `stimulus_id`, ...) and
        is not the same in all trials. Whole numbers become integers, others texts.
    window : (float, float), optional
        Start and stop in s from the onset of each trial; windows of trials may overlap. By default
        the whole trial, if all trials last the same (within 5 %; the median is taken).
    bin_width : float, optional
        In s; the window is divided into bins of this width. By default it is one.
    onset : str
        The column of times in s that windows are relative to.
    units : sequence of int, optional
        Ids of the units to read, in this order. By default all.
    region : str, optional
        The column of units, or of their electrodes, that says where they are. By default the only
        column of units that is called so (`region`, `area`, `location`, `brain_area`, `structure`,
        ...), or the `location` of their electrodes or groups.
    gaps : {"nan", "units", "trials"}, optional
        What to do where units were not recorded throughout a window, by `obs_intervals`, pynapple's
        `time_support` or `invalid_times`: have NaN there, or leave out these units or these trials.
        (A TsGroup made without `time_support` has it from its first spike to its last.)
        By default such windows are refused.
    subject : str, optional
        Whose units they are. By default as the file says.

    Returns
    -------
    DataArray, dims (trial, unit) or (trial, unit, time)
        Numbers of spikes, float64; `time` is the middle of each bin in s from the onset. A spike
        at an edge is in the bin that begins there: bins are [start, stop). `unit` holds the ids;
        the coordinates on it are `region`, `subject` and all columns of one number or text for each
        unit, such as `quality` and `snr`; those on `trial` are `stimulus` and all such columns of
        the table. A unit whose electrodes are in several places has their names joined by ``+``.

    Raises
    ------
    FileMissingError
        If there is no such file, or pynwb is not installed (``softrsa[ephys]``).
    FileFormatError
        If it is not NWB.
    DTypeError
        If ``source`` or ``trials`` is something else.
    DataError
        If there are no units or trials, several tables or columns could be meant, times are
        missing, trials have no window in common, or units were not recorded in some of them.
    StimulusError
        If no column holds stimulus ids, several could, or some ids are missing.
    UnknownNameError
        If there is no such table, column or unit.
    ShapeError
        If ids are not as many as trials.
    MemoryLimitError
        If the counts do not fit into memory.

    Notes
    -----
    Each spike time is read once. An edge is met by spikes within a nanosecond of it, so that 0.3 s
    is not before 0.1 s + 0.2 s.

    Examples
    --------
    >>> from datetime import UTC, datetime
    >>> import pynwb
    >>> nwb = pynwb.NWBFile("made up", "session 1", datetime(2026, 1, 1, tzinfo=UTC))
    >>> nwb.add_unit(spike_times=[0.1, 0.3, 1.2, 1.25])
    >>> trials = pd.DataFrame({"start_time": [0.0, 1.0], "stimulus": ["face", "house"]})
    >>> from_nwb(nwb, trials=trials, window=(0, 0.3), bin_width=0.1).sel(unit=0).values
    array([[0., 1., 0.],
           [0., 0., 2.]])
    """
    with _opened(source) as (nwb, everything):
        spikes = _chosen(everything, units)
        name, table = _trials(nwb, trials)
        onsets, durations = _times(table, onset)
        ids = _stimuli(table, stimulus, name)
        edges = window_edges(window, bin_width, durations if onset == ONSET else None)
        counts, recorded = count_spikes(spikes, onsets, edges)
        recorded &= ~_invalid(nwb, onsets + edges[0], onsets + edges[-1])[:, None]
        counts, rows, columns = settle_gaps(counts, recorded, gaps, spikes.ids)
        labels = _unit_labels(nwb, spikes, region, subject)
    coords = {key: ("unit", values[columns]) for key, values in labels.items()}
    coords["unit"] = ("unit", spikes.ids[columns])
    for key, values in _scalars(table).items():
        taken = key in coords or key in ("trial", "time")
        coords[f"trial_{key}" if taken else key] = ("trial", values[rows])
    coords["stimulus"] = ("trial", ids[rows])
    attrs = {"window": [float(edges[0]), float(edges[-1])], "trials_from": name}
    if bin_width is None:
        return xr.DataArray(counts[:, :, 0], coords, ("trial", "unit"), "spikes", attrs)
    coords["time"] = ("time", np.round((edges[:-1] + edges[1:]) / 2, 9))
    attrs["bin_width"] = float(bin_width)
    return xr.DataArray(counts, coords, ("trial", "unit", "time"), "spikes", attrs)


@contextmanager
def _opened(source: Any) -> Iterator[tuple[Any, Spikes]]:
    """Give the NWB file, if there is one, and the spikes."""
    if isinstance(source, (str, Path)):
        path = Path(source)
        if not _is_nwb(look(path)):
            raise FileFormatError(f"{path} is not a file of NWB 2 (HDF5).")
        if find_spec("pynwb") is None:
            raise FileMissingError(
                f'{path} is read by pynwb, which is not installed: `pip install "softrsa[ephys]"`.'
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on versions of schemas
            pynwb: Any = import_module("pynwb")
            io = pynwb.NWBHDF5IO(str(path), "r", load_namespaces=True)
        with io:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                nwb = io.read()
            yield nwb, _nwb_spikes(nwb)
    elif hasattr(source, "units") and hasattr(source, "intervals"):
        yield source, _nwb_spikes(source)
    elif hasattr(source, "time_support") and hasattr(source, "keys"):
        yield None, _pynapple_spikes(source)
    else:
        raise DTypeError(
            "`source` must be the path of an NWB file, an NWBFile of pynwb or a TsGroup of "
            f"pynapple, got {type(source).__name__}."
        )


def _nwb_spikes(nwb: Any) -> Spikes:
    """Find the units and their spike times, which are not read yet."""
    table = nwb.units
    if table is None or not len(table.id) or "spike_times" not in table.colnames:
        raise DataError(
            "The NWB file has no units with spike times (`nwb.units`); other recordings, such as "
            "fluorescence, are read with pynwb and given as an xarray.DataArray."
        )
    times = table["spike_times"]
    intervals = table["obs_intervals"] if "obs_intervals" in table.colnames else None
    return Spikes(
        np.asarray(table.id.data[:]),
        lambda i: np.asarray(times[i]),
        lambda i: None if intervals is None else np.reshape(intervals[i], (-1, 2)),
        {k: v for k, v in _scalars(_frame(table)).items() if k not in NOT_LABELS},
    )


def _pynapple_spikes(group: Any) -> Spikes:
    """Take the spike trains of a TsGroup, recorded in its time support."""
    keys = [*group.keys()]
    if not keys:
        raise DataError("The TsGroup holds no units.")
    support = np.column_stack([group.time_support.start, group.time_support.end])
    labels = getattr(group, "metadata", pd.DataFrame(index=keys))
    return Spikes(
        np.asarray(keys),
        lambda i: np.asarray(group[keys[i]].index),
        lambda _: support,
        _scalars(labels.loc[keys]),
    )


def _chosen(spikes: Spikes, units: Sequence[int] | None) -> Spikes:
    """Take some of the units."""
    if units is None:
        return spikes
    known = spikes.ids.tolist()
    places = {unit: i for i, unit in enumerate(known)}
    wanted = np.asarray(units).tolist()
    if isinstance(units, str) or not isinstance(wanted, list) or not wanted:
        raise DTypeError(f"`units` must be a row of unit ids, got {units!r}.")
    for unit in wanted:
        if unit not in places:
            raise unknown_name("unit", unit, known)
    at = np.array([places[unit] for unit in wanted])
    return Spikes(
        spikes.ids[at],
        lambda i: spikes.times(int(at[i])),
        lambda i: spikes.observed(int(at[i])),
        {name: values[at] for name, values in spikes.labels.items()},
    )


def _frame(table: Any) -> pd.DataFrame:
    """Read the columns of an NWB table that have one number or text in each row."""
    columns = {}
    for name in table.colnames:
        column = table[name]
        if type(column).__name__ in NOT_SCALAR or name in NOT_LABELS:
            continue
        values = np.asarray(column.data[:])
        if hasattr(column, "elements"):  # numbers that stand for texts
            values = np.asarray(column.elements.data[:])[values]
        if values.ndim == 1:
            columns[name] = values
    return pd.DataFrame(columns, index=np.asarray(table.id.data[:]))


def _scalars(table: pd.DataFrame) -> dict[str, np.ndarray]:
    """Take the columns of numbers or of texts, of which missing ones become empty."""
    found = {str(name): plain_labels(table[name].to_numpy()) for name in table.columns}
    for name, values in found.items():
        absent = pd.isna(values)
        if values.dtype.kind in "OT" and all(isinstance(v, str) for v in values[~absent]):
            found[name] = np.where(absent, "", values).astype(str)
    return {name: values for name, values in found.items() if values.dtype.kind in "biufU"}


def _without_lists(table: pd.DataFrame) -> pd.DataFrame:
    """Leave out columns of lists and objects, such as tags."""
    one = (str, numbers.Real, type(None), type(pd.NA))
    kept = [
        values.dtype != object or all(isinstance(each, one) for each in values)
        for _, values in table.items()
    ]
    return table.loc[:, kept]


def _trials(nwb: Any, trials: Any) -> tuple[str, pd.DataFrame]:
    """Find the table of trials that is meant, and its name."""
    if trials is None or isinstance(trials, str):
        return _named_trials(nwb, trials)
    if isinstance(trials, pd.DataFrame):
        return "table", _without_lists(trials)
    if hasattr(trials, "colnames") and hasattr(trials, "id"):
        return str(trials.name), _frame(trials)
    if hasattr(trials, "start") and hasattr(trials, "end"):  # an IntervalSet
        labels = getattr(trials, "metadata", pd.DataFrame()).reset_index(drop=True)
        times = {ONSET: np.asarray(trials.start), END: np.asarray(trials.end)}
        return "intervals", _without_lists(labels).assign(**times)
    raise DTypeError(
        "`trials` must be the name of a table in the file, a pandas DataFrame, TimeIntervals of "
        f"pynwb or an IntervalSet of pynapple, got {type(trials).__name__}."
    )


def _named_trials(nwb: Any, name: str | None) -> tuple[str, pd.DataFrame]:
    """Take the table of intervals of that name, or the only one."""
    if nwb is None:
        raise DTypeError(
            "Spikes of pynapple need `trials`: an IntervalSet, or a DataFrame with the column "
            "`start_time`."
        )
    tables = {str(key): table for key, table in nwb.intervals.items()}
    held = {"trials": nwb.trials, "epochs": nwb.epochs, "invalid_times": nwb.invalid_times}
    tables |= {key: table for key, table in held.items() if table is not None}
    if name is not None:
        if name not in tables:
            raise unknown_name("table of intervals (`trials`)", name, tables)
        return name, _frame(tables[name])
    meant = [key for key in tables if key not in NOT_TRIALS]
    if len(meant) == 1:
        return meant[0], _frame(tables[meant[0]])
    if not meant:
        raise DataError(
            "The NWB file has no table of trials or presentations"
            f"{', only ' + listed(tables) if tables else ''}. Give `trials=`, a DataFrame with the "
            "columns `start_time`, `stop_time` and `stimulus`."
        )
    sizes = ", ".join(f"{key!r} ({counted(len(tables[key].id), 'row')})" for key in meant)
    raise DataError(
        f"Which of these tables holds the trials: {sizes}? Say it with "
        f"`softrsa.io.from_nwb(..., trials={meant[0]!r})`, of a file also with `softrsa.load(..., "
        f"variable={meant[0]!r})` (`--variable recordings:{meant[0]}`)."
    )


def _times(table: pd.DataFrame, onset: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Read onsets, and durations if they are known."""
    if onset not in table.columns:
        raise unknown_name("column of times (`onset`)", onset, table.columns)
    if not len(table):
        raise DataError("The table of trials has no rows.")
    if table[onset].dtype.kind not in "iuf":
        raise DataError(f"`onset={onset!r}` must be a column of times in s, got texts.")
    times = table[onset].to_numpy(dtype=np.float64)
    bad = ~np.isfinite(times)
    if bad.any():
        raise DataError(
            f"{int(bad.sum())} of {counted(len(times), 'trial')} have no {onset!r} (rows "
            f"{listed(np.flatnonzero(bad))}). Leave them out: give the other rows as a DataFrame, "
            f"`trials=table[table[{onset!r}].notna()]`, where `table` is "
            "`nwb.trials.to_dataframe()`."
        )
    ends = table[END].to_numpy(dtype=np.float64) if END in table.columns else None
    return times, None if ends is None or not np.isfinite(ends).all() else ends - times


def _stimuli(
    table: pd.DataFrame, stimulus: str | Sequence[str] | Sequence[int] | None, name: str
) -> np.ndarray:
    """Find the ids of stimuli, in a column or as given."""
    if stimulus is not None and not isinstance(stimulus, str):
        ids = plain_labels(np.asarray(stimulus))
        if ids.shape != (len(table),):
            raise ShapeError(
                f"`stimulus` must be one id for each of {counted(len(table), 'trial')}, got the "
                f"shape {ids.shape}."
            )
        return _plain_ids(ids, "`stimulus`")
    column = _stimulus_column(table, name) if stimulus is None else stimulus
    if column not in table.columns:
        raise unknown_name("column of stimulus ids (`stimulus`)", column, table.columns)
    return _plain_ids(plain_labels(table[column].to_numpy()), f"The column {column!r}")


def _stimulus_column(table: pd.DataFrame, name: str) -> str:
    """Choose the column that is called stimulus, if there is no doubt."""
    if "stimulus" in table.columns:
        return "stimulus"
    distinct = {str(c): table[c].nunique() for c in table.columns if c not in (ONSET, END)}
    meant = [c for c, n in distinct.items() if meaning(c) == "stimulus" and n > 1]
    if len(meant) == 1:
        return meant[0]
    shown = meant or [*distinct]
    words = ", ".join(f"{c!r} ({counted(distinct[c], 'value')})" for c in shown)
    first = shown[0] if shown else "COLUMN"
    what = "Several columns" if meant else "No column"
    raise StimulusError(
        f"{what} of {name!r} may hold the stimulus ids; there are {words or 'only times'}. Say "
        f"which with `softrsa.io.from_nwb(..., stimulus={first!r})`, of a file also with "
        f"`softrsa.load(..., variable='{name}/{first}')` (`--variable "
        f"recordings:{name}/{first}`), or give one id for each trial, `stimulus=[...]`."
    )


def _plain_ids(ids: np.ndarray, what: str) -> np.ndarray:
    """Make ids integers or texts, and refuse missing ones."""
    absent = pd.isna(ids) | (ids == "" if ids.dtype.kind in "OU" else False)
    if absent.any():
        raise StimulusError(
            f"{what} has no id for {int(absent.sum())} of {counted(len(ids), 'trial')} (rows "
            f"{listed(np.flatnonzero(absent))}). Leave these out: give the other rows as a "
            "DataFrame, `trials=table[...]`."
        )
    if ids.dtype.kind == "f" and (ids == np.round(ids)).all():
        return ids.astype(np.int64)
    return ids if ids.dtype.kind in "iuU" else ids.astype(str)


def _invalid(nwb: Any, starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """Tell which windows share time with those that the file calls invalid."""
    table = None if nwb is None else nwb.invalid_times
    if table is None or not len(table.id):
        return np.zeros(len(starts), dtype=bool)
    found = _frame(table)
    return overlapping(starts, stops, found[[ONSET, END]].to_numpy(dtype=np.float64))


def _unit_labels(
    nwb: Any, spikes: Spikes, region: str | None, subject: str | None
) -> dict[str, np.ndarray]:
    """Label units with what their table says, where they are and whose they are."""
    labels = dict(spikes.labels)
    where = _regions(nwb, spikes, region)
    if where is not None:
        labels.pop("region", None)
        labels["region"] = where
    person = getattr(getattr(nwb, "subject", None), "subject_id", None)
    person = person if subject is None else subject
    if person:
        labels["subject"] = np.array([str(person)] * len(spikes.ids))
    reserved = {"stimulus", "trial", "unit", "time"}
    return {f"unit_{k}" if k in reserved else k: values for k, values in labels.items()}


def _regions(nwb: Any, spikes: Spikes, region: str | None) -> np.ndarray | None:
    """Find the region of each unit, in its table or in that of its electrodes."""
    labels = spikes.labels
    if region is not None and region in labels:
        return labels[region]
    meant = [key for key in labels if meaning(key) == "region" or _plain(key) in REGIONS]
    if region is None and len(meant) > 1:
        raise DataError(
            f"Which of the columns {listed(meant)} of units holds their regions? Say it with "
            f"`softrsa.io.from_nwb(..., region={meant[0]!r})`."
        )
    if region is None and meant:
        return labels[meant[0]]
    found, known = (None, []) if nwb is None else _places(nwb, spikes, region or "location")
    if region is not None and found is None:
        raise unknown_name("column of regions (`region`)", region, [*labels, *known])
    return found if found is not None and any(found) else None


def _places(nwb: Any, spikes: Spikes, column: str) -> tuple[np.ndarray | None, list[str]]:
    """Read where the electrodes of units are, and what is known of electrodes."""
    table, ids = nwb.units, np.asarray(nwb.units.id.data[:])
    rows = [int(np.flatnonzero(ids == unit)[0]) for unit in spikes.ids]
    if "electrodes" in table.colnames:
        held = table["electrodes"]
        link = held.target if hasattr(held, "target") else held
        electrodes, at = link.table, np.asarray(link.data[:])
        ends = np.arange(1, len(at) + 1) if link is held else np.asarray(held.data[:])
        own = [at[(ends[i - 1] if i else 0) : ends[i]] for i in rows]
    elif PEAK in spikes.labels and nwb.electrodes is not None:
        electrodes = nwb.electrodes
        channels = np.asarray(electrodes.id.data[:])
        own = [np.flatnonzero(channels == channel) for channel in spikes.labels[PEAK]]
    else:
        return _places_of_groups(table, rows, column), []
    places = _frame(electrodes)
    if column not in places.columns:
        return None, [*map(str, places.columns)]
    texts = places[column].astype(str).to_numpy()
    return np.array(["+".join(dict.fromkeys(texts[each])) for each in own]), [*places.columns]


def _places_of_groups(table: Any, rows: list[int], column: str) -> np.ndarray | None:
    """Read where the groups of electrodes of units are, where electrodes are not said."""
    if "electrode_group" not in table.colnames or column != "location":
        return None
    groups = table["electrode_group"].data[:]
    return np.array([str(groups[i].location) for i in rows])


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace(" ", "")


def _is_nwb(seen: Look) -> bool:
    """Tell NWB 2 by the attributes of its root."""
    return seen.container == "hdf5" and "nwb_version" in seen.attributes


def _read(path: Path, options: Options) -> xr.DataArray:
    """Read whole trials; ``variable`` names the table, the column of ids, or both with a slash."""
    table, column = None, options.variable
    if options.variable is not None:
        names = _names_of_tables(path)
        head, _, tail = options.variable.partition("/")
        if head in names:
            table, column = head, tail or None
    gaps: Gaps | None = "units" if options.drop_missing_units else None
    found = from_nwb(path, trials=table, stimulus=column, gaps=gaps)
    start, stop = found.attrs["window"]
    options.notes.append(
        f"spikes are counted from {start:g} to {stop:g} s of each row of "
        f"{found.attrs['trials_from']!r}, the whole of it; other windows and bins are read with "
        "`softrsa.io.from_nwb`"
    )
    return found


def _names_of_tables(path: Path) -> list[str]:
    """List the tables of intervals of a file."""
    import h5py

    with h5py.File(path) as file:
        tables = file.get("intervals")
        return [*map(str, tables)] if isinstance(tables, h5py.Group) else []


FORMATS.add(
    Format(
        name="nwb", title="spikes of NWB", recognizes=_is_nwb, read=_read,
        takes=frozenset({"variable"}),
    )
)  # fmt: skip
