"""Calibration of the intervals and p of `softrsa.align`, by simulation.

Run it with OPENBLAS_CORETYPE and OPENBLAS_L2_SIZE unset; some ten minutes on one core. Stimuli are
points in a latent space that a layer reads with noise; subjects weigh its dimensions, each in its
own way, and add noise. The truth is the mean score over all studies, of fresh stimuli and, where
there are several subjects, of fresh ones.
"""

from __future__ import annotations

import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from scipy.stats import kstest
from torch import Tensor

from softrsa import align

STUDIES, RESAMPLES, DIMENSIONS = 300, 300, 10
TRANSFORMS = ["identity", "geo_topological"]


def study(
    rng: torch.Generator, n: int, weights: Tensor, related: bool
) -> tuple[Tensor, list[Tensor]]:
    """Draw a layer's and the subjects' responses to n stimuli."""
    real = {"dtype": torch.float64, "generator": rng}
    latent = torch.randn(n, DIMENSIONS, **real)
    layer = torch.cat([latent, torch.randn(n, 5, **real)], 1)
    seen = latent if related else torch.randn(n, DIMENSIONS, **real)
    return layer, [seen * one + torch.randn(n, DIMENSIONS, **real) for one in weights]


def grouped(n_groups: int, folds: int, measure: str, *, related: bool) -> None:
    """Coverage and p where five stimuli of each category share a center, one subject."""
    rng = torch.Generator().manual_seed(2)
    real = {"dtype": torch.float64, "generator": rng}
    labels = np.arange(5 * n_groups) % n_groups
    weights = 2 * torch.rand(DIMENSIONS, **real)
    found: dict[str, list[np.ndarray]] = {}
    for seed in range(STUDIES):
        sides = []
        for _ in range(1 if related else 2):
            centers = torch.randn(n_groups, DIMENSIONS, **real)
            sides.append(centers[labels] + 0.5 * torch.randn(len(labels), DIMENSIONS, **real))
        layer = torch.cat([sides[0], torch.randn(len(labels), 5, **real)], 1)
        brain = sides[-1] * weights + torch.randn(len(labels), DIMENSIONS, **real)
        for name, groups in (("one by one", None), ("in groups", labels)):
            table = align(
                {"layer": layer}, {"region": brain}, transforms=TRANSFORMS, measure=measure,
                n_resamples=RESAMPLES, seed=seed, folds=folds, stimulus_groups=groups,
            ).table  # fmt: skip
            columns = table[["score", "score_low", "score_high", "p_chance"]].to_numpy()
            found.setdefault(name, []).append(columns)
    for name, tables in found.items():
        score, low, high, p = np.moveaxis(np.array(tables), -1, 0)
        truth = score.mean(0)
        inside = ((low <= truth) & (truth <= high)).mean(0)
        what = f"{measure}, {n_groups} groups of 5 in {folds} folds, {name}, true scores"
        print(
            f"{what} {truth.round(3)}: coverage of {', '.join(TRANSFORMS)} {inside.round(3)}; "
            f"share of p up to .05 {(p <= 0.05).mean(0).round(3)}", flush=True,
        )  # fmt: skip


def calibration(n: int, n_subjects: int, measure: str, *, related: bool) -> None:
    """Coverage of 95 % intervals, and under the null whether p is uniform."""
    rng = torch.Generator().manual_seed(1)
    real = {"dtype": torch.float64, "generator": rng}
    fixed = 2 * torch.rand(n_subjects, DIMENSIONS, **real)
    found, low, high, p = [], [], [], []
    for seed in range(STUDIES):
        weights = fixed if n_subjects == 1 else 2 * torch.rand(n_subjects, DIMENSIONS, **real)
        layer, brain = study(rng, n, weights, related)
        table = align(
            {"layer": layer}, {"region": brain}, transforms=TRANSFORMS, measure=measure,
            n_resamples=RESAMPLES, seed=seed,
        ).table  # fmt: skip
        for column, kept in (
            ("score", found), ("score_low", low), ("score_high", high), ("p_chance", p),
        ):  # fmt: skip
            kept.append(table[column].to_numpy())
    scores = np.array(found)
    truth = scores.mean(0)
    inside = ((np.array(low) <= truth) & (truth <= np.array(high))).mean(0)
    what = f"{measure}, {n} stimuli in 5 folds, {n_subjects} subject(s), true scores"
    print(f"{what} {truth.round(3)}: coverage of {', '.join(TRANSFORMS)} {inside.round(3)}")
    if related:
        return
    spread = np.array(p) - np.random.default_rng(0).random(scores.shape) / (RESAMPLES + 1)
    uniform = [kstest(one, "uniform").pvalue for one in spread.T]
    share = (np.array(p) <= 0.05).mean(0)
    print(f"  p: Kolmogorov-Smirnov {np.round(uniform, 3)}, share up to .05 {share.round(3)}")


def main() -> None:
    """Print where and when, then every simulation."""
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
    print(f"{STUDIES} studies each, {RESAMPLES} resamples")
    for n_groups, folds, measure, related in (
        (20, 5, "centered_pearson", True),
        (20, 5, "centered_pearson", False),
        (10, 5, "pearson", True),
        (10, 10, "centered_pearson", True),
    ):
        grouped(n_groups, folds, measure, related=related)
    for n, n_subjects, measure, related in (
        (40, 1, "centered_pearson", True),
        (40, 1, "centered_pearson", False),
        (40, 6, "centered_pearson", True),
        (40, 6, "centered_pearson", False),
        (100, 1, "centered_pearson", True),
        (40, 1, "pearson", True),
        (40, 1, "spearman", True),
    ):
        calibration(n, n_subjects, measure, related=related)


if __name__ == "__main__":
    main()
