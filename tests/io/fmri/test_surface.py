"""Surfaces: files that nibabel writes, read back and written."""

import nibabel
import numpy as np
import pytest

import softrsa
from softrsa.errors import DataError, FileFormatError, ShapeError
from softrsa.io import from_gifti, from_nifti, read_mesh, to_gifti

IDS = ["face", "house", "tool"]
GIFTI = nibabel.gifti
POINTS = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0.5]], np.float32)
FACES = np.array([[0, 1, 2], [0, 2, 3]], np.int32)


def saved(path, rows, **meta):
    """A row of numbers for each volume, in GIFTI."""
    kind = {"float32": "NIFTI_TYPE_FLOAT32", "int32": "NIFTI_TYPE_INT32"}
    arrays = [
        GIFTI.GiftiDataArray(row, "NIFTI_INTENT_NONE", kind[str(row.dtype)], meta=meta)
        for row in rows
    ]
    nibabel.save(GIFTI.GiftiImage(darrays=arrays), path)
    return path


def values(seed=0):
    return np.random.default_rng(seed).normal(size=(3, 4)).astype(np.float32)


def test_responses_of_both_hemispheres(tmp_path):
    left, right = values(0), values(1)
    left[1, 2] = np.nan
    files = [saved(tmp_path / f"sub-2_hemi-{side}_betas.func.gii", rows)
             for side, rows in (("L", left), ("R", right))]  # fmt: skip
    trials = from_gifti(files, stimuli=IDS)
    assert trials["unit"].values.tolist() == ["L0", "L1", "L3", "R0", "R1", "R2", "R3"]
    assert trials["vertex"].values.tolist() == [0, 1, 3, 0, 1, 2, 3]
    assert {*trials["subject"].values} == {"2"}
    np.testing.assert_array_equal(trials[:, :3], left[:, [0, 1, 3]])
    np.testing.assert_array_equal(trials[:, 3:], right)
    assert trials.attrs["voxels_left_out"] == 1
    named = from_gifti({"left": files[0], "right": files[1]}, stimuli=IDS)
    assert named.identical(trials)
    one = softrsa.load(files[1], stimuli=IDS)
    np.testing.assert_array_equal(one, right)
    written = to_gifti(trials.rename(trial="map"), tmp_path / "out.func.gii")
    assert [path.name for path in written] == ["out_hemi-L.func.gii", "out_hemi-R.func.gii"]
    again = nibabel.load(written[0])
    rows = np.stack([array.data for array in again.darrays])
    np.testing.assert_array_equal(rows, np.where(np.isnan(left).any(0), np.nan, left))
    assert again.meta["AnatomicalStructurePrimary"] == "CortexLeft"


def test_freesurfers_overlays_are_the_same(tmp_path):
    rows = values()
    path = tmp_path / "lh.betas.mgz"
    nibabel.save(nibabel.MGHImage(rows.T[:, None, None], np.eye(4)), path)
    np.testing.assert_array_equal(from_gifti(path, stimuli=IDS), rows)
    with pytest.raises(DataError, match=r"numbers of 4 vertices: read it with `softrsa.io.from_g"):
        from_nifti(path, stimuli=IDS)


def test_regions_have_the_names_of_the_label_file(tmp_path):
    path = saved(tmp_path / "lh.betas.func.gii", values())
    table = GIFTI.GiftiLabelTable()
    for key, name in ((0, "???"), (4, "V1"), (9, "V2")):
        label = GIFTI.GiftiLabel(key)
        label.label = name
        table.labels.append(label)
    array = GIFTI.GiftiDataArray(
        np.array([9, 0, 4, 9], np.int32), "NIFTI_INTENT_LABEL", "NIFTI_TYPE_INT32"
    )
    atlas = tmp_path / "lh.atlas.label.gii"
    nibabel.save(GIFTI.GiftiImage(darrays=[array], labeltable=table), atlas)
    trials = from_gifti(path, atlas=atlas, stimuli=IDS)
    assert trials["region"].values.tolist() == ["V1", "V2", "V2"]
    np.testing.assert_array_equal(trials, values()[:, [2, 0, 3]])


def test_time_series_have_betas_by_their_events(tmp_path):
    rng = np.random.default_rng(0)
    path = saved(
        tmp_path / "hemi-L_bold.func.gii",
        rng.normal(size=(60, 4)).astype(np.float32), TimeStep="2000.0",
    )  # fmt: skip
    events = tmp_path / "events.tsv"
    events.write_text("onset\tduration\ttrial_type\n6\t4\tface\n40\t4\thouse\n70\t4\tface\n")
    with pytest.raises(DataError, match=r"no repetition time in s; give it with `t_r=`"):
        from_gifti(path, events=events)
    found = from_gifti(path, events=events, t_r=2.0)
    assert found["stimulus"].values.tolist() == ["face", "house"]


@pytest.mark.parametrize("kind", ["gifti", "freesurfer"])
def test_meshes(kind, tmp_path):
    path = tmp_path / ("lh.white" if kind == "freesurfer" else "lh.surf.gii")
    if kind == "freesurfer":
        nibabel.freesurfer.write_geometry(path, POINTS, FACES)
    else:
        arrays = [
            GIFTI.GiftiDataArray(POINTS, "NIFTI_INTENT_POINTSET", "NIFTI_TYPE_FLOAT32"),
            GIFTI.GiftiDataArray(FACES, "NIFTI_INTENT_TRIANGLE", "NIFTI_TYPE_INT32"),
        ]
        nibabel.save(GIFTI.GiftiImage(darrays=arrays), path)
    mesh = read_mesh(path)
    np.testing.assert_array_equal(mesh.coordinates, POINTS)
    np.testing.assert_array_equal(mesh.faces, FACES)


def test_what_cannot_be_told_is_refused(tmp_path):
    path = saved(tmp_path / "betas.func.gii", values())
    with pytest.raises(DataError, match=r"Which hemisphere .*betas.func.gii is of is not in its "):
        from_gifti(path, stimuli=IDS)
    with pytest.raises(DataError, match="'left' and 'right', got 'lh'"):
        from_gifti({"lh": path}, stimuli=IDS)
    with pytest.raises(FileFormatError, match="holds no mesh, but numbers of vertices"):
        read_mesh(path)
    text = tmp_path / "lh.white"
    text.write_text("not a mesh")
    with pytest.raises(FileFormatError, match=r"cannot be read as a mesh"):
        read_mesh(text)
    other = saved(tmp_path / "mask.gii", [np.ones(5, np.float32)])
    with pytest.raises(ShapeError, match="has 5 vertices; the images have 4 vertices"):
        from_gifti(path, hemisphere="left", mask=other, stimuli=IDS)
    trials = from_gifti(path, hemisphere="left", stimuli=IDS)
    with pytest.raises(DataError, match="lost how many vertices there are"):
        to_gifti(trials[0].drop_attrs(), tmp_path / "out.gii")
    volume = nibabel.Nifti1Image(np.ones((2, 2, 2, 3), np.float32), np.eye(4))
    nibabel.save(volume, tmp_path / "lh.nii")
    with pytest.raises(DataError, match=r"is a volume, 2 × 2 × 2 voxels"):
        from_gifti(tmp_path / "lh.nii", stimuli=IDS)
