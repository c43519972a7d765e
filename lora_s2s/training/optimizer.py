"""AdamW over the adapter's parameters, and its state as plain tensors."""

from __future__ import annotations

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
    parameters = list(trainable(model).values())
    if not parameters:
        raise UsageError("the model has no trainable parameter", hint="check lora.target_modules")
    matrices = [parameter for parameter in parameters if parameter.ndim >= 2]
    vectors = [parameter for parameter in parameters if parameter.ndim < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return AdamW([group for group in groups if group["params"]], lr=learning_rate, weight_decay=0.0)


def set_learning_rate(optimizer: AdamW, learning_rate: float) -> None:
    """Sets the learning rate of every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


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
