"""Groups of stimuli and subjects against rsatoolbox, SciPy and literal resampling."""

import itertools
import warnings

import numpy as np
import pytest
import torch
import xarray as xr
from rsatoolbox.inference import eval_bootstrap_pattern, eval_dual_bootstrap
from rsatoolbox.inference.noise_ceiling import boot_noise_ceiling
from rsatoolbox.model import ModelFixed
from rsatoolbox.rdm import RDMs
from scipy.stats import ttest_1samp, ttest_rel, wilcoxon

from softrsa.errors import DataError, ShapeError, UnknownNameError
from softrsa.inference import (
    InferenceResult,
    bootstrap,
    cluster_test,
    compare_models,
    crossvalidate,
    evaluate,
    noise_ceiling,
    permutation_test,
    weighted_rsm_model,
)
from softrsa.inference.bootstrap import resampled
from softrsa.inference.pair_table import stack_rsms, with_groups
from softrsa.measures import get
from softrsa.pairs import expand

CATEGORIES = ["face", "house", "face", "cat", "cat", "house", "dog", "dog", "cat", "tool", "tool"]
FAMILIES = ["a", "b", "a", "c", "c", "b"]


def simulated(rng, n=11, n_models=2, n_subjects=6):
    models = torch.rand(n_models, n * (n - 1) // 2, dtype=torch.float64, generator=rng)
    noise = torch.rand(n_subjects, models.shape[1], dtype=torch.float64, generator=rng)
    return models, models[0] + noise


def numbered(labels):
    return np.unique(labels, return_inverse=True)[1]


def peer(function, method, models, subjects, draws, monkeypatch, **descriptors):
    """Run rsatoolbox with our draws of groups in place of its own."""
    queue = iter(draws)
    monkeypatch.setattr(np.random, "randint", lambda *_, **__: next(queue))
    given = RDMs(
        subjects.numpy(),
        pattern_descriptors={"category": numbered(CATEGORIES)},
        rdm_descriptors={"family": numbered(FAMILIES)},
    )
    fixed = [
        ModelFixed(str(i), RDMs(one[None].numpy(), pattern_descriptors=given.pattern_descriptors))
        for i, one in enumerate(models)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(fixed, given, method=method, N=5, **descriptors)


def counts_of(draws, labels):
    """How often each thing occurs where these groups, in alphabetical order, are drawn."""
    each = [np.bincount(draw, minlength=len({*labels}))[numbered(labels)] for draw in draws]
    return torch.from_numpy(np.stack(each)).double()


@pytest.mark.parametrize(
    ("measure", "method"),
    [("pearson", "corr"), ("spearman", "spearman"), ("whitened_cosine", "cosine_cov"),
     ("kendall_tau_b", "tau-b")],
)  # fmt: skip
def test_resamples_of_groups_are_rsatoolbox(measure, method, rng, monkeypatch):
    models, subjects = simulated(rng)
    numbers = np.random.default_rng(1)
    draws = numbers.integers(5, size=(5, 5))
    draws[:, :3] = [0, 1, 2]  # rsatoolbox leaves out resamples of fewer than three groups
    people = numbers.integers(3, size=(5, 3))
    people[:, :2] = [0, 1]
    found = peer(
        eval_dual_bootstrap, method, models, subjects,
        [one for pair in zip(people, draws, strict=True) for one in pair], monkeypatch,
        pattern_descriptor="category", rdm_descriptor="family",
    )  # fmt: skip
    stack = with_groups(
        stack_rsms(models, subjects, measure), models, subjects, stimuli=CATEGORIES,
        subjects=FAMILIES,
    )  # fmt: skip
    scores, bounds = resampled(
        stack, counts_of(draws, CATEGORIES), counts_of(people, FAMILIES), "both", ceilings=True
    )
    close = {"rtol": 0, "atol": 1e-8}
    np.testing.assert_allclose(scores, found.evaluations[:, :, 0, 0].transpose(2, 0, 1), **close)
    np.testing.assert_allclose(bounds, found.noise_ceiling[:, :, 0].transpose(2, 1, 0), **close)


def test_resamples_of_stimulus_groups_are_rsatoolbox(rng, monkeypatch):
    models, subjects = simulated(rng)
    draws = np.random.default_rng(2).integers(5, size=(5, 5))
    draws[:, :3] = [0, 2, 4]
    found = peer(
        eval_bootstrap_pattern, "corr", models, subjects, [*draws], monkeypatch,
        pattern_descriptor="category",
    )  # fmt: skip
    stack = with_groups(
        stack_rsms(models, subjects, "pearson"), models, subjects, stimuli=CATEGORIES
    )
    everyone = torch.ones(5, 6).double()
    scores, _ = resampled(stack, counts_of(draws, CATEGORIES), everyone, "stimuli", ceilings=False)
    np.testing.assert_allclose(scores[0], found.evaluations, rtol=0, atol=1e-8)


def test_whole_groups_are_drawn_and_variances_count_them(rng):
    models, subjects = simulated(rng)
    result = bootstrap(
        models, subjects, "pearson", over="both", n_resamples=60, seed=3,
        stimulus_groups=CATEGORIES, subject_groups=FAMILIES,
    )  # fmt: skip
    samples = result.data["resampled_score"].values
    both, people, stimuli = samples.var(1, ddof=1)
    # the formula of the docstring, of 5 groups of stimuli and 3 of subjects
    p, s = 5 / 4, 3 / 2
    total = s * people + p * stimuli - s * p * (both - people - stimuli)
    expected = np.minimum(np.maximum(total, np.maximum(s * people, p * stimuli)), both)
    np.testing.assert_allclose(result.data["variance"], expected, rtol=1e-9)
    assert result.degrees_of_freedom == 2
    assert result.unit == "other groups of stimuli and other groups of subjects"
    row = result.table.iloc[0]
    assert (row["n_stimulus_groups"], row["n_subject_groups"], row["n_stimuli"]) == (5, 3, 11)


def test_groups_of_one_are_the_ordinary_bootstrap_and_permutation(rng):
    models, subjects = simulated(rng)
    for over in ("stimuli", "subjects", "both"):
        stimuli = None if over == "subjects" else range(11)
        plain = bootstrap(models, subjects, "pearson", over=over, n_resamples=20)
        grouped = bootstrap(
            models, subjects, "pearson", over=over, n_resamples=20, stimulus_groups=stimuli,
            subject_groups=list("abcdef"),
        )  # fmt: skip
        xr.testing.assert_equal(plain.data, grouped.data)
    plain = permutation_test(models, subjects, "spearman", n_permutations=20)
    grouped = permutation_test(
        models, subjects, "spearman", n_permutations=20, stimulus_groups=range(11)
    )
    xr.testing.assert_equal(plain.data, grouped.data)


def test_resamples_of_a_single_group_are_left_out(rng):
    models, subjects = simulated(rng, 8)
    result = bootstrap(
        models, subjects, "pearson", n_resamples=40, ceilings=False,
        stimulus_groups=["a"] * 3 + ["b"] * 2 + ["c"] * 3, seed=1,
    )  # fmt: skip
    drawn = torch.randint(3, (40, 3), generator=torch.Generator().manual_seed(1))
    same = (drawn == drawn[:, :1]).all(1).numpy()
    assert same.sum() > 1
    np.testing.assert_array_equal(np.isnan(result.data["resampled_score"].values[0]).all(1), same)


@pytest.mark.parametrize("measure", ["pearson", "centered_pearson", "kendall_tau_a"])
def test_ceilings_leave_groups_of_subjects_out(measure, rng):
    entry = get(measure)
    _, subjects = simulated(rng)
    squares = expand(subjects)
    found = noise_ceiling(squares, measure, subject_groups=FAMILIES)
    plain = noise_ceiling(squares, measure)
    torch.testing.assert_close(found.upper, plain.upper)
    normal = entry.normalize(entry.pairs_of(squares))
    for i, family in enumerate(FAMILIES):
        others = normal[[other != family for other in FAMILIES]].mean(0)
        own = entry.pairs_of(squares)[i]
        assert found.lower[i].item() == pytest.approx(entry.function(own, others).item(), abs=1e-9)
    result = evaluate(squares[:1], squares, measure, subject_groups=FAMILIES)
    both = torch.stack([*found]).numpy()
    np.testing.assert_allclose(result.data["ceiling"], both, atol=1e-9)


def test_ceilings_of_groups_are_rsatoolbox(rng):
    _, subjects = simulated(rng)
    given = RDMs(subjects.numpy(), rdm_descriptors={"family": numbered(FAMILIES)})
    expected = boot_noise_ceiling(given, method="corr", rdm_descriptor="family")
    table = evaluate(subjects[:1], subjects, "pearson", subject_groups=FAMILIES).table
    found = table[["ceiling_lower", "ceiling_upper"]].iloc[0]
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_ceilings_where_pairs_are_missing(rng):
    _, subjects = simulated(rng)
    lacking = subjects.clone()
    lacking[0, 3] = torch.nan
    keep = torch.arange(subjects.shape[1]) != 3
    found = noise_ceiling(lacking, "pearson", subject_groups=FAMILIES)
    expected = noise_ceiling(subjects[:, keep], "pearson", subject_groups=FAMILIES)
    torch.testing.assert_close(torch.stack([*found]), torch.stack([*expected]))


def test_tests_over_subjects_are_of_group_means(rng):
    models, subjects = simulated(rng)
    families = ["a", "b", "a", "c", "d", "a"]
    result = compare_models(evaluate(models, subjects, "pearson", subject_groups=families))
    scores = result.data["score"].values
    means = np.stack([scores[:, [f == name for f in families]].mean(1) for name in "abcd"], axis=1)
    paired = ttest_rel(*means)
    assert result.comparisons["p"][0] == pytest.approx(paired.pvalue, rel=1e-9)
    assert result.comparisons["difference"][0] == pytest.approx((means[0] - means[1]).mean())
    zero = [ttest_1samp(one, 0, alternative="greater") for one in means]
    np.testing.assert_allclose(result.table["p_zero"], [one.pvalue for one in zero], rtol=1e-9)
    low, high = zip(*(ttest_1samp(one, 0).confidence_interval() for one in means), strict=True)
    np.testing.assert_allclose(result.table[["score", "ci_low", "ci_high"]].T,
                               [means.mean(1), low, high], rtol=1e-9)  # fmt: skip
    ranks = compare_models(result, test="wilcoxon").comparisons["p"][0]
    assert ranks == pytest.approx(wilcoxon(means[0] - means[1]).pvalue)
    assert result.unit == "other groups of subjects and the same stimuli"


def test_groups_are_saved(rng, tmp_path):
    models, subjects = simulated(rng)
    result = bootstrap(
        models, subjects, "pearson", over="both", n_resamples=20, stimulus_groups=CATEGORIES,
        subject_groups=[1, 2, 1, 3, 3, 2],
    )  # fmt: skip
    result.to_netcdf(tmp_path / "result.nc")
    found = InferenceResult.from_netcdf(tmp_path / "result.nc")
    assert found.degrees_of_freedom == 2
    assert found.table.equals(result.table)
    assert found.data.attrs["subject_groups"] == "[1, 2, 1, 3, 3, 2]"
    assert "groups of stimuli" in found.plot().get_ylabel()


def of_equal_size(n_groups=5, size=2):
    return [f"group {i}" for _ in range(size) for i in range(n_groups)]


def test_whole_groups_are_exchanged_in_every_order(rng):
    models, subjects = simulated(rng, 10)
    labels = of_equal_size()
    result = permutation_test(
        models, subjects, "pearson", n_permutations=500, stimulus_groups=labels
    )
    assert result.data.attrs["n_permutations"] == 119
    square = expand(models)
    expected = []
    for order in itertools.permutations(range(5)):
        stimuli = [g + 5 * k for k in range(2) for g in order]  # of each group the k-th
        mixed = square[:, stimuli][:, :, stimuli]
        rows, columns = torch.triu_indices(10, 10, 1)
        expected.append(get("pearson").function(mixed[:, None, rows, columns], subjects).mean(1))
    expected = torch.stack(expected).numpy()
    share = (expected >= expected[0] - 1e-12).mean(0)
    np.testing.assert_allclose(result.table["p_permutation"], share)
    np.testing.assert_allclose(
        np.sort(result.data["permuted_score"], 0), np.sort(expected[1:], 0), atol=1e-9
    )
    some = permutation_test(models, subjects, "pearson", n_permutations=50, stimulus_groups=labels)
    known = {*expected.round(9)[:, 0]}
    assert {*some.data["permuted_score"].values.round(9)[:, 0]} <= known


def test_stimuli_are_permuted_within_groups(rng):
    models, subjects = simulated(rng, 7)
    labels = ["a", "b", "a", "b", "a", "c", "c"]  # 3! 2! 2! orders
    result = permutation_test(
        models, subjects, "spearman", n_permutations=200, stimulus_groups=labels, permute="within"
    )
    assert (result.data.attrs["n_permutations"], result.data.attrs["permute"]) == (23, "within")
    square, expected = expand(models), []
    rows, columns = torch.triu_indices(7, 7, 1)
    for a, b, c in itertools.product(
        itertools.permutations([0, 2, 4]), itertools.permutations([1, 3]),
        itertools.permutations([5, 6]),
    ):  # fmt: skip
        order = [a[0], b[0], a[1], b[1], a[2], *c]
        mixed = square[:, order][:, :, order]
        expected.append(get("spearman").function(mixed[:, None, rows, columns], subjects).mean(1))
    expected = torch.stack(expected).numpy()
    np.testing.assert_allclose(
        np.sort(result.data["permuted_score"], 0), np.sort(expected[1:], 0), atol=1e-9
    )
    drawn = permutation_test(
        models, subjects, "spearman", n_permutations=10, stimulus_groups=labels, permute="within"
    )
    assert {*drawn.data["permuted_score"].values.round(9)[:, 1]} <= {*expected.round(9)[:, 1]}


def test_folds_of_crossvalidation_keep_groups_whole(rng):
    models, subjects = simulated(rng, 24, 3, 6)
    model = weighted_rsm_model(expand(models))
    stimuli = [f"video {i % 5}" for i in range(24)]
    found = crossvalidate(
        [model], expand(subjects), "pearson", stimulus_folds=5, stimulus_groups=stimuli,
        subject_groups=FAMILIES,
    )  # fmt: skip
    score = np.zeros(6)
    for video in range(5):
        test = torch.arange(24) % 5 == video
        train = (~test).nonzero().flatten()
        for family in "abc":
            own = torch.tensor([one == family for one in FAMILIES])
            weights = model.fit(expand(subjects)[~own], "pearson", stimuli=train)
            predicted = get("pearson").pairs_of(model.predict(weights)[test][:, test])
            held = get("pearson").pairs_of(expand(subjects)[own][:, test][:, :, test])
            score[own] += get("pearson").function(predicted, held).numpy() / 5
    np.testing.assert_allclose(found.data["score"][0], score, atol=1e-9)
    assert found.data.sizes["part"] == 3
    means = [score[[0, 2]].mean(), score[[1, 5]].mean(), score[[3, 4]].mean()]
    assert found.table["score_se"][0] == pytest.approx(np.std(means, ddof=1) / 3**0.5)


def test_signs_flip_by_group(rng):
    values = torch.randn(7, 12, dtype=torch.float64, generator=rng)
    labels = ["a", "b", "a", "c", "d", "d", "b"]
    means = torch.stack([values[[one == name for one in labels]].mean(0) for name in "abcd"])
    found = cluster_test(values, subject_groups=labels, method="max")
    np.testing.assert_allclose(found.t, ttest_1samp(means.numpy(), 0).statistic)
    assert found.exact
    assert len(found.null) == 8  # of 4 groups, up to one sign
    flips = [
        np.abs(ttest_1samp(means.numpy() * np.array(s)[:, None], 0).statistic).max()
        for s in itertools.product([1, -1], repeat=4) if s[0] == 1
    ]  # fmt: skip
    np.testing.assert_allclose(np.sort(found.null), np.sort(flips))


def test_a_coordinate_names_groups(rng):
    models, subjects = simulated(rng)
    ids = [f"s{i}" for i in range(11)]
    dims, attrs = ("anchor", "neighbor"), {"kind": "rdm"}
    order = [*range(10, -1, -1)]
    left = xr.DataArray(
        expand(models).numpy(), dims=("layer", *dims), attrs=attrs,
        coords={"anchor": ids, "neighbor": ids},
    )  # fmt: skip
    right = xr.DataArray(
        expand(subjects).numpy(), dims=("subject", *dims), attrs=attrs,
        coords={
            "anchor": ids, "neighbor": ids, "category": ("anchor", CATEGORIES),
            "family": ("subject", FAMILIES),
        },
    ).isel(anchor=order, neighbor=order)  # fmt: skip
    options = {"over": "both", "n_resamples": 10}
    found = bootstrap(
        left, right, "pearson", stimulus_groups="category", subject_groups="family", **options
    )
    expected = bootstrap(
        left, right, "pearson", stimulus_groups=CATEGORIES, subject_groups=FAMILIES, **options
    )
    xr.testing.assert_identical(found.data, expected.data)
    lower = noise_ceiling(right, "pearson", subject_groups="family").lower
    np.testing.assert_allclose(lower, found.data["ceiling"][0], atol=1e-9)
    with pytest.raises(UnknownNameError, match=r"`stimulus_groups`: 'categori'.*'category'"):
        bootstrap(left, right, "pearson", stimulus_groups="categori")
    with pytest.raises(UnknownNameError, match=r"along `subject`, for `subject_groups`: 'site'"):
        noise_ceiling(right, "pearson", subject_groups="site")


@pytest.mark.parametrize(
    ("labels", "error", "match"),
    [
        (CATEGORIES[:-1], ShapeError, r"`stimulus_groups` .* 11 stimuli.*got 10"),
        (["a"] * 11, DataError, r"at least 2 groups, got one, 'a'"),
        ([*CATEGORIES[:9], None, float("nan")], DataError, r"missing .* at the places 9, 10"),
        (["", *CATEGORIES[1:]], DataError, r"missing .* at the places 0\."),
        ([["a"]] * 11, DataError, r"flat sequence of labels, .*\['a'\]"),
        (7, DataError, r"a sequence of labels, one for each stimulus, got 7"),
    ],
)
def test_bad_groups_are_refused(labels, error, match, rng):
    models, subjects = simulated(rng)
    for call in (bootstrap, permutation_test):
        with pytest.raises(error, match=match):
            call(models, subjects, "pearson", stimulus_groups=labels)


def test_bad_uses_of_groups_are_refused(rng):
    models, subjects = simulated(rng, 12)
    squares = [weighted_rsm_model(expand(models))], expand(subjects), "pearson"
    with pytest.raises(DataError, match="over='subjects' draws none"):
        bootstrap(models, subjects, "pearson", over="subjects", stimulus_groups=range(12))
    with pytest.raises(DataError, match=r"one size.* have 2, 3, 7 stimuli.*permute='within'"):
        permutation_test(models, subjects, "pearson", stimulus_groups=[0] * 7 + [1] * 3 + [2] * 2)
    with pytest.raises(DataError, match=r"3 groups .* in 6 orders only, .* smallest p is 0\.167"):
        permutation_test(models, subjects, "pearson", stimulus_groups=[0, 1, 2] * 4)
    with pytest.raises(DataError, match=r"in 1 orders only, .* smallest p is 1:.*'between'"):
        permutation_test(models, subjects, "pearson", stimulus_groups=range(12), permute="within")
    with pytest.raises(UnknownNameError, match=r"'withn'.*'within'"):
        permutation_test(models, subjects, "pearson", permute="withn")
    with pytest.raises(DataError, match=r"needs at least 3 groups, got 2"):
        bootstrap(models, subjects, "pearson", stimulus_groups=[0, 1] * 6)
    with pytest.raises(DataError, match=r"at most the 2 groups, which are never split; got 3"):
        crossvalidate(*squares, stimulus_folds=3, stimulus_groups=[0, 1] * 6)
    with pytest.raises(DataError, match=r"of \[9, 3\], a fold of 2 holds 3, and 4 are needed"):
        crossvalidate(*squares, stimulus_folds=2, stimulus_groups=[0] * 9 + [1] * 3)
    with pytest.raises(ShapeError, match=r"`subject_groups` .* 6 subjects.*got 2"):
        cluster_test(torch.rand(6, 3), subject_groups=["a", "b"])
