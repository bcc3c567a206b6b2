"""Draw the figure of the README: the simulated data under three transforms.

python docs/readme_figure.py
"""

from __future__ import annotations

from pathlib import Path

import softrsa
from softrsa.io import atomic_path

TRANSFORMS = ["identity", "geo_topological", "instance"]


def main() -> None:
    """Align the simulated data and write readme_figure.png beside this script."""
    data = softrsa.datasets.load("simulated")
    result = softrsa.align(data.layers, data.regions, transforms=TRANSFORMS, progress=True)
    with atomic_path(Path(__file__).with_name("readme_figure.png")) as path:
        result.plot().savefig(path, dpi=150)


if __name__ == "__main__":
    main()
