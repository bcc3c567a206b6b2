"""What `optimize_to_score` found: scores at every step, features at recorded ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
import xarray as xr
from torch import Tensor

from softrsa._files import StoredResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class SynthesisResult(StoredResult):
    """Synthetic features on their way to a score, with all it takes to go on.

    Attributes
    ----------
    data : Dataset
        By `step`, `restart`, `recorded_step`, `stimulus`, `unit` (of ``x``) and `synthetic_unit`:
        `x`, `scores`, `recorded`, `steps_to_target`, `steps_taken`, and the optimizer's moments.
        `attrs` hold the settings.

    Examples
    --------
    >>> from softrsa.synthesis import optimize_to_score
    >>> x = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    >>> result = optimize_to_score(x, "linear_cka", target=0.9, n_restarts=2)
    >>> bool((result.scores[-1] >= 0.9).all()), result.recorded.shape[1:]
    (True, torch.Size([2, 30, 4]))
    """

    data: xr.Dataset
    _kind: ClassVar = "synthesis_result"
    _what: ClassVar = "result of `optimize_to_score`"

    @property
    def x(self) -> Tensor:
        """The features compared with, shape (n, p)."""
        return torch.from_numpy(self.data["x"].values)

    @property
    def scores(self) -> Tensor:
        """Scores after every step, shape (n_steps + 1, R); a stopped restart keeps its last."""
        return torch.from_numpy(self.data["scores"].values)

    @property
    def recorded_steps(self) -> Tensor:
        """Steps whose features were kept, ascending, shape (k,)."""
        return torch.tensor(self.data["recorded_step"].values)

    @property
    def recorded(self) -> Tensor:
        """Synthetic features at these steps, shape (k, R, n, q); the last is the end."""
        return torch.from_numpy(self.data["recorded"].values)

    @property
    def recorded_scores(self) -> Tensor:
        """Scores at these steps, shape (k, R)."""
        return self.scores[self.recorded_steps]

    @property
    def steps_to_target(self) -> Tensor:
        """Steps each restart took to the target, shape (R,); NaN where it has not met it."""
        return torch.from_numpy(self.data["steps_to_target"].values)

    def plot(self, *, ax: Axes | None = None) -> Axes:
        """Draw scores over steps, a line per restart."""
        from softrsa.reports.synthesis_figures import plot_scores

        return plot_scores(self.data, ax=ax)
