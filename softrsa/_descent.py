"""One descent: how everything learned is fitted, given a function that scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

HALF_RATE = 160  # steps after which the rate has fallen to a half, then to a third, ...
# Added to the root mean square of gradients, which are 1e-3 to 1 where a score depends on a
# parameter. Where it does not, a gradient is rounding, which Adam's usual 1e-8 makes a full step.
DAMPING = 1e-7
DECAYS = (0.9, 0.999)  # Adam's, of the averages of gradients and of their squares
LARGEST_GRADIENT = 1.0  # norm, of each problem
TIE = 1e-9  # scores nearer than this are equal, whichever processor has rounded them
GROWTH = 1.2  # of the rate of a problem that gains, up to that of all
LOST = 0.1  # share of what was gained: whoever loses more goes back and takes smaller steps


def first_best(scores: Tensor) -> int:
    """Position of the first score that ties with the largest; NaN is never it.

    Examples
    --------
    >>> first_best(torch.tensor([0.1, 0.5, 0.5 + 1e-12, torch.nan], dtype=torch.float64))
    1
    """
    known = scores.nan_to_num(-torch.inf)
    return int((known >= known.max() - TIE).int().argmax())


class Ascent:
    """Gradient ascent of many independent problems at once: Adam with a decaying rate.

    The rate at step k is ``rate / (1 + k / 160)``. The gradient of each problem is bounded in norm,
    and one that is not finite counts as none, so that no problem can spoil another. A problem
    that falls below where it began, or loses a tenth of what it had gained, goes back to its best
    place and halves its rate, which grows again while it gains; so none ends worse than it began.

    Parameters
    ----------
    modules : sequence of Module
        What is learned. All parameters have a leading dimension of problems, or there is one
        problem and none has.
    rate : float
        Of the first step.
    batched : bool
        Whether there is a dimension of problems.
    noisy : bool
        Whether the objective differs from step to step, so that its values say nothing of a single
        step: then only `settle`, given one that does not differ, takes steps back.

    Examples
    --------
    >>> point = nn.Module()
    >>> point.at = nn.Parameter(torch.tensor([[0.0], [5.0]]))
    >>> def objective():
    ...     return -(point.at.squeeze(1) - torch.tensor([1.0, 4.0])).square()
    >>> ascent = Ascent([point], rate=0.5)
    >>> for _ in range(100):
    ...     ascent.step(objective)
    >>> ascent.settle(objective)
    >>> [round(value, 2) for value in point.at.flatten().tolist()]
    [1.0, 4.0]
    """

    def __init__(
        self,
        modules: Sequence[nn.Module],
        rate: float,
        *,
        batched: bool = True,
        noisy: bool = False,
    ):
        parameters = dict.fromkeys(p for module in modules for p in module.parameters())
        self.parameters = [p for p in parameters if p.requires_grad]
        self.rate, self.batched, self.noisy, self.n_steps = rate, batched, noisy, 0
        self.at = self._in_one_piece()  # (n_problems, n_numbers): what is learned
        # Adam's averages of gradients and of their squares; torch's own takes seconds to import
        self.momentum, self.square = torch.zeros_like(self.at), torch.zeros_like(self.at)
        self.share = torch.ones_like(self.at[:, :1])  # of the rate, of each problem
        self.start = torch.full_like(self.share, torch.nan)
        self.best = torch.full_like(self.share, -torch.inf)
        self.best_at = self.at.clone()

    @torch.no_grad()
    def _in_one_piece(self) -> Tensor:
        """Let all parameters be parts of one tensor, so that a step is a few operations on it."""
        parts = [p.flatten(1) if self.batched else p.reshape(1, -1) for p in self.parameters]
        whole = torch.cat(parts, 1)
        for parameter, part in zip(
            self.parameters, whole.split([part.shape[1] for part in parts], 1), strict=True
        ):
            parameter.data = part.view(parameter.shape)
        return whole

    def step(self, objective: Callable[[], Tensor]) -> None:
        """Take one step towards a higher objective (n_problems,); the problems just add up."""
        with torch.enable_grad():
            value = objective()
            gradients = torch.autograd.grad(value.sum(), self.parameters, materialize_grads=True)
        with torch.no_grad():
            gradient = torch.cat([g.reshape(len(self.at), -1) for g in gradients], 1)
            on = torch.ones_like(self.share, dtype=torch.bool)
            if not self.noisy:
                on = ~self._look(value.detach())
            self._move(self._bounded(gradient, on), on)

    def _move(self, gradient: Tensor, on: Tensor) -> None:
        """Take Adam's step, at each problem's share of the rate; none of those put back."""
        rate = self.rate / (1 + self.n_steps / HALF_RATE)
        self.n_steps += 1
        first, second = (1 - decay**self.n_steps for decay in DECAYS)
        self.momentum.lerp_(gradient, 1 - DECAYS[0]).mul_(on)
        self.square.lerp_(gradient.square(), 1 - DECAYS[1])
        size = (self.square / second).sqrt_().add_(DAMPING)
        self.at.add_(self.momentum / size * (self.share * (rate / first)))

    @torch.no_grad()
    def settle(self, objective: Callable[[], Tensor]) -> None:
        """Go to the best place known, if this is not it; before the first step, note the start."""
        self._go_back(objective().detach(), 0.0)

    def _look(self, value: Tensor) -> Tensor:
        """Put back those that have lost too much, with a smaller rate, and say which."""
        back, better = self._go_back(value, LOST)
        grown = torch.where(better, (self.share * GROWTH).clamp_max(1.0), self.share)
        self.share = torch.where(back, self.share / 2, grown)
        return back

    def _go_back(self, value: Tensor, lost: float) -> tuple[Tensor, Tensor]:
        """Note what is best; put back those that have lost more than a share of their gain."""
        value = value.reshape(-1, 1)
        self.start = torch.where(self.start.isnan(), value, self.start)  # the first that is known
        better = value > self.best
        self.best = torch.where(better, value, self.best)
        kept = self.start + (1 - lost) * (self.best - self.start)
        back = ~(value >= kept - TIE) & self.best.isfinite()
        self.best_at = torch.where(better, self.at, self.best_at)
        self.at.copy_(torch.where(back, self.best_at, self.at))
        return back, better

    def _bounded(self, gradient: Tensor, on: Tensor) -> Tensor:
        """Bound each problem's gradient; none where it is not finite, or was of another place."""
        norm = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
        share = (LARGEST_GRADIENT / norm).clamp_max(1.0).where(norm.isfinite() & on, 0.0)
        return (gradient * share).nan_to_num_(0.0, 0.0, 0.0)

    def keep(self, problems: Tensor, modules: Sequence[nn.Module]) -> Ascent:
        """Go on with some problems, whose parameters ``modules`` hold, from where they are."""
        kept = Ascent(modules, self.rate, noisy=self.noisy)
        kept.n_steps = self.n_steps
        for name in ("share", "start", "best", "best_at", "momentum", "square"):
            setattr(kept, name, getattr(self, name)[problems])
        return kept
