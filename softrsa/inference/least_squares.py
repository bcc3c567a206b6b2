"""Least squares of RSMs on others, from inner products: over resamples, subsets and held out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from softrsa._checks import check_count
from softrsa._ranks import is_rounding, rounding_of
from softrsa._wording import listed
from softrsa.errors import DataError, ShapeError, unknown_name
from softrsa.inference.bootstrap import KINDS, draw_counts, resampling_variances
from softrsa.inference.inner_products import CHUNK_BYTES
from softrsa.inference.pair_table import FEWEST_STIMULI, Stack

Method = Literal["ols", "nnls", "ridge"]
METHODS = ("ols", "nnls", "ridge")
PENALTIES = tuple(float(10.0**power) for power in np.arange(-4, 2.5, 0.5))
NOTHING = 1e-12  # of the variance of a predictor that the others leave: it is one of them
INNER_FOLDS = 3  # of stimuli, on which the penalty of a ridge is chosen


@dataclass(frozen=True)
class Moments:
    """Covariances over pairs: of predictors (r, m, m), with subjects (r, m, s), of these (r, s)."""

    among: Tensor
    cross: Tensor
    own: Tensor

    def of(self, some: Sequence[int]) -> Moments:
        """Keep some of the predictors."""
        at = list(some)
        return Moments(self.among[:, at][:, :, at], self.cross[:, at], self.own)

    def correlations(self) -> Moments:
        """Bring all variances to 1; NaN where there is none."""
        sd = self.among.diagonal(dim1=1, dim2=2).sqrt()
        of_subjects = self.own.sqrt()
        sd, of_subjects = (one.masked_fill(one == 0, torch.nan) for one in (sd, of_subjects))
        return Moments(
            self.among / (sd[:, :, None] * sd[:, None]),
            self.cross / (sd[:, :, None] * of_subjects[:, None]),
            torch.ones_like(self.own) + 0 * of_subjects,
        )


def moments(values: Tensor, n_models: int, weights: Tensor) -> Moments:
    """Covariances of standardized entries (m + s, p), pairs weighted (r, p); as biased ones."""
    models, subjects = values[:n_models], values[n_models:]
    rows, columns = torch.triu_indices(n_models, n_models, device=values.device)
    products = torch.cat([
        models[rows] * models[columns],
        (models[:, None] * subjects).flatten(0, 1),
        subjects.square(),
        values,
    ])  # fmt: skip
    sums = weights @ products.T / weights.sum(1, keepdim=True)
    sizes = [len(rows), n_models * len(subjects), len(subjects), len(values)]
    upper, cross, own, means = sums.split(sizes, 1)
    of_models, of_subjects = means[:, :n_models], means[:, n_models:]
    among = values.new_zeros(len(weights), n_models, n_models)
    among[:, rows, columns] = among[:, columns, rows] = upper
    return Moments(
        among - of_models[:, :, None] * of_models[:, None],
        cross.unflatten(1, (n_models, -1)) - of_models[:, :, None] * of_subjects[:, None],
        (own - of_subjects.square()).clamp_min(0.0),
    )


def coefficients(given: Moments, method: str, penalty: float = 0.0) -> Tensor:
    """Coefficients (r, m, s) of predictors; NaN where they are collinear or a subject constant.

    A ridge's penalty is in the unit of the predictors' variances.
    """
    if method == "nnls":
        return _non_negative(given)
    among = given.among
    if method == "ridge":
        among = among + penalty * torch.eye(among.shape[-1]).to(among)
    scale = among.diagonal(dim1=1, dim2=2)
    triangle, failed = torch.linalg.cholesky_ex(among)
    left = triangle.diagonal(dim1=1, dim2=2).square()
    lost = (failed != 0) | ~(left > NOTHING * scale).all(1)
    triangle = torch.where(lost[:, None, None], torch.eye(among.shape[-1]).to(among), triangle)
    found = torch.cholesky_solve(given.cross, triangle)
    return found.masked_fill(lost[:, None, None], torch.nan)


def _non_negative(given: Moments) -> Tensor:
    """Coefficients that are not negative, one problem after another."""
    from scipy.optimize import nnls

    triangle, failed = torch.linalg.cholesky_ex(given.among)
    left = triangle.diagonal(dim1=1, dim2=2).square()
    enough = (left > NOTHING * given.among.diagonal(dim1=1, dim2=2)).all(1)
    usable = (failed == 0) & enough & given.cross.isfinite().all(1).all(1)
    found = torch.full_like(given.cross, torch.nan)
    if not bool(usable.any()):
        return found
    targets = torch.linalg.solve_triangular(triangle[usable], given.cross[usable], upper=False)
    matrices, columns = triangle[usable].mT.cpu().numpy(), targets.mT.cpu().numpy()
    solved = np.stack([
        [nnls(matrix, target)[0] for target in each]
        for matrix, each in zip(matrices, columns, strict=True)
    ])  # fmt: skip
    found[usable] = torch.from_numpy(solved).to(found).mT
    return found


def explained(coefficient: Tensor, on: Moments) -> Tensor:
    """Share (r, s) of the subjects' variance that predictions with coefficients (., m, s) reach."""
    squares = _lost(coefficient, on)
    return 1 - squares / on.own.masked_fill(on.own == 0, torch.nan)


def _lost(coefficient: Tensor, on: Moments) -> Tensor:
    """Mean squared error (r, s) of predictions with coefficients (r or 1, m, s)."""
    fitted = (coefficient * (on.among @ coefficient)).sum(1)
    return on.own - 2 * (coefficient * on.cross).sum(1) + fitted


def standardized(stack: Stack, names: Sequence[str]) -> Tensor:
    """Bring entries to mean 0 and variance 1, and refuse those that do not vary.

    ``names`` are those of the rows, as the user knows them.
    """
    values = stack.values
    low, high = torch.aminmax(values, dim=-1, keepdim=True)
    constant = is_rounding(low, high, rounding_of(low, high))[:, 0]
    if bool(constant.any()):
        which = [name for name, lost in zip(names, constant.tolist(), strict=True) if lost]
        raise DataError(
            f"A regression needs RSMs whose pairs differ; {listed(which)} have one value only. "
            "Leave them out."
        )
    values = values - values.mean(1, keepdim=True)
    return values / values.square().mean(1, keepdim=True).sqrt()


def variance_inflation(values: Tensor, names: Sequence[str]) -> Tensor:
    """Variance inflation factors (m,) of standardized predictors (m, p).

    Raises
    ------
    ShapeError
        If there are not at least two pairs more than predictors.
    DataError
        If some are the same but for offset and scale, or sums of others.
    """
    m, n_pairs = values.shape
    if n_pairs < m + 2:
        raise ShapeError(
            f"{m} predictors need at least {m + 2} pairs of stimuli, got {n_pairs}: with as many "
            "as pairs they fit anything. Use more stimuli or fewer predictors."
        )
    among = values @ values.T / n_pairs
    apart = 2 - 2 * among.abs()
    same = ((apart < NOTHING) & ~torch.eye(m, dtype=torch.bool, device=values.device)).nonzero()
    if len(same):
        one, other = (names[int(i)] for i in same[0])
        raise DataError(
            f"Predictors {one!r} and {other!r} are the same but for offset and scale (variance "
            "inflation factor infinite), so that nothing tells their coefficients apart. Leave one "
            "of them out."
        )
    left = torch.stack([_left_of(values, i) for i in range(m)])
    lost = left < NOTHING
    if bool(lost.any()):
        which = [name for name, is_lost in zip(names, lost.tolist(), strict=True) if is_lost]
        raise DataError(
            f"Predictors {listed(which)} are collinear (variance inflation factors infinite): each "
            "is a weighted sum of the others. Leave out one of them."
        )
    return 1 / left


def _left_of(values: Tensor, i: int) -> Tensor:
    """Variance of a standardized predictor that the others leave."""
    others = torch.cat([values[:i], values[i + 1 :]])
    if not len(others):
        return values.new_ones(())
    basis = torch.linalg.svd(others, full_matrices=False)
    axes = basis.Vh[basis.S / basis.S[0] > NOTHING**0.5]
    return (values[i] - (values[i] @ axes.T) @ axes).square().mean()


def stimulus_parts(n: int, folds: int, seed: int) -> list[Tensor]:
    """Positions of the stimuli of each part, ascending."""
    most = n // FEWEST_STIMULI
    if not 2 <= folds <= most:
        remedy = f"Use 2 to {most} folds" if most > 1 else "Use more stimuli"
        raise DataError(
            f"{folds} folds of {n} stimuli: there must be at least 2, of at least "
            f"{FEWEST_STIMULI} stimuli each. {remedy}, or `folds=None` for variance explained on "
            "the stimuli that were fitted, which favors many predictors."
        )
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    return [part.sort().values for part in order.tensor_split(folds)]


def pairs_within(stack: Stack, stimuli: Tensor) -> Tensor:
    """Weights (1, p): 1 for pairs of two of these stimuli, else 0."""
    there = stack.values.new_zeros(1, stack.n_stimuli)
    there[:, stimuli.to(there.device)] = 1.0
    return stack.counts_of_pairs(there)


def choose_penalty(
    stack: Stack, values: Tensor, some: Sequence[int], stimuli: Tensor, seed: int
) -> float:
    """Find the penalty whose ridge explains most of held-out stimuli, among some of them."""
    folds = min(INNER_FOLDS, len(stimuli) // FEWEST_STIMULI)
    if folds < 2:
        raise DataError(
            f"The penalty of a ridge is chosen on 2 parts of {FEWEST_STIMULI} stimuli or more, got "
            f"{len(stimuli)} stimuli in all. Use more stimuli, fewer folds, or method='ols'."
        )
    parts = stimulus_parts(len(stimuli), folds, seed)
    scores = values.new_zeros(len(PENALTIES))
    for part in parts:
        rest = torch.ones(len(stimuli), dtype=torch.bool)
        rest[part] = False
        train, test = (
            moments(values, stack.n_models, pairs_within(stack, stimuli[at])).of(some)
            for at in (rest, part)
        )
        fits = torch.cat([coefficients(train, "ridge", penalty) for penalty in PENALTIES])
        scores += explained(fits, test).nanmean(1)
    return PENALTIES[int(scores.nan_to_num(-torch.inf).argmax())]


@dataclass(frozen=True)
class HeldOut:
    """Fits of one fold of stimuli: which are tested, and coefficients (m, s) by predictor set."""

    test: Tensor
    fits: dict[tuple[int, ...], Tensor]


def fit_held_out(
    stack: Stack,
    values: Tensor,
    sets: Sequence[tuple[int, ...]],
    *,
    folds: int,
    method: str,
    seed: int,
) -> list[HeldOut]:
    """Fit sets of predictors to all but some stimuli, and for each subject to the other subjects.

    Of one subject its own fit is taken.
    """
    found = []
    everything = torch.arange(stack.n_stimuli)
    for number, test in enumerate(stimulus_parts(stack.n_stimuli, folds, seed)):
        train = everything[~torch.isin(everything, test)]
        weights = pairs_within(stack, train)
        _check_enough(weights, max(map(len, sets)), number)
        on = moments(values, stack.n_models, weights)
        fits = {}
        for some in sets:
            penalty = 0.0
            if method == "ridge":
                penalty = choose_penalty(stack, values, some, train, seed)
            each = coefficients(on.of(some), method, penalty)[0]
            fits[some] = _of_others(each)
        found.append(HeldOut(test, fits))
    return found


def _check_enough(weights: Tensor, n_predictors: int, fold: int) -> None:
    n_pairs = int((weights > 0).sum())
    if n_pairs < n_predictors + 2:
        raise ShapeError(
            f"{n_predictors} predictors need at least {n_predictors + 2} training pairs, and fold "
            f"{fold} leaves {n_pairs}. Use more folds, more stimuli or fewer predictors."
        )


def _of_others(each: Tensor) -> Tensor:
    """Mean coefficients (m, s) of all subjects but the one."""
    n_subjects = each.shape[1]
    if n_subjects == 1:
        return each
    return (each.sum(1, keepdim=True) - each) / (n_subjects - 1)


def held_out_shares(
    stack: Stack, values: Tensor, fits: Sequence[HeldOut], counts: Tensor
) -> dict[tuple[int, ...], Tensor]:
    """Share (r, s) of held-out variance that each set explains, stimuli counted (r, n).

    Errors and variances are summed over folds before they are divided.
    """
    lost = {some: values.new_zeros(len(counts), stack.n_subjects) for some in fits[0].fits}
    total = values.new_zeros(len(counts), stack.n_subjects)
    for fold in fits:
        there = torch.zeros_like(counts)
        there[:, fold.test.to(counts.device)] = counts[:, fold.test.to(counts.device)]
        weights = stack.counts_of_pairs(there)
        size = weights.sum(1, keepdim=True)
        on = moments(values, stack.n_models, weights)
        few = size[:, 0] == 0
        total += (on.own * size).masked_fill(few[:, None], 0.0)
        for some, coefficient in fold.fits.items():
            error = _lost(coefficient[None], on.of(some)) * size
            lost[some] += error.masked_fill(few[:, None], 0.0)
    total = total.masked_fill(total == 0, torch.nan)
    return {some: 1 - error / total for some, error in lost.items()}


def fitted_shares(
    stack: Stack,
    values: Tensor,
    sets: Sequence[tuple[int, ...]],
    counts: Tensor,
    *,
    method: str,
    penalties: dict[tuple[int, ...], float],
) -> dict[tuple[int, ...], Tensor]:
    """Share (r, s) of the variance that each set explains of what it is fitted to."""
    on = moments(values, stack.n_models, stack.counts_of_pairs(counts)).correlations()
    found = {}
    for some in sets:
        part = on.of(some)
        found[some] = explained(coefficients(part, method, penalties.get(some, 0.0)), part)
    return found


def resampled_means(
    of_stimuli: Callable[[Tensor], Tensor], stack: Stack, over: str, n_resamples: int, seed: int
) -> np.ndarray:
    """Means over subjects (kinds, r, q) where stimuli, subjects or both are drawn anew.

    ``of_stimuli`` gives numbers (r, q, s) of each subject where stimuli occur so often (r, n).
    """
    check_count("n_resamples", n_resamples, 2)
    if over not in KINDS:
        raise unknown_name("way to resample", over, KINDS)
    if over != "stimuli" and stack.n_subjects < 2:
        raise DataError(
            f"A bootstrap over {over} needs at least 2 subjects, got 1. With one subject, "
            "over='stimuli' tells what holds for that subject."
        )
    rng = torch.Generator().manual_seed(seed)
    stimuli = draw_counts(n_resamples, stack.n_stimuli, rng).to(stack.values)
    subjects = draw_counts(n_resamples, stack.n_subjects, rng).to(stack.values)
    everyone = torch.ones_like(subjects)
    weights = {"stimuli": everyone, "both": subjects, "subjects": subjects}
    whole = of_stimuli(torch.ones_like(stimuli[:1]))
    found = whole.new_full((len(KINDS[over]), n_resamples, whole.shape[1]), torch.nan)
    for part in torch.arange(n_resamples).split(_chunk_size(stack)):
        drawn = whole if over == "subjects" else of_stimuli(stimuli[part])
        for k, kind in enumerate(KINDS[over]):
            on, counts = whole if kind == "subjects" else drawn, weights[kind][part]
            found[k, part] = (on @ counts[..., None]).squeeze(-1) / stack.n_subjects
    if over != "subjects":
        found[:, (stimuli > 0).sum(1) < FEWEST_STIMULI] = torch.nan
    return found.cpu().numpy()


def _chunk_size(stack: Stack) -> int:
    """How many resamples fit into bounded memory at a time."""
    n_rows, n_pairs = stack.values.shape
    n_products = stack.n_models * n_rows + 2 * n_rows
    return max(1, int(CHUNK_BYTES / (8 * (2 * n_pairs + n_products))))


def spread(
    resampled: np.ndarray, over: str, *, n_subjects: int, n_stimuli: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """Give standard errors (q,), which resamples (r,) they are from, and degrees of freedom."""
    usable = np.asarray(np.isfinite(resampled).all((0, 2)))
    n_usable = int(usable.sum())
    if n_usable < max(2, len(usable) // 2):
        raise DataError(
            f"Only {n_usable} of {len(usable)} resamples can be fitted: in the others predictors "
            "are collinear, or too few different stimuli are left. Use more stimuli or fewer "
            "predictors."
        )
    kept = resampled[:, usable]
    variances = resampling_variances(
        kept, np.full((*kept.shape[:2], 2), np.nan),
        n_subjects=n_subjects if over != "stimuli" else None,
        n_stimuli=n_stimuli if over != "subjects" else None,
    )  # fmt: skip
    fewest = {"subjects": n_subjects, "stimuli": n_stimuli, "both": min(n_subjects, n_stimuli)}
    return np.sqrt(variances.models), usable, fewest[over] - 1


def with_intervals(value: np.ndarray, error: np.ndarray, df: int) -> dict[str, np.ndarray]:
    """Columns of a table: the standard error, and a 95 % interval of Student's t."""
    from scipy.stats import t

    reach = t.ppf(0.975, max(df, 1)) * error
    return {"se": error, "ci_low": value - reach, "ci_high": value + reach}
