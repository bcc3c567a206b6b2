"""Synthetic surfaces at points worked out by hand, and the published draws."""

import numpy as np
import pytest

from softrsa.errors import DataError, UnknownNameError
from softrsa.prediction import grid_error, make_surface
from softrsa.prediction.surface_experiment import SURFACES

# (1, 0): angle 0, radius 1; (0, -1): angle -pi / 2, radius 1
BY_HAND = {
    "linear": [0.5, 0.0],
    "radial": [0.0, 0.0],
    "spiral": [5 / (2 * np.pi), (5 - np.pi / 2) / (2 * np.pi)],
    "checkerboard": [(np.sin(6) + 1) / 2, 0.5],
}


@pytest.mark.parametrize("name", SURFACES)
def test_surface_by_hand(name):
    surface, shift, extent = SURFACES[name]
    found = (surface(np.array([[1.0, 0.0], [0.0, -1.0]])) + shift) / extent
    np.testing.assert_allclose(found, BY_HAND[name], atol=1e-15)
    data = make_surface(name, n_points=5, n_grid=3)
    assert data.grid.tolist() == [[x, y] for y in (-1, 0, 1) for x in (-1, 0, 1)]
    assert data.truth.min() >= 0
    assert data.truth.max() <= 1
    assert data.truth[5] == pytest.approx(BY_HAND[name][0])


@pytest.mark.parametrize("name", SURFACES)
def test_draws_of_the_notebook(name):
    """Points, then noise, of NumPy's legacy generator with seed 42."""
    legacy = np.random.RandomState(42)
    points = legacy.uniform(-1, 1, (1000, 2))
    noise = legacy.normal(0, 0.1, 1000)
    data = make_surface(name)
    np.testing.assert_array_equal(data.points, points)
    surface, shift, extent = SURFACES[name]
    np.testing.assert_allclose(data.labels, (surface(points) + noise + shift) / extent)
    assert (data.grid.shape, data.truth.shape) == ((10_000, 2), (10_000,))


def test_error_is_against_the_truth_on_the_grid():
    data = make_surface("linear", n_grid=11)

    class Half:
        def predict(self, X):
            return np.full(len(X), 0.5)

    # variance of 11 evenly spaced numbers from 0 to 1: (11^2 - 1) / 12 / 10^2
    assert grid_error(Half(), data) == pytest.approx(0.1)


def test_errors():
    with pytest.raises(UnknownNameError, match="Unknown surface 'saddle'"):
        make_surface("saddle")
    with pytest.raises(DataError, match="n_points=0"):
        make_surface("linear", n_points=0)
