"""How far a process's memory rises, from Linux's account of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

_PROCESS = Path("/proc/self")


def rise() -> Callable[[], int]:
    """Returns a function that says, in bytes, by how much the peak since now exceeds what is
    resident now.
    """
    before = _resident("VmRSS")
    (_PROCESS / "clear_refs").write_text("5")  # sets the peak back
    return lambda: _resident("VmHWM") - before


def _resident(field: str) -> int:
    lines = (_PROCESS / "status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))
