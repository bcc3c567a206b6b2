"""The papers' search: every similarity, embedding and batch size on the same splits."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd
from tqdm import tqdm

from softrsa._checks import checked
from softrsa.errors import DataError, unknown_name
from softrsa.prediction._neighbors import NEIGHBOR_SIMILARITIES
from softrsa.prediction.experiment import PROTOCOL, fit_method, mean_error, split_samples
from softrsa.prediction.experiment_result import SCALE, add_row, read_rows
from softrsa.prediction.step_heads import NEIGHBOR_HEADS
from softrsa.prediction.tasks import RegressionTask, load_task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CHOICES = ["similarity", "embedding", "batch_size"]
KEY = ["task", "split", "head", *CHOICES, "test_size", "settings"]  # what a fit depends on
COLUMNS = (*KEY, "validation_mse", "test_mse", "seconds", "n_train", "n_test", "softrsa")
PATIENCE = {"patience": PROTOCOL["patience"]}
HIDDEN = (200,)  # widths of the body's layers before the embedding, as in the papers


class Choice(NamedTuple):
    """One combination of what is searched."""

    similarity: str
    embedding: int
    batch_size: int


@dataclass(frozen=True)
class SearchResult:
    """Errors of every combination on every split.

    Attributes
    ----------
    rows : DataFrame
        One row per split and combination: `validation_mse` of the samples that training is stopped
        by, their labels from 0 to 1 over the development samples, and `test_mse` of the test
        samples, labels as those of the task.
    fixed : dict
        Options of `NeighborRegressor` that all combinations share.
    """

    rows: pd.DataFrame
    fixed: dict[str, Any] = field(repr=False)

    @property
    def table(self) -> pd.DataFrame:
        """Means and standard deviations over splits, times 1000, best validation error first.

        Returns
        -------
        DataFrame
            One row per combination with `validation`, `validation_sd`, `test`, `test_sd` and
            `n_splits`; one split has no standard deviation (NaN).
        """
        groups = self.rows.groupby(CHOICES, sort=False)
        columns = {}
        for name in ("validation", "test"):
            errors = groups[f"{name}_mse"]
            columns |= {name: errors.mean() * SCALE, f"{name}_sd": errors.std() * SCALE}
        table = pd.DataFrame({**columns, "n_splits": groups.size()}).reset_index()
        return table.sort_values("validation", kind="stable", ignore_index=True)

    @property
    def best(self) -> dict[str, Any]:
        """Options of the combination with the least mean validation error.

        Returns
        -------
        dict
            For `NeighborRegressor`, with `head` and the options given to the search. Test errors
            have no say; of equal combinations, it is the first.
        """
        first = self.table.iloc[0]
        choice = Choice(str(first["similarity"]), int(first["embedding"]), int(first["batch_size"]))
        return {**self.fixed, **_options(choice, self.fixed)}

    def plot(self) -> Figure:
        """Draw validation errors by embedding and batch size, a panel per similarity."""
        from softrsa.reports.prediction_figures import plot_search

        return plot_search(self.table)


@checked
def search_settings(
    task: str | RegressionTask,
    *,
    head: str = "diffknn-instance",
    similarities: Sequence[str] = ("l2", "l1", "cosine", "dot"),
    embeddings: Sequence[int] = (25, 100),
    batch_sizes: Sequence[int] = (32, 128, 512),
    splits: int = 3,
    test_size: float = 0.2,
    seed: int = 0,
    path: str | Path | None = None,
    settings: dict[str, Any] | None = None,
    progress: bool = False,
) -> SearchResult:
    """Fit every combination of similarity, embedding and batch size, and choose by validation.

    Splits are those of `run_experiment`. Test errors have no say in the choice; yet with more than
    one split, samples that test in one are developed on in another, so the test error of what was
    chosen is slightly too good. With ``splits=1``, or a fixed test set, it is not.

    Parameters
    ----------
    task : str or RegressionTask
        A name that `load_task` knows, or your own from `make_task`.
    head : str
        A head of `NeighborRegressor` other than "linear".
    similarities : sequence of str
        Of embeddings: "l2", "l1", "cosine", "dot", "rbf".
    embeddings : sequence of int
        Widths of the embedding, the body's last layer.
    batch_sizes : sequence of int
        Samples per step, at least 2.
    splits, test_size, seed
        As for `run_experiment`.
    path : str or Path, optional
        A CSV file to keep the rows in: those already in it are not run again, and every row is
        written as soon as it is known, so a killed search goes on where it was.
    settings : dict, optional
        Other options of `NeighborRegressor`, beside ``patience=10`` of the papers; of ``layers``,
        all but the last are used.
    progress : bool
        Show a progress bar.

    Returns
    -------
    SearchResult
        With `table`, `best` and `plot()`, of these combinations and splits alone.

    Raises
    ------
    UnknownNameError
        If the task, the head or a similarity is unknown.
    DataError
        If there is nothing to search, a width or size is too small, or ``settings`` holds what is
        searched.
    FileFormatError
        If ``path`` exists and is no such file.

    Examples
    --------
    >>> found = search_settings(
    ...     "diabetes", head="nca", similarities=["l2", "dot"], embeddings=[5], batch_sizes=[64],
    ...     splits=1, settings={"max_epochs": 2},
    ... )
    >>> len(found.table), found.best["layers"]
    (2, (200, 5))
    """
    fixed = {"head": head, **PATIENCE, **(settings or {})}
    _check(settings or {}, head, splits)
    choices = _combinations(similarities, embeddings, batch_sizes)
    task = load_task(task, progress=progress) if isinstance(task, str) else task
    rows = read_rows(path, COLUMNS, "a search")
    shown = repr(sorted({**PATIENCE, **(settings or {})}.items()))
    keys = {
        (task.name, split, head, *choice, test_size, shown): (split, choice)
        for split in range(seed, seed + splits)
        for choice in choices
    }
    known = set(rows[KEY].itertuples(index=False, name=None))
    wanted = {key: fit for key, fit in keys.items() if key not in known}
    with tqdm(total=len(wanted), desc=task.name, disable=not progress, unit="fit") as bar:
        for key, errors in _run(task, wanted, test_size, fixed, bar.set_postfix_str):
            rows = add_row(rows, (*key, *errors, version("softrsa")), path, KEY)
            bar.update()
    asked = rows[KEY].apply(tuple, axis=1).isin(set(keys))
    return SearchResult(rows[asked].reset_index(drop=True), fixed)


def _check(settings: dict[str, Any], head: str, splits: int) -> None:
    if head not in NEIGHBOR_HEADS:
        raise unknown_name("head", head, NEIGHBOR_HEADS)
    if splits < 1:
        raise DataError(f"`splits` must be at least 1, got {splits}.")
    searched = sorted({"head", "similarity", "batch_size", "random_state"} & set(settings))
    if searched:
        raise DataError(
            f"`settings` must not hold {', '.join(searched)}, which the search sets itself."
        )


def _combinations(
    similarities: Sequence[str], embeddings: Sequence[int], batch_sizes: Sequence[int]
) -> list[Choice]:
    for name in similarities:
        if name not in NEIGHBOR_SIMILARITIES:
            raise unknown_name("similarity", name, NEIGHBOR_SIMILARITIES)
    for name, sizes, least in (("embeddings", embeddings, 1), ("batch_sizes", batch_sizes, 2)):
        if any(size < least for size in sizes):
            raise DataError(f"`{name}` must be at least {least}, got {list(sizes)}.")
    choices = [Choice(*values) for values in product(similarities, embeddings, batch_sizes)]
    if not choices:
        raise DataError("Give a similarity, an embedding and a batch size at least.")
    return list(dict.fromkeys(choices))


def _options(choice: Choice, fixed: dict[str, Any]) -> dict[str, Any]:
    hidden = tuple(fixed["layers"])[:-1] if "layers" in fixed else HIDDEN
    return {
        "similarity": choice.similarity,
        "layers": (*hidden, choice.embedding),
        "batch_size": choice.batch_size,
    }


def _run(
    task: RegressionTask,
    wanted: dict[tuple, tuple[int, Choice]],
    test_size: float,
    fixed: dict[str, Any],
    say: Callable[[str], object],
) -> Iterator[tuple[tuple, tuple]]:
    """Fit what is wanted; give its key, errors, seconds and numbers of samples."""
    for key, (split, choice) in wanted.items():
        say(f"split {split}, {choice.similarity}, {choice.embedding}, {choice.batch_size}")
        train, test = split_samples(task, test_size, split)
        start = time.perf_counter()
        options = {**fixed, **_options(choice, fixed)}
        regressor = fit_method(options.pop("head"), split, options, task, train)
        error = mean_error(regressor.predict, task, test)
        seconds = time.perf_counter() - start
        validation = min(regressor.validation_losses_)
        yield key, (validation, error, seconds, len(train), len(test))
