"""Inter-subject RSA against SciPy and all orders of a few subjects."""

from itertools import permutations

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist, squareform
from scipy.stats import pearsonr, spearmanr

from softrsa.errors import DataError, DTypeError, ShapeError, StimulusError, UnknownNameError
from softrsa.inference import (
    IntersubjectResult,
    behavior_rsm,
    intersubject_rsa,
    intersubject_rsm,
)
from softrsa.measures import Measure, partial_correlation
from softrsa.pairs import condense, expand


def simulated(seed, n=10):
    rng = torch.Generator().manual_seed(seed)
    scores = torch.rand(n, dtype=torch.float64, generator=rng)
    noise = torch.rand(n, dtype=torch.float64, generator=rng)
    return scores, behavior_rsm(scores + 0.5 * noise)


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), n=st.integers(4, 12))
def test_models_of_behavior(seed, n):
    scores = torch.rand(n, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    np.testing.assert_allclose(behavior_rsm(scores), -squareform(pdist(scores)), atol=1e-12)
    one = scores[:, 0]
    mean = behavior_rsm(one, "anna_karenina")
    np.testing.assert_allclose(mean, (one[:, None] + one[None]) / 2)
    # neighbors stay neighbors wherever the scores begin; the sum of two does not
    torch.testing.assert_close(behavior_rsm(one + 5), behavior_rsm(one))
    torch.testing.assert_close(behavior_rsm(one + 5, "anna_karenina"), mean + 5)


def test_similarity_of_subjects_is_scipy(rng):
    rdms = torch.rand(5, 45, dtype=torch.float64, generator=rng)
    for measure, peer in (("pearson", pearsonr), ("spearman", spearmanr)):
        found = intersubject_rsm(expand(rdms), measure)
        expected = [[peer(a, b).statistic for b in rdms.numpy()] for a in rdms.numpy()]
        np.testing.assert_allclose(found, expected, atol=1e-12)
    lopsided = Measure(
        function=second_mean, takes="vectors", range=(0, 1), smallest_n=3, symmetric=False,
        reference="none",
    )  # fmt: skip
    with pytest.raises(DataError, match="'second_mean' is not symmetric"):
        intersubject_rsm(expand(rdms), lopsided)


def second_mean(x, y):
    return (x * 0 + y).mean(-1)


@pytest.mark.parametrize("measure", ["pearson", "spearman"])
def test_score_and_all_orders(measure):
    scores, brains = simulated(1, n=5)
    behavior = behavior_rsm(scores)
    result = intersubject_rsa(brains, behavior, measure=measure, n_permutations=2000, seed=1)
    peer = pearsonr if measure == "pearson" else spearmanr
    observed = peer(condense(behavior), condense(brains)).statistic
    assert result.table["score"][0] == pytest.approx(observed, abs=1e-12)
    every = [
        peer(condense(behavior[list(o)][:, list(o)]), condense(brains)).statistic
        for o in permutations(range(5))
    ]
    exact = np.mean(np.array(every) >= observed - 1e-12)
    assert result.table["p"][0] == pytest.approx(exact, abs=0.02)
    assert set(np.round(result.data["permuted_score"].values.ravel(), 9)) <= set(np.round(every, 9))


@settings(max_examples=10)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 30))
def test_p_is_bounded_and_repeats(seed, n):
    scores, brains = simulated(seed)
    options = {"n_permutations": n, "seed": seed}
    result = intersubject_rsa(brains, behavior_rsm(scores), **options)
    p = result.table["p"][0]
    assert 1 / (n + 1) <= p <= 1
    assert result.table.equals(intersubject_rsa(brains, behavior_rsm(scores), **options).table)
    turned = torch.randperm(10, generator=torch.Generator().manual_seed(seed))
    other = intersubject_rsa(
        brains[turned][:, turned], behavior_rsm(scores[turned]), n_permutations=n
    )
    assert other.table["score"][0] == pytest.approx(result.table["score"][0], abs=1e-12)


def test_regions_models_and_a_control(tmp_path):
    scores, brains = simulated(2)
    age = behavior_rsm(torch.rand(10, generator=torch.Generator().manual_seed(9)).double())
    behavior = torch.stack([behavior_rsm(scores), behavior_rsm(scores, "anna_karenina")])
    stack = torch.stack([brains, age])
    result = intersubject_rsa(
        stack, behavior, control=age, names=["near", "high"], n_permutations=99, two_sided=True
    )
    table = result.table
    assert table["region"].tolist() == ["region 1"] * 2 + ["region 2"] * 2
    assert table["model"].tolist() == ["near", "high"] * 2
    expected = partial_correlation(condense(behavior), condense(brains), condense(age), rank=True)
    np.testing.assert_allclose(table["score"][:2], expected, atol=1e-10)
    assert table["score"][2:].isna().all()  # nothing is left of what is the control itself
    assert any("undefined" in note for note in result.warnings)
    assert (table["p_fwer"][:2] >= table["p"][:2]).all()
    assert table["n_subjects"].tolist() == [10] * 4
    result.to_netcdf(tmp_path / "i.nc")
    assert IntersubjectResult.from_netcdf(tmp_path / "i.nc").table.equals(table)


def labelled(square, ids):
    return xr.DataArray(
        square.numpy(), dims=("anchor", "neighbor"), attrs={"kind": "rsm"},
        coords={"anchor": ids, "neighbor": ids},
    )  # fmt: skip


def test_labelled_ones_are_joined_by_subject():
    scores, brains = simulated(3)
    people = [f"sub-{i:02}" for i in range(10)]
    behavior = labelled(behavior_rsm(scores), people)
    mixed = people[::-1]
    brain = labelled(brains, people).sel(anchor=mixed, neighbor=mixed)
    found = intersubject_rsa(brain, behavior, n_permutations=9).table["score"][0]
    plain = intersubject_rsa(brains, behavior_rsm(scores), n_permutations=9).table["score"][0]
    assert found == pytest.approx(plain, abs=1e-12)
    strange = labelled(behavior_rsm(scores), [*people[:-1], "sub-99"])
    with pytest.raises(StimulusError, match=r"the same subjects; 2 are in one only.*sub-09"):
        intersubject_rsa(brain, strange)


def test_errors():
    scores, brains = simulated(4)
    with pytest.raises(ShapeError, match="permutes subjects, and needs at least 4, got 3"):
        intersubject_rsa(brains[:3, :3], behavior_rsm(scores[:3]))
    with pytest.raises(ShapeError, match=r"with the 10 subjects of `brains`, got shape \(9, 9\)"):
        intersubject_rsa(brains, behavior_rsm(scores[:9]))
    with pytest.raises(ShapeError, match=r"`brains` must be .* got shape \(10,\)"):
        intersubject_rsa(scores, behavior_rsm(scores))
    with pytest.raises(ShapeError, match=r"shape \(n_subjects,\) for 'anna_karenina', got"):
        behavior_rsm(torch.rand(5, 2), "anna_karenina")
    with pytest.raises(UnknownNameError, match="nearest_neighbor"):
        behavior_rsm(scores, "nearest")
    with pytest.raises(DTypeError, match=r"got torch\.int64"):
        behavior_rsm(torch.arange(5))
    scores[2] = torch.nan
    with pytest.raises(DataError, match=r"Scores of the subjects \[2\] are not finite"):
        behavior_rsm(scores)
