"""`softrsa time` as users meet it: files in, curves out, or one line; and what leads there."""

import json

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import softrsa
from softrsa.cli import main
from softrsa.errors import DataError, ShapeError
from softrsa.inference import TimeCourseResult, time_courses
from softrsa.rsm import build_rsms

N, TIMES, SUBJECTS = 16, np.array([0.0, 0.1, 0.2, 0.3]), list("abcdef")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Layers, and recordings and RDM movies of two regions and six subjects."""
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("time")
    signal = rng.normal(size=(N, 5))
    parts = [
        signal[..., None] * [0, 0, 2, 2] + rng.normal(size=(N, 5, 4))
        for _ in SUBJECTS
        for _ in range(2)
    ]
    ids = [f"image {i}" for i in range(N)]
    meg = xr.DataArray(
        np.concatenate(parts, axis=1),
        dims=("stimulus", "unit", "time"),
        coords={
            "stimulus": ids,
            "time": TIMES,
            "subject": ("unit", np.repeat(SUBJECTS, 10)),
            "region": ("unit", np.tile(np.repeat(["V4", "IT"], 5), 6)),
        },
    )
    layers = xr.DataArray(
        np.concatenate([signal, rng.normal(size=(N, 5))], axis=1),
        dims=("stimulus", "unit"),
        coords={"stimulus": ids, "layer": ("unit", np.repeat(["near", "far"], 5))},
    )
    movie = (1 - build_rsms(meg, by=["region", "subject"])).assign_attrs(kind="rdm")
    arrays = {"layers": layers, "meg": meg, "movie": movie}
    for name, array in arrays.items():
        softrsa.io.save(array, folder / f"{name}.nc")
    return folder, arrays


@pytest.fixture
def command(files, tmp_path, capsys):
    """Return a function that runs the command and gives exit code and outputs."""

    def run(*arguments, name="time", out="out"):
        folder = files[0]
        given = [str(folder / f"{one}.nc") if one in files[1] else str(one) for one in arguments]
        try:
            code = main([name, *given, "--out", str(tmp_path / out)])
        except SystemExit as stop:  # argparse
            code = stop.code
        return code, *capsys.readouterr()

    return run


@pytest.mark.parametrize("brain", ["meg", "movie"])
def test_files_give_what_python_gives(brain, command, files, tmp_path):
    assert command("layers", brain, "--quiet", "--seed", "3") == (0, "", "")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "courses.csv", "courses.png", "differences.csv", "latencies.csv", "report.html",
        "result.nc",
    ]  # fmt: skip
    direct = time_courses(files[1]["layers"], files[1]["movie"], "centered_pearson", seed=3)
    found = TimeCourseResult.from_netcdf(tmp_path / "out" / "result.nc")
    pd.testing.assert_frame_equal(found.table, direct.table, rtol=1e-9, atol=1e-12)
    table = pd.read_csv(tmp_path / "out" / "courses.csv")
    np.testing.assert_allclose(table["score"], direct.table["score"])
    latencies = pd.read_csv(tmp_path / "out" / "latencies.csv")
    assert latencies.query("layer == 'near'")["peak"].isin([0.2, 0.3]).all()
    assert latencies["layer"].tolist() == ["near", "near", "far", "far"]
    assert "softrsa time" in found.data.attrs["command"]


def test_options_and_the_table_as_json(command, files, tmp_path):
    code, out, _ = command(
        "layers", "meg", "--layers", "near", "--regions", "IT", "--measure", "spearman",
        "--method", "max", "--flips", "50", "--json",
    )  # fmt: skip
    assert code == 0
    rows = json.loads(out)["rows"]
    assert [(row["layer"], row["region"]) for row in rows] == [("near", "IT")]
    assert not (tmp_path / "out" / "differences.csv").exists()
    result = TimeCourseResult.from_netcdf(tmp_path / "out" / "result.nc")
    assert (result.data.attrs["measure"], result.data.attrs["method"]) == ("spearman", "max")


def test_mistakes_are_one_line(command):
    code, out, err = command("layers", "layers", "--region", "layer")
    assert (code, out) == (2, "")
    assert "has no dimension `time`" in err
    code, _, err = command("layers", "meg", "--regions", "V5")
    assert code == 2
    assert "'V5'" in err
    code, _, err = command("layers")
    assert code == 2


def test_align_leads_here(command, files):
    for brain, message in (
        ("meg", "a dimension 'time', of 4 times. What is learned is of one time"),
        ("movie", "movie.nc has RDMs of 4 times: `softrsa time` scores all of them"),
    ):
        code, _, err = command("layers", brain, name="align")
        assert code == 2
        assert message in err
        assert "softrsa time" in err
        assert len(err.strip().splitlines()) == 1
    _, arrays = files
    with pytest.raises(ShapeError, match=r"'time', of 4 times.*time_courses"):
        softrsa.align(arrays["layers"], arrays["meg"])
    with pytest.raises(DataError, match=r"RDMs of 4 times.*time_courses"):
        softrsa.align(arrays["layers"], arrays["movie"])
    one = softrsa.align(
        arrays["layers"],
        arrays["movie"].sel(time=0.2),
        transforms=["identity"],
        folds=4,
        n_resamples=0,
    )
    assert len(one.table) == 4
