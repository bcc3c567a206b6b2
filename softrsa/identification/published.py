"""Region identification as Lin & Kriegeskorte (2024) did it, optimism included."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import combinations
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor
from tqdm import tqdm

from softrsa.errors import DataError, unknown_name
from softrsa.identification.matching import (
    Items,
    draw_counts,
    match_scores,
    products,
    resampled_products,
)
from softrsa.identification.result import IdentificationResult
from softrsa.pairs import condense
from softrsa.transforms import geo_topological, geo_topological_type, geodesic

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TRANSFORMS = ("identity", "geo_topological", "geodesic")
TYPES = ("local", "global", "geometry", "topology", "intermediate")
STEPS = 20  # of l and u between 0 and 1
SAMPLES = 10  # thresholds of each type
RAISE = 1e-5  # of u, so that it is above l
PART = 100  # resamples at a time
NOTE = (
    "The published procedure is optimistic: thresholds are the best of a grid on the very data the "
    "accuracy is reported for, stimuli are not held out, rows and not subjects are resampled, and "
    "t lacks the square root of n. Use `published=False` for held-out accuracies."
)


class OptimisticWarning(UserWarning):
    """A published procedure that flatters its results was asked for by name."""


@dataclass(frozen=True)
class PublishedIdentification(IdentificationResult):
    """What the published procedure finds, which is optimistic.

    Attributes
    ----------
    data : Dataset
        `predicted` (transform, fold, item), names of regions; `resampled` (transform, resample),
        accuracies on resampled rows and stimuli; `chosen` (transform); `grid_accuracy` (lower,
        upper); for ten random thresholds of each type `type_accuracy` (type, sample),
        `type_lower`, `type_upper` and `type_resampled` (type, resample).
    """

    schema: ClassVar[str] = "published_identification/1"
    _kind: ClassVar = schema
    _what: ClassVar = "result of `identify_regions` with `published=True`"

    @property
    def table(self) -> pd.DataFrame:
        """Accuracy of every transform, and its standard deviation over resamples of rows."""
        right = (self.data["predicted"] == self.data["item_region"]).mean(["fold", "item"])
        return pd.DataFrame(
            {
                "transform": self.data["transform"].values,
                "accuracy": right.values,
                "accuracy_sd": self.data["resampled"].std("resample").values,
                "chance": self.chance,
                "chosen": self.data["chosen"].values,
            }
        )

    @property
    def types(self) -> pd.DataFrame:
        """Mean accuracy over thresholds of each type, and its standard deviation over resamples."""
        return pd.DataFrame(
            {
                "type": self.data["type"].values,
                "accuracy": self.data["type_accuracy"].mean("sample").values,
                "accuracy_sd": self.data["type_resampled"].std("resample").values,
            }
        )

    @property
    def comparisons(self) -> pd.DataFrame:
        """Types in pairs: mean over standard deviation of differences, taken for a t value.

        The degrees of freedom are the number of subjects; p is two-sided and not corrected.
        """
        from scipy.stats import t as t_distribution

        rows = []
        n = self.data.sizes["subject"]
        for a, b in combinations(self.data["type"].values, 2):
            accuracy = self.data["type_accuracy"]
            difference = (accuracy.sel(type=a) - accuracy.sel(type=b)).values
            spread = difference.std()
            t = difference.mean() / spread if spread > 0 else np.nan
            rows.append((a, b, difference.mean(), t, n, 2 * t_distribution.sf(abs(t), n)))
        return pd.DataFrame(rows, columns=["type", "other", "difference", "t", "df", "p"])

    def compare(self, transform: str, other: str) -> pd.Series:
        """Refuse: subjects were not resampled. `comparisons` has the published ones, of types."""
        raise DataError(
            f"The published procedure does not compare {transform!r} with {other!r}; it compares "
            "types of thresholds: see `comparisons`, or use `published=False`."
        )

    def plot(self, *, ax: Axes | None = None) -> Axes:
        """Draw accuracies and their standard deviations over resamples."""
        from softrsa.reports.identification_figures import plot_identification

        table = self.table
        table["rows_low"] = table["accuracy"] - table["accuracy_sd"]
        table["rows_high"] = table["accuracy"] + table["accuracy_sd"]
        return plot_identification(table, ax=ax)


def identify_as_published(
    items: Items, transforms: Sequence[str], *, n_resamples: int, seed: int, progress: bool
) -> PublishedIdentification:
    """Choose and report on the same data; see `identify_regions`."""
    _check(transforms, items)
    items = _in_order(items)
    warnings.warn(OptimisticWarning(NOTE), stacklevel=3)
    rdms = condense(items.rdms)
    resamples = _draw(items, n_resamples, seed)
    thresholds = _sample_types(np.random.default_rng((seed, 2)))
    with tqdm(total=len(transforms) + len(TYPES), desc="identify", disable=not progress) as bar:

        def counted(function: Callable[..., xr.Dataset], *arguments: object) -> xr.Dataset:
            found = function(*arguments, rdms, items, resamples)
            bar.update()
            return found

        searched = xr.concat([counted(_search, name) for name in transforms], "transform")
        sampled = xr.concat([counted(_sample, pairs) for pairs in thresholds], "type")
    grid = searched.get("grid_accuracy")
    if grid is not None:  # of one transform only
        searched["grid_accuracy"] = grid.max("transform")
    settings = {
        "published": True, "n_resamples": n_resamples, "seed": seed,
        "n_stimuli": items.rdms.shape[-1], "softrsa": version("softrsa"),
    }  # fmt: skip
    labels = xr.Dataset(
        coords={
            "transform": list(transforms),
            "type": list(TYPES),
            "subject": items.subjects,
            "item_subject": ("item", np.array(items.subjects)[items.subject]),
            "item_region": ("item", np.array(items.regions)[items.region]),
        },
        attrs={"note": NOTE, "settings": json.dumps(settings)},
    )
    return PublishedIdentification(labels.merge(searched).merge(sampled))


class Resamples(NamedTuple):
    """How often stimuli and rows of the data are in each resample."""

    stimuli: Tensor  # (n_resamples, n_stimuli)
    rows: Tensor  # (n_resamples, n_items)


def _draw(items: Items, n_resamples: int, seed: int) -> Resamples:
    rows = draw_counts(len(items.rdms), n_resamples, (seed, 1))
    return Resamples(draw_counts(items.rdms.shape[-1], n_resamples, seed), rows)


def _in_order(items: Items) -> Items:
    """Sort regions by name, as scikit-learn does, which takes the first of equally near ones."""
    names = sorted(items.regions)
    numbers = torch.tensor([names.index(name) for name in items.regions])
    return items._replace(region=numbers[items.region], regions=names)


def _search(transform: str, rdms: Tensor, items: Items, resamples: Resamples) -> xr.Dataset:
    """Take the first of the best candidates, and resample it."""
    best, label, accuracies = rdms, "", []
    for name, vectors in _candidates(transform, rdms, items.rdms.shape[-1]):
        accuracy = _accuracy(vectors, items)
        if not accuracies or accuracy > max(accuracies):
            best, label = vectors, name
        accuracies.append(accuracy)
    names = np.array(items.regions)
    found = xr.Dataset(
        {
            "predicted": (("fold", "item"), names[_predicted(best, items)][None]),
            "resampled": ("resample", _resample(best, items, resamples)),
            "chosen": label,
        }
    )
    if transform == "geo_topological":
        found["grid_accuracy"] = _on_grid(accuracies)
    return found


def _sample(
    thresholds: list[tuple[float, float]], rdms: Tensor, items: Items, resamples: Resamples
) -> xr.Dataset:
    """Accuracies at the random thresholds of a type; resampled, their mean."""
    vectors = [geo_topological(rdms, low, high) for low, high in thresholds]
    low, high = zip(*thresholds, strict=True)
    return xr.Dataset(
        {
            "type_accuracy": ("sample", [_accuracy(v, items) for v in vectors]),
            "type_resampled": (
                "resample", np.mean([_resample(v, items, resamples) for v in vectors], 0)
            ),
            "type_lower": ("sample", list(low)),
            "type_upper": ("sample", list(high)),
        }
    )  # fmt: skip


def _thresholds() -> list[tuple[float, float]]:
    """Lower ascending, for each upper descending from 1, as searched."""
    pairs = [(i / STEPS, j / STEPS) for i in range(STEPS) for j in range(STEPS, i, -1)]
    return [(low, high) for low, high in pairs if 0.01 < low + high < 1.99]


def _candidates(transform: str, rdms: Tensor, n_stimuli: int) -> Iterator[tuple[str, Tensor]]:
    """All that is searched, in the order of the search."""
    if transform == "identity":
        yield "", geo_topological(rdms, 0.0, 1.0)
    elif transform == "geo_topological":
        for low, high in _thresholds():
            label = f"l = {low:g}, u = {high:g}"
            yield label, geo_topological(rdms, low, min(high + RAISE, 1.0))
    else:
        for i in range(51):
            for keep in ("p_shortest", "p_nearest"):
                label = f"{keep.replace('_', '-')}, p = {i / 50:g}"
                yield label, geodesic(rdms, keep=keep, amount=i / 50, zero_edges="drop")
        for k in range(1, min(20, n_stimuli - 1) + 1):
            yield (
                f"k-nearest, k = {k}",
                geodesic(rdms, keep="k_nearest", amount=k, zero_edges="drop"),
            )


def _predicted(vectors: Tensor, items: Items) -> np.ndarray:
    """Region of the nearest centroid of the other subjects' RDMs, as `NearestCentroid`."""
    everything = torch.arange(len(vectors))
    gram = products(vectors, "centroid")
    scores = match_scores(gram, items.references([]), "centroid", everything)
    return scores.nan_to_num(-torch.inf).argmax(-1).numpy()


def _accuracy(vectors: Tensor, items: Items) -> float:
    return float((_predicted(vectors, items) == items.region.numpy()).mean())


def _resample(vectors: Tensor, items: Items, resamples: Resamples) -> np.ndarray:
    """Accuracies (n_resamples,) on pairs and rows that count as often as they were drawn."""
    of_region = (items.region == torch.arange(len(items.regions))[:, None]).to(vectors)
    found = []
    for part, counts in zip(*(counts.split(PART) for counts in resamples), strict=True):
        gram = resampled_products(vectors, "centroid", part)
        right = torch.zeros(len(counts), dtype=vectors.dtype)
        for subject in range(len(items.subjects)):
            own = items.of([subject])
            weights = counts.unsqueeze(1) * of_region * (items.subject != subject)
            weights = weights / weights.sum(-1, keepdim=True)  # NaN where a region is absent
            weights_gram = weights @ gram
            of_mean = (weights_gram * weights).sum(-1).unsqueeze(1)
            scores = 2 * weights_gram.mT.index_select(1, own) - of_mean
            chosen = scores.nan_to_num(-torch.inf, -torch.inf, -torch.inf).argmax(-1)
            right += ((chosen == items.region[own]) * counts[:, own]).sum(-1)
        found.append(right / counts.sum(-1))
    return torch.cat(found).numpy() if found else np.zeros(0)


def _sample_types(rng: np.random.Generator) -> list[list[tuple[float, float]]]:
    """Random thresholds of each type."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in TYPES}
    while any(len(of) < SAMPLES for of in found.values()):
        low, high = (round(float(x), 2) for x in sorted(rng.uniform(size=2)))
        high = min(high + RAISE, 1.0)
        if not 0.01 < low + high < 1.99:
            continue
        of = found[geo_topological_type(low, high)]
        if len(of) < SAMPLES:
            of.append((low, high))
    return list(found.values())


def _on_grid(accuracy: Sequence[float]) -> xr.DataArray:
    values = np.full((STEPS + 1, STEPS + 1), np.nan)
    for (low, high), share in zip(_thresholds(), accuracy, strict=True):
        values[round(low * STEPS), round(high * STEPS)] = share
    levels = np.arange(STEPS + 1) / STEPS
    return xr.DataArray(values, {"lower": levels, "upper": levels}, ("lower", "upper"))


def _check(transforms: Sequence[str], items: Items) -> None:
    for name in transforms:
        if name not in TRANSFORMS:
            raise unknown_name("published transform", name, TRANSFORMS)
    if len(items.subjects) < 2 or len(items.regions) < 2:
        raise DataError(
            "Region identification needs two subjects and two regions at least, got "
            f"{items.subjects} and {items.regions}."
        )
