"""Communication between the processes of a run; with one process nothing is sent."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast
from torch import nn

from lora_s2s.models.precision import resolve_device
from lora_s2s.models.sharded import is_divided

# The others wait while one process prepares the data; the launcher notices if it dies.
_LONGEST_WAIT = timedelta(days=1)


def _processes() -> PartialState:
    return PartialState(cpu=resolve_device().type == "cpu", timeout=_LONGEST_WAIT)


def is_main_process() -> bool:
    """Whether this process is the one that writes files and messages."""
    return bool(_processes().is_main_process)


def process_count() -> int:
    """Number of processes that train together."""
    return int(_processes().num_processes)


def main_process_first() -> AbstractContextManager[None]:
    """Returns a context that the main process enters first, alone, and then the others."""
    alone: AbstractContextManager[None] = _processes().main_process_first()
    return alone


def summed(values: Sequence[float], accelerator: Accelerator) -> list[float]:
    """Element-wise sum over processes; counts are exact up to 2**53."""
    if accelerator.num_processes == 1:
        return list(values)
    total: torch.Tensor = accelerator.reduce(
        torch.tensor(values, dtype=torch.float64, device=accelerator.device), reduction="sum"
    )
    return total.tolist()


def sum_gradients(parameters: Iterable[nn.Parameter], accelerator: Accelerator) -> None:
    """Replaces every gradient by its sum over processes, in one message; a missing one is zero.

    Those of divided weights are summed already.
    """
    moved = [parameter for parameter in parameters if not is_divided(parameter)]
    if accelerator.num_processes == 1 or not moved:
        return
    flat = torch.cat(
        [(p.grad if p.grad is not None else torch.zeros_like(p)).flatten() for p in moved]
    )
    parts = accelerator.reduce(flat, reduction="sum").split([p.numel() for p in moved])
    for parameter, part in zip(moved, parts, strict=True):
        parameter.grad = part.view_as(parameter)


def share_parameters(parameters: Iterable[nn.Parameter], accelerator: Accelerator) -> None:
    """Copies the main process's values to every process."""
    if accelerator.num_processes > 1:
        for parameter in parameters:
            if not is_divided(parameter):
                # A base that will be divided is not on the device yet.
                there = parameter.data.to(accelerator.device).contiguous()
                parameter.data.copy_(broadcast(there))


def from_main_process(
    compute: Callable[[], dict[str, float]], names: Sequence[str]
) -> dict[str, float]:
    """Returns numbers that the main process alone computes, on every process."""
    state = _processes()
    values = compute() if state.is_main_process else {}
    if state.num_processes == 1:
        return values
    numbers = [values.get(name, 0.0) for name in names]
    shared = broadcast(torch.tensor(numbers, dtype=torch.float64, device=state.device))
    return dict(zip(names, shared.tolist(), strict=True))


@contextmanager
def computing_on(threads: int) -> Iterator[None]:
    """Computes on so many threads of this process, then on as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def any_process(value: bool, accelerator: Accelerator) -> bool:
    """Whether the value is true on any process; all must call it at the same step."""
    return summed([float(value)], accelerator)[0] > 0


def stop_signal(received: int | None, accelerator: Accelerator) -> int | None:
    """Returns the signal to stop for, on all processes once any has one: they stop together."""
    if not any_process(received is not None, accelerator):
        return None
    return received if received is not None else int(signal.SIGTERM)
