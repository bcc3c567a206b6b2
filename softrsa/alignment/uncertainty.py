"""Intervals of held-out scores and comparisons of them, from resampled scores."""

from __future__ import annotations

from itertools import combinations, product
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr

from softrsa.errors import DataError, unknown_name
from softrsa.inference import resampling_variances
from softrsa.inference.comparing import CORRECTIONS, adjusted

Over = Literal["auto", "both", "subjects", "stimuli"]
OVER = ("auto", "both", "subjects", "stimuli")
COMPARED = ("transform", "layer")


def intervals(data: xr.Dataset, *, over: Over = "auto", level: float = 0.95) -> xr.Dataset:
    """Give intervals of mean scores: `low`, `high` (layer, region, transform)."""
    if not 0 < level < 1:
        raise DataError(f"`level` must be between 0 and 1, got {level!r}, e.g. 0.95.")
    score = data["score"].mean("fold")
    reach = xr.full_like(score, np.nan)
    for layer, region in product(data["layer"].values, data["region"].values):
        at = {"layer": layer, "region": region}
        spread = _spread(data.sel(at), over, "transform")
        errors = [spread.error(one) for one in np.eye(data.sizes["transform"])]
        reach.loc[at] = np.array(errors) * _quantile(level, spread.df)
    return xr.Dataset({"low": score - reach, "high": score + reach})


def compare(
    data: xr.Dataset, by: str, *, over: Over, correction: str | None, level: float
) -> pd.DataFrame:
    """Compare all pairs of transforms or layers; see `AlignmentResult.compare`."""
    if by not in COMPARED:
        raise unknown_name("thing to compare", by, COMPARED)
    if correction not in CORRECTIONS:
        raise unknown_name("correction", correction, CORRECTIONS)
    if "resampled_score" not in data:
        raise DataError("Comparing needs resamples; call `align` with n_resamples=1000.")
    others = [dim for dim in ("layer", "region", "transform") if dim != by]
    shown = data.sel(transform=data.attrs["transforms"].split(","))
    tables = [
        _pairs(shown.sel({others[0]: one, others[1]: other}), by, over, level).assign(
            **{others[0]: one, others[1]: other}
        )
        for one in shown[others[0]].values
        for other in shown[others[1]].values
    ]
    table = pd.concat(tables, ignore_index=True)
    table["p_corrected"] = adjusted(table["p"].to_numpy(), correction)
    return table[
        [*others, by, "other", "difference", "low", "high", "p", "p_corrected", "effect_size"]
    ]


def _pairs(data: xr.Dataset, by: str, over: Over, level: float) -> pd.DataFrame:
    """Differences of all pairs along one dimension."""
    from scipy.stats import t

    names, means = data[by].values, data["score"].mean("fold").values
    by_subject = data["subject_score"].transpose(by, "tested_subject").values
    spread = _spread(data, over, by)
    unit = np.eye(len(names))
    rows = []
    for i, j in combinations(range(len(names)), 2):
        difference = means[i] - means[j]
        error = spread.error(unit[i] - unit[j])
        reach = error * _quantile(level, spread.df)
        rows.append(
            {
                by: names[i], "other": names[j], "difference": difference,
                "low": difference - reach, "high": difference + reach,
                "p": 2 * t.sf(abs(difference) / error, spread.df),
                "effect_size": _effect_size(by_subject[i] - by_subject[j]),
            }
        )  # fmt: skip
    return pd.DataFrame(
        rows, columns=[by, "other", "difference", "low", "high", "p", "effect_size"]
    )


_ROUNDING = 1e-14  # of the variance of differences between equal scores


def _effect_size(differences: np.ndarray) -> float:
    """Cohen's dz over the subjects there are; NaN for one, or equal differences."""
    known = differences[np.isfinite(differences)]
    if len(known) < 2 or np.ptp(known) < np.sqrt(_ROUNDING):
        return np.nan
    return float(known.mean() / known.std(ddof=1))


def _quantile(level: float, df: int) -> float:
    from scipy.stats import t

    return float(t.ppf((1 + level) / 2, df))


class _Spread(NamedTuple):
    """Covariances (k, k) of scores: as drawn, and of pairs of stimuli by themselves; df of t."""

    drawn: np.ndarray
    of_pairs: np.ndarray
    df: int

    def error(self, contrast: np.ndarray) -> float:
        """Give the standard error of a sum of scores so weighted; NaN where there is none.

        What a pair has of its own counts twice where stimuli are drawn, once for either stimulus.
        """
        drawn, own = (float(contrast @ each @ contrast) for each in (self.drawn, self.of_pairs))
        variance = max(drawn - own, own)
        return np.sqrt(variance) if variance > _ROUNDING else np.nan


def _spread(data: xr.Dataset, over: Over, by: str) -> _Spread:
    """How much scores along ``by`` vary when drawn anew; NaN where they were not resampled."""
    if over not in OVER:
        raise unknown_name("what to generalize over", over, OVER)
    k = data.sizes[by]
    undefined = _Spread(np.full((k, k), np.nan), np.zeros((k, k)), 1)
    n_subjects, n_stimuli = int(data["n_subjects"]), int(data.attrs["n_tested"])
    if over == "auto":
        over = "both" if n_subjects > 1 else "stimuli"
    if "resampled_score" not in data or (over != "stimuli" and n_subjects < 2):
        return undefined
    scores = data["resampled_score"].transpose("kind", "resample", by)
    drawn = scores.sel(kind=["both", "subjects", "stimuli"] if over == "both" else [over]).values
    found = resampling_variances(
        drawn, np.full((*drawn.shape[:2], 2), np.nan),
        n_subjects=None if over == "stimuli" else n_subjects,
        n_stimuli=None if over == "subjects" else n_stimuli,
    )  # fmt: skip
    own = found.models
    covariances = (own[:, None] + own - found.differences) / 2
    of_pairs = np.zeros((k, k))
    if over != "subjects":
        of_pairs = np.atleast_2d(np.cov(scores.sel(kind="pairs").values.T))
    sizes = {"both": min(n_subjects, n_stimuli), "subjects": n_subjects, "stimuli": n_stimuli}
    return _Spread(covariances, of_pairs, sizes[over] - 1)
