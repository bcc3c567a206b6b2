"""A small part of `benchmarks/studies/hard_knocks.py`, whose seed is fixed."""

import importlib.util
from pathlib import Path

import pytest

PATH = Path(__file__).parents[2] / "benchmarks" / "studies" / "hard_knocks.py"


@pytest.fixture(scope="module")
def study():
    spec = importlib.util.spec_from_file_location("hard_knocks", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_bad_call_is_silent_or_raw(study, capsys):
    counts = study.bad_calls()
    assert {kind: counts[kind] for kind in study.BAD} == dict.fromkeys(study.BAD, 0), (
        capsys.readouterr().err
    )
    assert counts["refused"] > 400


def test_no_mutated_file_is_raw_ends_the_process_or_hangs(study, tmp_path, monkeypatch):
    monkeypatch.setattr(study, "FORMATS", {"netCDF": "x.nc", "archive": "x.npz"})
    for counts in study.mutated_files(4, tmp_path).values():
        assert not any(counts[kind] for kind in study.BAD)
        assert sum(counts.values()) == 4
