"""Unique and shared variance against statsmodels and by their definitions."""

from itertools import permutations

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.regression.linear_model import OLS
from statsmodels.tools import add_constant

from softrsa.errors import DataError, ShapeError, StimulusError
from softrsa.inference import PartitionResult, partition_variance, regress_rdms
from softrsa.measures import semipartial_correlation
from softrsa.pairs import expand

FEW = {"n_resamples": 10}


def simulated(seed, n_sets=3, n=20, s=3, *, several=True):
    rng = torch.Generator().manual_seed(seed)
    values = torch.rand(n_sets + 1, n * (n - 1) // 2, dtype=torch.float64, generator=rng)
    values[1] += 0.5 * values[0]
    names = "abcdefgh"[:n_sets]
    sets = {name: values[i] for i, name in enumerate(names)}
    if several:
        sets["a"] = values[[0, n_sets]]
    noise = torch.rand(s, values.shape[1], dtype=torch.float64, generator=rng)
    return sets, values.sum(0) + noise


def r2(brain, *predictors):
    design = np.concatenate([np.atleast_2d(p.numpy()) for p in predictors]).T
    return OLS(brain.numpy(), add_constant(design)).fit().rsquared


def part(result, name, kind=None):
    table = result.table
    if kind:
        table = table[table["kind"] == kind]
    return float(table.set_index("part")["variance"][name])


@settings(max_examples=10)
@given(seed=st.integers(0, 10**6))
def test_fitted_shares_are_differences_of_r2_of_statsmodels(seed):
    sets, brains = simulated(seed)
    found = partition_variance(sets, brains, folds=None, **FEW)
    a, b, c = sets.values()

    def mean(*some):
        return np.mean([r2(brain, *some) for brain in brains])

    full = mean(a, b, c)
    expected = {
        "a": full - mean(b, c),
        "b": full - mean(a, c),
        "a & b": mean(a, c) + mean(b, c) - mean(c) - full,
        "a & b & c": mean(a) + mean(b) + mean(c) - mean(a, b) - mean(a, c) - mean(b, c) + full,
        "all": full,
    }
    for name, value in expected.items():
        assert part(found, name) == pytest.approx(value, abs=1e-9), name


@settings(max_examples=12)
@given(
    seed=st.integers(0, 10**6),
    n_sets=st.integers(2, 6),
    folds=st.sampled_from([None, 3]),
    method=st.sampled_from(["ols", "nnls"]),
)
def test_shares_add_up(seed, n_sets, folds, method):
    sets, brains = simulated(seed, n_sets)
    found = partition_variance(sets, brains, folds=folds, method=method, **FEW)
    table = found.table
    kinds = ["shapley"] if n_sets > 4 else ["unique", "shared"]
    total = table.loc[table["kind"].isin(kinds), "variance"].sum()
    assert total == pytest.approx(part(found, "all"), abs=1e-9)
    assert len(table) == (2 * n_sets + 1 if n_sets > 4 else 2**n_sets)
    full = found.data["explained"].values[-1].mean()
    assert part(found, "all") == pytest.approx(full, abs=1e-12)


def test_shapley_values_are_means_over_orders():
    sets, brains = simulated(1, 5, several=False)
    found = partition_variance(sets, brains[:1], folds=None, **FEW)
    added = dict.fromkeys(sets, 0.0)
    for order in permutations(sets):
        before = 0.0
        for i, name in enumerate(order):
            now = r2(brains[0], *(sets[each] for each in order[: i + 1]))
            added[name] += (now - before) / 120
            before = now
    for name, value in added.items():
        assert part(found, name, "shapley") == pytest.approx(value, abs=1e-9)


@settings(max_examples=10)
@given(seed=st.integers(0, 10**6))
def test_unique_variance_is_the_square_of_the_semipartial_correlation(seed):
    sets, brains = simulated(seed, 2, several=False)
    found = partition_variance(sets, brains, folds=None, **FEW)
    square = semipartial_correlation(sets["a"], brains, sets["b"]).square().mean()
    assert part(found, "a") == pytest.approx(float(square), abs=1e-10)


@settings(max_examples=6)
@given(seed=st.integers(0, 10**6), folds=st.sampled_from([None, 4]))
def test_what_shares_are_invariant_to(seed, folds):
    sets, brains = simulated(seed)
    plain = partition_variance(sets, brains, folds=folds, **FEW)
    scaled = {name: 3 * one - 1 for name, one in sets.items()}
    # only the span of a set counts
    scaled["a"] = torch.stack([scaled["a"][0] + scaled["a"][1], scaled["a"][1]])
    moved = partition_variance(scaled, 5 * brains + 2, folds=folds, **FEW)
    np.testing.assert_allclose(moved.table["variance"], plain.table["variance"], atol=1e-9)
    turned = partition_variance(dict(reversed(sets.items())), brains, folds=folds, **FEW)
    for name in sets:
        assert part(turned, name) == pytest.approx(part(plain, name), abs=1e-9)


def test_all_of_it_is_what_a_regression_explains():
    sets, brains = simulated(3)
    found = partition_variance(sets, brains, folds=4, seed=2, **FEW)
    models = torch.cat([torch.atleast_2d(one) for one in sets.values()])
    whole = regress_rdms(models, brains, folds=4, seed=2, **FEW).by_subject
    np.testing.assert_allclose(found.data["explained"].values[-1], whole["r2_held_out"])


def test_held_out_variance_of_nothing_is_none():
    rng = torch.Generator().manual_seed(5)
    values = torch.rand(3, 435, dtype=torch.float64, generator=rng)
    brains = torch.rand(6, 435, dtype=torch.float64, generator=rng)
    sets = dict(zip("abc", values, strict=True))
    held_out = partition_variance(sets, brains, **FEW)
    fitted = partition_variance(sets, brains, folds=None, **FEW)
    assert part(held_out, "all") < 0.005 < part(fitted, "all")
    assert any("favors many predictors" in note for note in fitted.warnings)


def labelled(values, ids):
    return xr.DataArray(
        expand(values).numpy(), attrs={"kind": "rdm"}, coords={"anchor": ids, "neighbor": ids},
        dims=(*(["layer"] if values.ndim == 2 else []), "anchor", "neighbor"),
    )  # fmt: skip


def test_labelled_sets_are_joined_by_stimulus():
    sets, brains = simulated(4)
    ids = [f"image {i}" for i in range(20)]
    given = {name: labelled(one, ids) for name, one in sets.items()}
    mixed = ids[::-1]
    given["b"] = given["b"].sel(anchor=mixed, neighbor=mixed)
    subjects = labelled(brains, ids).rename(layer="subject")
    found = partition_variance(given, subjects, folds=None, **FEW)
    plain = partition_variance(sets, brains, folds=None, **FEW)
    np.testing.assert_allclose(found.table["variance"], plain.table["variance"])
    assert found.data["predictor"].values.tolist() == ["a 0", "a 1", "b", "c"]
    given["c"] = labelled(sets["c"], [*ids[:-1], "other"])
    with pytest.raises(StimulusError, match=r"2 are in 'a' or in 'c' only, such as \['image 19'"):
        partition_variance(given, subjects)
    with pytest.raises(StimulusError, match="must be labelled, or none"):
        partition_variance(sets, subjects)
    with pytest.raises(StimulusError, match="must be labelled, or none"):
        partition_variance(given, brains)


def test_errors():
    sets, brains = simulated(6)
    with pytest.raises(DataError, match="from 2 to 10 names to RSMs, got 1"):
        partition_variance({"a": sets["a"]}, brains)
    with pytest.raises(DataError, match="names to RSMs, got Tensor"):
        partition_variance(sets["a"], brains)
    with pytest.raises(ShapeError, match=r"alike; got 'a' \(190,\), 'b' \(45,\)"):
        partition_variance({"a": sets["a"], "b": sets["b"][:45]}, brains)
    with pytest.raises(DataError, match="'a' and 'b' are the same but for offset and scale"):
        partition_variance({"a": sets["b"], "b": 2 * sets["b"]}, brains)


def test_it_is_kept_and_drawn(tmp_path):
    sets, brains = simulated(7)
    result = partition_variance(sets, brains, **FEW)
    result.to_netcdf(tmp_path / "p.nc")
    again = PartitionResult.from_netcdf(tmp_path / "p.nc")
    assert again.table.equals(result.table)
    assert "held-out" in again.plot().get_ylabel()
    texts = [text.get_text() for text in again.plot_venn().texts]
    assert texts[:3] == ["a", "b", "c"]
    assert len(texts) == 10
    assert f"{100 * part(result, 'b'):.1f}" in texts
    few = partition_variance({"a": sets["a"], "c": sets["c"]}, brains, folds=None, **FEW)
    assert len(few.plot_venn().texts) == 5
    many, brains = simulated(8, 5)
    with pytest.raises(DataError, match="2 or 3 sets, got 5"):
        partition_variance(many, brains, folds=None, **FEW).plot_venn()
