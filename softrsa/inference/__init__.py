"""How much can be expected, and how sure one may be."""

from softrsa.inference.noise_ceiling import NoiseCeiling, noise_ceiling

__all__ = ["NoiseCeiling", "noise_ceiling"]
