"""Draw every figure of softrsa once, and write the page that shows them with their code.

python docs/gallery.py
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import softrsa
from softrsa import reports
from softrsa.alignment import AlignmentResult, FitSettings, identify_regions
from softrsa.inference import (
    PartitionResult,
    bootstrap,
    compare_models,
    partition_variance,
    regress_rdms,
)
from softrsa.prediction import NeighborRegressor, friedman_nemenyi, make_surface
from softrsa.rsm import build_rsms
from softrsa.synthesis import captured_components, feasible_region, optimize_to_score

FOLDER = Path(__file__).resolve().parent / "gallery"
data = softrsa.datasets.load("simulated")


@cache
def aligned() -> AlignmentResult:
    """Align two layers with all regions, with a learned transform."""
    layers = data.layers[:, np.isin(data.layers["layer"], ["layer2", "layer4"])]
    quick = FitSettings(gates=("profile",), steps=(10, 20, 40), inner_folds=2)
    transforms = ["identity", "centered", "instance"]
    return softrsa.align(
        layers, data.regions, transforms=transforms, settings=quick, n_resamples=200
    )


def rsm() -> Axes:
    """One RSM."""
    matrix = build_rsms(data.regions["late"])
    return reports.plot_rsm(matrix, order="cluster")


def mds() -> Axes:
    """Which layers and regions lie together."""
    regions = {name: build_rsms(region, by="subject") for name, region in data.regions.items()}
    layers = {"layers": build_rsms(data.layers, by="layer")}
    return reports.plot_mds(layers | regions, measure="centered_pearson")


def profile() -> Axes:
    """Layers under one transform, with noise ceilings."""
    every = softrsa.align(data.layers, data.regions, transforms=["centered"], n_resamples=200)
    return reports.plot_profile(every.table)


def alignment() -> Figure:
    """All transforms side by side."""
    return aligned().plot()


def transforms() -> Figure:
    """Learned soft steps."""
    return aligned().plot_transforms()


def curve() -> Axes:
    """One learned step on both sides."""
    at = {"layer": "layer4", "region": "late", "transform": "instance"}
    return reports.plot_curve(aligned().data["curve"].sel(at))


@cache
def learned() -> AlignmentResult:
    """Learn the similarity of a layer, of which the region reads four units."""
    generator = torch.Generator().manual_seed(0)
    layer = torch.randn(120, 20, generator=generator) * torch.logspace(0, -1, 20)
    read = 5 * layer[:, [5, 7, 9, 11]] @ torch.randn(4, 30, generator=generator)
    region = read + torch.randn(120, 30, generator=generator)
    transforms = ["identity", "reweighted", "metric", "encoding"]
    return softrsa.align(
        {"layer": layer}, {"region": region}, transforms=transforms, folds=3, n_resamples=0
    )


def learned_similarity() -> Figure:
    """Weights of a learned similarity."""
    return reports.plot_learned_similarity(learned(), "layer", "region")


def beside() -> Axes:
    """Gains by four scores: geometry, or a shortcut."""
    return reports.plot_beside(learned())


def geo_topological_grid() -> Axes:
    """Which thresholds identify regions."""
    networks = softrsa.datasets.load("digit-networks").regions
    found = identify_regions(networks, transform="geo_topological", grid=5, n_resamples=100)
    return found.plot_grid()


def models() -> Axes:
    """Models with intervals, subjects and the noise ceiling."""
    layers = build_rsms(data.layers, by="layer")
    subjects = build_rsms(data.regions["late"], by="subject")
    return bootstrap(layers, subjects, "spearman", over="both", n_resamples=500, seed=0).plot()


def comparisons() -> Axes:
    """Which models differ."""
    layers = build_rsms(data.layers, by="layer")
    subjects = build_rsms(data.regions["late"], by="subject")
    result = bootstrap(layers, subjects, "spearman", over="both", n_resamples=500, seed=0)
    return compare_models(result, correction="fdr").plot_comparisons()


def coefficients() -> Axes:
    """Models in one regression."""
    layers = build_rsms(data.layers, by="layer")
    subjects = build_rsms(data.regions["late"], by="subject")
    return regress_rdms(layers, subjects, method="nnls", folds=None, n_resamples=200).plot()


@cache
def parted() -> PartitionResult:
    """Partition the variance of a region among early, middle and late layers."""
    layers = build_rsms(data.layers, by="layer")
    subjects = build_rsms(data.regions["late"], by="subject")
    ends = {"early": slice(0, 1), "middle": slice(1, 3), "late": slice(3, 4)}
    sets = {name: layers[one] for name, one in ends.items()}
    return partition_variance(sets, subjects, n_resamples=200)


def partition() -> Axes:
    """Variance that is unique to sets of models, and shared."""
    return parted().plot()


def venn() -> Axes:
    """Shared variance of two or three sets."""
    return parted().plot_venn()


def identification() -> Axes:
    """Regions identified in subjects left out."""
    networks = softrsa.datasets.load("digit-networks").regions
    return identify_regions(networks, transform=["identity", "centered"], n_resamples=200).plot()


def scores() -> Axes:
    """Random data on their way to a score."""
    x = torch.tensor(data.regions["late"].values[:, :20])
    return optimize_to_score(x, "nbs", target=0.9, seed=0).plot()


def capture() -> Axes:
    """At which score components of the data are held."""
    x = torch.tensor(data.regions["late"].values[:, :20])
    held = captured_components(optimize_to_score(x, "nbs", target=0.95, seed=0))
    return reports.plot_capture(held)


def region_of_scores() -> Axes:
    """Which pairs of scores can be had at all."""
    x = torch.randn(20, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = feasible_region(x, "linear_cka", "nbs", resolution=3, max_steps=300)
    return reports.plot_feasible_region(found)


def ranks() -> Axes:
    """Critical distances between methods."""
    errors = np.random.default_rng(0).normal([3, 2, 1.8, 1], 0.3, size=(12, 4))
    import pandas as pd

    table = pd.DataFrame(errors, columns=["linear", "nca", "softstep-nca-global", "diffknn-global"])
    return friedman_nemenyi(table).plot()


def neighbors() -> Axes:
    """Which training samples made a prediction."""
    surface = make_surface("radial")
    regressor = NeighborRegressor("nca", max_epochs=20, random_state=0)
    regressor.fit(surface.points, surface.labels)
    indices, weights = regressor.neighbors(surface.grid[:1], 5)
    return reports.plot_neighbors(
        weights[0], surface.labels[indices[0]], names=[f"sample {i}" for i in indices[0]],
        truth=float(surface.truth[0]),
    )  # fmt: skip


FIGURES: tuple[Callable[[], Axes | Figure], ...] = (
    rsm, mds, profile, alignment, transforms, curve, learned_similarity, beside,
    geo_topological_grid, models, comparisons, coefficients, partition, venn, identification,
    scores, capture, region_of_scores, ranks, neighbors,
)  # fmt: skip


def main() -> None:
    """Write a picture and a section for each figure."""
    FOLDER.mkdir(exist_ok=True)
    lines = [
        "# Gallery",
        "",
        "Every figure takes `ax=` where it is one panel, and gives it back.",
        "",
    ]
    for draw in FIGURES:
        found = draw()
        figure = found if isinstance(found, Figure) else found.figure
        figure.savefig(FOLDER / f"{draw.__name__}.png", dpi=110, bbox_inches="tight")
        title = (draw.__doc__ or "").strip().rstrip(".")
        code = "\n".join(inspect.getsource(draw).splitlines()[2:])
        code = inspect.cleandoc(f"\n{code}").replace("return ", "")
        lines += [
            f"## {title}",
            "",
            f"![{title}]({draw.__name__}.png)",
            "",
            "```python",
            code,
            "```",
            "",
        ]
    (FOLDER / "index.md").write_text("\n".join(lines), encoding="utf-8")
    sys.stderr.write(f"{len(FIGURES)} figures are in {FOLDER}\n")


if __name__ == "__main__":
    main()
