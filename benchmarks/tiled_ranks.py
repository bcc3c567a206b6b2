"""One rank of `tiled_speed.py`: the median time of an alignment step, as JSON on the first rank."""

from __future__ import annotations

import json
import sys
from statistics import median

import torch
import torch.distributed as dist
from _harness import seconds
from tiled_speed import ours


def main() -> None:
    """Time steps of a size, with so many threads."""
    n, threads = map(int, sys.argv[1:])
    torch.set_num_threads(threads)
    dist.init_process_group("gloo")
    run = ours(n, distributed=True)
    run()
    times = [seconds(run) for _ in range(5)]
    if dist.get_rank() == 0:
        print(json.dumps(median(times)))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
