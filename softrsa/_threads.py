"""How many threads torch works with on small tensors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread_if(small: bool, device: torch.device) -> Iterator[None]:
    """Use one thread on a CPU where several would wait for each other more than they work."""
    before = torch.get_num_threads()
    try:
        if small and device.type == "cpu":
            torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(before)
