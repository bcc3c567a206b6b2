"""optimize_to_score: random features driven to a score, to see what the score means."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Literal

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from tqdm import tqdm

from softrsa._checks import resolve_device
from softrsa.errors import DataError, unknown_name
from softrsa.synthesis.loop import (
    OPTIMIZERS,
    Goal,
    Moving,
    Record,
    Recorder,
    Track,
    check_steps,
    optimize,
    start,
)
from softrsa.synthesis.objective import (
    Features,
    MeasureLike,
    Objective,
    as_tensor,
    averages,
    labelled_features,
    make_objective,
    starting_features,
)
from softrsa.synthesis.result import SynthesisResult

FEATURES = ("restart", "stimulus", "synthetic_unit")
Keep = Callable[[SynthesisResult], object]
FIRST_KEPT, KEPT_EVERY = 1.0, 5.0  # seconds


def new_track(y: Tensor, max_steps: int) -> Track:
    """Begin at ``y`` (R, n, q)."""
    position = (start(y), np.zeros(len(y), dtype=np.int64))
    return Track(position, np.full((max_steps + 1, len(y)), np.nan))


def make_result(
    track: Track, goal: Goal, x: xr.DataArray, settings: Mapping[str, str | float]
) -> SynthesisResult:
    """Label what a track holds."""
    last = int(track.taken.max())
    records = {step: track.records[step] for step in sorted(track.records) if step <= last}
    extra = last not in records  # the end, where it would not have been recorded
    records[last] = track.now.y.cpu()
    scores = np.stack([track.held(step) for step in range(last + 1)])
    met = goal.met(scores[-1])
    moments = {"first_moment": track.now.first, "second_moment": track.now.second}
    data = xr.Dataset(
        {
            "x": x,
            "scores": (("step", "restart"), scores),
            "recorded": (("recorded_step", *FEATURES), torch.stack([*records.values()]).numpy()),
            "steps_to_target": ("restart", np.where(met, track.taken, np.nan)),
            "steps_taken": ("restart", track.taken),
            **{name: (FEATURES, part.cpu().numpy()) for name, part in moments.items()},
        },
        coords={"recorded_step": [*records]},
        attrs={
            **settings,
            "target": goal.target,
            "max_steps": goal.max_steps,
            "last_is_extra": int(extra),
            "softrsa_version": version("softrsa"),
            "torch_version": torch.__version__,
        },
    )
    return SynthesisResult(data)


def check_resumable(
    result: SynthesisResult, x: xr.DataArray, settings: Mapping[str, str | float], goal: Goal
) -> None:
    """Refuse to go on with something else than before."""
    before = result.data.attrs
    for name, value in settings.items():
        earlier = before.get(name, "uniform")  # what `average` was before it could be chosen
        if earlier != value:
            raise DataError(
                f"The run to resume has {name} {earlier!r}, got {value!r}; give the same."
            )
    if not result.data["x"].equals(x):
        raise DataError("The run to resume is of other features `x`; give the same, in one order.")
    old = float(before["target"])
    if not (goal.target >= old if goal.maximize else goal.target <= old):
        raise DataError(
            f"The run to resume went to {old:g}; `target` must not lie before it, got "
            f"{goal.target:g}."
        )
    taken = int(result.data["steps_taken"].max())
    if goal.max_steps < taken:
        raise DataError(
            f"The run to resume has taken {taken} steps; `max_steps` counts them in and must not "
            f"be less, got {goal.max_steps}."
        )


def resumed_track(
    result: SynthesisResult, recorder: Recorder, goal: Goal, device: torch.device
) -> Track:
    """Stand where a result ended, with the recorder in the state it had."""
    data = result.data
    taken = data["steps_taken"].values.copy()
    scores = np.full((goal.max_steps + 1, len(taken)), np.nan)
    held = data["scores"].values
    scores[: len(held)] = held
    recorded = zip(data["recorded_step"].values.tolist(), result.recorded, strict=True)
    records = {step: features.clone() for step, features in recorded}
    last = int(taken.max())
    extra = bool(data.attrs["last_is_extra"])
    if extra:
        records.pop(last)
    recorder.goal = float(data.attrs["record_goal"])
    recorder.replay(held[: last if extra else last + 1].mean(1).tolist())
    y = data["recorded"].isel(recorded_step=-1)
    parts = (y, data["first_moment"], data["second_moment"])
    now = Moving(*(torch.tensor(part.values, device=device) for part in parts))
    return Track((now, taken), scores, records)


class OptimizationInterrupted(KeyboardInterrupt):
    """Ctrl-C during `optimize_to_score`; `result` is what there was, to save or to resume."""

    def __init__(self, result: SynthesisResult):
        super().__init__("The optimization was interrupted; `result` holds what there is.")
        self.result = result


@torch.enable_grad()
def optimize_to_score(
    x: Features,
    measure: MeasureLike,
    *,
    target: float,
    init: Tensor | np.ndarray | None = None,
    n_restarts: int = 1,
    n_units: int | None = None,
    direction: str | None = None,
    similarity: str = "correlation",
    average: Literal["variance", "uniform"] = "variance",
    optimizer: str = "adam",
    lr: float = 0.1,
    max_steps: int = 1000,
    record: Record = 100,
    seed: int = 0,
    device: str | torch.device = "auto",
    resume: SynthesisResult | None = None,
    progress: bool = False,
    keep: Keep | None = None,
) -> SynthesisResult:
    r"""Change synthetic features until their score against ``x`` meets a target.

    Parameters
    ----------
    x : DataArray (stimulus, unit), or Tensor or ndarray, shape (n, p)
        Features to compare with, float32 or float64 (computed in); stimulus labels are kept.
    measure : str, Measure or callable
        A differentiable one of `softrsa.measures.available`; measures on RSMs see the RSMs of both
        sides under ``similarity``, and predictivity is that of ``x`` from the synthetic features,
        as in Cloos et al. Or any function of (n, p) and (R, n, q) features to (R,) scores
        (of (n, p) and (n, q) to a number where there is one restart).
    target : float
        Score at which a restart stops.
    init : Tensor or ndarray, shape (..., n, q), optional
        Where to start, each leading entry a restart. None draws standard normal numbers.
    n_restarts : int
        How many starts to draw; all move as one batch.
    n_units : int, optional
        Width q of the starts drawn; that of ``x`` by default.
    direction : {"maximize", "minimize"}, optional
        Whether the target is met from below or from above. By default scores are maximized and
        distances of `softrsa.measures` minimized.
    similarity : str
        Of RSMs, as in `softrsa.rsm.similarity_matrix`.
    average : {"variance", "uniform"}
        Of predictivity, over the units of ``x``: each counts by its variance, as in Cloos et al.,
        or all the same.
    optimizer : {"adam", "sgd"}
        Adam with its usual constants, or plain gradient steps.
    lr : float
        Learning rate.
    max_steps : int
        Steps after which a restart stops without the target.
    record : int, "log" or sequence of int
        At which steps features are kept: at most about so many, evenly spread over the mean
        *score* from the start to the measure's best (for a callable, to the target); at half
        octaves of steps; or at these steps. The first and the last always are. Scores are kept for
        every step. Nothing else is held, so memory is bounded by what is recorded.
    seed : int
        Of the starts drawn; restart r is the same whatever ``n_restarts``.
    device : str or device
        Where to compute; the result is on the CPU.
    resume : SynthesisResult, optional
        A run of the same features and settings to go on with, to more steps or a target further
        on; ``init``, ``n_restarts``, ``n_units`` and ``seed`` are then left out.
    progress : bool
        Whether to show a progress bar.
    keep : callable, optional
        Given what there is after a second and then about every five, as a result that can be saved
        and resumed, so that little is lost if the process is killed.

    Returns
    -------
    SynthesisResult
        A restart that has met the target stays as it was at that step.

    Raises
    ------
    DTypeError, ShapeError, StimulusError
        If ``x`` or ``init`` is not as described.
    DataError
        If ``x`` has values that are not finite, the measure passes no gradient, or a setting is
        out of range or not that of the run to resume.
    UnknownNameError
        If a name is not known.
    FitError
        If a score is not finite; the message names the restart, the step and the score before.
    OptimizationInterrupted
        On Ctrl-C. A KeyboardInterrupt whose ``result`` can be saved and resumed.

    Notes
    -----
    A resumed run takes the same steps, to the last bit, as one that was never stopped. Which of
    them are *recorded* is also the same, except after raising the target of several restarts that
    had met the old one at different steps.

    References
    ----------
    Cloos et al. (2024), arXiv:2407.07059.

    Examples
    --------
    >>> x = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    >>> result = optimize_to_score(x, "linear_cka", target=0.9, n_units=6)
    >>> result.recorded[-1, 0].shape
    torch.Size([30, 6])
    >>> further = optimize_to_score(x, "linear_cka", target=0.95, resume=result)
    >>> bool(further.steps_to_target > result.steps_to_target)
    True
    """
    labelled = labelled_features(x)
    tensor = as_tensor(labelled, resolve_device(device))
    if average not in ("variance", "uniform"):
        raise unknown_name("average", average, ["variance", "uniform"])
    objective = make_objective(measure, tensor, similarity=similarity, average=average)
    goal = make_goal(
        objective, target=target, direction=direction, max_steps=max_steps,
        optimizer=optimizer, lr=lr,
    )  # fmt: skip
    record = int(record) if isinstance(record, np.integer) else record
    recorder = Recorder(record, goal=_end_of_spread(objective, goal))
    settings = {
        "measure": objective.name,
        "similarity": similarity,
        "optimizer": optimizer,
        "lr": float(lr),
        "direction": "maximize" if goal.maximize else "minimize",
        "record": json.dumps(record if isinstance(record, (str, int)) else [*map(int, record)]),
        "seed": seed,
    }
    if averages(measure):
        settings["average"] = average
    if resume is None:
        y = starting_features(init, tensor, n_restarts=n_restarts, n_units=n_units, seed=seed)
        track = new_track(y, max_steps)
    else:
        if init is not None or n_units is not None or n_restarts != 1 or seed:
            raise DataError(
                "`init`, `n_restarts`, `n_units` and `seed` are those of the run to resume; leave "
                "them out."
            )
        settings["seed"] = resume.data.attrs["seed"]
        check_resumable(resume, labelled, settings, goal)
        track = resumed_track(resume, recorder, goal, tensor.device)
    return _run(
        track, objective=objective, goal=goal, recorder=recorder, x=labelled, settings=settings,
        progress=progress, keep=keep,
    )  # fmt: skip


def _run(
    track: Track,
    *,
    objective: Objective,
    goal: Goal,
    recorder: Recorder,
    x: xr.DataArray,
    settings: dict[str, str | float],
    progress: bool,
    keep: Keep | None,
) -> SynthesisResult:
    """Take the steps, with a progress bar, and hand back what there is, also on Ctrl-C."""
    settings = {**settings, "record_goal": float(recorder.goal)}
    bar = tqdm(total=goal.max_steps, desc=objective.name, unit="step", disable=not progress)

    due = time.monotonic() + FIRST_KEPT

    def on_step(step: int, scores: np.ndarray) -> None:
        nonlocal due
        begun = time.monotonic()
        if keep is not None and begun >= due:
            keep(make_result(track, goal, x, settings))
            now = time.monotonic()
            due = now + max(KEPT_EVERY, 20 * (now - begun))
        if progress:
            bar.set_postfix_str(f"score {np.nanmean(scores):.4f}", refresh=False)
            bar.update(step - bar.n)

    with bar:
        try:
            optimize(track, objective.scores, goal, recorder, on_step)
        except KeyboardInterrupt as stop:
            with torch.no_grad():  # of the features just moved, if any
                found = objective.scores(track.now.y).cpu().double().numpy()
            track.scores[track.taken, np.arange(len(found))] = found
            raise OptimizationInterrupted(make_result(track, goal, x, settings)) from stop
    return make_result(track, goal, x, settings)


def make_goal(
    objective: Objective, *, target: float, direction: str | None, max_steps: int, optimizer: str,
    lr: float,
) -> Goal:  # fmt: skip
    """Check what decides the steps."""
    if direction not in (None, "maximize", "minimize"):
        raise unknown_name("direction", direction, ["maximize", "minimize"])
    if optimizer not in OPTIMIZERS:
        raise unknown_name("optimizer", optimizer, OPTIMIZERS)
    check_steps(max_steps, lr)
    if not np.isfinite(target):
        raise DataError(f"`target` must be a finite score, got {target}.")
    maximize = objective.larger_is_more_similar if direction is None else direction == "maximize"
    ends = (objective.worst, objective.best)
    limits = [end for end in ends if end is not None]
    if limits and not min(limits) <= target <= max(limits):
        raise DataError(
            f"`target` must be a value of {objective.name!r}, {min(limits):g} to {max(limits):g}, "
            f"got {target:g}."
        )
    return Goal(float(target), maximize, max_steps, OPTIMIZERS[optimizer], float(lr))


def _end_of_spread(objective: Objective, goal: Goal) -> float:
    """Find the best score there is in the goal's direction, or else the target."""
    towards_best = goal.maximize == objective.larger_is_more_similar
    end = objective.best if towards_best else objective.worst
    return goal.target if end is None or not np.isfinite(end) else end
