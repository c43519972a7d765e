"""What several processes agree on. With one process every function here is the identity."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast
from torch import nn

from lora_s2s.models.precision import resolve_device

# The others wait while one prepares the data; a process that dies is noticed by its launcher.
_LONGEST_WAIT = timedelta(days=1)


def _processes() -> PartialState:
    return PartialState(cpu=resolve_device().type == "cpu", timeout=_LONGEST_WAIT)


def is_main_process() -> bool:
    """Says whether this process is the one that writes files and talks to people."""
    return bool(_processes().is_main_process)


def process_count() -> int:
    """Returns how many processes train together."""
    return int(_processes().num_processes)


def main_process_first() -> AbstractContextManager[None]:
    """Returns a block that the main process goes through alone; the others enter when it has
    left.
    """
    alone: AbstractContextManager[None] = _processes().main_process_first()
    return alone


def summed(values: Sequence[float], accelerator: Accelerator) -> list[float]:
    """Returns the element-wise sum over processes; counts stay exact up to 2**53."""
    if accelerator.num_processes == 1:
        return list(values)
    total: torch.Tensor = accelerator.reduce(
        torch.tensor(values, dtype=torch.float64, device=accelerator.device), reduction="sum"
    )
    return total.tolist()


def sum_gradients(parameters: Iterable[nn.Parameter], accelerator: Accelerator) -> None:
    """Replaces every gradient by its sum over processes, as one message; a missing gradient counts
    as zero.
    """
    if accelerator.num_processes == 1:
        return
    moved = list(parameters)
    flat = torch.cat(
        [(p.grad if p.grad is not None else torch.zeros_like(p)).flatten() for p in moved]
    )
    parts = accelerator.reduce(flat, reduction="sum").split([p.numel() for p in moved])
    for parameter, part in zip(moved, parts, strict=True):
        parameter.grad = part.view_as(parameter)


def same_start(parameters: Iterable[nn.Parameter], accelerator: Accelerator) -> None:
    """Gives every process the main process's values, whatever its own initialisation was."""
    if accelerator.num_processes > 1:
        for parameter in parameters:
            parameter.data.copy_(broadcast(parameter.data.contiguous()))


def any_process(said: bool, accelerator: Accelerator) -> bool:
    """Says whether any process says so; all must ask at the same step."""
    return summed([float(said)], accelerator)[0] > 0


def stop_signal(received: int | None, accelerator: Accelerator) -> int | None:
    """Returns the signal to stop for, on every process as soon as any has one: all must stop at the
    same step.
    """
    if not any_process(received is not None, accelerator):
        return None
    return received if received is not None else int(signal.SIGTERM)
