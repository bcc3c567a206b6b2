"""Compare published ways to learn a similarity on data whose truth is known.

    python benchmarks/studies/learned_similarity_baselines.py [--seeds 3]

- feature-reweighted RSA (`softrsa.alignment.feature_reweighted_rsa`, Kaniuth & Hebart 2022), on the
  model's units and on its principal components, whose weights suit a rotation of the units;
- an SPD metric on principal components, after metric-learning encoding models (Jalouzot et al.,
  arXiv:2402.11608): squared distances of the brain are regressed on products of differences of two
  components, the matrix kept positive semidefinite. They descend on a rank correlation instead;
- voxel-encoding RSA: ridge regression to the brain's units, similarities of the predictions.

The SPD metric has no public name: `metric` of `softrsa.align` learns one with more care (its rank
is free, any measure is its objective, stimuli by the thousand), and two would be one too many.
"""

from __future__ import annotations

import argparse
import time
from itertools import product

import pandas as pd
import torch
from learned_similarity import KINDS, SimulatedTruth, simulated_truth
from torch import Tensor

from softrsa.alignment import Split, feature_reweighted_rsa, random_splits, stimulus_folds
from softrsa.measures import get
from softrsa.measures.predictivity import ridge
from softrsa.pairs import condense
from softrsa.rsm import similarity_matrix

MEASURES = ("centered_pearson", "pearson")
CHOSEN_BY = "centered_pearson"
N_TRAIN, INNER_FOLDS = 140, 3  # of 200 stimuli
RANKS, PENALTIES = (5, 10, 20, 40), (1e-3, 1e-2, 1e-1)
STEPS = 100  # of projected gradients, which stop early once nothing changes


def components(units: Tensor, train: Tensor, k: int) -> Tensor:
    """Coordinates of all stimuli on principal components of the training stimuli."""
    mean = units[train].mean(0)
    basis = torch.linalg.svd(units[train] - mean, full_matrices=False).Vh[:k]
    return (units - mean) @ basis.mT


def projected(matrix: Tensor) -> Tensor:
    """Nearest positive semidefinite matrix."""
    values, vectors = torch.linalg.eigh((matrix + matrix.mT) / 2)
    return (vectors * values.clamp_min(0)) @ vectors.mT


def spd_metric(z: Tensor, distances: Tensor, penalty: float) -> Tensor:
    """Positive semidefinite M (k, k) whose squared distances are nearest to those of the brain.

    Minimizes the mean over pairs of (d - b - (z_i - z_j)' M (z_i - z_j))^2, plus ``penalty`` times
    the mean square of the predictors times the squared Frobenius norm of M, by accelerated
    projected gradients, from the projection of the ridge solution without the constraint.
    """
    k = z.shape[1]
    first, second = torch.triu_indices(len(z), len(z), 1).unbind()
    delta = z[first] - z[second]
    rows = (delta[:, :, None] * delta[:, None, :]).flatten(1)
    rows -= rows.mean(0)
    y = condense(distances)
    y = y - y.mean()
    gram = rows.mT @ rows / len(y)
    gram += penalty * gram.diagonal().mean() * torch.eye(k * k).double()
    right = rows.mT @ y / len(y)
    matrix = previous = projected(torch.linalg.solve(gram, right).view(k, k))
    step, momentum = 1 / torch.linalg.matrix_norm(gram, 2), 1.0
    for _ in range(STEPS):
        following = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        ahead = matrix + (momentum - 1) / following * (matrix - previous)
        gradient = (gram @ ahead.flatten() - right).view(k, k)
        previous, matrix, momentum = matrix, projected(ahead - step * gradient), following
        if (matrix - previous).norm() <= 1e-9 * matrix.norm():
            break
    return matrix


def metric_similarities(truth: SimulatedTruth, split: Split, rank: int, penalty: float) -> Tensor:
    """Similarities of test stimuli by the metric of training stimuli."""
    z = components(truth.model_units, split.train, rank)
    target = 1 - truth.brain_rsm[split.train[:, None], split.train]
    values, vectors = torch.linalg.eigh(spd_metric(z[split.train], target, penalty))
    mapped = z[split.test] @ (vectors * values.clamp_min(0).sqrt())
    return similarity_matrix(mapped, similarity="sqeuclidean")


def encoded_similarities(truth: SimulatedTruth, split: Split) -> Tensor:
    """Similarities of test stimuli's responses, predicted by ridge of the best leave-one-out."""
    x, y = truth.model_units, truth.brain_units
    mean = x[split.train].mean(0)
    fitted, wanted = x[split.train] - mean, y[split.train] - y[split.train].mean(0)
    strengths = torch.logspace(-4, 4, 17, dtype=torch.float64)
    return similarity_matrix(ridge(fitted, wanted, strengths)(x[split.test] - mean))


def chosen_metric(truth: SimulatedTruth, split: Split) -> Tensor:
    """Choose rank and penalty on inner folds."""
    between = get(CHOSEN_BY).between
    inner = [
        Split(*(split.train[part] for part in fold))
        for fold in stimulus_folds(len(split.train), INNER_FOLDS, seed=1)
    ]
    scores = {}
    for rank, penalty in product(RANKS, PENALTIES):
        each = [
            between(
                metric_similarities(truth, fold, rank, penalty),
                truth.brain_rsm[fold.test[:, None], fold.test],
            )
            for fold in inner
        ]
        scores[rank, penalty] = float(torch.stack(each).mean())
    return metric_similarities(truth, split, *max(scores, key=lambda one: scores[one]))


def scores_of(truth: SimulatedTruth, split: Split) -> list[dict]:
    """Score everything on the test stimuli of one split."""
    target = truth.brain_rsm[split.test[:, None], split.test]
    pcs = components(truth.model_units, split.train, max(RANKS))
    predicted = {
        "plain RSA": similarity_matrix(truth.model_units[split.test]),
        "SPD metric": chosen_metric(truth, split),
    }
    if truth.brain_units is not None:
        predicted["encoding"] = encoded_similarities(truth, split)
    if truth.oracle_rsm is not None:
        predicted["oracle"] = truth.oracle_rsm[split.test[:, None], split.test]
    rsm = truth.brain_rsm.clone().fill_diagonal_(1.0)  # that of "scale" is not one of similarities
    for name, units in (("FR-RSA, units", truth.model_units), ("FR-RSA, components", pcs)):
        found = feature_reweighted_rsa(
            units, rsm, folds=[split], inner_folds=INNER_FOLDS, measure=CHOSEN_BY, seed=1
        )
        weights = torch.from_numpy(found.weights.values[0])
        z = units[split.test] - units[split.test].mean(1, keepdim=True)
        z = z / z.norm(dim=1, keepdim=True)
        predicted[name] = (z * weights) @ z.mT
    rows = []
    for way, rsms in predicted.items():
        scores = {m: float(get(m).between(rsms, target)) for m in MEASURES}
        rows.append({"kind": truth.kind, "way": way, **scores})
    return rows


def main() -> None:
    """Print held-out scores by kind of truth, mean over seeds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    n_seeds = parser.parse_args().seeds
    start = time.perf_counter()
    rows = []
    for kind, seed in product(KINDS, range(n_seeds)):
        truth = simulated_truth(kind, seed)
        rows += scores_of(truth, random_splits(len(truth.model_units), N_TRAIN, 1, seed=seed)[0])
    table = pd.DataFrame(rows)
    for measure in MEASURES:
        mean = table.pivot_table(measure, "way", "kind", sort=False)
        print(f"\n{measure}, held out, mean of {n_seeds} seeds")
        print(mean.to_string(float_format="{:.3f}".format))
    print(f"({time.perf_counter() - start:.0f} s)")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
