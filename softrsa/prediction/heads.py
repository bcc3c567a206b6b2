"""Heads that predict a label as the weighted mean of the labels of neighbors."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise

import torch
from torch import Tensor, nn

from softrsa._checks import check_floating
from softrsa.errors import DataError, DTypeError, ShapeError, unknown_name
from softrsa.prediction._neighbors import (
    ALL,
    NEIGHBOR_SIMILARITIES,
    Excluded,
    NeighborSimilarity,
    row_bounds,
)


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


def _in_own_type(queries: Tensor) -> AbstractContextManager[object]:
    """Switch autocast off: weights are not to be rounded to less than what they are made from."""
    kind = queries.device.type
    if kind == "meta" or not torch.is_autocast_enabled(kind):
        return nullcontext()
    return torch.autocast(kind, enabled=False)


class LinearHead(nn.Module):
    r"""A linear layer with the calling form of the neighbor heads: the baseline.

    Parameters
    ----------
    n_features : int
        Length of an embedding.
    n_targets : int, optional
        Number of labels per query; None is one label, without a dimension for it.

    Examples
    --------
    >>> LinearHead(5)(torch.zeros(3, 5)).shape
    torch.Size([3])
    """

    def __init__(self, n_features: int, n_targets: int | None = None):
        super().__init__()
        if n_features < 1 or (n_targets is not None and n_targets < 1):
            raise DataError(f"Sizes must be at least 1, got {n_features=}, {n_targets=}.")
        self.n_targets = n_targets
        self.linear = nn.Linear(n_features, 1 if n_targets is None else n_targets)

    def forward(
        self,
        queries: Tensor,
        neighbors: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        exclude: Tensor | None = None,
    ) -> Tensor:
        """Predict labels (m,) or (m, n_targets) of queries (m, d); nothing else is read."""
        del neighbors, labels, exclude
        check_floating(queries=queries)
        width = self.linear.in_features
        if queries.ndim == 0 or queries.shape[-1] != width:
            raise ShapeError(
                f"`queries` must have shape (m, {width}), as this head has {width} features, got "
                f"{tuple(queries.shape)}."
            )
        with _in_own_type(queries):
            result = self.linear(queries)
        return result.squeeze(-1) if self.n_targets is None else result

    @torch.no_grad()
    def center(self, labels: Tensor) -> LinearHead:
        """Begin anew by predicting the mean of labels (n,) or (n, n_targets) for any query."""
        self.linear.weight.zero_()
        self.linear.bias.copy_(labels.mean(0))
        return self

    @torch.no_grad()
    def predict(
        self,
        queries: Tensor,
        neighbors: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        exclude: Tensor | None = None,
    ) -> Tensor:
        """Predict labels without gradient, as `forward` does."""
        return self(queries, neighbors, labels, exclude=exclude)


class NCAHead(nn.Module):
    r"""Weighted mean of neighbor labels; the weights are a softmax of the similarities.

    With similarities :math:`s_{ij}` of query :math:`i` to neighbor :math:`j` and temperature
    :math:`\tau`,

    .. math:: \hat y_i = \sum_j p_{ij} y_j, \qquad
              p_{ij} = \frac{e^{s_{ij} / \tau} f_{ij}}{\sum_k e^{s_{ik} / \tau} f_{ik}}

    with :math:`f = 1` here and a soft step of the similarity (`SoftStepNCAHead`) or of the rank
    (`DiffKNNHead`) in the heads derived from it.

    Parameters
    ----------
    similarity : {"l2", "l1", "cosine", "dot", "rbf"}
        As in `softrsa.rsm.similarity_matrix`, but added up in the type of the input; `cosine` with
        a row of zeros is 0.
    temperature : float, optional
        Where the learned :math:`\tau` starts. None: 1 and not learned, as in the papers.
    bandwidth : float, optional
        Of `rbf`; the root of the number of features by default.

    Raises
    ------
    UnknownNameError
        If there is no such similarity.
    DataError
        If ``temperature`` or ``bandwidth`` is not positive and finite, or ``bandwidth`` is given
        for another similarity.

    Notes
    -----
    At least one neighbor always keeps a weight: every step is 1 for the most similar one. Weights
    that a step makes 0 are exactly 0. Where all neighbors of a query are equally similar, their
    weights are equal. Gradients are finite where rows coincide. `torch.autocast` has no effect
    within a head.

    References
    ----------
    Susman, Suárez-Fariñas & Colonel, "Nearness of neighbors attention", arXiv:2506.08139.

    Examples
    --------
    >>> head = NCAHead(temperature=None)
    >>> neighbors, labels = torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([0.0, 1.0, 5.0])
    >>> head.weights(torch.tensor([[0.0]]), neighbors).detach()
    tensor([[0.7054, 0.2595, 0.0351]])
    >>> head(torch.tensor([[0.0]]), neighbors, labels).detach()
    tensor([0.4351])
    >>> head(neighbors, neighbors, labels, exclude=torch.arange(3)).detach()  # leave one out
    tensor([1.4768, 1.3447, 0.7311])
    """

    def __init__(
        self,
        *,
        similarity: str = "l2",
        temperature: float | None = 1.0,
        bandwidth: float | None = None,
    ):
        super().__init__()
        if similarity not in NEIGHBOR_SIMILARITIES:
            raise unknown_name("similarity", similarity, NEIGHBOR_SIMILARITIES)
        check_options(similarity, temperature, bandwidth)
        self.similarity = similarity
        self.bandwidth = bandwidth
        start = None if temperature is None else nn.Parameter(torch.tensor(math.log(temperature)))
        self.register_parameter("log_temperature", start)

    log_temperature: nn.Parameter | None

    def forward(
        self,
        queries: Tensor,
        neighbors: Tensor,
        labels: Tensor,
        *,
        exclude: Tensor | None = None,
    ) -> Tensor:
        """Predict the labels of queries.

        Parameters
        ----------
        queries : Tensor, shape (m, n_features)
            Embeddings, float32 or float64.
        neighbors : Tensor, shape (n, n_features)
            Embeddings of the neighbors.
        labels : Tensor, shape (n,) or (n, n_targets)
            Their labels, of the same type.
        exclude : Tensor, shape (m,), optional
            For each query the number of the neighbor it must not see, which is the query itself in
            training; -1 for none. Needs two neighbors.

        Returns
        -------
        Tensor, shape (m,) or (m, n_targets)
            Weighted means of ``labels``.

        Raises
        ------
        DTypeError
            If the types are not one of float32 and float64, or ``exclude`` is not int64.
        ShapeError
            If shapes do not fit, or no neighbor is left for a query.
        DataError
            If ``exclude`` has a number outside -1, ..., n - 1.
        """
        check_neighbors(queries, neighbors, labels)
        with _in_own_type(queries):
            return self.weights(queries, neighbors, exclude=exclude) @ labels

    def weights(
        self, queries: Tensor, neighbors: Tensor, *, exclude: Tensor | None = None
    ) -> Tensor:
        """Weight of each neighbor (m, n), each row with the sum 1; 0 for the excluded one."""
        check_neighbors(queries, neighbors)
        excluded = find_excluded(exclude, queries, neighbors)
        with _in_own_type(queries):
            plan = self.plan(queries, neighbors)
            return self.weigh(plan.block(), queries, plan, excluded)

    def weigh(
        self, s: Tensor, queries: Tensor, plan: NeighborSimilarity, excluded: Excluded | None
    ) -> Tensor:
        """Weights from similarities (m, n)."""
        logits = s if self.log_temperature is None else s * (-self.log_temperature).exp().to(s)
        if excluded is not None:
            logits = excluded.fill(logits, -torch.inf)
        shares = logits.softmax(-1)
        step = self.step(s, queries, plan, excluded)
        if step is None:
            return shares
        # the largest share is at least 1 / n and its step is 1, so the sum is never 0
        shares = shares * step
        return shares / shares.sum(-1, keepdim=True)

    def plan(self, queries: Tensor, neighbors: Tensor) -> NeighborSimilarity:
        """Prepare the similarity of these queries to these neighbors."""
        return NEIGHBOR_SIMILARITIES[self.similarity](queries, neighbors, self.bandwidth)

    def step(
        self, s: Tensor, queries: Tensor, plan: NeighborSimilarity, excluded: Excluded | None
    ) -> Tensor | None:
        """Factor of each weight, 1 for the most similar neighbor; None for all 1."""
        del s, queries, plan, excluded
        return None

    has_step = False  # whether a weight depends on more than its own similarity
    ranks = False  # whether it depends on all similarities of its row

    def kernel(self, s: Tensor, high: Tensor) -> Tensor:
        """Weights before any step, 1 at the similarity ``high``; without gradient."""
        s = s - high
        return (s if self.log_temperature is None else s.div_(self.log_temperature.exp())).exp_()

    def block_weights(
        self, s: Tensor, low: Tensor, high: Tensor, queries: Tensor, source: Source
    ) -> Tensor:
        """Weights before they are divided by their sum; may write into ``s``, without gradient.

        ``low`` and ``high`` (m, 1) are bounds of whole rows; in ``s``, -inf is for an excluded one.
        """
        del low, queries, source
        return self.kernel(s, high)

    @torch.no_grad()
    def predict(
        self,
        queries: Tensor,
        neighbors: Tensor,
        labels: Tensor,
        *,
        exclude: Tensor | None = None,
        n_candidates: int | None = None,
        block_bytes: int = 2**22,
    ) -> Tensor:
        """Predict without gradient and with bounded memory, however many the neighbors.

        Parameters
        ----------
        queries, neighbors, labels, exclude
            As for `forward`.
        n_candidates : int, optional
            Weigh only so many most similar neighbors of each query: an approximation. Bounds of a
            row are still those of all neighbors; ranks are counted among the candidates.
        block_bytes : int
            Size of a block of similarities, of which a few are held at a time. `DiffKNNHead`
            ranks whole rows and holds at least a few of those.

        Returns
        -------
        Tensor, shape (m,) or (m, n_targets)
            What `forward` returns, up to rounding, unless ``n_candidates`` is given.

        Raises
        ------
        DTypeError, ShapeError, DataError
            As `forward`; and if ``n_candidates`` or ``block_bytes`` is less than 1.
        """
        check_neighbors(queries, neighbors, labels)
        for name, value in (("n_candidates", n_candidates), ("block_bytes", block_bytes)):
            if value is not None and value < 1:
                raise DataError(f"`{name}` must be at least 1, got {value}.")
        excluded = find_excluded(exclude, queries, neighbors)
        with _in_own_type(queries):
            return predict_in_chunks(
                self,
                queries,
                neighbors,
                labels,
                excluded=excluded,
                n_candidates=n_candidates,
                block_bytes=block_bytes,
            )

    def extra_repr(self) -> str:
        """Show the similarity and the temperature."""
        tau = self.log_temperature
        shown = "" if tau is None else f", temperature={tau.detach().exp().item():.3g}"
        return f"similarity={self.similarity!r}{shown}"


MIN_ROWS = 32  # so many queries share the reading of the neighbors


class Source:
    """Blocks of similarities of some queries, with what they must not see at -inf."""

    def __init__(self, plan: NeighborSimilarity, rows: slice, excluded: Excluded | None):
        self.plan, self.rows = plan, rows
        self.excluded = None if excluded is None else excluded.of_rows(rows, len(plan.queries))

    def block(self, columns: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Similarities, and their least and largest in each row."""
        s = self.plan.block(self.rows, columns)
        excluded = self.excluded and self.excluded.of_columns(columns, len(self.plan.neighbors))
        low, high = row_bounds(s, excluded)
        return (s if excluded is None else excluded.fill(s, -torch.inf)), low, high


def predict_in_chunks(
    head: NCAHead,
    queries: Tensor,
    neighbors: Tensor,
    labels: Tensor,
    *,
    excluded: Excluded | None,
    n_candidates: int | None,
    block_bytes: int,
) -> Tensor:
    """Predict queries a few at a time, from neighbors as many at a time as a block may hold."""
    m, n = len(queries), len(neighbors)
    plan = head.plan(queries, neighbors)
    targets = labels if labels.ndim == 2 else labels.unsqueeze(-1)
    targets = torch.cat([targets, torch.ones_like(targets[:, :1])], -1)  # sums of weights come last
    entries = max(1, block_bytes // queries.itemsize)
    if n_candidates is not None and n_candidates >= n:
        n_candidates = None
    whole = head.ranks and n_candidates is None
    spans = [ALL] if whole else list(_even_spans(n, max(MIN_ROWS, entries // MIN_ROWS)))
    step = max(1, entries // -(-n // len(spans)))
    result = labels.new_empty(m, targets.shape[1] - 1)
    for start in range(0, m, step):
        rows = slice(start, min(start + step, m))
        source = Source(plan, rows, excluded)
        if n_candidates is not None:
            total = _from_candidates(
                head, queries[rows], source, spans, targets, n_candidates=n_candidates
            )
        elif head.has_step and len(spans) > 1:
            total = _in_two_passes(head, queries[rows], source, spans, targets)
        else:
            total = _in_one_pass(head, queries[rows], source, spans, targets)
        result[rows] = total[:, :-1] / total[:, -1:]
    return result if labels.ndim == 2 else result.squeeze(-1)


def _even_spans(n: int, step: int) -> Iterator[slice]:
    """Cut into stretches of nearly the same length, at most ``step``."""
    count = -(-n // step)
    ends = [n * i // count for i in range(count + 1)]
    return (slice(*pair) for pair in pairwise(ends))


def _in_one_pass(
    head: NCAHead, queries: Tensor, source: Source, spans: list[slice], targets: Tensor
) -> Tensor:
    """Weighted sums of targets; what was summed is scaled down when a larger similarity comes."""
    total = targets.new_zeros(len(queries), targets.shape[1])
    top: Tensor | None = None
    for span in spans:
        s, low, high = source.block(span)
        if top is not None:
            high = torch.maximum(top, high)
            total.mul_(head.kernel(top, high))
        top = high
        total.addmm_(head.block_weights(s, low, high, queries, source), targets[span])
    return total


def _in_two_passes(
    head: NCAHead, queries: Tensor, source: Source, spans: list[slice], targets: Tensor
) -> Tensor:
    """Weighted sums of targets, where a weight depends on the bounds of the whole row."""
    bounds = [source.block(span)[1:] for span in spans]
    low = torch.cat([pair[0] for pair in bounds], -1).amin(-1, keepdim=True)
    high = torch.cat([pair[1] for pair in bounds], -1).amax(-1, keepdim=True)
    total = targets.new_zeros(len(queries), targets.shape[1])
    for span in spans:
        s = source.block(span)[0]
        total.addmm_(head.block_weights(s, low, high, queries, source), targets[span])
    return total


def _from_candidates(
    head: NCAHead,
    queries: Tensor,
    source: Source,
    spans: list[slice],
    targets: Tensor,
    *,
    n_candidates: int,
) -> Tensor:
    """Weighted sums of the targets of the most similar neighbors only."""
    s = targets.new_empty(len(queries), 0)
    at = torch.empty_like(s, dtype=torch.long)
    lowest = []
    for span in spans:
        block, low, _ = source.block(span)
        lowest.append(low)
        best = block.topk(min(n_candidates, block.shape[-1]), dim=-1)
        start = span.indices(len(targets))[0]
        s, at = torch.cat([s, best.values], -1), torch.cat([at, best.indices + start], -1)
        if s.shape[-1] > n_candidates:
            kept = s.topk(n_candidates, dim=-1)
            s, at = kept.values, at.gather(-1, kept.indices)
    low = torch.cat(lowest, -1).amin(-1, keepdim=True)
    high = s.amax(-1, keepdim=True)
    weights = head.block_weights(s, low, high, queries, source)
    return (weights.unsqueeze(1) @ targets[at]).squeeze(1)
