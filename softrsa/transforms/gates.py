"""Gates: from an anchor to the lower bound, upper bound and transition of its SoftStep."""

from __future__ import annotations

from copy import copy
from math import log
from typing import Literal, NamedTuple, Self, get_args

import torch
from torch import Tensor, nn

from softrsa._checks import SHORT_FLOATS, check_floating
from softrsa._ranks import sorted_quantile
from softrsa.errors import DataError, ShapeError, unknown_name
from softrsa.transforms.soft_step import check_steps, run_step, run_step_s2

# Logits at which a new gate stands, per family of step. S1: lower = 0.018, upper = 0.982,
# transition = 0.982, that is the identity up to the outermost 2 %; further out the sigmoid is too
# flat for a gradient to start. S2: t / (1 - t) = 2, where s^((1 - s) 2) is closest to s.
IDENTITY_LOGITS = {"s1": (-4.0, 4.0, 4.0), "s2": (-4.0, 4.0, log(2.0))}


class StepParameters(NamedTuple):
    """Lower bound, upper bound and transition, each of shape (..., n_anchors or 1)."""

    lower: Tensor
    upper: Tensor
    transition: Tensor


class Gate(nn.Module):
    """What all gates share: three logits per anchor, read as ordered bounds and a transition.

    The learned numbers are the offsets of the logits from `IDENTITY_LOGITS`, so a new gate is the
    identity and the square norm of its parameters measures how far it has gone from it.
    ``batch_shape`` puts leading dimensions on every parameter: many independent gates in one.
    """

    def __init__(
        self, n_features: int, hidden: int | None = None, batch_shape: tuple[int, ...] = ()
    ):
        super().__init__()
        self.n_features = n_features
        self.hidden = hidden
        self.batch_shape = tuple(batch_shape)
        self.register_buffer("identity_logits", torch.tensor(IDENTITY_LOGITS["s1"]))
        self.bias = nn.Parameter(torch.zeros(*self.batch_shape, 3))
        width = n_features if hidden is None else hidden
        if hidden is not None:
            # a zero first layer would never learn: tanh units start as random directions instead
            start = torch.randn(*self.batch_shape, hidden, n_features) / max(n_features, 1) ** 0.5
            self.hidden_weight = nn.Parameter(start)
            self.hidden_bias = nn.Parameter(torch.zeros(*self.batch_shape, hidden))
        if n_features:
            self.weight = nn.Parameter(torch.zeros(*self.batch_shape, 3, width))
            self.register_buffer("feature_mean", torch.zeros(*self.batch_shape, n_features))
            self.register_buffer("feature_scale", torch.ones(*self.batch_shape, n_features))

    identity_logits: Tensor
    feature_mean: Tensor
    feature_scale: Tensor

    def start_at_identity_of(self, family: str) -> None:
        """Let zero offsets mean the identity of this family of step."""
        self.identity_logits = self.identity_logits.new_tensor(IDENTITY_LOGITS[family])

    def parameters_at(self, features: Tensor | None) -> StepParameters:
        """Lower, upper and transition from anchor features (..., n, n_features), or from none."""
        logits = (self.identity_logits + self.bias).unsqueeze(-2)
        if features is not None:
            if features.shape[-1] != self.n_features:
                raise ShapeError(
                    f"`anchors` must have {self.n_features} features, "
                    f"got shape {tuple(features.shape)}."
                )
            logits = logits + self._linear(features)
        low, width, transition = torch.sigmoid(logits).unbind(-1)
        return StepParameters(low, low + width * (1 - low), transition)

    def _linear(self, features: Tensor) -> Tensor:
        mean, scale = self.feature_mean.unsqueeze(-2), self.feature_scale.unsqueeze(-2)
        z = (features - mean) / scale
        if self.hidden is not None:
            z = torch.tanh(z @ self.hidden_weight.mT.to(z) + self.hidden_bias.unsqueeze(-2))
        return z @ self.weight.mT.to(z)

    def standardize(self, features: Tensor) -> None:
        """Let one unit of each feature be its standard deviation over these anchors (..., n, k)."""
        mean, scale = features.mean(-2), features.std(-2, correction=0)
        correction = max(features.shape[-2] - 1, 1) / features.shape[-2]
        scale = scale / correction**0.5
        # a constant feature stays what it is; its deviation may be rounding instead of zero
        rounding = 4 * torch.finfo(features.dtype).eps * features.abs().amax(-2)
        scale = torch.where(scale > rounding, scale, 1.0)
        self.feature_mean = mean.expand(self.feature_mean.shape).clone()
        self.feature_scale = scale.expand(self.feature_scale.shape).clone()

    def penalty(self) -> Tensor:
        """Sum of squared logit offsets and output weights, shape ``batch_shape``."""
        total = self.bias.square().sum(-1)
        if self.n_features:
            total = total + self.weight.square().sum((-2, -1))
        return total

    def select(self, at: Tensor | tuple[int, ...]) -> Self:
        """Gates at these places of the batch, copied, without gradients."""
        chosen = copy(self)  # and new parameters, as copying the old ones whole takes long
        shared = "identity_logits"
        chosen._parameters = {
            name: None if value is None else nn.Parameter(value.detach()[at].clone(), False)
            for name, value in self._parameters.items()
        }
        chosen._buffers = {
            name: value if name == shared or value is None else value[at].clone()
            for name, value in self._buffers.items()
        }
        chosen.batch_shape = tuple(chosen.bias.shape[:-1])
        return chosen

    def extra_repr(self) -> str:
        """Show the sizes, not the raw parameters."""
        sizes = [f"n_features={self.n_features}"] if self.n_features else []
        sizes += [f"hidden={self.hidden}"] if self.hidden is not None else []
        sizes += [f"batch_shape={self.batch_shape}"] if self.batch_shape else []
        return ", ".join(sizes)


class GlobalGate(Gate):
    """One lower bound, upper bound and transition for all anchors.

    Parameters
    ----------
    batch_shape : tuple of int
        Leading dimensions: so many independent gates.

    Examples
    --------
    >>> lower, upper, transition = GlobalGate()()
    >>> lower, upper
    (tensor([0.0180], grad_fn=<UnbindBackward0>), tensor([0.9823], grad_fn=<AddBackward0>))
    """

    def __init__(self, *, batch_shape: tuple[int, ...] = ()):
        super().__init__(0, batch_shape=batch_shape)

    def forward(self, s: Tensor | None = None, anchors: Tensor | None = None) -> StepParameters:
        """Step parameters of shape (..., 1); both arguments are ignored."""
        del s, anchors
        return self.parameters_at(None)


class EmbeddingGate(Gate):
    """Step parameters from an embedding of the anchor, linear or through one hidden layer.

    Parameters
    ----------
    n_features : int
        Length of the embedding.
    hidden : int, optional
        Width of a tanh layer between; None is linear.
    batch_shape : tuple of int
        Leading dimensions: so many independent gates.

    Examples
    --------
    >>> gate = EmbeddingGate(5)
    >>> gate(anchors=torch.randn(8, 5)).lower.shape
    torch.Size([8])
    """

    def __init__(
        self, n_features: int, hidden: int | None = None, *, batch_shape: tuple[int, ...] = ()
    ):
        if n_features < 1 or (hidden is not None and hidden < 1):
            raise DataError(f"Sizes must be at least 1, got {n_features=}, {hidden=}.")
        super().__init__(n_features, hidden, batch_shape)

    def forward(self, s: Tensor | None = None, anchors: Tensor | None = None) -> StepParameters:
        """Step parameters of shape (..., n) from ``anchors`` (..., n, n_features)."""
        del s
        if anchors is None:
            raise DataError("EmbeddingGate needs the anchors' embeddings: pass `anchors`.")
        return self.parameters_at(anchors)


class ProfileGate(Gate):
    """Step parameters from quantiles of the anchor's own row of similarities.

    Needs neither units nor embeddings, depends neither on the number nor on the order of stimuli,
    and so carries over to new stimuli and to data that exist as RDMs only.

    Parameters
    ----------
    n_quantiles : int
        Number of evenly spaced quantiles, from 1 / (n_quantiles + 1) upwards.
    batch_shape : tuple of int
        Leading dimensions: so many independent gates.

    Examples
    --------
    >>> gate = ProfileGate(3)
    >>> gate.profile(torch.tensor([[1.0, 0.0, 0.5], [0.0, 1.0, 0.25], [0.5, 0.25, 1.0]]))
    tensor([[0.1250, 0.2500, 0.3750],
            [0.0625, 0.1250, 0.1875],
            [0.3125, 0.3750, 0.4375]])
    """

    def __init__(self, n_quantiles: int = 9, *, batch_shape: tuple[int, ...] = ()):
        if n_quantiles < 1:
            raise DataError(f"`n_quantiles` must be at least 1, got {n_quantiles}.")
        super().__init__(n_quantiles, batch_shape=batch_shape)

    def profile(self, s: Tensor) -> Tensor:
        """Quantiles (..., n, n_quantiles) of rows of ``s`` (..., n, m), without self if square."""
        check_floating(SHORT_FLOATS, s=s)
        n, m = s.shape[-2:]
        if n == m:  # all entries but the diagonal, row by row
            s = s.flatten(-2)[..., :-1].unflatten(-1, (n - 1, n + 1))[..., 1:]
            s = s.flatten(-2).unflatten(-1, (n, n - 1))
        ordered = s.sort(dim=-1).values
        levels = torch.arange(1, self.n_features + 1, dtype=torch.float64) / (self.n_features + 1)
        return torch.stack([sorted_quantile(ordered, level) for level in levels], dim=-1)

    def forward(self, s: Tensor | None = None, anchors: Tensor | None = None) -> StepParameters:
        """Step parameters of shape (..., n), from ``anchors`` = profiles or from ``s`` itself."""
        if anchors is None:
            if s is None:
                raise DataError("ProfileGate needs similarities `s`, or profiles as `anchors`.")
            anchors = self.profile(s)
        return self.parameters_at(anchors)


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
        check_floating(SHORT_FLOATS, s=s)
        if not any(p.requires_grad for p in parameters):  # those of a gate in a fit do
            low, high, soft = parameters
            check_steps(high, soft, low, family=self.family, zero=True)
        lower, upper, transition = (p.unsqueeze(-1) for p in parameters)
        if self.family == "s1":
            return run_step(s, lower, upper, transition, log=log)
        return run_step_s2(s, upper, transition, log=log)

    def extra_repr(self) -> str:
        """Show the family."""
        return f"family={self.family!r}"
