"""Curves over time against `evaluate` and `noise_ceiling`, one time after the other."""

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from torch import nn

from softrsa.errors import (
    DataError,
    DTypeError,
    FileFormatError,
    ShapeError,
    StimulusError,
    UnknownNameError,
)
from softrsa.inference import (
    TimeCourseResult,
    TimeGeneralization,
    cluster_test,
    evaluate,
    time_courses,
    time_generalization,
)
from softrsa.inference.latency import onset_and_peak
from softrsa.measures import available
from softrsa.rsm import build_rsms, to_rsm

N, TIMES = 12, np.array([-0.1, 0.0, 0.1, 0.2, 0.3])
SUBJECTS = ["a", "b", "c", "d", "e", "f"]
IDS = [f"image {i}" for i in range(N)]
ON_RSMS = [name for name, entry in available().items() if entry.takes != "features"]


def recordings(rng, strength=(0, 0, 2, 2, 0), regions=("V4", "IT"), units=6):
    """Signal of one layer in all regions, over time, with noise of its own in every subject."""
    signal = rng.normal(size=(N, units))
    parts = [
        signal[..., None] * np.array(strength) + rng.normal(size=(N, units, len(TIMES)))
        for _ in SUBJECTS
        for _ in regions
    ]
    array = xr.DataArray(
        np.concatenate(parts, axis=1),
        dims=("stimulus", "unit", "time"),
        coords={
            "stimulus": IDS,
            "time": TIMES,
            "subject": ("unit", np.repeat(SUBJECTS, units * len(regions))),
            "region": ("unit", np.tile(np.repeat(regions, units), len(SUBJECTS))),
        },
    )
    layers = {"near": signal, "far": rng.normal(size=(N, units))}
    return {
        name: xr.DataArray(x, dims=("stimulus", "unit"), coords={"stimulus": IDS})
        for name, x in layers.items()
    }, array


@pytest.fixture
def layers():
    return recordings(np.random.default_rng(0))[0]


@pytest.fixture
def meg():
    return recordings(np.random.default_rng(0))[1]


@pytest.fixture
def movie(meg):
    """RDMs (region, subject, time, anchor, neighbor)."""
    return (1 - build_rsms(meg, by=["region", "subject"])).assign_attrs(kind="rdm")


def stacked(layers):
    stack = xr.concat([build_rsms(x) for x in layers.values()], "layer")
    return stack.assign_coords(layer=[*layers]).assign_attrs(kind="rsm")


@pytest.mark.parametrize("measure", ON_RSMS)
def test_every_time_is_what_evaluate_gives(measure, layers, movie, monkeypatch):
    monkeypatch.setattr("softrsa.inference.movies.CHUNK_BYTES", 2 * 8 * 6 * N * N)  # two times
    models = (1 - stacked(layers)).assign_attrs(kind="rdm")
    result = time_courses(models, movie, measure, n_flips=10)
    tolerance = 1e-6 if measure == "soft_spearman" else 1e-9  # which is solved in float32
    for region in ("V4", "IT"):
        for i, time in enumerate(TIMES):
            expected = evaluate(models, movie.sel(region=region, drop=True)[:, i], measure)
            found = result.data.sel(region=region, time=time)
            for name in ("score", "ceiling"):
                dims = expected.data[name].dims
                np.testing.assert_allclose(
                    found[name].transpose(*dims), expected.data[name], rtol=0, atol=tolerance
                )


def test_the_table_has_a_row_per_model_region_and_time(layers, movie):
    result = time_courses(layers, movie, "pearson")
    table = result.table
    assert len(table) == 2 * 2 * 5
    assert list(table.columns[:4]) == ["layer", "region", "time", "score"]
    one = table.query("layer == 'near' and region == 'IT'")
    scores = result.data["score"].sel(model="near", region="IT").values
    np.testing.assert_allclose(one["score"], scores.mean(0))
    np.testing.assert_allclose(one["score_se"], scores.std(0, ddof=1) / 6**0.5)
    test = cluster_test(torch.from_numpy(scores), alternative="greater")
    np.testing.assert_array_equal(one["p"], test.p_uncorrected)
    np.testing.assert_array_equal(one["p_corrected"], test.p)
    np.testing.assert_array_equal(one["cluster"], test.labels)
    assert one.query("p_corrected < 0.05")["time"].tolist() == [0.1, 0.2]
    assert set(table["n_subjects"]) == {6}
    assert (one["ci_low"] < one["score"]).all()
    assert "2 layers × 2 regions, 5 times, 6 subjects" in repr(result)


def test_forms_of_the_same_data_are_the_same(layers, meg, movie):
    order = np.random.default_rng(1).permutation(N)
    expected = time_courses(layers, movie, "centered_pearson").table
    by_region = {
        str(r): [movie.sel(region=r, subject=s, drop=True) for s in SUBJECTS]
        for r in ("V4", "IT")
    }  # fmt: skip
    shuffled = meg.isel(stimulus=order)
    flat = xr.concat([*layers.values()], "unit").assign_coords(
        layer=("unit", np.repeat([*layers], 6))
    )
    mixed = {"near": layers["near"], "far": build_rsms(layers["far"])}
    for models, regions in (
        (layers, meg), (stacked(layers), meg), (flat, shuffled), (mixed, movie),
        (layers, by_region), (layers, movie.transpose("time", "neighbor", "anchor", ...)),
    ):  # fmt: skip
        found = time_courses(models, regions, "centered_pearson").table
        pd.testing.assert_frame_equal(found, expected, rtol=1e-9, atol=1e-12)


def test_one_region_without_names_and_single_precision(layers, movie):
    alone = movie.sel(region="IT", drop=True)
    found = time_courses(layers, alone.astype("float32"), "spearman")
    expected = time_courses(layers, alone, "spearman")
    assert found.table["region"].unique().tolist() == ["brain"]
    np.testing.assert_allclose(found.data["score"], expected.data["score"], atol=2e-3)


def test_regions_may_have_other_subjects(layers, movie):
    part = movie.sel(region="IT", drop=True).isel(subject=slice(0, 4))
    both = time_courses(layers, {"V4": movie.sel(region="V4", drop=True), "IT": part}, "pearson")
    whole = movie.copy()
    whole.loc[{"region": "IT", "subject": ["e", "f"]}] = np.nan  # not recorded
    same = time_courses(layers, whole, "pearson")
    pd.testing.assert_frame_equal(both.table, same.table)
    assert both.table.groupby("region")["n_subjects"].first().to_dict() == {"IT": 4, "V4": 6}
    alone = time_courses(layers, {"IT": part}, "pearson").table
    one = both.table.query("region == 'IT'").reset_index(drop=True)
    pd.testing.assert_frame_equal(one, alone)


def test_pairs_missing_once_are_left_out_throughout(layers, movie):
    gaps = movie.sel(region="IT", drop=True).copy()
    for a, b in ((0, 1), (1, 0)):
        gaps[2, 3, a, b] = np.nan
    result = time_courses(layers, gaps, "pearson")
    assert "1 pair missing" in result.warnings[0]
    everywhere = gaps.where(gaps[2, 3].drop_vars(["subject", "time"]).notnull())
    expected = evaluate((1 - stacked(layers)).assign_attrs(kind="rdm"), everywhere[:, 0], "pearson")
    found = result.data.isel(region=0, time=0)
    for name in ("score", "ceiling"):
        np.testing.assert_allclose(found[name], expected.data[name], atol=1e-12)
    with pytest.raises(DataError, match=r"missing .* 'kernel_cka' needs all of them"):
        time_courses(layers, gaps, "kernel_cka")


def test_a_constant_rdm_is_nan_at_its_time_only(layers, movie):
    flat = movie.sel(region="IT", drop=True).copy()
    flat[1, 2] = 1.0 - np.eye(N)
    result = time_courses(layers, flat, "pearson")
    table = result.table.query("layer == 'near'")
    for name in ("score", "t", "p", "p_corrected"):
        assert table[name].isna().tolist() == [False, False, True, False, False]
    assert "undefined (NaN) at 1 time (0.1)" in result.warnings[0]
    assert np.isfinite(result.latencies()["peak"]).all()
    assert result.differences()["p"].isna().sum() == 1


def test_one_subject_has_curves_without_tests(layers, movie):
    result = time_courses(layers, movie.sel(region="IT", subject="a", drop=True), "pearson")
    table = result.table
    assert table["score"].notna().all()
    for name in ("score_se", "p", "p_corrected", "ceiling_lower"):
        assert table[name].isna().all()
    assert "one subject" in result.warnings[0]
    latencies = result.latencies()
    assert latencies["peak"].notna().all()
    assert latencies["peak_low"].isna().all()
    result.plot()
    with pytest.raises(DataError, match="2 subjects, got 2 models and 1 subject"):
        result.differences()


def test_transforms_without_a_fit(layers, movie):
    centered = time_courses(layers, movie, "pearson", transform="centered")
    expected = time_courses(layers, movie, "centered_pearson")
    np.testing.assert_allclose(centered.data["score"], expected.data["score"], atol=1e-12)
    assert centered.data.attrs["transform"] == "centered"

    class Squared(nn.Module):
        def forward(self, rsms, anchors=None):
            return rsms.square()

    squared = to_rsm(movie).copy(data=to_rsm(movie).values ** 2)
    models = stacked(layers).copy(data=stacked(layers).values ** 2)
    expected = time_courses(models, squared.assign_attrs(kind="rsm"), "spearman")
    found = time_courses(layers, movie, "spearman", transform=Squared())
    np.testing.assert_allclose(found.data["score"], expected.data["score"], atol=1e-12)
    for name in ("global", "geo_topological", "metric", "selected", "metric+instance"):
        with pytest.raises(DataError, match=r"is fitted .*'centered'.*softrsa\.align"):
            time_courses(layers, movie, "pearson", transform=name)


def test_chance_shifts_the_test_only(layers, movie):
    plain = time_courses(layers, movie, "stimulus_identification")
    half = time_courses(layers, movie, "stimulus_identification", chance=0.5)
    np.testing.assert_array_equal(plain.data["score"], half.data["score"])
    before = half.table.query("time < 0.05 and layer == 'far'")
    assert (before["p_corrected"] > 0.05).all()
    assert (plain.table["p_corrected"] < 0.05).all()


def test_differences_are_tests_of_paired_scores(layers, movie):
    result = time_courses(layers, movie, "pearson", method="max")
    found = result.differences()
    assert found[["model", "other"]].drop_duplicates().values.tolist() == [["near", "far"]]
    one = found.query("region == 'V4'")
    gaps = result.data["score"].sel(region="V4").transpose("model", "subject", "time").values
    gaps = gaps[0] - gaps[1]
    expected = cluster_test(torch.from_numpy(gaps), method="max")
    np.testing.assert_allclose(one["difference"], gaps.mean(0))
    np.testing.assert_array_equal(one["p_corrected"], expected.p)
    turned = result.differences("near").query("region == 'V4'")
    np.testing.assert_allclose(turned["difference"], -one["difference"])
    np.testing.assert_array_equal(turned["p_corrected"], one["p_corrected"])
    with pytest.raises(UnknownNameError, match=r"'nearr'.*near"):
        result.differences("nearr")


def test_results_are_stored_whole(layers, movie, tmp_path):
    result = time_courses(layers, movie, "pearson", threshold=2.5, n_flips=20, seed=4)
    result.to_netcdf(tmp_path / "curves.nc")
    again = TimeCourseResult.from_netcdf(tmp_path / "curves.nc")
    pd.testing.assert_frame_equal(again.table, result.table)
    pd.testing.assert_frame_equal(again.latencies(), result.latencies())
    pd.testing.assert_frame_equal(again.differences(), result.differences())
    assert again.warnings == result.warnings
    with pytest.raises(FileFormatError, match="holds no result of `time_generalization`"):
        TimeGeneralization.from_netcdf(tmp_path / "curves.nc")


def test_inputs_are_not_written_into(layers, movie):
    before = movie.copy(deep=True), {name: x.copy(deep=True) for name, x in layers.items()}
    for measure in ("centered_pearson", "kernel_cka"):
        time_courses(layers, movie, measure, transform="centered")
    xr.testing.assert_identical(movie, before[0])
    for name, layer in layers.items():
        xr.testing.assert_identical(layer, before[1][name])


def test_onset_and_peak():
    times = np.arange(6) / 10
    curves = np.array(
        [
            [0.0, 0.2, 0.4, 0.8, 0.4, 0.0],  # half of .8 is reached at .2
            [0.0, 0.6, 0.3, 0.8, 0.4, 0.0],  # rises twice: the last counts
            [0.5, 0.6, 0.7, 0.8, 0.4, 0.0],  # never below
            [-0.1, -0.2, -0.3, -0.1, -0.1, -0.2],  # nowhere above chance
        ]
    )
    onset, peak = onset_and_peak(curves, times)
    np.testing.assert_allclose(onset, [0.2, 0.22, 0.0, np.nan])
    np.testing.assert_allclose(peak, [0.3, 0.3, 0.3, np.nan])
    onset, peak = onset_and_peak(curves[:1], times, start=4)
    np.testing.assert_allclose(peak, [0.4])
    np.testing.assert_allclose(onset, [0.1])


def test_latencies_hold_what_was_put_in(layers, movie):
    found = time_courses(layers, movie, "pearson").latencies(window=(0.0, 0.3))
    near = found.query("layer == 'near'")
    assert near["peak"].isin([0.1, 0.2]).all()
    assert near["onset"].between(0.0, 0.1).all()
    assert (near["first_significant"] == 0.1).all()
    for name in ("onset", "peak"):
        assert (near[f"{name}_low"] <= near[f"{name}_high"]).all()
    again = time_courses(layers, movie, "pearson").latencies(window=(0.0, 0.3))
    pd.testing.assert_frame_equal(again, found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fraction": 1.0}, r"`fraction` must be between 0 and 1, got 1\.0"),
        ({"level": 0}, r"`level` must be between 0 and 1, got 0"),
        ({"n_resamples": 0}, r"`n_resamples` must be at least 1, got 0"),
        ({"window": (5, 6)}, r"\(5, 6\) does not, of times from -0\.1 to 0\.3"),
    ],
)
def test_wrong_latencies_are_named(options, message, layers, movie):
    with pytest.raises(DataError, match=message):
        time_courses(layers, movie, "pearson").latencies(**options)


def shifted(movie):
    parts = [movie.sel(region="IT", subject=s, drop=True) for s in SUBJECTS[:3]]
    return [*parts[:2], parts[2].assign_coords(time=TIMES + 1)]


def lacking(movie):
    gaps = movie.sel(region="IT", drop=True).copy()
    gaps[1, :2] = np.nan
    return gaps


def slower(movie):
    return {"V4": movie.sel(region="V4", drop=True), "IT": movie.sel(region="IT", drop=True)[:, 1:]}


BAD_BRAINS = [
    (shifted, DataError, r"subject 1 has 5 from -0\.1 to 0\.3, subject 3 has 5 from 0\.9 to 1\.3"),
    (lacking, DataError, r"'b' has no RDM at 2 times of 5 \(-0\.1, 0\.0\)"),
    (slower, DataError, r"'V4' has 5 from -0\.1 to 0\.3, 'IT' 4 from 0 to 0\.3"),
    (lambda m: m.isel(time=0, drop=True), ShapeError, r"'V4' has no dimension `time`"),
    (lambda m: m.rename(region="session"), ShapeError, r"RDMs by 'session' beside subject"),
    (lambda m: m.isel(time=[1, 0, 2]), DataError, r"increase, got 0\.0, -0\.1, 0\.1"),
    (lambda m: m.values, DTypeError, r"got ndarray"),
    (lambda m: {}, DataError, r"No region given"),
    (lambda m: [], DataError, r"no subject: the list is empty"),
    (
        lambda m: m.isel(anchor=slice(0, 8), neighbor=slice(0, 8)),
        StimulusError,
        r"8 of 12 and 8 are shared",
    ),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD_BRAINS)
def test_brains_that_cannot_be_used_are_named(change, error, message, layers, movie):
    with pytest.raises(error, match=message):
        time_courses(layers, change(movie), "pearson")


def test_other_wrong_arguments_are_named(layers, movie, meg):
    with pytest.raises(DataError, match=r"5 times of their own.*time_generalization"):
        time_courses(meg.isel(unit=slice(0, 6)), movie, "pearson")
    with pytest.raises(DataError, match="No model given"):
        time_courses({}, movie, "pearson")
    with pytest.raises(UnknownNameError, match="'masses'"):
        time_courses(layers, movie, "pearson", method="masses")
    with pytest.raises(UnknownNameError, match="'more'"):
        time_courses(layers, movie, "pearson", alternative="more")
    with pytest.raises(DataError, match=r"'linear_cka' compares features"):
        time_courses(layers, movie, "linear_cka")
    trials = meg.rename(stimulus="trial").assign_coords(stimulus=("trial", IDS))
    with pytest.raises(DataError, match=r"single trials: average"):
        time_courses(layers, trials, "pearson")
    few = {name: x[:3] for name, x in layers.items()}
    with pytest.raises(StimulusError, match=r"at least 4 stimuli, got 3"):
        time_courses(few, movie, "centered_pearson", join="intersection")


@pytest.mark.parametrize("measure", ["centered_pearson", "spearman", "kendall_tau_a"])
def test_generalization_is_the_measure_of_pairs_of_times(measure, movie):
    one = movie.sel(region="IT", drop=True)
    result = time_generalization(one, measure, n_flips=10)
    entry = available()[measure]
    squares = torch.from_numpy(one.values)
    for i in range(5):
        for j in range(5):
            found = result.data["score"].values[:, i, j]
            expected = entry.between(squares[:, i], squares[:, j]) if i != j else np.nan
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    assert np.isnan(np.diagonal(result.data["p"])).all()
    assert len(result.table) == 25


def test_generalization_to_a_reference_of_other_times(layers, movie, tmp_path):
    one = movie.sel(region="IT", drop=True)
    steps = xr.concat([layers["far"], layers["near"], layers["near"]], "time")
    steps = steps.assign_coords(time=[1, 2, 3])
    result = time_generalization(one, "centered_pearson", reference=steps)
    assert result.data["score"].dims == ("subject", "time", "other_time")
    assert result.data["score"].shape == (6, 5, 3)
    curves = time_courses(layers, one, "centered_pearson").data["score"].isel(region=0)
    for step, name in enumerate(("far", "near", "near")):
        np.testing.assert_allclose(
            result.data["score"][:, :, step], curves.sel(model=name), atol=1e-12
        )
    expected = cluster_test(torch.from_numpy(result.data["score"].values), alternative="greater")
    np.testing.assert_array_equal(result.data["p_corrected"], expected.p)
    below = result.data["p_corrected"] < 0.05
    assert below[:, 1:].values.tolist() == [[False] * 2] * 2 + [[True] * 2] * 2 + [[False] * 2]
    result.to_netcdf(tmp_path / "pairs.nc")
    again = TimeGeneralization.from_netcdf(tmp_path / "pairs.nc")
    pd.testing.assert_frame_equal(again.table, result.table)
    assert result.plot().get_xlabel() == "time of the reference"
    with pytest.raises(DataError, match=r"one movie, got 6 subjects"):
        time_generalization(one, "pearson", reference=one)
