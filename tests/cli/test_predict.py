"""`softrsa predict` as users meet it: rows that accumulate, a table, figures, or one line."""

import pandas as pd
import pytest

from softrsa.cli import main


@pytest.fixture
def command(tmp_path, capsys):
    """Return a function that runs `softrsa predict` and gives exit code, stdout and stderr."""

    def run(*arguments):
        try:
            code = main(["predict", *map(str, arguments), "--out", str(tmp_path / "out")])
        except SystemExit as stop:  # argparse
            code = stop.code
        return code, *capsys.readouterr()

    return run


def test_rows_accumulate_over_calls(command, tmp_path):
    first = ("--data", "diabetes", "--heads", "linear,knn-linear", "--splits", "1")
    code, shown, _ = command(*first)
    assert code == 0
    assert "knn-linear" in shown
    assert "Friedman" not in shown
    before = pd.read_csv(tmp_path / "out" / "rows.csv")
    code, shown, _ = command(
        "--data", "diabetes", "--heads", "linear,nca,knn-linear", "--splits", 2
    )
    assert code == 0
    assert "Friedman p = " in shown
    assert "over 2 splits of the same samples" in shown
    rows = pd.read_csv(tmp_path / "out" / "rows.csv")
    pd.testing.assert_frame_equal(rows[:2], before)
    assert len(rows) == 6
    table = pd.read_csv(tmp_path / "out" / "table.csv")
    assert table["method"].tolist() == ["linear", "nca", "knn-linear"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "embedding.png", "errors.png", "ranks.png", "rows.csv", "table.csv"
    ]  # fmt: skip


def test_surfaces_are_named_like_a_data_set(command, tmp_path):
    code, shown, _ = command("--data", "surfaces", "--heads", "knn-raw", "--quiet")
    assert (code, shown) == (0, "")
    rows = pd.read_csv(tmp_path / "out" / "rows.csv").set_index("task")["mse"] * 1000
    # as SPEC section 7 wants them beaten
    found = rows[["radial", "spiral", "checkerboard"]].tolist()
    assert found == pytest.approx([2.7, 14.7, 3.0], abs=0.06)


def test_the_papers_have_no_temperature(command, tmp_path):
    options = ("--data", "diabetes", "--heads", "nca", "--splits", 1)
    assert command(*options, "--preset", "papers", "--quiet")[0] == 0
    (settings,) = pd.read_csv(tmp_path / "out" / "rows.csv")["settings"]
    assert "('temperature', None)" in settings
    assert "temperature" in command(*options)[2]  # another protocol in the same file


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (("--data", "macaque"), "Unknown data 'macaque'. Did you mean 'macaque-v4' or"),
        (("--data", "diabetes", "--heads", "knn"), "Unknown head 'knn'. Did you mean"),
        (("--data", "diabetes", "--splits", "0"), "`splits` must be at least 1, got 0"),
        ((), "required: --data"),
    ],
)
def test_mistakes_are_one_line(command, tmp_path, arguments, found):
    code, shown, errors = command(*arguments)
    assert (code, shown) == (2, "")
    assert found in errors
    assert errors.count("\n") == 1
    assert not (tmp_path / "out").exists()
