"""What stands around a run: one run to a folder, signals that end it in order, and memory measured
and explained.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from lora_s2s.console import say, tell_in_signal_handler, warn
from lora_s2s.errors import ResourceError, Stopped, UsageError, ran_out_of_memory
from lora_s2s.files import naming
from lora_s2s.outputs import is_special

try:
    import fcntl
except ModuleNotFoundError:  # Windows: no advisory lock on a folder, so none is taken
    fcntl = None  # type: ignore[assignment]


_held: set[Path] = set()
# SLURM's word that time is nearly up, where a job asks for it.
_WARNING = getattr(signal, "SIGUSR1", None)
# A terminal that is closed, or a connection that is lost.
_HANG_UP = getattr(signal, "SIGHUP", None)


@contextmanager
def run_lock(folder: Path, *, take: bool = True) -> Iterator[None]:
    """Holds a run's folder, by a lock on a file beside it that says who; this process may hold it
    more than once.

    The system lets go when the process ends, however it ends; a file that is left behind is told
    and taken over.

    Args:
        take: whether this process is the one that writes.

    Raises:
        UsageError: another process holds it.
    """
    path = folder.resolve().with_name(f".{folder.resolve().name}.lock")
    if fcntl is None or not take or path in _held:
        yield
        return
    descriptor = _locked(path, folder)
    _held.add(path)
    try:
        yield
    finally:
        _held.discard(path)
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _locked(path: Path, folder: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        if path.is_symlink() or is_special(path):
            raise UsageError(
                f"{path} is not a regular file, so it locks nothing", hint=f"rm {path}"
            )
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.read(descriptor, 300).decode(errors="replace")
            os.close(descriptor)
            hint = "wait for it, or give this run another output.name"
            raise UsageError(
                f"another run is training in {folder}: {owner or 'just begun'}", hint=hint
            ) from error
        except OSError as error:
            warn(
                f"{path.parent} knows no locks ({error.strerror}): nothing keeps a second run out "
                f"of {folder}"
            )
            return descriptor
        # Whoever held it may have taken the file away before this process locked it.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                break
        os.close(descriptor)
    if left := os.read(descriptor, 300).decode(errors="replace"):
        say(f"{folder}: the run that was here has ended without a word ({left})")
    began = datetime.now(timezone.utc).isoformat(timespec="seconds")
    with naming(path):
        os.ftruncate(descriptor, 0)
        os.pwrite(
            descriptor,
            f"process {os.getpid()} on {socket.gethostname()}, begun {began}".encode(),
            0,
        )
    return descriptor


class StopSignals:
    """While entered, remembers the first SIGINT, SIGTERM, SIGHUP or SIGUSR1 in ``received``; then
    the old handlers come back.

    Outside the main thread, where Python allows no handlers, it watches nothing; nor a SIGHUP that
    ``nohup`` ignores.

    Raises:
        Stopped: from wherever the program is, when a second signal comes; after SIGUSR1, which only
            warns, a third.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._old: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            watched = [
                number
                for number in (signal.SIGINT, signal.SIGTERM, _WARNING, _HANG_UP)
                if number is not None
            ]
            if _HANG_UP is not None and signal.getsignal(_HANG_UP) == signal.SIG_IGN:
                watched.remove(_HANG_UP)
            self._old = {number: signal.signal(number, self._handle) for number in watched}
        return self

    def __exit__(self, *_error: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.received is not None and self.received != _WARNING:
            raise Stopped(
                number,
                "stopped at once; the last checkpoint stands",
                hint="the same command with --resume",
            )
        self.received = number
        tell_in_signal_handler("\nstopping: saving a checkpoint (once more to stop at once)\n")


def peak_memory_bytes(device: torch.device) -> int:
    """Returns the peak so far in bytes: allocated on a CUDA device, else resident in this process
    (0: unknown).
    """
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
        hint = (
            "halve training.tokens_per_batch and double training.gradient_accumulation: the same "
            "step in less memory"
        )
        raise ResourceError("out of memory while training", hint=hint) from error
