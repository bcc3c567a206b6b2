"""Learned similarity: a linear map of units, and how similar what comes out is."""

from __future__ import annotations

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from softrsa._checks import check_floating
from softrsa.errors import DataError, ShapeError
from softrsa.rsm import similarity_matrix
from softrsa.rsm.similarity import SimilarityLike, as_similarity

OF_LENGTH_1 = ("correlation", "cosine")  # similarities whose patterns are brought to length 1


def prepare_units(units: Tensor, similarity: SimilarityLike) -> Tensor:
    """Bring units to the form whose inner products the similarity compares.

    Parameters
    ----------
    units : Tensor, shape (..., n_stimuli, n_units)
        Responses.
    similarity : str, Similarity or callable
        For "correlation" the mean over units is taken from every pattern, which is then brought to
        length 1; for "cosine" it is brought to length 1; for others it stays as it is.

    Returns
    -------
    Tensor, shape (..., n_stimuli, n_units)
        The patterns.

    Examples
    --------
    >>> prepare_units(torch.tensor([[3.0, 4.0]]), "cosine")
    tensor([[0.6000, 0.8000]])
    """
    name = as_similarity(similarity).name
    if name == "correlation":
        units = units - units.mean(-1, keepdim=True)
    if name in OF_LENGTH_1:
        units = units / torch.linalg.vector_norm(units, dim=-1, keepdim=True)
    return units


def similarity_of_features(similarity: SimilarityLike) -> SimilarityLike:
    """Give the similarity that features of a learned map are compared by.

    The map has centered them over stimuli, so that of correlations only the cosine is left.
    """
    return "cosine" if as_similarity(similarity).name in OF_LENGTH_1 else similarity


class LearnedSimilarity(nn.Module):
    r"""Similarities of stimuli after a linear map of their units.

    .. math:: s_{ij} = \mathrm{similarity}(f_i, f_j), \qquad f_i = W^\top p_i - c

    with :math:`p_i` the units of stimulus i, prepared as the similarity does (`prepare`).

    Parameters
    ----------
    weight : Tensor, shape (n_units, n_features)
        The map W. A parameter, which trains where it requires gradients.
    offset : Tensor, shape (n_features,), optional
        What is subtracted, c; zeros by default.
    prepare : {"", "correlation", "cosine"}
        What is done to units first: see `prepare_units`. Nothing by default.
    similarity : str, Similarity or callable
        How features are compared.

    Raises
    ------
    ShapeError
        If ``weight`` is not a matrix, or ``offset`` does not fit.
    DataError
        If ``prepare`` is none of those.

    Notes
    -----
    `Aligner` and `align` learn such maps: weights of principal components ("reweighted"), any map
    of them ("metric"), or ridge regression to a brain's units ("encoding").

    Examples
    --------
    >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> LearnedSimilarity(torch.eye(2), similarity="dot")(x)
    tensor([[0.5000, 0.0000, 0.5000],
            [0.0000, 0.5000, 0.5000],
            [0.5000, 0.5000, 1.0000]])
    """

    offset: Tensor

    def __init__(
        self,
        weight: Tensor,
        offset: Tensor | None = None,
        *,
        prepare: str = "",
        similarity: SimilarityLike = "cosine",
    ):
        super().__init__()
        check_floating(weight=weight)
        if weight.ndim != 2 or (offset is not None and offset.shape != weight.shape[1:]):
            found = "none" if offset is None else tuple(offset.shape)
            raise ShapeError(
                "`weight` must be (n_units, n_features) and `offset` (n_features,), got "
                f"{tuple(weight.shape)} and {found}."
            )
        if prepare not in ("", *OF_LENGTH_1):
            raise DataError(f"`prepare` must be '' or one of {OF_LENGTH_1}, got {prepare!r}.")
        self.weight = nn.Parameter(weight.detach().clone(), requires_grad=weight.requires_grad)
        self.prepare, self.similarity = prepare, as_similarity(similarity)
        offset = weight.new_zeros(weight.shape[1]) if offset is None else offset.detach().clone()
        self.register_buffer("offset", offset)

    @classmethod
    def trainable(cls, n_units: int, n_features: int, *, similarity: SimilarityLike) -> Self:
        """Start a map for `AlignmentLoss`: the first units as they are, and it requires gradients.

        Parameters
        ----------
        n_units, n_features : int
            Its shape; at most as many features as units.
        similarity : str, Similarity or callable
            As in `similarity_matrix`.

        Returns
        -------
        LearnedSimilarity
            With ones on the diagonal of its weight.

        Examples
        --------
        >>> LearnedSimilarity.trainable(5, 2, similarity="correlation").weight.shape
        torch.Size([5, 2])
        """
        name = as_similarity(similarity).name
        return cls(
            torch.eye(n_units, n_features).requires_grad_(True),
            prepare=name if name in OF_LENGTH_1 else "",
            similarity=similarity_of_features(similarity),
        )

    @property
    def n_units(self) -> int:
        """Number of units it reads."""
        return len(self.weight)

    def features(self, units: Tensor) -> Tensor:
        """Map units (..., n, n_units) to features (..., n, n_features)."""
        if units.shape[-1] != self.n_units:
            raise ShapeError(
                f"The learned similarity reads {self.n_units} units, got {units.shape[-1]}."
            )
        if self.prepare:
            units = prepare_units(units, self.prepare)
        return units @ self.weight.to(units) - self.offset.to(units)

    def forward(self, units: Tensor) -> Tensor:
        """Similarities (..., n, n) of stimuli with these units (..., n, n_units)."""
        return self.compare(self.features(units))

    def compare(self, features: Tensor) -> Tensor:
        """Similarities (..., n, n) of stimuli with these features (..., n, n_features)."""
        return similarity_matrix(features, similarity=self.similarity)

    def unit_weights(self) -> Tensor:
        """How much each unit counts (n_units,): squared length of its row of the map, mean 1."""
        squares = self.weight.detach().square().sum(1)
        return squares / squares.mean()

    def extra_repr(self) -> str:
        """Show sizes and similarity, not the map."""
        n, k = self.weight.shape
        return f"n_units={n}, n_features={k}, similarity={self.similarity.name!r}"


class LearnedSimilarities(nn.ModuleList):
    """Maps of one layer: one, or one for each subject that it predicts."""

    def each(self) -> list[LearnedSimilarity]:
        """List the maps."""
        return [one for one in self if isinstance(one, LearnedSimilarity)]


def unit_length(x: Tensor) -> Tensor:
    """Vectors (..., k) brought to length 1; zeros stay, so that gradients are finite."""
    return F.normalize(x, dim=-1, eps=torch.finfo(x.dtype).tiny)
