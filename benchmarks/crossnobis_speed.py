"""Claims about distances from trials: crossnobis, Poisson and searchlights, in value and time.

Run with ``python benchmarks/crossnobis_speed.py``.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator
from functools import partial

import _harness
import numpy as np
import torch
from _harness import Case, Contender, Found, Memory, Turns, claim, compare
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


def timed(contenders: Contenders, repetitions: int) -> Turns:
    """Let the contenders take turns and show how long they take."""
    turns = Turns(contenders, repetitions)
    turns.show()
    return turns


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


OPTIONS = {"method": "crossnobis", "descriptor": "stimulus", "cv_descriptor": "fold"}


def trials(n: int = STIMULI) -> tuple[torch.Tensor, torch.Tensor]:
    """Make random folds, and a precision of their units; float64."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(FOLDS, n, UNITS, dtype=torch.float64, generator=rng)
    root = torch.randn(UNITS, UNITS, dtype=torch.float64, generator=rng)
    return x, root @ root.mT / UNITS + torch.eye(UNITS)


def cases(quick: bool) -> Iterator[Case]:
    """Yield crossnobis with and without noise."""
    for n in (20,) if quick else (STIMULI, 500):
        size = f"{FOLDS} folds × {n} × {UNITS} float64"
        repetitions = 1 if quick else 5 if n > STIMULI else REPETITIONS
        for what, noise in (("crossnobis", False), ("crossnobis, noise precision", True)):
            yield Case(what, size, partial(_distances, n, noise, repetitions))


def _distances(n: int, noise: bool, repetitions: int) -> Found:
    x, precision = trials(n)
    dataset, given = folds_of(x), precision.numpy() if noise else None
    if noise:
        limit = Contender("x_folds @ precision", lambda: x @ precision)
    else:  # of each fold with itself, and of all with all
        total = x.sum(0)
        limit = Contender("its products alone", lambda: (x @ x.mT, total @ total.mT))
    return compare(
        lambda: crossnobis(x, precision if noise else None),
        peer=Contender("rsatoolbox calc_rdm", lambda: calc_rdm(dataset, noise=given, **OPTIONS)),
        limit=limit,
        memory=Memory(__file__, f"ours {n} {noise}", f"rsatoolbox {n} {noise}"),
        repetitions=repetitions,
    )


def memory_run(name: str) -> Callable[[], object]:
    """Prepare "WHO N NOISE" of the table."""
    who, n, noise = name.split(" ")
    x, precision = trials(int(n))
    given = precision if noise == "True" else None
    if who == "ours":
        crossnobis(x[:, :4])  # libraries
        return lambda: crossnobis(x, given)
    dataset = folds_of(x)
    calc_rdm(folds_of(x[:, :4]), **OPTIONS)
    return lambda: calc_rdm(dataset, noise=None if given is None else given.numpy(), **OPTIONS)


def balanced() -> None:
    """Time crossnobis beside the whitening product and rsatoolbox."""
    x, precision = trials()
    dataset, options = folds_of(x), OPTIONS
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
        times = timed(contenders, REPETITIONS)
        name = f"crossnobis of {STIMULI} x {FOLDS} x {UNITS} {str(dtype)[6:]} / x_folds @ precision"
        claim(name, times.ratio("crossnobis", "whitening"), 2.5, at_most=True)
        if dtype == torch.float64:
            found = times.ratio("rsatoolbox without noise", "crossnobis without noise")
            claim("rsatoolbox / crossnobis, without noise", found, 5)
            claim("the same with noise", times.ratio("rsatoolbox", "crossnobis"), None)
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
    times = timed(contenders, 5)
    claim(
        "rsatoolbox unbalanced / ours over all", times.ratio("rsatoolbox unbalanced", "all"), None
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
    times = timed(contenders, REPETITIONS)
    claim("rsatoolbox / poisson_kl", times.ratio("rsatoolbox poisson", "poisson_kl"), None)
    claim("rsatoolbox / poisson_cv", times.ratio("rsatoolbox poisson_cv", "poisson_cv"), None)
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
        times = timed(contenders, 3)
        claim = f"rsatoolbox / searchlight, correlation, {len(grid)} centers, {n} stimuli"
        claim(claim, times.ratio("rsatoolbox searchlight", "searchlight"), None)
        agree("searchlight", searchlight(x, neighbors, progress=False), theirs())


def main() -> None:
    """Check every claim."""
    warnings.simplefilter("ignore", RuntimeWarning)  # rsatoolbox casts NaN to integers
    balanced()
    unbalanced()
    poisson()
    lights()


if __name__ == "__main__":
    _harness.start()
    main()
