"""Measures on square RSMs that are no plain cosine: resamples against copies written out."""

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats

from softrsa.errors import DataError, ShapeError
from softrsa.inference import (
    bootstrap,
    compare_models,
    evaluate,
    noise_ceiling,
    permutation_test,
)
from softrsa.inference.inner_products import looped_scores
from softrsa.inference.pair_table import stack_rsms
from softrsa.inference.permutation import noise_ceiling_test
from softrsa.measures import Measure, available, centered_pearson, get, linear_cka, nbs
from softrsa.pairs import condense

N = 9
SQUARE = [name for name, m in available().items() if m.on_squares and m.embed is None]
DRAWN = np.array([0, 0, 0, 1, 2, 3, 3, 5, 8])
every_measure = pytest.mark.parametrize("name", SQUARE)


def some_rsms(k=3, n=N, *, symmetric=True, seed=0):
    """One model, and subjects that have it in common."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(1 + k, n, n, dtype=torch.float64, generator=rng)
    x = x + 0.8 * x[:1]
    x = x + x.mT if symmetric else x
    return x[:1], x[1:]


class Copies:
    """RSMs in which a stimulus stands as often as it is drawn; copies of one make no pair."""

    def __init__(self, rsm, drawn):
        self.drawn, self.values = drawn, rsm.numpy()[np.ix_(drawn, drawn)]
        self.apart = drawn[:, None] != drawn

    def centered(self):
        """Residual of least squares on a row and a column number, over pairs."""
        rows, columns = np.nonzero(self.apart)
        n = len(self.drawn)
        design = np.zeros((len(rows), 2 * n))
        design[np.arange(len(rows)), rows] = 1
        design[np.arange(len(rows)), n + columns] = 1
        entries = self.values[rows, columns]
        left = np.zeros((n, n))
        left[rows, columns] = entries - design @ np.linalg.lstsq(design, entries, rcond=None)[0]
        return left

    def balanced(self):
        left = self.centered()
        for _ in range(400):
            sums = ((left**2).sum(0) + (left**2).sum(1)) / 2
            left = left / np.sqrt(np.sqrt(np.outer(sums, sums)))
        return left


def balanced_pearson(x, y):
    return stats.pearsonr(x.balanced()[x.apart], y.balanced()[y.apart]).statistic


def per_anchor_pearson(x, y):
    rows = zip(x.centered(), y.centered(), x.apart, strict=True)
    return np.mean([stats.pearsonr(a[held], b[held]).statistic for a, b, held in rows])


def stimulus_identification(x, y):
    def one_way(left, right):
        shares = []
        for i, stimulus in enumerate(x.drawn):
            others = [j for j, other in enumerate(x.drawn) if other != stimulus]

            def match(j, i=i):
                held = x.apart[i] & x.apart[j]
                return stats.pearsonr(left[i, held], right[j, held]).statistic

            shares.append(np.mean([match(j) < match(i) for j in others]))
        return np.mean(shares)

    left, right = x.centered(), y.centered()
    return (one_way(left, right) + one_way(right, left)) / 2


def kernel(x):
    """A copy is as similar to its like as the stimulus to itself."""
    h = np.eye(len(x.drawn)) - 1 / len(x.drawn)
    return h @ (x.values + x.values.T) @ h


def kernel_cka(x, y):
    left, right = kernel(x), kernel(y)
    return (left * right).sum() / np.linalg.norm(left) / np.linalg.norm(right)


def kernel_nbs(x, y):
    roots = []
    for values, vectors in (np.linalg.eigh(kernel(s)) for s in (x, y)):
        roots.append(vectors * np.sqrt(values * (values > 1e-12)))
    left, right = roots
    total = np.linalg.svd(left.T @ right, compute_uv=False).sum()
    return total / np.linalg.norm(left) / np.linalg.norm(right)


def shared_neighbors(x, y):
    """How many of how many neighbors are shared, by row; copies come in one order in both."""
    most = max(1, min(10, (len(x.drawn) - 1) // 4))
    for held, row, other in zip(x.apart, x.values, y.values, strict=True):
        k = min(most, held.sum())  # of a stimulus that is nearly all there is
        near, near_too = (
            set(np.argsort(np.where(held, -one, np.inf), kind="stable")[:k]) for one in (row, other)
        )
        yield near, near_too, k


def mutual_knn(x, y):
    return np.mean([len(a & b) / k for a, b, k in shared_neighbors(x, y)])


def neighbor_jaccard(x, y):
    return np.mean([len(a & b) / len(a | b) for a, b, _ in shared_neighbors(x, y)])


def cknna(x, y):
    left, right = (
        s.values - (s.values * s.apart).sum(1, keepdims=True) / s.apart.sum(1, keepdims=True)
        for s in (x, y)
    )
    shared, sizes = 0, np.zeros(2)
    for a, b, (near, near_too, _) in zip(left, right, shared_neighbors(x, y), strict=True):
        shared += sum(a[j] * b[j] for j in near & near_too)
        sizes += sum(a[j] ** 2 for j in near), sum(b[j] ** 2 for j in near_too)
    return shared / np.sqrt(sizes.prod())


ORACLES = {
    function.__name__: function
    for function in (
        balanced_pearson, per_anchor_pearson, stimulus_identification, kernel_cka, kernel_nbs,
        mutual_knn, neighbor_jaccard, cknna,
    )
}  # fmt: skip


@every_measure
class TestEveryMeasure:
    @pytest.mark.parametrize("symmetric", [True, False])
    def test_a_resample_is_one_of_copies(self, name, symmetric):
        model, subjects = some_rsms(symmetric=symmetric)
        counts = torch.from_numpy(np.bincount(DRAWN, minlength=N)).double()
        found, _ = looped_scores(stack_rsms(model, subjects, name), counts[None])
        for score, subject in zip(found[0, 0], subjects, strict=True):
            expected = ORACLES[name](Copies(model[0], DRAWN), Copies(subject, DRAWN))
            assert score.item() == pytest.approx(expected, abs=1e-9)

    def test_stimuli_left_out_are_as_if_they_were_not_there(self, name):
        model, subjects = some_rsms()
        kept = torch.tensor([0, 2, 3, 5, 6, 8])
        counts = torch.zeros(1, N, dtype=torch.float64)
        counts[0, kept] = 1
        found, _ = looped_scores(stack_rsms(model, subjects, name), counts)
        fewer = model[:, kept][:, :, kept], subjects[:, kept][:, :, kept]
        torch.testing.assert_close(found[0, 0], get(name).between(*fewer), rtol=0, atol=1e-12)

    def test_everything_there_is_runs_on_it(self, name):
        model, subjects = some_rsms(4, n=14)
        models = torch.cat([model, some_rsms(seed=5, n=14)[0]])
        expected = get(name).between(models[:, None], subjects)
        result = evaluate(models, subjects, name)
        np.testing.assert_allclose(result.data["score"].values, expected, rtol=0, atol=1e-12)
        ceiling = noise_ceiling(subjects, name)
        for one, same in zip(ceiling, result.data["ceiling"].values, strict=True):
            np.testing.assert_allclose(one, same, rtol=0, atol=1e-12)
        assert (ceiling.upper.mean() > ceiling.lower.mean()).item()
        drawn = bootstrap(models, subjects, name, over="both", n_resamples=30)
        assert np.isfinite(drawn.data["resampled_score"].values).mean() > 0.9
        assert np.isfinite(drawn.data["resampled_ceiling"].values).mean() > 0.9
        assert (drawn.data["variance"].values > 0).all()
        compared = compare_models(drawn)
        assert len(compared.table) >= 1
        tested = permutation_test(models, subjects, name, n_permutations=39)
        p = tested.data["p_permutation"].values
        assert p[0] == 1 / 40 < p[1]
        assert noise_ceiling_test(subjects, name, n_permutations=19).p == 1 / 20

    def test_permutations_are_those_of_rows_and_columns(self, name):
        model, subjects = some_rsms()
        found = permutation_test(model, subjects, name, n_permutations=3, seed=4)
        rng = torch.Generator().manual_seed(4)
        orders = [torch.randperm(N, generator=rng) for _ in range(3)]
        expected = [get(name).between(model[0][o][:, o], subjects).mean().item() for o in orders]
        permuted = found.data["permuted_score"].values[:, 0]
        np.testing.assert_allclose(permuted, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["mutual_knn", "neighbor_jaccard", "cknna"])
@given(drawn=st.lists(st.integers(0, 11), min_size=9, max_size=45).filter(lambda d: len({*d}) > 2))
@example(drawn=[0] * 40 + [1, 2, 3])
def test_neighbors_of_any_resample(name, drawn):
    model, subjects = some_rsms(1, n=12, symmetric=False)
    counts = torch.bincount(torch.tensor(drawn), minlength=12).double()
    found = get(name).resampled(model[0], subjects[0], counts)
    expected = ORACLES[name](*(Copies(rsm, np.array(drawn)) for rsm in (model[0], subjects[0])))
    assert found.item() == pytest.approx(expected, abs=1e-12)


def test_few_different_stimuli_are_no_resample():
    model, subjects = some_rsms()
    counts = torch.zeros(2, N, dtype=torch.float64)
    counts[0, :4], counts[1, :5] = 2, 2
    found, _ = looped_scores(stack_rsms(model, subjects, "stimulus_identification"), counts)
    assert found[0].isnan().all()
    assert found[1].isfinite().all()


def test_one_of_the_user_must_say_how_it_is_resampled():
    model, subjects = some_rsms()
    mine = Measure(
        function=lambda x, y: centered_pearson(x.exp(), y.exp()), takes="matrices",
        range=(-1, 1), smallest_n=4, reference="here",
    )  # fmt: skip
    assert np.isfinite(evaluate(model, subjects, mine).data["score"].values).all()
    with pytest.raises(DataError, match=r"a stimulus drawn twice .*`Measure\.resampled`"):
        bootstrap(model, subjects, mine, n_resamples=5)


@pytest.mark.parametrize(("name", "of_features"), [("kernel_cka", linear_cka), ("kernel_nbs", nbs)])
def test_kernels_keep_their_diagonal_and_dissimilarities_are_turned(name, of_features, rng):
    x, y = torch.randn(2, N, 4, dtype=torch.float64, generator=rng)
    expected = of_features(x, y).item()
    score = evaluate((x @ x.T)[None], (y @ y.T)[None], name).data["score"].item()
    assert score == pytest.approx(expected, abs=1e-10)

    def labelled(z, dim):
        ids = [f"s{i}" for i in range(N)]
        values = torch.cdist(z, z).square().fill_diagonal_(0)[None].numpy()
        coords = {"anchor": ids, "neighbor": ids}
        dims = (dim, "anchor", "neighbor")
        return xr.DataArray(values, dims=dims, coords=coords, attrs={"kind": "rdm"})

    rdms = labelled(x, "layer"), labelled(y, "subject")
    assert evaluate(*rdms, name).data["score"].item() == pytest.approx(expected, abs=1e-10)
    with pytest.raises(ShapeError, match=rf"'{name}' compares self-similarities too.*\(1, 36\)"):
        evaluate(condense(x @ x.T)[None], condense(y @ y.T)[None], name)
    gone = (y @ y.T)[None].clone()
    gone[0, 3, 3] = torch.nan
    with pytest.raises(DataError, match="Self-similarities are missing"):
        evaluate((x @ x.T)[None], gone, name)
