r"""Inner products of RSMs over many resamples at once, as matrix products.

Where stimulus i occurs :math:`w_i` times, pair (i, j) occurs :math:`w_i w_j` times, and the copies
of a stimulus make no pair. So every inner product over a resample is
:math:`\sum_{i<j} w_i w_j A_{ij} B_{ij}`: resamples times pairs, times pairs times products.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from softrsa.inference._stack import Stack
from softrsa.measures.correlation import centered
from softrsa.transforms import double_center

PRODUCT_MEASURES = ("pearson", "cosine", "whitened_pearson", "whitened_cosine", "centered_pearson")
WHITENED = ("whitened_pearson", "whitened_cosine")
PRODUCT_BYTES = 64e6  # of the table of products that is held at once
ROUNDING = 1e-12  # a squared norm below this share of what it was before centering is none


@dataclass(frozen=True)
class Forms:
    """Inner products per resample: what any of these measures and its ceilings are made of.

    ``cross`` (r, models, subjects), ``own`` (r, models) of models with themselves, ``among``
    (r, subjects, subjects), and with an RSM of ones: ``ones_models`` (r, models), ``ones_subjects``
    (r, subjects), ``ones`` (r, 1).
    """

    cross: Tensor
    own: Tensor
    among: Tensor
    ones_models: Tensor
    ones_subjects: Tensor
    ones: Tensor

    def less(self, other: Forms) -> Forms:
        """Subtract, each from each."""
        mine, theirs = (tuple(vars(forms).values()) for forms in (self, other))
        return Forms(*(left - right for left, right in zip(mine, theirs, strict=True)))

    def without_mean(self, models: Tensor, subjects: Tensor) -> Forms:
        """Products of the RSMs less these means (r, models) and (r, subjects)."""
        with_models = self.ones_models - models * self.ones  # of the centered with ones
        with_subjects = self.ones_subjects - subjects * self.ones
        cross = (
            self.cross
            - models[:, :, None] * self.ones_subjects[:, None]
            - with_models[:, :, None] * subjects[:, None]
        )
        among = (
            self.among
            - subjects[:, :, None] * self.ones_subjects[:, None]
            - with_subjects[:, :, None] * subjects[:, None]
        )
        own = self.own - models * (self.ones_models + with_models)
        return Forms(cross, own, among, with_models, with_subjects, self.ones)


def measured_forms(stack: Stack, counts: Tensor) -> tuple[Forms, Forms]:
    """Inner products the measure is the cosine of, and those that subjects are normalized by.

    ``counts`` (r, n_stimuli) in float64. NaN where an RSM is constant in a resample.
    """
    stack = prepared(stack)
    plain = before = _plain(stack, counts)
    name = stack.entry.name
    form = plain
    if name in (*WHITENED, "centered_pearson"):
        form = plain.less(_offsets(stack, counts))
    if name in ("pearson", "whitened_pearson"):
        means = plain.ones_models / plain.ones, plain.ones_subjects / plain.ones
        form, plain = form.without_mean(*means), plain.without_mean(*means)
    if name == "centered_pearson":
        plain = form
    return without_rounding(form, before), plain


def prepared(stack: Stack) -> Stack:
    """Remove beforehand what the measure ignores, so that sums of large numbers do not cancel."""
    name, values = stack.entry.name, stack.values
    if name in ("pearson", "whitened_pearson"):
        values = centered(values)
    elif name == "centered_pearson" and not stack.n_missing:
        values = double_center(stack.squares(values))[:, stack.first, stack.second]
    return replace(stack, values=values)


def _plain(stack: Stack, counts: Tensor) -> Forms:
    weights = stack.counts_of_pairs(counts)
    models, subjects = stack.of_models, stack.of_subjects
    return Forms(
        _products(weights, models, subjects),
        weights @ models.square().T,
        _products(weights, subjects, subjects),
        weights @ models.T,
        weights @ subjects.T,
        weights.sum(1, keepdim=True),
    )


def _products(weights: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Inner products (r, a, b) of (a, p) and (b, p), pairs weighted (r, p)."""
    if len(weights) == 1:
        return ((left * weights) @ right.T)[None]
    at_once = max(1, int(PRODUCT_BYTES / (8 * right.numel())))
    some = [weights @ (part[:, None] * right).flatten(0, 1).T for part in left.split(at_once)]
    return torch.cat(some, 1).unflatten(1, (len(left), len(right)))


def _offsets(stack: Stack, counts: Tensor) -> Forms:
    """Share of each inner product that one number per stimulus explains."""
    total, sums = offsets(stack, counts)
    m, k = stack.n_models, len(stack.values)
    of_models, of_subjects, of_ones = total[..., :m], total[..., m:k], total[..., k:]
    return Forms(
        of_models.mT @ sums[..., m:k],
        (of_models * sums[..., :m]).sum(1),
        of_subjects.mT @ sums[..., m:k],
        (of_models * sums[..., k:]).sum(1),
        (of_subjects * sums[..., k:]).sum(1),
        (of_ones * sums[..., k:]).sum(1),
    )


def offsets(stack: Stack, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Offsets and row sums (r, n, k + 1) of all entries and of ones: their products are the share.

    An RSM less its least-squares offsets :math:`A_{ij} - a_i - a_j` has rows that sum to zero over
    the resample. Whitening keeps the (zero) diagonal of the copies as data, centering does not.
    Of asymmetric RSMs (r, 2 n, k + 1), for rows and columns apart.
    """
    values = torch.cat([stack.values, torch.ones_like(stack.values[:1])])
    square = stack.squares(values)
    mask = square[-1]
    near = counts @ mask.T  # how many partners a stimulus has
    sums = torch.einsum("rj,kij->rik", counts, square + square.mT) / 2
    on_diagonal = near + 2 if stack.entry.name in WHITENED else near
    if stack.n_missing:
        total = _solved(mask * counts[:, None] + torch.diag_embed(on_diagonal), sums, counts)
    else:
        total = _solved_complete(on_diagonal, sums, counts)
    if not stack.once:
        apart = torch.einsum("rj,kij->rik", counts, square - square.mT) / 2
        # the last term fixes the offsets' mean, of which their differences say nothing
        system = torch.diag_embed(near) - mask * counts[:, None] + counts[:, None]
        more = _solved(system, apart, counts)
        total, sums = torch.cat([total, more], 1) * 2, torch.cat([sums, apart], 1)
    return total, sums


def _solved_complete(on_diagonal: Tensor, sums: Tensor, counts: Tensor) -> Tensor:
    """Solve as `_solved` does where no pair is missing: a diagonal and a product of two vectors."""
    rest = (on_diagonal - counts)[..., None]
    weights = counts[..., None]
    half = (rest == 0).any(1).squeeze(-1)  # a stimulus makes up half of the resample
    rest = rest.masked_fill(half[:, None, None], 1.0)
    common = (weights * sums / rest).sum(1, keepdim=True)
    common /= 1 + (weights / rest).sum(1, keepdim=True)
    found = weights * ((sums - common) / rest)
    if half.any():
        n = counts.shape[1]
        mask = 1 - torch.eye(n, dtype=counts.dtype, device=counts.device)
        system = mask * counts[half][:, None] + torch.diag_embed(on_diagonal[half])
        found[half] = _solved(system, sums[half], counts[half])
    return found


def _solved(system: Tensor, sums: Tensor, counts: Tensor) -> Tensor:
    """Offsets times how often their stimulus occurs, (r, n, k); NaN where they are undetermined."""
    found, failed = torch.linalg.solve_ex(system, sums)
    return counts[..., None] * found.masked_fill((failed != 0)[:, None, None], torch.nan)


def without_rounding(form: Forms, before: Forms) -> Forms:
    """NaN for RSMs of which nothing but rounding is left in a resample."""
    own = form.own.masked_fill(form.own <= ROUNDING * before.own, torch.nan)
    norms, were = (forms.among.diagonal(dim1=1, dim2=2) for forms in (form, before))
    lost = norms <= ROUNDING * were
    among = form.among.masked_fill(lost[:, None] | lost[:, :, None], torch.nan)
    return Forms(form.cross, own, among, form.ones_models, form.ones_subjects, form.ones)


def cosines(form: Forms) -> Tensor:
    """Scores (r, models, subjects) from inner products."""
    norms = form.among.diagonal(dim1=1, dim2=2).sqrt()
    return form.cross / form.own.sqrt()[:, :, None] / norms[:, None]


def form_ceilings(form: Forms, plain: Forms, subject_counts: Tensor) -> tuple[Tensor, Tensor]:
    """Lower and upper ceilings (r, n_subjects) where subjects occur so often (r, n_subjects).

    The mean RSM counts a subject as often as it occurs; the lower ceiling leaves out its copies.
    """
    scale = plain.among.diagonal(dim1=1, dim2=2).rsqrt()
    among = form.among * scale[:, :, None] * scale[:, None]
    own = among.diagonal(dim1=1, dim2=2)
    to_all = (among @ subject_counts[..., None]).squeeze(-1)
    of_all = (subject_counts * to_all).sum(1, keepdim=True)
    to_others = to_all - subject_counts * own
    of_others = of_all - 2 * subject_counts * to_all + subject_counts.square() * own
    upper = to_all / (own * of_all).sqrt()
    lower = to_others / (own * of_others).sqrt()
    return lower, upper
