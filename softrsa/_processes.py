"""Processes that work on one fit together, as `torchrun` starts them."""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from softrsa._checks import resolve_device
from softrsa.errors import DataError, ProcessError


def _marks(x: Tensor) -> Tensor:
    """Shape, and sums that depend on the order of rows, in float64: (4,); found where ``x`` is."""
    rows = x.detach().sum(-1, dtype=torch.float64).nan_to_num()
    size = rows.abs().sum() + 1  # what a sum is compared with
    place = torch.arange(1, len(rows) + 1, device=x.device) / len(rows)
    shape = rows.new_tensor([x.shape[0], x.shape[-1]])
    return torch.cat([shape, torch.stack([size, 2 * size + (place * rows).sum()])])


@contextmanager
def _in_company() -> Iterator[None]:
    """Say of a message between processes that fails what it means."""
    try:
        yield
    except RuntimeError as error:  # so says gloo of a process that has ended, and of a timeout
        raise ProcessError(
            f"Rank {dist.get_rank()} of {dist.get_world_size()} waits for processes that do not "
            "answer: another rank has failed or hangs; see its message. "
            f"({str(error).splitlines()[0]})"
        ) from error


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
        with _in_company():
            dist.broadcast(there, src=0)
        return there.to(value.device)

    @torch.no_grad()
    def add_up(self, *parts: Tensor) -> None:
        """Let every rank have the sum over all ranks, in place."""
        self._reduce(parts, "SUM")

    @torch.no_grad()
    def take_largest(self, *parts: Tensor) -> None:
        """Let every rank have the largest value of any rank, in place."""
        self._reduce(parts, "MAX")

    def _reduce(self, parts: Iterable[Tensor], how: str) -> None:
        if self.size == 1:
            return
        with _in_company():
            for part in parts:
                dist.all_reduce(part, getattr(dist.ReduceOp, how))

    def check_same(self, name: str, *tensors: Tensor) -> None:
        """Refuse data that differ between ranks."""
        if self.size == 1:
            return
        own = torch.cat([_marks(tensor) for tensor in tensors])
        high, low = own.clone(), -own
        self.take_largest(high, low)
        # sums of the same numbers may differ in the last digits, by the number of threads
        if bool((high + low > 1e-9 * high.abs()).any()):
            raise DataError(
                f"All ranks must be given the same data, and `{name}` differs between the "
                f"{self.size} ranks; each of them computes its part of the same RSMs."
            )

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
            with _in_company():
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


def launched_ranks() -> int:
    """How many processes work together, or will once they are joined; 0 or 1 for one alone."""
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        return int(os.environ["WORLD_SIZE"])
    return current_ranks().size


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


class _Sum(torch.autograd.Function):
    """The sum over ranks; each rank's share of the loss depends on it, so gradients are summed."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, value: Tensor) -> Tensor:
        del ctx
        total = value.contiguous().clone()
        with _in_company():
            dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> Tensor:
        del ctx
        total = gradients[0].contiguous().clone()
        with _in_company():
            dist.all_reduce(total)
        return total


def sum_over_ranks(value: Tensor) -> Tensor:
    """Sum a tensor of one shape over the ranks, with gradient."""
    return _Sum.apply(value)  # pyright: ignore[reportReturnType]
