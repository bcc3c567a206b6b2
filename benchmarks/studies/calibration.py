"""Claims about error rates of `softrsa.inference`, by simulation.

Run it with OPENBLAS_CORETYPE and OPENBLAS_L2_SIZE unset; a few minutes on one core. Stimuli are
points in a latent space, brains weigh its dimensions with weights that vary over subjects, RDMs are
squared distances with noise added to every pair; each part says what is random and what is the
truth.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import warnings
from datetime import UTC, datetime
from itertools import product
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from scipy.ndimage import gaussian_filter
from scipy.stats import kstest
from torch import Tensor

from softrsa.alignment import align
from softrsa.inference import (
    behavior_rsm,
    bootstrap,
    cluster_test,
    compare_models,
    crossvalidate,
    evaluate,
    interchangeability,
    intersubject_rsa,
    permutation_test,
    regress_rdms,
    searchlight_maps,
    trial_ceiling,
    weighted_rsm_model,
)
from softrsa.inference.latency import latency_intervals
from softrsa.measures import centered_pearson
from softrsa.pairs import expand
from softrsa.recordings import average_trials
from softrsa.rsm import similarity_matrix

STIMULI, SUBJECTS, DIMENSIONS = 30, 12, 12
PAIRS = torch.triu_indices(STIMULI, STIMULI, 1)
STUDIES = 1000
RESAMPLES = 300


def verdict(claim: str, value: float, low: float, high: float) -> None:
    """Print a claim line."""
    word = "pass" if low <= value <= high else "FAIL"
    print(f"{word}  {claim}: {value:.3f} (wanted {low:g} to {high:g})", flush=True)


def distances(points: Tensor, weights: Tensor) -> Tensor:
    """Weighted squared distances (k, n_pairs) of points (n, d) under weights (k, d)."""
    gaps = (points[PAIRS[0]] - points[PAIRS[1]]).square()
    return weights @ gaps.T


def study(
    rng: torch.Generator, points: Tensor | None = None, common: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Two models of half the dimensions each, and subjects who weigh all of them about equally.

    Which half a model has is arbitrary, so over stimuli and subjects both score the same.
    ``points`` are the stimuli, ``common`` the weights of all subjects, where these are not random.
    """
    real = {"dtype": torch.float64, "generator": rng}
    if points is None:
        points = torch.randn(STIMULI, DIMENSIONS, **real)
    halves = torch.zeros(2, DIMENSIONS, dtype=torch.float64)
    halves[0, ::2] = halves[1, 1::2] = 1.0
    weights = torch.rand(SUBJECTS, DIMENSIONS, **real) if common is None else common
    brains = distances(points, weights)
    noise = torch.randn(brains.shape, **real)
    return distances(points, halves), brains + 5.0 * noise


def coverage(over: str) -> None:
    """Coverage of the 95 % interval of a model's mean score, and false positives of comparing two.

    Over stimuli and both, the truth is the mean score of fresh stimuli (and subjects), the same for
    both models; over subjects, that of fresh subjects on the same stimuli.
    """
    rng = torch.Generator().manual_seed(1)
    points = torch.randn(STIMULI, DIMENSIONS, dtype=torch.float64, generator=rng)
    common = torch.rand(SUBJECTS, DIMENSIONS, dtype=torch.float64, generator=rng)
    fixed = {"subjects": {"points": points}, "stimuli": {"common": common}}.get(over, {})
    means, covered, shares, different = [], [], [], []
    for i in range(STUDIES):
        result = bootstrap(
            *study(rng, **fixed), "pearson", over=over, n_resamples=RESAMPLES, seed=i
        )
        means.append(result.table["score"].to_numpy())
        covered.append(result.intervals())
        shares.append(result.intervals(kind="percentile"))
        compared = compare_models(result, test="bootstrap")
        different.append(compared.comparisons["p"][0] < 0.05)
    truth = np.mean(means, axis=0)
    for kind, intervals in (("t", np.array(covered)), ("percentile", np.array(shares))):
        inside = ((intervals[..., 0] <= truth) & (truth <= intervals[..., 1])).mean()
        if kind == "t":
            verdict(f"coverage of 95 % t intervals, bootstrap over {over}", inside, 0.93, 0.97)
        else:
            print(f"      coverage of percentile intervals, bootstrap over {over}: {inside:.3f}")
    if over == "both":  # only there do both models score the same in truth
        claim = "false positives at .05, compare_models(test='bootstrap'), over both"
        verdict(claim, float(np.mean(different)), 0.04, 0.06)


def false_positives_over_subjects(n_studies: int = 2000) -> None:
    """Compare two models that subjects mix with exchangeable weights: the same mean score."""
    rng = torch.Generator().manual_seed(2)
    found = {"t": [], "wilcoxon": []}
    for _ in range(n_studies):
        models = torch.randn(2, 190, dtype=torch.float64, generator=rng)
        models = torch.linalg.qr((models - models.mean(1, keepdim=True)).T).Q.T
        mixing = torch.rand(SUBJECTS, 2, dtype=torch.float64, generator=rng)
        noise = torch.randn(SUBJECTS, 190, dtype=torch.float64, generator=rng) / 190**0.5
        result = evaluate(models, mixing @ models + noise, "pearson")
        for test, rejected in found.items():
            p = compare_models(result, test=test).comparisons["p"][0]
            rejected.append(p < 0.05)
    for test, rejected in found.items():
        claim = f"false positives at .05, compare_models(test={test!r}), {n_studies} studies"
        verdict(claim, float(np.mean(rejected)), 0.04, 0.06)


def permutations(n_studies: int = 2000, n_permutations: int = 99) -> None:
    """Under the null, p is uniform: models and brains of unrelated stimuli."""
    rng = torch.Generator().manual_seed(3)
    steps = np.random.default_rng(3)
    p = []
    for i in range(n_studies):
        (model, _), subjects = study(rng)[0], study(rng)[1][:4]
        result = permutation_test(
            model[None], subjects, "pearson", n_permutations=n_permutations, seed=i
        )
        p.append(result.table["p_permutation"][0])
    # p takes the values 1 / 100, 2 / 100 ...: spread over the step below, it is uniform on (0, 1)
    spread = np.array(p) - steps.random(n_studies) / (n_permutations + 1)
    verdict(
        f"permutation p uniform over {n_studies} null studies, Kolmogorov-Smirnov p",
        kstest(spread, "uniform").pvalue, 0.01, 1.0,
    )  # fmt: skip


def fitted_models(n_studies: int = 400) -> None:
    """Two weighted models fitted to unrelated subjects: neither above 0, nor do they differ."""
    rng = torch.Generator().manual_seed(4)
    above, different, failed = [], [], 0
    for i in range(n_studies):
        rdms = expand(torch.rand(SUBJECTS + 6, 190, dtype=torch.float64, generator=rng))
        models = [weighted_rsm_model(rdms[k : k + 3], name=f"model {k}") for k in (0, 3)]
        result = compare_models(
            crossvalidate(
                models, rdms[6:], "pearson", stimulus_folds=4, subject_folds=SUBJECTS, seed=i
            )
        )
        above += (result.table["p_zero"] < 0.05).tolist()
        different.append(result.comparisons["p"][0] < 0.05)
        failed += any("could not be fitted" in note for note in result.warnings)
    print(f"      null studies in which a fold had no weights: {failed} of {n_studies}")
    claim = f"false positives at .05, crossvalidate of fitted models, {n_studies} null studies"
    verdict(f"{claim}, above 0", float(np.mean(above)), 0.0, 0.06)
    verdict(f"{claim}, difference of two", float(np.mean(different)), 0.0, 0.07)


def smooth_noise(rng: torch.Generator, *shape: int, width: float = 3.0) -> Tensor:
    """Noise (..., n_times) with unit variance, smooth over times, as evoked responses are."""
    reach = int(4 * width)
    kernel = torch.exp(-(torch.arange(-reach, reach + 1.0, dtype=torch.float64) ** 2) / width**2)
    raw = torch.randn(*shape[:-1], shape[-1] + 2 * reach, dtype=torch.float64, generator=rng)
    return raw.unfold(-1, 2 * reach + 1, 1) @ (kernel / kernel.norm())


def clusters(n_studies: int = 1000, n_flips: int = 199) -> None:
    """Curves of subjects that are noise of different size: false positives at any time."""
    designs = {"time": (60,), "time x time": (15, 20)}
    for name, shape in designs.items():
        rng = torch.Generator().manual_seed(5)
        found: dict[tuple[str, str], list[bool]] = {}
        for i in range(n_studies):
            size = torch.rand(SUBJECTS, *[1] * len(shape), dtype=torch.float64, generator=rng) + 0.2
            values = size * smooth_noise(rng, SUBJECTS, *shape)
            for method in ("mass", "tfce", "max"):
                for alternative in ("two-sided", "greater"):
                    p = cluster_test(
                        values, method=method, alternative=alternative, n_flips=n_flips, seed=i
                    ).p
                    found.setdefault((method, alternative), []).append(bool((p <= 0.05).any()))
        for (method, alternative), rejected in found.items():
            claim = (
                f"family-wise false positives at .05, cluster_test over {name}, {method}, "
                f"{alternative}, {n_studies} studies"
            )
            verdict(
                claim, float(np.mean(rejected)), 0.0, 0.05 + 2 * (0.05 * 0.95 / n_studies) ** 0.5
            )


def latencies(n_studies: int = 1000) -> None:
    """Curves of subjects with latencies and heights of their own: coverage of the mean curve's."""
    times = np.arange(-0.1, 0.6, 0.01)
    for noise in (0.2, 0.5):
        rng = torch.Generator().manual_seed(6)
        many = _responses(rng, times, 20000).mean(0)
        options = {
            "fraction": 0.5, "window": None, "level": 0.95, "n_resamples": RESAMPLES, "seed": 0,
        }  # fmt: skip
        truth = latency_intervals(many[None].numpy(), times, **options)
        inside: dict[str, list[bool]] = {"onset": [], "peak": []}
        for _ in range(n_studies):
            curves = _responses(rng, times, SUBJECTS)
            curves = curves + noise * smooth_noise(rng, SUBJECTS, len(times))
            found = latency_intervals(curves.numpy(), times, **options)
            for name, covered in inside.items():
                low, high = found[f"{name}_low"], found[f"{name}_high"]
                covered.append(low - 1e-9 <= truth[name] <= high + 1e-9)
        for name, covered in inside.items():
            claim = f"coverage of 95 % intervals of the {name}, noise {noise}, {SUBJECTS} subjects"
            verdict(claim, float(np.mean(covered)), 0.90, 0.99)


def _responses(rng: torch.Generator, times: np.ndarray, n: int) -> Tensor:
    """Bumps (n, n_times) whose time, height and width vary over subjects."""
    at = 0.2 + 0.02 * torch.randn(n, 1, dtype=torch.float64, generator=rng)
    height = 1 + 0.3 * torch.randn(n, 1, dtype=torch.float64, generator=rng)
    width = 0.06 * (1 + 0.2 * torch.rand(n, 1, dtype=torch.float64, generator=rng))
    return height * torch.exp(-((torch.from_numpy(times) - at) ** 2) / (2 * width**2))


def regressions(over: str, n_studies: int = 500) -> None:
    """Coverage of 95 % intervals of coefficients of two models in one regression.

    The truth is the mean coefficient of fresh stimuli (and subjects), the same for both models.
    """
    rng = torch.Generator().manual_seed(5)
    common = torch.rand(SUBJECTS, DIMENSIONS, dtype=torch.float64, generator=rng)
    fixed = {"common": common} if over == "stimuli" else {}
    tables = [
        regress_rdms(
            *study(rng, **fixed), over=over, n_resamples=RESAMPLES, folds=None, seed=i
        ).table
        for i in range(n_studies)
    ]
    low, high, value = (
        np.array([table[name] for table in tables]) for name in ("ci_low", "ci_high", "coefficient")
    )
    truth = value.mean(0)
    inside = ((low <= truth) & (truth <= high)).mean()
    verdict(f"coverage of 95 % intervals of regress_rdms over {over}", inside, 0.93, 0.97)


GROUP = 3  # stimuli of a category, video or session
CATEGORIES = np.arange(STIMULI) // GROUP
FAMILIES = np.arange(SUBJECTS) // 2


def grouped_points(rng: torch.Generator, centers: Tensor | None = None) -> Tensor:
    """Stimuli (n, d) of a group that share a center, beside points of their own."""
    real = {"dtype": torch.float64, "generator": rng}
    if centers is None:
        centers = torch.randn(STIMULI // GROUP, DIMENSIONS, **real)
    return centers[CATEGORIES] + 0.5 * torch.randn(STIMULI, DIMENSIONS, **real)


def grouped_coverage(over: str, measure: str, n_studies: int = STUDIES) -> None:
    """Coverage of 95 % t intervals where stimuli, or subjects, are alike within groups.

    Stimuli of a category share a center, subjects of a family most of their weights. The truth is
    the mean score of fresh groups; drawing stimuli or subjects one by one covers too little.
    """
    rng = torch.Generator().manual_seed(9)
    real = {"dtype": torch.float64, "generator": rng}
    fixed = grouped_points(rng)
    common = torch.rand(SUBJECTS, DIMENSIONS, **real)
    known = {"stimulus_groups": CATEGORIES, "subject_groups": FAMILIES}
    if over != "both":
        del known["subject_groups" if over == "stimuli" else "stimulus_groups"]
    means, covered = [], {"one by one": [], "in groups": []}
    for i in range(n_studies):
        points = fixed if over == "subjects" else grouped_points(rng)
        weights = common
        if over != "stimuli":
            own = torch.rand(SUBJECTS, DIMENSIONS, **real)
            weights = torch.rand(SUBJECTS // 2, DIMENSIONS, **real)[FAMILIES] + 0.3 * own
        data = study(rng, points, weights)
        for name, groups in (("one by one", {}), ("in groups", known)):
            result = bootstrap(
                *data, measure, over=over, n_resamples=RESAMPLES, seed=i, ceilings=False, **groups
            )
            covered[name].append(result.intervals())
        means.append(result.table["score"].to_numpy())
    truth = np.mean(means, axis=0)
    for name, found in covered.items():
        low, high = np.moveaxis(np.array(found), -1, 0)
        inside = ((low <= truth) & (truth <= high)).mean()
        what = f"coverage of 95 % t intervals under {measure}, bootstrap over {over} {name}"
        if name == "in groups":
            verdict(what, inside, 0.93, 0.97)
        else:
            print(f"      {what}: {inside:.3f}")


def grouped_permutations(n_studies: int = 2000) -> None:
    """Categories of which both sides know, and nothing else that they share.

    "between": centers of categories are unrelated. "within": centers are the same, and what stimuli
    have of their own is unrelated.
    """
    rng = torch.Generator().manual_seed(10)
    real = {"dtype": torch.float64, "generator": rng}
    for permute in ("between", "within"):
        found: dict[str, list[bool]] = {"one by one": [], permute: []}
        for i in range(n_studies):
            shared = torch.randn(STIMULI // GROUP, DIMENSIONS, **real)
            centers = shared if permute == "within" else None
            model = study(rng, grouped_points(rng, centers))[0][:1]
            subjects = study(rng, grouped_points(rng, centers))[1][:4]
            for name, groups in (("one by one", {}), (permute, {"stimulus_groups": CATEGORIES})):
                result = permutation_test(
                    model, subjects, "pearson", n_permutations=199, seed=i,
                    permute=permute if groups else "between", **groups,
                )  # fmt: skip
                found[name].append(result.table["p_permutation"][0] <= 0.05)
        what = f"false positives at .05, permutation_test(permute={permute!r}), {n_studies} studies"
        verdict(what, float(np.mean(found[permute])), 0.04, 0.06)
        print(f"      stimuli permuted one by one: {np.mean(found['one by one']):.3f}")


def grouped_subjects(n_studies: int = 2000) -> None:
    """Families who mix two models with weights of their own: tests over subjects, and curves."""
    rng = torch.Generator().manual_seed(11)
    real = {"dtype": torch.float64, "generator": rng}
    rejected: dict[str, list[bool]] = {}
    for i in range(n_studies):
        models = torch.randn(2, 190, **real)
        models = torch.linalg.qr((models - models.mean(1, keepdim=True)).T).Q.T
        mixing = torch.rand(SUBJECTS // 2, 2, **real)[FAMILIES] + 0.2 * torch.rand(
            SUBJECTS, 2, **real
        )
        data = models, mixing @ models + torch.randn(SUBJECTS, 190, **real) / 190**0.5
        curves = smooth_noise(rng, SUBJECTS // 2, 60)[FAMILIES] + smooth_noise(rng, SUBJECTS, 60)
        for name, groups in (("one by one", None), ("in groups", FAMILIES)):
            result = evaluate(*data, "pearson", subject_groups=groups)
            for test in ("t", "wilcoxon"):
                p = compare_models(result, test=test).comparisons["p"][0]
                rejected.setdefault(f"compare_models(test={test!r}) {name}", []).append(p <= 0.05)
            if i < n_studies // 2:
                p = cluster_test(curves, subject_groups=groups, n_flips=199, seed=i).p
                found = rejected.setdefault(f"cluster_test {name}", [])
                found.append(bool((p <= 0.05).any()))
    for name, values in rejected.items():
        claim = f"false positives at .05, {name}, {len(values)} studies"
        if name.endswith("in groups"):
            least = 0.0 if "cluster" in name or "wilcoxon" in name else 0.04  # few distinct p
            verdict(claim, float(np.mean(values)), least, 0.06)
        else:
            print(f"      {claim}: {np.mean(values):.3f}")


def partial_permutations(measure: str, n_studies: int = 1000) -> None:
    """Models and brains that share a control's dimensions, and nothing beyond these.

    Each has dimensions of its own; weights of subjects vary in these only. Ranks of sums are bent
    in the control's ranks, on both sides alike, so that partial Spearman is not 0 in truth: there
    the model has its own dimensions only, and the brains follow the control.
    """
    rng = torch.Generator().manual_seed(6)
    rejected, plain = [], []
    third = DIMENSIONS // 3
    for i in range(n_studies):
        points = torch.randn(STIMULI, DIMENSIONS, dtype=torch.float64, generator=rng)
        weights = torch.zeros(6, DIMENSIONS, dtype=torch.float64)
        weights[:, :third] = 1.0
        weights[1, third : 2 * third] = 1.0
        if measure == "spearman":
            weights[1, :third] = 0.0
        weights[2:, 2 * third :] = torch.rand(4, third, dtype=torch.float64, generator=rng)
        control, model, *brains = distances(points, weights)
        for found, given in ((rejected, control[None]), (plain, None)):
            result = permutation_test(
                model[None], torch.stack(brains), measure, n_permutations=199, seed=i, control=given
            )
            found.append(result.table["p_permutation"][0] <= 0.05)
    print(f"      without the control, {measure}: {np.mean(plain):.3f}")
    claim = f"false positives at .05, permutation_test(control=) under {measure}"
    verdict(f"{claim}, {n_studies} null studies", float(np.mean(rejected)), 0.04, 0.06)


def intersubject(n_studies: int = 2000, n_subjects: int = 20) -> None:
    """Behavior and brains of subjects that have nothing to do with each other."""
    rng = torch.Generator().manual_seed(7)
    for way in ("nearest_neighbor", "anna_karenina"):
        rejected = []
        for i in range(n_studies):
            scores = torch.randn(n_subjects, dtype=torch.float64, generator=rng)
            brains = torch.randn(n_subjects, 5, dtype=torch.float64, generator=rng)
            result = intersubject_rsa(
                behavior_rsm(brains), behavior_rsm(scores, way), n_permutations=199, seed=i
            )
            rejected.append(result.table["p"][0] <= 0.05)
        claim = f"false positives at .05, intersubject_rsa of {way}, {n_studies} null studies"
        verdict(claim, float(np.mean(rejected)), 0.04, 0.06)


def trial_ceilings(n_studies: int = 20) -> None:
    """One subject's trials whose true RSM is known: error of the upper ceiling."""
    rng = torch.Generator().manual_seed(8)
    for n_units, n_trials, signal in product((20, 100, 500), (2, 5, 20), (0.1, 1.0)):
        errors = []
        for _ in range(n_studies):
            truth, trials = _trials(rng, 60, n_units, n_trials, signal)
            mean = torch.from_numpy(average_trials(trials).values)
            reached = centered_pearson(similarity_matrix(truth), similarity_matrix(mean))
            errors.append(trial_ceiling(trials, n_splits=20).upper - float(reached))
        claim = f"error of trial_ceiling, {n_units} units, {n_trials} trials, signal {signal}"
        verdict(claim, float(np.mean(errors)), -0.05, 0.05)
        print(f"      standard deviation {np.std(errors):.3f}")


def _trials(
    rng: torch.Generator, n: int, n_units: int, n_trials: int, signal: float
) -> tuple[Tensor, xr.DataArray]:
    """Patterns with variances that fall as 1 / rank, and trials with correlated noise."""

    def mixed(rows: int, power: float) -> Tensor:
        spread = torch.arange(1, n_units + 1, dtype=torch.float64) ** -power
        axes = torch.linalg.qr(torch.randn(n_units, n_units, dtype=torch.float64, generator=rng)).Q
        drawn = torch.randn(rows, n_units, dtype=torch.float64, generator=rng)
        return (drawn * spread * (n_units**0.5 / spread.norm())) @ axes.mT

    truth = mixed(n, 0.5) * signal**0.5
    ids = np.repeat(np.arange(n), n_trials)
    values = truth[torch.from_numpy(ids)] + mixed(len(ids), 0.25)
    coords = {"stimulus": ("trial", ids)}
    return truth, xr.DataArray(values.numpy(), dims=("trial", "unit"), coords=coords)


def interchangeable(over: str, n_studies: int = 500) -> None:
    """Coverage of how much nearer a model is to brains than these are to each other.

    The model weighs dimensions as one more subject would, without noise of measurement.
    """
    rng = torch.Generator().manual_seed(9)
    points = torch.randn(STIMULI, DIMENSIONS, dtype=torch.float64, generator=rng)
    model = torch.rand(1, DIMENSIONS, dtype=torch.float64, generator=rng)
    found = []
    for i in range(n_studies):
        if over == "both":
            points = torch.randn(STIMULI, DIMENSIONS, dtype=torch.float64, generator=rng)
        _, brains = study(rng, points)
        result = interchangeability(
            distances(points, model), brains, "pearson", over=over, n_resamples=RESAMPLES, seed=i
        )
        found.append(result.table[["difference", "ci_low", "ci_high"]].to_numpy()[0])
    difference, low, high = np.array(found).T
    truth = difference.mean()
    inside = float(((low <= truth) & (truth <= high)).mean())
    claim = f"coverage of 95 % intervals of interchangeability, over {over}"
    verdict(claim, inside, 0.93, 0.97)


def best_layers(measure: str, n_studies: int = 400) -> None:
    """Layers of different width that have nothing to do with the region, none above chance."""
    rng = torch.Generator().manual_seed(10)
    reached = []
    for i in range(n_studies):
        layers = {
            f"{width} units": torch.randn(STIMULI, width, dtype=torch.float64, generator=rng)
            for width in (5, 20, 80, 320)
        }
        brain = torch.randn(STIMULI, 20, dtype=torch.float64, generator=rng)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of so few stimuli
            result = align(
                layers, {"region": brain}, measure=measure, transforms=["identity"], folds=3,
                n_resamples=199, seed=i,
            )  # fmt: skip
        reached.append(result.table["p_corrected"].min() <= 0.05)
    claim = f"any of 4 unrelated layers above chance, {measure}, p_corrected of align"
    verdict(claim, float(np.mean(reached)), 0.03, 0.07)


def searchlights(n_studies: int = 400, n_permutations: int = 99) -> None:
    """Smooth noise in voxels, and a model that it does not know: any center above chance."""
    places = np.indices((7, 7, 4)).reshape(3, -1)
    coords = {axis: ("unit", 3.0 * row) for axis, row in zip("xyz", places, strict=True)}
    ids = np.arange(16)

    def noise(rng: np.random.Generator) -> xr.DataArray:
        values = gaussian_filter(rng.normal(size=(16, 7, 7, 4)), (0, 1, 1, 1)).reshape(16, -1)
        return xr.DataArray(values, {**coords, "stimulus": ids}, ("stimulus", "unit"))

    for name, n_subjects in (("one subject, permuted stimuli", 1), ("8 subjects, max", 8),
                             ("8 subjects, tfce", 8)):  # fmt: skip
        rejected = []
        for i in range(n_studies):
            rng = np.random.default_rng(i)
            points = xr.DataArray(rng.normal(size=(16, 4)), {"stimulus": ids}, ("stimulus", "unit"))
            brains = [noise(rng) for _ in range(n_subjects)]
            for one in brains:
                one.coords.update({k: ("unit", row) for k, row in zip("ijk", places, strict=True)})
            found = searchlight_maps(
                {"model": points}, brains, radius=6.0, n_flips=n_permutations,
                n_permutations=n_permutations, test="tfce" if "tfce" in name else "max", seed=i,
                progress=False,
            )  # fmt: skip
            rejected.append(bool((found.data["p_corrected"] <= 0.05).any()))
        claim = f"family-wise false positives at .05, searchlight_maps, {name}, {n_studies} studies"
        error = 2 * (0.05 * 0.95 / n_studies) ** 0.5
        verdict(claim, float(np.mean(rejected)), 0.0, 0.05 + error)


def main() -> None:
    """Print where and when, then every claim."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    torch.set_num_threads(1)
    machine = f"{platform.machine()}, 1 thread, torch {torch.__version__}"
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {machine}, commit {commit or 'unknown'}")
    print(f"{STUDIES} studies of {SUBJECTS} subjects, {STIMULI} stimuli; {RESAMPLES} resamples")
    parts = {
        "permutation": permutations,
        "tests": false_positives_over_subjects,
        "fitted": fitted_models,
        "trial_ceilings": trial_ceilings,
        "clusters": clusters,
        "latencies": latencies,
        "searchlight": searchlights,
        "partial": lambda: [partial_permutations(name) for name in ("pearson", "spearman")],
        "intersubject": intersubject,
        "interchangeability": lambda: [interchangeable(over) for over in ("both", "subjects")],
        "layers": lambda: [best_layers(name) for name in ("centered_pearson", "linear_cka", "nbs")],
        "regression": lambda: [regressions(over) for over in ("both", "stimuli")],
        **{over: lambda o=over: coverage(o) for over in ("subjects", "stimuli", "both")},
        "grouped_coverage": lambda: [
            grouped_coverage(over, measure)
            for over, measure in (
                ("stimuli", "pearson"),
                ("stimuli", "whitened_cosine"),
                ("subjects", "pearson"),
                ("both", "pearson"),
            )
        ],
        "grouped_permutations": grouped_permutations,
        "grouped_subjects": grouped_subjects,
    }
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"some of {', '.join(parts)}; all by default")
    for part in parser.parse_args().parts or parts:
        parts[part]()


if __name__ == "__main__":
    main()
