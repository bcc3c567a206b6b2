"""Make `soft_matching.json`: optimal transport between units by POT 0.9.7.

In an environment of its own: ``pip install POT==0.9.7.post1``, then
``python tests/reference/soft_matching.py``. Data are drawn again from their seed by the test.
"""

import json
from pathlib import Path

import numpy as np

FILE = Path(__file__).with_suffix(".json")
# numbers of units whose least common multiple is small, and not
SHAPES = [(12, 5, 5), (12, 4, 6), (8, 20, 3), (30, 61, 53)]


def data(n: int, p: int, q: int) -> tuple[np.ndarray, np.ndarray]:
    """Units that share some of their tuning."""
    rng = np.random.default_rng(n * p * q)
    sources = rng.normal(size=(n, 6))
    x, y = (sources @ rng.normal(size=(6, k)) + rng.normal(size=(n, k)) for k in (p, q))
    return x + 1, y


def main() -> None:
    """Compute and write."""
    import ot

    found = []
    for shape in SHAPES:
        x, y = (z - z.mean(0) for z in data(*shape))
        masses = np.full(shape[1], 1 / shape[1]), np.full(shape[2], 1 / shape[2])
        r = (x / np.linalg.norm(x, axis=0)).T @ (y / np.linalg.norm(y, axis=0))
        found.append(
            {
                "soft_matching": float(1 - ot.emd2(*masses, 1 - r, numItermax=10**7)),
                "soft_matching_distance": float(
                    ot.emd2(*masses, ot.dist(x.T, y.T), numItermax=10**7) ** 0.5
                ),
            }
        )
    FILE.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
