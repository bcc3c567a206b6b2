"""Betas of GLMsingle, in the layouts that its two versions write."""

import h5py
import nibabel
import numpy as np
import pytest

import softrsa
from softrsa.errors import DataError, FileFormatError, FileMissingError, ShapeError, StimulusError
from softrsa.io import from_glmsingle

SHAPE = (4, 3, 2)
ORDER = [1, 0, 2, 0, 2, 1]  # conditions of trials, from 0
BEST = "TYPED_FITHRF_GLMDENOISE_RR"


@pytest.fixture
def betas():
    return np.random.default_rng(0).normal(size=(*SHAPE, 6)).astype(np.float32)


@pytest.fixture
def like():
    return nibabel.Nifti1Image(np.ones((*SHAPE, 9), np.float32), np.diag([2.0, 2, 2, 1]))


def write(path, *, matlab, **arrays):
    """HDF5 as h5py writes it; or as MATLAB does, axes reversed behind a header of 512 bytes."""
    with h5py.File(path, "w", userblock_size=512 if matlab else 0) as file:
        for name, values in arrays.items():
            file[name] = np.asarray(values).T if matlab else values
    if matlab:
        with path.open("r+b") as file:
            file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64, Created on: Mon".ljust(128))
    return path


@pytest.mark.parametrize("matlab", [True, False])
def test_betas_and_design_of_both_versions(matlab, betas, like, tmp_path):
    ending, name = (".mat", "modelmd") if matlab else (".hdf5", "betasmd")
    order = np.array(ORDER) + 1 if matlab else np.array(ORDER)
    design = {"stimorder": order[None].astype(float), "numtrialrun": np.array([[2.0, 4.0]])}
    write(tmp_path / f"{BEST}{ending}", matlab=matlab, **{name: betas})
    write(tmp_path / f"DESIGNINFO{ending}", matlab=matlab, **design)
    trials = from_glmsingle(tmp_path, stimuli=["a", "b", "c"], like=like, subject="s1")
    assert trials["stimulus"].values.tolist() == ["b", "a", "c", "a", "c", "b"]
    assert trials["run"].values.tolist() == [1, 1, 2, 2, 2, 2]
    np.testing.assert_array_equal(trials, betas.reshape(-1, 6).T)
    assert trials["x"].values.max() == 6
    numbered = from_glmsingle(tmp_path / f"{BEST}{ending}", like=like)
    assert numbered["stimulus"].values.tolist() == [2, 1, 3, 1, 3, 2]
    with pytest.raises(StimulusError, match=r"names 2 conditions; the design .* has 3"):
        from_glmsingle(tmp_path, stimuli=["a", "b"], like=like)


def test_betas_without_places(betas, tmp_path):
    flat = betas.reshape(-1, 6).copy()
    flat[3] = np.nan
    path = write(tmp_path / "betas.hdf5", matlab=False, betasmd=flat)
    assert softrsa.io.recognize(path) == "betas of GLMsingle"
    trials = softrsa.load(path, stimuli=[*"abcabc"])
    np.testing.assert_array_equal(trials, np.delete(flat, 3, axis=0).T)
    assert trials.attrs["read_as"] == "1 voxel with NaN left out"
    np.savez(tmp_path / "betas.npz", betasmd=flat)
    again = from_glmsingle(tmp_path / "betas.npz", stimuli=[*"abcabc"], runs=[1, 1, 1, 2, 2, 2])
    np.testing.assert_array_equal(again, trials)


def test_what_is_missing_is_named(betas, like, tmp_path):
    path = write(tmp_path / "betas.hdf5", matlab=False, betasmd=betas)
    with pytest.raises(StimulusError, match=r"6 trials without ids: give `stimuli`.*got 2 ids"):
        from_glmsingle(path, stimuli=["a", "b"])
    with pytest.raises(DataError, match=r"`like=`.*\[4, 3, 2\] voxels"):
        from_glmsingle(path, stimuli=range(6))
    small = like.slicer[:2]
    with pytest.raises(ShapeError, match=r"\[4, 3, 2\] voxels, and .* 2 × 3 × 2 voxels of"):
        from_glmsingle(path, stimuli=range(6), like=small)
    with pytest.raises(FileMissingError, match=f"holds no {BEST}"):
        from_glmsingle(tmp_path)
    np.save(tmp_path / "own.npy", np.array({"betasmd": betas}), allow_pickle=True)
    with pytest.raises(FileFormatError, match=r"stored as a pickle.*wanthdf5"):
        from_glmsingle(tmp_path / "own.npy", stimuli=range(6))
    flat = write(tmp_path / "flat.hdf5", matlab=False, betasmd=betas.reshape(-1, 6))
    with pytest.raises(DataError, match="depends on the order they were put in"):
        from_glmsingle(flat, stimuli=range(6), mask=like)
