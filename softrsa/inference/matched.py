"""Scores of many models, each with its own form of the subjects' RSMs, over many resamples.

Of measures with `Measure.embed`. One model with its subjects after another, so that copies of one
RSM at most are held.
"""

from __future__ import annotations

import torch
from torch import Tensor

from softrsa.inference.inner_products import (
    CHUNK_BYTES,
    Forms,
    cosines,
    embedded,
    offsets,
    prepared,
    ranked_scores,
)
from softrsa.inference.pair_table import Stack, embedding
from softrsa.measures import Measure
from softrsa.pairs import expand

STEP = 1e-3  # of weights, for derivatives: squares of it are below what matters
TILE = 2**17  # entries gathered at a time: what the processor's cache holds


def resampled_scores(measure: Measure, models: Tensor, subjects: Tensor, counts: Tensor) -> Tensor:
    """Score resamples in which stimuli occur so often; a stimulus makes no pair with itself.

    Parameters
    ----------
    measure : Measure
        With `Measure.embed`.
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
    found = [
        _resampled(_stack(measure, model, own), counts)
        for model, own in zip(models, subjects, strict=True)
    ]
    few = (counts > 0).sum(1) < max(3, measure.smallest_n)
    return torch.stack(found, 1).masked_fill_(few[:, None, None], torch.nan)


def _stack(measure: Measure, model: Tensor, subjects: Tensor) -> Stack:
    """Entries that the measure compares, of a square RSM (n, n) and of subjects' (s, n, n)."""
    squares = torch.cat([model[None], subjects])
    if measure.takes in ("pairs", "dissimilarities"):
        squares = expand(measure.pairs_of(squares))
    n, device = squares.shape[-1], squares.device
    once = bool(torch.equal(squares.nan_to_num(), squares.mT.nan_to_num()))
    held = ~torch.eye(n, dtype=torch.bool, device=device)
    first, second = (held.triu() if once else held).nonzero(as_tuple=True)
    return Stack(
        entry=measure, values=squares[:, first, second], first=first, second=second, once=once,
        n_models=1, n_stimuli=n, n_missing=0, models=(), subjects=("",) * len(subjects),
    )  # fmt: skip


def _resampled(stack: Stack, counts: Tensor) -> Tensor:
    """Scores (r, s) of one model with its subjects."""
    n_rows, n_pairs = stack.values.shape
    if stack.embed.of == "ranks":
        parts = counts.split(max(1, int(CHUNK_BYTES / 16 / (8 * n_rows * n_pairs))))
        return torch.cat([ranked_scores(stack, part)[0][:, 0] for part in parts])
    stack = prepared(stack)
    parts = counts.split(max(1, int(CHUNK_BYTES / (32 * n_rows * stack.n_stimuli))))
    return torch.cat([_cosines(stack, part) for part in parts])


def _cosines(stack: Stack, counts: Tensor) -> Tensor:
    """Cosines (r, s) over resamples, each from its inner products."""
    values = stack.values
    ones = torch.ones_like(values[:1])
    products = (*(values[:1] * values[1:]), *values.square(), *values, *ones)
    plain = _forms(torch.stack([_total(stack, one, counts) for one in products], 1), len(values))
    shares = None
    if stack.embed.offsets != "kept":
        total, sums = offsets(stack, counts)
        mine, theirs = total[..., :-1], sums[..., :-1]
        products = mine[..., :1] * theirs[..., 1:], mine * theirs, mine * sums[..., -1:]
        own = total[..., -1:] * sums[..., -1:]
        shares = _forms(torch.cat([one.sum(1) for one in (*products, own)], 1), len(values))
    form, _ = embedded(stack.embed, plain, shares)
    return cosines(form)[:, 0]


def _total(stack: Stack, pairs: Tensor, counts: Tensor) -> Tensor:
    """Sum entries (p,) over the pairs of resamples, (r,), without writing down their counts."""
    return ((counts @ stack.squares(pairs[None])[0]) * counts).sum(1) / (1 + stack.once)


def _forms(sums: Tensor, n: int) -> Forms:
    """Inner products of one model with n - 1 subjects, all with themselves, with ones; of ones."""
    cross, own, ones, one = sums.split([n - 1, n, n, 1], 1)
    among = torch.diag_embed(own[:, 1:])
    return Forms(cross[:, None], own[:, :1], among, ones[:, :1], ones[:, 1:], one)


def permuted_scores(measure: Measure, models: Tensor, subjects: Tensor, orders: Tensor) -> Tensor:
    """Score models whose stimuli are put in other orders, rows and columns together.

    Parameters
    ----------
    measure : Measure
        With `Measure.embed`.
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
    found = []
    for model, own in zip(models, subjects, strict=True):
        stack = _stack(measure, model, own)
        squares = unit_squares(stack)
        found.append(permuted_products(squares[0], squares[1:], orders, symmetric=stack.once))
    return torch.stack(found, 1)


def permuted_products(square: Tensor, others: Tensor, orders: Tensor, *, symmetric: bool) -> Tensor:
    """Inner products (r, s) of a square (n, n) in other orders with squares (s, n, n)."""
    n = len(square)
    entries, found = square.flatten(), others.new_zeros(len(orders), len(others))
    n_rows = max(1, min(-(-n // 4), TILE // n))
    for start in range(0, n, n_rows):
        # rows of the square, of a symmetric one from the diagonal on
        rows, columns = slice(start, start + n_rows), slice(start if symmetric else 0, n)
        given = others[:, rows, columns].clone()
        if symmetric:
            given[..., n_rows:] *= 2  # these stand for their mirror images too
        given = given.flatten(1).T
        parts = max(1, TILE // len(given))
        for part, sums in zip(orders.split(parts), found.split(parts), strict=True):
            index = (part[:, rows, None] * n + part[:, None, columns]).flatten()
            sums.addmm_(entries.index_select(0, index).view(len(part), -1), given)
    return found


def influences(measure: Measure, models: Tensor, subjects: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, and how much they change with the weight of a stimulus and of a pair of stimuli.

    Parameters
    ----------
    measure : Measure
        With `Measure.embed`.
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
    embed = embedding(measure)
    if embed.of != "ranks" and embed.offsets != "whitened":
        return score, of_pairs.sum(-1) + of_pairs.sum(-2), of_pairs
    n = models.shape[-1]
    once = models.new_ones(1, n)
    step = STEP * torch.eye(n, dtype=models.dtype, device=models.device)
    counts = torch.cat([once, once + step, once - step])
    scores, more, less = resampled_scores(measure, models, subjects, counts).split([1, n, n])
    return scores[0], (more - less).permute(1, 2, 0) / (2 * STEP), of_pairs


def pair_influences(measure: Measure, models: Tensor, subjects: Tensor) -> tuple[Tensor, Tensor]:
    """Scores and influences of pairs, as `influences` gives them, in one pass over the pairs."""
    of_pairs = torch.empty_like(subjects)
    score = of_pairs.new_empty(subjects.shape[:2])
    for t, (model, own) in enumerate(zip(models, subjects, strict=True)):
        squares = unit_squares(_stack(measure, model, own))
        torch.mul(squares[0], squares[1:], out=of_pairs[t])
        torch.sum(of_pairs[t], (-2, -1), out=score[t])
        lengths = squares.square_()
        of_pairs[t] -= lengths[1:].add_(lengths[0]).mul_(score[t, :, None, None] / 2)
    of_pairs.diagonal(dim1=-2, dim2=-1).zero_()
    return score, of_pairs


def unit_squares(stack: Stack) -> Tensor:
    """Squares (k, n, n) whose inner products are the scores; permuted as RSMs are."""
    shape = len(stack.values), stack.n_stimuli, stack.n_stimuli
    if stack.embed.offsets == "removed":
        return stack.embed.unit(stack.squares(stack.values)).view(shape)
    vectors = stack.embed.unit(stack.values)
    if stack.embed.offsets == "whitened":
        return vectors.view(shape)
    return stack.squares(vectors) / (1 + stack.once) ** 0.5
