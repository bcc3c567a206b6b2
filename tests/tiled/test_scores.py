"""Tiles give what whole matrices give: scores, ceilings and gradients."""

import multiprocessing
import warnings
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

from softrsa.alignment import tiled_noise_ceiling, tiled_scores
from softrsa.errors import (
    DataError,
    DTypeError,
    NoSecondDerivativeError,
    ShapeError,
    UnknownNameError,
)
from softrsa.inference import noise_ceiling
from softrsa.measures import get
from softrsa.rsm import scale_similarities, similarity_matrix
from softrsa.rsm.scaling import between
from softrsa.tiled import tiles
from softrsa.tiled.moments import moments
from softrsa.tiled.scaling import scale_of
from softrsa.tiled.scores import MEASURES, lay_out, prepare
from softrsa.tiled.tiles import TiledRSM, upper_tiles
from softrsa.transforms import EmbeddingGate, GlobalGate, ProfileGate, SoftStep
from softrsa.transforms.on_rsms import Centered, HardGT, SoftGate

N = 23
SIMILARITIES = {
    "correlation": None, "cosine": None, "dot": None, "l2": None, "l1": None, "sqeuclidean": None,
    "rbf": 3.0,
}  # fmt: skip
SCALINGS = {"correlation": ("affine", "row_minmax", "minmax"), "l2": ("row_minmax", "minmax")}
GATES = ("global", "embedding", "profile")


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Several tiles, the last of them narrower, from few stimuli."""
    monkeypatch.setitem(tiles.TILE_SIZE, "cpu", 8)
    monkeypatch.setattr(tiles, "TILE_SIZE_OF_THREADS", 1)


@pytest.fixture
def features():
    """A model and three subjects who see something of it, as float64."""
    generator = torch.Generator().manual_seed(0)
    model, *noise = torch.randn(4, N, 6, generator=generator, dtype=torch.float64)
    return model, [model + e for e in noise]


def warp(gate, *, family="s1", scaling="affine", symmetrize=True, seed=1):
    """A gate away from the identity, so that every entry of the transform matters."""
    made = {"global": GlobalGate, "profile": lambda: ProfileGate(4)}.get(
        gate, lambda: EmbeddingGate(2)
    )()
    step = SoftStep(made, family=family).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in step.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(noise)
        step.gate.bias += torch.tensor([2.0, -2.0, -2.0])
    return SoftGate(step, scaling, symmetrize)


def anchors_of(gate, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(N, 2, generator=generator).double() if gate == "embedding" else None


def plain(x, transform, anchors, **options):
    rsm = similarity_matrix(x, **options)
    return rsm if transform is None else transform(rsm, anchors)


def both(features, measure, gate, options, **how):
    """Scores in tiles and in one piece, with everything that gradients reach."""
    model, brain = features
    inputs = [x.clone().requires_grad_() for x in (model, *brain)]
    t_model, t_brain = (warp(gate, seed=s, **how) for s in (1, 2)) if gate else (None, None)
    anchors = [anchors_of(gate, seed) for seed in (3, 4)]
    found = tiled_scores(
        inputs[0], inputs[1:], measure=measure, model_transform=t_model, brain_transform=t_brain,
        model_anchors=anchors[0], brain_anchors=anchors[1], **options,
    )  # fmt: skip
    rsms = [
        plain(x, t, a, **options)
        for x, t, a in zip(
            inputs, [t_model, *[t_brain] * 3], [anchors[0], *[anchors[1]] * 3], strict=True
        )
    ]
    wanted = torch.stack([get(measure).between(rsms[0], rsm) for rsm in rsms[1:]])
    learned = [p for t in (t_model, t_brain) if t for p in t.parameters()]
    return found, wanted, [*inputs, *learned]


def assert_same(found, wanted, inputs, tolerance=1e-9):
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)
    weights = torch.tensor([1.0, -0.5, 2.0]).to(found)
    pairs = zip(
        torch.autograd.grad((found * weights).sum(), inputs),
        torch.autograd.grad((wanted * weights).sum(), inputs),
        strict=True,
    )
    for one, other in pairs:
        scale = other.abs().max()
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance * float(scale))


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("gate", [None, *GATES])
def test_scores_and_gradients_are_those_of_whole_matrices(features, measure, gate):
    assert_same(*both(features, measure, gate, {"similarity": "correlation"}))


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_every_similarity(features, similarity):
    bandwidth = SIMILARITIES[similarity]
    options = {"similarity": similarity} | ({"bandwidth": bandwidth} if bandwidth else {})
    scaling = "affine" if similarity in ("correlation", "cosine", "rbf") else "row_minmax"
    assert_same(*both(features, "centered_pearson", "profile", options, scaling=scaling))
    assert_same(*both(features, "pearson", None, options))


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(n=st.integers(4, 30), size=st.integers(2, 33), seed=st.integers(0, 2**32 - 1))
def test_tiles_are_symmetric_and_their_ends_exact(similarity, dtype, n, size, seed):
    """Whatever is a row's least or largest similarity there is scaled to exactly 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 5, generator=generator, dtype=dtype)
    rsm = lay_out(x, similarity=similarity, bandwidth=SIMILARITIES[similarity], kept_bytes=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tiles.TILE_SIZE, "cpu", size)
        scale = scale_of(rsm, "row_minmax")
        square = torch.full((n, n), torch.nan, dtype=dtype)
        for tile in upper_tiles(n, size):
            s = rsm.read(tile, x.new_empty(tile.shape))
            assert not tile.on_diagonal or torch.equal(s, s.mT)
            square[tile.rows, tile.columns] = s
            square[tile.columns, tile.rows] = s.mT
    columns = (end.unsqueeze(-1) for end in scale)
    scaled = between(square, *columns)
    itself = torch.eye(n, dtype=torch.bool)
    whole = similarity_matrix(x, similarity=similarity, bandwidth=SIMILARITIES[similarity])
    wanted = scale_similarities(whole, "row_minmax")
    for end in (0.0, 1.0):
        at_end = (scaled == end) & ~itself
        assert at_end.any(1).all()
        assert torch.equal(at_end, (wanted == end) & ~itself)


@pytest.mark.parametrize("symmetrize", [True, False])
@pytest.mark.parametrize("family", ["s1", "s2"])
@pytest.mark.parametrize(
    ("similarity", "scaling"), [(s, how) for s, many in SCALINGS.items() for how in many]
)
def test_every_scaling_family_and_side(features, similarity, scaling, family, symmetrize):
    how = {"scaling": scaling, "family": family, "symmetrize": symmetrize}
    assert_same(*both(features, "centered_pearson", "embedding", {"similarity": similarity}, **how))


def test_one_side_symmetric_and_the_other_not(features):
    model, (brain, *_) = features
    transform = warp("embedding", symmetrize=False)
    x = model.clone().requires_grad_()
    found = tiled_scores(
        x,
        brain,
        measure="pearson",
        model_transform=transform,
        model_anchors=anchors_of("embedding", 3),
    )
    rsms = plain(x, transform, anchors_of("embedding", 3)), similarity_matrix(brain)
    wanted = get("pearson").between(*rsms)
    torch.testing.assert_close(found[0], wanted)
    for one, other in zip(
        torch.autograd.grad(found[0], [x, *transform.parameters()]),
        torch.autograd.grad(wanted, [x, *transform.parameters()]),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("size", [4, 64])
def test_gradcheck_whatever_the_tile(features, size, monkeypatch):
    monkeypatch.setitem(tiles.TILE_SIZE, "cpu", size)
    model, (brain, *_) = features
    transform = warp("embedding", scaling="row_minmax", symmetrize=False)

    def score(x, y, z):
        return tiled_scores(x, y, measure="pearson", model_transform=transform, model_anchors=z)

    inputs = [x[:10].clone() for x in (model, brain, anchors_of("embedding", 3))]
    assert gradcheck(score, [x.requires_grad_() for x in inputs])


@given(st.integers(4, 40), st.integers(1, 45), st.randoms(use_true_random=False))
def test_tiles_cover_each_pair_once(n, size, random):
    """However tiles are cut and stimuli ordered, sums are those over all pairs."""
    order = torch.tensor(random.sample(range(n), n))
    x = torch.randn(n, 3, dtype=torch.float64)
    rsm = similarity_matrix(x[order]).fill_diagonal_(0.0)
    side = prepare(lay_out(x[order]), None, None, "pearson")
    found = moments([side.transformed], [(0, 0)], size=size)
    torch.testing.assert_close(found.rows[0], rsm.sum(1))
    torch.testing.assert_close(found.columns[0], rsm.sum(0))
    torch.testing.assert_close(found.products[0], rsm.square().sum())
    assert sum(h * w for h, w in (t.shape for t in upper_tiles(n, size))) >= n * (n + 1) / 2


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("kept", [0, 2**28])
def test_threads_and_kept_tiles_change_nothing(features, threads, kept, monkeypatch):
    monkeypatch.setattr(tiles, "KEPT_BYTES", kept)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        how = {"scaling": "row_minmax"}
        assert_same(*both(features, "pearson", "profile", {"similarity": "l2"}, **how))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("n", [4, 8, 9, 17, 24])
def test_tiles_of_any_width_even_one(n, monkeypatch):
    """Of 8: one too few, whole, and one stimulus in the last."""
    generator = torch.Generator().manual_seed(n)
    x, e = torch.randn(2, n, 5, generator=generator, dtype=torch.float64)
    for family in ("s1", "s2"):
        for symmetrize in (True, False):
            transform = warp("global", family=family, scaling="affine", symmetrize=symmetrize)
            inputs = [x.clone().requires_grad_(), *transform.parameters()]
            found = tiled_scores(inputs[0], x + e, model_transform=transform)[0]
            rsms = transform(similarity_matrix(inputs[0])), similarity_matrix(x + e)
            wanted = get("centered_pearson").between(*rsms)
            torch.testing.assert_close(found, wanted)
            for one, other in zip(
                torch.autograd.grad(found, inputs), torch.autograd.grad(wanted, inputs), strict=True
            ):
                torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)


def test_tiles_of_another_size_are_not_taken_for_kept_ones(monkeypatch):
    x, y = torch.randn(2, 24, 5, generator=torch.Generator().manual_seed(0))
    rsm = lay_out(x)
    monkeypatch.setitem(tiles.TILE_SIZE, "cpu", 16)  # whose last block is 8 wide
    first = tiled_scores(rsm, y)
    monkeypatch.setitem(tiles.TILE_SIZE, "cpu", 8)
    torch.testing.assert_close(tiled_scores(rsm, y), first)


def test_number_types_that_differ_meet_in_the_wider_one(features):
    model, brain = features
    found = tiled_scores(model, [brain[0].float(), *brain[1:]])
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, tiled_scores(model, brain), rtol=1e-6, atol=0)
    with pytest.raises(DTypeError, match=r"`model` torch.float32, `brain` torch.float64"):
        tiled_scores(lay_out(model.float()), lay_out(brain[0]))


def test_forked_processes_work(features):
    """The threads of the parent are not there, and must not be waited for."""
    model, (brain, *_) = features
    wanted = tiled_scores(model, brain)
    context = multiprocessing.get_context("fork")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            found = pool.submit(tiled_scores, model, brain).result(timeout=60)
    torch.testing.assert_close(found, wanted)


def test_float32_is_as_exact_as_sums_of_float32_can_be():
    """Against float64 throughout: scores to 1e-6, gradients to 3e-5 of the largest."""
    x, e = torch.randn(2, 300, 20, generator=torch.Generator().manual_seed(0))
    results = []
    for kind in (torch.float32, torch.float64):
        model, transform = (
            x.to(kind).clone().requires_grad_(),
            warp("profile", scaling="row_minmax"),
        )
        score = tiled_scores(
            model, (x + e).to(kind), model_transform=transform, brain_transform=transform
        )
        inputs = [model, *transform.parameters()]
        results.append((score, torch.autograd.grad(score[0], inputs)))
    (low, low_grads), (high, high_grads) = results
    assert low.dtype == torch.float32
    assert float((low - high).detach().abs()) < 1e-6
    for one, other in zip(low_grads, high_grads, strict=True):
        assert float((one - other).abs().max()) < 3e-5 * float(other.abs().max())


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("transform", [None, Centered(), warp("global")])
def test_noise_ceilings(features, measure, transform):
    _, brain = features
    if isinstance(transform, Centered) and measure == "whitened_cosine":
        pytest.skip("a centered RSM holds no dissimilarities")
    found = tiled_noise_ceiling(brain, measure=measure, transform=transform)
    rsms = torch.stack([similarity_matrix(x) for x in brain])
    wanted = noise_ceiling(rsms if transform is None else transform(rsms), measure)
    torch.testing.assert_close(found.lower, wanted.lower)
    torch.testing.assert_close(found.upper, wanted.upper)


@pytest.mark.parametrize("measure", ["centered_pearson", "pearson", "cosine", "whitened_pearson"])
def test_centered_sides(features, measure):
    model, (brain, *_) = features
    rsms = [similarity_matrix(x) for x in (model, brain)]
    for sides in ((Centered(), None), (Centered(), Centered()), (None, Centered())):
        found = tiled_scores(
            model, brain, measure=measure, model_transform=sides[0], brain_transform=sides[1]
        )
        pair = [r if t is None else t(r) for r, t in zip(rsms, sides, strict=True)]
        torch.testing.assert_close(found[0], get(measure).between(*pair))


def test_undefined_scores_are_nan(features):
    model, (brain, *_) = features
    same = torch.randn(1, 6, dtype=torch.float64).expand(N, 6)
    assert tiled_scores(model, same, measure="pearson").isnan().all()
    orthogonal = torch.eye(N, dtype=torch.float64)
    assert tiled_scores(orthogonal, brain).isnan().all()


def test_second_derivatives_are_refused(features):
    model, (brain, *_) = features
    x = model.clone().requires_grad_()
    with pytest.raises(NoSecondDerivativeError):
        torch.autograd.grad(tiled_scores(x, brain).sum(), x, create_graph=True)


BAD = {
    "measure": ({"measure": "spearman"}, DataError, "'spearman' is not made of sums over pairs"),
    "unknown measure": ({"measure": "perason"}, UnknownNameError, "pearson"),
    "similarity": ({"similarity": "mahalanobis"}, UnknownNameError, "mahalanobis"),
    "median": ({"similarity": "rbf"}, DataError, "needs a `bandwidth`"),
    "thresholds": ({"model_transform": HardGT(0.1, 0.9)}, DataError, "HardGT needs all pairs"),
    "ranks": ({"model_transform": warp("global", scaling="rank")}, DataError, "row_minmax"),
    "affine": (
        {"model_transform": warp("global", scaling="affine"), "similarity": "l2"},
        DataError, r"in \[-1, 1\], got one of size",
    ),
    "anchors": ({"model_transform": warp("embedding")}, DataError, "pass `anchors`"),
    "too few anchors": (
        {"model_transform": warp("embedding"), "model_anchors": torch.ones(5, 2)},
        ShapeError, "must be 23 anchors, one per stimulus, got 5",
    ),
    "own similarities": (
        {"measure": "whitened_cosine", "similarity": "dot"}, DataError, "equally similar to them",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_done_is_said(features, case):
    options, error, message = BAD[case]
    with pytest.raises(error, match=message):
        tiled_scores(features[0], features[1], **options)


def test_data_that_cannot_be_used(features):
    model, brain = features
    with pytest.raises(ShapeError, match=r"got \[23, 22\]"):
        tiled_scores(model, brain[0][1:])
    with pytest.raises(ShapeError, match=r"at least 4 .* got \[3, 3\]"):
        tiled_scores(model[:3], brain[0][:3])
    with pytest.raises(DTypeError, match="float16"):
        tiled_scores(model.half(), brain[0])
    with pytest.raises(ShapeError, match=r"`brain\[1\]` must be .* got shape \(6,\)"):
        tiled_scores(model, [brain[0], brain[0][0]])
    with pytest.raises(ShapeError, match="`brain` is an empty list"):
        tiled_scores(model, [])
    constant = model.clone()
    constant[[4, 7]] = 2.0
    with pytest.raises(DataError, match=r"2 are not so: \[4, 7\]"):
        tiled_scores(constant, brain)
    with pytest.raises(DataError, match=r"All similarities of row 0 are -1.41421.*23 such"):
        tiled_scores(
            torch.eye(N),
            brain[0].float(),
            similarity="l2",
            model_transform=warp("global", scaling="row_minmax"),
        )
    with pytest.raises(ShapeError, match="at least 2 subjects, got 1"):
        tiled_noise_ceiling(brain[:1])


def test_kept_tiles_stay_within_their_room(features):
    rsm = TiledRSM(lay_out(features[0]).source, kept_bytes=3 * 8 * 8 * 8)
    tiled_scores(rsm, features[1])
    assert sum(t.numel() * t.itemsize for t in rsm._kept.values()) <= 3 * 8 * 8 * 8
    assert len(rsm._kept) == 3


def test_autocast_multiplies_in_its_type(features):
    model, brain = features[0].float(), [x.float() for x in features[1]]
    exact = tiled_scores(model, brain)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = tiled_scores(model, brain)
        wide = tiled_scores(features[0], features[1])
    torch.testing.assert_close(wide, tiled_scores(*features), rtol=0, atol=0)  # float64 stays so
    assert rough.dtype == torch.float32
    assert 0 < float((rough - exact).abs().max()) < 0.02
