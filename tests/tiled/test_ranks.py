"""Processes that share the tiles find what one process finds, and none waits for a lost one."""

import importlib.util
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from softrsa.tiled import tiles

SCRIPT = Path(__file__).with_name("tiled_ranks.py")
specification = importlib.util.spec_from_file_location("tiled_ranks", SCRIPT)
tiled_ranks = importlib.util.module_from_spec(specification)
specification.loader.exec_module(tiled_ranks)
TOLERANCE = {"float32": 1e-6, "float64": 1e-12}


def launch(n_ranks: int, mode: str, folder: Path) -> subprocess.CompletedProcess:
    command = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n_ranks}"]
    return subprocess.run(  # noqa: S603
        [sys.executable, *command, str(SCRIPT), mode, str(folder)],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


@pytest.fixture(scope="module")
def alone():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tiles.TILE_SIZE, "cpu", 16)
        patch.setattr(tiles, "TILE_SIZE_OF_THREADS", 1)
        return {kind: tiled_ranks.compute(kind, distributed=False) for kind in TOLERANCE}


@pytest.mark.slow
@pytest.mark.parametrize("n_ranks", [2, 4])
def test_values_and_gradients_are_those_of_one_process(n_ranks, alone, tmp_path):
    process = launch(n_ranks, "whole", tmp_path)
    assert process.returncode == 0, process.stderr
    for rank in range(n_ranks):
        found = torch.load(tmp_path / f"rank_{rank}.pt", weights_only=True)
        for kind, tolerance in TOLERANCE.items():
            one, many = alone[kind], found[kind]
            for gate in ("profile", "embedding"):
                torch.testing.assert_close(many[gate][0], one[gate][0], rtol=tolerance, atol=0)
                for mine, theirs in zip(many[gate][1], one[gate][1], strict=True):
                    largest = float(theirs.abs().max())
                    torch.testing.assert_close(mine, theirs, rtol=0, atol=tolerance * largest)
            torch.testing.assert_close(many["ceilings"], one["ceilings"], rtol=tolerance, atol=0)
            assert many["fit"] == pytest.approx(one["fit"], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("failing", "Rank 0 of 2 waits for processes that do not answer"),
        ("different", "`features` differs between the 2 ranks"),
    ],
)
def test_a_rank_that_fails_ends_the_run_soon_and_says_why(mode, message, tmp_path):
    start = time.monotonic()
    process = launch(2, mode, tmp_path)
    assert process.returncode != 0
    assert time.monotonic() - start < 90
    assert not list(tmp_path.iterdir())
    assert message in process.stderr or "lost on the way" in process.stderr
