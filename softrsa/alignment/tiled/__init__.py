"""Alignment without ever holding an n x n matrix."""

from softrsa.alignment.tiled.objective import tiled_noise_ceiling, tiled_scores

__all__ = ["tiled_noise_ceiling", "tiled_scores"]
