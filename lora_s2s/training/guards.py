"""What stands around a run: one run to a folder, signals that end it in order, and memory measured and explained."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from lora_s2s.errors import ResourceError, Stopped, UsageError
from lora_s2s.models.precision import ran_out_of_memory

try:
    import fcntl
except ModuleNotFoundError:  # Windows: no advisory lock on a folder, so none is taken
    fcntl = None  # type: ignore[assignment]


@contextmanager
def run_lock(folder: Path, *, take: bool = True) -> Iterator[None]:
    """Holds the folder where ``take`` says so; the system lets go when the process ends, however it ends.

    Raises:
        UsageError: another process holds it.
    """
    if fcntl is None or not take:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            hint = "wait for it, or give this run another output.name"
            raise UsageError(f"another run is training in {folder}", hint=hint) from error
        yield
    finally:
        os.close(descriptor)


class StopSignals:
    """While entered, remembers the first SIGINT or SIGTERM in ``received``; the old handlers come back afterwards.

    Outside the main thread, where Python allows no handlers, it watches nothing.

    Raises:
        Stopped: from wherever the program is, when a second signal comes.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._old: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._old = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_error: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.received is not None:
            raise Stopped(number, "stopped at once; the last checkpoint stands", hint="the same command with --resume")
        self.received = number
        # Not through console: a handler may interrupt a write to the buffered stderr, which must not be re-entered.
        os.write(2, b"\nstopping: finishing this step and saving a checkpoint (once more to stop at once)\n")


def peak_memory_bytes(device: torch.device) -> int:
    """Returns the peak so far in bytes: allocated on a CUDA device, else resident in this process (0: unknown)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":  # has no resource module
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB


@contextmanager
def told_when_out_of_memory() -> Iterator[None]:
    """Turns torch's out-of-memory errors, on a GPU and on a CPU, into one message.

    Raises:
        ResourceError: memory ran out inside the block.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not ran_out_of_memory(error):
            raise
        hint = "halve training.tokens_per_batch and double training.gradient_accumulation: the same step in less memory"
        raise ResourceError("out of memory while training", hint=hint) from error
