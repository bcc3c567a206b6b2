"""Gates and SoftStep: order of the bounds, identity at the start, batches, permutations, state."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from softrsa.errors import DataError, ShapeError, UnknownNameError
from softrsa.transforms import (
    EmbeddingGate,
    GlobalGate,
    ProfileGate,
    SoftStep,
    log_soft_step,
    log_soft_step_s2,
    soft_step,
    soft_step_s2,
)

GATES = {
    "global": lambda batch_shape=(): GlobalGate(batch_shape=batch_shape),
    "profile": lambda batch_shape=(): ProfileGate(4, batch_shape=batch_shape),
    "embedding": lambda batch_shape=(): EmbeddingGate(3, batch_shape=batch_shape),
    "hidden": lambda batch_shape=(): EmbeddingGate(3, 5, batch_shape=batch_shape),
}
every_gate = pytest.mark.parametrize("kind", GATES)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def scatter(gate, rng, size=1.0):
    """Put random numbers into every parameter of a gate."""
    with torch.no_grad():
        for parameter in gate.parameters():
            parameter.copy_(size * torch.randn(parameter.shape, generator=rng))
    return gate


def inputs(rng, kind, *lead, n=6, dtype=torch.float32):
    """Similarities, and embeddings for the gates that read them."""
    s = torch.rand(*lead, n, n, generator=rng, dtype=dtype)
    reads = kind in ("embedding", "hidden")
    anchors = torch.randn(*lead, n, 3, generator=rng, dtype=dtype) if reads else None
    return (s + s.mT) / 2, anchors


@every_gate
class TestEveryGate:
    def test_new_gate_is_the_identity(self, kind, rng):
        s, anchors = inputs(rng, kind, dtype=torch.float64)
        step = SoftStep(GATES[kind]())
        assert (step(s, anchors) - s).abs().max() < 0.02
        lower, upper, transition = step.gate(s, anchors)
        for found, value in zip(
            (lower, upper, transition),
            (sigmoid(-4), sigmoid(-4) + sigmoid(4) ** 2, sigmoid(4)),
            strict=True,
        ):
            np.testing.assert_allclose(found.detach(), value, rtol=1e-6)

    def test_new_second_family_is_as_close_to_the_identity_as_it_can(self, kind, rng):
        """No (b, t) takes s^((1 - s) t / (1 - t)) nearer to s than about 1/8 everywhere."""
        s, anchors = inputs(rng, kind)
        assert (SoftStep(GATES[kind](), family="s2")(s, anchors) - s).abs().max() < 0.13

    @given(data=st.data())
    def test_bounds_are_ordered_whatever_the_parameters(self, kind, data):
        gate = GATES[kind]()
        with torch.no_grad():
            for p in gate.parameters():
                values = arrays(np.float32, tuple(p.shape), elements=st.floats(-50, 50, width=32))
                p.copy_(torch.from_numpy(data.draw(values)))
        s, anchors = inputs(torch.Generator().manual_seed(0), kind)
        lower, upper, transition = gate(s, anchors)
        assert (lower <= upper).all()
        for value in (lower, upper, transition):
            assert ((value >= 0) & (value <= 1)).all()

    def test_batch_equals_loop(self, kind, rng):
        batched = SoftStep(scatter(GATES[kind]((2, 3)), rng))
        s, anchors = inputs(rng, kind, 2, 3)
        found = batched(s, anchors)
        assert found.shape == s.shape
        for i in range(2):
            for j in range(3):
                one = GATES[kind]()
                state = batched.gate.state_dict()
                shared = {"identity_logits"}
                one.load_state_dict({k: v if k in shared else v[i, j] for k, v in state.items()})
                expected = SoftStep(one)(s[i, j], None if anchors is None else anchors[i, j])
                torch.testing.assert_close(found[i, j], expected, rtol=0, atol=1e-6)
        assert batched.gate.penalty().shape == (2, 3)

    def test_permuting_stimuli_permutes_the_result(self, kind, rng):
        step = SoftStep(scatter(GATES[kind](), rng))
        s, anchors = inputs(rng, kind, dtype=torch.float64)
        order = torch.randperm(len(s), generator=rng)
        found = step(s[order][:, order], None if anchors is None else anchors[order])
        torch.testing.assert_close(found, step(s, anchors)[order][:, order], rtol=0, atol=1e-12)

    def test_state_dict_round_trip_and_pickle_free(self, kind, rng, tmp_path):
        step = SoftStep(scatter(GATES[kind](), rng))
        s, anchors = inputs(rng, kind)
        if anchors is not None:
            step.gate.standardize(anchors)
        torch.save(step.state_dict(), tmp_path / "step.pt")
        other = SoftStep(GATES[kind]())
        other.load_state_dict(torch.load(tmp_path / "step.pt", weights_only=True))
        assert torch.equal(other(s, anchors), step(s, anchors))

    def test_gradient_reaches_every_parameter(self, kind, rng):
        step = SoftStep(scatter(GATES[kind](), rng, 0.5)).double()
        s, anchors = inputs(rng, kind, dtype=torch.float64)
        names = [name for name, _ in step.named_parameters()]

        def run(*values):
            return torch.func.functional_call(
                step, dict(zip(names, values, strict=True)), (s, anchors)
            )

        assert torch.autograd.gradcheck(run, tuple(step.parameters()))

    def test_penalty_is_the_square_distance_from_the_identity(self, kind, rng):
        gate = scatter(GATES[kind](), rng)
        expected = gate.bias.square().sum()
        if kind != "global":
            expected = expected + gate.weight.square().sum()
        assert gate.penalty().item() == pytest.approx(expected.item(), rel=1e-6)
        assert GATES[kind]().penalty() == 0

    def test_number_type_of_the_similarities_is_kept(self, kind, rng):
        for dtype in (torch.float32, torch.float64, torch.bfloat16):
            s, anchors = inputs(rng, kind)
            assert (
                SoftStep(GATES[kind]())(
                    s.to(dtype), None if anchors is None else anchors.to(dtype)
                ).dtype
                == dtype
            )


def test_embedding_gate_is_the_sigmoid_of_a_linear_map():
    gate = EmbeddingGate(2)
    with torch.no_grad():
        gate.bias.copy_(torch.tensor([1.0, -2.0, 0.5]))
        gate.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, -1.0]]))
    lower, upper, transition = gate(anchors=torch.tensor([[0.5, 1.5]]))
    low = sigmoid(-4 + 1 + 0.5)
    assert lower.item() == pytest.approx(low, rel=1e-6)
    assert upper.item() == pytest.approx(low + sigmoid(4 - 2 + 3) * (1 - low), rel=1e-6)
    assert transition.item() == pytest.approx(sigmoid(4 + 0.5 - 1), rel=1e-6)


@pytest.mark.parametrize("q", [1, 3, 9])
@pytest.mark.parametrize("n", [2, 5, 40])
def test_profile_is_numpys_quantiles_without_self(q, n, rng):
    s = torch.rand(2, n, n, dtype=torch.float64, generator=rng)
    levels = np.arange(1, q + 1) / (q + 1)
    found = ProfileGate(q).profile(s)
    for i in range(2):
        for j in range(n):
            expected = np.quantile(np.delete(s[i, j].numpy(), j), levels)
            np.testing.assert_allclose(found[i, j], expected, rtol=0, atol=1e-15)
    rectangular = ProfileGate(q).profile(s[..., : n - 1, :])
    expected = np.quantile(s[..., : n - 1, :].numpy(), levels, axis=-1)
    np.testing.assert_allclose(rectangular, np.moveaxis(expected, 0, -1), rtol=0, atol=1e-15)


def test_standardize_by_sample_deviation(rng):
    anchors = 3 + 2 * torch.randn(20, 3, generator=rng, dtype=torch.float64)
    gate = EmbeddingGate(3).double()
    gate.standardize(anchors)
    np.testing.assert_allclose(gate.feature_mean, anchors.numpy().mean(0), rtol=1e-12)
    np.testing.assert_allclose(gate.feature_scale, anchors.numpy().std(0, ddof=1), rtol=1e-12)


@pytest.mark.parametrize("value", [0.0, 0.1, 100.1])
def test_constant_feature_is_not_blown_up(value):
    """The deviation of a constant is not zero but rounding; dividing by it would be noise."""
    anchors = torch.full((10, 3), value)
    gate = EmbeddingGate(3)
    gate.standardize(anchors)
    assert (gate.feature_scale == 1).all()


def test_one_anchor_has_no_deviation(recwarn):
    gate = EmbeddingGate(3)
    gate.standardize(torch.ones(1, 3))
    assert (gate.feature_scale == 1).all()


@pytest.mark.parametrize("family", ["s1", "s2"])
def test_module_is_the_function(family, rng):
    s, _ = inputs(rng, "profile")
    step = SoftStep(scatter(ProfileGate(4), rng), family=family)
    lower, upper, transition = (p.unsqueeze(-1) for p in step.gate(s))
    if family == "s1":
        expected = soft_step(s, lower, upper, transition)
        logarithm = log_soft_step(s, lower, upper, transition)
    else:
        expected = soft_step_s2(s, upper, transition)
        logarithm = log_soft_step_s2(s, upper, transition)
    assert torch.equal(step(s), expected)
    assert torch.equal(step(s, log=True), logarithm)


def test_profiles_may_be_given(rng):
    s, _ = inputs(rng, "profile")
    gate = scatter(ProfileGate(4), rng)
    for mine, given_profile in zip(gate(s), gate(anchors=gate.profile(s)), strict=True):
        assert torch.equal(mine, given_profile)


def test_wrong_arguments_are_named(rng):
    s, anchors = inputs(rng, "embedding")
    with pytest.raises(ShapeError, match=r"must have 4 features, got shape \(6, 3\)"):
        ProfileGate(4)(anchors=anchors)
    with pytest.raises(ShapeError, match=r"must have 4 features, got shape \(6, 3\)"):
        EmbeddingGate(4)(s, anchors)
    with pytest.raises(DataError, match="EmbeddingGate needs the anchors' embeddings"):
        SoftStep(EmbeddingGate(4))(s)
    with pytest.raises(DataError, match="ProfileGate needs similarities"):
        ProfileGate(4)()
    with pytest.raises(DataError, match=r"n_features=0, hidden=None"):
        EmbeddingGate(0)
    with pytest.raises(DataError, match=r"n_features=2, hidden=0"):
        EmbeddingGate(2, 0)
    with pytest.raises(DataError, match=r"`n_quantiles` must be at least 1, got 0"):
        ProfileGate(0)
    with pytest.raises(UnknownNameError, match=r"family 's3'.*Known: s1, s2"):
        SoftStep(GlobalGate(), family="s3")
    with pytest.raises(ShapeError, match=r"got \(6,\)"):
        SoftStep(GlobalGate())(torch.rand(6))


def test_sizes_are_shown():
    assert repr(SoftStep(EmbeddingGate(3, 5, batch_shape=(2, 1)))) == (
        "SoftStep(\n  family='s1'\n"
        "  (gate): EmbeddingGate(n_features=3, hidden=5, batch_shape=(2, 1))\n)"
    )
