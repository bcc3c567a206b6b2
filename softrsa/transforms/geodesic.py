"""Geodesic transform of RDMs: lengths of the shortest paths over short edges."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from softrsa._checks import check_floating
from softrsa._ranks import average_ranks, in_order, sorted_quantile
from softrsa.errors import DataError, unknown_name
from softrsa.pairs import condense, expand

Keep = Literal["p_shortest", "p_nearest", "k_nearest", "twostep"]
ZeroEdges = Literal["keep", "drop"]
EXACT_IN_FLOAT32 = 2**24  # whole numbers up to here
PART = 2**16  # entries of RDMs at a time: a stack this small stays in the cache


def geodesic(
    rdm: Tensor,
    *,
    keep: Keep,
    amount: float | None = None,
    rank: bool = True,
    zero_edges: ZeroEdges = "keep",
) -> Tensor:
    """Replace each dissimilarity by the length of the shortest path over short edges.

    Ranks of the dissimilarities, scaled to [0, 1], are the lengths of edges between stimuli; long
    edges are removed, and paths go over those that are left.

    Parameters
    ----------
    rdm : Tensor, shape (..., n_stimuli, n_stimuli) or (..., n_pairs)
        Dissimilarities: square symmetric RDMs, of which the upper triangle is read, or condensed
        ones in the order of `softrsa.pairs.condense`. Equal last two dimensions mean square.
    keep : {"p_shortest", "p_nearest", "k_nearest", "twostep"}
        Which edges are short: those up to the quantile ``amount`` of all; those to the nearest
        ``int(amount * n_stimuli)``, or the nearest ``amount``, stimuli of either end; or, of an RDM
        that `geo_topological` has clamped, all below the largest, with the values for lengths, not
        their ranks.
    amount : float, optional
        From 0 to 1 for "p_shortest" and "p_nearest", an integer from 0 to n_stimuli - 1 for
        "k_nearest", None for "twostep". A stimulus as near as the last of these is near, too.
    rank : bool
        Whether to replace the lengths by their average ranks, from 1; pairs without a path rank
        highest. Sums of ranks often tie: of whole numbers, so that equal lengths are equal and
        float32 and float64 rank alike, except with "twostep" and "drop".
    zero_edges : {"keep", "drop"}
        "drop" repeats the published code: an edge of length 0 is no edge, "p_nearest" and
        "k_nearest" look from the first end of a pair only, and lengths are sums of rounded
        fractions, so that rounding decides about the order of many paths of equal length.

    Returns
    -------
    Tensor
        Square with a zero diagonal or condensed, like ``rdm``: ranks, or lengths that are inf where
        there is no path. NaN where an RDM is constant or has a NaN.

    Raises
    ------
    UnknownNameError
        If ``keep`` or ``zero_edges`` is unknown.
    DTypeError
        If ``rdm`` is not float32 or float64.
    DataError
        If ``amount`` is out of range.

    Notes
    -----
    No gradient. All RDMs of a stack are computed together, by Floyd's and Warshall's method.

    References
    ----------
    Lin & Kriegeskorte (2024), PNAS 121(42), doi:10.1073/pnas.2317881121.

    Examples
    --------
    >>> rdm = torch.tensor([0.1, 0.3, 0.6, 0.2, 0.5, 0.4])  # four stimuli on a curve
    >>> geodesic(rdm, keep="k_nearest", amount=1)
    tensor([1.0000, 2.5000, 5.5000, 2.5000, 5.5000, 4.0000])
    """
    for name, value, kinds in (("keep", keep, Keep), ("zero_edges", zero_edges, ZeroEdges)):
        if value not in get_args(kinds):
            raise unknown_name(name, value, get_args(kinds))
    check_floating(rdm=rdm)
    square = rdm.ndim > 1 and rdm.shape[-1] == rdm.shape[-2]
    values = (condense(rdm) if square else rdm).detach()
    n = len(expand(values.new_zeros(values.shape[-1])))
    _check_amount(keep, amount, n)
    parts = values.reshape(-1, values.shape[-1]).split(max(1, PART // (n * n)))
    whole = rank and keep != "twostep" and zero_edges == "keep"
    lengths = [
        _whole_lengths(part, keep, amount) if whole else _lengths(part, keep, amount, zero_edges)
        for part in parts
    ]
    found = torch.cat([average_ranks(part) if rank else part for part in lengths])
    found = found.to(values).reshape(values.shape)
    return expand(found) if square else found


def _lengths(values: Tensor, keep: Keep, amount: float | None, zero_edges: ZeroEdges) -> Tensor:
    """Lengths of the shortest paths (k, n_pairs), inf where there is none."""
    own = _unit_range(values if keep == "twostep" else average_ranks(values))
    edges = expand(own)
    missing = _long(own, edges, keep, amount, first_end_only=zero_edges == "drop")
    if zero_edges == "drop":
        missing |= edges == 0
    lengths = condense(_shortest_paths(edges.masked_fill_(missing, torch.inf)))
    return lengths.masked_fill_(own.isnan().any(-1, keepdim=True), torch.nan)


def _whole_lengths(values: Tensor, keep: Keep, amount: float | None) -> Tensor:
    """Lengths (k, n_pairs) of the shortest paths over twice the ranks less the smallest: exact."""
    twice = 2 * average_ranks(values, torch.float64)
    own = twice - twice.amin(-1, keepdim=True)
    edges = expand(own)
    n = edges.shape[-1]
    missing = _long(own, edges, keep, amount, first_end_only=False)
    # a path has fewer than n edges, of less than n (n - 1) each
    exact = torch.float32 if n**3 < EXACT_IN_FLOAT32 else torch.float64
    lengths = condense(_shortest_paths(edges.to(exact).masked_fill_(missing, torch.inf)))
    undefined = ~(own.amax(-1, keepdim=True) > 0)  # constant or NaN
    return lengths.masked_fill_(undefined, torch.nan)


def _unit_range(values: Tensor) -> Tensor:
    low = values.amin(-1, keepdim=True)
    return (values - low) / (values.amax(-1, keepdim=True) - low)


def _check_amount(keep: Keep, amount: float | None, n_stimuli: int) -> None:
    if keep == "twostep":
        if amount is not None:
            raise DataError(f"`keep='twostep'` takes no `amount`, got {amount!r}.")
    elif keep == "k_nearest":
        if amount is None or amount != int(amount) or not 0 <= amount < n_stimuli:
            raise DataError(
                "`keep='k_nearest'` needs a whole `amount` from 0 to "
                f"{n_stimuli - 1}, got {amount!r}."
            )
    elif amount is None or not 0 <= amount <= 1:
        raise DataError(f"`keep={keep!r}` needs an `amount` from 0 to 1, got {amount!r}.")


def _long(
    values: Tensor, edges: Tensor, keep: Keep, amount: float | None, *, first_end_only: bool
) -> Tensor:
    """Say which edges (..., n, n), condensed ``values`` (..., n_pairs), are not kept."""
    if keep == "twostep":
        return edges >= 1
    if keep == "p_shortest":
        level = torch.as_tensor(amount, dtype=values.dtype, device=values.device)
        return edges > sorted_quantile(in_order(values), level)[..., None, None]
    n = edges.shape[-1]
    k = int(amount or 0) if keep == "k_nearest" else min(int((amount or 0) * n), n - 1)
    own = torch.eye(n, dtype=torch.bool, device=edges.device)
    edges = edges.masked_fill(own, torch.inf)
    if first_end_only:  # the published code takes the first of those that are equally near
        order = edges.argsort(dim=-1, stable=True)[..., :k]
        near = torch.zeros_like(edges, dtype=torch.bool).scatter_(-1, order, True).triu(1)
    elif k:
        near = (edges <= in_order(edges)[..., k - 1 : k]) & ~own
    else:
        near = torch.zeros_like(edges, dtype=torch.bool)
    return ~(near | near.mT)


def _shortest_paths(paths: Tensor) -> Tensor:
    """Lengths of the shortest paths (k, n, n) over edges, inf where there is none, in place."""
    through = torch.empty_like(paths)
    for middle in range(paths.shape[-1]):
        to_middle = paths[:, middle]  # and from it: paths are symmetric
        torch.add(to_middle[:, :, None], to_middle[:, None], out=through)
        torch.minimum(paths, through, out=paths)
    return paths


def geo_topological_type(lower: float, upper: float) -> str:
    """Name the kind of statistic that `geo_topological` makes of an RDM at two quantiles.

    Parameters
    ----------
    lower, upper : float
        Quantiles in [0, 1], ``lower <= upper``.

    Returns
    -------
    str
        "local" if their mean is at most .2, "global" if it is at least .8, "geometry" if they are
        .8 or more apart, "topology" if both are from .4 to .6, else "intermediate"; each to .001.

    Raises
    ------
    DataError
        If they are out of range or order.

    References
    ----------
    Lin & Kriegeskorte (2024), PNAS 121(42), doi:10.1073/pnas.2317881121.

    Examples
    --------
    >>> geo_topological_type(0.0, 1.0), geo_topological_type(0.5, 0.5)
    ('geometry', 'topology')
    """
    if not 0 <= lower <= upper <= 1:
        raise DataError(f"Need 0 <= lower <= upper <= 1, got {lower=}, {upper=}.")
    slack, mean = 1e-3, (lower + upper) / 2
    if mean <= 0.2 + slack:
        return "local"
    if mean >= 0.8 - slack:
        return "global"
    if upper - lower >= 0.8 - slack:
        return "geometry"
    if lower >= 0.4 - slack and upper <= 0.6 + slack:
        return "topology"
    return "intermediate"
