"""What every measure on features declares in the registry is what it does."""

import math

import pytest
import torch

from softrsa.errors import DataError, DTypeError, NoSecondDerivativeError, ShapeError
from softrsa.measures import available

N = 9
SHAPES = [(N, 3, 2), (4, 7, 6), (5, 8, 2), (N, 1, 4)]
ON_FEATURES = [entry for entry in available().values() if entry.takes == "features"]


def orthogonal(x, rng):
    p = x.shape[-1]
    return x @ torch.linalg.qr(torch.randn(p, p, dtype=x.dtype, generator=rng)).Q


def linear(x, rng):
    p = x.shape[-1]
    return x @ (torch.randn(p, p, dtype=x.dtype, generator=rng) + 2 * torch.eye(p).to(x))


CHANGES = {
    "scale": lambda x, rng: 3.7 * x,
    "shift": lambda x, rng: x + torch.randn(x.shape[-1], dtype=x.dtype, generator=rng),
    "orthogonal": orthogonal,
    "linear": linear,
}
every_measure = pytest.mark.parametrize("entry", ON_FEATURES, ids=lambda m: m.name)


def features(rng, *lead, shape=(N, 3, 2), dtype=torch.float64):
    n, p, q = shape
    return (
        torch.randn(*lead, n, p, dtype=dtype, generator=rng),
        torch.randn(*lead, n, q, dtype=dtype, generator=rng),
    )


def same(a, b, tolerance=1e-9):
    return torch.allclose(a, b, rtol=tolerance, atol=tolerance)


@every_measure
class TestEveryMeasure:
    def test_range_and_itself(self, entry, rng):
        x, y = features(rng, 100)
        score = entry(x, y)
        low, high = entry.range
        assert ((score >= low) & (score <= high)).all()
        best = high if entry.larger_is_more_similar else low
        # an angle or a root multiplies rounding: 1e-16 becomes 1e-8
        torch.testing.assert_close(
            entry(x, x), torch.full((100,), best).double(), rtol=0, atol=1e-6
        )

    def test_distances_say_so_in_their_name(self, entry):
        assert entry.larger_is_more_similar != ("distance" in entry.name)

    def test_more_noise_is_less_similar(self, entry, rng):
        x, _ = features(rng, 100, shape=(30, 3, 3))
        noise = torch.randn(x.shape, dtype=x.dtype, generator=rng)
        near, far = (entry(x, x + scale * noise).mean() for scale in (0.1, 3.0))
        assert (near > far) == entry.larger_is_more_similar

    def test_unrelated_features_of_many_units(self, entry, rng):
        x, y = torch.randn(2, 50, 12, 30, dtype=torch.float64, generator=rng)
        assert entry.unbiased == (entry(x, y).mean().abs() < 0.05)

    def test_symmetric(self, entry, rng):
        x, y = features(rng, 20)
        assert same(entry(x, y), entry(y, x)) == entry.symmetric

    def test_metric(self, entry, rng):
        """Triangles of random features hold for a metric; one of small angles breaks the others."""

        def distance(x, y):
            score = entry(x, y)
            return 1 - score if entry.larger_is_more_similar else score

        x, y, z = torch.randn(3, 300, N, 3, dtype=torch.float64, generator=rng)
        y = x + 0.3 * y
        slack = distance(x, y) + distance(y, z) - distance(x, z)
        raw = torch.randn(N, 2, dtype=torch.float64, generator=rng)
        a, b = torch.linalg.qr(raw - raw.mean(0)).Q.unbind(1)
        line = [(math.cos(t) * a + math.sin(t) * b)[:, None] for t in (0.0, 0.3, 0.6)]
        angles = distance(line[0], line[1]) + distance(line[1], line[2])
        angles = angles - distance(line[0], line[2])
        if entry.metric:
            assert slack.min() > -1e-9
            assert angles > -1e-9
        elif entry.symmetric and entry.name != "rbf_cka":  # whose distances are not of this line
            assert angles < -1e-3

    @pytest.mark.parametrize("change", CHANGES)
    def test_invariant_to_what_it_says_and_nothing_else(self, entry, change, rng):
        x, y = features(rng, 10, shape=(N, 3, 3))
        score = entry(x, y)
        unchanged = same(entry(CHANGES[change](x, rng), y), score) and same(
            entry(x, CHANGES[change](y, rng)), score
        )
        implied = change == "orthogonal" and "linear" in entry.invariances
        assert unchanged == (change in entry.invariances or implied)
        assert entry.invariances <= set(CHANGES)

    @pytest.mark.parametrize("shape", SHAPES)
    def test_differentiable(self, entry, shape, rng):
        assert entry.differentiable
        x, y = (z.requires_grad_() for z in features(rng, 2, shape=shape))
        assert torch.autograd.gradcheck(entry, (x, y))

    def test_second_derivatives_are_right_or_refused(self, entry, rng):
        x, y = (z.requires_grad_() for z in features(rng, shape=(6, 3, 2)))
        if entry.name == "rbf_cka":
            assert torch.autograd.gradgradcheck(entry, (x, y))
            return
        with pytest.raises(NoSecondDerivativeError, match="without `create_graph=True`"):
            torch.autograd.grad(entry(x, y), x, create_graph=True)

    def test_gradient_at_a_perfect_match(self, entry, rng):
        for p in (3, 12):
            x = torch.randn(N, p, dtype=torch.float64, generator=rng).requires_grad_()
            entry(x, x.detach()).backward()
            assert x.grad.isfinite().all()
            if entry.symmetric:  # nothing is more similar
                assert x.grad.abs().max() < 1e-7

    def test_gradient_at_repeated_and_zero_singular_values(self, entry, rng):
        basis = torch.linalg.qr(torch.randn(N, 4, dtype=torch.float64, generator=rng)).Q
        x = (basis - basis.mean(0)).requires_grad_()
        y = orthogonal(basis, rng).requires_grad_()
        low_rank = (basis[:, :2] @ basis[:2]).requires_grad_()
        for a, b in ((x, y), (low_rank, y), (low_rank, low_rank.detach())):
            (grad,) = torch.autograd.grad(entry(a, b), a)
            assert grad.isfinite().all()

    def test_smallest_n(self, entry, rng):
        n = entry.smallest_n
        assert entry(*features(rng, shape=(n, 2, 2))).isfinite()
        with pytest.raises(ShapeError, match=rf"at least {n}: `x` has {n - 1}, `y` has {n - 1}"):
            entry(*features(rng, shape=(n - 1, 2, 2)))

    @pytest.mark.parametrize("shape", SHAPES)
    def test_batch_equals_loop_and_broadcasts(self, entry, shape, rng):
        x, y = features(rng, 3, shape=shape)
        scores = entry(x[:2, None], y)
        assert scores.shape == (2, 3)
        for i in range(2):
            for j in range(3):
                assert same(scores[i, j], entry(x[i], y[j]))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_keeps_number_type_and_inputs(self, entry, dtype, rng):
        x, y = features(rng, 3, dtype=dtype)
        before = x.clone(), y.clone()
        assert entry(x, y).dtype == dtype
        assert torch.equal(x, before[0])
        assert torch.equal(y, before[1])

    @pytest.mark.parametrize("shape", SHAPES)
    def test_single_precision_agrees(self, entry, shape, rng):
        x, y = (z.float() for z in features(rng, 20, shape=shape))
        expected = entry(x.double(), y.double())
        torch.testing.assert_close(entry(x, y).double(), expected, rtol=0, atol=1e-4)

    def test_far_from_zero_in_single_precision(self, entry, rng):
        x, y = (z.float() for z in features(rng, shape=(40, 3, 3)))
        moved = entry(x + 512, y - 512)
        torch.testing.assert_close(moved, entry(x, y), rtol=0, atol=1e-3)

    def test_undefined_is_nan_also_in_a_batch(self, entry, rng):
        x, y = features(rng, 2)
        if entry.name == "rbf_cka" or "distance" in entry.name or not entry.symmetric:
            x[0, 0, 0] = torch.nan
        else:
            x[0] = 0.1  # the mean of 0.1 is rounded
        assert entry(x, y).isnan().tolist() == [True, False]

    def test_errors_name_what_was_found(self, entry, rng):
        x, y = features(rng)
        with pytest.raises(ShapeError, match=r"`x` has 9, `y` has 8"):
            entry(x, y[:8])
        with pytest.raises(ShapeError, match=r"`x` must have shape .*, got \(9,\)"):
            entry(x[:, 0], y)
        with pytest.raises(ShapeError, match=r"`y` must have shape .* at least one unit.*\(9, 0\)"):
            entry(x, y[:, :0])
        with pytest.raises(ShapeError, match=r"must broadcast, got \(2,\) and \(3,\)"):
            entry(x.expand(2, -1, -1), y.expand(3, -1, -1))
        with pytest.raises(DTypeError, match=r"float32 and torch\.float64"):
            entry(x.float(), y)
        with pytest.raises(DTypeError, match=r"got torch\.int64"):
            entry(x.long(), y)

    def test_is_not_for_rsms(self, entry, rng):
        with pytest.raises(DataError, match=f"'{entry.name}' compares features, not RSMs"):
            entry.between(torch.eye(4), torch.eye(4))


# distances of nearly equal rows are counted, and units matched on the CPU, which asks the data
ASK = {"rbf_cka", "soft_matching", "soft_matching_distance", "permutation_matching"}


@pytest.mark.parametrize(
    "entry", [m for m in ON_FEATURES if m.name not in ASK], ids=lambda m: m.name
)
def test_runs_without_data(entry, rng):
    """On the meta device every operation is there, and shapes follow."""
    x, y = (z.to("meta") for z in features(rng, 2))
    score = entry(x, y)
    assert score.shape == (2,)
    assert score.device.type == "meta"
