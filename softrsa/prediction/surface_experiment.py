"""Heads on the synthetic surfaces, where the truth is known."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from sklearn.neighbors import KNeighborsRegressor
from tqdm import tqdm

from softrsa._checks import checked
from softrsa.errors import DataError, unknown_name
from softrsa.prediction.experiment import (
    COLUMNS,
    KEY,
    checked_methods,
    checked_settings,
    known_rows,
)
from softrsa.prediction.experiment_result import ExperimentResult, add_row, read_rows
from softrsa.prediction.regressor import NeighborRegressor
from softrsa.prediction.step_heads import HEADS

Surface = Callable[[np.ndarray], np.ndarray]


def _spiral(x: np.ndarray) -> np.ndarray:
    angle, radius = np.arctan2(x[:, 1], x[:, 0]), np.hypot(x[:, 0], x[:, 1])
    return (angle + 5 * radius) % (2 * np.pi)


# name -> surface, and what its labels are scaled to [0, 1] by after the noise: (y + shift) / extent
SURFACES: dict[str, tuple[Surface, float, float]] = {
    "linear": (lambda x: x[:, 1] / 2 + 0.5, 0.0, 1.0),
    "radial": (lambda x: (1 - np.abs(x)).min(1), 0.0, 1.0),
    "spiral": (_spiral, 0.0, 2 * np.pi),
    "checkerboard": (lambda x: np.sin(6 * x[:, 0]) * np.cos(6 * x[:, 1]), 1.0, 2.0),
}


class SurfaceData(NamedTuple):
    """Points with noisy labels, and a grid with the labels that noise was added to."""

    points: np.ndarray  # (n, 2)
    labels: np.ndarray  # (n,), in [0, 1] but for the noise
    grid: np.ndarray  # (n_grid ** 2, 2)
    truth: np.ndarray  # (n_grid ** 2,), in [0, 1]


class _Regressor(Protocol):
    def predict(self, X: np.ndarray) -> np.ndarray: ...


def make_surface(
    name: str, *, n_points: int = 1000, noise: float = 0.1, seed: int = 42, n_grid: int = 100
) -> SurfaceData:
    r"""Draw noisy labels of a surface over the square from -1 to 1.

    ==============  ==========================================================
    `linear`        :math:`x_2 / 2 + 1 / 2`
    `radial`        :math:`\min(1 - |x_1|, 1 - |x_2|)`
    `spiral`        :math:`((\theta + 5 r) \bmod 2\pi) / 2\pi`
    `checkerboard`  :math:`(\sin 6 x_1 \cos 6 x_2 + 1) / 2`
    ==============  ==========================================================

    Parameters
    ----------
    name : str
        A name of the table.
    n_points : int
        Number of points, uniform over the square.
    noise : float
        Standard deviation of the noise, added before the division by :math:`2\pi` (`spiral`) or
        2 (`checkerboard`).
    seed : int
        Of NumPy's legacy generator, as in the published notebook: points first, then noise.
    n_grid : int
        Number of grid lines per side.

    Returns
    -------
    SurfaceData
        ``points`` (n_points, 2), ``labels`` (n_points,), ``grid`` (n_grid ** 2, 2) and ``truth``
        (n_grid ** 2,), the labels of the grid without noise.

    Raises
    ------
    UnknownNameError
        If there is no such surface.
    DataError
        If a number is out of range.

    References
    ----------
    Susman, Lin, Suárez-Fariñas & Colonel, "SoftStep: learning sparse similarity powers deep
    neighbor-based regression".

    Examples
    --------
    >>> data = make_surface("radial")
    >>> data.points[0]
    array([-0.25091976,  0.90142861])
    """
    if name not in SURFACES:
        raise unknown_name("surface", name, SURFACES)
    if n_points < 1 or n_grid < 2 or noise < 0:
        raise DataError(
            f"Need at least 1 point, 2 grid lines and no negative noise, got {n_points=}, "
            f"{n_grid=}, {noise=}."
        )
    surface, shift, extent = SURFACES[name]
    random = np.random.RandomState(seed)
    points = random.uniform(-1, 1, (n_points, 2))
    labels = surface(points) + random.normal(0, noise, n_points)
    lines = np.linspace(-1, 1, n_grid)
    grid = np.stack(np.meshgrid(lines, lines), -1).reshape(-1, 2)
    return SurfaceData(points, (labels + shift) / extent, grid, (surface(grid) + shift) / extent)


def grid_error(regressor: _Regressor, data: SurfaceData) -> float:
    """Mean squared error of a fitted regressor's predictions of the grid, against the truth.

    Parameters
    ----------
    regressor : object with ``predict``
        Fitted to ``data.points`` and ``data.labels``.
    data : SurfaceData
        From `make_surface`.

    Returns
    -------
    float
        In squared units of the scaled labels.

    Examples
    --------
    >>> class Half:
    ...     def predict(self, X):
    ...         return np.full(len(X), 0.5)
    >>> round(1e3 * grid_error(Half(), make_surface("checkerboard")), 1)
    62.4
    """
    return float(np.mean((regressor.predict(data.grid) - data.truth) ** 2))


SURFACE_METHODS = (*HEADS, "knn-raw")


@checked
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
        rows = add_row(rows, row, path, KEY)
    return ExperimentResult(rows)


def _surface_regressor(
    method: str, seed: int, settings: dict[str, Any], data: SurfaceData
) -> NeighborRegressor | KNeighborsRegressor:
    if method == "knn-raw":
        return KNeighborsRegressor(5).fit(data.points, data.labels)
    return NeighborRegressor(method, random_state=seed, **settings).fit(data.points, data.labels)
