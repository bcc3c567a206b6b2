"""Measure region identification on simulated networks and on EVC and IT of fifteen subjects.

    python benchmarks/studies/region_identification.py [--only PART[,PART ...]]

The parts are networks, noise, stimuli, algonauts and published.
Prints tables of accuracy with 95 % intervals over subjects, and differences between the learned
instance-wise SoftStep and every fixed statistic, paired by subject.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
import warnings
from pathlib import Path
from types import ModuleType

import pandas as pd
import torch
from torch import Tensor

from softrsa import datasets
from softrsa.alignment import IdentificationResult, OptimisticWarning, identify_regions
from softrsa.identification.identify import identification_curves

ROOT = Path(__file__).resolve().parents[2]
FIXED = ("identity", "centered", "geo_topological", "geodesic")
PARTS = ("networks", "noise", "stimuli", "algonauts", "published")
FOLDS = 5


def simulator() -> ModuleType:
    """Import datasets/digit-networks/make.py."""
    path = ROOT / "datasets" / "digit-networks" / "make.py"
    spec = importlib.util.spec_from_file_location("digit_networks", path)
    if spec is None or spec.loader is None:
        raise ImportError(path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def items(rdms: Tensor) -> tuple[Tensor, list[int], list[str]]:
    """RDMs (n_subjects, n_regions, n, n) as `identify_regions` wants them."""
    n_subjects, n_regions = rdms.shape[:2]
    subjects = [s for s in range(n_subjects) for _ in range(n_regions)]
    return rdms.flatten(0, 1), subjects, [f"layer{i + 1}" for i in range(n_regions)] * n_subjects


def show(title: str, result: IdentificationResult, seconds: float) -> None:
    """Print accuracies, and differences from the instance-wise SoftStep."""
    print(f"\n{title} ({seconds:.0f} s)")
    table = result.table
    print(table.to_string(index=False, float_format="{:.3f}".format))
    if "instance" not in set(table["transform"]):
        return
    others = [name for name in table["transform"] if name != "instance"]
    rows = {name: result.compare("instance", name) for name in others}
    print("instance less each of the others:")
    print(pd.DataFrame(rows).T.to_string(float_format="{:+.3f}".format), flush=True)


def run(title: str, rdms: Tensor, out: Path | None, **options: object) -> None:
    """Identify, show, and keep the result."""
    start = time.perf_counter()
    result = identify_regions(*items(rdms), **options)
    show(title, result, time.perf_counter() - start)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        result.to_netcdf(out / f"{title.replace(' ', '_').replace(',', '')}.nc")


def networks(make: ModuleType, responses: list[list[Tensor]], out: Path | None) -> None:
    """Run all transforms at noise level 0.2, with noise that varies between stimuli, and even."""
    for spread, transforms in ((make.SPREAD, None), (0.0, (*FIXED, "instance"))):
        rdms = make.noisy_rdms(responses, 0.2, spread=spread)
        title = f"networks, noise 0.2, spread {spread:g}"
        run(title, rdms, out, stimulus_folds=FOLDS, transform=transforms)


def noise(make: ModuleType, responses: list[list[Tensor]], out: Path | None) -> None:
    """Run fixed and instance-wise statistics at every noise level but the one above."""
    for level in (level for level in make.LEVELS if level != 0.2):
        run(
            f"networks, noise {level:g}, spread 1", make.noisy_rdms(responses, level), out,
            stimulus_folds=FOLDS, transform=(*FIXED, "instance"),
        )  # fmt: skip


def summary(curves: pd.DataFrame) -> str:
    """Accuracy by number of stimuli and transform."""
    mean = curves.groupby(["noise", "n_stimuli", "transform"], sort=False)["accuracy"].mean()
    return mean.unstack("transform").to_string(float_format="{:.3f}".format)


def stimuli(make: ModuleType, responses: list[list[Tensor]], out: Path | None) -> None:
    """Run fixed statistics on fewer stimuli."""
    del out
    curves = identification_curves(
        *items(make.noisy_rdms(responses, 0.2)), transform=FIXED, noise=(0.0,),
        n_stimuli=(20, 40, 60, 80, 100, 120), n_subsets=3, stimulus_folds=2, n_resamples=10,
    )  # fmt: skip
    print(f"\nnetworks, noise 0.2, spread 1, by number of stimuli (two folds)\n{summary(curves)}")


def algonauts(n_subsets: int) -> None:
    """Tell EVC from IT in 15 subjects, by random 30 of the 92 stimuli."""
    regions = datasets.load("algonauts2019-92").regions
    start = time.perf_counter()
    curves = identification_curves(
        regions, n_stimuli=(30,), n_subsets=n_subsets, n_resamples=10, progress=True,
        transform=(*FIXED, "instance"),
    )  # fmt: skip
    by_subject = curves.groupby(["transform", "subject"], sort=False)["accuracy"].mean()
    table = by_subject.unstack("transform")
    seconds = time.perf_counter() - start
    print(f"\nAlgonauts, EVC and IT, {n_subsets} subsets of 30 stimuli ({seconds:.0f} s)")
    rows = {}
    for name in table:
        paired = table["instance"] - table[name]
        rows[name] = {
            "accuracy": table[name].mean(),
            "se": table[name].sem(),
            "instance less it": paired.mean(),
            "se of that": paired.sem(),
        }
    print(pd.DataFrame(rows).T.to_string(float_format="{:.3f}".format), flush=True)


def published(make: ModuleType, responses: list[list[Tensor]], out: Path | None) -> None:
    """Run the published procedure at noise level 0.2, and beside it the same held out."""
    rdms = make.noisy_rdms(responses, 0.2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OptimisticWarning)
        start = time.perf_counter()
        result = identify_regions(*items(rdms), published=True, n_resamples=200)
    print(f"\nthe published procedure ({time.perf_counter() - start:.0f} s)")
    for table in (result.table, result.types, result.comparisons):
        print(table.to_string(index=False, float_format="{:.3f}".format), flush=True)
    run(
        "held out, nearest centroid", rdms, out, transform=FIXED[:1] + FIXED[2:], rule="centroid",
        stimulus_folds=2,
    )  # fmt: skip


def main() -> None:
    """Run the parts asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(PARTS), help="parts, comma-separated")
    parser.add_argument("--out", type=Path, help="folder for results as netCDF")
    parser.add_argument("--subsets", type=int, default=10, help="of the 92 stimuli (%(default)s)")
    arguments = parser.parse_args()
    parts = arguments.only.split(",")
    if "algonauts" in parts:
        algonauts(arguments.subsets)
    simulated = [part for part in (networks, noise, stimuli, published) if part.__name__ in parts]
    if simulated:
        make = simulator()
        responses = make.make_responses()
        for part in simulated:
            part(make, responses, arguments.out)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
