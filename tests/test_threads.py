"""Pieces of work on cores: in order, none goes on after a failure, also in a fork."""

import threading
import time

import pytest
import torch

from softrsa._threads import map_on_cores

CPU = torch.device("cpu")


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_results_are_in_order_and_threads_are_restored():
    def work(item):
        time.sleep(0.01 * (5 - item))
        return item, torch.get_num_threads()

    found = map_on_cores(work, range(5), entries=10, device=CPU)
    assert found == [(item, 1) for item in range(5)]
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_after_a_failure_nothing_goes_on():
    done, started = [], threading.Event()

    def work(item):
        if item == 0:
            started.wait(10)
            raise KeyError("first")
        started.set()
        time.sleep(0.2)
        done.append(item)

    with pytest.raises(KeyError, match="first"):
        map_on_cores(work, range(50), entries=10, device=CPU)
    seen = list(done)
    assert 1 in seen  # what had begun was waited for
    assert len(seen) < 49  # what had not was not begun
    time.sleep(0.5)
    assert done == seen


@pytest.mark.usefixtures("two_threads")
def test_work_within_work_does_not_wait_for_itself():
    def outer(item):
        return sum(map_on_cores(lambda x: x * item, range(4), entries=10, device=CPU))

    assert map_on_cores(outer, range(8), entries=10, device=CPU) == [6 * i for i in range(8)]


def test_threads_do_not_wait_for_the_work_of_others():
    """Two callers of one thread each, as units on a dask worker: both must be at work at once."""
    both = threading.Barrier(2, timeout=20)

    def call():
        torch.set_num_threads(1)
        found.append(map_on_cores(lambda _: both.wait() >= 0, [0], entries=10, device=CPU))

    found, callers = [], [threading.Thread(target=call) for _ in range(2)]
    before = torch.get_num_threads()
    try:
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
    finally:
        torch.set_num_threads(before)
    assert found == [[True], [True]]
