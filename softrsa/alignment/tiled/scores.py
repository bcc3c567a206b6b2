"""Measures on RSMs, from sums over their entries."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from softrsa.alignment.tiled.moments import Moments

Pair = tuple[int, int]


class Products:
    """Inner products of listed pairs of RSMs; measures differ in what they remove before.

    Parameters
    ----------
    sums : Moments
        From `moments` with the same pairs, among them (i, i) of every RSM.
    pairs : sequence of pairs of int
        Numbers of the RSMs.
    centered : sequence of bool
        Which RSMs are to be double-centered first, whatever the measure.
    own : sequence of float or None
        Self-similarity in each RSM; None where stimuli differ in it.
    dtype : torch.dtype
        Number type of the entries, whose rounding bounds what a difference of sums can tell.
    """

    def __init__(
        self,
        sums: Moments,
        pairs: Sequence[Pair],
        *,
        centered: Sequence[bool],
        own: Sequence[float | None],
        dtype: torch.dtype,
    ):
        self.sums, self.centered, self.own, self.dtype = sums, centered, own, dtype
        self.places = {pair: i for i, pair in enumerate(pairs)}
        self.n = sums.rows.shape[-1]

    def score(self, measure: str, i: int, j: int) -> Tensor:
        """Score two RSMs; NaN where next to nothing is left of one.

        What is left is a difference of sums, and below their rounding it would be any number.
        """
        product, norms = self.of_measure(measure), []
        for k in (i, j):
            found, whole = product(k, k), self.plain(k, k)
            lost = found <= 8 * torch.finfo(self.dtype).eps * whole
            norms.append(found.masked_fill(lost, torch.nan).sqrt())
        return product(i, j) / norms[0] / norms[1]

    def of_measure(self, measure: str) -> Callable[[int, int], Tensor]:
        """Inner product of which the measure is the cosine."""
        product = MEASURES[measure]

        def inner(i: int, j: int) -> Tensor:
            # centering one side is enough, and nothing else is left to remove then
            kind = Products.double_centered if self.centered[i] or self.centered[j] else product
            return kind(self, i, j)

        return inner

    def norm(self, measure: str, i: int) -> Tensor:
        """Length that an RSM is divided by before it is pooled with others."""
        if self.centered[i] or measure == "centered_pearson":
            return self.double_centered(i, i).sqrt()
        if measure == "whitened_cosine":
            return self._of_distances(i, i).sqrt()
        return (self.plain if measure == "cosine" else self.without_mean)(i, i).sqrt()

    def plain(self, i: int, j: int) -> Tensor:
        """Take the off-diagonal entries as they are."""
        return self.sums.products[self.places[(i, j) if (i, j) in self.places else (j, i)]]

    def without_mean(self, i: int, j: int) -> Tensor:
        """Take the entries less their mean."""
        totals = self.sums.rows.sum(-1)
        return self.plain(i, j) - totals[i] * totals[j] / (self.n * (self.n - 1))

    def double_centered(self, i: int, j: int) -> Tensor:
        """Take what row and column offsets do not explain, see `double_center`."""
        n, rows, columns = self.n, self.sums.rows, self.sums.columns
        total = rows[i].sum() / ((n - 1) * (n - 2))
        of_rows = ((n - 1) * rows[i] + columns[i]) / (n * (n - 2)) - total
        of_columns = ((n - 1) * columns[i] + rows[i]) / (n * (n - 2))
        return self.plain(i, j) - (of_rows * rows[j]).sum() - (of_columns * columns[j]).sum()

    def whitened(self, i: int, j: int) -> Tensor:
        """Take C D C, of D the symmetric RSM less its mean and 0 on the diagonal."""
        n, rows = self.n, self.sums.rows
        a, b = (rows[k] - rows[k].sum() / n for k in (i, j))
        return self.without_mean(i, j) - 2 / n * (a * b).sum()

    def whitened_distances(self, i: int, j: int) -> Tensor:
        """Take C D C, of D the dissimilarities: self-similarity less similarity."""
        n = self.n
        a, b = ((n - 1) * self._own(k) - self.sums.rows[k] for k in (i, j))
        return self._of_distances(i, j) - 2 / n * (a * b).sum() + a.sum() * b.sum() / n**2

    def _of_distances(self, i: int, j: int) -> Tensor:
        a, b = self._own(i), self._own(j)
        totals = self.sums.rows.sum(-1)
        return self.plain(i, j) - a * totals[j] - b * totals[i] + a * b * self.n * (self.n - 1)

    def _own(self, i: int) -> float:
        own = self.own[i]
        return float("nan") if own is None else own


MEASURES: dict[str, Callable[[Products, int, int], Tensor]] = {
    "centered_pearson": Products.double_centered,
    "cosine": Products.plain,
    "pearson": Products.without_mean,
    "whitened_cosine": Products.whitened_distances,
    "whitened_pearson": Products.whitened,
}
