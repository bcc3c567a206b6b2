"""`softrsa searchlight`: from images and tables of events to maps."""

import json

import nibabel
import numpy as np
import pandas as pd
import pytest
import xarray as xr

import softrsa
from softrsa.cli import main
from softrsa.inference import SearchlightResult, searchlight_maps
from softrsa.io import from_nifti

SHAPE, N, AFFINE = (5, 4, 2), 8, np.diag([3.0, 3.0, 3.0, 1.0])
IDS = [f"image_{i}" for i in range(N)]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    latent = rng.normal(size=(N, 4))
    for subject in ("01", "02", "03", "04", "05", "06"):
        signal = latent @ rng.normal(size=(4, 40))
        for run in ("1", "2"):
            values = signal + rng.normal(size=signal.shape)
            image = nibabel.Nifti1Image(values.T.reshape(*SHAPE, N).astype("float32"), AFFINE)
            nibabel.save(image, f"sub-{subject}_run-{run}_betas.nii.gz")
            order = rng.permutation(N) if run == "2" else np.arange(N)
            table = pd.DataFrame({"trial_type": np.array(IDS)[order]})
            table.to_csv(f"sub-{subject}_run-{run}_events.tsv", sep="\t", index=False)
            image = nibabel.Nifti1Image(np.asarray(image.dataobj)[..., order], AFFINE)
            nibabel.save(image, f"sub-{subject}_run-{run}_betas.nii.gz")
    inside = (np.arange(40) < 30).reshape(SHAPE).astype("int8")
    nibabel.save(nibabel.Nifti1Image(inside, AFFINE), "mask.nii.gz")
    layers = np.concatenate([latent @ rng.normal(size=(4, 20)), rng.normal(size=(N, 20))], axis=1)
    coords = {"stimulus": IDS, "layer": ("unit", ["late"] * 20 + ["noise"] * 20)}
    xr.DataArray(layers, coords, ("stimulus", "unit")).to_netcdf("layers.nc")
    return tmp_path


def images(*subjects):
    return [f"sub-{one}_run-{run}_betas.nii.gz" for one in subjects for run in (1, 2)]


EVENTS = ["--events", "sub-{subject}_run-{run}_events.tsv"]
BASE = ["--radius", "4.5", "--mask", "mask.nii.gz", "--out", "out", "--quiet"]


def test_one_subject_is_as_in_python(here):
    given = ["searchlight", "layers.nc", *images("01"), *EVENTS, *BASE]
    assert main([*given, "--permutations", "99", "--method", "crossnobis"]) == 0
    result = SearchlightResult.from_netcdf(here / "out" / "result.nc")
    trials = from_nifti(
        [*here.glob("sub-01_run-1_betas*"), *here.glob("sub-01_run-2_betas*")],
        events=[*here.glob("sub-01_run-1_ev*"), *here.glob("sub-01_run-2_ev*")],
        mask=here / "mask.nii.gz",
    )  # fmt: skip
    layers = xr.load_dataarray(here / "layers.nc")
    wanted = searchlight_maps(
        layers, trials, radius=4.5, n_permutations=99, method="crossnobis", progress=False
    )
    np.testing.assert_allclose(result.data["score"], wanted.data["score"].values, atol=1e-10)
    np.testing.assert_array_equal(result.data["p_corrected"], wanted.data["p_corrected"])
    peaks = pd.read_csv(here / "out" / "peaks.csv")
    assert peaks["layer"].tolist() == ["late", "noise"]
    assert peaks["n_centers"].tolist() == [30, 30]
    assert {path.name for path in (here / "out" / "maps").iterdir()} == {
        "late_score.nii.gz", "late_1-p.nii.gz", "noise_score.nii.gz", "noise_1-p.nii.gz",
    }  # fmt: skip
    assert (here / "out" / "maps.png").stat().st_size > 10_000
    assert result.data.attrs["command"].startswith("softrsa searchlight layers.nc sub-01")


def test_several_subjects_are_tested(here, capsys):
    subjects = ("01", "02", "03", "04", "05", "06")
    given = ["searchlight", "layers.nc", *images(*subjects), *EVENTS, *BASE, "--json"]
    assert main([*given, "--layers", "late", "--overwrite"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["n_subjects"] == 6
    assert row["n_significant"] > 5
    assert row["p_corrected"] <= 2 / 64 + 1e-9


def test_tables_one_by_one_must_be_of_their_images(here, capsys):
    tables = ["sub-01_run-2_events.tsv", "sub-01_run-1_events.tsv"]
    given = ["searchlight", "layers.nc", *images("01"), *BASE, "--events"]
    assert main([*given, *tables[::-1]]) == 0
    assert main([*given, *tables]) == 2
    assert "sub-01_run-2_events.tsv and sub-01_run-1_betas.nii.gz differ in 'run'" in (
        capsys.readouterr().err
    )


ERRORS = {
    "no ids": ([], "no stimulus ids: give --stimuli, an id for each volume, or --events."),
    "pattern": (["--events", "{space}.tsv"], "asks for 'space', which the name of sub-01_run-1"),
    "missing": (["--events", "sub-{subject}_ev.tsv"], "There is no file sub-01_ev.tsv, which"),
    "number": (["--events", "mask.nii.gz", "a", "b"], "one for each of 2 images, got 3"),
    "masks": ([*EVENTS, "--mask", "a.nii", "b.nii"], "one for each region as NAME=FILE"),
    "ids": (["--stimuli", "a,b"], "an id for each of 16 volumes (8, 8 in 2 images), got 2"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_mistakes_are_one_line(case, here, capsys):
    options, message = ERRORS[case]
    assert main(["searchlight", "layers.nc", *images("01"), *BASE, *options]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert not (here / "out").exists()


def test_options_of_images_are_refused_of_other_files(here, capsys):
    trials = from_nifti(here / images("01")[0], stimuli=IDS)
    trials.to_netcdf("sub-01.nc")
    given = ["searchlight", "layers.nc", "sub-01.nc", "--radius", "4.5", "--out", "out", "--quiet"]
    assert main(given) == 0
    assert main([*given, "--overwrite", "--atlas", "mask.nii.gz"]) == 2
    assert "--atlas is about images (NIfTI, GIFTI), and there are none" in capsys.readouterr().err
    assert main(["searchlight", "layers.nc", "--out", "out"]) == 2
    assert "and then images of the brain" in capsys.readouterr().err


def test_ids_of_volumes_are_given_by_hand(here):
    (here / "ids.txt").write_text("\n".join(IDS))
    given = ["searchlight", "layers.nc", images("01")[0], *BASE, "--stimuli"]
    assert main([*given, "ids.txt"]) == 0
    assert main([*given, ",".join(IDS), "--overwrite"]) == 0


@pytest.mark.parametrize("distance", [None, "crossnobis"])
def test_align_takes_images_with_regions_of_each_subject(distance, here, capsys):
    halves = {"low": np.arange(40) < 20, "high": np.arange(40) >= 20}
    for name, inside in halves.items():
        part = nibabel.Nifti1Image(inside.reshape(SHAPE).astype("int8"), AFFINE)
        nibabel.save(part, f"{name}.nii.gz")
    masks = ["--mask", *(f"{name}={name}.nii.gz" for name in halves)]
    given = ["align", "layers.nc", *images("01", "02", "03"), *EVENTS, *masks, "--quiet"]
    how = ["--transform", "identity", "--folds", "none", "--resamples", "0", "--out", "out"]
    extra = [] if distance is None else ["--distance", distance]
    assert main([*given, *how, *extra]) == 0
    table = pd.read_csv(here / "out" / "scores.csv").set_index(["layer", "region"])
    assert table["n_subjects"].tolist() == [3] * 4
    stacks = []
    for one in ("01", "02", "03"):
        trials = from_nifti(
            [here / name for name in images(one)],
            events=[f"sub-{one}_run-{run}_events.tsv" for run in (1, 2)],
            mask={name: f"{name}.nii.gz" for name in halves},
        )
        stacks.append(
            softrsa.rsm.build_rsms(softrsa.recordings.average_trials(trials), by="region")
            if distance is None
            else softrsa.rsm.build_rdms(trials, fold="run", by="region")
        )
    wanted = softrsa.align(
        xr.load_dataarray(here / "layers.nc"), xr.concat(stacks, "subject"),
        transforms=["identity"], folds=None, n_resamples=0, progress=False,
    ).table.set_index(["layer", "region"])  # fmt: skip
    for at in table.index:
        assert table.loc[at, "score"] == pytest.approx(wanted.loc[at, "score"], abs=1e-6)


def test_distances_are_of_trials(here, capsys):
    layers = xr.load_dataarray(here / "layers.nc").drop_vars("layer")
    layers.to_netcdf("means.nc")
    given = ["align", "layers.nc", "means.nc", "--distance", "crossnobis", "--out", "out"]
    assert main(given) == 2
    assert "makes RDMs of single trials, and means has stimulus x unit" in capsys.readouterr().err
