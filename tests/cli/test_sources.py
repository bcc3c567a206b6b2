"""Files of every format and of several subjects, as `softrsa align` takes them."""

from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.io
import torch
import xarray as xr

import softrsa
from softrsa.activations import NamedModel
from softrsa.cli import main
from softrsa.cli.sources import common_name, found_files, subject_names
from softrsa.errors import DataError, FileMissingError

IDS = [f"s{i:02}" for i in range(12)]
QUICK = ["--transform", "identity", "--folds", "3", "--resamples", "0", "--quiet"]
LAYER = np.random.default_rng(0).standard_normal((12, 6))
BRAIN = {
    name: LAYER[:, :5] + np.random.default_rng(i + 1).standard_normal((12, 5))
    for i, name in enumerate(("sub-01", "sub-02", "sub-10"))
}


def rdm(values):
    return 1 - np.corrcoef(values)


def csv(path, values):
    pd.DataFrame(values, index=pd.Index(IDS, name="stimulus")).to_csv(path)


def matlab73(path, values):
    with h5py.File(path, "w", userblock_size=512) as file:
        file["betas"] = values.T  # MATLAB writes columns first
        file["betas"].attrs["MATLAB_class"] = np.bytes_("double")
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\0\2IM")


def netcdf(path, values):
    array = xr.DataArray(values, dims=("stimulus", "unit"), coords={"stimulus": IDS})
    softrsa.io.save(array, path)


WRITERS = {
    "a.csv": csv,
    "a.nc": netcdf,
    "a.npy": np.save,
    "a.npz": lambda path, values: np.savez(path, betas=values),
    "a.mat": lambda path, values: scipy.io.savemat(path, {"betas": values}),
    "b.mat": matlab73,
    "a.pt": lambda path, values: torch.save(torch.from_numpy(values), path),
    "a.txt": np.savetxt,
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("ids.txt").write_text("\n".join(IDS))
    netcdf(Path("net.nc"), LAYER)
    return tmp_path


def scores():
    return pd.read_csv("out/scores.csv")


@pytest.mark.parametrize("name", WRITERS)
def test_recordings_of_any_format(here, name):
    path = here / name
    WRITERS[name](path, BRAIN["sub-01"])
    ids = [] if path.suffix in (".csv", ".nc") else ["--stimuli", "ids.txt"]
    assert main(["align", "net.nc", name, *ids, *QUICK, "--out", "out"]) == 0
    table = scores()
    expected = softrsa.align(
        LAYER, BRAIN["sub-01"], transforms=["identity"], folds=3, n_resamples=0
    ).table
    np.testing.assert_allclose(table["score"], expected["score"], atol=1e-6)
    assert table["region"].tolist() == [path.stem]


@pytest.fixture
def subjects(here):
    for name, values in BRAIN.items():
        (here / name).mkdir()
        scipy.io.savemat(here / name / f"{name}_betas.mat", {"betas": values})
    return here


FILES = [f"{name}/{name}_betas.mat" for name in BRAIN]


@pytest.mark.parametrize(
    "given",
    [
        ["net.nc", *FILES],
        ["net.nc", "--recordings", *FILES],
        ["net.nc", "--recordings", "sub-*/*_betas.mat"],
        ["--layers", "net.nc", "--recordings", "sub-*/*_betas.mat"],
    ],
)
def test_a_file_for_each_subject(subjects, given):
    assert main(["align", *given, "--stimuli", "ids.txt", *QUICK, "--out", "out"]) == 0
    expected = softrsa.align(
        {"net": LAYER}, {"betas": [*BRAIN.values()]}, transforms=["identity"], folds=3,
        n_resamples=0,
    ).table  # fmt: skip
    table = scores()
    assert (table["layer"].tolist(), table["region"].tolist()) == (["net"], ["betas"])
    np.testing.assert_allclose(table["score"], expected["score"], atol=1e-6)
    np.testing.assert_allclose(table["ceiling_lower"], expected["ceiling_lower"], atol=1e-6)


def test_rdms_of_each_subject_and_options_of_one_side(subjects):
    for name, values in BRAIN.items():
        np.save(f"{name}.npy", rdm(values))
    np.save("net.npy", LAYER)
    options = ["--stimuli", "ids.txt", "--kind", "recordings:rdm", *QUICK]
    assert main(["align", "net.npy", "sub-*.npy", *options, "--out", "out"]) == 0
    expected = softrsa.align(
        {"net": LAYER}, {"r": [*BRAIN.values()]}, transforms=["identity"], folds=3, n_resamples=0
    ).table
    np.testing.assert_allclose(scores()["score"], expected["score"], atol=1e-6)
    assert scores()["region"].tolist() == ["recordings"]


def test_a_layer_without_variance_is_empty_in_table_and_report(here):
    """As the first token of sentences before any layer, which is the same in all."""
    values = np.hstack([np.tile([1.0, 2.0, 4.0], (12, 1)), LAYER])
    labels = {"stimulus": IDS, "layer": ("unit", ["cls"] * 3 + ["conv"] * 6)}
    net = xr.DataArray(values, dims=("stimulus", "unit"), coords=labels)
    softrsa.io.save(net, "net.nc")
    csv(Path("brain.csv"), BRAIN["sub-01"])
    quick = ["--transform", "identity", "--folds", "none", "--resamples", "0", "--quiet"]
    assert main(["align", "net.nc", "brain.csv", *quick, "--out", "out"]) == 0
    table = scores().set_index("layer")["score"]
    assert np.isnan(table["cls"])
    expected = softrsa.align(
        LAYER, BRAIN["sub-01"], transforms=["identity"], folds=None, n_resamples=0
    ).table["score"]
    np.testing.assert_allclose(table["conv"], expected, atol=1e-6)
    assert Path("out/report.html").is_file()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["net.nc", "--recordings", "none-*.mat"], "No file matches none-*.mat"),
        (["--recordings", "sub-01/sub-01_betas.mat"], "give one file of layers"),
        (["--layers", "conv1", "--recordings", FILES[0]], "give one file of layers"),
        (["net.nc", "ids.txt", "--recordings", FILES[0]], "got 'net.nc', 'ids.txt'"),
        (["net.nc", FILES[0], FILES[0]], "some are the same"),
        (["net.nc", "net.nc", "--stimuli", "ids.txt"], "holds its own stimulus ids: leave out"),
        (["net.nc"], "Give two files or more"),
        (["net.nc", "--recordings", *FILES], "with --stimuli FILE"),
    ],
)
def test_what_cannot_be_found(subjects, capsys, given, said):
    assert main(["align", *given, *QUICK, "--out", "out"]) == 2
    message = capsys.readouterr().err
    assert said in message
    assert message.count("\n") == 1
    assert not Path("out").exists()


def test_names_of_subjects():
    def names(*texts):
        return subject_names([Path(text) for text in texts])

    assert names("sub-01/ses-1/a.mat", "sub-02/ses-1/a.mat") == ["sub-01", "sub-02"]
    assert names("x/sub-A_task-b.nii", "x/sub-B_task-b.nii") == ["sub-A", "sub-B"]
    assert names("ann.mat", "bob.mat") == ["ann", "bob"]
    assert names("ann/b.mat", "bob/b.mat") == ["ann", "bob"]
    assert names("ann/x/b.mat", "bob/x/b.mat") == ["ann/x/b.mat", "bob/x/b.mat"]
    with pytest.raises(DataError, match=r"Several files are of one subject: .*run-1"):
        names("sub-01_run-1.mat", "sub-01_run-2.mat", "sub-02_run-1.mat")
    assert common_name([Path("sub-01_betas.mat"), Path("sub-02_betas.mat")]) == "betas"
    assert common_name([Path("ann.mat"), Path("bob.mat")]) == "recordings"


def test_globs_sort_numbers_by_value(tmp_path):
    for i in (10, 9, 1):
        (tmp_path / f"s{i}.npy").touch()
    found = found_files([tmp_path / "s*.npy"])
    assert [path.name for path in found] == ["s1.npy", "s9.npy", "s10.npy"]
    odd = tmp_path / "a[1].npy"
    odd.touch()
    assert found_files([odd]) == [odd]  # the name of a file, not a glob
    with pytest.raises(FileMissingError, match="No file matches"):
        found_files([tmp_path / "x?.npy"])


def test_a_bad_model_is_refused_before_data_are_fetched(here, capsys, monkeypatch):
    def fetched(*_arguments, **_options):
        raise AssertionError("data were fetched")

    monkeypatch.setattr("softrsa.datasets.load", fetched)
    command = ["align", "--dataset", "kriegeskorte92", "--out", "out"]
    assert main([*command, "--model", "efficientnet-lite9"]) == 2
    assert "Did you mean 'efficientnet-lite0'" in capsys.readouterr().err
    extract = ["extract", "--dataset", "kriegeskorte92", "--list-layers", "--model"]
    assert main([*extract, "timmy:resnet18"]) == 2
    assert "Unknown model 'timmy:resnet18'" in capsys.readouterr().err
    text = NamedModel(torch.nn.Identity(), str, {}, "sentences")
    monkeypatch.setattr("softrsa.cli.align.load_model", lambda *_a, **_o: text)
    assert main([*command, "--model", "all-minilm-l6-v2"]) == 2
    assert "takes sentences, and data sets have images" in capsys.readouterr().err
