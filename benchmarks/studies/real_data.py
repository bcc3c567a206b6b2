"""Held-out alignment on real data: every fixed and learned transform, ceilings and controls.

    python benchmarks/studies/real_data.py [--out FILE.csv]

with OPENBLAS_CORETYPE and OPENBLAS_L2_SIZE unset.

The 92 object images: EfficientNet-Lite0 block 7, block 13 and head (pooled final convolution),
monkey IT and the EVA model against human IT (4 subjects, mean of two sessions), Algonauts IT and
EVC (15 subjects); 60 training and 32 held-out stimuli, seeded splits. Macaque V4: blocks 4, 7 and
13 against 89 neurons (each z-scored over images), 900 training and 300 held-out images. Each pair
under centered Pearson and under Pearson with its row-offset share, and once more under centered
Pearson with the brain's stimuli shuffled. Prints one table per measure and what the issue asks for.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import time
import warnings
from collections.abc import Mapping

import pandas as pd
import torch

import softrsa
from softrsa import datasets
from softrsa.activations import load_model
from softrsa.alignment import FitSettings, RowOffsetWarning, align, random_splits

FIXED = ["identity", "centered", "geo_topological"]
TRANSFORMS = [*FIXED, "global", "instance", "selected"]
SHOWN = ["identity", "centered", "geo_topological", "global", "profile", "embedding", "selected"]
EFFICIENTNET = "efficientnet-lite0"


def activations(images: Mapping, layers: Mapping[str, str], pool: str = "flatten") -> dict:
    """Activations of the pretrained network by layer name."""
    model = load_model(EFFICIENTNET)
    found = softrsa.extract_activations(
        model.module, images, layers, preprocess=model.preprocess, pool=pool
    )
    return {
        name: found.isel(unit=(found["layer"] == name).values).reset_coords(drop=True)
        for name in layers
    }


def objects_pairs() -> tuple[dict, dict]:
    """Models and regions of the 92 object images."""
    human, algonauts = datasets.load("kriegeskorte92"), datasets.load("algonauts2019-92")
    models = activations(human.images, {"block7": "_blocks.7", "block13": "_blocks.13"})
    models |= activations(human.images, {"head": "_conv_head"}, pool="mean")
    models["monkey IT"] = human.regions["monkey IT"]
    models["EVA"] = human.layers.sel(layer="EVA", drop=True)
    regions = {"human IT": human.regions["human IT"]}
    regions |= {f"Algonauts {name}": part for name, part in algonauts.regions.items()}
    return models, regions


def v4_pairs() -> tuple[dict, dict]:
    """Blocks of the network and z-scored V4 neurons for the same images."""
    v4 = datasets.load("macaque-v4")
    models = activations(v4.images, {f"block{i}": f"_blocks.{i}" for i in (4, 7, 13)})
    neurons = v4.regions["V4"]
    z = (neurons - neurons.mean("stimulus")) / neurons.std("stimulus")
    return models, {"V4": z.astype("float64")}


def run(
    models: dict, regions: dict, splits: list, settings: FitSettings, **options
) -> pd.DataFrame:
    """Fit and score; profile and embedding gates apart, then together for the selection."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RowOffsetWarning)
        result = align(
            models, regions, transforms=TRANSFORMS, folds=splits, settings=settings,
            progress=True, **options,
        )  # fmt: skip
    table = result.table
    table["used"] = [
        "+".join(sorted(set(result.data["chosen"].sel(layer=a, region=b, transform=c).values)))
        for a, b, c in zip(table["layer"], table["region"], table["transform"], strict=True)
    ]
    return table


def with_units(models: dict) -> dict:
    """Keep models that have units, which an embedding gate needs."""
    return {name: part for name, part in models.items() if "unit" in part.dims}


def all_gates(
    models: dict, regions: dict, splits: list, steps: tuple, embedding: bool, **options
) -> pd.DataFrame:
    """Give one row per pair and transform, with the instance-wise one per kind of gate."""
    settings = FitSettings(gates=("profile",), steps=steps)
    table = run(models, regions, splits, settings, **options)
    table["transform"] = table["transform"].replace("instance", "profile")
    if not embedding:
        return table
    table = table[table["transform"] != "selected"]
    settings = FitSettings(gates=("embedding",), steps=steps, n_components=5)
    more = run(with_units(models), regions, splits, settings, **options)
    more["transform"] = more["transform"].replace("instance", "embedding")
    more = more[more["transform"].isin(["embedding", "selected"])]
    return pd.concat([table, more], ignore_index=True)


def show(table: pd.DataFrame, measure: str) -> None:
    """Print scores by pair and transform, and what they add up to."""
    wide = table.pivot_table(
        index=["region", "layer"], columns="transform", values="score", sort=False
    )
    wide = wide[[name for name in SHOWN if name in wide]]
    first = table[table["transform"] == "selected"].set_index(["region", "layer"])
    wide.insert(0, "RSA", first["rsa_score"])
    wide["best fixed"] = first["baseline_score"]
    wide["gain"] = wide["selected"] - wide["best fixed"]
    for name in ("row_offset_share", "ceiling_lower", "ceiling_upper"):
        wide[name] = first[name]
    print(f"\n{measure}\n{wide.to_string(float_format=lambda x: f'{x:.3f}')}")
    gain = wide["gain"]
    print(f"mean gain of selected over the best fixed baseline {gain.mean():+.4f}, "
          f"worst pair {gain.min():+.4f}, pairs {len(gain)}")  # fmt: skip


def main() -> None:
    """Run everything and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--splits", type=int, default=10, help="of the 92 images (%(default)s)")
    parser.add_argument("--v4-splits", type=int, default=1, help="of the V4 images (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the splits (%(default)s)")
    parser.add_argument("--last-step", type=int, default=80, help="of each fit (%(default)s)")
    parser.add_argument("--measures", default="centered_pearson,pearson,permuted")
    parser.add_argument("--only", choices=("objects", "v4"), help="one of the two data sets")
    parser.add_argument("--out", help="write all rows to this CSV file")
    arguments = parser.parse_args()
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    print(f"{time.strftime('%Y-%m-%d')} {platform.machine()} {torch.get_num_threads()} threads, "
          f"commit {commit.stdout.strip()}")  # fmt: skip
    steps = tuple(step for step in (5, 10, 20, 40, 80, 160) if step <= arguments.last_step)
    groups = []
    if arguments.only != "v4":
        splits = random_splits(92, 60, arguments.splits, seed=arguments.seed)
        groups.append((*objects_pairs(), splits, steps, False))
    if arguments.only != "objects":
        splits = random_splits(1200, 900, arguments.v4_splits, seed=arguments.seed)
        groups.append((*v4_pairs(), splits, steps, True))
    tables = []
    for name in arguments.measures.split(","):
        permute = name == "permuted"
        options = {"measure": "centered_pearson" if permute else name, "permute": permute}
        start = time.perf_counter()
        found = pd.concat([all_gates(*group, **options) for group in groups], ignore_index=True)
        tables.append(found.assign(run=name))
        show(found, f"{name} ({time.perf_counter() - start:.0f} s)")
        if arguments.out:
            pd.concat(tables).to_csv(arguments.out, index=False)


if __name__ == "__main__":
    main()
