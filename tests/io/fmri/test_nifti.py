"""Images of fMRI, written by nibabel, against nibabel's and nilearn's own reading."""

import warnings

import nibabel
import numpy as np
import pandas as pd
import pytest
from nibabel.affines import apply_affine
from nilearn.glm.first_level import FirstLevelModel
from nilearn.maskers import NiftiMasker

import softrsa
from softrsa.errors import (
    DataError,
    DTypeError,
    FileFormatError,
    FileMissingError,
    ShapeError,
    StimulusError,
    UnknownNameError,
)
from softrsa.io import first_level, from_nifti, to_nifti
from softrsa.recordings import noise_precision, whiten_noise
from softrsa.rsm import build_rdms

AFFINE = np.array([[-2.5, 0.2, 0, 40], [0, 3, 0, -30], [0, 0, 3, 10], [0, 0, 0, 1.0]])
SHAPE = (5, 4, 3)
IDS = ["face", "house", "tool", "cat"]


def image(values, affine=AFFINE, t_r=None):
    """An image as nibabel makes it, in mm and s."""
    found = nibabel.Nifti1Image(values, affine)
    found.header.set_xyzt_units("mm", "sec")
    if t_r is not None:
        found.header.set_zooms((*found.header.get_zooms()[:3], t_r))
    return found


def betas(rng, n=4):
    return rng.normal(size=(*SHAPE, n)).astype(np.float32)


@pytest.fixture
def rng():
    return np.random.default_rng(3)


@pytest.fixture
def mask(rng):
    inside = rng.random(SHAPE) < 0.5
    inside[0, 0, 0] = True
    return inside


def saved(path, found):
    nibabel.save(found, path)
    return path


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".img"])
def test_betas_of_a_file_are_those_of_nilearns_masker(ending, rng, mask, tmp_path):
    values = betas(rng)
    path = saved(tmp_path / f"sub-07_run-2_betas{ending}", image(values))
    masked = saved(tmp_path / "mask.nii.gz", image(mask.astype(np.int8)))
    trials = from_nifti(path, mask=masked, stimuli=IDS)
    both = image(values)
    wanted = NiftiMasker(masked, standardize=None).fit().transform(both)
    np.testing.assert_allclose(trials.values, wanted, rtol=1e-6)
    assert trials["stimulus"].values.tolist() == IDS
    assert trials["run"].values.tolist() == ["2"] * 4
    assert {*trials["subject"].values} == {"07"}
    indices = np.argwhere(mask)
    np.testing.assert_array_equal(trials["unit"], np.ravel_multi_index(indices.T, SHAPE))
    places = np.stack([trials[axis].values for axis in "xyz"], axis=1)
    np.testing.assert_allclose(places, apply_affine(AFFINE, indices), atol=1e-6)
    assert trials["x"].attrs["units"] == "mm"


def test_load_reads_an_image_with_ids_and_says_what_it_took(rng, tmp_path):
    values = betas(rng)
    values[0, 0, 0] = np.nan
    values[1, 0, 0] = 3.0
    path = saved(tmp_path / "betas.nii.gz", image(values))
    assert softrsa.io.recognize(path) == "an image of fMRI (NIfTI)"
    found = softrsa.load(path, stimuli=IDS)
    assert found.sizes["unit"] == 58
    assert found.attrs["read_as"] == (
        "all 58 voxels that vary, as no mask was given; 1 voxel with NaN and 1 voxel that never "
        "change left out"
    )
    softrsa.io.save(found, tmp_path / "betas.nc")
    again = softrsa.load(tmp_path / "betas.nc")
    np.testing.assert_array_equal(again.values, found.values)
    written = to_nifti(again[0], fill=0.0)
    np.testing.assert_allclose(written.affine, AFFINE, atol=1e-6)


def test_one_image_for_each_stimulus(rng, tmp_path):
    values = betas(rng)
    own = {name: image(values[..., i]) for i, name in enumerate(IDS)}
    trials = from_nifti(own)
    assert trials["stimulus"].values.tolist() == IDS
    assert "run" not in trials.coords
    np.testing.assert_array_equal(trials.values, values.reshape(-1, 4).T)
    listed = from_nifti([*own.values()], stimuli=IDS)
    np.testing.assert_array_equal(listed.values, trials.values)
    table = pd.DataFrame({"trial_type": IDS})
    np.testing.assert_array_equal(from_nifti([*own.values()], events=table), trials)


def test_runs_are_images_and_ids_are_of_each(rng):
    runs = [image(betas(rng)) for _ in range(3)]
    trials = from_nifti(runs, stimuli=IDS)
    assert trials["run"].values.tolist() == [1] * 4 + [2] * 4 + [3] * 4
    assert trials["stimulus"].values.tolist() == IDS * 3
    other = from_nifti(runs, stimuli=range(12), runs=["a", "b", "c"])
    assert other["run"].values[[0, 4, 8]].tolist() == ["a", "b", "c"]
    assert other["stimulus"].values.tolist() == [*range(12)]
    tables = [pd.DataFrame({"trial_type": IDS[::-1], "onset": range(4), "duration": 1})] * 3
    named = from_nifti(runs, events=tables, volumes="betas")
    assert named["stimulus"].values.tolist() == IDS[::-1] * 3


def test_regions_by_masks_and_by_an_atlas_with_names(rng, mask, tmp_path):
    values = betas(rng)
    atlas = np.where(mask, 7, 0)
    atlas[:, :, 2] = np.where(atlas[:, :, 2] > 0, 3, 0)
    names = tmp_path / "dseg.tsv"
    names.write_text("index\tname\n3\tV1\n7\tIT\n9\tnot there\n")
    trials = from_nifti(
        image(values), atlas=image(atlas.astype(np.int16)), labels=names, stimuli=IDS
    )
    assert [*dict.fromkeys(trials["region"].values)] == ["V1", "IT"]
    np.testing.assert_array_equal(trials[:, trials["region"] == "V1"], values[atlas == 3].T)
    np.testing.assert_array_equal(trials[:, trials["region"] == "IT"], values[atlas == 7].T)
    masks = {"IT": image((atlas == 7).astype(np.int8)), "all": image(mask.astype(np.float32))}
    both = from_nifti(image(values), mask=masks, stimuli=IDS)
    assert both.sizes["unit"] == (atlas == 7).sum() + mask.sum()
    rdms = softrsa.rsm.build_rsms(softrsa.recordings.average_trials(both), by="region")
    np.testing.assert_allclose(rdms.sel(region="all"), np.corrcoef(values[mask].T), atol=1e-6)


def test_other_grids_are_refused_and_resampled_if_asked(rng, tmp_path):
    values, coarse = betas(rng), np.zeros((3, 3, 3), np.int8)
    coarse[1, 1, 1] = 1
    affine = np.diag([-6.0, 6, 6, 1])
    affine[:3, 3] = [40, -30, 10]
    given = image(coarse, affine)
    with pytest.raises(ShapeError, match=r"3 × 3 × 3 voxels of 6 × 6 × 6 mm.*5 × 4 × 3 voxels of "
                       r"2.5 × 3.007 × 3 mm.*`resample=True` \(`--resample`\)"):  # fmt: skip
        from_nifti(image(values), mask=given, stimuli=IDS)
    found = from_nifti(image(values), mask=given, stimuli=IDS, resample=True)
    places = np.stack([found[axis].values for axis in "xyz"], axis=1)
    assert (np.abs(places - apply_affine(affine, [1, 1, 1])) <= 3.01).all()
    with pytest.raises(ShapeError, match="All images must lie on one grid: image 2 has"):
        from_nifti([image(values), image(values, affine)], stimuli=IDS)


def series(rng, n=60, t_r=2.0):
    """Time series of four stimuli in two runs, with drifts, and their events."""
    runs, tables = [], []
    for _ in range(2):
        onsets = np.arange(8) * 14.0 + 4
        tables.append(pd.DataFrame({
            "onset": onsets, "duration": 4.0, "trial_type": rng.permutation(IDS * 2)
        }))  # fmt: skip
        values = 100 + rng.normal(size=(*SHAPE, n)).cumsum(-1)
        runs.append(image(values.astype(np.float32), t_r=t_r))
    return runs, tables


@pytest.mark.parametrize("noise", ["ar1", "ols"])
def test_betas_of_time_series_are_those_of_nilearns_model(noise, rng, mask):
    runs, tables = series(rng)
    masked = image(mask.astype(np.int8))
    found = first_level(runs, tables, mask=masked, noise=noise, hrf="spm", slice_time=0.5)
    for i, (run, table) in enumerate(zip(runs, tables, strict=True)):
        model = FirstLevelModel(
            t_r=2.0, slice_time_ref=0.5, hrf_model="spm", noise_model=noise, mask_img=masked,
            minimize_memory=False, signal_scaling=False,
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.fit(run, table)
        own = found.trials[found.trials["run"] == i + 1]
        for name in IDS:
            wanted = model.compute_contrast(name, output_type="effect_size").get_fdata()[mask]
            np.testing.assert_allclose(own[own["stimulus"] == name][0], wanted, rtol=1e-4)
        rank = np.linalg.matrix_rank(model.design_matrices_[0])
        assert found.dof / 2 == 60 - rank
    left = from_nifti(runs, events=tables, mask=masked)
    assert left.sizes["trial"] == 8
    white = whiten_noise(found.trials, noise_precision(found.residuals, dof=found.dof))
    assert build_rdms(white, fold="run", noise=None).shape == (4, 4)


def test_each_trial_has_a_beta_in_the_order_of_onsets(rng, mask):
    runs, tables = series(rng)
    shuffled = [table.sample(frac=1, random_state=0) for table in tables]
    found = first_level(runs, shuffled, mask=image(mask.astype(np.int8)), each="trial")
    wanted = np.concatenate([table["trial_type"] for table in tables])
    assert found.trials["stimulus"].values.tolist() == wanted.tolist()


def test_confounds_take_out_what_is_theirs(rng, tmp_path):
    runs, tables = series(rng)
    moved = rng.normal(size=60)
    table = pd.DataFrame({"trans_x": moved, "trans_y": rng.normal(size=60), "motion": np.nan})
    path = tmp_path / "task-a_run-1_desc-confounds_timeseries.tsv"
    table.to_csv(path, sep="\t", index=False, na_rep="n/a")
    shifted = [image((run.get_fdata() + 50 * moved).astype(np.float32), t_r=2.0) for run in runs]
    options = {"events": tables, "confounds": [path, table]}
    plain = from_nifti(runs, **options, confound_columns=["trans_?"])
    found = from_nifti(shifted, **options, confound_columns=["trans_?"])
    np.testing.assert_allclose(found, plain, atol=0.02 * float(plain.std()))
    assert not np.allclose(from_nifti(shifted, events=tables), plain, atol=1)
    with pytest.raises(DataError, match=r"table of 3 columns.*`confound_columns="):
        from_nifti(runs, **options)
    with pytest.raises(DataError, match=r"confounds 'motion' of image 1 have missing values"):
        from_nifti(runs, **options, confound_columns=["*"])
    with pytest.raises(UnknownNameError, match="rot_x"):
        from_nifti(runs, **options, confound_columns=["rot_x"])


def test_maps_go_back_to_the_grid_of_the_image(rng, mask, tmp_path):
    values = betas(rng)
    given = image(values)
    given.set_sform(AFFINE, 4)
    given.set_qform(np.diag([2.0, 2, 2, 1]), 1)
    path = saved(tmp_path / "betas.nii.gz", given)
    trials = from_nifti(path, mask=image(mask.astype(np.int8)), stimuli=IDS)
    to_nifti(trials.drop_vars("stimulus").rename(trial="map"), tmp_path / "out.nii.gz")
    again = nibabel.load(tmp_path / "out.nii.gz")
    np.testing.assert_array_equal(again.affine, AFFINE.astype(np.float32))
    assert int(again.header["sform_code"]) == 4
    np.testing.assert_array_equal(again.get_fdata()[mask], values[mask])
    assert np.isnan(again.get_fdata()[~mask]).all()
    like = to_nifti(trials[0].drop_attrs(), like=path, fill=0.0)
    np.testing.assert_array_equal(np.asarray(like.dataobj)[mask], values[..., 0][mask])
    assert int(like.header["sform_code"]) == 4


def test_damaged_and_missing_files(tmp_path, rng):
    path = saved(tmp_path / "betas.nii.gz", image(betas(rng)))
    with pytest.raises(FileMissingError, match=r"There is no file .*other\.nii"):
        from_nifti(tmp_path / "other.nii", stimuli=IDS)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(FileFormatError, match="damaged"):
        from_nifti(path, stimuli=IDS)


ERRORS = {
    "no ids": ({}, StimulusError, r"4 volumes, and an image holds no stimulus ids: give `stim"),
    "few ids": ({"stimuli": "abc"}, StimulusError, "row of ids, got the one string 'abc'"),
    "wrong": ({"stimuli": [1, 2, 3]}, StimulusError, r"each of 4 volumes \(4 in 1 image\), got 3"),
    "two ways": (
        {"events": pd.DataFrame({"trial_type": IDS, "onset": range(4), "duration": 1})},
        DataError, r'as many events as volumes \(4\).*`volumes="betas"` or `volumes="bold"`',
    ),
    "rows": (
        {"events": pd.DataFrame({"trial_type": IDS[:3]})}, DataError,
        r"have 3 rows, and the images 4 volumes",
    ),
    "column": (
        {"events": pd.DataFrame({"stim": IDS})}, UnknownNameError, "trial_type.*stim",
    ),
    "confounds": (
        {"stimuli": IDS, "confounds": pd.DataFrame({"x": range(4)})}, DataError,
        "`confounds` belong to a model of time series",
    ),
    "runs": ({"stimuli": IDS, "runs": [1, 2]}, DataError, "each of 1 image or of 4 volumes, got 2"),
    "kind": ({"stimuli": IDS, "events": pd.DataFrame({"trial_type": IDS}), "volumes": "beta"},
             UnknownNameError, "beta"),
    "time": (
        {"events": pd.DataFrame({"trial_type": ["a", "b"], "onset": [0, 1], "duration": 1})},
        DataError, r"no repetition time in s; give it with `t_r=`",
    ),
    "late": (
        {"events": pd.DataFrame({"trial_type": ["a"], "onset": [90], "duration": 1}), "t_r": 2.0},
        DataError, r"begin at 90 to 90 s, and the run lasts 8 s",
    ),
    "labels": ({"stimuli": IDS, "labels": {1: "V1"}}, DataError, "none is given"),
}  # fmt: skip


@pytest.mark.parametrize("case", ERRORS)
def test_errors_say_what_to_do(case, rng):
    options, kind, message = ERRORS[case]
    given = nibabel.Nifti1Image(betas(rng), AFFINE)
    given.header.set_xyzt_units("mm", "unknown")
    with pytest.raises(kind, match=message):
        from_nifti(given, **options)


def test_masks_and_atlases_that_are_none(rng, mask):
    given = image(betas(rng))
    three = image(np.where(mask, 2, 1).astype(np.int8))
    with pytest.raises(DataError, match=r"0 and one other value, got 1\.0, 2\.0.*`atlas`"):
        from_nifti(given, mask=three, stimuli=IDS)
    with pytest.raises(DataError, match="The mask is empty"):
        from_nifti(given, mask=image(np.zeros(SHAPE, np.int8)), stimuli=IDS)
    with pytest.raises(DataError, match=r"no name for the numbers 2 of the atlas"):
        from_nifti(given, atlas=three, labels={1: "V1"}, stimuli=IDS)
    with pytest.raises(DataError, match="whole numbers"):
        from_nifti(given, atlas=image(rng.random(SHAPE)), stimuli=IDS)
    with pytest.raises(DTypeError, match="must be a path or an image of nibabel, got float"):
        from_nifti(given, mask=0.5, stimuli=IDS)
    values = betas(rng)
    values[mask] = 1.0
    with pytest.raises(DataError, match="No voxel is left in 'V1': they are NaN or never change"):
        from_nifti(
            image(values),
            mask={"V1": image(mask.astype(np.int8)), "IT": image((~mask).astype(np.int8))},
            stimuli=IDS,
        )


def test_tables_of_other_runs_are_refused(rng, tmp_path):
    paths, tables = [], []
    for run in (1, 2):
        paths.append(saved(tmp_path / f"sub-1_run-{run}_betas.nii", image(betas(rng))))
        tables.append(tmp_path / f"sub-1_run-{run}_events.tsv")
        tables[-1].write_text("trial_type\n" + "\n".join(IDS))
    assert from_nifti(paths, events=tables).sizes["trial"] == 8
    message = "sub-1_run-2_events.tsv and sub-1_run-1_betas.nii differ in 'run'"
    with pytest.raises(DataError, match=message):
        from_nifti(paths, events=tables[::-1])
