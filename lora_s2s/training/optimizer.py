"""AdamW over the adapter's parameters, its state as plain tensors, and the learning rate of every step."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.optim import AdamW

from lora_s2s.errors import DataError, UsageError

_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Returns the parameters that take a gradient, by name, in the model's own order."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def build_optimizer(model: nn.Module, *, learning_rate: float, weight_decay: float) -> AdamW:
    """Returns AdamW over the trainable parameters; weight decay acts on matrices, never on vectors.

    Raises:
        UsageError: nothing in the model is trainable.
    """
    parameters = trainable(model).values()
    if not parameters:
        raise UsageError("the model has no trainable parameter", hint="check lora.target_modules")
    matrices, vectors = [p for p in parameters if p.ndim >= 2], [p for p in parameters if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return AdamW([group for group in groups if group["params"]], lr=learning_rate, weight_decay=0.0)


def optimizer_state(model: nn.Module, optimizer: AdamW) -> dict[str, Tensor]:
    """Returns the moments and step counts as CPU tensors named ``exp_avg/PARAMETER`` and so on."""
    return {
        f"{moment}/{name}": optimizer.state[parameter][moment].detach().cpu().contiguous()
        for name, parameter in trainable(model).items()
        for moment in _MOMENTS
        if parameter in optimizer.state
    }


def load_optimizer_state(model: nn.Module, optimizer: AdamW, state: dict[str, Tensor]) -> None:
    """Puts back what :func:`optimizer_state` returned.

    Raises:
        DataError: a name or a shape does not fit the model's trainable parameters.
    """
    parameters = trainable(model)
    for key, saved in state.items():
        moment, _, name = key.partition("/")
        shape = () if moment == "step" else tuple(parameters[name].shape) if name in parameters else None
        if name not in parameters or moment not in _MOMENTS or tuple(saved.shape) != shape:
            raise DataError(f"the optimizer state holds {key!r} of shape {tuple(saved.shape)}, expected {shape}")
        # AdamW keeps its step counts on the CPU, whatever the device of the parameter.
        place = saved if moment == "step" else saved.to(parameters[name].device)
        optimizer.state[parameters[name]][moment] = place.clone()


def warmup_steps(warmup: float, total_steps: int) -> int:
    """Returns the warm-up's length in steps: ``warmup`` is a share of ``total_steps`` below 1, steps from 1 on."""
    return math.ceil(warmup * total_steps) if warmup < 1 else int(warmup)


def learning_rate_at(step: int, *, total_steps: int, peak: float, schedule: str, warmup: float) -> float:
    """Returns the learning rate of the optimizer step number ``step`` (the first is 0).

    Warm-up climbs linearly and reaches ``peak`` on its last step; ``linear`` and ``cosine`` then fall towards 0, which
    they would reach one step after the last, so that every step trains. ``constant`` stays.
    """
    climbing = warmup_steps(warmup, total_steps)
    if step < climbing:
        return peak * (step + 1) / climbing
    done = (step - climbing) / max(1, total_steps - climbing)
    return peak * _decay(schedule, min(done, 1.0))


def _decay(schedule: str, done: float) -> float:
    if schedule == "linear":
        return 1.0 - done
    if schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * done))
    return 1.0
