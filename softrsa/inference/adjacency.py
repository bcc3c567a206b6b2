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
        """Connect neighbors whose entries (r, ...positions) are equal, 1 or -1 but not 0.

        Gives the places of entries that are not 0, their components, and how many there are.
        """
        nodes = beyond.view(-1).nonzero().flatten()
        if not len(nodes):
            return nodes, nodes, 0
        labels, n = (self._on_lines if self.links is None else self._linked)(beyond, nodes)
        return nodes, labels, n

    def _on_lines(self, beyond: Tensor, nodes: Tensor) -> tuple[Tensor, int]:
        """Label the nodes by lines alone."""
        from scipy.ndimage import generate_binary_structure, label

        near = np.zeros((3,) * beyond.ndim, dtype=bool)
        near[1] = generate_binary_structure(beyond.ndim - 1, 1)  # flips are no neighbors
        above, n_above = label((beyond > 0).numpy(), near)
        below, n_below = label((beyond < 0).numpy(), near)
        above, below = (torch.from_numpy(part).view(-1)[nodes] for part in (above, below))
        return torch.where(above > 0, above - 1, below + (n_above - 1)).long(), n_above + n_below

    def _linked(self, beyond: Tensor, nodes: Tensor) -> tuple[Tensor, int]:
        """Label the nodes as components of a graph."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        rank = torch.empty(beyond.numel(), dtype=torch.int32)
        rank[nodes] = torch.arange(len(nodes), dtype=torch.int32)
        ends = np.concatenate([rank[edge].numpy() for edge in self._edges(beyond, nodes)], axis=1)
        ones = np.ones(ends.shape[1], np.int8)
        graph: Any = coo_array((ones, (ends[0], ends[1])), (len(nodes), len(nodes)))
        n, labels = connected_components(graph.tocsr(), directed=False)
        return torch.from_numpy(labels).long(), n

    def _edges(self, beyond: Tensor, nodes: Tensor) -> Iterator[Tensor]:
        """Flat places (2, m) of neighbors that are equal, each pair once."""
        flat = beyond.view(-1)
        for dim in range(1, beyond.ndim - 1):
            step = beyond.stride(dim)
            first = nodes[nodes // step % beyond.shape[dim] < beyond.shape[dim] - 1]
            yield self._equal(flat, first, first + step)
        last = beyond.shape[-1]
        place = nodes % last
        for column in self._later(last):
            there = column[place] >= 0
            first = nodes[there]
            yield self._equal(flat, first, first + (column - torch.arange(last))[place[there]])

    @staticmethod
    def _equal(flat: Tensor, first: Tensor, second: Tensor) -> Tensor:
        return torch.stack([first, second])[:, flat[first] == flat[second]]

    def _later(self, size: int) -> Tensor:
        """Neighbors of each place that come after it (most, size); -1 where there are fewer."""
        first, second = torch.empty(2, 0).long() if self.links is None else self.links
        counts = torch.bincount(first, minlength=size)
        found = torch.full((int(counts.max()), size), -1)
        number = torch.arange(len(first)) - (counts.cumsum(0) - counts)[first]
        found[number, first] = second
        return found


def threshold_free(t: Tensor, step: float, neighbors: Neighbors) -> Tensor:
    """Threshold-free cluster enhancement (r, ...positions), with the sign of t.

    Heights between which no position drops out are summed in one go: squares of whole numbers.
    """
    top, order = t.abs().flatten(1).amax(1).sort(descending=True)
    size, sign = t[order].abs(), t[order].sign().to(torch.int8)
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
