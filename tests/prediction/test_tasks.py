"""Regression tasks: shapes, scales and what keeps a split honest."""

import sys
import types

import numpy as np
import pytest
from scipy.stats import spearmanr
from skimage.color import rgb2gray
from skimage.data import stereo_motorcycle

from softrsa import datasets
from softrsa.errors import DataError, ShapeError, UnknownNameError
from softrsa.prediction.regression_task import label_strata, make_task
from softrsa.prediction.tasks import SENTENCE_ENCODER, _v4_features, load_task


@pytest.mark.parametrize(
    ("name", "shape"),
    [("diabetes", (442, 10)), ("motorcycle", (4000, 264)), ("emobank", (10062, 300))],
)
def test_labels_fill_the_unit_interval(name, shape, data_dir, monkeypatch):
    monkeypatch.setenv("SOFTRSA_DATA", str(data_dir))
    task = load_task(name)
    assert task.features.shape == shape
    assert task.features.dtype == task.labels.dtype == np.float32
    assert (task.labels.min(), task.labels.max()) == (0, 1)


def test_stereo_patches_hold_the_match(monkeypatch):
    """Shifted by the true disparity, the right patch is like the left: labels belong to pixels."""
    left, right, disparity = stereo_motorcycle()
    left, right = rgb2gray(left), rgb2gray(right)
    rows, columns = np.nonzero(np.isfinite(disparity[20:-20, 100:-20]))
    chosen = np.random.default_rng(0).permutation(len(rows))[:500]
    r, c = rows[chosen] + 20, columns[chosen] + 100
    shifted = right[r, (c - disparity[r, c]).round().astype(int)]
    assert spearmanr(left[r, c], shifted).statistic > 0.9
    assert spearmanr(left[r, c], right[r, c]).statistic < 0.7


def test_tiles_of_the_stereo_pair_are_groups():
    task = load_task("motorcycle", seed=1)
    assert len(np.unique(task.groups)) > 30
    assert np.bincount(task.groups).max() < 400
    assert not np.array_equal(task.labels, load_task("motorcycle", seed=2).labels)


def test_sentences_may_be_encoded_by_a_model(data_dir, monkeypatch):
    monkeypatch.setenv("SOFTRSA_DATA", str(data_dir))
    task = load_task("emobank", encode=lambda texts: [[len(t), t.count(" ")] for t in texts])
    table = datasets.load("emobank").table
    assert task.features.shape == (10062, 2)
    assert task.features[:, 0].tolist() == table["text"].str.len().tolist()
    valence = task.labels * (table["V"].max() - table["V"].min()) + table["V"].min()
    np.testing.assert_allclose(valence, table["V"], atol=1e-6)


def test_features_of_v4_images_are_means_over_places(data_dir, monkeypatch):
    monkeypatch.setenv("SOFTRSA_DATA", str(data_dir))
    images = datasets.load("macaque-v4").images
    few = {name: images[name] for name in list(images)[:2]}
    found = _v4_features(few, progress=False)
    assert found.shape == (2, 80 * 9)
    assert found["stimulus"].values.tolist() == list(few)


def test_mistakes_are_named():
    with pytest.raises(UnknownNameError, match=r"task 'motor'\. Did you mean 'motorcycle'"):
        load_task("motor")
    with pytest.raises(ShapeError, match=r"shapes \(3, 2\) and \(4,\)"):
        make_task("mine", "Mine", np.ones((3, 2)), np.arange(4))
    with pytest.raises(DataError, match=r"labels of task 'mine' are 1\.0: there is nothing"):
        make_task("mine", "Mine", np.ones((3, 2)), np.ones(3))
    with pytest.raises(DataError, match="features of task 'mine' must be finite"):
        make_task("mine", "Mine", np.full((3, 2), np.nan), np.arange(3))


def test_a_task_is_split_in_one_way():
    x, y = np.ones((4, 2)), np.arange(4)
    with pytest.raises(DataError, match="split in one way; got strata and test"):
        make_task("mine", "Mine", x, y, strata=y, test=y > 2)
    with pytest.raises(ShapeError, match=r"value per sample: 4, got shape \(3,\)"):
        make_task("mine", "Mine", x, y, test=y[:3] > 1)


def test_bins_of_labels_hold_about_equally_many():
    labels = np.random.default_rng(0).permutation(100)
    strata = label_strata(labels, 10)
    assert np.bincount(strata).tolist() == [10] * 10
    assert strata[labels.argmax()] == 9
    assert len(np.unique(label_strata(np.array([5, 5, 5, 5, 1])))) <= 2


def test_sentences_are_encoded_by_what_is_installed(monkeypatch):
    class Encoder:
        def __init__(self, name):
            self.name = name

        def encode(self, sentences):
            return [[len(sentence), len(self.name)] for sentence in sentences]

    module = types.SimpleNamespace(SentenceTransformer=Encoder)
    monkeypatch.setitem(sys.modules, "sentence_transformers", module)
    features = load_task("emobank").features
    assert features.shape == (10062, 2)
    assert (features[:, 1] == len(SENTENCE_ENCODER)).all()
