"""NeighborBank: what it keeps, and that a state dict carries it."""

import pytest
import torch
from torch import nn

from softrsa.errors import DataError, NotFittedError, ShapeError
from softrsa.prediction import NeighborBank


def test_embeds_in_evaluation_mode_and_leaves_the_body_training(rng):
    body = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2), nn.Dropout(0.5)).train()
    samples, labels = torch.randn(7, 3, generator=rng), torch.rand(7, generator=rng)
    bank = NeighborBank().refresh(body, samples, labels, batch_size=3)
    assert body.training
    expected = body.eval()(samples)
    torch.testing.assert_close(bank.embeddings, expected.detach())
    assert not bank.embeddings.requires_grad
    labels.zero_()
    assert bank.labels.abs().sum() > 0


def test_state_dict_of_another_size_within_another_module(rng):
    module, other = (nn.ModuleDict({"bank": NeighborBank()}) for _ in range(2))
    module["bank"].refresh(nn.Identity(), torch.randn(5, 3, generator=rng), torch.rand(5, 2))
    other["bank"].refresh(nn.Identity(), torch.randn(8, 3, generator=rng), torch.rand(8, 2))
    other.load_state_dict(module.state_dict())
    assert torch.equal(other["bank"].embeddings, module["bank"].embeddings)
    assert torch.equal(other["bank"].labels, module["bank"].labels)
    assert len(other.double()["bank"]) == 5
    assert other["bank"].embeddings.dtype == torch.float64


def test_state_dict_keeps_the_number_type(rng):
    bank = NeighborBank().fill(torch.randn(5, 3, generator=rng).double(), torch.arange(5))
    loaded = NeighborBank()
    loaded.load_state_dict(bank.state_dict())
    assert loaded.embeddings.dtype == torch.float64
    assert loaded.labels.dtype == torch.int64
    assert torch.equal(loaded.embeddings, bank.embeddings)


def test_each_part_of_the_body_keeps_its_mode():
    body = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2), nn.Dropout()).train()
    body[0].eval()  # a frozen batch norm
    NeighborBank().refresh(body, torch.ones(4, 2), torch.ones(4))
    assert [module.training for module in body.modules()] == [True, False, True, True]


def test_errors():
    bank = NeighborBank()
    with pytest.raises(NotFittedError, match="call `refresh` first"):
        bank.filled()
    with pytest.raises(ShapeError, match="got 3 and 2"):
        bank.refresh(nn.Identity(), torch.ones(3, 1), torch.ones(2))
    with pytest.raises(DataError, match="`batch_size` must be at least 1, got 0"):
        bank.refresh(nn.Identity(), torch.ones(3, 1), torch.ones(3), batch_size=0)
