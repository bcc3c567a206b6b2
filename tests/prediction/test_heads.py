"""What every head must do, against formulas in NumPy and SciPy, and what each does alone."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from scipy.special import expit, softmax
from scipy.stats import rankdata

from softrsa.errors import DataError, DTypeError, ShapeError, UnknownNameError
from softrsa.prediction import DiffKNNHead, LinearHead, NCAHead, SoftStepNCAHead
from softrsa.prediction.heads import find_excluded

D = 3
HEADS = {
    "nca": NCAHead,
    "s1-global": SoftStepNCAHead,
    "s1-instance": lambda **options: SoftStepNCAHead(D, **options),
    "s2-global": lambda **options: SoftStepNCAHead(family="s2", **options),
    "s2-instance": lambda **options: SoftStepNCAHead(D, family="s2", **options),
    "diffknn-global": lambda **options: DiffKNNHead(share=0.3, **options),
    "diffknn-instance": lambda **options: DiffKNNHead(D, share=0.3, **options),
}
SIMILARITIES = {
    "l2": lambda x, y: -cdist(x, y),
    "l1": lambda x, y: -cdist(x, y, "cityblock"),
    "cosine": lambda x, y: 1 - cdist(x, y, "cosine"),
    "dot": lambda x, y: x @ y.T / x.shape[1],
    "rbf": lambda x, y: np.exp(-cdist(x, y, "sqeuclidean") / (2 * x.shape[1])),
}
EXCLUDE = torch.tensor([4, -1, 0, 10, -1])


def made(name, rng, *, spread=0.5, **options):
    """A head whose parameters are not those of a new one."""
    head = HEADS[name](**options).double()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(spread * torch.randn(parameter.shape, generator=rng))
    return head


def data(rng, m=5, n=11):
    return (
        torch.randn(m, D, generator=rng, dtype=torch.float64),
        torch.randn(n, D, generator=rng, dtype=torch.float64),
        torch.rand(n, 2, generator=rng, dtype=torch.float64),
    )


def s1(s, a, b, t):
    inside = (s > a) & (s < b)
    u, v = np.where(inside, s - a, 1.0), np.where(inside, b - s, 1.0)
    return np.where(inside, u ** (1 / t) / (u ** (1 / t) + v ** (1 / t)), s >= b)


def by_formula(head, name, queries, neighbors, similarity):
    """SPEC section 7 in NumPy, one query at a time; hard ranks for DiffKNN."""
    x, y = queries.numpy(), neighbors.numpy()
    tau = 1.0 if head.log_temperature is None else np.exp(head.log_temperature.item())
    rows = []
    for i, s in enumerate(SIMILARITIES[similarity](x, y)):
        step = 1.0
        if name.startswith("diffknn"):
            logit = head.bias.item()
            if head.weight is not None:
                logit += (queries[i] @ head.weight).item()
            k = max(1, expit(logit) * (len(s) - 1))
            rank = rankdata(-s) - 1
            step = s1(-rank, -k - head.width, -k, head.transition)
        elif name != "nca":
            gate = head.soft_step.gate
            logits = (gate.identity_logits + gate.bias).detach().numpy()
            if name.endswith("instance"):
                logits = logits + gate.weight.detach().numpy() @ x[i]
            a, b, t = expit(logits)
            b = a + b * (1 - a)
            scaled = (s - s.min()) / (s.max() - s.min())
            if name.startswith("s1"):
                step = s1(scaled, a, b, t)
            else:
                step = np.where(scaled < b, (scaled / b) ** ((b - scaled) * t / (1 - t)), 1.0)
        weight = softmax(s / tau) * step
        rows.append(weight / weight.sum())
    return np.array(rows)


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("name", HEADS)
class TestEveryHead:
    def test_weights_are_those_of_the_formula(self, name, similarity, rng):
        options = {"strength": 1e-4} if name.startswith("diffknn") else {}
        head = made(name, rng, similarity=similarity, **options)
        queries, neighbors, labels = data(rng)
        expected = by_formula(head, name, queries, neighbors, similarity)
        found = head.weights(queries, neighbors).detach().numpy()
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)
        assert ((found == 0) == (expected == 0)).all()
        predicted = head(queries, neighbors, labels).detach()
        np.testing.assert_allclose(predicted, expected @ labels.numpy(), atol=1e-9)
        one = head(queries, neighbors, labels[:, 0]).detach()
        torch.testing.assert_close(one, predicted[:, 0])

    def test_excluding_is_not_being_there(self, name, similarity, rng):
        head = made(name, rng, similarity=similarity)
        queries, neighbors, _ = data(rng)
        found = head.weights(queries, neighbors, exclude=EXCLUDE).detach()
        for i, column in enumerate(EXCLUDE.tolist()):
            left = [j for j in range(len(neighbors)) if j != column]
            # the mean that distances are measured from changes: rounding
            alone = head.weights(queries[i : i + 1], neighbors[left]).detach()[0]
            torch.testing.assert_close(found[i, left], alone, rtol=0, atol=1e-9)
            if column >= 0:
                assert found[i, column] == 0

    def test_gradient_is_that_of_finite_differences(self, name, similarity, rng):
        head = made(name, rng, similarity=similarity)
        queries, neighbors, labels = (x.requires_grad_() for x in data(rng, 3, 6))
        exclude = torch.tensor([5, -1, 0])
        for left_out in (None, exclude):

            def predict(queries, neighbors, labels, *_, left_out=left_out):
                return head(queries, neighbors, labels, exclude=left_out)

            inputs = (queries, neighbors, labels, *head.parameters())
            assert torch.autograd.gradcheck(predict, inputs)

    def test_blocks_change_nothing(self, name, similarity, rng):
        head = made(name, rng, similarity=similarity)
        queries, neighbors, labels = data(rng, 9, 90)
        exclude = torch.tensor([3, -1, 89, 0, 40, 41, -1, 7, 8])
        for left_out in (None, exclude):
            expected = head(queries, neighbors, labels, exclude=left_out).detach()
            for options in (
                {},
                {"block_bytes": 8 * 90 * 2},
                {"block_bytes": 8 * 33},
                {"n_candidates": 90},
                {"n_candidates": 89, "block_bytes": 8 * 33},
            ):
                if name.startswith("s") or options.get("n_candidates") != 89:
                    found = head.predict(queries, neighbors, labels, exclude=left_out, **options)
                    # of all but the least similar neighbor, whose step is 0 in both families
                    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
        found = head.predict(queries, neighbors, labels[:, 0])
        torch.testing.assert_close(found, head(queries, neighbors, labels[:, 0]).detach())

    def test_coinciding_and_equally_similar_rows(self, name, similarity, rng):
        head = made(name, rng, similarity=similarity).float()
        queries = torch.randn(4, D, generator=rng)
        neighbors = torch.randn(1, D, generator=rng).repeat(7, 1)
        labels = torch.rand(7, generator=rng)
        for rows, columns in ((queries, neighbors), (neighbors[:4], neighbors)):
            inputs = rows.clone().requires_grad_(), columns.clone().requires_grad_()
            weights = head.weights(*inputs, exclude=torch.tensor([0, -1, 6, 3]))
            expected = torch.tensor([1 / 6, 1 / 7, 1 / 6, 1 / 6])
            torch.testing.assert_close(weights.amax(-1), expected, rtol=1e-2, atol=0)
            (weights @ labels).square().sum().backward()
            assert all(x.grad.isfinite().all() for x in (*inputs, *head.parameters()))
            found = head.predict(rows, columns, labels)
            torch.testing.assert_close(found, labels.mean().expand(4), rtol=1e-2, atol=0)

    def test_one_neighbor_is_enough(self, name, similarity, rng):
        head = made(name, rng, similarity=similarity)
        queries, neighbors, labels = data(rng)
        assert (head(queries, neighbors[:1], labels[:1, 0]) == labels[0, 0]).all()
        left = head(queries, neighbors[:2], labels[:2, 0], exclude=torch.zeros(5).long())
        assert (left == labels[1, 0]).all()

    def test_arguments_keep_their_values(self, name, similarity, rng):
        head = made(name, rng, similarity=similarity)
        given_ = data(rng)
        before = [x.clone() for x in (*given_, EXCLUDE)]
        head(*given_, exclude=EXCLUDE).sum().backward()
        head.predict(*given_, exclude=EXCLUDE)
        head.predict(*given_, exclude=EXCLUDE, n_candidates=2)
        assert all(torch.equal(x, y) for x, y in zip((*given_, EXCLUDE), before, strict=True))


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("spread", [0.0, 3.0, 30.0])
def test_weights_sum_to_one_whatever_the_parameters(name, spread, rng):
    """Saturated gates and tiny temperatures leave a neighbor, in float32."""
    for similarity in SIMILARITIES:
        head = made(name, rng, spread=spread, similarity=similarity).float()
        queries, neighbors, labels = (x.float() for x in data(rng))
        weights = head.weights(queries, neighbors, exclude=EXCLUDE)
        torch.testing.assert_close(weights.sum(-1), torch.ones(5))
        (weights @ labels).sum().backward()
        assert all(parameter.grad.isfinite().all() for parameter in head.parameters())
        assert head.predict(queries, neighbors, labels, exclude=EXCLUDE).isfinite().all()


@given(st.integers(0, 10**6), st.sampled_from(sorted(HEADS)), st.floats(-5, 5), st.floats(0.1, 9))
def test_predictions_follow_the_labels(seed, name, shift, scale):
    """Within the range of the labels, and affine in them; blind to the order of neighbors."""
    rng = torch.Generator().manual_seed(seed)
    head = made(name, rng)
    queries, neighbors, labels = data(rng)
    predicted = head(queries, neighbors, labels)
    assert (predicted >= labels.amin(0) - 1e-12).all()
    assert (predicted <= labels.amax(0) + 1e-12).all()
    moved = head(queries, neighbors, scale * labels + shift)
    torch.testing.assert_close(moved, scale * predicted + shift)
    order = torch.randperm(len(neighbors), generator=rng)
    torch.testing.assert_close(head(queries, neighbors[order], labels[order]), predicted)


def test_leave_one_out_by_hand():
    """Labels at 0, 1 and 3 on a line: weights exp(-distance), worked on paper."""
    head = NCAHead(temperature=None)
    x, y = torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([0.0, 1.0, 5.0])
    e = np.exp
    expected = [
        (e(-1) * 1 + e(-3) * 5) / (e(-1) + e(-3)),
        (e(-1) * 0 + e(-2) * 5) / (e(-1) + e(-2)),
        (e(-3) * 0 + e(-2) * 1) / (e(-3) + e(-2)),
    ]
    np.testing.assert_allclose(head(x, x, y, exclude=torch.arange(3)).detach(), expected, rtol=1e-6)


def test_candidates_approximate_and_k_is_counted_from_all(rng):
    head = made("diffknn-global", rng, spread=0.0, temperature=0.05, strength=0.01)
    queries, neighbors, labels = data(rng, 4, 300)
    exact = head(queries, neighbors, labels).detach()
    near = head.predict(queries, neighbors, labels, n_candidates=200)
    torch.testing.assert_close(near, exact, rtol=0, atol=1e-6)
    far = head.predict(queries, neighbors, labels, n_candidates=2)
    assert (far - exact).abs().max() > 1e-3


def test_linear_head_ignores_neighbors(rng):
    queries, neighbors, labels = data(rng)
    head = LinearHead(D, 2).double()
    expected = queries @ head.linear.weight.T + head.linear.bias
    torch.testing.assert_close(head(queries, neighbors, labels, exclude=EXCLUDE), expected)
    torch.testing.assert_close(head(queries), expected)
    assert LinearHead(D).double().predict(queries, neighbors, labels[:, 0]).shape == (5,)


def test_temperature_is_learned_unless_it_is_none():
    assert NCAHead(temperature=None).log_temperature is None
    assert NCAHead(temperature=0.2).log_temperature.item() == pytest.approx(np.log(0.2))


class TestErrors:
    def test_options(self):
        with pytest.raises(UnknownNameError, match=r"Unknown similarity 'l3'.*'l2'"):
            NCAHead(similarity="l3")
        with pytest.raises(UnknownNameError, match="Unknown family 's3'"):
            SoftStepNCAHead(family="s3")
        with pytest.raises(DataError, match=r"`temperature` must be positive and finite, got 0"):
            NCAHead(temperature=0)
        with pytest.raises(DataError, match=r"'l1'` takes no `bandwidth`, got 2\.0"):
            NCAHead(similarity="l1", bandwidth=2.0)
        with pytest.raises(DataError, match=r"`share` must be between 0 and 1, got 1"):
            DiffKNNHead(share=1)
        with pytest.raises(DataError, match=r"`n_features` must be at least 1, got 0"):
            DiffKNNHead(0)
        with pytest.raises(DataError, match=r"n_targets=0"):
            LinearHead(3, 0)

    def test_inputs(self, rng):
        head = NCAHead()
        x, y, labels = (a.float() for a in data(rng))
        with pytest.raises(DTypeError, match=r"got torch\.float32 and torch\.float64"):
            head(x, y, labels.double())
        with pytest.raises(ShapeError, match=r"got \(5, 3\) and \(11, 2\)"):
            head(x, y[:, :2], labels)
        with pytest.raises(ShapeError, match=r"\(11,\) or \(11, n_targets\).*got \(10, 2\)"):
            head(x, y, labels[:10])
        with pytest.raises(ShapeError, match=r"There must be a neighbor"):
            head(x, y[:0], labels[:0])
        with pytest.raises(DTypeError, match=r"`exclude` must be an int64 tensor, got torch\.bool"):
            head(x, y, labels, exclude=torch.ones(5, dtype=torch.bool))
        with pytest.raises(ShapeError, match=r"`exclude` must have shape \(5,\).*got \(4,\)"):
            head(x, y, labels, exclude=torch.arange(4))
        with pytest.raises(DataError, match=r"from 0 to 10, or -1 for none, got 11"):
            head(x, y, labels, exclude=torch.tensor([0, 1, 2, 3, 11]))
        with pytest.raises(ShapeError, match=r"there is only one"):
            head(x, y[:1], labels[:1], exclude=torch.zeros(5).long())
        with pytest.raises(DataError, match=r"`n_candidates` must be at least 1, got 0"):
            head.predict(x, y, labels, n_candidates=0)


def test_a_centered_linear_head_predicts_the_mean_label_at_first():
    labels = torch.tensor([[1.0, 2.0], [4.0, 0.0]])
    head = LinearHead(3, 2).center(labels)
    assert head(torch.randn(5, 3)).tolist() == [[2.5, 1.0]] * 5


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-10)])
@pytest.mark.parametrize("logits", [(-4.0, 0.0, 4.0), (-1.0, -1.0, 5.0), (-4.0, 4.0, 4.0)])
def test_the_fast_gradient_is_that_of_the_parts(dtype, tolerance, logits):
    """Also of entries beyond the bounds, where the step is constant, at transitions near 1."""
    head = SoftStepNCAHead(3).to(dtype)
    with torch.no_grad():
        head.soft_step.gate.bias.copy_(torch.tensor(logits) - torch.tensor([-4.0, 4.0, 4.0]))
        head.soft_step.gate.weight.normal_(0, 0.3, generator=torch.Generator().manual_seed(1))
    z = torch.randn(12, 3, dtype=dtype, generator=torch.Generator().manual_seed(0))
    z, own = z.requires_grad_(), torch.arange(12)
    fast = head.weights(z, z, exclude=own)
    plan = head.plan(z, z)
    parts = NCAHead.weigh(head, plan.block(), z, plan, find_excluded(own, z, z))
    torch.testing.assert_close(fast, parts, rtol=tolerance, atol=tolerance)
    inputs = [z, *head.parameters()]
    found, expected = (torch.autograd.grad(w[:, 0].square().sum(), inputs) for w in (fast, parts))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance * other.abs().max())


@pytest.mark.parametrize("name", ["linear", *HEADS])
@pytest.mark.parametrize("similarity", ["l2", "dot"])
def test_autocast_has_no_effect(name, similarity, rng):
    x, y, labels = (tensor.float() for tensor in data(rng, 40, 50))
    x, y = 5 * x, 5 * y
    linear = name == "linear"
    head = LinearHead(D, 2) if linear else made(name, rng, similarity=similarity).float()
    calls = [lambda: head(x, y, labels), lambda: head.predict(x, y, labels)]
    calls += [] if linear else [lambda: head.weights(x, y, exclude=torch.arange(40))]
    for call in calls:
        expected = call()
        with torch.autocast("cpu", torch.bfloat16):
            found = call()
        assert found.dtype == torch.float32
        assert torch.equal(found, expected)


def test_linear_head_takes_exclude_in_prediction(rng):
    x, _, _ = data(rng)
    head = LinearHead(D).double()
    assert torch.equal(head.predict(x, exclude=EXCLUDE), head(x).detach())


@pytest.mark.parametrize("seed", range(4))
def test_second_family_gradient_is_finite_for_distant_embeddings(seed):
    rng = torch.Generator().manual_seed(seed)
    head = SoftStepNCAHead(25, family="s2")
    with torch.no_grad():
        for parameter in head.soft_step.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=rng))
    x = (80 * torch.randn(60, 25, generator=rng)).requires_grad_()
    head(x, x, torch.rand(60, generator=rng), exclude=torch.arange(60)).square().sum().backward()
    assert x.grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in head.parameters())


def test_a_linear_head_refuses_another_width():
    with pytest.raises(ShapeError, match=r"shape \(m, 4\), .* 4 features, got \(3, 2\)"):
        LinearHead(4)(torch.zeros(3, 2))
