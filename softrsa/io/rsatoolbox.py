"""rsatoolbox's data sets and RDMs to labelled arrays, descriptors kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import xarray as xr

from softrsa._memory import check_dataset
from softrsa._wording import first_line, listed
from softrsa.errors import (
    DataError,
    DTypeError,
    FileFormatError,
    FileMissingError,
    StimulusError,
    unknown_name,
)  # fmt: skip
from softrsa.io.axes import checked, stack_rows, to_float
from softrsa.io.labelling import STIMULUS, WORDS, Options
from softrsa.io.looking import FORMATS, Format, look
from softrsa.io.matrices import expand_rows
from softrsa.io.schema import (
    check_labelled,
    check_rdms,
    labels_along,
    plain_labels,
)

KEY = "stimulus_descriptor"  # the attribute that keeps rsatoolbox's own name of the ids
MEASURE = "dissimilarity_measure"


def from_rsatoolbox(data: object, *, stimulus: str | None = None, time: Any = None) -> xr.DataArray:
    """Turn a `Dataset`, `TemporalDataset` or `RDMs` of rsatoolbox into a labelled array.

    rsatoolbox itself is not needed: anything with its attributes will do.

    Parameters
    ----------
    data : Dataset, TemporalDataset or RDMs of rsatoolbox, str or Path
        What to convert, or the path of its HDF5 file.
    stimulus : str, optional
        The observation or pattern descriptor that holds the stimulus ids. By default stimulus,
        stimuli, stimulus_id, image_id, conds, condition or conditions, else the only descriptor
        there is, else rsatoolbox's own numbering ``index``.
    time : number or str, optional
        Which of a `TemporalDataset`'s times to take, by the descriptor ``time``.

    Returns
    -------
    DataArray
        A data set becomes (stimulus, unit), or (trial, unit) where observations of one stimulus
        repeat; channel descriptors label units. RDMs become (..., anchor, neighbor): RDM
        descriptors region (or roi), layer, subject (or subj, participant), session and time that
        differ among the RDMs make the leading dimensions, others become coordinates, as pattern
        descriptors do on `anchor`. Where nothing tells several RDMs apart, they are numbered as
        subjects. A data set's own descriptors are attributes, but for region, layer, subject and
        session, which label its units.

    Raises
    ------
    DTypeError
        If it is none of these, or holds no real numbers.
    UnknownNameError
        If there is no such descriptor or time.
    FileMissingError, FileFormatError
        If a path is given, and is no HDF5 file of rsatoolbox.
    StimulusError, ShapeError, DataError
        If no descriptor can hold stimulus ids, several times are there and none was picked, or two
        RDMs have the same labels.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> rdms = SimpleNamespace(
    ...     dissimilarities=np.array([[1.0, 2.0, 3.0]]),
    ...     dissimilarity_measure="correlation",
    ...     descriptors={},
    ...     rdm_descriptors={"subj": ["s1"], "index": [0]},
    ...     pattern_descriptors={"conds": ["face", "house", "chair"]},
    ... )
    >>> from_rsatoolbox(rdms).sel(anchor="face", neighbor="chair").item()
    2.0
    """
    if isinstance(data, (str, Path)):
        data = _open(Path(data))
    return _converted(data, stimulus, time, Options())


def _converted(data: object, stimulus: str | None, time: Any, options: Options) -> xr.DataArray:
    """Convert an object, or what has its attributes."""
    if hasattr(data, "dissimilarities") and hasattr(data, "rdm_descriptors"):
        return _from_rdms(data, stimulus, options)
    if hasattr(data, "measurements") and hasattr(data, "obs_descriptors"):
        return _from_dataset(data, stimulus, time, options)
    raise DTypeError(
        "`data` must be a Dataset, TemporalDataset or RDMs of rsatoolbox, got "
        f"{type(data).__name__}."
    )


def _open(path: Path) -> object:
    """Read the file of an object."""
    look(path)  # is it there?
    try:
        return open_rsatoolbox(path)
    except OSError as error:
        raise FileFormatError(
            f"{path} is no HDF5 file of rsatoolbox ({first_line(error)})."
        ) from error


def _from_dataset(data: Any, stimulus: str | None, time: Any, options: Options) -> xr.DataArray:
    """Convert measurements (observation, channel[, time])."""
    name = "rsatoolbox data set"
    values = to_float(data.measurements, name, options)
    rows, units = _labels(data.obs_descriptors), _labels(data.channel_descriptors)
    if values.ndim == 3:
        values = values[:, :, _time_place(data, time)]
    elif time is not None:
        raise DataError(f"`time` is {time!r}, but the {name} has no times.")
    key = _stimulus_key(rows, stimulus, name, fallback=False)
    ids = rows.pop(key)
    whole = dict(data.descriptors)
    for word, names in WORDS.items():
        for given in names:
            if given in units:
                units[word] = units.pop(given)
            if given in whole and given != "time":
                shared = np.full(values.shape[1], whole.pop(given))
                units.setdefault(word, plain_labels(shared))
    _check_apart(rows, units, name)
    row = "stimulus" if len(set(ids.tolist())) == len(ids) else "trial"
    array = xr.DataArray(
        values,
        dims=(row, "unit"),
        coords={
            "stimulus": (row, ids),
            **{label: (row, v) for label, v in rows.items() if label != "unit"},
            **{label: ("unit", v) for label, v in units.items()},
        },
        attrs=_attributes(whole, key),
    )
    return checked(array, options, name)


def _time_place(data: Any, time: Any) -> int:
    """Find the one time that was asked for."""
    times = np.asarray(data.time_descriptors["time"]).tolist()
    if time is None and len(times) > 1:
        raise DataError(
            f"The TemporalDataset has {len(times)} times ({listed(times)}), one is needed: pick it "
            f"with `softrsa.io.from_rsatoolbox(..., time={times[0]!r})`, or average over time in "
            "rsatoolbox first."
        )
    if time is not None and time not in times:
        raise unknown_name("time", time, times)
    return 0 if time is None else times.index(time)


def _from_rdms(rdms: Any, stimulus: str | None, options: Options) -> xr.DataArray:
    """Convert a stack of upper triangles."""
    name = "rsatoolbox RDMs"
    rows = to_float(rdms.dissimilarities, name, options)
    matrices = expand_rows(np.atleast_2d(rows), name)
    patterns, labels = _labels(rdms.pattern_descriptors), _labels(rdms.rdm_descriptors)
    key = _stimulus_key(patterns, stimulus, name)
    ids = patterns.pop(key)
    patterns.pop("index", None)
    labels.pop("index", None)
    for word, names in WORDS.items():
        for given in names:
            if given in labels:
                labels[word] = labels.pop(given)
    grid, leading, place = stack_rows(matrices, {w: labels[w] for w in WORDS if w in labels}, name)
    coords: dict[str, Any] = {**leading, "anchor": ids, "neighbor": ids}
    for label, values in labels.items():
        if label not in leading:
            coords[label] = _placed(values, tuple(leading), grid.shape[: len(leading)], place)
    _check_apart(labels, patterns, name)
    coords |= {label: ("anchor", values) for label, values in patterns.items()}
    attrs = _attributes(dict(rdms.descriptors), key)
    if rdms.dissimilarity_measure is not None:
        attrs[MEASURE] = str(rdms.dissimilarity_measure)
    dims = (*leading, "anchor", "neighbor")
    return check_rdms(
        xr.DataArray(grid, dims=dims, coords=coords, attrs={**attrs, "kind": "rdm"}), name=name
    )


def _placed(values: np.ndarray, dims: tuple, sizes: tuple, place: tuple) -> Any:
    """Put a descriptor of RDMs where these are; one that all share is a scalar coordinate."""
    if len(set(values.tolist())) == 1:
        return values[0]
    whole = len(values) == np.prod(sizes)
    filled = np.empty(sizes, values.dtype if whole or values.dtype.kind == "U" else np.float64)
    filled[...] = "" if values.dtype.kind == "U" else np.nan if not whole else values[0]
    filled[place] = values
    return dims, filled


def _labels(descriptors: Mapping[str, Any] | None) -> dict[str, np.ndarray]:
    """Make descriptors arrays of plain labels."""
    return {str(k): plain_labels(np.asarray(v)) for k, v in (descriptors or {}).items()}


def _stimulus_key(
    found: Mapping[str, np.ndarray], stimulus: str | None, name: str, *, fallback: bool = True
) -> str:
    """Choose the descriptor that holds stimulus ids."""
    if stimulus is not None:
        if stimulus not in found:
            raise unknown_name(f"stimulus descriptor of the {name}:", stimulus, found)
        return stimulus
    known = [key for key in STIMULUS if key in found]
    others = [key for key in found if key != "index"]
    if known or len(others) == 1:
        return (known or others)[0]
    if "index" in found and (fallback or not others):
        return "index"
    raise StimulusError(
        f"Nothing says which descriptor of the {name} holds the stimulus ids: name it with "
        f"`stimulus=`, one of {listed(others, 20) or 'none (add one with the stimulus ids)'}. For "
        "`load` it is `variable=`."
    )


def _check_apart(some: Mapping[str, Any], others: Mapping[str, Any], name: str) -> None:
    """Refuse descriptors of one name on two sides: a labelled array has one place for each name."""
    both = sorted({*some} & {*others})
    if both:
        raise DataError(
            f"The {name} has descriptors of one name on two sides: {listed(both)}; rename one."
        )


def _attributes(whole: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Keep descriptors of the whole, and what rsatoolbox calls the stimuli."""
    kept = {str(name): _scalar(value) for name, value in whole.items() if value is not None}
    return kept if key == "stimulus" else {**kept, KEY: key}


def _scalar(value: Any) -> Any:
    """Unpack NumPy's scalars."""
    if isinstance(value, bytes):
        return value.decode()
    return value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value


SIDES = (
    "descriptors", "rdm_descriptors", "pattern_descriptors", "obs_descriptors",
    "channel_descriptors", "time_descriptors",
)  # fmt: skip


def read_rsatoolbox(path: Path, options: Options) -> xr.DataArray:
    """Read a file of `RDMs.save` or `Dataset.save`; ``variable`` names the stimulus descriptor."""
    return _converted(open_rsatoolbox(path), options.variable, None, options)


def open_rsatoolbox(path: Path) -> SimpleNamespace:
    """Read a file into what has the attributes of rsatoolbox's own object."""
    import h5py

    with h5py.File(path) as file:
        content = _read_group(file)
    for side in SIDES:
        content.setdefault(side, {})
    if "dissimilarities" in content:
        content.setdefault("dissimilarity_measure", None)
        for other in ("measurements", "obs_descriptors"):
            content.pop(other, None)
    elif not isinstance(content.get("measurements"), np.ndarray):
        raise FileFormatError(
            f"{path} looks like a file of rsatoolbox, but holds neither dissimilarities nor "
            "measurements."
        )
    else:
        content.pop("rdm_descriptors")
    return SimpleNamespace(**content)


def _read_group(group: Any) -> dict[str, Any]:
    """Read a group with its attributes; lists that were written item by item are lists again."""
    import h5py

    content: dict[str, Any] = dict(group.attrs)
    for key, node in group.items():
        if isinstance(node, h5py.Group):
            inner = _read_group(node)
            row = bool(inner) and all(name.isdecimal() for name in inner)
            content[key] = [inner[name] for name in sorted(inner, key=int)] if row else inner
        else:
            if node is not None:
                check_dataset(f"{node.file.filename}: {node.name}", node)
            content[key] = (
                None if node is None or node.shape is None else _plain(np.asarray(node[()]))
            )
    return content


def _plain(values: np.ndarray) -> Any:
    """Decode bytes; unpack single values."""
    if values.dtype.kind == "O":
        values = np.array([v.decode() if isinstance(v, bytes) else v for v in values.flat])
    values = plain_labels(values)
    return values.item() if values.ndim == 0 else values


OWN_ATTRS = ("kind", "source_format", KEY, MEASURE)


def to_rsatoolbox(array: xr.DataArray) -> Any:
    """Turn a labelled array into a `Dataset` or `RDMs` of rsatoolbox.

    Parameters
    ----------
    array : DataArray
        Recordings (stimulus, unit), single trials (trial, unit) or RDMs (..., anchor, neighbor).

    Returns
    -------
    rsatoolbox.data.Dataset or rsatoolbox.rdm.RDMs
        Coordinates become descriptors of observations, channels, RDMs or patterns; attributes
        become descriptors of the whole. Region, layer, subject and session that all units share are
        descriptors of the whole as well. Matrices that are NaN throughout are left out.
        `from_rsatoolbox` gives the array back.

    Raises
    ------
    FileMissingError
        If rsatoolbox is not installed.
    ShapeError, DTypeError, StimulusError, DataError
        If the array is none of these, or holds similarities.

    Examples
    --------
    >>> array = xr.DataArray(
    ...     np.eye(2), dims=("stimulus", "unit"), coords={"stimulus": ["face", "house"]}
    ... )
    >>> to_rsatoolbox(array).obs_descriptors["stimulus"].tolist()
    ['face', 'house']
    """
    array = check_labelled(array, name="array")
    try:
        from rsatoolbox.data.dataset import Dataset
        from rsatoolbox.rdm.rdms import RDMs
    except ImportError as error:
        raise FileMissingError(
            "Converting to rsatoolbox needs rsatoolbox, which cannot be imported "
            f"({error}); install it with `pip install softrsa[rsatoolbox]`."
        ) from error
    key = str(array.attrs.get(KEY, "stimulus"))
    whole = {str(k): v for k, v in array.attrs.items() if k not in OWN_ATTRS}
    if "anchor" in array.dims:
        return RDMs(**_rdm_parts(array, key), descriptors=whole)
    row = "trial" if "trial" in array.dims else "stimulus"
    units = labels_along(array, "unit")
    one = {word: v for word, v in units.items() if word in WORDS and len(set(v.tolist())) == 1}
    shared = {word: values[:1].tolist()[0] for word, values in one.items()}
    rows = {key if name == "stimulus" else name: v for name, v in labels_along(array, row).items()}
    return Dataset(
        array.values.copy(),
        descriptors={**whole, **shared},
        obs_descriptors=rows,
        channel_descriptors=units,
    )


def _rdm_parts(array: xr.DataArray, key: str) -> dict[str, Any]:
    """Take a stack of RDMs apart into what rsatoolbox's constructor wants."""
    if array.attrs["kind"] != "rdm":
        raise DataError(
            "rsatoolbox holds dissimilarities, the array similarities: convert them first, e.g. "
            '`(1 - array).assign_attrs(kind="rdm")`.'
        )
    n = array.sizes["anchor"]
    upper = array.values[..., *np.triu_indices(n, 1)].reshape(-1, n * (n - 1) // 2)
    kept = ~np.isnan(upper).all(axis=1)
    leading = array.dims[:-2]
    labels: dict[str, np.ndarray] = {}
    grid = xr.DataArray(np.zeros(array.shape[:-2]), dims=leading)
    for label, coord in array.coords.items():
        if not {"anchor", "neighbor"} & set(coord.dims):
            wide = coord.variable.set_dims(dict(grid.sizes)).transpose(*leading)
            labels[str(label)] = plain_labels(np.asarray(wide.values)).reshape(-1)[kept]
    for dim in leading:
        if dim not in array.coords:
            places = np.arange(1, array.sizes[dim] + 1)
            wide = xr.Variable((dim,), places).set_dims(dict(grid.sizes)).transpose(*leading)
            labels[str(dim)] = wide.values.reshape(-1)[kept]
    return {
        "dissimilarities": upper[kept],
        "dissimilarity_measure": array.attrs.get(MEASURE),
        "rdm_descriptors": labels,
        "pattern_descriptors": {
            key if name == "anchor" else name: v
            for name, v in labels_along(array, "anchor").items()
        },
    }


FORMATS.add(
    Format(
        name="rsatoolbox", title="a file of rsatoolbox (HDF5)", read=read_rsatoolbox,
        takes=frozenset({"variable"}),
        recognizes=lambda seen: (
            seen.container == "hdf5" and "rsatoolbox_version" in seen.attributes
        ),
    )
)  # fmt: skip
