"""What region identification works on: RDMs of subjects' regions, folds and resamples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from softrsa.errors import DataError, ShapeError, StimulusError
from softrsa.io import check_rdms
from softrsa.pairs import condense

LEAST_STIMULI = 4


class Items(NamedTuple):
    """RDMs with the numbers of their subjects and regions."""

    rdms: Tensor  # (n_items, n, n), float64
    subject: Tensor  # (n_items,)
    region: Tensor
    subjects: list[str]
    regions: list[str]

    def references(self, without: Sequence[int]) -> Tensor:
        """Which items (n_items, n_regions, n_items) make a region's mean, without some subjects.

        An item's own subject is never among them.
        """
        allowed = ~torch.isin(self.subject, torch.tensor(list(without), dtype=torch.long))
        others = (self.subject[:, None] != self.subject) & allowed
        of_region = self.region == torch.arange(len(self.regions))[:, None]
        return (others[:, None, :] & of_region).to(self.rdms)

    def of(self, subjects: Sequence[int]) -> Tensor:
        """Numbers of the items of these subjects."""
        wanted = torch.isin(self.subject, torch.tensor(list(subjects), dtype=torch.long))
        return wanted.nonzero().squeeze(-1)


def checked_items(
    rdms: Tensor | np.ndarray, subjects: Sequence[object], regions: Sequence[object]
) -> Items:
    """Check RDMs and number their subjects and regions."""
    values = torch.as_tensor(rdms).detach().cpu().double()
    if values.ndim != 3 or values.shape[1] != values.shape[2]:
        raise ShapeError(
            f"`rdms` must have shape (n_items, n_stimuli, n_stimuli), got {tuple(values.shape)}."
        )
    if not len(values) == len(subjects) == len(regions):
        raise ShapeError(
            "There must be a subject and a region for every RDM, got "
            f"{len(values)} RDMs, {len(subjects)} subjects and {len(regions)} regions."
        )
    names = [list(dict.fromkeys(map(str, labels))) for labels in (subjects, regions)]
    numbers = [
        torch.tensor([known.index(str(label)) for label in labels], dtype=torch.long)
        for known, labels in zip(names, (subjects, regions), strict=True)
    ]
    pairs = condense(values)
    for kind, bad in (
        ("missing values", ~pairs.isfinite().all(-1)),
        ("the same value for all pairs", pairs.amax(-1) == pairs.amin(-1)),
    ):
        if bad.any():
            i = int(bad.nonzero()[0])
            raise DataError(
                f"{int(bad.sum())} RDMs have {kind}, the first that of region {regions[i]!r} of "
                f"subject {subjects[i]!r}. Leave out the stimuli or the items concerned."
            )
    return Items(values, numbers[0], numbers[1], names[0], names[1])


LabelledRDMs = xr.DataArray | Mapping[str, xr.DataArray]


def labelled_items(stacks: LabelledRDMs) -> tuple[np.ndarray, list[str], list[str]]:
    """Take RDMs apart into items: values, subjects and regions.

    Parameters
    ----------
    stacks : DataArray, dims (region, subject[, session], anchor, neighbor), or mapping
        RDMs; or from names of regions to stacks (subject[, session], anchor, neighbor), which are
        joined by stimulus id. RDMs that are NaN altogether are left out: a region that a subject
        does not have.
    """
    if isinstance(stacks, xr.DataArray):
        if "region" not in stacks.dims:
            raise DataError(
                "A stack of RDMs must have the dimensions region and subject beside anchor and "
                f"neighbor, got {stacks.dims}."
            )
        stacks = {str(name): stacks.sel(region=name) for name in stacks["region"].values}
    values, subjects, regions = [], [], []
    ids: np.ndarray | None = None
    for region, found in stacks.items():
        stack = check_rdms(found, name=f"stack of region {region!r}")
        if stack.attrs["kind"] == "rsm":
            stack = 1 - stack
        if "subject" not in stack.dims:
            raise DataError(f"Region {region!r} has no dimension subject, got {stack.dims}.")
        ids = stack["anchor"].values if ids is None else ids
        if set(ids) != set(stack["anchor"].values):
            only = sorted(set(map(str, ids)) ^ set(map(str, stack["anchor"].values)))
            raise StimulusError(
                f"All regions must have the same stimuli; {len(only)} are not in region "
                f"{region!r} or only there: {', '.join(only[:5])}."
            )
        stack = stack.sel(anchor=ids, neighbor=ids)
        leading = [str(dim) for dim in stack.dims[:-2]]
        for labels in product(*(stack[dim].values for dim in leading)):
            rdm = stack.sel(dict(zip(leading, labels, strict=True))).values
            if not np.isnan(rdm).all():
                values.append(rdm)
                subjects.append(str(labels[leading.index("subject")]))
                regions.append(str(region))
    if not values:
        raise DataError("There are no RDMs to identify: all are NaN or the mapping is empty.")
    return np.stack(values), subjects, regions


def block(rdms: Tensor, stimuli: Tensor) -> Tensor:
    """Take the rows and columns of some stimuli."""
    return rdms[:, stimuli[:, None], stimuli]


def draw_counts(n: int, n_resamples: int, seed: int | tuple[int, int]) -> Tensor:
    """How often each of ``n`` things is in each resample (n_resamples, n)."""
    drawn = torch.from_numpy(np.random.default_rng(seed).integers(0, n, (n_resamples, n)))
    counts = torch.zeros(n_resamples, n, dtype=torch.float64)
    return counts.scatter_add_(1, drawn, torch.ones_like(counts))


def split_stimuli(n_stimuli: int, n_folds: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Training and test stimuli of every fold."""
    if n_folds < 1 or n_stimuli // max(n_folds, 1) < LEAST_STIMULI:
        raise ShapeError(
            f"Every one of `stimulus_folds` must have {LEAST_STIMULI} of the {n_stimuli} stimuli "
            f"at least, got {n_folds} folds."
        )
    everything = torch.arange(n_stimuli)
    if n_folds == 1:
        return [(everything, everything)]
    order = np.random.default_rng(seed).permutation(n_stimuli)
    tests = [torch.from_numpy(np.sort(part)) for part in np.array_split(order, n_folds)]
    return [(everything[~torch.isin(everything, test)], test) for test in tests]
