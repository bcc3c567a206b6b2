"""Matched scores of resamples and permutations: loops over the measures themselves."""

import ast
from dataclasses import replace
from importlib.resources import files

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from softrsa.errors import DataError
from softrsa.inference import (
    bootstrap,
    crossvalidate,
    matched,
    noise_ceiling,
    permutation_test,
    weighted_rsm_model,
)
from softrsa.inference.matched import influences, permuted_scores, resampled_scores
from softrsa.inference.permutation import noise_ceiling_test
from softrsa.measures import available, get

MEASURES = [name for name, entry in available().items() if entry.embed]


def some_rsms(n=11, *, symmetric=True):
    rng = torch.Generator().manual_seed(5)
    models = torch.rand(3, n, n, dtype=torch.float64, generator=rng)
    subjects = models[:, None] + torch.rand(3, 2, n, n, dtype=torch.float64, generator=rng)
    if symmetric:
        models, subjects = models + models.mT, subjects + subjects.mT
    models.diagonal(dim1=-2, dim2=-1).fill_(1)
    subjects.diagonal(dim1=-2, dim2=-1).fill_(1)
    return models, subjects


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("name", MEASURES)
class TestEveryMeasure:
    def test_stimuli_once_or_left_out(self, name, symmetric):
        models, subjects = some_rsms(symmetric=symmetric)
        kept = torch.tensor([0, 2, 3, 5, 6, 7, 10])
        counts = torch.zeros(2, 11, dtype=torch.float64)
        counts[0], counts[1, kept] = 1, 1
        found = resampled_scores(get(name), models, subjects, counts)
        fewer = models[:, kept][:, :, kept], subjects[:, :, kept][:, :, :, kept]
        for row, (x, y) in zip(found, ((models, subjects), fewer), strict=True):
            expected = get(name).between(x[:, None], y)
            torch.testing.assert_close(row, expected, rtol=0, atol=1e-12)

    def test_permutations_are_those_of_rows_and_columns(self, name, symmetric):
        models, subjects = some_rsms(symmetric=symmetric)
        orders = torch.rand(4, 11, generator=torch.Generator().manual_seed(0)).argsort(-1)
        found = permuted_scores(get(name), models, subjects, orders)
        for row, order in zip(found, orders, strict=True):
            mixed = models[:, order][:, :, order]
            expected = get(name).between(mixed[:, None], subjects)
            torch.testing.assert_close(row, expected, rtol=0, atol=1e-12)


@given(st.lists(st.integers(0, 10), min_size=11, max_size=11).filter(lambda d: len({*d}) > 4))
def test_copies_of_a_stimulus_make_no_pair(drawn):
    models, subjects = some_rsms()
    index = torch.tensor(drawn)
    first, second = torch.triu_indices(11, 11, 1)
    apart = index[first] != index[second]
    rows, columns = index[first][apart], index[second][apart]
    counts = torch.bincount(index, minlength=11).double()[None]
    for name in ("pearson", "spearman"):
        found = resampled_scores(get(name), models, subjects, counts)[0]
        x, y = models[:, None, rows, columns], subjects[:, :, rows, columns]
        torch.testing.assert_close(found, get(name)(x, y), rtol=0, atol=1e-12)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("name", MEASURES)
def test_influences_are_derivatives(name, symmetric):
    models, subjects = some_rsms(symmetric=symmetric)
    score, of_stimuli, of_pairs = influences(get(name), models, subjects)
    expected = get(name).between(models[:, None], subjects)
    torch.testing.assert_close(score, expected, rtol=0, atol=1e-12)
    once = torch.ones(11, dtype=torch.float64)
    step = torch.zeros_like(once)
    step[4] = 1e-4
    more, less = resampled_scores(
        get(name), models, subjects, torch.stack([once + step, once - step])
    )
    torch.testing.assert_close(of_stimuli[..., 4], (more - less) / 2e-4, rtol=0, atol=1e-6)
    if name in ("pearson", "cosine", "centered_pearson"):
        sums = of_pairs.sum(-1) + of_pairs.sum(-2)
        torch.testing.assert_close(sums, of_stimuli, rtol=0, atol=1e-12)


def test_a_constant_rsm_and_too_few_stimuli_are_undefined():
    models, subjects = some_rsms()
    models[1] = 0.5
    counts = torch.ones(2, 11, dtype=torch.float64)
    counts[1, 3:] = 0
    found = resampled_scores(get("centered_pearson"), models, subjects, counts)
    assert found[0, 1].isnan().all()
    assert found[0, [0, 2]].isfinite().all()
    assert found[1].isnan().all()
    assert (
        permuted_scores(get("pearson"), models, subjects, torch.arange(11)[None])[0, 1]
        .isnan()
        .all()
    )


@pytest.mark.parametrize("symmetric", [True, False])
def test_tiles_do_not_matter(symmetric, monkeypatch):
    models, subjects = some_rsms(symmetric=symmetric)
    orders = torch.rand(5, 11, generator=torch.Generator().manual_seed(0)).argsort(-1)
    whole = permuted_scores(get("pearson"), models, subjects, orders)
    for tile in (1, 25, 1000):
        monkeypatch.setattr(matched, "TILE", tile)
        found = permuted_scores(get("pearson"), models, subjects, orders)
        torch.testing.assert_close(found, whole, rtol=0, atol=1e-14)


def test_a_measure_that_says_nothing_is_refused():
    models, subjects = some_rsms()
    silent = replace(get("pearson"), embed=None)
    with pytest.raises(DataError, match=r"'pearson' does not say .* \(`Measure.embed`\)"):
        influences(silent, models, subjects)


@pytest.mark.parametrize("name", MEASURES)
def test_ones_own_measure_goes_the_fast_road_to_the_same_numbers(name):
    called = []

    def own(x, y):
        called.append(1)
        return get(name).function(x, y)

    entry = replace(get(name), function=own)
    squares = torch.cat([some_rsms()[0], some_rsms()[1].flatten(0, 1)])
    models, subjects = squares[:2], squares[2:]
    flexible = [weighted_rsm_model(models)]
    called.clear()
    ways = {
        "resampled_score": lambda m: bootstrap(models, subjects, m, over="both", n_resamples=9),
        "permuted_score": lambda m: permutation_test(models, subjects, m, n_permutations=9),
        "ceiling": lambda m: bootstrap(models, subjects, m, n_resamples=9),
        "weights": lambda m: crossvalidate(flexible, subjects, m, stimulus_folds=2),
    }
    for variable, way in ways.items():
        np.testing.assert_allclose(
            way(entry).data[variable], way(name).data[variable], rtol=0, atol=1e-12
        )
        assert not called or variable == "weights"
    bounds = (torch.stack(noise_ceiling(subjects, m)) for m in (entry, name))
    torch.testing.assert_close(*bounds, rtol=0, atol=1e-12)
    tests = (noise_ceiling_test(subjects, m, n_permutations=9) for m in (entry, name))
    np.testing.assert_allclose(*(test.permuted for test in tests), rtol=0, atol=1e-12)


def test_only_the_table_of_measures_names_them():
    """Of several names together, or one compared with: a default is no list."""
    names = {*available()} - {"cosine"}  # which is a similarity, too
    for room in ("inference", "alignment"):
        for file in files("softrsa").joinpath(room).iterdir():
            if not file.name.endswith(".py"):
                continue
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Compare | ast.Tuple | ast.List | ast.Set | ast.Dict):
                    said = {each.value for each in ast.walk(node) if isinstance(each, ast.Constant)}
                    assert not said & names, (file.name, node.lineno, said & names)
