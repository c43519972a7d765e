"""The optimizer over what trains, its state as tensors, and the learning rate."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adafactor, AdamW, Optimizer

from lora_s2s.console import say
from lora_s2s.errors import DataError, UsageError
from lora_s2s.lora.inject import is_second_factor
from lora_s2s.models.quantized import adamw
from lora_s2s.models.sharded import copy_whole, gathered
from lora_s2s.recipe.schema import TrainingSettings


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Returns the trainable parameters by name, in the model's order."""
    return {
        name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad
    }


def build_optimizer(model: nn.Module, settings: TrainingSettings) -> Optimizer:
    """Returns the optimizer over the trainable parameters; weight decay applies to matrices, not
    to vectors.

    Each group has a ``rate``, a factor of the step's learning rate: with LoRA+, B learns faster.

    Raises:
        UsageError: nothing in the model is trainable, or LoRA+ is requested and there is no factor
            B.
        SetupError: an 8-bit or paged optimizer is requested and bitsandbytes is not installed.
    """
    parameters, ratio, kind = trainable(model), settings.lora_plus_ratio, settings.optimizer
    if not parameters:
        raise UsageError("the model has no trainable parameter", hint="check lora.target_modules")
    if ratio != 1 and not any(map(is_second_factor, parameters)):
        hint = "set training.lora_plus_ratio=1"
        raise UsageError(
            "training.lora_plus_ratio is for LoRA+; this adapter's method has no factor B",
            hint=hint,
        )
    chosen: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        decay = settings.weight_decay if parameter.ndim >= 2 else 0.0
        chosen.setdefault((decay, ratio if is_second_factor(name) else 1.0), []).append(parameter)
    groups: list[dict[str, Any]] = [
        {
            "params": members,
            "weight_decay": decay,
            "rate": rate,
            "lr": settings.learning_rate * rate,
        }
        for (decay, rate), members in chosen.items()
    ]
    if kind == "adamw":
        return AdamW(groups, fused=True)
    if kind == "adafactor":
        return Adafactor(groups)
    paged, on_cpu = "paged" in kind, next(iter(parameters.values())).device.type == "cpu"
    if paged and on_cpu:
        say(f"{kind}: on a CPU the optimizer's state is in main memory anyway, so nothing is paged")
    return adamw(
        groups,
        lr=settings.learning_rate,
        eight_bit=kind.endswith("8bit"),
        paged=paged and not on_cpu,
    )


def set_learning_rate(optimizer: Optimizer, learning_rate: float) -> None:
    """Sets every group's learning rate for the next step."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["rate"]


def cpu_copy(tensor: Tensor, *, keep: bool) -> Tensor:
    """The whole of a tensor in main memory of its own; an empty one if only others ``keep`` it."""
    whole = gathered(tensor.detach())
    return whole.to("cpu", copy=True).contiguous() if keep else torch.empty(0)


def _state_tensors(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    return {
        f"{key}/{name}": torch.as_tensor(value)
        for name, parameter in trainable(model).items()
        if parameter in optimizer.state
        for key, value in optimizer.state[parameter].items()
    }


def optimizer_state(
    model: nn.Module, optimizer: Optimizer, *, keep: bool = True
) -> dict[str, Tensor]:
    """Returns CPU copies of the optimizer's state (moments, scales, step counts) by KEY/NAME."""
    state = _state_tensors(model, optimizer)
    return {key: cpu_copy(tensor, keep=keep) for key, tensor in state.items()}


def load_optimizer_state(model: nn.Module, optimizer: Optimizer, state: dict[str, Tensor]) -> None:
    """Loads what :func:`optimizer_state` returned; a parameter that has had no gradient may be
    absent.

    Raises:
        DataError: a name, shape or dtype does not fit this optimizer and model.
    """
    parameters, names = trainable(model), {key.partition("/")[2] for key in state}
    _allocate([parameter for name, parameter in parameters.items() if name in names], optimizer)
    expected, given = (
        {key: (tuple(tensor.shape), tensor.dtype) for key, tensor in tensors.items()}
        for tensors in (_state_tensors(model, optimizer), state)
    )
    for key in sorted({*expected, *given}):
        if expected.get(key) != given.get(key):
            raise DataError(
                f"the optimizer state's {key} is {given.get(key)}, expected {expected.get(key)}"
            )
    for key, saved in state.items():
        moment, _, name = key.partition("/")
        current = optimizer.state[parameters[name]]
        if isinstance(current[moment], Tensor):
            copy_whole(current[moment], saved)
        else:
            current[moment] = saved.item()


def _allocate(parameters: list[nn.Parameter], optimizer: Optimizer) -> None:
    """Has the optimizer allocate its state on the devices it chooses, by a step at rate 0."""
    rates = [group["lr"] for group in optimizer.param_groups]
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


def warmup_steps(warmup: float, total_steps: int) -> int:
    """Length of the warm-up in steps; a ``warmup`` below 1 is a share of ``total_steps``."""
    return math.ceil(warmup * total_steps) if warmup < 1 else int(warmup)


def learning_rate_at(step: int, total_steps: int, settings: TrainingSettings) -> float:
    """Learning rate of optimizer step ``step``, counted from 0.

    The warm-up is linear and reaches the peak on its last step. ``linear`` and ``cosine`` then fall
    towards 0, which they would reach one step after the last, so that every step trains;
    ``constant`` stays at the peak.
    """
    peak, rising = settings.learning_rate, warmup_steps(settings.warmup, total_steps)
    if step < rising:
        return peak * (step + 1) / rising
    done = (step - rising) / max(1, total_steps - rising)
    return peak * _decay(settings.schedule, min(done, 1.0))


def _decay(schedule: str, done: float) -> float:
    if schedule == "linear":
        return 1.0 - done
    if schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * done))
    return 1.0
