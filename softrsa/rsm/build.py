"""From labelled recordings, in memory or summed up from disk, to labelled stacks of RSMs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise, product

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor

from softrsa._checks import resolve_device
from softrsa._wording import counted, listed
from softrsa.errors import DataError
from softrsa.io import check_rdms, check_recording
from softrsa.io.schema import check_labelled, is_lazy, labels_of_stimuli, plain_labels, read_values
from softrsa.recordings import split_units
from softrsa.recordings.trials import share_or_copy
from softrsa.rsm._blocks import CLOSE, write_mirrored
from softrsa.rsm.similarity import (
    SimilarityLike,
    as_similarity,
    check_arguments,
    check_rounding,
    rbf_from_distances,
    similarity_matrix,
)

Labels = tuple[str, ...]
Compute = Callable[[xr.DataArray, Mapping[str, str]], Tensor]


def stack_parts(
    array: xr.DataArray, names: Sequence[str], ids: np.ndarray, compute: Compute, dtype: torch.dtype
) -> xr.DataArray:
    """Compute ([n_times,] n, n) for each part of the units; NaN for those there are none of."""
    parts = dict(_parts(array, names))
    found = [list(dict.fromkeys(labels[i] for labels in parts)) for i in range(len(names))]
    own = [{str(label): label for label in pd.unique(array[name].values)} for name in names]
    combinations = list(product(*found))
    time = ("time",) if "time" in array.dims else ()
    inner = (*(array.sizes[dim] for dim in time), len(ids), len(ids))
    stack = torch.full((len(combinations), *inner), torch.nan, dtype=dtype)
    for place, labels in zip(stack, combinations, strict=True):
        if labels in parts:
            place.copy_(compute(parts[labels], dict(zip(names, labels, strict=True))))
    times = {dim: array[dim].values for dim in time}
    labels = {
        name: plain_labels(np.array([known[label] for label in row]))
        for name, row, known in zip(names, found, own, strict=True)
    }
    coords = {**labels, **times, "anchor": ids, "neighbor": ids}
    beside = {k: ("anchor", row) for k, row in labels_of_stimuli(array, ids).items()}
    return xr.DataArray(
        stack.reshape(*map(len, found), *inner).numpy(),
        dims=(*names, *time, "anchor", "neighbor"),
        coords={**beside, **coords},
        attrs={key: value for key, value in array.attrs.items() if key != "stimulus_ids"},
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
        What labels stimuli labels anchors; attributes are kept.
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
    row = as_similarity(similarity)
    over_time = "time" in getattr(array, "dims", ())
    if over_time and (is_lazy(array) or row.function is not None):
        return _each_time(array, by, similarity, device, dtype)
    array = check_labelled(array, name="recording") if over_time else check_recording(array)
    names = (by,) if isinstance(by, str) else tuple(by or ())
    known = row.name if row.function is None else row
    target = resolve_device(device)
    kind = torch.from_numpy(np.empty(0, array.dtype)).dtype if dtype is None else dtype
    stack = stack_parts(
        array,
        names,
        array["stimulus"].values,
        lambda part, named: (_movie if over_time else _rsm)(part, named, known, target, kind),
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


MOVIE_BYTES = 32 * 2**20  # of the values of some times that are turned into RSMs together


def _movie(
    part: xr.DataArray,
    labels: Mapping[str, str],
    similarity: SimilarityLike,
    device: torch.device,
    dtype: torch.dtype,
) -> Tensor:
    """Compute the RSMs (n_times, n, n) of checked values (stimulus, unit, time)."""
    n_times = part.sizes["time"]
    size = max(1, int(MOVIE_BYTES * n_times / max(1, part.nbytes)))
    times = (part[..., start : start + size] for start in range(0, n_times, size))
    return torch.cat(
        [
            _similarities(
                np.ascontiguousarray(some.transpose("time", "stimulus", "unit").values),
                part["stimulus"].values,
                where(labels),
                similarity,
                device=device,
                dtype=dtype,
            ).cpu()
            for some in times
        ]
    )


def _rsm(
    part: xr.DataArray,
    labels: Mapping[str, str],
    similarity: SimilarityLike,
    device: torch.device,
    dtype: torch.dtype,
) -> Tensor:
    """Compute one RSM of checked values."""
    ids = part["stimulus"].values
    if not is_lazy(part):
        return _similarities(
            part.values, ids, where(labels), similarity, device=device, dtype=dtype
        ).cpu()
    _check_units(part.shape[-1], similarity, where(labels))
    if not isinstance(similarity, str):
        raise DataError(
            "A similarity function of your own needs values in memory; load them without `chunks`."
        )
    check_rows = partial(_check_rows, ids=ids, similarity=similarity, place=where(labels))
    return stream_similarities(
        part, similarity, device=device, dtype=dtype, check_rows=check_rows
    ).cpu()


def _similarities(
    values: np.ndarray,
    ids: np.ndarray,
    place: str,
    similarity: SimilarityLike,
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> Tensor:
    """Compute RSMs of values ([time,] stimulus, unit)."""
    _check_units(values.shape[-1], similarity, place)
    x = share_or_copy(values)
    low, high = torch.aminmax(x, dim=-1)
    _check_rows(low, high, ids=ids, similarity=similarity, place=place)
    if x.dtype != dtype:
        check_rounding(x, as_similarity(similarity))
    x = x.to(device=device, dtype=dtype)
    return similarity_matrix(x, similarity=similarity)


def _check_units(n_units: int, similarity: SimilarityLike, place: str) -> None:
    if similarity == "correlation" and n_units == 1:
        raise DataError(
            f"`correlation` needs at least 2 units, got 1{place}. Use 'l2', or join units."
        )


def _check_rows(
    low: Tensor, high: Tensor, *, ids: np.ndarray, similarity: SimilarityLike, place: str
) -> None:
    """Refuse responses whose similarity is undefined, by their smallest and largest values."""
    bad = {"correlation": low == high, "cosine": (low == 0) & (high == 0)}.get(str(similarity))
    if bad is not None and bool(bad.any()):
        found = ids[bad.view(-1, len(ids)).any(0).numpy()]
        what = "constant" if similarity == "correlation" else "zero in all units"
        raise DataError(
            f"The responses to {counted(len(found), 'stimulus', 'stimuli')} ({listed(found)}) are "
            f"{what}{place}, so `{similarity}` is undefined. Leave them out, or use 'l2'."
        )


# With these, memory beside the result and a chunk stays below 300 MB (`tests/rsm/test_streaming`).
READ_BYTES = 32 * 2**20  # of the values read at a time, in their own number type
PART_BYTES = 12 * 2**20  # of those of them that are turned into float64 at a time
SUMS_BYTES = 48 * 2**20  # of the similarities of a stretch of rows; more rows, fewer passes

QUADRATIC = ("l2", "sqeuclidean", "rbf")
CheckRows = Callable[[Tensor, Tensor], object]


def stream_similarities(
    array: xr.DataArray,
    similarity: str,
    *,
    device: torch.device,
    dtype: torch.dtype,
    check_rows: CheckRows,
) -> Tensor:
    """Compute `similarity_matrix` of an array that dask reads, without ever holding it whole.

    ``array`` is checked but for its values; ``check_rows`` gets the smallest and the largest value
    of every stimulus (n,), and raises where the similarity, any but `mahalanobis`, is undefined.
    Every value is read once where n is at most 2500; else more often, as only so many rows of
    float64 sums are held at a time; and once more where responses are nearly equal (distances
    only).
    """
    check_arguments(torch.empty(1, 1), None, as_similarity(similarity), None, None)
    n, n_units = array.shape
    out = torch.empty(n, n, dtype=dtype, device=device)
    step = max(1, SUMS_BYTES // (8 * n))
    for start in range(0, n, step):
        rows = array[start:]
        sums = _Sums.start(similarity, min(step, n - start), n - start, device)
        for part in _stretches(rows, device):
            sums.add(part)
        if start == 0:
            check_rows(sums.low.cpu(), sums.high.cpu())
        block = sums.similarities(n_units, lambda pairs, of=rows: _squares(of, pairs, device))
        write_mirrored(out, start, block, _of_itself(similarity))
    return rbf_from_distances(out, None, dims=2, n_self=n) if similarity == "rbf" else out


def _of_itself(similarity: str) -> float | None:
    """Similarity of any row with itself; None where it depends on the row."""
    known = {"correlation": 1.0, "cosine": 1.0, "dot": None}
    return known.get(similarity, 0.0)


@dataclass
class _Sums:
    """Sums over units for some rows with themselves and all rows after them, in float64.

    ``total`` (h, m) holds sums of products (of distances for `l1`), of rows centered on the mean of
    the units so far (`correlation`) or of units centered over rows (distances), so that no digits
    are lost; ``squares`` (m,) the same of each row with itself.
    """

    similarity: str
    total: Tensor
    squares: Tensor
    mean: Tensor
    low: Tensor
    high: Tensor
    n_units: int = 0

    @classmethod
    def start(cls, similarity: str, height: int, width: int, device: torch.device) -> _Sums:
        """Begin with no unit."""
        zeros = torch.zeros(3, width, dtype=torch.float64, device=device)
        total = torch.zeros(height, width, dtype=torch.float64, device=device)
        infinite = torch.full_like(zeros[0], torch.inf)
        return cls(similarity, total, zeros[0], zeros[1], infinite, -infinite)

    def add(self, x: Tensor) -> None:
        """Add units (m, u), which are used up."""
        self.low = torch.minimum(self.low, x.amin(1))
        self.high = torch.maximum(self.high, x.amax(1))
        height = len(self.total)
        if self.similarity == "l1":
            self.total += torch.cdist(x[:height], x, p=1.0)
            return
        if self.similarity == "correlation":
            self._move_mean(x)
        elif self.similarity in QUADRATIC:
            x -= x.mean(0)
        self.total.addmm_(x[:height], x.T)
        self.squares += x.square().sum(1)

    def _move_mean(self, x: Tensor) -> None:
        """Center rows, and add what the change of the mean adds to the sums [1].

        .. [1] Chan, Golub & LeVeque (1983), doi:10.1080/00031305.1983.10483115.
        """
        height, n_new = len(self.total), x.shape[1]
        mean = x.mean(1)
        x -= mean[:, None]
        change = mean - self.mean
        n_all = self.n_units + n_new
        weight = self.n_units * n_new / n_all
        self.total.addr_(change[:height], change, alpha=weight)
        self.squares += weight * change.square()
        self.mean += change * (n_new / n_all)
        self.n_units = n_all

    def similarities(self, n_units: int, squares_of: Callable[[Tensor], Tensor]) -> Tensor:
        """Turn the sums into similarities (h, m), in place.

        ``squares_of`` gives squared distances of a few pairs of rows (2, k) without lost digits.
        """
        total, norms = self.total, self.squares
        height = len(total)
        if self.similarity in ("correlation", "cosine"):
            lengths = norms.sqrt()
            return total.div_(lengths[:height, None]).div_(lengths)
        if self.similarity == "dot":
            return total.div_(n_units)
        if self.similarity == "l1":
            return total.neg_()
        squares = total.mul_(-2).add_(norms[:height, None]).add_(norms)
        close = squares <= CLOSE * norms[:height, None] + CLOSE * norms
        pairs = close.triu_(1).nonzero().T
        if pairs.shape[1]:
            squares.index_put_(tuple(pairs), squares_of(pairs))
        squares.diagonal().zero_()
        if self.similarity == "sqeuclidean":
            return squares.div_(-n_units)
        return squares.sqrt_().neg_()


def _squares(array: xr.DataArray, pairs: Tensor, device: torch.device) -> Tensor:
    """Read squared distances of pairs of rows (2, k) once more, from their differences."""
    found = torch.zeros(pairs.shape[1], dtype=torch.float64, device=device)
    for part in _stretches(array, device):
        step = max(1, PART_BYTES // (8 * part.shape[1]))
        for sums, (left, right) in zip(found.split(step), pairs.split(step, dim=1), strict=True):
            sums.add_((part[left] - part[right]).square_().sum(1))
    return found


def _stretches(array: xr.DataArray, device: torch.device) -> Iterator[Tensor]:
    """Read stretches of units (n, u) of all rows, as float64, into the same memory each time."""
    n = len(array)
    row_chunks, unit_chunks = array.chunks or ((n,), (array.shape[1],))
    rows = [slice(a, b) for a, b in pairwise([0, *np.cumsum(row_chunks).tolist()])]
    widest = max(1, READ_BYTES // (n * array.dtype.itemsize))
    held = np.empty((n, min(widest, array.shape[1])), array.dtype)
    part = max(1, PART_BYTES // (8 * n))
    for units in _cut(unit_chunks, widest):
        read = held[:, : units.stop - units.start]
        for some in rows:
            read[some] = read_values(array[some, units])
        for start in range(0, read.shape[1], part):
            values = torch.from_numpy(read[:, start : start + part])
            yield values.to(device, torch.float64, copy=True)


def _cut(chunks: Sequence[int], widest: int) -> Iterator[slice]:
    """Join neighboring chunks of units up to ``widest``; cut wider ones."""
    start = stop = 0
    for size in chunks:
        if stop > start and stop + size - start > widest:
            yield slice(start, stop)
            start = stop
        stop += size
        while stop - start > widest:
            yield slice(start, start + widest)
            start += widest
    if stop > start:
        yield slice(start, stop)
