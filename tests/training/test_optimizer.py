"""AdamW's groups and its state as plain tensors."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lora_s2s.errors import DataError, UsageError
from lora_s2s.training.optimizer import build_optimizer, load_optimizer_state, optimizer_state


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.ones(2, 2))
        self.vector = nn.Parameter(torch.ones(2))
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)


def stepped(model: Two, *, learning_rate: float = 0.1, weight_decay: float = 0.0) -> torch.optim.AdamW:
    optimizer = build_optimizer(model, learning_rate=learning_rate, weight_decay=weight_decay)
    (model.matrix.sum() + model.vector.sum()).backward()
    optimizer.step()
    return optimizer


def test_weight_decay_acts_on_matrices_only() -> None:
    decayed, plain = Two(), Two()
    stepped(decayed, weight_decay=0.5)
    stepped(plain)
    assert torch.equal(decayed.vector, plain.vector)
    assert float((plain.matrix - decayed.matrix).detach().mean()) == pytest.approx(0.05, abs=1e-6)
    assert torch.equal(decayed.frozen, torch.ones(2))


def test_nothing_trainable_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="no trainable"):
        build_optimizer(nn.Linear(2, 2).requires_grad_(False), learning_rate=0.1, weight_decay=0.0)


def test_state_round_trip_continues_exactly() -> None:
    first = Two()
    optimizer = stepped(first)
    second = Two()
    second.load_state_dict(first.state_dict())
    other = build_optimizer(second, learning_rate=0.1, weight_decay=0.0)
    load_optimizer_state(second, other, optimizer_state(first, optimizer))
    for model, its in ((first, optimizer), (second, other)):
        model.zero_grad()
        (model.matrix.square().sum() + model.vector.sum()).backward()
        its.step()
    assert torch.equal(first.matrix, second.matrix)
    assert torch.equal(first.vector, second.vector)


@pytest.mark.parametrize(
    "change", [("exp_avg/matrix", torch.zeros(3)), ("exp_avg/other", torch.zeros(2)), ("x/vector", torch.zeros(2))]
)
def test_a_state_that_does_not_fit_is_refused(change: tuple[str, torch.Tensor]) -> None:
    model = Two()
    optimizer = stepped(model)
    state = {**optimizer_state(model, optimizer), change[0]: change[1]}
    with pytest.raises(DataError, match=change[0]):
        load_optimizer_state(model, optimizer, state)
