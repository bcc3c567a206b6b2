"""Permutation of stimulus labels: whether a model, or subjects' agreement, is above chance."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from softrsa._checks import check_count
from softrsa._ranks import average_ranks
from softrsa.errors import DataError
from softrsa.inference._scoring import CHUNK_BYTES, score_once
from softrsa.inference._stack import Stack, stack_rsms
from softrsa.inference.evaluation import describe
from softrsa.inference.noise_ceiling import noise_ceiling
from softrsa.inference.result import InferenceResult
from softrsa.measures import Measure, get


def permutation_test(
    models: Tensor | xr.DataArray,
    subjects_rsms: Tensor | xr.DataArray,
    measure: str | Measure | Callable[[Tensor, Tensor], Tensor],
    *,
    n_permutations: int = 1000,
    seed: int = 0,
    two_sided: bool = False,
    names: Sequence[str] | None = None,
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
        At least 1; the smallest p is 1 / (1 + n_permutations).
    seed : int
        Of the permutations; held in the result.
    two_sided : bool
        Whether absolute scores are compared, instead of whether the model is above chance.
    names : sequence of str, optional
        What to call the models.

    Returns
    -------
    InferenceResult
        With `p_permutation`; `p_permutation_fwer`, which compares with the largest score over
        models in each permutation and so holds the family-wise error rate over models; and the
        permuted scores. NaN for a constant model.

    Raises
    ------
    DTypeError, ShapeError, StimulusError, DataError, UnknownNameError
        As `evaluate`; DataError also where pairs are missing or there are no permutations.

    Notes
    -----
    Exact for the hypothesis that labels are exchangeable, whatever the distribution. Computed in
    chunks of bounded memory; values equal the measure on permuted matrices.

    References
    ----------
    Kriegeskorte, Mur & Bandettini (2008), doi:10.3389/neuro.06.004.2008; Phipson & Smyth (2010),
    doi:10.2202/1544-6115.1585.

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
    stack = stack_rsms(models, subjects_rsms, measure, names)
    if stack.n_missing:
        raise DataError(
            f"Stimuli cannot be exchanged where pairs are missing: {stack.n_missing} are NaN in "
            "some RSM. Leave out the stimuli they belong to."
        )
    rng = torch.Generator().manual_seed(seed)
    orders = torch.stack(
        [torch.randperm(stack.n_stimuli, generator=rng) for _ in range(n_permutations)]
    )
    permuted = torch.cat(list(_permuted_scores(stack, orders.to(stack.first.device))))
    settings = {"seed": seed, "n_permutations": n_permutations, "two_sided": int(two_sided)}
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


def _permuted_scores(stack: Stack, orders: Tensor) -> Iterator[Tensor]:
    """Mean scores over subjects (chunk, models), the models permuted, so many at a time."""
    if stack.entry.name == "spearman":  # ranks are permuted with the pairs
        stack = replace(stack, entry=get("pearson"), values=average_ranks(stack.values))
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
    rsms: Tensor,
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
    rsms : Tensor, shape (n_subjects, n_stimuli, n_stimuli)
        Square RSMs or RDMs of at least two subjects, no pair missing.
    measure : str, Measure or callable
        Of RSMs: a name of `softrsa.measures.available`, its entry, or its function.
    n_permutations : int
        At least 1.
    seed : int
        Of the permutations.

    Returns
    -------
    CeilingTest
        One-sided.

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
    stack = stack_rsms(rsms, rsms, measure)
    if stack.n_missing or stack.n_subjects < 2:
        raise DataError(
            "Agreement above chance needs at least 2 subjects and all pairs, got "
            f"{stack.n_subjects} and {stack.n_missing} missing ones."
        )
    check_count("n_permutations", n_permutations, 1)
    rng = torch.Generator().manual_seed(seed)
    squares = rsms.detach().double()
    subjects = torch.arange(len(squares), device=rsms.device)[:, None, None]
    orders = torch.rand(n_permutations, *squares.shape[:2], generator=rng).argsort(-1)
    permuted = []
    for some in orders.to(rsms.device).split(max(1, int(CHUNK_BYTES / 8 / (8 * squares.numel())))):
        mixed = squares[subjects, some[..., :, None], some[..., None, :]]
        permuted.append(noise_ceiling(mixed, stack.entry).lower.mean(-1))
    lower = float(noise_ceiling(squares, stack.entry).lower.mean())
    found = torch.cat(permuted).cpu().numpy()
    p, _ = _tail_shares(np.array([lower]), found[:, None], two_sided=False)
    return CeilingTest(lower, float(p[0]), found)
