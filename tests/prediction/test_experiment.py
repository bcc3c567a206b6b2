"""The protocol: the same splits for all, one row each, resumed and never repeated."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
from sklearn.neighbors import KNeighborsRegressor

from softrsa.errors import DataError, FileFormatError, ShapeError, UnknownNameError
from softrsa.prediction import experiment
from softrsa.prediction.experiment import (
    PROTOCOL,
    embed_test_samples,
    run_experiment,
    split_samples,
)
from softrsa.prediction.experiment_result import METHODS, ExperimentResult, add_row, read_rows
from softrsa.prediction.regressor import NeighborRegressor
from softrsa.prediction.tasks import label_strata, make_task

QUICK = {"max_epochs": 3, "layers": (8, 4), **PROTOCOL}


@pytest.fixture
def task():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 3))
    return make_task("toy", "A toy", x, x[:, 0] + 0.1 * rng.normal(size=120))


def test_a_row_is_the_regressor_on_its_split(task):
    result = run_experiment(task, heads=["nca"], splits=2, seed=5, settings=QUICK)
    assert result.rows["split"].tolist() == [5, 6]
    for split, error in zip((5, 6), result.rows["mse"], strict=True):
        train, test = split_samples(task, 0.2, split)
        assert (len(train), len(test)) == (96, 24)
        model = NeighborRegressor("nca", random_state=split, **QUICK)
        model.fit(task.features[train], task.labels[train])
        expected = np.mean((model.predict(task.features[test]) - task.labels[test]) ** 2)
        assert error == pytest.approx(expected, rel=1e-6)


def test_test_samples_are_embedded_as_the_split_left_them_out(task):
    embedding, labels = embed_test_samples(task, "nca", split=5, settings=QUICK)
    train, test = split_samples(task, 0.2, 5)
    model = NeighborRegressor("nca", random_state=5, **QUICK)
    model.fit(task.features[train], task.labels[train])
    np.testing.assert_allclose(embedding, model.embed(task.features[test]), rtol=1e-6)
    assert labels.tolist() == task.labels[test].tolist()


def test_all_methods_are_compared_on_the_same_splits(task):
    result = run_experiment(task, splits=3, settings=QUICK)
    table = result.table
    assert table["method"].tolist() == list(METHODS)
    assert (table["n_splits"] == 3).all()
    linear = result.rows.query("method == 'linear'")["mse"]
    row = table.set_index("method").loc["linear"]
    assert row["mean"] == pytest.approx(1000 * linear.mean())
    assert row["sd"] == pytest.approx(1000 * linear.std())
    assert row["over_linear"] == pytest.approx(1)
    errors = table.set_index("method")["mean"]
    least = errors[["linear", "linear-centered", "ridge"]].min()
    assert table["over_best_linear"].to_numpy() == pytest.approx((errors / least).to_numpy())
    steps = [name for name in METHODS if "softstep" in name or "diffknn" in name]
    assert result.best_steps["mean"].tolist() == [errors[steps].min()]
    test = result.compare()
    assert test.n_blocks == 3
    assert list(test.mean_ranks.index) == list(METHODS)


def test_a_killed_run_goes_on_where_it_was(task, tmp_path, monkeypatch):
    path = tmp_path / "rows.csv"
    whole = run_experiment(task, heads=["linear", "nca"], splits=2, settings=QUICK).rows
    fits = []

    class Watched(NeighborRegressor):
        def fit(self, x, y, **options):
            fits.append((self.head, self.random_state))
            if len(fits) == 3:
                raise KeyboardInterrupt
            return super().fit(x, y, **options)

    monkeypatch.setattr(experiment, "NeighborRegressor", lambda *a, **k: _watched(Watched, a, k))
    options = {"heads": ["linear", "nca"], "splits": 2, "settings": QUICK, "path": path}
    with pytest.raises(KeyboardInterrupt):
        run_experiment(task, **options)
    assert pd.read_csv(path)[["split", "method"]].values.tolist() == [[0, "linear"], [0, "nca"]]
    resumed = run_experiment(task, **options).rows
    assert fits[3:] == [("linear", 1), ("nca", 1)]
    keys = ["task", "split", "method", "mse"]
    pd.testing.assert_frame_equal(resumed[keys], whole[keys], check_dtype=False)
    again = run_experiment(task, **options)
    assert len(fits) == 5
    assert len(again.rows) == 4


def _watched(kind, positional, named):
    regressor = kind()
    return regressor.set_params(head=positional[0], **named)


def test_a_file_is_of_one_protocol(task, tmp_path):
    options = {"heads": ["ridge"], "splits": 1, "path": tmp_path / "rows.csv"}
    run_experiment(task, **options, settings=QUICK)
    with pytest.raises(DataError, match=r"with the settings .*'max_epochs', 3.*'patience', 7"):
        run_experiment(task, **options, settings={"patience": 7})


def test_ratios_are_of_shared_splits_and_blocks_are_tasks():
    rows = [("a", 0, "linear", 4.0), ("a", 0, "nca", 2.0), ("a", 1, "nca", 9.0)]
    rows += [("a", 1, "ridge", 3.0), ("b", 0, "linear", 1.0), ("b", 0, "nca", 3.0)]
    rows += [("a", 0, "ridge", 5.0), ("b", 0, "ridge", 2.0), ("c", 0, "nca", 1.0)]
    frame = pd.DataFrame(rows, columns=["task", "split", "method", "mse"])
    result = ExperimentResult(frame)
    table = result.table.set_index(["task", "method"])
    assert table["over_linear"]["a", "nca"] == pytest.approx(2 / 4)
    assert table["over_best_linear"]["a", "nca"] == pytest.approx((2 + 9) / (5 + 3))
    assert np.isnan(table["over_linear"]["c", "nca"])
    assert result.comparable.index.tolist() == ["a", "b"]
    assert result.comparable.loc["a"].tolist() == [4.0, 5.0, 2.0]  # of split 0, which all have
    assert ExperimentResult(frame[frame["task"] == "a"]).comparable.index.tolist() == [("a", 0)]


def test_two_runs_on_one_file_keep_each_others_rows(task, tmp_path):
    path = tmp_path / "rows.csv"
    empty = read_rows(path, ("task", "mse"), "a test")
    add_row(empty, ("2024", 1.0), path)
    assert add_row(empty, ("None", 2.0), path)["task"].tolist() == ["2024", "None"]
    assert read_rows(path, ("task", "mse"), "a test").values.tolist() == [["2024", 1], ["None", 2]]


def test_several_runs_lose_no_rows_of_one_file_and_double_none(tmp_path):
    path, columns = tmp_path / "rows.csv", ("task", "split", "mse")
    empty = read_rows(path, columns, "a test")

    def work(worker):
        for split in range(10):
            add_row(empty, (f"task {worker}", split, 0.5), path, key=("task", "split"))
            add_row(empty, ("shared", split, worker), path, key=("task", "split"))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    rows = read_rows(path, columns, "a test")
    assert len(rows) == len(rows[["task", "split"]].drop_duplicates()) == 50
    assert [one.name for one in tmp_path.iterdir()] == ["rows.csv"]


@pytest.mark.parametrize("settings", [{"head": "nca"}, {"random_state": 1}, {"epochs": 3}])
def test_settings_are_options_of_the_regressor(task, settings):
    with pytest.raises(UnknownNameError, match=f"setting '{next(iter(settings))}'"):
        run_experiment(task, settings=settings)


@pytest.mark.parametrize(
    ("test", "error", "message"),
    [
        (np.array([0, 1, 1]), DataError, r"false for others, got int64 with the values \[0, 1\]"),
        ([True, True, True], DataError, r"got bool with the values \[True\]"),
        ([True, False], ShapeError, r"a value per sample: 3, got shape \(2,\)"),
    ],
)
def test_a_test_set_leaves_samples_on_both_sides(test, error, message):
    with pytest.raises(error, match=message):
        make_task("toy", "A toy", np.zeros((3, 2)), np.arange(3), test=test)


def test_ridge_finds_a_linear_label():
    x = np.random.default_rng(0).normal(size=(200, 3)) * [1.0, 10.0, 0.1]
    line = make_task("line", "A line", x, x @ [3.0, 0.2, -20.0] + 5)
    assert run_experiment(line, heads="ridge", splits=1).rows["mse"][0] < 1e-7


def test_knn_searches_the_embeddings_of_its_head(task):
    result = run_experiment(task, heads=["linear", "knn-linear"], splits=1, settings=QUICK)
    error = result.rows.set_index("method")["mse"]["knn-linear"]
    train, test = split_samples(task, 0.2, 0)
    model = NeighborRegressor("linear", random_state=0, **QUICK)
    model.fit(task.features[train], task.labels[train])
    a, b = (model.embed(task.features[part]) for part in (train, test))
    mean, sd = a.mean(0), a.std(0)
    choices = [
        KNeighborsRegressor(k, p=p, weights=w).fit((a - mean) / sd, task.labels[train])
        for k in (3, 5, 7)
        for p in (1, 2)
        for w in ("uniform", "distance")
    ]
    errors = [np.mean((c.predict((b - mean) / sd) - task.labels[test]) ** 2) for c in choices]
    assert min(abs(error - e) for e in errors) < 1e-6


def test_groups_stop_training_whole(task, monkeypatch):
    seen = []

    class Watched(NeighborRegressor):
        def fit(self, x, y, *, groups):
            seen.append(groups)
            return super().fit(x, y, groups=groups)

    monkeypatch.setattr(experiment, "NeighborRegressor", Watched)
    groups = np.arange(120) // 10
    grouped = make_task("toy", "A toy", task.features, task.labels, groups)
    run_experiment(grouped, heads=["nca", "knn-nca"], splits=1, settings=QUICK)
    train, _ = split_samples(grouped, 0.2, 0)
    assert len(seen) == 1
    assert (seen[0] == groups[train]).all()


def test_groups_stay_together():
    groups = np.repeat(np.arange(10), 6)
    task = make_task("grouped", "Grouped", np.ones((60, 2)), np.arange(60), groups)
    train, test = split_samples(task, 0.3, 1)
    assert not set(groups[train]) & set(groups[test])
    assert len(test) == 18
    assert sorted([*train, *test]) == list(range(60))
    assert not np.array_equal(test, split_samples(task, 0.3, 2)[1])


def test_strata_are_split_in_proportion():
    labels = np.random.default_rng(0).normal(size=200)
    task = make_task("s", "S", np.ones((200, 2)), labels, strata=label_strata(labels, 10))
    for seed in range(3):
        train, test = split_samples(task, 0.2, seed)
        assert np.bincount(task.strata[test]).tolist() == [4] * 10
        assert sorted([*train, *test]) == list(range(200))
    assert not np.array_equal(test, split_samples(task, 0.2, 0)[1])


def test_a_fixed_test_set_stays_the_same():
    held_out = np.arange(30) % 3 == 0
    task = make_task("f", "F", np.ones((30, 2)), np.arange(30), test=held_out)
    for seed in range(2):
        train, test = split_samples(task, 0.2, seed)
        assert test.tolist() == list(range(0, 30, 3))
        assert len(train) == 20


def test_mistakes_are_named(task, tmp_path):
    with pytest.raises(UnknownNameError, match=r"head 'knn'\. Did you mean"):
        run_experiment(task, heads=["knn"])
    with pytest.raises(UnknownNameError, match=r"task 'diabets'\. Did you mean 'diabetes'"):
        run_experiment("diabets")
    with pytest.raises(DataError, match="`splits` must be at least 1, got 0"):
        run_experiment(task, splits=0)
    with pytest.raises(DataError, match=r"`test_size` must leave .*, got 1\.5 of 120"):
        run_experiment(task, heads=["nca"], test_size=1.5)
    other = tmp_path / "other.csv"
    other.write_text("a,b\n1,2\n")
    with pytest.raises(FileFormatError, match=r"expected the columns task.*, found a, b"):
        run_experiment(task, path=other)
    assert other.read_text() == "a,b\n1,2\n"


def test_ridge_chooses_its_penalty_by_whole_groups():
    """Features that only tell groups apart predict other samples of a group, and no other group."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 6)
    x = rng.normal(size=(40, 60))[groups] + 0.1 * rng.normal(size=(240, 60))
    grouped = make_task("toy", "A toy", x, rng.normal(size=40)[groups], groups)
    error = run_experiment(grouped, heads="ridge", splits=3).rows["mse"].mean()
    assert error < 1.2 * grouped.labels.var()
