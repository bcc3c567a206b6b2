"""Pages of whole jobs: their commands as they stand, on made-up files of the layout they name."""

import re
import shlex
from glob import glob
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.io
import xarray as xr
from PIL import Image
from scipy.spatial.distance import pdist, squareform

import softrsa
from softrsa.cli import main

PAGES = Path(__file__).resolve().parents[1] / "docs" / "jobs"
MOST = 6  # commands of a page
BLOCK = re.compile(r"```bash\n(.*?)```", re.DOTALL)
NETWORK = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 5, stride=8), nn.ReLU(), nn.Conv2d(8, 16, 5, stride=4), nn.ReLU(),
        nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(256, 20),
    )
"""


def names(n):
    return [f"image_{i:02}" for i in range(n)]


def layers(latent, other, rng):
    """A layer that follows what the brain follows, and one that does not."""
    values = [part @ rng.normal(size=(part.shape[1], 20)) for part in (latent, other)]
    coords = {"stimulus": names(len(latent)), "layer": ("unit", ["late"] * 20 + ["early"] * 20)}
    array = xr.DataArray(np.concatenate(values, axis=1), coords, ("stimulus", "unit"))
    array.to_netcdf("layers.nc")


def texts(file, name, values):
    """Write a cell array of texts as MATLAB 7.3 does."""
    group = file.require_group("#refs#")
    refs = []
    for i, value in enumerate(values):
        own = group.create_dataset(f"{name}{i}", data=np.array([[ord(c)] for c in value], "u2"))
        own.attrs["MATLAB_class"] = np.bytes_("char")
        refs.append(own.ref)
    cell = file.create_dataset(name, data=np.array([refs], dtype=h5py.ref_dtype))
    cell.attrs["MATLAB_class"] = np.bytes_("cell")


def fmri(rng):
    n, n_runs = 24, 4
    latent = rng.normal(size=(n, 5))
    layers(latent, rng.normal(size=(n, 5)), rng)
    for subject in ("01", "02", "03"):
        signal = latent @ rng.normal(size=(5, 30))
        order = np.concatenate([rng.permutation(n) for _ in range(n_runs)])
        trials = signal[order] + rng.normal(size=(len(order), 30))
        path = Path(f"sub-{subject}.mat")
        with h5py.File(path, "w", userblock_size=512) as file:
            for name, values in (("betas", trials), ("run", np.repeat(range(n_runs), n)[:, None])):
                file[name] = values.T.astype(float)
                file[name].attrs["MATLAB_class"] = np.bytes_("double")
            texts(file, "stimulus", [names(n)[i] for i in order])
            texts(file, "roi", ["V1"] * 15 + ["IT"] * 15)
        with path.open("r+b") as file:
            file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64, Created on: Mon".ljust(124))


def meg(rng):
    n, times = 12, np.arange(12)
    latent = rng.normal(size=(n, 3))
    rdms = [squareform(pdist(one)) for one in (latent, rng.normal(size=(n, 3)))]
    models = np.zeros(2, dtype=[("RDM", object), ("name", object)])
    for place, model in enumerate(zip(rdms, ("shape", "other"), strict=True)):
        models[place] = model
    scipy.io.savemat("models.mat", {"models": models})
    strength = np.where(times > 4, 3.0, 0.0)
    movies = [
        [
            squareform(pdist(s * latent @ rng.normal(size=(3, 9)) + rng.normal(size=(n, 9))))
            for s in strength
        ]
        for _ in range(7)
    ]
    np.save("meg.npy", np.array(movies))


def spikes(rng):
    n = 24
    latent = rng.normal(size=(n, 5))
    stimuli = rng.permutation(np.repeat(np.arange(n), rng.integers(3, 9, n)))
    rates = np.exp(0.4 * latent @ rng.normal(size=(5, 30)) + 1)
    np.savez(
        "session.npz", counts=rng.poisson(rates[stimuli]).astype(float),
        stimulus=np.array(names(n))[stimuli], area=np.array(["V4"] * 14 + ["IT"] * 16),
    )  # fmt: skip
    layer = latent @ rng.normal(size=(5, 20))
    pd.DataFrame(layer, index=pd.Index(names(n), name="stimulus")).to_csv("fc.csv")


def judgements(rng):
    n = 20
    latent, pixels = rng.normal(size=(n, 4)), rng.normal(size=(n, 12))
    layers(latent, pixels, rng)
    pd.DataFrame(pixels, index=pd.Index(names(n), name="stimulus")).to_csv("pixels.csv")
    distances = squareform(pdist(latent)) + 0.4 * squareform(pdist(pixels))
    rows = [
        (f"s{who}", names(n)[i], names(n)[j], distances[i, j] + rng.normal())
        for who in range(6)
        for i, j in zip(*np.triu_indices(n, 1), strict=True)
        if rng.random() < 0.92
    ]
    columns = ["participant", "image_1", "image_2", "dissimilarity"]
    pd.DataFrame(rows, columns=columns).to_csv("judgements.csv", index=False)


def own_network(rng):
    n = 20
    Path("stimuli").mkdir()
    Path("mine.py").write_text(NETWORK)
    coarse = rng.integers(0, 255, (n, 4, 4, 3), dtype=np.uint8)
    for name, pixels in zip(names(n), coarse, strict=True):
        Image.fromarray(pixels).resize((64, 64)).save(f"stimuli/{name}.png")
    for subject in range(3):
        values = coarse.reshape(n, -1) / 255 @ rng.normal(size=(48, 20)) + rng.normal(size=(n, 20))
        table = pd.DataFrame(values, index=pd.Index(names(n), name="stimulus"))
        table.to_csv(f"sub-{subject:02}_IT.csv")


def commands(page):
    blocks = BLOCK.findall((PAGES / f"{page}.md").read_text("utf-8"))
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("make", [fmri, meg, spikes, judgements, own_network])
def test_a_job_ends_in_a_figure_and_a_report(make, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make(np.random.default_rng(0))
    given = commands(make.__name__)
    assert 0 < len([one for one in given if one[0] == "softrsa"]) <= MOST
    for program, *arguments in given:
        if program == "python":
            assert arguments[0] == "-c"
            exec(arguments[1], {"softrsa": softrsa})  # noqa: S102
            continue
        files = [name for one in arguments for name in (sorted(glob(one)) if "*" in one else [one])]
        assert main(files) == 0, capsys.readouterr().err
    reports = [*tmp_path.rglob("*.html")]
    assert reports
    assert all(report.stat().st_size > 10_000 for report in reports)
    assert [*tmp_path.rglob("results/*.png")]
    tables = [*tmp_path.glob("results/scores.csv"), *tmp_path.glob("results/courses.csv")]
    best = pd.read_csv(tables[0]).sort_values("score").iloc[-1]
    assert best["score"] > 0.2
