"""`softrsa datasets`: what it writes, and when it fails."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from softrsa import datasets
from softrsa.cli import main


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Give an empty folder of data and an empty cache."""
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("SOFTRSA_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("SOFTRSA_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SOFTRSA_MIRROR", raising=False)
    return tmp_path / "data"


@pytest.fixture
def copied(here, data_dir):
    """Put one data set there."""
    (here / "macaque_v4").mkdir()
    for name in ("responses_avg_201025.npy", "images_201025.zip"):
        shutil.copyfile(data_dir / "macaque_v4" / name, here / "macaque_v4" / name)
    return here / "macaque_v4"


def test_list_has_a_row_per_data_set(copied, capsys):
    assert main(["datasets", "list"]) == 0
    *lines, empty, last = capsys.readouterr().out.splitlines()
    assert (empty, last) == ("", "`softrsa datasets show NAME` has the licence in full.")
    assert lines[0].split() == ["name", "kind", "here", "shapes", "licence"]
    assert [line.split()[0] for line in lines[1:]] == datasets.available()
    rows = {line.split()[0]: line for line in lines[1:]}
    assert rows["macaque-v4"].split()[1:3] == ["recordings", "here"]
    assert "not here" in rows["kriegeskorte92"]
    assert rows["simulated"].endswith("  MIT")
    assert rows["emobank"].endswith("  CC BY-SA 4.0")
    assert all(0 < len(datasets.card(name).terms) <= 24 for name in rows)
    assert max(map(len, lines)) < 130


def test_list_says_when_a_part_is_missing(copied, capsys):
    (copied / "images_201025.zip").unlink()
    main(["datasets", "list", "--json"])
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["macaque-v4"]["here"] == "partly"
    assert rows["macaque-v4"]["licence"] == datasets.card("macaque-v4").licence
    main(["datasets", "list", "--quiet"])
    assert capsys.readouterr().out.split() == datasets.available()


def test_show_has_all_there_is_to_know(here, capsys):
    assert main(["datasets", "show", "kriegeskorte92"]) == 0
    shown = capsys.readouterr().out
    card = datasets.card("kriegeskorte92")
    for text in (card.citation, card.licence, card.source, card.shapes, card.preprocessing):
        assert " ".join(text.split()) in " ".join(shown.split())
    assert "@article{kriegeskorte2008matching," in shown
    assert all(file.sha256 in shown for file in card.files)
    assert "Files (not here)" in shown
    main(["datasets", "show", "kriegeskorte92", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (found["title"], found["files"][0]["sha256"]) == (card.title, card.files[0].sha256)


def test_show_of_data_put_there_by_hand_says_what_and_how(here, capsys):
    main(["datasets", "show", "nsd"])
    shown = capsys.readouterr().out
    assert "nsddata/experiments/nsd/nsd_expdesign.mat: the design" in shown
    assert "Fill in the form" in shown


def test_unknown_names_offer_the_nearest(here, capsys):
    assert main(["datasets", "show", "macaque"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "Unknown dataset 'macaque'. Did you mean 'macaque-v4'?" in error


def test_fetch_says_where_files_are(copied, capsys):
    assert main(["datasets", "fetch", "macaque-v4", "simulated"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"macaque-v4: 2 files in {copied}"
    assert second.startswith("simulated: 3 files in ")
    main(["datasets", "fetch", "macaque-v4", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["macaque-v4"]["images_201025.zip"] == str(copied / "images_201025.zip")
    main(["datasets", "fetch", "macaque-v4", "--quiet"])
    assert capsys.readouterr() == ("", "")


def test_fetch_of_what_has_to_be_asked_for(here, capsys):
    assert main(["datasets", "fetch", "majaj-hong2015"]) == 2
    error = capsys.readouterr().err
    assert f"{here}/majaj-hong2015/assy_dicarlo_MajajHong2015_public.nc (BrainIO" in error
    assert "How: No registration" in error
    assert main(["datasets", "fetch", "algonauts2019-78"]) == 2
    assert "78_T1_target_fmri.mat has to be put in place by hand" in capsys.readouterr().err


def test_fetch_from_a_mirror(here, data_dir, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("SOFTRSA_MIRROR", str(data_dir))
    assert main(["datasets", "fetch", "algonauts2019-92", "--quiet"]) == 0
    assert (tmp_path / "cache/datasets/algonauts2019/92_target_fmri.mat").is_file()
    assert main(["datasets", "verify", "algonauts2019-92"]) == 0
    assert capsys.readouterr().out.count("\nok ") == 3


def test_verify_names_what_is_corrupt(copied, capsys):
    assert main(["datasets", "verify", "macaque-v4"]) == 0
    assert capsys.readouterr().out.count("\nok ") == 2
    with (copied / "images_201025.zip").open("ab") as file:
        file.write(b"more")
    assert main(["datasets", "verify", "macaque-v4"]) == 2
    out, error = capsys.readouterr()
    assert "corrupt  macaque-v4  macaque_v4/images_201025.zip" in out
    assert f"1 file is corrupt: '{copied}/images_201025.zip'. Delete" in error
    assert main(["datasets", "verify", "macaque-v4", "--json"]) == 2
    rows = json.loads(capsys.readouterr().out)
    assert [row["status"] for row in rows] == ["corrupt", "ok"]
    assert main(["datasets", "verify", "macaque-v4", "--quiet"]) == 2
    assert capsys.readouterr().out == ""


def test_verify_of_all_counts_missing_files_as_no_mistake(here, capsys):
    (here / "books").mkdir()
    (here / "books" / "books.csv").touch()
    assert main(["datasets", "verify", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    status = {(row["dataset"], row["file"]): row["status"] for row in rows}
    assert status["simulated", "activations.nc"] == "ok"
    assert status["books", "books.csv"] == "unchecked"
    assert status["nsd", "nsddata/experiments/nsd/nsd_expdesign.mat"] == "missing"
    assert {row["dataset"] for row in rows} == {*datasets.available()}


def test_verify_of_all_has_a_line_per_data_set(copied, capsys):
    assert main(["datasets", "verify"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split(maxsplit=2) for line in lines[1:]]
    files = [file.path for file in datasets.card("algonauts2019-78").files]
    first = f"{len(files)} of {len(files)} files, first {files[0]}"
    assert ["missing", "algonauts2019-78", first] in rows
    assert ["ok", "simulated", "3 of 3 files, first activations.nc"] in rows
    assert len({row[1] for row in rows}) == len(rows) == len(datasets.available())
    assert main(["datasets", "verify", "algonauts2019-78"]) == 0
    assert capsys.readouterr().out.count("\nmissing") == len(files)
    with (copied / "images_201025.zip").open("ab") as file:
        file.write(b"more")
    assert main(["datasets", "verify"]) == 2
    lines = [line for line in capsys.readouterr().out.splitlines() if "macaque-v4" in line]
    assert [line.split(maxsplit=2)[::2] for line in lines] == [
        ["corrupt", "macaque_v4/images_201025.zip"],
        ["ok", "macaque_v4/responses_avg_201025.npy"],
    ]


@pytest.mark.parametrize("command", [[], ["list"], ["show"], ["fetch"], ["verify"]])
def test_help_has_a_worked_example(command, capsys):
    with pytest.raises(SystemExit):
        main(["datasets", *command, "--help"])
    assert "softrsa datasets fetch kriegeskorte92" in capsys.readouterr().out


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has this device")
def test_stdout_that_cannot_be_written_to_is_one_line():
    command = [sys.executable, "-m", "softrsa.cli", "datasets", "list"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(  # noqa: S603
            command, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("softrsa: error: ")
