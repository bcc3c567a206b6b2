"""The search: the same splits as the experiment, chosen by validation alone, resumable."""

import numpy as np
import pandas as pd
import pytest

from softrsa.cli import main
from softrsa.errors import DataError, FileFormatError, UnknownNameError
from softrsa.prediction import experiment, search
from softrsa.prediction.experiment import run_experiment, split_samples
from softrsa.prediction.regressor import NeighborRegressor
from softrsa.prediction.search import COLUMNS, SearchResult, search_settings
from softrsa.prediction.tasks import make_task

QUICK = {"max_epochs": 3, "layers": (8, 4)}
SMALL = {
    "head": "nca", "similarities": ["l2", "cosine"], "embeddings": [2, 3], "batch_sizes": [16],
    "splits": 2, "settings": QUICK,
}  # fmt: skip


@pytest.fixture
def task():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 3))
    return make_task("toy", "A toy", x, x[:, 0] + 0.1 * rng.normal(size=120))


def test_a_row_is_the_regressor_on_its_split(task):
    result = search_settings(task, **{**SMALL, "seed": 5})
    assert len(result.rows) == 8
    row = result.rows.query("split == 6 and similarity == 'cosine' and embedding == 3").iloc[0]
    train, test = split_samples(task, 0.2, 6)
    model = NeighborRegressor(
        "nca", similarity="cosine", layers=(8, 3), batch_size=16, max_epochs=3, random_state=6
    )
    model.fit(task.features[train], task.labels[train])
    assert row["validation_mse"] == pytest.approx(min(model.validation_losses_), rel=1e-6)
    expected = np.mean((model.predict(task.features[test]) - task.labels[test]) ** 2)
    assert row["test_mse"] == pytest.approx(expected, rel=1e-6)
    assert (row["n_train"], row["n_test"]) == (96, 24)


def made_up(validation, test):
    """Rows of two splits for three combinations."""
    rows = pd.DataFrame(dict.fromkeys(COLUMNS, 0), index=range(6))
    rows["split"] = [0, 0, 0, 1, 1, 1]
    rows["similarity"] = ["l2", "l1", "l1"] * 2
    rows["embedding"] = [25, 25, 100] * 2
    rows["batch_size"] = 64
    rows["validation_mse"], rows["test_mse"] = validation, test
    return SearchResult(rows, {"head": "nca", "layers": (30, 20, 4), "dropout": 0.1})


def test_the_best_is_chosen_by_validation_error_and_never_by_test_error():
    validation = [0.3, 0.1, 0.2, 0.3, 0.3, 0.1]  # means .3, .2, .15
    result = made_up(validation, [0.01, 0.02, 0.9, 0.01, 0.02, 0.9])
    assert result.best == {
        "head": "nca", "dropout": 0.1, "similarity": "l1", "layers": (30, 20, 100),
        "batch_size": 64,
    }  # fmt: skip
    NeighborRegressor(**result.best)
    table = result.table
    assert table["validation"].tolist() == pytest.approx([150, 200, 300])
    assert table["validation_sd"].tolist() == pytest.approx(
        [1000 * 0.005**0.5, 1000 * 0.02**0.5, 0]
    )
    assert table["test"].tolist() == pytest.approx([900, 20, 10])
    assert table["n_splits"].tolist() == [2, 2, 2]
    tied = made_up([0.1] * 6, [0.3, 0.2, 0.1] * 2)
    assert tied.best["similarity"] == "l2"  # the first


def test_a_killed_search_goes_on_where_it_was(task, tmp_path, monkeypatch):
    path = tmp_path / "search.csv"
    whole = search_settings(task, **SMALL).rows
    fits = []

    def watched(head, **options):
        fits.append((options["random_state"], options["similarity"], options["layers"]))
        if len(fits) == 4:
            raise KeyboardInterrupt
        return NeighborRegressor(head, **options)

    monkeypatch.setattr(experiment, "NeighborRegressor", watched)
    with pytest.raises(KeyboardInterrupt):
        search_settings(task, **SMALL, path=path)
    assert len(pd.read_csv(path)) == 3
    resumed = search_settings(task, **SMALL, path=path)
    assert fits[4] == fits[3] == (0, "cosine", (8, 3))
    assert len(fits) == 9
    errors = ["split", "similarity", "embedding", "validation_mse", "test_mse"]
    pd.testing.assert_frame_equal(resumed.rows[errors], whole[errors], check_dtype=False)
    assert search_settings(task, **SMALL, path=path).best == resumed.best
    assert len(fits) == 9


def test_rows_of_another_search_in_the_file_are_left_out(task, tmp_path):
    path = tmp_path / "search.csv"
    options = {**SMALL, "splits": 1, "embeddings": [2], "path": path}
    search_settings(task, **options)
    other = search_settings(task, **{**options, "settings": {**QUICK, "max_epochs": 4}})
    third = search_settings(task, **{**options, "similarities": ["l2"]})
    assert len(other.rows) == 2
    assert len(third.rows) == 1
    assert len(pd.read_csv(path)) == 4


def test_fixed_test_sets_are_honored(task):
    fixed = make_task("f", "F", task.features, task.labels, test=np.arange(120) < 30)
    rows = search_settings(fixed, **{**SMALL, "splits": 1}).rows
    assert rows[["n_train", "n_test"]].drop_duplicates().values.tolist() == [[90, 30]]


def test_figure_has_a_panel_per_similarity_on_one_scale():
    result = made_up([0.3, 0.1, 0.2, 0.3, 0.3, 0.1], [0.0] * 6)
    figure = result.plot()
    *panels, bar = figure.axes
    assert [ax.get_title() for ax in panels] == ["l1", "l2"]
    limits = [ax.images[0].get_clim() for ax in panels]
    np.testing.assert_allclose(limits, [(150, 300)] * 2)
    assert bar.get_ylabel() == "validation error × 1000"
    np.testing.assert_allclose(panels[0].images[0].get_array(), [[200], [150]])
    assert [text.get_text() for text in panels[0].texts] == ["200", "150"]
    frames = [ax.patches for ax in panels]
    assert [len(found) for found in frames] == [1, 0]
    assert frames[0][0].get_xy() == (-0.5, 0.5)  # the second row: 100 wide
    figure.canvas.draw()


def test_command_writes_rows_and_figure_and_says_what_is_best(task, tmp_path, capsys, monkeypatch):
    def quick(data, **options):
        assert data == "diabetes"
        return search_settings(task, **{**options, **SMALL, "splits": options["splits"]})

    monkeypatch.setattr(search, "search_settings", quick)
    out = tmp_path / "out"
    command = ["predict", "--data", "diabetes", "--heads", "nca", "--search", "--splits", "1"]
    assert main([*command, "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "validation" in shown
    assert "Best by validation error: NeighborRegressor('nca', " in shown
    assert sorted(path.name for path in out.iterdir()) == ["search.csv", "search.png"]
    assert len(pd.read_csv(out / "search.csv")) == 4


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (("--data", "diabetes"), "--search takes one head, such as --heads nca"),
        (("--data", "diabetes", "--heads", "nca,linear"), "--search takes one head"),
        (("--data", "diabetes", "--heads", "linear"), "Unknown head 'linear'"),
        (("--data", "surfaces", "--heads", "nca"), "--search needs a data set, not surfaces"),
    ],
)
def test_mistakes_of_the_command_are_one_line(arguments, found, tmp_path, capsys):
    code = main(["predict", *arguments, "--search", "--out", str(tmp_path / "out")])
    errors = capsys.readouterr().err
    assert code == 2
    assert found in errors
    assert errors.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "error", "found"),
    [
        ({"head": "linear"}, UnknownNameError, r"head 'linear'\. Known: nca"),
        ({"similarities": ["l3"]}, UnknownNameError, r"similarity 'l3'\. Did you mean"),
        ({"embeddings": [0]}, DataError, r"`embeddings` must be at least 1, got \[0\]"),
        ({"batch_sizes": [64, 1]}, DataError, r"`batch_sizes` must be at least 2, got \[64, 1\]"),
        ({"embeddings": []}, DataError, "an embedding and a batch size at least"),
        ({"splits": 0}, DataError, "`splits` must be at least 1, got 0"),
        ({"settings": {"similarity": "l2"}}, DataError, "must not hold similarity, which the"),
    ],
)
def test_mistakes_are_named(task, options, error, found):
    with pytest.raises(error, match=found):
        search_settings(task, **{**SMALL, **options})


def test_a_file_of_an_experiment_is_refused(task, tmp_path):
    path = tmp_path / "rows.csv"
    run_experiment(task, heads="nca", splits=1, settings=QUICK, path=path)
    with pytest.raises(FileFormatError, match="is no table of a search: expected the columns task"):
        search_settings(task, **SMALL, path=path)
