"""How well units repeat their responses, and the choice of those that do."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor
from tqdm import tqdm

from softrsa._wording import counted, listed
from softrsa.errors import DataError, ShapeError, StimulusError
from softrsa.io.schema import check_trials
from softrsa.recordings.trials import as_tensor, checked_trials, groups


def reliability(trials: xr.DataArray, *, n_splits: int = 100, seed: int = 0) -> xr.Dataset:
    r"""Measure by split halves how well each unit's responses to the stimuli repeat.

    The trials of each stimulus are split at random into halves; :math:`r` is the correlation
    across stimuli between the means of the two, averaged over splits. The reliability of the mean
    of all trials follows by Spearman and Brown's :math:`2 r / (1 + r)`.

    Parameters
    ----------
    trials : DataArray, dims (trial, unit) or (trial, unit, time)
        Responses, float32 or float64, in any unit; every stimulus in two trials or more.
    n_splits : int
        Number of random splits.
    seed : int
        Of the splits.

    Returns
    -------
    Dataset, dims (unit) or (unit, time)
        ``split_half``, the mean :math:`r` in [-1, 1], and ``reliability``, at most 1, with the
        coordinates of the units; ``n_splits`` and ``seed`` in the attributes. NaN for a unit that
        is constant, or constant across stimuli in a half of any split.

    Raises
    ------
    DTypeError, ShapeError, StimulusError, DataError
        If the trials are not as `softrsa.io.check_trials` wants them.
    StimulusError
        If stimuli have but one trial, which the message names: they cannot be split.
    ShapeError
        If there are fewer than three stimuli, or ``n_splits`` is less than 1.

    Notes
    -----
    With an odd number of trials one half, of a random side, has one more. Negative values mean no
    reliability. Summed in float64; all units at once. A progress bar shows after two seconds.

    References
    ----------
    Spearman (1910), doi:10.1111/j.2044-8295.1910.tb00206.x; Brown (1910),
    doi:10.1111/j.2044-8295.1910.tb00207.x.

    Examples
    --------
    >>> trials = xr.DataArray(
    ...     [[1.0, 5.0], [1.2, 3.0], [2.0, 4.0], [2.1, 5.0], [4.0, 3.0], [3.9, 4.0]],
    ...     dims=("trial", "unit"),
    ...     coords={"stimulus": ("trial", ["a", "a", "b", "b", "c", "c"]), "unit": [7, 8]},
    ... )
    >>> reliability(trials)["reliability"].sel(unit=7).round(3).item()
    0.999
    """
    trials = checked_trials(trials)
    codes, ids = groups(trials, "stimulus")
    counts = torch.bincount(codes)
    _check(counts.numpy(), np.asarray(ids), n_splits)
    x = as_tensor(trials).double()
    x = x - x[..., :1, :]  # constant units are exactly 0; correlations do not see it
    sums = x.new_zeros(*x.shape[:-2], len(ids), x.shape[-1]).index_add_(-2, codes, x)
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros_like(x[..., 0, :])
    for _ in tqdm(range(n_splits), desc="split halves", delay=2):
        first, size = _half(codes, counts, generator)
        half = torch.zeros_like(sums).index_add_(-2, codes[first], x[..., first, :])
        rest = (counts - size).unsqueeze(-1)
        total += _correlation(half / size.unsqueeze(-1), (sums - half) / rest)
    split_half = (total / n_splits).movedim(0, -1) if "time" in trials.dims else total / n_splits
    dims = trials.dims[1:]
    values = {"split_half": split_half, "reliability": 2 * split_half / (1 + split_half)}
    return xr.Dataset(
        {name: (dims, value.numpy()) for name, value in values.items()},
        coords={name: c for name, c in trials.coords.items() if set(c.dims) <= set(dims)},
        attrs={"n_splits": n_splits, "seed": seed},
    )


def half_means(trials: xr.DataArray, *, n_splits: int = 20, seed: int = 0) -> Tensor:
    """Average the trials of each stimulus in two random halves.

    Parameters
    ----------
    trials : DataArray, dims (trial, unit)
        Responses in any unit; every stimulus in two trials or more.
    n_splits : int
        Number of random splits.
    seed : int
        Of the splits.

    Returns
    -------
    Tensor, shape (n_splits, 2, n_stimuli, n_units)
        Means of both halves, float64; stimuli in order of first appearance, as `average_trials`
        has them. Of an odd number of trials one half, of a random side, has one more.

    Raises
    ------
    DTypeError, ShapeError, StimulusError, DataError
        As `reliability`.

    Examples
    --------
    >>> trials = xr.DataArray(
    ...     [[1.0], [2.0], [3.0], [5.0], [4.0], [6.0]],
    ...     dims=("trial", "unit"),
    ...     coords={"stimulus": ("trial", ["a", "a", "b", "b", "c", "c"])},
    ... )
    >>> half_means(trials, n_splits=3).sum(1)[:, :, 0]
    tensor([[ 3.,  8., 10.],
            [ 3.,  8., 10.],
            [ 3.,  8., 10.]], dtype=torch.float64)
    """
    trials = check_trials(trials)
    codes, ids = groups(trials, "stimulus")
    counts = torch.bincount(codes)
    _check(counts.numpy(), np.asarray(ids), n_splits)
    x = as_tensor(trials).double()
    sums = x.new_zeros(len(ids), x.shape[1]).index_add_(0, codes, x)
    generator = torch.Generator().manual_seed(seed)
    found = x.new_empty(n_splits, 2, *sums.shape)
    for pair in found:
        first, size = _half(codes, counts, generator)
        half = torch.zeros_like(sums).index_add_(0, codes[first], x[first])
        pair[0] = half / size.unsqueeze(-1)
        pair[1] = (sums - half) / (counts - size).unsqueeze(-1)
    return found


def select_reliable(
    array: xr.DataArray,
    reliability: xr.Dataset | xr.DataArray,
    *,
    least: float | None = None,
    top: int | None = None,
) -> xr.DataArray:
    """Keep the units whose responses repeat.

    Units chosen on the trials that are then analyzed are flattered: their noise helped to choose
    them. That is harmless for comparing models, but anything tested against zero, noise ceilings
    among them, is biased upward. Take the reliability from other trials (another session, or half
    of the stimuli) wherever the result is a test.

    Parameters
    ----------
    array : DataArray, with a dimension unit
        Trials, a recording or activations.
    reliability : Dataset or DataArray, dims (unit)
        The result of `softrsa.recordings.reliability`, or one of its variables; of the same units
        in the same order.
    least : float, optional
        The lowest reliability to keep.
    top : int, optional
        How many units to keep at most: those most reliable.

    Returns
    -------
    DataArray
        ``array`` with the units kept, in their order; ``attrs["units_left_out"]`` says how many
        are not. Units whose reliability is NaN are never kept.

    Raises
    ------
    DataError
        If neither or no positive limit is given, or no unit is left; the message has the highest
        reliability.
    ShapeError
        If the units of the two differ.

    Examples
    --------
    >>> array = xr.DataArray(np.arange(6.0).reshape(2, 3), dims=("stimulus", "unit"))
    >>> found = xr.DataArray([0.9, 0.2, 0.6], dims="unit")
    >>> select_reliable(array, found, least=0.5).values
    array([[0., 2.],
           [3., 5.]])
    """
    values = reliability["reliability"] if isinstance(reliability, xr.Dataset) else reliability
    _check_same_units(array, values)
    if least is None and top is None:
        raise DataError("Give `least`, `top` or both; all units would be kept.")
    if top is not None and top < 1:
        raise DataError(f"`top` must be at least 1, got {top}.")
    numbers = values.values
    kept = ~np.isnan(numbers) if least is None else numbers >= least
    if not kept.any():
        best = (
            "all are NaN" if np.isnan(numbers).all() else f"the highest is {np.nanmax(numbers):.3g}"
        )
        raise DataError(
            f"No unit of {len(numbers)} is reliable enough (`least={least}`): {best}. Lower "
            "`least`, or look at the stimulus ids of the trials."
        )
    order = np.argsort(np.where(kept, -numbers, np.inf), kind="stable")[: int(kept.sum())]
    chosen = np.sort(order[:top])
    left_out = len(numbers) - len(chosen)
    return array.isel(unit=chosen).assign_attrs(units_left_out=left_out)


def _half(codes: Tensor, counts: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw the trials of the first half, and how many those are of each stimulus."""
    shuffled = torch.randperm(len(codes), generator=generator)
    order = shuffled[codes[shuffled].argsort(stable=True)]
    starts = counts.cumsum(0) - counts
    position = torch.arange(len(codes)) - starts[codes[order]]
    more = torch.randint(0, 2, counts.shape, generator=generator)
    size = (counts + more * (counts % 2)) // 2
    return order[position < size[codes[order]]], size


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """Correlate across the second last dimension; NaN where a side is constant."""
    a, b = a - a.mean(-2, keepdim=True), b - b.mean(-2, keepdim=True)
    return (a * b).sum(-2) / (a.square().sum(-2) * b.square().sum(-2)).sqrt()


def _check(counts: np.ndarray, ids: np.ndarray, n_splits: int) -> None:
    if n_splits < 1:
        raise ShapeError(f"`n_splits` must be at least 1, got {n_splits}.")
    if (counts < 2).any():
        alone = ids[counts < 2]
        raise StimulusError(
            f"{counted(len(alone), 'stimulus has', 'stimuli have')} one trial only "
            f"({listed(alone)}), so they cannot be split in halves. Leave them out: "
            "`trials.sel(trial=~trials.stimulus.isin(ids))`."
        )
    if len(ids) < 3:
        raise ShapeError(
            f"Reliability correlates across stimuli and needs at least 3, got {len(ids)}."
        )


def _check_same_units(array: xr.DataArray, values: xr.DataArray) -> None:
    if values.dims != ("unit",) or "unit" not in array.dims:
        raise ShapeError(
            f"The reliability must have the dimension ('unit',) and the array one of that name, "
            f"got {values.dims} and {array.dims}. With several times take one, or their mean."
        )
    sizes = array.sizes["unit"], values.sizes["unit"]
    if sizes[0] != sizes[1]:
        raise ShapeError(
            f"The array has {counted(sizes[0], 'unit')} and the reliability {sizes[1]}; "
            "take both from the same units."
        )
    indexes = [part.indexes.get("unit", pd.RangeIndex(sizes[0])) for part in (array, values)]
    if all("unit" in part.indexes for part in (array, values)) and not indexes[0].equals(
        indexes[1]
    ):
        raise ShapeError("The units of the array and of the reliability have different labels.")
