"""RSMs too large to hold: tiles, their sums, scores."""

from softrsa.tiled.scores import tiled_noise_ceiling, tiled_scores

__all__ = ["tiled_noise_ceiling", "tiled_scores"]
