"""How region identification fares with noise and with fewer stimuli."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from softrsa.alignment.identification import as_items, identify_regions
from softrsa.alignment.identification_items import LEAST_STIMULI, LabelledRDMs, block
from softrsa.errors import DataError
from softrsa.pairs import condense, expand


def identification_curves(
    rdms: Tensor | np.ndarray | LabelledRDMs,
    subjects: Sequence[object] | None = None,
    regions: Sequence[object] | None = None,
    *,
    noise: Sequence[float] = (0.0,),
    n_stimuli: Sequence[int] | None = None,
    n_subsets: int = 5,
    seed: int = 0,
    progress: bool = False,
    **options: Any,
) -> pd.DataFrame:
    """Identify regions with noise added to RDMs, and from random subsets of the stimuli.

    Parameters
    ----------
    rdms, subjects, regions
        As `identify_regions` takes them.
    noise : sequence of float
        Standard deviations of noise added to the dissimilarities, in that of all RDMs' entries;
        what becomes negative is set to 0, as in the published procedure.
    n_stimuli : sequence of int, optional
        Numbers of stimuli; all by default.
    n_subsets : int
        Random subsets for each number that is not all; and draws of the noise.
    seed : int
        Of subsets, noise, folds and resamples.
    progress : bool
        Show a progress bar.
    **options
        Further options of `identify_regions`.

    Returns
    -------
    DataFrame
        `noise`, `n_stimuli`, `subset`, `transform`, `subject`, `accuracy`, one row for each
        combination. Average over subsets before taking intervals over subjects.

    Raises
    ------
    DataError
        If noise is negative, or numbers of stimuli are out of range.
    ShapeError, UnknownNameError
        As `identify_regions`.

    Examples
    --------
    >>> points = torch.randn(2, 12, 3, generator=torch.Generator().manual_seed(0))
    >>> rdms = torch.cdist(points, points).repeat(3, 1, 1)
    >>> curves = identification_curves(
    ...     rdms, ["a", "a", "b", "b", "c", "c"], ["V1", "IT"] * 3,
    ...     n_stimuli=[8, 12], n_subsets=2, transform="identity",
    ... )
    >>> curves.groupby("n_stimuli")["accuracy"].agg(["size", "mean"]).values.tolist()
    [[6.0, 1.0], [3.0, 1.0]]
    """
    items = as_items(rdms, subjects, regions)
    everything = items.rdms.shape[-1]
    numbers = [everything] if n_stimuli is None else list(n_stimuli)
    _check(noise, numbers, n_subsets, everything)
    names = [[known[i] for i in number] for known, number in
             ((items.subjects, items.subject), (items.regions, items.region))]  # fmt: skip
    vectors = condense(items.rdms)
    runs = [
        (level, number, subset)
        for level, number in product(noise, numbers)
        for subset in range(1 if number == everything and level == 0 else n_subsets)
    ]
    found = []
    for level, number, subset in tqdm(runs, desc="curves", disable=not progress):
        rng = np.random.default_rng((seed, subset))
        stimuli = torch.from_numpy(np.sort(rng.permutation(everything)[:number]))
        added = torch.from_numpy(rng.standard_normal(vectors.shape)) * vectors.std() * level
        noisy = expand((vectors + added).clamp_min(0) if level else vectors)
        result = identify_regions(block(noisy, stimuli), *names, seed=seed, **options)
        table = result.by_subject.melt(
            var_name="transform", value_name="accuracy", ignore_index=False
        )
        found.append(table.reset_index().assign(noise=level, n_stimuli=number, subset=subset))
    columns = ["noise", "n_stimuli", "subset", "transform", "subject", "accuracy"]
    return pd.concat(found, ignore_index=True)[columns]


def _check(noise: Sequence[float], numbers: Sequence[int], n_subsets: int, everything: int) -> None:
    if n_subsets < 1 or not noise or min(noise) < 0:
        raise DataError(
            f"`noise` must be at least 0 and `n_subsets` 1, got {list(noise)} and {n_subsets}."
        )
    if any(number != int(number) for number in numbers):
        raise DataError(f"`n_stimuli` must be whole numbers, got {numbers}.")
    if not numbers or min(numbers) < LEAST_STIMULI or max(numbers) > everything:
        raise DataError(
            f"`n_stimuli` must be from {LEAST_STIMULI} to the {everything} there are, "
            f"got {numbers}."
        )
