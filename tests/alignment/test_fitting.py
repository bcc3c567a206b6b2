"""Fits in batches, what counts as collapsed, and the choice by one standard error."""

import math

import pytest
import torch

from softrsa.alignment import FitSettings
from softrsa.alignment.descent import Problem, fit_traces, is_degenerate
from softrsa.alignment.fitting import (
    Fitted,
    Task,
    count_fit_steps,
    fit_transforms,
    make_plan,
    one_standard_error,
)
from softrsa.alignment.responses import as_responses
from softrsa.errors import DataError
from softrsa.measures import get
from softrsa.transforms import geo_topological
from softrsa.transforms.on_rsms import (
    TRANSFORMS,
    HardGT,
    Identity,
    SoftGate,
    as_chain,
    best_threshold,
    threshold_grid,
)

CPU = torch.device("cpu")


def side(data, name="model"):
    return as_responses(data, similarity="correlation", name=name, device=CPU)


def chains(*names):
    return [as_chain(name) for name in names]


def quiet(count):
    del count


def same_gates(a, b):
    """Compare what was learned; zeros may be appended for features another fit has."""
    for pair_a, pair_b in zip(a.gates, b.gates, strict=True):
        for one, other in zip(pair_a, pair_b, strict=True):
            for name, parameter in one.named_parameters():
                wide = other.get_parameter(name)
                width = parameter.shape[-1]
                torch.testing.assert_close(wide[..., :width], parameter, rtol=0, atol=1e-8)
                assert not wide[..., width:].any()


@pytest.mark.parametrize("gate", ["global", "profile", "embedding"])
@pytest.mark.parametrize("family", ["s1", "s2"])
def test_alone_or_in_a_batch_the_same_fit(gate, family, data, quick, rng):
    """Also beside a model of fewer units than components."""
    model, subjects = data
    settings = FitSettings(
        steps=(5, 20), n_quantiles=3, n_components=3, family=family, learning_rate=0.1
    )
    narrow = torch.randn(24, 2, dtype=torch.float64, generator=rng)
    narrow = torch.cat([narrow, narrow.sum(1, keepdim=True)], 1)  # rank 2
    folds = [torch.arange(16), torch.arange(8, 24)]
    brain = side(subjects, "brain")
    plan = make_plan(get("centered_pearson"), side(model), brain, settings, 0)
    problems = [
        Problem(one, brain, train, torch.arange(4), gate, penalty, 2, (i, train[0].item(), penalty))
        for i, one in enumerate((side(model), side(narrow)))
        for train in folds
        for penalty in (0.0, 0.1)
    ]
    batched = fit_traces(problems, plan, quiet)
    for problem, found in zip(problems, batched, strict=True):
        (alone,) = fit_traces([problem], plan, quiet)
        same_gates(alone, found)
        for score in ("train", "validation"):
            one, other = getattr(alone, score), getattr(found, score)
            torch.testing.assert_close(other, one, rtol=0, atol=1e-9)
        assert torch.equal(found.degenerate, alone.degenerate)


def test_a_fit_climbs_and_a_large_penalty_holds_it_at_the_identity(data):
    model, subjects = data
    settings = FitSettings(steps=(1, 100), n_quantiles=3, learning_rate=0.1)
    brain = side(subjects, "brain")
    plan = make_plan(get("centered_pearson"), side(model), brain, settings, 0)
    train = torch.arange(24)
    free, held = fit_traces(
        [Problem(side(model), brain, train, None, "profile", p, 2) for p in (0.0, 100.0)],
        plan,
        quiet,
    )
    assert free.train[-1] > free.train[0] + 0.01
    assert abs(held.train[-1] - held.train[0]) < 0.01
    assert held.validation.isnan().all()


def test_scores_of_a_path_are_those_of_its_gates(data):
    """The batch agrees with the transform that is kept."""
    model, subjects = data
    settings = FitSettings(steps=(5, 15), n_quantiles=3, n_components=2)
    brain = side(subjects, "brain")
    names = ["global", "instance"]
    plan = make_plan(get("pearson"), side(model), brain, settings, 0)
    task = Task(side(model), brain, torch.arange(18))
    (fits,) = fit_transforms([task], chains(*names), plan, on_step=quiet)
    for fitted in fits.values():
        training = task.model.take(task.train), task.brain.take(task.train)
        score = get("pearson").between(*fitted.transformed(*training)).mean()
        assert score.item() == pytest.approx(fitted.train_score, abs=1e-9)


def test_every_step_is_heard_and_counted(data, quick):
    model, subjects = data
    brain = side(subjects, "brain")
    tasks = [Task(side(model), brain, torch.arange(n)) for n in (16, 24)]
    plan = make_plan(get("centered_pearson"), side(model), brain, quick, 0)
    heard = []
    fit_transforms(tasks, chains(*TRANSFORMS), plan, on_step=heard.append)
    assert sum(heard) == count_fit_steps(tasks, chains(*TRANSFORMS), quick)


def test_selected_alone_chooses_among_all(data, quick):
    model, subjects = data
    brain = side(subjects, "brain")
    plan = make_plan(get("centered_pearson"), side(model), brain, quick, 0)
    task = Task(side(model), brain, torch.arange(24))
    (alone,) = fit_transforms([task], chains("selected"), plan, on_step=quiet)
    (every,) = fit_transforms([task], chains(*TRANSFORMS), plan, on_step=quiet)
    assert list(alone) == ["selected"]
    assert alone["selected"].chosen == every["selected"].chosen
    assert alone["selected"].chosen in [*TRANSFORMS][:-1]


def candidates(*scores):
    return [
        Fitted(name, name, Identity(), Identity(), None, 0.0, torch.tensor(s, dtype=torch.float64))
        for name, s in zip(TRANSFORMS, scores, strict=False)
    ]


@pytest.mark.parametrize(
    ("scores", "chosen"),
    [
        # the best by far
        (([0.1, 0.1, 0.1, 0.1], [0.5, 0.5, 0.5, 0.5]), "centered"),
        # better by 0.05 on average with an error of 0.029: not simpler enough
        (([0.5, 0.5, 0.5, 0.5], [0.6, 0.5, 0.6, 0.5]), "centered"),
        # better by 0.02 on average, with an error of 0.049
        (([0.5, 0.5, 0.5, 0.5], [0.6, 0.4, 0.6, 0.48]), "identity"),
        # differences are paired: the same spread in both does not count
        (([0.1, 0.9, 0.1, 0.9], [0.15, 0.95, 0.15, 0.95]), "centered"),
        # equal: the simpler
        (([0.3, 0.4], [0.3, 0.4], [0.3, 0.4]), "identity"),
        # undefined or collapsed candidates are never chosen
        (([math.nan, 0.9], [0.1, 0.2], [-math.inf, 0.9]), "centered"),
        (([math.nan, math.nan], [math.nan, math.nan]), "identity"),
    ],
)
def test_one_standard_error_rule(scores, chosen):
    assert one_standard_error(candidates(*scores)).name == chosen


def matrix(values, n=6):
    x = torch.zeros(n, n)
    for (i, j), value in values.items():
        x[i, j] = value
    return x


def test_collapsed_matrices_are_degenerate(rng):
    before = torch.rand(20, 20, generator=rng)
    assert not is_degenerate(before, before)
    assert not is_degenerate(before, 0.3 * before + 0.2)
    assert is_degenerate(before, torch.zeros(20, 20))
    assert is_degenerate(before, torch.full((20, 20), 0.1))
    assert is_degenerate(before, 0.05 * before)  # 1 / 400 of the variance
    assert is_degenerate(before, torch.full((20, 20), torch.nan))
    one_value_but_the_diagonal = torch.eye(20)
    assert is_degenerate(before, one_value_but_the_diagonal)


@pytest.mark.parametrize("n", [4, 6, 12, 30])
def test_one_surviving_pair_is_degenerate_at_any_size(n, rng):
    before = torch.rand(n, n, generator=rng)
    assert is_degenerate(before, matrix({(0, 1): 1.0}, n))
    assert is_degenerate(before, matrix({(0, 1): 1.0, (1, 0): 1.0}, n))
    assert is_degenerate(before, 1 - matrix({(0, 1): 1.0, (1, 0): 1.0}, n))
    both = torch.stack([before, matrix({(0, 1): 1.0}, n)])
    assert is_degenerate(before.expand(2, n, n), both).tolist() == [False, True]


def test_a_fit_that_collapses_at_every_stop_stays_the_identity(data):
    model, subjects = data
    settings = FitSettings(
        steps=(20,), learning_rate=1e4, penalties=(1e-3,), inner_folds=2, gates=("profile",)
    )
    brain = side(subjects, "brain")
    plan = make_plan(get("centered_pearson"), side(model), brain, settings, 0)
    task = Task(side(model), brain, torch.arange(24))
    fitted = fit_transforms([task], chains("global"), plan, on_step=quiet)[0]["global"]
    assert fitted.n_steps == 0
    plain = plan.scored.between(side(model).rsms, brain.rsms).mean().item()
    assert fitted.train_score == pytest.approx(plain, abs=0.01)


def test_the_best_fixed_transform_stands_in_for_a_fit_that_cannot_start(data):
    """The constant model's fit only: the other task's goes on."""
    model, subjects = data
    settings = FitSettings(steps=(2,), penalties=(1e-3,), inner_folds=2, gates=("profile",))
    constant = torch.full((24, 24), 0.5, dtype=torch.float64).fill_diagonal_(1.0)
    brain = side(subjects, "brain")
    plan = make_plan(get("centered_pearson"), side(constant), brain, settings, 0)
    tasks = [Task(one, brain, torch.arange(24)) for one in (side(constant), side(model))]
    stuck, going = fit_transforms(tasks, chains("global"), plan, on_step=quiet)
    assert stuck["global"].fallback == "identity"
    assert isinstance(stuck["global"].model, Identity)
    assert math.isnan(stuck["global"].train_score)
    assert going["global"].fallback == ""
    assert isinstance(going["global"].model, SoftGate)


def test_the_best_threshold_is_that_of_a_loop(data):
    model, subjects = data
    a, b = side(model).rsms, side(subjects, "brain").rsms
    for name in ("pearson", "centered_pearson", "spearman"):
        measure = get(name)

        def score(bounds, measure=measure):
            x, y = (1 - geo_topological(1 - rsms, *bounds) for rsms in (a, b))
            return measure.between(x, y).nanmean().item()

        found = best_threshold(a, b, measure, 6)
        grid = threshold_grid(6)
        assert found in grid
        assert score(found) == pytest.approx(max(map(score, grid)), abs=1e-12)
        kept = HardGT(*found)
        assert measure.between(kept(a), kept(b)).mean().item() == pytest.approx(score(found))


def test_too_few_stimuli_to_choose_on(data, quick):
    model, subjects = data
    brain = side(subjects, "brain")
    plan = make_plan(get("centered_pearson"), side(model), brain, quick, 0)
    task = Task(side(model), brain, torch.arange(7))
    with pytest.raises(DataError, match=r"at least 8 training stimuli to choose on, got 7"):
        fit_transforms([task], chains("global"), plan, on_step=quiet)
    (fixed,) = fit_transforms(
        [task], chains("identity", "centered", "geo_topological"), plan, on_step=quiet
    )
    assert [len(one.inner_scores) for one in fixed.values()] == [0, 0, 0]


def test_embedding_gates_need_units_on_both_sides(data, quick):
    model, subjects = data
    rdm = 1 - torch.corrcoef(subjects[0])
    brain = side(rdm, "brain")
    settings = FitSettings(gates=("embedding",), steps=(5,), inner_folds=2)
    plan = make_plan(get("centered_pearson"), side(model), brain, settings, 0)
    task = Task(side(model), brain, torch.arange(24))
    with pytest.raises(DataError, match=r"one side has RDMs only.*gates=\('profile',\)"):
        fit_transforms([task], chains("instance"), plan, on_step=quiet)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"gates": ("profle",)}, r"gate 'profle'\. Did you mean 'profile'"),
        ({"steps": (20, 10)}, r"`steps` must be ascending .* got \(20, 10\)"),
        ({"steps": ()}, r"`steps` .* got \(\)"),
        ({"steps": (0, 5)}, r"at least 1, got \(0, 5\)"),
        ({"penalties": (-1.0,)}, r"`penalties` must be at least 0, got \(-1\.0,\)"),
        ({"learning_rate": 0.0}, r"`learning_rate` must be above 0, got 0\.0"),
        ({"inner_folds": 1, "grid": 10}, r"got 1 and 10"),
        ({"grid": 0, "inner_folds": 4}, r"got 4 and 0"),
        ({"gates": ()}, r"`gates`"),
        ({"family": "s3"}, r"family 's3'"),
        ({"scaling": "minmx"}, r"scaling 'minmx'\. Did you mean 'minmax'"),
        ({"n_quantiles": 0, "n_components": 5}, r"`n_quantiles` .* got 0 and 5"),
        ({"n_components": 0, "n_quantiles": 9}, r"`n_components` .* got 9 and 0"),
    ],
)
def test_wrong_settings_are_named(wrong, message):
    with pytest.raises((DataError, LookupError), match=message):
        FitSettings(**wrong)
