"""One run to a folder: a second one is refused instead of mixing its checkpoints in."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lora_s2s.errors import UsageError

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
        _take(descriptor, folder)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        hint = "wait for it, or give this run another output.name"
        raise UsageError(f"another run is training in {folder}", hint=hint) from error
