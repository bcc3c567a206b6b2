"""`align` given a control: partial correlations on test stimuli, and all that says so."""

import json

import numpy as np
import pytest
import torch
import xarray as xr
from scipy.stats import pearsonr, rankdata

import softrsa
from softrsa.alignment import AlignmentResult
from softrsa.alignment.align import UndefinedScoreWarning
from softrsa.alignment.controlled import transformed_control
from softrsa.alignment.settings import split_stimuli
from softrsa.errors import DataError, FileFormatError, ShapeError, StimulusError
from softrsa.reports import format_best
from softrsa.reports.methods import methods_text
from softrsa.rsm import similarity_matrix
from softrsa.transforms import double_center

FIXED = {"transforms": ["identity", "centered"], "folds": 3, "n_resamples": 0}


@pytest.fixture(scope="module")
def data():
    """Pixels, a layer and three subjects that share pixels and shape, over 30 stimuli."""
    rng = torch.Generator().manual_seed(7)
    pixels, shape = torch.randn(2, 30, 8, dtype=torch.float64, generator=rng)
    layer = torch.cat([pixels, shape], 1)
    noise = torch.randn(3, 30, 16, dtype=torch.float64, generator=rng)
    brains = [torch.cat([pixels, 0.7 * shape], 1) + 0.5 * each for each in noise]
    return pixels, layer, brains


def left(values, control, offsets=None):
    design = np.column_stack([np.ones(len(values)) if offsets is None else offsets, *control])
    return values - design @ np.linalg.lstsq(design, values, rcond=None)[0]


def by_hand(data, test, *, rank=False, center=False):
    pixels, layer, brains = data
    n = len(test)
    rows, columns = np.triu_indices(n, 1)
    squares = [similarity_matrix(one)[test][:, test] for one in (pixels, layer, *brains)]
    if center:
        squares = [double_center(one) for one in squares]
    control, model, *subjects = (one.numpy()[rows, columns] for one in squares)
    if rank:
        control, model, *subjects = map(rankdata, (control, model, *subjects))
    return np.mean(
        [pearsonr(left(model, [control]), left(one, [control])).statistic for one in subjects]
    )


@pytest.mark.parametrize("measure", ["pearson", "spearman"])
def test_scores_are_partial_on_test_stimuli(data, measure):
    pixels, layer, brains = data
    result = softrsa.align({"fc": layer}, {"IT": brains}, measure=measure, control=pixels, **FIXED)
    score = result.data["score"].sel(layer="fc", region="IT")
    for fold, split in enumerate(split_stimuli(30, 3, seed=0)):
        rank = measure == "spearman"
        plain = by_hand(data, split.test, rank=rank)
        centered = by_hand(data, split.test, rank=rank, center=True)
        np.testing.assert_allclose(score.sel(transform="identity", fold=fold), plain, atol=1e-9)
        np.testing.assert_allclose(score.sel(transform="centered", fold=fold), centered, atol=1e-9)
        rsa = result.data["rsa_score"].sel(layer="fc", region="IT", fold=fold)
        np.testing.assert_allclose(rsa, by_hand(data, split.test), atol=1e-9)
    whole = result.data["all_stimuli_score"].sel(transform="identity").item()
    everything = torch.arange(30)
    assert whole == pytest.approx(by_hand(data, everything, rank=measure == "spearman"), abs=1e-9)
    assert result.table["train_score"].isna().all()


def test_ceilings_are_of_residuals(data):
    pixels, layer, brains = data
    result = softrsa.align(
        {"fc": layer}, {"IT": brains}, control=pixels, measure="pearson", **FIXED
    )
    lower, upper = [], []
    for split in split_stimuli(30, 3, seed=0):
        rows, columns = np.triu_indices(len(split.test), 1)
        control, *subjects = (
            similarity_matrix(one)[split.test][:, split.test].numpy()[rows, columns]
            for one in (pixels, *brains)
        )
        rest = [left(one, [control]) for one in subjects]
        unit = np.array([one / np.linalg.norm(one) for one in rest])
        upper.append(np.mean([pearsonr(one, unit.mean(0)).statistic for one in unit]))
        others = [np.delete(unit, i, 0).mean(0) for i in range(3)]
        pairs = zip(unit, others, strict=True)
        lower.append(np.mean([pearsonr(*pair).statistic for pair in pairs]))
    row = result.table.iloc[0]
    assert row["ceiling_lower"] == pytest.approx(np.mean(lower), abs=1e-9)
    assert row["ceiling_upper"] == pytest.approx(np.mean(upper), abs=1e-9)


@pytest.mark.parametrize("measure", ["centered_pearson", "pearson", "spearman", "cosine"])
def test_nothing_is_left_of_what_is_the_control(data, measure):
    pixels, layer, brains = data
    with pytest.warns(UndefinedScoreWarning, match="the control explains all of it"):
        result = softrsa.align(
            {"pixels": 2 * pixels, "fc": layer}, {"IT": brains}, measure=measure, control=pixels,
            **FIXED,
        )  # fmt: skip
    scores = result.table.set_index("layer")["score"]
    assert scores["pixels"].isna().all()
    assert (scores["fc"] > 0.3).all()


def test_offsets_of_the_control_do_not_count_where_both_sides_are_centered(data):
    pixels, layer, brains = data
    control = similarity_matrix(pixels)
    offsets = torch.rand(30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    moved = control + offsets[:, None] + offsets
    as_rdms = [(1 - one).fill_diagonal_(0.0) for one in (control, moved)]
    options = FIXED | {"transforms": ["centered"], "measure": "pearson"}
    plain, other = (
        softrsa.align({"fc": layer}, {"IT": brains}, control=one, **options).table["score"]
        for one in as_rdms
    )
    np.testing.assert_allclose(other, plain, atol=1e-9)
    by_chain = transformed_control(moved[None], "metric+centered")
    torch.testing.assert_close(by_chain, double_center(control)[None])
    assert torch.equal(transformed_control(moved[None], "metric+instance"), moved[None])


def test_intervals_and_p(data):
    pixels, layer, brains = data
    unrelated = torch.randn(30, 8, generator=torch.Generator().manual_seed(1)).double()
    for measure in ("pearson", "spearman", "centered_pearson"):
        result = softrsa.align(
            {"fc": layer, "same": pixels + 0.5 * unrelated}, {"IT": brains}, measure=measure,
            control=pixels, transforms=["identity"], folds=2, n_resamples=200,
        )  # fmt: skip
        table = result.table.set_index("layer")
        assert (
            (table["score_low"] < table["score"]) & (table["score"] < table["score_high"])
        ).all()
        assert table["p_chance"]["fc"] < 0.01 < table["p_chance"]["same"]
        assert table["score_high"]["fc"] - table["score_low"]["fc"] < 1
        # the mean over folds and subjects is the same, whichever way it is told
        by_subject = result.data["subject_score"].mean("tested_subject").sel(transform="identity")
        np.testing.assert_allclose(by_subject.values[:, 0], table["score"], atol=1e-9)


def test_learned_transforms_are_scored_given_it_too(data):
    pixels, layer, brains = data
    options = {"transforms": ["global", "selected"], "folds": 2, "n_resamples": 0}
    plain = softrsa.align({"fc": layer}, {"IT": brains}, **options)
    given = softrsa.align({"fc": layer}, {"IT": brains}, control=pixels, **options)
    # fitted alike, scored apart
    xr.testing.assert_allclose(plain.data["step_mean"], given.data["step_mean"])
    assert (plain.table["score"] - given.table["score"]).abs().min() > 1e-3
    assert given.table["score"].notna().all()


def test_everything_says_that_scores_are_partial(data, tmp_path):
    pixels, layer, brains = data
    control = {"pixels": pixels, "edges": pixels[:, :4] ** 2}
    result = softrsa.align({"fc": layer}, {"IT": brains}, control=control, **FIXED)
    result.to_netcdf(tmp_path / "r.nc")
    result = AlignmentResult.from_netcdf(tmp_path / "r.nc")
    assert json.loads(result.data.attrs["control"]) == ["pixels", "edges"]
    assert "partial, given pixels, edges" in repr(result)
    text, _ = methods_text(result.data)
    assert "All scores and noise ceilings are partial correlations given pixels and edges" in text
    first = format_best(result.table).splitlines()[0]
    assert first == "Scores are partial correlations given pixels, edges."
    assert result.plot().get_supylabel().startswith("Partial Centered Pearson")
    result.report(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "partial centered pearson" in page
    assert "control=control,  # pixels, edges" in page
    plain = softrsa.align({"fc": layer}, {"IT": brains}, **FIXED)
    assert "control" not in plain.data.attrs
    assert "artial" not in repr(plain) + methods_text(plain.data)[0] + format_best(plain.table)


def labelled(units, ids, **coordinates):
    return xr.DataArray(
        units.numpy(), dims=("stimulus", "unit"), coords={"stimulus": ids, **coordinates}
    )


def test_labelled_controls_are_joined_and_named(data):
    pixels, layer, brains = data
    ids = [f"image {i:02}" for i in range(30)]
    mixed = np.random.default_rng(0).permutation(30)
    names = ["edges"] * 4 + ["color"] * 4
    control = labelled(pixels, ids, layer=("unit", names)).isel(stimulus=mixed)
    sides = {"fc": labelled(layer, ids)}, {"IT": [labelled(one, ids) for one in brains]}
    found = softrsa.align(*sides, control=control, **FIXED)
    assert json.loads(found.data.attrs["control"]) == ["edges", "color"]
    plain = softrsa.align(
        {"fc": layer}, {"IT": brains}, control={"a": pixels[:, :4], "b": pixels[:, 4:]}, **FIXED
    )
    np.testing.assert_allclose(found.table["score"], plain.table["score"], atol=1e-9)
    with pytest.raises(StimulusError, match="28 of 30 and 28 are shared"):
        softrsa.align(*sides, control=control[:28], **FIXED)
    fewer = softrsa.align(*sides, control=control[:28], join="intersection", **FIXED)
    assert fewer.table["n_stimuli"].tolist() == [28, 28]


def test_a_store_of_another_control_is_refused(data, tmp_path):
    pixels, layer, brains = data
    options = FIXED | {"store": tmp_path / "store"}
    first = softrsa.align({"fc": layer}, {"IT": brains}, control=pixels, **options)
    again = softrsa.align({"fc": layer}, {"IT": brains}, control=pixels, **options)
    here = softrsa.align({"fc": layer}, {"IT": brains}, control=pixels, **FIXED)
    np.testing.assert_allclose(first.table["score"], here.table["score"])
    np.testing.assert_allclose(again.table["score"], here.table["score"])
    with pytest.raises(FileFormatError, match="control data 'control' has other data"):
        softrsa.align({"fc": layer}, {"IT": brains}, control=pixels**3, **options)


@pytest.mark.parametrize("measure", ["pearson", "spearman", "centered_pearson"])
def test_pairs_that_are_missing_are_left_out_of_the_control_too(data, measure):
    pixels, layer, brains = data
    rsms = torch.stack([similarity_matrix(one) for one in brains])
    lost = torch.rand(30, 30, generator=torch.Generator().manual_seed(0)) < 0.1
    rsms[1, lost | lost.T] = torch.nan
    result = softrsa.align(
        {"fc": layer}, {"IT": rsms}, control=pixels, transforms=["identity"], measure=measure,
        folds=None, n_resamples=200,
    )  # fmt: skip
    rows, columns = np.nonzero(~(lost | lost.T | torch.eye(30, dtype=torch.bool)).numpy())
    control, model, *subjects = (
        one.numpy()[rows, columns] for one in (*map(similarity_matrix, (pixels, layer, *brains)),)
    )
    offsets = None
    if measure == "spearman":
        control, model, *subjects = map(rankdata, (control, model, *subjects))
    elif measure == "centered_pearson":
        offsets = np.concatenate([np.eye(30)[rows], np.eye(30)[columns]], 1)
    rest = left(model, [control], offsets)
    scores = [pearsonr(rest, left(one, [control], offsets)).statistic for one in subjects]
    row = result.table.iloc[0]
    assert row["score"] == pytest.approx(np.mean(scores))
    assert row["n_pairs"] == len(rows) / 2
    assert row["p_chance"] < 0.05
    assert row["score_low"] < row["score"] < row["score_high"]
    assert row["ceiling_lower"] <= row["ceiling_upper"]


def test_what_has_no_partial_score_is_refused(data):
    pixels, layer, brains = data
    sides = {"fc": layer}, {"IT": brains}
    with pytest.raises(DataError, match="'kendall_tau_a' has no partial form"):
        softrsa.align(*sides, measure="kendall_tau_a", control=pixels, **FIXED)
    with pytest.raises(DataError, match="'linear_cka' has no partial form"):
        softrsa.align(*sides, measure="linear_cka", control=pixels)
    with pytest.raises(StimulusError, match="'fc' 30, 'IT' 30, 'control' 29"):
        softrsa.align(*sides, control=pixels[:29], **FIXED)
    many = {f"c{i}": torch.rand(30, 5) for i in range(6)}
    with pytest.raises(
        ShapeError, match=r"Given 6 controls, .* 9 pairs beyond row and column means"
    ):
        softrsa.align(*sides, control=many, transforms=["identity"], folds=6)
    rsms = torch.stack([similarity_matrix(one) for one in brains])
    rsms[:, 3, 4] = rsms[:, 4, 3] = torch.nan
    with pytest.raises(DataError, match="`control` has pairs that are missing"):
        softrsa.align(*sides, control=rsms[0], folds=None)


@pytest.mark.parametrize("folds", [None, 2])
def test_stimuli_without_pairs_are_left_out_of_the_control_too(data, folds):
    pixels, layer, brains = data
    rsms = torch.stack([similarity_matrix(one) for one in brains])
    rsms[0, 4, :], rsms[0, :, 4] = torch.nan, torch.nan  # of one subject, and so of all
    options = {"transforms": ["identity"], "folds": folds, "n_resamples": 0, "seed": 1}
    with pytest.warns(UserWarning, match=r"1 of 30 stimuli \(4\) share no pair"):
        found = softrsa.align({"fc": layer}, {"IT": rsms}, control=pixels, **options).table
    kept = [i for i in range(30) if i != 4]
    rsms = rsms[:, kept][:, :, kept]
    wanted = softrsa.align({"fc": layer[kept]}, {"IT": rsms}, control=pixels[kept], **options).table
    assert found["score"].item() == pytest.approx(wanted["score"].item(), abs=1e-9)
    assert found["ceiling_lower"].item() == pytest.approx(wanted["ceiling_lower"].item(), abs=1e-9)
