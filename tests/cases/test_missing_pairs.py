"""Pairs that are missing are left out pairwise; few stimuli are scored without folds."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from scipy.stats import kendalltau, pearsonr, spearmanr

import softrsa
from softrsa import io
from softrsa.alignment.align import MissingPairsWarning
from softrsa.cli import main
from softrsa.errors import DataError
from softrsa.inference import bootstrap, evaluate, noise_ceiling, permutation_test
from softrsa.measures import get
from softrsa.measures.missing import leaves_out_pairs
from softrsa.transforms import double_center
from softrsa.transforms.center import center_held, held_pairs

RNG = np.random.default_rng(0)
N, SUBJECTS = 14, 3
IDS = [f"s{i}" for i in range(N)]
X = RNG.normal(size=(N, 10))
MODEL = np.corrcoef(X)
BRAIN = np.stack([np.corrcoef(X + RNG.normal(size=X.shape)) for _ in range(SUBJECTS)])
LACKING = np.triu(RNG.random((N, N)) < 0.15, 1)
HELD = np.triu(~LACKING, 1)  # pairs of the subjects' common table
BRAIN[1][LACKING | LACKING.T] = np.nan


def stack(values, kind="rsm"):
    """Label RSMs of one layer, or of subjects."""
    dims = ("subject", "anchor", "neighbor")[3 - values.ndim :]
    n = values.shape[-1]
    coords = {"subject": range(1, 1 + len(values))} if values.ndim == 3 else {}
    coords |= {"anchor": IDS[:n], "neighbor": IDS[:n]}
    return xr.DataArray(values, dims=dims, coords=coords, attrs={"kind": kind})


OUTSIDE = {
    "pearson": lambda x, y: pearsonr(x, y).statistic,
    "spearman": lambda x, y: spearmanr(x, y).statistic,
    "kendall_tau_b": lambda x, y: kendalltau(x, y).statistic,
    "cosine": lambda x, y: x @ y / np.linalg.norm(x) / np.linalg.norm(y),
}


@pytest.mark.parametrize("measure", OUTSIDE)
def test_scores_are_of_the_pairs_that_all_have(measure):
    expected = [OUTSIDE[measure](MODEL[HELD], one[HELD]) for one in BRAIN]
    table = softrsa.align(
        stack(MODEL), stack(BRAIN), measure=measure, transforms=["identity"], folds=None
    ).table
    assert table["score"].item() == pytest.approx(np.mean(expected), abs=1e-12)
    assert table["all_stimuli_score"].item() == pytest.approx(np.mean(expected), abs=1e-12)
    assert table["n_pairs"].item() == HELD.sum()
    found = evaluate(stack(MODEL), stack(BRAIN), measure).table
    assert found["score"].item() == pytest.approx(np.mean(expected), abs=1e-9)


def test_offsets_are_those_of_the_pairs_there_are():
    """Centered Pearson, from a least-squares fit of rows and columns by hand."""
    i, j = np.nonzero(HELD | HELD.T)
    design = np.concatenate([np.eye(N)[i], np.eye(N)[j]], axis=1)

    def residual(rsm):
        return rsm[i, j] - design @ np.linalg.lstsq(design, rsm[i, j], rcond=None)[0]

    expected = np.mean([OUTSIDE["cosine"](residual(MODEL), residual(one)) for one in BRAIN])
    for transform in ("identity", "centered"):
        result = softrsa.align(stack(MODEL), stack(BRAIN), transforms=[transform], folds=None)
        if transform == "identity":
            assert result.table["score"].item() == pytest.approx(expected, abs=1e-9)
    assert evaluate(stack(MODEL), stack(BRAIN), "centered_pearson").table[
        "score"
    ].item() == pytest.approx(expected, abs=1e-9)


def test_centering_of_held_pairs_is_double_centering_where_none_is_missing():
    rsm = torch.from_numpy(RNG.normal(size=(2, 9, 9)))
    found = center_held(rsm, held_pairs(rsm)).nan_to_num(0.0)
    torch.testing.assert_close(found, double_center(rsm), rtol=0, atol=1e-12)


def test_inference_takes_labelled_stacks_with_missing_pairs():
    models, brains = stack(MODEL).expand_dims(region=["V1"]), stack(BRAIN)
    expected = np.mean([pearsonr(MODEL[HELD], one[HELD]).statistic for one in BRAIN])
    drawn = bootstrap(models, brains, "pearson", n_resamples=20)
    assert drawn.table["score"].item() == pytest.approx(expected, abs=1e-9)
    test = permutation_test(models, brains, "pearson", n_permutations=30, seed=3)
    rng = torch.Generator().manual_seed(3)
    order = torch.randperm(N, generator=rng).numpy()
    mixed = MODEL[np.ix_(order, order)]
    first = np.mean([pearsonr(mixed[HELD], one[HELD]).statistic for one in BRAIN])
    assert test.data["permuted_score"][0, 0].item() == pytest.approx(first, abs=1e-9)
    ceiling = noise_ceiling(brains, "pearson")
    assert bool(torch.isfinite(ceiling.lower).all())
    with pytest.raises(DataError, match=r"'whitened_pearson' needs all of them.*pearson, spearman"):
        permutation_test(models, brains, "whitened_pearson", n_permutations=5)


def test_learned_transforms_are_left_out_with_a_word_or_refused():
    with pytest.warns(MissingPairsWarning, match=r"missing \(NaN\) in 'brain'.*without .*instance"):
        table = softrsa.align(stack(MODEL), {"brain": stack(BRAIN)}, folds=2, n_resamples=0).table
    assert table["transform"].tolist() == ["identity", "centered"]
    with pytest.raises(DataError, match=r"'instance' cannot be scored: pairs are missing"):
        softrsa.align(stack(MODEL), stack(BRAIN), transforms=["instance"], folds=2)
    with pytest.raises(DataError, match=r"'whitened_cosine' needs all of them. Use a measure"):
        softrsa.align(stack(MODEL), stack(BRAIN), measure="whitened_cosine")
    with pytest.raises(DataError, match=r"pairs that are missing \(NaN\).*`align`"):
        softrsa.Aligner(transform="identity").fit(stack(MODEL), stack(BRAIN))


def test_measures_that_need_all_pairs_are_known():
    assert leaves_out_pairs(get("centered_pearson"))
    assert not leaves_out_pairs(get("whitened_cosine"))
    assert not leaves_out_pairs(get("linear_cka"))


def test_stimuli_without_any_pair_are_told_by_count():
    brain = BRAIN.copy()
    brain[:, 9:, :] = brain[:, :, 9:] = np.nan
    with pytest.warns(MissingPairsWarning, match=r"5 of 14 stimuli \('s9', .* share no pair"):
        table = softrsa.align(
            stack(MODEL), stack(brain), transforms=["identity"], folds=None, measure="pearson"
        ).table
    assert table["n_stimuli"].item() == 9
    held = HELD[:9, :9]
    expected = [pearsonr(MODEL[:9, :9][held], one[:9, :9][held]).statistic for one in brain]
    assert table["score"].item() == pytest.approx(np.mean(expected), abs=1e-12)
    brain[:, 3:, :] = brain[:, :, 3:] = np.nan
    with pytest.raises(DataError, match=r"11 of 14 stimuli .* and 3 are left; at least 4"):
        softrsa.align(stack(MODEL), stack(brain), transforms=["identity"], folds=None)


def test_missing_pairs_on_the_command_line(tmp_path):
    io.save(stack(MODEL), tmp_path / "model.nc")
    io.save(stack(BRAIN), tmp_path / "brain.nc")
    out = str(tmp_path / "out")
    files = [str(tmp_path / "model.nc"), str(tmp_path / "brain.nc")]
    assert main(["align", *files, "--measure", "spearman", "--folds", "none", "--out", out]) == 0
    table = pd.read_csv(tmp_path / "out" / "scores.csv").set_index("transform")
    expected = np.mean([spearmanr(MODEL[HELD], one[HELD]).statistic for one in BRAIN])
    assert table["score"]["identity"] == pytest.approx(expected, abs=1e-9)
    assert table["n_pairs"]["identity"] == HELD.sum()


@pytest.mark.filterwarnings("ignore:Row offsets")
@pytest.mark.parametrize("n", [4, 5, 6])
@pytest.mark.parametrize("measure", ["pearson", "kendall_tau_a"])
def test_few_stimuli_have_an_exact_p(n, measure):
    model, brain = MODEL[:n, :n], BRAIN[[0, 2], :n, :n]
    table = softrsa.align(
        stack(model), stack(brain), measure=measure, transforms=["identity"], folds=None
    ).table
    pairs = np.triu_indices(n, 1)

    def score(order):
        mixed = model[np.ix_(order, order)][pairs]
        if measure == "pearson":
            return np.mean([pearsonr(mixed, one[pairs]).statistic for one in brain])
        signs = [np.sign(v[:, None] - v) for v in (mixed, *(one[pairs] for one in brain))]
        return np.mean([(signs[0] * other).mean() for other in signs[1:]])

    scores = np.array([score(np.array(order)) for order in permutations(range(n))])
    assert table["p_chance"].item() == pytest.approx(np.mean(scores >= scores[0] - 1e-12))


def test_too_few_stimuli_for_folds_say_so_once():
    with pytest.raises(DataError, match=r"5 folds of 7 stimuli.*`folds=None` \(`--folds none`\)"):
        softrsa.align(stack(MODEL[:7, :7]), stack(BRAIN[0, :7, :7]))
    with pytest.raises(DataError, match=r"'instance' cannot be scored: without folds"):
        softrsa.align(stack(MODEL), stack(BRAIN[0]), transforms=["instance"], folds=None)
    with pytest.raises(DataError, match=r"At least 4 stimuli are needed, got 3"):
        softrsa.align(stack(MODEL[:3, :3]), stack(BRAIN[0, :3, :3]), folds=None)


def test_one_square_is_one_rsm():
    """28 stimuli have a square that could be rows of 8 stimuli's pairs."""
    units = RNG.normal(size=(2, 28, 5))
    one, other = (torch.from_numpy(np.corrcoef(u)) for u in units)
    pairs = np.triu_indices(28, 1)
    expected = pearsonr(one.numpy()[pairs], other.numpy()[pairs]).statistic
    found = evaluate(one, other, "pearson").table
    assert len(found) == 1
    assert found["score"].item() == pytest.approx(expected, abs=1e-12)
    assert bool(noise_ceiling(one, "pearson").lower.isnan().all())  # of one subject
    rows = torch.rand(28, 28, dtype=torch.float64)  # of 28 models of 8 stimuli, not symmetric
    assert len(evaluate(rows, rows[:2], "pearson").table) == 28


def test_plain_squares_in_doubt_are_refused():
    brain = RNG.normal(size=(N, 5))
    with pytest.raises(DataError, match=r"an RSM, or features\? Label it: .*'stimulus', 'unit'"):
        softrsa.align(np.eye(N), brain, folds=2)
