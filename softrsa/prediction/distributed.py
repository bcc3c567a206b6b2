"""Data parallel training: each batch split over the ranks of a process group, and joined again.

Every rank has the same samples, and the same network at the start. It embeds its part of a batch;
embeddings are gathered over the ranks with gradient, so that its queries see all other samples of
the batch; its gradients of the summed loss are added to those of the others. The result is the
gradient of one process with the whole batch, in batch norm too. Where a rank fails, the others wait
for it until the timeout of the process group ends them.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from softrsa._checks import resolve_device
from softrsa.errors import DataError

PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class Ranks(NamedTuple):
    """The processes that train one network together, seen from one of them."""

    rank: int = 0
    size: int = 1

    def part(self, n: int) -> slice:
        """Rows of this rank among n: neighboring ones, nearly equally many for each rank."""
        return slice(self.rank * n // self.size, (self.rank + 1) * n // self.size)

    def gather(self, part: Tensor, n: int) -> Tensor:
        """Join the parts (m, ...) of all ranks to (n, ...), with gradient."""
        if self.size == 1:
            return part
        rows = self.part(n)
        before, after = (part.new_zeros(k, *part.shape[1:]) for k in (rows.start, n - rows.stop))
        return sum_over_ranks(torch.cat([before, part, after]))

    def shared(self, value: Tensor, device: torch.device) -> Tensor:
        """Give every rank what the first has; a tensor comes back to where it lies."""
        if self.size == 1:
            return value
        there = value.to(device, copy=True)
        dist.broadcast(there, src=0)
        return there.to(value.device)

    @torch.no_grad()
    def share_state(self, module: nn.Module) -> None:
        """Give every rank the parameters and buffers of the first."""
        if self.size > 1:
            for value in (*module.parameters(), *module.buffers()):
                value.copy_(self.shared(value.contiguous(), value.device))

    @torch.no_grad()
    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Add the gradients of all ranks, in one message per number type."""
        if self.size == 1:
            return
        by_type: dict[torch.dtype, list[nn.Parameter]] = {}
        for parameter in parameters:
            if parameter.requires_grad:
                by_type.setdefault(parameter.dtype, []).append(parameter)
        for members in by_type.values():
            found = [torch.zeros_like(p) if p.grad is None else p.grad for p in members]
            message = torch.cat([gradient.flatten() for gradient in found])
            dist.all_reduce(message)
            sums = message.split([p.numel() for p in members])
            for parameter, total in zip(members, sums, strict=True):
                parameter.grad = total.view_as(parameter)


ALONE = Ranks()


def current_ranks() -> Ranks:
    """Ranks of the process group there is; one alone if there is none."""
    if dist.is_available() and dist.is_initialized():
        return Ranks(dist.get_rank(), dist.get_world_size())
    return ALONE


def rank_device(device: str) -> torch.device:
    """Resolve a device; "auto" and "cuda" are the GPU `torchrun` means this process to take."""
    found = resolve_device(device)
    local = os.environ.get("LOCAL_RANK")
    if found.type == "cuda" and found.index is None and local is not None:
        return torch.device("cuda", int(local) % torch.cuda.device_count())
    return found


def join_ranks(device: torch.device) -> Ranks:
    """Find the ranks to train with.

    A process that `torchrun` started, and that has no process group, begins one: NCCL on CUDA, gloo
    elsewhere. It lasts as long as the process.
    """
    launched = "RANK" in os.environ and "WORLD_SIZE" in os.environ
    if launched and dist.is_available() and not dist.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        atexit.register(_leave)
    return current_ranks()


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


class _Sum(torch.autograd.Function):
    """The sum over ranks; each rank's share of the loss depends on it, so gradients are summed."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, value: Tensor) -> Tensor:
        del ctx
        total = value.contiguous().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> Tensor:
        del ctx
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total


def sum_over_ranks(value: Tensor) -> Tensor:
    """Sum a tensor of one shape over the ranks, with gradient."""
    return _Sum.apply(value)  # pyright: ignore[reportReturnType]


class SyncedBatchNorm(_BatchNorm):
    """Batch norm with the statistics of all ranks' samples, on any device; equal parts or not."""

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002  the name torch gives it
        if input.ndim < 2:
            raise ValueError(f"Batch norm needs (n, channels, ...), got {tuple(input.shape)}.")

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Normalize; in evaluation and in one process as torch does."""
        ranks = current_ranks()
        if not self.training or ranks.size == 1:
            return super().forward(input)
        self._check_input_dim(input)
        x = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
        axes = [0, *range(2, x.ndim)]
        shape = [1, -1, *[1] * (x.ndim - 2)]
        count = x.new_full((1,), x.numel() / x.shape[1])
        sums = sum_over_ranks(torch.cat([x.sum(axes), count]))
        n = sums[-1].detach()
        mean = sums[:-1] / n
        x = x - mean.view(shape)
        variance = sum_over_ranks(x.square().sum(axes)) / n
        self._follow(mean, variance, n)
        scale = (variance + self.eps).rsqrt()
        if self.affine:
            scale = scale * self.weight
        x = x * scale.view(shape)
        return (x + self.bias.view(shape) if self.affine else x).to(input.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor, n: Tensor) -> None:
        """Move the running statistics as one process with all samples would."""
        if self.running_mean is None or self.running_var is None:
            return
        share = self.momentum
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if share is None:  # the mean over all batches so far
                share = 1 / float(self.num_batches_tracked)
        share = 0.0 if share is None else share
        self.running_mean.lerp_(mean.to(self.running_mean), share)
        unbiased = variance * (n / (n - 1))
        self.running_var.lerp_(unbiased.to(self.running_var), share)


@contextmanager
def synced_batch_norm(module: nn.Module, ranks: Ranks) -> Iterator[None]:
    """Let the batch norms of a module see all ranks' samples, within the block."""
    if ranks.size == 1:
        yield
        return
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm)]
    for norm in norms:
        if type(norm) not in PLAIN and not isinstance(norm, nn.SyncBatchNorm):
            raise DataError(
                f"{type(norm).__name__} is a batch norm of its own kind, which cannot see the "
                "samples of all ranks; use torch.nn.BatchNorm1d, 2d or 3d, or train in one process."
            )
    kinds = [type(norm) for norm in norms]
    try:
        for norm in norms:
            if type(norm) in PLAIN:
                norm.__class__ = SyncedBatchNorm  # the same parameters, buffers and names
        yield
    finally:
        for norm, kind in zip(norms, kinds, strict=True):
            norm.__class__ = kind
