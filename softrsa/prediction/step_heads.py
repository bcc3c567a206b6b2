"""Heads whose weights are cut by a learned soft step, and the table of heads by name."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from softrsa.errors import DataError
from softrsa.prediction._neighbors import (
    Excluded,
    NeighborSimilarity,
    neighbor_ranks,
    scaled_rows,
    step_weights,
)
from softrsa.prediction.heads import NCAHead, Source
from softrsa.transforms import (
    EmbeddingGate,
    Family,
    GlobalGate,
    SoftStep,
    StepParameters,
    soft_k_step,
)
from softrsa.transforms.soft_step import bound_distances_, exact_zeros_


class SoftStepNCAHead(NCAHead):
    r"""NCA whose weights are multiplied by a learned SoftStep of the similarity.

    The similarities of a query are scaled to [0, 1] between the least and the most similar
    neighbor, without the excluded one, and go through `softrsa.transforms.soft_step`: neighbors
    below the lower bound get a weight of exactly 0.

    Parameters
    ----------
    n_features : int, optional
        Length of an embedding, for an instance-wise gate: bounds and transition are a function of
        the query. None: the same for all queries.
    family : {"s1", "s2"}
        Which step, see `softrsa.transforms.SoftStep`.
    similarity, temperature, bandwidth
        As for `NCAHead`.

    Raises
    ------
    UnknownNameError
        If there is no such family or similarity.
    DataError
        If a number is out of range.

    Notes
    -----
    A new gate is nearly the identity, so a new head weighs by similarity times scaled similarity.
    The lower bound is kept below the best neighbor's 1 by one rounding of the type.

    References
    ----------
    Susman, Lin, Suárez-Fariñas & Colonel, "SoftStep: learning sparse similarity powers deep
    neighbor-based regression".

    Examples
    --------
    >>> head = SoftStepNCAHead(n_features=1)
    >>> neighbors = torch.tensor([[0.0], [1.0], [3.0]])
    >>> head.weights(torch.tensor([[0.0]]), neighbors).detach()
    tensor([[0.8009, 0.1991, 0.0000]])
    """

    has_step = True

    def __init__(
        self,
        n_features: int | None = None,
        *,
        family: Family = "s1",
        similarity: str = "l2",
        temperature: float | None = 1.0,
        bandwidth: float | None = None,
    ):
        super().__init__(similarity=similarity, temperature=temperature, bandwidth=bandwidth)
        gate = GlobalGate() if n_features is None else EmbeddingGate(n_features)
        self.soft_step = SoftStep(gate, family=family)

    def weigh(
        self, s: Tensor, queries: Tensor, plan: NeighborSimilarity, excluded: Excluded | None
    ) -> Tensor:
        """Weights from similarities; the first family has a faster way."""
        if self.soft_step.family != "s1":
            return super().weigh(s, queries, plan, excluded)
        scale = s.new_ones(()) if self.log_temperature is None else (-self.log_temperature).exp()
        parameters = self.bounds_at(s, queries)
        return step_weights(s, scale.to(s), parameters, plan, excluded)

    def step(
        self, s: Tensor, queries: Tensor, plan: NeighborSimilarity, excluded: Excluded | None
    ) -> Tensor:
        """SoftStep of the scaled rows."""
        scaled = scaled_rows(s, plan, excluded)
        return self.soft_step.step(scaled, self.bounds_at(scaled, queries))

    def bounds_at(self, s: Tensor, queries: Tensor) -> StepParameters:
        """Of the gate, with a lower bound that leaves the best neighbor, whose scaled s is 1."""
        found = self.soft_step.gate(s, queries)
        eps = torch.finfo(s.dtype).eps
        # a saturated gate may give a transition of 0, by which a logit cannot be divided
        return found._replace(lower=found.lower - eps, transition=found.transition.clamp_min(eps))

    def block_weights(
        self, s: Tensor, low: Tensor, high: Tensor, queries: Tensor, source: Source
    ) -> Tensor:
        """Kernel times step; the first family is computed in place, in the unit of ``s``."""
        weights = self.kernel(s, high)
        parameters = self.bounds_at(s, queries)
        flat = source.plan.is_flat(low, high, source.rows)
        if self.soft_step.family == "s1":
            lower, upper, transition = (p.unsqueeze(-1) for p in parameters)
            width = high - low
            step = _step_in_place(s, low + lower * width, low + upper * width, transition, high)
        else:
            scaled = (s - low) / torch.where(flat, 1.0, high - low)
            step = self.soft_step.step(scaled, parameters)
        if bool(flat.any()):
            step = step.masked_fill(flat, 1.0)
        return weights.mul_(step)


def _step_in_place(
    s: Tensor, lower: Tensor, upper: Tensor, transition: Tensor, high: Tensor
) -> Tensor:
    """Compute `soft_step` between any bounds, in the memory of ``s``; 1 / 2 or more at ``high``.

    The clamps are those of `soft_step`: without masks and with one logarithm, of a quotient that
    cannot leave the range of the type from below.
    """
    upper = torch.minimum(upper, high)  # rounding must not lift it above the best neighbor
    u, v = bound_distances_(s, lower, upper, out=(s, torch.empty_like(s)))
    return exact_zeros_(u.div_(v).log_().div_(transition).sigmoid_())


class DiffKNNHead(NCAHead):
    r"""Differentiable k nearest neighbors: NCA cut after the k-th soft rank, k being learned.

    With :math:`N` neighbors to see, :math:`k = \max(1, \sigma(\kappa)(N - 1))`; a weight is
    multiplied by `softrsa.transforms.soft_k_step` of the neighbor's soft rank from 0.

    Parameters
    ----------
    n_features : int, optional
        Length of an embedding, for a :math:`\kappa` linear in the query. None: one for all queries.
    share : float
        Share :math:`\sigma(\kappa)` of the neighbors that a new head keeps, in (0, 1).
    strength : float
        Of `softrsa.transforms.soft_rank`.
    width, transition : float
        Of `softrsa.transforms.soft_k_step`.
    similarity, temperature, bandwidth
        As for `NCAHead`.

    Raises
    ------
    UnknownNameError
        If there is no such similarity.
    DataError
        If a number is out of range.

    Notes
    -----
    Where soft ranks are so soft that the best one is beyond k, it takes the place of k, so that the
    best neighbor always has the step 1. A query whose neighbors are all equally similar gives them
    equal weights.

    References
    ----------
    Susman, Lin, Suárez-Fariñas & Colonel, "SoftStep: learning sparse similarity powers deep
    neighbor-based regression", algorithm 1.

    Examples
    --------
    >>> head = DiffKNNHead(share=0.1, width=1.0)
    >>> neighbors = torch.tensor([[0.0], [1.0], [2.0], [7.0]])
    >>> head.weights(torch.tensor([[0.0]]), neighbors).detach()
    tensor([[0.7311, 0.2689, 0.0000, 0.0000]])
    """

    has_step = True
    ranks = True

    def __init__(
        self,
        n_features: int | None = None,
        *,
        share: float = 0.5,
        strength: float = 0.1,
        width: float = 4.0,
        transition: float = 0.75,
        similarity: str = "l2",
        temperature: float | None = 1.0,
        bandwidth: float | None = None,
    ):
        super().__init__(similarity=similarity, temperature=temperature, bandwidth=bandwidth)
        if not 0 < share < 1:
            raise DataError(f"`share` must be between 0 and 1, got {share!r}.")
        if n_features is not None and n_features < 1:
            raise DataError(f"`n_features` must be at least 1, got {n_features}.")
        soft_k_step(torch.zeros(1), 1, width=width, transition=transition)  # checks them
        self.strength, self.width, self.transition = strength, width, transition
        self.bias = nn.Parameter(torch.tensor(math.log(share / (1 - share))))
        weight = None if n_features is None else nn.Parameter(torch.zeros(n_features))
        self.register_parameter("weight", weight)

    weight: nn.Parameter | None

    def k(self, queries: Tensor, n_neighbors: Tensor | int) -> Tensor:
        """Learned k (m, 1) of each query that sees so many neighbors, (m, 1) or a number."""
        logit = self.bias.to(queries).expand(len(queries))
        if self.weight is not None:
            logit = logit + queries @ self.weight.to(queries)
        return (logit.sigmoid().unsqueeze(-1) * (n_neighbors - 1)).clamp_min(1.0)

    def step(
        self, s: Tensor, queries: Tensor, plan: NeighborSimilarity, excluded: Excluded | None
    ) -> Tensor:
        """SoftKStep of the soft ranks."""
        ranks = neighbor_ranks(s, self.strength, excluded)
        n: Tensor | int = s.shape[-1]
        if excluded is not None:
            n = s.new_full((len(s), 1), float(n)).index_add(
                0, excluded.rows, -s.new_ones(len(excluded.rows), 1)
            )
        return self._step_of_ranks(ranks, self.k(queries, n))

    def _step_of_ranks(self, ranks: Tensor, k: Tensor) -> Tensor:
        k = torch.maximum(k, ranks.detach().amin(-1, keepdim=True))
        return soft_k_step(ranks, k, width=self.width, transition=self.transition)

    def block_weights(
        self, s: Tensor, low: Tensor, high: Tensor, queries: Tensor, source: Source
    ) -> Tensor:
        """Kernel times step; of candidates, the ranks are counted among them."""
        n = len(source.plan.neighbors)
        seen: Tensor | int = n
        weights = self.kernel(s, high)
        missing = s == -torch.inf
        excluded = source.excluded
        if excluded is not None:
            seen = s.new_full((len(s), 1), float(n))
            seen[excluded.rows] -= 1
            rows, columns = missing.nonzero().unbind(-1)
            excluded = Excluded(rows, columns)
        ranks = neighbor_ranks(s, self.strength, excluded)
        return weights.mul_(self._step_of_ranks(ranks, self.k(queries, seen)))

    def extra_repr(self) -> str:
        """Show the sizes that are fixed too."""
        return f"{super().extra_repr()}, strength={self.strength}, width={self.width}"


NEIGHBOR_HEADS: dict[str, Callable[[int, Family, str, float | None], NCAHead]] = {
    "nca": lambda _, family, s, tau: NCAHead(similarity=s, temperature=tau),
    "softstep-nca-global": lambda _, family, s, tau: SoftStepNCAHead(
        family=family, similarity=s, temperature=tau
    ),
    "softstep-nca-instance": lambda d, family, s, tau: SoftStepNCAHead(
        d, family=family, similarity=s, temperature=tau
    ),
    "diffknn-global": lambda _, family, s, tau: DiffKNNHead(similarity=s, temperature=tau),
    "diffknn-instance": lambda d, family, s, tau: DiffKNNHead(d, similarity=s, temperature=tau),
}
LINEAR_HEADS = ("linear", "linear-centered")  # torch's start, and one at the mean label
HEADS = (*LINEAR_HEADS, *NEIGHBOR_HEADS)
