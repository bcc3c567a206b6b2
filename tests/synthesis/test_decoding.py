"""Labels decoded along the way: as scikit-learn does, and less well than from the data."""

import sys

import numpy as np
import pytest
import torch
import xarray as xr
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from softrsa.errors import DataError, FileMissingError, ShapeError
from softrsa.synthesis import decode_along, optimize_to_score


@pytest.fixture(scope="module")
def digits():
    """Three kinds of digits, 20 of each, by their 64 pixels."""
    data = load_digits(n_class=3)
    chosen = np.concatenate([np.flatnonzero(data.target == digit)[:20] for digit in range(3)])
    return torch.from_numpy(data.data[chosen]), data.target[chosen]


@pytest.fixture(scope="module")
def result(digits):
    return optimize_to_score(digits[0], "linear_cka", target=0.6, record=30)


def test_as_scikit_learn(digits, result):
    x, labels = digits
    found = decode_along(result, labels, points=3, strength=2.0, seed=4)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.5, max_iter=1000))
    split = StratifiedKFold(5, shuffle=True, random_state=4)
    for step, features in [(0, result.recorded[0, 0]), (-1, result.recorded[-1, 0])]:
        expected = cross_val_score(model, features.numpy(), labels, cv=split).mean()
        assert found["accuracy"].values[step, 0] == pytest.approx(expected, abs=1e-12)
    reference = cross_val_score(model, x.numpy(), labels, cv=split).mean()
    assert float(found["reference"]) == pytest.approx(reference, abs=1e-12)
    np.testing.assert_allclose(found["relative"], found["accuracy"] / reference)
    assert float(found["chance"]) == pytest.approx(1 / 3)
    assert found["accuracy"].shape == (3, 1)
    assert found["recorded_step"].values[[0, -1]].tolist() == [0, int(result.recorded_steps[-1])]
    assert found.attrs["measure"] == "linear_cka"


def test_the_end_alone(digits, result):
    found = decode_along(result, digits[1], points=1)
    assert found["recorded_step"].values.tolist() == [int(result.recorded_steps[-1])]


def test_labels_by_stimulus(digits):
    x, labels = digits
    ids = [f"digit{i}" for i in range(60)]
    array = xr.DataArray(x.numpy(), dims=("stimulus", "unit"), coords={"stimulus": ids})
    result = optimize_to_score(array, "nbs", target=0.9, max_steps=3)
    order = np.random.default_rng(0).permutation(60)
    shuffled = xr.DataArray(labels, dims="stimulus", coords={"stimulus": ids})[order]
    plain, by_id = (decode_along(result, given, points=2) for given in (labels, shuffled))
    xr.testing.assert_identical(plain, by_id)
    with pytest.raises(DataError, match="`labels` lack the stimuli 'digit7'"):
        decode_along(result, shuffled[order != 7])


def test_a_high_cka_does_not_promise_the_labels(rng):
    """Labels in components of little variance: a CKA of .99 has not seen them, NBS has."""
    labels = np.arange(120) % 2
    x = torch.randn(120, 8, dtype=torch.float64, generator=rng) * torch.tensor([9.0] + 7 * [0.4])
    x[:, 7] += torch.from_numpy(labels) * 2
    end = {}
    for name in ("linear_cka", "nbs"):
        result = optimize_to_score(x, name, target=0.98, n_restarts=2)
        end[name] = decode_along(result, labels, points=1)["relative"].mean().item()
    assert end["linear_cka"] < 0.8 < end["nbs"]


@pytest.mark.parametrize(
    ("labels", "options", "error", "message"),
    [
        (np.zeros(7), {}, ShapeError, r"each of 60 stimuli, got \(7,\)"),
        (np.zeros(60), {}, DataError, r"two values .* got 1, too rare: none"),
        (np.arange(60) // 19, {}, DataError, r"at least 5 stimuli each.* got 4, too rare: 3"),
        (np.arange(60) % 2, {"folds": 1}, DataError, "got 20, 1 and 1.0"),
    ],
)
def test_messages(result, labels, options, error, message):
    with pytest.raises(error, match=message):
        decode_along(result, labels, **options)


def test_labels_of_repeated_stimuli(result):
    twice = xr.DataArray(np.zeros(61), dims="stimulus", coords={"stimulus": [*range(60), 7]})
    with pytest.raises(DataError, match=r"`labels` repeat the stimuli 7; give"):
        decode_along(result, twice)


def test_without_scikit_learn(digits, result, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(FileMissingError, match=r'pip install "softrsa\[prediction\]"'):
        decode_along(result, digits[1])
