"""What region identification works on: RDMs of subjects' regions, folds and resamples."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Literal, NamedTuple

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from softrsa._wording import listed
from softrsa.errors import DataError, ShapeError, StimulusError
from softrsa.io import check_rdms, check_recording
from softrsa.pairs import condense
from softrsa.recordings import split_units
from softrsa.rsm import build_rsms, similarity_matrix

LEAST_STIMULI = 4


class Frame(NamedTuple):
    """What Framed RSA needs of each item's responses, in means over units."""

    distances: Tensor  # (n_items, n, n), squared, of stimuli from each other
    squares: Tensor  # (n_items, n), squared distances from the origin
    means: Tensor  # (n_items, n)

    def of_stimuli(self, stimuli: Tensor) -> Frame:
        """Take some of the stimuli."""
        rest = (x.index_select(1, stimuli) for x in self[1:])
        return Frame(block(self.distances, stimuli), *rest)

    def rdms(self) -> Tensor:
        """Squared distances (n_items, n + 2, n + 2), of origin and constant pattern last.

        As those of `softrsa.rsm.framed`, whose level is that of these stimuli.
        """
        level = self.squares.mean(1, keepdim=True).sqrt()
        spread = (self.squares - self.means.square()).clamp_min(0.0)  # variance over units
        constant = (self.means - level).square() + spread
        n = self.squares.shape[1]
        found = self.distances.new_zeros(len(self.squares), n + 2, n + 2)
        found[:, :n, :n] = self.distances
        for place, column in ((n, self.squares), (n + 1, constant)):
            found[:, :n, place] = found[:, place, :n] = column
        found[:, n, n + 1] = found[:, n + 1, n] = level.squeeze(1).square()
        return found


def frame_of(units: Sequence[Tensor | np.ndarray]) -> Frame:
    """Sum up responses (n, n_units) of every item."""
    found = []
    for one in units:
        x = torch.as_tensor(one).detach().cpu().double()
        distances = -similarity_matrix(x, similarity="sqeuclidean")
        found.append((distances, x.square().mean(1), x.mean(1)))
    return Frame(*(torch.stack(part) for part in zip(*found, strict=True)))


class Items(NamedTuple):
    """RDMs with the numbers of their subjects and regions."""

    rdms: Tensor  # (n_items, n, n), float64
    subject: Tensor  # (n_items,)
    region: Tensor
    subjects: list[str]
    regions: list[str]
    frame: Frame | None = None  # where there are units

    def of_stimuli(self, stimuli: Tensor) -> Items:
        """Take some of the stimuli."""
        frame = None if self.frame is None else self.frame.of_stimuli(stimuli)
        return self._replace(rdms=block(self.rdms, stimuli), frame=frame)

    def references(self, without: Sequence[int]) -> Tensor:
        """Items of other subjects that make each region's mean: (n_items, n_regions, n_items)."""
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
    if _are_swapped(*names):
        raise DataError(
            f"`subjects` and `regions` seem to be swapped: got the subjects {listed(names[0])} and "
            f"the regions {listed(names[1])}. The order is identify_regions(rdms, subjects, "
            "regions). If that is right, rename them."
        )
    numbers = [
        torch.tensor([known.index(str(label)) for label in labels], dtype=torch.long)
        for known, labels in zip(names, (subjects, regions), strict=True)
    ]
    check_values(values, subjects, regions)
    return Items(values, numbers[0], numbers[1], names[0], names[1])


def check_values(rdms: Tensor, subjects: Sequence[object], regions: Sequence[object]) -> None:
    """Refuse RDMs with missing values, and constant ones."""
    pairs = condense(rdms)
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


SUBJECT = re.compile(r"(subj?|subject|part|participant|monkey|mouse|s|p|m)[-_ ]?\d+", re.IGNORECASE)
REGION = re.compile(
    r"(lh|rh|left|right|[lr])?[-_ ]?(V[1-8][ABdv]*|h?V4|p?IT|[ac]IT|EVC|LOC?[12]?|FFA[12]?|PPA|OFA|"
    r"EBA|FBA|RSC|OPA|STS|MTG?|MST|hMT\+?|VTC|PFC|VISp\w?|A1|S1|M1|IPS\d*|ITG?)",
    re.IGNORECASE,
)


def _are_swapped(subjects: Sequence[str], regions: Sequence[str]) -> bool:
    """Say whether labels of subjects look like those of regions, or the reverse, all of them."""
    return any(
        all(kind.fullmatch(one) for one in wrong) and not any(kind.fullmatch(one) for one in right)
        for kind, wrong, right in ((SUBJECT, regions, subjects), (REGION, subjects, regions))
    )


LabelledRDMs = xr.DataArray | Mapping[str, xr.DataArray]


def labelled_items(stacks: LabelledRDMs) -> tuple[np.ndarray, list[str], list[str]]:
    """Take a stack of RDMs, or stacks by region, apart: values, subjects and regions of the items.

    Stacks by region are joined by stimulus id. RDMs that are NaN altogether are left out: a region
    that a subject does not have.
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
        _check_same_stimuli(ids, stack["anchor"].values, region)
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


def with_units(
    items: Items, units: Sequence[Tensor | np.ndarray], subjects: Sequence[object]
) -> Items:
    """Add what Framed RSA needs of units to RDMs, after a check."""
    n = items.rdms.shape[-1]
    if len(units) != len(items.rdms):
        raise ShapeError(
            f"`units` must have responses for each of the {len(items.rdms)} RDMs, in their order; "
            f"got {len(units)}."
        )
    for one, subject in zip(units, subjects, strict=True):
        shape = tuple(getattr(one, "shape", ()))
        if len(shape) != 2 or shape[0] != n or not shape[1]:
            raise ShapeError(
                f"`units` must each have shape ({n}, n_units), one row for each stimulus of the "
                f"RDMs; got {shape} for subject {subject!r}."
            )
        if not torch.as_tensor(one).isfinite().all():
            raise DataError(
                f"`units` of subject {subject!r} have values that are NaN or infinite. Leave out "
                "the stimuli or the units concerned."
            )
    return items._replace(frame=frame_of(units))


def items_of_recordings(recordings: LabelledRDMs) -> Items:
    """Make items of labelled recordings: correlation distances, and what Framed RSA needs.

    One recording (stimulus, unit) with `region` and `subject` on its units, or one by region, with
    `subject`; joined by stimulus id.
    """
    if isinstance(recordings, xr.DataArray):
        check_has(recordings, "region", "the recording")
        recordings = {str(k): part for k, part in split_units(recordings, "region").items()}
    ids: np.ndarray | None = None
    rdms, units, subjects, regions = [], [], [], []
    for region, recording in recordings.items():
        check_has(recording, "subject", f"the recording of region {region!r}")
        checked = check_recording(recording, name=f"recording of region {region!r}")
        ids = checked["stimulus"].values if ids is None else ids
        _check_same_stimuli(ids, checked["stimulus"].values, region)
        for subject, part in split_units(checked.sel(stimulus=ids), "subject").items():
            rdms.append(1 - build_rsms(part).values)
            units.append(part.values)
            subjects.append(str(subject))
            regions.append(region)
    return checked_items(np.stack(rdms), subjects, regions)._replace(frame=frame_of(units))


def check_has(recording: xr.DataArray, label: str, name: str) -> None:
    """Refuse a recording whose units have no such label."""
    if label not in recording.coords or recording[label].dims != ("unit",):
        raise DataError(
            f"Units of {name} must be labelled by {label}: `recording.assign_coords({label}="
            '("unit", [...]))`.'
        )


def _check_same_stimuli(ids: np.ndarray, others: np.ndarray, region: str) -> None:
    if set(ids) != set(others):
        only = sorted(set(map(str, ids)) ^ set(map(str, others)))
        raise StimulusError(
            f"All regions must have the same stimuli; {len(only)} are not in region "
            f"{region!r} or only there: {', '.join(only[:5])}."
        )


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


Rule = Literal["best_match", "centroid"]


PART = 2**22  # weights of pairs at a time


def products(vectors: Tensor, rule: Rule) -> Tensor:
    """Inner products (..., n, n) of condensed RDMs, less their mean for "best_match"."""
    x = vectors - vectors.mean(-1, keepdim=True) if rule == "best_match" else vectors
    return x @ x.mT


def resampled_products(vectors: Tensor, rule: Rule, counts: Tensor) -> Tensor:
    """`products` (n_resamples, n_items, n_items) where pairs occur as often as ``counts`` say."""
    n_stimuli = counts.shape[-1]
    first, second = torch.triu_indices(n_stimuli, n_stimuli, 1).unbind()
    found = []
    for part in counts.to(vectors).split(max(1, PART // len(first))):
        weights = part[:, first] * part[:, second]
        gram = torch.stack([(weights * item) @ vectors.mT for item in vectors], -2)
        if rule == "best_match":
            sums = weights @ vectors.mT
            total = weights.sum(-1)[:, None, None]
            gram = gram - sums.unsqueeze(-1) * sums.unsqueeze(-2) / total
        found.append(gram)
    return torch.cat(found)


def match_scores(gram: Tensor, references: Tensor, rule: Rule, items: Tensor) -> Tensor:
    """Score items (m,) with every region's mean over reference items: (..., m, n_regions).

    ``gram`` is from `products` with the same rule; ``references`` (n_items, n_regions, n_items)
    have a 1 for the items that make the mean of a region for an item. Larger is nearer: the
    correlation with the mean, or minus the squared Euclidean distance from it; NaN where a region
    has no reference, or an RDM is constant.
    """
    references = references.to(gram).index_select(0, items)
    absent = references.sum(-1) == 0
    count = references.sum(-1).clamp_min(1)
    to_mean = torch.einsum("...ij,irj->...ir", gram.index_select(-2, items), references) / count
    half = torch.einsum("irj,...jk->...irk", references, gram)
    of_mean = torch.einsum("...irk,irk->...ir", half, references) / count.square()
    own = gram.diagonal(dim1=-2, dim2=-1).index_select(-1, items).unsqueeze(-1)
    if rule == "centroid":
        scores = 2 * to_mean - own - of_mean
    else:  # without a division by 0, whose gradient would not be a number
        scores = to_mean / (own * of_mean.masked_fill(absent, 1.0)).sqrt()
    return scores.masked_fill(absent, torch.nan)


def best_region(scores: Tensor) -> Tensor:
    """Region (..., n_items) of the best score; -1 where a score is not a number."""
    best = scores.nan_to_num(-torch.inf).argmax(-1)
    return torch.where(scores.isnan().any(-1), -1, best)
