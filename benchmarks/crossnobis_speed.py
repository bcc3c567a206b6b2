"""Claims about distances from trials: crossnobis, Poisson and searchlights, in value and time.

Run with ``env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE python benchmarks/crossnobis_speed.py``; the
contenders take turns, so that other load on the machine falls on all alike, and ratios are taken
within each turn.
"""

from __future__ import annotations

import contextlib
import io
import platform
import subprocess
import time
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import numpy as np
import torch
from rsatoolbox.data import Dataset
from rsatoolbox.rdm import calc_rdm
from rsatoolbox.rdm.calc_unbalanced import calc_rdm_unbalanced
from rsatoolbox.util.searchlight import get_searchlight_RDMs

from softrsa.pairs import condense
from softrsa.rsm import (
    crossnobis,
    crossnobis_unbalanced,
    poisson_cv,
    poisson_kl,
    searchlight,
)

STIMULI, FOLDS, UNITS = 92, 8, 1000
REPETITIONS = 15
GRID = 14  # units of a cube, each a center of its searchlight of radius 3
TOLERANCE = 1e-8
Contenders = dict[str, Callable[[], object]]


def seconds(function: Callable[[], object]) -> float:
    """Time one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def turns(contenders: Contenders, repetitions: int) -> dict[str, list[float]]:
    """Time the contenders in turns; the first turn warms up."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for repetition in range(repetitions + 1):
        for name, function in contenders.items():
            taken = seconds(function)
            if repetition:
                times[name].append(taken)
    for name, values in times.items():
        print(f"      {name}: {1e3 * median(values):.1f} ms (median of {len(values)})")
    return times


def ratio(times: dict[str, list[float]], over: str, under: str) -> float:
    """Median of the ratios within turns."""
    return median(a / b for a, b in zip(times[over], times[under], strict=True))


def report(claim: str, found: float, target: float | None, *, at_most: bool = False) -> None:
    """Print a claim, what was measured and whether it holds."""
    word = "at most" if at_most else "at least"
    if target is None:
        print(f"      {claim}: {found:.2f} x")
        return
    holds = found <= target if at_most else found >= target
    print(f"{'pass' if holds else 'FAIL'}  {claim}: {found:.2f} x ({word} {target:g})")


def agree(what: str, ours: torch.Tensor, theirs: np.ndarray) -> None:
    """Print the largest difference to rsatoolbox."""
    difference = float(np.abs(ours.numpy() - theirs).max())
    holds = difference <= TOLERANCE
    print(f"{'pass' if holds else 'FAIL'}  {what}, largest difference: {difference:.1e}")


def folds_of(x: torch.Tensor) -> Dataset:
    """Give rsatoolbox one row for each fold and stimulus."""
    n_folds, n = x.shape[:2]
    described = {
        "stimulus": np.tile(np.arange(n), n_folds),
        "fold": np.repeat(np.arange(n_folds), n),
    }
    return Dataset(x.reshape(n_folds * n, -1).numpy(), obs_descriptors=described)


def balanced() -> None:
    """Time crossnobis beside the whitening product and rsatoolbox."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(FOLDS, STIMULI, UNITS, dtype=torch.float64, generator=rng)
    root = torch.randn(UNITS, UNITS, dtype=torch.float64, generator=rng)
    precision = root @ root.mT / UNITS + torch.eye(UNITS)
    dataset = folds_of(x)
    options = {"method": "crossnobis", "descriptor": "stimulus", "cv_descriptor": "fold"}
    for dtype in (torch.float64, torch.float32):
        y, p = x.to(dtype), precision.to(dtype)
        contenders: Contenders = {
            "whitening": lambda y=y, p=p: y @ p,
            "crossnobis": lambda y=y, p=p: crossnobis(y, p),
        }
        if dtype == torch.float64:
            contenders |= {
                "crossnobis without noise": lambda y=y: crossnobis(y),
                "rsatoolbox without noise": lambda: calc_rdm(dataset, **options),
                "rsatoolbox": lambda: calc_rdm(dataset, noise=precision.numpy(), **options),
            }
        times = turns(contenders, REPETITIONS)
        name = f"crossnobis of {STIMULI} x {FOLDS} x {UNITS} {str(dtype)[6:]} / x_folds @ precision"
        report(name, ratio(times, "crossnobis", "whitening"), 2.5, at_most=True)
        if dtype == torch.float64:
            found = ratio(times, "rsatoolbox without noise", "crossnobis without noise")
            report("rsatoolbox / crossnobis, without noise", found, 5)
            report("the same with noise", ratio(times, "rsatoolbox", "crossnobis"), None)
    for noise in (None, precision):
        theirs = calc_rdm(dataset, noise=None if noise is None else noise.numpy(), **options)
        agree("crossnobis", condense(crossnobis(x, noise)), theirs.get_vectors()[0])


def unbalanced() -> None:
    """Time folds that lack stimuli; rsatoolbox is given fewer, as it takes pairs of trials."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(4, 30, 100, dtype=torch.float64, generator=rng)
    x[torch.rand(4, 30, generator=rng) < 0.2] = torch.nan
    x[0] = torch.randn(30, 100, dtype=torch.float64, generator=rng)
    present = ~x[..., 0].isnan().flatten()
    whole = folds_of(x)
    described = {name: values[present.numpy()] for name, values in whole.obs_descriptors.items()}
    dataset = Dataset(whole.measurements[present.numpy()], obs_descriptors=described)
    options = {"method": "crossnobis", "descriptor": "stimulus", "cv_descriptor": "fold"}
    contenders: Contenders = {
        "shared": lambda: crossnobis_unbalanced(x),
        "all": lambda: crossnobis_unbalanced(x, over="all"),
        "rsatoolbox unbalanced": lambda: calc_rdm_unbalanced(dataset, **options),
    }
    times = turns(contenders, 5)
    report(
        "rsatoolbox unbalanced / ours over all", ratio(times, "rsatoolbox unbalanced", "all"), None
    )
    theirs = calc_rdm_unbalanced(dataset, **options).get_vectors()[0]
    agree("crossnobis_unbalanced over all", condense(contenders["all"]()), theirs)  # type: ignore[arg-type]


def poisson() -> None:
    """Time divergences of spike counts."""
    rng = torch.Generator().manual_seed(0)
    x = torch.poisson(torch.full((FOLDS, STIMULI, UNITS), 3.0, dtype=torch.float64), rng)
    dataset, means = folds_of(x), x.mean(0)
    averaged = Dataset(means.numpy(), obs_descriptors={"stimulus": np.arange(STIMULI)})
    single = {"method": "poisson", "descriptor": "stimulus"}
    crossed = {"method": "poisson_cv", "descriptor": "stimulus", "cv_descriptor": "fold"}
    contenders: Contenders = {
        "poisson_kl": lambda: poisson_kl(means),
        "rsatoolbox poisson": lambda: calc_rdm(averaged, **single),
        "poisson_cv": lambda: poisson_cv(x),
        "rsatoolbox poisson_cv": lambda: calc_rdm(dataset, **crossed),
    }
    times = turns(contenders, REPETITIONS)
    report("rsatoolbox / poisson_kl", ratio(times, "rsatoolbox poisson", "poisson_kl"), None)
    report("rsatoolbox / poisson_cv", ratio(times, "rsatoolbox poisson_cv", "poisson_cv"), None)
    agree("poisson_kl", condense(poisson_kl(means)), calc_rdm(averaged, **single).get_vectors()[0])
    few = x[:, :20, :50]
    theirs = calc_rdm_unbalanced(folds_of(few), **crossed).get_vectors()[0]
    agree("poisson_cv (calc_rdm_unbalanced)", condense(poisson_cv(few)), theirs)


def lights() -> None:
    """Time a searchlight over a cube of units."""
    grid = np.indices((GRID,) * 3).reshape(3, -1).T
    neighbors = [np.flatnonzero(((grid - center) ** 2).sum(1) < 9) for center in grid]
    for n in (40, STIMULI):
        x = torch.randn(
            n, len(grid), dtype=torch.float64, generator=torch.Generator().manual_seed(0)
        )
        rows = x.numpy()

        def theirs(rows: np.ndarray = rows, n: int = n) -> np.ndarray:
            with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
                found = get_searchlight_RDMs(rows, np.arange(len(grid)), neighbors, np.arange(n))
            return found.dissimilarities

        contenders: Contenders = {
            "searchlight": lambda x=x: searchlight(x, neighbors, progress=False),
            "rsatoolbox searchlight": theirs,
        }
        times = turns(contenders, 3)
        claim = f"rsatoolbox / searchlight, correlation, {len(grid)} centers, {n} stimuli"
        report(claim, ratio(times, "rsatoolbox searchlight", "searchlight"), None)
        agree("searchlight", searchlight(x, neighbors, progress=False), theirs())


def main() -> None:
    """Print where and when, then every claim."""
    warnings.simplefilter("ignore", RuntimeWarning)  # rsatoolbox casts NaN to integers
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {machine}, commit {commit or 'unknown'}")
    balanced()
    unbalanced()
    poisson()
    lights()


if __name__ == "__main__":
    main()
