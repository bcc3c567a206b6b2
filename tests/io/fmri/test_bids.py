"""Tables of what lies in BIDS folders."""

import pytest

from softrsa.errors import DataError, FileMissingError
from softrsa.io import bids_table


@pytest.fixture
def root(tmp_path):
    raw, derivatives = tmp_path / "raw", tmp_path / "raw" / "derivatives" / "fmriprep"
    for subject in ("01", "02"):
        own, made = (top / f"sub-{subject}" / "func" for top in (raw, derivatives))
        own.mkdir(parents=True)
        made.mkdir(parents=True)
        for run in ("1", "2", "10"):
            stem = f"sub-{subject}_task-faces_run-{run}"
            (own / f"{stem}_bold.nii.gz").touch()
            (own / f"{stem}_events.tsv").touch()
            (made / f"{stem}_space-T1w_desc-preproc_bold.nii.gz").touch()
            (made / f"{stem}_space-T1w_desc-brain_mask.nii.gz").touch()
            (made / f"{stem}_space-T1w_boldref.nii.gz").touch()
            if run != "2":
                (made / f"{stem}_desc-confounds_timeseries.tsv").touch()
    return derivatives


def test_rows_are_images_with_what_belongs_to_them(root):
    table = bids_table(root, subject="02", space="T1w")
    assert table["run"].tolist() == ["1", "2", "10"]
    assert table["subject"].unique().tolist() == ["02"]
    assert all("desc-preproc" in path for path in table["image"])
    assert (
        table["mask"].iloc[0].endswith("sub-02_task-faces_run-1_space-T1w_desc-brain_mask.nii.gz")
    )
    assert table["events"].iloc[2].endswith("raw/sub-02/func/sub-02_task-faces_run-10_events.tsv")
    assert table["confounds"].isna().tolist() == [False, True, False]


def test_raw_data_and_events_of_a_task(root):
    raw = root.parents[1]
    assert len(bids_table(raw / "sub-01")) == 3
    for path in raw.rglob("*_events.tsv"):
        path.unlink()
    (raw / "task-faces_events.tsv").touch()
    assert bids_table(root)["events"].unique().tolist() == [str(raw / "task-faces_events.tsv")]


def test_what_is_not_there(root, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="No image has task 'words'; there are 'faces'"):
        bids_table(root, task="words")
    with pytest.raises(FileMissingError, match=r"holds no file whose name ends in _bold\.nii\.gz"):
        bids_table(tmp_path / "empty")
    with pytest.raises(FileMissingError, match="There is no folder"):
        bids_table(tmp_path / "nowhere")
