"""SoftStep as a learnable module: a gate and the step it drives."""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor, nn

from softrsa.errors import ShapeError, unknown_name
from softrsa.transforms.gates import Gate, StepParameters
from softrsa.transforms.soft_step import (
    log_soft_step,
    log_soft_step_s2,
    soft_step,
    soft_step_s2,
)

Family = Literal["s1", "s2"]


class SoftStep(nn.Module):
    """Learnable SoftStep: each anchor's row of similarities goes through its own step.

    Parameters
    ----------
    gate : Gate
        `GlobalGate`, `EmbeddingGate` or `ProfileGate`: from anchor to lower, upper, transition.
    family : {"s1", "s2"}
        `soft_step` with both bounds, or `soft_step_s2` with the upper bound only. It decides where
        the gate's offsets count from: zero is (close to) the identity in either family.

    Examples
    --------
    >>> from softrsa.transforms import ProfileGate
    >>> step = SoftStep(ProfileGate(3))
    >>> import torch
    >>> s = torch.rand(6, 6, generator=torch.Generator().manual_seed(0))
    >>> bool((step(s) - s).abs().max() < 0.03)  # a new gate is close to the identity
    True
    """

    def __init__(self, gate: Gate, *, family: Family = "s1"):
        super().__init__()
        if family not in get_args(Family):
            raise unknown_name("family", family, get_args(Family))
        gate.start_at_identity_of(family)
        self.gate = gate
        self.family: Family = family

    def forward(self, s: Tensor, anchors: Tensor | None = None, *, log: bool = False) -> Tensor:
        """Transform similarities.

        Parameters
        ----------
        s : Tensor, shape (..., n, m)
            Similarities in [0, 1]: anchors are rows, neighbors columns.
        anchors : Tensor, shape (..., n, n_features), optional
            Embeddings of the anchors, for an `EmbeddingGate`.
        log : bool
            Return the logarithm of the step.

        Returns
        -------
        Tensor, shape (..., n, m)
            Values in [0, 1], or their logarithms.
        """
        if s.ndim < 2:
            raise ShapeError(f"`s` must have shape (..., n_anchors, m), got {tuple(s.shape)}.")
        return self.step(s, self.gate(s, anchors), log=log)

    def step(self, s: Tensor, parameters: StepParameters, *, log: bool = False) -> Tensor:
        """Transform ``s`` (..., n, m), or one row for all, by given parameters (..., n)."""
        lower, upper, transition = (p.unsqueeze(-1) for p in parameters)
        if self.family == "s1":
            return (log_soft_step if log else soft_step)(s, lower, upper, transition)
        return (log_soft_step_s2 if log else soft_step_s2)(s, upper, transition)

    def extra_repr(self) -> str:
        """Show the family."""
        return f"family={self.family!r}"
