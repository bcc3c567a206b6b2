"""An Aligner that fits in tiles finds what one with whole RSMs finds."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr

from softrsa import Aligner
from softrsa.alignment import FitSettings, aligner
from softrsa.alignment.descent import Problem, _TiledFit, is_degenerate
from softrsa.alignment.fitting import Task, fit_transforms, make_plan
from softrsa.alignment.responses import as_tiled, rsm_bytes
from softrsa.errors import DataError, DTypeError, ShapeError, StimulusError
from softrsa.measures import get
from softrsa.rsm import similarity_matrix
from softrsa.tiled import tiles
from softrsa.tiled.scores import lay_out
from softrsa.transforms.on_rsms import TRANSFORMS, as_chain

CPU = torch.device("cpu")
# of gates of single stimuli in tiles
pytestmark = pytest.mark.filterwarnings(
    "ignore:In tiles gates:softrsa.alignment.StimulusScaleWarning"
)
SHORT = FitSettings(steps=(4,), inner_folds=2, keep_stimuli=False)
SETTINGS = FitSettings(steps=(4, 12), inner_folds=2, keep_stimuli=False)


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    monkeypatch.setitem(tiles.TILE_SIZE, "cpu", 32)
    monkeypatch.setattr(tiles, "TILE_SIZE_OF_THREADS", 1)


@pytest.fixture(scope="module")
def data():
    """A warped brain of two subjects: something for gates to learn."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(120, 6, generator=generator)
    model = z @ torch.randn(6, 20, generator=generator)
    brain = [
        torch.tanh(z) @ torch.randn(6, 15, generator=generator)
        + 0.5 * torch.randn(120, 15, generator=generator)
        for _ in range(2)
    ]
    return model, brain


def halves(data):
    model, brain = data
    return (model[:80], [y[:80] for y in brain]), (model[80:], [y[80:] for y in brain])


CASES = [
    (transform, {}) for transform in ("identity", "centered", "global", "instance")
] + [
    ("instance", {"similarity": "l2"}),
    ("instance", {"settings": replace(SHORT, scaling="row_minmax")}),
    ("instance", {"settings": replace(SHORT, gates=("embedding",))}),
    ("instance", {"settings": replace(SHORT, family="s2")}),
    ("global", {"measure": "pearson"}),
]  # fmt: skip


@pytest.mark.parametrize(("transform", "options"), CASES)
def test_tiles_fit_and_score_as_whole_matrices_do(data, transform, options):
    train, test = halves(data)
    options = {"settings": SETTINGS, **options}
    whole = Aligner(transform, tiled=False, **options).fit(*train)
    tiled = Aligner(transform, tiled=True, **options).fit(*train)
    assert tiled.chosen_ == whole.chosen_
    assert (tiled.gate_, tiled.n_steps_) == (whole.gate_, whole.n_steps_)
    assert tiled.train_score_ == pytest.approx(whole.train_score_, abs=1e-4)
    assert tiled.score(*test) == pytest.approx(whole.score(*test), abs=1e-4)
    torch.testing.assert_close(
        tiled.inner_scores_.double(), whole.inner_scores_.double(), rtol=0, atol=1e-4
    )


def test_selected_chooses_among_what_tiles_can_do(data):
    train, _ = halves(data)
    tiled = Aligner("selected", settings=SETTINGS, tiled=True).fit(*train)
    sides = Aligner("selected", tiled=False)._sides(*train)
    plan = make_plan(get("centered_pearson"), *sides, SETTINGS, 0)
    task, names = Task(*sides, torch.arange(80)), [n for n in TRANSFORMS if TRANSFORMS[n].tiled]
    chains = [as_chain(name) for name in names]
    (whole,) = fit_transforms([task], chains, plan, on_step=lambda _: None)
    assert tiled.chosen_ == whole["selected"].chosen
    assert tiled.train_score_ == pytest.approx(whole["selected"].train_score, abs=1e-4)


def test_saved_and_loaded(data, tmp_path):
    train, test = halves(data)
    fitted = Aligner("instance", settings=SETTINGS, tiled=True, batch_size=40).fit(*train)
    fitted.save(tmp_path / "aligner.pt")
    loaded = Aligner.load(tmp_path / "aligner.pt")
    assert (loaded.tiled, loaded.batch_size) == (True, 40)
    assert loaded.score(*test) == fitted.score(*test)


def test_minibatches_are_drawn_by_seed_and_learn(data):
    generator = torch.Generator().manual_seed(0)
    model = torch.randn(120, 5, generator=generator)
    waves = 1.5 * torch.randn(5, 400, generator=generator)
    train = model, torch.cos(model @ waves)  # similar only where the model is very similar
    settings = FitSettings(steps=(12,), inner_folds=2, keep_stimuli=False)

    def fit(seed):
        return Aligner("global", settings=settings, batch_size=30, seed=seed).fit(*train)

    def parameters(fitted):
        return torch.cat([p.flatten() for p in fitted.model_transform_.parameters()])

    assert torch.equal(parameters(fit(0)), parameters(fit(0)))
    assert not torch.equal(parameters(fit(0)), parameters(fit(1)))
    plain = Aligner("identity", tiled=True).fit(*train)
    assert fit(0).train_score_ > plain.train_score_


def test_large_data_are_tiled_by_themselves(data, monkeypatch):
    train, _ = halves(data)
    assert rsm_bytes(*train) == 3 * 8 * 80**2
    assert not Aligner("global")._in_tiles(*train)
    monkeypatch.setattr(aligner, "TILED_FROM_BYTES", 3 * 8 * 80**2 - 1)
    assert Aligner("global")._in_tiles(*train)
    assert not Aligner("global", tiled=False)._in_tiles(*train)
    assert not Aligner("geo_topological")._in_tiles(*train)
    assert not Aligner("global", measure="spearman")._in_tiles(*train)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(aligner, "TILED_FROM_BYTES", 2**60)
    assert Aligner("global")._in_tiles(*train)


def test_labelled_data_are_joined_by_id(data):
    model, brain = data
    ids = [f"s{i}" for i in range(120)]
    order = torch.randperm(120, generator=torch.Generator().manual_seed(0))
    layers = xr.DataArray(model.numpy(), dims=("stimulus", "unit"), coords={"stimulus": ids})
    both = torch.cat(brain, 1)[order].numpy()
    recording = xr.DataArray(
        both,
        dims=("stimulus", "unit"),
        coords={
            "stimulus": [ids[i] for i in order],
            "subject": ("unit", np.repeat(["a", "b"], 15)),
        },
    )
    found = Aligner("identity", tiled=True).fit(layers, recording)
    assert found.train_score_ == pytest.approx(
        Aligner("identity", tiled=False).fit(model, brain).train_score_, abs=1e-6
    )
    stack = Aligner("identity", tiled=True).fit(model, torch.stack(brain))
    assert stack.train_score_ == pytest.approx(found.train_score_, abs=1e-6)


def test_number_types_may_differ(data):
    (model, brain), (new_model, new_brain) = halves(data)
    for transform in ("centered", "global"):
        mixed = Aligner(transform, settings=SETTINGS, tiled=True).fit(model.double(), brain)
        same = Aligner(transform, settings=SETTINGS, tiled=True).fit(model, brain)
        assert mixed.score(new_model.double(), new_brain) == pytest.approx(
            same.score(new_model, new_brain), abs=1e-5
        )


def test_fits_where_gradients_are_off(data):
    train, _ = halves(data)
    with torch.no_grad():
        found = Aligner("global", settings=SETTINGS, tiled=True).fit(*train)
    wanted = Aligner("global", settings=SETTINGS, tiled=True).fit(*train)
    assert found.train_score_ == wanted.train_score_


def test_stimuli_without_a_similarity_are_named_as_given(data):
    model = data[0].clone()
    model[100] = 1.0
    with pytest.raises(DataError, match=r"`model` must be finite.* 1 are not so: \[100\]"):
        Aligner("instance", settings=SETTINGS, tiled=True).fit(model, data[1])


@pytest.mark.parametrize("upper", [4.0, -8.0])
def test_collapse_is_seen_as_in_whole_matrices(data, upper):
    """With an upper bound far below all similarities everything becomes 1."""
    train, _ = halves(data)
    sides = [as_tiled(x, similarity="correlation", name="x", device=CPU) for x in train]
    plan = make_plan(get("centered_pearson"), *sides, SETTINGS, 0)
    n = sides[0].n_stimuli
    fit = _TiledFit(Problem(*sides, torch.arange(n), None, "profile", 0.0, 1), plan)
    with torch.no_grad():
        for transform in fit.transforms:
            transform.step.gate.bias.copy_(torch.tensor([-4.0, upper - 4.0, 0.0]))
    transforms = [fit.transforms[0], *[fit.transforms[1]] * (len(fit.training) - 1)]
    whole = []
    for placed, transform, x in zip(fit.training, transforms, [train[0], *train[1]], strict=True):
        rsm = similarity_matrix(x).float()
        whole.append(is_degenerate(transform.scale(rsm), transform(rsm, placed.anchors)))
    assert bool(fit._degenerate()) == bool(torch.stack(whole).any()) == (upper == -8.0)


def test_what_cannot_be_done_is_said(data):
    model, brain = data
    cases = [
        ({"transform": "geo_topological"}, DataError, "'geo_topological' needs whole matrices"),
        ({"measure": "spearman"}, DataError, "'spearman' is not made of sums over pairs"),
        ({"similarity": "rbf"}, DataError, "'rbf' needs a bandwidth"),
        ({"settings": FitSettings(scaling="rank")}, DataError, "scaling='rank' needs all pairs"),
        ({"batch_size": 2}, DataError, "`batch_size` must be at least 4, got 2"),
        ({"batch_size": 9.5}, DataError, "`batch_size` must be a whole number from 4, got 9.5"),
        ({"tiled": "yes"}, DataError, "`tiled` must be True, False or 'auto', got 'yes'"),
        ({"tiled": False, "batch_size": 9}, DataError, "leave `tiled` at 'auto'"),
    ]
    for options, error, message in cases:
        with pytest.raises(error, match=message):
            Aligner(**{"transform": "instance", "tiled": True, **options}).fit(model, brain)
    tiled = Aligner("identity", tiled=True)
    with pytest.raises(DataError, match="there already, as RDMs or RSMs"):
        tiled.fit(model, 1 - similarity_matrix(brain[0]))
    with pytest.raises(StimulusError, match=r"subjects with \[119, 120\] stimuli"):
        tiled.fit(model, [brain[0], brain[1][1:]])
    with pytest.raises(StimulusError, match="`model` has 120, `brain` 119"):
        tiled.fit(model, brain[0][1:])
    with pytest.raises(ShapeError, match=r"`brain` must be .* got shape \(120,\)"):
        tiled.fit(model, brain[0][:, 0])
    with pytest.raises(DTypeError, match="int64"):
        tiled.fit(model, brain[0].long())
    assert lay_out(model).n == 120
