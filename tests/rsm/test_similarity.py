"""Values from SciPy and rsatoolbox; the diagonal, gradients, errors, memory-bounded blocks."""

import numpy as np
import pytest
import rsatoolbox
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial import distance

from softrsa.errors import DataError, DTypeError, ShapeError, UnknownNameError
from softrsa.pairs import condense
from softrsa.rsm import SIMILARITIES, condensed_similarity, similarity_matrix
from softrsa.rsm._blocks import RULES, WIDE

N, P = 9, 12
# distinct whole numbers: no row is constant, none is so by a rounding error
responses = arrays(np.float64, (6, 5), elements=st.integers(-100, 100).map(float), unique=True)


def scipy_similarity(name, x, y, precision):
    """The table of SPEC section 1, written with SciPy's distances."""
    p = x.shape[1]
    if name in {"correlation", "cosine"}:
        return 1 - distance.cdist(x, y, name)
    if name == "dot":
        return x @ y.T / p
    if name == "l1":
        return -distance.cdist(x, y, "cityblock")
    if name == "mahalanobis":
        return -(distance.cdist(x, y, "mahalanobis", VI=precision) ** 2) / p
    d = distance.cdist(x, y)
    median = np.median(d if y is not x else distance.pdist(x))
    return {"l2": -d, "sqeuclidean": -(d**2) / p, "rbf": np.exp(-(d**2) / (2 * median**2))}[name]


def draw(rng, *shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=rng)


def options(name, rng, dtype=torch.float64, n_units=P):
    root = draw(rng, n_units, n_units, dtype=dtype)
    return {"similarity": name} | ({"precision": root @ root.T} if name == "mahalanobis" else {})


@pytest.mark.parametrize("name", SIMILARITIES)
class TestEverySimilarity:
    @pytest.mark.parametrize("offset", [0.0, 1000.0])
    def test_value_from_scipy(self, name, rng, offset):
        x = draw(rng, N, P) + offset
        x[3] = x[1]
        x[4] = x[1] + 1e-6 * draw(rng, P)
        kwargs = options(name, rng)
        precision = kwargs.get("precision", torch.eye(P)).numpy()
        for y in (None, x[:4]):
            rows = x.numpy()
            expected = scipy_similarity(name, rows, rows if y is None else y.numpy(), precision)
            found = similarity_matrix(x, y, **kwargs).numpy()
            np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)

    def test_symmetric_with_an_exact_diagonal(self, name, rng):
        for dtype in (torch.float32, torch.float64):
            x = 1e3 + draw(rng, 4, N, P, dtype=dtype)
            s = similarity_matrix(x, **options(name, rng, dtype))
            assert torch.equal(s, s.mT)
            own = s.diagonal(dim1=-2, dim2=-1)
            if name in {"correlation", "cosine", "rbf"}:
                assert (own == 1).all()
            elif name != "dot":
                assert (own == 0).all()

    def test_batch_equals_loop(self, name, rng):
        x, y = draw(rng, 3, 1, N, P), draw(rng, 2, 5, P)
        kwargs = options(name, rng)
        batch, own = similarity_matrix(x, y, **kwargs), similarity_matrix(x, **kwargs)
        assert batch.shape == (3, 2, N, 5)
        for i in range(3):
            torch.testing.assert_close(
                own[i, 0], similarity_matrix(x[i, 0], **kwargs), rtol=0, atol=1e-12
            )
            for j in range(2):
                torch.testing.assert_close(
                    batch[i, j], similarity_matrix(x[i, 0], y[j], **kwargs), rtol=0, atol=1e-12
                )

    def test_rectangle_is_a_block_of_the_square(self, name, rng):
        x = draw(rng, N, P)
        kwargs = options(name, rng) | ({"bandwidth": 2.0} if name == "rbf" else {})
        square = similarity_matrix(x, **kwargs)
        block = similarity_matrix(x[:4], x[2:], **kwargs)
        torch.testing.assert_close(block, square[:4, 2:], rtol=0, atol=1e-12)

    def test_condensed_is_the_upper_triangle(self, name, rng):
        x = draw(rng, 2, N, P)
        kwargs = options(name, rng)
        expected = condense(similarity_matrix(x, **kwargs))
        torch.testing.assert_close(condensed_similarity(x, **kwargs), expected, rtol=0, atol=1e-12)

    def test_keeps_type_and_input(self, name, rng):
        for dtype in (torch.float32, torch.float64):
            x, y = draw(rng, N, P, dtype=dtype), draw(rng, 3, P, dtype=dtype)
            before = x.clone(), y.clone()
            kwargs = options(name, rng, dtype)
            assert similarity_matrix(x, y, **kwargs).dtype == dtype
            assert condensed_similarity(x, **kwargs).dtype == dtype
            assert torch.equal(x, before[0])
            assert torch.equal(y, before[1])

    def test_float32_is_close_to_float64(self, name, rng):
        x = 10 + draw(rng, N, P)
        kwargs = options(name, rng)
        exact = similarity_matrix(x.float().double(), **kwargs)
        kwargs |= {"precision": kwargs["precision"].float()} if "precision" in kwargs else {}
        found = similarity_matrix(x.float(), **kwargs).double()
        # 1e-5 of the largest similarity is what `build_rsms` promises
        torch.testing.assert_close(found, exact, rtol=0, atol=1e-5 * float(exact.abs().max()))

    def test_small_blocks_change_nothing(self, name, rng, monkeypatch):
        x, y = draw(rng, 2, N, P), draw(rng, 2, 5, P)
        x[:, 4] = x[:, 1]
        kwargs = options(name, rng)
        big = [
            similarity_matrix(x, **kwargs),
            similarity_matrix(x, y, **kwargs),
            condensed_similarity(x, **kwargs),
        ]
        monkeypatch.setattr("softrsa.rsm._blocks.UNITS_BYTES", 8 * N * 15)
        monkeypatch.setattr("softrsa.rsm._blocks.BLOCK_BYTES", 24 * N * 2)
        monkeypatch.setattr("softrsa.rsm._blocks.PAIR_BYTES", 8 * P * 2)
        monkeypatch.setattr("softrsa.rsm.similarity.PART_BYTES", 64)
        small = [
            similarity_matrix(x, **kwargs),
            similarity_matrix(x, y, **kwargs),
            condensed_similarity(x, **kwargs),
        ]
        for one, other in zip(big, small, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-12)

    def test_gradient(self, name, rng):
        x, y = draw(rng, 4, 4).requires_grad_(), draw(rng, 2, 4).requires_grad_()
        # the median of `rbf` is a constant to the gradient, so finite differences need a number
        kwargs = options(name, rng, n_units=4) | ({"bandwidth": 4.0} if name == "rbf" else {})
        assert torch.autograd.gradcheck(lambda x: similarity_matrix(x, **kwargs), (x,))
        assert torch.autograd.gradcheck(lambda x, y: similarity_matrix(x, y, **kwargs), (x, y))
        assert torch.autograd.gradcheck(lambda x: condensed_similarity(x, **kwargs), (x,))

    def test_gradient_is_finite_where_rows_coincide(self, name, rng):
        kwargs = options(name, rng, torch.float32)
        x = draw(rng, N, P, dtype=torch.float32)
        x[3] = x[5] = x[1]
        x.requires_grad_()
        similarity_matrix(x, **kwargs).square().sum().backward()
        similarity_matrix(x, x[1:4], **kwargs).square().sum().backward()
        assert x.grad.isfinite().all()

    def test_value_with_and_without_gradient(self, name, rng):
        x, kwargs = draw(rng, N, P), options(name, rng)
        graph = similarity_matrix(x.clone().requires_grad_(), **kwargs).detach()
        torch.testing.assert_close(graph, similarity_matrix(x, **kwargs), rtol=0, atol=1e-12)

    @given(x=responses, order=st.permutations(range(6)))
    def test_follows_the_order_of_stimuli(self, name, x, order):
        x = torch.from_numpy(x)
        kwargs = {"precision": torch.eye(5)} if name == "mahalanobis" else {}
        kwargs |= {"bandwidth": 50.0} if name == "rbf" else {}
        s = similarity_matrix(x, similarity=name, **kwargs)
        moved = similarity_matrix(x[order], similarity=name, **kwargs)
        torch.testing.assert_close(moved, s[order][:, order], rtol=1e-10, atol=1e-10)
        assert not s.isnan().any()


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
@pytest.mark.parametrize("name", ["correlation", "sqeuclidean", "mahalanobis"])
def test_value_from_rsatoolbox(name, rng):
    x, kwargs = draw(rng, N, P), options(name, rng)
    method = {"sqeuclidean": "euclidean"}.get(name, name)
    noise = {"noise": kwargs["precision"].numpy()} if name == "mahalanobis" else {}
    rdm = rsatoolbox.rdm.calc_rdm(rsatoolbox.data.Dataset(x.numpy()), method=method, **noise)
    expected = (1 if name == "correlation" else 0) - rdm.dissimilarities[0]
    np.testing.assert_allclose(condensed_similarity(x, **kwargs), expected, rtol=0, atol=1e-10)


def test_hand_worked_values():
    """Rows (0, 0), (3, 4), (0, 4): a 3-4-5 triangle."""
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 4.0]])
    assert condensed_similarity(x, similarity="l2").tolist() == [-5.0, -4.0, -3.0]
    assert condensed_similarity(x, similarity="l1").tolist() == [-7.0, -4.0, -3.0]
    assert condensed_similarity(x, similarity="sqeuclidean").tolist() == [-12.5, -8.0, -4.5]
    assert condensed_similarity(x, similarity="dot").tolist() == [0.0, 0.0, 8.0]
    rbf = condensed_similarity(x, similarity="rbf")  # the median distance is 4
    torch.testing.assert_close(rbf, torch.tensor([-25 / 32, -0.5, -9 / 32]).exp())


@given(responses, st.floats(0.01, 100), st.floats(-100, 100))
def test_correlation_ignores_affine_maps(x, scale, shift):
    x = torch.from_numpy(x)
    torch.testing.assert_close(
        similarity_matrix(scale * x + shift), similarity_matrix(x), rtol=0, atol=1e-7
    )


@given(x=responses, n_bytes=st.sampled_from([2**24, 64]))
def test_median_distance_is_numpys(x, n_bytes):
    x[3:] = x[0] if n_bytes == 64 else x[3:]  # ties; then by bisection
    d = distance.pdist(x)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("softrsa.rsm.similarity.PART_BYTES", n_bytes)
        found = condensed_similarity(torch.from_numpy(x), similarity="rbf").numpy()
    np.testing.assert_allclose(
        found, np.exp(-(d**2) / 2 / np.median(d) ** 2), rtol=1e-9, atol=1e-300
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_undefined_rows_are_nan_and_leave_the_others_alone(rng, dtype):
    x = draw(rng, N, P, dtype=dtype)
    x[2], x[5] = 0.1, 0.0  # 0.1 is not exact in binary: its mean need not equal it
    for name, rows in {"correlation": [2, 5], "cosine": [5]}.items():
        s = similarity_matrix(x, similarity=name)
        bad = torch.zeros(N, dtype=torch.bool)
        bad[rows] = True
        assert torch.equal(s.isnan(), bad[:, None] | bad[None, :])


def test_unknown_similarity_offers_the_nearest():
    with pytest.raises(UnknownNameError, match=r"'corelation'\. Did you mean 'correlation'"):
        similarity_matrix(torch.ones(2, 2), similarity="corelation")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64, torch.complex64])
def test_other_number_types_are_refused(dtype):
    with pytest.raises(DTypeError, match=f"`x` must be float32 or float64, got {dtype}"):
        similarity_matrix(torch.ones(3, 2).to(dtype))
    with pytest.raises(DTypeError, match=f"`y` must be float32 or float64, got {dtype}"):
        similarity_matrix(torch.ones(3, 2), torch.ones(3, 2).to(dtype))


def test_shapes_that_do_not_fit_are_named():
    x = torch.ones(4, 3)
    with pytest.raises(ShapeError, match=r"`x` must have shape .* got \(3,\)"):
        similarity_matrix(x[0])
    with pytest.raises(ShapeError, match=r"`y` must have shape .* got \(0, 3\)"):
        similarity_matrix(x, x[:0])
    with pytest.raises(ShapeError, match="`x` has 3, `y` has 2"):
        similarity_matrix(x, x[:, :2])
    with pytest.raises(ShapeError, match=r"got \(2,\) and \(3,\)"):
        similarity_matrix(x.expand(2, 4, 3), x.expand(3, 4, 3))
    with pytest.raises(ShapeError, match="at least 2 stimuli to make a pair, got 1"):
        condensed_similarity(x[:1])
    with pytest.raises(DTypeError, match=r"got torch\.float32 and torch\.float64"):
        similarity_matrix(x, x.double())


def test_options_that_do_not_suit_are_named():
    x = torch.eye(3)
    with pytest.raises(DataError, match="'mahalanobis'` needs a `precision`"):
        similarity_matrix(x, similarity="mahalanobis")
    with pytest.raises(DataError, match="'l2'` takes no `precision`"):
        similarity_matrix(x, similarity="l2", precision=x)
    with pytest.raises(ShapeError, match=r"shape \(3, 3\) for 3 units, got \(2, 2\)"):
        similarity_matrix(x, similarity="mahalanobis", precision=torch.eye(2))
    with pytest.raises(DataError, match="'cosine'` takes no `bandwidth`, got 2"):
        similarity_matrix(x, similarity="cosine", bandwidth=2)
    with pytest.raises(UnknownNameError, match=r"'medain'\. Did you mean 'median'"):
        similarity_matrix(x, similarity="rbf", bandwidth="medain")
    for bandwidth in (0, -1.5, float("nan"), float("inf")):
        with pytest.raises(DataError, match=f"positive and finite, got {bandwidth}"):
            similarity_matrix(x, similarity="rbf", bandwidth=bandwidth)
    with pytest.raises(DataError, match="median distance between stimuli is 0"):
        similarity_matrix(torch.ones(4, 3), similarity="rbf")


@pytest.mark.parametrize("name", SIMILARITIES)
def test_what_is_computed_in_float64_is_what_its_rule_says(name):
    x = torch.ones(2, 3)
    rule = RULES[name](x, x, [slice(None)], torch.eye(3))
    assert rule.wide == (name in WIDE)
