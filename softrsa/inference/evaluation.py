"""Scores of fixed models on all stimuli, and the data set that every result starts from."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Sequence
from functools import cache
from importlib.metadata import version

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from softrsa.inference._scoring import score_once
from softrsa.inference._stack import Stack, stack_rsms
from softrsa.inference.result import KIND, SCHEMA, InferenceResult
from softrsa.measures import Measure


def evaluate(
    models: Tensor | xr.DataArray,
    subjects_rsms: Tensor | xr.DataArray,
    measure: str | Measure | Callable[[Tensor, Tensor], Tensor],
    *,
    names: Sequence[str] | None = None,
) -> InferenceResult:
    """Score fixed models against each subject, with noise ceilings, without resampling.

    Parameters
    ----------
    models : Tensor, shape (n_models, n_stimuli, n_stimuli) or (n_models, n_pairs), or DataArray
        RSMs or RDMs, square or condensed, or a labelled stack with one dimension, such as `layer`,
        before `anchor` and `neighbor`.
    subjects_rsms : Tensor or DataArray
        Of each subject, likewise, of the same stimuli; labelled stacks are joined by stimulus id.
    measure : str, Measure or callable
        Of RSMs: a name of `softrsa.measures.available`, its entry, or its function.
    names : sequence of str, optional
        What to call the models; by default their labels, or "model 1" and so on.

    Returns
    -------
    InferenceResult
        Standard errors are over subjects. NaN, with a warning in the result, for a constant RSM.

    Raises
    ------
    DTypeError
        If RSMs are not float32 or float64.
    ShapeError
        If they are not of the shapes above, differ in their stimuli, or have fewer than 4.
    StimulusError
        If labelled stacks differ in their stimuli, or only one side is labelled.
    DataError
        If values are infinite, names repeat, or fewer than 3 pairs are there in all RSMs.
    UnknownNameError
        If there is no such measure.

    Notes
    -----
    A pair of stimuli that is NaN in any RSM is left out of all of them, and of ceilings.

    Examples
    --------
    >>> subjects = torch.rand(4, 45, generator=torch.Generator().manual_seed(0))
    >>> result = evaluate(subjects.mean(0)[None], subjects, "pearson", names=["mean"])
    >>> result.table[["score", "ceiling_lower"]].round(2)
       score  ceiling_lower
    0   0.56           0.14
    """
    return InferenceResult(describe(stack_rsms(models, subjects_rsms, measure, names)))


def describe(stack: Stack, **settings: object) -> xr.Dataset:
    """Scores and ceilings on all stimuli, with the settings of what will be added."""
    scored = score_once(stack)
    scores = scored.scores[0]
    ceilings = torch.cat(scored.subject_ceilings(stack.values.new_ones(1, stack.n_subjects)))
    data = xr.Dataset(
        {
            "score": (("model", "subject"), scores.cpu().numpy()),
            "ceiling": (("bound", "subject"), ceilings.cpu().numpy()),
        },
        coords={
            "model": np.array(stack.models, dtype=object),
            "subject": np.array(stack.subjects, dtype=object),
            "bound": np.array(["lower", "upper"], dtype=object),
        },
    )
    data.attrs = {
        "softrsa_kind": KIND, "softrsa_schema": SCHEMA, "measure": stack.entry.name,
        "model_dim": stack.model_dim, "n_stimuli": stack.n_stimuli,
        "n_missing_pairs": stack.n_missing, "warnings": json.dumps(cautions(stack, scores)),
        "versions": json.dumps(_versions()), **settings,
    }  # fmt: skip
    return data


@cache
def _versions() -> dict[str, str]:
    """Look up what made a result; reading it from disk takes longer than a small bootstrap."""
    found = {name: version(name) for name in ("softrsa", "torch")}
    return found | {"python": platform.python_version()}


def cautions(stack: Stack, scores: Tensor) -> list[str]:
    """Say what to know about these data: undefined scores, a single subject, missing pairs."""
    found = []
    names = [*stack.models, *stack.subjects]
    undefined = [*scores.isnan().all(1).tolist(), *scores.isnan().all(0).tolist()]
    if any(undefined):
        which = ", ".join(name for name, lost in zip(names, undefined, strict=True) if lost)
        found.append(
            f"Scores are undefined (NaN) for {which}: constant, or nothing left after centering."
        )
    if stack.n_subjects == 1:
        found.append(
            "One subject: no noise ceiling and nothing about other subjects can be inferred; "
            "intervals over stimuli and permutation tests hold for this subject."
        )
    if stack.n_missing:
        found.append(f"{stack.n_missing} pairs missing in some RSM were left out of all.")
    return found
