"""Measure what learned similarities and soft steps find, where it is known and where it is not.

    python benchmarks/studies/learned_similarity.py [--only TABLE[,TABLE ...]] [--quick]

One table per question; seeds and splits are in this file.

v4          macaque V4, two sessions, blocks of a network: what transforms gain, by which score;
            gates in other ways and on one side; the brain's stimuli shuffled
objects     the 92 images: blocks of a network, human IT, Algonauts EVC and IT
amount      how much data learning needs: V4 with 60 to 900 training images
truth       what each transform finds where it is known
identify    are regions told apart better? `identify_regions` on simulated networks under both kinds
            of noise, and on EVC and IT of fifteen subjects

`simulated_truth` makes data of which it is known what relates the two sides, and how well the best
description of it could score.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import time
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Literal, get_args

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor

import softrsa
from softrsa import datasets
from softrsa.activations import load_model
from softrsa.alignment import (
    FitSettings,
    align,
    identification_curves,
    identify_regions,
    random_splits,
)
from softrsa.measures import get
from softrsa.rsm import similarity_matrix
from softrsa.transforms import double_center, soft_step

ROOT = Path(__file__).resolve().parents[2]
Kind = Literal["metric", "warp", "both", "scale", "nothing"]
KINDS: tuple[Kind, ...] = get_args(Kind)
WARP = (0.52, 0.68, 0.3)  # lower, upper, transition, of similarities (1 + r) / 2
POWER = 0.6  # of what the known map does to the order of components
FACTOR_SD = 0.6  # of the logarithm of the known factor per stimulus


@dataclass(frozen=True)
class SimulatedTruth:
    """A model and a brain whose relation is known.

    Attributes
    ----------
    kind : str
        What relates them, as `simulated_truth` says.
    model_units : Tensor, shape (n_stimuli, n_units)
        The model's responses, float64; plain RSA takes their correlations.
    brain_units : Tensor, shape (n_stimuli, n_brain_units), or None
        The brain's noisy responses; None where the truth is one of similarities ("warp", "both",
        "scale").
    brain_rsm : Tensor, shape (n_stimuli, n_stimuli)
        The brain's noisy similarities, symmetric, 1 on the diagonal but for "scale".
    oracle_rsm : Tensor, shape (n_stimuli, n_stimuli), or None
        Similarities that who knew the truth would predict from the model, without noise; None for
        "nothing".
    weights : Tensor, shape (n_units, n_brain_units), or None
        The linear map, where there is one.
    factor : Tensor, shape (n_stimuli,), or None
        The factor per stimulus, where there is one.
    """

    kind: Kind
    model_units: Tensor = field(repr=False)
    brain_units: Tensor | None = field(repr=False)
    brain_rsm: Tensor = field(repr=False)
    oracle_rsm: Tensor | None = field(repr=False)
    weights: Tensor | None = field(default=None, repr=False)
    factor: Tensor | None = field(default=None, repr=False)

    @property
    def ids(self) -> list[str]:
        """Ids of the stimuli."""
        return [f"s{i:04d}" for i in range(len(self.model_units))]

    @property
    def layers(self) -> xr.DataArray:
        """The model as `align` takes it: one layer."""
        n_units = self.model_units.shape[1]
        return xr.DataArray(
            self.model_units.numpy(), dims=("stimulus", "unit"),
            coords={"stimulus": self.ids, "layer": ("unit", ["layer"] * n_units)},
        )  # fmt: skip

    @property
    def regions(self) -> dict[str, xr.DataArray]:
        """The brain as `align` takes it: units where there are any, similarities otherwise."""
        if self.brain_units is not None:
            array = xr.DataArray(
                self.brain_units.numpy(), dims=("stimulus", "unit"), coords={"stimulus": self.ids}
            )
        else:
            array = xr.DataArray(
                self.brain_rsm.numpy()[None], dims=("subject", "anchor", "neighbor"),
                coords={"subject": ["brain"], "anchor": self.ids, "neighbor": self.ids},
                attrs={"kind": "rsm"},
            )  # fmt: skip
        return {"brain": array}

    def oracle_score(self, between: Callable[[Tensor, Tensor], Tensor], stimuli: Tensor) -> float:
        """Score of the oracle on some stimuli, under a measure of square RSMs; NaN for "nothing".

        ``between`` is that of a measure: ``softrsa.measures.get("centered_pearson").between``.
        """
        if self.oracle_rsm is None:
            return float("nan")
        parts = (rsm[stimuli[:, None], stimuli] for rsm in (self.oracle_rsm, self.brain_rsm))
        return float(between(*parts))


def simulated_truth(
    kind: Kind,
    seed: int,
    *,
    n_stimuli: int = 200,
    n_units: int = 40,
    n_brain_units: int = 40,
    noise: float = 0.3,
) -> SimulatedTruth:
    """Make data whose truth is known.

    The model's responses are Gaussian, with standard deviations that fall from 1 to .1 over
    components which are mixed by a rotation.

    "metric"
        The brain's responses are a linear map of the model's, in which the components with small
        standard deviations count most, and noise: a linear map of the model is the truth.
    "warp"
        The brain's similarities are a soft step (`WARP`) of the model's, and noise.
    "both"
        The soft step of the similarities after the map.
    "scale"
        The brain's similarities are the model's, double-centered, times one factor for each of the
        two stimuli, and noise. The factor's logarithm is the model's first component, so gates that
        read the model's responses can find it, but it is no geometry: nothing may be claimed. The
        oracle has the factor, whose score is therefore the most that the shortcut can reach.
    "nothing"
        The brain's responses have nothing to do with the model's.

    Parameters
    ----------
    kind : str
        What relates the two sides.
    seed : int
        Of everything drawn.
    n_stimuli, n_units, n_brain_units : int
        Numbers of stimuli and units.
    noise : float
        Standard deviation of the noise, in that of what it is added to (responses, or off-diagonal
        similarities).

    Returns
    -------
    SimulatedTruth
        The same for the same arguments.
    """
    if kind not in KINDS:
        raise ValueError(f"`kind` must be one of {', '.join(KINDS)}, got {kind!r}.")
    rng = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    spread = torch.logspace(0, -1, n_units, dtype=torch.float64)
    components = normal(n_stimuli, n_units) * spread
    rotation = torch.linalg.qr(normal(n_units, n_units)).Q
    model = components @ rotation
    # with a power of 1 components would get each other's standard deviations, with 1 / 2 all one
    read = (
        (spread.flip(0) / spread).pow(POWER)[:, None]
        * normal(n_units, n_brain_units)
        / n_units**0.5
    )
    weights = rotation.mT @ read

    def noisy(rsm: Tensor) -> Tensor:
        off = ~torch.eye(n_stimuli, dtype=torch.bool)
        drawn = normal(n_stimuli, n_stimuli)
        return rsm + noise * rsm[off].std() * (drawn + drawn.mT) / 2**0.5 * off

    def warped(rsm: Tensor) -> Tensor:
        return soft_step((1 + rsm) / 2, *torch.tensor(WARP, dtype=torch.float64))

    if kind in ("metric", "nothing"):
        signal = (model if kind == "metric" else normal(n_stimuli, n_units)) @ weights
        brain = signal + noise * signal.std() * normal(n_stimuli, n_brain_units)
        oracle = similarity_matrix(signal) if kind == "metric" else None
        known = weights if kind == "metric" else None
        return SimulatedTruth(kind, model, brain, similarity_matrix(brain), oracle, known)
    if kind == "scale":
        factor = (FACTOR_SD * components[:, 0] / components[:, 0].std()).exp()
        oracle = double_center(similarity_matrix(model)) * factor.outer(factor)
        return SimulatedTruth(kind, model, None, noisy(oracle), oracle, factor=factor)
    oracle = warped(similarity_matrix(model if kind == "warp" else model @ weights))
    known = weights if kind == "both" else None
    return SimulatedTruth(kind, model, None, noisy(oracle), oracle, known)


IDENTIFY = ("identity", "centered", "geo_topological", "geodesic", "framed", "global", "instance")
NAMES = {
    "identity": "RSA", "centered": "centered", "geo_topological": "RGTM", "geodesic": "RGDM",
    "framed": "Framed RSA", "global": "SoftStep, global", "instance": "SoftStep, instance-wise",
}  # fmt: skip
NOISE_LEVEL, FOLDS = 0.2, 5
SUBSETS, SUBSET = 4, 30  # of the 92 stimuli


def simulator() -> ModuleType:
    """Import datasets/digit-networks/make.py."""
    path = ROOT / "datasets" / "digit-networks" / "make.py"
    spec = importlib.util.spec_from_file_location("digit_networks", path)
    if spec is None or spec.loader is None:
        raise ImportError(path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def euclidean(units: list[Tensor]) -> Tensor:
    """Squared Euclidean RDMs, to tell what the frame adds from what its distance does."""
    return torch.stack([-similarity_matrix(x, similarity="sqeuclidean") for x in units])


def networks(responses: list[list[Tensor]], make: ModuleType, spread: float, quick: bool) -> dict:
    """Accuracy of every transform in the simulated networks, by subject."""
    noisy = make.noisy_responses(responses, NOISE_LEVEL, spread=spread)
    units = [x for layers in noisy for x in layers]
    subjects = [f"network{i}" for i, layers in enumerate(noisy) for _ in layers]
    regions = [f"layer{i + 1}" for layers in noisy for i in range(len(layers))]
    rdms = torch.stack([1 - similarity_matrix(x) for x in units])
    options = {"stimulus_folds": FOLDS, "n_resamples": 100}
    found = identify_regions(
        rdms, subjects, regions, units=units, transform=IDENTIFY[:5] if quick else IDENTIFY,
        **options,
    ).by_subject  # fmt: skip
    plain = identify_regions(euclidean(units), subjects, regions, transform="identity", **options)
    columns = {NAMES[name]: found[name] for name in found}
    return {"RSA, squared Euclidean": plain.by_subject["identity"], **columns}


def algonauts(quick: bool) -> dict:
    """Accuracy of every transform of RDMs in the fifteen subjects (there are no units)."""
    regions = datasets.load("algonauts2019-92").regions
    names = [name for name in IDENTIFY if name != "framed"]
    curves = identification_curves(
        regions, n_stimuli=(SUBSET,), n_subsets=2 if quick else SUBSETS, n_resamples=1,
        transform=names[:4] if quick else names, progress=True,
    )  # fmt: skip
    mean = curves.groupby(["transform", "subject"], sort=False)["accuracy"].mean()
    return {NAMES[name]: mean[name] for name in names if name in mean.index}


def identify(quick: bool) -> None:
    """Question 3: whether regions are told apart better."""
    make = simulator()
    responses = make.make_responses()
    parts: dict[str, Callable[[], dict]] = {
        "noise varies": lambda: networks(responses, make, make.SPREAD, quick),
        "noise even": lambda: networks(responses, make, 0.0, quick),
        "EVC, IT": lambda: algonauts(quick),
    }
    rows: dict[str, dict[str, str]] = {}
    for title, run in parts.items():
        found = run()
        for name, accuracy in found.items():
            less = accuracy - found["RSA"]
            rows.setdefault(name, {})[title] = (
                f"{accuracy.mean():.3f} ({less.mean():+.3f} ± {less.sem():.3f})"
            )
        print(f"\nRegions identified after {title!r}: mean over subjects (less RSA ± its SE)")
        print(pd.DataFrame(rows).T.fillna("").to_string(), flush=True)


SESSIONS = ("201025", "210225")
SEEDS = (201, 202, 203)  # of splits that nothing was chosen on
SCORES = ("score", "per_anchor_score", "balanced_score", "identification")
SHORT = {"score": "centered", "per_anchor_score": "per anchor", "balanced_score": "balanced"}
MAPS = ("identity", "geo_topological", "reweighted", "metric", "encoding", "selected")
STEPPED = ("identity", "instance", "metric", "metric+instance")
GATES = {
    "kept (default)": FitSettings(gates=("embedding",), n_components=5),
    "model's side": FitSettings(gates=("embedding",), n_components=5, sides="model"),
    "brain's side": FitSettings(gates=("embedding",), n_components=5, sides="brain"),
    "S2": FitSettings(gates=("embedding",), n_components=5, family="s2"),
    "balanced": FitSettings(
        gates=("embedding",), n_components=5, keep_stimuli=False, gate_measure="balanced_pearson"
    ),
    "free": FitSettings(gates=("embedding",), n_components=5, keep_stimuli=False),
}


def data_folder() -> Path:
    """Where the real data are."""
    return Path(os.environ.get("SOFTRSA_DATA", ROOT.parent / "shared" / "data"))


def shown(images: dict, layers: dict[str, str], pool: str = "flatten") -> dict[str, xr.DataArray]:
    """Activations of the pretrained network by layer name, in the order of the images."""
    model = load_model("efficientnet-lite0")
    found = softrsa.extract_activations(
        model.module, images, layers, preprocess=model.preprocess, pool=pool
    ).sel(stimulus=[*images])
    return {
        name: found.isel(unit=(found["layer"] == name).values).reset_coords(drop=True)
        for name in layers
    }


def v4_session(session: str, blocks: tuple[int, ...]) -> tuple[dict, dict]:
    """Blocks of the network, and neurons z-scored over images."""
    from PIL import Image

    folder = data_folder() / "macaque_v4"
    with zipfile.ZipFile(folder / f"images_{session}.zip") as archive:
        images = {
            Path(name).stem: np.asarray(Image.open(BytesIO(archive.read(name))).convert("RGB"))
            for name in sorted(archive.namelist())
        }
    rates = np.load(folder / f"responses_avg_{session}.npy").T
    z = (rates - rates.mean(0)) / rates.std(0)
    neurons = xr.DataArray(z, dims=("stimulus", "unit"), coords={"stimulus": [*images]})
    return shown(images, {f"block{i}": f"_blocks.{i}" for i in blocks}), {"V4": neurons}


def gains(table: pd.DataFrame) -> pd.DataFrame:
    """Scores less those of the best fixed transform, by pair and transform."""
    fixed = table[table["transform"].isin(["identity", "centered", "geo_topological"])]
    keys = ["region", "layer"]
    best = fixed.loc[fixed.groupby(keys)["score"].idxmax()].set_index(keys)[[*SCORES]]
    found = table.set_index(keys)
    found[[*SCORES]] -= best.loc[found.index, [*SCORES]].values
    return found.reset_index()


def run(layers: dict, regions: dict, splits: list, transforms: tuple, **options) -> pd.DataFrame:
    """Align without resamples, and say what the scores are."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return align(
            layers, regions, transforms=[*transforms], folds=splits, n_resamples=0, progress=True,
            **options,
        ).table  # fmt: skip


def show(title: str, table: pd.DataFrame, by: list[str]) -> None:
    """Print mean scores and gains over the best fixed transform, and the worst of them."""
    print(f"\n{title}: gain over the best fixed transform, mean over layers (worst layer)")
    gained = gains(table).groupby(by, sort=False)[[*SCORES]].agg(["mean", "min"])
    rows = {
        name: {
            SHORT.get(score, score): f"{row[score, 'mean']:+.3f} ({row[score, 'min']:+.3f})"
            for score in SCORES
        }
        for name, row in gained.iterrows()
    }
    print(pd.DataFrame(rows).T.to_string(), flush=True)


def v4(quick: bool) -> None:
    """Question 1: macaque V4, fixed and learned, gates in several ways, permuted control."""
    blocks = (7,) if quick else (4, 7, 13)
    splits = [random_splits(1200, 900, 1, seed=seed)[0] for seed in SEEDS[: 1 if quick else None]]
    for session in SESSIONS:
        layers, regions = v4_session(session, blocks)
        table = run(layers, regions, splits, MAPS)
        plain = table[table["transform"] == "identity"].set_index("layer")
        print(f"\nV4, session {session}, plain RSA\n{plain[[*SCORES]].round(3).to_string()}")
        show(f"V4, session {session}", table, ["transform"])
        chosen = table[table["transform"] == "selected"].set_index("layer")["chosen"]
        print("selected:", ", ".join(f"{layer} {name}" for layer, name in chosen.items()))
        shuffled = run(layers, regions, splits, MAPS, permute=True)
        show(f"V4, session {session}, the brain's stimuli shuffled", shuffled, ["transform"])
        middle = {name: layers[name] for name in layers if name == "block7"}
        for name, settings in GATES.items():
            table = run(middle, regions, splits[:1], STEPPED, settings=settings)
            show(f"V4, session {session}, block 7, gates: {name}", table, ["transform"])


def objects(quick: bool) -> None:
    """Question 2: the 92 images."""
    human, algonauts_data = datasets.load("kriegeskorte92"), datasets.load("algonauts2019-92")
    layers = shown(human.images, {"block7": "_blocks.7", "block13": "_blocks.13"})
    layers |= shown(human.images, {"head": "_conv_head"}, pool="mean")
    regions = {"human IT": human.regions["human IT"]}
    regions |= {f"Algonauts {name}": part for name, part in algonauts_data.regions.items()}
    splits = random_splits(92, 60, 2 if quick else 10, seed=SEEDS[0])
    transforms = ("identity", "geo_topological", "global", "instance", "reweighted", "metric",
                  "metric+instance", "selected")  # fmt: skip
    table = run(layers, regions, splits, transforms)
    show("The 92 images", table, ["transform"])
    show("The 92 images, selected", table[table["transform"].isin(["selected", "identity",
         "centered", "geo_topological"])], ["transform", "region", "layer"])  # fmt: skip
    shuffled = run(layers, regions, splits[:4], transforms, permute=True)
    show("The 92 images, the brain's stimuli shuffled", shuffled, ["transform"])


def amount(quick: bool) -> None:
    """Question 4: how many training images learning needs, on the same 300 test images."""
    for session in SESSIONS[: 1 if quick else None]:
        layers, regions = v4_session(session, (7,))
        (split,) = random_splits(1200, 900, 1, seed=SEEDS[0])
        for n in (60, 240) if quick else (60, 120, 240, 480, 900):
            some = split._replace(train=split.train[:: len(split.train) // n][:n])
            table = run(layers, regions, [some], MAPS)
            show(f"V4, session {session}, block 7, {n} training images", table, ["transform"])


def truth(quick: bool) -> None:
    """Question 5: held-out scores where the truth is known, as share of the oracle's."""
    ways = {"default": FitSettings(), "free gates": FitSettings(keep_stimuli=False)}
    for kind in KINDS:
        for name, settings in ways.items():
            tables, oracle = [], []
            for seed in range(1 if quick else 3):
                known = simulated_truth(kind, seed)
                splits = random_splits(200, 140, 1, seed=seed)
                transforms = ["identity", "geo_topological", "global", "instance", "reweighted",
                              "metric", "metric+global", "metric+instance"]  # fmt: skip
                if known.brain_units is not None:
                    transforms.append("encoding")
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    result = align(
                        known.layers, known.regions, transforms=[*transforms, "selected"],
                        folds=splits, n_resamples=0, settings=settings,
                    )  # fmt: skip
                tables.append(result.table)
                between = get("centered_pearson").between
                oracle.append(known.oracle_score(between, splits[0].test))
            mean = pd.concat(tables).groupby("transform", sort=False)[[*SCORES]].mean()
            raised = any("stimulus-scale" in str(one.message) for one in caught)
            print(
                f"\n{kind}, {name}: oracle {np.mean(oracle):.3f}; stimulus-scale warning: {raised}"
            )
            mean["of the oracle"] = mean["score"] / np.mean(oracle)
            print(mean.round(3).to_string(), flush=True)


TABLES = {"v4": v4, "objects": objects, "amount": amount, "truth": truth, "identify": identify}


def main() -> None:
    """Print the tables asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default=",".join(TABLES), help="tables, comma-separated")
    parser.add_argument("--quick", action="store_true", help="less of everything, fixed only")
    arguments = parser.parse_args()
    for name in arguments.only.split(","):
        start = time.perf_counter()
        TABLES[name](arguments.quick)
        print(f"({name}: {time.perf_counter() - start:.0f} s)", flush=True)


if __name__ == "__main__":
    np.set_printoptions(precision=3)
    main()
