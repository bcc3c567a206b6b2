"""Permutation of stimulus labels: whether a model, or subjects' agreement, is above chance."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from softrsa._checks import check_count
from softrsa._groups import (
    Groups,
    every_key,
    exchange,
    n_exchanges,
    n_within,
    shuffle_within,
)
from softrsa._wording import counted, listed
from softrsa.errors import DataError, unknown_name
from softrsa.inference.controlled import stack_given
from softrsa.inference.inner_products import (
    CHUNK_BYTES,
    ranked_ceilings,
    ranked_scores,
    score_once,
)
from softrsa.inference.matched import permuted_products, unit_squares
from softrsa.inference.pair_table import (
    Labels,
    Stack,
    find_measure,
    stack_subjects,
    unlabeled,
    with_groups,
)
from softrsa.inference.result import InferenceResult, describe
from softrsa.measures import Measure, cosine
from softrsa.measures.missing import check_leaves_out, on_held_pairs

SMALLEST_P = 0.05  # what an exchange of groups must be able to reach


def permutation_test(
    models: Tensor | xr.DataArray,
    subjects_rsms: Tensor | xr.DataArray,
    measure: str | Measure | Callable[[Tensor, Tensor], Tensor],
    *,
    n_permutations: int = 1000,
    seed: int = 0,
    two_sided: bool = False,
    names: Sequence[str] | None = None,
    control: Tensor | xr.DataArray | None = None,
    stimulus_groups: Labels = None,
    permute: Literal["between", "within"] = "between",
) -> InferenceResult:
    r"""Test each model against chance by permuting the stimulus labels of its RSM.

    Rows and columns are permuted together, the same way for all models, and

    .. math:: p = \frac{1 + \#\{\text{permuted} \ge \text{observed}\}}{1 + n}

    Parameters
    ----------
    models : Tensor, shape (n_models, n_stimuli, n_stimuli) or (n_models, n_pairs), or DataArray
        RSMs or RDMs; see `evaluate`. No pair may be missing.
    subjects_rsms : Tensor or DataArray
        Of each subject, of the same stimuli; one subject is enough. Scores are means over subjects.
    measure : str, Measure or callable
        Of RSMs: a name of `softrsa.measures.available`, its entry, or its function.
    n_permutations : int
        At least 1; the smallest p is 1 / (1 + n_permutations). Where groups allow no more orders
        than that, each is taken once, and p is exact.
    seed : int
        Of the permutations; held in the result.
    two_sided : bool
        Whether absolute scores are compared, instead of whether the model is above chance.
    names : sequence of str, optional
        What to call the models.
    control : Tensor or DataArray, optional
        RSMs that are held constant; see `evaluate`. What the control leaves of a model is permuted,
        and scored with what it leaves of the subjects: a partial Mantel test. All pairs must be
        there then.
    stimulus_groups : sequence or str, optional
        The group of each stimulus in the order of the models, such as its category, video or
        session; or the name of a coordinate that holds them.
    permute : {"between", "within"}
        What is exchanged where stimuli have groups. "between": whole groups, which must be of one
        size and keep the order of their stimuli; valid where stimuli of a group depend on each
        other, and groups do not. "within": the stimuli of each group, all groups staying where they
        are; that groups differ is then no finding, only what a model says beyond the groups.

    Returns
    -------
    InferenceResult
        With `p_permutation`; `p_permutation_fwer`, which compares with the largest score over
        models in each permutation and so holds the family-wise error rate over models; and the
        permuted scores. NaN for a constant model.

    Raises
    ------
    DTypeError, ShapeError, StimulusError, DataError, UnknownNameError
        As `evaluate`; DataError also where pairs are missing and the measure needs all of them,
        there are no permutations, groups to exchange differ in size, or so few orders are possible
        that p could not be .05; UnknownNameError also where ``permute`` is neither.

    Notes
    -----
    Exact for the hypothesis that labels (with groups: of groups, or within them) are exchangeable,
    whatever the distribution. Computed in
    chunks of bounded memory; values equal the measure on permuted matrices. Where pairs are
    missing, those that a permuted model or a subject lacks are left out of all, one permutation
    after another.

    References
    ----------
    Kriegeskorte, Mur & Bandettini (2008), doi:10.3389/neuro.06.004.2008; Phipson & Smyth (2010),
    doi:10.2202/1544-6115.1585; Legendre (2000), doi:10.1080/00949650008812035, on permuting
    residuals; Winkler et al. (2015), doi:10.1016/j.neuroimage.2015.05.092, on blocks.

    Examples
    --------
    >>> rng = torch.Generator().manual_seed(0)
    >>> models = torch.rand(2, 45, generator=rng)
    >>> subjects = models[0] + torch.rand(3, 45, generator=rng)
    >>> result = permutation_test(models, subjects, "pearson", n_permutations=199)
    >>> result.table[["model", "p_permutation"]]
         model  p_permutation
    0  model 1          0.005
    1  model 2          0.160
    """
    check_count("n_permutations", n_permutations, 1)
    if permute not in ("between", "within"):
        raise unknown_name("way to permute", permute, ("between", "within"))
    stack, given = stack_given(models, subjects_rsms, measure, names, control)
    stack = with_groups(stack, models, subjects_rsms, stimuli=stimulus_groups)
    if stack.n_missing:
        check_leaves_out(stack.entry, "the RSMs")
    rng = torch.Generator().manual_seed(seed)
    orders = _orders(stack.stimulus_groups, permute, n_permutations, rng)
    permuted = _permuted_scores(stack, orders.to(stack.first.device))
    settings = {"seed": seed, "n_permutations": len(orders), "two_sided": int(two_sided)} | given
    if stimulus_groups is not None:
        settings["permute"] = permute
    data = describe(stack, **settings, procedure="permutation_test")
    p, p_fwer = _tail_shares(
        data["score"].mean("subject", skipna=False).values, permuted.cpu().numpy(), two_sided
    )
    return InferenceResult(
        data.assign(
            permuted_score=(("permutation", "model"), permuted.cpu().numpy()),
            p_permutation=("model", p),
            p_permutation_fwer=("model", p_fwer),
        )
    )


def _orders(groups: Groups, permute: str, n: int, rng: torch.Generator) -> Tensor:
    """Orders (r, n_stimuli) of stimuli: random ones, or all others where there are so few."""
    if groups.are_single and permute == "between":
        return torch.stack([torch.randperm(len(groups), generator=rng) for _ in range(n)])
    between = permute == "between"
    make, n_orders = (exchange, n_exchanges) if between else (shuffle_within, n_within)
    _check_exchangeable(groups, n_orders(groups), between=between)
    if n_orders(groups) <= 1 + n:
        keys = every_key([len(groups)] if between else groups.sizes.tolist())
        # keys within groups follow their members
        places = torch.arange(len(groups)) if between else groups.codes.argsort(stable=True)
        return make(groups, keys[:, places.argsort()])
    return make(groups, torch.rand(n, len(groups) if between else len(groups.codes), generator=rng))


def _check_exchangeable(groups: Groups, n_orders: int, *, between: bool) -> None:
    sizes = groups.sizes.unique().tolist()
    if between and len(sizes) > 1:
        raise DataError(
            f"Whole groups can be exchanged where they are of one size, and `stimulus_groups` have "
            f"{listed(sizes)} stimuli. Use permute='within', which exchanges the stimuli of each "
            "group, or leave out stimuli until groups are of one size."
        )
    if n_orders * SMALLEST_P < 1:
        other = (
            "permute='within' exchanges stimuli within them, or use more groups"
            if between and max(sizes) > 1
            else "use larger groups, or permute='between'"
        )
        raise DataError(
            f"{counted(len(groups), 'group')} can be put in {n_orders} orders only, so that the "
            f"smallest p is {1 / n_orders:.3g}: nothing could be significant at {SMALLEST_P:g}. "
            f"Instead, {other}."
        )


def _permuted_scores(stack: Stack, orders: Tensor) -> Tensor:
    """Mean scores over subjects (r, models), the models permuted."""
    if stack.whole is not None:
        return torch.stack([_permuted_held(stack, stack.whole, order) for order in orders])
    if stack.entry.embed is None:
        return torch.cat(list(_scores_of_permuted(stack, orders)))
    models, subjects = unit_squares(stack).split([stack.n_models, stack.n_subjects])
    target = subjects.mean(0, keepdim=True)
    scores = (permuted_products(one, target, orders, symmetric=stack.once) for one in models)
    return torch.cat(list(scores), 1)


def _permuted_held(stack: Stack, whole: Tensor, order: Tensor) -> Tensor:
    """Mean scores (models,) of models whose stimuli, and the pairs they lack, are permuted."""
    models, subjects = whole.split([stack.n_models, stack.n_subjects])
    mixed = models[:, order][:, :, order]
    return on_held_pairs(stack.entry).between(mixed[:, None], subjects[None]).mean(-1)


def _scores_of_permuted(stack: Stack, orders: Tensor) -> Iterator[Tensor]:
    """Mean scores (chunk, models), each permuted RSM scored by the function."""
    squares = stack.squares(stack.of_models)
    size = max(1, int(CHUNK_BYTES / 4 / (8 * stack.n_models * len(stack.first))))
    for some in orders.split(size):
        rows, columns = some[:, stack.first], some[:, stack.second]
        models = squares[:, rows, columns].transpose(0, 1)  # (chunk, models, pairs)
        values = torch.cat([models.flatten(0, 1), stack.of_subjects])
        n = len(some) * stack.n_models
        scores = score_once(replace(stack, values=values, n_models=n)).scores[0]
        yield scores.unflatten(0, (len(some), stack.n_models)).mean(-1)


def _tail_shares(
    observed: np.ndarray, permuted: np.ndarray, two_sided: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Share of permutations at least as large, per model and against the largest over models."""
    if two_sided:
        observed, permuted = np.abs(observed), np.abs(permuted)
    reached = observed - 1e-12 * np.abs(observed)  # a tie stays one whatever the order of sums
    defined = np.isfinite(observed)
    largest = permuted[:, defined].max(1, initial=-np.inf)
    n = len(permuted)
    own = (1 + (permuted >= reached).sum(0)) / (1 + n)
    family = (1 + (largest[:, None] >= reached).sum(0)) / (1 + n)
    return np.where(defined, own, np.nan), np.where(defined, family, np.nan)


@dataclass(frozen=True)
class CeilingTest:
    """Whether subjects agree above chance: `noise_ceiling_test`.

    Attributes
    ----------
    lower : float
        Mean lower noise ceiling of the data.
    p : float
        Share of permutations with a lower ceiling at least as high.
    permuted : ndarray, shape (n_permutations,)
        Mean lower ceilings after permutation.
    """

    lower: float
    p: float
    permuted: np.ndarray


def noise_ceiling_test(
    rsms: Tensor | xr.DataArray,
    measure: str | Measure | Callable[[Tensor, Tensor], Tensor],
    *,
    n_permutations: int = 1000,
    seed: int = 0,
) -> CeilingTest:
    """Test whether the lower noise ceiling is above chance, by permuting each subject's stimuli.

    Lower ceilings of subjects share all the other subjects, so a t test over them would find
    agreement too often; under permutation they keep that dependence.

    Parameters
    ----------
    rsms : Tensor, shape (n_subjects, n_stimuli, n_stimuli) or (n_subjects, n_pairs), or DataArray
        RSMs or RDMs of at least two subjects, square, condensed, or a labelled stack with dims
        (subject, anchor, neighbor). No pair may be missing.
    measure : str, Measure or callable
        Of RSMs: a name of `softrsa.measures.available`, its entry, or its function.
    n_permutations : int
        At least 1.
    seed : int
        Of the permutations.

    Returns
    -------
    CeilingTest
        One-sided. NaN where a subject's RSM is constant: leave that subject out.

    Raises
    ------
    DTypeError, ShapeError, DataError, UnknownNameError
        As `evaluate`; DataError also for one subject or missing pairs.

    Examples
    --------
    >>> from softrsa.pairs import expand
    >>> rng = torch.Generator().manual_seed(0)
    >>> rsms = expand(torch.rand(45, generator=rng) + torch.rand(5, 45, generator=rng))
    >>> noise_ceiling_test(rsms, "pearson", n_permutations=99).p
    0.01
    """
    check_count("n_permutations", n_permutations, 1)
    if isinstance(rsms, xr.DataArray):
        rsms = unlabeled(rsms, find_measure(measure))
    stack = _with_mirrored(stack_subjects(rsms, measure))
    if stack.n_missing or stack.n_subjects < 2:
        raise DataError(
            "Agreement above chance needs at least 2 subjects and all pairs, got "
            f"{stack.n_subjects} and {stack.n_missing} missing ones."
        )
    everyone = stack.values.new_ones(1, stack.n_subjects)
    lower = float(score_once(stack).subject_ceilings(everyone)[0].mean())
    rng = torch.Generator().manual_seed(seed)
    orders = torch.rand(n_permutations, stack.n_subjects, stack.n_stimuli, generator=rng)
    permuted = _permuted_ceilings(stack, orders.argsort(-1).to(stack.values.device))
    found = torch.cat(list(permuted)).cpu().numpy()
    p, _ = _tail_shares(np.array([lower]), found[:, None], two_sided=False)
    return CeilingTest(lower, float(p[0]), found)


def _with_mirrored(stack: Stack) -> Stack:
    """Hold pairs both ways where what normalizes symmetric RSMs does not leave them symmetric."""
    if not stack.once or not stack.entry.on_squares or stack.entry.embed is not None:
        return stack
    squares = stack.squares(stack.values)
    normal = (stack.entry.normalize or torch.clone)(squares).nan_to_num()
    if torch.allclose(normal, normal.mT):
        return stack
    first, second = torch.cat([stack.first, stack.second]), torch.cat([stack.second, stack.first])
    values = squares[:, first, second]
    return replace(stack, values=values, first=first, second=second, once=False)


def _permuted_ceilings(stack: Stack, orders: Tensor) -> Iterator[Tensor]:
    """Mean lower ceilings (chunk,) of subjects permuted in orders (r, n_subjects, n_stimuli).

    What normalizes a subject, ranks above all, is computed once, and permuted with its pairs.
    """
    n, n_pairs = stack.n_stimuli, len(stack.first)
    places = torch.arange(n_pairs, device=orders.device)
    pair = orders.new_zeros(n, n)
    pair[stack.first, stack.second] = places
    if stack.once:
        pair[stack.second, stack.first] = places
    values, lower = _lower_ceilings(stack)
    size = max(1, int(CHUNK_BYTES / 32 / (8 * values.numel())))
    for some in orders.split(size):
        index = some.index_select(-1, stack.first).mul_(n).add_(some.index_select(-1, stack.second))
        index = pair.take(index).expand(len(values), *index.shape)
        yield lower(values[:, None].expand_as(index).gather(-1, index)).mean(-1)


def _lower_ceilings(stack: Stack) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Give pairs (k, n_subjects, n_pairs) and what makes ceilings (r, n_subjects) of permuted ones.

    These have the shape (k, r, n_subjects, n_pairs).
    """
    entry, subjects = stack.entry, stack.of_subjects
    if entry.embed and entry.embed.of == "ranks":
        _, ranks, times = ranked_scores(stack, subjects.new_ones(1, stack.n_stimuli))
        return ranks, lambda mixed: ranked_ceilings(
            stack, mixed[0], times.expand(mixed.shape[1], -1), torch.ones_like(mixed[0, ..., 0])
        )[0]
    if entry.on_squares:
        subjects = stack.squares(subjects)
    normal = (entry.normalize or torch.clone)(subjects)
    if entry.on_squares:
        normal = normal[:, stack.first, stack.second]
    if entry.embed and entry.embed.offsets != "whitened":  # a cosine of what is normalized
        return normal[None], lambda mixed: cosine(mixed[0], _others(mixed[0]))
    both = torch.stack([stack.of_subjects, normal])

    def lower(mixed: Tensor) -> Tensor:
        own, others = mixed[0], _others(mixed[1])
        if entry.on_squares:
            own, others = (
                stack.squares(part.flatten(0, -2)).unflatten(0, part.shape[:-1])
                for part in (own, others)
            )
        return entry.function(own, others)

    return both, lower


def _others(normal: Tensor) -> Tensor:
    """Mean of all other subjects, of each (r, n_subjects, n_pairs)."""
    return (normal.sum(-2, keepdim=True) - normal) / (normal.shape[-2] - 1)
