"""What the library says names options where a command says it."""

import ast
import inspect
from pathlib import Path

import numpy as np
import pytest

import softrsa
from softrsa.cli import main
from softrsa.cli.parser import OPTIONS
from softrsa.cli.wording import in_options

ASKED = [*inspect.signature(softrsa.load).parameters]
ASKED = [name for name in ASKED if name not in ("path", "chunks")]


@pytest.mark.parametrize("name", [*ASKED, "join", "ids"])
def test_every_option_of_load_is_one_of_the_command(name):
    assert f"--{name.replace('_', '-')}" in {row.name for row in OPTIONS["align"]}


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("load with `stimuli='ids'`", "load with --stimuli ids"),
        ("number them with `stimuli=range(12)`.", "number them with --stimuli numbered."),
        ("Is it `dims=('time', 'anchor', 'neighbor')`?", "Is it --dims time,anchor,neighbor?"),
        ("leave out `halves`", "leave out --halves"),
        ("Give `drop_missing_units=True` (`--drop-missing-units`).", "Give --drop-missing-units."),
        ('with `trials="mean"` (`--trials mean` on the command line)', "with --trials mean"),
        ("`variable='two words'`", '--variable "two words"'),
        ("give `folds=`.", "give `folds=`."),
        ("give `folds=3`.", "give --folds 3."),
        ("Score all of them, with `folds=None`.", "Score all of them, with --folds none."),
        ("Which? On the command line: `--dims a.b`. So.", "Which? So."),
        ("little; use measure='centered_pearson'.", "little; use --measure centered_pearson."),
        ("the coordinate `subject` and `array.sel(unit=1)`", None),
        ("`softrsa.io.from_epochs(..., picks='mag')`", None),
    ],
)
def test_arguments_are_said_as_options(said, expected):
    assert in_options(said, "align") == (said if expected is None else expected)


def test_a_command_without_the_option_leaves_the_argument():
    assert in_options("leave `stimuli=[...]` out", "extract") == "leave `stimuli=[...]` out"
    assert in_options("leave `tokens='cls'` out", "extract") == "leave --tokens cls out"


def texts(folder):
    """All texts in the source of a folder."""
    for path in Path(folder).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_nothing_that_reading_says_needs_python():
    """Of arguments of `load`, in whatever way they are written in errors."""
    folder = Path(softrsa.__file__).parent / "io"
    for text in texts(folder):
        if "\n" in text or "`" not in text:
            continue  # a docstring
        said = in_options(text, "align")
        for name in ASKED:
            assert f"`{name}`" not in said, text


@pytest.mark.parametrize(
    ("values", "options", "said"),
    [
        (np.zeros((4, 3)), [], "--stimuli FILE, or number them with --stimuli numbered"),
        (np.zeros((2, 4, 3)), ["--stimuli", "numbered"], "--dims"),
        (np.ones((4, 4)) + np.eye(4), ["--stimuli", "numbered"], "--kind rsm"),
        (np.eye(4) + np.tril(np.full((4, 4), 0.25), -1) + np.triu(np.full((4, 4), 0.5), 1),
         ["--stimuli", "numbered", "--kind", "rsm"], "--halves lower"),
    ],
)  # fmt: skip
def test_the_command_speaks_of_its_options(tmp_path, capsys, values, options, said):
    path = tmp_path / "values.npy"
    np.save(path, values)
    code = main(["align", str(path), str(path), *options, "--out", str(tmp_path / "out")])
    message = capsys.readouterr().err
    assert code == 2
    assert said in message
    for name in ASKED:
        assert f"`{name}" not in message
        assert f"`--{name}" not in message
