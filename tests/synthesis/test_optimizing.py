"""Random data driven to a score: the same steps as torch's Adam, stopped, resumed, saved."""

import functools

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from softrsa.errors import (
    DataError,
    DTypeError,
    FileFormatError,
    FileMissingError,
    FitError,
    ShapeError,
    UnknownNameError,
)
from softrsa.io import OutputError, save
from softrsa.measures import (
    available,
    get,
    linear_cka,
    linear_predictivity,
    nbs,
    procrustes_distance,
)
from softrsa.rsm import similarity_matrix
from softrsa.synthesis import (
    OptimizationInterrupted,
    SynthesisResult,
    optimize_to_score,
    optimizing,
)

DIFFERENTIABLE = [name for name, entry in available().items() if entry.differentiable]
quick = functools.partial(optimize_to_score, target=0.9, max_steps=60)


@pytest.fixture
def x(rng):
    """Features (40, 6) of unequal variances."""
    draws = torch.randn(40, 6, dtype=torch.float64, generator=rng)
    return draws * torch.logspace(1, -1, 6, dtype=torch.float64)


@pytest.fixture
def labelled(x):
    """Label the features."""
    return xr.DataArray(
        x.numpy(),
        dims=("stimulus", "unit"),
        coords={
            "stimulus": [f"image{i:02}" for i in range(40)],
            "region": ("unit", ["V4"] * 6),
            "weight": ("unit", np.arange(6.0)),
        },
    )


def starts(x, count, rng, q=5):
    return torch.randn(count, len(x), q, dtype=torch.float64, generator=rng)


def assert_same(a, b):
    """Equal to the last bit, whatever was asked for."""
    for name in ("scores", "recorded", "first_moment", "second_moment", "steps_to_target"):
        np.testing.assert_array_equal(a.data[name].values, b.data[name].values, err_msg=name)
    assert a.recorded_steps.tolist() == b.recorded_steps.tolist()


class TestSteps:
    def test_same_steps_as_torch_adam(self, x, rng):
        init = starts(x, 1, rng)
        result = optimize_to_score(x, nbs, target=0.95, init=init, record=range(200))
        y = init[0].clone().requires_grad_()
        optimizer = torch.optim.Adam([y], lr=0.1)
        for step, (score, recorded) in enumerate(
            zip(result.scores[:, 0], result.recorded[:, 0], strict=True)
        ):
            value = nbs(x, y)
            assert score.item() == pytest.approx(value.item(), abs=1e-12)
            torch.testing.assert_close(recorded, y.detach(), rtol=0, atol=1e-10)
            assert (value.item() >= 0.95) == (step == len(result.scores) - 1)
            optimizer.zero_grad()
            (-value).backward()
            optimizer.step()

    def test_gradient_steps(self, x, rng):
        init = starts(x, 1, rng)
        result = quick(x, "linear_cka", init=init, optimizer="sgd", lr=0.5, max_steps=1)
        y = init[0].clone().requires_grad_()
        (grad,) = torch.autograd.grad(linear_cka(x, y), y)
        torch.testing.assert_close(result.recorded[-1, 0], init[0] + 0.5 * grad)

    def test_each_restart_is_as_alone(self, x, rng):
        init = starts(x, 3, rng)
        together = quick(x, "nbs", init=init)
        for i in range(3):
            alone = quick(x, "nbs", init=init[i])
            last = int(alone.steps_to_target)
            assert int(together.steps_to_target[i]) == last
            torch.testing.assert_close(
                together.scores[: last + 1, i], alone.scores[:, 0], rtol=0, atol=1e-12
            )
            end = together.recorded[-1, i]
            torch.testing.assert_close(end, alone.recorded[-1, 0], rtol=0, atol=1e-10)

    def test_a_restart_stays_at_the_first_step_that_met_the_target(self, x, rng):
        init = torch.cat([x[None, :, :5], starts(x, 1, rng)])
        result = quick(x, "linear_cka", init=init)
        assert result.steps_to_target[0] == 0 < result.steps_to_target[1]
        assert torch.equal(result.recorded[-1, 0], init[0])
        assert (result.scores[:, 0] == result.scores[0, 0]).all()
        before = result.scores[int(result.steps_to_target[1]) - 1, 1]
        assert before < 0.9 <= result.scores[-1, 1]

    def test_without_the_target_steps_end(self, x):
        result = quick(x, "nbs", target=0.99999, max_steps=7, n_restarts=2)
        assert result.scores.shape == (8, 2)
        assert result.steps_to_target.isnan().all()
        assert result.recorded_steps[-1] == 7

    def test_starts_are_seeded_and_do_not_depend_on_their_number(self, x):
        results = [quick(x, "nbs", n_restarts=n, seed=seed) for n, seed in [(1, 3), (3, 3), (1, 4)]]
        first = [result.recorded[0, 0] for result in results]
        assert torch.equal(first[0], first[1])
        assert not torch.equal(first[0], first[2])
        white = torch.randn(40, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
        assert nbs(white, first[0]) < 0.6  # not the same numbers as a user's

    def test_inputs_stay_as_they_are(self, x, rng):
        init = starts(x, 2, rng)
        before = x.clone(), init.clone()
        quick(x, "nbs", init=init)
        assert torch.equal(x, before[0])
        assert torch.equal(init, before[1])

    def test_single_precision(self, x):
        result = quick(x.float(), "nbs", n_units=3)
        assert result.recorded.dtype == result.x.dtype == torch.float32
        assert result.recorded.shape[1:] == (1, 40, 3)
        assert result.scores[-1] >= 0.9


class TestDirection:
    def test_distances_go_down(self, x):
        result = quick(x, "procrustes_distance", target=20.0, max_steps=400)
        assert result.scores[-1] <= 20 < result.scores[0]
        assert procrustes_distance(x, result.recorded[-1, 0]).item() == result.scores[-1].item()

    def test_a_score_can_be_driven_down(self, x):
        beside = x + 0.01 * x.flip(0)  # at a perfect match there is no way down
        result = quick(x, "linear_cka", target=0.2, direction="minimize", init=beside, lr=0.5)
        assert result.scores[0] > 0.99
        assert result.scores[-1] <= 0.2
        assert len(result.recorded_steps) > 5


class TestMeasures:
    @pytest.mark.parametrize("name", DIFFERENTIABLE)
    def test_every_differentiable_one_moves_towards_its_best(self, x, name):
        entry = get(name)
        best = entry.range[entry.larger_is_more_similar]
        result = optimize_to_score(x[:14], name, target=best, max_steps=25, n_units=3, n_restarts=2)
        first, last = result.scores[0], result.scores[-1]
        assert ((last > first) if entry.larger_is_more_similar else (last < first)).all()

    def test_on_rsms_the_similarity_is_used(self, x):
        result = quick(x, "pearson", similarity="sqeuclidean", max_steps=3)
        y = result.recorded[-1, 0]
        rsms = [similarity_matrix(part, similarity="sqeuclidean") for part in (x, y)]
        score = get("pearson").between(*rsms)
        assert result.scores[-1, 0].item() == pytest.approx(score.item(), abs=1e-12)

    def test_a_callable_of_features(self, x):
        def agreement(x, y):
            """Works without batches."""
            assert y.ndim == 2
            return torch.nn.functional.cosine_similarity(x.flatten(), y.flatten(), dim=0)

        result = quick(x, agreement)
        assert result.data.attrs["measure"] == "agreement"
        assert result.scores[-1] >= 0.9
        assert quick(x, functools.partial(nbs), n_restarts=2).data.attrs["measure"] == "nbs"

    @pytest.mark.parametrize(
        ("measure", "error", "message"),
        [
            ("spearman", DataError, r"'spearman' passes no gradient.*: angular_cka.*pearson"),
            ("nbs_", UnknownNameError, "measure 'nbs_'. Did you mean 'nbs'"),
            (lambda x, y: nbs(x, y.detach()), DataError, "'<lambda>' passes no gradient"),
            (lambda x, y: (x * y).sum(0), ShapeError, r"shape \(2,\).*\(2, 40, 6\), got \(40, 6\)"),
            (lambda *_: 0.5, ShapeError, r"\(40, 6\) and \(2, 40, 6\), got float"),
        ],
    )
    def test_unsuitable(self, x, measure, error, message):
        with pytest.raises(error, match=message):
            quick(x, measure, n_restarts=2)


class TestRecording:
    def test_evenly_over_scores(self, x):
        result = optimize_to_score(x, "nbs", target=0.99, lr=0.01, record=10)
        assert len(result.scores) > 100
        kept = result.recorded_scores[:, 0]
        assert 8 <= len(kept) <= 12
        gaps = kept.diff()[:-1]
        assert gaps.max() < 2 * (1 - kept[0]) / 10
        assert result.recorded_steps.diff().max() > 3 * result.recorded_steps.diff().min()

    @pytest.mark.parametrize(
        ("record", "steps"),
        [("log", [0, 1, 2, 3, 4, 6, 8, 11, 13]), ([5, 2, 99], [0, 2, 5, 13]), (1, [0, 13])],
    )
    def test_as_asked_with_first_and_last(self, x, record, steps):
        result = quick(x, "nbs", target=1.0, lr=0.01, max_steps=13, record=record)
        assert result.recorded_steps.tolist() == steps
        for step, y in zip(result.recorded_steps, result.recorded, strict=True):
            assert nbs(x, y[0]).item() == pytest.approx(result.scores[step, 0].item(), abs=1e-14)

    @pytest.mark.parametrize("record", [0, [], [-1, 3]])
    def test_nonsense(self, x, record):
        with pytest.raises(DataError, match=r"`record` must .*got (0|\[\]|\[-1, 3\])"):
            quick(x, "nbs", record=record)
        with pytest.raises(UnknownNameError, match="'all'"):
            quick(x, "nbs", record="all")


class TestResume:
    @pytest.mark.parametrize("record", [100, "log", [3, 12, 30]])
    def test_more_steps_are_those_of_one_run(self, x, record):
        options = {"target": 0.97, "n_restarts": 3, "record": record}
        whole = optimize_to_score(x, "nbs", **options)
        part = optimize_to_score(x, "nbs", max_steps=12, **options)
        del options["n_restarts"]
        assert len(part.scores) == 13 < len(whole.scores)
        assert_same(optimize_to_score(x, "nbs", resume=part, **options), whole)

    def test_further_target_is_one_run(self, x):
        whole = quick(x, "linear_cka", target=0.97, n_restarts=4, n_units=3, max_steps=300)
        part = quick(x, "linear_cka", target=0.8, n_restarts=4, n_units=3)
        assert len(set(part.steps_to_target.tolist())) > 1  # some have to catch up
        resumed = quick(x, "linear_cka", target=0.97, resume=part, max_steps=300)
        for name in ("scores", "steps_to_target", "first_moment"):
            np.testing.assert_array_equal(resumed.data[name], whole.data[name])
        for i in range(4):
            ends = whole.recorded[-1, i], resumed.recorded[-1, i]
            assert torch.equal(*ends)
        for step, y in zip(resumed.recorded_steps, resumed.recorded, strict=True):
            held = torch.minimum(step, resumed.steps_to_target.long())
            scores = resumed.scores[held, torch.arange(4)]
            torch.testing.assert_close(linear_cka(x, y), scores, rtol=0, atol=1e-12)

    def test_after_an_interrupt_and_a_file(self, x, tmp_path):
        calls = []

        def measure(x, y):
            calls.append(1)
            if len(calls) == 9:
                raise KeyboardInterrupt
            return nbs(x, y)

        with pytest.raises(KeyboardInterrupt) as stop:
            quick(x, measure)
        assert isinstance(stop.value, OptimizationInterrupted)
        stop.value.result.to_netcdf(tmp_path / "part.nc")
        part = SynthesisResult.from_netcdf(tmp_path / "part.nc")
        assert part.scores.shape == (9, 1)
        assert part.scores.isfinite().all()
        assert_same(quick(x, measure, resume=part), quick(x, measure))

    def test_only_of_the_same(self, x):
        part = quick(x, "nbs", max_steps=3)
        for message, features, measure, options in [
            ("other features", x + 1, "nbs", {}),
            ("measure 'nbs', got 'linear_cka'", x, "linear_cka", {}),
            (r"lr 0.1, got 0.2", x, "nbs", {"lr": 0.2}),
            (r"went to 0.9; `target` must not lie before it, got 0.5", x, "nbs", {"target": 0.5}),
            ("taken 3 steps.*got 2", x, "nbs", {"max_steps": 2}),
            ("leave them out", x, "nbs", {"seed": 1}),
        ]:
            with pytest.raises(DataError, match=message):
                quick(features, measure, resume=part, **options)


class TestNotANumber:
    def test_names_restart_step_and_last_score(self, x):
        def breaks(x, y):
            scores = nbs(x, y)
            worst = torch.arange(2) == 1
            return scores.masked_fill(worst & (scores > 0.8), torch.nan)

        with pytest.raises(FitError, match=r"restart 1 became nan at step \d+.*it was 0\.7.*`lr`"):
            quick(x, breaks, n_restarts=2)

    def test_at_the_start(self, x):
        with pytest.raises(FitError, match=r"score of restart 1 is nan at the start.*`init`"):
            quick(x, "nbs", init=torch.stack([x, torch.ones_like(x)]))

    def test_gradient_that_is_not_finite(self, x):
        def kink(x, y):
            return (nbs(x, y) - nbs(x, y)).sqrt() + 0.5

        with pytest.raises(FitError, match=r"became nan at step 1; at step 0 it was 0\.5\."):
            quick(x, kink)

    def test_decomposition_that_fails(self, x):
        def decomposed(x, y):
            return torch.linalg.eigvalsh(y.T @ y).sum() * torch.inf

        with pytest.raises(FitError, match="restart 0 is inf at the start"):
            quick(x, decomposed)

        def fails(x, y):
            return torch.linalg.cholesky(-y.T @ y).sum()

        with pytest.raises(FitError, match="restart 0 is nan at the start"):
            quick(x, fails)


class TestResult:
    def test_labels_and_settings_survive_a_file(self, labelled, tmp_path):
        result = quick(labelled, "nbs", n_restarts=2, seed=5)
        assert result.data["stimulus"].values.tolist() == labelled["stimulus"].values.tolist()
        result.to_netcdf(tmp_path / "deep" / "result.nc")
        again = SynthesisResult.from_netcdf(tmp_path / "deep" / "result.nc")
        xr.testing.assert_identical(again.data, result.data)
        assert again.data["region"].values.tolist() == ["V4"] * 6
        assert {
            k: again.data.attrs[k] for k in ("measure", "target", "seed", "direction", "lr")
        } == {"measure": "nbs", "target": 0.9, "seed": 5, "direction": "maximize", "lr": 0.1}
        assert_same(quick(labelled, "nbs", resume=again), result)

    def test_order_of_kinds_of_input(self, labelled, x):
        expected = quick(x, "nbs")
        for same in (labelled, labelled.T, x.numpy()):
            assert_same(quick(same, "nbs"), expected)

    def test_other_files(self, labelled, tmp_path):
        save(labelled, tmp_path / "recording.nc")
        with pytest.raises(FileFormatError, match=r"recording\.nc holds no result of `optimize"):
            SynthesisResult.from_netcdf(tmp_path / "recording.nc")
        with pytest.raises(FileMissingError, match=r"nowhere\.nc"):
            SynthesisResult.from_netcdf(tmp_path / "nowhere.nc")
        (tmp_path / "notes.nc").write_text("no")
        with pytest.raises(FileFormatError, match=r"notes\.nc is not a readable"):
            SynthesisResult.from_netcdf(tmp_path / "notes.nc")
        with pytest.raises(OutputError, match="it is a folder"):
            quick(labelled, "nbs", max_steps=0).to_netcdf(tmp_path)

    @settings(max_examples=10)
    @given(seed=st.integers(0, 10**9), target=st.floats(0.3, 0.9))
    def test_met_is_met(self, seed, target):
        """What is handed back has the score it says, and no step before had."""
        x = torch.randn(12, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        result = optimize_to_score(x, "linear_cka", target=target, n_restarts=2, seed=seed)
        torch.testing.assert_close(linear_cka(x, result.recorded[-1]), result.scores[-1])
        assert (result.scores[-1] >= target).all()
        for i, steps in enumerate(result.steps_to_target.int().tolist()):
            assert (result.scores[:steps, i] < target).all()


def test_numbers_from_numpy(x):
    expected = quick(x, "nbs", record=5)
    assert quick(x, "nbs", record=np.int64(5)).data.identical(expected.data)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"target": 1.5}, DataError, "value of 'nbs', 0 to 1, got 1.5"),
        ({"target": float("nan")}, DataError, "finite score, got nan"),
        ({"max_steps": -1}, DataError, "got -1 and 0.1"),
        ({"lr": 0.0}, DataError, "`lr` above 0, got 60 and 0"),
        ({"n_restarts": 0}, DataError, "at least 1 and `seed` at least 0, got 0 and 0"),
        ({"seed": -1}, DataError, "got 1 and -1"),
        ({"n_units": 0}, DataError, "`n_units` must be at least 1, got 0"),
        ({"lr": float("inf")}, DataError, "got 60 and inf"),
        ({"similarity": "corr"}, UnknownNameError, "'corr'.*correlation"),
        ({"optimizer": "lbfgs"}, UnknownNameError, "'lbfgs'.*adam, sgd"),
        ({"direction": "up"}, UnknownNameError, "'up'.*maximize, minimize"),
        ({"init": torch.ones(3, 6)}, ShapeError, r"\(..., 40, q\) for 40 stimuli, got \(3, 6\)"),
        ({"init": torch.ones(40, 6), "n_units": 5}, ShapeError, r"40, 5\).*got \(40, 6\)"),
        ({"init": torch.ones(2, 40, 6), "n_restarts": 3}, DataError, "holds 2 starts.*for 3"),
    ],
)
def test_bad_settings(x, options, error, message):
    with pytest.raises(error, match=message):
        quick(x, "nbs", **options)


def test_bad_features(x):
    with pytest.raises(DTypeError, match=r"float32 or float64, got torch.int64"):
        quick(x.long(), "nbs")
    with pytest.raises(ShapeError, match=r"\(n_stimuli, n_units\), got \(1, 40, 6\)"):
        quick(x[None], "nbs")
    with pytest.raises(DataError, match="1 value that are NaN or infinite, at 1 stimulus"):
        quick(
            x.index_put((torch.tensor(3), torch.tensor(2)), torch.tensor(torch.nan).double()), nbs
        )


def test_predictivity_is_of_the_data_from_the_synthetic_features(x):
    """As of a brain from a model: to predict all of ``x`` nothing of it may be missing."""
    result = optimize_to_score(x, "linear_predictivity", target=0.9, max_steps=50)
    expected = linear_predictivity(result.recorded[-1, 0], x, average="variance")
    assert result.scores[-1, 0].item() == pytest.approx(expected.item(), abs=1e-9)
    plain = optimize_to_score(x, "linear_predictivity", target=0.9, max_steps=50, average="uniform")
    expected = linear_predictivity(plain.recorded[-1, 0], x)
    assert plain.scores[-1, 0].item() == pytest.approx(expected.item(), abs=1e-9)
    with pytest.raises(DataError, match="average 'uniform', got 'variance'"):
        optimize_to_score(x, "linear_predictivity", target=0.95, resume=plain)
    with pytest.raises(UnknownNameError, match="average"):
        quick(x, "linear_predictivity", average="units")


def test_arrays_in_any_layout(x):
    turned = x.flip(0).clone()
    expected = optimize_to_score(turned, "nbs", target=0.8, init=turned[:, :3])
    array = x.numpy()[::-1]
    fixed = array.copy()
    fixed.flags.writeable = False
    for view in (array, fixed, array.astype(">f8")):
        found = optimize_to_score(view, "nbs", target=0.8, init=view[:, :3])
        assert torch.equal(found.scores, expected.scores)


def test_where_gradients_are_off(x):
    expected = optimize_to_score(x, "nbs", target=0.8)
    with torch.no_grad():
        assert torch.equal(optimize_to_score(x, "nbs", target=0.8).scores, expected.scores)


def test_what_is_kept_on_the_way_is_resumed_to_the_same_end(x, monkeypatch):
    monkeypatch.setattr(optimizing, "FIRST_KEPT", 0.0)
    kept = []
    whole = quick(x, "linear_cka", keep=kept.append)
    assert len(kept[0].scores) < len(whole.scores)
    assert_same(quick(x, "linear_cka", resume=kept[0]), whole)
