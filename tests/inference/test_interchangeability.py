"""Models against brains, and brains against each other."""

from itertools import permutations

import numpy as np
import pytest
import scipy.stats
import torch
import xarray as xr

from softrsa.errors import DataError, ShapeError
from softrsa.inference import InterchangeabilityResult, interchangeability
from softrsa.pairs import expand


def study(n_subjects=6, n=14):
    rng = torch.Generator().manual_seed(0)
    real = {"dtype": torch.float64, "generator": rng}
    common = torch.rand(n * (n - 1) // 2, **real)
    subjects = common + 0.4 * torch.rand(n_subjects, len(common), **real)
    return torch.stack([common, torch.rand(len(common), **real)]), subjects


def correlation(x, y):
    return scipy.stats.pearsonr(x, y).statistic


def test_scores_are_means_over_pairs():
    models, subjects = study()
    reliability = torch.linspace(0.5, 1.0, 6, dtype=torch.float64)
    result = interchangeability(models, subjects, "pearson", n_resamples=50)
    freed = interchangeability(
        models, subjects, "pearson", reliability=reliability, n_resamples=50
    ).table
    pairs = list(permutations(range(6), 2))
    brains = [correlation(subjects[i], subjects[j]) for i, j in pairs]
    noise = [float(reliability[i] * reliability[j]) for i, j in pairs]
    for k, model in enumerate(models):
        mine = np.array([correlation(model, one) for one in subjects])
        row = result.table.loc[k]
        assert row["model_score"] == pytest.approx(mine.mean())
        assert row["subject_score"] == pytest.approx(np.mean(brains))
        assert row["difference"] == pytest.approx(mine.mean() - np.mean(brains))
        expected = (mine / reliability.numpy()).mean(), np.mean(np.array(brains) / noise)
        assert freed.loc[k, "model_score"] == pytest.approx(expected[0])
        assert freed.loc[k, "difference"] == pytest.approx(expected[0] - expected[1])


def test_resamples_are_literal_ones():
    models, subjects = study()
    result = interchangeability(models, subjects, "pearson", n_resamples=20, seed=3)
    rng = torch.Generator().manual_seed(3)
    stimuli = torch.randint(14, (20, 14), generator=rng)
    people = torch.randint(6, (20, 6), generator=rng)
    kinds = dict(zip(result.data["kind"].values, result.data["resampled_difference"], strict=True))
    for r in range(20):
        for kind, of_stimuli, of_people in (
            ("both", stimuli[r], people[r]),
            ("subjects", torch.arange(14), people[r]),
            ("stimuli", stimuli[r], torch.arange(6)),
        ):
            drawn = [expand(one)[of_stimuli][:, of_stimuli] for one in (*models, *subjects)]
            apart = (of_stimuli[:, None] != of_stimuli).triu(1)
            rows = [one[apart] for one in drawn]
            brains = [rows[2 + int(i)] for i in of_people]
            mine = np.mean([correlation(rows[0], one) for one in brains])
            between = [
                correlation(brains[i], brains[j])
                for i, j in permutations(range(6), 2)
                if of_people[i] != of_people[j]
            ]
            assert float(kinds[kind][r, 0]) == pytest.approx(mine - np.mean(between))


def test_a_brain_is_interchangeable_and_a_random_model_is_not(tmp_path):
    _, subjects = study(9)
    models = torch.stack([subjects[0], study()[0][1]])
    result = interchangeability(models, subjects[1:], "spearman", names=["brain", "random"])
    table = result.table.set_index("model")
    assert table.loc["brain", "ci_low"] < 0 < table.loc["brain", "ci_high"]
    assert table.loc["random", "ci_high"] < 0
    assert table.loc["random", "p_below"] < 0.01
    assert table.loc["brain", "p_below"] > 0.1
    result.to_netcdf(tmp_path / "result.nc")
    again = InterchangeabilityResult.from_netcdf(tmp_path / "result.nc")
    assert again.table.equals(result.table)


def test_labelled_subjects_are_joined_and_missing_pairs_left_out():
    models, subjects = study()
    squares = expand(subjects).numpy()
    squares[2, 3, 5] = squares[2, 5, 3] = np.nan
    ids = [f"s{i}" for i in range(14)]
    names = list("abcdef")
    labelled = xr.DataArray(
        squares, dims=("subject", "anchor", "neighbor"),
        coords={"subject": names, "anchor": ids, "neighbor": ids}, attrs={"kind": "rdm"},
    )  # fmt: skip
    model = xr.DataArray(
        expand(models).numpy(), dims=("layer", "anchor", "neighbor"),
        coords={"layer": ["common", "other"], "anchor": ids, "neighbor": ids},
        attrs={"kind": "rdm"},
    )  # fmt: skip
    order = np.random.default_rng(0).permutation(14)
    turned = labelled.isel(anchor=order, neighbor=order)
    result = interchangeability(model, turned, "pearson", n_resamples=20)
    held = np.isfinite(squares[2][np.triu_indices(14, 1)])
    mine = [correlation(models[0][held], one[held]) for one in subjects]
    assert result.table["model"].tolist() == ["common", "other"]
    assert result.table["model_score"][0] == pytest.approx(np.mean(mine))
    assert "1 pairs missing" in result.warnings[0]


def test_what_is_refused():
    models, subjects = study()
    with pytest.raises(DataError, match=r"at least 3 subjects, got 2.*trial_ceiling"):
        interchangeability(models, subjects[:2], "pearson")
    with pytest.raises(ShapeError, match=r"one number for each of 6 subjects, got shape \(5,\)"):
        interchangeability(models, subjects, "pearson", reliability=[0.5] * 5)
    with pytest.raises(DataError, match=r"above 0 and at most 1, got 0 to 1"):
        interchangeability(models, subjects, "pearson", reliability=[0.0, *[1.0] * 5])
    square = expand(subjects, diagonal=1.0)
    with pytest.raises(DataError, match=r"range is -1 to 1; that of 'stimulus_identification'"):
        interchangeability(
            expand(models, diagonal=1.0), square, "stimulus_identification", reliability=[1.0] * 6
        )
    with pytest.raises(DataError, match="compares features"):
        interchangeability(models, subjects, "linear_cka")
