"""How well labels of the stimuli are decoded from synthetic features along the way."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from softrsa._wording import listed
from softrsa.errors import DataError, FileMissingError, ShapeError
from softrsa.synthesis.result import SynthesisResult

MAX_ITERATIONS = 1000


def decode_along(
    result: SynthesisResult,
    labels: Sequence[object] | np.ndarray | xr.DataArray,
    *,
    folds: int = 5,
    points: int = 20,
    strength: float = 1.0,
    seed: int = 0,
) -> xr.Dataset:
    """Cross-validated accuracy of a logistic regression of labels on the features along the steps.

    Parameters
    ----------
    result : SynthesisResult
        From `optimize_to_score`.
    labels : sequence, length n, or DataArray with dim stimulus
        A label per stimulus, in the order of ``x``; of a DataArray with a coordinate `stimulus`,
        by id.
    folds : int
        Stratified and shuffled; each label needs as many stimuli.
    points : int
        About how many of the recorded steps to decode from, the first and last among them.
    strength : float
        L2 penalty on the weights of standardized features (1 / C of scikit-learn).
    seed : int
        Of the folds, which are the same for all steps and for ``x``.

    Returns
    -------
    Dataset
        By `recorded_step` and `restart`: `score`, `accuracy` in [0, 1] as a mean over folds, and
        `relative`, that accuracy over `reference`, the one from ``x`` itself; `chance`, the share
        of the most frequent label.

    Raises
    ------
    FileMissingError
        If scikit-learn is not installed.
    ShapeError
        If there is not one label per stimulus.
    DataError
        If there are fewer than two labels, a label has fewer stimuli than there are folds, or a
        number is out of range.

    Notes
    -----
    Features are standardized with the training stimuli of each fold.

    References
    ----------
    Cloos et al. (2024), arXiv:2407.07059.

    Examples
    --------
    >>> import torch
    >>> from softrsa.synthesis import optimize_to_score
    >>> labels = np.arange(60) % 3
    >>> noise = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
    >>> x = noise + 9 * torch.eye(5)[labels]
    >>> found = decode_along(optimize_to_score(x, "nbs", target=0.95), labels)
    >>> float(found["reference"]), found["accuracy"].values[[0, -1], 0].round(1)
    (1.0, array([0.3, 1. ]))
    """
    if points < 1 or folds < 2 or not strength > 0:
        raise DataError(
            "`points` must be at least 1, `folds` at least 2 and `strength` above 0, got "
            f"{points}, {folds} and {strength}."
        )
    classes, y = np.unique(_in_order(labels, result), return_inverse=True)
    counts = np.bincount(y)
    if len(classes) < 2 or counts.min() < folds:
        few = classes[counts < folds]
        raise DataError(
            f"`labels` must have at least two values with at least {folds} stimuli each, for "
            f"{folds} folds; got {len(classes)}, too rare: {listed(few) or 'none'}."
        )
    steps = result.recorded_steps.numpy()
    chosen = np.unique(np.linspace(0, len(steps) - 1, points).round().astype(int))
    chosen = np.unique([0, *chosen, len(steps) - 1]) if points > 1 else np.array([len(steps) - 1])
    recorded = result.recorded.numpy()[chosen]
    accuracy = [
        [_accuracy(features, y, folds, strength, seed) for features in restarts]
        for restarts in recorded
    ]
    reference = _accuracy(result.x.numpy(), y, folds, strength, seed)
    dims = ("recorded_step", "restart")
    return xr.Dataset(
        {
            "score": (dims, result.recorded_scores.numpy()[chosen]),
            "accuracy": (dims, np.array(accuracy)),
            "relative": (dims, np.array(accuracy) / reference),
            "reference": reference,
            "chance": counts.max() / len(y),
        },
        coords={"recorded_step": steps[chosen]},
        attrs={"measure": result.data.attrs["measure"], "folds": folds, "seed": seed},
    )


def _in_order(
    labels: Sequence[object] | np.ndarray | xr.DataArray, result: SynthesisResult
) -> np.ndarray:
    """Bring labels to the stimuli of the result."""
    stimuli = result.data["stimulus"].values
    if isinstance(labels, xr.DataArray) and "stimulus" in labels.coords:
        ids = labels.indexes["stimulus"]
        if ids.has_duplicates:
            repeated = ids[ids.duplicated()].unique().tolist()
            raise DataError(f"`labels` repeat the stimuli {listed(repeated)}; give each one label.")
        missing = sorted({*stimuli.tolist()} - {*labels["stimulus"].values.tolist()})
        if missing:
            raise DataError(f"`labels` lack the stimuli {listed(missing)}.")
        labels = labels.sel(stimulus=stimuli)
    values = np.asarray(labels)
    if values.shape != stimuli.shape:
        raise ShapeError(
            f"`labels` must hold one label for each of {len(stimuli)} stimuli, got {values.shape}."
        )
    return values


def _accuracy(features: np.ndarray, y: np.ndarray, folds: int, strength: float, seed: int) -> float:
    """Mean accuracy over folds."""
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import StratifiedKFold, cross_val_score
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError as error:
        raise FileMissingError(
            "Decoding needs scikit-learn, which is not installed; install it with "
            '`pip install "softrsa[prediction]"`.'
        ) from error
    model = make_pipeline(
        StandardScaler(), LogisticRegression(C=1 / strength, max_iter=MAX_ITERATIONS)
    )
    split = StratifiedKFold(folds, shuffle=True, random_state=seed)
    return float(cross_val_score(model, features, y, cv=split).mean())
