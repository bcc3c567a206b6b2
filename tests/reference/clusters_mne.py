"""Make `clusters_mne.json`: clusters and p of MNE-Python 1.13 on all sign flips of few subjects.

Run in an environment with MNE-Python and SciPy: ``python tests/reference/clusters_mne.py``. All
flips are counted where subjects are few, so that nothing is random. Two-sided, MNE-Python takes
half of the flips, as `cluster_test` does. One-sided, it counts the data twice, where rounding
lets it, and leaves out the flip of all subjects; so the null distribution is frozen too. Its maxima
of t are of absolute values whatever the side, and its enhancement with tail=-1 counts 0 for the
data: neither is frozen.
"""

import json
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array

FILE = Path(__file__).with_suffix(".json")
TAILS = {"two-sided": 0, "greater": 1, "less": -1}


def data(shape: tuple[int, ...]) -> np.ndarray:
    """Values of 7 subjects with an effect in the middle, of 6 digits, so that JSON holds them."""
    rng = np.random.default_rng(7)
    values = rng.normal(size=(7, *shape))
    middle = tuple(slice(n // 3, 2 * n // 3) for n in shape)
    values[(slice(None), *middle)] += 0.9
    return values.round(6)


def ring(k: int) -> np.ndarray:
    """Neighbors on a ring."""
    steps = np.abs(np.arange(k)[:, None] - np.arange(k))
    return np.isin(steps, (1, k - 1)).astype(int)


def run(values: np.ndarray, adjacency: np.ndarray | None, method: str, tail: int) -> dict:
    """Give statistic, masks, sums, p and the null distribution of one test."""
    from mne.stats import (
        permutation_cluster_1samp_test,
        permutation_t_test,
        spatio_temporal_cluster_1samp_test,
    )

    step = -0.2 if tail < 0 else 0.2
    options = {
        "threshold": {"start": 0, "step": step} if method == "tfce" else None,
        "n_permutations": 4096, "tail": tail, "out_type": "mask", "verbose": "error", "rng": 0,
    }  # fmt: skip
    if method == "max":
        t, p, null = permutation_t_test(
            values.reshape(len(values), -1), 4096, tail=tail, verbose="error", rng=0
        )
        return {"statistic": t.tolist(), "p": p.tolist(), "null": np.sort(null).tolist()}
    if adjacency is None:
        found = permutation_cluster_1samp_test(values, **options)
    else:
        found = spatio_temporal_cluster_1samp_test(
            values, adjacency=csr_array(adjacency), **options
        )
    statistic, clusters, p, null = found
    result = {"statistic": statistic.ravel().tolist(), "null": np.sort(null).tolist()}
    if method == "tfce":
        return result | {"p": p.tolist()}
    masks = [np.zeros(values.shape[1:], bool) for _ in clusters]
    for mask, cluster in zip(masks, clusters, strict=True):
        mask[cluster] = True
    sums = [float(statistic[mask].sum()) for mask in masks]
    return result | {
        "clusters": [np.flatnonzero(mask).tolist() for mask in masks], "mass": sums,
        "p": p.tolist(),
    }  # fmt: skip


def rounded(found):
    """Numbers with 12 digits behind the point."""
    if isinstance(found, dict):
        return {key: rounded(value) for key, value in found.items()}
    if isinstance(found, list):
        return [rounded(value) for value in found]
    return round(found, 12) if isinstance(found, float) else found


def main() -> None:
    """Freeze all cases."""
    import mne

    cases = {"line": ((40,), None), "grid": ((9, 8), None), "sensors": ((10, 6), ring(6))}
    found = {
        name: {
            "values": data(shape).tolist(),
            "adjacency": None if adjacency is None else adjacency.tolist(),
            **{
                f"{method} {alternative}": run(data(shape), adjacency, method, tail)
                for method in ("mass", "tfce", "max")
                for alternative, tail in TAILS.items()
                if tail == 0 or method == "mass" or (method, tail) == ("tfce", 1)
            },
        }
        for name, (shape, adjacency) in cases.items()
    }
    FILE.write_text(json.dumps({"mne": mne.__version__, **rounded(found)}) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
