"""Variances of scores from a bootstrap: of models, of their differences, to the noise ceiling."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from softrsa.errors import ShapeError


@dataclass(frozen=True)
class Variances:
    """Variances of mean scores.

    Attributes
    ----------
    models : ndarray, shape (n_models,)
        Of each model's score.
    differences : ndarray, shape (n_models, n_models)
        Of the difference of two models' scores; 0 on the diagonal.
    to_ceilings : ndarray, shape (n_models, 2)
        Of the difference from the lower and the upper noise ceiling.
    """

    models: np.ndarray
    differences: np.ndarray
    to_ceilings: np.ndarray


def resampling_variances(
    scores: np.ndarray, ceilings: np.ndarray, *, n_subjects: int | None, n_stimuli: int | None
) -> Variances:
    r"""Variances from bootstrapped scores, corrected for the number of subjects and stimuli.

    A bootstrap over :math:`n` things underestimates the variance by :math:`(n - 1) / n`. Resampling
    both at once counts part of it twice; from the variances over both, over subjects :math:`s` and
    over stimuli :math:`p`,

    .. math:: \frac{n_s}{n_s - 1} v_s + \frac{n_p}{n_p - 1} v_p
              - \frac{n_s n_p}{(n_s - 1)(n_p - 1)} (v_{both} - v_s - v_p),

    kept between the larger of the first two terms and :math:`v_{both}`.

    Parameters
    ----------
    scores : ndarray, shape (n_kinds, n_resamples, n_models)
        One kind of resampling, or three in the order both, subjects, stimuli.
    ceilings : ndarray, shape (n_kinds, n_resamples, 2)
        Noise ceilings of the same resamples, NaN where there are none.
    n_subjects, n_stimuli : int or None
        How many there are of what was resampled; None for what was not.

    Returns
    -------
    Variances
        NaN for a model whose score is undefined in any of the resamples.

    Raises
    ------
    ShapeError
        If there are neither one nor three kinds, or fewer than two resamples.

    References
    ----------
    Schütt et al. (2023), doi:10.7554/eLife.82566; ``rsatoolbox.util.inference_util``,
    ``extract_variances``.

    Examples
    --------
    >>> scores = np.array([[[0.1], [0.2], [0.3]]])
    >>> found = resampling_variances(
    ...     scores, np.full((1, 3, 2), np.nan), n_subjects=5, n_stimuli=None
    ... )
    >>> found.models.round(4)
    array([0.0125])
    """
    if len(scores) not in (1, 3) or scores.shape[1] < 2:
        raise ShapeError(
            "Variances need scores of one kind of resampling or of three, and two resamples, got "
            f"shape {scores.shape}."
        )
    together = np.concatenate([scores, ceilings], axis=-1)
    together = together - together.mean(axis=1, keepdims=True)
    covariance = np.einsum("krm,krl->kml", together, together) / (together.shape[1] - 1)
    own = np.einsum("kmm->km", covariance)
    between = own[:, :, None] + own[:, None] - 2 * covariance
    n_models = scores.shape[-1]
    return Variances(
        _corrected(own[:, :n_models], n_subjects, n_stimuli),
        _corrected(between[:, :n_models, :n_models], n_subjects, n_stimuli),
        _corrected(between[:, :n_models, n_models:], n_subjects, n_stimuli),
    )


def _corrected(variances: np.ndarray, n_subjects: int | None, n_stimuli: int | None) -> np.ndarray:
    """Correct variances (kinds, ...) for how many subjects and stimuli there are."""
    by_subjects, by_stimuli = (n / (n - 1) if n else 1.0 for n in (n_subjects, n_stimuli))
    if len(variances) == 1:
        return variances[0] * max(by_subjects, by_stimuli)
    both, subjects, stimuli = variances
    largest = np.maximum(by_subjects * subjects, by_stimuli * stimuli)
    total = (
        by_subjects * subjects
        + by_stimuli * stimuli
        - by_subjects * by_stimuli * (both - subjects - stimuli)
    )
    return np.minimum(np.maximum(total, largest), both)
