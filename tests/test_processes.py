"""What tells the same data from others, whatever the number of threads that sum them."""

import torch

from softrsa._processes import _marks


def apart(x, y):
    """Largest difference of marks over what is taken for rounding: above 1 is another data set."""
    a, b = _marks(x), _marks(y)
    return float(((a - b).abs() / (1e-9 * torch.maximum(a.abs(), b.abs()))).max())


def test_other_values_shapes_and_orders_are_told_and_rounding_is_not(rng):
    x = torch.randn(300, 40, generator=rng)
    order = torch.randperm(300, generator=rng)
    assert apart(x, x.clone()) == 0
    assert apart(x, x[order]) > 1
    assert apart(x, x[:-1]) > 1
    assert apart(x, x + 1e-3) > 1
    parts = torch.stack([x[:, :20], x[:, 20:]]).sum(-1, dtype=torch.float64).sum(0)
    assert float((parts - x.sum(-1, dtype=torch.float64)).abs().max()) < 1e-9  # another order
