"""Parts of a run in a folder, written by many threads at once."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import xarray as xr

from softrsa.alignment.store import Store


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
