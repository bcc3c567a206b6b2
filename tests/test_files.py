import errno
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import xarray as xr

from softrsa import _files
from softrsa._files import (
    OutputError,
    atomic_path,
    cache_folder,
    locked,
    read_result,
    write_result,
)
from softrsa.errors import FileFormatError, FileMissingError, SoftRSAError


def test_file_appears_whole_at_the_end(tmp_path):
    target = tmp_path / "a" / "b" / "scores.csv"
    with atomic_path(target) as temporary:
        assert (temporary.parent, temporary.suffix) == (target.parent, ".csv")
        temporary.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_failure_keeps_the_old_file_and_leaves_nothing_else(tmp_path, error):
    target = tmp_path / "scores.csv"
    target.write_text("old")

    def write_half():
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        write_half()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_result_has_the_permissions_of_any_new_file(tmp_path):
    (tmp_path / "plain").touch()
    with atomic_path(tmp_path / "result.nc"):
        pass
    assert (tmp_path / "result.nc").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_file_in_the_way_of_a_folder_is_named(tmp_path):
    (tmp_path / "results").write_text("")
    with (
        pytest.raises(OutputError, match=r"results/deep: .*/results is a file, not a folder"),
        atomic_path(tmp_path / "results" / "deep" / "scores.csv"),
    ):
        pass


def test_folder_in_the_place_of_the_file_is_named(tmp_path):
    with pytest.raises(OutputError, match=f"{tmp_path}: it is a folder"), atomic_path(tmp_path):
        pass


def test_folder_that_cannot_be_made_gives_the_systems_reason():
    """Nobody, not even root, makes folders in /proc."""
    with (
        pytest.raises(OutputError, match=r"Cannot write /proc/softrsa: .*No such file"),
        atomic_path("/proc/softrsa/scores.csv"),
    ):
        pass


def test_folder_that_cannot_be_written_to_gives_the_systems_reason():
    with (
        pytest.raises(OutputError, match=r"Cannot write /proc/self/scores.csv: "),
        atomic_path("/proc/self/scores.csv"),
    ):
        pass


def test_output_error_is_caught_as_softrsa_and_as_os_error():
    assert issubclass(OutputError, SoftRSAError)
    assert issubclass(OutputError, OSError)


def test_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("SOFTRSA_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("SOFTRSA_CACHE")
    assert cache_folder().name == "softrsa"


def test_results_come_back_and_others_are_refused(tmp_path):
    data = xr.Dataset({"score": ("layer", [0.5, np.nan])}, attrs={"softrsa_kind": "toy"})
    write_result(data, tmp_path / "new" / "toy.nc")
    xr.testing.assert_identical(read_result(tmp_path / "new" / "toy.nc", "toy", "toy"), data)
    (tmp_path / "new" / "toy.nc").unlink()  # closed
    with pytest.raises(FileMissingError, match=r"no file /.*toy\.nc"):
        read_result(tmp_path / "new" / "toy.nc", "toy", "toy")
    write_result(data.assign_attrs(own="toy"), tmp_path / "toy.nc")
    assert read_result(tmp_path / "toy.nc", "toy", "toy", attribute="own").sizes == {"layer": 2}
    with pytest.raises(FileFormatError, match=r"toy\.nc holds no result of play\. Recordings"):
        read_result(tmp_path / "toy.nc", "play", "result of play")
    (tmp_path / "toy.nc").write_text("no netCDF")
    with pytest.raises(FileFormatError, match=r"toy\.nc is not a readable netCDF file"):
        read_result(tmp_path / "toy.nc", "toy", "toy")


def test_what_killed_processes_left_is_deleted_and_nothing_else(tmp_path):
    process = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"],
                             capture_output=True, text=True, check=True)  # fmt: skip
    dead, here = int(process.stdout), _files._machine()
    left = tmp_path / f".scores-{here}-{dead}-0123abcd.csv"
    others = [
        tmp_path / name
        for name in (
            f".scores-{here}-{dead}-0123abcd.nc", ".scores-mine.csv", ".scores",
            f".scores-ffffff-{dead}-0123abcd.csv",  # of another machine that shares the disk
        )
    ]  # fmt: skip
    for path in (left, *others):
        path.touch()
    with atomic_path(tmp_path / "scores.csv"), atomic_path(tmp_path / "scores.csv") as living:
        assert living.exists()
        assert len(list(tmp_path.glob(f".scores-{here}-*.csv"))) == 2  # both of this process
    assert {*tmp_path.iterdir()} == {*others, tmp_path / "scores.csv"}


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space"), RuntimeError("HDF error")])
def test_a_full_disk_is_named(tmp_path, monkeypatch, error):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=0))
    with (
        pytest.raises(OutputError, match=r"Cannot write .*/a\.nc: the disk is full\. Choose"),
        atomic_path(tmp_path / "a.nc"),
    ):
        raise error
    with pytest.raises(OutputError, match="the disk is full"), atomic_path(tmp_path / "a.csv"):
        pass  # an empty file is what is left of a write that failed in silence
    assert not list(tmp_path.iterdir())


def test_a_lock_lets_one_in_and_leaves_nothing(tmp_path):
    target, count = tmp_path / "rows.csv", tmp_path / "count"
    count.write_text("0")

    def add(_):
        with locked(target):
            count.write_text(str(int(count.read_text()) + 1))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(200)))
    assert count.read_text() == "200"
    assert [path.name for path in tmp_path.iterdir()] == ["count"]
