"""The regressor: scikit-learn's checks, its own promises, and files."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import make_regression
from sklearn.linear_model import LinearRegression
from sklearn.neighbors import KNeighborsRegressor
from sklearn.utils.estimator_checks import parametrize_with_checks

from softrsa.errors import (
    DataError,
    DTypeError,
    FileFormatError,
    FileMissingError,
    NotFittedError,
    ShapeError,
    UnknownNameError,
)
from softrsa.prediction import NeighborRegressor, grid_error, make_surface
from softrsa.prediction.step_heads import HEADS, NEIGHBOR_HEADS

QUICK = {"max_epochs": 8, "layers": (16, 4), "random_state": 0}


def excluded_checks(_):
    return {
        "check_methods_subset_invariance": "predictions are float32, and a matrix product rounds "
        "a row differently with other rows beside it; the check allows 1e-7",
        "check_array_api_input": "needs SCIPY_ARRAY_API in the environment",
    }


@parametrize_with_checks(
    [NeighborRegressor("softstep-nca-instance", max_epochs=12, layers=(32, 8))],
    expected_failed_checks=excluded_checks,
)
def test_scikit_learn(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def samples():
    x, y = make_regression(90, 4, random_state=1)
    return x, np.sin(y / 50) * 7 + 100


@pytest.mark.parametrize("head", HEADS)
class TestEveryHead:
    def test_same_seed_same_predictions_and_untouched_randomness(self, head, samples):
        x, y = samples
        before = torch.get_rng_state()
        first = NeighborRegressor(head, **QUICK).fit(x, y).predict(x)
        assert torch.equal(torch.get_rng_state(), before)
        again = clone(NeighborRegressor(head, **QUICK)).fit(x, y).predict(x)
        np.testing.assert_array_equal(first, again)
        assert first.shape == y.shape

    def test_resumed_is_uninterrupted(self, head, samples):
        x, y = samples
        whole = NeighborRegressor(head, **QUICK, dropout=0.2).fit(x, y)
        parts = NeighborRegressor(head, **QUICK, dropout=0.2, warm_start=True)
        parts.set_params(max_epochs=5).fit(x, y).set_params(max_epochs=3).fit(x, y)
        assert parts.n_iter_ == whole.n_iter_ == 8
        np.testing.assert_array_equal(parts.predict(x), whole.predict(x))

    def test_saved_and_loaded(self, head, samples, tmp_path):
        x, y = samples
        fitted = NeighborRegressor(head, **QUICK).fit(x, np.stack([y, -y], 1))
        fitted.save(tmp_path / "regressor.pt")
        loaded = NeighborRegressor.load(tmp_path / "regressor.pt")
        np.testing.assert_array_equal(loaded.predict(x), fitted.predict(x))
        assert loaded.get_params() == fitted.get_params()
        assert loaded.validation_losses_ == fitted.validation_losses_

    def test_saved_with_numpy_scalars(self, head, samples, tmp_path):
        x, y = samples
        options = {"learning_rate": np.logspace(-4, -3, 2)[0], "layers": tuple(np.array([6, 4]))}
        options |= {"random_state": np.int64(3), "temperature": np.float32(0.5)}
        fitted = NeighborRegressor(head, max_epochs=1, **options).fit(x, y)
        fitted.save(tmp_path / "regressor.pt")
        loaded = NeighborRegressor.load(tmp_path / "regressor.pt")
        np.testing.assert_array_equal(loaded.predict(x), fitted.predict(x))
        assert loaded.get_params() == fitted.get_params()
        assert type(loaded.random_state) is int

    def test_units_of_inputs_and_labels_do_not_matter(self, head, samples):
        x, y = samples
        plain = NeighborRegressor(head, **QUICK).fit(x, y).predict(x)
        other = NeighborRegressor(head, **QUICK).fit(8 * x - 2, 4 * y + 32).predict(8 * x - 2)
        # powers of two leave float64 as it is, the shift does not; eight epochs amplify rounding
        np.testing.assert_allclose(other, 4 * plain + 32, rtol=1e-3)


def test_saved_with_names_of_features(samples, tmp_path):
    pd = pytest.importorskip("pandas")
    table, y = pd.DataFrame(samples[0], columns=list("abcd")), samples[1]
    fitted = NeighborRegressor("nca", **QUICK).fit(table, y)
    fitted.save(tmp_path / "regressor.pt")
    loaded = NeighborRegressor.load(tmp_path / "regressor.pt")
    assert loaded.feature_names_in_.tolist() == list("abcd")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(loaded.predict(table), fitted.predict(table))
    with pytest.raises(ValueError, match="feature names should match"):
        loaded.predict(table.rename(columns={"a": "z"}))


def test_saved_with_the_parameters_of_the_fit(samples, tmp_path):
    x, y = samples
    fitted = NeighborRegressor("nca", **QUICK).fit(x, y)
    expected = fitted.predict(x)
    fitted.set_params(head="linear", layers=(3,), device="cpu").save(tmp_path / "regressor.pt")
    loaded = NeighborRegressor.load(tmp_path / "regressor.pt")
    assert (loaded.head, loaded.layers, loaded.device) == ("nca", (16, 4), "cpu")
    np.testing.assert_array_equal(loaded.predict(x), expected)


class TestResumed:
    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"head": "linear"}, "`head` from 'nca' to 'linear'"),
            ({"layers": (16, 5)}, r"`layers` from \(16, 4\) to \(16, 5\)"),
            ({"learning_rate": 0.5, "dropout": 0.1}, "`dropout` from .* `learning_rate` from"),
            ({"random_state": 7}, "`random_state` from 0 to 7"),
            ({"validation_fraction": 0.5}, "`validation_fraction` from"),
        ],
    )
    def test_refuses_other_parameters(self, changed, message, samples):
        regressor = NeighborRegressor("nca", **QUICK, warm_start=True).fit(*samples)
        before = regressor.predict(samples[0])
        with pytest.raises(DataError, match=message):
            regressor.set_params(**changed).fit(*samples)
        assert regressor.n_iter_ == 8
        np.testing.assert_array_equal(regressor.predict(samples[0]), before)
        regressor.set_params(warm_start=False).fit(*samples)

    def test_refuses_layers_changed_in_place(self, samples):
        layers = [8, 4]
        options = {**QUICK, "layers": layers}
        regressor = NeighborRegressor("nca", **options, warm_start=True).fit(*samples)
        layers[0] = 9
        with pytest.raises(DataError, match=r"from \(8, 4\) to \(9, 4\)"):
            regressor.fit(*samples)

    def test_refuses_other_samples(self, samples):
        x, y = samples
        regressor = NeighborRegressor("nca", **QUICK, warm_start=True).fit(x, y)
        with pytest.raises(DataError, match="got 80 instead of 90"):
            regressor.fit(x[:80], y[:80])
        with pytest.raises(DataError, match="of 4 features, got 3"):
            regressor.fit(x[:, :3], y)
        assert regressor.n_features_in_ == 4
        assert regressor.fit(x, y).n_iter_ == 16

    def test_takes_another_patience(self, samples):
        regressor = NeighborRegressor("nca", **QUICK, warm_start=True).fit(*samples)
        regressor.set_params(patience=1, max_epochs=1).fit(*samples)
        assert regressor.learner_.training.options.patience == 1
        assert regressor.n_iter_ == 9


@pytest.mark.parametrize("head", NEIGHBOR_HEADS)
def test_own_label_has_no_weight_in_training_with_dropout(head, samples):
    """Labels of a batch only reach other samples' predictions, whatever dropout does."""
    x, y = samples
    for train_neighbors in ("batch", "bank"):
        regressor = NeighborRegressor(
            head, **QUICK, dropout=0.5, train_neighbors=train_neighbors, batch_size=32
        ).fit(x, y)
        training = regressor.learner_.training
        network = training.network.train()
        rows = torch.randperm(len(training.train.y))[:20]
        labels = training.train.y.clone().requires_grad_()
        network.bank.labels = labels
        training.train = training.train._replace(y=labels)
        (x_batch,) = training.train.inputs.stream([rows])
        predicted = training.predict_part(rows, x_batch)
        for i, row in enumerate(rows.tolist()):
            (by_label,) = torch.autograd.grad(predicted[i].sum(), labels, retain_graph=True)
            assert by_label[row].item() == 0.0
            assert by_label.sum().item() == pytest.approx(1, abs=1e-5)


def test_neighbors_explain_the_prediction(samples):
    x, y = samples
    regressor = NeighborRegressor("softstep-nca-instance", **QUICK).fit(x, y)
    indices, weights = regressor.neighbors(x[:7], len(x))
    assert (np.diff(weights) <= 0).all()
    assert (np.sort(indices) == np.arange(len(x))).all()
    np.testing.assert_allclose((weights * y[indices]).sum(1), regressor.predict(x[:7]), rtol=1e-5)
    assert regressor.embed(x).shape == (90, 4)


def test_neighbors_of_raw_inputs_are_the_nearest(samples):
    x, y = samples
    regressor = NeighborRegressor("nca", layers=(), max_epochs=2, random_state=0).fit(x, y)
    scaled = (x - x.mean(0)) / x.std(0)
    expected = KNeighborsRegressor(3).fit(scaled, y).kneighbors(scaled[:9], return_distance=False)
    assert (regressor.neighbors(x[:9], 3)[0] == expected).all()


def test_linear_head_learns_a_linear_function(rng):
    x = torch.randn(300, 3, generator=rng).numpy()
    y = x @ [1.0, -2.0, 0.5] + 3
    regressor = NeighborRegressor("linear", layers=(), learning_rate=0.03, random_state=0)
    found = regressor.fit(x, y).predict(x)
    np.testing.assert_allclose(found, LinearRegression().fit(x, y).predict(x), atol=0.05)


def test_stops_early_and_keeps_the_best(samples):
    x, y = samples
    regressor = NeighborRegressor("nca", patience=3, random_state=0, learning_rate=0.05).fit(x, y)
    losses = regressor.validation_losses_
    assert len(losses) == regressor.n_iter_ < 200
    assert int(np.argmin(losses)) == len(losses) - 4


def test_constant_feature_label_and_progress(capfd):
    x = np.column_stack([np.full(20, 0.1), np.arange(20.0)])
    for head in HEADS:
        regressor = NeighborRegressor(head, **QUICK).fit(x, np.full(20, 3.0), progress=True)
        assert regressor.predict(x) == pytest.approx(3, abs=0.5)
    assert "Error" not in capfd.readouterr().err


def test_import_without_scikit_learn_stays_light():
    code = (
        "import sys, softrsa.prediction as p; assert 'sklearn' not in sys.modules; "
        "sys.modules['sklearn'] = None\n"
        "try: p.NeighborRegressor\nexcept FileNotFoundError as e: sys.exit(str(e))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    assert "install softrsa[prediction]" in done.stderr


class TestErrors:
    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"head": "nona"}, UnknownNameError, "Unknown head 'nona'"),
            ({"train_neighbors": "queue"}, UnknownNameError, "Unknown train_neighbors 'queue'"),
            ({"similarity": "l3"}, UnknownNameError, "Unknown similarity 'l3'"),
            ({"batch_size": 1}, DataError, "`batch_size` must be at least 2, got 1"),
            ({"max_epochs": 0}, DataError, "`max_epochs` must be at least 1, got 0"),
            ({"learning_rate": 0}, DataError, "`learning_rate` must be positive, got 0"),
            ({"validation_fraction": 1.0}, DataError, r"between 0 and 1, got 1\.0"),
            ({"dropout": 1.0}, DataError, r"`dropout` must be in \[0, 1\), got 1\.0"),
        ],
    )
    def test_options(self, options, error, message, samples):
        with pytest.raises(error, match=message):
            NeighborRegressor(**{"head": "nca", **options}).fit(*samples)

    def test_before_and_after_fit(self, samples):
        x, y = samples
        with pytest.raises(NotFittedError, match="NeighborRegressor is not fitted yet; call `fit`"):
            NeighborRegressor().predict(x)
        linear = NeighborRegressor("linear", **QUICK).fit(x, y)
        with pytest.raises(DataError, match="without neighbors"):
            linear.neighbors(x)
        nca = NeighborRegressor("nca", **QUICK).fit(x, y)
        with pytest.raises(DataError, match="from 1 to 90, got 91"):
            nca.neighbors(x, 91)

    def test_files(self, tmp_path):
        with pytest.raises(FileMissingError, match="There is no file"):
            NeighborRegressor.load(tmp_path / "no.pt")
        (tmp_path / "text.pt").write_text("not a file of ours")
        with pytest.raises(FileFormatError, match="is not a file written by"):
            NeighborRegressor.load(tmp_path / "text.pt")
        torch.save({"format": "softrsa.NeighborRegressor/2"}, tmp_path / "part.pt")
        with pytest.raises(FileFormatError, match="damaged: KeyError"):
            NeighborRegressor.load(tmp_path / "part.pt")


class TestGroups:
    @staticmethod
    def split(regressor, x):
        """Rows of the samples trained on and held out, found by their standardized inputs."""
        training = regressor.learner_.training
        scaled = ((x - x.mean(0)) / x.std(0)).astype(np.float32)
        find = {row.tobytes(): i for i, row in enumerate(scaled)}
        parts = (training.train, training.validation)
        return [[find[row.tobytes()] for row in part.inputs.values.numpy()] for part in parts]

    @pytest.mark.parametrize("seed", range(4))
    @pytest.mark.parametrize("named", [False, True])
    def test_no_group_on_both_sides(self, seed, named, samples):
        x, y = samples
        groups = np.random.default_rng(seed).integers(12, size=len(x))
        groups = np.array([f"subject {g}" for g in groups]) if named else groups
        options = {**QUICK, "max_epochs": 1, "random_state": seed}
        regressor = NeighborRegressor("nca", **options).fit(x, y, groups=groups)
        train, held_out = self.split(regressor, x)
        assert sorted(train + held_out) == list(range(90))
        assert not set(groups[train]) & set(groups[held_out])
        assert 7 <= len(held_out) <= 21  # 0.15 of them are 14, a group has 8 or so

    @pytest.mark.parametrize(
        ("groups", "n_held_out"),
        [
            ([0, 0, 1, 1], {2}),
            ([0, 1, 1, 1], {1}),
            ([0] * 50 + [1] * 40, {40}),
            ([3, 1, 2, 0], {1}),
        ],
    )
    def test_few_groups_leave_two_samples_to_train_on(self, groups, n_held_out, samples):
        n = len(groups)
        x, y = samples[0][:n], samples[1][:n]
        regressor = NeighborRegressor("nca", **{**QUICK, "max_epochs": 1})
        _, held_out = self.split(regressor.fit(x, y, groups=groups), x)
        assert len(held_out) in n_held_out

    def test_differ_with_the_seed(self, samples):
        x, y = samples
        groups = np.arange(90) // 9
        splits = set()
        for seed in range(5):
            options = {**QUICK, "max_epochs": 1, "random_state": seed}
            fitted = NeighborRegressor("nca", **options).fit(x, y, groups=groups)
            splits.add(frozenset(self.split(fitted, x)[1]))
        assert len(splits) > 1

    @pytest.mark.parametrize(
        ("groups", "error", "message"),
        [
            (np.zeros(90), DataError, "at least 2 groups.* got 1; leave `groups` out"),
            (np.zeros(89), ShapeError, r"must have shape \(90,\).* got \(89,\)"),
            (np.r_[np.nan, np.ones(89)], DataError, "some are NaN"),
            (np.array(["a", 1] * 45, dtype=object), DTypeError, "all numbers or all strings"),
        ],
    )
    def test_errors(self, groups, error, message, samples):
        with pytest.raises(error, match=message):
            NeighborRegressor("nca", **QUICK).fit(*samples, groups=groups)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("surface", "nearest_5", "published"),
    [("radial", 2.7, 9.0), ("spiral", 14.7, 50.6), ("checkerboard", 3.0, 61.5)],
)
def test_beats_nearest_neighbors_and_the_published_head(surface, nearest_5, published):
    """Mean squared error x 1000 on the grid, issue 4."""
    data = make_surface(surface)
    peer = KNeighborsRegressor(5).fit(data.points, data.labels)
    assert 1e3 * grid_error(peer, data) == pytest.approx(nearest_5, abs=0.06)
    regressor = NeighborRegressor("softstep-nca-instance", random_state=0)
    found = 1e3 * grid_error(regressor.fit(data.points, data.labels), data)
    assert found < min(nearest_5, published / 4)
