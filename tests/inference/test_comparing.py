"""Comparisons of models against SciPy and rsatoolbox; the result object and its figures."""

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
import xarray as xr
from rsatoolbox.util.inference_util import bootstrap_pair_tests, t_test_0, t_test_nc, t_tests

from softrsa.errors import (
    DataError,
    FileFormatError,
    FileMissingError,
    StimulusError,
    UnknownNameError,
)
from softrsa.inference import InferenceResult, bootstrap, compare_models, evaluate
from softrsa.inference import permutation_test as permute
from softrsa.pairs import expand


@pytest.fixture
def data(rng):
    models = torch.rand(4, 45, dtype=torch.float64, generator=rng)
    noise = torch.rand(7, 45, dtype=torch.float64, generator=rng)
    return models, models[0] + 0.5 * models[1] + 0.3 * models[2] + noise


def test_t_and_wilcoxon_are_scipy(data):
    result = evaluate(*data, "pearson")
    scores = result.data["score"].values
    ceiling = result.table["ceiling_lower"][0]
    for test, paired, single in (
        ("t", scipy.stats.ttest_rel, scipy.stats.ttest_1samp),
        ("wilcoxon", scipy.stats.wilcoxon, lambda x, m, **k: scipy.stats.wilcoxon(x - m, **k)),
    ):
        found = compare_models(result, test=test)
        for i in range(4):
            for j in range(i):
                p = found.data["p_difference"].values
                assert p[i, j] == p[j, i]
                assert p[i, j] == pytest.approx(paired(scores[i], scores[j]).pvalue, abs=1e-12)
            zero = single(scores[i], 0, alternative="greater").pvalue
            assert found.table["p_zero"][i] == pytest.approx(zero, abs=1e-12)
            assert found.table["p_ceiling"][i] == pytest.approx(single(scores[i], ceiling).pvalue)


@pytest.mark.parametrize("over", ["stimuli", "subjects", "both"])
def test_bootstrap_tests_are_rsatoolbox(data, over):
    result = bootstrap(*data, "pearson", over=over, n_resamples=100)
    means = result.data["score"].values.mean(1)[None]
    pairs = np.triu_indices(4, 1)
    variances = result.data["variance_difference"].values[pairs]
    df = result.degrees_of_freedom
    found = compare_models(result, test="bootstrap")
    close = {"rtol": 0, "atol": 1e-10}
    expected = t_tests(means, variances, df)[pairs]
    np.testing.assert_allclose(found.comparisons["p"], expected, **close)
    zero = t_test_0(means, result.data["variance"].values, df)
    np.testing.assert_allclose(found.table["p_zero"], zero, **close)
    to_ceiling = result.data["variance_to_ceiling"].values[:, 0]
    at_ceiling = t_test_nc(means, to_ceiling, result.table["ceiling_lower"][0], df)
    np.testing.assert_allclose(found.table["p_ceiling"], at_ceiling, **close)
    shares = compare_models(result, test="percentile").comparisons["p"]
    expected = bootstrap_pair_tests(result.data["resampled_score"].values[0])[pairs]
    np.testing.assert_allclose(shares, expected, **close)


def test_corrections(data):
    result = evaluate(*data, "spearman")
    p = compare_models(result).comparisons["p"].to_numpy()
    fdr = compare_models(result, correction="fdr").comparisons
    np.testing.assert_array_equal(fdr["p"], p)
    np.testing.assert_allclose(fdr["p_corrected"], scipy.stats.false_discovery_control(p))
    holm = compare_models(result, correction="fwer").comparisons["p_corrected"].to_numpy()
    steps = np.sort(p) * np.arange(6, 0, -1)
    by_hand = [min(1, max(steps[: i + 1])) for i in range(6)]
    np.testing.assert_allclose(np.sort(holm), np.sort(by_hand))
    assert (holm >= p).all()


def test_effect_size_is_mean_over_spread(data):
    result = compare_models(evaluate(*data, "cosine"))
    difference = np.diff(result.data["score"].values[[1, 0]], axis=0)[0]
    expected = difference.mean() / difference.std(ddof=1)
    assert result.comparisons["effect_size"][0] == pytest.approx(expected)
    assert result.comparisons["difference"][0] == pytest.approx(difference.mean())


def test_intervals(data):
    result = bootstrap(*data, "pearson", over="both", n_resamples=200)
    reach = scipy.stats.t.ppf(0.975, 6) * result.standard_errors()
    np.testing.assert_allclose(np.diff(result.intervals())[:, 0], 2 * reach)
    np.testing.assert_allclose(
        result.intervals(0.9, kind="percentile").T,
        np.quantile(result.data["resampled_score"].values[0], [0.05, 0.95], axis=0),
    )
    fixed = evaluate(*data, "pearson")
    sem = scipy.stats.sem(fixed.data["score"].values, axis=1)
    np.testing.assert_allclose(fixed.table["score_se"], sem)
    with pytest.raises(DataError, match=r"Percentile intervals need a bootstrap"):
        fixed.intervals(kind="percentile")
    with pytest.raises(DataError, match=r"`level` must be between 0 and 1, got 95"):
        fixed.intervals(95)
    with pytest.raises(UnknownNameError, match=r"kind of interval 'bca'"):
        fixed.intervals(kind="bca")


def test_undefined_and_equal_models(data):
    models, subjects = data
    models = torch.stack([models[0], models[0], torch.ones(45).double()])
    for test in ("t", "wilcoxon"):
        found = compare_models(evaluate(models, subjects, "pearson"), test=test, correction="fdr")
        assert found.comparisons["p"].isna().tolist() == [True, True, True]
        assert found.table["p_zero"].isna().tolist() == [False, False, True]


@pytest.mark.parametrize("test", ["t", "bootstrap", "percentile"])
def test_without_spread_no_test_is_possible(data, test):
    """Subjects who are all the same differ by rounding at most: p would be 0, effects endless."""
    models, subjects = data
    below = torch.stack([models[0], -models[0], models[1]])
    for n in (3, 7):
        same = -models[0].repeat(n, 1) / 3
        for over in ("subjects", "stimuli"):
            if (test, over) == ("t", "stimuli"):
                continue
            result = bootstrap(below, same, "pearson", over=over, n_resamples=30)
            found = compare_models(result, test=test)
            expected = [True, True, over == "subjects"]
            assert found.table["p_zero"].isna().tolist() == expected
            assert found.comparisons["effect_size"].isna().all()
            assert found.comparisons["p"].isna().tolist() == [True, *[over == "subjects"] * 2]
            assert "(NaN) between model 1 and model 2" in found.warnings[-1]
            assert "model 1 and 0, model 2 and 0" in found.warnings[-1]
    # the same model in another unit differs from itself by rounding
    twins = bootstrap(torch.stack([models[0], models[0] / 3]), subjects, "pearson", n_resamples=30)
    found = compare_models(twins, test=test)
    assert found.comparisons[["effect_size", "p"]].isna().all(axis=None)
    assert (found.table["p_zero"] < 0.05).all()
    assert found.warnings == [
        "No test is possible (NaN) between model 1 and model 2: the difference does not vary over "
        "subjects or resamples, so that nothing shows how sure it is."
    ]


def test_wilcoxon_needs_signs_only(data):
    models, subjects = data
    below = evaluate(-models[:1], models[0].repeat(6, 1), "pearson")
    assert compare_models(below, test="wilcoxon").table["p_zero"][0] == 1.0
    twins = evaluate(torch.stack([models[0], models[0] / 3]), subjects, "pearson")
    assert np.isnan(compare_models(twins, test="wilcoxon").comparisons["p"][0])


def test_wrong_arguments_are_named(data):
    one = evaluate(data[0], data[1][:1], "pearson")
    with pytest.raises(DataError, match=r"test='t' .* at least 2, got 1.*bootstrap over stimuli"):
        compare_models(one)
    with pytest.raises(DataError, match=r"'percentile' needs resamples"):
        compare_models(one, test="percentile")
    with pytest.raises(UnknownNameError, match=r"test 'welch'.*Known: t, wilcoxon"):
        compare_models(one, test="welch")
    with pytest.raises(UnknownNameError, match=r"correction 'bonferroni'"):
        compare_models(one, correction="bonferroni")
    with pytest.raises(DataError, match=r"No comparisons here"):
        _ = one.comparisons


def test_file_round_trip(data, tmp_path):
    result = compare_models(bootstrap(*data, "pearson", n_resamples=20), correction="fwer")
    path = tmp_path / "new" / "result.nc"
    result.to_netcdf(path)
    loaded = InferenceResult.from_netcdf(path)
    xr.testing.assert_identical(loaded.data.drop_attrs(), result.data.drop_attrs())
    assert loaded.data.attrs == result.data.attrs
    assert loaded.data.attrs["softrsa_schema"] == "1"
    pd.testing.assert_frame_equal(loaded.table, result.table)
    assert [file.name for file in path.parent.iterdir()] == ["result.nc"]
    with pytest.raises(FileMissingError, match=r"no file .*gone\.nc"):
        InferenceResult.from_netcdf(tmp_path / "gone.nc")
    xr.Dataset({"a": 1}).to_netcdf(tmp_path / "other.nc")
    with pytest.raises(FileFormatError, match=r"other\.nc holds no result of inference"):
        InferenceResult.from_netcdf(tmp_path / "other.nc")


def labelled(rsms, dim, names, ids):
    square = expand(rsms).numpy()
    coords = {dim: names, "anchor": ids, "neighbor": ids}
    return xr.DataArray(square, dims=(dim, "anchor", "neighbor"), coords=coords)


def test_labels_are_kept_and_joined(data):
    models, subjects = data
    ids = [f"image {i}" for i in range(10)]
    layers = labelled(models, "layer", ["a", "b", "c", "d"], ids)
    brains = labelled(subjects, "subject", list("tuvwxyz"), ids)
    shuffled = brains.isel(anchor=slice(None, None, -1), neighbor=slice(None, None, -1))
    result = evaluate(layers, shuffled, "pearson")
    assert result.table["layer"].tolist() == ["a", "b", "c", "d"]
    assert result.data["subject"].values.tolist() == list("tuvwxyz")
    np.testing.assert_allclose(result.data["score"], evaluate(*data, "pearson").data["score"])
    with pytest.raises(StimulusError, match=r"2 are on one side only, such as \['image 8'"):
        evaluate(layers, brains.isel(anchor=slice(8), neighbor=slice(8)), "pearson")
    with pytest.raises(StimulusError, match=r"both be labelled, or neither"):
        evaluate(layers, subjects, "pearson")
    similar = (1 - brains).assign_attrs(kind="rsm")
    with pytest.raises(DataError, match=r"kind 'rdm', subjects of kind 'rsm'"):
        evaluate(layers, similar, "pearson")


def test_figures(data):
    result = compare_models(bootstrap(*data, "pearson", over="both", n_resamples=50))
    ax = result.plot()
    assert len(ax.patches) == 5  # four bars and the ceiling
    heights = [patch.get_height() for patch in ax.patches if patch.get_width() == 0.7]
    np.testing.assert_allclose(heights, result.table["score"])
    assert ax.get_xticklabels()[0].get_text() == "model 1"
    assert "> 0, p < .05" in legend_of(ax)
    matrix = result.plot_comparisons()
    assert matrix.images[0].get_array().shape == (4, 4)
    assert any("*" in text.get_text() for text in matrix.texts)
    assert result.plot(ax) is ax
    assert "> 0, p < .05" in legend_of(permute(*data, "pearson", n_permutations=99).plot())


def legend_of(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_a_model_without_score_is_drawn_without_marks(data):
    models, subjects = data
    models = models.clone()
    models[1] = 0.5
    ax = evaluate(models, subjects, "pearson").plot()
    heights = [patch.get_height() for patch in ax.patches if patch.get_width() == 0.7]
    assert np.isnan(heights).sum() == 1
