"""Heads on the synthetic surfaces, where the truth is known."""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sklearn.neighbors import KNeighborsRegressor
from tqdm import tqdm

from softrsa.prediction._table_file import add_row, read_rows
from softrsa.prediction.experiment import COLUMNS, checked_methods, checked_settings, known_rows
from softrsa.prediction.experiment_result import ExperimentResult
from softrsa.prediction.network import HEADS
from softrsa.prediction.regressor import NeighborRegressor
from softrsa.prediction.surfaces import SURFACES, SurfaceData, grid_error, make_surface

SURFACE_METHODS = (*HEADS, "knn-raw")


def run_surfaces(
    *,
    heads: str | Sequence[str] = "all",
    seed: int = 42,
    path: str | Path | None = None,
    settings: dict[str, Any] | None = None,
    progress: bool = False,
) -> ExperimentResult:
    """Fit every head to four noisy synthetic surfaces and report its error against the truth.

    Parameters
    ----------
    heads, path, settings, progress
        As for `run_experiment`; "knn-raw", 5 nearest neighbors of the coordinates, replaces k-NN
        on embeddings.
    seed : int
        Of points, noise and training.

    Returns
    -------
    ExperimentResult
        One row per surface and method; `mse` is that of the noise-free labels of a 100 x 100 grid.

    Raises
    ------
    UnknownNameError, DataError, FileFormatError
        As `run_experiment`.

    Examples
    --------
    >>> result = run_surfaces(heads=["linear", "knn-raw"], settings={"max_epochs": 1})
    >>> errors = result.rows.set_index(["task", "method"])["mse"]
    >>> round(float(errors["radial", "knn-raw"]), 4)
    0.0027
    """
    methods = checked_methods(heads, SURFACE_METHODS)
    rows = read_rows(path, COLUMNS, "an experiment")
    shown = repr(sorted(checked_settings(settings).items()))
    known = {name: known_rows(rows, name, shown, path) for name in SURFACES}
    wanted = [(s, m) for s in SURFACES for m in methods if (seed, m) not in known[s]]
    for name, method in tqdm(wanted, desc="surfaces", disable=not progress, unit="fit"):
        data = make_surface(name, seed=seed)
        start = time.perf_counter()
        error = grid_error(_surface_regressor(method, seed, settings or {}, data), data)
        row = (
            name, seed, method, error, time.perf_counter() - start, len(data.points),
            len(data.grid), 1, shown, version("softrsa"),
        )  # fmt: skip
        rows = add_row(rows, row, path)
    return ExperimentResult(rows)


def _surface_regressor(
    method: str, seed: int, settings: dict[str, Any], data: SurfaceData
) -> NeighborRegressor | KNeighborsRegressor:
    if method == "knn-raw":
        return KNeighborsRegressor(5).fit(data.points, data.labels)
    return NeighborRegressor(method, random_state=seed, **settings).fit(data.points, data.labels)
