"""What an alignment takes in memory: estimated, measured, and said or refused before it starts."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr

from softrsa import _memory
from softrsa.alignment import align, memory
from softrsa.alignment.memory import MemoryEstimate, SideSize, check_memory, size_of
from softrsa.alignment.settings import Options, stimulus_folds
from softrsa.errors import MemoryLimitError
from softrsa.measures import get
from softrsa.transforms.on_rsms import as_chain

CPU = torch.device("cpu")


def options(*names, measure="pearson", n_resamples=0, subjects="pooled"):
    chains = tuple(as_chain(name) for name in names)
    return Options(chains, get(measure), n_resamples=n_resamples, subjects=subjects)


PLAIN = options("identity")
MEASURE = """
import json, sys, torch
from pathlib import Path
from softrsa.alignment import FitSettings, align, memory
n, names = int(sys.argv[1]), sys.argv[2].split(",")
def sides(n):
    rng = torch.Generator().manual_seed(0)
    make = lambda: torch.randn(n, 20, generator=rng)
    return {"layer": make()}, {"region": [make(), make()]}
settings = FitSettings(steps=(1,), inner_folds=2, gates=("profile",))
options = {"transforms": names, "folds": 2, "settings": settings, "n_resamples": int(sys.argv[3])}
align(*sides(24), **options)
said = []
sys.modules["softrsa.alignment.align"].check_memory = lambda found, *_, **__: said.append(found)
given = sides(n)
def peak():  # of this process; ru_maxrss is at least that of the parent
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
before = peak()
align(*given, **options)
print(json.dumps([said[0].needed, said[0].total, 1024 * (peak() - before)]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.slow
@pytest.mark.parametrize(
    ("n", "names", "n_resamples"), [(500, "global", 100), (1000, "identity", 0)]
)
def test_what_is_measured_lies_between_the_estimates(n, names, n_resamples):
    """What is needed, and that with what the C library may keep; how much it keeps varies."""
    command = [sys.executable, "-c", MEASURE, str(n), names, str(n_resamples)]
    found = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    needed, total, measured = json.loads(found.stdout)
    assert needed / 1.5 < measured < 1.5 * total, (needed, measured, total)


def test_rsms_of_all_sides_in_float64():
    """Of 2 layers and a region of 3 subjects; units too where transforms are learned."""
    sides = [SideSize(1000, 1, 50)] * 2, [SideSize(1000, 3, 2000)]
    common = {"train_share": 0.8, "n_runs": 10, "cores": 1}
    fixed = memory.estimate_memory(*sides, PLAIN, **common)
    assert fixed.sides == 5 * 8e6
    learned = options("selected")
    units = 2 * 1000 * 50 * 8 + 3 * 1000 * 1000 * 8
    points = 2 * 2 * 1000 * 50 * 8  # of the layers, and their components
    assert memory.estimate_memory(*sides, learned, **common).sides == 5 * 8e6 + units + points
    one_out = options("identity", subjects="leave_one_out")
    left_out = memory.estimate_memory(*sides, one_out, **common)
    assert left_out.sides == fixed.sides + 3 * 2 * 8e6


def test_more_cores_stimuli_and_resamples_take_more():
    def work(n=2000, cores=1, n_resamples=0, names=("identity",)):
        job = options(*names, n_resamples=n_resamples)
        sides = [SideSize(n, 1, 50)], [SideSize(n, 8, 50)]
        found = memory.estimate_memory(*sides, job, train_share=0.5, n_runs=4, cores=cores)
        return found.work

    assert work(cores=2) > work()
    assert work(cores=64) == work(cores=4)  # there are no more runs
    assert work(n=4000) > 2 * work()
    assert work(n_resamples=10000) > work(n_resamples=10)
    assert work(names=("instance",)) > work()


def test_sizes_are_read_from_shapes():
    values = np.zeros((4, 6), "float32")
    array = xr.DataArray(
        values, dims=("stimulus", "unit"), coords={"subject": ("unit", list("aabbcc"))}
    )
    stack = xr.DataArray(np.zeros((3, 4, 4)), dims=("subject", "anchor", "neighbor"))
    assert size_of(array, "subject") == SideSize(4, 3, 2)
    assert size_of(stack, "subject") == SideSize(4, 3, 0)
    assert size_of(values, "subject") == SideSize(4, 1, 6)
    assert size_of([values, torch.zeros(4, 9)], "subject") == SideSize(4, 2, 9)
    assert size_of(torch.zeros(5, 4, 4), "subject") == SideSize(4, 5, 4)


def test_pieces_the_library_may_keep_refuse_no_run(capsys):
    estimate = MemoryEstimate(1e9, 1e9, kept=2e9)
    check_memory(estimate, 2.5e9, device=CPU, said=True)
    assert "about 4.0 GB" in capsys.readouterr().err
    with pytest.raises(MemoryLimitError, match=r"needs 2\.0 GB of memory .* and 1\.5 GB are"):
        check_memory(estimate, 1.5e9, device=CPU, said=False)


def test_measures_on_features_need_little():
    job = options("identity", measure="linear_cka")
    sides = [SideSize(1700, 1, 20)], [SideSize(1700, 1, 20)]
    found = memory.estimate_memory(*sides, job, train_share=0.8, n_runs=5, cores=1)
    assert 0.1e9 < found.total < 0.25e9  # 0.16 were measured


def test_large_runs_are_announced_in_one_line(capsys):
    large, small = MemoryEstimate(2e9, 1e9), MemoryEstimate(2e8, 1e8)
    check_memory(large, 8e9, device=CPU, said=True)
    assert capsys.readouterr().err == (
        "This run will take about 3.0 GB of memory (2.0 GB for RSMs and units, 1.0 GB for fits, "
        "scores and resamples); 8.0 GB are available.\n"
    )
    check_memory(large, 8e9, device=CPU, said=False)
    check_memory(small, 8e9, device=CPU, said=True)
    check_memory(large, None, device=CPU, said=False)
    assert capsys.readouterr().err == ""


def test_a_run_that_cannot_fit_does_not_start(monkeypatch, data):
    module = sys.modules["softrsa.alignment.align"]
    monkeypatch.setattr(module, "available_memory", lambda device: 1e5)
    monkeypatch.setattr(module, "as_responses", None)  # nothing is computed
    message = r"needs 0\.06 GB of memory .* and 0\.00 GB are available on cpu\. Use fewer stimuli"
    with pytest.raises(MemoryLimitError, match=message):
        align(*data, transforms=["identity"])
    monkeypatch.setattr(module, "available_memory", lambda device: 1e9)
    with pytest.raises(TypeError, match="NoneType"):
        align(*data, transforms=["identity"])


def test_splits_of_ones_own_count(data):
    parts = {"a": data[0]}, {"b": data[1]}
    five = memory.estimate_of_run(parts, PLAIN, elsewhere=False)
    own_folds = replace(PLAIN, folds=tuple(stimulus_folds(24, 4, seed=0)))
    own = memory.estimate_of_run(parts, own_folds, elsewhere=False)
    assert own.work != five.work
    assert own.sides == five.sides == 4 * 24 * 24 * 8


def test_the_limit_of_a_container(tmp_path, monkeypatch):
    monkeypatch.setattr(_memory, "CGROUP", tmp_path)
    monkeypatch.setattr(_memory, "PROCESS_GROUPS", tmp_path / "none")
    monkeypatch.setattr(_memory, "_of_system", lambda: 8e9)
    assert _memory.available_memory(CPU) == 8e9
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("5000000000\n")
    (tmp_path / "memory" / "memory.usage_in_bytes").write_text("3000000000\n")
    (tmp_path / "memory" / "memory.stat").write_text("rss 1\ntotal_inactive_file 500000000\n")
    assert _memory.available_memory(CPU) == 2.5e9
    (tmp_path / "memory.max").write_text("1000000000\n")
    (tmp_path / "memory.current").write_text("900000000\n")
    (tmp_path / "memory.stat").write_text("anon 5\ninactive_file 0\n")
    assert _memory.available_memory(CPU) == 1e8
    (tmp_path / "memory.max").write_text("max\n")
    assert _memory.available_memory(CPU) == 2.5e9


def test_the_least_limit_of_nested_groups(tmp_path, monkeypatch):
    """Slurm and systemd put the limit of a job into a group within groups."""
    (tmp_path / "proc").write_text("4:memory:/job\n0::/slurm/job7/step\n")
    monkeypatch.setattr(_memory, "PROCESS_GROUPS", tmp_path / "proc")
    monkeypatch.setattr(_memory, "CGROUP", tmp_path)
    monkeypatch.setattr(_memory, "_of_system", lambda: 8e9)
    for group, limit in (("slurm", 5e9), ("slurm/job7", 3e9), ("slurm/job7/step", None)):
        folder = tmp_path / group
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "memory.max").write_text("max" if limit is None else f"{limit:.0f}")
        (folder / "memory.current").write_text("1000000000")
        (folder / "memory.stat").write_text("inactive_file 0")
    assert _memory.available_memory(CPU) == 2e9
