"""Scores of flexible models on stimuli and subjects they were not fitted on."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from softrsa.errors import DataError, FitError, ShapeError
from softrsa.inference._stack import FEWEST_STIMULI, stack_rsms
from softrsa.inference.evaluation import cautions, describe
from softrsa.inference.flexible import FlexibleModel
from softrsa.inference.noise_ceiling import noise_ceiling
from softrsa.inference.result import InferenceResult
from softrsa.measures import Measure


def crossvalidate(
    models: Sequence[FlexibleModel],
    subjects_rsms: Tensor,
    measure: str | Measure | Callable[[Tensor, Tensor], Tensor],
    *,
    stimulus_folds: int = 5,
    subject_folds: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> InferenceResult:
    """Fit flexible models on training stimuli and subjects, score them on held-out ones.

    Parameters
    ----------
    models : sequence of FlexibleModel
        With different names, of the stimuli of the subjects.
    subjects_rsms : Tensor, shape (n_subjects, n_stimuli, n_stimuli)
        Square RSMs or RDMs, no pair missing.
    measure : str, Measure or callable
        Of RSMs: a name of `softrsa.measures.available`, its entry, or its function.
    stimulus_folds : int
        Parts of the stimuli, each of at least 4: pairs within a part are predicted from weights
        fitted to pairs among all the other stimuli. 1 holds no stimuli out.
    subject_folds : int, optional
        Parts of the subjects, likewise; each subject is a part by default. 1 holds none out, and is
        the only possibility with one subject.
    seed : int
        Of the folds; held in the result.
    progress : bool
        Whether to show a bar of the fits, after two seconds.

    Returns
    -------
    InferenceResult
        `score` of each subject, held out, as mean over the parts of the stimuli; `weights` (model,
        fold, part of subjects, rsm); ceilings over the pairs that were scored. Where a model cannot
        be fitted, its RSMs being constant among the training stimuli or none positively related, it
        predicts with the best single RSM (`FlexibleModel.fit_single`), and the result's `warnings`
        say how often. NaN, with a warning, where predictions or data are constant among held-out
        stimuli.

    Raises
    ------
    DTypeError
        If RSMs are not float32 or float64.
    ShapeError
        If models and subjects differ in their stimuli, or the subjects' RSMs are not square.
    DataError
        If nothing is held out, there are too many folds, pairs are missing, or names repeat.
    UnknownNameError
        If there is no such measure.

    Examples
    --------
    >>> from softrsa.inference import weighted_rsm_model
    >>> from softrsa.pairs import expand
    >>> rng = torch.Generator().manual_seed(0)
    >>> layers = expand(torch.rand(3, 435, generator=rng))
    >>> subjects = layers[0] + layers[1] + expand(torch.rand(4, 435, generator=rng))
    >>> result = crossvalidate([weighted_rsm_model(layers)], subjects, "pearson")
    >>> bool(result.table["score"][0] > 0.6)
    True
    """
    if subjects_rsms.ndim != 3:
        raise ShapeError(
            "`subjects_rsms` must be square, (n_subjects, n_stimuli, n_stimuli), got "
            f"{tuple(subjects_rsms.shape)}; use `softrsa.pairs.expand`."
        )
    stack = stack_rsms(subjects_rsms, subjects_rsms, measure)
    if stack.n_missing:
        raise DataError(f"{stack.n_missing} pairs are NaN; leave out their stimuli to split them.")
    names = [model.name for model in models]
    if not names or len(set(names)) < len(names):
        raise DataError(f"Models must be there and have different names, got {names}.")
    n_parts = stack.n_subjects if subject_folds is None else subject_folds
    rng = torch.Generator().manual_seed(seed)
    stimuli = _splits(stack.n_stimuli, stimulus_folds, "stimulus", FEWEST_STIMULI, rng)
    subjects = _splits(stack.n_subjects, n_parts, "subject", 1, rng)
    if len(stimuli) == len(subjects) == 1:
        raise DataError("Nothing is held out: use at least 2 stimulus or subject folds.")
    scores, weights, failed = _fit_and_score(
        models, subjects_rsms, stack.entry, stimuli, subjects, progress=progress
    )
    settings = {"stimulus_folds": stimulus_folds, "subject_folds": n_parts, "seed": seed}
    data = describe(stack, **settings, procedure="crossvalidate").drop_vars(["score", "model"])
    known = cautions(replace(stack, models=tuple(names)), torch.from_numpy(scores))
    data.attrs["warnings"] = json.dumps([*known, *_fallbacks(names, failed)])
    ceilings = _held_out_ceilings(subjects_rsms, stack.entry, [test for _, test in stimuli])
    return InferenceResult(
        data.assign(
            score=(("model", "subject"), scores),
            ceiling=(("bound", "subject"), ceilings),
            weights=(("model", "fold", "part", "rsm"), weights),
        ).assign_coords(model=np.array(names, dtype=object))
    )


def _splits(
    n: int, folds: int, kind: str, fewest: int, rng: torch.Generator
) -> list[tuple[Tensor, Tensor]]:
    """Training and test indices of each fold; the same ones for a single fold."""
    if not 1 <= folds <= max(1, n // fewest):
        raise DataError(
            f"`{kind}_folds` must be from 1 to {max(1, n // fewest)} for {n} "
            f"{'stimuli' if kind == 'stimulus' else 'subjects'}, of which a fold needs {fewest}; "
            f"got {folds}."
        )
    order = torch.randperm(n, generator=rng)
    tests = [order[i::folds].sort().values for i in range(folds)]
    if folds == 1:
        return [(tests[0], tests[0])]
    everything = torch.arange(n)
    return [(everything[~torch.isin(everything, test)], test) for test in tests]


def _fit_and_score(
    models: Sequence[FlexibleModel],
    rsms: Tensor,
    entry: Measure,
    stimuli: list[tuple[Tensor, Tensor]],
    subjects: list[tuple[Tensor, Tensor]],
    *,
    progress: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Held-out scores (model, subject), weights (model, fold, part, rsm), and which fits failed."""
    most = max(len(model.rsms) for model in models)
    scores = torch.zeros(len(models), len(rsms), dtype=torch.float64)
    weights = torch.full((len(models), len(stimuli), len(subjects), most), torch.nan).double()
    failed = np.zeros((len(models), len(stimuli), len(subjects)), dtype=bool)
    bar = tqdm(total=failed.size, desc="crossvalidate", unit="fit", delay=2, disable=not progress)
    with bar:
        for f, (train, test) in enumerate(stimuli):
            held = entry.pairs_of(rsms.double()[:, test][:, :, test])
            for p, (others, tested) in enumerate(subjects):
                for m, model in enumerate(models):
                    found, failed[m, f, p] = _fitted(model, rsms[others], entry, train)
                    weights[m, f, p, : len(found)] = found.cpu()
                    predicted = entry.pairs_of(model.predict(found)[test][:, test])
                    scores[m, tested] += entry.function(predicted, held[tested]).cpu()
                    bar.update()
    return scores.numpy() / len(stimuli), weights.numpy(), failed


def _fitted(
    model: FlexibleModel, rsms: Tensor, entry: Measure, train: Tensor
) -> tuple[Tensor, bool]:
    """Weights of a model, and whether it could not be fitted and these are of its best RSM."""
    try:
        return model.fit(rsms, entry, stimuli=train), False
    except FitError:
        return model.fit_single(rsms, entry, stimuli=train), True


def _fallbacks(names: list[str], failed: np.ndarray) -> list[str]:
    """Say of which models how many fits were impossible."""
    return [
        f"{name!r} could not be fitted in {int(lost.sum())} of {lost.size} fits, no weights giving "
        "a defined, positive score; its best single RSM was taken there."
        for name, lost in zip(names, failed, strict=True)
        if lost.any()
    ]


def _held_out_ceilings(rsms: Tensor, entry: Measure, tests: list[Tensor]) -> np.ndarray:
    """Mean ceilings (2, n_subjects) over the parts of the stimuli that were scored."""
    each = [noise_ceiling(rsms.double()[:, test][:, :, test], entry) for test in tests]
    return torch.stack([torch.stack(tuple(ceiling)) for ceiling in each]).mean(0).cpu().numpy()
