"""`softrsa identify` as users meet it: RDMs in, accuracies out, or one line."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from softrsa.alignment import IdentificationResult, PublishedIdentification, identify_regions
from softrsa.cli import main
from softrsa.rsm import build_rsms

FILES = ["accuracies.csv", "by_subject.csv", "identification.png", "result.nc"]
SUBJECTS, REGIONS = ["a", "b", "c", "d"], ["V1", "IT"]


@pytest.fixture(scope="module")
def recordings():
    """Two regions, alike in four subjects, of 16 stimuli and 5 units each."""
    rng = np.random.default_rng(0)
    signal = rng.standard_normal((len(REGIONS), 16, 5))
    parts = [signal[r] + 0.6 * rng.standard_normal((16, 5)) for _ in SUBJECTS for r in range(2)]
    return xr.DataArray(
        np.concatenate(parts, axis=1),
        dims=("stimulus", "unit"),
        coords={
            "stimulus": [f"s{i:02}" for i in range(16)],
            "subject": ("unit", np.repeat(SUBJECTS, 10)),
            "region": ("unit", np.tile(np.repeat(REGIONS, 5), len(SUBJECTS))),
        },
    )


@pytest.fixture(scope="module")
def rdms(recordings):
    return (1 - build_rsms(recordings, by=("region", "subject"))).assign_attrs(kind="rdm")


@pytest.fixture
def command(tmp_path, capsys):
    """Return a function that writes an array, runs the command, gives exit code and outputs."""

    def run(array, *arguments):
        if array is not None:
            array.to_dataset(name="data").to_netcdf(tmp_path / "in.nc", engine="netcdf4")
            arguments = (tmp_path / "in.nc", *arguments)
        try:
            code = main(["identify", *map(str, arguments), "--out", str(tmp_path / "out")])
        except SystemExit as stop:  # argparse
            code = stop.code
        return code, *capsys.readouterr()

    return run


def test_recordings_and_their_rdms_give_what_python_gives(command, recordings, rdms, tmp_path):
    options = ("--transform", "identity,centered", "--resamples", "20", "--quiet")
    direct = identify_regions(rdms, transform=["identity", "centered"], n_resamples=20)
    for array in (recordings, rdms):
        assert command(array, *options) == (0, "", "")
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == FILES
        found = IdentificationResult.from_netcdf(tmp_path / "out" / "result.nc")
        pd.testing.assert_frame_equal(found.table, direct.table)
        table = pd.read_csv(tmp_path / "out" / "accuracies.csv")
        assert table["accuracy"].tolist() == direct.table["accuracy"].tolist()


def test_framed_rsa_is_of_recordings(command, recordings, tmp_path):
    assert command(recordings, "--transform", "framed", "--resamples", "5", "--quiet")[0] == 0
    table = pd.read_csv(tmp_path / "out" / "accuracies.csv")
    assert table["transform"].tolist() == ["framed"]
    assert table["accuracy"][0] > 1 / 2


def test_curves_and_thresholds_have_files_of_their_own(command, rdms, tmp_path):
    code, out, _ = command(
        rdms, "--transform", "geo_topological", "--grid", "2", "--resamples", "3", "--stimuli",
        "8,16", "--noise", "0,1", "--subsets", "1",
    )  # fmt: skip
    assert code == 0
    assert "geo_topological" in out
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == sorted([*FILES, "curves.csv", "curves.png", "thresholds.png"])
    curves = pd.read_csv(tmp_path / "out" / "curves.csv")
    assert curves.groupby(["noise", "n_stimuli"]).ngroups == 4


def test_the_published_procedure_says_what_it_is(command, rdms, tmp_path):
    code, _, err = command(
        rdms, "--published", "--transform", "identity", "--resamples", "2", "--quiet"
    )
    assert code == 0
    assert "warning: The published procedure is optimistic" in err
    PublishedIdentification.from_netcdf(tmp_path / "out" / "result.nc")
    assert len(pd.read_csv(tmp_path / "out" / "types.csv")) == 5
    assert len(pd.read_csv(tmp_path / "out" / "comparisons.csv")) == 10


def test_the_simulated_networks(command):
    code, out, _ = command(None, "--demo", "--transform", "identity", "--resamples", "5")
    assert code == 0
    assert "digit-networks: these data are simulated" in out
    assert float(out.split("identity")[1].split()[0]) > 2 / 6  # twice chance


@pytest.mark.parametrize(
    ("array", "arguments", "message"),
    [
        (None, (), "Give one file (RDMS.nc), or --dataset NAME, or --demo; got 0 files."),
        (None, ("--dataset", "macaque-v4"), "Region 'V4' names no subjects"),
        (None, ("--demo", "--regions", "layer9"), "region 'layer9'"),
        (
            None,
            ("--demo", "--published", "--noise", "0"),
            "goes its own way: leave out --noise",
        ),
        (None, ("--demo", "--noise", "much"), "got 'much', expected numbers separated by commas"),
        (None, ("--demo", "--stimuli", "12.7"), "got '12.7', expected whole numbers"),
        (None, ("--demo", "--resamples", "0"), "`n_resamples` must be at least 1, got 0"),
        (None, ("--demo", "--published", "--folds", "9"), "leave out --folds"),
        (None, ("--demo", "--folds", "20"), "must have 4 of the 60 stimuli at least, got 20 folds"),
        ("rdms", ("--transform", "framed"), "The transform 'framed' needs units"),
        ("rdms", ("--regions", "V1"), "two regions at least, got ['V1']"),
        ("one", (), "must be there for 4 subjects at least"),
        ("unlabelled", (), "units must be labelled by region and subject, found region"),
    ],
)
def test_a_mistake_is_one_line(command, recordings, rdms, tmp_path, array, arguments, message):
    arrays = {
        "rdms": rdms,
        "one": rdms.isel(subject=[0]),
        "unlabelled": recordings.drop_vars("subject"),
    }
    code, out, err = command(arrays.get(array), *arguments, "--quiet")
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()
