"""The noise ceiling of a single subject, from repeated trials."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import xarray as xr
from torch import Tensor

from softrsa.errors import DataError
from softrsa.inference.pair_table import find_measure
from softrsa.measures import Measure
from softrsa.recordings import average_trials, half_means
from softrsa.rsm import similarity_matrix
from softrsa.rsm.similarity import SimilarityLike, as_similarity
from softrsa.transforms import double_center

SCALED = ("correlation", "cosine", "dot")  # similarities whose noise averages out


class TrialCeiling(NamedTuple):
    """Noise ceiling of a subject: of another measurement like this one, and of the true RSM."""

    lower: float
    upper: float


def trial_ceiling(
    trials: xr.DataArray,
    measure: str | Measure | Callable[[Tensor, Tensor], Tensor] = "centered_pearson",
    *,
    similarity: SimilarityLike = "correlation",
    n_splits: int = 100,
    seed: int = 0,
) -> TrialCeiling:
    r"""How well the RSM of a single subject could be matched, given the noise of its trials.

    With :math:`A, B` the RSMs of two halves of the trials, :math:`C` that of all, where patterns of
    halves are as much longer than those of all trials as they usually are (root mean square over
    halves), and all double-centered,

    .. math:: \text{upper} = \sqrt{\frac{\langle A, B\rangle}{\langle C, C\rangle}},
              \qquad \text{lower} = \text{upper}^2

    Parameters
    ----------
    trials : DataArray, dims (trial, unit)
        Responses of one subject in any unit, with a coordinate `stimulus` on `trial`; every
        stimulus in two trials or more. Repeats may be unbalanced.
    measure : str, Measure or callable
        A measure of RSMs that is a correlation, with a range of -1 to 1.
    similarity : str
        "correlation", "cosine" or "dot".
    n_splits : int
        Random halves that are averaged over.
    seed : int
        Of the halves.

    Returns
    -------
    TrialCeiling
        ``upper`` is the score that is expected of the subject's true RSM, without noise; ``lower``
        that of the RSM of another measurement with as many trials. Both in [0, 1]; 0 where the
        halves do not agree.

    Raises
    ------
    DataError
        If the measure is no correlation of RSMs, or the similarity is another one.
    DTypeError, ShapeError, StimulusError, DataError
        If the trials are not as `softrsa.io.check_trials` wants them, or a stimulus has one trial
        only, which the message names.

    Notes
    -----
    Noise that is independent between stimuli leaves similarities between *different* stimuli as
    they are on average, so the products of the halves' RSMs are those of the true ones: nothing is
    extrapolated from half the trials to all, as Spearman and Brown's formula would. That is of
    centered Pearson; of other measures, the agreement of the halves is brought to all trials by the
    factor that holds for centered Pearson, which is an approximation. Where the gain of single
    trials varies much and patterns are much alike, measures that do not center are the less exact.

    In simulations of 60 stimuli (``benchmarks/studies/calibration.py trial_ceilings``) the mean
    error is below .02 with 5 trials or more, and 20 to 500 units, with as much signal as noise or a
    tenth of it (.03 with 20 units and 5 trials of little signal). With 2 trials and so little
    signal single estimates vary by .06 to .16.

    References
    ----------
    Spearman (1904), doi:10.2307/1412159, for the correction for attenuation.

    Examples
    --------
    >>> generator = torch.Generator().manual_seed(0)
    >>> signal = torch.randn(30, 1, 80, generator=generator, dtype=torch.float64)
    >>> noise = torch.randn(30, 4, 80, generator=generator, dtype=torch.float64)
    >>> trials = xr.DataArray(
    ...     (signal + noise).flatten(0, 1).numpy(), dims=("trial", "unit"),
    ...     coords={"stimulus": ("trial", [i for i in range(30) for _ in range(4)])},
    ... )
    >>> round(trial_ceiling(trials).upper, 1)
    0.8
    """
    entry = find_measure(measure)
    check_trial_ceiling(entry, similarity)
    halves = scaled_halves(trials, similarity, n_splits=n_splits, seed=seed)
    mean = torch.from_numpy(average_trials(trials).values).double()
    whole = similarity_matrix(mean, similarity=similarity)
    return ceiling_of_halves(halves, whole, entry, similarity)


def has_trial_ceiling(measure: Measure, similarity: SimilarityLike) -> bool:
    """Whether ceilings can be told from trials under a measure and a similarity."""
    of_pairs = measure.range == (-1.0, 1.0) and measure.takes in ("vectors", "pairs", "matrices")
    return of_pairs and as_similarity(similarity).name in SCALED


def check_trial_ceiling(measure: Measure, similarity: SimilarityLike) -> None:
    """Refuse what `has_trial_ceiling` does not have."""
    if not has_trial_ceiling(measure, similarity):
        raise DataError(
            "A ceiling from trials needs a correlation of RSMs (such as 'centered_pearson', "
            "'pearson' or 'spearman') and a similarity of "
            f"{', '.join(map(repr, SCALED))}; got {measure.name!r} and "
            f"{as_similarity(similarity).name!r}."
        )


def scaled_halves(
    trials: xr.DataArray, similarity: SimilarityLike, *, n_splits: int, seed: int
) -> Tensor:
    """Means of random halves (n_splits, 2, n, p) whose inner products are similarities.

    Noise makes patterns longer, the more so the fewer trials: similarities of halves are smaller.
    So a pattern of length 1 is given the length that halves of its stimulus usually have, over that
    of the mean of all trials. Its own length would hold the gain of these trials, which is noise.
    """
    halves = half_means(trials, n_splits=n_splits, seed=seed)
    mean = torch.from_numpy(average_trials(trials).values).double()
    name = as_similarity(similarity).name
    if name == "dot":
        return halves / mean.shape[1] ** 0.5
    if name == "correlation":
        halves, mean = (x - x.mean(-1, keepdim=True) for x in (halves, mean))
    lengths = torch.linalg.vector_norm(halves, dim=-1, keepdim=True)
    usual = lengths.square().mean((0, 1)).sqrt()
    whole = torch.linalg.vector_norm(mean, dim=-1, keepdim=True)
    return halves / lengths * (usual / whole)


def ceiling_of_halves(
    halves: Tensor,
    whole: Tensor,
    measure: Measure,
    similarity: SimilarityLike = "correlation",
    transform: Callable[[Tensor], Tensor] | None = None,
) -> TrialCeiling:
    """Ceilings from `scaled_halves` (k, 2, n, p) and the RSM (n, n) of all trials.

    With a ``transform`` of RSMs (1, n, n), those of the transformed RSM.
    """
    embed = measure.embed
    is_linear = embed is not None and embed.offsets == "removed" and transform is None

    def vectors(rsm: Tensor) -> Tensor:
        return double_center(rsm).flatten(-2)

    first, second = (halves[:, i] @ halves[:, i].mT for i in (0, 1))
    sides = [(vectors(a), vectors(b)) for a, b in zip(first, second, strict=True)]
    agreement = torch.stack([(a * b).sum() for a, b in sides]).mean()
    upper = (agreement / vectors(whole).square().sum()).clamp_min(0.0).sqrt()
    if not is_linear:  # of half the trials, times what all of them add
        lengths = torch.stack([a.norm() * b.norm() for a, b in sides]).mean()
        own = (similarity_matrix(halves[:, i], similarity=similarity) for i in (0, 1))
        of_halves = [
            measure.between(*(pair if transform is None else map(transform, pair))).mean()
            for pair in zip(*(one.unsqueeze(1) for one in own), strict=True)
        ]
        shared = (agreement / lengths).clamp_min(0.0).sqrt()
        ratio = upper / shared.masked_fill(shared == 0, torch.inf)
        upper = torch.stack(of_halves).mean().clamp_min(0.0).sqrt() * ratio
    value = float(upper.clamp_max(1.0))
    return TrialCeiling(value**2, value)
