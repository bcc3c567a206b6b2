"""What a task is: features, labels in [0, 1], and how its samples may be split."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from softrsa.errors import DataError, ShapeError


@dataclass(frozen=True)
class RegressionTask:
    """Features and labels to predict from them.

    Attributes
    ----------
    name, title : str
        What it is called, in one word and one line.
    features : ndarray, shape (n, p)
        Float32, as they are; a regressor scales them.
    labels : ndarray, shape (n,) or (n, n_targets)
        Float32, from 0 to 1.
    groups : ndarray of int, shape (n,), or None
        Samples of a group belong together and are never split.
    strata : ndarray of int, shape (n,), or None
        Samples of a stratum, such as a bin of labels, are split in the same proportion.
    test : ndarray of bool, shape (n,), or None
        Samples to test on in every split, where those who published the data say so.

    Raises
    ------
    ShapeError
        If arrays do not have a row per sample.
    DataError
        If features or labels are not finite, more than one of ``groups``, ``strata`` and ``test``
        is given, or ``test`` does not leave samples on both sides.

    Examples
    --------
    >>> task = RegressionTask("toy", "A toy", np.zeros((3, 2)), np.array([0.0, 1.0, 0.5]))
    >>> task
    RegressionTask(name='toy', title='A toy')
    """

    name: str
    title: str
    features: np.ndarray = field(repr=False)
    labels: np.ndarray = field(repr=False)
    groups: np.ndarray | None = field(default=None, repr=False)
    strata: np.ndarray | None = field(default=None, repr=False)
    test: np.ndarray | None = field(default=None, repr=False)

    def __post_init__(self):
        if self.features.ndim != 2 or len(self.features) != len(self.labels):
            raise ShapeError(
                "A task needs features (n, p) and as many labels, got shapes "
                f"{self.features.shape} and {self.labels.shape}."
            )
        for name in ("features", "labels"):
            if not np.isfinite(getattr(self, name)).all():
                raise DataError(f"The {name} of task {self.name!r} must be finite.")
        splitting = {name: getattr(self, name) for name in ("groups", "strata", "test")}
        given = {name: value for name, value in splitting.items() if value is not None}
        if len(given) > 1:
            raise DataError(f"A task is split in one way; got {' and '.join(given)}.")
        for name, value in given.items():
            array = np.asarray(value)
            object.__setattr__(self, name, array)
            if array.shape != (len(self.labels),):
                raise ShapeError(
                    f"`{name}` must hold a value per sample: {len(self.labels)}, got shape "
                    f"{array.shape}."
                )
        if self.test is not None and (self.test.dtype != bool or len(np.unique(self.test)) != 2):
            raise DataError(
                "`test` must be true for some samples and false for others, got "
                f"{self.test.dtype} with the values {np.unique(self.test)[:5].tolist()}."
            )


def make_task(
    name: str,
    title: str,
    features: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray | None = None,
    *,
    strata: np.ndarray | None = None,
    test: np.ndarray | None = None,
) -> RegressionTask:
    """Make a task of your own data; labels are scaled to [0, 1], features left as they are.

    Parameters
    ----------
    name, title : str
        What to call it, in one word and one line.
    features : array, shape (n, p)
        Finite numbers.
    labels : array, shape (n,) or (n, n_targets)
        In any unit; each target is scaled by its least and largest value over all samples.
    groups, strata, test : array, shape (n,), optional
        How samples may be split, see `RegressionTask`; one of them at most. For labels in bins as
        strata, see `label_strata`.

    Returns
    -------
    RegressionTask
        Good for `run_experiment` and `search_settings`.

    Raises
    ------
    ShapeError, DataError
        As `RegressionTask`, or if all labels of a target are the same.

    Examples
    --------
    >>> make_task("toy", "A toy", np.zeros((3, 2)), np.array([2, 6, 4])).labels.tolist()
    [0.0, 1.0, 0.5]
    """
    labels = np.asarray(labels, dtype=np.float64)
    low, high = labels.min(0), labels.max(0)
    if (low == high).any():
        raise DataError(f"All labels of task {name!r} are {low}: there is nothing to predict.")
    scaled = ((labels - low) / (high - low)).astype(np.float32)
    features = np.asarray(features, dtype=np.float32)
    return RegressionTask(name, title, features, scaled, groups, strata, test)


def label_strata(labels: np.ndarray, bins: int = 10) -> np.ndarray:
    """Put labels (n,) in bins of about equally many samples, for a split stratified by label.

    Parameters
    ----------
    labels : array, shape (n,)
        In any unit. Samples of equal labels share a bin.
    bins : int
        How many at most.

    Returns
    -------
    ndarray of int, shape (n,)
        The bin of each sample, ascending with the label.

    Examples
    --------
    >>> label_strata(np.array([3.0, 1.0, 2.0, 9.0]), bins=2).tolist()
    [1, 0, 0, 1]
    """
    edges = np.quantile(labels, np.linspace(0, 1, bins + 1)[1:-1])
    return np.searchsorted(np.unique(edges), labels, side="left")
