"""`softrsa optimize` as users meet it: features in, results per measure out, or one line."""

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from PIL import Image

from softrsa.cli import main
from softrsa.cli import optimize as command_module
from softrsa.measures import linear_predictivity
from softrsa.synthesis import (
    OptimizationInterrupted,
    SynthesisResult,
    captured_components,
    optimize_to_score,
)

QUICK = ("--units", "4", "--max-steps", "15", "--quiet")
FILES = ["components.csv", "components.png", "linear_cka.nc", "nbs.nc", "scores.png"]


@pytest.fixture(scope="module")
def recording():
    """Two regions of 24 stimuli, 6 and 8 units."""
    return xr.DataArray(
        np.random.default_rng(0).standard_normal((24, 14)),
        dims=("stimulus", "unit"),
        coords={
            "stimulus": [f"s{i:02}" for i in range(24)],
            "region": ("unit", ["V4"] * 6 + ["IT"] * 8),
        },
    )


def write(array, path):
    array.to_dataset(name="data").to_netcdf(path, engine="netcdf4")
    return path


@pytest.fixture
def file(tmp_path, recording):
    return write(recording, tmp_path / "RECORDING.nc")


@pytest.fixture
def command(tmp_path, capsys):
    """Return a function that runs `softrsa optimize` and gives exit code, stdout and stderr."""

    def run(*arguments):
        try:
            code = main(["optimize", *map(str, arguments), "--out", str(tmp_path / "out")])
        except SystemExit as stop:  # argparse
            code = stop.code
        return code, *capsys.readouterr()

    return run


def test_files_and_the_same_as_python(command, file, recording, tmp_path):
    code, shown, errors = command(file, "--region", "IT", "--restarts", "2", "--seed", "3", *QUICK)
    assert (code, shown, errors) == (0, "", "")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == FILES
    found = SynthesisResult.from_netcdf(tmp_path / "out" / "nbs.nc")
    expected = optimize_to_score(
        recording[:, 6:],
        "nbs",
        target=0.99,
        n_restarts=2,
        n_units=4,
        max_steps=15,
        seed=3,
        record=50,
    )
    xr.testing.assert_identical(found.data, expected.data)
    table = pd.read_csv(tmp_path / "out" / "components.csv").query("measure == 'nbs'")
    assert len(table) == 2 * 8
    components = captured_components(expected)
    np.testing.assert_allclose(
        table["score_at_capture"], components["score_at_capture"].values.ravel()
    )
    np.testing.assert_allclose(table["captured"], components["captured"].values[-1].ravel())
    for name in ("scores.png", "components.png"):
        with Image.open(tmp_path / "out" / name) as image:
            image.load()
            assert min(image.size) > 400


def test_predictivity_counts_units_as_asked(command, file, recording, tmp_path):
    given = (file, "--region", "IT", "--measure", "linear_predictivity", *QUICK)
    for average in ("variance", "uniform"):
        assert command(*given, "--average", average)[0] == 0
        found = SynthesisResult.from_netcdf(tmp_path / "out" / "linear_predictivity.nc")
        expected = linear_predictivity(
            found.recorded[-1, 0], torch.as_tensor(recording.values[:, 6:]), average=average
        )
        assert float(found.scores[-1, 0]) == pytest.approx(expected.item(), abs=1e-6)


def test_demo_says_how_far_it_got(command, tmp_path):
    arguments = ("--demo", "--layer", "layer1", "--measure", "nbs", "--target", "0.8")
    code, shown, errors = command(*arguments, "--units", "10")
    assert code == 0
    assert "softrsa: " not in errors
    assert shown.startswith("simulated: these data are simulated.\nnbs: 0.8")
    assert "steps; the data optimized hold at least half of " in shown
    assert f"Results are in {tmp_path / 'out'}" in shown


def test_demo_needs_nothing_else(command, tmp_path):
    code, shown, errors = command("--demo", "--target", "0.7")
    assert (code, "warning" in errors) == (0, False)
    assert "linear_cka: 0.7" in shown
    x = SynthesisResult.from_netcdf(tmp_path / "out" / "nbs.nc")
    assert x.recorded.shape[-1] == 20


def test_an_interrupted_run_is_kept_and_resumed(command, file, tmp_path, monkeypatch):
    """Ctrl-C in the second measure: both files are there, and --resume ends as one run would."""

    def stopped(x, measure, **options):
        if measure == "nbs":
            return optimize_to_score(x, measure, **options)
        result = optimize_to_score(x, measure, **{**options, "max_steps": 2})
        raise OptimizationInterrupted(result)

    arguments = (
        file, "--region", "V4", "--measure", "nbs,linear_cka", "--target", "0.9", "--units", "4",
        "--quiet",
    )  # fmt: skip
    assert command(*arguments)[0] == 0
    whole = SynthesisResult.from_netcdf(tmp_path / "out" / "linear_cka.nc")
    for path in (tmp_path / "out").iterdir():
        path.unlink()
    monkeypatch.setattr(command_module, "optimize_to_score", stopped)
    code, _, errors = command(*arguments)
    assert code == 130
    assert errors.startswith("softrsa: stopped; kept nbs.nc, linear_cka.nc in ")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["linear_cka.nc", "nbs.nc"]
    monkeypatch.setattr(command_module, "optimize_to_score", optimize_to_score)
    assert command(*arguments, "--resume")[0] == 0
    resumed = SynthesisResult.from_netcdf(tmp_path / "out" / "linear_cka.nc")
    assert torch.equal(resumed.scores, whole.scores)


def test_target_not_reached_and_too_many_units(command, file):
    code, shown, errors = command(
        file, "--region", "V4", "--measure", "nbs", "--units", "30", "--max-steps", "1",
        "--target", "1",
    )  # fmt: skip
    assert code == 0
    assert "target not reached" in shown
    assert "softrsa: warning: With 30 synthetic units for 24 stimuli" in errors


def test_measure_on_rsms(command, file, tmp_path):
    arguments = ("--region", "IT", "--measure", "pearson", "--similarity", "l2", *QUICK)
    assert command(file, *arguments)[0] == 0
    data = SynthesisResult.from_netcdf(tmp_path / "out" / "pearson.nc").data
    assert data.attrs["similarity"] == "l2"


def test_a_file_of_one_part_needs_no_name(command, file, recording, tmp_path):
    for array in (recording[:, :6], recording.drop_vars("region")):
        code, _, errors = command(write(array, tmp_path / "one.nc"), *QUICK)
        assert (code, errors) == (0, "")


REFUSED = {
    "nothing": ([], ["one file", "0 files"]),
    "two files": (["FILE", "FILE"], ["2 files"]),
    "file and demo": (["FILE", "--demo"], ["1 file and --demo"]),
    "no such file": (["nowhere.nc"], ["no file nowhere.nc"]),
    "no part named": (["FILE"], ["--region 'V4', 'IT'"]),
    "region": (["FILE", "--region", "V5"], ["'V5'", "RECORDING.nc", "'V4'"]),
    "layer of a recording": (["FILE", "--layer", "V4"], ["layer in", "Known: none"]),
    "both": (["FILE", "--layer", "a", "--region", "V4"], ["not allowed with"]),
    "data set": (["--dataset", "macaque"], ["'macaque-v4'"]),
    "RDMs": (["--dataset", "kriegeskorte92", "--region", "human IT"], ["RDMs", "units"]),
    "RDMs of models": (["--dataset", "kriegeskorte92", "--layer", "EVA"], ["RDMs", "units"]),
    "measure": (["FILE", "--region", "V4", "--measure", "nsb"], ["'nsb'", "'nbs'"]),
    "no gradient": (["FILE", "--region", "V4", "--measure", "nbs,spearman"], ["'spearman' passes"]),
    "target": (["FILE", "--region", "V4", "--target", "2"], ["0 to 1, got 2"]),
    "restarts": (["FILE", "--region", "V4", "--restarts", "0"], ["at least 1 and", "got 0 and 0"]),
    "seed": (["FILE", "--region", "V4", "--seed", "x"], ["--seed", "'x'"]),
    "device": (["FILE", "--region", "V4", "--device", "gpu"], ["'gpu'"]),
    "similarity": (
        ["FILE", "--region", "V4", "--measure", "pearson", "--similarity", "l3"], ["'l3'", "'l2'"]
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_mistakes_are_one_line_and_write_nothing(command, file, tmp_path, case):
    arguments, found = REFUSED[case]
    before = sorted(tmp_path.rglob("*"))
    arguments = [str(file) if part == "FILE" else part for part in arguments]
    code, shown, errors = command(*arguments, "--quiet")
    assert (code, shown) == (2, "")
    assert errors.startswith("softrsa: error: ")
    assert errors.count("\n") == 1
    assert [text for text in found if text not in errors] == []
    assert sorted(tmp_path.rglob("*")) == before


def test_a_failure_or_an_interrupt_on_the_second_measure_writes_nothing(
    command, file, tmp_path, monkeypatch
):
    for stop, code in ((OSError(28, "No space left on device"), 2), (KeyboardInterrupt, 130)):

        def run(x, measure, *, problem=stop, **options):
            if measure == "linear_cka":
                raise problem
            return optimize_to_score(x, measure, **options)

        monkeypatch.setattr(command_module, "optimize_to_score", run)
        found, _, errors = command(file, "--region", "V4", *QUICK)
        assert (found, errors.count("\n")) == (code, 1)
        assert not (tmp_path / "out").exists()


def test_a_score_that_is_no_number(command, recording, tmp_path, monkeypatch):
    path = write(xr.zeros_like(recording) + 1.5, tmp_path / "constant.nc")
    code, _, errors = command(path, "--region", "V4", *QUICK)
    assert code == 2
    assert "restart 0 is nan at the start" in errors
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "sees no CUDA device" in command(path, "--region", "V4", "--device", "cuda")[2]
