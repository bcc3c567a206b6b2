"""Noise ceilings: how well subjects agree, under the measure in use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from softrsa._checks import check_floating
from softrsa.errors import DataError, ShapeError, unknown_name
from softrsa.measures import Measure, get


class NoiseCeiling(NamedTuple):
    """Lower and upper noise ceiling per subject, shape (..., n_subjects); average them last."""

    lower: Tensor
    upper: Tensor


def noise_ceiling(
    rsms: Tensor,
    measure: str | Measure | Callable[[Tensor, Tensor], Tensor],
    *,
    pool: Literal["normalized", "raw"] = "normalized",
) -> NoiseCeiling:
    """Similarity of each subject to the mean of the others (lower) and of all (upper).

    Parameters
    ----------
    rsms : Tensor, shape (..., n_subjects, n_stimuli, n_stimuli) or (..., n_subjects, n_pairs)
        One RSM or RDM per subject: square ones, or condensed ones for a measure on vectors. Equal
        last two dimensions mean square. Transformed ones may be asymmetric.
    measure : str, Measure or callable
        A name of `softrsa.measures.available`, its entry, or its function.
    pool : {"normalized", "raw"}
        How the mean over subjects is formed: of RSMs normalized as the measure sees them (for
        Spearman, of ranks), as rsatoolbox does, or of raw ones, as Algonauts and Net2Brain do.

    Returns
    -------
    NoiseCeiling
        Lower and upper ceiling of each subject in the unit of the measure. A model's mean score
        over subjects is to be compared with their means. NaN with a single subject, of whom
        nothing is known beyond the data themselves.

    Raises
    ------
    ShapeError
        If there is no subject dimension, or square matrices are needed and not given.
    DTypeError
        If ``rsms`` is not float32 or float64.
    UnknownNameError
        If there is no such measure or no such way to pool.

    References
    ----------
    Nili et al. (2014), doi:10.1371/journal.pcbi.1003553.

    Examples
    --------
    >>> rsms = torch.tensor([[1.0, 2.0, 3.0], [1.0, 3.0, 2.0], [2.0, 1.0, 3.0]])
    >>> ceiling = noise_ceiling(rsms, "pearson")
    >>> ceiling.lower
    tensor([1., 0., 0.])
    >>> ceiling.upper
    tensor([1.0000, 0.5000, 0.5000])
    """
    entry = find_measure(measure)
    if pool not in ("normalized", "raw"):
        raise unknown_name("pooling", pool, ("normalized", "raw"))
    check_floating(rsms=rsms)
    if rsms.ndim < 2 or (entry.takes == "matrices" and rsms.ndim < 3):
        raise ShapeError(
            f"`rsms` must have a dimension of subjects before that of pairs, and {entry.name!r} "
            f"takes {entry.takes}; got shape {tuple(rsms.shape)}."
        )
    square = rsms.ndim > 2 and rsms.shape[-1] == rsms.shape[-2]
    data = entry.pairs_of(rsms) if square else rsms
    axis = -3 if entry.takes == "matrices" else -2
    n_subjects = data.shape[axis]
    if n_subjects < 2:
        undefined = torch.full(data.shape[: data.ndim + axis + 1], torch.nan).to(data)
        return NoiseCeiling(undefined, undefined.clone())
    normal = _normalized(data, entry) if pool == "normalized" else data
    total = normal.sum(axis, keepdim=True)
    lower = entry.function(data, (total - normal) / (n_subjects - 1))
    return NoiseCeiling(lower, entry.function(data, total / n_subjects))


def find_measure(measure: str | Measure | Callable[[Tensor, Tensor], Tensor]) -> Measure:
    """Find the entry of a measure given by name, entry or function."""
    if isinstance(measure, Measure):
        return measure
    if isinstance(measure, str):
        return get(measure)
    return get(getattr(measure, "__name__", repr(measure)))


def _normalized(data: Tensor, entry: Measure) -> Tensor:
    if entry.normalize is None:
        raise DataError(f"{entry.name!r} compares features; noise ceilings are of RSMs.")
    return entry.normalize(data)
