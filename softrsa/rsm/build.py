"""From labelled recordings to labelled stacks of RSMs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import product

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from softrsa._checks import resolve_device
from softrsa._wording import counted, listed
from softrsa.errors import DataError
from softrsa.io import check_rdms, check_recording
from softrsa.io.schema import is_lazy
from softrsa.recordings import split_units
from softrsa.recordings.trials import share_or_copy
from softrsa.rsm.similarity import SimilarityLike, as_similarity, similarity_matrix
from softrsa.rsm.streaming import stream_similarities

Labels = tuple[str, ...]
Compute = Callable[[xr.DataArray, Mapping[str, str]], Tensor]


def stack_parts(
    array: xr.DataArray, names: Sequence[str], ids: np.ndarray, compute: Compute, dtype: torch.dtype
) -> xr.DataArray:
    """Compute a matrix (of each time) for each part of the units; NaN for those there are none of.

    ``names`` are coordinates on `unit`; ``compute(part, labels)`` gives ([n_times,] n, n).
    """
    parts = dict(_parts(array, names))
    found = [list(dict.fromkeys(labels[i] for labels in parts)) for i in range(len(names))]
    combinations = list(product(*found))
    time = ("time",) if "time" in array.dims else ()
    inner = (*(array.sizes[dim] for dim in time), len(ids), len(ids))
    stack = torch.full((len(combinations), *inner), torch.nan, dtype=dtype)
    for place, labels in zip(stack, combinations, strict=True):
        if labels in parts:
            place.copy_(compute(parts[labels], dict(zip(names, labels, strict=True))))
    times = {dim: array[dim].values for dim in time}
    coords = {**dict(zip(names, found, strict=True)), **times, "anchor": ids, "neighbor": ids}
    return xr.DataArray(
        stack.reshape(*map(len, found), *inner).numpy(),
        dims=(*names, *time, "anchor", "neighbor"),
        coords=coords,
    )


def where(labels: Mapping[str, str]) -> str:
    """Say which part a message is about: ``", region 'IT', subject 'a'"``."""
    return "".join(f", {name} {label!r}" for name, label in labels.items())


def _parts(
    array: xr.DataArray, names: Sequence[str], labels: Labels = ()
) -> Iterator[tuple[Labels, xr.DataArray]]:
    """Split by one coordinate after the other."""
    if not names:
        yield labels, array
        return
    for label, part in split_units(array, names[0]).items():
        yield from _parts(part, names[1:], (*labels, label))


def build_rsms(
    array: xr.DataArray,
    *,
    by: str | Sequence[str] | None = None,
    similarity: SimilarityLike = "correlation",
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
) -> xr.DataArray:
    r"""Similarities between the stimuli of a recording, one RSM per layer, region or subject.

    Parameters
    ----------
    array : DataArray, dims (stimulus, unit) or (stimulus, unit, time)
        Responses or activations with stimulus ids, float32 or float64, in any unit. Dask-backed
        arrays, as `softrsa.load` with ``chunks`` gives them, are never loaded whole.
    by : str or sequence of str, optional
        Coordinates on `unit` whose labels get an RSM each, such as ``"layer"`` or
        ``("region", "subject")``; one RSM of all units by default.
    similarity : str, Similarity or callable
        As in `softrsa.rsm.similarity_matrix`, other than `mahalanobis`; a function of your own
        needs an array in memory.
    device : str or torch.device
        Where to compute; ``"auto"`` takes CUDA where there is one.
    dtype : torch.dtype, optional
        Number type of the computation and the result: that of ``array`` by default.

    Returns
    -------
    DataArray, dims (\*by, [time,] anchor, neighbor)
        RSMs, exactly symmetric, with ``attrs["kind"] = "rsm"`` and the name of the similarity.
        Labels are in order of first appearance; a combination without units is NaN.

    Raises
    ------
    DTypeError, ShapeError, StimulusError, DataError
        If ``array`` is not a recording: see `softrsa.io.check_recording`.
    UnknownNameError
        If the units have no coordinate ``by``, or the similarity is unknown.
    DataError
        If responses are constant (`correlation`) or zero (`cosine`) for some stimuli, which the
        message names with their layer or region, or `correlation` has but one unit.
    DeviceError
        If CUDA is asked for and absent.

    Notes
    -----
    Units that lie side by side are not copied. Memory beside the result stays below 200 MB for
    writable arrays in memory; the float32 result is within 1e-5 of float64. Of dask-backed arrays
    stretches of units are read and summed up in float64, with less than 300 MB and a few chunks
    held beside the result. Chunks of all stimuli and some units are read fastest: twice each, once
    of them for the check of values.

    Examples
    --------
    >>> array = xr.DataArray(
    ...     [[1.0, 2.0, 3.0, 5.0], [2.0, 1.0, 4.0, 4.0]],
    ...     dims=("stimulus", "unit"),
    ...     coords={"stimulus": ["face", "house"], "region": ("unit", ["V4", "V4", "IT", "IT"])},
    ... )
    >>> build_rsms(array, by="region", similarity="sqeuclidean").sel(region="IT").values
    array([[ 0., -1.],
           [-1.,  0.]])
    """
    if "time" in getattr(array, "dims", ()):
        return _each_time(array, by, similarity, device, dtype)
    array = check_recording(array)
    names = (by,) if isinstance(by, str) else tuple(by or ())
    row = as_similarity(similarity)
    known = row.name if row.function is None else row
    target = resolve_device(device)
    kind = torch.from_numpy(np.empty(0, array.dtype)).dtype if dtype is None else dtype
    stack = stack_parts(
        array,
        names,
        array["stimulus"].values,
        lambda part, named: _rsm(part, named, known, target, kind),
        kind,
    )
    return stack.rename("similarity").assign_attrs(kind="rsm", similarity=row.name)


def to_rsm(stack: xr.DataArray) -> xr.DataArray:
    """Turn a stack of RDMs into RSMs as 1 - d; a stack of RSMs stays as it is.

    Parameters
    ----------
    stack : DataArray, dims (..., anchor, neighbor)
        RDMs or RSMs, told apart by ``attrs["kind"]`` or their diagonal.

    Returns
    -------
    DataArray, dims (..., anchor, neighbor)
        Similarities with ``attrs["kind"] = "rsm"``: the correlation or cosine itself where the
        distance was 1 minus it, and the flipped and shifted distance otherwise, which every
        scaling but `affine` takes alike.

    Raises
    ------
    DTypeError, ShapeError, StimulusError, DataError
        If ``stack`` is not a stack of RDMs or RSMs: see `softrsa.io.check_rdms`.

    Examples
    --------
    >>> rdm = xr.DataArray(
    ...     [[0.0, 0.25], [0.25, 0.0]],
    ...     dims=("anchor", "neighbor"),
    ...     coords={"anchor": ["face", "house"], "neighbor": ["face", "house"]},
    ... )
    >>> to_rsm(rdm).values
    array([[1.  , 0.75],
           [0.75, 1.  ]])
    """
    stack = check_rdms(stack)
    if stack.attrs["kind"] == "rsm":
        return stack
    return (1 - stack).assign_attrs({**stack.attrs, "kind": "rsm"}).rename("similarity")


def _each_time(
    array: xr.DataArray,
    by: str | Sequence[str] | None,
    similarity: SimilarityLike,
    device: str | torch.device,
    dtype: torch.dtype | None,
) -> xr.DataArray:
    """Build the stack of each time; `time` becomes the last leading dimension."""
    options = {"by": by, "similarity": similarity, "device": device, "dtype": dtype}
    stacks = [
        build_rsms(array.isel(time=i, drop=True), **options) for i in range(array.sizes["time"])
    ]
    stack = xr.concat(stacks, array["time"])
    return stack.transpose(*stacks[0].dims[:-2], "time", "anchor", "neighbor")


def _rsm(
    part: xr.DataArray,
    labels: Mapping[str, str],
    similarity: SimilarityLike,
    device: torch.device,
    dtype: torch.dtype,
) -> Tensor:
    """Compute one RSM of checked values."""
    place, ids = where(labels), part["stimulus"].values
    if similarity == "correlation" and part.shape[-1] == 1:
        raise DataError(
            f"`correlation` needs at least 2 units, got 1{place}. Use 'l2', or join units."
        )
    check_rows = partial(_check_rows, ids=ids, similarity=similarity, place=place)
    if is_lazy(part):
        if not isinstance(similarity, str):
            raise DataError(
                "A similarity function of your own needs values in memory; load them without "
                "`chunks`."
            )
        return stream_similarities(
            part, similarity, device=device, dtype=dtype, check_rows=check_rows
        ).cpu()
    x = share_or_copy(part.values)
    check_rows(*torch.aminmax(x, dim=-1))
    x = x.to(device=device, dtype=dtype)
    return similarity_matrix(x, similarity=similarity)


def _check_rows(
    low: Tensor, high: Tensor, *, ids: np.ndarray, similarity: SimilarityLike, place: str
) -> None:
    """Refuse responses whose similarity is undefined, by their smallest and largest values."""
    bad = {"correlation": low == high, "cosine": (low == 0) & (high == 0)}.get(str(similarity))
    if bad is not None and bool(bad.any()):
        found = ids[bad.numpy()]
        what = "constant" if similarity == "correlation" else "zero in all units"
        raise DataError(
            f"The responses to {counted(len(found), 'stimulus', 'stimuli')} ({listed(found)}) are "
            f"{what}{place}, so `{similarity}` is undefined. Leave them out, or use 'l2'."
        )
