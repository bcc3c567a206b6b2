"""Any layout of a file is read right, or refused with a remedy that works: never wrong, unsaid."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from softrsa import io

STUDY = Path(__file__).parents[2] / "benchmarks" / "studies" / "reading.py"
SUFFIXES = (".npy", ".npz", ".mat", ".h5", ".pt")


@pytest.fixture(scope="module")
def study():
    """The study of layouts, which lists them."""
    spec = importlib.util.spec_from_file_location("reading_study", STUDY)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), seed=st.integers(0, 99))
def test_axes_and_halves_in_any_order_are_right_or_refused(study, tmp_path_factory, data, seed):
    rng = np.random.default_rng(seed)
    listed = data.draw(st.sampled_from([study.of_matrices, study.of_recordings, study.of_texts]))
    layout = data.draw(st.sampled_from(list(listed(rng))))
    suffix = ".txt" if layout.text else data.draw(st.sampled_from(SUFFIXES))
    path = study.write(layout, suffix, tmp_path_factory.mktemp("x"))
    assert study.try_one(layout, path) in ("right", "said aloud", "refused, remedy works")


labels = st.lists(
    st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=4),
    min_size=2, max_size=5, unique=True,
).filter(lambda found: not all(t.removeprefix("-").isdecimal() for t in found))  # fmt: skip
ids = st.one_of(labels, st.lists(st.integers(-99, 99), min_size=2, max_size=5, unique=True))


@st.composite
def arrays(draw):
    """Recordings, trials, or stacks of RDMs, with labels on every side."""
    stimuli = draw(ids)
    n, seed = len(stimuli), draw(st.integers(0, 99))
    rng = np.random.default_rng(seed)
    kind = draw(st.sampled_from(["stimulus", "trial", "rdm"]))
    if kind == "rdm":
        subjects = draw(ids)
        half = np.triu(rng.random((len(subjects), n, n)), 1)
        coords = {"subject": subjects, "anchor": stimuli, "neighbor": stimuli}
        return xr.DataArray(half + half.swapaxes(1, 2), dims=tuple(coords), coords=coords)
    coords = {
        "stimulus": (kind, np.array(stimuli)),
        "category": (kind, rng.choice(["x", "y"], n)),
        "layer": ("unit", rng.choice(["b", "a"], 3)),
        "subject": ("unit", rng.integers(1, 3, 3)),
    }
    return xr.DataArray(rng.normal(size=(n, 3)), dims=(kind, "unit"), coords=coords)


@settings(max_examples=25)
@given(array=arrays(), suffix=st.sampled_from([".nc", ".npz", ".csv"]))
def test_what_softrsa_writes_it_reads_with_all_labels(tmp_path_factory, array, suffix):
    path = tmp_path_factory.mktemp("x") / f"a{suffix}"
    io.save(array, path)
    found = io.load(path).drop_attrs()
    xr.testing.assert_equal(found, array)
    for name, coord in array.coords.items():
        assert found[name].dims == coord.dims
        assert found[name].values.tolist() == coord.values.tolist()
