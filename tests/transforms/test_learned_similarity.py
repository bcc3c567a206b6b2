"""Learned similarity as a module: values by hand, invariances, gradients and messages."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from softrsa.errors import DataError, DTypeError, ShapeError
from softrsa.rsm import similarity_matrix
from softrsa.transforms import LearnedSimilarity
from softrsa.transforms.learned_similarity import (
    LearnedSimilarities,
    prepare_units,
    similarity_of_features,
    unit_length,
)


def draw(rng, *shape):
    return torch.randn(*shape, dtype=torch.float64, generator=rng)


def cosines(x):
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    return x @ x.T


def test_identity_with_an_offset_is_the_centered_cosine(rng):
    """Of centered patterns of length 1, less their mean: NumPy's cosines."""
    x = draw(rng, 9, 5)
    z = x.numpy() - x.numpy().mean(1, keepdims=True)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    learned = LearnedSimilarity(
        torch.eye(5).double(), torch.from_numpy(z.mean(0)), prepare="correlation"
    )
    np.testing.assert_allclose(learned(x).numpy(), cosines(z - z.mean(0)), atol=1e-12)


@pytest.mark.parametrize("similarity", ["correlation", "cosine"])
def test_what_starts_to_train_is_the_similarity_itself(similarity, rng):
    x = draw(rng, 9, 5)
    learned = LearnedSimilarity.trainable(5, 5, similarity=similarity)
    torch.testing.assert_close(learned(x), similarity_matrix(x, similarity=similarity))
    assert learned.weight.requires_grad
    assert learned.prepare == similarity
    assert learned.similarity.name == "cosine"
    learned = LearnedSimilarity.trainable(5, 5, similarity="l2")
    torch.testing.assert_close(learned(x), similarity_matrix(x, similarity="l2"))


def test_a_map_is_a_metric(rng):
    """f f' = p W W' p': only the product of the map with itself counts."""
    x, weight = draw(rng, 7, 4), draw(rng, 4, 3)
    rotation = torch.linalg.qr(draw(rng, 3, 3)).Q
    first, second = (LearnedSimilarity(w, prepare="cosine") for w in (weight, weight @ rotation))
    torch.testing.assert_close(first(x), second(x), atol=1e-12, rtol=0)
    torch.testing.assert_close(first.unit_weights(), second.unit_weights())
    p = x.numpy() / np.linalg.norm(x.numpy(), axis=1, keepdims=True)
    np.testing.assert_allclose(first(x).numpy(), cosines(p @ weight.numpy()), atol=1e-12)
    squares = np.square(weight.numpy()).sum(1)
    np.testing.assert_allclose(first.unit_weights(), squares / squares.mean(), atol=1e-12)


units = arrays(np.float64, (6, 4), elements=st.floats(-5, 5)).filter(
    lambda x: np.ptp(x, 1).min() > 0.1 and np.abs(x).max(1).min() > 0.1
)


@given(units, arrays(np.float64, 6, elements=st.floats(-5, 5)), st.floats(0.1, 10))
def test_prepared_patterns_know_no_constant_and_no_length(x, constants, factor):
    """As a correlation: a number per stimulus and a factor leave the mapped RSM as it is."""
    weight = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(4, 3).cos()
    changed = torch.from_numpy(x * factor + constants[:, None])
    x = torch.from_numpy(x)
    correlation = LearnedSimilarity(weight, torch.full((3,), 0.2).double(), prepare="correlation")
    torch.testing.assert_close(correlation.features(changed), correlation.features(x))
    cosine = LearnedSimilarity(weight, prepare="cosine")
    torch.testing.assert_close(cosine.features(x * factor), cosine.features(x))


def test_batches_types_and_gradients(rng):
    x, weight = draw(rng, 3, 6, 4), draw(rng, 4, 2)
    learned = LearnedSimilarity(weight, prepare="correlation")
    each = torch.stack([learned(one) for one in x])
    torch.testing.assert_close(learned(x), each, atol=1e-12, rtol=0)
    assert learned(x.float()).dtype == torch.float32
    torch.testing.assert_close(learned(x.float()).double(), each, atol=1e-5, rtol=0)
    assert not learned.weight.requires_grad
    weight.requires_grad_()
    trainable = LearnedSimilarity(weight, prepare="cosine", similarity="dot")

    def rsm(units, of_map):
        units = units / units.norm(dim=-1, keepdim=True)
        return (units @ of_map) @ (units @ of_map).mT / 2

    own = x[0].clone().requires_grad_()
    found = torch.autograd.grad(trainable(own).square().sum(), [own, trainable.weight])
    expected = torch.autograd.grad(rsm(own, weight).square().sum(), [own, weight])
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_zeros_have_finite_gradients():
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0]], requires_grad=True)
    unit_length(x).sum().backward()
    assert unit_length(x)[0].tolist() == pytest.approx([0.6, 0.8])
    assert unit_length(x)[1].tolist() == [0.0, 0.0]
    assert x.grad.isfinite().all()


def test_a_similarity_of_ones_own(rng):
    def closeness(a, b):
        return -(a[:, None] - b[None]).abs().sum(-1)

    x, weight = draw(rng, 6, 4), draw(rng, 4, 2)
    learned = LearnedSimilarity(weight, similarity=closeness)
    torch.testing.assert_close(learned(x), closeness(x @ weight, x @ weight))
    assert similarity_of_features(closeness) is closeness
    assert similarity_of_features("correlation") == "cosine"
    assert similarity_of_features("l2") == "l2"
    assert repr(learned) == "LearnedSimilarity(n_units=4, n_features=2, similarity='closeness')"


def test_prepared_units_by_hand():
    x = torch.tensor([[1.0, 3.0], [4.0, 0.0]])
    half = 0.5**0.5
    expected = torch.tensor([[-half, half], [half, -half]])
    torch.testing.assert_close(prepare_units(x, "correlation"), expected)
    torch.testing.assert_close(prepare_units(x, "cosine")[1], torch.tensor([1.0, 0.0]))
    assert prepare_units(x, "l2") is x


def test_state_is_kept(rng):
    maps = [LearnedSimilarity(draw(rng, 4, 2), draw(rng, 2)) for _ in range(2)]
    several = LearnedSimilarities(maps)
    assert several.each() == maps
    other = LearnedSimilarities([LearnedSimilarity(torch.zeros(4, 2).double()) for _ in maps])
    other.load_state_dict(several.state_dict())
    x = draw(rng, 5, 4)
    for a, b in zip(several.each(), other.each(), strict=True):
        torch.testing.assert_close(a(x), b(x))


def test_what_cannot_be_a_map_is_refused(rng):
    with pytest.raises(ShapeError, match=r"`weight` must be .* got \(4,\) and none"):
        LearnedSimilarity(torch.ones(4))
    with pytest.raises(ShapeError, match=r"got \(4, 2\) and \(3,\)"):
        LearnedSimilarity(torch.ones(4, 2), torch.ones(3))
    with pytest.raises(DataError, match=r"`prepare` must be .* got 'l2'"):
        LearnedSimilarity(torch.ones(4, 2), prepare="l2")
    with pytest.raises(DTypeError, match="weight"):
        LearnedSimilarity(torch.ones(4, 2, dtype=torch.int64))
    with pytest.raises(ShapeError, match="reads 4 units, got 3"):
        LearnedSimilarity(torch.ones(4, 2))(draw(rng, 5, 3))
