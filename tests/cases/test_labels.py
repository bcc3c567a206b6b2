"""Labels: kept, in their order and type; ids that differ in spelling only; frames; plain tables."""

from __future__ import annotations

import os

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy.stats import pearsonr

import softrsa
from softrsa import io
from softrsa.cli import main
from softrsa.errors import DTypeError, StimulusError
from softrsa.recordings import join_stimuli
from softrsa.rsm import build_rdms, build_rsms

RNG = np.random.default_rng(0)
N = 12
X = RNG.normal(size=(N, 6))
Y = X + RNG.normal(size=(N, 6))


def recording(values, ids, **coords):
    """Label values."""
    return xr.DataArray(values, dims=("stimulus", "unit"), coords={"stimulus": ids, **coords})


def test_rsms_keep_integers_categories_and_attributes():
    array = recording(
        X, range(N), subject=("unit", [2, 2, 1, 1, 10, 10]), layer=("unit", [*"bbaabb"]),
        category=("stimulus", ["face", "house"] * 6),
    ).assign_attrs(study="x")  # fmt: skip
    rsms = build_rsms(array, by="subject", similarity="l2")
    assert rsms["subject"].values.tolist() == [2, 1, 10]
    np.testing.assert_allclose(
        rsms.sel(subject=1).values, build_rsms(array[:, 2:4], similarity="l2").values
    )
    assert rsms["category"].dims == ("anchor",)
    assert rsms.attrs["study"] == "x"
    assert build_rsms(array, by="layer", similarity="l2")["layer"].values.tolist() == ["b", "a"]


def test_rdms_of_trials_keep_them_too():
    trials = xr.DataArray(
        RNG.normal(size=(8, 4)),
        dims=("trial", "unit"),
        coords={
            "stimulus": ("trial", [*"abcd"] * 2),
            "run": ("trial", [1] * 4 + [2] * 4),
            "category": ("trial", [*"xxyy"] * 2),
            "subject": ("unit", [7, 7, 3, 3]),
        },
    )
    rdms = build_rdms(trials, by="subject", noise=None)
    assert rdms["subject"].values.tolist() == [7, 3]
    assert rdms["category"].values.tolist() == [*"xxyy"]


SPELLINGS = {
    "normal form": (["Caf\u00e9 1", "b"], ["Cafe\u0301 1", "b"]),
    "case": (["Face", "House"], ["face", "HOUSE"]),
    "white space": (["a face", "b"], [" a  face ", "b"]),
    "zero padding": (["im001", "im010"], ["im1", "im10"]),
    "extension": (["a.png", "b.png"], ["a", "b.jpg"]),
    "folder": (["a", "b"], ["stimuli/a", "C:\\data\\b"]),
    "numbers": ([1, 2], ["001.png", "002.png"]),
}


@pytest.mark.parametrize("ids", SPELLINGS.values(), ids=SPELLINGS)
def test_ids_that_differ_in_spelling_are_counted_and_matched_when_asked(ids):
    a, b = recording(X[:2], ids[0]), recording(Y[:2], ids[1])[::-1]
    with pytest.raises(StimulusError, match=r"2 would be shared.*`ids=\"normalize\"`.*--ids"):
        join_stimuli(a, b)
    first, second = join_stimuli(a, b, ids="normalize")
    assert second["stimulus"].values.tolist() == first["stimulus"].values.tolist() == ids[0]
    np.testing.assert_array_equal(second, Y[:2])


def test_ids_that_would_become_the_same_are_refused():
    a = recording(X[:3], ["a.png", "a.jpg", "b"])
    with pytest.raises(StimulusError, match=r"first array apart: 'a.png', 'a.jpg'"):
        join_stimuli(a, recording(X[:3], ["a", "c", "b"]), ids="normalize")
    decimals = recording(X[:2], ["tone 1.5", "tone 1.05"])
    assert join_stimuli(decimals, decimals, ids="normalize")[0].identical(decimals)


def test_frames_are_labelled_data():
    ids = [f"s{i}" for i in range(N)]
    columns = pd.MultiIndex.from_arrays([[*"aaabbb"], range(6)], names=["layer", "unit"])
    layers = pd.DataFrame(X, index=ids, columns=columns)
    brain = pd.DataFrame(Y, index=ids, columns=[f"v{i}" for i in range(6)]).iloc[::-1]
    table = softrsa.align(
        layers, brain, transforms=["identity"], measure="pearson", folds=None, n_resamples=0
    ).table
    pairs = np.triu_indices(N, 1)
    of_brain = np.corrcoef(Y)[pairs]
    expected = [
        pearsonr(np.corrcoef(X[:, at])[pairs], of_brain).statistic
        for at in (slice(0, 3), slice(3, 6))
    ]
    assert table["layer"].tolist() == ["a", "b"]
    np.testing.assert_allclose(table["score"], expected)
    rdm = pd.DataFrame(1 - np.corrcoef(Y), index=ids, columns=ids)
    again = softrsa.align(
        layers, rdm, transforms=["identity"], measure="pearson", folds=None, n_resamples=0
    ).table
    np.testing.assert_allclose(again["score"], expected)
    with pytest.raises(DTypeError, match=r"columns 'name' of .* hold no numbers"):
        softrsa.align(layers.droplevel(0, axis=1).assign(name="x"), brain)


def test_plain_tables_need_no_option(tmp_path, capsys):
    ids = pd.Index([f"s{i}" for i in range(N)], name="image")
    for name, values in (("conv1", X), ("IT", Y)):
        pd.DataFrame(values, index=ids, columns=[*"abcdef"]).to_csv(tmp_path / f"{name}.csv")
    files = [str(tmp_path / "conv1.csv"), str(tmp_path / "IT.csv")]
    options = ["--transform", "identity", "--measure", "pearson", "--folds", "none"]
    assert main(["align", *files, "--out", str(tmp_path / "out"), *options]) == 0
    assert "conv1.csv: a table of text (CSV), 12 stimulus x 6 unit" in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "out" / "scores.csv")
    assert table[["layer", "region"]].values.tolist() == [["conv1", "IT"]]
    pairs = np.triu_indices(N, 1)
    expected = pearsonr(np.corrcoef(X)[pairs], np.corrcoef(Y)[pairs]).statistic
    assert table["score"].item() == pytest.approx(expected, abs=1e-9)


def test_reading_options_reach_the_file_they_name(tmp_path, capsys):
    rdm = 1 - np.corrcoef(Y)
    np.save(tmp_path / "brain.npy", np.stack([np.stack([rdm, 2 * rdm])] * 3))  # time, subject
    np.save(tmp_path / "model.npy", X)
    files = [str(tmp_path / "model.npy"), str(tmp_path / "brain.npy")]
    options = ["--transform", "identity", "--folds", "none", "--out", str(tmp_path / "out")]
    assert main(["align", *files, *options]) == 2
    assert "--stimuli numbered" in capsys.readouterr().err
    options += ["--stimuli", "numbered"]
    assert main(["align", *files, *options]) == 2
    assert "--dims time,subject,anchor,neighbor" in capsys.readouterr().err
    options += ["--dims", "recordings:time,subject,anchor,neighbor", "--region", "time"]
    assert main(["align", *files, *options]) == 0
    table = pd.read_csv(tmp_path / "out" / "scores.csv")
    assert table["n_subjects"].tolist() == [2, 2, 2]
    assert main(["align", *files, *options, "--halves", "upper", "--variable", "x"]) == 2
    assert "--variable has no meaning for any of the files" in capsys.readouterr().err


def test_layers_of_thingsvision_keep_the_order_they_were_written_in(tmp_path):
    names = ["conv1", "layer10", "layer2", "bn1", "fc"]
    for i, name in enumerate(names):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "features_0-2.npy", X[:2, :3] + i)
        os.utime(tmp_path / name / "features_0-2.npy", ns=(i * 10**9, i * 10**9))
    (tmp_path / "file_names.txt").write_text("a.png\nb.png\n")
    found = io.load(tmp_path)
    assert list(dict.fromkeys(found["layer"].values.tolist())) == names
    for name in names:  # a copy may have one time for all: numbers by value then
        os.utime(tmp_path / name / "features_0-2.npy", ns=(0, 0))
    order = list(dict.fromkeys(io.load(tmp_path)["layer"].values.tolist()))
    assert order.index("layer2") < order.index("layer10")
