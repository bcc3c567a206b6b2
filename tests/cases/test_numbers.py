"""Rounding, ties, ranges and what is undefined: right values by NumPy and SciPy."""

import itertools
import warnings

import numpy as np
import pytest
import torch
from scipy import stats

from softrsa import align
from softrsa._ranks import average_ranks, tied
from softrsa.alignment import UndefinedScoreWarning
from softrsa.errors import DataError
from softrsa.inference import bootstrap, compare_models, evaluate, noise_ceiling, permutation_test
from softrsa.measures import (
    Measure,
    available,
    centered_pearson,
    cosine,
    get,
    kendall_tau_a,
    kendall_tau_b,
    pearson,
    rho_a,
    spearman,
)
from softrsa.pairs import condense, expand
from softrsa.prediction import NCAHead, NeighborRegressor
from softrsa.rsm import RoundingWarning, scale_similarities, similarity_matrix
from softrsa.transforms import double_center, geo_topological, geodesic

BOTH = [torch.float32, torch.float64]


def categories():
    """Forty stimuli of five categories: one-hot rows, and a noisy brain that has them too."""
    label = np.repeat(range(5), 8)
    brain = np.random.default_rng(0).normal(size=(40, 60))
    return np.eye(5)[label], brain + np.random.default_rng(1).normal(size=(5, 60))[label]


def rsms(order, dtype):
    return [similarity_matrix(torch.tensor(x[order], dtype=dtype)) for x in categories()]


def exact():
    """Both RSMs, the entries of the first as they are without rounding."""
    model, brain = (np.corrcoef(x) for x in categories())
    pairs = np.triu_indices(40, 1)
    return np.round(model, 6)[pairs], brain[pairs]


ORDERS = [np.arange(40), np.random.default_rng(3).permutation(40)]


@pytest.mark.parametrize("dtype", BOTH)
@pytest.mark.parametrize("order", ORDERS)
def test_ties_of_categories_stay_ties(order, dtype):
    model, brain = (condense(x) for x in rsms(order, dtype))
    x, y = exact()
    assert spearman(model, brain).item() == pytest.approx(0.663446, abs=2e-6)
    assert spearman(model, brain).item() == pytest.approx(stats.spearmanr(x, y)[0], abs=1e-6)
    assert kendall_tau_b(model, brain).item() == pytest.approx(stats.kendalltau(x, y)[0], abs=1e-6)
    signs = [np.sign(np.subtract.outer(v, v)) for v in (x, y)]
    by_hand = (signs[0] * signs[1]).sum() / (780 * 779)
    assert kendall_tau_a(model, brain).item() == pytest.approx(by_hand, abs=1e-6)
    ranks = [stats.rankdata(v) - 781 / 2 for v in (x, y)]
    assert rho_a(model, brain).item() == pytest.approx(
        12 * (ranks[0] @ ranks[1]) / (780**3 - 780), abs=1e-6
    )


@pytest.mark.parametrize("dtype", BOTH)
@pytest.mark.parametrize("order", ORDERS)
def test_inference_keeps_ties(order, dtype):
    model, brain = (x[None] for x in rsms(order, dtype))
    brains = torch.cat([brain, brain + model, model])
    x, y = exact()
    for measure, right in (
        ("spearman", stats.spearmanr(x, y)[0]),
        ("kendall_tau_b", stats.kendalltau(x, y)[0]),
    ):
        options = {"measure": measure, "subjects_rsms": brains}
        found = [
            evaluate(model, **options),
            permutation_test(model, n_permutations=5, **options),
            bootstrap(model, n_resamples=4, over="both", **options),
        ]
        for result in (*found, compare_models(found[2])):
            scores = result.data["score"].values[0]
            assert scores[[0, 2]] == pytest.approx([right, 1.0], abs=1e-6)
        lower = noise_ceiling(brains, measure).lower
        expected = noise_ceiling(torch.stack(_as_doubles(order)), measure).lower
        assert lower.double().numpy() == pytest.approx(expected.numpy(), abs=1e-5)


def _as_doubles(order):
    model, brain = rsms(order, torch.float64)
    model = model.round(decimals=6)
    return brain, brain + model, model


@pytest.mark.parametrize("dtype", BOTH)
def test_ties_are_left_after_centering(dtype):
    """Ties within rounding gave scores 7e-6 apart on different processors."""
    x, y = exact()
    square = [expand(torch.from_numpy(v), 1.0) for v in (x, y)]
    right = [double_center(s.double()) for s in square]
    for order in ORDERS:
        found = [double_center(s.to(dtype))[order][:, order] for s in square]
        again = [double_center(s[order][:, order].to(dtype)) for s in square]
        scores = [spearman(*map(condense, pair)).item() for pair in (found, again)]
        x, y = (condense(s).numpy().round(7) for s in right)
        assert scores == pytest.approx(2 * [stats.spearmanr(x, y)[0]], abs=1e-6)


@pytest.mark.parametrize("dtype", BOTH)
def test_thresholds_geodesics_and_neighbors_do_not_depend_on_the_order(dtype):
    def transformed(order):
        rdm = 1 - rsms(order, dtype)[0]
        yield geo_topological(rdm, 0.2, 0.6)
        yield geo_topological(rdm, 0.2, 0.2, preset="quantile")
        yield geo_topological(rdm, 0.0, 1.25, preset="value")
        yield geo_topological(rdm, 1.25, 1.25, preset="value")
        yield geodesic(rdm, keep="k_nearest", amount=3)
        yield geodesic(rdm, keep="p_shortest", amount=0.1)
        yield scale_similarities(-rdm, "rank")

    same = [*transformed(ORDERS[0])]
    for plain, mixed in zip(same, transformed(ORDERS[1]), strict=True):
        order = ORDERS[1]
        assert (plain[order][:, order] - mixed).abs().max() <= 1e-6
        assert len(plain[~np.eye(40, dtype=bool)].unique()) <= 2


@pytest.mark.parametrize("dtype", BOTH)
def test_values_within_rounding_are_one_value(dtype):
    eps = torch.finfo(dtype).eps
    x = torch.tensor([1.0, 0.25, 0.25 + eps, -eps / 8, 0.0, eps / 4, 0.5, 0.25], dtype=dtype)
    assert average_ranks(x).tolist() == [8, 5, 5, 2, 2, 2, 7, 5]
    assert len(tied(x).unique()) == 4
    dense = torch.arange(1000, dtype=dtype) * eps + 0.5  # a longer run says something
    assert torch.equal(average_ranks(dense), torch.arange(1, 1001, dtype=dtype))


def test_an_rsm_with_itself_is_one_in_float32():
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(3_000_000, generator=rng)
    y = x + 2 * torch.randn(3_000_000, generator=rng)
    for measure, right in (
        (pearson, np.corrcoef(x.double(), y.double())[0, 1]),
        (cosine, float(x.double() @ y.double() / x.double().norm() / y.double().norm())),
    ):
        assert measure(x, x).item() == 1.0
        assert measure(x, y).item() == pytest.approx(right, abs=1e-6)
    square = x[: 1500**2].view(1500, 1500)
    assert centered_pearson(square, square).item() == pytest.approx(1.0, abs=1e-6)


def test_rho_a_of_many_pairs():
    x = torch.rand(2300 * 2299 // 2, generator=torch.Generator().manual_seed(0))  # n^3 > 2^64
    assert rho_a(x, x).item() == pytest.approx(1.0, abs=1e-3)  # some are equal in float32
    assert rho_a(x.double(), -x.double()).item() < -0.999


def features(seed=0, n=40, p=10):
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(n, p, generator=rng, dtype=torch.float64)
    return x, 0.7 * x + torch.randn(n, p, generator=rng, dtype=torch.float64)


SIMILARITIES = ["correlation", "l2", "rbf", "l1"]
ON_FEATURES = ["cca", "svcca", "linear_cka", "nbs", "rbf_cka", "linear_predictivity"]


@pytest.mark.parametrize("change", [1e-20, 1e20, 1e-15, 1e15])
def test_scores_of_float32_do_not_depend_on_the_unit(change):
    x, y = features()
    for name in SIMILARITIES:
        right = [similarity_matrix(z, similarity=name) for z in (x, y)]
        found = [similarity_matrix((change * z).float(), similarity=name) for z in (x, y)]
        for measure in (get("pearson"), get("centered_pearson"), get("cosine"), get("spearman")):
            expected = measure.between(*right).item()
            assert measure.between(*found).item() == pytest.approx(expected, abs=1e-4)
    for name in ON_FEATURES:
        expected = get(name)(x, y).item()
        assert get(name)((change * x).float(), (change * y).float()).item() == pytest.approx(
            expected, abs=1e-4
        )


@pytest.mark.parametrize("offset", [1e3, 1e4, 1e5, 1e6])
def test_large_offsets_of_float32_are_exact_or_said(offset):
    """Numbers are those of float64 for the same rounded values, and a warning where that is far."""
    x, y = ((z + offset).float() for z in features())
    for name in SIMILARITIES:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            found = similarity_matrix(x, similarity=name)
        right = similarity_matrix(x.double(), similarity=name)
        assert (found - right).abs().max() <= 1e-6 * max(1.0, float(right.abs().max()))
        assert bool(said) == (offset >= 1e5)
    for name in ON_FEATURES:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            found = get(name)(x, y).item()
        assert bool(said) == (offset >= 1e5)
        if not said:
            expected = get(name)(x.double() - offset, y.double() - offset).item()
            assert found == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("offset", [0.0, 10.0])
def test_rounding_adds_no_rank(offset):
    rng = torch.Generator().manual_seed(1)
    u = torch.randn(40, 2, generator=rng, dtype=torch.float64)
    v = u + torch.randn(40, 2, generator=rng, dtype=torch.float64)
    x, y = (z @ torch.randn(2, 12, generator=rng, dtype=torch.float64) + offset for z in (u, v))
    for name in ("cca", "linear_predictivity"):
        assert get(name)(x.float(), y.float()).item() == pytest.approx(
            get(name)(u, v).item() if name == "cca" else get(name)(x, y).item(), abs=1e-4
        )


def test_a_stimulus_a_million_times_larger():
    x, y = features()
    x[3] *= 1e6
    for name in ("cca", "linear_predictivity", "linear_cka"):
        with pytest.warns(RoundingWarning):
            found = get(name)(x.float(), y.float())
        assert found.item() == pytest.approx(get(name)(x, y).item(), abs=1e-3)
    found = similarity_matrix(x.float())
    assert (found - similarity_matrix(x)).abs().max() < 1e-5  # each stimulus has its own scale


def test_an_rsm_of_nearly_equal_values_is_warned_of():
    x = 1 + 1e-5 * torch.randn(500, generator=torch.Generator().manual_seed(0))
    with pytest.warns(RoundingWarning):
        pearson(x, x.flip(0))


def hard_pairs(entry):
    """Inputs whose scores are at an end of the range, or near what is undefined."""
    for seed, dtype in itertools.product(range(6), BOTH):
        rng = torch.Generator().manual_seed(seed)
        n = max(entry.smallest_n, 4 + seed)
        x = torch.randn(n, 3 + seed, generator=rng, dtype=dtype)
        others = [x, 2 * x, -x, x + 1e-6 * torch.randn(x.shape, generator=rng, dtype=dtype)]
        others += [x.round(), x[:, :1], torch.ones_like(x), torch.eye(n, dtype=dtype), x @ x.mT]
        for y in others:
            if entry.takes == "features":
                yield x, y
                yield y, x
            else:
                yield tuple(entry.pairs_of(z.cov() if z.shape[1] > 1 else z @ z.mT) for z in (x, y))
    if entry.takes in ("vectors", "pairs"):
        for values in ([[1, 2, 3], [2, 3, 3.5]], [[1, 2, 3], [3, 2, 1]], [[0.1] * 3, [1, 2, 3]]):
            yield tuple(torch.tensor(values, dtype=torch.float64))


@pytest.mark.parametrize("entry", available().values(), ids=lambda entry: entry.name)
def test_scores_stay_in_their_range(entry):
    low, high = entry.range
    for given, y in hard_pairs(entry):
        if entry.name == "rbf_cka" and (given.std(0).max() == 0 or y.std(0).max() == 0):
            continue  # the median distance is 0: an error that says so
        x = given.clone().requires_grad_(entry.differentiable)
        score = entry(x, y)
        assert score.isnan() or low <= score.item() <= high
        if score.isfinite() and entry.differentiable:
            assert torch.autograd.grad(score, x)[0].isfinite().all()


def test_scores_of_what_is_the_same_are_one():
    x, _ = features()
    assert get("cca")(x, 2 * x).arccos().item() < 1e-7
    assert get("nbs")(x, 2 * x).arccos().item() < 1e-7
    assert spearman(torch.tensor([1.0, 2, 3]), torch.tensor([2.0, 3, 3.5])).item() == 1.0


def test_gradients_at_the_end_of_the_range_can_be_differentiated():
    x = torch.randn(2, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x.requires_grad_(True)
    for function in (pearson, cosine):
        assert torch.autograd.gradcheck(function, (x[0], x[1]))
        assert torch.autograd.gradgradcheck(function, (x[0], x[1]))
        (first,) = torch.autograd.grad(function(x[0], 3 * x[0].detach()), x, create_graph=True)
        assert first.abs().max() < 1e-7


@pytest.mark.parametrize("entry", available().values(), ids=lambda entry: entry.name)
def test_empty_vectors_are_undefined(entry):
    if entry.takes in ("vectors", "pairs", "dissimilarities"):
        for shape in ((0,), (2, 0)):
            found = entry(torch.zeros(shape), torch.zeros(shape))
            assert found.shape == shape[:-1]
            assert found.isnan().all()


def test_rbf_of_equal_responses_says_so():
    with pytest.raises(DataError, match="All stimuli have the same responses"):
        get("rbf_cka")(torch.ones(6, 3), torch.eye(6))


def test_a_query_far_away_is_a_number_or_an_error():
    x = np.random.default_rng(0).normal(size=(30, 4))
    queries = x[:3].copy()
    queries[0] = 1e30
    for head in ("linear", "nca", "diffknn-global"):
        model = NeighborRegressor(head=head, random_state=0, max_epochs=1).fit(x, x[:, 0])
        assert np.isfinite(model.predict(queries)).all()
        with pytest.raises(DataError, match=r"1 sample \(2\) cannot be predicted"):
            model.predict(np.where(np.arange(3)[:, None] == 2, 1e300, queries))
    z = torch.as_tensor(queries, dtype=torch.float32)
    for similarity in ("l2", "l1", "rbf", "cosine", "dot"):
        found = NCAHead(similarity=similarity)(z, torch.eye(4), torch.arange(4.0))
        assert found.isfinite().all()


def own_measure(function, takes):
    return Measure(function=function, takes=takes, range=(-1, 1), smallest_n=3, reference="here")


def test_a_measure_of_the_users_own():
    subjects = expand(torch.rand(3, 190, generator=torch.Generator().manual_seed(0)).double(), 1.0)
    models = subjects[:2] + subjects[1:]

    def mine(a, b):
        return pearson(a, b)

    def squares(a, b):
        shape = torch.broadcast_shapes(a.shape, b.shape)
        return pearson(condense(a.expand(shape)), condense(b.expand(shape)))

    weights = torch.linspace(0, 1, 190, dtype=torch.float64)

    def weighted(a, b):
        return pearson(a * weights, b * weights)

    right = evaluate(models, subjects, "pearson").data["score"].values
    for function, takes in ((mine, "pairs"), (squares, "matrices")):
        entry = own_measure(function, takes)
        found = [
            evaluate(models, subjects, entry),
            permutation_test(models, subjects, entry, n_permutations=5),
        ]
        for result in found:
            assert result.data["score"].values == pytest.approx(right)
    over = bootstrap(models, subjects, own_measure(mine, "pairs"), over="stimuli", n_resamples=9)
    plain = bootstrap(models, subjects, "pearson", over="stimuli", n_resamples=9)
    assert over.data["resampled_score"].values == pytest.approx(
        plain.data["resampled_score"].values
    )
    for function, takes in ((weighted, "pairs"), (squares, "matrices")):
        with pytest.raises(DataError, match="of 190 pairs are left"):
            bootstrap(models, subjects, own_measure(function, takes), over="stimuli", n_resamples=9)


def undefined_rsms(dtype):
    """Row offsets only, a unit per stimulus, and equal entries but for rounding."""
    rows = torch.linspace(1, 3, 30, dtype=torch.float64).sqrt()
    offsets = rows[:, None] + rows
    noise = 1e-17 * torch.arange(435, dtype=torch.float64)
    return [
        offsets.to(dtype),
        similarity_matrix(torch.eye(30, dtype=dtype)),
        expand(0.1 + noise).to(dtype),
    ]


@pytest.mark.parametrize("dtype", BOTH)
def test_what_has_no_variance_is_undefined_in_every_column(dtype):
    rng = torch.Generator().manual_seed(0)
    subjects = expand(torch.randn(4, 435, generator=rng, dtype=torch.float64), 1.0).to(dtype)
    for i, rsm in enumerate(undefined_rsms(dtype)):
        names = ("centered_pearson", "pearson", "spearman", "kendall_tau_b")
        for name in names[: 1 if i == 0 else 4]:
            options = {"models": rsm[None], "subjects_rsms": subjects, "measure": name}
            test = permutation_test(n_permutations=20, **options)
            row = test.table.iloc[0]
            assert row[["score", "score_se", "ci_low", "ci_high"]].isna().all()
            assert row[["p_permutation", "p_permutation_fwer"]].isna().all()
            assert "NaN) for model 1: there is no variance" in test.warnings[0]
            row = bootstrap(n_resamples=20, over="both", **options).table.iloc[0]
            assert row[["score", "percentile_low", "percentile_high"]].isna().all()
            ceiling = noise_ceiling(rsm.expand(3, -1, -1), name)
            assert torch.cat(ceiling).isnan().all()
        with pytest.warns(UndefinedScoreWarning, match="no variance above rounding"):
            table = align(
                {"model": rsm.fill_diagonal_(1)}, {"brain": subjects}, transforms="centered",
                folds=2, n_resamples=20,
            ).table  # fmt: skip
        columns = ["score", "score_se", "score_low", "score_high", "p_chance", "train_score"]
        assert table[[*columns, "gain", "all_stimuli_score"]].isna().to_numpy().all()


def test_scores_over_all_stimuli_are_those_of_evaluate():
    subjects = expand(torch.rand(4, 435, generator=torch.Generator().manual_seed(0)).double(), 1.0)
    model = expand(condense(subjects.mean(0)) + subjects[0, 0, 1:].repeat(15) / 9, 1.0)
    table = align(
        {"m": model}, {"b": subjects}, transforms="identity", folds=2, n_resamples=0
    ).table
    row = evaluate(model[None], subjects, "centered_pearson").table.iloc[0]
    assert table["all_stimuli_score"].item() == pytest.approx(row["score"], abs=1e-9)
    assert row["score"] < row["ceiling_upper"]


@pytest.mark.parametrize("dtype", BOTH)
def test_align_keeps_ties(dtype):
    """The score over all stimuli of a one-hot model, as features and as RSMs, in any order."""
    x, y = exact()
    for order in ORDERS:
        layer, region = (torch.tensor(z[order], dtype=dtype) for z in categories())
        for sides in ((layer, region), rsms(order, dtype)):
            table = align(
                {"m": sides[0]}, {"b": sides[1]}, measure="spearman", transforms="identity",
                folds=2, n_resamples=0,
            ).table  # fmt: skip
            assert table["all_stimuli_score"].item() == pytest.approx(
                stats.spearmanr(x, y)[0], abs=1e-6
            )
