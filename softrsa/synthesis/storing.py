"""From the loop's track to a labelled result, and back to go on."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from softrsa.errors import DataError
from softrsa.synthesis.loop import Goal, Track
from softrsa.synthesis.recording import Recorder
from softrsa.synthesis.result import KIND, SynthesisResult
from softrsa.synthesis.updates import Moving, start

FEATURES = ("restart", "stimulus", "synthetic_unit")


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
            "softrsa_kind": KIND,
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
        if before[name] != value:
            raise DataError(
                f"The run to resume has {name} {before[name]!r}, got {value!r}; give the same."
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
    if data.attrs["last_is_extra"]:
        records.pop(last)
    recorder.goal = float(data.attrs["record_goal"])
    recorder.replay(held[:last].mean(1).tolist())
    y = data["recorded"].isel(recorded_step=-1)
    parts = (y, data["first_moment"], data["second_moment"])
    now = Moving(*(torch.tensor(part.values, device=device) for part in parts))
    return Track((now, taken), scores, records)
