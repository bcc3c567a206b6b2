"""Region identification: matches by hand, nothing of a left-out subject in a choice, resamples."""

import re

import numpy as np
import pytest
import torch
from scipy.spatial.distance import squareform
from scipy.stats import rankdata
from sklearn.neighbors import NearestCentroid

from softrsa.alignment import IdentificationResult, identify_regions
from softrsa.alignment.identification_items import checked_items
from softrsa.alignment.matching import choose, match_scores, products
from softrsa.alignment.region_statistics import TRANSFORMS, Training, learn, scaled_ranks
from softrsa.errors import DataError, FileFormatError, ShapeError, UnknownNameError

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
def test_weights_count_pairs_as_often(rule):
    generator = torch.Generator().manual_seed(0)
    vectors = torch.rand(6, 10, dtype=torch.float64, generator=generator)
    counts = torch.tensor([[0, 2, 1, 1, 0, 3, 1, 1, 1, 0], [1] * 10], dtype=torch.float64)
    found = products(vectors, rule, counts)
    repeated = products(vectors.repeat_interleave(counts[0].long(), dim=1), rule)
    torch.testing.assert_close(found[0], repeated)
    torch.testing.assert_close(found[1], products(vectors, rule))


def test_an_undefined_score_is_no_choice():
    gram = products(torch.tensor([[1.0, 2.0, 3.0], [2.0, 2.0, 2.0], [1.0, 3.0, 2.0]]), "best_match")
    references = torch.tensor([[[0, 0, 1]], [[0, 0, 1]], [[1, 0, 0]]])
    found = match_scores(gram, references, "best_match", torch.arange(3))
    assert choose(found).tolist() == [0, -1, 0]
    assert choose(match_scores(gram, references, "best_match", torch.tensor([1]))).tolist() == [-1]


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_a_left_out_subject_has_no_say(transform):
    """What is chosen for a subject, and what it is matched with, is the same whatever it shows."""
    rdms = make_rdms(1.0)
    changed = rdms.clone()
    changed[:N_REGIONS] = make_rdms(1.0, seed=1)[:N_REGIONS]
    before, after = (identify(x, transform=transform) for x in (rdms, changed))
    first = {"subject": 0}
    assert (before.data["chosen"].isel(first) == after.data["chosen"].isel(first)).all()
    assert before.table["accuracy"][0] >= 0.5
    again = identify(rdms, transform=transform)
    assert before.data.identical(again.data)  # reproducible from the seed


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
    assert IdentificationResult.from_netcdf(tmp_path / "found.nc").table.equals(found.table)
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


@pytest.mark.parametrize("transform", ["global", "instance"])
def test_training_tells_regions_apart_better(transform):
    items = checked_items(make_rdms(1.5), SUBJECTS, REGIONS)
    data = Training(
        scaled_ranks(items.rdms), items.region, items.references([]), items.of(range(N_SUBJECTS))
    )
    path = learn(transform, data, learning_rate=0.2, penalty=0.0)
    losses = [
        learned.cross_entropy(data).item() for _, learned in zip(range(9), path, strict=False)
    ]
    assert losses[-1] < losses[0] - 0.01


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
        (None, {"transform": []}, DataError, "`transform` is empty"),
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
