"""CCA and SVCCA against scikit-learn's PCA and the definition by principal angles."""

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles
from sklearn.decomposition import PCA

from softrsa.errors import DataError
from softrsa.measures import cca, svcca


def draw(rng, n, *sizes):
    return [torch.randn(n, k, dtype=torch.float64, generator=rng) for k in sizes]


def mean_correlation(x, y):
    """Mean cosine of SciPy's principal angles between the column spaces."""
    x, y = x - x.mean(0), y - y.mean(0)
    return np.cos(subspace_angles(x, y)).mean()


def test_cca_is_the_mean_cosine_of_principal_angles(rng):
    x, y = draw(rng, 20, 5, 3)
    assert cca(x, y).item() == pytest.approx(mean_correlation(x.numpy(), y.numpy()), abs=1e-12)


def test_one_unit_each_is_the_correlation(rng):
    x, y = draw(rng, 20, 1, 1)
    expected = abs(np.corrcoef(x[:, 0], y[:, 0])[0, 1])
    assert cca(x, y).item() == pytest.approx(expected, abs=1e-13)


def test_repeated_units_do_not_count(rng):
    x, y = draw(rng, 20, 4, 3)
    repeated = torch.cat([x, x[:, :2] - x[:, 1:3], torch.ones(20, 1).double()], 1)
    assert cca(repeated, y).item() == pytest.approx(cca(x, y).item(), abs=1e-12)
    assert cca(repeated.float(), y.float()).item() == pytest.approx(cca(x, y).item(), abs=1e-5)


@pytest.mark.parametrize("n_components", [1, 2, 4])
def test_svcca_is_cca_of_principal_components(n_components, rng):
    x, y = draw(rng, 20, 6, 5)
    kept = [PCA(n_components).fit_transform(z.numpy()) for z in (x, y)]
    found = svcca(x, y, n_components=n_components).item()
    assert found == pytest.approx(mean_correlation(*kept), abs=1e-12)


@pytest.mark.parametrize("variance", [None, 0.5, 0.9])
def test_svcca_by_variance(variance, rng):
    x, y = (z * torch.logspace(0, -2, 8) for z in draw(rng, 30, 8, 8))
    share = 0.99 if variance is None else variance
    kept = [PCA(share, svd_solver="full").fit_transform(z.numpy()) for z in (x, y)]
    found = svcca(x, y, variance=variance).item()
    assert found == pytest.approx(mean_correlation(*kept), abs=1e-12)


def test_all_the_variance_is_cca(rng):
    x, y = draw(rng, 20, 5, 3)
    assert svcca(x, y, variance=1.0).item() == pytest.approx(cca(x, y).item(), abs=1e-12)


@pytest.mark.parametrize("options", [{"n_components": 2}, {"variance": 0.8}])
@pytest.mark.parametrize("sizes", [(10, 5, 4), (6, 9, 8)])
def test_gradient_through_the_cut(options, sizes, rng):
    x, y = (z.requires_grad_() for z in draw(rng, *sizes))
    assert torch.autograd.gradcheck(lambda a, b: svcca(a, b, **options), (x, y))


def test_gradient_where_kept_components_have_equal_variance(rng):
    """Two equal singular values on the same side of the cut: the subspace is smooth there."""
    raw = torch.randn(10, 4, dtype=torch.float64, generator=rng)
    basis = torch.linalg.qr(raw - raw.mean(0)).Q
    x = (basis * torch.tensor([2.0, 2.0, 1.0, 0.5])).detach().requires_grad_()
    (y,) = draw(rng, 10, 3)
    assert torch.autograd.gradcheck(lambda a: svcca(a, y, n_components=2), (x,))
    (grad,) = torch.autograd.grad(svcca(x, y, n_components=1), x)  # cut between the two
    assert grad.isfinite().all()


def test_options_are_checked(rng):
    x, y = draw(rng, 10, 3, 2)
    with pytest.raises(DataError, match=r"not both; got 2 and 0\.5"):
        svcca(x, y, n_components=2, variance=0.5)
    with pytest.raises(DataError, match=r"`n_components` must be at least 1, got 0"):
        svcca(x, y, n_components=0)
    with pytest.raises(
        DataError, match=r"`variance` must be a share above 0 and up to 1, got 1\.5"
    ):
        svcca(x, y, variance=1.5)
