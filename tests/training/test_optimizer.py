"""The optimizers' groups, their rates, and their state as plain tensors."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from torch import nn
from torch.optim import Optimizer
from training_parts import section

from lora_s2s.errors import DataError, SetupError, UsageError
from lora_s2s.models import quantized
from lora_s2s.training.gradients import step_if_finite
from lora_s2s.training.optimizer import build_optimizer, load_optimizer_state, optimizer_state

KINDS = ["adamw", "adamw-8bit", "adamw-paged", "adamw-paged-8bit"]


class Two(nn.Module):
    def __init__(self, size: int = 2) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.ones(size, size))
        self.vector = nn.Parameter(torch.ones(2))
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)


class Factors(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Module()
        self.q.lora_A = nn.ModuleDict({"default": nn.Linear(3, 2, bias=False)})
        self.q.lora_B = nn.ModuleDict({"default": nn.Linear(2, 3, bias=False)})


def step(model: nn.Module, optimizer: Optimizer, *, times: int = 1) -> None:
    """Steps down the sum of cosines, whose gradients differ from element to element and from step
    to step.
    """
    for _ in range(times):
        trained = [p for p in model.parameters() if p.requires_grad]
        sum((p + torch.arange(p.numel()).view_as(p)).cos().sum() for p in trained).backward()
        optimizer.step()
        optimizer.zero_grad()


def moved(**settings: object) -> Two:
    model = Two()
    step(model, build_optimizer(model, section(learning_rate=0.1, **settings)))
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_weight_decay_acts_on_matrices_only(kind: str) -> None:
    decayed, plain = moved(optimizer=kind, weight_decay=0.5), moved(optimizer=kind)
    assert torch.equal(decayed.vector, plain.vector)
    assert float((plain.matrix - decayed.matrix).detach().mean()) == pytest.approx(0.05, abs=1e-6)
    assert torch.equal(decayed.frozen, torch.ones(2))


@pytest.mark.parametrize("kind", KINDS)
def test_lora_plus_makes_b_move_by_its_ratio(kind: str) -> None:
    model = Factors()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    step(
        model,
        build_optimizer(model, section(optimizer=kind, learning_rate=0.001, lora_plus_ratio=16)),
    )
    sizes = {
        name: float((p.detach() - before[name]).abs().mean())
        for name, p in model.named_parameters()
    }
    assert sizes["q.lora_A.default.weight"] == pytest.approx(0.001, rel=1e-3)
    assert sizes["q.lora_B.default.weight"] == pytest.approx(0.016, rel=1e-3)


def of_torch(model: nn.Module, rates: dict[str, float]) -> Optimizer:
    """Torch's AdamW in its plainest form, a group for each parameter."""
    groups = [
        {
            "params": [p],
            "lr": 0.05 * rates.get(name, 1.0),
            "weight_decay": 0.1 if p.ndim >= 2 else 0.0,
        }
        for name, p in model.named_parameters()
        if p.requires_grad
    ]
    return torch.optim.AdamW(groups, foreach=False)


@pytest.mark.parametrize(("kind", "ratio"), [(Two, 1.0), (Factors, 16.0)])
def test_the_update_is_that_of_torchs_plain_adamw(kind: type[nn.Module], ratio: float) -> None:
    torch.manual_seed(0)
    ours = kind()
    theirs = kind()
    theirs.load_state_dict(ours.state_dict())
    step(
        ours,
        build_optimizer(ours, section(learning_rate=0.05, weight_decay=0.1, lora_plus_ratio=ratio)),
        times=20,
    )
    step(theirs, of_torch(theirs, {"q.lora_B.default.weight": ratio}), times=20)
    for name, parameter in theirs.named_parameters():
        assert torch.allclose(ours.get_parameter(name), parameter, rtol=1e-6, atol=1e-6)


def test_a_state_that_torchs_plain_adamw_kept_is_taken_over() -> None:
    former, model = Two(), Two()
    plain = of_torch(former, {})
    step(former, plain, times=3)
    model.load_state_dict(former.state_dict())
    optimizer = build_optimizer(model, section(learning_rate=0.05, weight_decay=0.1))
    load_optimizer_state(model, optimizer, optimizer_state(former, plain))
    step(former, plain, times=3)
    step(model, optimizer, times=3)
    assert torch.allclose(model.matrix, former.matrix, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("loss", "norm"), [(math.nan, 1.0), (1.0, math.inf)])
def test_a_step_that_is_not_finite_changes_nothing(kind: str, loss: float, norm: float) -> None:
    model = Two(size=64)
    optimizer = build_optimizer(model, section(optimizer=kind, learning_rate=0.1, weight_decay=0.5))
    finite = torch.tensor(1.0)
    for values in ((finite, finite), (torch.tensor(loss), torch.tensor(norm))):
        before = (
            {name: p.detach().clone() for name, p in model.named_parameters()},
            optimizer_state(model, optimizer),
        )
        model.matrix.grad, model.vector.grad = (
            torch.ones_like(model.matrix),
            torch.ones_like(model.vector),
        )
        found = step_if_finite(optimizer, *values)
        assert model.matrix.grad is None
        changed = not all(torch.equal(p, before[0][name]) for name, p in model.named_parameters())
        assert changed == all(map(math.isfinite, found))
    after = optimizer_state(model, optimizer)
    assert all(torch.equal(tensor, after[key]) for key, tensor in before[1].items())


def test_lora_plus_without_a_b_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="lora_plus_ratio"):
        build_optimizer(Two(), section(lora_plus_ratio=4))


def test_nothing_trainable_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="no trainable"):
        build_optimizer(nn.Linear(2, 2).requires_grad_(False), section())


@pytest.mark.parametrize("kind", KINDS[1:])
def test_without_bitsandbytes_the_hint_says_what_to_install(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    quantized._bitsandbytes.cache_clear()
    with pytest.raises(SetupError, match="bitsandbytes") as caught:
        build_optimizer(Two(), section(optimizer=kind))
    assert "pip install" in str(caught.value.hint)


def test_paging_on_a_cpu_is_said_to_be_idle(
    capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    moved(optimizer="adamw-paged-8bit")
    assert "nothing is paged" in capsys.readouterr().err
    assert not recwarn.list


@pytest.mark.parametrize("kind", KINDS)
def test_large_state_is_8_bit_where_asked_and_only_there(kind: str) -> None:
    model = Two(size=64)
    optimizer = build_optimizer(model, section(optimizer=kind))
    step(model, optimizer)
    state = optimizer_state(model, optimizer)
    moments = {name for name, tensor in state.items() if tensor.shape == (64, 64)}
    assert len(moments) == 2
    assert {state[name].dtype for name in moments} == {
        torch.uint8 if kind.endswith("8bit") else torch.float32
    }
    assert not any(
        tensor.dtype == torch.uint8 for name, tensor in state.items() if name.endswith("vector")
    )


@pytest.mark.parametrize("kind", KINDS)
def test_state_round_trip_continues_exactly(kind: str) -> None:
    settings = section(optimizer=kind, weight_decay=0.1)
    first, second = Two(size=70), Two(size=70)
    optimizer = build_optimizer(first, settings)
    step(first, optimizer, times=3)
    second.load_state_dict(first.state_dict())
    other = build_optimizer(second, settings)
    load_optimizer_state(second, other, optimizer_state(first, optimizer))
    assert torch.equal(first.matrix, second.matrix)
    for model, its in ((first, optimizer), (second, other)):
        step(model, its, times=2)
    assert torch.equal(first.matrix, second.matrix)
    assert torch.equal(first.vector, second.vector)


def test_a_parameter_without_a_gradient_has_no_state_and_needs_none() -> None:
    model = Two()
    optimizer = build_optimizer(model, section())
    load_optimizer_state(model, optimizer, {})
    assert optimizer_state(model, optimizer) == {}
    model.vector.grad = torch.ones(2)
    optimizer.step()
    saved = optimizer_state(model, optimizer)
    load_optimizer_state(model, optimizer, saved)
    assert {key.partition("/")[2] for key in optimizer_state(model, optimizer)} == {"vector"}


CHANGES = {
    "shape": {"exp_avg/matrix": torch.zeros(3)},
    "parameter": {"exp_avg/other": torch.zeros(2)},
    "moment": {"x/vector": torch.zeros(2)},
    "number format": {"exp_avg_sq/matrix": torch.zeros(2, 2, dtype=torch.float64)},
    "absent": {"step/vector": None},
}


@pytest.mark.parametrize("change", sorted(CHANGES))
def test_a_state_that_does_not_fit_is_refused(change: str) -> None:
    model = Two()
    optimizer = build_optimizer(model, section())
    step(model, optimizer)
    state = {**optimizer_state(model, optimizer), **CHANGES[change]}
    with pytest.raises(DataError, match=next(iter(CHANGES[change]))):
        load_optimizer_state(
            model, optimizer, {key: tensor for key, tensor in state.items() if tensor is not None}
        )


def test_the_state_of_another_optimizer_is_refused() -> None:
    model = Two(size=64)
    eight, plain = (
        build_optimizer(model, section(optimizer=kind)) for kind in ("adamw-8bit", "adamw")
    )
    step(model, eight)
    with pytest.raises(DataError, match="optimizer state"):
        load_optimizer_state(model, plain, optimizer_state(model, eight))
