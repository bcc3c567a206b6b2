"""What every measure on RSMs declares in the registry is what it does."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from softrsa import measures
from softrsa.errors import DataError, ShapeError, UnknownNameError
from softrsa.measures import Embedding, Measure, available, get
from softrsa.pairs import condense, off_diagonal

N = 7
NOT_MEASURES = {
    "Embedding",
    "MEASURES",
    "Measure",
    "available",
    "banded_ridge_predictivity",
    "first_rank_identification",
    "get",
    "minibatch_cka",
    "partial_correlation",
    "row_offset_share",
    "semipartial_correlation",
    "shape_similarity",
    "unit_debiased_cka",
    "whitened",
}
CHANGES = {
    "scale": lambda x: 3.7 * x,
    "shift": lambda x: x + 0.9,
    "monotone": lambda x: (2 * x).exp(),
    "row_offset": lambda x: x + torch.arange(N, dtype=x.dtype)[:, None],
    "column_offset": lambda x: x + torch.arange(N, dtype=x.dtype),
}
FACTORS = torch.linspace(0.4, 2.0, N, dtype=torch.float64)
OF_CENTERED = {
    "row_scale": lambda x: FACTORS[:, None] * x,
    "stimulus_scale": lambda x: FACTORS[:, None] * x * FACTORS,
}
ON_RSMS = [entry for entry in available().values() if entry.takes != "features"]
every_measure = pytest.mark.parametrize("entry", ON_RSMS, ids=lambda m: m.name)


# mean scores pooled as rsatoolbox does, which is the best there is but for these
SLACK = {"spearman": 1e-3, "rho_a": 1e-3, "soft_spearman": 1e-3, "kendall_tau_a": 2e-2} | {
    "kendall_tau_b": 2e-2,
    "whitened_cosine": 1e-2,
    "whitened_pearson": 2e-2,
    "balanced_pearson": 5e-3,
    "per_anchor_pearson": 5e-3,
    "stimulus_identification": 2e-2,
    "kernel_nbs": 1e-2,
    "cknna": 2e-3,
}


def rsms(rng, *lead, n=N, dtype=torch.float64):
    """Asymmetric matrices: the diagonal is no data and may be anything."""
    return torch.rand(*lead, n, n, dtype=dtype, generator=rng)


def arguments(entry, rng, *lead):
    """Matrices as a measure reads them: symmetric and 0 on the diagonal, if it reads either."""
    x = rsms(rng, *lead)
    if entry.takes in {"pairs", "dissimilarities"}:
        x = without_diagonal(x + x.mT)
    return x


def centered_before_and_after(x):
    """Matrices whose rows and columns sum to 0, with `FACTORS` as weights too."""
    n, both = x.shape[-1], torch.stack([torch.ones_like(FACTORS), FACTORS])
    apart = ~torch.eye(n, dtype=torch.bool)
    places = torch.eye(n * n, dtype=x.dtype).view(-1, n, n)[apart.flatten()]
    sums = torch.cat([(places @ both.T).flatten(1), (places.mT @ both.T).flatten(1)], 1)
    entries = x[..., apart]
    left = entries - entries @ sums @ torch.linalg.pinv(sums)
    return (left @ places.flatten(1)).view(x.shape)


def without_diagonal(x):
    return x * (1 - torch.eye(x.shape[-1], dtype=x.dtype))


def test_no_measure_is_left_out():
    public = sorted(set(measures.__all__) - NOT_MEASURES)
    assert public == sorted(available()) == list(available())
    for name, entry in available().items():
        assert entry is get(name)
        assert entry.name == name == entry.function.__name__
        assert entry.function is getattr(measures, name)
        assert entry.reference


def test_the_table_cannot_be_changed_from_outside():
    available().clear()
    assert "pearson" in available()


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("spaerman", "'spearman'"),
        ("centred_pearson", "'centered_pearson'"),
        ("cka", "'angular_cka' or 'debiased_cka' or 'kernel_cka'.*"),
    ],
)
def test_unknown_name_offers_the_nearest(name, nearest):
    with pytest.raises(UnknownNameError, match=rf"measure '{name}'\. Did you mean {nearest}.*cosi"):
        get(name)


@every_measure
class TestEveryMeasure:
    def test_range_and_itself(self, entry: Measure, rng):
        x, y = rsms(rng, 2, 200)
        score = entry.between(x, y)
        low, high = entry.range
        assert ((score >= low) & (score <= high)).all()
        torch.testing.assert_close(entry.between(x, x), torch.full((200,), high).double())
        if low == -high:
            torch.testing.assert_close(entry.between(x, -x), torch.full((200,), low).double())

    def test_larger_is_more_similar(self, entry, rng):
        x, noise = rsms(rng, 2, 100)
        near, far = entry.between(x, x + 0.1 * noise), entry.between(x, x + 3 * noise)
        assert near.mean() > far.mean()

    def test_symmetric(self, entry, rng):
        x, y = rsms(rng, 2, 20)
        same = torch.allclose(entry.between(x, y), entry.between(y, x), rtol=0, atol=1e-12)
        assert same == entry.symmetric

    def test_metric(self, entry, rng):
        """A score that is 1 for a matrix and twice itself is no distance."""
        x = rsms(rng)
        assert entry.metric == (not torch.isclose(entry.between(x, 2 * x), entry.between(x, x)))

    @pytest.mark.parametrize("change", CHANGES | OF_CENTERED)
    def test_invariances_what_it_says_and_nothing_else(self, entry, change, rng):
        x, y = arguments(entry, rng, 2, 10)
        if change in OF_CENTERED:
            x, y = centered_before_and_after(x), centered_before_and_after(y)
        changed = (CHANGES | OF_CENTERED)[change]

        def moved(z):
            return changed(z) if entry.takes == "kernels" else without_diagonal(changed(z))

        score = entry.between(x, y)
        same = torch.allclose(entry.between(moved(x), y), score, rtol=0, atol=1e-12)
        assert same == (change in entry.invariances)
        other_side = entry.between(x, moved(y))
        assert torch.allclose(other_side, score, rtol=0, atol=1e-12) == same
        assert entry.invariances <= {*CHANGES, *OF_CENTERED}

    def test_differentiable(self, entry, rng):
        x, y = rsms(rng, 2, 2, n=max(4, entry.smallest_n)).requires_grad_().unbind(0)
        if entry.differentiable:
            assert torch.autograd.gradcheck(entry.between, (x, y))
        else:
            assert not entry.between(x, y).requires_grad

    def test_gradient_is_finite_at_a_perfect_match(self, entry, rng):
        if entry.differentiable:
            x = rsms(rng).requires_grad_()
            entry.between(x, x.detach()).backward()
            assert x.grad.isfinite().all()
            assert x.grad.abs().max() < 1e-12  # nothing is more similar

    def test_smallest_n(self, entry, rng):
        def symmetric(n):
            x = rsms(rng, 2, n=n)
            x = x @ x.mT if entry.takes == "kernels" else x + x.mT
            return x[0], x[1]

        assert entry.between(*symmetric(entry.smallest_n)).isfinite()
        if entry.smallest_n > 2:
            try:
                few = symmetric(entry.smallest_n - 1)
                score = entry.between(*few)
            except ValueError as error:
                assert str(entry.smallest_n) in str(error)  # noqa: PT017
            else:
                assert not score.isfinite()

    def test_leading_dimensions_must_broadcast(self, entry, rng):
        x, y = (torch.rand(k, 6, 6, generator=rng) for k in (2, 3))
        with pytest.raises(ShapeError, match=r"`x` and `y` must broadcast, got \(2,\) and \(3,\)"):
            entry(entry.pairs_of(x), entry.pairs_of(y))

    def test_batch_equals_loop_and_broadcasts(self, entry, rng):
        x, y = rsms(rng, 2, 1), rsms(rng, 3)
        scores = entry.between(x, y)
        assert scores.shape == (2, 3)
        for i in range(2):
            for j in range(3):
                one = entry.between(x[i, 0], y[j])
                torch.testing.assert_close(scores[i, j], one, rtol=0, atol=1e-14)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_keeps_number_type_and_inputs(self, entry, dtype, rng):
        x, y = rsms(rng, 2, 3, dtype=dtype)
        before = x.clone(), y.clone()
        assert entry.between(x, y).dtype == dtype
        assert torch.equal(x, before[0])
        assert torch.equal(y, before[1])

    def test_single_precision_agrees(self, entry, rng):
        x, y = rsms(rng, 2, 20)
        torch.testing.assert_close(
            entry.between(x.float(), y.float()).double(), entry.between(x, y), rtol=0, atol=1e-5
        )

    def test_diagonal_is_no_data(self, entry, rng):
        x, y = rsms(rng, 2)
        other = x.clone()
        other.fill_diagonal_(torch.inf)
        if entry.takes == "kernels":
            assert not entry.between(other, y).isfinite()
            other = x + torch.diag(x.diagonal())
            assert (entry.between(other, y) - entry.between(x, y)).abs() > 1e-4
        elif entry.takes == "dissimilarities":  # distance to itself: it says where 0 is
            assert not entry.between(other, y).isfinite()
            x.fill_diagonal_(1.0)
            other = x + torch.arange(N)[:, None] + torch.arange(N)  # of the same distances
            torch.testing.assert_close(entry.between(other, y), entry.between(x, y))
        else:
            assert torch.equal(entry.between(other, y), entry.between(x, y))

    def test_normalized_mean_is_what_correlates_best_on_average(self, entry, rng):
        """Pooling for the ceiling: no other RSM has a higher mean score (ranks: to rounding)."""
        stack = rsms(rng, 6)
        data = entry.pairs_of(stack)
        pooled = entry.normalize(data).mean(0)
        best = entry.function(data, pooled).mean()
        for _ in range(20):
            nudged = pooled + 0.05 * pooled.std() * torch.randn(
                pooled.shape, dtype=pooled.dtype, generator=rng
            )
            assert entry.function(data, nudged).mean() <= best + SLACK.get(entry.name, 0.0)

    def test_what_the_function_takes(self, entry, rng):
        x, y = rsms(rng, 2).unbind(0)
        forms = {
            "matrices": lambda s: s,
            "kernels": lambda s: s,
            "vectors": off_diagonal,
            "pairs": lambda s: condense((s + s.mT) / 2),
            "dissimilarities": lambda s: condense(1 - (s + s.mT) / 2),
        }
        ones = torch.ones(N, dtype=x.dtype)
        x, y = (without_diagonal(s) + ones.diag() for s in (x, y))
        direct = (forms[entry.takes](s) for s in (x, y))
        torch.testing.assert_close(entry.function(*direct), entry.between(x, y))

    def test_symmetric_rsms_score_as_their_pairs(self, entry, rng):
        """Each entry being there twice changes nothing but the soft ranks, a little."""
        x, y = (s + s.mT for s in rsms(rng, 2, n=30))
        if not entry.on_squares:
            x.fill_diagonal_(2.0), y.fill_diagonal_(2.0)
            pairs = (condense(2 - s if entry.takes == "dissimilarities" else s) for s in (x, y))
            found = entry.function(*pairs)
            tolerance = 1e-2 if entry.name == "soft_spearman" else 1e-12
            torch.testing.assert_close(found, entry.between(x, y), rtol=0, atol=tolerance)

    def test_it_is_the_cosine_it_says(self, entry, rng):
        if entry.embed is not None:
            x, y = (entry.pairs_of(s) for s in rsms(rng, 2, 20).round(decimals=1))
            products = entry.embed.unit(x) * entry.embed.unit(y)
            expected = entry.function(x, y)
            torch.testing.assert_close(products.sum(-1), expected, rtol=0, atol=1e-12)


@given(st.lists(st.integers(0, 5), min_size=20, max_size=20).filter(lambda v: len({*v}) > 1))
def test_rank_embedding_is_scipys_spearman(values):
    x, y = torch.tensor(values).double(), torch.arange(20).double().sin()
    found = Embedding("ranks").unit(x) @ Embedding("ranks").unit(y)
    assert found.item() == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)


def test_embedding_by_hand():
    x = torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64)
    assert Embedding("deviations").vectors(x).tolist() == [-2, -1, 3]
    assert Embedding("ranks").vectors(x).tolist() == [-1, 0, 1]
    # D = [[0, 1, 2], [1, 0, 6], [2, 6, 0]] has row means 1, 7/3, 8/3 and mean 2
    whitened = Embedding(offsets="whitened").vectors(3 * x).view(3, 3)
    expected = torch.tensor([[0, -1, 1], [-1, -8, 9], [1, 9, -10]], dtype=torch.float64)
    torch.testing.assert_close(whitened, expected, rtol=0, atol=1e-12)
    offsets = torch.arange(5).double()
    lost = Embedding(offsets="removed").unit(offsets[:, None] - offsets.sin())
    assert lost.isnan().all()


def test_what_an_embedding_says_must_hold():
    spearman = get("spearman")
    with pytest.raises(DataError, match=r"'spearman' .* -0\.072.*'values'.* -0\.161"):
        replace(spearman, embed=Embedding())
    with pytest.raises(DataError, match=r"takes 'vectors'; .* takes 'matrices'"):
        replace(spearman, embed=Embedding(offsets="removed"))
    with pytest.raises(DataError, match=r"takes 'vectors'; .*untied=True.* 'pairs' or 'dissim"):
        replace(spearman, embed=Embedding("ranks", untied=True))
    with pytest.raises(DataError, match=r"no .*of='rank'.* ranks, kept, untied;"):
        Embedding("rank")

    def positive(x, y):
        return measures.pearson(x, y).clamp_min(0)

    with pytest.raises(DataError, match=r"'positive' .* scores an example 0, embed=.* -0\.\d+\."):
        replace(get("pearson"), function=positive)


def test_normalization_follows_from_the_embedding(rng):
    entry, x = get("pearson"), rsms(rng, 3)
    data = entry.pairs_of(x)
    expected = (data - data.mean(-1, keepdim=True)) / data.std(-1, correction=0, keepdim=True)
    found = replace(entry, normalize=torch.clone).normalize(data)
    torch.testing.assert_close(found, expected / data.shape[-1] ** 0.5)
    assert replace(entry, embed=None).normalize is not None
