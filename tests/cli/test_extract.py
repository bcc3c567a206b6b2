"""`softrsa extract`: from a network's name to a file of activations that `align` takes."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import softrsa
from softrsa.activations import extract_activations, load_model
from softrsa.cli import main

MINE = """
import torch
from torch import nn

def make():
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=9), nn.ReLU(), nn.Flatten(), nn.Linear(2500, 5))

def pair():
    return nn.Flatten(), lambda image: torch.ones(3, 2, 2) * image.size[0]

def broken():
    raise ValueError("no weights here")

number = 3
def wrong():
    return number
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "images").mkdir()
    numbers = np.random.default_rng(0)
    for i in range(7):
        pixels = numbers.integers(0, 255, (8 + i, 9, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"image_{i}.png")
    return tmp_path


BASE = ["extract", "--model", "mine.py:make", "--images", "images"]


def test_a_file_of_activations(here, capsys):
    assert main([*BASE, "--layers", "0,3", "--out", "layers.nc", "--batch-size", "3"]) == 0
    found = softrsa.load(here / "layers.nc")
    model = load_model("mine.py:make")
    expected = extract_activations(
        model.module, here / "images", ["0", "3"], preprocess=model.preprocess, progress=False
    )
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert found["layer"].values.tolist() == expected["layer"].values.tolist()
    assert found.stimulus.values.tolist() == [f"image_{i}" for i in range(7)]
    assert found.attrs["model"] == "mine.py:make"
    assert "7 stimuli" in capsys.readouterr().out
    assert sorted(path.name for path in here.iterdir()) == ["images", "layers.nc", "mine.py"]


def test_layers_are_listed_and_a_run_foretold(here, capsys):
    assert main([*BASE, "--list-layers", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [(row["layer"], row["module"], row["units"]) for row in rows] == [
        ("0", "Conv2d", 2500), ("1", "ReLU", 2500), ("2", "Flatten", 2500), ("3", "Linear", 5),
    ]  # fmt: skip
    assert rows[0]["shape"] == "4 × 25 × 25"
    assert main([*BASE, "--dry-run", "--layers", "0"]) == 0
    assert "7 stimuli, 0 MB before compression, about 0 s" in capsys.readouterr().out
    assert sorted(path.name for path in here.iterdir()) == ["images", "mine.py"]


def test_a_stopped_run_goes_on(here):
    stimuli = {f"s{i}": torch.rand(3, generator=torch.Generator().manual_seed(i)) for i in range(9)}
    calls = []

    class Counted(nn.Linear):
        def forward(self, x):
            calls.append(len(x))
            if len(calls) == 4:
                raise KeyboardInterrupt
            return super().forward(x)

    torch.manual_seed(0)
    model = nn.Sequential(Counted(3, 2))
    options = {"path": here / "a.nc", "resume": True, "batch_size": 2, "progress": False}
    with pytest.raises(KeyboardInterrupt):
        extract_activations(model, stimuli, "0", **options)
    assert not (here / "a.nc").exists()
    other = nn.Sequential(nn.Linear(3, 2))
    with pytest.raises(softrsa.errors.DataError, match="3 batches of another model"):
        extract_activations(other, stimuli, "0", **options)
    found = extract_activations(model, stimuli, "0", **options)
    assert calls[4:] == [2, 2, 1]  # the last one that was kept, and the two that were not
    expected = torch.stack([*stimuli.values()]) @ model[0].weight.T + model[0].bias
    np.testing.assert_allclose(found, expected.detach(), atol=1e-6)
    assert found.stimulus.values.tolist() == [*stimuli]
    assert not (here / "a.nc.parts").exists()
    with pytest.raises(softrsa.errors.DataError, match="`resume` needs `path`"):
        extract_activations(model, stimuli, "0", resume=True)
    with pytest.raises(softrsa.errors.DataError, match="not an iterable of batches"):
        extract_activations(model, iter([torch.ones(2, 3)]), "0", **options)


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
def test_an_exported_program_keeps_the_names_of_its_modules(here):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.ReLU()).eval()
    n = torch.export.Dim("n", min=1)
    example = (torch.rand(2, 3, 2, 2),)
    torch.export.save(torch.export.export(model, example, dynamic_shapes=({0: n},)), "net.pt2")
    loaded = load_model("net.pt2")
    x = torch.rand(5, 3, 2, 2)
    found = extract_activations(loaded.module, x, "1", progress=False)
    np.testing.assert_allclose(found, model[:2](x).detach(), atol=1e-6)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--model", "resnet50"], "Unknown model 'resnet50'. Known: efficientnet-lite0"),
        (["--model", "mine.py:mak"], "Unknown function of mine.py 'mak'. Did you mean 'make'?"),
        (["--model", "mine.py:broken"], "broken() of mine.py failed: ValueError: no weights here"),
        (["--model", "mine.py:wrong"], "must give a torch module, a pair (module, preprocess)"),
        (["--untrained"], "What weights 'mine.py:make' has is up to that function"),
        (["--model", "other.py:make"], "There is no file other.py"),
        (["--model", "mine.pt2"], "There is no file mine.pt2"),
        (["--out", "layers.csv"], "--out must be a netCDF file, such as layers.nc"),
        (["--layers", ""], "expected names separated by commas"),
        (["--layers", "9"], "Unknown layer '9'. Known: 0, 1, 2, 3"),
        (["--images", "nowhere"], "There is no folder of images nowhere"),
    ],
)
def test_mistakes_are_one_line(here, capsys, given, said):
    command = [*BASE, "--layers", "0", "--out", "layers.nc", *given]
    try:
        code = main(command)
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    message = capsys.readouterr().err
    assert said in message
    assert message.count("\n") == 1
    assert not list(here.glob("layers*"))


def test_what_a_model_takes(here, capsys):
    assert main(["extract", "--model", "mine.py:make", "--out", "a.nc"]) == 2
    assert "takes images: give --images DIR or --dataset NAME" in capsys.readouterr().err
    assert main([*BASE, "--out", "a.nc"]) == 2
    assert "keep with --layers; --list-layers lists them" in capsys.readouterr().err
    assert main(BASE) == 2
    assert "Say where to write with --out FILE.nc" in capsys.readouterr().err
    pair = ["extract", "--model", "mine.py:pair", "--images", "images", "--dry-run"]
    assert main([*pair, "--layers", "0"]) == 2  # a module without modules
