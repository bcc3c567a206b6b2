"""Alignment as a loss: values from its parts, gradients, look-up by id, and a trained network."""

import numpy as np
import pytest
import torch
import xarray as xr
from sklearn.datasets import load_digits
from torch import nn

from softrsa.alignment import Aligner, AlignmentLoss, FitSettings
from softrsa.errors import DataError, FitError, ShapeError, StimulusError, UnknownNameError
from softrsa.measures import available, centered_pearson, debiased_cka, linear_cka, pearson
from softrsa.pairs import off_diagonal
from softrsa.rsm import SIMILARITIES, similarity_matrix
from softrsa.rsm.scaling import Scaling
from softrsa.transforms import (
    EmbeddingGate,
    GeoTopological,
    GlobalGate,
    LearnedSimilarity,
    ProfileGate,
    SoftStep,
    double_center,
)
from softrsa.transforms.on_rsms import SoftGate

DIFFERENTIABLE = [name for name, entry in available().items() if entry.differentiable]


def draw(rng, *shape):
    return torch.randn(*shape, dtype=torch.float64, generator=rng)


@pytest.fixture
def recordings(rng):
    """Two subjects and two regions, 12 stimuli."""
    return xr.DataArray(
        draw(rng, 12, 20).numpy(),
        dims=("stimulus", "unit"),
        coords={
            "stimulus": [f"s{i}" for i in range(12)],
            "region": ("unit", ["V4.L"] * 10 + ["IT"] * 10),
            "subject": ("unit", ["a", "b"] * 10),
        },
    )


@pytest.mark.parametrize("measure", DIFFERENTIABLE)
def test_every_differentiable_measure(measure, rng):
    x, y = draw(rng, 2, 9, 4)
    loss = AlignmentLoss(measure=measure)
    x.requires_grad_()
    value = loss(x, y)
    if measure == "linear_cka":
        assert value.item() == pytest.approx(1 - linear_cka(x, y).item(), abs=1e-12)
    if measure == "pearson":
        rsms = (similarity_matrix(z) for z in (x, y))
        expected = 1 - pearson(*map(off_diagonal, rsms)).item()
        assert value.item() == pytest.approx(expected, abs=1e-12)
    assert loss(y, y).item() == pytest.approx(0, abs=1e-3 if measure == "soft_spearman" else 1e-6)
    (grad,) = torch.autograd.grad(value, x)
    assert grad.isfinite().all()
    assert grad.norm() > 0


def test_what_has_no_gradient_is_refused():
    with pytest.raises(DataError, match=r"'spearman' is none: .*linear_cka"):
        AlignmentLoss(measure="spearman")


@pytest.mark.parametrize("gate", [GlobalGate(), ProfileGate(3), EmbeddingGate(4)])
def test_gradients_reach_network_and_gates(gate, rng):
    x, y = draw(rng, 2, 6, 4)
    loss = AlignmentLoss(model_transform=SoftStep(gate), brain_transform=double_center).double()
    network = nn.Linear(4, 4).double()
    with torch.no_grad():
        gate.bias.normal_(generator=rng)
    parameters = [*network.parameters(), *loss.parameters()]

    def value(weight, bias):
        return loss(torch.tanh(x @ weight.T + bias), y)

    weights = [p.detach().clone().requires_grad_() for p in network.parameters()]
    assert torch.autograd.gradcheck(value, weights)
    loss(torch.tanh(network(x)), y).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in parameters)
    assert gate.bias.grad.norm() > 0


def test_frozen_transforms_stay(rng):
    x, y = draw(rng, 2, 8, 4)
    step = SoftStep(ProfileGate(3)).requires_grad_(False)
    loss = AlignmentLoss(model_transform=step).double()
    assert not [p for p in loss.parameters() if p.requires_grad]
    assert loss(x.requires_grad_(), y).requires_grad


def test_transforms_are_those_of_an_aligner_and_of_rdms(rng):
    x, y = draw(rng, 2, 12, 4)
    aligner = Aligner("geo_topological").fit(x, y)
    loss = AlignmentLoss(
        model_transform=aligner.model_transform_, brain_transform=aligner.brain_transform_
    )
    assert 1 - loss(x, y).item() == pytest.approx(aligner.score(x, y), abs=1e-12)
    gt = AlignmentLoss(model_transform=GeoTopological(0.2, 0.7, "trsa"))
    first = 1 - GeoTopological(0.2, 0.7, "trsa")(1 - similarity_matrix(x))
    expected = centered_pearson(first, similarity_matrix(y))
    assert 1 - gt(x, y).item() == pytest.approx(expected.item(), abs=1e-12)


def test_penalty_is_added(rng):
    x, y = draw(rng, 2, 8, 4)
    step = SoftStep(GlobalGate())
    with torch.no_grad():
        step.gate.bias.fill_(1.0)
    values = [
        AlignmentLoss(model_transform=step, brain_transform=step, penalty=p).double()(x, y).item()
        for p in (0.0, 0.1)
    ]
    assert values[1] - values[0] == pytest.approx(0.3, abs=1e-6)  # three offsets, shared step


def test_look_up_by_stimulus_id_equals_the_batch_itself(recordings, rng):
    loss = AlignmentLoss(recordings, measure="debiased_cka")
    features = {"l1": draw(rng, 5, 3), "l2": draw(rng, 5, 4)}
    ids = ["s7", "s2", "s11", "s0", "s4"]
    found = loss(features, stimuli=ids)
    by_hand = []
    for layer in features.values():
        for region in ("V4.L", "IT"):
            part = recordings.isel(unit=recordings["region"].values == region).sel(stimulus=ids)
            for subject in ("a", "b"):
                one = torch.from_numpy(part.values[:, part["subject"].values == subject])
                by_hand.append(1 - debiased_cka(layer, one).item())
    assert found.item() == pytest.approx(np.mean(by_hand), abs=1e-12)


def test_weights_choose_pairs(recordings, rng):
    features = {"l1": draw(rng, 12, 3), "l2": draw(rng, 12, 4)}
    ids = list(recordings["stimulus"].values)
    one, two = (
        AlignmentLoss(recordings, weights={pair: 1.0})(features, stimuli=ids).item()
        for pair in (("l1", "IT"), ("l2", "V4.L"))
    )
    both = AlignmentLoss(recordings, weights={("l1", "IT"): 3.0, ("l2", "V4.L"): 1.0})
    assert both(features, stimuli=ids).item() == pytest.approx((3 * one + two) / 4, abs=1e-12)
    with pytest.raises(UnknownNameError, match=r"region of `weights` 'V5'\. .*V4\.L, IT"):
        AlignmentLoss(recordings, weights={("l1", "V5"): 1.0})(features, stimuli=ids)
    with pytest.raises(DataError, match=r"`weights` must be above 0, got \{\('l1', 'IT'\): 0"):
        AlignmentLoss(recordings, weights={("l1", "IT"): 0})


def test_rdm_blocks_equal_their_recordings(recordings, rng):
    it = recordings.isel(unit=recordings["region"].values == "IT").drop_vars("subject")
    rdm = 1 - similarity_matrix(torch.from_numpy(it.values))
    stack = xr.DataArray(
        rdm.numpy(),
        dims=("anchor", "neighbor"),
        coords={"anchor": it["stimulus"].values, "neighbor": it["stimulus"].values},
        attrs={"kind": "rdm"},
    )
    x, ids = draw(rng, 6, 3), ["s3", "s1", "s8", "s5", "s9", "s10"]
    places = [int(i[1:]) for i in ids]
    expected = AlignmentLoss({"IT": it})(x, stimuli=ids).item()
    assert AlignmentLoss(stack)(x, stimuli=ids).item() == pytest.approx(expected, abs=1e-12)
    block = rdm[places][:, places]
    assert AlignmentLoss()(x, block).item() == pytest.approx(expected, abs=1e-12)
    assert AlignmentLoss()(x, 1 - block).item() == pytest.approx(expected, abs=1e-12)
    with pytest.raises(DataError, match="'linear_cka' compares features, and RDMs"):
        AlignmentLoss(measure="linear_cka")(x, block)


def test_mixed_precision_is_compared_in_float32(rng):
    x, y = draw(rng, 2, 8, 4).to(torch.bfloat16)
    for measure in ("centered_pearson", "linear_cka"):
        loss = AlignmentLoss(measure=measure)(x, y.float())
        assert loss.dtype == torch.float32
        assert loss.item() == AlignmentLoss(measure=measure)(x.float(), y.float()).item()


def test_mistakes_are_named(recordings, rng):
    loss = AlignmentLoss(recordings)
    x = draw(rng, 4, 3)
    with pytest.raises(StimulusError, match=r"'V4\.L' has no recordings of the stimuli \['s99'\]"):
        loss(x, stimuli=["s1", "s2", "s3", "s99"])
    with pytest.raises(StimulusError, match=r"each stimulus once.*\['s1'\]"):
        loss(x, stimuli=["s1", "s2", "s1", "s3"])
    with pytest.raises(
        StimulusError, match=r"stimuli \[1, 2\].*ids are such as \['s0', 's1', 's2'\]"
    ):
        loss(x[:2], stimuli=[1, 2])
    with pytest.raises(DataError, match="must be an instance, got the class SoftStep"):
        AlignmentLoss(model_transform=SoftStep)
    with pytest.raises(DataError, match="got neither"):
        loss(x)
    with pytest.raises(DataError, match="got both"):
        loss(x, x, stimuli=["s1"])
    with pytest.raises(DataError, match=r"AlignmentLoss\(brain, \.\.\.\)"):
        AlignmentLoss()(x, stimuli=["s1"])
    with pytest.raises(ShapeError, match=r"'model' 4, 'V4\.L' 3, 'IT' 3"):
        loss(x, stimuli=["s1", "s2", "s3"])
    with pytest.raises(
        ShapeError, match=r"'centered_pearson' needs batches of at least 4 .*'model' 3"
    ):
        loss(x[:3], stimuli=["s1", "s2", "s3"])
    x[2] = 0.5
    with pytest.raises(FitError, match=r"layer 'model' are not finite, for stimuli \[2\]"):
        loss(x, stimuli=["s1", "s2", "s3", "s4"])
    y = draw(rng, 4, 3)
    for measure in ("pearson", "linear_cka"):
        bad = y.clone()
        bad[1] = torch.nan
        with pytest.raises(
            FitError, match=f"'{measure}' of layer 'model' and region 'brain' is nan"
        ):
            AlignmentLoss(measure=measure)(y, bad)
    with pytest.raises(FitError, match="'nbs' of layer 'model' and region 'brain' is nan"):
        AlignmentLoss(measure="nbs")(torch.zeros_like(y), y)
    with pytest.raises(DataError, match="'nbs' compares features, and transforms change RSMs"):
        AlignmentLoss(measure="nbs", model_transform=double_center)


def test_moves_with_its_module_but_is_not_saved(recordings):
    loss = AlignmentLoss(recordings, model_transform=SoftStep(GlobalGate()))
    assert set(loss.state_dict()) == {
        "model_transform.step.gate.bias", "model_transform.step.gate.identity_logits"
    }  # fmt: skip
    moved = loss.to("meta")
    assert {b.device.type for b in moved.buffers()} == {"meta"}


class Digits(nn.Module):
    """Two layers on 8 x 8 images."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, 32), nn.Tanh())
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        features = self.body(x)
        return features, self.head(features)


def train(weight):
    """Train on digits; recordings are noisy random rectified projections of the images."""
    rng = torch.Generator().manual_seed(1)
    images, labels = (torch.from_numpy(a) for a in load_digits(return_X_y=True))
    x, y = images[:1000].float() / 16, labels[:1000]
    neurons = torch.relu(x @ torch.randn(64, 60, generator=rng) - 1)
    neurons += 0.2 * torch.randn(neurons.shape, generator=rng)
    train, test = torch.arange(700), torch.arange(700, 1000)
    torch.manual_seed(0)
    network, alignment = Digits(), AlignmentLoss(neurons[train])
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(15):
        for batch in torch.randperm(700, generator=rng).split(100):
            features, logits = network(x[train[batch]])
            loss = nn.functional.cross_entropy(logits, y[train[batch]])
            if weight:
                loss = loss + weight * alignment(features, stimuli=batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        features, logits = network(x[test])
        held_out = 1 - AlignmentLoss()(features, neurons[test]).item()
    return held_out, (logits.argmax(1) == y[test]).float().mean().item()


def test_a_network_trained_with_it_is_more_alike_on_new_stimuli():
    (before, accuracy), (after, accuracy_beside) = train(0.0), train(3.0)
    assert after > before + 0.05, (before, after)
    assert min(accuracy, accuracy_beside) > 0.85, (accuracy, accuracy_beside)


def test_rdms_of_any_scale_give_the_same_loss(rng):
    """RDMs that are not known to be correlations scale by their least and largest value."""
    features, x = torch.randn(2, 12, 6, generator=rng, dtype=torch.float64)
    rdm = torch.cdist(x, x)
    losses = [
        AlignmentLoss(brain_transform=SoftStep(GlobalGate()))(features, rdm * by).item()
        for by in (1, 1e-3, 1e4)
    ]
    assert losses == pytest.approx([losses[0]] * 3, abs=1e-9)


def test_recordings_and_rdms_as_subjects_of_one_region(rng):
    features, x = torch.randn(2, 12, 6, generator=rng, dtype=torch.float64)
    rdm = 1 - torch.corrcoef(x)
    one, both = (AlignmentLoss(brain)(features, stimuli=range(12)) for brain in ([x], [x, rdm]))
    torch.testing.assert_close(one, both, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bad", [torch.nan, 1.0])
def test_recordings_that_say_nothing_are_refused_at_once(bad, rng):
    x = torch.randn(12, 6, generator=rng, dtype=torch.float64)
    x[3] = bad
    with pytest.raises(DataError, match=r"'IT' has similarities .*subject 0, stimuli at \[3\]"):
        AlignmentLoss({"IT": x})


@pytest.mark.parametrize(
    "similarity", sorted({*SIMILARITIES} - {"mahalanobis"})
)  # needs a precision
def test_recordings_to_look_up_by_any_similarity(similarity, rng):
    x = torch.randn(12, 6, generator=rng, dtype=torch.float64)
    loss = AlignmentLoss(x, similarity=similarity)(x, stimuli=range(12))
    assert loss.item() == pytest.approx(0, abs=1e-12)


def test_recordings_are_the_losss_own(rng):
    features, x = torch.randn(2, 12, 6, generator=rng, dtype=torch.float64)
    loss = AlignmentLoss(x)
    before = loss(features, stimuli=range(12)).item()
    x.zero_()
    assert loss(features, stimuli=range(12)).item() == before


def test_a_similarity_of_ones_own(rng):
    features, x = torch.randn(2, 12, 6, generator=rng, dtype=torch.float64)
    loss = AlignmentLoss(similarity=lambda a, b: a @ b.mT)(features, x)
    expected = 1 - centered_pearson(features @ features.mT, x @ x.mT)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-12)


def test_scales_that_were_learned_are_kept(rng):
    """A transform of an Aligner's brings its own numbers, also to RDMs of unknown origin."""
    features, x = torch.randn(2, 12, 6, generator=rng, dtype=torch.float64)
    rdm = torch.cdist(x, x)
    gate = SoftGate(SoftStep(GlobalGate()), Scaling.fit(1 - rdm[None], "minmax"), symmetrize=True)
    some = slice(0, 8)
    found = AlignmentLoss(brain_transform=gate)(features[some], rdm[some, some])
    expected = centered_pearson(torch.corrcoef(features[some]), gate(1 - rdm[None])[0, some, some])
    assert found.item() == pytest.approx(1 - expected.item(), abs=1e-9)


def known_metric(rng, n=60, p=8):
    """Units, and two subjects that read them by a map in which the smallest count most."""
    scale = torch.logspace(0, -1, p, dtype=torch.float64)
    x = draw(rng, n, p) * scale
    brain = [x / scale**2 @ draw(rng, p, 12) + 0.3 * draw(rng, n, 12) for _ in range(2)]
    return x, brain


@pytest.mark.parametrize("measure", ["centered_pearson", "linear_cka"])
def test_gradients_reach_network_and_map(measure, rng):
    x, y = draw(rng, 2, 7, 4)
    network = nn.Linear(4, 4).double()
    learned = LearnedSimilarity.trainable(4, 3, similarity="correlation").double()
    loss = AlignmentLoss(measure=measure, model_similarity=learned).double()

    def value(weight, bias, of_map):
        features = torch.tanh(x @ weight.T + bias)
        features = (features - features.mean(1, keepdim=True)) @ of_map
        if measure == "linear_cka":
            length = torch.tanh(x @ weight.T + bias)
            length = (length - length.mean(1, keepdim=True)).norm(dim=1, keepdim=True)
            return 1 - linear_cka(features / length, y)
        own = torch.nn.functional.normalize(features, dim=1)
        return 1 - centered_pearson(own @ own.mT, similarity_matrix(y))

    found = loss(torch.tanh(network(x)), y)
    parameters = [network.weight, network.bias, learned.weight]
    expected = value(*parameters)
    assert found.item() == pytest.approx(expected.item(), abs=1e-12)
    by_hand = torch.autograd.grad(expected, parameters)
    for own, other in zip(torch.autograd.grad(found, parameters), by_hand, strict=True):
        torch.testing.assert_close(own, other, atol=1e-10, rtol=0)
        assert own.norm() > 0


@pytest.mark.parametrize("transform", ["reweighted", "metric", "encoding", "metric+global"])
def test_fitted_map_gives_the_score_of_its_aligner(transform, rng):
    x, brain = known_metric(rng)
    parts = x[:40], [y[:40] for y in brain]
    aligner = Aligner(transform, settings=FitSettings(map_steps=(5,), steps=(5,))).fit(*parts)
    loss = AlignmentLoss(
        model_similarity=aligner.model_similarity_, model_transform=aligner.model_transform_,
        brain_transform=aligner.brain_transform_, penalty=0.0,
    )  # fmt: skip
    assert not [p for p in loss.parameters() if p.requires_grad]
    new, stack = x[40:].requires_grad_(), torch.stack([y[40:] for y in brain])
    found = loss(new, stack)
    assert 1 - found.item() == pytest.approx(aligner.score(x[40:], list(stack)), abs=1e-12)
    (grad,) = torch.autograd.grad(found, new)
    assert grad.norm() > 0


def test_fitted_map_serves_measures_on_features(rng):
    x, brain = known_metric(rng)
    parts = x[:40], [y[:40] for y in brain]
    settings = FitSettings(map_steps=(5,))
    aligner = Aligner("metric", measure="linear_cka", settings=settings).fit(*parts)
    loss = AlignmentLoss(measure="linear_cka", model_similarity=aligner.model_similarity_)
    stack = torch.stack([y[40:] for y in brain])
    expected = aligner.score(x[40:], list(stack))
    assert 1 - loss(x[40:], stack).item() == pytest.approx(expected, abs=1e-12)


def test_any_module_makes_features(rng):
    x, y = draw(rng, 2, 9, 4)
    linear = nn.Linear(4, 3, bias=False).double()
    for measure in ("pearson", "linear_cka"):
        found = AlignmentLoss(measure=measure, model_similarity=linear)(x, y)
        assert found.item() == AlignmentLoss(measure=measure)(linear(x), y).item()
    untouched = Aligner("identity").fit(x, y).model_similarity_
    assert untouched is None
    assert AlignmentLoss(model_similarity=untouched)(x, y).item() == AlignmentLoss()(x, y).item()


def test_similarities_that_do_not_fit_are_refused(rng):
    x, brain = known_metric(rng)
    with pytest.raises(DataError, match="module from units to features, got the class Linear"):
        AlignmentLoss(model_similarity=nn.Linear)
    with pytest.raises(DataError, match=r"got 'metric' \(str\): give a fitted"):
        AlignmentLoss(model_similarity="metric")
    learned = LearnedSimilarity.trainable(8, 3, similarity="cosine")
    with pytest.raises(ShapeError, match="reads 8 units, and layer 'conv' has 7"):
        AlignmentLoss(model_similarity=learned)({"conv": x[:, :7]}, brain[0])
    with pytest.raises(ShapeError, match=r"shape \(60, n_features\) of layer 'model', got \(8,\)"):
        AlignmentLoss(model_similarity=Mean())(x, brain[0])
    encoding = Aligner("encoding").fit(x, brain).model_similarity_
    with pytest.raises(DataError, match=r"has 2 maps.* region 'V4' has 3 subjects"):
        AlignmentLoss(model_similarity=encoding)(x, {"V4": torch.stack([*brain, brain[0]])})


class Mean(nn.Module):
    """A module that keeps no stimuli."""

    def forward(self, x):
        return x.mean(0)
