"""softrsa: representational similarity analysis with learnable geo-topological transforms."""

__version__ = "0.1.0"
