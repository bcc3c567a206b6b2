"""What stands beside scores, in tiles: what it is in memory."""

import pytest
import torch

from softrsa.alignment import Aligner, tiled_noise_ceiling, tiled_scores
from softrsa.errors import DataError
from softrsa.measures import (
    balanced_pearson,
    centered_pearson,
    get,
    per_anchor_pearson,
    row_offset_share,
    stimulus_identification,
)
from softrsa.rsm import similarity_matrix
from softrsa.tiled import by_stimulus, tiles
from softrsa.transforms import EmbeddingGate, GlobalGate, SoftStep
from softrsa.transforms.on_rsms import Centered, SoftGate

BESIDE = {
    "score": centered_pearson,
    "row_offset_share": row_offset_share,
    "per_anchor_score": per_anchor_pearson,
    "balanced_score": balanced_pearson,
    "identification": stimulus_identification,
}


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    monkeypatch.setattr(tiles, "TILE_SIZE", {"cpu": 16})
    monkeypatch.setattr(tiles, "TILE_SIZE_OF_THREADS", 16)


def features(n=50, dtype=torch.float64):
    rng = torch.Generator().manual_seed(2)
    x, noise, other = torch.randn(3, n, 8, dtype=dtype, generator=rng)
    return x, [x + noise, other]


def same(found, expected, tolerance=1e-9):
    assert set(found) == set(expected)
    for name, value in found.items():
        torch.testing.assert_close(
            value, expected[name], rtol=0, atol=tolerance, msg=lambda m, name=name: f"{name}: {m}"
        )


@pytest.mark.parametrize("similarity", ["correlation", "dot", "l2"])
@pytest.mark.parametrize("threads", [1, 2])
def test_of_plain_rsms(similarity, threads):
    x, subjects = features()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = tiled_scores(x, subjects, similarity=similarity, beside=True)
    finally:
        torch.set_num_threads(before)
    one, *others = (similarity_matrix(z, similarity=similarity) for z in (x, *subjects))
    same(found, {name: f(one, torch.stack(others)) for name, f in BESIDE.items()})


@pytest.mark.parametrize("symmetrize", [True, False])
def test_of_transformed_rsms(symmetrize):
    x, subjects = features()
    step = SoftStep(EmbeddingGate(8).double())
    with torch.no_grad():
        for parameter in step.parameters():
            parameter.copy_(
                torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
            )
    gate = SoftGate(step, "affine", symmetrize=symmetrize)
    with torch.no_grad():
        found = tiled_scores(x, subjects, model_transform=gate, model_anchors=x, beside=True)
        one = gate(similarity_matrix(x), x)
    assert torch.equal(one, one.mT) == symmetrize
    others = torch.stack([similarity_matrix(z) for z in subjects])
    same(found, {name: f(one, others) for name, f in BESIDE.items()}, 1e-8)


def test_of_what_is_centered_nothing_is_offset():
    x, subjects = features()
    found = tiled_scores(x, subjects, model_transform=Centered(), beside=True)
    assert found["row_offset_share"].tolist() == [0, 0]
    plain = tiled_scores(x, subjects, beside=True)
    for name in ("score", "per_anchor_score", "balanced_score", "identification"):
        torch.testing.assert_close(found[name], plain[name])


def test_single_precision():
    x, subjects = features(dtype=torch.float32)
    found = tiled_scores(x, subjects, beside=True)
    expected = tiled_scores(x.double(), [y.double() for y in subjects], beside=True)
    assert {value.dtype for value in found.values()} == {torch.float32}
    same({k: v.double() for k, v in found.items()}, expected, 1e-5)


@pytest.mark.parametrize("name", ["balanced_pearson", "per_anchor_pearson"])
def test_as_the_measure_and_without_gradient_only(name):
    x, subjects = features()
    step = SoftStep(GlobalGate()).double()
    with torch.no_grad():
        found = tiled_scores(x, subjects, measure=name, model_transform=step)
        one = SoftGate(step, "affine", symmetrize=True)(similarity_matrix(x))
    others = torch.stack([similarity_matrix(y) for y in subjects])
    torch.testing.assert_close(found, get(name).between(one, others), rtol=0, atol=1e-9)
    with pytest.raises(DataError, match=rf"'{name}' has no gradient in tiles: score under"):
        tiled_scores(x, subjects, measure=name, model_transform=step)
    with pytest.raises(DataError, match=rf"cannot be fitted in tiles: '{name}' is not made of sum"):
        Aligner("global", measure=name, tiled=True).fit(x, subjects)
    with pytest.raises(DataError, match=r"by `tiled_scores` only, without gradient: here use cent"):
        tiled_noise_ceiling(subjects, measure=name)


def test_the_score_beside_keeps_its_gradient():
    x, subjects = features()
    step = SoftStep(GlobalGate()).double()
    found = tiled_scores(x, subjects, model_transform=step, beside=True)
    found["score"].sum().backward()
    assert step.gate.bias.grad.abs().max() > 0
    assert not any(found[name].requires_grad for name in set(BESIDE) - {"score"})


def test_many_are_identified_among_some(monkeypatch):
    x, subjects = features()
    monkeypatch.setattr(by_stimulus, "MOST_IDENTIFIED", 20)
    found = tiled_scores(x, subjects, beside=True)["identification"]
    drawn = [i * 50 // 20 for i in range(20)]
    one, *others = (similarity_matrix(z[drawn]) for z in (x, *subjects))
    expected = stimulus_identification(one, torch.stack(others))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_undefined_where_a_stimulus_says_nothing():
    """A stimulus that is as similar to all others as to any, whatever these are."""
    x, subjects = features(20)
    x[3] = 0
    found = tiled_scores(x, subjects, similarity="dot", beside=True)
    one = similarity_matrix(x, similarity="dot")
    others = torch.stack([similarity_matrix(y, similarity="dot") for y in subjects])
    same(found, {name: f(one, others) for name, f in BESIDE.items()})
    x = torch.zeros_like(x)
    x[:, 0] = 1
    nothing = tiled_scores(x, subjects, similarity="dot", beside=True)
    for name in set(BESIDE) - {"row_offset_share"}:
        assert nothing[name].isnan().all()
