"""Which steps' features are kept: few, and spread evenly over the scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from torch import Tensor

from softrsa.errors import DataError, unknown_name

if TYPE_CHECKING:
    from softrsa.synthesis.loop import Track

Record = int | Literal["log"] | Sequence[int]


@dataclass
class Recorder:
    """Decides step by step, so that no more than what is kept is ever held.

    Attributes
    ----------
    record : int, "log" or sequence of int
        About so many steps, evenly spread over scores; steps in half octaves; or these steps.
    goal : float
        Score at which the even spread ends.
    start : float, or None
        Mean score at which it begins: that of step 0.
    highest : int
        The last part of the spread that has been recorded.
    """

    record: Record
    goal: float
    start: float | None = None
    highest: int = -1

    def __post_init__(self):
        if isinstance(self.record, str):
            if self.record != "log":
                raise unknown_name("way to record", self.record, ["log"])
        elif isinstance(self.record, int):
            if self.record < 1:
                raise DataError(f"`record` must be at least 1, got {self.record}.")
        elif min(self.record, default=-1) < 0:
            raise DataError(f"`record` must hold step numbers, at least one, got {self.record}.")

    def keep(self, track: Track, step: int, here: np.ndarray, y: Tensor) -> None:
        """Keep the features of a step if it is to be recorded."""
        if step in track.records:  # some restarts catch up with others
            track.records[step][here] = y.detach().cpu()[here]
        elif step == track.taken.max() and self._is_new(step, float(track.held(step).mean())):
            track.records[step] = y.detach().cpu().clone()

    def replay(self, means: Sequence[float]) -> None:
        """Go through the mean scores of steps already taken."""
        for step, mean in enumerate(means):
            self._is_new(step, mean)

    def _is_new(self, step: int, mean: float) -> bool:
        if step == 0:
            self.start = mean
        if isinstance(self.record, int):
            part = self._part(mean)
            found, self.highest = part > self.highest, max(part, self.highest)
            return found or step == 0
        if self.record == "log":
            return step == 0 or step in {round(2 ** (i / 2)) for i in range(64)}
        return step == 0 or step in self.record

    def _part(self, mean: float) -> int:
        """Find which of the equal parts between the first score and the goal a score is in."""
        if self.start is None or self.goal == self.start or not isinstance(self.record, int):
            return 0
        return int((mean - self.start) / (self.goal - self.start) * self.record)
