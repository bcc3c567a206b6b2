"""Freeze partial correlations and regressions of pingouin 0.7.0 and mne-rsa 1.0.

In an environment of its own: `pip install pingouin==0.7.0 mne-rsa==1.0`, then
`python tests/reference/make_partial.py`. Writes partial.json beside this file.
"""

import json
from pathlib import Path

import numpy as np

FILE = Path(__file__).with_name("partial.json")
STIMULI = 9


def rdms() -> np.ndarray:
    """Five related RDMs (5, 36) with some ties: brain, model, three controls."""
    rng = np.random.default_rng(20260314)
    found = rng.random((5, STIMULI * (STIMULI - 1) // 2))
    found[0] += found[1] + found[2]
    found[1] += 0.7 * found[3]
    found[4] = np.round(4 * found[4])
    return found.round(6)


def main() -> None:
    """Compute and write."""
    import pandas as pd
    import pingouin
    from mne_rsa import rsa

    values = rdms()
    names = ["brain", "model", "c1", "c2", "c3"]
    frame = pd.DataFrame(values.T, columns=names)
    controls = names[2:]
    found: dict[str, object] = {"rdms": values.tolist()}
    for method in ("pearson", "spearman"):
        partial = pingouin.partial_corr(frame, "model", "brain", controls, method=method)
        semi = pingouin.partial_corr(frame, "model", "brain", x_covar=controls, method=method)
        found[f"pingouin_partial_{method}"] = float(partial["r"].iloc[0])
        found[f"pingouin_semipartial_{method}"] = float(semi["r"].iloc[0])
    for metric in ("partial", "partial-spearman", "regression"):
        scores = rsa(values[0], list(values[1:]), metric=metric)
        found[f"mne_rsa_{metric}"] = np.asarray(scores).ravel().tolist()
    FILE.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
