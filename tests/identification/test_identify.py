"""Region identification: matches by hand, nothing of a left-out subject in a choice, resamples."""

import re
import warnings
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from scipy.spatial.distance import squareform
from scipy.stats import rankdata, ttest_rel
from sklearn.neighbors import NearestCentroid

from softrsa.alignment import (
    IdentificationResult,
    OptimisticWarning,
    PublishedIdentification,
    identification_curves,
    identify_regions,
)
from softrsa.errors import (
    DataError,
    FileFormatError,
    ShapeError,
    StimulusError,
    UnknownNameError,
)
from softrsa.identification.identify import _asked, as_items
from softrsa.identification.matching import (
    best_region,
    checked_items,
    frame_of,
    match_scores,
    products,
    resampled_products,
    split_stimuli,
)
from softrsa.identification.published import _draw, _resample
from softrsa.identification.statistics import (
    TRANSFORMS,
    Base,
    Fitting,
    LearnedStatistic,
    Training,
    learn,
    views,
)
from softrsa.pairs import condense, expand
from softrsa.reports.identification_figures import plot_curves
from softrsa.rsm import framed, similarity_matrix
from softrsa.transforms import geo_topological_type

N_SUBJECTS, N_REGIONS, N_STIMULI = 5, 3, 16
SUBJECTS = [s for s in range(N_SUBJECTS) for _ in range(N_REGIONS)]
REGIONS = ["V1", "V4", "IT"] * N_SUBJECTS


def make_rdms(noise, seed=0):
    """Distances of points that all subjects share, one set per region, and noise of their own."""
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(N_REGIONS, N_STIMULI, 4))
    own = points + noise * rng.normal(size=(N_SUBJECTS, *points.shape))
    return torch.from_numpy(np.linalg.norm(own[:, :, :, None] - own[:, :, None], axis=-1)).flatten(
        0, 1
    )


def identify(rdms, **options):
    return identify_regions(
        rdms, SUBJECTS, REGIONS, **{"n_resamples": 50, "steps": (3, 6), "grid": 4, **options}
    )


@pytest.mark.parametrize("rule", ["best_match", "centroid"])
def test_plain_identification_is_that_done_by_hand(rule):
    rdms = make_rdms(1.5)
    found = identify(rdms, transform="identity", rule=rule, stimulus_folds=1)
    vectors = np.stack([rankdata(squareform(r, checks=False)) for r in rdms.numpy()])
    subjects, regions = np.array(SUBJECTS), np.array(REGIONS)
    expected = []
    for i, vector in enumerate(vectors):
        others = subjects != subjects[i]
        if rule == "centroid":
            model = NearestCentroid().fit(vectors[others], regions[others])
            expected.append(model.predict(vector[None])[0])
        else:
            names = ["V1", "V4", "IT"]
            means = [vectors[others & (regions == name)].mean(0) for name in names]
            expected.append(names[int(np.argmax([np.corrcoef(vector, m)[0, 1] for m in means]))])
    assert found.data["predicted"].sel(transform="identity").values[0].tolist() == expected
    right = np.mean(np.array(expected) == regions)
    assert 1 / 3 < right < 1
    assert found.table["accuracy"][0] == pytest.approx(right)


@pytest.mark.parametrize("rule", ["best_match", "centroid"])
def test_stimuli_count_as_often_as_they_were_drawn(rule):
    generator = torch.Generator().manual_seed(0)
    vectors = torch.rand(6, 10, dtype=torch.float64, generator=generator)
    counts = torch.tensor([[0, 2, 1, 1, 1], [1] * 5], dtype=torch.float64)
    found = resampled_products(vectors, rule, counts)
    stimuli = [1, 1, 2, 3, 4]
    pairs = [(i, j) for i, j in combinations(stimuli, 2) if i != j]
    drawn = torch.stack([expand(vectors)[:, i, j] for i, j in pairs], -1)
    torch.testing.assert_close(found[0], products(drawn, rule))
    torch.testing.assert_close(found[1], products(vectors, rule))


def test_an_undefined_score_is_no_choice():
    gram = products(torch.tensor([[1.0, 2.0, 3.0], [2.0, 2.0, 2.0], [1.0, 3.0, 2.0]]), "best_match")
    references = torch.tensor([[[0, 0, 1]], [[0, 0, 1]], [[1, 0, 0]]])
    found = match_scores(gram, references, "best_match", torch.arange(3))
    assert best_region(found).tolist() == [0, -1, 0]
    assert best_region(
        match_scores(gram, references, "best_match", torch.tensor([1]))
    ).tolist() == [-1]


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_a_left_out_subject_has_no_say(transform):
    """What is chosen for a subject is the same whatever its own RDMs are."""
    rdms = make_rdms(1.0)
    changed = rdms.clone()
    changed[:N_REGIONS] = make_rdms(1.0, seed=1)[:N_REGIONS]
    before, after = (identify(x, transform=transform) for x in (rdms, changed))
    first = {"subject": 0}
    assert (before.data["chosen"].isel(first) == after.data["chosen"].isel(first)).all()
    assert before.table["accuracy"][0] >= 0.5
    again = identify(rdms, transform=transform)
    assert before.data.identical(again.data)  # reproducible from the seed


@pytest.mark.parametrize("transform", ["geo_topological", "geodesic", "global", "instance"])
def test_held_out_stimuli_have_no_say(transform):
    """What a fold chooses is the same whatever the RDMs of its test stimuli are."""
    rdms = make_rdms(1.0)
    test = split_stimuli(N_STIMULI, 2, seed=0)[0][1]
    changed = rdms.clone()
    changed[:, test] = make_rdms(1.0, seed=1)[:, test]
    changed[:, :, test] = changed[:, test].mT
    before, after = (identify(x, transform=transform) for x in (rdms, changed))
    assert (before.data["chosen"][:, 0] == after.data["chosen"][:, 0]).all()
    assert (before.data["chosen"][:, 1] != after.data["chosen"][:, 1]).any()  # trained on them


def test_what_training_makes_constant_counts_as_a_guess():
    items = checked_items(make_rdms(1.0), SUBJECTS, REGIONS)
    seen = views(items.rdms)
    seen = seen._replace(ranks=0.2 + 0.6 * seen.ranks)  # some stimuli, without the extremes
    data = Training(seen, items.region, items.references([]), items.of(range(N_SUBJECTS)))
    learned = LearnedStatistic("global", Base(False, True), data.seen)
    with torch.no_grad():
        learned.step.gate.bias.copy_(torch.tensor([12.0, 0.0, 0.0]))  # nothing is above the bound
    loss = learned.cross_entropy(data)
    assert loss.item() == pytest.approx(np.log(N_REGIONS))
    loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in learned.parameters())


@pytest.mark.parametrize("folds", [3, 4])
def test_test_stimuli_may_be_few(folds):
    found = identify(make_rdms(0.5), transform="geodesic", stimulus_folds=folds)
    neighbors = {int(str(name).removeprefix("k = ")) for name in found.data["chosen"].values.flat}
    assert max(neighbors) < N_STIMULI // folds


@pytest.mark.parametrize("transform", ["geo_topological", "global", "instance"])
def test_only_some_subjects_have_a_region(transform):
    rdms = torch.cat([make_rdms(0.8), make_rdms(0.8, seed=0)[: 3 * N_REGIONS]])
    subjects = [s for s in range(8) for _ in range(N_REGIONS)]
    kept = [i for i, s in enumerate(subjects) if s < 4 or i % N_REGIONS < 2]
    regions = [["V1", "V4", "IT"][i % N_REGIONS] for i in kept]
    found = identify_regions(
        rdms[kept], [subjects[i] for i in kept], regions, transform=transform, grid=4,
        n_resamples=5, steps=(4,),
    )  # fmt: skip
    assert found.data.sizes["item"] == 20
    assert found.table["accuracy"][0] > 2 / 3


def test_p_is_that_of_regions_permuted_within_subjects():
    """Five subjects with three regions each: all right by chance with probability 6 ** -5."""
    perfect = identify(make_rdms(0.1), transform="identity", n_resamples=400)
    assert perfect.table["accuracy"][0] == 1.0
    assert perfect.table["p"][0] == pytest.approx(1 / 401)
    noise = torch.rand(15, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    null = identify(noise + noise.mT, transform="identity", n_resamples=400)
    assert null.table["p"][0] > 0.05


def test_thresholds_that_leave_a_constant_have_no_accuracy():
    found = identify(make_rdms(1.0), transform="geo_topological").data["grid_accuracy"]
    assert found.sel(lower=0.0, upper=1.0) > 1 / 3
    assert np.isnan(found.sel(lower=1.0, upper=1.0))
    assert np.isnan(found.sel(lower=0.0, upper=0.0))


def test_result_has_intervals_comparisons_and_a_file(tmp_path):
    found = identify(make_rdms(1.0), transform=["identity", "geo_topological", "global"])
    table = found.table.set_index("transform")
    assert (table["subjects_low"] <= table["accuracy"]).all()
    assert (table["accuracy"] <= table["subjects_high"]).all()
    assert (table["stimuli_low"] < table["stimuli_high"]).all()
    assert (table["chance"] == 1 / 3).all()
    difference = found.compare("global", "identity")
    assert difference["difference"] == pytest.approx(
        table["accuracy"]["global"] - table["accuracy"]["identity"]
    )
    assert difference["subjects_low"] <= difference["difference"] <= difference["subjects_high"]
    confusion = found.confusion("identity")
    assert np.diag(confusion).mean() == pytest.approx(table["accuracy"]["identity"])
    assert np.isnan(found.data["grid_accuracy"].sel(lower=0.5, upper=0.25))
    assert len(found.plot().collections) == 2
    found.to_netcdf(tmp_path / "found.nc")
    again = IdentificationResult.from_netcdf(tmp_path / "found.nc")
    assert again.table.equals(found.table)
    assert again.data.identical(found.data)
    assert again.settings == found.settings
    assert again.settings["steps"] == [3, 6]
    (tmp_path / "other.nc").write_text("no")
    with pytest.raises(FileFormatError, match=r"other\.nc"):
        IdentificationResult.from_netcdf(tmp_path / "other.nc")
    with pytest.raises(UnknownNameError, match="transform 'instance'"):
        found.compare("global", "instance")


def test_thresholds_tell_what_ranks_do_not():
    """Regions differ among near pairs only, and far ones are noise that all regions share."""
    rng = np.random.default_rng(0)
    rdms = make_rdms(0.4).numpy()
    near = rdms < np.quantile(rdms, 0.25, axis=(1, 2), keepdims=True)
    noise = rng.normal(size=rdms.shape) * rdms.std()
    noisy = np.where(near, rdms, np.quantile(rdms, 0.5) + np.abs(noise + noise.swapaxes(1, 2)))
    found = identify(torch.from_numpy(noisy), transform=["identity", "geo_topological"])
    accuracy = found.table.set_index("transform")["accuracy"]
    assert accuracy["geo_topological"] > accuracy["identity"]


@pytest.mark.parametrize(
    ("transform", "within_rows", "centered"),
    [("global", False, False), ("instance", False, True), ("instance", True, False)],
)
def test_training_tells_regions_apart_better(transform, within_rows, centered):
    items = checked_items(make_rdms(1.5), SUBJECTS, REGIONS)
    data = Training(
        views(items.rdms), items.region, items.references([]), items.of(range(N_SUBJECTS))
    )
    fitting = Fitting("best_match", grid=4, steps=(8,), learning_rate=0.05, penalty=0.0, seed=0)
    path = learn(transform, Base(within_rows, centered), data, fitting, range(41))
    losses = [learned.cross_entropy(data).item() for learned in path]
    assert losses[-1] < losses[0] - 0.01
    assert losses == sorted(losses, reverse=True)  # no step is kept that makes it worse


@pytest.mark.parametrize(
    ("change", "options", "error", "message"),
    [
        (lambda r: r[:, :3, :3], {}, ShapeError, "4 of the 3 stimuli at least, got 2 folds"),
        (lambda r: r[:-1], {}, ShapeError, "got 14 RDMs, 15 subjects and 15 regions"),
        (lambda r: r[:, 0], {}, ShapeError, "got (15, 16)"),
        (lambda r: r.index_fill(0, torch.tensor(4), 1.0), {}, DataError,
         "1 RDMs have the same value for all pairs, the first that of region 'V4' of subject 1"),
        (lambda r: r.index_fill(0, torch.tensor([4, 5]), torch.nan), {}, DataError,
         "2 RDMs have missing values, the first that of region 'V4' of subject 1"),
        (None, {"transform": "local"}, UnknownNameError, "transform 'local'"),
        (None, {"rule": "nearest"}, UnknownNameError, "rule 'nearest'"),
        (None, {"published": True, "transform": "global"}, UnknownNameError,
         "published transform 'global'"),
        (None, {"transform": []}, DataError, "each once, got none"),
        (None, {"transform": ["identity"] * 2}, DataError, "each once, got identity, identity"),
        (None, {"n_resamples": 0}, DataError, "`n_resamples` must be at least 1, got 0"),
        (None, {"learning_rate": -1.0}, DataError, "`learning_rate` must be above 0"),
        (None, {"published": True, "n_resamples": -3}, DataError, "at least 1, got -3"),
        (None, {"steps": [0]}, DataError, "must be at least 1, got 4 and [0]"),
    ],
)  # fmt: skip
def test_bad_input(change, options, error, message):
    rdms = make_rdms(1.0)
    with pytest.raises(error, match=re.escape(message)):
        identify(change(rdms) if change else rdms, **options)


def test_a_region_needs_enough_subjects():
    rdms = make_rdms(1.0)
    few = [i for i, (s, r) in enumerate(zip(SUBJECTS, REGIONS, strict=True)) if r != "IT" or s < 2]
    subjects, regions = [SUBJECTS[i] for i in few], [REGIONS[i] for i in few]
    with pytest.raises(DataError, match=r"Region 'IT' must be there for 4 .* it is for 2"):
        identify_regions(rdms[few], subjects, regions, transform="instance")
    found = identify_regions(rdms[few], subjects, regions, transform="identity", n_resamples=5)
    assert found.data.sizes["item"] == 12
    with pytest.raises(DataError, match=r"two regions at least, got \['V1'\]"):
        identify_regions(rdms[::3], range(5), ["V1"] * 5)


def make_units(noise, seed=0):
    """Responses of regions with one geometry whose means over units differ, and norms with them."""
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(N_STIMULI, 9))
    preferred = rng.normal(size=(N_REGIONS, N_STIMULI, 1))
    units = []
    for _ in range(N_SUBJECTS):
        mixed = points @ np.linalg.qr(rng.normal(size=(9, 9)))[0]
        units += [mixed + own + noise * rng.normal(size=mixed.shape) for own in preferred]
    return units


def correlation_distances(units):
    return torch.from_numpy(np.stack([1 - np.corrcoef(x) for x in units]))


def as_recording(units, ids=None):
    """The same, labelled: regions and subjects on units."""
    owner = [i for i, x in enumerate(units) for _ in range(x.shape[1])]
    return xr.DataArray(
        np.concatenate(units, axis=1), dims=("stimulus", "unit"),
        coords={
            "stimulus": [f"image{i:02d}" for i in range(N_STIMULI)] if ids is None else ids,
            "region": ("unit", [REGIONS[i] for i in owner]),
            "subject": ("unit", [f"p{SUBJECTS[i]}" for i in owner]),
        },
    )  # fmt: skip


def test_framed_rdms_are_those_of_framed_patterns():
    units = make_units(0.3)
    frame = frame_of(units)
    for stimuli in (torch.arange(N_STIMULI), torch.tensor([2, 3, 7, 11, 15])):
        expected = torch.stack(
            [
                -similarity_matrix(framed(torch.from_numpy(x)[stimuli]), similarity="sqeuclidean")
                for x in units
            ]
        )
        torch.testing.assert_close(frame.of_stimuli(stimuli).rdms(), expected)


def test_a_frame_tells_regions_apart_by_their_means():
    units = make_units(0.3)
    options = {"units": units, "transform": ["identity", "framed"], "n_resamples": 30}
    found = identify_regions(correlation_distances(units), SUBJECTS, REGIONS, **options)
    accuracy = found.table.set_index("transform")["accuracy"]
    assert accuracy["framed"] == 1.0
    assert accuracy["identity"] < 0.7  # means are not in correlations
    vectors = [rankdata(squareform(r, checks=False)) for r in frame_of(units).rdms().numpy()]
    whole = identify_regions(
        correlation_distances(units), SUBJECTS, REGIONS, **{**options, "stimulus_folds": 1}
    )
    subjects, regions = np.array(SUBJECTS), np.array(REGIONS)
    for i, name in enumerate(whole.data["predicted"].sel(transform="framed").values[0]):
        scores = {
            region: np.corrcoef(
                vectors[i],
                np.mean([v for v, s, r in zip(vectors, subjects, regions, strict=True)
                         if s != subjects[i] and r == region], 0),
            )[0, 1]
            for region in ("V1", "V4", "IT")
        }  # fmt: skip
        assert name == max(scores, key=scores.get)


def test_recordings_are_read_by_their_labels():
    units = make_units(1.0)
    options = {"n_resamples": 20, "transform": ["identity", "framed"]}
    bare = identify_regions(correlation_distances(units), SUBJECTS, REGIONS, units=units, **options)
    recording = as_recording(units)
    whole = identify_regions(recording, **options)
    by_region = {
        name: recording[::step].isel(unit=(recording["region"] == name).values)
        for name, step in (("V1", 1), ("V4", -1), ("IT", 1))
    }
    parts = identify_regions(by_region, **options)
    for found in (whole, parts):
        pd.testing.assert_frame_equal(found.table, bare.table)
    assert _asked(None, as_items(recording, None, None), published=False) == [*TRANSFORMS, "framed"]
    assert _asked(None, checked_items(make_rdms(1.0), SUBJECTS, REGIONS), False) == [*TRANSFORMS]


def test_curves_of_units():
    recording = as_recording(make_units(0.3))
    options = {"n_stimuli": [8], "n_subsets": 2, "n_resamples": 5}
    found = identification_curves(recording, transform=["framed"], **options)
    assert found["accuracy"].mean() > 0.8
    noisy = identification_curves(recording, noise=(0.5,), transform="identity", **options)
    assert set(noisy["noise"]) == {0.5}
    with pytest.raises(DataError, match="`noise` is added to dissimilarities, of which 'framed'"):
        identification_curves(recording, transform="framed", noise=(0.5,))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda u: identify(correlation_distances(u), transform="framed"), DataError,
         "The transform 'framed' needs units, whose norms and means are not in RDMs"),
        (lambda u: identify(correlation_distances(u), units=u[1:]), ShapeError,
         "for each of the 15 RDMs, in their order; got 14"),
        (lambda u: identify(correlation_distances(u), units=[x[1:] for x in u]), ShapeError,
         "shape (16, n_units), one row for each stimulus of the RDMs; got (15, 9) for subject 0"),
        (lambda u: identify(correlation_distances(u), units=[x * np.nan for x in u]), DataError,
         "`units` of subject 0 have values that are NaN"),
        (lambda u: identify_regions(labelled(make_rdms(1.0)), units=u), DataError,
         "`units` go with RDMs without labels"),
        (lambda u: identify_regions(as_recording(u).drop_vars("subject")), DataError,
         "Units of the recording of region 'V1' must be labelled by subject"),
        (lambda u: identify_regions(as_recording(u).drop_vars("region")), DataError,
         "Units of the recording must be labelled by region"),
        (lambda u: identify_regions(
            {"V1": as_recording(u), "V4": as_recording(u, ids=range(N_STIMULI))}
         ), StimulusError, "32 are not in region 'V4' or only there"),
        (lambda u: identify(correlation_distances(u), units=u, published=True,
                            transform="framed"), UnknownNameError, "published transform 'framed'"),
    ],
)  # fmt: skip
def test_units_that_do_not_fit(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call(make_units(0.3))


def labelled(rdms, *, without=()):
    """RDMs as a stack (region, subject, anchor, neighbor); NaN where a subject lacks a region."""
    names = list(dict.fromkeys(REGIONS))
    ids = [f"image{i}" for i in range(N_STIMULI)]
    values = rdms.reshape(N_SUBJECTS, N_REGIONS, N_STIMULI, N_STIMULI).transpose(0, 1).numpy()
    stack = xr.DataArray(
        values.copy(),
        dims=("region", "subject", "anchor", "neighbor"),
        coords={
            "region": names,
            "subject": [str(s) for s in range(N_SUBJECTS)],
            "anchor": ids,
            "neighbor": ids,
        },
        attrs={"kind": "rdm"},
    )
    for region, subject in without:
        stack.loc[region, subject] = np.nan
    return stack


def test_labelled_rdms_are_joined_by_stimulus():
    rdms = make_rdms(1.5)
    expected = identify(rdms, transform="identity").data["predicted"].values[0]
    order = np.argsort(np.tile(np.arange(N_REGIONS), N_SUBJECTS), kind="stable")
    stack = labelled(rdms)
    options = {"transform": "identity", "n_resamples": 50}
    found = identify_regions(stack, **options)
    assert found.data["predicted"].values[0].tolist() == expected[:, order].tolist()
    mixed = {
        str(name): stack.sel(region=name).isel(
            anchor=np.roll(np.arange(N_STIMULI), i), neighbor=np.roll(np.arange(N_STIMULI), i)
        )
        for i, name in enumerate(stack["region"].values)
    }
    again = identify_regions(mixed, **options)
    assert again.data["predicted"].equals(found.data["predicted"])


def test_a_region_a_subject_lacks_is_left_out():
    stack = labelled(make_rdms(1.0), without=[("IT", "0"), ("V1", "3")])
    found = identify_regions(stack, transform="identity", n_resamples=5)
    assert found.data.sizes["item"] == N_SUBJECTS * N_REGIONS - 2
    of_first = found.data["item_region"].values[found.data["item_subject"].values == "0"]
    assert sorted(of_first) == ["V1", "V4"]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: identify_regions(x, range(15), REGIONS), DataError, "leave both out"),
        (lambda x: identify_regions(x.values[0]), DataError, "need `subjects` and `regions`"),
        (lambda x: identify_regions(x.isel(subject=0)), DataError, "has no dimension subject"),
        (
            lambda x: identify_regions(x[0]),
            DataError,
            "the dimensions region and subject",
        ),
        (lambda x: identify_regions({}), DataError, "no RDMs to identify"),
        (
            lambda x: identify_regions(
                {"V1": x[0], "V4": x[1].assign_coords(anchor=range(16), neighbor=range(16))}
            ),
            StimulusError,
            "32 are not in region 'V4' or only there",
        ),
    ],
)
def test_labels_that_do_not_fit(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call(labelled(make_rdms(1.0)))


class TestPublished:
    """The published procedure, written out with NumPy and scikit-learn."""

    @staticmethod
    def transformed(rdms, low, high):
        found = []
        for rdm in rdms.numpy():
            ranks = rankdata(squareform(rdm, checks=False))
            x = (ranks - ranks.min()) / (ranks.max() - ranks.min())
            below, above = np.quantile(x, [low, min(high + 1e-5, 1.0)])
            found.append(np.clip((x - below) / (above - below), 0, 1))
        return np.array(found)

    @staticmethod
    def accuracy(vectors, subjects, regions):
        right = []
        for subject in np.unique(subjects):
            own = subjects == subject
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a pair may be the same in all rows
                model = NearestCentroid().fit(vectors[~own], regions[~own])
            right += (model.predict(vectors[own]) == regions[own]).tolist()
        return np.mean(right)

    def test_best_thresholds_are_chosen_on_what_is_reported(self):
        rdms = make_rdms(2.0)
        subjects, regions = np.array(SUBJECTS), np.array(REGIONS)
        with pytest.warns(OptimisticWarning, match="optimistic"):
            found = identify(rdms, published=True, transform=["identity", "geo_topological"])
        grid = {
            (low, high): self.accuracy(self.transformed(rdms, low, high), subjects, regions)
            for low in (0.0, 0.25, 0.5, 0.75, 0.95)
            for high in (0.3, 0.55, 0.8, 1.0)
            if high > low
        }
        for (low, high), expected in grid.items():
            at = {"lower": low, "upper": high, "method": "nearest"}
            assert float(found.data["grid_accuracy"].sel(**at)) == pytest.approx(expected)
        table = found.table.set_index("transform")
        assert table["accuracy"]["geo_topological"] == found.data["grid_accuracy"].max()
        plain = self.accuracy(self.transformed(rdms, 0.0, 1.0), subjects, regions)
        assert table["accuracy"]["identity"] == pytest.approx(plain)
        assert table["accuracy"]["geo_topological"] >= max(grid.values())

    def test_rows_and_stimuli_are_resampled_after_the_transform(self):
        items = checked_items(make_rdms(2.0), SUBJECTS, REGIONS)
        rdms = condense(items.rdms)
        resamples = _draw(items, 30, seed=3)
        found = _resample(rdms, items, resamples)
        drawn = np.random.default_rng(3).integers(0, N_STIMULI, (30, N_STIMULI))
        rows = np.random.default_rng((3, 1)).integers(0, 15, (30, 15))
        for resample in range(30):
            chosen = items.rdms[:, drawn[resample][:, None], drawn[resample]].numpy()
            same = np.equal.outer(drawn[resample], drawn[resample])
            kept = np.triu(~same, 1)
            vectors = chosen[rows[resample]][:, kept]
            subjects = np.array(SUBJECTS)[rows[resample]]
            expected = self.accuracy(vectors, subjects, np.array(REGIONS)[rows[resample]])
            assert found[resample] == pytest.approx(expected)

    def test_t_lacks_the_root_of_n(self, tmp_path):
        with pytest.warns(OptimisticWarning):
            found = identify(make_rdms(2.0), published=True, transform="identity", n_resamples=3)
        row = found.comparisons.iloc[0]
        a, b = (
            found.data["type_accuracy"].sel(type=name).values for name in row[["type", "other"]]
        )
        n = len(a)
        usual = ttest_rel(a, b).statistic
        assert row["t"] == pytest.approx(usual / (n - 1) ** 0.5)
        with pytest.raises(DataError, match="`comparisons`"):
            found.compare("identity", "identity")
        for name in found.data["type"].values:
            of = found.data.sel(type=name)
            for low, high in zip(of["type_lower"].values, of["type_upper"].values, strict=True):
                assert geo_topological_type(low, high) == name
        found.to_netcdf(tmp_path / "found.nc")
        again = PublishedIdentification.from_netcdf(tmp_path / "found.nc")
        assert again.types.equals(found.types)
        with pytest.raises(FileFormatError, match=r"holds no result of .* with `published=False`"):
            IdentificationResult.from_netcdf(tmp_path / "found.nc")
        assert len(found.plot().collections) == 1


def test_curves_of_noise_and_numbers_of_stimuli():
    rdms = make_rdms(0.5)
    found = identification_curves(
        rdms, SUBJECTS, REGIONS, transform="identity", noise=(0.0, 3.0), n_stimuli=(10, 16),
        n_subsets=2, n_resamples=1,
    )  # fmt: skip
    counts = found.groupby(["noise", "n_stimuli"])["subset"].nunique()
    assert counts.to_dict() == {(0.0, 10): 2, (0.0, 16): 1, (3.0, 10): 2, (3.0, 16): 2}
    mean = found.groupby("noise")["accuracy"].mean()
    assert mean[0.0] > 0.8 > mean[3.0]
    whole = found[(found["noise"] == 0) & (found["n_stimuli"] == 16)].set_index("subject")
    direct = identify(rdms, transform="identity").by_subject["identity"]
    assert whole["accuracy"].to_dict() == direct.to_dict()
    assert len(plot_curves(found, chance=1 / 3).axes) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise": (-0.1,)}, "`noise` must be at least 0 and `n_subsets` 1, got [-0.1] and 5"),
        ({"n_subsets": 0}, "got [0.0] and 0"),
        ({"n_stimuli": (3, 17)}, "from 4 to the 16 there are, got [3, 17]"),
    ],
)
def test_bad_curves(options, message):
    with pytest.raises(DataError, match=re.escape(message)):
        identification_curves(make_rdms(1.0), SUBJECTS, REGIONS, **options)
