"""Whitened measures given a covariance, in inference, against rsatoolbox and the dense inverse."""

import functools

import numpy as np
import pytest
import scipy.sparse.linalg
import torch
from rsatoolbox.rdm import RDMs, compare

from softrsa import align
from softrsa.errors import DataError, ShapeError, UnknownNameError
from softrsa.inference import bootstrap, evaluate, noise_ceiling, permutation_test
from softrsa.inference.bootstrap import resampled
from softrsa.inference.pair_table import stack_rsms
from softrsa.measures import whitened
from softrsa.pairs import condense, expand

KINDS = pytest.mark.parametrize(
    ("kind", "method"), [("cosine", "cosine_cov"), ("pearson", "corr_cov")]
)


def simulated(rng, n=8):
    models = torch.rand(2, n * (n - 1) // 2, dtype=torch.float64, generator=rng)
    subjects = models[0] + torch.rand(3, models.shape[1], dtype=torch.float64, generator=rng)
    root = torch.randn(n, n, dtype=torch.float64, generator=rng)
    return models, subjects, root @ root.mT / n + 0.3 * torch.eye(n)


def dense(x, y, sigma, there):
    """The definition, with V of the pairs that are there inverted."""
    row, column = np.triu_indices(len(sigma), 1)
    contrast = np.eye(len(sigma))[row] - np.eye(len(sigma))[column]
    inverse = np.linalg.inv(((contrast @ sigma @ contrast.T) ** 2)[np.ix_(there, there)])
    size = [np.sqrt(np.einsum("ij,jk,ik->i", v, inverse, v)) for v in (x, y)]
    return x @ inverse @ y.T / size[0][:, None] / size[1]


@KINDS
def test_scores_and_ceilings_are_rsatoolbox(kind, method, rng, monkeypatch):
    models, subjects, sigma = simulated(rng)
    exact = functools.partial(scipy.sparse.linalg.cg, rtol=1e-13)
    monkeypatch.setattr(scipy.sparse.linalg, "cg", exact)
    measure = whitened(kind, sigma)
    result = evaluate(models, subjects, measure)
    given = RDMs(models.numpy().copy()), RDMs(subjects.numpy().copy())
    expected = compare(*given, method, sigma_k=sigma.numpy())
    np.testing.assert_allclose(result.data["score"], expected, atol=1e-8)
    assert result.data.attrs["measure"] == f"whitened_{kind}_with_covariance"
    # subjects are pooled as for the plain measure, then compared under the covariance
    plain = subjects - (subjects.mean(1, keepdim=True) if kind == "pearson" else 0)
    normal = plain / plain.norm(dim=1, keepdim=True)
    pooled = RDMs(normal[1:].mean(0)[None].numpy())
    lower = compare(RDMs(subjects[:1].numpy()), pooled, method, sigma_k=sigma.numpy()).item()
    assert noise_ceiling(subjects, measure).lower[0].item() == pytest.approx(lower, abs=1e-8)


@KINDS
def test_rows_and_columns_follow_the_draw(kind, method, rng):
    del method
    models, subjects, sigma = simulated(rng)
    draw = np.array([0, 1, 1, 3, 4, 5, 5, 5])
    counts = torch.from_numpy(np.bincount(draw, minlength=8)[None]).double()
    stack = stack_rsms(models, subjects, whitened(kind, sigma))
    found, _ = resampled(stack, counts, torch.ones(1, 3).double(), "stimuli", ceilings=False)
    least = np.linalg.eigvalsh(sigma)[0]
    of_draw = sigma.numpy()[np.ix_(draw, draw)]
    copies = (draw[:, None] == draw) & ~np.eye(8, dtype=bool)
    of_draw[copies] -= least  # copies share all but what is independent
    there = ~copies[np.triu_indices(8, 1)]
    x, y = (condense(expand(v)[:, draw][:, :, draw]).numpy()[:, there] for v in (models, subjects))
    if kind == "pearson":
        x, y = (v - v.mean(1, keepdims=True) for v in (x, y))
    np.testing.assert_allclose(found[0, 0], dense(x, y, of_draw, there).mean(1), atol=1e-8)


@pytest.mark.parametrize("over", ["stimuli", "both"])
def test_of_independent_stimuli_it_is_the_measure_by_name(over, rng):
    models, subjects, _ = simulated(rng)
    options = {"over": over, "n_resamples": 12, "stimulus_groups": [0, 1, 2, 3, 4, 5, 6, 6]}
    found = bootstrap(models, subjects, whitened("cosine", torch.full((8,), 3.0)), **options)
    expected = bootstrap(models, subjects, "whitened_cosine", **options)
    for name in ("score", "ceiling", "resampled_score", "variance"):
        np.testing.assert_allclose(found.data[name], expected.data[name], atol=1e-9, err_msg=name)
    p = [
        permutation_test(models, subjects, one, n_permutations=19).data["permuted_score"]
        for one in (whitened("cosine", torch.ones(8)), "whitened_cosine")
    ]
    np.testing.assert_allclose(*p, atol=1e-9)


def test_bad_covariances_are_refused(rng):
    models, subjects, sigma = simulated(rng)
    with pytest.raises(UnknownNameError, match="whitened measure 'spearman'"):
        whitened("spearman", sigma)
    with pytest.raises(DataError, match="smallest eigenvalue is -1"):
        whitened("cosine", torch.diag(torch.tensor([1.0, 2.0, -1.0])))
    with pytest.raises(DataError, match=r"differ by up to 1\."):
        whitened("cosine", torch.eye(3) + torch.ones(3, 3).triu(1))
    with pytest.raises(ShapeError, match=r"got \(2, 3\)|shape \(2, 2\)"):
        whitened("cosine", torch.rand(2, 3))
    measure = whitened("pearson", sigma[:7, :7])
    with pytest.raises(ShapeError, match=r"of 7 stimuli, 21 pairs, and RSMs of 28 pairs"):
        evaluate(models, subjects, measure)
    x = torch.rand(8, 3, generator=rng)
    with pytest.raises(ShapeError, match=r"of 8 stimuli, 28 pairs, and RSMs of 6 pairs"):
        align({"a": x}, {"b": x + 1}, transforms=["identity"], folds=2, n_resamples=0,
              measure=whitened("cosine", sigma))  # fmt: skip
