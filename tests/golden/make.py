"""Small results of everything public, frozen so that moving code about cannot change them unseen.

    python tests/golden/make.py [GROUP ...]            how far today's results are from the frozen
    python tests/golden/make.py --write [GROUP ...]    freeze today's

One JSON file per group, floats in full precision. Under `OMP_NUM_THREADS=1` on the machine that
froze them the first command shows differences of 0 where nothing was changed. Only public names are
used. Data are the simulated ones that softrsa carries, or drawn by NumPy, whose normal numbers are
the same on every processor.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor, nn

from softrsa import Aligner, SoftStep, align, datasets
from softrsa.alignment import (
    AlignmentLoss,
    FewStimuliWarning,
    FitSettings,
    Split,
    identify_regions,
    tiled_noise_ceiling,
    tiled_scores,
)
from softrsa.inference import (
    bootstrap,
    compare_models,
    crossvalidate,
    evaluate,
    noise_ceiling,
    noise_ceiling_test,
    permutation_test,
    weighted_rsm_model,
)
from softrsa.prediction import NeighborRegressor, make_task, run_experiment
from softrsa.rsm import similarity_matrix
from softrsa.synthesis import optimize_to_score
from softrsa.transforms import GlobalGate

Arrays = dict[str, np.ndarray]
FOLDER = Path(__file__).resolve().parent
FIXED = ["identity", "centered", "geo_topological"]
LEARNED = ["global", "instance", "selected"]
# few and short steps, before rounding has grown
SHORT = FitSettings(steps=(2, 5), learning_rate=0.02, inner_folds=2, grid=6)
SCORES = [
    "score", "score_se", "train_score", "rsa_score", "baseline_score", "gain", "row_offset_share",
    "ceiling_lower", "ceiling_upper", "all_stimuli_score",
]  # fmt: skip
RESAMPLED = ["score_low", "score_high", "p_chance"]


@cache
def demo(dtype: str = "float64") -> tuple[dict[str, xr.DataArray], dict[str, xr.DataArray]]:
    """Two layers and two regions of the simulated data, 60 stimuli and four subjects.

    They are stored as float32, and RSMs are computed in the type of the data: as float64 they are
    the same on all processors up to 1e-15.
    """
    data = datasets.load("simulated", progress=False)
    layers = data.layers.astype(dtype)
    return (
        {name: layers[:, layers["layer"] == name] for name in ("layer1", "layer3")},
        {name: data.regions[name].astype(dtype) for name in ("early", "late")},
    )


def columns(table: pd.DataFrame, names: list[str], prefix: str = "") -> Arrays:
    """Columns of a table by name."""
    return {prefix + name: table[name].to_numpy() for name in names}


def align_fixed() -> Arrays:
    """Fixed transforms under several measures, with intervals."""
    layers, regions = demo()
    values: Arrays = {}
    for measure in ("centered_pearson", "pearson", "spearman", "cosine", "whitened_pearson"):
        table = align(
            layers,
            regions,
            transforms=FIXED,
            measure=measure,
            folds=3,
            n_resamples=20,
            settings=SHORT,
        ).table
        values |= columns(table, SCORES + RESAMPLED, f"{measure} ")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FewStimuliWarning)
        for measure in ("linear_cka", "ridge_predictivity"):
            table = align(layers, regions, measure=measure, folds=3).table
            values |= columns(table, ["score", "score_se"], f"{measure} ")
    return values


def align_single() -> Arrays:
    """The simulated data as they come, in single precision."""
    layers, regions = demo("float32")
    values: Arrays = {}
    for measure in ("centered_pearson", "spearman"):
        result = align(
            layers,
            regions,
            transforms=FIXED,
            measure=measure,
            folds=3,
            n_resamples=0,
            settings=SHORT,
        )
        values |= columns(result.table, SCORES, f"{measure} ")
    return values


def align_ways() -> Arrays:
    """Other ways to give data and to split them."""
    layers, regions = demo()
    layer, early = layers["layer1"], regions["early"]
    activity = torch.from_numpy(early.values[:, :60]).double()
    rsm = similarity_matrix(torch.from_numpy(layer.values).double())
    half = torch.arange(60) < 30
    splits = [Split(half.nonzero()[:, 0], (~half).nonzero()[:, 0])]
    calls: dict[str, dict[str, Any]] = {
        "leave_one_out": {"regions": regions, "subjects": "leave_one_out"},
        "permuted": {"regions": regions, "permute": True},
        "intersection": {"regions": {"early": early[5:]}, "join": "intersection"},
        "sqeuclidean": {"regions": regions, "similarity": "sqeuclidean"},
        "own_folds": {"regions": regions, "folds": splits},
        "rsm": {"layers": {"layer1": rsm}, "regions": {"early": activity}},
        "rdm": {"layers": {"layer1": 1 - rsm}, "regions": {"early": activity}},
    }
    values: Arrays = {}
    for name, given in calls.items():
        options = {"layers": {"layer1": layer}, "folds": 3, "transforms": FIXED, **given}
        values |= columns(align(**options, n_resamples=0, settings=SHORT).table, SCORES, f"{name} ")
    return values


def align_learned() -> Arrays:
    """Learned transforms after a few steps, and "selected" among all."""
    layers, regions = demo()
    result = align(layers, regions, folds=2, n_resamples=0, settings=SHORT)
    table = result.table.query("transform in @LEARNED")
    names = ["score", "train_score", "row_offset_share", "ceiling_lower", "ceiling_upper"]
    return columns(table, names)


def _halves() -> tuple[xr.DataArray, xr.DataArray, xr.DataArray, xr.DataArray]:
    layers, regions = demo()
    model, brain = layers["layer3"], regions["late"]
    return model[:40], brain[:40], model[40:], brain[40:]


def _aligner_values(aligner: Aligner) -> Arrays:
    model, brain, new_model, new_brain = _halves()
    return {
        "score": np.array(aligner.score(new_model, new_brain)),
        "training score": np.array(aligner.score(model, brain)),
        "train_score_": np.array(aligner.train_score_),
        "model": aligner.transform_model(new_model)[:4, :4].numpy(),
        "brain": aligner.transform_brain(new_brain)[:, :3, :3].numpy(),
    }


def _fitted(transform: str) -> Aligner:
    model, brain, _, _ = _halves()
    return Aligner(transform, settings=SHORT, tiled=False).fit(model, brain)


def _aligners(transforms: list[str]) -> Arrays:
    values: Arrays = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "aligner.pt"
        for transform in transforms:
            aligner = _fitted(transform)
            ours = _aligner_values(aligner)
            values |= {f"{transform} {name}": value for name, value in ours.items()}
            aligner.save(path)
            again = _aligner_values(Aligner.load(path))
            apart = max(float(np.abs(again[name] - value).max()) for name, value in ours.items())
            values[f"{transform} loaded less saved"] = np.array(apart)
    return values


def aligner_fixed() -> Arrays:
    """Fit, score, transform, save and load with fixed transforms."""
    return _aligners(FIXED)


def aligner_learned() -> Arrays:
    """The same, learned."""
    return _aligners(LEARNED)


SAVED = ("geo_topological", "global", "instance")


def aligner_files() -> Arrays:
    """What Aligners that were saved when this was frozen say today."""
    values: Arrays = {}
    for transform in SAVED:
        aligner = Aligner.load(FOLDER / f"aligner_{transform}.pt")
        values |= {f"{transform} {k}": v for k, v in _aligner_values(aligner).items()}
    return values


def loss() -> Arrays:
    """AlignmentLoss and its gradient."""
    rng = np.random.default_rng(3)
    model = torch.from_numpy(rng.normal(size=(12, 5))).requires_grad_()
    brain = torch.from_numpy(rng.normal(size=(12, 6)))
    value = AlignmentLoss()(model, brain)
    value.backward()
    assert model.grad is not None
    return {"value": value.detach().numpy(), "gradient": model.grad.numpy()}


def stacks() -> tuple[Tensor, Tensor]:
    """RDMs of three models and five subjects, 12 stimuli."""
    rng = np.random.default_rng(1)
    points = rng.normal(size=(12, 6))
    weights = rng.uniform(0.2, 2, size=(8, 1, 6))
    seen = points * weights + 0.7 * rng.normal(size=(8, 12, 6))
    rdms = torch.from_numpy(np.linalg.norm(seen[:, :, None] - seen[:, None], axis=-1))
    return rdms[:3], rdms[3:]


ON_RDMS = (
    "pearson", "cosine", "spearman", "centered_pearson", "whitened_pearson", "whitened_cosine",
    "rho_a", "kendall_tau_a", "kendall_tau_b",
)  # fmt: skip
QUICK_RESAMPLED = ON_RDMS[:7]


def inference() -> Arrays:
    """Scores, ceilings, intervals, permutations, comparisons and flexible models."""
    models, subjects = stacks()
    values: Arrays = {}
    for measure in ON_RDMS:
        for pool in ("normalized", "raw"):
            ceiling = noise_ceiling(subjects, measure, pool=pool)
            values[f"noise_ceiling {measure} {pool}"] = torch.stack(ceiling).numpy()
        n = 60 if measure in QUICK_RESAMPLED else 8
        result = bootstrap(models, subjects, measure, over="both", n_resamples=n)
        names = [
            "score", "score_se", "ci_low", "ci_high", "percentile_low", "percentile_high",
            "ceiling_lower", "ceiling_upper",
        ]  # fmt: skip
        values |= columns(result.table, names, f"bootstrap {measure} ")
        permuted = permutation_test(models, subjects, measure, n_permutations=n)
        values |= columns(
            permuted.table, ["score", "p_permutation", "p_permutation_fwer"], f"permuted {measure} "
        )
        permuted_scores = permuted.data["permuted_score"].transpose("permutation", "model").values
        values[f"permuted {measure} first"] = permuted_scores[:3]
    return values | _comparisons(models, subjects)


def _comparisons(models: Tensor, subjects: Tensor) -> Arrays:
    values: Arrays = {}
    for over in ("stimuli", "subjects"):
        result = bootstrap(models, subjects, "pearson", over=over, n_resamples=60)
        values |= columns(result.table, ["score_se", "ci_low", "ci_high"], f"bootstrap {over} ")
        for test in ("bootstrap", "percentile"):
            compared = compare_models(result, test=test, correction="fdr")
            values |= _compared(compared, f"{test} {over} ")
    plain = evaluate(models, subjects, "centered_pearson")
    for test in ("t", "wilcoxon"):
        values |= _compared(compare_models(plain, test=test, correction="fwer"), f"{test} ")
    agreement = noise_ceiling_test(subjects, "spearman", n_permutations=50)
    values["noise_ceiling_test"] = np.array([agreement.lower, agreement.p])
    weighted = weighted_rsm_model(models, name="weighted")
    result = crossvalidate([weighted], subjects, "cosine", stimulus_folds=3)
    return values | columns(result.table, ["score", "score_se", "ceiling_lower"], "weighted ")


def _compared(result: Any, prefix: str) -> Arrays:
    pairs = ["difference", "effect_size", "p", "p_corrected"]
    return columns(result.comparisons, pairs, prefix) | columns(
        result.table, ["p_zero", "p_ceiling"], prefix
    )


def _regions_of_subjects() -> tuple[Tensor, list[int], list[str]]:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(3, 16, 4))
    seen = points + 1.2 * rng.normal(size=(5, *points.shape))
    rdms = np.linalg.norm(seen[:, :, :, None] - seen[:, :, None], axis=-1).reshape(15, 16, 16)
    return torch.from_numpy(rdms), np.repeat(range(5), 3).tolist(), ["V1", "V4", "IT"] * 5


def _identified(transforms: list[str], **options: Any) -> Arrays:
    rdms, subjects, regions = _regions_of_subjects()
    result = identify_regions(
        rdms, subjects, regions, transform=transforms, grid=4, n_resamples=20, **options
    )
    return {
        "predicted": result.data["predicted"].values.astype(str),
        "resampled": result.data["resampled"].transpose("transform", "subject", ...).mean(
            "resample"
        ).values,
        "accuracy": result.by_subject.to_numpy(),
        **columns(result.table, ["accuracy", "p"], "table "),
    }  # fmt: skip


def identify_fixed() -> Arrays:
    """Regions told apart by fixed statistics, by both rules."""
    values: Arrays = {}
    for rule in ("best_match", "centroid"):
        arrays = _identified([*FIXED, "geodesic"], rule=rule)
        values |= {f"{rule} {name}": value for name, value in arrays.items()}
    return values


def identify_learned() -> Arrays:
    """Regions told apart by learned transforms after a few small steps."""
    return _identified(["global", "instance"], steps=(2, 4), learning_rate=0.02)


def _samples() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 3))
    return x, x[:, 0] + 0.5 * np.sin(2 * x[:, 1]) + 0.1 * rng.normal(size=80)


def prediction() -> Arrays:
    """Heads fitted for three epochs, and rows of an experiment."""
    x, y = _samples()
    settings: dict[str, Any] = {
        "layers": (8, 4), "max_epochs": 3, "batch_size": 32, "learning_rate": 1e-3, "dropout": 0.0,
    }  # fmt: skip
    values: Arrays = {}
    for head in ("linear", "nca", "softstep-nca-global", "softstep-nca-instance", "diffknn-global"):
        model = NeighborRegressor(head, random_state=0, **settings).fit(x[:60], y[:60])
        values[f"{head} predicted"] = np.asarray(model.predict(x[60:]))
        values[f"{head} validation"] = np.array(model.validation_losses_)
    task = make_task("toy", "A toy", x, y)
    heads = ["linear", "ridge", "nca"]
    rows = run_experiment(task, heads=heads, splits=1, settings=settings).rows
    values["experiment methods"] = rows["method"].to_numpy(dtype=str)
    values["experiment mse"] = rows["mse"].to_numpy()
    return values


def tiled() -> Arrays:
    """Scores computed tile by tile, without and with a step, and their gradients."""
    rng = np.random.default_rng(5)
    shared = rng.normal(size=(40, 6))
    model, *brain = (
        torch.from_numpy(shared + 0.6 * rng.normal(size=shared.shape)) for _ in range(4)
    )
    step = SoftStep(GlobalGate())
    values: Arrays = {}
    for measure in ("centered_pearson", "pearson", "cosine", "whitened_pearson", "whitened_cosine"):
        values[measure] = tiled_scores(model, brain, measure=measure).numpy()
        options = {"measure": measure, "model_transform": step, "brain_transform": step}
        values[f"{measure} step"] = _with_gradient(model, brain, step, options)
        ceiling = tiled_noise_ceiling(brain, measure=measure)
        values[f"{measure} ceiling"] = torch.stack(ceiling).numpy()
    return values


def _with_gradient(
    model: Tensor, brain: list[Tensor], step: nn.Module, options: Mapping[str, Any]
) -> np.ndarray:
    """Scores, then the gradients of all parameters of the step."""
    scores = tiled_scores(model, brain, **options)
    gradients = torch.autograd.grad(scores.sum(), list(step.parameters()))
    parts = [scores.detach(), *gradients]
    return torch.cat([part.double().flatten() for part in parts]).numpy()


def _tiled_aligners(transforms: list[str]) -> Arrays:
    model, brain, new_model, new_brain = _halves()
    first = brain["subject"] == brain["subject"][0]
    values: Arrays = {}
    for transform in transforms:
        settings = replace(SHORT, keep_stimuli=False)  # as tiles do
        aligner = Aligner(transform, settings=settings, tiled=True).fit(model, brain[:, first])
        score = aligner.score(new_model, new_brain[:, first])
        values[transform] = np.array([score, aligner.train_score_])
    return values


def tiled_aligner_fixed() -> Arrays:
    """An Aligner in tiles: held-out and training score."""
    return _tiled_aligners(["identity", "centered"])


def tiled_aligner_learned() -> Arrays:
    """The same, learned."""
    return _tiled_aligners(["global", "instance"])


def synthesis() -> Arrays:
    """Features optimized for ten steps."""
    x = np.random.default_rng(2).normal(size=(20, 4))
    values: Arrays = {}
    for measure in ("linear_cka", "nbs", "centered_pearson", "angular_procrustes"):
        init = np.random.default_rng(4).normal(size=(2, 20, 4))
        result = optimize_to_score(
            x, measure, target=0.95 if measure != "angular_procrustes" else 0.9, init=init,
            n_restarts=2, max_steps=10, record=5,
        )  # fmt: skip
        values[f"{measure} scores"] = result.scores.numpy()
        values[f"{measure} features"] = result.recorded[-1, :, :3].numpy()
    return values


GROUPS: dict[str, Callable[[], Arrays]] = {
    group.__name__: group
    for group in (
        align_fixed, align_single, align_ways, align_learned, aligner_fixed, aligner_learned,
        aligner_files, loss, inference, identify_fixed, identify_learned, prediction, tiled,
        tiled_aligner_fixed, tiled_aligner_learned, synthesis,
    )
}  # fmt: skip


def compute(groups: list[str] | None = None) -> dict[str, Arrays]:
    """Compute today's results, by group."""
    return {name: GROUPS[name]() for name in groups or GROUPS}


def frozen(group: str) -> Arrays:
    """Read the frozen results of a group."""
    text = (FOLDER / f"{group}.json").read_text(encoding="utf-8")
    return {name: np.array(value) for name, value in json.loads(text).items()}


def write(group: str, arrays: Arrays) -> None:
    """Freeze results, one line for each array."""
    lines = [f"{json.dumps(k)}: {json.dumps(np.asarray(v).tolist())}" for k, v in arrays.items()]
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    (FOLDER / f"{group}.json").write_text(text, encoding="utf-8")


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Largest absolute difference; of words, 1 where one differs; infinite for other shapes."""
    if ours.shape != theirs.shape:
        return float("inf")
    if ours.dtype.kind not in "fiub" or theirs.dtype.kind not in "fiub":
        return float((ours != theirs).any())
    ours, theirs = ours.astype(float), theirs.astype(float)
    if (np.isnan(ours) != np.isnan(theirs)).any():
        return float("inf")
    return float(np.nan_to_num(np.abs(ours - theirs)).max(initial=0))


def main() -> None:
    """Compare with what is frozen, or freeze."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("groups", nargs="*", metavar="GROUP", help="all by default")
    parser.add_argument("--write", action="store_true", help="freeze today's results")
    arguments = parser.parse_args()
    if arguments.write and "aligner_files" in (arguments.groups or GROUPS):
        for transform in SAVED:
            _fitted(transform).save(FOLDER / f"aligner_{transform}.pt")
    for group in arguments.groups or GROUPS:
        arrays = GROUPS[group]()
        if arguments.write:
            write(group, arrays)
            continue
        before = frozen(group)
        apart = {
            name: difference(np.asarray(value), before[name])
            for name, value in arrays.items()
            if name in before
        }
        worst = max(apart, key=lambda name: apart[name])
        odd = sorted(arrays.keys() ^ before.keys())
        print(f"{group}: {apart[worst]:.1e} ({worst}){f', only on one side: {odd}' if odd else ''}")  # noqa: T201


if __name__ == "__main__":
    main()
