"""The protocol of the papers: every head on the same splits, one row each, resumable."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

from softrsa._checks import checked
from softrsa.errors import DataError, unknown_name
from softrsa.prediction.experiment_result import (
    KNN_ON,
    METHODS,
    ExperimentResult,
    add_row,
    read_rows,
)
from softrsa.prediction.options import Options
from softrsa.prediction.regressor import NeighborRegressor
from softrsa.prediction.tasks import RegressionTask, load_task

PROTOCOL = {"batch_size": 32, "patience": 10}  # as in the papers
PAPERS = {**PROTOCOL, "temperature": None}  # no learned temperature, as there
PRESETS = {"softrsa": PROTOCOL, "papers": PAPERS}
RIDGE = tuple(10.0**power for power in range(-3, 7))
KNN = {"n_neighbors": [3, 5, 7], "p": [1, 2], "weights": ["uniform", "distance"]}
COLUMNS = (
    "task", "split", "method", "mse", "seconds", "n_train", "n_test", "n_targets", "settings",
    "softrsa",
)  # fmt: skip
KEY = ("task", "split", "method", "settings")  # of rows that count once


@checked
def run_experiment(
    task: str | RegressionTask,
    *,
    heads: str | Sequence[str] = "all",
    splits: int = 10,
    test_size: float = 0.2,
    seed: int = 0,
    path: str | Path | None = None,
    settings: dict[str, Any] | None = None,
    progress: bool = False,
) -> ExperimentResult:
    """Train every head on the same splits and report its error on held-out samples.

    Parameters
    ----------
    task : str or RegressionTask
        A name that `load_task` knows, or your own from `make_task`.
    heads : "all" or sequence of str
        Heads of `NeighborRegressor`; "ridge" regression of the features, its penalty chosen by
        leave-one-out, or by folds of whole groups; and "knn-linear" or "knn-nca": k nearest
        neighbors, chosen by cross-validation, on the embeddings of the linear or the NCA head.
    splits : int
        Random splits into development and test samples, as the task says: groups stay together,
        strata are split in proportion, a fixed test set stays the same.
    test_size : float
        Share of samples to test on. The regressor takes its validation samples from the rest.
    seed : int
        Of split 0; split i is seeded ``seed + i``.
    path : str or Path, optional
        A CSV file to keep the rows in: those already in it are not run again, and every row is
        written as soon as it is known, so a killed run goes on where it was.
    settings : dict, optional
        Options of `NeighborRegressor`, beside ``batch_size=32, patience=10`` of the papers, which
        have no ``temperature`` (None) either.
    progress : bool
        Show a progress bar.

    Returns
    -------
    ExperimentResult
        With `table` and `compare()`; rows of other tasks in the file are in it too.

    Raises
    ------
    UnknownNameError
        If a task, head or setting is unknown; `head` and `random_state` are no settings.
    DataError
        If there is nothing to run, ``test_size`` leaves no samples on one side, or the file has
        rows of this task made with other settings.
    FileFormatError
        If ``path`` exists and is no such file.

    Examples
    --------
    >>> result = run_experiment(
    ...     "diabetes", heads=["linear", "nca"], splits=1, settings={"max_epochs": 2}
    ... )
    >>> result.table[["task", "method", "n_splits"]].values.tolist()
    [['diabetes', 'linear', 1], ['diabetes', 'nca', 1]]
    """
    methods = checked_methods(heads, METHODS)
    if splits < 1:
        raise DataError(f"`splits` must be at least 1, got {splits}.")
    task = load_task(task, progress=progress) if isinstance(task, str) else task
    rows = read_rows(path, COLUMNS, "an experiment")
    settings = {**PROTOCOL, **checked_settings(settings)}
    shown = repr(sorted({**settings, "test_size": test_size}.items()))
    known = known_rows(rows, task.name, shown, path)
    wanted = [
        (split, method)
        for split in range(seed, seed + splits)
        for method in methods
        if (split, method) not in known
    ]
    with tqdm(total=len(wanted), desc=task.name, disable=not progress, unit="fit") as bar:
        for row in _run(task, wanted, test_size, settings, bar.set_postfix_str):
            rows = add_row(rows, (*row, shown, version("softrsa")), path, KEY)
            bar.update()
    return ExperimentResult(rows)


def embed_test_samples(
    task: RegressionTask,
    head: str,
    *,
    split: int = 0,
    test_size: float = 0.2,
    settings: dict[str, Any] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Train a head on a split as `run_experiment` does, and embed the samples it has not seen.

    ``split`` is the seed; given are embeddings (n_test, d) and labels from 0 to 1, (n_test,) or
    (n_test, n_targets).
    """
    train, test = split_samples(task, test_size, split)
    regressor = fit_method(head, split, {**PROTOCOL, **checked_settings(settings)}, task, train)
    return regressor.embed(task.features[test]), task.labels[test]


def known_rows(
    rows: pd.DataFrame, task: str, settings: str, path: str | Path | None
) -> set[tuple[int, str]]:
    """Find the splits and methods of a task in the rows, which must be of the same settings."""
    rows = rows[rows["task"] == task]
    others = sorted(set(rows["settings"]) - {settings})
    if others:
        raise DataError(
            f"{path} has rows of {task!r} with the settings {others[0]}, asked for were "
            f"{settings}. Name another file."
        )
    return set(zip(rows["split"], rows["method"], strict=True))


def checked_settings(settings: dict[str, Any] | None) -> dict[str, Any]:
    """Refuse settings that the heads do not have."""
    allowed = [field.name for field in fields(Options) if field.name != "head"] + ["device"]
    for name in settings or {}:
        if name not in allowed:
            raise unknown_name("setting", name, allowed)
    return settings or {}


def checked_methods(heads: str | Sequence[str], methods: Sequence[str]) -> list[str]:
    """Refuse unknown methods, and put the others in order."""
    if isinstance(heads, str):
        heads = methods if heads == "all" else [heads]
    for name in heads:
        if name not in methods:
            raise unknown_name("head", name, methods)
    if not heads:
        raise DataError(f"`heads` is empty; choose among {', '.join(methods)}.")
    return [name for name in methods if name in heads]


def _run(
    task: RegressionTask,
    wanted: Sequence[tuple[int, str]],
    test_size: float,
    settings: dict[str, Any],
    say: Callable[[str], object],
) -> Iterator[tuple]:
    """Fit and score what is wanted; the regressors of a split are kept for the k-NN on them."""
    fitted: dict[tuple[int, str], Any] = {}
    for split, method in wanted:
        say(f"split {split}, {method}")
        train, test = split_samples(task, test_size, split)
        start = time.perf_counter()
        body = KNN_ON.get(method, method)
        if (split, body) not in fitted:
            fitted = {key: value for key, value in fitted.items() if key[0] == split}
            fitted[split, body] = fit_method(body, split, settings, task, train)
        predict = fitted[split, body].predict
        if method in KNN_ON:
            predict = _knn(fitted[split, body], task, train)
        error = mean_error(predict, task, test)
        n_targets = 1 if task.labels.ndim == 1 else task.labels.shape[1]
        yield (
            task.name, split, method, error, time.perf_counter() - start, len(train), len(test),
            n_targets,
        )  # fmt: skip


def mean_error(
    predict: Callable[[np.ndarray], np.ndarray], task: RegressionTask, samples: np.ndarray
) -> float:
    """Mean squared error of the predictions of some samples."""
    return float(np.mean((predict(task.features[samples]) - task.labels[samples]) ** 2))


def fit_method(
    method: str, seed: int, settings: dict[str, Any], task: RegressionTask, train: np.ndarray
) -> Any:
    """Fit a head, or ridge regression, to development samples; groups stop it whole."""
    features, labels = task.features[train], task.labels[train]
    groups = None if task.groups is None else task.groups[train]
    if method == "ridge":
        folds = None if groups is None else list(GroupKFold(4).split(features, groups=groups))
        return make_pipeline(StandardScaler(), RidgeCV(RIDGE, cv=folds)).fit(features, labels)
    regressor = NeighborRegressor(method, random_state=seed, **settings)
    return regressor.fit(features, labels, groups=groups)


def _knn(
    regressor: NeighborRegressor, task: RegressionTask, train: np.ndarray
) -> Callable[[np.ndarray], np.ndarray]:
    """K nearest neighbors on standardized embeddings, k, norm and weighting by 4 folds."""
    scaler = StandardScaler().fit(regressor.embed(task.features[train]))
    folds, groups = (4, None) if task.groups is None else (GroupKFold(4), task.groups[train])
    search = GridSearchCV(KNeighborsRegressor(), KNN, cv=folds, scoring="neg_mean_squared_error")
    embedding = scaler.transform(regressor.embed(task.features[train]))
    search.fit(embedding, task.labels[train], groups=groups)
    return lambda features: search.predict(scaler.transform(regressor.embed(features)))


def split_samples(
    task: RegressionTask, test_size: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Development and test samples, ascending, as the task says they may be split.

    Groups are kept together; strata are split in the same proportion, to a sample; a test set of
    the task is the test set whatever ``test_size`` and ``seed``.
    """
    if task.test is not None:
        return np.flatnonzero(~task.test), np.flatnonzero(task.test)
    n = len(task.labels)
    groups = np.arange(n) if task.groups is None else task.groups
    names = np.random.default_rng(seed).permutation(np.unique(groups))
    count = round(test_size * len(names))
    if not 0 < count < len(names):
        raise DataError(
            f"`test_size` must leave samples on both sides, got {test_size} of {len(names)}."
        )
    if task.strata is not None:  # one after the other, and every so many held out
        names = names[np.argsort(task.strata[names], kind="stable")]
        places = ((np.arange(count) + 0.5) * n / count).astype(int)
        names = np.concatenate([names[places], np.delete(names, places)])
    held_out = np.isin(groups, names[:count])
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)
