"""Searchlights against a plain loop over centers and rsatoolbox; memory, scores, errors."""

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from rsatoolbox.util.searchlight import get_searchlight_RDMs

from softrsa.errors import DataError, DTypeError, ShapeError, UnknownNameError
from softrsa.measures import get, pearson
from softrsa.pairs import condense, expand
from softrsa.recordings import precision_of, residual_covariance
from softrsa.rsm import (
    build_rdms,
    crossnobis,
    poisson_cv,
    poisson_kl,
    searchlight,
    similarity_matrix,
)
from softrsa.rsm.searchlight import METHODS

FOLDS, N, UNITS, CENTERS = 3, 6, 30, 17
FOLDED = {"crossnobis", "poisson_cv"}


def draw(rng, method="correlation", dtype=torch.float64):
    shape = (FOLDS, N, UNITS) if method in FOLDED else (N, UNITS)
    return 5 * torch.rand(*shape, dtype=dtype, generator=rng)


@pytest.fixture
def neighbors():
    """Spheres of 3 to 6 units."""
    numbers = np.random.default_rng(2)
    return [numbers.choice(UNITS, numbers.integers(3, 7), replace=False) for _ in range(CENTERS)]


def alone(x, method, precision=None):
    """One center, written out."""
    if method == "crossnobis":
        return condense(crossnobis(x, precision))
    if method.startswith("poisson"):
        return condense({"poisson": poisson_kl, "poisson_cv": poisson_cv}[method](x))
    own = 1 if method in ("correlation", "cosine") else 0
    return condense(own - similarity_matrix(x, similarity=method, precision=precision))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("memory", [1, 30_000, 2**26])
def test_plain_loop(method, memory, neighbors, rng):
    x = draw(rng, method)
    residuals = None
    if method in ("mahalanobis", "crossnobis"):
        residuals = torch.randn(40, UNITS, dtype=torch.float64, generator=rng)
    before = x.clone()
    found = searchlight(x, neighbors, method=method, residuals=residuals, dof=33, memory=memory)
    assert torch.equal(x, before)
    for center, own in enumerate(neighbors):
        precision = None
        if residuals is not None:
            precision = precision_of(residual_covariance(residuals[:, own], dof=33))
        expected = alone(x[..., own], method, precision)
        torch.testing.assert_close(found[center], expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("method", ["correlation", "mahalanobis", "poisson"])
@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")
def test_rsatoolbox(method, neighbors, rng):
    x = draw(rng)
    expected = get_searchlight_RDMs(
        x.numpy(), np.arange(CENTERS), neighbors, np.arange(N), method=method
    ).dissimilarities
    ours = "sqeuclidean" if method == "mahalanobis" else method  # without noise there
    found = searchlight(x, neighbors, method=ours)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-8)


@given(
    st.lists(st.lists(st.booleans(), min_size=4, max_size=4).filter(any), min_size=1, max_size=9)
)
def test_matrix_of_neighbors_is_lists_of_them(rows):
    x = torch.tensor([[0.0, 1.0, 5.0, 2.0], [2.0, 1.0, 1.0, 7.0], [4.0, 4.0, 1.0, 3.0]])
    matrix = torch.tensor(rows)
    lists = [torch.tensor(row).nonzero()[:, 0] for row in rows]
    found = searchlight(x, matrix, method="l1")
    assert found.shape == (len(rows), 3)
    assert torch.equal(found, searchlight(x, lists, method="l1"))
    assert torch.equal(found, searchlight(x, matrix.numpy(), method="l1"))


def test_only_scores_are_kept(neighbors, rng):
    x = draw(rng)
    model = torch.rand(N * (N - 1) // 2, dtype=torch.float64, generator=rng)
    sizes = []

    def score(rdms):
        sizes.append(len(rdms))
        return pearson(rdms, model)

    found = searchlight(x, neighbors, evaluate=score, memory=20_000)
    assert sum(sizes) == CENTERS
    assert max(sizes) < CENTERS
    expected = pearson(searchlight(x, neighbors), model)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)
    both = searchlight(x, neighbors, evaluate=lambda rdms: rdms[:, :2])
    assert both.shape == (CENTERS, 2)


def test_type_and_undefined(rng):
    x = draw(rng, dtype=torch.float32)
    found = searchlight(x, [[0, 1, 2], [4]])
    assert found.dtype == torch.float32
    assert found[0].isfinite().all()
    assert found[1].isnan().all()


def test_degrees_of_freedom_scale_distances_as_build_rdms_does(rng):
    """Fewer than residuals, by the means taken out; the old default made them 1.68 x too large."""
    x = torch.randn(3, 20, 12, dtype=torch.float64, generator=rng) + torch.randn(
        20, 12, generator=rng
    )
    trials = xr.DataArray(
        x.flatten(0, 1).numpy(),
        dims=("trial", "unit"),
        coords={
            "stimulus": ("trial", [f"image {i}" for i in range(20)] * 3),
            "run": ("trial", np.repeat(range(3), 20)),
        },
    )
    rest = (x - x.mean(0)).flatten(0, 1)
    everywhere = [range(12)]
    both = ("crossnobis", x), ("mahalanobis", x.mean(0))
    for method, data in both:
        expected = condense(torch.from_numpy(build_rdms(trials, method=method).values))
        found = searchlight(data, everywhere, method=method, residuals=rest, dof=40)
        torch.testing.assert_close(found[0], expected, rtol=1e-9, atol=1e-12)
        with pytest.raises(DataError, match=r"need `dof`.* Of 60 trials .* 20 stimuli, dof=40\."):
            searchlight(data, everywhere, method=method, residuals=rest)


@pytest.mark.parametrize("method", ["poisson", "poisson_cv"])
def test_priors_are_passed_on(method, neighbors, rng):
    x = draw(rng, method)
    prior = {"prior_lambda": 3.0, "prior_weight": 0.7}
    found = searchlight(x, neighbors, method=method, **prior)
    alone = {"poisson": poisson_kl, "poisson_cv": poisson_cv}[method]
    for center in (0, 16):
        expected = condense(alone(x[..., neighbors[center]], **prior))
        torch.testing.assert_close(found[center], expected, rtol=0, atol=1e-11)
    assert (found - searchlight(x, neighbors, method=method)).abs().max() > 0.01


def test_mistakes_are_named(neighbors, rng):
    x = draw(rng)
    residuals = torch.randn(20, UNITS, dtype=torch.float64, generator=rng)
    with pytest.raises(UnknownNameError, match=r"'cosin'\. Did you mean 'cosine'"):
        searchlight(x, neighbors, method="cosin")
    with pytest.raises(DTypeError, match=r"`residuals` must be .* got torch\.int64"):
        searchlight(x, neighbors, residuals=residuals.long())
    with pytest.raises(ShapeError, match=r"\(n_folds, n_stimuli, n_units\).*got \(6, 30\)"):
        searchlight(x, neighbors, method="crossnobis")
    with pytest.raises(ShapeError, match=r"\(n_stimuli, n_units\).*got \(3, 6, 30\)"):
        searchlight(draw(rng, "crossnobis"), neighbors)
    with pytest.raises(ShapeError, match=r"at least 2 folds, got 1"):
        searchlight(draw(rng, "crossnobis")[:1], neighbors, method="crossnobis")
    with pytest.raises(DataError, match="needs `residuals`"):
        searchlight(x, neighbors, method="mahalanobis")
    with pytest.raises(DataError, match="'l2'` takes no `residuals`"):
        searchlight(x, neighbors, method="l2", residuals=residuals)
    with pytest.raises(ShapeError, match=r"\(n_residuals, 30\), got \(20, 29\)"):
        searchlight(x, neighbors, method="mahalanobis", residuals=residuals[:, 1:])
    with pytest.raises(DataError, match="of 6 units has rank 3"):
        searchlight(
            x, [range(6)], method="mahalanobis", residuals=residuals[:4], noise="full", dof=3
        )
    with pytest.raises(DataError, match="`neighbors` is empty"):
        searchlight(x, [])
    with pytest.raises(DataError, match="Center 1 has no neighbors"):
        searchlight(x, [[1], []])
    with pytest.raises(DataError, match="center 0 run from 3 to 30; there are 30 units"):
        searchlight(x, [[3, 30]])
    with pytest.raises(DataError, match="center 1 must be integers, got float64"):
        searchlight(x, [[3], [0.5]])
    with pytest.raises(ShapeError, match=r"\(n_centers, 30\), got \(2, 29\)"):
        searchlight(x, np.ones((2, 29), dtype=bool))
    with pytest.raises(ShapeError, match=r"each of 17 centers, got \(\)|each of \d+ centers, got"):
        searchlight(x, neighbors, evaluate=lambda rdms: rdms.mean())


@pytest.mark.parametrize(
    "measure",
    ["pearson", "spearman", "rho_a", "whitened_cosine", "centered_pearson", "kendall_tau_a"],
)
def test_scores_against_models_are_those_of_the_measure(neighbors, measure):
    rng = torch.Generator().manual_seed(3)
    x, models = draw(rng), torch.rand(4, N * (N - 1) // 2, dtype=torch.float64, generator=rng)
    entry = get(measure)
    found = searchlight(x, neighbors, evaluate=entry.against(models), progress=False)
    rdms = searchlight(x, neighbors, progress=False)
    form = expand if entry.takes == "matrices" else torch.clone
    expected = [[float(entry(form(one), form(model))) for model in models] for one in rdms]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_models_that_cannot_be_scored_against():
    with pytest.raises(DataError, match="'linear_cka' compares features"):
        get("linear_cka").against(torch.rand(2, 6))
    with pytest.raises(DataError, match="'kernel_cka' compares kernels"):
        get("kernel_cka").against(torch.rand(2, 6))
    with pytest.raises(ShapeError, match=r"got \(2, 4, 4\)"):
        get("pearson").against(torch.rand(2, 4, 4))
