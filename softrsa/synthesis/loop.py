"""The loop of `optimize_to_score`: restarts in one batch, each stopped at the target."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from softrsa._threads import one_thread_if
from softrsa.errors import FitError
from softrsa.synthesis.recording import Recorder
from softrsa.synthesis.updates import Moving, Update

SMALL = 200_000  # numbers in all restarts


@dataclass(frozen=True)
class Goal:
    """When a restart is done, and how it gets there.

    Attributes
    ----------
    target : float
        Score to meet.
    maximize : bool
        Whether it is met from below.
    max_steps : int
        Steps a restart may take.
    update : callable
        One step of the optimizer.
    lr : float
        Its learning rate.
    """

    target: float
    maximize: bool
    max_steps: int
    update: Update
    lr: float

    def met(self, scores: np.ndarray) -> np.ndarray:
        """Tell which scores are good enough."""
        return scores >= self.target if self.maximize else scores <= self.target


@dataclass
class Track:
    """Where all restarts are, and where they have been.

    Attributes
    ----------
    position : tuple of Moving and ndarray of int, shape (R,)
        Features and moments, and the steps each restart has taken; replaced as one, so that an
        interrupt finds them in agreement.
    scores : ndarray, shape (max_steps + 1, R)
        NaN where a restart has not been.
    records : dict of int to Tensor, shape (R, n, q)
        Features at recorded steps; those of a restart that had stopped are as it stopped.
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
