"""Permutation tests against a loop and the exact count."""

import numpy as np
import pytest
import torch
import xarray as xr

from softrsa.errors import DataError, ShapeError
from softrsa.inference import noise_ceiling, noise_ceiling_test, permutation_test
from softrsa.measures import available, get
from softrsa.pairs import expand


def simulated(rng, n=10, n_models=3, n_subjects=4):
    models = torch.rand(n_models, n * (n - 1) // 2, dtype=torch.float64, generator=rng)
    noise = torch.rand(n_subjects, models.shape[1], dtype=torch.float64, generator=rng)
    return models, models[0] + noise


@pytest.mark.parametrize(
    "measure",
    ["pearson", "spearman", "whitened_cosine", "centered_pearson", "kendall_tau_a", "rho_a"],
)
def test_permuted_scores_are_the_measure_on_permuted_matrices(measure, rng):
    models, subjects = simulated(rng)
    result = permutation_test(models, subjects, measure, n_permutations=5, seed=3)
    again = torch.Generator().manual_seed(3)
    entry = get(measure)
    for i in range(5):
        order = torch.randperm(10, generator=again)
        permuted = expand(models)[:, order][:, :, order]
        # the entry's own form of squares; RDMs both become their negatives for whitened cosine
        expected = entry.between(permuted[:, None], expand(subjects)).mean(1)
        found = result.data["permuted_score"].values[i]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_p_counts_and_chunks_do_not_matter(rng, monkeypatch):
    models, subjects = simulated(rng)
    result = permutation_test(models, subjects, "pearson", n_permutations=99)
    null = result.data["permuted_score"].values
    observed = result.table["score"].to_numpy()
    np.testing.assert_array_equal(
        result.table["p_permutation"], (1 + (null >= observed).sum(0)) / 100
    )
    np.testing.assert_array_equal(
        result.table["p_permutation_fwer"], (1 + (null.max(1)[:, None] >= observed).sum(0)) / 100
    )
    assert result.table["p_permutation"][0] == 0.01
    assert (result.table["p_permutation_fwer"] >= result.table["p_permutation"]).all()
    monkeypatch.setattr("softrsa.inference.permutation.CHUNK_BYTES", 1e4)
    pieces = permutation_test(models, subjects, "pearson", n_permutations=99)
    np.testing.assert_allclose(pieces.data["permuted_score"], null, rtol=0, atol=1e-13)


def test_two_sided_finds_the_opposite(rng):
    models, subjects = simulated(rng)
    one, two = (
        permutation_test(-models, subjects, "pearson", n_permutations=99, two_sided=sides)
        for sides in (False, True)
    )
    assert one.table["p_permutation"][0] == 1.0
    assert two.table["p_permutation"][0] == 0.01


ON_RSMS = [name for name, entry in available().items() if entry.takes != "features"]


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("measure", ON_RSMS)
def test_permuted_ceilings_are_those_of_permuted_matrices(measure, symmetric, rng):
    rsms = torch.rand(4, 8, 8, dtype=torch.float64, generator=rng)
    rsms = (4 * (rsms + rsms.mT)).round() if symmetric else rsms
    found = noise_ceiling_test(rsms, measure, n_permutations=3, seed=5)
    observed = noise_ceiling(rsms, measure).lower.mean().item()
    assert found.lower == pytest.approx(observed, abs=1e-12)
    orders = torch.rand(3, 4, 8, generator=torch.Generator().manual_seed(5)).argsort(-1)
    for one, order in zip(found.permuted, orders, strict=True):
        mixed = torch.stack([rsms[s][o][:, o] for s, o in enumerate(order)])
        expected = noise_ceiling(mixed, measure).lower.mean().item()
        assert one == pytest.approx(expected, abs=1e-9)


def test_agreement_takes_condensed_and_labelled_stacks(rng):
    _, subjects = simulated(rng)
    expected = noise_ceiling_test(expand(subjects), "spearman", n_permutations=9)
    ids = [f"image {i}" for i in range(10)]
    labelled = xr.DataArray(
        expand(subjects).numpy(),
        dims=("subject", "anchor", "neighbor"),
        coords={"subject": list("abcd"), "anchor": ids, "neighbor": ids},
        attrs={"kind": "rdm"},
    )
    for given in (subjects, labelled):
        found = noise_ceiling_test(given, "spearman", n_permutations=9)
        np.testing.assert_array_equal(found.permuted, expected.permuted)
        assert (found.lower, found.p) == (expected.lower, expected.p)
    subjects[1] = 2.0
    assert np.isnan(noise_ceiling_test(subjects, "spearman", n_permutations=9).p)
    with pytest.raises(ShapeError, match=r"`rsms` must be .* got shape \(45,\).*`rsms\[None\]`"):
        noise_ceiling_test(subjects[0], "spearman")
    with pytest.raises(
        DataError, match=r"`n_permutations` must be a whole number from 1, got 9\.0"
    ):
        noise_ceiling_test(subjects, "spearman", n_permutations=9.0)


def test_agreement_of_subjects(rng):
    _, subjects = simulated(rng)
    found = noise_ceiling_test(expand(subjects), "spearman", n_permutations=99)
    assert found.p == 0.01
    alone = torch.rand(4, 45, dtype=torch.float64, generator=rng)
    assert noise_ceiling_test(expand(alone), "spearman", n_permutations=99).p > 0.05


def test_wrong_arguments_and_undefined(rng):
    models, subjects = simulated(rng)
    with pytest.raises(DataError, match=r"`n_permutations` must be at least 1, got 0"):
        permutation_test(models, subjects, "pearson", n_permutations=0)
    with pytest.raises(DataError, match=r"needs at least 2 subjects and all pairs, got 1 and 0"):
        noise_ceiling_test(expand(subjects[:1]), "pearson")
    flat = models.clone()
    flat[1] = 2.0
    found = permutation_test(flat, subjects, "pearson", n_permutations=19)
    assert found.table["p_permutation"].isna().tolist() == [False, True, False]
    models[0, 4] = torch.nan
    with pytest.raises(DataError, match=r"'whitened_pearson' needs all of them"):
        permutation_test(models, subjects, "whitened_pearson")
