"""Similarities of recordings larger than memory, summed up from stretches of units."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from softrsa.io.schema import read_values
from softrsa.rsm._blocks import CLOSE, write_mirrored
from softrsa.rsm.similarity import as_similarity, check_arguments, rbf_from_distances

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
