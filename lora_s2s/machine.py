"""What the system says of this machine: memory, processors, container, notebook. Imports no
library but psutil, when asked, and no module that could be broken.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
CPUINFO = Path("/proc/cpuinfo")
_MEMORY = "memory.max", "memory/memory.limit_in_bytes"
# Version 1 writes a number beyond any memory for "none".
_NO_LIMIT = 1 << 60
# Processors that others use, from so many on; seconds to measure; times as long, to be said.
_BUSY, _MOMENT, _LONGER = 0.5, 0.2, 1.2
_THREADS = "OMP_NUM_THREADS"
USER_SET_THREADS = _THREADS in os.environ  # before this package sets it
# A processor's features that products in 16 bits are fast with.
_FAST_FEATURES = "avx2 avx512f avx512_bf16 amx_bf16 amx_tile asimd bf16".split()


def sized(size: float) -> str:
    """Returns bytes as ``820 MB`` or ``7.4 GB``, in decimal units as memory is sold."""
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.0f} MB"


def physical_memory() -> int | None:
    """Bytes of this machine's memory; None if the library that tells is missing."""
    with suppress(ImportError):
        import psutil

        return int(psutil.virtual_memory().total)
    return None


def resident_memory() -> int:
    """Bytes of this process that are in memory now."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def peak_memory() -> int:
    """Most bytes of this process that have been in memory at once."""
    if sys.platform == "win32":  # has no resource module
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB


def is_running(process: int) -> bool:
    """Whether a process of this machine may still be running, by its id."""
    import psutil  # on Windows, signal 0 is no query: it ends the process

    return bool(psutil.pid_exists(process))


def container_memory() -> int | None:
    """Bytes that the container allows; None without a limit."""
    limits = [_number(CGROUP / name) for name in _MEMORY]
    return next((limit for limit in limits if limit and limit < _NO_LIMIT), None)


def usable_memory() -> int | None:
    """Bytes of memory that this process may take."""
    known = [size for size in (physical_memory(), container_memory()) if size]
    return min(known, default=None)


def container_processors() -> float | None:
    """How many processors the container allows; None without a limit."""
    words = _text(CGROUP / "cpu.max").split()
    if len(words) == 2 and words[0].isdigit() and words[1].isdigit() and int(words[1]):
        return int(words[0]) / int(words[1])
    quota, period = (_number(CGROUP / f"cpu/cpu.cfs_{name}_us") for name in ("quota", "period"))
    return quota / period if quota and period and quota > 0 else None


def usable_processors() -> int:
    """How many processors this process may use."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    allowed = container_processors()
    return min(count or 1, max(1, round(allowed))) if allowed else count or 1


def share_processors(processes: int) -> None:
    """Gives each of so many new processes its part of the threads, unless the user has set it."""
    if not USER_SET_THREADS:
        threads = int(os.environ.get(_THREADS, usable_processors()))
        os.environ[_THREADS] = str(max(1, threads // processes))


def share_with_others() -> str:
    """Leaves other programs their processors, before torch is loaded: threads that wait for each
    other on busy ones are many times slower than fewer. Returns a line on it, empty if all cores
    are used or the user has set the threads.
    """
    with suppress(ImportError):
        import psutil

        count = usable_processors()
        cores = min(count, psutil.cpu_count(logical=False) or count)
        if USER_SET_THREADS or cores == 1:
            return ""
        used = _processors_of_others()
        threads = _left(count, used)
        if threads < cores:
            os.environ[_THREADS] = str(threads)
            return (
                f"other programs use {used:.1f} of {count} processors: computing on {threads} of "
                f"{cores} threads, which is faster now ({_THREADS}={cores} takes all)"
            )
    return ""


def other_work(threads: int, *, training: bool = False) -> tuple[int, str]:
    """On how many of so many threads to compute, as other programs use processors now, and what
    that takes, in words; empty if hardly more.

    Args:
        training: fewer threads will be taken, unless the user has set them.
    """
    count, used = usable_processors(), _processors_of_others()
    fewer = min(threads, _left(count, used))
    taken = fewer if training and not USER_SET_THREADS else threads
    longer = (taken + used) / count
    parts = []
    if used > _BUSY and longer > _LONGER:
        parts.append(
            f"other programs use {used:.1f} of {count} processors: training takes at least "
            f"{longer:.1f} times as long as the times of init and plan, which are for an idle "
            "machine"
        )
    if taken < threads:
        parts.append(f"computing on {taken} of {threads} threads, which is faster beside others")
    elif parts and fewer < threads:
        parts.append(f"{_THREADS}={fewer} is faster now")
    return taken, "; ".join(parts)


def _left(count: int, used: float) -> int:
    """How many of so many processors others leave free; one at least is taken."""
    return max(1, round(count - used))


def _processors_of_others() -> float:
    count, begun, before = usable_processors(), time.monotonic(), _spent_elsewhere()
    time.sleep(_MOMENT)
    used = (_spent_elsewhere() - before) / (time.monotonic() - begun)
    return used - ((os.cpu_count() or count) - count)  # those it may not use come first


def _spent_elsewhere() -> float:
    """Seconds of all processors that other processes have used since the system started."""
    import psutil

    used, own = psutil.cpu_times(), psutil.Process().cpu_times()
    return float(used.user + used.system + getattr(used, "nice", 0.0) - own.user - own.system)


def launched_processes() -> int:
    """How many processes a launcher started for this command; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def processor_features() -> list[str]:
    """The features of the processor that decide how fast its products are."""
    for line in _text(CPUINFO).splitlines():
        if line.startswith(("flags", "Features")):
            given = line.split()
            return [name for name in _FAST_FEATURES if name in given]
    return []


def surroundings(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Where this runs, in words: Colab, Kaggle, WSL, a container, Apple silicon."""
    release = platform.uname().release.lower()
    known = {
        "Google Colab": "COLAB_RELEASE_TAG" in environment or "COLAB_GPU" in environment,
        "Kaggle": "KAGGLE_KERNEL_RUN_TYPE" in environment,
        "WSL": "microsoft" in release,
        "a container": Path("/.dockerenv").exists() or "KUBERNETES_SERVICE_HOST" in environment,
        "Apple silicon": sys.platform == "darwin" and platform.machine() == "arm64",
    }
    return [name for name, here in known.items() if here]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.lstrip("-").isdigit() else None
