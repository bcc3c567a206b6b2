"""Which positions are neighbors, and what neighbors make together: clusters, enhancement."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from softrsa._wording import counted
from softrsa.errors import DataError, DTypeError, ShapeError


def links(adjacency: Any, size: int) -> Tensor | None:
    """Pairs (2, m) of the neighbors that an adjacency (size, size) names, each once.

    Examples
    --------
    >>> links(torch.tensor([[0, 1, 0], [1, 0, 1], [0, 1, 0]]), 3)
    tensor([[0, 1],
            [1, 2]])
    """
    if adjacency is None:
        return None
    from scipy.sparse import coo_array, issparse

    if isinstance(adjacency, Tensor):
        adjacency = adjacency.detach().cpu().numpy()
    if not issparse(adjacency) and not isinstance(adjacency, np.ndarray):
        raise DTypeError(
            "`adjacency` must be a tensor, an array or a SciPy sparse array, got "
            f"{type(adjacency).__name__}."
        )
    as_coo: Any = coo_array
    matrix = as_coo(adjacency)
    if matrix.shape != (size, size):
        raise ShapeError(
            f"`adjacency` must be ({size}, {size}), for the last dimension of `values`, got shape "
            f"{matrix.shape}. Flatten dimensions that it links together."
        )
    first, second = (part[matrix.data != 0].astype(np.int64) for part in matrix.coords)
    alone = np.setdiff1d(first * size + second, second * size + first)
    if alone.size:
        i, j = divmod(int(alone[0]), size)
        raise DataError(
            f"`adjacency` must be symmetric, but of {i} and {j} only one is a neighbor of the "
            f"other, and so of {counted(alone.size, 'pair')}. Take `adjacency + adjacency.T`."
        )
    once = first < second
    pairs = np.unique(first[once] * size + second[once])
    return torch.from_numpy(np.stack([pairs // size, pairs % size]))


class Neighbors(NamedTuple):
    """Positions on lines, of which the last dimension may have links (2, m) instead."""

    links: Tensor | None

    def components(self, beyond: Tensor) -> tuple[Tensor, Tensor, int]:
        """Connect neighbors whose entries (r, ...positions) are equal and not 0.

        Gives the places of entries that are not 0, their components, and how many there are.
        """
        nodes = beyond.view(-1).nonzero().flatten()
        if not len(nodes):
            return nodes, nodes, 0
        labels, n = self._on_lines(beyond) if self.links is None else self._linked(beyond, nodes)
        return nodes, labels, n

    def _on_lines(self, beyond: Tensor) -> tuple[Tensor, int]:
        """Label entries that are not 0 by lines alone."""
        from scipy.ndimage import generate_binary_structure, label

        near = np.zeros((3,) * beyond.ndim, dtype=bool)
        near[1] = generate_binary_structure(beyond.ndim - 1, 1)  # flips are no neighbors
        sign, n, labels = beyond.numpy(), 0, np.zeros(beyond.shape, np.int32)
        for part in (sign > 0, sign < 0):
            own, found = label(part, near)
            np.add(own, n, out=labels, where=part)
            n += found
        return torch.from_numpy(labels[sign != 0] - 1).long(), n

    def _linked(self, beyond: Tensor, nodes: Tensor) -> tuple[Tensor, int]:
        """Label the nodes, entries that are not 0, as components of a graph."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        rank = torch.empty(beyond.numel(), dtype=torch.int32)
        rank[nodes] = torch.arange(len(nodes), dtype=torch.int32)
        ends = np.concatenate([rank[edge].numpy() for edge in self._edges(beyond)], axis=1)
        ones = np.ones(ends.shape[1], np.int8)
        graph: Any = coo_array((ones, (ends[0], ends[1])), (len(nodes), len(nodes)))
        n, labels = connected_components(graph.tocsr(), directed=False)
        return torch.from_numpy(labels).long(), n

    def _edges(self, beyond: Tensor) -> Iterator[Tensor]:
        """Flat places (2, m) of neighbors that are connected."""
        strides = torch.tensor(beyond.stride())
        for dim in range(1, beyond.ndim - 1):
            size = beyond.shape[dim] - 1
            one, other = beyond.narrow(dim, 0, size), beyond.narrow(dim, 1, size)
            first = ((one == other) & (one != 0)).nonzero() @ strides
            yield torch.stack([first, first + strides[dim]])
        pairs = torch.empty(2, 0, dtype=torch.int64) if self.links is None else self.links
        one, other = beyond[..., pairs[0]], beyond[..., pairs[1]]
        joined = ((one == other) & (one != 0)).nonzero()
        yield joined[:, :-1] @ strides[:-1] + pairs[:, joined[:, -1]]


def threshold_free(t: Tensor, step: float, neighbors: Neighbors) -> Tensor:
    """Threshold-free cluster enhancement (r, ...positions), with the sign of t.

    Heights between which no position drops out are summed in one go: squares of whole numbers.
    """
    top, order = t.abs().flatten(1).amax(1).sort(descending=True)
    size, sign = t[order].abs(), t[order].sign()
    highest = (size / step).ceil_().sub_(1.0)  # of the heights below each position
    highest = torch.where(highest * step >= size, highest - 1, highest)
    highest = torch.where((highest + 1) * step < size, highest + 1, highest)
    enhanced, low = torch.zeros_like(t), 1.0
    while True:
        left = slice(int((top > low * step).sum()))  # flips that reach so high come first
        nodes, labels, n = neighbors.components(sign[left] * (highest[left] >= low))
        if not n:
            found = torch.empty_like(t)
            found[order] = enhanced.mul_(sign)
            return found
        high = float(highest.view(-1)[nodes].min())
        extents = torch.bincount(labels, minlength=n).double().sqrt_()
        height = (_squares_to(high) - _squares_to(low - 1)) * step**3
        enhanced.view(-1)[nodes] += extents[labels] * height
        low = high + 1


def _squares_to(n: float) -> float:
    """Sum of the squares of 1 to n."""
    return n * (n + 1) * (2 * n + 1) / 6
