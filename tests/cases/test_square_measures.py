"""Measures on square RSMs, wherever a measure can be given."""

import pytest
import torch

from softrsa.alignment import Aligner, AlignmentLoss, FitSettings, align
from softrsa.errors import DataError
from softrsa.measures import available, get, linear_cka
from softrsa.rsm import similarity_matrix
from softrsa.synthesis import optimize_to_score
from softrsa.transforms import GlobalGate, SoftStep

SQUARE = [name for name, m in available().items() if m.on_squares and m.embed is None]
DIFFERENTIABLE = [name for name in SQUARE if get(name).differentiable]
# a fold of 10 stimuli has 2 neighbors of each, of which unrelated RSMs share a quarter or fewer
OF_NEIGHBORS = {"mutual_knn": 2 / 9, "neighbor_jaccard": 1 / 8, "cknna": 2 / 9}
QUICK = FitSettings(
    steps=(3,), inner_folds=2, n_quantiles=3, n_components=2, penalties=(1e-2,), grid=3,
)  # fmt: skip


@pytest.fixture(scope="module")
def sides():
    rng = torch.Generator().manual_seed(3)
    x = torch.randn(20, 6, dtype=torch.float64, generator=rng)
    return x, [x + 0.7 * torch.randn(20, 6, dtype=torch.float64, generator=rng) for _ in range(2)]


def between(name, x, y):
    return get(name).between(*(similarity_matrix(z) for z in (x, y))).item()


@pytest.mark.parametrize("name", SQUARE)
def test_align(name, sides):
    model, brain = sides
    transforms = ["identity", "geo_topological", "global"]
    options = {"transforms": transforms, "folds": 2, "settings": QUICK, "progress": False}
    table = align({"model": model}, {"V4": brain}, measure=name, **options).table
    table = table.set_index("transform")
    assert set(transforms) <= set(table.index)
    assert table[["score", "score_se", "ceiling_lower", "ceiling_upper"]].notna().to_numpy().all()
    least = 0.6 if get(name).range[0] == 0 else 0.2
    if name in OF_NEIGHBORS:
        least = 0.15 + OF_NEIGHBORS[name]
    assert (table["score"] > least).all()


@pytest.mark.parametrize("name", SQUARE)
def test_aligner_scores_what_it_transforms(name, sides):
    model, brain = sides
    aligner = Aligner("global", measure=name, settings=QUICK).fit(model, brain)
    one, others = aligner.transform_model(model), aligner.transform_brain(brain)
    found = get(name).between(torch.as_tensor(one), torch.as_tensor(others)).mean().item()
    assert aligner.score(model, brain) == pytest.approx(found, abs=1e-6)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_a_loss_and_its_gradient(name, sides):
    model, brain = sides
    features = model.float().requires_grad_()
    step = SoftStep(GlobalGate())
    loss = AlignmentLoss(measure=name)(features, brain[0].float())
    assert loss.item() == pytest.approx(1 - between(name, model, brain[0]), abs=1e-4)
    AlignmentLoss(measure=name, model_transform=step)(features, brain[0].float()).backward()
    for grad in (features.grad, step.gate.bias.grad):
        assert grad.isfinite().all()
        assert grad.abs().max() > 1e-7


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_data_optimized_to_it(name, sides):
    result = optimize_to_score(sides[0].numpy(), name, target=0.9, max_steps=300, n_restarts=2)
    assert (result.scores[-1] >= 0.9).all()
    found = result.recorded[-1, 0]
    assert between(name, sides[0], found) == pytest.approx(result.scores[-1, 0].item(), abs=1e-9)


def test_a_share_cannot_be_optimized(sides):
    with pytest.raises(DataError, match="'stimulus_identification' passes no gradient"):
        optimize_to_score(sides[0].numpy(), "stimulus_identification", target=0.9)
    with pytest.raises(DataError, match="needs a differentiable measure"):
        AlignmentLoss(measure="stimulus_identification")


def test_inner_products_in_a_loss_are_linear_cka(sides):
    model, brain = sides
    loss = AlignmentLoss(measure="kernel_cka", similarity="dot")(model, brain[0])
    assert loss.item() == pytest.approx(1 - linear_cka(model, brain[0]).item(), abs=1e-12)
