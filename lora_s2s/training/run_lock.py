"""One run per folder: an advisory lock on a file beside it that names its owner."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

from lora_s2s.console import say, warn
from lora_s2s.errors import UsageError
from lora_s2s.files import naming
from lora_s2s.outputs import is_special
from lora_s2s.systems import is_at, lock, open_lock, remove_lock

_held: set[Path] = set()


@contextmanager
def run_lock(
    folder: Path,
    *,
    take: bool = True,
    work: str = "training in",
    hint: str = "choose another output.name",
) -> Iterator[None]:
    """Locks a run's folder; the process that holds the lock may take it again.

    The system releases the lock when the process ends, however it ends. A lock file left behind is
    reported and taken over.

    Args:
        take: whether this process is the one that writes.
        work: what the run does to its folder, for the error message.
        hint: what to do instead of waiting, for the error message.

    Raises:
        UsageError: another process holds the lock.
    """
    path = _lock_file(folder)
    if not take or path in _held:
        yield
        return
    descriptor = _lock(path, folder, f"{work} {folder}", hint)
    if previous := os.read(descriptor, 300).decode(errors="replace"):
        say(f"{folder}: taking over: the previous run ({previous}) was killed")
    started = datetime.now(timezone.utc).isoformat(timespec="seconds")
    owner = f"process {os.getpid()} on {socket.gethostname()}, started {started}"
    with naming(path):
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, owner.encode())
    _held.add(path)
    try:
        yield
    finally:
        _held.discard(path)
        remove_lock(descriptor, path)


def check_not_running(folder: Path, hint: str = "choose another output.name") -> None:
    """Raises UsageError while another process trains in a run's folder."""
    path = _lock_file(folder)
    if path.is_file() and path not in _held:
        try:
            os.close(_lock(path, folder, f"training in {folder}", hint))
        except PermissionError as error:
            owner = f"user {path.lstat().st_uid}"
            raise UsageError(
                f"cannot see whether {owner} is training in {folder}: no permission to read {path}",
                hint=f"{hint}, or ask {owner}",
            ) from error


def running_process(folder: Path) -> str | None:
    """The process that trains in a run's folder; None if there is none."""
    try:
        check_not_running(folder)
    except UsageError as error:
        return error.message.rpartition(": ")[2]
    return None


def _lock_file(folder: Path) -> Path:
    return folder.resolve().with_name(f".{folder.resolve().name}.lock")


def _locked(descriptor: int) -> bool:
    """Locks a file; waits a moment for a process that only checks whether a run holds it."""
    for pause in (0.05, 0.2):
        if lock(descriptor):
            return True
        time.sleep(pause)
    return lock(descriptor)


def _lock(path: Path, folder: Path, work: str, hint: str) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        if path.is_symlink() or is_special(path):
            raise UsageError(
                f"{path} is not a regular file and cannot serve as a lock", hint="remove it"
            )
        descriptor = open_lock(path)
        try:
            locked = _locked(descriptor)
        except OSError as error:
            warn(
                f"{path.parent} does not support locks ({error.strerror}): "
                f"a second run in {folder} would not be noticed"
            )
            os.lseek(descriptor, 0, os.SEEK_END)  # past its owner, who may be alive
            return descriptor
        os.lseek(descriptor, 0, os.SEEK_SET)
        if not locked:
            owner = os.read(descriptor, 300).decode(errors="replace")
            os.close(descriptor)
            raise UsageError(
                f"another run is {work}: {owner or 'just started'}",
                hint=f"wait for it, or {hint}",
            )
        # The previous owner may have deleted the file before this process locked it.
        if is_at(descriptor, path):
            break
        os.close(descriptor)
    return descriptor
