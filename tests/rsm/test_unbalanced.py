"""Folds that lack stimuli, against rsatoolbox and against loops over trials."""

from itertools import permutations

import numpy as np
import pytest
import torch
from rsatoolbox.data import Dataset
from rsatoolbox.rdm.calc_unbalanced import calc_rdm_unbalanced

from softrsa.errors import DataError, ShapeError, UnknownNameError
from softrsa.pairs import condense
from softrsa.rsm import crossnobis, crossnobis_unbalanced

FOLDS, N, P = 4, 6, 5


def trials(seed, most=3):
    """Up to ``most - 1`` trials of each stimulus in each fold, and their means and numbers."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, most, (FOLDS, N))
    counts[0] = 1  # rsatoolbox orders stimuli by first appearance
    fold, stimulus = (
        index.repeat(counts.ravel()) for index in np.indices((FOLDS, N)).reshape(2, -1)
    )
    values = rng.normal(3, 1, (len(fold), P))
    means = np.full((FOLDS, N, P), np.nan)
    for f, s in zip(fold, stimulus, strict=True):
        means[f, s] = values[(fold == f) & (stimulus == s)].mean(0)
    root = rng.normal(size=(P, P))
    return values, fold, stimulus, means, counts, root @ root.T + np.eye(P)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")  # rsatoolbox's
def test_rsatoolbox(seed, noisy):
    values, fold, stimulus, means, counts, precision = trials(seed)
    dataset = Dataset(values, obs_descriptors={"stimulus": stimulus, "fold": fold})
    expected = calc_rdm_unbalanced(
        dataset,
        method="crossnobis",
        descriptor="stimulus",
        cv_descriptor="fold",
        noise=precision if noisy else None,
    ).get_vectors()[0]
    found = crossnobis_unbalanced(
        torch.from_numpy(means),
        torch.from_numpy(precision) if noisy else None,
        over="all",
        counts=torch.from_numpy(counts),
    )
    np.testing.assert_allclose(condense(found), expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("seed", range(3))
def test_shared_is_a_loop_over_the_folds_that_have_both(seed):
    *_, means, counts, precision = trials(seed, most=2)
    found = crossnobis_unbalanced(torch.from_numpy(means), torch.from_numpy(precision))
    for i, j in permutations(range(N), 2):
        both = np.flatnonzero(counts[:, i] * counts[:, j])
        difference = means[both, i] - means[both, j]
        products = [
            difference[f] @ precision @ difference[g] / P
            for f, g in permutations(range(len(both)), 2)
        ]
        if products:
            assert found[i, j].item() == pytest.approx(np.mean(products), abs=1e-10)
        else:
            assert found[i, j].isnan()


@pytest.mark.parametrize("over", ["shared", "all"])
def test_balanced_is_crossnobis(over, rng):
    x = torch.randn(2, FOLDS, N, P, dtype=torch.float64, generator=rng) + 100
    found = crossnobis_unbalanced(x, over=over)
    torch.testing.assert_close(found, crossnobis(x), rtol=0, atol=1e-9)


def test_an_offset_of_folds_biases_all_and_not_shared(rng):
    """No stimulus differs. Fold 0 lacks stimulus 1, and every fold has a pattern of its own."""
    x = torch.randn(2_000, FOLDS, 2, P, dtype=torch.float64, generator=rng)
    x = x + torch.tensor([3.0, 1.0, 1.0, 1.0])[:, None, None]
    x[:, 0, 1] = torch.nan
    # means of products of offsets: K_00 over 12 pairs of folds, K_11 over 6, K_01 over 9
    bias = (6 * 3 + 6) / 12 + 1 - 2 * (3 * 3 + 6) / 9
    for over, expected in (("shared", 0.0), ("all", bias)):
        pair = crossnobis_unbalanced(x, over=over)[:, 0, 1]
        assert float(pair.mean()) == pytest.approx(expected, abs=4 * float(pair.std()) / 2_000**0.5)


def test_wrong_arguments_are_named(rng):
    x = torch.randn(FOLDS, N, P, generator=rng)
    with pytest.raises(UnknownNameError, match=r"'share'\. Did you mean 'shared'"):
        crossnobis_unbalanced(x, over="share")
    with pytest.raises(DataError, match=r"one `precision` for all folds.* got \(4, 5, 5\)"):
        crossnobis_unbalanced(x, torch.eye(P).expand(FOLDS, P, P))
    with pytest.raises(DataError, match="takes no `counts`"):
        crossnobis_unbalanced(x, counts=torch.ones(FOLDS, N))
    with pytest.raises(ShapeError, match=r"here \(4, 6\), got \(6, 4\)"):
        crossnobis_unbalanced(x, over="all", counts=torch.ones(N, FOLDS))
