"""Scores of many models, each with its own form of the subjects' RSMs, over many resamples."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from softrsa._ranks import average_ranks
from softrsa.inference.inner_products import (
    CHUNK_BYTES,
    PRODUCT_MEASURES,
    RANKED_MEASURES,
    WHITENED,
    Forms,
    cosines,
    offsets,
    prepared,
    ranked_scores,
    without_rounding,
)
from softrsa.inference.pair_table import Stack
from softrsa.measures import Measure
from softrsa.measures.correlation import centered
from softrsa.pairs import expand
from softrsa.transforms import double_center

MEASURES = (*PRODUCT_MEASURES, *RANKED_MEASURES)
PLAIN = ("pearson", "cosine", "centered_pearson")  # inner products of all entries, once cleaned
STEP = 1e-3  # of weights, for derivatives: squares of it are below what matters


def resampled_scores(measure: Measure, models: Tensor, subjects: Tensor, counts: Tensor) -> Tensor:
    """Score resamples in which stimuli occur so often; a stimulus makes no pair with itself.

    Parameters
    ----------
    measure : Measure
        One of `MEASURES`.
    models : Tensor, shape (n_models, n_stimuli, n_stimuli)
        Square RSMs, float64.
    subjects : Tensor, shape (n_models, n_subjects, n_stimuli, n_stimuli)
        Those that each model is compared with.
    counts : Tensor, shape (n_resamples, n_stimuli)
        How often each stimulus occurs, float64; need not be whole.

    Returns
    -------
    Tensor, shape (n_resamples, n_models, n_subjects)
        Float64. NaN where an RSM is constant or fewer stimuli are left than the measure needs.

    Examples
    --------
    >>> from softrsa.measures import get
    >>> rsms = torch.rand(3, 8, 8, dtype=torch.float64).expand(2, -1, -1, -1)
    >>> counts = torch.ones(1, 8, dtype=torch.float64)
    >>> scores = resampled_scores(get("pearson"), rsms[:, 0], rsms, counts)
    >>> scores.shape, bool((scores[0, :, 0] - 1).abs().max() < 1e-9)
    (torch.Size([1, 2, 3]), True)
    """
    together = torch.cat([models[:, None], subjects], 1)  # (t, 1 + s, n, n)
    stack = _stack(measure, together.flatten(0, 1))
    scored = _ranked_scores if measure.name in RANKED_MEASURES else _form_scores
    each = 2 * stack.values.shape[1] + 4 * len(stack.values) * stack.n_stimuli
    parts = counts.split(max(1, int(CHUNK_BYTES / (8 * each))))
    found = torch.cat([scored(stack, part, together.shape[:2]) for part in parts])
    few = (counts > 0).sum(1) < max(3, measure.smallest_n)
    return found.masked_fill_(few[:, None, None], torch.nan)


def _stack(measure: Measure, squares: Tensor) -> Stack:
    """All entries of square RSMs (k, n, n) that the measure compares, as one stack of models."""
    if measure.takes in ("pairs", "dissimilarities"):
        squares = expand(measure.pairs_of(squares))
    n, device = squares.shape[-1], squares.device
    once = bool(torch.equal(squares.nan_to_num(), squares.mT.nan_to_num()))
    held = ~torch.eye(n, dtype=torch.bool, device=device)
    first, second = (held.triu() if once else held).nonzero(as_tuple=True)
    return Stack(
        entry=measure, values=squares[:, first, second], first=first, second=second, once=once,
        n_models=len(squares), n_stimuli=n, n_missing=0, models=(), subjects=(),
    )  # fmt: skip


def _form_scores(stack: Stack, counts: Tensor, shape: torch.Size) -> Tensor:
    """Cosines of matched inner products (r, t, s)."""
    stack = prepared(stack)
    name, values = stack.entry.name, stack.values.unflatten(0, shape)
    weights = stack.counts_of_pairs(counts)
    products = (values[:, :1] * values[:, 1:]).flatten(0, 1)
    plain = before = _matched(
        weights @ products.T, weights @ stack.values.square().T, weights @ stack.values.T,
        weights.sum(1, keepdim=True), shape,
    )  # fmt: skip
    form = plain
    if name in (*WHITENED, "centered_pearson"):
        total, sums = offsets(stack, counts)
        mine, theirs = total[..., :-1].unflatten(-1, shape), sums[..., :-1].unflatten(-1, shape)
        form = plain.less(
            _matched(
                (mine[..., :1] * theirs[..., 1:]).sum(1).flatten(1),
                (mine * theirs).sum(1).flatten(1),
                (total[..., :-1] * sums[..., -1:]).sum(1),
                (total[..., -1:] * sums[..., -1:]).sum(1), shape,
            )
        )  # fmt: skip
    if name in ("pearson", "whitened_pearson"):
        form = form.without_mean(plain.ones_models / plain.ones, plain.ones_subjects / plain.ones)
    scores = cosines(without_rounding(form, before))
    return scores.view(len(counts), shape[0], shape[1] - 1)


def _matched(cross: Tensor, own: Tensor, ones: Tensor, one: Tensor, shape: torch.Size) -> Forms:
    """Inner products as if every model in every resample (r t) were a resample of its own."""
    n_models, n_together = shape
    cross = cross.view(-1, 1, n_together - 1)
    own, ones = own.view(-1, n_together), ones.view(-1, n_together)
    return Forms(
        cross, own[:, :1], torch.diag_embed(own[:, 1:]), ones[:, :1], ones[:, 1:],
        one.repeat_interleave(n_models, dim=0),
    )  # fmt: skip


def _ranked_scores(stack: Stack, counts: Tensor, shape: torch.Size) -> Tensor:
    """Rank correlations (r, t, s), one model with its subjects after another."""
    found = []
    for values in stack.values.unflatten(0, shape):
        names = tuple(map(str, range(len(values) - 1)))
        one = replace(stack, values=values, n_models=1, subjects=names)
        parts = counts.split(max(1, int(CHUNK_BYTES / 16 / (8 * values.numel()))))
        found.append(torch.cat([ranked_scores(one, part)[0][:, 0] for part in parts]))
    return torch.stack(found, 1)


def permuted_scores(measure: Measure, models: Tensor, subjects: Tensor, orders: Tensor) -> Tensor:
    """Score models whose stimuli are put in other orders, rows and columns together.

    Parameters
    ----------
    measure : Measure
        One of `MEASURES`.
    models : Tensor, shape (n_models, n_stimuli, n_stimuli)
        Square RSMs, float64.
    subjects : Tensor, shape (n_models, n_subjects, n_stimuli, n_stimuli)
        Those that each model is compared with.
    orders : Tensor of int, shape (n_permutations, n_stimuli)
        Orders of the stimuli.

    Returns
    -------
    Tensor, shape (n_permutations, n_models, n_subjects)
        Float64. NaN where an RSM is constant.

    Examples
    --------
    >>> from softrsa.measures import get
    >>> rsms = torch.rand(2, 8, 8, dtype=torch.float64)
    >>> permuted_scores(get("cosine"), rsms, rsms[:, None], torch.arange(8)[None]).round(decimals=6)
    tensor([[[1.],
             [1.]]], dtype=torch.float64)
    """
    together = torch.cat([models[:, None], subjects], 1)
    stack = _stack(measure, together.flatten(0, 1))
    n = stack.n_stimuli
    squares = _unit_squares(stack).unflatten(0, together.shape[:2])
    rows, columns = (
        torch.triu_indices(n, n, device=orders.device)
        if stack.once
        else torch.ones(n, n, device=orders.device).nonzero().T
    )
    times = 1 + (rows != columns) * stack.once  # an entry stands for its mirror image too
    weighted = squares[:, 1:, rows, columns] * times
    found = []
    for some in orders.split(max(1, int(CHUNK_BYTES / 4 / (8 * len(rows))))):
        index = (some[:, rows] * n + some[:, columns]).flatten()
        given = [one.flatten().index_select(0, index).view(len(some), -1) for one in squares[:, 0]]
        found.append(torch.stack([x @ y.T for x, y in zip(given, weighted, strict=True)], 1))
    return torch.cat(found)


def influences(measure: Measure, models: Tensor, subjects: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, and how much they change with the weight of a stimulus and of a pair of stimuli.

    Parameters
    ----------
    measure : Measure
        One of `MEASURES`.
    models : Tensor, shape (n_models, n_stimuli, n_stimuli)
        Square RSMs, float64.
    subjects : Tensor, shape (n_models, n_subjects, n_stimuli, n_stimuli)
        Those that each model is compared with.

    Returns
    -------
    scores : Tensor, shape (n_models, n_subjects)
        NaN where an RSM is constant, as the others.
    of_stimuli : Tensor, shape (n_models, n_subjects, n_stimuli)
        Derivatives with respect to how often a stimulus occurs, where all occur once.
    of_pairs : Tensor, shape (n_models, n_subjects, n_stimuli, n_stimuli)
        Of every entry likewise, 0 on the diagonal; of ranks as if these stayed as they are. They
        sum to ``of_stimuli`` over rows and columns, but for rank and whitened measures.

    References
    ----------
    Efron & Tibshirani (1993), An introduction to the bootstrap, section 22.4.

    Examples
    --------
    >>> from softrsa.measures import get
    >>> rsms = torch.rand(2, 8, 8, dtype=torch.float64)
    >>> _, of_stimuli, of_pairs = influences(get("pearson"), rsms[:1], rsms[None, 1:])
    >>> bool(of_stimuli.sum().abs() < 1e-12)  # all twice as often is nothing new
    True
    """
    score, of_pairs = pair_influences(measure, models, subjects)
    if measure.name in PLAIN:
        return score, of_pairs.sum(-1) + of_pairs.sum(-2), of_pairs
    n = models.shape[-1]
    once = models.new_ones(1, n)
    step = STEP * torch.eye(n, dtype=models.dtype, device=models.device)
    counts = torch.cat([once, once + step, once - step])
    scores, more, less = resampled_scores(measure, models, subjects, counts).split([1, n, n])
    return scores[0], (more - less).permute(1, 2, 0) / (2 * STEP), of_pairs


def pair_influences(measure: Measure, models: Tensor, subjects: Tensor) -> tuple[Tensor, Tensor]:
    """Scores and influences of pairs, as `influences` gives them, in one pass over the pairs."""
    together = torch.cat([models[:, None], subjects], 1)
    stack = _stack(measure, together.flatten(0, 1))
    squares = _unit_squares(stack).unflatten(0, together.shape[:2])
    x, y = squares[:, :1], squares[:, 1:]
    products = x * y
    score = products.sum((-2, -1), keepdim=True)
    of_pairs = products - score * (x.square() + y.square()) / 2
    of_pairs.diagonal(dim1=-2, dim2=-1).zero_()
    return score[..., 0, 0], of_pairs


def _unit_squares(stack: Stack) -> Tensor:
    """Squares (k, n, n) whose inner products are the scores of `permuted_scores`."""
    name, values = stack.entry.name, stack.values
    if name in RANKED_MEASURES:
        values = average_ranks(values)
    if name not in ("cosine", "whitened_cosine", "centered_pearson"):
        values = centered(values)
    square = stack.squares(values)
    if name in WHITENED:
        square = square - square.mean(-1, keepdim=True)
        square = square - square.mean(-2, keepdim=True)
    elif name == "centered_pearson":
        square = double_center(square)
    n = stack.values.shape[1] * (1 + stack.once)  # entries off the diagonal
    if name == "rho_a":
        pairs = stack.values.shape[1]
        return square * (12 / (pairs**3 - pairs) * pairs / n) ** 0.5
    return square / square.norm(dim=(-2, -1), keepdim=True)
