"""Groups of stimuli and subjects in align: folds, inner folds, draws and ceilings by hand."""

import json

import numpy as np
import pytest
import torch
import xarray as xr

from softrsa.alignment import (
    AlignmentResult,
    FewGroupsWarning,
    FitSettings,
    Split,
    align,
    grouped_folds,
)
from softrsa.alignment.fitting import Task, _inner_splits, make_plan
from softrsa.alignment.held_out import make_runs
from softrsa.alignment.resampling import left_out_influences
from softrsa.alignment.responses import as_responses
from softrsa.alignment.settings import number_groups, repeat_call
from softrsa.errors import DataError, FileFormatError, ShapeError, UnknownNameError
from softrsa.inference import noise_ceiling
from softrsa.measures import get
from softrsa.reports.methods import methods_text
from softrsa.rsm import similarity_matrix

pytestmark = pytest.mark.filterwarnings("ignore::softrsa.alignment.StimulusScaleWarning")
LABELS = [f"video {i % 6}" for i in range(36)]
PEOPLE = ["a", "b", "c", "d"]
SITES = ["x", "y", "x", "z"]
FIXED = {"transforms": ["identity"], "measure": "pearson"}


@pytest.fixture(scope="module")
def labelled():
    rng = np.random.default_rng(0)
    ids = [f"s{i}" for i in range(36)]
    signal = rng.normal(size=(36, 6))
    layer = xr.DataArray(
        signal, dims=("stimulus", "unit"),
        coords={"stimulus": ids, "video": ("stimulus", LABELS)},
    )  # fmt: skip
    brain = xr.DataArray(
        np.concatenate([signal + rng.normal(size=(36, 6)) for _ in PEOPLE], 1),
        dims=("stimulus", "unit"),
        coords={
            "stimulus": ids, "subject": ("unit", np.repeat(PEOPLE, 6)),
            "site": ("unit", np.repeat(SITES, 6)),
        },
    ).isel(stimulus=rng.permutation(36))  # fmt: skip
    return {"layer": layer}, {"region": brain}


@pytest.mark.filterwarnings("ignore::softrsa.alignment.FewGroupsWarning")
def test_folds_keep_groups_whole_and_say_so(labelled, tmp_path):
    found = align(
        *labelled, **FIXED, folds=3, n_resamples=60, stimulus_groups="video",
        subject_groups="site",
    )  # fmt: skip
    expected = align(*labelled, **FIXED, folds=grouped_folds(LABELS, 3, seed=0), n_resamples=0)
    np.testing.assert_allclose(found.data["score"], expected.data["score"])
    attrs = found.data.attrs
    assert json.loads(attrs["stimulus_groups"]) == LABELS
    pairs = [list(pair) for pair in zip(PEOPLE, SITES, strict=True)]
    assert json.loads(attrs["subject_groups"]) == pairs
    assert (attrs["n_groups"], attrs["n_groups_tested"]) == (6, 6)
    assert found.data["n_subject_groups"].values.tolist() == [3]
    found.to_netcdf(tmp_path / "result.nc")
    again = AlignmentResult.from_netcdf(tmp_path / "result.nc")
    xr.testing.assert_equal(again.intervals(), found.intervals())
    for said in ('    stimulus_groups="video",', '    subject_groups="site",'):
        assert said in repeat_call(again.data.attrs)
    text, _ = methods_text(again.data)
    for said in (
        "kept 6 groups of stimuli (video) whole",
        "resamples of whole groups of test stimuli and, with several subjects, of whole groups of",
        "of those of other groups (lower bound)",
        "would hold for other groups of stimuli and other groups of subjects.",
    ):
        assert said in text


@pytest.mark.filterwarnings("ignore::softrsa.alignment.FewGroupsWarning")
def test_labels_ids_and_coordinates_are_the_same(labelled):
    results = [
        align(*labelled, **FIXED, folds=3, n_resamples=40, stimulus_groups=s, subject_groups=p)
        for s, p in (
            ("video", "site"), (LABELS, SITES),
            ({f"s{i}": label for i, label in enumerate(LABELS)},
             dict(zip(PEOPLE, SITES, strict=True))),
        )
    ]  # fmt: skip
    for one in results[1:]:
        xr.testing.assert_equal(one.data, results[0].data)
        assert "stimulus_groups=stimulus_groups,  # labels as given" in repeat_call(one.data.attrs)


def test_words_without_groups_state_stimuli_and_subjects(labelled):
    result = align(*labelled, **FIXED, folds=3, n_resamples=20)
    text, _ = methods_text(result.data)
    assert "would hold for other stimuli and other subjects." in text
    few = align(*labelled, **FIXED, folds=3, n_resamples=0)
    assert "what holds for these stimuli and these subjects only." in methods_text(few.data)[0]


@pytest.mark.filterwarnings("ignore::softrsa.alignment.RowOffsetWarning")
def test_one_group_a_fold_is_a_bootstrap_of_folds(labelled):
    layers, regions = labelled
    one = {"region": regions["region"].isel(unit=slice(0, 6)).drop_vars(["subject", "site"])}
    options = {**FIXED, "folds": 6, "n_resamples": 50, "stimulus_groups": LABELS}
    with pytest.warns(FewGroupsWarning, match=r"in 1 order within folds, .* p would be 1\."):
        found = align(layers, one, **options)
    scores = found.data["score"].sel(transform="identity").values.ravel()
    # fold k tests one group; which one is seen from which pairs it scores
    folds = grouped_folds(LABELS, 6, seed=0)
    order = [int(fold.test[0]) % 6 for fold in folds]  # code of the group: its first appearance
    drawn = torch.randint(6, (50, 6), generator=torch.Generator().manual_seed(2)).numpy()
    by_group = scores[np.argsort(order)]
    resampled = found.data["resampled_score"].sel(kind="stimuli", transform="identity")
    np.testing.assert_allclose(resampled.values.ravel(), by_group[drawn].mean(1), atol=1e-9)
    assert np.isnan(found.table["p_chance"]).all()
    error = np.sqrt(by_group[drawn].mean(1).var(ddof=1) * 6 / 5)
    reach = (found.table["score_high"] - found.table["score"])[0]
    assert reach == pytest.approx(2.5705818 * error, rel=1e-6)  # t of 5 degrees of freedom


def test_groups_of_subjects_are_drawn_and_left_out(labelled):
    found = align(*labelled, **FIXED, folds=None, n_resamples=30, subject_groups="site")
    scores = found.data["subject_score"].sel(transform="identity").values.ravel()
    drawn = torch.randint(3, (30, 3), generator=torch.Generator().manual_seed(2)).numpy()
    counts = np.stack([np.bincount(one, minlength=3) for one in drawn])[:, [0, 1, 0, 2]]
    resampled = found.data["resampled_score"].sel(kind="subjects", transform="identity")
    expected = counts @ scores / counts.sum(1)
    np.testing.assert_allclose(resampled.values.ravel(), expected, atol=1e-9)
    values = labelled[1]["region"].sel(stimulus=labelled[0]["layer"]["stimulus"]).values
    rsms = [similarity_matrix(torch.from_numpy(part)) for part in np.split(values, 4, 1)]
    ceiling = noise_ceiling(torch.stack(rsms), "pearson", subject_groups=SITES)
    row = found.table.iloc[0]
    assert row["ceiling_lower"] == pytest.approx(float(ceiling.lower.mean()), abs=1e-9)
    assert row["ceiling_upper"] == pytest.approx(float(ceiling.upper.mean()), abs=1e-9)


def test_groups_of_subjects_are_held_out_together():
    side = as_responses(
        [torch.rand(12, 3) for _ in PEOPLE], name="brain", similarity="correlation",
        subject="subject", device=torch.device("cpu"),
    )  # fmt: skip
    split = Split(torch.arange(6), torch.arange(6, 12))
    runs = make_runs(("l", side), ("r", side), [split], "leave_one_out", number_groups(SITES))
    assert [(run.learn, run.score) for run in runs] == [
        ((1, 3), (0, 2)), ((0, 2, 3), (1,)), ((0, 1, 2), (3,)),
    ]  # fmt: skip
    with pytest.raises(DataError, match="at least 2 groups of subjects, region 'r' has 1"):
        make_runs(("l", side), ("r", side), [split], "leave_one_out", number_groups(["x"] * 4))


def test_inner_folds_keep_groups_whole():
    side = as_responses(
        torch.rand(36, 5), name="side", similarity="correlation", subject="subject",
        device=torch.device("cpu"),
    )  # fmt: skip
    plan = make_plan(get("pearson"), side, side, FitSettings(inner_folds=3), 0)
    groups = number_groups(LABELS)
    train = torch.tensor([i for i in range(36) if i % 6 != 2])
    for split in _inner_splits(Task(side, side, train), plan.__class__(
        **{**vars(plan), "groups": groups}
    )):  # fmt: skip
        assert not {LABELS[i] for i in split.train} & {LABELS[i] for i in split.test}
        assert set(split.train.tolist()) | set(split.test.tolist()) <= set(train.tolist())
        assert len(split.test) >= 6


def test_leaving_groups_out_changes_scores_so_much():
    rng = torch.Generator().manual_seed(0)
    rsms = torch.rand(3, 12, 12, dtype=torch.float64, generator=rng)
    rsms = rsms + rsms.mT
    labels = [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 0, 0]
    measure = get("kendall_tau_a")
    score, found = left_out_influences(
        measure, rsms[:1], rsms[None, 1:], lambda _: None, number_groups(labels)
    )
    for group in range(3):
        kept = torch.tensor([label != group for label in labels])
        left = measure.between(rsms[0][kept][:, kept], rsms[1][kept][:, kept])
        own = found[0, 0, ~kept]
        assert own.unique().numel() == 1
        # of a mean this is how it changes with the weight of the group
        change = (score[0, 0] - left) * kept.sum() / 12
        assert float(own.sum()) == pytest.approx(float(change))


def test_learned_transforms_and_a_store_know_groups(labelled, tmp_path):
    settings = FitSettings(steps=(5,), inner_folds=2)
    options = {
        "transforms": ["global", "selected"], "folds": 2, "n_resamples": 40, "settings": settings,
        "stimulus_groups": "video",
    }  # fmt: skip
    together = align(*labelled, **options)
    apart = align(*labelled, **options, store=tmp_path / "store")
    xr.testing.assert_allclose(
        together.data["resampled_score"], apart.data["resampled_score"], atol=1e-6
    )
    np.testing.assert_allclose(together.data["p_chance"], apart.data["p_chance"])
    with pytest.raises(FileFormatError, match="stimulus_groups"):
        align(*labelled, **{**options, "stimulus_groups": [f"{i % 9}" for i in range(36)]},
              store=tmp_path / "store")  # fmt: skip


def test_bad_groups_are_refused(labelled):
    for options, error, match in (
        ({"stimulus_groups": LABELS[:9]}, ShapeError, r"for each of 36 stimuli.*got 9"),
        ({"stimulus_groups": ["a"] * 36}, DataError, "at least 2 groups, got one, 'a'"),
        ({"stimulus_groups": [*LABELS[:35], None]}, DataError, r"at the places 35\."),
        ({"stimulus_groups": "vido"}, UnknownNameError, r"'vido'.*'video'"),
        ({"stimulus_groups": {"s0": 1}}, DataError, r"no group for the stimuli 's1', .*35 in all"),
        ({"stimulus_groups": LABELS, "folds": 7}, DataError, "groups, 6, got 7"),
        ({"subject_groups": "family"}, UnknownNameError, r"beside 'subject'.*'family'.*site"),
        ({"subject_groups": {"a": 1}}, DataError, r"no group for the subjects 'b', 'c', 'd'"),
        ({"subject_groups": ["x"] * 4}, DataError, "`subject_groups` must hold at least 2"),
    ):
        with pytest.raises(error, match=match):
            align(*labelled, **{**FIXED, "folds": 3, "n_resamples": 0, **options})
    half = Split(torch.arange(18), torch.arange(18, 36))
    with pytest.raises(DataError, match=r"In split 0 the groups .* are trained and tested on"):
        align(*labelled, **FIXED, folds=[half], stimulus_groups=LABELS)
    brain = labelled[1]["region"].copy()
    torn = brain.assign_coords(site=("unit", np.arange(24)))
    with pytest.raises(DataError, match=r"Subject 'a' is in two groups of the coordinate 'site'"):
        align(labelled[0], {"region": torn}, **FIXED, folds=3, subject_groups="site")
    few = {"transforms": ["global"], "folds": 2, "n_resamples": 0}
    with pytest.raises(DataError, match=r"stimuli of a fold are of 1 group; at least 2"):
        align(*labelled, **few, stimulus_groups=["a"] * 18 + ["b"] * 18)
