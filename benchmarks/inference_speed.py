"""Claims about bootstraps of model scores: much faster than rsatoolbox, and the same numbers.

Run with ``python benchmarks/inference_speed.py``. rsatoolbox is given a hundredth of the resamples
and its time multiplied: its time is per resample.
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
from rsatoolbox.inference import eval_bootstrap_pattern, eval_dual_bootstrap
from rsatoolbox.model import ModelFixed
from rsatoolbox.rdm import RDMs
from torch import Tensor

from softrsa.inference import bootstrap

STIMULI, MODELS, SUBJECTS = 92, 10, 8
PAIRS = STIMULI * (STIMULI - 1) // 2
RESAMPLES, THEIRS = 1000, 10
REPETITIONS = 3
THEIRS_IN_TABLE = 4
METHODS = {"pearson": "corr", "whitened_pearson": "corr_cov", "spearman": "spearman"}


def data() -> tuple[Tensor, Tensor]:
    """Make random models, and subjects of which the first model is true."""
    rng = torch.Generator().manual_seed(0)
    models = torch.rand(MODELS, PAIRS, dtype=torch.float64, generator=rng)
    return models, models[0] + torch.rand(SUBJECTS, PAIRS, dtype=torch.float64, generator=rng)


def theirs(measure: str, over: str, n_resamples: int) -> Callable[[], object]:
    """Prepare the same bootstrap by rsatoolbox."""
    models, subjects = data()
    fixed = [ModelFixed(str(i), one.numpy()) for i, one in enumerate(models)]
    rdms, function = RDMs(subjects.numpy()), eval_dual_bootstrap
    if over == "stimuli":
        function = eval_bootstrap_pattern
    np.random.seed(0)  # noqa: NPY002, rsatoolbox draws from it
    warnings.simplefilter("ignore")

    def run() -> None:
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
            function(fixed, rdms, method=METHODS[measure], N=n_resamples)

    return run


def cases(quick: bool) -> Iterator[Case]:
    """Yield bootstraps over stimuli and subjects."""
    n = 20 if quick else RESAMPLES
    size = f"{n} resamples, {MODELS} models, {SUBJECTS} subjects, {STIMULI} stimuli"
    for measure, over in (
        ("pearson", "both"),
        ("whitened_pearson", "both"),
        ("spearman", "stimuli"),
    ):
        yield Case(
            f"bootstrap over {over}, {measure} (peer: {THEIRS_IN_TABLE} resamples)",
            size,
            partial(_bootstrap, measure, over, n, 1 if quick else REPETITIONS),
        )


def _bootstrap(measure: str, over: str, n: int, repetitions: int) -> Found:
    models, subjects = data()

    def products() -> None:
        for _ in range(n):
            models @ subjects.mT

    name = f"{measure} {over}"
    return compare(
        lambda: bootstrap(models, subjects, measure, over=over, n_resamples=n),
        peer=Contender("rsatoolbox", theirs(measure, over, THEIRS_IN_TABLE), n / THEIRS_IN_TABLE),
        limit=Contender("correlations alone", products),
        memory=Memory(__file__, f"ours {name} {n}", f"rsatoolbox {name} {THEIRS_IN_TABLE}"),
        repetitions=repetitions,
    )


def memory_run(name: str) -> Callable[[], object]:
    """Prepare "WHO MEASURE OVER N" of the table; of rsatoolbox a few resamples tell all."""
    who, measure, over, n = name.split(" ")
    if who == "rsatoolbox":
        theirs(measure, over, 2)()  # libraries
        return theirs(measure, over, int(n))
    models, subjects = data()
    bootstrap(models, subjects, measure, over=over, n_resamples=2)
    return lambda: bootstrap(models, subjects, measure, over=over, n_resamples=int(n))


def versus(
    text: str, ours: Callable[[], object], others: Callable[[], object], least: float | None
) -> None:
    """Take turns; the peer is given a part of the resamples."""
    turns = Turns({"ours": ours, "rsatoolbox": others}, REPETITIONS)
    turns.show()
    claim(text, turns.ratio("rsatoolbox", "ours", RESAMPLES / THEIRS), least)


def main() -> None:
    """Check every claim."""
    models, subjects = data()
    fixed = [ModelFixed(str(i), one.numpy()) for i, one in enumerate(models)]
    rdms = RDMs(subjects.numpy())
    what = f"{RESAMPLES} resamples, {MODELS} models, {SUBJECTS} subjects, {STIMULI} stimuli"
    for measure, least in (("pearson", 150), ("whitened_pearson", None)):
        versus(
            f"eval_dual_bootstrap / bootstrap over both, {measure}, both ceilings, {what}",
            lambda m=measure: bootstrap(models, subjects, m, over="both", n_resamples=RESAMPLES),
            theirs(measure, "both", THEIRS),
            least,
        )
    for ceilings in (True, False):
        versus(
            "eval_bootstrap_pattern / bootstrap over stimuli, spearman, "
            f"{'with' if ceilings else 'without'} ceilings, {what}",
            lambda c=ceilings: bootstrap(
                models, subjects, "spearman", n_resamples=RESAMPLES, ceilings=c
            ),
            lambda c=ceilings: eval_bootstrap_pattern(
                fixed, rdms, method="spearman", N=THEIRS, boot_noise_ceil=c
            ),
            60,
        )


if __name__ == "__main__":
    _harness.start()
    main()
