"""Rank correlations between RSMs: Kendall's tau-a and tau-b, rho-a, and a soft Spearman."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from math import ceil, isqrt
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from softrsa._checks import broadcast_shape
from softrsa._gradients import within
from softrsa._ranks import average_ranks, tied, tied_places
from softrsa.measures.correlation import check_pairs, pearson
from softrsa.transforms import soft_rank

Array = (
    Any  # of NumPy on the CPU, where its comparisons are ten times as fast as torch's, else torch
)
PART = {"cpu": 2**18}  # entries taken at a time; on the CPU what its cache holds
LARGE_PART = 2**24


class Ranked(NamedTuple):
    """One vector in order, ties in the order of the entries (or in the opposite one)."""

    order: Array  # (block_length, n_blocks): which entry is at a place, blocks in columns
    place: Array  # (n_padded,): at which place an entry is; padding is last
    block: Array  # (n_padded,): in which block
    first: Array  # (n_padded,): the first place of the entry's run of equal values
    tied: Array | None  # (2, n_tied): pairs of tied entries, where they are some but not many
    two_ways: bool  # whether they are many, and there are two of these, whose errors cancel


def net_concordance(x: Tensor, y: Tensor) -> Tensor:
    """Concordant minus discordant pairs of entries (..., n); NaN where a vector has a NaN."""
    n = x.shape[-1]
    lead = broadcast_shape(x.shape[:-1], y.shape[:-1])
    if not n:
        return x.new_full(lead, torch.nan, dtype=torch.float64)
    left, right = (_ranked(vectors.detach().reshape(-1, n)) for vectors in (x, y))
    numbers = (
        torch.arange(vectors.shape[:-1].numel()).view(vectors.shape[:-1]).expand(lead).flatten()
        for vectors in (x, y)
    )
    jobs = [
        (number, a, b)
        for number, (i, j) in enumerate(zip(*(k.tolist() for k in numbers), strict=True))
        for a, b in _ways(left[i], right[j])
    ]
    step = max(1, PART.get(x.device.type, LARGE_PART) // max(1, n))
    parts = [jobs[start : start + step] for start in range(0, len(jobs), step)]
    counts = [torch.as_tensor(_twice_discordant([job[1:] for job in part])) for part in parts]
    owner = torch.tensor([job[0] for job in jobs], dtype=torch.long, device=x.device)
    twice = torch.cat([x.new_zeros(0, dtype=torch.long), *counts]).double()
    n_jobs = owner.bincount(minlength=lead.numel())
    twice = twice.new_zeros(lead.numel()).index_add_(0, owner, twice) / n_jobs
    undefined = x.isnan().any(-1) | y.isnan().any(-1)
    return (n * (n - 1) / 2 - twice.view(lead)).masked_fill(undefined, torch.nan)


def tied_pairs(x: Tensor) -> Tensor:
    """Count pairs of equal entries, shape (...), in float64."""
    first, last = tied_places(x.detach().sort(dim=-1).values)
    return (last - first).sum(-1).double() / 2


def _ways(left: list[Ranked], right: list[Ranked]) -> Iterable[tuple[Ranked, Ranked]]:
    """Combine the ways of breaking ties; two and two in step, as `_from_ties` expects."""
    return zip(left, right, strict=True) if len(left) == len(right) else product(left, right)


def _ranked(vectors: Tensor) -> list[list[Ranked]]:
    """Put vectors in order: each one in one way, or in two where too many values are tied."""
    order = _argsort(vectors)
    values = vectors.gather(-1, order)
    has_ties = (values[:, 1:] == values[:, :-1]).any(-1).tolist()
    return [
        _with_ties(vector) if tied else [_in_blocks(places)]
        for vector, places, tied in zip(vectors, order, has_ties, strict=True)
    ]


def _argsort(x: Tensor) -> Tensor:
    """Sort rows; on the CPU with NumPy, whose sort is several times as fast as torch's."""
    return torch.from_numpy(np.argsort(x.numpy(), -1)) if is_cpu(x) else x.argsort(-1)


def is_cpu(x: Tensor) -> bool:
    """Whether NumPy can have it."""
    return x.device.type == "cpu"


def _with_ties(vector: Tensor) -> list[Ranked]:
    """Order a vector in one way with its tied pairs, or in two opposite ways, which cancel."""
    values, order = vector.sort(stable=True)
    first, last = tied_places(values)
    start = torch.empty_like(first).index_copy_(0, order, first)
    # listing the pairs would wait for another device once per distance; the other way never does
    if is_cpu(vector) and int((last - first).sum()) <= 2 * len(vector):
        runs = range(1, int((last - first).max()) + 1)
        same = ((values[d:] == values[:-d]).nonzero().squeeze(-1) for d in runs)
        pairs = [torch.stack([order[at], order[at + d]]) for d, at in zip(runs, same, strict=True)]
        return [_in_blocks(order, start, torch.cat(pairs, 1))]
    places = torch.arange(len(order), device=order.device)
    ways = (order, order[first + last - places])
    return [_in_blocks(way, start)._replace(two_ways=True) for way in ways]


def _in_blocks(order: Tensor, first: Tensor | None = None, tied: Tensor | None = None) -> Ranked:
    n = len(order)
    length = isqrt(n) + 1  # as many comparisons per entry as cells of the histogram
    n_blocks = max(1, ceil(n / length))
    padded = torch.arange(n_blocks * length, device=order.device)
    order = torch.cat([order, padded[n:]])
    place = torch.empty_like(order).index_copy_(0, order, padded)
    small = torch.uint8 if length < 256 else torch.int32
    short = torch.int16 if len(order) < 2**15 else torch.int32
    arrays = (
        order.view(n_blocks, length).mT.contiguous(),
        place.to(short),
        (place // length).to(small),
        (place if first is None else torch.cat([first, padded[n:]])).to(short),
        tied,
    )
    given = (a.numpy() if a is not None and is_cpu(a) else a for a in arrays)
    return Ranked(*given, two_ways=False)


def _twice_discordant(pairs: list[tuple[Ranked, Ranked]]) -> Array:
    """Count, twice, discordant pairs of entries of each pair of vectors; a tied one counts once."""
    xp: Any = torch if isinstance(pairs[0][0].order, Tensor) else np
    n_blocks = pairs[0][0].order.shape[1]
    row = pairs[0][0].block[pairs[0][0].order[:1]]  # 0, 1, ..., n_blocks - 1
    cell = xp.asarray(row, dtype=xp.int64) * n_blocks
    # blocks of y in the order of x, and places of x in the order of y, (length, n, n_blocks)
    blocks = [y.block[x.order] for x, y in pairs]
    places = [x.place[y.order] for x, y in pairs]
    histogram = _histograms([b + cell for b in blocks], n_blocks**2, xp)
    histogram = histogram.reshape(-1, n_blocks, n_blocks)
    # entries of earlier blocks of x and later ones of y: sums over rows above and columns before
    above = xp.cumsum(histogram, 1, dtype=xp.int32)[:, :-1, 1:]
    left = xp.cumsum(histogram, 2, dtype=xp.int32)[:, 1:, :-1]
    apart = (above * left).sum((1, 2), dtype=xp.int64)
    discordant = apart + _falling(xp.stack(blocks, 1), xp) + _falling(xp.stack(places, 1), xp)
    twice = 2 * discordant
    for number, (x, y) in enumerate(pairs):
        twice[number] -= _from_ties(x, y, xp)
    return twice


def _histograms(cells: list[Array], n_cells: int, xp: Any) -> Array:
    """Count the entries of each cell, (len(cells), n_cells)."""
    if xp is np:
        counts = [np.bincount(cell.reshape(-1), minlength=n_cells) for cell in cells]
        return np.asarray(np.stack(counts), dtype=np.int32)
    # torch's bincount would wait for the device each time, to learn how many cells there are
    index = torch.stack(cells).flatten(1)
    counts = index.new_zeros(len(cells), n_cells, dtype=torch.int32)
    return counts.scatter_add_(1, index, torch.ones_like(index, dtype=torch.int32))


def _from_ties(x: Ranked, y: Ranked, xp: Any) -> Array | int:
    """Twice what listed ties, in the order of the entries, add beyond one half each."""
    excess = 0
    if x.tied is not None:
        excess += xp.sign(y.first[x.tied[0]] - y.first[x.tied[1]]).sum()
    if y.tied is not None:
        excess += xp.sign(x.place[y.tied[0]] - x.place[y.tied[1]]).sum()
    if x.two_ways and y.two_ways:
        # discordant in neither way, too: their number is lacking
        both = xp.asarray(x.first, dtype=xp.int64) * len(x.first) + y.first
        excess -= _equal_pairs(both)
    return excess


def _equal_pairs(keys: Array) -> Array | int:
    """Count pairs of equal entries."""
    if isinstance(keys, Tensor):
        first, last = tied_places(keys.sort().values)
        return (last - first).sum() // 2
    sizes = np.unique(keys, return_counts=True)[1]
    return (sizes * (sizes - 1)).sum() // 2


def _falling(keys: Array, xp: Any) -> Array:
    """Count pairs along the first dimension of which the earlier is larger, per second one."""
    length = len(keys)
    if length >= 256:
        larger = (keys[:-distance] > keys[distance:] for distance in range(1, length))
        return sum(pairs.sum((0, 2), dtype=xp.int64) for pairs in larger)
    counts = xp.zeros_like(keys, dtype=xp.uint8)
    for distance in range(1, length):
        counts[distance:] += (keys[:-distance] > keys[distance:]).view(xp.uint8)
    return counts.sum((0, 2), dtype=xp.int64)


SOFT_STRENGTH = 0.1  # of `soft_spearman`


def kendall_tau_a(x: Tensor, y: Tensor) -> Tensor:
    r"""Kendall's tau-a between two condensed RSMs, where a tie is neither agreement nor not.

    .. math:: \tau_a = \frac{n_\text{concordant} - n_\text{discordant}}{n_\text{pairs}
              (n_\text{pairs} - 1) / 2}

    Parameters
    ----------
    x, y : Tensor, shape (..., n_pairs)
        Pairs of two RSMs in the same order; any unit; leading dimensions broadcast.

    Returns
    -------
    Tensor, shape (...)
        Correlation in [-1, 1], reached only without ties; 0 where ``x`` or ``y`` is constant. NaN
        for fewer than two pairs or where a value is missing.

    Raises
    ------
    DTypeError
        If either tensor is not float32 or float64.
    ShapeError
        If the two do not have the same number of pairs.

    Notes
    -----
    Counted exactly; values are tied if they are equal within rounding, as in `spearman`. Each
    vector is sorted once, whatever it is compared with; each comparison takes time in proportion to
    ``n_pairs ** 1.5``, and memory is bounded. No gradient is passed. RSMs that predict ties are not
    favored by it, as they are by tau-b and Spearman.

    References
    ----------
    Nili et al. (2014), doi:10.1371/journal.pcbi.1003553. ``rsatoolbox.rdm.compare`` "tau-a".

    Examples
    --------
    >>> kendall_tau_a(torch.tensor([1.0, 2.0, 3.0, 3.0]), torch.tensor([1.0, 3.0, 2.0, 4.0]))
    tensor(0.5000)
    """
    check_pairs(x=x, y=y)
    n = x.shape[-1]
    return (net_concordance(tied(x), tied(y)) / (n * (n - 1) / 2 or torch.nan)).to(
        _common_type(x, y)
    )


def kendall_tau_b(x: Tensor, y: Tensor) -> Tensor:
    r"""Kendall's tau-b between two condensed RSMs, which corrects for ties.

    .. math:: \tau_b = \frac{n_\text{concordant} - n_\text{discordant}}
              {\sqrt{(n_0 - n_x)(n_0 - n_y)}}

    with :math:`n_0` pairs of entries in all, :math:`n_x` and :math:`n_y` tied in either RSM.

    Parameters
    ----------
    x, y : Tensor, shape (..., n_pairs)
        Pairs of two RSMs in the same order; any unit; leading dimensions broadcast.

    Returns
    -------
    Tensor, shape (...)
        Correlation in [-1, 1]. NaN where ``x`` or ``y`` is constant or a value is missing
        (`scipy.stats.kendalltau` agrees).

    Raises
    ------
    DTypeError
        If either tensor is not float32 or float64.
    ShapeError
        If the two do not have the same number of pairs.

    Notes
    -----
    Counted exactly, as in `kendall_tau_a`. No gradient is passed.

    References
    ----------
    Kendall (1945), doi:10.1093/biomet/33.3.239. ``rsatoolbox.rdm.compare`` "tau-b", "kendall".

    Examples
    --------
    >>> kendall_tau_b(torch.tensor([1.0, 2.0, 3.0, 3.0]), torch.tensor([1.0, 3.0, 2.0, 4.0]))
    tensor(0.5477)
    """
    check_pairs(x=x, y=y)
    x, y = tied(x), tied(y)
    total = x.shape[-1] * (x.shape[-1] - 1) / 2
    untied = ((total - tied_pairs(vectors)).sqrt() for vectors in (x, y))
    x_untied, y_untied = untied
    # each root by itself, as SciPy has it: 1 for a vector with itself
    tau = net_concordance(x, y) / x_untied / y_untied
    return within(tau).to(_common_type(x, y))


def rho_a(x: Tensor, y: Tensor) -> Tensor:
    r"""Spearman correlation expected when ties are broken at random.

    .. math:: \rho_a = \frac{12}{n^3 - n} \sum_i
              \left(r_i(x) - \tfrac{n+1}{2}\right) \left(r_i(y) - \tfrac{n+1}{2}\right)

    with average ranks :math:`r` of :math:`n` pairs.

    Parameters
    ----------
    x, y : Tensor, shape (..., n_pairs)
        Pairs of two RSMs in the same order; any unit; leading dimensions broadcast.

    Returns
    -------
    Tensor, shape (...)
        Correlation in [-1, 1], reached only without ties; 0 where ``x`` or ``y`` is constant. NaN
        for fewer than two pairs or where a value is missing.

    Raises
    ------
    DTypeError
        If either tensor is not float32 or float64.
    ShapeError
        If the two do not have the same number of pairs.

    Notes
    -----
    Without ties it is `spearman`. No gradient is passed.

    References
    ----------
    Schütt et al. (2023), doi:10.7554/eLife.82566. ``rsatoolbox.rdm.compare`` "rho-a".

    Examples
    --------
    >>> rho_a(torch.tensor([1.0, 2.0, 3.0, 3.0]), torch.tensor([1.0, 3.0, 2.0, 4.0]))
    tensor(0.6000)
    """
    check_pairs(x=x, y=y)
    n = x.shape[-1]
    left, right = (average_ranks(ranked, torch.float64) - (n + 1) / 2 for ranked in (x, y))
    product = torch.einsum("...i,...i->...", left, right)
    rho = product * 12 / float(n**3 - n or torch.nan)  # beyond 64 bits as a whole number
    return within(rho).to(_common_type(x, y))


def soft_spearman(x: Tensor, y: Tensor, *, strength: float = SOFT_STRENGTH) -> Tensor:
    """Spearman rank correlation with a gradient: Pearson of soft ranks.

    Parameters
    ----------
    x, y : Tensor, shape (..., n_pairs)
        Pairs of two RSMs in the same order; any unit; leading dimensions broadcast.
    strength : float
        Of `softrsa.transforms.soft_rank`, in the unit of each vector's own spread. Towards 0 the
        result becomes `spearman`; well above 1 it is `pearson`. The default is within .001 of
        Spearman for some hundred normally distributed values, within .02 for clustered ones.

    Returns
    -------
    Tensor, shape (...)
        Correlation in [-1, 1]. NaN where ``x`` or ``y`` is constant or a value is not finite.

    Raises
    ------
    DTypeError
        If either tensor is not float32 or float64.
    ShapeError
        If the two do not have the same number of pairs.
    DataError
        If ``strength`` is not positive and finite.

    Notes
    -----
    Differentiable wherever it is defined; each vector is ranked once, before broadcasting.

    References
    ----------
    Blondel, Teboul, Berthet & Djolonga (2020), arXiv:2002.08871.

    Examples
    --------
    >>> x, y = torch.tensor([1.0, 2.0, 9.0]), torch.tensor([1.0, 3.0, 2.0])
    >>> soft_spearman(x, y, strength=1e-3)
    tensor(0.5000)
    >>> soft_spearman(x, y, strength=100.0) - pearson(x, y) < 1e-6
    tensor(True)
    """
    check_pairs(x=x, y=y)
    return pearson(soft_rank(x, strength=strength), soft_rank(y, strength=strength))


def _common_type(x: Tensor, y: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, y.dtype)
