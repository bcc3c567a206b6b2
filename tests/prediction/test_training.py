"""Two gloo processes learn what one does: gradients, batch norm, whole fits."""

import importlib.util
import os
import socket
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from softrsa._processes import ALONE, Ranks
from softrsa.errors import DataError
from softrsa.prediction import FineTuner
from softrsa.prediction.training import synced_batch_norm

SCRIPT = Path(__file__).with_name("two_ranks.py")
specification = importlib.util.spec_from_file_location("two_ranks", SCRIPT)
two_ranks = importlib.util.module_from_spec(specification)
specification.loader.exec_module(two_ranks)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def found(folder):
    """Be the first of two processes, in the environment that `torchrun` gives each."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    address = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    second = subprocess.Popen(  # noqa: S603
        [sys.executable, str(SCRIPT), str(folder)],
        env={**os.environ, **address, "RANK": "1", "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**address, "RANK": "0"}.items():
            patch.setenv(name, value)
        try:
            dist.init_process_group("gloo", timeout=timedelta(seconds=120))
            own = two_ranks.run(folder)
            _, errors = second.communicate(timeout=120)
        finally:
            second.kill()
            dist.destroy_process_group()
    assert second.returncode == 0, errors
    (folder / "errors.txt").write_text(errors)
    return own, torch.load(folder / "found.pt", weights_only=False)


@pytest.fixture(scope="module")
def alone(found):
    del found  # the process group has ended
    return two_ranks.fit_all()


@pytest.mark.parametrize("case", two_ranks.CASES, ids="-".join)
def test_gradients_are_those_of_one_process(case, found):
    """Parts of 5 and 6 samples; batch norm of the extractor and of the body in training."""
    expected = two_ranks.compute_gradients(*case, ALONE)
    expected = {name: value for name, value in expected.items() if value is not None}
    # float32 in one process is itself up to 1e-4 from float64 where a parameter's are small
    largest = max(value.abs().max().item() for value in expected.values())
    for of_rank in found:
        gradients = of_rank["gradients"][case]
        for name, value in expected.items():
            error = (gradients[name] - value).abs().max().item()
            if case[2] == "float64":
                assert error <= 1e-10 * value.abs().max().item(), name
            else:
                assert error <= 1e-5 * largest, name


@pytest.mark.parametrize("kind", ["trained", "frozen", "bank", "regressor", "one to validate"])
def test_fit_is_that_of_one_process(kind, found, alone):
    losses, predicted = alone[kind]
    for of_rank in found:
        assert of_rank["fits"][kind][0] == pytest.approx(losses, rel=1e-4)
        torch.testing.assert_close(of_rank["fits"][kind][1], predicted, rtol=1e-3, atol=1e-3)


def test_ranks_end_with_one_network(found):
    """Where no seed was given, their extractors differ at first, and each drops its own units."""
    first, second = (of_rank["fits"]["dropout"] for of_rank in found)
    assert first[0] == second[0]
    assert torch.equal(first[1], second[1])
    assert not first[2] & second[2]


@pytest.mark.usefixtures("found")
def test_first_rank_alone_writes_and_shows(folder):
    assert (folder / "of_rank_0.pt").exists()
    assert not (folder / "of_rank_1.pt").exists()
    assert "training:" not in (folder / "errors.txt").read_text()
    loaded = FineTuner.load(folder / "of_rank_0.pt", two_ranks.make_extractor())
    x, y = two_ranks.make_samples()
    expected = FineTuner(two_ranks.make_extractor(), max_epochs=1, random_state=0)
    expected = expected.fit((x[:5], y[:5])).predict(x)
    assert loaded.predict(x) == pytest.approx(expected, rel=0.01)  # a batch of 4


@pytest.mark.parametrize("n", [1, 2, 7, 12])
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_parts_are_a_partition_of_nearly_equal_size(n, size):
    parts = [range(n)[Ranks(rank, size).part(n)] for rank in range(size)]
    assert [row for part in parts for row in part] == list(range(n))
    lengths = [len(part) for part in parts]
    assert max(lengths) - min(lengths) <= 1


def test_batch_norm_is_of_its_own_kind_again_after_training():
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Linear(2, 2), nn.BatchNorm1d(2))
    kinds = [type(m) for m in network]

    def fail_within():
        with synced_batch_norm(network, Ranks(0, 2)):
            assert [type(m) for m in network] != kinds
            raise KeyError

    with pytest.raises(KeyError):
        fail_within()
    assert [type(m) for m in network] == kinds


def test_unknown_batch_norm_and_too_many_processes():
    class NormAndActivation(nn.BatchNorm2d):
        def forward(self, x):
            return super().forward(x).relu()

    unknown = pytest.raises(DataError, match="NormAndActivation is a batch norm of its own kind")
    with unknown, synced_batch_norm(nn.Sequential(NormAndActivation(3)), Ranks(0, 2)):
        pass
