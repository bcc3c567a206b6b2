"""What an addition costs, as `docs/contributing.md` says: one file that nothing else names."""

import importlib
import sys

import numpy as np
import pandas as pd
import pytest
import torch

import softrsa
from softrsa import datasets
from softrsa.datasets import cards, fetching, loading
from softrsa.io import FORMATS
from softrsa.measures import MEASURES
from softrsa.rsm.similarity import SIMILARITY_TABLE
from softrsa.transforms import TRANSFORMS

FILES = {
    "a_measure": """
        from softrsa.measures import MEASURES, Measure

        def agreement(a, b):
            return -(a - b).square().mean(-1)

        MEASURES.add(
            Measure(
                function=agreement, takes="vectors", range=(-4.0, 0.0), smallest_n=3,
                reference="none",
            )
        )
    """,
    "a_transform": """
        from torch import nn
        from softrsa.transforms import TRANSFORMS, Transform

        class Cubed(nn.Module):
            def forward(self, rsms, anchors=None):
                return rsms**3

        TRANSFORMS.add(
            Transform(name="cubed", title="cubed", words="a cube", fit=lambda _: Cubed())
        )
    """,
    "a_similarity": """
        from softrsa.rsm import Similarity
        from softrsa.rsm.similarity import SIMILARITY_TABLE

        SIMILARITY_TABLE.add(
            Similarity(
                name="signs", words="agreement of signs", bounded=True,
                function=lambda x, y: x.sign() @ y.sign().mT / x.shape[-1],
            )
        )
    """,
    "a_format": """
        import numpy as np
        import xarray as xr
        from softrsa.io import FORMATS, Format

        def read(path, options):
            first, *lines = path.read_text().splitlines()
            rows = [line.split() for line in lines]
            return xr.DataArray(
                np.array([row[1:] for row in rows], dtype=float), dims=("stimulus", "unit"),
                coords={"stimulus": [row[0] for row in rows], "layer": ("unit", first.split()[1:])},
            )

        FORMATS.add(
            Format(
                name="rates", title="a file of rates", read=read,
                recognizes=lambda seen: seen.path.suffix == ".rates",
            )
        )
    """,
    "a_data_set": """
        from pathlib import Path
        import softrsa
        from softrsa import datasets

        def load(files):
            rates = softrsa.load(files["brain.rates"])
            return datasets.Parts(regions={"V1": rates.drop_vars("layer")})

        datasets.add(Path(__file__).parent / "data", load)
    """,
}
CARD = """
name = "my-rates"
title = "t"
description = "d"
licence = "l"
citation = "c"
bibtex = "b"
source = "s"
preprocessing = "p"
simulated = true
[[files]]
path = "brain.rates"
sha256 = "{sha256}"
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Write a package, and take what it adds out of the tables again."""
    monkeypatch.syspath_prepend(tmp_path)
    for table in (FORMATS, MEASURES, SIMILARITY_TABLE, TRANSFORMS):
        monkeypatch.setattr(table, "_rows", dict(table.items()))
    added = {}
    for module in (cards, fetching, loading):
        monkeypatch.setattr(module, "ADDED", added)
    monkeypatch.setattr(loading, "LOADERS", dict(loading.LOADERS))
    folder = tmp_path / "additions"
    (folder / "data").mkdir(parents=True)
    (folder / "__init__.py").touch()
    values = np.random.default_rng(0).normal(size=(24, 12))
    write_rates(folder / "layers.rates", values, ["conv"] * 6 + ["fc"] * 6)
    write_rates(folder / "data" / "brain.rates", values[:, :6], ["none"] * 6)
    sha256 = fetching.sha256(folder / "data" / "brain.rates")
    (folder / "data" / "dataset.toml").write_text(CARD.format(sha256=sha256))
    yield folder
    for name in [name for name in sys.modules if name.split(".")[0] == "additions"]:
        del sys.modules[name]


def write_rates(path, values, labels):
    """Write rates in the format to add."""
    lines = [f"image_{i} {' '.join(map(str, row))}" for i, row in enumerate(values)]
    path.write_text("\n".join([f"stimulus {' '.join(labels)}", *lines]))


def add(package, name):
    """Write one file of the package and import it."""
    lines = FILES[name].splitlines()
    (package / f"{name}.py").write_text("\n".join(line.removeprefix(" " * 8) for line in lines))
    importlib.invalidate_caches()
    return importlib.import_module(f"additions.{name}")


@pytest.mark.filterwarnings("ignore::softrsa.alignment.StimulusScaleWarning")
def test_one_file_each_and_align_knows_them_all(package, tmp_path):
    for name in ("a_measure", "a_transform", "a_similarity", "a_format", "a_data_set"):
        add(package, name)
    assert {"my-rates"} <= {*datasets.available()}
    layers = softrsa.load(package / "layers.rates")
    assert layers.attrs["source_format"] == "a file of rates"
    result = softrsa.align(
        layers, datasets.load("my-rates").regions, measure="agreement", similarity="signs",
        transforms=["identity", "cubed"], folds=3, n_resamples=20,
    )  # fmt: skip
    table = result.table.set_index(["layer", "transform"])
    assert table.loc[("conv", "identity"), "score"] == pytest.approx(0, abs=1e-12)
    assert table.loc[("conv", "cubed"), "score"] == pytest.approx(0, abs=1e-12)
    assert -4 < table.loc[("fc", "identity"), "score"] < table.loc[("fc", "cubed"), "score"] < 0
    result.to_netcdf(tmp_path / "result.nc")
    again = softrsa.alignment.AlignmentResult.from_netcdf(tmp_path / "result.nc")
    pd.testing.assert_frame_equal(again.table, result.table)
    again.report(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "agreement" in page
    assert "cubed" in page


def test_a_fitted_aligner_takes_them_too(package):
    for name in ("a_transform", "a_similarity", "a_format"):
        add(package, name)
    layers = softrsa.load(package / "layers.rates")
    conv, fc = layers[:, :6], layers[:, 6:]
    aligner = softrsa.Aligner("cubed", similarity="signs").fit(conv, fc)
    own = torch.tensor(conv.values.T).sign().T
    expected = (own @ own.T / 6) ** 3
    torch.testing.assert_close(torch.as_tensor(aligner.transform_model(conv)), expected)
