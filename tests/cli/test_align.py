"""The command as users meet it: files in, five files out; a mistake is one line, exit code 2."""

import importlib
import json
import os
import re
import shlex
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from matplotlib.figure import Figure
from PIL import Image
from torch import nn

import softrsa.cli.align
from softrsa.activations import NamedModel, preprocess_image
from softrsa.alignment import AlignmentResult, FitSettings
from softrsa.alignment.align import RowOffsetWarning
from softrsa.cli import main
from softrsa.cli.align import FILES, LEARNED_FILES
from softrsa.cli.parser import COMMANDS, EXAMPLES, build_parser
from softrsa.errors import DTypeError
from softrsa.rsm import build_rsms

IDS = np.array([f"s{i:02}" for i in range(24)])
COLUMNS = [
    "layer", "region", "transform", "score", "score_se", "train_score", "rsa_score",
    "baseline_score", "row_offset_share", "ceiling_lower", "ceiling_upper", "chosen", "n_stimuli",
    *[f"{p}_{s}" for p in ("lower", "upper", "transition") for s in ("model", "brain")],
]  # fmt: skip
PLAIN = ("--transform", "identity", "--folds", "3", "--quiet")


@pytest.fixture(scope="module")
def layers():
    """Activations (24, 20) of two layers."""
    values = np.random.default_rng(1).standard_normal((24, 20))
    return xr.DataArray(
        values,
        dims=("stimulus", "unit"),
        coords={"stimulus": IDS, "layer": ("unit", ["conv"] * 10 + ["fc"] * 10)},
    )


@pytest.fixture(scope="module")
def brain(layers):
    """Recordings (24, 32) of two subjects: V4 is like conv, IT like fc."""
    noise = np.random.default_rng(2).standard_normal((24, 32))
    values = layers.values[:, [*range(8), *range(8), *range(10, 18), *range(10, 18)]] + noise
    return xr.DataArray(
        values,
        dims=("stimulus", "unit"),
        coords={
            "stimulus": IDS,
            "region": ("unit", ["V4"] * 16 + ["IT"] * 16),
            "subject": ("unit", (["ann"] * 8 + ["bob"] * 8) * 2),
        },
    )


def write(array, path):
    """Write any array, also one that `softrsa.io.save` would refuse."""
    array.to_dataset(name="data").to_netcdf(path, engine="netcdf4")
    return path


@pytest.fixture
def files(tmp_path, layers, brain):
    """Return the paths of LAYERS.nc and RECORDINGS.nc."""
    return write(layers, tmp_path / "LAYERS.nc"), write(brain, tmp_path / "RECORDINGS.nc")


@pytest.fixture
def command(tmp_path, capsys):
    """Return a function that runs `softrsa align` and gives the exit code, stdout and stderr."""

    def run(*arguments, out=tmp_path / "out"):
        try:
            code = main(["align", *map(str, arguments), "--out", str(out)])
        except SystemExit as stop:  # argparse
            code = stop.code
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def scores(command, tmp_path, monkeypatch):
    """Return a function that aligns, without the time figures take, and gives scores.csv."""
    for name in ("plot", "plot_transforms"):
        monkeypatch.setattr(AlignmentResult, name, lambda _self: Figure((1, 1)))

    def run(*arguments):
        code, _, errors = command(*arguments)
        assert code == 0, errors
        return pd.read_csv(tmp_path / "out" / "scores.csv")

    return run


@pytest.fixture
def refused(command, tmp_path):
    """Return a function that runs a mistake: one line, exit code 2 and nothing written."""

    def run(*arguments, **options):
        before = sorted(tmp_path.rglob("*"))
        code, shown, errors = command(*arguments, **options)
        assert code == 2
        assert shown == ""
        assert errors.startswith("softrsa: error: ")
        assert errors.count("\n") == 1
        assert errors.endswith("\n")
        assert sorted(tmp_path.rglob("*")) == before
        return errors

    return run


@pytest.fixture(scope="module")
def out(layers, brain, tmp_path_factory):
    """Align once, in a process of its own, with every kind of transform."""
    folder = tmp_path_factory.mktemp("whole")
    write(layers, folder / "LAYERS.nc")
    write(brain, folder / "RECORDINGS.nc")
    done = subprocess.run(  # noqa: S603
        [
            *(sys.executable, "-m", "softrsa.cli", "align", "LAYERS.nc", "RECORDINGS.nc"),
            *("--layers", "fc", "--regions", "IT", "--folds", "2", "--out", "results/here"),
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "IT: best layer fc (selected " in done.stdout
    assert f"Results are in {folder / 'results' / 'here'}" in done.stdout
    return folder / "results" / "here"


class TestWhatIsWritten:
    def test_five_files_and_no_others(self, out):
        assert sorted(path.name for path in out.iterdir()) == sorted([*FILES, *LEARNED_FILES])

    def test_table_has_a_row_per_transform_and_the_columns_promised(self, out):
        table = pd.read_csv(out / "scores.csv")
        assert [column for column in COLUMNS if column not in table.columns] == []
        names = ["identity", "centered", "geo_topological", "global", "instance"]
        names += ["reweighted", "metric", "encoding", "selected"]
        assert table["transform"].tolist() == names
        assert table["n_stimuli"].eq(24).all()
        learned = table[table["transform"].isin(["global", "instance"])]
        assert learned["upper_model"].gt(learned["lower_model"]).all()

    def test_result_reloads_with_the_same_table(self, out):
        result = AlignmentResult.from_netcdf(out / "result.nc")
        table = pd.read_csv(out / "scores.csv", keep_default_na=False, na_values=[""])
        pd.testing.assert_frame_equal(
            table.select_dtypes("number"),
            result.table[table.columns].select_dtypes("number"),
            check_dtype=False,
        )

    @pytest.mark.parametrize("name", ["alignment.png", *LEARNED_FILES])
    def test_figures_are_images(self, out, name):
        with Image.open(out / name) as image:
            image.load()
            assert image.format == "PNG"
            assert min(image.size) > 400


def test_a_score_of_one_is_questioned(command, files):
    code, _, errors = command(files[0], files[0], *PLAIN, "--region", "layer")
    assert code == 0
    assert "Some scores are 1: conv / conv, fc / fc. Do both sides hold the same data?" in errors


def test_demo_says_that_it_is_simulated(command, tmp_path):
    code, shown, errors = command("--demo", "--transform", "identity", "--folds", "3")
    assert code == 0
    assert not re.sub(r"\r[^\r]*", "", errors)  # nothing but a bar, where it takes over a second
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(FILES)
    assert shown.startswith("simulated: these data are simulated.\n")
    table = pd.read_csv(tmp_path / "out" / "scores.csv")
    best = table.loc[table.groupby("region")["score"].idxmax()]
    assert dict(zip(best["region"], best["layer"], strict=True)) == {
        "early": "layer1", "middle": "layer2", "late": "layer4",
    }  # fmt: skip


@pytest.mark.filterwarnings("ignore::softrsa.alignment.StimulusScaleWarning")
def test_sides_and_a_chain_of_a_learned_similarity(scores, command, files, layers, brain, tmp_path):
    options = ("--transform", "metric+global", "--folds", "3", "--resamples", "0", "--quiet")
    table = scores(*files, *options, "--sides", "model")
    expected = softrsa.align(
        layers, brain, transforms=["metric+global"], folds=3, n_resamples=0,
        settings=FitSettings(sides="model"),
    ).table  # fmt: skip
    shared = ["layer", "region", "transform", "score", "balanced_score", "sides"]
    pd.testing.assert_frame_equal(table[shared], expected[shared], rtol=1e-9)
    assert table["sides"].eq("model").all()
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {*FILES, *LEARNED_FILES}
    code, shown, errors = command(*files, *options, "--sides", "left")
    assert (code, shown) == (2, "")
    assert "--sides" in errors


def test_similarity_is_drawn_without_steps_and_said_to_be_missing(scores, files, tmp_path):
    scores(*files, "--transform", "metric", "--folds", "3", "--resamples", "0", "--quiet")
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {*FILES, "similarity.png", "gains.png"}


def test_same_as_python(scores, files, layers, brain):
    expected = softrsa.align(layers, brain, transforms=["identity"], folds=3).table
    pd.testing.assert_frame_equal(
        scores(*files, *PLAIN)[COLUMNS[:10]], expected[COLUMNS[:10]], rtol=1e-12
    )


def test_order_of_stimuli_does_not_matter(scores, files, brain, tmp_path):
    order = np.random.default_rng(3).permutation(24)
    shuffled = write(brain[order], tmp_path / "shuffled.nc")
    expected = scores(*files, *PLAIN)
    pd.testing.assert_frame_equal(scores(files[0], shuffled, *PLAIN), expected, rtol=1e-10)


def test_trials_are_averaged(scores, files, brain, tmp_path):
    trials = xr.concat([brain + 0.5, brain - 0.5], "stimulus").rename(stimulus="trial")
    trials = trials.assign_coords(stimulus=("trial", trials["trial"].values)).drop_vars("trial")
    path = write(trials, tmp_path / "trials.nc")
    found, expected = scores(files[0], path, *PLAIN), scores(*files, *PLAIN)
    ceilings = ["ceiling_lower", "ceiling_upper"]
    pd.testing.assert_frame_equal(
        found.drop(columns=ceilings), expected.drop(columns=ceilings), rtol=1e-10
    )
    alone = expected["n_subjects"] == 1  # whose trials, the same but for a constant, have no noise
    np.testing.assert_allclose(found.loc[alone, ceilings], 1.0, atol=1e-9)
    pd.testing.assert_frame_equal(found.loc[~alone, ceilings], expected.loc[~alone, ceilings])


def test_brainio_assembly_as_recordings(scores, files, brain, tmp_path):
    assembly = xr.DataArray(
        np.repeat(brain.values, 2, axis=0),
        dims=("presentation", "neuroid"),
        coords={
            "stimulus_id": ("presentation", np.repeat(IDS, 2)),
            "repetition": ("presentation", np.tile([0, 1], 24)),
            "neuroid_id": ("neuroid", np.arange(32)),
            "region": ("neuroid", brain["region"].values),
            "animal": ("neuroid", brain["subject"].values),
        },
    )
    path = write(assembly, tmp_path / "assembly.nc")
    pd.testing.assert_frame_equal(
        scores(files[0], path, *PLAIN), scores(*files, *PLAIN), rtol=1e-10
    )


def test_rdms_instead_of_recordings(scores, files, brain, tmp_path):
    rdms = 1 - build_rsms(brain, by=("region", "subject"))
    rdms = rdms.assign_attrs(kind="rdm").transpose("neighbor", "subject", "region", "anchor")
    path = write(rdms[::-1], tmp_path / "RDMS.nc")
    found = scores(files[0], path, *PLAIN)
    pd.testing.assert_frame_equal(found, scores(*files, *PLAIN), rtol=1e-10)


def test_rdms_have_profile_gates(scores, files, brain, tmp_path):
    rdms = build_rsms(brain, by=("region", "subject"))
    path = write(rdms, tmp_path / "RDMS.nc")
    options = ("--layers", "fc", "--regions", "IT", "--folds", "2", "--quiet")
    table = scores(files[0], path, "--transform", "instance", *options)
    assert table["gate"].tolist() == ["profile"]


def test_layers_and_regions_of_choice(scores, files):
    table = scores(*files, *PLAIN, "--layers", "fc, conv", "--regions", "IT")
    assert table[["layer", "region"]].values.tolist() == [["fc", "IT"], ["conv", "IT"]]


def test_coordinates_of_other_names(scores, files, layers, brain, tmp_path):
    named = (
        write(layers.rename(layer="module"), tmp_path / "a.nc"),
        write(brain.rename(region="area", subject="monkey"), tmp_path / "b.nc"),
    )
    names = ("--by", "module", "--region", "area", "--subject", "monkey")
    pd.testing.assert_frame_equal(scores(*named, *names, *PLAIN), scores(*files, *PLAIN))


def test_spearman_of_plain_rsms_with_its_warning(command, files, layers, brain, tmp_path):
    code, shown, errors = command(*files, *PLAIN, "--measure", "spearman")
    assert (code, shown) == (0, "")
    with pytest.warns(RowOffsetWarning) as caught:
        expected = softrsa.align(
            layers, brain, transforms=["identity"], measure="spearman", folds=3
        )
    said = str(caught[0].message)
    assert said.endswith("use measure='centered_pearson'.")
    said = said.replace("measure='centered_pearson'", "--measure centered_pearson")
    assert errors == f"softrsa: warning: {said}\n"
    result = AlignmentResult.from_netcdf(tmp_path / "out" / "result.nc")
    written = result.data.attrs.pop("command")
    assert written.startswith("softrsa align ")
    assert "--measure spearman" in written
    xr.testing.assert_identical(result.data, expected.data)


def test_leave_one_subject_out(command, files, tmp_path):
    code, _, errors = command(*files, *PLAIN, "--leave-one-subject-out")
    assert (code, errors) == (0, "")
    data = AlignmentResult.from_netcdf(tmp_path / "out" / "result.nc").data
    assert data.attrs["subjects"] == "leave_one_out"
    assert data.sizes["fold"] == 3 * 2


def test_intersection_keeps_shared_stimuli(scores, files, brain, tmp_path):
    path = write(brain[:-3], tmp_path / "fewer.nc")
    table = scores(files[0], path, *PLAIN, "--join", "intersection")
    assert table["n_stimuli"].eq(21).all()


def test_permuted_control_has_no_score(scores, files):
    plain, permuted = scores(*files, *PLAIN), scores(*files, *PLAIN, "--permute")
    assert permuted["score"].abs().max() < 0.25 < plain["score"].max()


def test_network_on_the_images_of_a_data_set(scores, monkeypatch):
    module = nn.Sequential(nn.AdaptiveAvgPool2d(6), nn.Flatten(), nn.Linear(108, 9))

    def load(name, **_options):
        assert name == "small"
        return NamedModel(module, preprocess_image, {"pixels": "1", "random": "2"})

    monkeypatch.setattr(softrsa.cli.align, "load_model", load)
    arguments = ("--dataset", "kriegeskorte92", "--model", "small", "--regions", "human IT")
    table = scores(*arguments, "--layers", "pixels", *PLAIN)
    assert table[["layer", "region"]].values.tolist() == [["pixels", "human IT"]]
    assert abs(table["score"].item()) < 0.2


BAD_RECORDINGS = {
    "missing stimulus": (lambda b: b[1:], ["'s00'"]),
    "extra stimulus": (
        lambda b: xr.concat([b, b[:1].assign_coords(stimulus=["late one"])], "stimulus"),
        ["'late one'"],
    ),
    "duplicated stimulus": (lambda b: xr.concat([b, b[3:4]], "stimulus"), ["'s03'"]),
    "NaN": (lambda b: b.where(b["stimulus"] != "s05"), ["32 values", "'s05'", "'IT'"]),
    "infinite": (lambda b: b.where(b["stimulus"] != "s06", np.inf), ["32 values", "'s06'"]),
    "constant": (lambda b: b.where(b["stimulus"] != "s07", 2.0), ["constant", "'s07'"]),
    "one stimulus": (lambda b: b[:1], ["1 stimulus"]),
    "no stimuli": (lambda b: b[:0], ["0 entries", "`stimulus`"]),
    "empty region": (lambda b: b.where(b["region"] != "IT"), ["'IT'"]),
    "unit without region": (
        lambda b: b.assign_coords(region=("unit", [""] * 4 + ["IT"] * 28)),
        ["4 units", "region"],
    ),
    "dims": (lambda b: b.rename(unit="row"), ["'row'"]),
    "three dims": (lambda b: b.expand_dims(time=2), ["'time'"]),
    "no ids": (lambda b: b.drop_vars("stimulus"), ["stimulus"]),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_RECORDINGS)
def test_bad_recordings(refused, files, brain, tmp_path, case):
    damage, found = BAD_RECORDINGS[case]
    path = write(damage(brain), tmp_path / "bad.nc")
    message = refused(files[0], path, *PLAIN)
    assert [text for text in found if text not in message] == []


@pytest.mark.parametrize("dtype", [torch.float16, torch.complex64])
def test_numbers_that_netcdf_cannot_hold(dtype):
    x = torch.ones(24, 8, dtype=dtype)
    with pytest.raises(DTypeError, match=str(dtype).removeprefix("torch.")):
        softrsa.align({"fc": x}, {"IT": torch.ones(24, 8)})


def test_not_netcdf(refused, files, tmp_path):
    path = tmp_path / "notes.nc"
    path.write_text("layer,score\n")
    assert f"{path} cannot be read as netCDF" in refused(files[0], path)


@pytest.mark.parametrize("share", [0.03, 0.5, 0.95])
def test_truncated(refused, files, share):
    content = files[1].read_bytes()
    files[1].write_bytes(content[: int(share * len(content))])
    assert f"{files[1]} cannot be read as netCDF" in refused(*files)


def test_no_such_file(refused, files):
    assert "There is no file nowhere.nc" in refused(files[0], "nowhere.nc")


def test_result_is_not_a_recording(refused, command, files, tmp_path):
    command(*files, *PLAIN, out=tmp_path / "first")
    assert "result of an alignment" in refused(files[0], tmp_path / "first" / "result.nc")


UNKNOWN = {
    "layer": (["--layers", "convv"], ["'convv'", "Did you mean 'conv'?"]),
    "region": (["--regions", "V5"], ["'V5'", "'V4'"]),
    "similarity": (["--similarity", "corelation"], ["'correlation'"]),
    "transform": (["--transform", "identity,instnce"], ["'instnce'", "'instance'"]),
    "measure": (["--measure", "spaerman"], ["'spaerman'", "'spearman'"]),
    "layer coordinate": (["--by", "laye"], ["--by in", "LAYERS.nc", "'layer'"]),
    "region coordinate": (["--region", "regions"], ["--region in", "RECORDINGS.nc", "'region'"]),
    "subject coordinate": (["--subject", "subjects"], ["--subject in", "'subject'"]),
    "join": (["--join", "outer"], ["'outer'", "intersection"]),
    "option": (["--transforms", "identity"], ["--transforms"]),
    "folds": (["--folds", "five"], ["--folds", "'five'"]),
    "no fold": (["--folds", "1"], ["at least 2", "1"]),
    "fewer stimuli than folds": (["--folds", "25"], ["25 folds of 24 stimuli"]),
    "seed": (["--seed", "-1"], ["--seed", "'-1'"]),
    "device": (["--device", "gpu"], ["'gpu'", "'cuda'"]),
    "no transform": (["--transform", ","], ["--transform", "','"]),
    "model without images": (["--model", "efficientnet-lite0"], ["--dataset"]),
    "untrained without model": (["--untrained"], ["--model"]),
    "third file": (["more.nc"], ["no file more.nc"]),
    "file and demo": (["--demo"], ["2 files and --demo"]),
}  # fmt: skip


@pytest.mark.parametrize("case", UNKNOWN)
def test_bad_options(refused, files, case):
    options, found = UNKNOWN[case]
    message = refused(*files, *options)
    assert [text for text in found if text not in message] == []


WITHOUT_FILES = {
    "nothing": ([], ["0 files"]),
    "one file": (["LAYERS.nc"], ["1 file."]),
    "one file and demo": (["LAYERS.nc", "--demo"], ["1 file and --demo"]),
    "two sets": (["--demo", "--dataset", "macaque-v4"], ["--demo and --dataset macaque-v4"]),
    "dataset": (["--dataset", "kriegeskorte"], ["'kriegeskorte'", "'kriegeskorte92'"]),
    "model": (
        ["--dataset", "kriegeskorte92", "--model", "efficientnet-lite"], ["'efficientnet-lite0'"]
    ),
    "layer of a model": (
        ["--dataset", "kriegeskorte92", "--model", "efficientnet-lite0", "--layers", "block16"],
        ["'block16'", "'block1"],
    ),
    "no layers": (["--dataset", "macaque-v4"], ["'macaque-v4'", "--model"]),
}  # fmt: skip


@pytest.mark.parametrize("case", WITHOUT_FILES)
def test_bad_sources(refused, case):
    options, found = WITHOUT_FILES[case]
    message = refused(*options, "--quiet")
    assert [text for text in found if text not in message] == []


def test_swapped_files(refused, files):
    message = refused(files[1], files[0])
    assert "LAYERS.nc has no 'region', only 'layer': are the two files swapped?" in message


def test_rdms_of_layers_are_not_averaged_unasked(refused, files, brain, tmp_path):
    rdms = build_rsms(brain, by=("region", "subject")).rename(region="layer")
    path = write(rdms, tmp_path / "RDMS.nc")
    assert "'layer'" in refused(files[0], path)
    assert "'subject'" in refused(path, files[1])


def test_leaving_the_only_subject_out(refused, files, brain, tmp_path):
    path = write(brain.drop_vars("subject"), tmp_path / "alone.nc")
    assert "at least 2 subjects" in refused(files[0], path, *PLAIN, "--leave-one-subject-out")


def test_cuda_asked_for_and_absent(refused, files, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "sees no CUDA device" in refused(*files, *PLAIN, "--device", "cuda")


def test_out_is_a_file(refused, files, tmp_path):
    (tmp_path / "out").write_text("mine")
    assert f"{tmp_path / 'out'} is a file" in refused(*files)
    assert (tmp_path / "out").read_text() == "mine"


def test_out_is_below_a_file(refused, files, tmp_path):
    (tmp_path / "taken").write_text("mine")
    message = refused(*files, out=tmp_path / "taken" / "a" / "b")
    assert f"{tmp_path / 'taken'} is a file" in message


def test_a_folder_has_the_name_of_a_file(refused, files, tmp_path):
    (tmp_path / "out" / "result.nc").mkdir(parents=True)
    assert "result.nc: it is a folder" in refused(*files)


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="needs a folder nobody may write to")
def test_out_cannot_be_written(refused, files):
    assert "Cannot write /proc/softrsa" in refused(*files, out="/proc/softrsa")


def test_a_failure_keeps_all_files_as_they_were(command, files, tmp_path, monkeypatch):
    command(*files, *PLAIN)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    def fail(_self):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(AlignmentResult, "plot", fail)
    code, _, errors = command(*files, *PLAIN, "--layers", "fc")
    assert (code, errors.count("\n")) == (2, 1)
    assert "the disk is full" in errors
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_a_failure_leaves_no_new_folder(refused, files, tmp_path):
    refused(*files, "--layers", "nowhere", out=tmp_path / "a" / "b" / "c")
    assert not (tmp_path / "a").exists()


def test_interrupted(command, files, monkeypatch, tmp_path):
    def stop(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(softrsa, "align", stop)
    code, _, errors = command(*files)
    assert (code, errors) == (130, "softrsa: stopped; nothing was written.\n")
    assert not (tmp_path / "out").exists()


def test_mistake_in_a_process_of_its_own(tmp_path):
    command = [sys.executable, "-m", "softrsa.cli", "align", "--demo", "--out", "results"]
    done = subprocess.run(  # noqa: S603
        [*command, "--layers", "layer5"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("softrsa: error: Unknown layer 'layer5'. Did you mean 'layer")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert (stop.value.code, capsys.readouterr().out) == (0, f"{softrsa.__version__}\n")


@pytest.mark.parametrize("name", list(EXAMPLES))
def test_help_has_an_example_that_the_command_takes(name, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"] if name == "softrsa" else [name, "--help"])
    assert stop.value.code == 0
    assert EXAMPLES[name].strip() in capsys.readouterr().out
    lines = EXAMPLES[name].replace("\\\n", " ").splitlines()
    found = [
        line.split("softrsa ", 1)[1] for line in lines if re.search(r"^ *(\$ )?softrsa ", line)
    ]
    for line in found:
        if "COMMAND" not in line:
            arguments = build_parser().parse_args(shlex.split(line))
            module = importlib.import_module(f"softrsa.cli.{arguments.command}")
            assert callable(module.run)
    assert found or name == "completion"


def test_every_command_has_an_example():
    assert {*EXAMPLES} == {"softrsa", *COMMANDS}


def test_json_is_the_table_and_nothing_else(command, files, tmp_path):
    code, shown, _ = command(*files, *PLAIN, "--json")
    found = json.loads(shown)
    table = pd.read_csv(tmp_path / "out" / "scores.csv")
    assert (code, found["out"]) == (0, str(tmp_path / "out"))
    read = pd.DataFrame(found["rows"])
    assert list(read.columns) == list(table.columns)
    np.testing.assert_allclose(read["score"], table["score"], atol=1e-11)


def test_report_of_a_result(command, files, tmp_path, capsys):
    command(*files, *PLAIN)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name in IDS:
        Image.new("RGB", (8, 8), "red").save(pictures / f"{name}.png")
    result = str(tmp_path / "out" / "result.nc")
    assert main(["report", result, "--title", "V4 & IT", "--images", str(pictures)]) == 0
    page = tmp_path / "out" / "report.html"
    assert capsys.readouterr().out == f"The report is {page}\n"
    text = page.read_text("utf-8")
    assert "<title>V4 &amp; IT</title>" in text
    assert text.count("data:image/jpeg") == 24
    assert main(["report", result, "--images", ".", "--dataset", "macaque-v4"]) == 2
    assert "not both" in capsys.readouterr().err


def test_completion_of_a_shell_knows_the_commands(capsys, tmp_path):
    assert main(["completion", "bash"]) == 0
    script = tmp_path / "softrsa.bash"
    script.write_text(capsys.readouterr().out)
    ask = f"source {script}; COMP_WORDS=(softrsa re); COMP_CWORD=1; _shtab_softrsa"
    ask += '; echo "${COMPREPLY[@]}"'
    done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True)  # noqa: S603, S607
    assert done.stdout.split() == ["report"]


def test_what_an_earlier_run_left_is_of_this_run_or_gone(files, command, tmp_path):
    """Said beforehand; not with --overwrite or --quiet, as that was asked for."""
    out = tmp_path / "out"
    learned = ("--transform", "global", "--folds", "3", "--resamples", "0", "--layers", "fc")
    code, _, err = command(*files, *learned, "--regions", "IT", "--quiet")
    assert (code, err) == (0, "")
    assert (out / "transforms.png").is_file()
    (out / "mine.txt").touch()
    code, _, err = command(*files, *[one for one in PLAIN if one != "--quiet"])
    assert code == 0
    assert err.splitlines()[0] == (
        f"softrsa: {out} has results of an earlier run: scores.csv, result.nc, report.html, "
        "alignment.png will be replaced; transforms.png, gains.png, which this run does not write, "
        "deleted."
    )
    assert {path.name for path in out.iterdir()} == {*FILES, "mine.txt"}
    (out / "transforms.png").touch()
    code, _, err = command(*files, *PLAIN, "--overwrite")
    assert (code, "earlier run" in err) == (0, False)
    assert not (out / "transforms.png").exists()


def test_a_run_that_fails_leaves_the_earlier_results(files, command, tmp_path):
    stale = tmp_path / "out" / "transforms.png"
    stale.parent.mkdir()
    stale.touch()
    code, _, _ = command(*files, *PLAIN, "--layers", "conv9")
    assert code == 2
    assert stale.is_file()


def test_a_control_is_read_named_and_said(command, files, layers, tmp_path):
    low = layers**2
    pixels = write(low.drop_vars("layer").isel(unit=slice(10)), tmp_path / "PIXELS.nc")
    both = write(low, tmp_path / "low.nc")
    base = [*map(str, files), *PLAIN[:-1], "--resamples", "0"]
    code, out, _ = command(*base, "--control", str(pixels))
    assert code == 0
    assert "Scores are partial correlations given PIXELS." in out
    assert f"{pixels}: netCDF, 24 stimulus x 10 unit" in out
    result = AlignmentResult.from_netcdf(tmp_path / "out" / "result.nc")
    assert json.loads(result.data.attrs["control"]) == ["PIXELS"]
    expected = softrsa.align(
        layers, softrsa.load(files[1]), control=softrsa.load(pixels), folds=3, n_resamples=0,
        transforms=["identity"],
    )  # fmt: skip
    np.testing.assert_allclose(result.table["score"], expected.table["score"], atol=1e-12)
    code, out, _ = command(
        *base, "--overwrite", "--control", f"{both}:fc", "--control", str(pixels)
    )
    assert code == 0
    assert "Scores are partial correlations given fc, PIXELS." in out


@pytest.mark.parametrize(
    ("control", "message"),
    [
        ("nowhere.nc", "no file"),
        ("{low}:fd", "Unknown layer 'fd'. Did you mean 'fc'?"),
        ("{low}", "Two controls are named 'conv', 'fc': rename a file or a layer"),
    ],
)
def test_a_control_that_cannot_be_read_is_refused(
    command, files, layers, tmp_path, control, message
):
    low = write(layers, tmp_path / "low.nc")
    options = ["--control", control.format(low=low)] * (1 + ("Two" in message))
    code, _, err = command(*map(str, files), *PLAIN, *options)
    assert code == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_groups_come_from_a_coordinate_or_a_file(scores, refused, layers, brain, tmp_path):
    labels = [f"video {i % 8}" for i in range(24)]
    known = layers.assign_coords(video=("stimulus", labels))
    sites = brain.assign_coords(site=("unit", [f"site {one}" for one in brain["subject"].values]))
    paths = write(known, tmp_path / "LAYERS.nc"), write(sites, tmp_path / "RECORDINGS.nc")
    options = (*PLAIN, "--resamples", "40")
    found = scores(*paths, *options, "--groups", "video", "--subject-groups", "site")
    result = AlignmentResult.from_netcdf(tmp_path / "out" / "result.nc")
    assert json.loads(result.data.attrs["stimulus_groups"]) == labels
    assert result.data["n_subject_groups"].values.tolist() == [2, 2]
    expected = softrsa.align(
        layers, brain, transforms=["identity"], n_resamples=40, stimulus_groups=labels,
        folds=softrsa.alignment.grouped_folds(labels, 3, seed=0),
    ).table  # fmt: skip
    np.testing.assert_allclose(found["score"], expected["score"])
    np.testing.assert_allclose(found["score_low"], expected["score_low"])
    listed = tmp_path / "labels.txt"
    listed.write_text("\n".join(labels) + "\n")
    again = scores(*paths, *options, "--groups", listed, "--overwrite")
    np.testing.assert_allclose(again["score_low"], expected["score_low"])
    listed.write_text("\n".join(labels[:5]))
    assert "a label for each of 24 stimuli" in refused(
        *paths, *options, "--groups", listed, out=tmp_path / "other"
    )
    assert "'vido'" in refused(*paths, *options, "--groups", "vido", out=tmp_path / "other")
