"""Measures, transforms and similarities of the user's own, in `align` and in an Aligner."""

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

from softrsa.alignment import Aligner, align
from softrsa.alignment.descent import given_up_at
from softrsa.errors import DataError
from softrsa.measures import Measure, centered_pearson, pearson
from softrsa.transforms import Transform, double_center


class Power(nn.Module):
    def __init__(self, power=1.0):
        super().__init__()
        self.power = nn.Parameter(torch.tensor(power, dtype=torch.float64))

    def forward(self, rsms, anchors=None):
        return rsms.sign() * rsms.abs() ** self.power


class Weights(nn.Module):
    def __init__(self, n=8):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(0, 1, n, dtype=torch.float64))

    def forward(self, units):
        return units * self.weight


POWER = Transform(name="power", title="a power", words="a power", fit=lambda _: Power(1.5))
WEIGHTS = Transform(
    name="weights", title="weights", words="weights", acts_on="units", fit=lambda _: Weights()
)


def mine(x, y):
    return pearson(x, y)


MINE = Measure(function=mine, takes="vectors", range=(-1, 1), smallest_n=4, reference="here")


def overlap(x, y):
    return x.sign() @ y.sign().mT


def test_an_aligner_of_own_parts_scores_the_same_after_loading(data, tmp_path):
    model, subjects = data
    aligner = Aligner(transform=POWER, measure=MINE, similarity=overlap).fit(model, subjects)
    aligner.save(tmp_path / "own.pt")
    loaded = Aligner.load(tmp_path / "own.pt", modules=[Power()], measure=MINE, similarity=overlap)
    other = model + 0.1, [one[:, :5] for one in subjects]
    assert loaded.score(*other) == aligner.score(*other)
    # by hand: the power, and Pearson of the entries off the diagonal
    rsms = [Power(1.5)(overlap(x, x).detach()) for x in (other[0], *other[1])]
    held = [rsm[~torch.eye(24, dtype=torch.bool)].detach() for rsm in rsms]
    expected = np.mean([np.corrcoef(held[0], one)[0, 1] for one in held[1:]])
    assert loaded.score(*other) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"measure": MINE, "similarity": overlap}, r"transform of your own, 'Power'.*modules=\[Po"),
        ({"modules": [Power()], "similarity": overlap}, "measure of your own, 'mine'.*measure="),
        ({"modules": [Power()], "measure": MINE}, "similarity of your own, 'overlap'.*similarity="),
    ],
)
def test_what_is_missing_at_loading_is_named(given, message, data, tmp_path):
    Aligner(transform=POWER, measure=MINE, similarity=overlap).fit(*data).save(tmp_path / "own.pt")
    with pytest.raises(DataError, match=message):
        Aligner.load(tmp_path / "own.pt", **given)


def test_units_before_rsms_in_align(data, label):
    model, subjects = data
    model = label(model, layer=["conv"] * 8)
    brain = label(subjects[0], region=["V4"] * 8)
    result = align(model, brain, transforms=["weights+power", WEIGHTS][1:], folds=3, n_resamples=0)
    weighted = label(model.values * np.linspace(0, 1, 8), layer=["conv"] * 8)
    expected = align(weighted, brain, transforms=["identity"], folds=3, n_resamples=0)
    assert result.table.score.item() == pytest.approx(expected.table.score.item(), abs=1e-12)


@pytest.mark.parametrize("kind", ["an RDM", "several subjects"])
def test_units_that_are_not_there_are_missed_before_any_work(kind, data, monkeypatch):
    model, subjects = data
    monkeypatch.setattr("softrsa.alignment.scoring.fit_all", None)  # nothing is fitted
    layer = 1 - torch.corrcoef(model) if kind == "an RDM" else subjects
    found = "RDMs or RSMs only" if kind == "an RDM" else "mean of several subjects"
    with pytest.raises(DataError, match=f"'weights' acts on the units of a layer.*{found}"):
        align({"conv": layer}, {"V4": model}, transforms=[WEIGHTS])


def test_a_count_of_folds_of_any_integer_type(data):
    model, subjects = data
    tables = [
        align(model, subjects, transforms=["identity"], folds=folds, n_resamples=0).table
        for folds in (3, np.int64(3))
    ]
    assert tables[0].equals(tables[1])


def test_other_subjects_have_scales_of_their_own(data, quick):
    """Numbers learned of some subjects' distances are not used for others."""
    model, subjects = data
    distances = np.stack([torch.cdist(x, x).numpy() for x in subjects])

    def named(names, values):
        ids = [f"s{i:02}" for i in range(24)]
        coords = {"subject": list(names), "anchor": ids, "neighbor": ids}
        dims = ("subject", "anchor", "neighbor")
        return xr.DataArray(values, dims=dims, coords=coords, attrs={"kind": "rdm"})

    layer = named("m", torch.cdist(model, model)[None].numpy())
    aligner = Aligner(transform="global", settings=quick).fit(layer, named("abc", distances))
    others = distances[[1, 0, 2]]
    here, there = (aligner.score(layer, named("xyz", others * by)) for by in (1, 1000))
    assert here == pytest.approx(there, abs=1e-9)
    same = [aligner.score(layer, named("abc", distances * by)) for by in (1, 2)]
    assert same[0] != pytest.approx(same[1], abs=1e-6)  # of the same subjects, they are


@pytest.mark.parametrize(
    ("validation", "end"),
    [
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7], None),  # better and better
        ([0.5, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4], 3),  # three stops past the best, at 20 steps
        ([0.1, 0.2, 0.3, 0.9, 0.1, 0.2, 0.3], 6),
        ([0.5, 0.5 + 1e-12, 0.5 + 2e-12, 0.5, 0.5, 0.5, 0.5], 3),  # rounding is not better
        ([-torch.inf, -torch.inf, 0.1, 0.2, 0.1, 0.1, 0.2], 6),
    ],
)
def test_when_a_fit_is_given_up(validation, end):
    stops = (0, 5, 10, 20, 40, 80, 160)
    assert given_up_at(torch.tensor(validation, dtype=torch.float64), stops) == end


def test_a_fit_in_rows_is_a_hand_made_one(data):
    """`fit` sees training stimuli only: a transform fitted there, scored on the others."""
    model, subjects = data
    seen = []

    def fit(training):
        data = training()
        seen.append(data.model.shape[-1])
        return Power(2.0 if data.measure.between(data.model, data.brain).mean() > -1 else 1.0)

    row = Transform(name="squares", title="squares", words="squares", fit=fit)
    result = align(model, subjects[0], transforms=[row], folds=3, n_resamples=0)
    assert set(seen) == {16}
    scores = []
    for test in torch.randperm(24, generator=torch.Generator().manual_seed(0)).tensor_split(3):
        rsms = [torch.corrcoef(x[test]) for x in (model, subjects[0])]
        scores.append(centered_pearson(*(rsm.abs() * rsm for rsm in rsms)).item())
    assert result.table.score.item() == pytest.approx(np.mean(scores), abs=1e-10)
    assert double_center(rsms[0]).abs().max() > 0
