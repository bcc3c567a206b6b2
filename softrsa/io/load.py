"""`load` and `recognize`: the table of formats asked which a file is in."""

from __future__ import annotations

import numbers
import warnings
from collections.abc import Iterable
from pathlib import Path

import xarray as xr

from softrsa._memory import reading_at_most
from softrsa._wording import first_line, listed
from softrsa.errors import (
    DataError,
    FileFormatError,
    MemoryLimitError,
    SoftRSAError,
    StimulusError,
)
from softrsa.io.labelling import NUMBERED, Kind, Options, Trials, check_options
from softrsa.io.looking import DAMAGED, EVERY, FORMATS, Format, Look, look
from softrsa.io.matrices import Halves
from softrsa.io.netcdf import UNREADABLE, Chunks, open_in_chunks
from softrsa.io.schema import ReadingWarning, mean_by_stimulus


def load(
    path: str | Path,
    *,
    chunks: Chunks | None = None,
    stimuli: Iterable[str] | Iterable[int] | str | None = None,
    variable: str | None = None,
    kind: Kind | None = None,
    dims: Iterable[str] | None = None,
    halves: Halves | None = None,
    trials: Trials | None = None,
    drop_missing_units: bool = False,
    limit: float | None = None,
) -> xr.DataArray:
    """Read a file or folder into a checked labelled array, whatever format it is in.

    The format is told from the content, not from the name: netCDF and zarr (softrsa's own schema,
    or one data variable with the dimensions below), BrainIO / Brain-Score assemblies, rsatoolbox's
    HDF5 files, folders of thingsvision and Net2Brain, MATLAB files (before 7.3 and from 7.3 on),
    CSV tables, NumPy's .npy and .npz, torch's .pt, plain HDF5, epochs of MNE-Python (`from_epochs`)
    and spikes of NWB (`from_nwb`). `recognize` says which it is, and a `Format` of your own, added
    to `FORMATS`, is read too.

    A table of text is wide (stimulus ids in the first column, a unit in each other) or long (a row
    per number). The columns of a long one, with what else they may be called, in capitals too and
    with ``_id``, ``_name``, ``_label`` or a plural: ``stimulus`` (stim, image, img, condition,
    cond, picture), ``unit`` (voxel, neuron, channel, electrode, cell, site), ``value`` (beta,
    response, rate, activation, amplitude), and perhaps ``region`` (roi, area), ``layer`` (module),
    ``subject`` (subj, sub, participant), ``session`` (ses). For RDMs: ``anchor`` and ``neighbor``,
    or two columns such as ``image_1`` and ``image_2``, and ``dissimilarity`` (distance) or
    ``similarity``.

    Parameters
    ----------
    path : str or Path
        The file or folder.
    chunks : mapping, int or "auto", optional
        For recordings or activations larger than memory, in netCDF or zarr: leave them on disk, to
        be read by dask in chunks of such sizes by dimension, e.g. ``{"unit": 10000}``; ``{}`` takes
        the chunks of the file. `softrsa.rsm.build_rsms` and `softrsa.align` then read stretches of
        units. Their values are checked when they are used. By default, all is read into memory.
    stimuli : sequence of str or of int, or str, optional
        The stimulus ids, in the order of the rows, where the file holds none (MATLAB, NumPy,
        torch, text); ``range(n)`` or ``"numbered"`` numbers them. Ids that repeat make the rows
        trials. Another string names the variable of the file that holds them (MATLAB, .npz, HDF5,
        .pt); if its length fits the columns only, the array is turned over. By default a variable
        that is called so (``stimulus``, ``images``, ``image_names``, ``conditions``, ...), or the
        one row of distinct texts that fits the rows, is taken; then ``attrs["stimulus_ids"]`` says
        which. Labels that are called ``region``, ``layer``, ``subject``, ``unit`` and the like, or
        as in tables above, label the units they fit.
    variable : str, optional
        Which array to read where the file holds several: a variable of MATLAB, netCDF or HDF5, a
        key of an archive, a layer of a folder. For rsatoolbox's files, the descriptor that holds
        the stimulus ids; for NWB, the table of trials, the column of ids, or both, with a slash.
    kind : {"rdm", "rsm", "recording"}, optional
        What the numbers are, where the file does not say: dissimilarities, similarities, or a row
        per stimulus. By default a square that is symmetric up to rounding is an RDM or RSM, told by
        its diagonal.
    dims : sequence of str, optional
        What each axis of the array is, needed where it has more than two and one leading axis of
        RDMs: ``("time", "subject", "anchor", "neighbor")`` for RDMs, ``("stimulus", "unit",
        "trial")`` or ``("x", "y", "z", "trial")`` for responses. ``stimulus``, ``trial`` (``run``),
        ``time``, ``subject``, ``session``, ``region`` and ``layer`` have a meaning; axes of other
        names are laid side by side as units, which these names label.
    halves : {"mean", "lower", "upper", "both"}, optional
        What to take of a square whose halves differ; ``"both"`` keeps it asymmetric. By default an
        empty half (zeros or NaN) is filled from the other, rounding is averaged, and other
        differences are refused.
    trials : {"keep", "mean"}, optional
        Whether single trials are kept or averaged by stimulus. By default as the file has them;
        assemblies are averaged.
    drop_missing_units : bool
        Leave out units that have NaN anywhere, such as voxels outside the brain; RDMs have none.
    limit : float, optional
        Bytes of memory that what is read may take, told from the headers before any are taken. By
        default as many as can be had; more is allowed where memory can be swapped.

    Returns
    -------
    DataArray
        Recordings or activations (stimulus, unit), single trials (trial, unit), either with time
        after them where there is time, or RDMs / RSMs (..., anchor, neighbor) with
        ``attrs["kind"]``. Arrays of formats other than softrsa's own say what the file was taken
        for in ``attrs["source_format"]`` and ``attrs["read_as"]``; what was a choice is said in a
        `softrsa.io.ReadingWarning` too. Assemblies come out as (stimulus, unit): presentations
        of one stimulus are averaged unless ``trials="keep"``, and of the neuroids' coordinates
        region, layer, subject (or animal, as subject), neuroid_id and hemisphere are kept;
        `from_brainio` has more choices.

    Raises
    ------
    FileMissingError
        If there is no such file, or dask or zarr is needed and not installed.
    FileFormatError
        If it is in no format softrsa knows, damaged, or a pickle, which could run any code.
    MemoryLimitError
        If it takes more than ``limit`` or than there is, as damaged headers promise.
    StimulusError
        If it holds no stimulus ids and none are given, or ids are not as many as the rows.
    ShapeError, DTypeError, DataError, UnknownNameError
        If the array is not as `softrsa.io.check_recording` or `check_rdms` want it, or an option
        does not suit the format.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> path = Path(tempfile.mkdtemp()) / "rdms.npy"
    >>> np.save(path, [[0.0, 2.0], [2.0, 0.0]])
    >>> rdm = load(path, stimuli=["face", "house"])
    >>> rdm.sel(anchor="face", neighbor="house").item(), rdm.attrs["kind"]
    (2.0, 'rdm')
    >>> load("nowhere.nc")
    Traceback (most recent call last):
    softrsa.errors.FileMissingError: There is no file nowhere.nc.
    """
    path = Path(path)
    if limit is not None and not (isinstance(limit, numbers.Real) and limit > 0):
        raise DataError(f"`limit` must be a number of bytes above 0, got {limit!r}.")
    options = check_options(
        stimuli,
        variable,
        kind,
        dims=dims,
        halves=halves,
        trials=trials,
        drop_missing_units=drop_missing_units,
    )
    seen = look(path)
    format_ = _recognize(seen)
    if DAMAGED not in seen.attributes:  # what is wrong with the file is said first
        _check_takes(format_, options, path)
    if chunks is not None:
        if format_.name not in ("netcdf", "brainio"):
            raise DataError(
                f"{path} is {format_.title}, which cannot be read in chunks: load it without "
                "`chunks`, save it with `softrsa.io.save` as netCDF, and load that in chunks."
            )
        return open_in_chunks(path, chunks)
    with reading_at_most(limit):
        array = _read(format_, path, options)
    if "anchor" in array.dims and options.trials:
        raise DataError(f"{path} holds RDMs or RSMs, for which `trials` has no meaning.")
    if options.trials == "mean" and "trial" in array.dims:
        n_trials = array.sizes["trial"]
        array = mean_by_stimulus(array)
        options.facts.append(f"means of {n_trials} trials by stimulus")
    return _said(array, options, format_)


def _said(array: xr.DataArray, options: Options, format_: Format) -> xr.DataArray:
    """Note in the attributes what the file was taken for, and say choices aloud."""
    notes = list(dict.fromkeys(options.notes))
    if notes:
        sentence = "; ".join(notes)
        warnings.warn(f"{sentence[0].upper()}{sentence[1:]}.", ReadingWarning, stacklevel=3)
    told = "; ".join([*dict.fromkeys(options.facts), *notes])
    own = format_.name == "netcdf"
    said = ({} if own else {"source_format": format_.title}) | ({"read_as": told} if told else {})
    return array.assign_attrs(said)


def recognize(path: str | Path) -> str:
    r"""Say what `load` takes a file or folder for, without reading it.

    Parameters
    ----------
    path : str or Path
        The file or folder.

    Returns
    -------
    str
        The format, in words.

    Raises
    ------
    FileMissingError
        If there is no such file.
    FileFormatError
        If it is in no format softrsa knows.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "rates"
    >>> _ = path.write_text("stimulus,unit 1,unit 2\nface,0.5,1.5\nhouse,2.5,0.5\n")
    >>> recognize(path)
    'a table of text (CSV)'
    """
    return _recognize(look(Path(path))).title


def takes(path: str | Path) -> frozenset[str]:
    """Name the options of `load` that mean something for a file."""
    row = _recognize(look(Path(path)))
    return row.takes | EVERY


def _recognize(seen: Look) -> Format:
    """Find the first format that recognizes a file."""
    formats = sorted(FORMATS.values(), key=lambda format_: format_.general)
    for format_ in formats:
        if format_.recognizes(seen):
            return format_
    tried = "; ".join(format_.title for format_ in formats)
    if seen.container == "folder":
        inside = f"{listed(sorted(seen.names))}" if seen.names else "nothing"
        raise FileFormatError(
            f"{seen.path} is a folder, but none that softrsa knows: it holds {inside}. "
            f"Known are: {tried}."
        )
    found = {"empty": "empty", "unknown": "of unknown content"}.get(seen.container)
    members = f" with {listed(sorted(seen.names))}" if seen.names else ""
    raise FileFormatError(
        f"{seen.path} is {found or f'a {seen.container} file{members}'}, not {tried}."
    )


def _check_takes(format_: Format, options: Options, path: Path) -> None:
    """Refuse options that would be ignored."""
    for name in options.given():
        if name in format_.takes | EVERY:
            continue
        if name == "ids_in" and "stimuli" in format_.takes:
            if options.ids_in == NUMBERED:
                continue
            raise StimulusError(
                f"`stimuli` must be a row of ids, got the one string {options.ids_in!r}, and no "
                f"variable of that name: {path} is {format_.title}, whose arrays have no names."
            )
        if name in ("stimuli", "ids_in"):
            raise StimulusError(
                f"{path} is {format_.title}, which holds its own stimulus ids: leave out "
                "`stimuli`, and rename ids with `array.assign_coords` where needed."
            )
        raise DataError(
            f"{path} is {format_.title}, for which `{name}` has no meaning: leave it out."
        )


def _read(format_: Format, path: Path, options: Options) -> xr.DataArray:
    """Read a file; a library that cannot is quoted in one line."""
    try:
        return format_.read(path, options)
    except SoftRSAError:
        raise
    except MemoryError as error:
        raise MemoryLimitError(
            f"{path} was taken for {format_.title}, and does not fit into memory "
            f"({first_line(error)}). Its header is damaged, or it takes a larger machine."
        ) from error
    except UNREADABLE as error:
        raise FileFormatError(
            f"{path} was taken for {format_.title}, but cannot be read ({first_line(error)}). It "
            "is damaged, or was cut short when it was copied or downloaded."
        ) from error
