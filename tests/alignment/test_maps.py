"""Learned similarity in align and Aligner: outside values, known truth, and what may not leak."""

import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr
from sklearn.linear_model import RidgeCV

from softrsa.alignment import (
    Aligner,
    AlignmentResult,
    FitSettings,
    Split,
    StimulusScaleWarning,
    align,
    random_splits,
)
from softrsa.alignment.maps import (
    Components,
    described,
    is_learnable,
    is_poolable,
    place_points,
    pooled,
    unit_maps,
)
from softrsa.alignment.responses import as_responses
from softrsa.errors import DataError, UnknownNameError
from softrsa.measures import (
    Measure,
    balanced_pearson,
    centered_pearson,
    get,
    linear_cka,
    stimulus_identification,
)
from softrsa.measures.predictivity import RELATIVE_STRENGTHS, held_out_predictivity
from softrsa.rsm import similarity_matrix
from softrsa.transforms import double_center, soft_step
from softrsa.transforms.learned_similarity import prepare_units

CPU = torch.device("cpu")
QUICK = FitSettings(
    map_sizes=(4, 20), map_penalties=(1e-3, 1e-1), map_steps=(5, 10, 20), inner_folds=2,
    gates=("profile",), n_quantiles=3, steps=(5, 10), grid=3,
)  # fmt: skip
SMALL = replace(
    QUICK, map_sizes=(20,), map_penalties=(1e-3,), map_steps=(5, 10), steps=(5,), grid=2
)
MAPS = ["reweighted", "metric", "encoding"]
pytestmark = pytest.mark.filterwarnings("ignore::softrsa.alignment.StimulusScaleWarning")


def draw(rng, *shape):
    return torch.randn(*shape, dtype=torch.float64, generator=rng)


def known(rng, n=150, p=12, q=30, noise=0.3, n_subjects=1, *, prepared=False):
    """Units whose smallest components count most to a brain, the signal, and noisy subjects.

    Those ``prepared`` have the form that correlations compare, so that a map is all there is.
    """
    spread = torch.logspace(0, -0.7, p, dtype=torch.float64)
    units = (draw(rng, n, p) * spread) @ torch.linalg.qr(draw(rng, p, p)).Q
    units = prepare_units(units, "correlation") if prepared else units
    to_components = torch.linalg.svd(units, full_matrices=False)[2].mT / spread
    to_components = to_components[:, : p - prepared]
    signals = [units @ to_components @ draw(rng, p - prepared, q) for _ in range(n_subjects)]
    brain = [signal + noise * signal.std() * draw(rng, n, q) for signal in signals]
    return units, signals, brain


def one_split(n, n_train):
    return random_splits(n, n_train, 1, seed=0)


def table(result):
    return result.table.set_index("transform")


def run(units, brain, transforms, folds, **options):
    given = {"settings": QUICK, "n_resamples": 0, **options}
    return align({"layer": units}, {"region": brain}, transforms=transforms, folds=folds, **given)


def by_hand_points(units):
    """Centered patterns of length 1."""
    z = units.numpy() - units.numpy().mean(1, keepdims=True)
    return z / np.linalg.norm(z, axis=1, keepdims=True)


# values from outside


@pytest.mark.parametrize("similarity", ["correlation", "cosine", "dot"])
@pytest.mark.parametrize("shape", [(9, 5), (9, 40)])
def test_points_have_the_similarities_as_products(similarity, shape, rng):
    side = as_responses(draw(rng, *shape), similarity=similarity, name="x", device=CPU)
    points = place_points(side)
    torch.testing.assert_close(points @ points.mT, side.rsms[0], atol=1e-9, rtol=0)


@pytest.mark.parametrize("shape", [(9, 5), (9, 40)])
def test_other_points_have_the_products_of_centered_units(shape, rng):
    x = draw(rng, *shape)
    side = as_responses(x, similarity="l2", name="x", device=CPU)
    raw = replace(as_responses(x, similarity="correlation", name="x", device=CPU), raw=True)
    deviations = x.numpy() - x.numpy().mean(0)
    expected = deviations @ deviations.T
    for points in (place_points(side), place_points(raw)):
        np.testing.assert_allclose(points @ points.mT, expected, atol=1e-10)


def test_rdms_of_correlations_have_points_and_others_none(rng):
    x = draw(rng, 9, 5)
    rsm = np.corrcoef(x)
    ids = list("abcdefghi")
    stack = xr.DataArray(
        rsm, dims=("anchor", "neighbor"), coords={"anchor": ids, "neighbor": ids},
        attrs={"kind": "rsm", "similarity": "correlation"},
    )  # fmt: skip
    side = as_responses(stack, similarity="correlation", name="x", device=CPU)
    assert is_learnable(side)
    np.testing.assert_allclose(place_points(side) @ place_points(side).mT, rsm, atol=1e-9)
    assert not is_learnable(
        as_responses(stack.assign_attrs(similarity=""), similarity="dot", name="x", device=CPU)
    )


def test_components_are_those_of_numpy(rng):
    points = draw(rng, 20, 6)
    found = Components.fit(points)
    _, singular, right = torch.linalg.svd(points - points.mean(0), full_matrices=False)
    np.testing.assert_allclose(found.variances, singular**2 / (singular**2).sum(), atol=1e-12)
    aligned = found.directions.numpy().T @ right.numpy().T
    np.testing.assert_allclose(np.abs(aligned / aligned.max()), np.eye(6), atol=1e-9)
    scores = found.project(points)
    assert scores.square().sum().item() == pytest.approx(20)
    torch.testing.assert_close(found.first(2).project(points), scores[:, :2])
    shuffled = torch.randperm(20, generator=rng)
    again = Components.fit(points[shuffled])
    torch.testing.assert_close(again.directions, found.directions, atol=1e-9, rtol=0)


def test_an_untouched_map_is_the_identity(rng):
    components = Components.fit(draw(rng, 20, 6))
    found = described(components, torch.eye(6, dtype=torch.float64))
    variances = components.variances
    assert found.distance == pytest.approx(0, abs=1e-7)
    assert found.weights.tolist() == pytest.approx([1] * 6)
    expected = variances.sum().square() / variances.square().sum()
    assert found.effective_dimension == pytest.approx(float(expected))
    one = torch.zeros(6, 6, dtype=torch.float64)
    one[2, 0] = 3.0
    found = described(components, one)
    assert found.effective_dimension == pytest.approx(1)
    assert found.distance == pytest.approx((1 - 1 / 6) ** 0.5)
    assert found.weights.tolist() == pytest.approx([0, 0, 6, 0, 0, 0])


def ridge_prediction(points, y, train):
    """scikit-learn's, each unit with its own strength of the same choices."""
    x = points[train] - points[train].mean(0)
    strengths = RELATIVE_STRENGTHS.numpy() * np.square(x).sum() / min(len(x) - 1, rank_of(x))
    model = RidgeCV(strengths, alpha_per_target=True).fit(points[train], y[train])
    return model.predict(points)


def rank_of(x):
    return np.linalg.matrix_rank(x)


@pytest.mark.parametrize("form", ["float64", "float32", "wide"])
def test_encoding_is_ridge_regression_of_scikit_learn(form, rng):
    units, _, (brain,) = known(rng, n=60)
    if form == "wide":
        units = units @ draw(rng, 12, 200)
    (split,) = one_split(60, 40)
    predicted = ridge_prediction(units.numpy(), brain.numpy(), split.train.numpy())
    rsm = np.corrcoef(predicted[split.test])
    given = (units.float(), brain.float()) if form == "float32" else (units, brain)
    exact = 1e-4 if form == "float32" else 1e-7
    aligner = Aligner("encoding").fit(*(one[split.train] for one in given))
    np.testing.assert_allclose(aligner.transform_model(given[0][split.test]), rsm, atol=exact)
    expected = centered_pearson(torch.from_numpy(rsm), torch.corrcoef(brain[split.test])).item()
    found = table(run(*given, ["encoding"], [split]))
    assert found["score"]["encoding"] == pytest.approx(expected, abs=exact)


def test_encoding_of_several_subjects(rng):
    """Each by its own prediction; who was left out, by the mean of the others' RSMs."""
    units, _, brain = known(rng, n=60, n_subjects=3)
    (split,) = one_split(60, 40)
    points, test = units.numpy(), split.test
    rsms = [
        torch.from_numpy(
            np.corrcoef(ridge_prediction(points, one.numpy(), split.train.numpy())[test])
        )
        for one in brain
    ]
    theirs = [torch.corrcoef(one[test]) for one in brain]
    pooled = [centered_pearson(a, b).item() for a, b in zip(rsms, theirs, strict=True)]
    result = run(units, brain, ["encoding"], [split])
    assert table(result)["score"]["encoding"] == pytest.approx(np.mean(pooled), abs=1e-7)
    result = run(units, brain, ["encoding"], [split], subjects="leave_one_out")
    found = result.data["score"].sel(transform="encoding").squeeze().values
    for i in range(3):
        others = torch.stack([rsms[j] for j in range(3) if j != i]).mean(0)
        expected = centered_pearson(others, theirs[i]).item()
        assert found[i] == pytest.approx(expected, abs=1e-7)
    aligner = Aligner("encoding").fit(units[split.train], [one[split.train] for one in brain])
    new = [one[test] for one in brain]
    assert aligner.score(units[test], new) == pytest.approx(np.mean(pooled), abs=1e-7)
    np.testing.assert_allclose(aligner.transform_model(units[test]), torch.stack(rsms), atol=1e-7)
    assert len(aligner.model_similarity_) == 3
    everyone = torch.stack(rsms).mean(0)
    expected = np.mean([centered_pearson(everyone, one).item() for one in theirs[:2]])
    fewer = aligner.fitted_.transformed(
        as_responses(units[test], similarity="correlation", name="m", device=CPU),
        replace(
            as_responses(new[:2], similarity="correlation", name="b", device=CPU),
            subjects=("new", "newer"),
        ),
    )
    assert centered_pearson(*fewer).mean().item() == pytest.approx(expected, abs=1e-7)


# the same in Aligner as in align, whatever the form of the data


@pytest.mark.parametrize("similarity", ["correlation", "cosine", "dot", "l2", "own"])
@pytest.mark.parametrize("wide", [False, True])
def test_maps_of_units_are_those_of_points(similarity, wide, rng):
    def own(a, b):
        return -(torch.cdist(a, b) ** 1.5)

    similarity = own if similarity == "own" else similarity
    units, _, (brain,) = known(rng, n=40, p=6, q=8)
    units = units @ draw(rng, 6, 50) + 0.2 if wide else units + 0.2
    side = as_responses(units, similarity=similarity, name="x", device=CPU)
    side = replace(side, source=units)
    side = replace(side, points=place_points(side))
    (split,) = one_split(40, 25)
    settings = replace(SMALL, map_steps=(5,))
    for transform in MAPS:
        result = run(units, brain, transform, [split], similarity=similarity, settings=settings)
        parts = units[split.train], brain[split.train]
        aligner = Aligner(transform, similarity=similarity, settings=settings).fit(*parts)
        found = aligner.score(units[split.test], brain[split.test])
        assert found == pytest.approx(table(result)["score"][transform], abs=1e-9)
    weight = torch.randn(side.points.shape[1], 3, dtype=torch.float64, generator=rng)
    of_points = torch.nn.ModuleList([_as_learned(weight, similarity)])
    (of_units,) = unit_maps(side, _Several(of_points))
    torch.testing.assert_close(of_units(units), of_points[0](side.points), atol=1e-9, rtol=1e-9)


def _as_learned(weight, similarity):
    from softrsa.transforms import LearnedSimilarity

    return LearnedSimilarity(weight, torch.full((3,), 0.1).double(), similarity=similarity)


class _Several(torch.nn.Module):
    """As `LearnedSimilarities`."""

    def __init__(self, maps):
        super().__init__()
        self.maps = maps

    def each(self):
        return [*self.maps]


@pytest.mark.parametrize("transform", MAPS)
def test_labels_types_and_rotations_change_nothing(transform, rng, label):
    """Of cosines: a rotation of units leaves them as they are."""
    units, _, (brain,) = known(rng, n=60)
    ids = [f"s{i:02}" for i in range(60)]
    folds = one_split(60, 40)
    first = run(
        label(units, ids), label(brain, ids), transform, folds, similarity="cosine", settings=SMALL
    )
    order = torch.randperm(60, generator=rng)
    shuffled = label(brain[order], [ids[i] for i in order])
    rotation = torch.linalg.qr(draw(rng, 12, 12)).Q
    options = {"similarity": "cosine", "settings": SMALL}
    for layer, region, exact in (
        (label(units, ids), shuffled, 1e-12),
        (label(units @ rotation, ids), label(brain, ids), 1e-7),
        (units.numpy(), brain.numpy(), 1e-12),
        (units.float(), brain, 1e-3),
    ):
        again = run(layer, region, transform, folds, **options)
        assert table(again)["score"][transform] == pytest.approx(
            table(first)["score"][transform], abs=exact
        )


def test_maps_are_saved_without_pickle(rng, tmp_path):
    units, _, brain = known(rng, n=60, n_subjects=2)
    for transform in [*MAPS, "metric+global"]:
        aligner = Aligner(transform, settings=SMALL).fit(units[:40], [b[:40] for b in brain])
        aligner.save(tmp_path / "aligner.pt")
        torch.load(tmp_path / "aligner.pt", weights_only=True)
        loaded = Aligner.load(tmp_path / "aligner.pt")
        new = units[40:], [b[40:] for b in brain]
        assert loaded.score(*new) == aligner.score(*new)
        assert loaded.scores(*new) == aligner.scores(*new)
        assert torch.equal(loaded.transform_model(new[0]), aligner.transform_model(new[0]))
        described, saved = (one.fitted_.description for one in (aligner, loaded))
        assert torch.equal(saved.weights, described.weights)
        assert saved.effective_dimension == described.effective_dimension


def test_a_similarity_of_ones_own_is_saved_by_name(rng, tmp_path):
    def closeness(a, b):
        return -(torch.cdist(a, b) ** 1.5)

    units, _, (brain,) = known(rng, n=60)
    aligner = Aligner("metric", similarity=closeness, settings=QUICK).fit(units[:40], brain[:40])
    assert aligner.model_similarity_ is not None
    aligner.save(tmp_path / "aligner.pt")
    loaded = Aligner.load(tmp_path / "aligner.pt", similarity=closeness)
    new = units[40:], brain[40:]
    assert loaded.score(*new) == aligner.score(*new)


def test_results_are_kept_in_files(rng, tmp_path, label):
    units, _, (brain,) = known(rng, n=60)
    layer = label(units, layer=["fc"] * 12).assign_coords(unit=[f"u{i}" for i in range(12)])
    options = {"transforms": ["metric", "encoding"], "settings": SMALL, "n_resamples": 0}
    result = align(layer, {"V4": brain}, folds=one_split(60, 40), **options)
    result.to_netcdf(tmp_path / "result.nc")
    again = AlignmentResult.from_netcdf(tmp_path / "result.nc")
    xr.testing.assert_identical(again.unit_weights("fc", "V4"), result.unit_weights("fc", "V4"))
    assert again.table.equals(result.table)
    weights = result.unit_weights("fc", "V4", transform="encoding")
    assert [*weights["name"].values] == [f"u{i}" for i in range(12)]
    assert float(weights.mean()) == pytest.approx(1, abs=1e-5)
    np.testing.assert_array_equal(again.data["component_weight"], result.data["component_weight"])
    with pytest.raises(UnknownNameError, match="learned similarity"):
        result.unit_weights("fc", "V4", transform="reweighted")
    with pytest.raises(UnknownNameError, match="layer with weights"):
        result.unit_weights("conv", "V4")


def test_a_large_mean_of_units_hides_nothing(rng):
    """Only differences between stimuli matter to maps of units as they are."""
    units, _, (brain,) = known(rng, n=60)
    folds = one_split(60, 40)
    shifted = units + 100 * units.std() * torch.arange(1.0, 13.0, dtype=torch.float64)
    options = {"similarity": "l2", "settings": SMALL}
    first, second = (run(x, brain, MAPS, folds, **options) for x in (units, shifted))
    np.testing.assert_allclose(table(second)["score"], table(first)["score"], atol=1e-5)
    parts = shifted[folds[0].train], brain[folds[0].train]
    aligner = Aligner("metric", **options).fit(*parts)
    found = aligner.score(shifted[folds[0].test], brain[folds[0].test])
    assert found == pytest.approx(table(second)["score"]["metric"], abs=1e-5)


def test_weights_of_units_are_rows_of_the_map(rng):
    units, _, (brain,) = known(rng, n=60)
    folds = one_split(60, 40)
    result = run(units, brain, ["encoding"], folds)
    learned = run(units, brain, ["encoding"], folds).unit_weights(
        "layer", "region", transform="encoding"
    )
    x, train = units.numpy(), folds[0].train.numpy()
    z = x[train] - x[train].mean(0)
    strengths = RELATIVE_STRENGTHS.numpy() * np.square(z).sum() / rank_of(z)
    fit = RidgeCV(strengths, alpha_per_target=True).fit(x[train], brain.numpy()[train])
    rows = np.square(fit.coef_).sum(0)
    np.testing.assert_allclose(learned, rows / rows.mean(), atol=1e-5)
    assert table(result)["distance_from_identity"]["encoding"] <= 1
    plain = run(units, brain, ["centered"], folds)
    with pytest.raises(DataError, match="has no weights of units"):
        plain.unit_weights("layer", "region")


# truth that is known


def oracle_score(signal, brain, test, measure=centered_pearson):
    return measure(torch.corrcoef(signal[test]), torch.corrcoef(brain[test])).item()


def test_a_known_metric_is_recovered(rng):
    units, (signal,), (brain,) = known(rng, n=240, prepared=True)
    folds = one_split(240, 170)
    settings = replace(SMALL, map_sizes=(50,), map_penalties=(1e-4,), map_steps=(20, 40, 80))
    found = table(
        run(units, brain, ["centered", "metric", "encoding", "selected"], folds, settings=settings)
    )
    oracle = oracle_score(signal, brain, folds[0].test)
    assert found["score"]["metric"] >= 0.97 * oracle
    assert found["score"]["encoding"] >= 0.97 * oracle
    assert found["score"]["selected"] >= 0.97 * oracle
    assert found["gain"]["metric"] > 0.1
    for name, measure in (
        ("balanced_score", balanced_pearson), ("identification", stimulus_identification),
    ):  # fmt: skip
        best = oracle_score(signal, brain, folds[0].test, measure)
        assert found[name]["metric"] >= 0.97 * best


def test_a_known_warp_is_recovered(rng):
    units = draw(rng, 90, 10)
    similarities = similarity_matrix(units)
    truth = soft_step((1 + similarities) / 2, *torch.tensor([0.5, 0.7, 0.3]).double())
    noise = draw(rng, 90, 90)
    brain = truth + 0.1 * truth.std() * (noise + noise.mT)
    brain = brain.fill_diagonal_(1.0)
    folds = one_split(90, 60)
    settings = replace(SMALL, sides="model", steps=(40, 80, 160))
    found = table(run(units, brain, ["global", "metric+global"], folds, settings=settings))
    test = folds[0].test
    oracle = centered_pearson(truth[test][:, test], brain[test][:, test]).item()
    assert found["score"]["global"] >= 0.97 * oracle
    assert found["score"]["metric+global"] >= 0.96 * oracle
    assert found["gain"]["global"] > 0.01


@pytest.mark.parametrize("control", ["nothing", "permuted"])
def test_nothing_is_found_where_there_is_nothing(control, rng):
    units, _, (brain,) = known(rng, n=120)
    if control == "nothing":
        brain = draw(rng, *brain.shape)
    folds = random_splits(120, 80, 3, seed=0)
    found = table(run(units, brain, MAPS, folds, permute=control == "permuted", settings=SMALL))
    assert found["score"].abs().max() < 0.05
    assert found["balanced_score"].abs().max() < 0.06
    # one split of 40 stimuli has a standard error of .046, by ranks that are uniform
    assert (found["identification"] - 0.5).max() < 0.1


def test_a_factor_per_stimulus_is_no_gain(rng):
    units = draw(rng, 90, 8) * torch.logspace(0, -0.5, 8, dtype=torch.float64)
    factor = (0.7 * units[:, 0]).exp()
    geometry = double_center(similarity_matrix(units + 0.5 * draw(rng, 90, 8)))
    brain = geometry * factor.outer(factor)
    ids = [str(i) for i in range(90)]
    stack = xr.DataArray(
        (brain / brain.abs().max()).fill_diagonal_(1.0)[None],
        dims=("subject", "anchor", "neighbor"),
        coords={"subject": ["a"], "anchor": ids, "neighbor": ids}, attrs={"kind": "rsm"},
    )  # fmt: skip
    layer = xr.DataArray(units, dims=("stimulus", "unit"), coords={"stimulus": ids})
    with warnings.catch_warnings():
        warnings.simplefilter("error", StimulusScaleWarning)
        found = table(
            run(
                layer, stack, ["centered", "instance", "metric", "selected"], one_split(90, 60),
                settings=replace(SMALL, steps=(20, 40)),
            )
        )  # fmt: skip
    best = found["balanced_score"]["centered"]
    assert (found["balanced_score"] < best + 0.02).all()


def test_a_gain_by_a_factor_per_stimulus_is_named(rng):
    """One component is all that both sides share: gates that read it agree on how large it is."""
    shared = 1.5 * draw(rng, 120, 1)
    units, brain = (torch.cat([shared, draw(rng, 120, 20)], 1) for _ in range(2))
    free = FitSettings(
        gate_measure=None, keep_stimuli=False, gates=("embedding",), n_components=1, grid=3,
        inner_folds=2, steps=(20, 40),
    )  # fmt: skip
    folds = random_splits(120, 80, 2, seed=0)
    with pytest.warns(StimulusScaleWarning, match="1 of 1 gains under 'centered_pearson'"):
        result = run(units, brain, ["instance"], folds, settings=free)
    found = table(result).loc["instance"]
    assert found["gain"] > 0.01
    (message,) = [one for one in result.warnings if "stimulus-scale shortcut" in one]
    assert f"layer / region / instance gains {found['gain']:+.3f}" in message


@pytest.mark.parametrize("transform", [*MAPS, "metric+global", "selected"])
def test_held_out_stimuli_change_no_map(transform, rng):
    """Other responses, and other brain responses, of test stimuli: the same fit."""
    units, _, brain = known(rng, n=40, p=6, q=8, n_subjects=2)
    folds = one_split(40, 26)
    test = folds[0].test
    changed_brain, changed_units = [one.clone() for one in brain], units.clone()
    for one in changed_brain:
        one[test] = draw(rng, *one[test].shape)
    changed_units[test] = draw(rng, *units[test].shape)
    first = run(units, brain, [transform], folds, settings=SMALL)
    for layer, region, exact in (
        (units, changed_brain, 0), (changed_units, brain, 1e-9),
    ):  # fmt: skip
        again = run(layer, region, [transform], folds, settings=SMALL)
        for name in ("train_score", "map_size", "map_penalty", "map_steps", "penalty", "n_steps"):
            np.testing.assert_allclose(again.data[name], first.data[name], atol=exact, rtol=0)
        weights = (one.data["component_weight"] for one in (again, first))
        np.testing.assert_allclose(*weights, atol=max(exact * 100, 1e-12), rtol=0)
        assert (again.data["chosen"] == first.data["chosen"]).all()
        assert abs(table(again)["score"] - table(first)["score"]).max() > 0.01


# measures on features, and other measures of RSMs


FEATURES = ["linear_cka", "nbs", "angular_procrustes", "procrustes_distance", "ridge_predictivity"]


@pytest.mark.parametrize("measure", FEATURES)
def test_measures_on_features_learn_too(measure, rng):
    units, _, brain = known(rng, n=80, p=8, q=10, n_subjects=2)
    folds = one_split(80, 56)
    settings = replace(SMALL, map_steps=(20,))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        result = run(
            units, brain, ["identity", "metric", "encoding"], folds, measure=measure,
            settings=settings,
        )  # fmt: skip
    found = table(result)
    (split,) = folds
    row = get(measure)
    plain = [score_by_hand(row, units, one, split) for one in brain]
    assert found["score"]["identity"] == pytest.approx(np.mean(plain), abs=1e-8)
    if measure != "ridge_predictivity":  # which fits such a map itself
        assert found["gain"]["metric"] > 0.01
        assert found["gain"]["encoding"] > 0.01
    if measure == "ridge_predictivity":
        assert found["score"]["metric"] >= found["score"]["identity"] - 0.01
        return
    for transform in ("metric", "encoding"):
        aligner = Aligner(transform, measure=measure, settings=settings)
        aligner.fit(units[split.train], [one[split.train] for one in brain])
        assert aligner.train_score_ == pytest.approx(found["train_score"][transform], abs=1e-6)
        learned = aligner.model_similarity_
        maps = [learned] * 2 if transform == "metric" else learned.each()
        expected = [
            score_by_hand(row, one.features(units), own, split)
            for one, own in zip(maps, brain, strict=True)
        ]
        assert found["score"][transform] == pytest.approx(np.mean(expected), abs=1e-7)
        new = units[split.test], [one[split.test] for one in brain]
        assert aligner.score(*new) == pytest.approx(np.mean(expected), abs=1e-7)


def score_by_hand(row, x, y, split):
    if row.held_out is not None:
        parts = x[split.train], y[split.train], x[split.test], y[split.test]
        return held_out_predictivity(*parts, kind="ridge").item()
    score = row(x[split.test], y[split.test]).item()
    return score if row.larger_is_more_similar else -score


def test_encoding_predicts_features_of_a_subject_left_out_by_those_of_all_others(rng):
    units, _, brain = known(rng, n=60, n_subjects=3)
    (split,) = folds = one_split(60, 40)
    result = run(
        units, brain, ["encoding"], folds, measure="debiased_cka", subjects="leave_one_out"
    )
    found = result.data["score"].sel(transform="encoding").squeeze().values
    train = split.train.numpy()
    predicted = [ridge_prediction(units.numpy(), one.numpy(), train) for one in brain]
    for i in range(3):
        others = np.concatenate([predicted[j] for j in range(3) if j != i], 1)[split.test]
        expected = get("debiased_cka")(torch.from_numpy(others), brain[i][split.test]).item()
        assert found[i] == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize(
    "measure",
    [
        "pearson", "cosine", "soft_spearman", "spearman", "balanced_pearson", "per_anchor_pearson",
        "kernel_cka", "kernel_nbs", "stimulus_identification",
    ],
)  # fmt: skip
def test_measures_on_rsms_learn(measure, rng):
    units, _, (brain,) = known(rng, n=80, p=8, q=10)
    settings = replace(QUICK, map_sizes=(8,), map_penalties=(1e-3,))
    transforms = ["identity", "metric"]
    found = table(
        run(units, brain, transforms, one_split(80, 55), measure=measure, settings=settings)
    )
    assert found["score"]["metric"] > found["score"]["identity"]
    assert found["map_steps"]["metric"] > 0


def test_measures_of_ones_own_without_gradient_fit_the_nearest(rng):
    own = Measure(
        function=lambda a, b: linear_cka(a, b).detach() ** 2, takes="features", range=(0, 1),
        smallest_n=3, reference="here", differentiable=False, invariances={"orthogonal"},
    )  # fmt: skip
    units, _, (brain,) = known(rng, n=60)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        found = table(run(units, brain, ["metric"], one_split(60, 40), measure=own))
    assert found["gain"]["metric"] > 0.01


def test_selected_chooses_among_maps_under_measures_on_features(rng):
    units, _, (brain,) = known(rng, n=40)
    aligner = Aligner("selected", measure="linear_cka", settings=SMALL).fit(units, brain)
    assert aligner.chosen_ in MAPS
    assert Aligner("selected", settings=SMALL, tiled=True).fit(units, brain).chosen_ not in MAPS


# sides, chains, and what data do not allow


@pytest.mark.parametrize("sides", ["model", "brain"])
def test_soft_steps_of_one_side_leave_the_other(sides, rng):
    units, _, brain = known(rng, n=60, n_subjects=2)
    folds = one_split(60, 40)
    settings = replace(QUICK, sides=sides)
    result = run(units, brain, ["identity", "global", "instance"], folds, settings=settings)
    found = table(result)
    assert found["sides"].tolist() == ["", sides, sides]
    ceilings = found[["ceiling_lower", "ceiling_upper"]]
    if sides == "model":
        assert (ceilings.loc["global"] == ceilings.loc["identity"]).all()
        assert (ceilings.loc["instance"] == ceilings.loc["identity"]).all()
    else:
        assert (ceilings.loc["global"] != ceilings.loc["identity"]).all()
    aligner = Aligner("global", settings=settings).fit(units, brain)
    rsms = torch.stack([torch.corrcoef(one) for one in brain])
    kept = [
        torch.equal(aligner.transform_brain(brain), similarity_matrix(torch.stack(brain))),
        torch.equal(aligner.transform_model(units), similarity_matrix(units)),
    ]
    assert kept == [sides == "model", sides == "brain"]
    assert rsms.shape == (2, 60, 60)


@pytest.mark.parametrize("last", ["global", "instance", "geo_topological"])
def test_chains_of_a_map_and_a_step(last, rng):
    units, _, (brain,) = known(rng, n=60)
    name = f"metric+{last}"
    result = run(units, brain, ["metric", name], one_split(60, 40))
    found = table(result)
    assert found["score"][name] > found["rsa_score"][name]
    assert found["map_size"][name] == found["map_size"]["metric"]
    assert found["sides"][name] == ("" if last == "geo_topological" else "both")


def test_gates_read_the_features_of_maps(rng):
    units, _, (brain,) = known(rng, n=60)
    settings = replace(SMALL, gates=("embedding",), n_components=2)
    embedded = run(
        units, brain, ["metric+instance", "encoding+instance"], one_split(60, 40), settings=settings
    )
    assert (embedded.data["gate"].sel(transform="metric+instance") == "embedding").all()
    assert table(embedded)["score"].notna().all()


def rdm_stack(units, **attrs):
    ids = [f"s{i:02}" for i in range(len(units))]
    return xr.DataArray(
        1 - np.corrcoef(units), dims=("anchor", "neighbor"),
        coords={"anchor": ids, "neighbor": ids}, attrs={"kind": "rdm", **attrs},
    )  # fmt: skip


def test_what_data_do_not_allow_is_left_out_or_refused(rng, label):
    units, _, (brain,) = known(rng, n=40, p=6, q=8)
    layer, folds = label(units), one_split(40, 26)
    options = {"settings": SMALL, "n_resamples": 0, "folds": folds}
    every = align({"fc": layer}, {"V4": rdm_stack(brain)}, **options).table["transform"]
    assert {"reweighted", "metric"} <= {*every}
    assert "encoding" not in {*every}
    rdms = align({"fc": rdm_stack(units)}, {"V4": rdm_stack(brain)}, **options).table["transform"]
    assert not {*MAPS} & {*rdms}
    said = rdm_stack(units, dissimilarity="correlation")
    scores = align({"fc": said}, {"V4": label(brain)}, transforms=MAPS, **options).table["score"]
    patterns = label(torch.from_numpy(by_hand_points(units)))  # all that correlations know
    direct = align({"fc": patterns}, {"V4": label(brain)}, transforms=MAPS, **options)
    direct = direct.table["score"]
    np.testing.assert_allclose(scores, direct, atol=1e-6)
    with pytest.raises(DataError, match=r"'encoding' predicts .*region 'V4' is given as RDMs"):
        align({"fc": layer}, {"V4": rdm_stack(brain)}, transforms=["encoding"], **options)
    with pytest.raises(DataError, match=r"'metric' learns .* layer 'fc' is given as RDMs"):
        align({"fc": rdm_stack(units)}, {"V4": label(brain)}, transforms=["metric"], **options)
    with pytest.raises(DataError, match=r"'metric' acts on the units .* `model` is given as RDMs"):
        Aligner("metric").fit(rdm_stack(units), rdm_stack(brain))
    with pytest.raises(DataError, match="'encoding' predicts the brain's units"):
        Aligner("encoding").fit(layer, rdm_stack(brain))


def test_a_layer_of_several_subjects_is_mapped_as_their_mean(rng, label):
    units, _, (brain,) = known(rng, n=40, p=6, q=8)
    people = label(torch.cat([units, units + 0.1 * draw(rng, 40, 6)], 1), subject=list("ab") * 6)
    result = align(
        {"IT": people}, {"V4": label(brain)}, transforms=["metric"], folds=one_split(40, 26),
        settings=QUICK, n_resamples=0,
    )  # fmt: skip
    assert result.table["score"].notna().all()
    with pytest.raises(DataError, match="mean of several subjects"):
        Aligner("metric").fit(people, label(brain))


def test_a_layer_without_variance_learns_nothing(rng):
    brain = draw(rng, 40, 6)
    same = torch.arange(6).double().expand(40, 6).clone()
    with pytest.warns(UserWarning, match="undefined"):
        found = table(run(same, brain, MAPS, one_split(40, 26)))
    assert (found["map_steps"] == 0).all()
    assert found["score"].isna().all()


# stores


def test_stored_runs_have_the_same_scores(rng, tmp_path):
    units, _, brain = known(rng, n=40, p=6, q=8, n_subjects=2)
    transforms = ["metric", "encoding", "metric+global"]
    folds = [Split(torch.arange(26), torch.arange(26, 40)), *one_split(40, 26)]
    options = {"n_resamples": 4, "subjects": "leave_one_out", "settings": SMALL}
    whole = run(units, brain, transforms, folds, **options)
    stored = run(units, brain, transforms, folds, store=tmp_path / "store", **options)
    again = run(units, brain, transforms, folds, store=tmp_path / "store", **options)
    for one in (stored, again):
        numbers = [*whole.table.select_dtypes("number")]
        np.testing.assert_allclose(one.table[numbers], whole.table[numbers], atol=1e-9)
        for name in ("component_weight", "map_path"):
            np.testing.assert_allclose(one.data[name], whole.data[name], atol=1e-9)
    with pytest.raises(DataError, match="do not keep them"):
        stored.unit_weights("layer", "region")
    assert json.loads(whole.data.attrs["settings"])["map_sizes"] == [20]


@pytest.mark.parametrize(
    "name",
    ["centered_pearson", "pearson", "cosine", "whitened_pearson", "whitened_cosine"],
)
def test_pooled_subjects_score_as_their_mean(name, rng):
    measure = get(name)
    model, *brain = (
        similarity_matrix(torch.randn(7, 9, generator=rng, dtype=torch.float64)) for _ in range(5)
    )
    brain = torch.stack(brain).unsqueeze(0) * torch.tensor([1.0, 5.0, 0.1, 1.0]).view(-1, 1, 1)
    rsms, factor = pooled(measure, brain)
    expected = torch.stack([measure.between(model, one) for one in brain[0]]).mean()
    found = measure.between(model, rsms[0, 0]) * factor[0]
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def test_what_cannot_be_pooled_is_not(rng):
    assert not is_poolable(get("spearman"))
    assert not is_poolable(get("balanced_pearson"))
    rsms = torch.randn(1, 2, 6, 6, generator=rng, dtype=torch.float64)
    assert pooled(get("centered_pearson"), rsms[:, :1]) is None
    rsms[0, 1] = 0.5  # whose score is undefined
    assert pooled(get("centered_pearson"), rsms) is None
    rsms[0, 1] = -rsms[0, 0]  # whose mean is nothing
    assert pooled(get("centered_pearson"), rsms) is None
