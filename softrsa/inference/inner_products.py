r"""Inner products of RSMs over many resamples at once, as matrix products.

Where stimulus i occurs :math:`w_i` times, pair (i, j) occurs :math:`w_i w_j` times, and the copies
of a stimulus make no pair. So every inner product over a resample is
:math:`\sum_{i<j} w_i w_j A_{ij} B_{ij}`: resamples times pairs, times pairs times products.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from softrsa._ranks import in_order, runs_of_equals, true_places
from softrsa.errors import DataError
from softrsa.inference.pair_table import Stack
from softrsa.measures import Embedding
from softrsa.measures.correlation import centered
from softrsa.transforms import double_center

PRODUCT_BYTES = 64e6  # of the table of products that is held at once
FEWEST_DIFFERENT = 3  # stimuli of a resample that is scored
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
    plain = _plain(stack, counts)
    shares = None if stack.embed.offsets == "kept" else _offsets(stack, counts)
    return embedded(stack.embed, plain, shares)


def embedded(embed: Embedding, plain: Forms, shares: Forms | None) -> tuple[Forms, Forms]:
    """Take from inner products of entries what is removed, ``shares`` being that of offsets.

    The second forms are those of normalized subjects, of which whitening is no part.
    """
    before = plain
    form = plain if shares is None else plain.less(shares)
    if embed.of == "deviations":
        means = plain.ones_models / plain.ones, plain.ones_subjects / plain.ones
        form, plain = form.without_mean(*means), plain.without_mean(*means)
    return without_rounding(form, before), form if embed.offsets == "removed" else plain


def prepared(stack: Stack) -> Stack:
    """Remove beforehand what the measure ignores, so that sums of large numbers do not cancel."""
    values = stack.values
    if stack.embed.of == "deviations":
        values = centered(values)
    elif stack.embed.offsets == "removed" and not stack.n_missing:
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
    mask = stack.squares(values[-1:])[0]
    near = counts @ mask.T  # how many partners a stimulus has
    sums, apart = _row_sums(stack, values, counts)
    on_diagonal = near + 2 if stack.embed.offsets == "whitened" else near
    if stack.n_missing:
        total = _solved(mask * counts[:, None] + torch.diag_embed(on_diagonal), sums, counts)
    else:
        total = _solved_complete(on_diagonal, sums, counts)
    if not stack.once:
        # the last term fixes the offsets' mean, of which their differences say nothing
        system = torch.diag_embed(near) - mask * counts[:, None] + counts[:, None]
        more = _solved(system, apart, counts)
        total, sums = torch.cat([total, more], 1) * 2, torch.cat([sums, apart], 1)
    return total, sums


def _row_sums(stack: Stack, values: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of the sums (r, n, k) of rows and columns, and half their difference; a square each."""
    squares = (stack.squares(one[None])[0] for one in values)
    if stack.once:
        sums = torch.stack([counts @ square for square in squares], -1)
        return sums, sums  # which are those of rows and columns
    both = [torch.stack([counts @ square.mT, counts @ square]) for square in squares]
    rows, columns = torch.stack(both, -1)
    return (rows + columns) / 2, (rows - columns) / 2


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
    return (form.cross / form.own.sqrt()[:, :, None] / norms[:, None]).clamp_(-1.0, 1.0)


def form_ceilings(
    form: Forms, plain: Forms, together: Tensor, subject_counts: Tensor
) -> tuple[Tensor, Tensor]:
    """Lower and upper ceilings (r, n_subjects) where subjects occur so often (r, n_subjects).

    The mean RSM counts a subject as often as it occurs; the lower ceiling leaves out its copies,
    and all who are ``together`` with it (n_subjects, n_subjects).
    """
    scale = plain.among.diagonal(dim1=1, dim2=2).rsqrt()
    among = form.among * scale[:, :, None] * scale[:, None]
    own = among.diagonal(dim1=1, dim2=2)
    to_all = (among @ subject_counts[..., None]).squeeze(-1)
    of_all = (subject_counts * to_all).sum(1, keepdim=True)
    to_group = ((among * together) @ subject_counts[..., None]).squeeze(-1)
    of_group = (subject_counts * to_group) @ together
    to_others = to_all - to_group
    of_others = of_all - 2 * (subject_counts * to_all) @ together + of_group
    upper = to_all / (own * of_all).sqrt()
    lower = to_others / (own * of_others).sqrt()
    return lower.clamp_(-1.0, 1.0), upper.clamp_(-1.0, 1.0)


PART = 2**18  # entries of subjects' RSMs at a time: so many stay in the processor's cache
EXACT_IN_FLOAT32 = 2**22  # up to here all half-integers, hence all average ranks, are exact


def ranked_scores(stack: Stack, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scores (r, models, subjects) of resamples in which stimuli occur so often (r, n_stimuli).

    Also twice the subjects' ranks less their mean (r, subjects, q), float64, over the q pairs that
    occur, and how often each does (r, q).
    """
    exact = stack.n_stimuli**2 < 2 * EXACT_IN_FLOAT32 and bool((counts == counts.round()).all())
    dtype = torch.float32 if exact else torch.float64
    weights = stack.counts_of_pairs(counts.to(dtype))
    at, times = _occurring(weights)
    ranks = weights.new_empty(len(stack.values), *at.shape)
    for k, (order, ends, group) in enumerate(stack.places):
        upto = weights.index_select(1, order).cumsum(-1)
        upto = upto if ends is None else upto.index_select(1, ends)
        twice = upto.clone()  # twice the rank less 1/2: before + up to
        twice[:, 1:] += upto[:, :-1]
        index = group.index_select(0, at.flatten()).view(at.shape)
        torch.gather(twice, 1, index, out=ranks[k])
    ranks = ranks.sub_(weights.sum(-1, keepdim=True)).double().transpose(0, 1)
    times = times.double()
    models, subjects = ranks[:, : stack.n_models], ranks[:, stack.n_models :]
    return _correlation(models, subjects, times, stack), subjects, times


def _occurring(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Places (r, q) of the pairs with a weight (r, p), filled up to as many, and their weights."""
    there = weights > 0
    count = there.sum(1)
    longest = int(count.max())
    held = torch.arange(longest, device=weights.device) < count[:, None]
    places = torch.zeros(held.shape, dtype=torch.long, device=weights.device)
    places.view(-1)[true_places(held)] = true_places(there).remainder_(weights.shape[1])
    return places, weights.gather(1, places) * held


def _correlation(left: Tensor, right: Tensor, weights: Tensor, stack: Stack) -> Tensor:
    """Correlate (r, a, p) and (r, b, p), twice the centered ranks, of pairs with weights (r, p)."""
    weighted = right * weights[:, None]
    cross = left @ weighted.mT
    if stack.embed.untied:
        n = weights.sum(1)
        return cross * (3 / (n**3 - n))[:, None, None]
    # ranks of a constant deviate by exactly 0: the result is NaN there
    own = (left.square() @ weights[..., None]).squeeze(-1)
    # one root of both: exactly 1 of what is the same
    squares = own[..., None] * weighted.mul_(right).sum(-1)[:, None]
    return (cross / squares.sqrt()).clamp_(-1.0, 1.0)


def ranked_ceilings(
    stack: Stack, deviations: Tensor, weights: Tensor, subject_counts: Tensor
) -> tuple[Tensor, Tensor]:
    """Lower and upper ceilings (r, n_subjects) where subjects occur so often (r, n_subjects)."""
    lower, upper = torch.empty_like(subject_counts), torch.empty_like(subject_counts)
    size = max(1, PART // deviations[0].numel())
    for start in range(0, len(subject_counts), size):
        part = slice(start, start + size)
        same = slice(1) if len(weights) == 1 else part  # one resample of stimuli serves for all
        own, times = deviations[same], weights[same]
        # who is in each mean: the others of every subject's group, and last everyone
        everyone = subject_counts[part, None]
        members = torch.cat([everyone * (1 - stack.together), everyone], 1)
        pooled = _weighted_ranks(members @ own, times, everyone.sum(-1).max())
        found = _correlation(pooled, own, times, stack)
        lower[part] = found[:, :-1].diagonal(dim1=1, dim2=2)
        upper[part] = found[:, -1]
    return lower, upper


def _weighted_ranks(sums: Tensor, weights: Tensor, most: Tensor) -> Tensor:
    """Rank sums (r, k, p), of at most ``most`` doubled ranks each, anew: doubled, centered.

    Pairs occur so often (r or 1, p).
    """
    n_pairs = sums.shape[-1]
    # these sums are whole numbers; the place in their last digits tells the order once sorted
    bits = n_pairs.bit_length()
    fits = float(most * weights.sum(-1).max()) < 2 ** (31 - bits)
    keys = sums.to(torch.int32 if fits else torch.int64)
    keys = keys.bitwise_left_shift_(bits).bitwise_or_(
        torch.arange(n_pairs, dtype=keys.dtype, device=keys.device)
    )
    keys = in_order(keys)
    order = (keys & (2**bits - 1)).long()
    weights = weights[:, None].expand_as(sums).gather(-1, order)
    ranks = _middles(keys.bitwise_right_shift_(bits), weights)
    return torch.empty_like(ranks).scatter_(-1, order, ranks)


def _middles(ascending: Tensor, weights: Tensor) -> Tensor:
    """Weight below each value plus weight up to it, less all: equal values have it in common."""
    upto = weights.cumsum(-1)
    middles = (2 * upto).sub_(weights)
    first, last = runs_of_equals(ascending)
    if len(first):
        flat, sums, own = middles.view(-1), upto.view(-1), weights.reshape(-1)
        shared = sums[first] - own[first] + sums[last]
        flat[first] = shared
        length = last - first
        places = torch.arange(int(length.sum()), device=first.device)
        places += (first + 1 + length - length.cumsum(0)).repeat_interleave(length)
        flat[places] = shared.repeat_interleave(length)
    return middles.sub_(upto[..., -1:])


Drawn = tuple[Callable[[Tensor, Tensor], Tensor], Tensor]


def looped_scores(stack: Stack, counts: Tensor) -> tuple[Tensor, list[Drawn]]:
    """Scores (r, models, subjects), and of each resample the measure and what it takes of subjects.

    Measures on square RSMs, and others that say how, are told how often stimuli occur
    (`Measure.resampled`); the rest are given each pair as often as it occurs.
    """
    squares = stack.squares(stack.values) if stack.entry.on_squares else None
    scores, drawn = [], []
    for count in counts:
        times = stack.counts_of_pairs(count[None])[0].long()
        whole = bool((count == 1).all())
        function = stack.entry.function if whole else _of_resample(stack, count, times)
        if squares is not None:
            values = squares
        else:
            told = whole or stack.entry.resampled is not None
            values = stack.values if told else stack.values.repeat_interleave(times, dim=1)
        models, subjects = values[: stack.n_models], values[stack.n_models :]
        try:
            found = function(models[:, None], subjects)
        except (RuntimeError, ValueError, IndexError) as error:
            if whole or squares is not None:
                raise
            raise _not_resampled(stack, times) from error
        scores.append(found)
        drawn.append((function, subjects))
    return torch.stack(scores), drawn


def _of_resample(stack: Stack, counts: Tensor, times: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """Give the measure for stimuli that occur so often (n,)."""
    entry = stack.entry
    if not entry.on_squares and entry.resampled is None:
        return entry.function
    if entry.resampled is None:
        raise _not_resampled(stack, times)
    if int((counts > 0).sum()) < max(FEWEST_DIFFERENT, entry.smallest_n):
        first = (..., 0, 0) if entry.on_squares else (..., 0)
        return lambda x, y: (x[first] + y[first]) * torch.nan
    return partial(entry.resampled, counts=counts)


def _not_resampled(stack: Stack, times: Tensor) -> DataError:
    remedy = "Its function must take any number of pairs, with nothing of its own per pair"
    if stack.entry.on_squares:
        remedy = "Say how it scores stimuli that occur so often (`Measure.resampled`)"
    return DataError(
        f"{stack.entry.name!r} cannot score resampled stimuli: a stimulus drawn twice makes no "
        f"pair with itself, so that {int(times.sum())} of {len(times)} pairs are left. {remedy}; "
        "or say what it is the cosine of (`Measure.embed`), or resample over='subjects'."
    )


def looped_ceilings(
    stack: Stack, drawn: list[Drawn], subject_counts: Tensor
) -> tuple[Tensor, Tensor]:
    """Lower and upper ceilings (r, n_subjects) where subjects occur so often (r, n_subjects)."""
    normalize = stack.entry.normalize or torch.clone
    lower, upper = [], []
    given = drawn * len(subject_counts) if len(drawn) == 1 else drawn
    for (function, subjects), occurring in zip(given, subject_counts, strict=True):
        normal = normalize(subjects)
        everyone = torch.tensordot(occurring, normal, 1)
        away = (1 - stack.together) * occurring  # how often each occurs among a subject's others
        n_others = away.sum(1).clamp_min(1).view(-1, *[1] * (normal.ndim - 1))
        others = torch.tensordot(away, normal, 1) / n_others
        lower.append(function(subjects, others))
        upper.append(function(subjects, everyone / occurring.sum()))
    return torch.stack(lower), torch.stack(upper)


CHUNK_BYTES = 128e6


@dataclass(frozen=True)
class Scored:
    """Scores (r, models, subjects) of resamples of stimuli, and how to get their ceilings."""

    scores: Tensor
    together: Tensor  # whether two subjects are of one group (n_subjects, n_subjects)
    of_subjects: Callable[[Tensor], tuple[Tensor, Tensor]]

    def ceilings(self, subject_counts: Tensor) -> Tensor:
        """Mean lower and upper ceilings (r, 2) over the different subjects that occur.

        NaN of a single subject; where but one, or one group, is drawn, again and again, its lower
        ceiling is its upper one, as in rsatoolbox. Groups count alike. One resample of stimuli
        serves for all r of subjects.
        """
        lower, upper = self.subject_ceilings(subject_counts)
        there = (subject_counts > 0).double()
        mates = there @ self.together  # of a subject, itself among them
        several = ((mates < there.sum(1, keepdim=True)) & (there > 0)).any(1, keepdim=True)
        lower = torch.where(several, lower, upper)
        weights = torch.where(there > 0, 1 / mates, 0.0)
        bounds = torch.stack([lower, upper], 1).where(there[:, None] > 0, 0.0)
        return (bounds * weights[:, None]).sum(-1) / weights.sum(1, keepdim=True)

    def subject_ceilings(self, subject_counts: Tensor) -> tuple[Tensor, Tensor]:
        """Lower and upper ceilings (r, n_subjects) where subjects occur so often."""
        if len(self.together) < 2:
            undefined = torch.full_like(subject_counts, torch.nan)
            return undefined, undefined
        return self.of_subjects(subject_counts)


def score(stack: Stack, counts: Tensor) -> Scored:
    """Score models on resamples in which stimuli occur so often (r, n_stimuli), float64."""
    if stack.entry.embed is None:
        scores, drawn = looped_scores(stack, counts)
        ceilings = partial(looped_ceilings, stack, drawn)
    elif stack.embed.of == "ranks":
        scores, *ranked = ranked_scores(stack, counts)
        ceilings = partial(ranked_ceilings, stack, *ranked)
    else:
        forms = measured_forms(stack, counts)
        scores, ceilings = cosines(forms[0]), partial(form_ceilings, *forms, stack.together)
    return Scored(scores, stack.together, ceilings)


def score_once(stack: Stack) -> Scored:
    """Score models on the stimuli as they are."""
    return score(stack, stack.values.new_ones(1, stack.n_stimuli))


def chunks(stack: Stack, n_resamples: int) -> Iterator[slice]:
    """Split resamples into runs whose intermediate numbers fit into bounded memory."""
    n_rows, n_pairs = stack.values.shape
    budget, each = CHUNK_BYTES, 2 * n_pairs + n_rows**2
    if stack.entry.embed is None:
        each = 2 * n_rows * n_pairs
    elif stack.embed.of == "ranks":  # gone through many times, best in the processor's cache
        budget, each = CHUNK_BYTES / 16, n_rows * n_pairs
    elif stack.embed.offsets == "whitened":
        each += 3 * n_rows**2 + 4 * n_rows * stack.n_stimuli
    size = max(1, int(budget / (8 * each)))
    for start in range(0, n_resamples, size):
        yield slice(start, min(start + size, n_resamples))
