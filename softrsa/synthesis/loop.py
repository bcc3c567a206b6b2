"""The loop of `optimize_to_score`: restarts in one batch, each stopped at the target."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from softrsa._threads import one_thread_if
from softrsa.errors import DataError, FitError, unknown_name

BETAS = (0.9, 0.999)
EPS = 1e-8  # with the betas, the values of Kingma & Ba (2015) and of torch.optim.Adam


class Moving(NamedTuple):
    """Features on their way, with the two moments of their gradients: each (R, n, q)."""

    y: Tensor
    first: Tensor
    second: Tensor


Update = Callable[[Moving, Tensor, int, float], Moving]


def start(y: Tensor) -> Moving:
    """Stand still at ``y``."""
    return Moving(y, torch.zeros_like(y), torch.zeros_like(y))


def check_steps(max_steps: int, lr: float) -> None:
    """Refuse what would take no step, or none downwards."""
    if max_steps < 0 or not 0 < lr < math.inf:
        raise DataError(
            f"`max_steps` must be at least 0 and `lr` above 0, got {max_steps} and {lr}."
        )


@torch.no_grad()
def adam(now: Moving, grad: Tensor, step: int, lr: float) -> Moving:
    """Take Adam's step number ``step`` + 1 down the gradient (arXiv:1412.6980)."""
    first = now.first.lerp(grad, 1 - BETAS[0])
    second = (now.second * BETAS[1]).addcmul_(grad, grad, value=1 - BETAS[1])
    # both corrections for the start at zero are taken out of the arrays
    correction = (1 - BETAS[1] ** (step + 1)) ** 0.5
    scale = second.sqrt().add_(EPS * correction)
    y = now.y.addcdiv(first, scale, value=-lr * correction / (1 - BETAS[0] ** (step + 1)))
    return Moving(y, first, second)


@torch.no_grad()
def gradient_descent(now: Moving, grad: Tensor, _step: int, lr: float) -> Moving:
    """Step down the gradient."""
    return now._replace(y=now.y.add(grad, alpha=-lr))


OPTIMIZERS: dict[str, Update] = {"adam": adam, "sgd": gradient_descent}


Record = int | Literal["log"] | Sequence[int]


@dataclass
class Recorder:
    """Decides step by step, so that no more than what is kept is ever held.

    ``record``: about so many steps, evenly spread over mean scores from that of step 0 (``start``)
    to ``goal``, of which ``highest`` is the last part recorded; "log": steps in half octaves; or
    these steps.
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


SMALL = 200_000  # numbers in all restarts


@dataclass(frozen=True)
class Goal:
    """When a restart is done, and how it gets there."""

    target: float
    maximize: bool  # whether the target is met from below
    max_steps: int
    update: Update  # one step of the optimizer
    lr: float

    def met(self, scores: np.ndarray) -> np.ndarray:
        """Tell which scores are good enough."""
        return scores >= self.target if self.maximize else scores <= self.target


@dataclass
class Track:
    """Where all restarts are, and where they have been.

    Position and steps taken (R,) are replaced as one, so that an interrupt finds them in agreement.
    Scores (max_steps + 1, R) are NaN where a restart has not been. Records are features (R, n, q)
    at recorded steps; those of a restart that had stopped are as it stopped.
    """

    position: tuple[Moving, np.ndarray]
    scores: np.ndarray
    records: dict[int, Tensor] = field(default_factory=dict)

    @property
    def now(self) -> Moving:
        """Features and moments."""
        return self.position[0]

    @property
    def taken(self) -> np.ndarray:
        """Steps each restart has taken."""
        return self.position[1]

    def held(self, step: int) -> np.ndarray:
        """Scores at a step, of stopped restarts those they stopped with."""
        return self.scores[np.minimum(step, self.taken), np.arange(len(self.taken))]


def optimize(
    track: Track,
    scores_of: Callable[[Tensor], Tensor],
    goal: Goal,
    recorder: Recorder,
    on_step: Callable[[int, np.ndarray], object],
) -> None:
    """Take steps until every restart has met the target or taken all it may.

    The restarts with the fewest steps move first, so that those stopped by an earlier, lower target
    catch up, and every step number is computed for all at once, as without that stop.
    """
    with one_thread_if(track.now.y.numel() <= SMALL, track.now.y.device):
        _take_steps(track, scores_of, goal, recorder, on_step)


def _take_steps(
    track: Track,
    scores_of: Callable[[Tensor], Tensor],
    goal: Goal,
    recorder: Recorder,
    on_step: Callable[[int, np.ndarray], object],
) -> None:
    unfinished = np.ones(len(track.taken), dtype=bool)
    while unfinished.any():
        step = int(track.taken[unfinished].min())
        here = unfinished & (track.taken == step)
        y = track.now.y.detach().requires_grad_()
        scores = _evaluate(scores_of, y, track, step)
        track.scores[step, here] = scores.detach().cpu().double().numpy()[here]
        _check(track, step, here)
        recorder.keep(track, step, here, y)
        unfinished[here] = ~goal.met(track.scores[step, here]) & (step < goal.max_steps)
        on_step(step, track.scores[step])
        moving = here & unfinished
        if moving.any():
            total = scores.sum()
            (grad,) = torch.autograd.grad(-total if goal.maximize else total, y)
            new = goal.update(Moving(y.detach(), *track.now[1:]), grad, step, goal.lr)
            track.position = _move(track.now, new, moving), track.taken + moving


def _move(now: Moving, new: Moving, moving: np.ndarray) -> Moving:
    """Take the new place of those that move."""
    if moving.all():
        return new
    mask = torch.from_numpy(moving).to(now.y.device)[:, None, None]
    return Moving(*(torch.where(mask, b, a) for a, b in zip(now, new, strict=True)))


def _evaluate(scores_of: Callable[[Tensor], Tensor], y: Tensor, track: Track, step: int) -> Tensor:
    """Score all restarts; a decomposition that fails is a score that is not a number."""
    try:
        return scores_of(y)
    except torch.linalg.LinAlgError as error:  # pyright: ignore[reportPrivateImportUsage]
        bad = ~y.detach().isfinite().all(-1).all(-1).cpu().numpy()
        raise _not_finite(track, step, bad if bad.any() else ~bad) from error


def _check(track: Track, step: int, here: np.ndarray) -> None:
    bad = here & ~np.isfinite(track.scores[step])
    if bad.any():
        raise _not_finite(track, step, bad)


def _not_finite(track: Track, step: int, bad: np.ndarray) -> FitError:
    """Name the first restart whose score is no number, and what can be done."""
    restart = int(bad.argmax())
    found = track.scores[step, restart] if math.isinf(track.scores[step, restart]) else math.nan
    if step == 0:
        return FitError(
            f"The score of restart {restart} is {found} at the start. Check that `x` and `init` "
            "vary over stimuli, and that the measure is defined for their shapes."
        )
    return FitError(
        f"The score of restart {restart} became {found} at step {step}; at step {step - 1} it was "
        f"{track.scores[step - 1, restart]:.6g}. Lower `lr`, take another `seed` or `init`, or "
        "check that the measure's gradient is finite there."
    )
