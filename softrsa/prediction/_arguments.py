"""What may be given to a head."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from softrsa._checks import check_floating
from softrsa.errors import DataError, DTypeError, ShapeError
from softrsa.prediction._rows import Excluded


def check_options(similarity: str, temperature: float | None, bandwidth: float | None) -> None:
    """Check numbers that must be positive, and who takes them."""
    for name, value in (("temperature", temperature), ("bandwidth", bandwidth)):
        if value is not None and not 0 < value < math.inf:
            raise DataError(f"`{name}` must be positive and finite, got {value!r}.")
    if bandwidth is not None and similarity != "rbf":
        raise DataError(f"`similarity={similarity!r}` takes no `bandwidth`, got {bandwidth!r}.")


def check_neighbors(queries: Tensor, neighbors: Tensor, labels: Tensor | None = None) -> None:
    """Check types first, then shapes."""
    tensors = {"queries": queries, "neighbors": neighbors}
    if labels is not None:
        tensors["labels"] = labels
    check_floating(**tensors)
    for name, value in tensors.items():
        if value.dtype != queries.dtype:
            raise DTypeError(
                f"`queries` and `{name}` must have one number type, "
                f"got {queries.dtype} and {value.dtype}."
            )
    if queries.ndim != 2 or neighbors.ndim != 2 or queries.shape[1] != neighbors.shape[1]:
        raise ShapeError(
            "`queries` and `neighbors` must have shapes (m, n_features) and (n, n_features), "
            f"got {tuple(queries.shape)} and {tuple(neighbors.shape)}."
        )
    if 0 in neighbors.shape:
        raise ShapeError(f"There must be a neighbor and a feature, got {tuple(neighbors.shape)}.")
    if labels is not None and (labels.ndim not in (1, 2) or len(labels) != len(neighbors)):
        raise ShapeError(
            f"`labels` must have shape ({len(neighbors)},) or ({len(neighbors)}, n_targets) for "
            f"{len(neighbors)} neighbors, got {tuple(labels.shape)}."
        )


def find_excluded(exclude: Tensor | None, queries: Tensor, neighbors: Tensor) -> Excluded | None:
    """Check what each query must not see and find these entries."""
    if exclude is None:
        return None
    m, n = len(queries), len(neighbors)
    if not isinstance(exclude, Tensor) or exclude.dtype != torch.long:
        found = exclude.dtype if isinstance(exclude, Tensor) else type(exclude).__name__
        raise DTypeError(f"`exclude` must be an int64 tensor, got {found}.")
    if exclude.shape != (m,):
        raise ShapeError(
            f"`exclude` must have shape ({m},), one number per query, got {tuple(exclude.shape)}."
        )
    rows = (exclude >= 0).nonzero().squeeze(-1)
    columns = exclude.index_select(0, rows)
    wrong = exclude[(exclude < -1) | (exclude >= n)]
    if len(wrong):
        raise DataError(
            f"`exclude` must hold numbers of neighbors from 0 to {n - 1}, or -1 for none, "
            f"got {wrong[0].item()}."
        )
    if n == 1 and len(rows):
        raise ShapeError("`exclude` leaves a query without neighbors: there is only one.")
    return Excluded(rows, columns)
