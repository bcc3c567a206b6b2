"""Make `banded_ridge.json`: himalaya 0.4.11's ridge with bands, leave-one-out for its folds.

In an environment of its own: ``pip install himalaya==0.4.11 scikit-learn``, then
``python tests/reference/banded_ridge.py``. Data are drawn again from their seed by the test.
"""

import json
from pathlib import Path

import numpy as np

FILE = Path(__file__).with_suffix(".json")
STRENGTHS = [0.1, 1.0, 10.0, 100.0]
WEIGHTS = [[0.5, 0.5], [0.9, 0.1], [0.1, 0.9], [0.99, 0.01]]
SHAPES = [(30, 4, 10), (20, 15, 25)]


def data(n: int, p: int, q: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two bands that predict three targets by different shares, and the targets."""
    rng = np.random.default_rng(n)
    x, y = rng.normal(size=(n, p)), rng.normal(size=(n, q))
    shares = np.array([1.0, 0.5, 0.0])
    targets = x @ rng.normal(size=(p, 3)) * shares + y @ rng.normal(size=(q, 3)) * (1 - shares)
    return x + 1, y, targets + rng.normal(size=(n, 3)) - 2


def main() -> None:
    """Compute and write."""
    from himalaya.ridge import solve_group_ridge_random_search
    from himalaya.scoring import l2_neg_loss
    from sklearn.model_selection import KFold

    found = []
    for shape in SHAPES:
        x, y, targets = data(*shape)
        deltas, weights, _, intercept = solve_group_ridge_random_search(
            [x, y], targets, n_iter=np.array(WEIGHTS), alphas=np.array(STRENGTHS),
            fit_intercept=True, score_func=l2_neg_loss, cv=KFold(shape[0]), return_weights=True,
            progress_bar=False, local_alpha=True,
        )  # fmt: skip
        predicted = np.concatenate([x, y], 1) @ weights + intercept
        error = ((targets - predicted) ** 2).sum(0)
        variance = ((targets - targets.mean(0)) ** 2).sum(0)
        found.append({"r2": (1 - error / variance).tolist(), "deltas": deltas.tolist()})
    FILE.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
