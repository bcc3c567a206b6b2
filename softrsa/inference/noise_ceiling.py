"""Noise ceilings: how well subjects agree, under the measure in use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal, NamedTuple

import torch
import xarray as xr
from torch import Tensor

from softrsa._checks import check_floating
from softrsa._groups import Groups, as_groups
from softrsa.errors import DataError, ShapeError, unknown_name
from softrsa.inference.inner_products import score_once
from softrsa.inference.pair_table import (
    Labels,
    as_stack,
    find_measure,
    named_labels,
    stack_subjects,
    unlabeled,
)
from softrsa.measures import Measure
from softrsa.transforms.center import as_double


class NoiseCeiling(NamedTuple):
    """Lower and upper noise ceiling per subject, shape (..., n_subjects); average them last."""

    lower: Tensor
    upper: Tensor


def noise_ceiling(
    rsms: Tensor | xr.DataArray,
    measure: str | Measure | Callable[[Tensor, Tensor], Tensor],
    *,
    pool: Literal["normalized", "raw"] = "normalized",
    subject_groups: Labels = None,
) -> NoiseCeiling:
    """Similarity of each subject to the mean of the others (lower) and of all (upper).

    Parameters
    ----------
    rsms : Tensor, shape (..., n_subjects, n_stimuli, n_stimuli) or (..., n_subjects, n_pairs)
        One RSM or RDM per subject: square ones, or condensed ones for a measure on vectors. Equal
        last two dimensions mean square. Transformed ones may be asymmetric. Or a labelled stack, a
        DataArray with dims (..., subject, anchor, neighbor). A pair that is NaN in one subject is
        left out of all, as in `evaluate`.
    measure : str, Measure or callable
        A name of `softrsa.measures.available`, its entry, or its function.
    pool : {"normalized", "raw"}
        How the mean over subjects is formed: of RSMs normalized as the measure sees them (for
        Spearman, of ranks), as rsatoolbox does, or of raw ones, as Algonauts and Net2Brain do.
    subject_groups : sequence or str, optional
        The group of each subject, such as a family or site, or the name of a coordinate that holds
        them along `subject`. The others of the lower ceiling are then those of other groups.

    Returns
    -------
    NoiseCeiling
        Lower and upper ceiling of each subject in the unit of the measure. A model's mean score
        over subjects is to be compared with their means. NaN with a single subject, of whom
        nothing is known beyond the data themselves; and, where a subject's RSM is constant, for
        that subject and, unless ranks are pooled, for all who are compared with a mean it is in:
        leave such a subject out.

    Raises
    ------
    ShapeError
        If there is no subject dimension, square matrices are needed and not given, or
        ``subject_groups`` are not as many as subjects.
    DTypeError
        If ``rsms`` is not float32 or float64.
    DataError
        If pairs are missing and fewer than 3 are left or ``pool`` is "raw"; or a group is missing,
        or all subjects are of one.
    UnknownNameError
        If there is no such measure, coordinate or way to pool.

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
    >>> noise_ceiling(rsms, "pearson", subject_groups=["twins", "twins", "other"]).lower
    tensor([ 0.5000, -0.5000,  0.0000])
    """
    entry = find_measure(measure)
    if pool not in ("normalized", "raw"):
        raise unknown_name("pooling", pool, ("normalized", "raw"))
    if isinstance(rsms, xr.DataArray):
        subject_groups = named_labels("subject_groups", subject_groups, (rsms,), "subject")
        rsms = unlabeled(rsms, entry)
    if not entry.on_squares or rsms.ndim > 2:
        rsms = as_stack(rsms)
    check_floating(rsms=rsms)
    if rsms.ndim < 2 or (entry.on_squares and rsms.ndim < 3):
        raise ShapeError(
            f"`rsms` must have a dimension of subjects before that of pairs, and {entry.name!r} "
            f"takes {entry.takes}; got shape {tuple(rsms.shape)}."
        )
    square = rsms.ndim > 2 and rsms.shape[-1] == rsms.shape[-2]
    dtype = rsms.dtype
    if square and not rsms.requires_grad:
        rsms = as_double(rsms)
    data = entry.pairs_of(rsms) if square else rsms
    axis = -3 if entry.on_squares else -2
    n_subjects = data.shape[axis]
    if n_subjects < 2:
        undefined = data.new_full(data.shape[: data.ndim + axis + 1], torch.nan, dtype=dtype)
        return NoiseCeiling(undefined, undefined.clone())
    groups = as_groups(subject_groups, n_subjects, "subject_groups", "subject")
    if bool(data.isnan().any()):
        given = rsms if square else data
        lower, upper = _without_gaps(given, entry, pool, groups, square=square)
        return NoiseCeiling(lower.to(dtype), upper.to(dtype))
    normal = _normalized(data, entry) if pool == "normalized" else data
    total = normal.sum(axis, keepdim=True)
    lower = entry.function(data, _mean_of_others(normal, total, axis, groups))
    return NoiseCeiling(lower.to(dtype), entry.function(data, total / n_subjects).to(dtype))


def _mean_of_others(normal: Tensor, total: Tensor, axis: int, groups: Groups) -> Tensor:
    """Mean over the subjects of all other groups, of each subject along ``axis``."""
    own = normal
    if not groups.are_single:
        of_group = groups.together.to(normal)
        entries = "ij" if axis == -3 else "i"
        own = torch.einsum(f"st,...t{entries}->...s{entries}", of_group, normal)
    n_others = (len(groups.codes) - groups.sizes)[groups.codes].to(normal)
    return (total - own) / n_others.view(-1, *[1] * (-1 - axis))


def _without_gaps(
    rsms: Tensor, entry: Measure, pool: str, groups: Groups, *, square: bool
) -> NoiseCeiling:
    """Ceilings of stacks of subjects, each over the pairs that all of them have."""
    if pool == "raw":
        raise DataError(
            f"`pool='raw'` takes no missing pairs, and {int(rsms.isnan().sum())} entries are NaN."
        )
    own = rsms.shape[-3:] if square else rsms.shape[-2:]
    found = []
    for stack in rsms.reshape(-1, *own):
        if stack.isnan().all():  # a region that no subject has, say
            found.append(stack.new_full((2, own[0]), torch.nan))
            continue
        scored = score_once(replace(stack_subjects(stack, entry), subjects_together=groups))
        everyone = torch.ones(1, own[0], dtype=torch.float64, device=rsms.device)
        found.append(torch.cat(scored.subject_ceilings(everyone)).to(rsms))
    lower, upper = torch.stack(found, 1).reshape(2, *rsms.shape[: -len(own)], own[0])
    return NoiseCeiling(lower, upper)


def _normalized(data: Tensor, entry: Measure) -> Tensor:
    if entry.takes == "features":
        raise DataError(f"{entry.name!r} compares features; noise ceilings are of RSMs.")
    if entry.normalize is None:
        raise DataError(
            f"{entry.name!r} does not say how it normalizes RSMs (`Measure.normalize`): take "
            "pool='raw'."
        )
    return entry.normalize(data)
