"""Which models differ, which are above chance, and which fall short of the noise ceiling."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Literal

import numpy as np
import xarray as xr

from softrsa.errors import DataError, unknown_name
from softrsa.inference.result import InferenceResult, n_drawn, over_groups, usable_resamples

Alternative = Literal["two-sided", "greater"]
TESTS = ("t", "wilcoxon", "bootstrap", "percentile")
CORRECTIONS = (None, "fdr", "fwer")
ROUNDING = 1e-10  # what differs by less than this share of the scores differs by rounding only


def compare_models(
    result: InferenceResult,
    *,
    test: Literal["t", "wilcoxon", "bootstrap", "percentile"] = "t",
    correction: Literal["fdr", "fwer"] | None = None,
) -> InferenceResult:
    """Test all pairs of models, each model against 0, and against the lower noise ceiling.

    Parameters
    ----------
    result : InferenceResult
        From `evaluate`, `bootstrap`, `permutation_test` or `crossvalidate`.
    test : {"t", "wilcoxon", "bootstrap", "percentile"}
        Over subjects: paired t or Wilcoxon's signed ranks; results hold for other subjects and the
        same stimuli; where a result has groups of subjects, over the means of groups. From
        resamples, for what was resampled: a t test with the variances of the bootstrap
        (rsatoolbox's "t-test" of a bootstrapped result), or the share of resamples on the other
        side of the difference, doubled (rsatoolbox's "bootstrap").
    correction : {"fdr", "fwer"}, optional
        Over all pairs of models: the false discovery rate after Benjamini and Hochberg, or the
        family-wise error rate after Bonferroni and Holm. None by default: `p_corrected` is then
        `p_difference`.

    Returns
    -------
    InferenceResult
        With `comparisons`, and in the table `p_zero` (one-sided: above 0) and `p_ceiling`
        (two-sided: different from the lower ceiling); none of these two is corrected. The effect
        size is Cohen's dz: the mean difference over its standard deviation over subjects. NaN
        where a score is undefined, and, with a warning in the result, where a difference does not
        vary beyond rounding over subjects or resamples: nothing tells then how sure it is.
        Wilcoxon's test needs signs only, so is NaN just where all differences are 0.

    Raises
    ------
    UnknownNameError
        If there is no such test or correction.
    DataError
        If a test over subjects is asked for with a single one, or one from resamples without any.

    Notes
    -----
    Over subjects the lower ceiling counts as a known number, as in rsatoolbox: a model can then be
    called different from it too easily. The bootstrap tests use its variance.

    References
    ----------
    Benjamini & Hochberg (1995); Holm (1979); Schütt et al. (2023), doi:10.7554/eLife.82566.

    Examples
    --------
    >>> import torch
    >>> from softrsa.inference import evaluate
    >>> rng = torch.Generator().manual_seed(0)
    >>> models = torch.rand(2, 45, generator=rng)
    >>> subjects = models[0] + torch.rand(6, 45, generator=rng)
    >>> result = compare_models(evaluate(models, subjects, "pearson"), correction="fdr")
    >>> bool(result.comparisons["p_corrected"][0] < 0.001)
    True
    """
    if test not in TESTS:
        raise unknown_name("test", test, TESTS)
    if correction not in CORRECTIONS:
        raise unknown_name("correction", correction, CORRECTIONS)
    _check_possible(result, test)
    data = result.data
    scores = over_groups(data, "score")
    means = scores.mean(1)
    ceiling = float(over_groups(data.sel(bound="lower"), "ceiling").mean())
    tester = {
        "t": _over_subjects, "wilcoxon": _over_subjects, "bootstrap": _by_variance,
        "percentile": _by_share,
    }[test]  # fmt: skip
    p_pairs, p_zero, p_ceiling = tester(result, scores, ceiling, test)
    notes = _untested(result, p_pairs, {"0": p_zero, "the lower ceiling": p_ceiling}, ceiling)
    np.fill_diagonal(p_pairs, 1.0)
    added = {
        "difference": (("model", "other"), means[:, None] - means),
        "p_difference": (("model", "other"), p_pairs),
        "p_corrected": (("model", "other"), _corrected(p_pairs, correction)),
        "effect_size": (("model", "other"), _effect_sizes(scores)),
        "p_zero": ("model", p_zero),
        "p_ceiling": ("model", p_ceiling),
    }
    compared: xr.Dataset = data.assign(added).assign_coords(other=("other", data["model"].values))
    compared.attrs |= {"test": test, "correction": correction or "none"}
    compared.attrs["warnings"] = json.dumps([*result.warnings, *notes])
    return InferenceResult(compared)


def _check_possible(result: InferenceResult, test: str) -> None:
    n = n_drawn(result.data)["subjects"]
    if test in ("t", "wilcoxon") and n < 2:
        raise DataError(
            f"test={test!r} compares over subjects and needs at least 2, got {n}. With one "
            "subject, test='bootstrap' on a bootstrap over stimuli works."
        )
    if test in ("bootstrap", "percentile") and "resampled_score" not in result.data:
        raise DataError(f"test={test!r} needs resamples: pass a result of `bootstrap`.")


def _over_subjects(
    result: InferenceResult, scores: np.ndarray, ceiling: float, test: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Test over subjects: p of pairs, against 0 and against the ceiling."""
    del result
    one_sample = _t_test if test == "t" else _signed_ranks
    pairs = np.ones((len(scores), len(scores)))
    for i, j in zip(*np.triu_indices(len(scores), 1), strict=True):
        difference = _rounded(scores[i] - scores[j], scores[[i, j]])
        pairs[i, j] = pairs[j, i] = one_sample(difference, "two-sided")
    zero = np.array([one_sample(one, "greater") for one in scores])
    from_ceiling = [_rounded(one - ceiling, np.append(one, ceiling)) for one in scores]
    return pairs, zero, np.array([one_sample(one, "two-sided") for one in from_ceiling])


def _rounded(differences: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Differences of scores, less deviations from their mean, or from 0, that are rounding."""
    least = ROUNDING * np.abs(scores).max()
    middle = differences.mean()
    level = 0.0 if abs(middle) <= least else middle
    return np.where(np.abs(differences - level) <= least, level, differences)


def _t_test(differences: np.ndarray, alternative: Alternative) -> float:
    from scipy.stats import ttest_1samp

    if not np.ptp(differences) > ROUNDING * np.abs(differences).max():  # also where one is NaN
        return np.nan
    return float(ttest_1samp(differences, 0.0, alternative=alternative).pvalue)


def _signed_ranks(differences: np.ndarray, alternative: Alternative) -> float:
    from scipy.stats import wilcoxon

    if not np.isfinite(differences).all() or not differences.any():
        return np.nan
    return float(wilcoxon(differences, alternative=alternative).pvalue)


def _by_variance(
    result: InferenceResult, scores: np.ndarray, ceiling: float, test: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Test with Student's t and the variances of the bootstrap."""
    del test
    from scipy.stats import t

    data, means = result.data, scores.mean(1)
    df = max(result.degrees_of_freedom, 1)

    def upper_tail(differences: np.ndarray, variances: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        spread = np.sqrt(variances.clip(0))
        spread = np.where(spread > ROUNDING * sizes, spread, np.nan)
        return t.sf(differences / spread, df)

    size = np.abs(means)
    pairs = 2 * upper_tail(
        np.abs(means[:, None] - means),
        data["variance_difference"].values,
        np.maximum(size[:, None], size),
    )
    to_lower = data["variance_to_ceiling"].sel(bound="lower").values
    largest = np.fmax(size, abs(ceiling))
    at_ceiling = 2 * upper_tail(np.abs(means - ceiling), to_lower, largest)
    return pairs, upper_tail(means, data["variance"].values, size), at_ceiling


def _by_share(
    result: InferenceResult, scores: np.ndarray, ceiling: float, test: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Test by the share of resamples on the other side; never below 1 / n_resamples."""
    del test
    first = result.data.isel(kind=0)
    samples = first["resampled_score"].transpose("model", "resample").values
    bounds = first["resampled_ceiling"].transpose("bound", "resample").values[0]
    bounds = np.where(np.isfinite(bounds).any(), bounds, ceiling)
    held = usable_resamples(result.data)
    samples, bounds = samples[:, held], bounds[held]
    n = int(held.sum())

    def two_sided(one: np.ndarray, other: np.ndarray) -> float:
        differences = _rounded(one - other, np.stack([one, other]))
        if not np.ptp(differences) > 0:
            return np.nan
        below = (differences < 0).sum() / (n - (differences == 0).sum())
        return float((n - 1) / n * 2 * min(below, 1 - below) + 1 / n)

    def above_zero(one: np.ndarray) -> float:
        varies = np.ptp(one) > ROUNDING * np.abs(one).max()
        return float(((one <= 0).sum() + 1) / (n + 1)) if varies else np.nan

    return (
        np.array([[two_sided(one, other) for other in samples] for one in samples]),
        np.array([above_zero(one) for one in samples]),
        np.array([two_sided(one, bounds) for one in samples]),
    )


def _untested(
    result: InferenceResult, pairs: np.ndarray, single: dict[str, np.ndarray], ceiling: float
) -> list[str]:
    """Say which tests of defined scores are NaN because nothing varies."""
    names = np.array(result.names)
    known = result.data["score"].notnull().all("subject").values
    rows, columns = np.nonzero(np.triu(np.isnan(pairs) & known & known[:, None], 1))
    found = [f"{one} and {other}" for one, other in zip(names[rows], names[columns], strict=True)]
    for what, p in single.items():
        if what == "0" or np.isfinite(ceiling):
            found += [f"{name} and {what}" for name in names[np.isnan(p) & known]]
    if not found:
        return []
    return [
        f"No test is possible (NaN) between {', '.join(found)}: the difference does not vary over "
        "subjects or resamples, so that nothing shows how sure it is."
    ]


def _effect_sizes(scores: np.ndarray) -> np.ndarray:
    """Cohen's dz of every pair (model, other); NaN with one subject or equal differences."""
    differences = scores[:, None] - scores
    if scores.shape[1] < 2:
        return np.full(differences.shape[:2], np.nan)
    spread = differences.std(-1, ddof=1)
    size = np.abs(scores).max(1)
    varies = spread > ROUNDING * np.maximum(size[:, None], size)
    return np.divide(differences.mean(-1), spread, out=np.full(spread.shape, np.nan), where=varies)


def _corrected(p: np.ndarray, correction: str | None) -> np.ndarray:
    """Correct p over the pairs of models that have one."""
    rows, columns = np.triu_indices(len(p), 1)
    corrected = p.copy()
    corrected[rows, columns] = corrected[columns, rows] = adjusted(p[rows, columns], correction)
    return corrected


def adjusted(p: np.ndarray, correction: str | None) -> np.ndarray:
    """Correct p (k,) of a family of tests, those that have one; None leaves them as they are."""
    if correction is None:
        return p.copy()
    known = np.isfinite(p)
    adjust: Callable[[np.ndarray], np.ndarray] = _holm if correction == "fwer" else _hochberg
    corrected = p.copy()
    corrected[known] = adjust(p[known])
    return corrected


def _hochberg(p: np.ndarray) -> np.ndarray:
    """Adjust after Benjamini and Hochberg."""
    from scipy.stats import false_discovery_control

    return false_discovery_control(p) if p.size else p


def _holm(p: np.ndarray) -> np.ndarray:
    """Adjust after Bonferroni and Holm."""
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1.0)
    adjusted = np.empty_like(p)
    adjusted[order] = stepped
    return adjusted
