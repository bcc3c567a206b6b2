"""Data parallel training: each batch split over the ranks of a process group, and joined again.

Every rank has the same samples, and the same network at the start. It embeds its part of a batch;
embeddings are gathered over the ranks with gradient, so that its queries see all other samples of
the batch; its gradients of the summed loss are added to those of the others. The result is the
gradient of one process with the whole batch, in batch norm too. Where a rank fails, the others wait
for it until the timeout of the process group ends them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from softrsa._processes import Ranks, current_ranks, sum_over_ranks
from softrsa.errors import DataError

PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


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
