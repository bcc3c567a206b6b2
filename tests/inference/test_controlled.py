"""Scores, ceilings and permutations given a control, against partial correlations by hand."""

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from softrsa.errors import DataError, ShapeError, StimulusError
from softrsa.inference import evaluate, permutation_test
from softrsa.measures import centered_pearson, partial_correlation
from softrsa.pairs import condense, expand


def simulated(seed, n=9, m=2, s=4):
    rng = torch.Generator().manual_seed(seed)
    values = torch.rand(m + 2, n * (n - 1) // 2, dtype=torch.float64, generator=rng)
    models, control = values[:m] + values[-1], values[m:]
    noise = torch.rand(s, values.shape[1], dtype=torch.float64, generator=rng)
    return models, models[0] + control.sum(0) + noise, control


def scores(result):
    return result.data["score"].transpose("model", "subject").values


@settings(max_examples=15)
@given(seed=st.integers(0, 10**6), name=st.sampled_from(["pearson", "spearman"]))
def test_scores_are_partial_correlations(seed, name):
    models, brains, control = simulated(seed)
    found = evaluate(models, brains, name, control=control)
    expected = partial_correlation(models[:, None], brains, control, rank=name == "spearman")
    np.testing.assert_allclose(scores(found), expected, rtol=0, atol=1e-10)
    assert found.data.attrs["measure"] == name
    assert found.data.attrs["control"] == "control 1, control 2"
    assert found.names == ["model 1", "model 2"]


@settings(max_examples=10)
@given(seed=st.integers(0, 10**6))
def test_ceilings_are_of_the_same_kind(seed):
    models, brains, control = simulated(seed)
    found = evaluate(models, brains, "pearson", control=control)
    design = np.column_stack([np.ones(36), *control.numpy()])
    rest = [b - design @ np.linalg.lstsq(design, b, rcond=None)[0] for b in brains.numpy()]
    unit = np.array([r / np.linalg.norm(r) for r in rest])
    for i in range(4):
        upper = np.corrcoef(unit[i], unit.mean(0))[0, 1]
        lower = np.corrcoef(unit[i], np.delete(unit, i, 0).mean(0))[0, 1]
        np.testing.assert_allclose(found.data["ceiling"].values[:, i], [lower, upper], atol=1e-10)
    # no model can do better, on average, than what the upper ceiling is of
    best = partial_correlation(torch.tensor(unit.mean(0)), brains, control).mean()
    assert float(found.table["ceiling_upper"][0]) == pytest.approx(float(best), abs=1e-10)


def test_centered_scores_leave_nothing_of_the_control():
    models, brains, control = simulated(1)
    squares = [expand(one) for one in (models, brains, control)]
    found = evaluate(squares[0], squares[1], "centered_pearson", control=squares[2])
    same = evaluate(squares[2][:1], squares[1], "centered_pearson", control=squares[2])
    assert np.isnan(scores(same)).all()
    assert any("undefined" in note for note in same.warnings)
    n = 9
    rows, columns = np.triu_indices(n, 1)
    offsets = np.eye(n)[rows] + np.eye(n)[columns]
    design = np.column_stack([offsets, *control.numpy()])

    def left(v):
        return v - design @ np.linalg.lstsq(design, v, rcond=None)[0]

    x, y = left(models[0].numpy()), left(brains[0].numpy())
    expected = x @ y / np.linalg.norm(x) / np.linalg.norm(y)
    assert scores(found)[0, 0] == pytest.approx(expected, abs=1e-10)
    plain = centered_pearson(squares[0][0], squares[1][0])
    assert abs(float(plain) - expected) > 1e-3


def test_permuted_are_residuals_of_models():
    models, brains, control = simulated(2)
    found = permutation_test(models, brains, "pearson", control=control, n_permutations=7, seed=3)
    rng = torch.Generator().manual_seed(3)
    orders = [torch.randperm(9, generator=rng) for _ in range(7)]
    design = np.column_stack([np.ones(36), *control.numpy()])

    def left(v):
        return torch.tensor(v - design @ np.linalg.lstsq(design, v, rcond=None)[0])

    model = expand(left(models[0].numpy()))
    rest = torch.stack([left(brain) for brain in brains.numpy()])
    for order, permuted in zip(orders, found.data["permuted_score"].values, strict=True):
        mixed = condense(model[order][:, order])
        expected = np.mean([np.corrcoef(mixed, one)[0, 1] for one in rest])
        assert permuted[0] == pytest.approx(expected, abs=1e-10)
    assert found.table["p_permutation"].min() >= 1 / 8


def test_nothing_beyond_the_control_is_found():
    rng = torch.Generator().manual_seed(0)
    control = torch.rand(190, dtype=torch.float64, generator=rng)
    noise = torch.rand(6, 190, dtype=torch.float64, generator=rng)
    models, brains = control + 0.3 * noise[:1], control + 0.3 * noise[1:]
    plain = permutation_test(models, brains, "spearman", n_permutations=199)
    given_it = permutation_test(models, brains, "spearman", control=control, n_permutations=199)
    assert plain.table["p_permutation"][0] == pytest.approx(0.005)
    assert given_it.table["p_permutation"][0] > 0.05
    assert abs(given_it.table["score"][0]) < 0.15 < plain.table["score"][0]
    assert given_it.plot().get_ylabel().startswith("Partial spearman")


def labelled(values, ids, dim="layer"):
    return xr.DataArray(
        expand(values).numpy(), attrs={"kind": "rdm"}, dims=(dim, "anchor", "neighbor"),
        coords={dim: [f"{dim}{i}" for i in range(len(values))], "anchor": ids, "neighbor": ids},
    )  # fmt: skip


def test_labelled_ones_are_joined_by_stimulus():
    models, brains, control = simulated(4)
    ids = [f"image {i}" for i in range(9)]
    mixed = ids[::-1]
    held = labelled(control, ids).sel(anchor=mixed, neighbor=mixed)
    subjects = labelled(brains, ids, "subject")
    found = evaluate(labelled(models, ids), subjects, "pearson", control=held)
    plain = evaluate(models, brains, "pearson", control=control)
    np.testing.assert_allclose(scores(found), scores(plain), atol=1e-10)
    assert found.names == ["layer0", "layer1"]
    assert found.table.columns[0] == "layer"
    assert found.data.attrs["control"] == "control layer0, control layer1"
    strange = labelled(control, [*ids[:-1], "other"])
    with pytest.raises(StimulusError, match=r"2 are on one side only, such as \['image 8'"):
        evaluate(labelled(models, ids), subjects, "pearson", control=strange)
    with pytest.raises(StimulusError, match="both be labelled, or neither"):
        evaluate(models, brains, "pearson", control=held)


def test_missing_pairs():
    models, brains, control = simulated(5)
    control = control.clone()
    control[0, 7] = torch.nan
    found = evaluate(models, brains, "pearson", control=control)
    kept = torch.arange(36) != 7
    expected = partial_correlation(models[:, None, kept], brains[:, kept], control[:, kept])
    np.testing.assert_allclose(scores(found), expected, atol=1e-10)
    # what is left of models is permuted, pairs that are missing along with it
    tested = permutation_test(models, brains, "pearson", control=control, n_permutations=3, seed=1)
    rng = torch.Generator().manual_seed(1)
    design = torch.cat([torch.ones(1, 36), control]).T[kept].double()
    rest = torch.full((6, 36), torch.nan, dtype=torch.float64)
    values = torch.cat([models, brains])[:, kept].T
    rest[:, kept] = (values - design @ torch.linalg.lstsq(design, values).solution).T
    for r in range(3):
        order = torch.randperm(9, generator=rng)
        permuted = condense(expand(rest[:2])[:, order][:, :, order])
        both = kept & permuted[0].isfinite()
        means = [
            np.mean([np.corrcoef(one[both], brain[both])[0, 1] for brain in rest[2:]])
            for one in permuted
        ]
        np.testing.assert_allclose(tested.data["permuted_score"][r], means, atol=1e-10)


def test_missing_pairs_after_centering():
    models, brains, control = simulated(6, n=12)
    gone = torch.zeros(66, dtype=torch.bool)
    gone[[7, 30, 31]] = True
    found = evaluate(
        models, brains.masked_fill(gone, torch.nan), "centered_pearson", control=control
    )
    rows, columns = np.nonzero(expand((~gone).double()).numpy())
    entries = [expand(one).numpy()[rows, columns] for one in (*control, *models, *brains)]
    design = np.column_stack([np.eye(12)[rows], np.eye(12)[columns], *entries[:2]])
    rest = [one - design @ np.linalg.lstsq(design, one, rcond=None)[0] for one in entries[2:]]
    expected = [[np.corrcoef(one, brain)[0, 1] for brain in rest[2:]] for one in rest[:2]]
    np.testing.assert_allclose(scores(found), expected, atol=1e-10)


def test_errors_say_what_must_hold():
    models, brains, control = simulated(6)
    with pytest.raises(DataError, match=r"'kendall_tau_a' has no partial form\. Use one of"):
        evaluate(models, brains, "kendall_tau_a", control=control)
    with pytest.raises(ShapeError, match=r"got shape \(2, 28\) with models \(2, 36\)"):
        evaluate(models, brains, "pearson", control=control[:, :28])
    with pytest.raises(ShapeError, match=r"got shape \(2, 9, 9\) with models \(2, 36\)"):
        evaluate(models, brains, "pearson", control=expand(control))
    with pytest.raises(ShapeError, match="Given 4 controls, a correlation needs at least 7 pairs"):
        evaluate(models[:, :6], brains[:, :6], "pearson", control=torch.rand(4, 6).double())
    with pytest.raises(DataError, match=r"one different name for each of 2 models, got \['a'\]"):
        evaluate(models, brains, "pearson", names=["a"], control=control)
