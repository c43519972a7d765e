"""Time and memory of the steps after the first, on a CPU and on a CUDA GPU."""

from __future__ import annotations

import gc
import time
from typing import Any

import torch
from memory_step import HostPeak

_MIB = 2**20


class CudaPeak:
    """The peak of what torch has allocated on the GPU since :meth:`reset`, in bytes."""

    def reset(self) -> None:
        """Frees what nothing holds, and begins anew."""
        gc.collect()
        torch.cuda.reset_peak_memory_stats()

    def now(self) -> int:
        """Returns what is held at the moment."""
        return torch.cuda.memory_allocated()

    def read(self) -> int:
        """Returns the peak."""
        return torch.cuda.max_memory_allocated()


class Clock:
    """Measures one side: :meth:`loaded` once the model stands, then :meth:`start` and :meth:`stop`
    around its steps.

    Make it when everything is imported: what is held then is no part of the model.
    """

    def __init__(self, device: str) -> None:
        self._cuda = device == "cuda"
        self._peak: Any = CudaPeak() if self._cuda else HostPeak()
        self._peak.reset()
        self._before = self._peak.now()
        self._began = (0.0, 0.0)
        self.found: dict[str, float] = {}

    def loaded(self) -> None:
        """Notes what the model takes."""
        self._peak.reset()
        self._model = self._peak.now()
        self.found["model_MiB"] = round((self._model - self._before) / _MIB, 1)

    def start(self) -> None:
        """Begins: time and peak of what came before, loading and the first step, do not count."""
        self._peak.reset()
        self._began = self._times()

    def stop(self) -> None:
        """Notes the seconds, wall and CPU, and the peak since :meth:`start` over the loaded
        model.
        """
        wall, cpu = (now - then for now, then in zip(self._times(), self._began, strict=True))
        over = (self._peak.read() - self._model) / _MIB
        self.found |= {
            "seconds": round(wall, 3),
            "cpu_seconds": round(cpu, 3),
            "peak_MiB_over_model": round(over, 1),
        }

    def _times(self) -> tuple[float, float]:
        if self._cuda:
            torch.cuda.synchronize()
        return time.perf_counter(), time.process_time()
