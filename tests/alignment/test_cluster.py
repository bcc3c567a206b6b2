"""align on a dask cluster and with a results store: same results, nothing lost, nothing wrong."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache, partial
from multiprocessing import forkserver, get_context

import numpy as np
import pytest
import torch
import xarray as xr

from softrsa.alignment import FitSettings, Split, align, cluster
from softrsa.alignment.cluster import Store, digest_code
from softrsa.alignment.responses import as_responses
from softrsa.alignment.settings import stimulus_folds
from softrsa.cli import main
from softrsa.errors import (
    DataError,
    DTypeError,
    FileFormatError,
    FileMissingError,
    FitError,
)
from softrsa.measures import Measure, pearson
from softrsa.transforms import Transform

QUICK = FitSettings(
    gates=("profile",), steps=(2, 4), inner_folds=2, n_quantiles=3, penalties=(1e-2,), grid=3
)
ONE_SPLIT = Split(torch.arange(12), torch.arange(12, 24))
OPTIONS = {
    "transforms": ["identity", "centered", "global"], "folds": [ONE_SPLIT], "settings": QUICK,
    "seed": 1,    "n_resamples": 20, "subjects": "leave_one_out",
}  # fmt: skip


@pytest.fixture(scope="module")
def sides(data):
    """Two layers; two regions with three and two subjects: ten units of one subject left out."""
    model, subjects = data
    return {"conv/1": model, "fc": model[:, :3]}, {"V4": subjects, "IT": subjects[:2]}


@pytest.fixture(scope="module")
def stored(sides, tmp_path_factory):
    """Give the result of a run with a store, and the folder."""
    folder = tmp_path_factory.mktemp("runs") / "store"
    return align(*sides, **OPTIONS, store=folder), folder


@pytest.fixture(scope="module")
def client():
    """Give two worker processes of one thread, in which torch would take two by itself.

    They are forked from a process that has imported torch, which takes seconds.
    """
    import dask
    from distributed import Client, LocalCluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "2")
        get_context("forkserver").set_forkserver_preload(["distributed", "softrsa.alignment"])
        forkserver.ensure_running()
    with (
        dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}),
        LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=":0", silence_logs="CRITICAL"
        ) as local,
        Client(local) as found,
    ):
        yield found


@pytest.fixture
def copied(stored, tmp_path):
    """Give a copy of the finished store, to do harm to."""
    return shutil.copytree(stored[1], tmp_path / "copy")


@pytest.fixture
def scored(monkeypatch):
    """Give the names of units that are computed in this process."""
    names, plain = [], cluster.score_apart

    def score_apart(runs, job, *rest):
        names.extend(run.name for run in runs)
        return plain(runs, job)

    monkeypatch.setattr(cluster, "score_apart", score_apart)
    return names


def assert_same(found, expected):
    """Fits that are batched otherwise differ in the last digits."""
    assert found.data.attrs == expected.data.attrs
    xr.testing.assert_allclose(found.data, expected.data, rtol=0, atol=1e-9)


def test_units_put_together_are_the_run_as_a_whole(sides, stored):
    """To 1e-12 where nothing is fitted; batches of fits differ by rounding."""
    whole, parts = align(*sides, **OPTIONS).data, stored[0].data
    assert parts.attrs == whole.attrs
    assert list(parts.data_vars) == list(whole.data_vars)
    # fitted transforms stay where they were fitted: of their RSMs nothing is kept
    fixed = ["identity", "centered"]
    xr.testing.assert_equal(
        parts["example_rsm"].sel(transform=fixed), whole["example_rsm"].sel(transform=fixed)
    )
    assert parts["example_rsm"].drop_sel(transform=fixed).isnull().all()
    parts, whole = (data.drop_vars("example_rsm") for data in (parts, whole))
    xr.testing.assert_allclose(parts, whole, rtol=0, atol=1e-5)
    fixed = {"transform": ["identity", "centered", "geo_topological"]}
    xr.testing.assert_allclose(
        parts.drop_vars(["subject_score", "resampled_score", "p_chance"]).sel(fixed),
        whole.drop_vars(["subject_score", "resampled_score", "p_chance"]).sel(fixed),
        rtol=0, atol=1e-12,
    )  # fmt: skip
    for name in ("subject_score", "resampled_score", "p_chance"):
        unfitted = {"transform": ["identity", "centered"]}
        found, expected = parts[name].sel(unfitted), whole[name].sel(unfitted)
        xr.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    assert np.isfinite(parts["score"].sel(region="IT", fold=[0, 1])).all()
    assert np.isnan(parts["score"].sel(region="IT", fold=2)).all()  # fewer subjects


def test_a_cluster_gives_the_same_and_data_travel_once(sides, stored, client, monkeypatch, capsys):
    monkeypatch.setattr(cluster, "DELAY", 0.0)
    sent, plain = [], client.scatter
    monkeypatch.setattr(
        client, "scatter", lambda data, **options: sent.append(data) or plain(data, **options)
    )
    found = align(*sides, **OPTIONS, client=client, progress=True)
    assert_same(found, stored[0])
    assert [one.rsms.shape[0] for one in sent] == [1, 1, 3, 2]  # layers, regions
    assert "100%" in capsys.readouterr().err


def test_a_unit_works_in_one_thread_and_leaves_the_others(monkeypatch):
    seen = []
    monkeypatch.setattr(cluster, "_named", lambda *_: seen.append(torch.get_num_threads()))
    side = as_responses(torch.randn(8, 3), similarity="l2", name="x", device=torch.device("cpu"))
    unit = ("layer", "region", 0, stimulus_folds(8, 2, seed=0)[0], (0,), (0,))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        cluster._score_remotely([unit], {"layer": side}, {"region": side}, None, "cpu")
        assert seen == [1]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_workers_killed_in_the_middle_lose_nothing(sides, stored, client, monkeypatch, tmp_path):
    """One as the first part is kept, later all, with the data that units need."""
    kept, killed, rounds = [], [], []
    write, one_round = Store.write, cluster._Cluster._round

    def write_and_kill(store, unit, part):
        write(store, unit, part)
        kept.append(unit)
        victims = {1: 1, 4: 2}.get(len(kept), 0)
        for pid in [*client.run(os.getpid).values()][:victims] if victims else ():
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

    def counted_round(dealt, pieces, keep, bar):
        rounds.append([run.name for piece in pieces for run in piece])
        return one_round(dealt, pieces, keep, bar)

    monkeypatch.setattr(Store, "write", write_and_kill)
    monkeypatch.setattr(cluster._Cluster, "_round", counted_round)
    found = align(*sides, **OPTIONS, client=client, store=tmp_path / "store")
    assert len(killed) >= 2  # the first may not be back yet when the others are
    assert not {*killed} & {*client.run(os.getpid).values()}
    assert_same(found, stored[0])
    assert len(kept) == len({*kept}) == 10  # each once
    assert len(rounds) >= 2
    assert not {*kept[:4]} & {*rounds[-1]}  # what was done was not sent again


def test_workers_that_always_die_end_the_run(sides, client, monkeypatch):
    monkeypatch.setattr(cluster._Cluster, "_round", lambda _cluster, runs, *_: runs)
    message = r"died 4 times in a row.*layer 'conv/1', region 'V4', fold 0, without subject '0'"
    with pytest.raises(FitError, match=message):
        align(*sides, **OPTIONS, client=client)


def test_an_error_of_a_unit_is_itself_and_named(sides, client):
    constant = torch.full((24, 24), 0.5, dtype=torch.float64).fill_diagonal_(1.0)
    layers = {"good": sides[0]["fc"], "flat": constant}

    def picky(training):
        if training().model.std() < 0.2:
            raise DataError("The layer is flat.")
        return torch.nn.Identity()

    row = Transform(name="picky", title="picky", words="a picky transform", fit=picky)
    message = r"^In layer 'flat', region 'IT', fold \d, .*: The layer is flat\.$"
    with pytest.raises(DataError, match=message):
        align(layers, {"IT": sides[1]["IT"]}, **OPTIONS | {"transforms": [row]}, client=client)


def test_a_resumed_run_computes_what_is_missing(sides, stored, copied, scored):
    parts = sorted(copied.glob("part-*.nc"))
    assert len(parts) == 10
    assert not list(copied.glob(".*"))
    parts[3].unlink()
    found = align(*sides, **OPTIONS, store=copied)
    assert len(scored) == 1
    assert_same(found, stored[0])
    align(*sides, **OPTIONS, store=copied)
    assert len(scored) == 1


def test_damaged_parts_are_computed_again(sides, stored, copied, scored):
    """Cut short; one score changed; empty; the part of another unit; that of another run."""
    parts = sorted(copied.glob("part-*.nc"))
    whole = parts[0].read_bytes()
    parts[0].write_bytes(whole[: len(whole) // 2])
    with xr.open_dataset(parts[1]) as file:
        data = file.load()
    data["score"][{"transform": 0}] += 0.25
    data.to_netcdf(parts[1])
    parts[2].write_bytes(b"")
    shutil.copy(parts[4], parts[3])
    with xr.open_dataset(parts[5]) as file:
        other = file.load().assign_attrs(run="0" * 64)
    other.to_netcdf(parts[5])
    found = align(*sides, **OPTIONS, store=copied)
    assert len(scored) == 5
    assert_same(found, stored[0])


class Held:
    __slots__ = ("value",)

    def __init__(self, value):
        self.value = value

    def method(self, x):
        return x * self.value


def closure(value):
    return lambda x: x * value


@pytest.mark.parametrize(
    "make",
    [
        closure, Held, np.float32, lambda v: {v}, range, lambda v: Held(v).method,
        lambda v: partial(pow, v), lambda v: cache(closure(v)), lambda v: torch.full((2,), v),
        lambda v: [closure(1), closure(v)], lambda v: (closure(1), Held(v), closure(2)),
    ],
)  # fmt: skip
def test_what_is_made_of_other_numbers_is_other_code(make):
    assert digest_code(make(3)) == digest_code(make(3))
    assert digest_code(make(3)) != digest_code(make(4))


def test_what_cannot_be_told_apart_is_refused():
    generator = torch.Generator()
    with pytest.raises(
        DTypeError, match=r"cannot tell one Generator from another.*without `store`"
    ):
        digest_code(lambda: generator)


def own_measure(power):
    def mine(x, y):
        return pearson(x**power, y)

    return Measure(function=mine, takes="vectors", range=(-1, 1), smallest_n=4, reference="here")


class Scaled(torch.nn.Module):
    def __init__(self, by):
        super().__init__()
        self.by = torch.nn.Parameter(torch.tensor(by))

    def forward(self, rsms, anchors=None):
        return rsms * self.by


def test_a_store_tells_functions_of_one_name_apart(sides, tmp_path):
    run = partial(align, *sides, folds=[ONE_SPLIT], n_resamples=0, store=tmp_path / "store")
    given = {"measure": own_measure(1), "transforms": [Scaled(2.0)]}
    first = run(**given)
    again = run(measure=own_measure(1), transforms=[Scaled(2.0)])
    xr.testing.assert_identical(first.data, again.data)
    with pytest.raises(FileFormatError, match="code 'measure mine' is not what it was"):
        run(**{**given, "measure": own_measure(3)})
    with pytest.raises(FileFormatError, match="code 'transform Scaled' is not what it was"):
        run(**{**given, "transforms": [Scaled(3.0)]})


def test_the_store_of_another_run_is_refused(sides, copied, tmp_path):
    layers, regions = sides
    with pytest.raises(FileFormatError, match=r"seed is 1 there and 2 here"):
        align(layers, regions, **{**OPTIONS, "seed": 2}, store=copied)
    finer = {**OPTIONS, "settings": replace(QUICK, grid=4)}
    with pytest.raises(FileFormatError, match=r"grid is '3' there and '4' here"):
        align(layers, regions, **finer, store=copied)
    changed = {**regions, "V4": [regions["V4"][0] + 1e-9, *regions["V4"][1:]]}
    with pytest.raises(FileFormatError, match=r"another run: region 'V4' has other data\. Choose"):
        align(layers, changed, **OPTIONS, store=copied)
    with pytest.raises(FileFormatError, match=r"layer 'fc' is only there; layer 'b' is only here"):
        align({"conv/1": layers["conv/1"], "b": layers["fc"]}, regions, **OPTIONS, store=copied)
    (copied / "run.json").write_text("{")
    with pytest.raises(FileFormatError, match=r"run\.json cannot be read"):
        align(layers, regions, **OPTIONS, store=copied)
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(FileFormatError, match=r"is no results store: it has no run\.json"):
        align(layers, regions, **OPTIONS, store=tmp_path)


def test_a_part_deleted_while_others_are_computed(sides, copied, monkeypatch):
    plain = Store.read
    seen = []

    def read(store, unit):
        seen.append(unit)
        return None if len(seen) == 11 else plain(store, unit)  # reading all again

    monkeypatch.setattr(Store, "read", read)
    with pytest.raises(FileMissingError, match=r"layer 'conv/1', region 'V4', fold 0.*was deleted"):
        align(*sides, **OPTIONS, store=copied)


def test_measures_on_features_too(sides, tmp_path):
    whole = align(*sides, measure="linear_cka", folds=[ONE_SPLIT])
    parts = align(*sides, measure="linear_cka", folds=[ONE_SPLIT], store=tmp_path / "store")
    xr.testing.assert_allclose(parts.data, whole.data, rtol=0, atol=1e-12)


def test_what_is_no_client(sides, monkeypatch, capsys, tmp_path):
    with pytest.raises(DTypeError, match=r"must be a `distributed\.Client`, got str"):
        align(*sides, client="tcp://10.0.0.1:8786")
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(FileMissingError, match=r"pip install softrsa\[distributed\]"):
        align(*sides, client="tcp://10.0.0.1:8786")
    command = ["align", "--demo", "--out", str(tmp_path / "out"), "--workers"]
    assert main([*command, "2"]) == 2
    assert "pip install softrsa[distributed]" in capsys.readouterr().err
    assert main([*command, "0"]) == 2
    assert "--workers must be at least 1, got 0" in capsys.readouterr().err


def test_the_command_keeps_a_store(tmp_path, scored):
    command = [
        "align", "--demo", "--quiet", "--transform", "centered", "--folds", "2", "--resamples", "0",
        "--layers", "layer1", "--regions", "early",
        "--out", str(tmp_path / "out"), "--store", str(tmp_path / "store"),
    ]  # fmt: skip
    assert main(command) == 0
    done = len(scored)
    assert done == len(list((tmp_path / "store").glob("part-*.nc"))) == 2
    assert main(command) == 0
    assert len(scored) == done


def test_threads_write_and_read_parts_at_the_same_time(tmp_path):
    # netCDF-C crashed here while each thread wrote its own file
    store = Store.open(tmp_path, {"seed": 0})
    values = np.random.default_rng(0).normal(size=(10, 50, 50))
    labels = {"x": [f"name {i}" for i in range(50)]}
    part = xr.Dataset({f"v{i}": (("x", "y"), one) for i, one in enumerate(values)}, labels)

    def work(worker):
        for i in range(25):
            store.write(f"{worker}-{i}", part)
            found = store.read(f"{worker}-{i}")
            xr.testing.assert_equal(found, part)
        return worker

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(4))) == [0, 1, 2, 3]
    assert len(list(tmp_path.glob("part-*.nc"))) == 100
