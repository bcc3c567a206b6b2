"""Centered kernel alignment of more stimuli than fit into memory, from batches of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import reduce

import numpy as np
import torch
from torch import Tensor

from softrsa._checks import check_count
from softrsa.errors import DataError
from softrsa.measures._features import check_features
from softrsa.measures._products import KernelProducts
from softrsa.measures.cka import ratio_of_hsics, unbiased_hsics

LEAST = 4  # stimuli that the unbiased estimator needs
Batch = tuple[Tensor, Tensor]


def minibatch_cka(
    x: Tensor | Iterable[Batch],
    y: Tensor | None = None,
    *,
    batch_size: int | None = None,
    epochs: int = 1,
    seed: int = 0,
) -> Tensor:
    r"""Linear CKA from the unbiased estimator of HSIC, averaged over batches of stimuli.

    With :math:`K_b, L_b` the linear kernels of batch :math:`b` of :math:`B` and the HSIC of
    `debiased_cka`,

    .. math:: \frac{\frac1B \sum_b \mathrm{HSIC}(K_b, L_b)}
              {\sqrt{\frac1B \sum_b \mathrm{HSIC}(K_b, K_b)}
               \sqrt{\frac1B \sum_b \mathrm{HSIC}(L_b, L_b)}}

    Parameters
    ----------
    x : Tensor, shape (..., n_stimuli, p), or iterable of pairs of Tensor
        Responses, float32 or float64, in any unit; or pairs of both sides' responses to one batch
        of at least 4 stimuli each, as a data loader gives them. Pairs are asked for one after the
        other, and none is kept.
    y : Tensor, shape (..., n_stimuli, q), optional
        Responses to the same stimuli; leading dimensions broadcast. Not with pairs.
    batch_size : int, optional
        Stimuli in each batch, from 4 to ``n_stimuli``; needed for tensors, not for pairs.
    epochs : int
        How often the stimuli are put into a random order and cut into batches; what is left over
        at the end of each is not used. Not for pairs.
    seed : int
        Of the random orders.

    Returns
    -------
    Tensor, shape (...)
        Score, about 0 on average for unrelated features, in the type of the (first) responses. NaN
        where one side is constant in every batch.

    Raises
    ------
    DTypeError, ShapeError
        As `debiased_cka`, also of every batch.
    DataError
        If ``batch_size`` is lacking or out of range, ``epochs`` is not a whole number from 1, there
        is no batch, or options of tensors are given with pairs.

    Notes
    -----
    Each average is an unbiased estimate of the HSIC of all stimuli, whatever the batch size; their
    ratio approaches `debiased_cka` as batches are added, while an average of the batches' CKA does
    not. One batch of all stimuli is `debiased_cka` itself. Computed in float64. Differentiable
    once; with gradient, the graph of all batches is held.

    References
    ----------
    Nguyen, Raghu & Kornblith (2021), arXiv:2010.15327; Song, Smola, Gretton, Bedo & Borgwardt
    (2012), JMLR 13, 1393-1434.

    Examples
    --------
    >>> x = torch.randn(1000, 20, generator=torch.Generator().manual_seed(0))
    >>> y = x[:, :10] + torch.randn(1000, 10, generator=torch.Generator().manual_seed(1))
    >>> from softrsa.measures import debiased_cka
    >>> debiased_cka(x, y)
    tensor(0.3653)
    >>> minibatch_cka(x, y, batch_size=50)
    tensor(0.3763)
    >>> minibatch_cka(zip(x.split(50), y.split(50)))
    tensor(0.3642)
    """
    if not isinstance(x, Iterable) or isinstance(x, (np.ndarray, str)):
        raise DataError(
            f"`x` must be a tensor or give pairs of tensors, got {type(x).__name__}. Convert "
            "arrays with `torch.as_tensor`."
        )
    if isinstance(x, Tensor):
        batches = _cut(x, y, batch_size, epochs, seed)
    elif y is None and batch_size is None and epochs == 1:
        batches = iter(x)
    else:
        raise DataError(
            "Pairs of batches take neither `y` nor `batch_size` or `epochs`, got "
            f"{'a `y`, ' if y is not None else ''}{batch_size=}, {epochs=}. Give tensors, or let "
            "the loader make the batches and repeat them."
        )
    # with `map`, unlike in a loop, no batch is held while the next one is made
    found = map(_hsics, batches)
    first = next(found, None)
    if first is None:
        raise DataError("There must be at least one batch, got none.")
    dtype, hsics = first
    total = reduce(_add, (more for _, more in found), hsics)
    return ratio_of_hsics(total).to(dtype)


def _hsics(batch: Batch) -> tuple[torch.dtype, KernelProducts]:
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        raise DataError(f"A batch must be a pair (x, y) of tensors, got {type(batch).__name__}.")
    x, y = batch
    check_features(x, y, at_least=LEAST)
    return x.dtype, unbiased_hsics(x, y)


def _add(total: KernelProducts, more: KernelProducts) -> KernelProducts:
    """Add up: of sums the ratio is that of means."""
    return KernelProducts(*(a + b for a, b in zip(total, more, strict=True)))


def _cut(
    x: Tensor, y: Tensor | None, batch_size: int | None, epochs: int, seed: int
) -> Iterator[Batch]:
    """Check everything, then give batches of stimuli in random order."""
    if not isinstance(y, Tensor):
        raise DataError(f"`x` is a tensor, so `y` must be one too, got {type(y).__name__}.")
    check_features(x, y, at_least=LEAST)
    check_count("epochs", epochs, 1)
    n = x.shape[-2]
    if not isinstance(batch_size, int) or not LEAST <= batch_size <= n:
        raise DataError(
            f"`batch_size` must be a whole number from {LEAST} to the number of stimuli, {n}, "
            f"got {batch_size!r}."
        )
    return _parts(x, y, batch_size, epochs, seed)


def _parts(x: Tensor, y: Tensor, batch_size: int, epochs: int, seed: int) -> Iterator[Batch]:
    rng = torch.Generator().manual_seed(seed)  # of the host: the same batches on every device
    n = x.shape[-2]
    for _ in range(epochs):
        order = torch.randperm(n, generator=rng)[: n - n % batch_size].to(x.device)
        for part in order.split(batch_size):
            yield x.index_select(-2, part), y.index_select(-2, part)
