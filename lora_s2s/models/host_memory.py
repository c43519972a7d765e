"""Returns memory that glibc keeps after it is freed: half a model's size, in holes between tensors.
Does nothing but on Linux.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

_MMAP_THRESHOLD = -3  # mallopt's number for it
_OWN_MAPPING = 1 << 22


def return_memory() -> None:
    """Returns freed memory to the system."""
    if (trim := _glibc("malloc_trim")) is not None:
        trim(0)


def return_memory_at_once() -> None:
    """From now on tensors of 4 MiB and more return to the system when freed: a third less memory, a
    quarter slower.

    By default glibc raises that bound to 32 MiB, and smaller tensors share a heap that only grows.
    """
    if (set_option := _glibc("mallopt")) is not None:
        set_option(_MMAP_THRESHOLD, _OWN_MAPPING)


def _glibc(name: str) -> Any:
    # musl lacks both.
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
